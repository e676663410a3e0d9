--[[
reload: a reload with many certificates, each the context of a name of its own: how long it takes until new
connections are served by the new configuration, and the longest pause that an established connection, which has
an exchange every millisecond, sees meanwhile.
]]

local bench = require "bench"
local load = require "load"
local peers = require "peers"
local process = require "process"
local rounds = require "rounds"
local testing = require "moongate.testing"

local reload = { id = "reload" }

local SCRIPT = [[
local moongate = require "moongate"
local openssl = require "moongate.openssl"
moongate.settings { workers = 1, log_level = "error", reload_timeout = 600 }

local by_name = {}
for number = 1, $count do
    local ctx = openssl.SSL.SSLContext.new()
    ctx:load_certificate(("$dir/many/%d.crt"):format(number), ("$dir/many/%d.key"):format(number))
    by_name[("n%d.example"):format(number)] = ctx
end
local ctx = openssl.SSL.SSLContext.new()
ctx:load_certificate("$ec_crt", "$ec_key")
ctx.servername_cb = function(_, name)
    return by_name[name]
end
moongate.listen { name = "ec", address = "127.0.0.1:$ec", tls = ctx, backend = "127.0.0.1:$backend" }
]]

local function make_certificates(count)
    bench.must { "mkdir", bench.path("many") }
    local ca = testing.ca()
    for number = 1, count do
        local made = testing.certificate { ca = ca, key = "EC", names = { ("n%d.example"):format(number) } }
        bench.write(("many/%d.crt"):format(number), made.pem)
        bench.write(("many/%d.key"):format(number), made.key_pem)
    end
end

function reload.run(_, backend, settings)
    local count = settings.certificates
    local scenario = { id = "reload", title = ("reload with %d certificates, a context each"):format(count) }
    local rows = {
        rounds.row(scenario, { name = "time", unit = "ms" }),
        rounds.row(scenario, { name = "pause", unit = "ms" }),
        rounds.row(scenario, { name = "pause p99", unit = "ms" }),
    }
    make_certificates(count)
    load.place(backend, true, true)
    local text = bench.fill(SCRIPT, { count = count, dir = bench.dir })
    local peer, why = peers.start("moongate", backend.port, { text = text, ports = { "ec" }, patience = 300 })
    if not peer then
        for _, row in ipairs(rows) do
            row.notes.moongate = why
        end
        return rows
    end
    local subject = { name = "moongate" }
    rounds.run(rows, { subject }, { rounds = settings.quick and 2 or 3, seconds = 300 }, function()
        local echo = load.start("exchange", peer.ports.ec, { connections = 1, rate = 1000, brings = 84, wants = 100,
            tls = true, ["tls-version"] = "1.3", seconds = 600, warm = 0.2, ["until-stdin"] = true },
            { split = true, fifo = true })
        bench.sleep(0.3)
        local begun = bench.now()
        local result = bench.run { bench.moongate, "reload", "--control", peer.control, timeout = 300 }
        local took = bench.now() - begun
        bench.sleep(0.3)
        process.write(echo.stdin, "end\n")
        echo:wait(60)
        if result.code ~= 0 then
            return nil, result.err
        end
        local seen = load.figures(echo:output())
        if not seen.max_us then
            return nil, echo:errors()
        end
        return { took * 1000, seen.max_us / 1000, seen.p99_us / 1000 }
    end)
    peer.stop()
    return rows
end

return reload
