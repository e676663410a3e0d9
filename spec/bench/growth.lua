--[[
growth: what a connection, or a byte, costs with more idle connections, more listeners, two workers instead of
one on the same CPUs, and with an access log – as a ratio to the same without.
]]

local bench = require "bench"
local beside = require "beside"
local load = require "load"
local peers = require "peers"
local process = require "process"

local growth = { id = "growth" }

local FEW, MANY = 10, 5000
local CONNECTION, BYTE = beside.CONNECTION, beside.BYTE

-- `count` connections that say nothing, until the function that comes back is called.
local function idle(peer, count)
    local options = { connections = count, seconds = 0.05, warm = 0, cpu = peer.pids }
    for name, value in pairs(beside.TLS) do
        options[name] = value
    end
    local generator = load.start("hold", peer.ports.ec, options, {})
    bench.wait(count .. " connections", function()
        assert(generator:alive(), generator:errors())
        return generator:output():find("open done", 1, true)
    end, 120)
    return function()
        generator:stop()
    end
end

function growth.run(_, backend, settings)
    local all = {}
    local _, most = process.nofile()
    local many = math.min(MANY, settings.connections, (most - 500) // 2)
    load.place(backend, false)

    local one, other = beside.start(backend, {}), beside.start(backend, {})
    local stop_few, stop_many = idle(one, FEW), idle(other, many)
    beside.compare(all, settings, "growth-connections", ("%d idle connections / %d"):format(many, FEW), nil, one, other,
        { CONNECTION, BYTE })
    stop_few()
    stop_many()
    other.stop()

    other = beside.start(backend, { listeners = 100 })
    beside.compare(all, settings, "growth-listeners", "100 listeners / 1", nil, one, other, { CONNECTION, BYTE })
    other.stop()

    other = beside.start(backend, { access_log = true })
    beside.compare(all, settings, "growth-access-log", "with an access log / without", nil, one, other, { CONNECTION })
    other.stop()
    one.stop()

    local both = load.cpu and load.cpu ~= peers.cpu and ("%d,%d"):format(peers.cpu, load.cpu)
    if both then
        one, other = beside.start(backend, { cpus = both }), beside.start(backend, { cpus = both, workers = 2 })
        local generator_cpu = peers.cpu
        peers.cpu = both -- clients, too, are where they like to be
        beside.compare(all, settings, "growth-workers", "2 workers / 1, on the same 2 CPUs", 1.25, one, other,
            { CONNECTION, BYTE })
        peers.cpu = generator_cpu
        one.stop()
        other.stop()
    end
    return all
end

return growth
