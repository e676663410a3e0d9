--[[
flood: how long the requests of established connections take while as many clients as fit do full RSA-2048
handshakes. The proxy is alone on its CPU; those who are measured come before those who flood. The limit is the plain
relay, without TLS and without handshakes, while something less important keeps both CPUs from sleeping.
]]

local load = require "load"
local peers = require "peers"
local rounds = require "rounds"

local flood = { id = "flood" }

local SCENARIO = { id = "flood", title = "1,000 requests/s of 100 B in a flood of handshakes" }
local LAYOUT, FLOODERS = { split = true, fifo = true }, { split = true }
local TLS = { tls = true, ["tls-version"] = "1.3", ciphersuites = "TLS_AES_128_GCM_SHA256" }

local function options(more)
    for name, value in pairs(TLS) do
        more[name] = value
    end
    return more
end

local function requests(port, pids, seconds, tls)
    local with = { connections = 32, brings = 84, wants = 100, rate = 1000, seconds = seconds, warm = 0.2, cpu = pids }
    return load.run("exchange", port, tls and options(with) or with, LAYOUT)
end

local function limit_once(relay, seconds)
    local busy = { load.burner(peers.cpu, 15), load.burner(load.cpu, 0) }
    local result, why = requests(relay.port, relay.pids, seconds)
    for _, burner in ipairs(busy) do
        burner:stop()
    end
    if not result then
        return nil, why
    end
    local calm = requests(relay.port, relay.pids, seconds) or {}
    return { result.p50_us, result.p99_us, nil, calm.p50_us, calm.p99_us }
end

local function once(peer, seconds)
    local others = load.start("churn", peer.ports.rsa, options { connections = 64, cpu = peer.pids,
        seconds = seconds + 0.4, warm = 0 }, FLOODERS)
    local result, why = requests(peer.ports.ec, peer.pids, seconds, true)
    others:wait(60)
    local flooded = load.figures(others:output())
    if not result then
        return nil, why
    end
    if not flooded.units then
        return nil, others:errors()
    end
    local calm = requests(peer.ports.ec, peer.pids, seconds, true) or {}
    return { result.p50_us, result.p99_us, flooded.units / flooded.seconds, calm.p50_us, calm.p99_us }
end

function flood.run(running, backend, settings)
    local rows = {
        rounds.row(SCENARIO, { name = "p50", unit = "µs" }),
        rounds.row(SCENARIO, { name = "p99", unit = "µs" }),
        rounds.row(SCENARIO, { name = "flood", unit = "handshakes/s", more = true }),
        rounds.row(SCENARIO, { name = "calm p50", unit = "µs" }), -- the same without it: the least that can be
        rounds.row(SCENARIO, { name = "calm p99", unit = "µs" }),
    }
    rows[1].target, rows[2].target = 0.30, 0.60
    load.place(backend, true, true)
    load.place_self(true) -- who waits in between must not take the proxy's CPU
    local seconds = math.max(0.5, settings.each * 2)
    local subjects, relay = table.move(running, 1, #running, 1, {}), load.relay(backend)
    relay.name = "limit"
    subjects[#subjects + 1] = relay
    rounds.run(rows, subjects, { rounds = settings.rounds, seconds = settings.quick and 6 or 600 }, function(subject)
        if subject == relay then
            return limit_once(relay, seconds)
        end
        return once(subject, seconds)
    end)
    relay.stop()
    load.place_self(false)
    load.place(backend, false)
    return rows
end

return flood
