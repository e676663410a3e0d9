-- Addresses come and go with the script; programs that want the same one, and the end of moongate.

local bench = require "bench"
local certs = require "certs"
local process = require "process"
local proxy = require "proxy"
local socket = require "socket"

local signals = proxy.signals

local function echoes(port, host)
    local client = host and host:find(":") and socket.tcp6() or socket.tcp4()
    client:settimeout(5)
    local ok = client:connect(host or "127.0.0.1", port)
    if not ok then
        client:close()
        return false
    end
    client:send("ping")
    local answer = client:receive(4)
    client:close()
    return answer == "ping"
end

teardown(proxy.cleanup)

describe("addresses", function()
    local web, first, second

    local function listeners(...)
        local parts = {}
        for i, address in ipairs { ... } do
            parts[i] = ("moongate.listen { name = 'l%d', address = %s, backend = moongate.echo() }"):format(i, address)
        end
        return table.concat(parts, "\n")
    end

    setup(function()
        first, second = bench.port(), bench.port()
        web = proxy.start { first = first, second = second, workers = 1,
            script = listeners("'127.0.0.1:$first'") }
    end)
    it("are added by a reload", function()
        assert.is_false(echoes(second))
        web:reload(listeners("'127.0.0.1:$first'", "'127.0.0.1:$second'"))
        assert.is_true(echoes(first))
        assert.is_true(echoes(second))
    end)

    it("are removed by a reload, without who is connected", function()
        local client = bench.connect(second)
        client:send("ping")
        assert.equal("ping", client:receive(4))
        web:reload(listeners("'127.0.0.1:$first'"))
        bench.wait("nobody to listen", function() return not echoes(second) end)
        client:send("pong")
        assert.equal("pong", client:receive(4))
        client:close()
        assert.is_true(echoes(first))
    end)

    it("go without a reset for those in their queue", function()
        web:reload(listeners("'127.0.0.1:$first'", "'127.0.0.1:$second'"))
        local worker = web:wait_workers(1)[1]
        process.kill(worker, signals.STOP)
        local clients = {}
        for i = 1, 30 do
            clients[i] = assert(bench.connect(second))
            clients[i]:send("ping")
        end
        web:write_script(listeners("'127.0.0.1:$first'"))
        local reload = bench.start { bench.moongate, "reload", "--control", web.control }
        process.kill(worker, signals.CONT)
        for _, client in ipairs(clients) do
            assert.equal("ping", client:receive(4))
            client:close()
        end
        local _, code = reload:wait()
        assert.equal(0, code)
        bench.wait("nobody to listen", function() return not echoes(second) end)
    end)

    it("go without a reset for those in their queue, though the only worker dies over it", function()
        web:reload(listeners("'127.0.0.1:$first'") .. [[

moongate.listen { name = "narrow", address = "127.0.0.1:$second", max_connections = 1, backend = moongate.echo() }]])
        local holder = assert(bench.connect(second))
        holder:send("ping")
        assert.equal("ping", holder:receive(4))
        local clients = {}
        for i = 1, 10 do
            clients[i] = assert(bench.connect(second))
            clients[i]:send("ping")
        end
        web:reload(listeners("'127.0.0.1:$first'"))
        process.kill(web:wait_workers(1)[1], signals.KILL)
        for _, client in ipairs(clients) do
            assert.equal("ping", client:receive(4))
            client:close()
        end
        holder:close()
        bench.wait("nobody to listen", function() return not echoes(second) end)
        assert.is_true(echoes(first))
        web:reload()
        assert.is_true(echoes(first))
    end)

    it("may be a unix socket, which goes with its listener", function()
        local path = bench.path("web.sock")
        web:reload(listeners("'127.0.0.1:$first'", "'unix:" .. path .. "'"))
        local result = bench.exchange({ connect = "unix:" .. path, bytes = 1000 }):finish()
        assert.equal(1000, result.got)
        web:reload(listeners("'127.0.0.1:$first'"))
        bench.wait("the socket file to go", function() return not bench.exists(path) end)
    end)

    it("may be IPv6", function()
        web:reload(listeners("'[::1]:$first'"))
        assert.is_true(echoes(first, "::1"))
        bench.wait("nobody to listen on IPv4", function() return not echoes(first) end)
    end)

    it("may be everything on a port", function()
        web:reload(listeners("'*:$second'"))
        assert.is_true(echoes(second))
        assert.is_true(echoes(second, "::1"))
    end)

    it("may be a list", function()
        web:reload(listeners("{ '127.0.0.1:$first', '[::1]:$first' }"))
        assert.is_true(echoes(first))
        assert.is_true(echoes(first, "::1"))
    end)

    it("belong to one moongate: a second is refused and the first goes on", function()
        local result = proxy.refused { first = first, log_format = "text",
            script = listeners("'127.0.0.1:$first'") }
        assert.equal(1, result.code)
        assert.matches("Address already in use", result.log:match("([^\n]*)\n*$"), 1, true)
        assert.is_true(echoes(first))
    end)

    it("belong to it from the moment they are bound, unix sockets too", function()
        local path = bench.path("bound.sock")
        for _ = 1, 2 do -- the second one waits until the addresses of before are given up
            web:reload(listeners("'127.0.0.1:$first'"))
        end
        local worker = web:wait_workers(1)[1]
        process.kill(worker, signals.STOP) -- so that the reload gets no further than binding
        web:write_script(listeners("'127.0.0.1:$first'", "'unix:" .. path .. "'"))
        local reload = bench.start { bench.moongate, "reload", "--control", web.control }
        bench.wait("the socket file", function() return bench.exists(path) end)
        local result = proxy.refused { log_format = "text", script = listeners("'unix:" .. path .. "'") }
        process.kill(worker, signals.CONT)
        local _, code = reload:wait()
        assert.equal(0, code)
        assert.equal(1, result.code)
        assert.matches("Address already in use", result.log:match("([^\n]*)\n*$"), 1, true)
        assert.equal(1000, bench.exchange({ connect = "unix:" .. path, bytes = 1000 }):finish().got)
        web:reload(listeners("'127.0.0.1:$first'"))
    end)

    it("so does the control socket", function()
        local result = bench.run { bench.moongate, "run", web.script, "--control", web.control }
        assert.equal(1, result.code)
        assert.equal(0, web:command("status").code)
    end)
end)

describe("the end", function()
    local function echo(options)
        options.port = bench.port()
        options.script = [[
moongate.listen { name = "web", address = "127.0.0.1:$port", tls = server(), backend = moongate.echo() }
moongate.listen { name = "plain", address = "127.0.0.1:$plain", backend = moongate.echo() }
]]
        options.plain = bench.port()
        return proxy.start(options), options
    end

    local function gone(web, seconds)
        web.stopped = true
        local how, code = web.program:wait(seconds)
        assert.equal("exit", how)
        assert.equal(0, code)
        web:assert_clean()
    end

    it("by TERM waits for connections, and takes no new ones", function()
        local web, options = echo {}
        local load = bench.echo_load { connect = "127.0.0.1:" .. options.port, hold = 50, pause = 100, tls = true,
            cafile = certs.ca.crt, servername = "localhost" }
        bench.wait("50 connections", function() return (load:result().holding or 0) >= 50 end, 20)
        web.program:signal(signals.TERM)
        bench.wait("nobody to listen", function() return not echoes(options.plain) end)
        local bytes = load:result().bytes
        bench.wait("answers all the same", function() return load:result().bytes > bytes + 10000 end)
        assert.is_true(web.program:alive())
        local result = load:finish()
        assert.equal("", result.reasons)
        gone(web, 5)
    end)

    it("by TERM refuses newcomers only when handshakes under way have had time to end", function()
        local web, options = echo {}
        local client = bench.connect(options.plain)
        client:send("ping")
        assert.equal("ping", client:receive(4))
        web.program:signal(signals.TERM)
        web:wait_log("stopping")
        local newcomer = socket.tcp4()
        newcomer:settimeout(0.1)
        local _, reason = newcomer:connect("127.0.0.1", options.plain)
        -- Half a second long; on a busy machine it may have passed.
        assert.is_true(reason == "timeout" or reason == "connection refused", reason)
        newcomer:close()
        bench.wait("a refusal", function()
            local next_one = socket.tcp4()
            next_one:settimeout(0.1)
            local _, why = next_one:connect("127.0.0.1", options.plain)
            next_one:close()
            return why == "connection refused"
        end)
        client:send("pong")
        assert.equal("pong", client:receive(4))
        client:close()
        gone(web, 5)
    end)

    it("is not drain: it takes no new connections and stays", function()
        local web, options = echo {}
        local client = bench.connect(options.plain)
        client:send("ping")
        assert.equal("ping", client:receive(4))
        assert.equal(0, web:command("drain").code)
        bench.wait("nobody to listen", function() return not echoes(options.plain) end)
        client:send("pong")
        assert.equal("pong", client:receive(4))
        client:close()
        bench.wait("its connections to end", function() return web:open_connections() == 0 end)
        assert.is_true(web.program:alive())
        assert.equal(0, web:command("stop").code)
        gone(web, 5)
    end)

    it("by the stop command is the same", function()
        local web = echo {}
        assert.equal(0, web:command("stop").code)
        gone(web, 5)
    end)

    it("by a second TERM comes at once", function()
        local web, options = echo {}
        local client = bench.connect(options.plain)
        client:send("ping")
        assert.equal("ping", client:receive(4))
        web.program:signal(signals.TERM)
        bench.wait("nobody to listen", function() return not echoes(options.plain) end)
        assert.is_true(web.program:alive())
        web.program:signal(signals.TERM)
        gone(web, 3)
        client:close()
    end)

    it("by INT comes at once", function()
        local web, options = echo {}
        local client = bench.connect(options.plain)
        client:send("ping")
        assert.equal("ping", client:receive(4))
        web.program:signal(signals.INT)
        gone(web, 3)
        client:close()
    end)

    it("comes when drain_timeout is over", function()
        local web, options = echo { settings = "drain_timeout = 1" }
        local client = bench.connect(options.plain)
        client:send("ping")
        assert.equal("ping", client:receive(4))
        web.program:signal(signals.TERM)
        gone(web, 5)
        client:close()
    end)
end)
