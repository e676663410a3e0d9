-- The waits that are not a listener's (for those see limits_spec), each with a reason of its own.

local bench = require "bench"
local certs = require "certs"
local proxy = require "proxy"
local socket = require "socket"

describe("timeouts", function()
    teardown(proxy.cleanup)

    local function echo(port)
        local client = bench.connect(port)
        client:settimeout(20)
        client:send("ping")
        assert.equal("ping", client:receive(4))
        return client
    end

    local function closed(client)
        local _, reason = client:receive(1)
        client:close()
        return reason
    end

    it("connect_timeout: a backend that accepts, and says nothing of TLS", function()
        local backend, port = assert(socket.bind("127.0.0.1", 0)), bench.port()
        local web = proxy.start { workers = 1, port = port, backend = select(2, backend:getsockname()),
            script = [[moongate.listen { name = "web", address = "127.0.0.1:$port", backend = moongate.backend {
                address = "127.0.0.1:$backend", tls = client(), servername = "localhost", connect_timeout = 0.3 } }]] }
        local client = bench.connect(port)
        client:settimeout(20)
        client:send("hello")
        assert.equal("closed", closed(client))
        local record = web:record(1)
        assert.equal("up: connect timeout", record.reason)
        assert.matches("^127%.0%.0%.1:", record.backend_address)
        backend:close()
        web:stop()
    end)

    local ECHO = [[moongate.listen { name = "web", address = "127.0.0.1:$port", backend = moongate.echo() }]]

    it("generation_timeout: only those of the old generation", function()
        local web = proxy.start { workers = 2, port = bench.port(), settings = "generation_timeout = 0.5",
            script = ECHO }
        local old = echo(web.options.port)
        web:reload()
        local new = echo(web.options.port)
        assert.equal("closed", closed(old))
        local record = web:record(1)
        assert.equal("moongate: generation timeout", record.reason)
        assert.equal(1, record.generation)
        new:send("pong")
        assert.equal("pong", new:receive(4))
        new:close()
        web:stop()
    end)

    it("drain_timeout, and what is not one", function()
        for _, case in ipairs { { "TERM", "moongate: drain timeout" }, { "INT", "moongate: stopped" } } do
            local web = proxy.start { workers = 2, port = bench.port(), settings = "drain_timeout = 0.5",
                script = ECHO }
            local client = echo(web.options.port)
            web.program:signal(proxy.signals[case[1]])
            assert.equal("closed", closed(client))
            assert.equal(case[2], web:record(1).reason)
            web.program:wait()
            web.stopped = true
        end
    end)

    it("handshake_timeout: a ClientHello byte by byte, after which nothing else is late", function()
        local port = bench.port()
        local web = proxy.start { workers = 1, port = port, script = [[
            moongate.listen { name = "web", address = "127.0.0.1:$port", tls = server(), handshake_timeout = 0.7,
                backend = moongate.echo() }]] }
        local steady = bench.echo_load { connect = "127.0.0.1:" .. port, tls = true, servername = "localhost",
            cafile = certs.ca.crt, hold = 1, pause = 10 }
        bench.wait("the steady one", function() return steady:result().holding == 1 end)
        local client = bench.connect(port)
        local hello = "\22\3\1\2\0\1\0\1\252\3\3" .. ("\0"):rep(10000)
        bench.wait("the end", function()
            client:send(hello:sub(1, 1))
            hello = hello:sub(2)
            bench.sleep(0.02)
            return web:records()[1]
        end)
        assert.equal("down: handshake timeout", web:record(1).reason)
        assert.equal(0, steady:finish().failed)
        client:close()
        web:stop()
    end)
end)
