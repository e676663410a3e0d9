-- A script that cannot be loaded changes nothing, and says where and why.

local bench = require "bench"
local certs = require "certs"
local proxy = require "proxy"
local socket = require "socket"

local GOOD = [[
local moongate = require "moongate"
local openssl = require "moongate.openssl"
local ctx = openssl.SSL.SSLContext.new()
ctx:load_certificate("$rsa_crt", "$rsa_key")
moongate.listen { name = "web", address = "127.0.0.1:$port", tls = ctx, backend = moongate.reply("$answer") }
]]

teardown(proxy.cleanup)

describe("a reload that fails", function()
    local web, port, taken, squatter

    setup(function()
        port, taken = bench.port(), bench.port()
        squatter = assert(socket.bind("127.0.0.1", taken))
        web = proxy.start { whole = true, port = port, taken = taken, answer = "first", script = GOOD,
            missing = bench.path("missing.key"), garbage = bench.write("garbage.pem", "no certificate at all\n") }
    end)
    teardown(function() squatter:close() end)

    local function answer()
        local result = bench.run { "curl", "-sS", "--http0.9", "--cacert", certs.ca.crt,
            ("https://localhost:%d/"):format(port) }
        return result.out
    end

    -- `wants`: what the error must contain (plain text), the line among it.
    local function refused(what, script, wants)
        it(what, function()
            local before = web:status().generation
            local result = web:try_reload(script)
            assert.equal(1, result.code)
            local last = result.err:match("([^\n]*)\n*$")
            for _, want in ipairs(wants) do
                assert.matches(want, result.err, 1, true)
            end
            assert.not_equal("", last)
            assert.equal("first", answer())
            assert.equal(before, web:status().generation)
        end)
    end

    refused("with a syntax error", "local moongate = require \"moongate\"\nmoongate.listen {\n  address = = 1\n}\n",
        { "moongate.1.lua:3" })

    refused("with an error at run time", "local x = nil\nlocal y = x.field\n", { "moongate.1.lua:2" })

    refused("with an unknown option", [[
local moongate = require "moongate"
moongate.listen { adress = "127.0.0.1:$port", backend = moongate.echo() }
]], { "moongate.1.lua:2", 'unknown option "adress"', 'did you mean "address"' })

    refused("with a missing key", [[
local openssl = require "moongate.openssl"
local ctx = openssl.SSL.SSLContext.new()
ctx:load_certificate("$rsa_crt", "$missing")
]], { "moongate.1.lua:3", "missing.key", "No such file or directory" })

    refused("with a certificate that is none", [[
local openssl = require "moongate.openssl"
local ctx = openssl.SSL.SSLContext.new()
ctx:load_certificate("$garbage", "$rsa_key")
]], { "moongate.1.lua:3", "garbage.pem" })

    refused("with a certificate and another's key", [[
local openssl = require "moongate.openssl"
local ctx = openssl.SSL.SSLContext.new()
ctx:load_certificate("$rsa_crt", "$rsa2_key")
]], { "moongate.1.lua:3", "mismatch" })

    refused("with a certificate that the security level refuses", [[
local moongate = require "moongate"
local openssl = require "moongate.openssl"
local ctx = openssl.SSL.SSLContext.new()
ctx:load_certificate("$small_crt", "$small_key")
moongate.listen { name = "web", address = "127.0.0.1:$port", tls = ctx, backend = moongate.echo() }
]], { "too small" })

    refused("with an address that somebody else uses", [[
local moongate = require "moongate"
moongate.listen { name = "other", address = "127.0.0.1:$taken", backend = moongate.echo() }
]], { "Address already in use" })

    it("does not keep the next good one from working", function()
        web.options.answer = "second"
        web:reload(GOOD)
        assert.equal("second", answer())
    end)

    it("by signal is in the log, and the old generation serves on", function()
        web:write_script("this is no Lua")
        web.program:signal(proxy.signals.HUP)
        web:wait_log("moongate.1.lua:1")
        assert.equal("second", answer())
        web.options.answer = "third"
        web:write_script(GOOD)
        web.program:signal(proxy.signals.HUP)
        bench.wait("the third answer", function() return answer() == "third" end)
    end)
end)

describe("a first load that fails", function()
    it("ends the program with 1 and the reason as the last line", function()
        local result = proxy.refused { whole = true, script = "local a = 1\nerror('not today')\n",
            log_format = "text" }
        assert.equal(1, result.code)
        assert.matches("lua:2: not today", result.log:match("([^\n]*)\n*$"), 1, true)
    end)
end)
