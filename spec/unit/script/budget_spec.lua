-- A callback may use settings.callback_budget of CPU time, whatever it does to keep more.

local bench = require "bench"
local proxy = require "proxy"

local LOOP = "while true do end"

-- All of them run until they are stopped.
local ENDLESS = {
    plain = LOOP,
    recursion = "local function f() return 1 + f() end f()",
    ["within pcall"] = "while true do pcall(function() " .. LOOP .. " end) end",
    ["within a coroutine"] = "while true do coroutine.resume(coroutine.create(function() " .. LOOP .. " end)) end",
    ["within a wrapped coroutine"] = "while true do pcall(coroutine.wrap(function() " .. LOOP .. " end)) end",
    ["within an old coroutine"] = "while true do coroutine.resume(old) end",
    ["in a message handler"] = "xpcall(error, function() " .. LOOP .. " end)",
    ["in the handler of its own end"] = "xpcall(function() " .. LOOP .. " end, function() " .. LOOP .. " end)",
    ["in a metamethod"] = "local t = setmetatable({}, { __index = function() " .. LOOP .. " end }) return t.x",
    ["in __close"] = "local x <close> = setmetatable({}, { __close = function() " .. LOOP .. " end }) " .. LOOP,
    ["in a comparison"] = "table.sort({ 3, 1, 2 }, function() " .. LOOP .. " end)",
    ["in __tostring of its error"] =
        "error(setmetatable({}, { __tostring = function() " .. LOOP .. " end }))",
    ["in what coroutine.close closes"] = "coroutine.close(holding)",
}

describe("the callback budget", function()
    local web, good
    local ports = {}

    setup(function()
        local parts = { [[
            local old = coroutine.create(function() while true do pcall(function() while true do end end) end end)
            local holding = coroutine.create(function()
                local x <close> = setmetatable({}, { __close = function() while true do end end })
                coroutine.yield()
            end)
            coroutine.resume(holding)
            local function listener(name, port, backend)
                moongate.listen { name = name, address = "127.0.0.1:" .. port, backend = backend }
            end
            local n = 0
            listener("good", $good, function() n = n + 1 return echo end)
        ]] }
        parts[1] = "local echo = moongate.echo()\n" .. parts[1]
        for name, body in pairs(ENDLESS) do
            ports[name] = bench.port()
            parts[#parts + 1] = ("listener(%q, %d, function(conn) %s end)"):format(name, ports[name], body)
        end
        good = bench.port()
        web = proxy.start { good = good, workers = 1, script = table.concat(parts, "\n"),
            settings = "callback_budget = 0.05, watchdog = 20" }
    end)
    teardown(proxy.cleanup)

    for name in pairs(ENDLESS) do
        it("ends a loop " .. name, function()
            local worker = web:workers()[1]
            local result = bench.exchange { connect = "127.0.0.1:" .. ports[name], bytes = 10 }:finish()
            assert.equal(0, result.got)
            web:wait_log(("listener %s: backend function: "):format(name))
            assert.equal(10, bench.exchange { connect = "127.0.0.1:" .. good, bytes = 10 }:finish().got)
            assert.equal(worker, web:workers()[1])
        end)
    end

    it("is named with the line, the listener and a traceback", function()
        bench.exchange { connect = "127.0.0.1:" .. ports.plain, bytes = 10 }:finish()
        local line = web:wait_log("listener plain: backend function: ")
        assert.matches("moongate.%d+.lua:%d+: backend function ran longer than settings.callback_budget " ..
            "%(0.05 seconds of CPU time%)", line)
        assert.matches("stack traceback:", line)
    end)
end)
