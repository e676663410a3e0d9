--- Policies loaded by testing.load run their callbacks under settings.callback_budget, as in a worker.

package.path = "spec/unit/support/?.lua;lua/?.lua;" .. package.path
local fix = require "fixtures"
local testing = require "moongate.testing"

local own = testing.certificate()
local ca = testing.ca()
local client_certificate = testing.certificate { ca = ca, subject = "client" }

local function load(text, budget)
    return testing.load("moongate.lua", { files = { ["web.crt"] = own.pem, ["web.key"] = own.key_pem,
        ["ca.crt"] = ca.pem, ["moongate.lua"] = ([[
            local moongate, openssl = require "moongate", require "moongate.openssl"
            moongate.settings { callback_budget = %s }
            local ctx = openssl.SSL.SSLContext.new()
            ctx:load_certificate("web.crt", "web.key")
            %s
            moongate.listen { name = "web", address = "127.0.0.1:1", tls = ctx, backend = moongate.echo() }
        ]]):format(budget or "0.02", text) } }).contexts.web
end

local function shake(ctx, version)
    return testing.handshake(ctx, testing.clients[version] { alpn_protocols = { "h2" },
        certificate = client_certificate }, { servername = "localhost" })
end

local EXPIRED = "ran longer than settings.callback_budget (0.02 seconds of CPU time)"
local LOOP = "while true do end"

describe("an endless loop", function()
    local bodies = {
        plain = LOOP,
        ["in pcall"] = "while true do pcall(function() " .. LOOP .. " end) end",
        ["in a coroutine"] = "while true do coroutine.resume(coroutine.create(function() " .. LOOP .. " end)) end",
        ["in xpcall's handler"] = "xpcall(error, function() " .. LOOP .. " end)",
    }
    for _, version in ipairs { "tls12", "tls13" } do
        for name, body in pairs(bodies) do
            it(("%s of alpn_select_cb ends its handshake (%s)"):format(name, version), function()
                local ctx = load(("ctx.alpn_select_cb = function() %s end"):format(body))
                for _ = 1, 2 do
                    local hs = shake(ctx, version)
                    assert.is_false(hs.ok)
                    assert.equal("no_application_protocol", hs.alert)
                    assert.matches("alpn_select_cb: moongate.lua:5: alpn_select_cb " .. EXPIRED, hs.server_error, 1,
                        true)
                end
            end)
        end

        it(("of servername_cb and verify_callback ends theirs (%s)"):format(version), function()
            local hs = shake(load "ctx.servername_cb = function() while true do end end", version)
            assert.equal("unrecognized_name", hs.alert)
            assert.matches("servername_cb " .. EXPIRED, hs.server_error, 1, true)
            hs = shake(load [[ctx.verify_mode, ctx.ca_file = 1, "ca.crt"
                ctx.verify_callback = function() while true do end end]], version)
            assert.is_false(hs.ok)
            assert.matches("verify_callback " .. EXPIRED, hs.server_error, 1, true)
        end)

        it(("of keylog_cb is stopped (%s)"):format(version), function()
            shake(load "ctx.keylog_cb = function() while true do end end", version)
        end)
    end

    it("of a context that another callback has made", function()
        local hs = shake(load [[ctx.servername_cb = function()
            local other = openssl.SSL.SSLContext.new()
            other:load_certificate("web.crt", "web.key")
            other.alpn_select_cb = function() while true do end end
            return other
        end]], "tls13")
        assert.matches("alpn_select_cb " .. EXPIRED, hs.server_error, 1, true)
    end)

    it("ends by the budget of its own script, of several", function()
        local first = load "ctx.alpn_select_cb = function() while true do end end"
        local second = load("ctx.alpn_select_cb = function() while true do end end", "0.03")
        assert.matches("(0.02 seconds of CPU time)", shake(first, "tls13").server_error, 1, true)
        assert.matches("(0.03 seconds of CPU time)", shake(second, "tls13").server_error, 1, true)
        assert.matches("(0.02 seconds of CPU time)", shake(first, "tls13").server_error, 1, true)
    end)
end)

describe("callbacks of a loaded policy", function()
    it("may use their budget", function()
        local ctx = load("ctx.alpn_select_cb = function(list) for _ = 1, 1e5 do end return list[1] end", "10")
        assert.equal("h2", shake(ctx, "tls13").client.alpn_protocol)
    end)

    it("leave the test's own hook in place", function()
        local ctx, counted = load "ctx.alpn_select_cb = function(list) return list[1] end", 0
        local function hook() counted = counted + 1 end
        debug.sethook(hook, "", 100)
        shake(ctx, "tls13")
        local now, mask, count = debug.gethook()
        debug.sethook()
        assert.equal(hook, now)
        assert.same({ "", 100 }, { mask, count })
        assert.is_true(counted > 0)
    end)

    it("do not bind the test's", function()
        load "ctx.alpn_select_cb = function(list) return list[1] end"
        local mine = fix.server { alpn_select_cb = function(list)
            local till = os.clock() + 0.06
            while os.clock() < till do end -- luacheck: ignore
            return list[1]
        end }
        assert.is_true(shake(mine, "tls13").ok)
    end)
end)

describe("a script that shakes hands while it loads", function()
    it("has the default budget for its callbacks", function()
        load [[
            local server = openssl.SSL.SSLContext.new()
            server:load_certificate("web.crt", "web.key")
            server.alpn_select_cb = function(list) for _ = 1, 20000 do end return list[1] end
            local client = openssl.SSL.SSLContext.new()
            client.alpn_protocols = { "h2" }
            local hs = openssl.handshake(server, client)
            assert(hs.ok, hs.server_error)
        ]]
    end)
end)
