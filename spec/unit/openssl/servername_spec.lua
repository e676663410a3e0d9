package.path = "spec/unit/support/?.lua;" .. package.path
local fix = require "fixtures"
local SSL = fix.SSL
local server, client, only, handshake = fix.server, fix.client, fix.only, fix.handshake

-- A server whose servername_cb is `callback`, and one to be chosen.
local function asking(callback, other)
    local ctx = server { certs = { "rsa" } }
    ctx.servername_cb = callback
    return ctx, server(other or { certs = { "ec" } })
end

for _, version in ipairs { "TLS1_2", "TLS1_3" } do
    describe("servername_cb in memory, " .. version .. ",", function()
        it("gets the Connection and the name, before there is a handshake", function()
            local got, seen
            local ctx = asking(function(conn, name)
                got, seen = name, { conn.ssl_version == nil, conn.cipher == nil }
            end)
            local hs = handshake(ctx, client(only(version)), { servername = "localhost" })
            assert.is_true(hs.ok, hs.server_error)
            assert.equal("localhost", got)
            assert.same({ true, true }, seen)
            assert.equal("RSA", hs.key_type)
            assert.equal("localhost", hs.server.servername)
        end)

        it("is not called without a name", function()
            local ctx = asking(function() error("called") end)
            assert.is_true(handshake(ctx, client { verify_hostname = false, verify_mode = SSL.VERIFY_NONE }, {}).ok)
        end)

        it("chooses the certificate, and the whole policy", function()
            local chosen
            local ctx, other = asking(function() return chosen end)
            chosen = other
            assert.equal("EC", handshake(ctx, client(only(version))).key_type)
            assert.is_true(other.frozen)
            ctx, chosen = asking(function() return chosen end, {
                [version == "TLS1_2" and "min_version" or "max_version"] =
                    version == "TLS1_2" and SSL.TLS1_3_VERSION or SSL.TLS1_2_VERSION })
            local hs = handshake(ctx, client(only(version)))
            assert.is_false(hs.ok)
            assert.equal("protocol_version", hs.alert)
        end)

        it("may make a context, whose callbacks work though nobody holds it", function()
            local called = 0
            local ctx = asking(function()
                local made = server { certs = { "ec" } }
                made.alpn_select_cb = function(list)
                    called = called + 1
                    return list[1]
                end
                return made
            end)
            local hs = handshake(ctx, client(only(version, { alpn_protocols = { "h2" } })))
            assert.is_true(hs.ok, hs.server_error)
            assert.equal("h2", hs.alpn_protocol)
            assert.equal(1, called)
        end)

        for what, callback in pairs {
            ["raises"] = function() error("nobody of that name") end,
            ["returns a number"] = function() return 42 end,
            ["returns false"] = function() return false end,
        } do
            it("ends it with unrecognized_name where it " .. what, function()
                local hs = handshake(asking(callback), client(only(version)))
                assert.is_false(hs.ok)
                assert.equal("unrecognized_name", hs.alert)
                assert.equal(112, hs.alert_number)
                assert.matches("^servername_cb: ", hs.server_error)
                assert.matches("unrecognized name", hs.client_error)
                assert.is_nil(hs.server.ssl_version)
            end)
        end
    end)
end
