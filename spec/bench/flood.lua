--[[
flood: how long the requests of established connections take while as many clients as fit do full RSA-2048
handshakes. The proxy is alone on its CPU; those who are measured come before those who flood.
]]

local load = require "load"
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

local function requests(peer, seconds)
    return load.run("exchange", peer.ports.ec, options { connections = 32, brings = 84, wants = 100, rate = 1000,
        seconds = seconds, warm = 0.2, cpu = peer.pids }, LAYOUT)
end

local function once(peer, settings)
    local seconds = math.max(0.5, settings.each * 2)
    local others = load.start("churn", peer.ports.rsa, options { connections = 64, cpu = peer.pids,
        seconds = seconds + 0.4, warm = 0 }, FLOODERS)
    local result, why = requests(peer, seconds)
    others:wait(60)
    local flooded = load.figures(others:output())
    if not result then
        return nil, why
    end
    if not flooded.units then
        return nil, others:errors()
    end
    local calm = requests(peer, seconds) or {}
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
    rounds.run(rows, running, { rounds = settings.rounds, seconds = settings.quick and 6 or 600 }, function(peer)
        return once(peer, settings)
    end)
    load.place(backend, false)
    return rows
end

return flood
