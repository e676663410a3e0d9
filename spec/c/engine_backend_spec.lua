-- Connecting to backends: which address, the next one when it fails, who it must be, and what the record says.

local bench = require "bench"
local certs = require "certs"
local engine = require "engine"
local mgtest = require "mgtest"
local process = require "process"
local socket = require "socket"

teardown(engine.cleanup)

local STOP, CONT = 19, 18

-- One plain connection: the client's result and the record.
local function connect(web, options)
    local number = #web:records() + 1
    options = options or {}
    options.connect, options.bytes = web.address, options.bytes or 100
    options.finish_when = "eof"
    local result = bench.exchange(options):finish()
    return result, web:record(number)
end

-- A reset may come before the client has noticed that it was connected.
local function assert_cut(result)
    assert.is_true(result["end"] == "rst" or result["end"] == "connect:Connection_reset_by_peer", result["end"])
end

local function echo(tls)
    return bench.echo_server(tls and { tls = true, cert = tls.crt, key = tls.key } or {})
end

-- Of the connections to that port: how many have something unread at the server, the client's port of one of them that
-- it has not accepted, and all ends of the machine's connections.
local function connections(port)
    local list = {}
    for line in bench.read("/proc/net/tcp"):gmatch("[^\n]+") do
        local from, to, queue, inode =
            line:match("%x+:(%x+) %x+:(%x+) 01 %x+:(%x+) %x+:%x+ %x+ +%d+ +%d+ (%d+)")
        if from then
            list[#list + 1] = { from = tonumber(from, 16), to = tonumber(to, 16), unread = queue ~= "00000000",
                accepted = inode ~= "0" }
        end
    end
    local unread, waiting = 0, nil
    for _, each in ipairs(list) do
        if each.from == port and each.unread then
            unread = unread + 1
            waiting = not each.accepted and each.to or waiting
        end
    end
    return unread, waiting, list
end

local function answered(port, client_port)
    local _, _, list = connections(port)
    for _, each in ipairs(list) do
        if each.from == client_port and each.to == port then
            return each.unread
        end
    end
end

local function echoed(web, options)
    options = options or {}
    local number = #web:records() + 1
    options.connect, options.bytes = web.address, 1000
    local result = bench.exchange(options):finish()
    return result, web:record(number)
end

describe("a refused connect", function()
    for _, tls in ipairs { false, true } do
        it("closes a " .. (tls and "TLS" or "plain") .. " client promptly, without a clean end", function()
            local web = engine.start { tls = tls and engine.server() or nil,
                backend = { addresses = { "127.0.0.1:" .. bench.port() } } }
            local began = bench.now()
            local result, record = connect(web, { tls = tls, servername = "localhost",
                cafile = tls and certs.ca.crt })
            assert.is_true(bench.now() - began < 2)
            assert_cut(result)
            assert.equal("up: connection refused", record.reason)
            assert.is_nil(record.connect_ms)
            web:stop()
        end)
    end

    it("goes on to the next address, each once", function()
        local good = echo()
        local web = engine.start { backend = { balance = "round_robin", addresses = {
            "127.0.0.1:" .. bench.port(), "127.0.0.1:" .. bench.port(), "127.0.0.1:" .. good.port,
            "unix:" .. bench.path("nobody.sock") } } }
        for _ = 1, 8 do
            local result, record = echoed(web)
            assert.equal(1000, result.got)
            assert.equal("127.0.0.1:" .. good.port, record.backend_address)
        end
        web:stop()
    end)

    it("of every address ends with the last reason", function()
        local web = engine.start { backend = { addresses = { "127.0.0.1:" .. bench.port(),
            "127.0.0.1:" .. bench.port(), "unix:" .. bench.path("nobody.sock") } } }
        local _, record = connect(web)
        assert.equal("up: connection refused", record.reason)
        web:stop()
    end)
end)

describe("balance", function()
    for _, balance in ipairs { "round_robin", "random_two" } do
        it(balance .. " uses every address", function()
            local backends, addresses, used = {}, {}, {}
            for i = 1, 3 do
                backends[i] = echo()
                addresses[i] = "127.0.0.1:" .. backends[i].port
            end
            local web = engine.start { backend = { balance = balance, addresses = addresses } }
            for _ = 1, 30 do
                local _, record = echoed(web)
                used[record.backend_address] = (used[record.backend_address] or 0) + 1
            end
            for _, address in ipairs(addresses) do
                assert.is_true(balance == "round_robin" and used[address] == 10 or used[address] > 0)
            end
            web:stop()
        end)
    end
end)

describe("a named address", function()
    it("is resolved, and each of its addresses tried", function()
        local good = echo() -- on 127.0.0.1; localhost may be ::1 first
        local web = engine.start { backend = { addresses = { "localhost:" .. good.port } } }
        for _ = 1, 3 do
            assert.equal(1000, echoed(web).got)
        end
        web:stop()
    end)

    it("that nobody knows is said to be so", function()
        local web = engine.start { backend = { addresses = { "no-such-host.invalid:80" } } }
        local result, record = connect(web)
        assert_cut(result)
        assert.equal("up: name not resolved", record.reason)
        assert.is_string(record.detail)
        web:stop()
    end)
end)

describe("TLS to the backend", function()
    local function between(certificate, backend)
        local server = echo(certificate)
        backend.addresses = { (backend.host or "127.0.0.1") .. ":" .. server.port }
        backend.tls = backend.tls or { ca = certs.ca.crt }
        return engine.start { backend = backend, tls = backend.down and engine.server() or nil }
    end

    it("is established with the right name", function()
        local web = between(certs.ec, { servername = "localhost" })
        local result, record = echoed(web)
        assert.equal(1000, result.got)
        assert.equal("TLSv1.3", record.backend_version)
        web:stop()
    end)

    it("verifies an address against the certificate's addresses", function()
        local web = between(certs.ec, {})
        assert.equal(1000, echoed(web).got)
        web:stop()
        web = between(certs.ec, { servername = "127.0.0.2" })
        local _, record = connect(web)
        assert.equal("up: certificate not accepted", record.reason)
        assert.equal("certificate verify failed (IP address mismatch)", record.detail)
        web:stop()
    end)

    for name, why in pairs { wrong = "hostname mismatch", expired = "certificate has expired",
        stranger = "unable to get local issuer certificate" } do
        for _, down in ipairs { false, true } do
            it(("refuses %s, and says why to %s"):format(name, down and "TLS" or "plain"), function()
                local web = between(certs[name], { servername = "localhost", down = down })
                local result, record = connect(web, { tls = down, servername = "localhost",
                    cafile = down and certs.ca.crt })
                assert_cut(result)
                assert.equal("up: certificate not accepted", record.reason)
                assert.equal(("certificate verify failed (%s)"):format(why), record.detail)
                assert.is_string(record.backend_alert_sent)
                web:stop()
            end)
        end
    end

    it("needs a name to verify", function()
        local server = echo(certs.ec)
        local path = bench.path("named.sock")
        local relay = bench.start { "socat", "UNIX-LISTEN:" .. path, "TCP:127.0.0.1:" .. server.port }
        bench.wait("socat", function() return bench.exists(path) end)
        local web = engine.start { backend = { addresses = { "unix:" .. path }, tls = { ca = certs.ca.crt } } }
        local _, record = connect(web)
        assert.equal("up: certificate not accepted", record.reason)
        assert.matches("no name", record.detail)
        relay:stop()
        web:stop()
    end)

    it("goes on to the next address when one is not accepted", function()
        local bad, good = echo(certs.stranger), echo(certs.ec)
        local web = engine.start { backend = { balance = "round_robin", servername = "localhost",
            tls = { ca = certs.ca.crt },
            addresses = { "127.0.0.1:" .. bad.port, "127.0.0.1:" .. good.port } } }
        for _ = 1, 4 do
            local result, record = echoed(web)
            assert.equal(1000, result.got)
            assert.equal("127.0.0.1:" .. good.port, record.backend_address)
        end
        web:stop()
    end)

    it("with a plain server is no TLS", function()
        local web = engine.start { backend = { addresses = { "127.0.0.1:" .. echo().port },
            servername = "localhost", tls = { ca = certs.ca.crt } } }
        local result, record = connect(web)
        assert_cut(result)
        assert.matches("^up: ", record.reason)
        web:stop()
    end)

    it("is not dialled for who never ends its ClientHello, nor before a certificate that is asked for", function()
        local server = echo(certs.ec)
        for _, case in ipairs {
            { "down: closed during the handshake", false, "\22" },
            { "down: closed during the handshake", false, "\22\3\1\2\0\1\0\1\252\3\3" .. ("x"):rep(100) },
            { "down: no certificate given", certs.ca.crt },
        } do
            local web = engine.start { tls = engine.server { ca = case[2] or nil },
                backend = { addresses = { "127.0.0.1:" .. server.port } } }
            if case[3] then
                local client = bench.connect(web.port)
                client:send(case[3])
                client:close()
            else
                bench.run { "openssl", "s_client", "-connect", web.address, "-ign_eof", input = "hello\n" }
            end
            local record = web:record(1)
            assert.equal(case[1], record.reason)
            assert.is_nil(record.backend_address)
            web:stop()
        end
        server:stop()
    end)

    it("with a server that says nothing ends at connect_timeout", function()
        local silent = socket.bind("127.0.0.1", 0)
        local _, port = silent:getsockname()
        local web = engine.start { backend = { addresses = { "127.0.0.1:" .. port }, servername = "localhost",
            tls = { ca = certs.ca.crt }, connect_timeout = 200 } }
        local _, record = connect(web)
        assert.equal("up: connect timeout", record.reason)
        silent:close()
        web:stop()
    end)

    it("hears an answer that has come in time, however late it is looked at, behind 300 others", function()
        local OTHERS = 300 -- more than one turn hears
        local TIMEOUT = bench.slow and 10 or 2
        local server = echo(certs.ec)
        local web = engine.start { backend = { addresses = { "127.0.0.1:" .. server.port }, servername = "localhost",
            tls = { ca = certs.ca.crt }, connect_timeout = 1000 * TIMEOUT, health = { fall = 1, rest = 60000 } } }
        local load = bench.echo_load { connect = web.address, hold = OTHERS, pause = 50, message = 100 }
        bench.wait("the others", function() return load:result().holding == OTHERS end, 60)
        process.kill(server.pid, STOP) -- the kernel connects and takes what is sent
        bench.wait("their messages", function() return connections(server.port) > 256 end)
        local began = bench.now()
        local client = bench.connect(web.port)
        client:settimeout(20)
        client:send("hello\n")
        local dialled = bench.wait("the ClientHello", function() return select(2, connections(server.port)) end)
        process.kill(web.pid, STOP)
        bench.wait("it to stand still", function()
            return bench.read("/proc/" .. web.pid .. "/stat"):match("^%d+ %(.*%) (%a)") == "T"
        end)
        process.kill(server.pid, CONT)
        bench.wait("the answer", function() return answered(server.port, dialled) end)
        bench.wait("the end of connect_timeout", function() return bench.now() > began + TIMEOUT + 0.1 end)
        process.kill(web.pid, CONT)
        assert.equal("hello", client:receive("*l"))
        client:close()
        assert.equal("ready", web:status().backends[1].addresses[1].state)
        assert.equal(0, load:finish().failed)
        for _, record in ipairs(web:records()) do
            assert.equal(1, record.tries)
        end
        server:stop()
        web:stop()
    end)

    it("that gets no turn in time is not the server's fault", function()
        local server = echo(certs.ec)
        local web = engine.start { tls = engine.server(), backend = { addresses = { "127.0.0.1:" .. server.port },
            servername = "localhost", tls = { ca = certs.ca.crt }, connect_timeout = 5, health = { fall = 1 } } }
        local busy = bench.echo_load { connect = web.address, tls = true, servername = "localhost",
            cafile = certs.ca.crt, churn = 200 }
        local record = bench.wait("one that waited too long", function()
            for _, each in ipairs(web:records()) do
                if each.reason == "up: worker too busy" then
                    return each
                end
            end
        end, 40)
        assert.equal(("127.0.0.1:%d: up: worker too busy"):format(server.port), record.failures)
        busy:stop()
        web:stop()
    end)

    it("with a server that hangs up is called so", function()
        local rude = socket.bind("127.0.0.1", 0)
        local _, port = rude:getsockname()
        local web = engine.start { backend = { addresses = { "127.0.0.1:" .. port }, servername = "localhost",
            tls = { ca = certs.ca.crt } } }
        local client = bench.connect(web.port)
        local accepted = rude:accept()
        accepted:receive(1)
        accepted:close()
        assert.matches("^up: .* during the handshake$", web:record(1).reason)
        client:close()
        rude:close()
        web:stop()
    end)
end)

describe("a backend's ticket that comes in two halves", function()
    it("holds back what is sent in between, and loses nothing", function()
        local listening = socket.bind("127.0.0.1", 0)
        local web = engine.start { backend = { servername = "localhost", tls = { ca = certs.ca.crt },
            addresses = { "127.0.0.1:" .. select(2, listening:getsockname()) } } }
        local client = bench.connect(web.port)
        local up = listening:accept()
        up:settimeout(nil) -- a blocking descriptor for C
        assert.equal("hello", mgtest.tls.late_ticket(up:getfd(), certs.ec.crt, certs.ec.key, client:getfd()))
        client:close()
        up:close()
        listening:close()
        web:stop()
    end)
end)

describe("route", function()
    it("is asked after the handshake", function()
        local good = echo()
        local web = engine.start { tls = engine.server(), route = true,
            backend = { addresses = { "127.0.0.1:" .. good.port } } }
        assert.equal(1000, echoed(web, { tls = true, servername = "localhost", cafile = certs.ca.crt }).got)
        web:stop()
    end)

    it("may refuse, with a reason", function()
        for _, tls in ipairs { true, false } do
            local web = engine.start { tls = tls and engine.server() or nil, route = true, refuse = "closed on Sundays",
                backend = { kind = "echo" } }
            local result, record = connect(web, { tls = tls, servername = "localhost",
                cafile = tls and certs.ca.crt })
            if tls then
                assert.equal("alert:internal_error", result["end"])
                assert.equal("internal_error", record.alert_sent)
            else
                assert_cut(result)
            end
            assert.equal("route: refused", record.reason)
            assert.equal("closed on Sundays", record.detail)
            web:stop()
        end
    end)
end)
