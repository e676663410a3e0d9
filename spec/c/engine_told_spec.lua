-- Who says that a limit bites no more, and for how long it was counted.

local bench = require "bench"
local engine = require "engine"
local host = require "mgtest".engine
local process = require "process"
local socket = require "socket"

teardown(engine.cleanup)

local WHAT = "max_connections_per_ip (1): "

local function log_lines(web, text)
    return bench.lines(bench.read(web.options.log), text)
end

local function wait_line(web, text, number)
    return bench.wait(text, function() return log_lines(web, text)[number or 1] end)
end

-- One that stays.
local function held(web)
    local client = assert(bench.connect(web.port))
    client:send("hello\n")
    assert.equal("hello", client:receive("*l"))
    return client
end

local function turned_away(web)
    local client = bench.connect(web.port)
    if client then -- it may even be too late for that
        assert.is_nil((client:receive(1)))
        client:close()
    end
end

local function start(options)
    options.max_connections_per_ip = 1
    options.backend = { kind = "echo" }
    return engine.start(options)
end

describe("a limit that no longer bites", function()
    it("is told of by another worker, if the one that has begun was killed", function()
        local shared = host.shared()
        local first = start { shared = shared, worker = 0 }
        local second = start { shared = shared, worker = 1 }
        local client = held(first)
        turned_away(first)
        wait_line(first, WHAT .. "reached")
        process.kill(first.pid, 9)
        process.wait(first.pid, 10)
        host.close(first.control)
        first.control = nil
        client:close()
        host.forget(shared, 0)
        assert.equal(0, #log_lines(first, "no longer"))
        assert.equal("beaten", second:ask("heartbeat"))
        assert.matches("1 were turned away within %d+ s", wait_line(second, WHAT .. "no longer reached"))
        assert.equal(0, #log_lines(second, WHAT .. "reached"))
        client = held(second) -- it may be told of again, by whoever sees it
        host.tell_again(shared)
        turned_away(second)
        wait_line(second, WHAT .. "reached")
        client:close()
        second:stop()
    end)

    it("is told of by another worker, if the one that has begun leaves", function()
        local shared = host.shared()
        local first = start { shared = shared, worker = 0 }
        local second = start { shared = shared, worker = 1 }
        local client = held(first)
        turned_away(first)
        wait_line(first, WHAT .. "reached")
        client:close()
        first:stop()
        second:ask("heartbeat")
        local all = #log_lines(first, WHAT .. "no longer") -- on a busy machine it was over before
        bench.wait("the end of it", function() return all + #log_lines(second, WHAT .. "no longer") == 1 end)
        second:stop()
    end)

    it("is told of with the time in which those were counted that had not been told of", function()
        local shared = host.shared()
        local web = start { shared = shared }
        local client = held(web)
        turned_away(web)
        wait_line(web, WHAT .. "no longer reached: 1 were")
        local began = socket.gettime()
        turned_away(web) -- not told of
        turned_away(web)
        bench.sleep(2) -- which is what is measured
        host.tell_again(shared)
        turned_away(web)
        local line = wait_line(web, WHAT .. "no longer reached", 2)
        local count, seconds = line:match(": (%d+) were turned away within (%d+) s")
        assert.equal("3", count)
        assert.is_true(tonumber(seconds) >= 4, line) -- two more until it is quiet
        assert.is_true(tonumber(seconds) <= socket.gettime() - began + 1, line)
        client:close()
        web:stop()
    end)
end)
