-- Many handshakes at once: what a script decides and is told stays as it is when they go to the helper thread.

local bench = require "bench"
local certs = require "certs"
local process = require "process"
local proxy = require "proxy"

local CLIENTS = 64

describe("a flood of handshakes", function()
    teardown(proxy.cleanup)

    local web

    local function start(script, settings)
        local port = bench.port()
        web = proxy.start { workers = 1, port = port, script = script, settings = settings }
        return port
    end

    local function steps()
        return web:status().workers[1].engine.offloaded
    end

    -- The first of them meet a queue, because the worker stands still until they are there.
    local function flood(port)
        local worker = web:wait_workers(1)[1]
        process.kill(worker, proxy.signals.STOP)
        local clients = bench.echo_load { connect = "127.0.0.1:" .. port, tls = true, servername = "localhost",
            cafile = certs.ca.crt, churn = CLIENTS }
        bench.wait("the clients", function() return (clients:result().opened or 0) >= CLIENTS end)
        process.kill(worker, proxy.signals.CONT)
        bench.wait("a second round", function() return (clients:result().churned or 0) > 2 * CLIENTS end, 60)
        return clients
    end

    it("is decided on the loop, and shaken hands with in the thread", function()
        local port = start [[
            local ctx = server()
            moongate.listen { name = "web", address = "127.0.0.1:$port", backend = moongate.echo(),
                tls = function(hello)
                    if hello.servername == "localhost" then return ctx end
                    return nil, "who is that?"
                end }]]
        local clients = flood(port)
        assert.is_true(steps() > 0)
        bench.exchange({ connect = "127.0.0.1:" .. port, tls = true, servername = "other" }):finish()
        assert.equal(0, clients:finish(60).failed)
        local refused = 0
        for _, record in ipairs(web:records()) do
            refused = refused + (record.reason == "down: refused by name" and 1 or 0)
        end
        assert.equal(1, refused)
        web:stop()
    end)

    it("stays on the loop where the handshake itself asks the script", function()
        local port = start [[
            local ctx, count = server(), 0
            ctx.session_new_cb = function() count = count + 1 end
            moongate.listen { name = "web", address = "127.0.0.1:$port", tls = ctx, backend = moongate.echo() }]]
        local clients = flood(port)
        assert.equal(0, steps())
        assert.equal(0, clients:finish(60).failed)
        web:stop()
    end)

    it("may be looked at by a callback of the backend's handshake", function()
        local backend = bench.echo_server { tls = true, cert = certs.ec.crt, key = certs.ec.key }
        local port = start(([[
            local ctx, seen = client(), nil
            ctx.keylog_cb = function(conn)
                seen = { conn.ssl_version, conn.cipher, conn.state, conn.servername, seen and #seen }
            end
            moongate.listen { name = "web", address = "127.0.0.1:$port", tls = server(), backend = moongate.backend {
                address = "127.0.0.1:%d", tls = ctx, servername = "localhost" } }]]):format(backend.port))
        local clients = flood(port)
        assert.is_true(steps() > 0)
        assert.equal(0, clients:finish(60).failed)
        for _, record in ipairs(web:records()) do
            assert.equal("relay: done", record.reason)
        end
        web:stop()
        backend:stop()
    end)

    it("does not keep the proxy from ending", function()
        local port = start([[moongate.listen { name = "web", address = "127.0.0.1:$port", tls = server(),
            backend = moongate.echo() }]], "drain_timeout = 1")
        local clients = flood(port)
        assert.is_true(steps() > 0)
        web:stop()
        clients:stop()
    end)
end)
