-- handshake_rate: full handshakes a second, of a listener and of one address; what comes above that is refused before
-- any public-key work.

local bench = require "bench"
local certs = require "certs"
local process = require "process"
local proxy = require "proxy"

teardown(proxy.cleanup)

describe("handshake_rate", function()
    -- Tokens do not come back while the specs run.
    local SCRIPT = [[
local ctx = server()
local function listen(name, port, rate, backend, more)
    local options = more or { tls = server() }
    options.name, options.address = name, "127.0.0.1:" .. port
    options.handshake_rate, options.backend = rate, backend or moongate.reply "bye\n"
    moongate.listen(options)
end
listen("burst", $burst, { per_second = 0.001, burst = 4 })
listen("names", $names, { per_second = 0.001, burst = 1 }, nil, { tls = moongate.servernames { server() } })
listen("asked", $asked, { per_second = 0.001, burst = 1 }, nil, { tls = function() return ctx end })
listen("source", $source, { per_second = 1000, burst = 1000, per_ip = 0.001 })
listen("both", $both, { per_second = 0.001, burst = 2, per_ip = 0.001 })
listen("backed", $backed, { per_second = 0.001, burst = 1 }, "127.0.0.1:$backend")
listen("again", $again, { per_second = 4, burst = 1 })
local sessions = server()
sessions.options = sessions.options | openssl.SSL.OP_NO_TICKET
listen("sessions", $sessions, { per_second = 0.001, burst = 1 }, nil, { tls = sessions })]]
    local REASON, OF_ADDRESS = "down: handshake rate", "down: handshake rate of this address"
    local web
    local ports = {}

    setup(function()
        local values = { workers = 2, script = SCRIPT }
        for _, name in ipairs { "burst", "names", "asked", "source", "both", "backed", "again", "sessions",
            "backend" } do
            ports[name] = bench.port()
            values[name] = ports[name]
        end
        web = proxy.start(values)
    end)

    -- "bye", or the alert, and the record.
    local function shake(name, ...)
        local result, record = web:s_client(ports[name], "localhost", ...)
        return result.out:find("bye\n", 1, true) and "bye" or result.err:match("alert ([%w ]+)") or result.err, record
    end

    it("lets a burst pass over all workers, and refuses the rest with an alert", function()
        for _ = 1, 4 do
            assert.equal("bye", (shake "burst"))
        end
        for _, version in ipairs { "-tls1_2", "-tls1_3" } do
            local answer, record = shake("burst", version)
            assert.equal("internal error", answer)
            assert.equal(REASON, record.reason)
            assert.equal("internal_error", record.alert_sent)
        end
        web:reload()
        assert.equal("internal error", (shake "burst"))
        process.kill(web:wait_workers(2)[1], proxy.signals.KILL)
        assert.equal("internal error", (shake "burst"))
        local workers = bench.wait("both to answer", function()
            local all = web:status().workers
            return #all == 2 and all[1].engine and all[2].engine and all
        end)
        local closes = 0
        for _, worker in ipairs(workers) do
            closes = closes + (worker.engine.closes[REASON] or 0)
        end
        assert.is_true(closes >= 1)
    end)

    it("does not count resumptions", function()
        local session = bench.path "session"
        -- With a ticket, and without; each listener has one token.
        for name, version in pairs { names = "-tls1_2", sessions = "-tls1_2", asked = "-tls1_3" } do
            assert.equal("bye", (shake(name, version, "-sess_out", session)))
            assert.equal("internal error", (shake(name, version)))
            for _ = 1, 3 do
                local answer, record = shake(name, version, "-sess_in", session, "-sess_out", session)
                assert.equal("bye", answer)
                assert.equal("yes", record.resumed)
            end
            assert.equal("internal error", (shake(name, version)))
        end
    end)

    it("counts each address on its own", function()
        assert.equal("bye", (shake "source"))
        local answer, record = shake "source"
        assert.equal("internal error", answer)
        assert.equal(OF_ADDRESS, record.reason)
        assert.equal("bye", (shake("source", "-bind", "127.0.0.2:0")))
        assert.equal("internal error", (shake("source", "-bind", "127.0.0.2:0")))
    end)

    it("takes nothing from the listener for an address that has had its share", function()
        assert.equal("bye", (shake "both"))
        for _ = 1, 3 do
            assert.equal(OF_ADDRESS, select(2, shake "both").reason)
        end
        assert.equal("bye", (shake("both", "-bind", "127.0.0.2:0")))
        assert.equal(REASON, select(2, shake("both", "-bind", "127.0.0.3:0")).reason)
    end)

    it("counts a handshake with another key share once", function()
        local script = [[
local ctx = server()
ctx.groups = "P-384"
moongate.listen { name = "retry", address = "127.0.0.1:$retry", tls = ctx, backend = moongate.reply "bye\n",
    handshake_rate = { per_second = 0.001, burst = 2 } }]]
        local retry = bench.port()
        local other = proxy.start { workers = 1, retry = retry, script = script }
        for _ = 1, 2 do
            local result = other:s_client(retry, "localhost", "-groups", "X25519:P-384")
            assert.matches("bye", result.out)
        end
        assert.not_matches("bye", other:s_client(retry, "localhost").out)
        other:stop()
    end)

    it("costs a backend nothing", function()
        local backend = bench.exchange { listen = "127.0.0.1:" .. ports.backend, count = 1, finish_when = "eof" }
        assert.equal(0, bench.exchange({ connect = "127.0.0.1:" .. ports.backed, tls = true, servername = "localhost",
            cafile = certs.ca.crt, bytes = 10 }):finish().got)
        assert.equal(10, backend:finish().got)
        local listening = bench.exchange { listen = "127.0.0.1:" .. ports.backend, timeout = 1000, finish_when = "eof" }
        local answer, record = shake "backed"
        assert.equal("internal error", answer)
        assert.equal(REASON, record.reason)
        assert.is_nil(record.backend_address)
        assert.equal("nobody", listening:finish()["end"])
    end)

    it("comes back with time", function()
        shake "again"
        bench.wait("a token", function() return shake "again" == "bye" end)
    end)
end)
