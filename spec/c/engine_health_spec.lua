-- Which addresses serve: limits, backups, rests, probes, and what becomes of connections to an address that goes
-- down. Two engines with the same shared memory are two workers.

local bench = require "bench"
local certs = require "certs"
local engine = require "engine"
local host = require("mgtest").engine
local process = require "process"
local socket = require "socket"

teardown(engine.cleanup)

local function echo(tls)
    return bench.echo_server(tls and { tls = true, cert = tls.crt, key = tls.key } or {})
end

local function at(port)
    return "127.0.0.1:" .. port
end

-- Two workers with that backend.
local function workers(backend, more)
    local shared, list = host.shared(), {}
    for worker = 0, 1 do
        local options = { shared = shared, worker = worker, backend = backend }
        for key, value in pairs(more or {}) do
            options[key] = value
        end
        list[worker + 1] = engine.start(options)
    end
    return list[1], list[2]
end

-- A connection that has had an answer, still open; or nil. A reset may be faster than connect().
local function open(web)
    local client = bench.connect(web.port)
    if not client then
        return
    end
    client:send("hello\n")
    if client:receive("*l") == "hello" then
        return client
    end
    client:close()
end

-- One connection from begin to end: its record, and whether it was served.
local function once(web)
    local number = #web:records() + 1
    local client = open(web)
    if client then
        client:close()
    end
    return web:record(number), client ~= nil
end

local function address(web, text)
    for _, each in ipairs(web:status().backends[1].addresses) do
        if each.address == text then
            return each
        end
    end
end

local function wait_state(web, text, state)
    bench.wait(text .. " to be " .. state, function() return address(web, text).state == state end)
end

local function log_count(web, text)
    local count, from = 0, 1
    local log = bench.read(web.options.log)
    while true do
        local first, last = log:find(text, from, true)
        if not first then
            return count
        end
        count, from = count + 1, last + 1
    end
end

describe("max_connections", function()
    it("counts over all workers, and others are tried above it", function()
        local a, b = echo(), echo()
        local one, two = workers { addresses = { at(a.port), at(b.port) }, max_connections = 2 }
        local clients, used = {}, {}
        for i, web in ipairs { one, two, one, two } do
            clients[i] = assert(open(web), "connection " .. i)
        end
        for _, web in ipairs { one, two } do
            for _, each in ipairs(web:status().backends[1].addresses) do
                assert.equal(2, each.open_everywhere)
                used[each.address] = (used[each.address] or 0) + each.open
            end
            local record, served = once(web)
            assert.is_false(served)
            assert.equal("up: all addresses full", record.reason)
            assert.is_nil(record.tries)
        end
        assert.same({ [at(a.port)] = 2, [at(b.port)] = 2 }, used)
        clients[1]:close()
        one:record(2)
        assert.is_true(select(2, once(two))) -- the other worker's room
        for i = 2, 4 do
            clients[i]:close()
        end
        one:stop()
        two:stop()
    end)

    it("is a limit for those that are being connected, too", function()
        local full = socket.bind("127.0.0.1", 0) -- TLS that does not come
        local web = engine.start { backend = { addresses = { at(select(2, full:getsockname())) }, max_connections = 1,
            tls = { ca = certs.ca.crt }, servername = "localhost", connect_timeout = 60000 } }
        local waiting = bench.connect(web.port)
        bench.wait("the dial", function() return web:status().backends[1].addresses[1].open == 1 end)
        assert.equal("up: all addresses full", (once(web)).reason)
        waiting:close()
        full:close()
        web:stop()
    end)
end)

describe("a backup address", function()
    it("is used when no other is to be had, and no longer than that", function()
        local backup, port = echo(), bench.port()
        local web = engine.start { backend = { health = { fall = 1, rest = 60000 }, addresses = {
            { address = at(backup.port), backup = true }, at(port) } } }
        local record = once(web)
        assert.equal(at(backup.port), record.backend_address)
        assert.equal(2, record.tries)
        assert.equal(at(port) .. ": up: connection refused", record.failures)
        record = once(web) -- the other one rests
        assert.equal(1, record.tries)
        assert.is_nil(record.failures)
        web:stop()
        local main = echo()
        web = engine.start { backend = { addresses = { { address = at(backup.port), backup = true }, at(main.port) } } }
        for _ = 1, 10 do
            assert.equal(at(main.port), (once(web)).backend_address)
        end
        web:stop()
    end)

    it("is used when the others are full", function()
        local main, backup = echo(), echo()
        local web = engine.start { backend = { max_connections = 1, addresses = { at(main.port),
            { address = at(backup.port), backup = true } } } }
        local client = assert(open(web))
        assert.equal(at(backup.port), (once(web)).backend_address)
        client:close()
        web:stop()
    end)
end)

describe("failures in a row", function()
    it("send an address to rest, in all workers, and say so once", function()
        local good, dead = echo(), bench.port()
        local one, two = workers { balance = "first", addresses = { at(dead), at(good.port) } }
        for i, web in ipairs { one, two, one } do
            local record, served = once(web)
            assert.is_true(served)
            assert.equal(2, record.tries, "connection " .. i)
        end
        for _, web in ipairs { one, two, one, two } do
            local record, served = once(web)
            assert.is_true(served)
            assert.equal(1, record.tries)
            assert.equal("resting", address(web, at(dead)).state)
            assert.equal(10, address(web, at(dead)).rest)
        end
        local rests = ("backend spec: %s rests for 10 s: 3 failures in a row, the last: up: connection refused"):format(
            at(dead))
        assert.equal(1, log_count(one, rests) + log_count(two, rests))
        assert.equal(3, address(one, at(dead)).failed + address(two, at(dead)).failed)
        one:stop()
        two:stop()
    end)

    it("are forgotten with each success", function()
        local port, number = bench.port(), 0
        local web = engine.start { backend = { health = { fall = 2 }, addresses = { at(port) } } }
        for _ = 1, 3 do
            once(web)
            local server = bench.echo_server { listen = at(port) }
            assert.is_true(select(2, once(web)))
            server:stop()
            number = number + 1
        end
        assert.equal(3, number)
        assert.equal("ready", address(web, at(port)).state)
        assert.equal(3, address(web, at(port)).failed)
        web:stop()
    end)

    it("make each rest twice as long, up to 16 times", function()
        local good, dead = echo(), bench.port()
        local web = engine.start { backend = { balance = "first", health = { fall = 1, rest = 1 },
            addresses = { at(dead), at(good.port) } } }
        local seen = {}
        bench.wait("the longest rest", function()
            assert.is_true(select(2, once(web)))
            seen[#seen + 1] = address(web, at(dead)).rest
            return #seen > 5 and seen[#seen - 5] == 0.016
        end)
        local last = 0
        for _, rest in ipairs(seen) do
            assert.is_true(rest == last or rest == (last == 0 and 0.001 or 2 * last), rest .. " after " .. last)
            last = rest
        end
        assert.equal(0.016, last)
        assert.equal(1, log_count(web, at(dead) .. " rests for"))
        web:stop()
    end)

    it("are over when a connection succeeds after the rest", function()
        local good, port = echo(), bench.port()
        local web = engine.start { backend = { balance = "first", health = { fall = 1, rest = 20 },
            addresses = { at(port), at(good.port) } } }
        assert.equal(2, (once(web)).tries)
        bench.echo_server { listen = at(port) }
        bench.wait("its use", function()
            local record, served = once(web)
            assert.is_true(served)
            return record.backend_address == at(port)
        end)
        assert.equal("ready", address(web, at(port)).state)
        assert.equal(1, log_count(web, at(port) .. " is ready again: a connection succeeded"))
        web:stop()
    end)

    it("are tried by one connection at a time after a rest", function()
        local port = bench.port()
        local web = engine.start { backend = { balance = "first", health = { fall = 1, rest = 1 },
            connect_timeout = 60000, servername = "localhost", tls = { ca = certs.ca.crt },
            addresses = { at(port), at(echo(certs.ec).port) } } }
        assert.equal(2, (once(web)).tries)
        local silent = socket.bind("127.0.0.1", port) -- connects, and says nothing
        bench.wait("the end of the rest", function() return address(web, at(port)).state == "trial" end)
        local trial = bench.connect(web.port)
        bench.wait("the trial", function() return address(web, at(port)).used == 2 end)
        for _ = 1, 5 do -- while it is tried
            local record, served = once(web)
            assert.is_true(served)
            assert.equal(1, record.tries)
        end
        trial:close()
        silent:close()
        web:stop()
    end)

    it("leave a resting address for when nothing else is left", function()
        local port = bench.port()
        local web = engine.start { backend = { health = { fall = 1, rest = 60000 }, addresses = { at(port),
            at(bench.port()) } } }
        assert.equal(2, (once(web)).tries)
        assert.equal("resting", address(web, at(port)).state)
        local record = once(web)
        assert.equal(2, record.tries)
        assert.equal("up: connection refused", record.reason)
        local server = bench.echo_server { listen = at(port) }
        assert.is_true(select(2, once(web)))
        assert.equal("ready", address(web, at(port)).state)
        server:stop()
        web:stop()
    end)

    it("count where TLS fails, is refused or does not come", function()
        local silent = socket.bind("127.0.0.1", 0)
        for name, port in pairs { stranger = echo(certs.stranger).port, plain = echo().port,
            silent = select(2, silent:getsockname()) } do
            local web = engine.start { backend = { health = { fall = 1 }, servername = "localhost",
                tls = { ca = certs.ca.crt }, connect_timeout = 100, addresses = { at(port) } } }
            assert.is_false(select(2, once(web)))
            assert.equal("resting", address(web, at(port)).state, name)
            web:stop()
        end
        silent:close()
    end)

    for _, tls in ipairs { false, true } do
        it(("count where %s cut off"):format(tls and "TLS is" or "connecting is, or soon after"), function()
            local rude = socket.bind("127.0.0.1", 0)
            local port = select(2, rude:getsockname())
            local web = engine.start { backend = { health = { fall = 1 }, servername = "localhost",
                tls = tls and { ca = certs.ca.crt } or nil, addresses = { at(port) } } }
            local client = bench.connect(web.port)
            local up = rude:accept()
            if tls then
                up:receive(1)
            end
            up:setoption("linger", { on = true, timeout = 0 })
            up:close()
            local reason = web:record(1).reason
            if tls then
                assert.equal("up: reset during the handshake", reason)
            else -- it depends on who is faster
                assert.is_true(reason == "up: reset while connecting" or reason == "up: reset", reason)
            end
            local counted = reason ~= "up: reset"
            assert.equal(counted and "resting" or "ready", address(web, at(port)).state)
            client:close()
            rude:close()
            web:stop()
        end)
    end

    it("do not count where what the server got depends on the client", function()
        local port = echo(certs.stranger).port
        local web = engine.start { backend = { health = { fall = 1 }, servername = "localhost", tls_varies = true,
            tls = { ca = certs.ca.crt }, addresses = { at(port) } } }
        assert.equal("up: certificate not accepted", (once(web)).reason)
        assert.equal("ready", address(web, at(port)).state)
        web:stop()
    end)

    it("are not those of clients that leave", function()
        local silent = socket.bind("127.0.0.1", 0)
        local port = select(2, silent:getsockname())
        local web = engine.start { tls = engine.server(), backend = { health = { fall = 1 }, servername = "localhost",
            tls = { ca = certs.ca.crt }, addresses = { at(port) } } }
        for i = 1, 3 do
            local client = bench.start { "openssl", "s_client", "-connect", web.address, stdin = "pipe" }
            bench.wait("the dial", function() return address(web, at(port)).used == i end)
            process.kill(client.pid, 9) -- without a close_notify, behind which it might still listen
            client:stop()
            web:record(i)
        end
        assert.equal("ready", address(web, at(port)).state)
        assert.equal(0, address(web, at(port)).open)
        silent:close()
        web:stop()
    end)
end)

describe("a probe", function()
    it("takes an address out while it fails, and brings it back", function()
        local good, port = echo(), bench.port()
        local one, two = workers { balance = "first", addresses = { at(port), at(good.port) },
            health = { interval = 10, fall = 2, rise = 2 } }
        wait_state(one, at(port), "down")
        assert.equal("down", address(two, at(port)).state)
        assert.equal("ready", address(two, at(good.port)).state)
        assert.equal(1, (once(one)).tries)
        local server = bench.echo_server { listen = at(port) }
        wait_state(two, at(port), "ready")
        assert.equal(at(port), (once(two)).backend_address)
        for line in pairs { ["is down: 2 probes in a row failed, the last: connection refused"] = 1,
            ["is ready again: 2 probes in a row passed"] = 1 } do
            line = ("backend spec: %s %s"):format(at(port), line)
            assert.equal(1, log_count(one, line) + log_count(two, line), line)
        end
        server:stop()
        one:stop()
        two:stop()
    end)

    it("that fails everywhere leaves nothing to connect to", function()
        local web = engine.start { backend = { addresses = { at(bench.port()), at(bench.port()) },
            health = { interval = 10, fall = 1 } } }
        for _, each in ipairs(web:status().backends[1].addresses) do
            wait_state(web, each.address, "down")
        end
        local record = once(web)
        assert.equal("up: all addresses down", record.reason)
        assert.is_nil(record.tries)
        web:stop()
    end)

    it("is one worker's; who leaves hands it over", function()
        local port = bench.port()
        local one, two = workers { addresses = { at(port) }, health = { interval = 10, fall = 1, rise = 1 } }
        wait_state(one, at(port), "down")
        local first, second = one, two
        if not address(one, at(port)).prober then
            first, second = two, one
        end
        assert.is_true(address(first, at(port)).prober)
        assert.is_false(address(second, at(port)).prober)
        local probed = address(first, at(port)).probed
        bench.wait("more probes", function() return address(first, at(port)).probed > probed + 5 end)
        assert.equal(0, address(second, at(port)).probed)
        first:stop()
        bench.wait("the other to probe", function() return address(second, at(port)).prober end)
        local server = bench.echo_server { listen = at(port) }
        wait_state(second, at(port), "ready")
        server:stop()
        second:stop()
    end)

    it("ends a rest", function()
        local port = echo(certs.stranger).port
        local web = engine.start { backend = { addresses = { at(port) }, tls = { ca = certs.ca.crt },
            health = { interval = 10, fall = 1, rise = 2, rest = 60000 } } } -- by TCP
        assert.equal("up: certificate not accepted", (once(web)).reason)
        wait_state(web, at(port), "ready")
        assert.equal(1, log_count(web, at(port) .. " rests for 60 s"))
        assert.equal(1, log_count(web, at(port) .. " is ready again: 2 probes in a row passed"))
        web:stop()
    end)

    it("shakes hands, and looks at the certificate", function()
        for name, state in pairs { ec = "ready", stranger = "down", expired = "down", wrong = "down" } do
            local server = echo(certs[name])
            local web = engine.start { backend = { addresses = { at(server.port) }, servername = "localhost",
                tls = { ca = certs.ca.crt }, health = { interval = 10, fall = 1, rise = 1, tls = true, send = "ping",
                    expect = "ping" } } }
            bench.wait("a probe", function() return address(web, at(server.port)).prober end)
            wait_state(web, at(server.port), state)
            if state == "down" then
                assert.matches("certificate verify failed", bench.read(web.options.log))
            end
            web:stop()
            server:stop()
        end
    end)

    it("says and expects, byte for byte", function()
        local server = echo()
        for expect, state in pairs { ["%d+."] = "ready", ["%d"] = "ready", ["12"] = "down" } do
            local web = engine.start { backend = { addresses = { at(server.port) }, health = { interval = 10, fall = 1,
                timeout = 50, send = "a %d+. z", expect = expect } } }
            bench.wait("a probe", function() return address(web, at(server.port)).prober end)
            wait_state(web, at(server.port), state)
            if state == "down" then
                assert.equal(1, log_count(web, "is down: 1 probe failed: no answer within 0.05 s"))
            end
            web:stop()
        end
        server:stop()
    end)

    it("finds what comes in pieces, and fails when the server has said something else and closes", function()
        local listening = socket.bind("127.0.0.1", 0)
        listening:settimeout(5)
        local port = select(2, listening:getsockname())
        local web = engine.start { backend = { addresses = { at(port) }, health = { interval = 10, fall = 1, rise = 1,
            timeout = 60000, expect = "220 ready" } } }
        local probe = listening:accept()
        probe:send("200 not yet\r\n")
        probe:close()
        wait_state(web, at(port), "down")
        assert.equal(1, log_count(web, "it has closed before what was expected came"))
        probe = listening:accept()
        probe:send("220")
        probe:send(" re")
        assert.equal("down", address(web, at(port)).state)
        probe:send("ady\r\n")
        wait_state(web, at(port), "ready")
        probe:close()
        listening:close()
        web:stop()
    end)

    it("reads no more than 64 KiB of what it does not expect", function()
        local listening = socket.bind("127.0.0.1", 0)
        listening:settimeout(5)
        local port = select(2, listening:getsockname())
        local web = engine.start { backend = { addresses = { at(port) }, health = { interval = 60000, fall = 1,
            timeout = 60000, expect = "220" } } }
        local probe = listening:accept()
        probe:settimeout(5)
        assert.is_nil(probe:send(("x"):rep(16 * 1024 * 1024)))
        wait_state(web, at(port), "down")
        assert.equal(1, log_count(web, "did not come in the first 64 KiB"))
        probe:close()
        listening:close()
        web:stop()
    end)

    it("asks each address that a name leads to", function()
        local server = echo() -- on 127.0.0.1; localhost may be ::1, too
        local web = engine.start { backend = { addresses = { "localhost:" .. server.port },
            health = { interval = 10, fall = 1, rise = 1 } } }
        local function view()
            return address(web, at(server.port)) or {}
        end
        bench.wait("a probe", function() return view().prober and view().probed > 1 end)
        assert.equal("ready", view().state)
        assert.equal("localhost:" .. server.port, view().name)
        server:stop()
        wait_state(web, at(server.port), "down")
        web:stop()
    end)

    it("goes on under a new generation, which knows what was known", function()
        local port = bench.port()
        local web = engine.start { backend = { addresses = { at(port) },
            health = { interval = 10, fall = 2, rise = 1 } } }
        wait_state(web, at(port), "down")
        for _ = 1, 5 do
            assert.equal("reloaded", web:ask("reload"))
            assert.equal("down", address(web, at(port)).state)
        end
        assert.equal(1, log_count(web, "is down"))
        local server = bench.echo_server { listen = at(port) }
        wait_state(web, at(port), "ready")
        bench.wait("the old generations to go", function() return web:ask("generations") == "1" end)
        server:stop()
        web:stop()
    end)

    it("under way when all ends leaves nothing behind", function()
        local silent = socket.bind("127.0.0.1", 0)
        for _ = 1, 5 do
            local web = engine.start { backend = { tls = { ca = certs.ca.crt }, servername = "localhost",
                addresses = { at(select(2, silent:getsockname())), "localhost:1", at(bench.port()) },
                health = { interval = 10, timeout = 60000, tls = true } } }
            bench.wait("a probe", function() return web:status().backends[1].addresses[1].prober end)
            web:stop()
        end
        silent:close()
    end)
end)

describe("an allocation that fails", function()
    it("costs a connection or a probe, and no more", function()
        local dead, good = bench.port(), echo(certs.ec)
        local web = engine.start { backend = { balance = "first", servername = "localhost", tls = { ca = certs.ca.crt },
            addresses = { at(dead), at(good.port) }, health = { interval = 10, fall = 1000, rise = 1, tls = true,
                send = "ping", expect = "ping", rest = 1 } } }
        for n = 1, 25 do
            web:ask("fail " .. n)
            for _ = 1, 2 do
                local client = open(web)
                if client then
                    client:close()
                end
            end
        end
        web:ask("fail 0")
        wait_state(web, at(good.port), "ready")
        bench.wait("a connection", function() return select(2, once(web)) end)
        web:stop()
    end)
end)

describe("a worker without descriptors", function()
    it("takes no address for dead", function()
        local good = echo()
        local web = engine.start { nofile = 50, backend = { addresses = { at(good.port) }, health = { interval = 10,
            fall = 1, rise = 1 } } }
        bench.wait("a probe", function() return address(web, at(good.port)).prober end)
        local clients = {}
        for _ = 1, 30 do
            local client = bench.connect(web.port)
            if client then -- else it was reset already
                client:settimeout(0)
                client:send("hello\n")
                clients[#clients + 1] = client
            end
        end
        bench.wait("the end of descriptors", function()
            local log = bench.read(web.options.log)
            return web:status().sessions >= 15 and (log:find("open files", 1, true) or log:find("descriptor", 1, true))
        end)
        local probed = address(web, at(good.port)).probed
        bench.wait("probes", function() return address(web, at(good.port)).probed > probed + 5 end)
        assert.equal("ready", address(web, at(good.port)).state)
        for _, client in ipairs(clients) do
            client:close()
        end
        assert.equal(0, log_count(web, "is down"))
        assert.equal(0, log_count(web, "rests for"))
        web:stop()
    end)
end)

describe("an address that goes down", function()
    -- A server whose connections live on when it listens no longer.
    local function server()
        local listening = socket.bind("127.0.0.1", 0)
        listening:settimeout(5)
        return listening, select(2, listening:getsockname())
    end

    local function serve(listening, web)
        local client = bench.connect(web.port)
        local up = listening:accept()
        client:send("hello\n")
        assert.equal("hello", up:receive("*l"))
        up:send("hello\n")
        assert.equal("hello", client:receive("*l"))
        return client, up
    end

    for _, how in ipairs { "probes", "failures" } do
        it(("closes its connections in all workers, and no other's, by %s"):format(how), function()
            local listening, port = server()
            local good = echo()
            local one, two = workers({ balance = "first", close_on_down = true, addresses = { at(port), at(good.port) },
                health = { fall = 1, rest = 60000, interval = how == "probes" and 60000 or nil } })
            if how == "probes" then -- the first one, which passes
                listening:accept():close()
            end
            local clients, ups = {}, {}
            for i, web in ipairs { one, two } do
                clients[i], ups[i] = serve(listening, web)
            end
            local other = {}
            listening:close()
            if how == "probes" then
                for _, web in ipairs { one, two } do
                    assert.equal("reloaded", web:ask("reload")) -- a probe at once
                end
                wait_state(one, at(port), "down")
            end
            for i, web in ipairs { one, two } do
                other[i] = assert(open(web))
            end
            for i, web in ipairs { one, two } do
                local record = web:record(1)
                assert.equal("up: address went down", record.reason)
                assert.equal(at(port), record.backend_address)
                assert.is_nil(clients[i]:receive(1))
                clients[i]:close()
                ups[i]:close()
                other[i]:send("still here\n")
                assert.equal("still here", other[i]:receive("*l"))
                other[i]:close()
                web:stop()
            end
        end)
    end

    it("keeps them otherwise", function()
        local listening, port = server()
        local web = engine.start { backend = { addresses = { at(port) }, health = { interval = 10, fall = 1 } } }
        listening:accept():close()
        local client, up
        bench.wait("a connection that is no probe", function()
            client = client or bench.connect(web.port)
            client:send("hello\n")
            up = listening:accept()
            return up:receive("*l") == "hello"
        end)
        listening:close()
        wait_state(web, at(port), "down")
        up:send("on\n")
        assert.equal("on", client:receive("*l"))
        client:close()
        up:close()
        web:stop()
    end)
end)

describe("an address that comes while another worker has the lock of the table", function()
    it("does without its slot until there is a heartbeat, which counts its connections there", function()
        local web = engine.start { backend = { addresses = { "127.0.0.1:" .. bench.port() } } }
        assert.equal("none slot 2", web:ask("address"))
        web:stop()
    end)
end)
