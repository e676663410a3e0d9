-- Real servers that go and come back, round after round: what a client has asked for in one go is answered in order and
-- whole, and what another server has begun it ends.

local backends = require "backends"
local bench = require "bench"
local certs = require "certs"
local nginx = require "nginx"
local proxy = require "proxy"

teardown(proxy.cleanup)

local KILL = proxy.signals.KILL
local at, quoted, wait_state = backends.at, backends.quoted, backends.wait_state
local ROUNDS, REQUESTS = 3, 200

-- All of it at once through TLS; what came until the other side closed.
local function say(port, text)
    local result = bench.run { "openssl", "s_client", "-connect", at(port), "-CAfile", certs.ca.crt, "-servername",
        "localhost", "-verify_return_error", "-quiet", input = text }
    return result.out
end

-- Where the last connection that has ended well was.
local function last_address(web)
    local records = web:records()
    for i = #records, 1, -1 do
        if records[i].reason == "relay: done" and records[i].version then
            return records[i].backend_address
        end
    end
end

describe("an nginx that goes and comes back", function()
    it("answers pipelined requests in order, from one server each", function()
        local port, ports = bench.port(), { bench.port(), bench.port() }
        local function start(i)
            return nginx.start { port = ports[i], text = "whole",
                more = ('location ~ "^/n/([0-9]+)$" { return 200 "%d says $1\\n"; }'):format(i) }
        end
        local servers = { start(1), start(2) }
        local web = proxy.start { port = port, addresses = quoted { at(ports[1]), at(ports[2]) }, script = [[
            moongate.listen { address = "127.0.0.1:$port", tls = server(), backend = moongate.backend { name = "http",
                address = { $addresses }, balance = "first", health = { interval = 0.05, timeout = 5, rise = 1,
                    fall = 1, send = "GET / HTTP/1.0\r\n\r\n", expect = "200 OK" } } }
        ]] }
        local requests = {}
        for i = 1, REQUESTS do
            requests[i] = ("GET /n/%d HTTP/1.1\r\nHost: localhost\r\n%s\r\n"):format(i,
                i == REQUESTS and "Connection: close\r\n" or "")
        end
        local function check(expected)
            local number = 0
            for who, what in say(port, table.concat(requests)):gmatch("(%d) says (%d+)\n") do
                number = number + 1
                assert.equal(expected, tonumber(who))
                assert.equal(number, tonumber(what))
            end
            assert.equal(REQUESTS, number)
            bench.wait("the record", function() return last_address(web) == at(ports[expected]) end)
        end
        for _ = 1, ROUNDS do
            check(1)
            servers[1]:signal(KILL)
            check(2) -- known to be down or not
            wait_state(web, at(ports[1]), "down")
            check(2)
            servers[1] = start(1)
            wait_state(web, at(ports[1]), "ready")
        end
        check(1)
        for _, record in ipairs(web:records()) do
            assert.equal("relay: done", record.reason)
            assert.is_true(record.failures == nil or record.failures == at(ports[1]) .. ": up: connection refused")
        end
        web:stop()
    end)
end)

describe("a redis that goes and comes back", function()
    it("does what it is asked in order, and a transaction at another one goes on", function()
        local port, plain, ports = bench.port(), bench.port(), { bench.port(), bench.port() }
        local servers = { backends.redis(ports[1]), backends.redis(ports[2]) }
        local both = quoted { at(ports[1]), at(ports[2]) }
        local web = proxy.start { port = port, plain = plain, addresses = both, script = [[
            local redis = moongate.backend { name = "redis", address = { $addresses }, balance = "first",
                health = { interval = 0.05, timeout = 5, rise = 1, fall = 1, send = "PING\r\n", expect = "+PONG" } }
            moongate.listen { address = "127.0.0.1:$port", tls = server(), backend = redis }
            moongate.listen { name = "plain", address = "127.0.0.1:$plain", backend = redis }
        ]] }
        local transaction = "MULTI\r\nINCR a\r\nINCR b\r\nEXEC\r\n"
        local counts = { 0, 0 }
        local function check(expected)
            local answers, n = {}, counts[expected]
            for i = 1, REQUESTS do
                answers[i] = ("+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n:%d\r\n:%d\r\n"):format(n + i, n + i)
            end
            answers[#answers + 1] = "+OK\r\n" -- to QUIT
            assert.equal(table.concat(answers), say(port, transaction:rep(REQUESTS) .. "QUIT\r\n"))
            counts[expected] = n + REQUESTS
        end
        for _ = 1, ROUNDS do
            check(1)
            local cut = assert(bench.connect(plain)) -- in the middle of one, at the first
            cut:send("MULTI\r\nINCR cut\r\n")
            assert.equal("+OK", cut:receive("*l"))
            assert.equal("+QUEUED", cut:receive("*l"))
            servers[1]:signal(KILL)
            assert.is_nil((cut:receive("*l")))
            cut:close()
            wait_state(web, at(ports[1]), "down")
            check(2)
            local other = assert(bench.connect(plain)) -- in the middle of one, at the second
            other:send("MULTI\r\nINCR other\r\n")
            assert.equal("+OK", other:receive("*l"))
            servers[1], counts[1] = backends.redis(ports[1]), 0
            wait_state(web, at(ports[1]), "ready")
            check(1)
            assert.equal("+QUEUED", other:receive("*l"))
            other:send("INCR other\r\nEXEC\r\n")
            assert.equal("+QUEUED", other:receive("*l"))
            assert.equal("*2", other:receive("*l"))
            other:close()
        end
        check(1)
        for _, record in ipairs(web:records()) do
            local cut = record.listener == "plain" and record.backend_address == at(ports[1])
            assert.is_true(record.reason == "relay: done" or cut, record.reason)
        end
        web:stop()
    end)
end)
