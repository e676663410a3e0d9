-- moongate test: busted in the binary's own Lua.

local bench = require "bench"

local here = assert(io.popen("pwd")):read("l")

teardown(bench.cleanup)

-- A directory with files; its path.
local count = 0
local function directory(files)
    count = count + 1
    local dir = bench.path("test." .. count)
    bench.must { "mkdir", "-p", dir .. "/spec" }
    for name, text in pairs(files) do
        bench.write(dir .. "/" .. name, text)
    end
    return dir
end

local function test(dir, ...)
    local command = { bench.moongate, "test", ... }
    command.cwd = dir
    return bench.run(command)
end

local HANDSHAKE = [[
    local testing = require "moongate.testing"
    local openssl = require "moongate.openssl"
    describe("a policy", function()
        it("serves", function()
            local ctx, own = openssl.SSL.SSLContext.new(), testing.certificate()
            ctx:add_certificate(own.cert, own.key)
            assert.is_true(testing.handshake(ctx, testing.clients.modern).ok)
        end)
        it("is loaded", function()
            local policy = testing.load("moongate.lua")
            assert.equal("127.0.0.1:2", policy.listeners.web.backend.address[1])
        end)
    end)
]]
local SCRIPT = [[require("moongate").listen { name = "web", address = "127.0.0.1:1", backend = "127.0.0.1:2" }]]

describe("moongate test", function()
    it("runs ./spec, with moongate.testing and moongate.openssl at hand", function()
        local result = test(directory { ["spec/policy_spec.lua"] = HANDSHAKE, ["moongate.lua"] = SCRIPT })
        assert.equal(0, result.code, result.out .. result.err)
        assert.matches("2 successes / 0 failures / 0 errors", result.out, 1, true)
    end)

    it("runs the paths that are named", function()
        local dir = directory { ["a_spec.lua"] = [[it("a", function() end)]], ["spec/b_spec.lua"] = "error 'not this'" }
        local result = test(dir, "a_spec.lua")
        assert.equal(0, result.code, result.out)
        assert.matches("1 success", result.out, 1, true)
    end)

    it("exits as busted does", function()
        local dir = directory { ["spec/a_spec.lua"] = [[
            it("a", function() assert.equal(1, 2) end) it("b", function() error "x" end) it("c", function() end)]] }
        local result = test(dir)
        assert.equal(1, result.code)
        assert.matches("1 success / 1 failure / 1 error", result.out, 1, true)
    end)

    it("hands on what follows --", function()
        local dir = directory { ["spec/a_spec.lua"] = [[it("a", function() end) it("b", function() end)]] }
        local result = test(dir, "--", "-o", "TAP", "--filter=b")
        assert.equal(0, result.code, result.out)
        assert.matches("ok 1 - b\n1..1", result.out, 1, true)
        assert.equal(0, test(dir, "spec", "--", "--filter=a").code)
    end)

    it("puts no guard on specs", function()
        local dir = directory { ["spec/a_spec.lua"] = [[
            it("a", function()
                assert(io.open("written", "w")):close()
                assert.is_true(os.execute("rm written"))
            end)]] }
        assert.equal(0, test(dir).code)
    end)

    it("names the package where busted is missing", function()
        local result = bench.run { bench.moongate, "test", env = { LUA_PATH = bench.path("?.lua") } }
        assert.equal(1, result.code)
        assert.equal("moongate test: busted is not installed (Debian's package is lua-busted)\n", result.err)
    end)

    it("says what is broken in a busted that is there", function()
        bench.must { "mkdir", "-p", bench.path("busted") }
        bench.write("busted/runner.lua", "error 'it is broken'")
        local result = bench.run { bench.moongate, "test", env = { LUA_PATH = bench.path("?.lua") } }
        assert.equal(1, result.code)
        assert.matches("it is broken", result.err, 1, true)
    end)

    it("takes its own Lua from MOONGATE_LUA where it is set", function()
        bench.must { "mkdir", "-p", bench.path("lua/moongate") }
        bench.write("lua/moongate/testing.lua", "return 'another'")
        local dir = directory { ["spec/a_spec.lua"] = [[
            it("a", function() assert.equal("another", require "moongate.testing") end)]] }
        local result = bench.run { bench.moongate, "test", cwd = dir, env = { MOONGATE_LUA = bench.path("lua") } }
        assert.equal(0, result.code, result.out)
    end)
end)

describe("examples/policy_spec.lua", function()
    it("passes under moongate test", function()
        local result = test(here, "examples")
        assert.equal(0, result.code, result.out .. result.err)
        assert.matches("12 successes / 0 failures / 0 errors / 0 pending", result.out, 1, true)
    end)

    it("passes under busted with a stock lua5.4", function()
        if bench.sanitized then
            pending("a stock lua5.4 has no sanitizer")
            return
        end
        local result = bench.run { "busted", "--lua=lua5.4", "--lpath=lua/?.lua",
            "--cpath=" .. bench.build .. "/lua/?.so", "examples", cwd = here }
        assert.equal(0, result.code, result.out .. result.err)
        assert.matches("12 successes / 0 failures / 0 errors / 0 pending", result.out, 1, true)
    end)
end)
