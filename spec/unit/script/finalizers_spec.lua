-- The script's finalizers: run while it lives, and not at its end, where one could keep the process that frees it.

local bench = require "bench"
local checks = require "checks"
local proxy = require "proxy"

local ENDLESS = "ENDLESS = setmetatable({}, { __gc = function() while true do end end })\n"
local LISTENER = "moongate.listen { address = '127.0.0.1:1', backend = '127.0.0.1:2' }\n"

describe("a finalizer", function()
    teardown(proxy.cleanup)

    it("runs when its object is collected", function()
        local result = checks.run(LISTENER .. [[
            local ran = 0
            for _ = 1, 3 do setmetatable({}, { __gc = function() ran = ran + 1 end }) end
            collectgarbage()
            assert(ran == 3)
            local t = {}
            assert(setmetatable(t, { x = 1 }) == t and getmetatable(t).x == 1 and setmetatable(t, nil) == t)
            assert(getmetatable(t) == nil)
            setmetatable(t, { __metatable = "locked" })
            assert(select(2, pcall(setmetatable, t, {})):match "cannot change a protected metatable")
            assert(select(2, pcall(setmetatable, t)):match "#2 to 'setmetatable' %(nil or table expected")
            assert(select(2, pcall(setmetatable, 1, {})):match "#1 to 'setmetatable' %(table expected, got number")
        ]])
        assert.equal(0, result.code, result.err)
    end)

    it("that never ends does not keep check", function()
        local result = checks.run(ENDLESS .. LISTENER)
        assert.equal(0, result.code, result.err)
    end)

    it("that comes late is not run, whatever its metatable became", function()
        local result = checks.run([[
            LATE = setmetatable({}, { __gc = true })
            getmetatable(LATE).__gc = function() while true do end end
            OPEN = setmetatable({}, { __gc = function() MADE = openssl.SSL.SSLContext.new() end })
        ]] .. LISTENER)
        assert.equal(0, result.code, result.err)
    end)

    it("that never ends keeps no worker when its generation is freed", function()
        local port = bench.port()
        local script = ENDLESS .. [[ moongate.listen { address = "127.0.0.1:$port", backend = moongate.echo() } ]]
        local web = proxy.start { port = port, workers = 1, script = script }
        local workers = web:workers()
        for _ = 1, 2 do
            web:reload(script)
            assert.equal(10, bench.exchange { connect = "127.0.0.1:" .. port, bytes = 10 }:finish().got)
        end
        bench.wait("one generation", function()
            local generations = web:generations()
            return next(generations, next(generations)) == nil
        end)
        assert.same(workers, web:workers())
        web:stop()
    end)
end)
