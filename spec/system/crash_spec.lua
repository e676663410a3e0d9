-- What happens to connections when a process dies, stops, or never comes back from a callback.

local bench = require "bench"
local certs = require "certs"
local process = require "process"
local proxy = require "proxy"

local signals = proxy.signals
local HOLD = bench.slow and 60 or 300
local CHURN = 6 -- short connections that are open at a time
local CONTEXTS = bench.slow and 100 or 500

teardown(proxy.cleanup)

describe("a worker that is killed", function()
    local web, port, backend

    setup(function()
        port = bench.port()
        backend = bench.echo_server()
        -- Many contexts, so that a new worker needs seconds to build the generation.
        web = proxy.start { port = port, backend = backend.port, workers = 2, contexts = CONTEXTS, script = [[
local contexts, ctx = {}
for i = 1, $contexts do
    ctx = server()
    ctx:setup()
    contexts[i] = ctx
end
moongate.listen { name = "web", address = "127.0.0.1:$port", tls = ctx, backend = "127.0.0.1:$backend" }
]] }
    end)
    local function load(options)
        options.connect = "127.0.0.1:" .. port
        options.tls, options.cafile, options.servername = true, certs.ca.crt, "localhost"
        options.pause, options.message = 200, 2048
        return bench.echo_load(options)
    end

    local function holding(program, count)
        bench.wait(count .. " connections to be answered", function()
            return (program:result().holding or 0) >= count
        end, 30)
    end

    it("takes its own connections with it and no other", function()
        local clients = load { hold = HOLD, churn = CHURN }
        holding(clients, HOLD)
        local victim = web:wait_workers(2)[1]
        local own
        for _, worker in ipairs(web:status().workers) do
            if worker.pid == victim then
                own = worker.connections
            end
        end
        assert.is_number(own)
        process.kill(victim, signals.KILL)
        -- While the next one builds its generation, and after.
        for _ = 1, 2 do
            local churned = clients:result().churned
            bench.wait("short connections to go on", function() return clients:result().churned > churned + 20 end)
            bench.wait("another worker", function()
                local pids = web:workers()
                return #pids == 2 and pids[1] ~= victim and pids[2] ~= victim
            end, 60)
        end
        local result = clients:finish(60)
        -- Between the count and the kill it may have got each of the short ones.
        assert.is_true(result.failed <= own + CHURN, ("%d failed, %d were its own: %s"):format(result.failed, own,
            result.reasons))
        assert.is_true(result.early <= CHURN, result.reasons)
        assert.is_nil(tostring(result.reasons):find("connect", 1, true))
        assert.is_nil(tostring(result.reasons):find("stuck", 1, true))
    end)

    it("leaves who waits in the queue to the next, however often it happens", function()
        local one = proxy.start { port = bench.port(), backend = backend.port, workers = 1, script = [[
moongate.listen { name = "web", address = "127.0.0.1:$port", tls = server(), backend = "127.0.0.1:$backend" }
]] }
        local clients
        for round = 1, 3 do
            local pid = one:wait_workers(1, 20)[1]
            if round == 1 then
                process.kill(pid, signals.STOP) -- so that nobody is accepted before the end
                clients = bench.echo_load { connect = "127.0.0.1:" .. one.options.port, hold = 40, pause = 200,
                    tls = true, cafile = certs.ca.crt, servername = "localhost" }
                bench.wait("40 connections in the queue", function()
                    return (clients:result().living or 0) >= 40
                end)
                process.kill(pid, signals.KILL)
            else
                holding(clients, 40)
                clients:finish(30)
                process.kill(pid, signals.KILL)
                clients = bench.echo_load { connect = "127.0.0.1:" .. one.options.port, hold = 40, pause = 200,
                    tls = true, cafile = certs.ca.crt, servername = "localhost" }
            end
        end
        holding(clients, 40)
        local result = clients:finish(30)
        assert.equal("", result.reasons)
        assert.equal(0, result.failed)
        one:stop()
    end)
end)

describe("the watchdog", function()
    local web, port, bad_port

    setup(function()
        port, bad_port = bench.port(), bench.port()
        web = proxy.start { port = port, bad_port = bad_port, workers = 1, settings = "watchdog = 1", script = [[
moongate.listen { name = "web", address = "127.0.0.1:$port", backend = moongate.echo() }
moongate.listen { name = "stuck", address = "127.0.0.1:$bad_port", backend = function()
    -- One call into C that does not end in a lifetime: no count hook sees it.
    return (("a"):rep(40)):find(("a*"):rep(40) .. "b")
end }
]] }
    end)
    local function replaced(pid)
        bench.wait("another worker", function()
            local pids = web:workers()
            return not bench.running(pid) and #pids == 1 and pids[1] ~= pid
        end, 15)
        local echo = bench.exchange({ connect = "127.0.0.1:" .. port, bytes = 1000 }):finish()
        assert.equal(1000, echo.got)
    end

    it("replaces a worker that is stopped", function()
        local pid = web:wait_workers(1)[1]
        process.kill(pid, signals.STOP)
        replaced(pid)
        web:wait_log("no heartbeat")
    end)

    it("replaces a worker that a callback never gives back, and names the callback", function()
        local pid = web:wait_workers(1)[1]
        local client = bench.connect(bad_port)
        client:send("hello")
        replaced(pid)
        client:close()
        web:wait_log("backend")
        web:wait_log("stuck")
    end)
end)

describe("a supervisor that is killed", function()
    it("is followed by its workers once their connections have ended", function()
        local port = bench.port()
        local web = proxy.start { port = port, workers = 2, script = [[
moongate.listen { name = "web", address = "127.0.0.1:$port", backend = moongate.echo() }
]] }
        local workers = web:wait_workers(2)
        local client = bench.connect(port)
        client:send("one")
        assert.equal("one", client:receive(3))
        web.stopped = true
        web.program:signal(signals.KILL)
        web.program:wait()
        bench.wait("the idle worker to leave", function()
            return not (bench.running(workers[1]) and bench.running(workers[2]))
        end)
        client:send("two")
        assert.equal("two", client:receive(3))
        bench.wait("nobody to accept", function()
            local other = bench.connect(port)
            return not other or other:close() and false
        end)
        client:close()
        for _, pid in ipairs(workers) do
            bench.wait("the workers to leave", function() return not bench.running(pid) end)
        end
        web:assert_clean()
    end)
end)
