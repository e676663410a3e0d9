--[[
growth: moongate beside itself. What a connection, or a byte, costs with more idle connections, more listeners,
two workers instead of one on the same CPUs, and with an access log – as a ratio to the same without, both
figures of one round.
]]

local bench = require "bench"
local load = require "load"
local peers = require "peers"
local process = require "process"
local rounds = require "rounds"

local growth = { id = "growth" }

local TLS = { tls = true, ["tls-version"] = "1.3", ciphersuites = "TLS_AES_128_GCM_SHA256" }
local FEW, MANY = 10, 5000

local SCRIPT = [[
local moongate = require "moongate"
local ctx = require("moongate.openssl").SSL.SSLContext.new()
ctx:load_certificate("$ec_crt", "$ec_key")
ctx.num_tickets = 1
moongate.settings { workers = WORKERS, log_level = "error", access_log = ACCESS_LOG }
for i, port in ipairs { $ec, OTHERS } do
    moongate.listen { name = "ec" .. i, address = "127.0.0.1:" .. port, tls = ctx, backend = "127.0.0.1:$backend" }
end
]]

-- A moongate with options workers, listeners, access_log, cpus.
local function start(backend, options)
    local others, cpu = {}, peers.cpu
    for i = 2, options.listeners or 1 do
        others[i - 1] = tostring(bench.port())
    end
    local text = SCRIPT:gsub("OTHERS", table.concat(others, ", ")):gsub("WORKERS", tostring(options.workers or 1))
        :gsub("ACCESS_LOG", options.access_log and ("%q"):format(bench.path("access.log")) or "false")
    peers.cpu = options.cpus or cpu
    local peer, why = peers.start("moongate", backend.port,
        { text = text, ports = { "ec" }, processes = 1 + (options.workers or 1) })
    peers.cpu = cpu
    return assert(peer, why)
end

local function figure(peer, command, options, settings, per)
    local all = { cpu = peer.pids, connections = 8, seconds = settings.each, warm = settings.each / 5 }
    for _, part in ipairs { TLS, options } do
        for name, value in pairs(part) do
            all[name] = value
        end
    end
    local result, why = load.run(command, peer.ports.ec, all, {})
    return result and result.cpu_ns / result[per], why
end

local function per_connection(peer, settings)
    return figure(peer, "churn", {}, settings, "units")
end

local function per_byte(peer, settings)
    return figure(peer, "exchange", { brings = 16384 - 16, wants = 16384 }, settings, "bytes")
end

-- `count` connections that say nothing, until the function that comes back is called.
local function idle(peer, count)
    local options = { connections = count, seconds = 0.05, warm = 0, cpu = peer.pids }
    for name, value in pairs(TLS) do
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

-- Rows for the ratio of `varied`'s figures to those of `base`, as `measures` take them.
local function compare(all, settings, id, what, most, base, varied, measures)
    local rows = {}
    for i, measure in ipairs(measures) do
        rows[i] = rounds.row({ id = "growth-" .. id, title = what .. ", " .. measure.name },
            { name = "CPU", unit = "times" })
        rows[i].most = most
        all[#all + 1] = rows[i]
    end
    local base_first = false
    rounds.run(rows, { { name = "moongate" } }, settings, function()
        base_first = not base_first
        local values = {}
        for i, measure in ipairs(measures) do
            local first, why = measure.take(base_first and base or varied, settings)
            local second
            if first then
                second, why = measure.take(base_first and varied or base, settings)
            end
            if not second then
                return nil, why
            end
            values[i] = base_first and second / first or first / second
        end
        return values
    end)
end

local CONNECTION = { name = "per connection", take = per_connection }
local BYTE = { name = "per byte", take = per_byte }

function growth.run(_, backend, settings)
    local all = {}
    local _, most = process.nofile()
    local many = math.min(MANY, settings.connections, (most - 500) // 2)
    load.place(backend, false)

    local one, other = start(backend, {}), start(backend, {})
    local stop_few, stop_many = idle(one, FEW), idle(other, many)
    compare(all, settings, "connections", ("%d idle connections / %d"):format(many, FEW), nil, one, other,
        { CONNECTION, BYTE })
    stop_few()
    stop_many()
    other.stop()

    other = start(backend, { listeners = 100 })
    compare(all, settings, "listeners", "100 listeners / 1", nil, one, other, { CONNECTION, BYTE })
    other.stop()

    other = start(backend, { access_log = true })
    compare(all, settings, "access-log", "with an access log / without", nil, one, other, { CONNECTION })
    other.stop()
    one.stop()

    local both = load.cpu and load.cpu ~= peers.cpu and ("%d,%d"):format(peers.cpu, load.cpu)
    if both then
        one, other = start(backend, { cpus = both }), start(backend, { cpus = both, workers = 2 })
        local generator_cpu = peers.cpu
        peers.cpu = both -- clients, too, are where they like to be
        compare(all, settings, "workers", "2 workers / 1, on the same 2 CPUs", 1.25, one, other, { CONNECTION, BYTE })
        peers.cpu = generator_cpu
        one.stop()
        other.stop()
    end
    return all
end

return growth
