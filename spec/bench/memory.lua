--[[
memory: KiB that a fresh proxy's processes hold for each idle TLS connection, the connection to the backend
included: after the handshakes, after 16 KiB each way on every one, and (not in a quick run, because it takes
patience) what is still held when all have gone.
Anonymous and shared memory, as in bench.memory: not the pages of programs and libraries.
]]

local bench = require "bench"
local load = require "load"
local peers = require "peers"
local process = require "process"
local rounds = require "rounds"

local memory = { id = "memory" }

local TLS = { tls = true, ["tls-version"] = "1.3", ciphersuites = "TLS_AES_128_GCM_SHA256" }

-- What the peer holds when it has not changed for `quiet` seconds: proxies connect, and give back, a little later.
local function settled(peer, quiet)
    local last, since = peer.memory(), bench.now()
    bench.wait(peer.name .. "'s memory to settle", function()
        local now = peer.memory()
        if math.abs(now - last) > 64 then
            last, since = now, bench.now()
        end
        return bench.now() - since > quiet
    end, 30)
    return last
end

local function stage(generator, name)
    if name ~= "open" then
        process.write(generator.stdin, name .. "\n")
    end
    bench.wait("the generator to " .. name, function()
        if not generator:alive() then
            error(generator:errors(), 0)
        end
        return generator:output():find(name .. " done", 1, true)
    end, 120)
end

local QUIET = { open = 0.5, traffic = 0.5, close = 7 } -- moongate gives back every five seconds at most

local function measure(name, backend, count, stages)
    local peer, why = peers.start(name, backend.port)
    if not peer then
        return nil, why
    end
    -- One connection first: what a program sets up once is not counted for each.
    local options = { connections = 1, seconds = 0.05, warm = 0, cpu = peer.pids }
    for key, value in pairs(TLS) do
        options[key] = value
    end
    load.run("churn", peer.ports.ec, options, {})
    options.connections, options.brings, options.wants = count, 16384 - 16, 16384
    local values = {}
    local base = settled(peer, 0.5)
    local generator = load.start("hold", peer.ports.ec, options, {})
    local ok, reason = pcall(function()
        for i, name_of in ipairs(stages) do
            stage(generator, name_of)
            values[i] = (settled(peer, QUIET[name_of]) - base) / count
        end
    end)
    generator:stop()
    peer.stop()
    return ok and values, reason
end

function memory.run(running, backend, settings)
    local _, most = process.nofile()
    local count = math.min(settings.connections, (most - 500) // 2)
    local title = ("idle connection, TLS 1.3, of %d"):format(count)
    local rows = {}
    local stages = { "open", "traffic", not settings.quick and "close" or nil }
    for i, what in ipairs { "fresh", "used", not settings.quick and "kept" or nil } do
        rows[i] = rounds.row({ id = "memory-" .. what, title = title },
            { name = what, unit = "KiB" })
        rows[i].target = i < 3 and 0.85 or nil
        rows[i].most = i < 3 and 15 or nil
    end
    local subjects = {}
    for _, peer in ipairs(running) do
        if peer.name ~= "nginx'" then
            subjects[#subjects + 1] = { name = peer.name }
        end
    end
    load.place(backend, false)
    return rounds.run(rows, subjects, { rounds = settings.quick and 1 or 2, seconds = 600 }, function(subject)
        return measure(subject.name, backend, count, stages)
    end)
end

return memory
