--[[
beside: moongate beside itself – two that differ by one thing, both figures of one round.

    beside.start(backend, { workers=, listeners=, access_log=, cpus=, env=, program= }) → a peer
    beside.compare(rows, settings, id, title, most, one, other, { measure, … })   adds rows: other's / one's
    beside.CONNECTION, RESUMPTION, BYTE, REQUEST   measures: CPU time per unit
]]

local bench = require "bench"
local load = require "load"
local peers = require "peers"
local rounds = require "rounds"

local beside = {}

beside.TLS = { tls = true, ["tls-version"] = "1.3", ciphersuites = "TLS_AES_128_GCM_SHA256" }

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

-- A moongate with those options.
function beside.start(backend, options)
    local others, cpu = {}, peers.cpu
    for i = 2, options.listeners or 1 do
        others[i - 1] = tostring(bench.port())
    end
    local text = SCRIPT:gsub("OTHERS", table.concat(others, ", ")):gsub("WORKERS", tostring(options.workers or 1))
        :gsub("ACCESS_LOG", options.access_log and ("%q"):format(bench.path("access.log")) or "false")
    peers.cpu = options.cpus or cpu
    local peer, why = peers.start("moongate", backend.port,
        { text = text, ports = { "ec" }, processes = 1 + (options.workers or 1), env = options.env,
            program = options.program })
    peers.cpu = cpu
    return assert(peer, why)
end

local function figure(peer, command, options, settings, per)
    local all = { cpu = peer.pids, connections = 8, seconds = settings.each, warm = settings.each / 5 }
    for _, part in ipairs { beside.TLS, options } do
        for name, value in pairs(part) do
            all[name] = value or nil
        end
    end
    local result, why = load.run(command, peer.ports.ec, all, {})
    return result and result.cpu_ns / result[per], why
end

local function per_unit(name, command, per, options)
    return {
        name = name,
        take = function(peer, settings)
            return figure(peer, command, options, settings, per)
        end,
    }
end

beside.CONNECTION = per_unit("per connection", "churn", "units", {})
beside.RESUMPTION = per_unit("per resumption, TLS 1.2", "churn", "units",
    { ["tls-version"] = "1.2", ciphersuites = false, resume = "ticket" })
beside.BYTE = per_unit("per byte", "exchange", "bytes", { brings = 16384 - 16, wants = 16384 })
beside.REQUEST = per_unit("per request of 100 B", "exchange", "units",
    { brings = 100, wants = 100, connections = 32 })

-- Rows for the ratio of `varied`'s figures to those of `base`, as `measures` take them.
function beside.compare(all, settings, id, what, most, base, varied, measures)
    local rows = {}
    for i, measure in ipairs(measures) do
        rows[i] = rounds.row({ id = id, title = what .. ", " .. measure.name },
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

return beside
