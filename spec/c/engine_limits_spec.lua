-- Every wait has an end, and what is counted over all workers is counted truly.

local bench = require "bench"
local certs = require "certs"
local engine = require "engine"
local socket = require "socket"
local host = require "mgtest".engine

teardown(engine.cleanup)

local function greet(web)
    local client = bench.connect(web.port)
    client:send("hello\n")
    return client, client:receive("*l")
end

-- How long the engine takes to close this client, and the record's reason.
local function closed_after(web, client)
    local began = socket.gettime()
    client:settimeout(10)
    client:receive("*a")
    client:close()
    return socket.gettime() - began, web:record(1).reason
end

describe("timeouts", function()
    it("handshake: nothing is said, or half of it", function()
        for _, bytes in ipairs { "", "\22\3\1" } do
            local web = engine.start { tls = engine.server(), handshake_timeout = 200,
                backend = { kind = "echo" } }
            local client = bench.connect(web.port)
            client:send(bytes)
            local seconds, reason = closed_after(web, client)
            assert.equal("down: handshake timeout", reason)
            assert.is_true(seconds > 0.15 and seconds < 3)
            web:stop()
        end
    end)

    it("handshake: a byte now and then does not help", function()
        local web = engine.start { tls = engine.server(), handshake_timeout = 300, backend = { kind = "echo" } }
        local client = bench.connect(web.port)
        local hello = "\22\3\1\2\0\1\0\1\252\3\3" .. ("\0"):rep(500)
        bench.wait("the end", function()
            client:send(hello:sub(1, 1))
            hello = hello:sub(2)
            return web:records()[1]
        end)
        assert.equal("down: handshake timeout", web:record(1).reason)
        client:close()
        web:stop()
    end)

    it("idle: only silence counts", function()
        local web = engine.start { idle_timeout = 400, backend = { kind = "echo" } }
        local client = greet(web)
        for _ = 1, 10 do
            bench.sleep(0.1)
            client:send("x\n")
            assert.equal("x", client:receive("*l"))
        end
        local seconds, reason = closed_after(web, client)
        assert.equal("relay: idle timeout", reason)
        assert.is_true(seconds > 0.2 and seconds < 3)
        web:stop()
    end)

    it("idle: a slow reader that does read is not idle", function()
        local mode = engine.modes[4]
        local web = engine.between(mode, { idle_timeout = 500 })
        local client, server = web:connect({ recv_rate = 800000, timeout = 60000 },
            { bytes = 5 * 1000 * 1000 })
        assert.equal(5 * 1000 * 1000, client:finish(60).got)
        server:finish()
        assert.equal("relay: done", web:record(1).reason)
        web:stop()
    end)

    it("idle: who does not read while the other goes on talking", function()
        local web = engine.between(engine.modes[4], { idle_timeout = 500 })
        local backend = socket.bind("127.0.0.1", web.backend_port)
        local client = bench.connect(web.port)
        local up = backend:accept()
        up:settimeout(0)
        local chunk = ("x"):rep(65536)
        bench.wait("the end", function()
            client:send("still here\n")
            up:send(chunk)
            up:receive("*l")
            return web:records()[1]
        end, 20)
        assert.equal("down: not reading", web:record(1).reason)
        client:close()
        up:close()
        backend:close()
        web:stop()
    end)

    it("half-close: one direction has ended and the other says nothing", function()
        local web = engine.between(engine.modes[4], { half_close_timeout = 200 })
        local backend = socket.bind("127.0.0.1", web.backend_port)
        local client = bench.connect(web.port)
        local up = backend:accept()
        client:send("bye\n")
        client:shutdown("send")
        assert.equal("bye\n", up:receive("*a"))
        local _, reason = closed_after(web, client)
        assert.equal("relay: half-close timeout", reason)
        up:close()
        backend:close()
        web:stop()
    end)

    it("lifetime: however busy", function()
        local web = engine.start { max_lifetime = 300, backend = { kind = "echo" } }
        local client = greet(web)
        bench.wait("the end", function()
            client:send("x\n")
            client:settimeout(0)
            client:receive("*l")
            return web:records()[1]
        end)
        assert.equal("session: lifetime over", web:record(1).reason)
        client:close()
        web:stop()
    end)

    it("linger: after an alert nobody is waited for long", function()
        local web = engine.start { tls = engine.server(), backend = { kind = "echo" } }
        local client = bench.connect(web.port)
        client:send("\22\3\1\0\5\1\0\0\1\0")
        local began = bench.now()
        assert.equal("down: handshake failed", web:record(1).reason)
        assert.is_true(bench.now() - began > 1)
        client:close()
        web:stop()
    end)

    it("linger: nor is much read", function()
        local web = engine.start { tls = engine.server(), handshake_timeout = 60000, backend = { kind = "echo" } }
        local client = bench.connect(web.port)
        local junk = ("\22\3\1\0\5\1\0\0\1\0"):rep(10000)
        client:settimeout(0)
        local began = bench.now()
        bench.wait("the end", function()
            client:send(junk)
            return web:records()[1]
        end)
        assert.is_true(bench.slow or bench.now() - began < 1.5)
        client:close()
        web:stop()
    end)
end)

describe("max_connections", function()
    it("holds over all workers; the others wait and lose nothing", function()
        local port = bench.port()
        local fd, shared = host.listen("127.0.0.1:" .. port), host.shared()
        local workers, clients = {}, {}
        for i = 0, 1 do
            workers[i + 1] = engine.start { fd = fd, shared = shared, worker = i, port = port, max_connections = 4,
                backend = { kind = "echo" } }
        end
        local function total()
            return workers[1]:status().sessions + workers[2]:status().sessions
        end
        for i = 1, 10 do
            clients[i] = bench.connect(port)
            clients[i]:send("hello\n")
        end
        bench.wait("four", function() return total() == 4 end)
        local served = 0
        while #clients > 0 do
            assert.is_true(total() <= 4)
            for i = #clients, 1, -1 do
                clients[i]:settimeout(0)
                if clients[i]:receive("*l") == "hello" then
                    served = served + 1
                    clients[i]:close()
                    table.remove(clients, i)
                end
            end
            bench.sleep(0.01)
        end
        assert.equal(10, served)
        bench.wait("none", function() return total() == 0 end)
        for _, worker in ipairs(workers) do
            worker:stop()
        end
    end)

    it("is given back by every kind of end", function()
        local web = engine.start { max_connections = 2, tls = engine.server(),
            backend = { addresses = { "127.0.0.1:" .. bench.port() } } }
        bench.peer("peer", "vanish", { connect = web.address, count = 20, sizes = "0,5,100" }):finish(60)
        web:wait_idle()
        local clients = {}
        for i = 1, 3 do
            clients[i] = bench.connect(web.port)
        end
        bench.wait("two", function() return web:status().sessions == 2 end)
        bench.sleep(0.1)
        assert.equal(2, web:status().sessions)
        for _, client in ipairs(clients) do
            client:close()
        end
        web:wait_idle()
        web:stop()
    end)
end)

describe("established connections", function()
    it("are served while a thousand handshakes wait", function()
        local web = engine.start { tls = engine.server(), backend = { kind = "echo" }, handshake_timeout = 60000 }
        local tls = { connect = web.address, tls = true, servername = "localhost", cafile = certs.ca.crt }
        tls.hold, tls.pause, tls.message = 5, 1, 100
        local steady = bench.echo_load(tls)
        bench.wait("the steady ones", function() return steady:result().holding == 5 end)
        tls.hold, tls.churn, tls.pause = nil, bench.slow and 50 or 200, nil
        local flood = bench.echo_load(tls)
        bench.wait("the flood", function()
            local churned = flood:result().churned
            return churned and churned > 200
        end, 30)
        assert.equal(0, flood:finish(60).failed)
        local result = steady:finish()
        assert.equal(0, result.failed)
        assert.is_true(bench.slow or result.pause_ms < 500, result.pause_ms)
        web:stop()
    end)
end)

describe("an idle engine", function()
    it("sleeps", function()
        local web = engine.start { tls = engine.server(), backend = { kind = "echo" } }
        local client = bench.connect(web.port)
        local load = bench.echo_load { connect = web.address, hold = 10, pause = 600000, tls = true,
            servername = "localhost", cafile = certs.ca.crt }
        bench.wait("connections", function() return web:status().states.relay == 10 end)
        local function ticks()
            local user, system = bench.read(("/proc/%d/stat"):format(web.pid)):match(
                "^%d+ %(.*%) %a" .. (" %-?%d+"):rep(10) .. " (%d+) (%d+)")
            return tonumber(user) + tonumber(system)
        end
        local before = ticks()
        bench.sleep(0.5)
        assert.is_true(ticks() - before <= 2)
        client:close()
        load:finish()
        web:stop()
    end)
end)
