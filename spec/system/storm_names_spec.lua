-- A name server that changes its answer while 500 connections are open (200 where all is slow): they stay where they
-- are, who comes goes where the name leads now.

local backends = require "backends"
local bench = require "bench"
local certs = require "certs"
local dns = require "dns"
local proxy = require "proxy"

local impossible = dns.impossible()
local HELD = bench.slow and 200 or 500

teardown(proxy.cleanup)

describe("a name that moves with hundreds of connections open", function()
    if impossible then
        pending("is followed: " .. impossible)
        return
    end

    it("is followed by those who come, and costs nobody a byte", function()
        local port, front, plain = bench.port(), bench.port(), bench.port()
        local server = dns.start { ["moves.test"] = { "127.0.0.2", "127.0.0.3" } }
        for i = 2, 4 do
            bench.peer("load", "echo-server", { listen = ("127.0.0.%d:%d"):format(i, port) })
        end
        local web = proxy.start { prefix = server:world(), port = port, front = front, plain = plain, script = [[
            local moves = moongate.backend { name = "moves", address = "moves.test:$port", resolve_interval = 1,
                balance = "round_robin" }
            moongate.listen { name = "web", address = "127.0.0.1:$front", tls = server(), backend = moves,
                handshake_timeout = 60 }
            moongate.listen { name = "plain", address = "127.0.0.1:$plain", backend = moves }
        ]] }
        local held = bench.echo_load { connect = "127.0.0.1:" .. front, tls = true, servername = "localhost",
            cafile = certs.ca.crt, hold = HELD, message = 200, pause = 1000 }
        bench.wait("connections", function() return held:result().holding == HELD end, 60)
        local churn = bench.echo_load { connect = "127.0.0.1:" .. front, tls = true, servername = "localhost",
            cafile = certs.ca.crt, churn = 2, every = 50, message = 200 }

        local asked, log = 0, assert(io.open(web.access))
        local found = {}
        -- Which address the so-manieth record of that listener names; of the file only what is new is read.
        local function used_by_plain(number)
            return bench.wait("its record", function()
                for line in log:read("a"):gmatch('[^\n]*"listener":"plain"[^\n]*') do
                    found[#found + 1] = line:match '"backend_address":"([^"]*)"'
                end
                return found[number]
            end)
        end

        for _, last in ipairs { { 4 }, { 3, 4 }, { 2 }, { 2, 3, 4 } } do
            local addresses, allowed, used = {}, {}, {}
            for i, number in ipairs(last) do
                addresses[i] = "127.0.0." .. number
                allowed[addresses[i] .. ":" .. port] = true
            end
            server:set { ["moves.test"] = addresses }
            -- Each worker learns it by itself: so many in a row went to no other address, and to each of these.
            local good = 0
            bench.wait("those who come to follow", function()
                for _ = 1, 6 do
                    assert.equal("hello", backends.ask(plain, "hello\n"))
                    asked = asked + 1
                    local address = used_by_plain(asked)
                    good = allowed[address] and good + 1 or 0
                    used = good > 0 and used or {}
                    used[address] = true
                end
                for address in pairs(allowed) do
                    if not used[address] then
                        return false
                    end
                end
                return good >= 12
            end, 40)
        end

        local before = held:result().bytes
        bench.wait("their answers", function() return held:result().bytes > before + HELD * 100 end)
        local result = churn:finish(60)
        assert.equal(0, result.failed, tostring(result.reasons))
        log:close()
        result = held:finish(60)
        assert.equal(0, result.failed, tostring(result.reasons))
        assert.equal(HELD, result.holding)
        bench.wait("the records", function() return web:open_connections() == 0 end)
        for _, record in ipairs(web:records()) do
            assert.equal("relay: done", record.reason)
            assert.is_nil(record.failures)
        end
        web:stop()
    end)
end)
