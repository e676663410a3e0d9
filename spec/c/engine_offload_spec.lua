-- Handshakes in the helper thread, which has them when many come at once, and ends of every kind while it does.
-- Whatever happens, the engine ends with no session, no handle and no config left (engine.stop asserts it).

local bench = require "bench"
local certs = require "certs"
local engine = require "engine"
local process = require "process"

local STOP, CONT = 19, 18
local CLIENTS = 64

teardown(engine.cleanup)

local function load(web, options)
    options.connect, options.tls, options.servername, options.cafile = web.address, true, "localhost", certs.ca.crt
    return bench.echo_load(options)
end

-- CLIENTS at a time, one connection after the other; the first of them meet a queue.
local function flood(web)
    process.kill(web.pid, STOP)
    local started = load(web, { churn = CLIENTS })
    bench.wait("the clients", function() return (started:result().opened or 0) >= CLIENTS end)
    process.kill(web.pid, CONT)
    return started
end

-- Steps of the thread so far; nil when a fault has hit the answer.
local function steps(web)
    local known, status = pcall(web.status, web)
    return known and status.offloaded or nil
end

-- Waits for the thread's next step.
local function offloaded(web)
    local before
    bench.wait("the thread", function()
        local now = steps(web)
        before = before or now
        return now and now > before
    end)
end

local function server()
    return engine.server { crt = certs.rsa.crt, key = certs.rsa.key }
end

-- An engine that echoes, and its flood, of which the thread has had a part.
local function flooded()
    local web = engine.start { tls = server(), backend = { kind = "echo" } }
    local clients = flood(web)
    offloaded(web)
    return web, clients
end

describe("a flood of handshakes", function()
    it("goes to the helper thread, and nobody is lost", function()
        local web = engine.start { tls = server(), backend = { kind = "echo" } }
        local steady = load(web, { hold = 5, pause = 5, message = 100 })
        bench.wait("the steady ones", function() return steady:result().holding == 5 end)
        local clients = flood(web)
        offloaded(web)
        bench.wait("some rounds", function() return (clients:result().churned or 0) > 4 * CLIENTS end)
        assert.equal(0, clients:finish(60).failed)
        assert.equal(0, steady:finish(60).failed)
        local status = web:status()
        assert.is_true(status.offloaded <= 2 * status.handshakes)
        web:stop()
    end)

    it("is told no other end than on the loop", function()
        local web, clients = flooded()
        local number = #web:records()
        local other = bench.exchange { connect = web.address, tls = true, servername = "localhost",
            cafile = certs.other_ca.crt }
        other:finish()
        bench.wait("its record", function()
            for i, record in ipairs(web:records()) do
                if i > number and record.reason == "down: handshake refused by the client" then
                    return record.alert_received == "unknown_ca"
                end
            end
        end)
        assert.equal(0, clients:finish(60).failed)
        web:stop()
    end)

    it("stays on the loop where no thread can be made", function()
        local web = engine.start { tls = server(), backend = { kind = "echo" }, thread_stack = 1 << 50 }
        local clients = flood(web)
        bench.wait("some rounds", function() return (clients:result().churned or 0) > 2 * CLIENTS end)
        assert.equal(0, steps(web))
        assert.equal(0, clients:finish(60).failed)
        assert.matches("a thread for handshakes: ", bench.read(web.options.log))
        web:stop()
    end)

    it("goes on where the thread hangs", function()
        local pipe = bench.path "hold"
        assert.equal(0, bench.run({ "mkfifo", pipe }).code)
        local tls = server()
        tls.hold_thread = pipe
        local web = engine.start { tls = tls, backend = { kind = "echo" } }
        local clients = flood(web)
        bench.wait("all but one", function() return (clients:result().churned or 0) > 2 * CLIENTS end)
        assert.equal(0, steps(web))
        io.open(pipe, "w"):close()
        offloaded(web)
        assert.equal(0, clients:finish(60).failed)
        web:stop()
    end)

    it("survives each failing allocation", function()
        local web, clients = flooded()
        for n = 1, 60 do
            web:ask("fail " .. n)
            offloaded(web)
        end
        web:ask("fail 0")
        clients:finish(60)
        web:wait_idle()
        assert.equal(0, load(web, { churn = 5 }):finish(60).failed)
        web:stop()
    end)
end)

describe("close_while_offloaded", function()
    it("by clients that are gone", function()
        local web, clients = flooded()
        for _ = 1, 5 do
            bench.peer("peer", "vanish", { connect = web.address, count = 50, sizes = "100,5000",
                servername = "localhost" }):finish(60)
        end
        assert.equal(0, clients:finish(60).failed)
        web:wait_idle()
        web:stop()
    end)

    it("by a backend that refuses", function()
        local web = engine.start { tls = server(), backend = { addresses = { "127.0.0.1:" .. bench.port() } } }
        local clients = flood(web)
        bench.wait("the refused", function() return #web:records() > 10 * CLIENTS end)
        clients:finish(60)
        for _, record in ipairs(web:records()) do
            assert.matches("^up: connection refused$", record.reason)
        end
        web:wait_idle()
        web:stop()
    end)

    it("by the handshake's timeout", function()
        local web = engine.start { tls = server(), backend = { kind = "echo" }, handshake_timeout = 5 }
        local clients = flood(web)
        bench.wait("somebody who was too late", function()
            return web:status().closes["down: handshake timeout"]
        end)
        offloaded(web)
        clients:finish(60)
        web:wait_idle()
        web:stop()
    end)

    it("by the engine, again and again", function()
        local web = engine.start { tls = server(), backend = { kind = "echo" } }
        local clients = flood(web)
        for _ = 1, 20 do
            offloaded(web)
            web:ask("close")
        end
        clients:finish(60)
        web:wait_idle()
        assert.equal(0, load(web, { churn = 5 }):finish(60).failed)
        web:stop()
    end)

    it("by the engine's own end", function()
        for _ = 1, 3 do
            local web, clients = flooded()
            web:stop()
            clients:stop()
        end
    end)

    it("keeps the config that it was begun under", function()
        local web, clients = flooded()
        for _ = 1, 20 do
            web:ask("reload")
        end
        assert.equal(0, clients:finish(60).failed)
        web:wait_idle()
        assert.equal("1", web:ask("generations"))
        web:stop()
    end)
end)
