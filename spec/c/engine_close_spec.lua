-- Ends of every kind, named after the moment they come at. Whatever happens, the engine ends with no session, no
-- handle and no config left (engine.stop asserts it).

local bench = require "bench"
local certs = require "certs"
local engine = require "engine"
local process = require "process"
local socket = require "socket"

local STOP, CONT = 19, 18
local KIB, MIB = 1024, 1024 * 1024

teardown(engine.cleanup)

for _, mode in ipairs(engine.modes) do
    describe(mode.name, function()
        local web

        setup(function() web = engine.between(mode) end)
        teardown(function() web:stop() end)

        local function carry(down, up)
            local number = #web:records() + 1
            local client, server = web:connect(down, up)
            return client:finish(), server:finish(), web:record(number)
        end

        if mode.down then
            it("truncation_by_the_client reaches the backend as a reset", function()
                local _, server, record = carry({ bytes = 10 * KIB, finish = "fin" }, { finish_when = "eof" })
                assert.equal("rst", server["end"])
                assert.equal("down: truncated", record.reason)
            end)
        end

        if mode.up then
            it("truncation_by_the_backend reaches the client as a reset", function()
                local client, _, record = carry({ bytes = KIB, finish_when = "eof" },
                    { bytes = 10 * KIB, finish = "fin", finish_when = "got:" .. KIB })
                assert.equal("rst", client["end"])
                assert.equal("up: truncated", record.reason)
            end)
        end

        it("a client that has heard all, says so and is gone is no reset", function()
            for _ = 1, 5 do
                local client, server, record = carry({ bytes = KIB, finish = "full", finish_when = "got:" .. 2 * KIB },
                    { bytes = 2 * KIB, finish_when = "eof" })
                assert.same({ 2 * KIB, KIB, "relay: done" }, { client.got, server.got, record.reason })
            end
        end)

        it("a client that says that it has said all and is gone misses the rest of the answer", function()
            local _, _, record = carry({ bytes = KIB, finish = "full", finish_when = "got:1" },
                { bytes = 8 * 1024 * KIB, finish_when = "sent" })
            assert.equal("down: reset", record.reason)
        end)

        it("reset_by_the_client reaches the backend as one", function()
            local _, server, record = carry({ bytes = 10 * KIB, finish = "rst", finish_when = "got:1" },
                { bytes = KIB, finish_when = "eof" })
            assert.equal("rst", server["end"])
            assert.equal("down: reset", record.reason)
        end)

        it("reset_by_the_backend reaches the client as one", function()
            local client, _, record = carry({ bytes = KIB, finish_when = "eof" },
                { bytes = 10 * KIB, finish = "rst", finish_when = "got:" .. KIB })
            assert.equal("rst", client["end"])
            assert.equal("up: reset", record.reason)
        end)

        if not mode.down and not mode.up then
            it("reset_right_behind_data is no clean end", function()
                for _ = 1, 5 do
                    local listening = socket.bind("127.0.0.1", web.backend_port)
                    local number = #web:records() + 1
                    local client = bench.connect(web.port)
                    local up = listening:accept()
                    client:send("x")
                    up:receive(1)
                    process.kill(web.pid, STOP) -- so that data and reset are found together
                    up:send(("y"):rep(1000))
                    up:setoption("linger", { on = true, timeout = 0 })
                    up:close()
                    process.kill(web.pid, CONT)
                    assert.equal("up: reset", web:record(number).reason)
                    listening:close()
                    client:close()
                end
            end)
        end

        it("reset_while_sending stops the other side", function()
            local number = #web:records() + 1
            local client, server = web:connect({ bytes = 64 * MIB, finish_when = "eof" },
                { bytes = 64 * MIB, finish_when = "eof" })
            bench.wait("bytes", function() return web:status().bytes_up > 2 * MIB end)
            process.kill(client.pid, 9)
            local result = server:finish()
            assert.equal("rst", result["end"])
            assert.matches("^down: ", web:record(number).reason)
        end)

        it("close_while_relaying by the engine is a reset for both", function()
            local before = web:status().bytes_up
            local client, server = web:connect({ bytes = KIB, finish = "none" }, { bytes = KIB, finish = "none" })
            bench.wait("bytes", function() return web:status().bytes_up == before + KIB end)
            web:ask("close")
            assert.equal("rst", client:finish()["end"])
            assert.equal("rst", server:finish()["end"])
            assert.equal(1, web:status().closes["session: closed by the spec"])
        end)

        it("engine_close_while_relaying leaves nothing", function()
            local own = engine.between(mode)
            local client, server = own:connect({ bytes = 64 * MIB }, { bytes = 64 * MIB })
            bench.wait("bytes", function() return own:status().bytes_up > MIB end)
            own:stop()
            client:finish()
            server:finish()
            assert.equal("session: engine closed", own:record(1).reason)
        end)
    end)
end

describe("truncation towards a unix socket", function()
    it("is an end like any other, as there is no reset; only the record tells", function()
        local path = bench.path("truncated.sock")
        local server = require "socket.unix" ()
        assert(server:bind(path))
        assert(server:listen())
        local web = engine.start { tls = engine.server(), backend = { addresses = { "unix:" .. path } } }
        local client = bench.exchange { connect = web.address, tls = true, servername = "localhost",
            cafile = certs.ca.crt, bytes = KIB, finish = "fin" }
        local up = server:accept()
        up:settimeout(10)
        assert.equal(KIB, #up:receive("*a"))
        assert.equal("down: truncated", web:record(1).reason)
        client:stop()
        up:close()
        server:close()
        web:stop()
    end)
end)

describe("close_during_handshake", function()
    local web, backend

    setup(function()
        backend = bench.echo_server {}
        web = engine.start { tls = engine.server(),
            backend = { addresses = { "127.0.0.1:" .. backend.port } } }
    end)
    teardown(function() web:stop() end)

    it("vanish after 0, 1, 5 and 100 bytes leaves nothing", function()
        local function vanish(count)
            local result = bench.peer("peer", "vanish", { connect = web.address, count = count,
                sizes = "0,1,5,100" }):finish()
            assert.equal(4 * count, result.connected)
            web:wait_idle()
        end
        vanish(250)
        vanish(250)
        local memory, descriptors = tonumber(web:ask("memory")), bench.descriptors(web.pid)
        vanish(250)
        assert.equal(descriptors, bench.descriptors(web.pid))
        local grown = tonumber(web:ask("memory")) - memory
        assert.is_true(bench.sanitized or grown < 64 * 1024, ("%d bytes"):format(grown)) -- of 1,000 connections
        for reason in pairs(web:status().closes) do
            assert.matches("^down: ", reason)
        end
    end)

    local function say(bytes)
        local number = #web:records() + 1
        local client = bench.connect(web.port)
        client:send(bytes)
        local answer = client:receive("*a")
        client:close()
        return answer, web:record(number)
    end

    it("plain HTTP is called by its name", function()
        local _, record = say("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert.equal("down: plain HTTP instead of TLS", record.reason)
        assert.equal("http request", record.detail)
    end)

    it("garbage is no TLS", function()
        local _, record = say(("garbage "):rep(1000))
        assert.equal("down: not TLS", record.reason)
    end)

    it("a broken ClientHello gets an alert that can be read", function()
        local answer, record = say("\22\3\1\0\5\1\0\0\1\0")
        assert.equal(7, #answer) -- one alert record
        assert.equal("\21", answer:sub(1, 1))
        assert.equal("decode_error", record.alert_sent)
        assert.equal("down: handshake failed", record.reason)
    end)

    it("a client that does not trust us says so", function()
        local number = #web:records() + 1
        local result = bench.run { "curl", "-sS", ("https://localhost:%d/"):format(web.port) }
        assert.equal(60, result.code)
        local record = web:record(number)
        assert.equal("unknown_ca", record.alert_received)
        assert.matches("^down: ", record.reason)
    end)

    it("a client without a common version gets protocol_version", function()
        local number = #web:records() + 1
        local result = bench.run { "openssl", "s_client", "-connect", web.address, "-tls1_1",
            "-cipher", "DEFAULT@SECLEVEL=0" }
        assert.not_equal(0, result.code)
        local record = web:record(number)
        assert.equal("protocol_version", record.alert_sent)
        assert.equal("down: handshake failed", record.reason)
    end)

    it("engine_close_in_the_middle leaves nothing", function()
        local own = engine.start { tls = engine.server(),
            backend = { addresses = { "127.0.0.1:" .. backend.port } } }
        local clients = {}
        for i = 1, 20 do
            clients[i] = bench.connect(own.port)
            clients[i]:send(("\22\3\1\2\0\1"):sub(1, i % 7))
        end
        bench.wait("20 connections", function() return own:status().sessions == 20 end)
        own:stop()
        for _, client in ipairs(clients) do
            client:close()
        end
    end)
end)

describe("close_while_connecting", function()
    -- A listening socket whose queue is full: further connects get no answer.
    local full, filled, port

    setup(function()
        full = assert(socket.tcp4())
        assert(full:bind("127.0.0.1", 0))
        assert(full:listen(0))
        port = select(2, full:getsockname())
        filled = {}
        for i = 1, 4 do
            filled[i] = socket.tcp4()
            filled[i]:settimeout(0)
            filled[i]:connect("127.0.0.1", port)
        end
    end)
    teardown(function()
        full:close()
        for _, each in ipairs(filled) do
            each:close()
        end
    end)

    for _, tls in ipairs { true, false } do
        local name = tls and "TLS" or "plain"

        it(name .. ": the connect timeout ends it", function()
            local web = engine.start { tls = tls and engine.server() or nil,
                backend = { addresses = { "127.0.0.1:" .. port }, connect_timeout = 200 } }
            local result = bench.exchange { connect = web.address, tls = tls, servername = "localhost",
                cafile = tls and certs.ca.crt, bytes = 100, finish_when = "eof" }:finish()
            assert.equal("rst", result["end"])
            assert.equal("up: connect timeout", web:record(1).reason)
            web:stop()
        end)

        it(name .. ": engine_close leaves nothing", function()
            local web = engine.start { tls = tls and engine.server() or nil,
                backend = { addresses = { "127.0.0.1:" .. port } } }
            local client = bench.exchange { connect = web.address, tls = tls, servername = "localhost",
                cafile = tls and certs.ca.crt, bytes = 100, finish_when = "eof" }
            bench.wait("the connect", function()
                return web:status().states.connect == 1
            end)
            web:stop()
            assert.equal("rst", client:finish()["end"])
        end)
    end

    it("a plain client that ends may have half-closed, and is waited for", function()
        local web = engine.start { backend = { addresses = { "127.0.0.1:" .. port }, connect_timeout = 300 } }
        local client = bench.connect(web.port)
        client:send("x")
        client:close()
        assert.equal("up: connect timeout", web:record(1).reason)
        web:stop()
    end)

    for _, tls in ipairs { true, false } do
        it((tls and "TLS" or "plain") .. ": a client that resets is gone at once", function()
            local web = engine.start { tls = tls and engine.server() or nil,
                backend = { addresses = { "127.0.0.1:" .. port }, connect_timeout = 60000 } }
            bench.exchange { connect = web.address, tls = tls, servername = "localhost",
                cafile = tls and certs.ca.crt, bytes = 100, finish = "rst" }:finish()
            -- A TLS client is through with its handshake before we are: its reset may be found by the answer to it.
            local reason = web:record(1).reason
            if not (tls and reason == "down: reset") then
                assert.equal("down: closed while connecting", reason)
            end
            assert.equal(0, web:status().sessions)
            web:stop()
        end)
    end

    it("TLS: a client that closes without a word is gone at once", function()
        local web = engine.start { tls = engine.server(),
            backend = { addresses = { "127.0.0.1:" .. port }, connect_timeout = 60000 } }
        bench.exchange { connect = web.address, tls = true, servername = "localhost", cafile = certs.ca.crt,
            finish = "fin" }:finish()
        assert.equal("down: closed while connecting", web:record(1).reason)
        web:stop()
    end)
end)

describe("a half-close while connecting", function()
    for _, tls in ipairs { true, false } do
        it((tls and "TLS" or "plain") .. ": is passed on behind the request", function()
            -- A backend that is stopped takes the connection, and answers the TLS handshake later.
            local backend = bench.echo_server { tls = true, cert = certs.ec.crt, key = certs.ec.key }
            process.kill(backend.pid, STOP)
            local web = engine.start { tls = tls and engine.server() or nil, backend = { servername = "localhost",
                tls = { ca = certs.ca.crt }, addresses = { "127.0.0.1:" .. backend.port } } }
            local client = bench.exchange { connect = web.address, tls = tls, servername = "localhost",
                cafile = tls and certs.ca.crt, bytes = 40000 }
            bench.wait("the connect", function() return web:status().states.connect == 1 end)
            bench.sleep(0.2)
            process.kill(backend.pid, CONT)
            assert.equal(40000, client:finish().got)
            assert.equal("relay: done", web:record(1).reason)
            backend:stop()
            web:stop()
        end)
    end
end)

describe("close_while_both_handshakes_wait", function()
    it("is harmless in either order", function()
        local listening = socket.bind("127.0.0.1", 0)
        local web = engine.start { tls = engine.server(), backend = { servername = "localhost",
            tls = { ca = certs.ca.crt }, addresses = { "127.0.0.1:" .. select(2, listening:getsockname()) } } }
        listening:settimeout(20)
        local hello = bench.client_hello()
        for i = 1, 40 do
            local number = #web:records() + 1
            local client = bench.connect(web.port)
            client:send(hello)
            local up = assert(listening:accept())
            up:receive(5)
            process.kill(web.pid, STOP) -- so that the answers of both sides are found together
            local says = {
                function() client:send("\22\3\3\0\5\1\0\0\1\0") end,
                function() up:send(("garbage"):rep(10)) end,
            }
            says[1 + i % 2]()
            says[2 - i % 2]()
            process.kill(web.pid, CONT)
            up:close()
            client:close()
            assert.is_string(web:record(number).reason)
        end
        web:stop()
        listening:close()
    end)
end)

describe("close_while_resolving", function()
    it("leaves nothing", function()
        local web = engine.start { backend = { addresses = { "no-such-host.invalid:80" } } }
        local clients = {}
        for i = 1, 10 do
            clients[i] = bench.connect(web.port)
        end
        web:stop()
        for _, client in ipairs(clients) do
            client:close()
        end
    end)
end)

describe("random_close", function()
    it("leaves nothing, whoever closes whenever", function()
        local backend = bench.echo_server {}
        local web = engine.start { tls = engine.server(),
            backend = { addresses = { "127.0.0.1:" .. backend.port } } }
        local loads = {}
        for i = 1, 12 do
            loads[i] = bench.echo_load { connect = web.address, hold = 10, churn = 4, message = 50000,
                tls = true, servername = "localhost", cafile = certs.ca.crt }
        end
        for _, load in ipairs(loads) do
            process.sleep(math.random() * 0.1)
            process.kill(load.pid, 9)
            if math.random(3) == 1 then
                web:ask("close")
            end
        end
        web:wait_idle()
        web:stop()
    end)
end)

describe("reload", function()
    it("moves new connections to the new config and keeps the old ones", function()
        local web = engine.start { tls = engine.server(), backend = { kind = "echo" } }
        local load = bench.echo_load { connect = web.address, hold = 20, churn = 5, tls = true,
            servername = "localhost", cafile = certs.ca.crt }
        bench.wait("connections", function() return load:result().holding == 20 end)
        for i = 1, 5 do
            assert.equal("reloaded", web:ask("reload"))
            local churned = load:result().churned
            bench.wait("new connections", function() return load:result().churned > churned + 20 end)
            assert.is_true(i + 1 >= tonumber(web:ask("generations")))
        end
        local result = load:finish()
        assert.equal(0, result.failed)
        web:wait_idle()
        assert.equal("1", web:ask("generations"))
        web:stop()
    end)
end)

describe("failed_allocation", function()
    -- The n-th allocation from here on fails, for every n that a connection needs: it may cost that
    -- connection, and nothing else.
    for _, mode in ipairs(engine.modes) do
        it("costs at most its connection: " .. mode.name, function()
            local web = engine.between(mode)
            local function once()
                local client, server = web:connect({ bytes = 600 * KIB }, { bytes = 600 * KIB })
                local got = client:finish().got
                server:stop()
                local count = tonumber(web:ask("fail 0"))
                web:wait_idle()
                return got, count
            end
            once()
            local _, count = once()
            assert.is_true(count > 0)
            for n = 1, count do
                web:ask("fail " .. n)
                once()
            end
            assert.equal(600 * KIB, (once()))
            web:stop()
        end)
    end
end)
