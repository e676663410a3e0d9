-- Limits that bite are told in the log: once when it begins, once when it is over, with how many it was; a flood makes
-- no more of it, and neither do several workers.

local bench = require "bench"
local certs = require "certs"
local process = require "process"
local proxy = require "proxy"
local socket = require "socket"

teardown(proxy.cleanup)

describe("the log tells of", function()
    local web
    local ports = {}
    local names = { "few", "per_ip", "rate", "rate_per_ip", "full" }

    setup(function()
        local values = { workers = 2, server = bench.echo_server().port }
        for _, name in ipairs(names) do
            ports[name] = bench.port()
            values[name] = ports[name]
        end
        values.script = [[
moongate.listen { name = "few", address = "127.0.0.1:$few", backend = moongate.echo(), max_connections = 1 }
moongate.listen { name = "per ip", address = "127.0.0.1:$per_ip", backend = moongate.echo(),
    max_connections_per_ip = 2 }
moongate.listen { name = "rate", address = "127.0.0.1:$rate", tls = server(), backend = moongate.echo(),
    handshake_rate = { per_second = 0.01, burst = 1 } }
moongate.listen { name = "rate per ip", address = "127.0.0.1:$rate_per_ip", tls = server(), backend = moongate.echo(),
    handshake_rate = { per_ip = 0.01 } }
moongate.listen { name = "full", address = "127.0.0.1:$full", backend = moongate.backend { name = "app",
    address = "127.0.0.1:$server", max_connections = 1 } }
]]
        web = proxy.start(values)
    end)

    local function say(port)
        local client = socket.tcp4()
        client:settimeout(20)
        return client:connect("127.0.0.1", port) and client:send("hello\n") and client:receive("*l") == "hello", client
    end

    local function handshake(port)
        return bench.run { "openssl", "s_client", "-connect", "127.0.0.1:" .. port, "-CAfile", certs.ca.crt,
            "-servername", "localhost", input = "" }.code
    end

    local function lines(text)
        return bench.lines(web:log_text(), text)
    end

    local expected = {} -- what was told to have begun: { what it is, of whom, at most so many }

    local function begun(what, rest, how, most)
        web:wait_log(what .. ": reached")
        local list = lines(what .. ": reached")
        assert.equal(1, #list)
        assert.matches(rest, list[1], 1, true)
        assert.matches('"level":"warn"', list[1], 1, true)
        expected[#expected + 1] = { what = what, how = how, most = most }
    end

    it("max_connections, if somebody waits", function()
        local served, held = say(ports.few)
        assert.is_true(served)
        assert.equal(0, #lines("listener few"))
        local waiting = {}
        for i = 1, 5 do
            waiting[i] = bench.connect(ports.few)
            waiting[i]:send("hello\n")
        end
        web:wait_log("listener few: max_connections (1): reached: further clients wait")
        held:close()
        for _, client in ipairs(waiting) do
            assert.equal("hello", client:receive("*l"))
            client:close()
        end
        begun("listener few: max_connections (1)", "further clients wait", "had to wait", 5)
    end)

    it("max_connections_per_ip", function()
        local held = {}
        for i = 1, 2 do
            held[i] = select(2, say(ports.per_ip))
        end
        for _ = 1, 40 do
            assert.is_not_true((say(ports.per_ip)))
        end
        begun("listener per ip: max_connections_per_ip (2)", "reached, by 127.0.0.1: further connections of an " ..
            "address that has so many are closed", "were turned away", 40)
        for _, client in ipairs(held) do
            client:close()
        end
    end)

    it("handshake_rate, of all and of one address", function()
        assert.equal(0, handshake(ports.rate))
        assert.equal(0, handshake(ports.rate_per_ip))
        for _ = 1, 4 do
            assert.not_equal(0, handshake(ports.rate))
            assert.not_equal(0, handshake(ports.rate_per_ip))
        end
        begun("listener rate: handshake_rate (0.01 per second)", "further full handshakes are refused",
            "were turned away", 4)
        begun("listener rate per ip: handshake_rate (0.01 per second of one address)", "reached, by 127.0.0.1: ",
            "were turned away", 4)
    end)

    it("a backend whose addresses are all full", function()
        local _, held = say(ports.full)
        for _ = 1, 9 do
            assert.is_not_true((say(ports.full)))
        end
        begun("backend app: max_connections (1 each) of all addresses", "further connections are closed",
            "were turned away", 9)
        held:close()
    end)

    -- On a busy machine it may be over before the last one has come.
    it("all of these when they are over, once each, and not again within the minute", function()
        for round = 1, 2 do
            for _, each in ipairs(expected) do
                web:wait_log(each.what .. ": no longer reached: ")
                local list = lines(each.what .. ": no longer reached: ")
                assert.equal(1, #list)
                assert.matches('"level":"info"', list[1], 1, true)
                local count, how = list[1]:match(": (%d+) ([%a ]+) within %d+ s")
                assert.equal(each.how, how)
                count = tonumber(count)
                assert.is_true(count >= 1 and count <= each.most, ("%s: %d of %d"):format(each.what, count, each.most))
                assert.equal(1, #lines(each.what .. ": reached"))
            end
            if round == 1 then
                local _, held = say(ports.full)
                for _ = 1, 9 do
                    assert.is_not_true((say(ports.full)))
                end
                held:close()
                bench.wait("these to be counted", function()
                    return web:status().counts.listeners.full.closed["up: all addresses full"] == 18
                end)
            end
        end
    end)
end)

describe("the log tells of unfinished handshakes", function()
    it("that give way", function()
        local port = bench.port()
        local web = proxy.start { workers = 1, nofile = 128, port = port, script = [[
moongate.listen { name = "web", address = "127.0.0.1:$port", tls = server(), backend = moongate.echo() }
]] }
        local silent = {}
        for i = 1, 60 do
            silent[i] = bench.connect(port)
        end
        local line = web:wait_log("listener web: unfinished handshakes (33 in each worker): reached")
        assert.matches("the oldest that waits for its client is closed for each that comes, or further clients wait",
            line, 1, true)
        line = web:wait_log("listener web: unfinished handshakes (33 in each worker): no longer reached: ")
        assert.matches("%d gave way and were closed within ", line)
        for _, client in ipairs(silent) do
            client:close()
        end
        web:stop()
    end)
end)

describe("a limit that a worker has told of before it was killed", function()
    it("is told to be over by its successor", function()
        local port = bench.port()
        local web = proxy.start { workers = 1, port = port, script = [[
moongate.listen { name = "web", address = "127.0.0.1:$port", backend = moongate.echo(), max_connections_per_ip = 1 }
]] }
        local worker = web:wait_workers(1)[1]
        local client = assert(bench.connect(port))
        client:send("hello\n")
        assert.equal("hello", client:receive("*l"))
        local other = bench.connect(port)
        if other then -- it may even be too late for that
            assert.is_nil((other:receive(1)))
            other:close()
        end
        web:wait_log("listener web: max_connections_per_ip (1): reached")
        process.kill(worker, proxy.signals.KILL)
        client:close()
        local line = web:wait_log("listener web: max_connections_per_ip (1): no longer reached: ")
        assert.matches(": 1 were turned away within %d+ s", line)
        local _, count = web:log_text():gsub(": reached", "")
        assert.equal(1, count)
        web:stop()
    end)
end)
