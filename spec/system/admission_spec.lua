-- Who may come: connections of all and of one address, and how many may be unfinished. Who is refused is refused before
-- it costs anything, with a reason, and costs nobody else anything.

local bench = require "bench"
local process = require "process"
local proxy = require "proxy"
local socket = require "socket"

teardown(proxy.cleanup)

-- A plain connection from that address, and whether it is answered. Who is refused may learn it from the reset
-- before connect has returned.
local function greet(port, from)
    local client = socket.tcp4()
    client:settimeout(20)
    assert(client:bind(from or "127.0.0.1", 0))
    client:connect("127.0.0.1", port)
    client:send("hello\n")
    return client, client:receive("*l") == "hello"
end

local function greet_all(count, ...)
    local clients, served = {}, 0
    for i = 1, count do
        local answered
        clients[i], answered = greet(...)
        served = served + (answered and 1 or 0)
    end
    return clients, served
end

local function close_all(clients)
    for _, client in ipairs(clients) do
        client:close()
    end
end

-- Reason → how many records have it.
local function reasons(web)
    local counts = {}
    for _, record in ipairs(web:records()) do
        counts[record.reason] = (counts[record.reason] or 0) + 1
    end
    return counts
end

describe("max_connections", function()
    local SCRIPT = [[
moongate.listen { name = "few", address = { "127.0.0.1:$port", "127.0.0.1:$other" }, max_connections = %d,
    backend = moongate.echo() }]]
    local web, port, other

    setup(function()
        port, other = bench.port(), bench.port()
        web = proxy.start { workers = 2, port = port, other = other, script = SCRIPT:format(3) }
    end)

    -- Whether a further one is answered within that time.
    local function room(at)
        local client = bench.connect(at or port)
        client:settimeout(0.3)
        client:send("hello\n")
        local answered = client:receive("*l") == "hello"
        return answered, client
    end

    it("counts all addresses and workers, those of before a reload, and none of a worker that died", function()
        local clients = { (greet(port)), (greet(other)), (greet(other)) }
        local answered, waiting = room()
        assert.is_false(answered)
        web:reload()
        local more, second = room(other)
        assert.is_false(more)
        web:reload(SCRIPT:format(4))
        waiting:settimeout(0.1)
        second:settimeout(0.1)
        bench.wait("one of them", function() return waiting:receive("*l") or second:receive("*l") end)
        for _, pid in ipairs(web:wait_workers(2)) do
            process.kill(pid, proxy.signals.KILL)
        end
        close_all(clients)
        waiting:close()
        second:close()
        web:wait_workers(2)
        clients = {}
        for i = 1, 4 do
            local served
            clients[i], served = greet(i % 2 == 0 and port or other)
            assert.is_true(served)
        end
        answered, clients[5] = room()
        assert.is_false(answered)
        close_all(clients)
    end)
end)

describe("max_connections_per_ip", function()
    local SCRIPT = [[
local limit = %d
moongate.listen { name = "plain", address = "127.0.0.1:$port", max_connections_per_ip = limit,
    backend = moongate.echo() }
moongate.listen { name = "tls", address = { "127.0.0.1:$tls", "127.0.0.1:$tls2" }, tls = server(),
    max_connections_per_ip = limit, backend = moongate.echo() }
moongate.listen { name = "six", address = "[::1]:$port", max_connections_per_ip = limit, backend = moongate.echo() }
moongate.listen { name = "proxied", address = "127.0.0.1:$proxied", max_connections_per_ip = limit,
    accept_proxy = true, backend = moongate.echo() }
moongate.listen { name = "unix", address = "unix:$dir/limited.sock", max_connections_per_ip = 1,
    backend = moongate.echo() }]]
    local REASON = "down: too many connections of this address"
    local web, port, tls, tls2, proxied

    setup(function()
        port, tls, tls2, proxied = bench.port(), bench.port(), bench.port(), bench.port()
        web = proxy.start { workers = 2, port = port, tls = tls, tls2 = tls2, proxied = proxied,
            script = SCRIPT:format(5) }
    end)

    it("holds over all workers, for each address on its own", function()
        local before = #web:records()
        local clients, served = greet_all(12, port)
        assert.equal(5, served)
        local others, of_others = greet_all(5, port, "127.0.0.2")
        assert.equal(5, of_others)
        assert.equal(before + 7, #web:records(before + 7))
        assert.equal(7, reasons(web)[REASON])
        clients[1]:close()
        bench.wait("a free place", function()
            local client, again = greet(port)
            clients[#clients + 1] = client
            return again
        end)
        close_all(clients)
        close_all(others)
        bench.wait("their end", function() return web:open_connections() == 0 end)
    end)

    it("is about whom a PROXY header names, not about who brings it", function()
        local clients = {}
        local function from(ip)
            local client = bench.connect(proxied)
            clients[#clients + 1] = client
            client:settimeout(20)
            client:send(("PROXY TCP4 %s 192.0.2.1 4711 443\r\nhello\n"):format(ip))
            return client:receive("*l") == "hello"
        end
        for i = 1, 7 do
            assert.equal(i <= 5, from "198.51.100.7")
        end
        assert.is_true(from "198.51.100.8")
        close_all(clients)
        bench.wait("their end", function() return web:open_connections() == 0 end)
    end)

    it("is exact for those who come all at once", function()
        for _ = 1, 5 do
            local clients, served = {}, 0
            for i = 1, 20 do
                clients[i] = socket.tcp4()
                clients[i]:settimeout(0)
                clients[i]:connect("127.0.0.1", port)
            end
            for _, client in ipairs(clients) do
                client:settimeout(20)
                socket.select(nil, { client }, 20)
                client:send("hello\n")
                served = served + (client:receive("*l") == "hello" and 1 or 0)
            end
            assert.equal(5, served)
            close_all(clients)
            bench.wait("their end", function() return web:open_connections() == 0 end)
        end
    end)

    it("is decided before there is anything of TLS, over all addresses of a listener", function()
        local silent = {}
        for i = 1, 5 do
            silent[i] = bench.connect(i % 2 == 0 and tls or tls2)
        end
        bench.wait("all five", function() return web:open_connections() == 5 end)
        local number = #web:records() + 1
        local late = socket.tcp4() -- who says nothing, and is closed all the same
        late:settimeout(20)
        if late:connect("127.0.0.1", tls) then
            assert.equal("closed", select(2, late:receive(1)))
        end
        local record = web:record(number)
        assert.equal(REASON, record.reason)
        assert.is_nil(record.version)
        close_all(silent)
        late:close()
        bench.wait("their end", function() return web:open_connections() == 0 end)
    end)

    it("counts IPv6 clients, and knows none of a unix socket", function()
        local clients, served = {}, 0
        for i = 1, 7 do
            local client = socket.tcp6()
            client:settimeout(20)
            if not client:connect("::1", port) then
                return -- a machine without IPv6
            end
            client:send("hello\n")
            served = served + (client:receive("*l") == "hello" and 1 or 0)
            clients[i] = client
        end
        assert.equal(5, served)
        close_all(clients)
        for _ = 1, 3 do
            local client = bench.exchange { connect = "unix:" .. bench.path "limited.sock", bytes = 10 }
            assert.equal(10, client:finish().got)
        end
    end)

    it("stays true over a reload, and when a worker dies", function()
        local clients, served = greet_all(5, port)
        assert.equal(5, served)
        web:reload(SCRIPT:format(6))
        local more, of_more = greet_all(3, port)
        assert.equal(1, of_more)
        for _, pid in ipairs(web:wait_workers(2)) do
            process.kill(pid, proxy.signals.KILL)
        end
        for _, client in ipairs(clients) do
            client:receive("*a")
        end
        close_all(clients)
        close_all(more)
        bench.wait("new workers", function()
            local again, answered = greet(port)
            again:close()
            return answered
        end)
        bench.wait("their end", function() return web:open_connections() == 0 end)
        clients, served = greet_all(9, port)
        assert.equal(6, served)
        close_all(clients)
    end)
end)

describe("unfinished handshakes", function()
    it("are bounded, and silent clients keep nobody out", function()
        local port = bench.port()
        -- A quarter of the descriptors: 33 handshakes.
        local web = proxy.start { workers = 1, port = port, nofile = 128,
            script = [[moongate.listen { name = "web", address = "127.0.0.1:$port", tls = server(),
                handshake_timeout = 60, backend = moongate.reply "bye\n" }]] }
        local held = web:s_client(port, "localhost")
        assert.matches("bye", held.out)
        local silent = {}
        for i = 1, 150 do
            silent[i] = bench.connect(port)
        end
        for _ = 1, 3 do
            local result = bench.run { "openssl", "s_client", "-connect", "127.0.0.1:" .. port, "-ign_eof",
                input = "hello\n" }
            assert.matches("bye", result.out)
        end
        assert.is_true(web:status().workers[1].engine.unfinished <= 33)
        assert.is_true(reasons(web)["down: too many unfinished handshakes"] > 80)
        close_all(silent)
        web:stop()
    end)
end)
