--- testing.handshake with what a listener may have as `tls`: the ClientHello decides in memory as on a listener.

package.path = "spec/unit/support/?.lua;lua/?.lua;" .. package.path
local openssl = require "moongate.openssl"
local testing = require "moongate.testing"

local ca = testing.ca()
local first = testing.certificate { ca = ca, names = { "a.example", "*.a.example" } }
local second = testing.certificate { ca = ca, names = { "b.example" } }

-- The tls of the only listener of a script with contexts a and b; `text` sets `tls`.
local function policy_of(text)
    return testing.load("moongate.lua", { files = { ["a.pem"] = first.pem .. first.key_pem,
        ["b.pem"] = second.pem .. second.key_pem, ["ca.pem"] = ca.pem, ["moongate.lua"] = ([[
            local moongate, openssl = require "moongate", require "moongate.openssl"
            local SSL, tls = openssl.SSL
            moongate.settings { callback_budget = 0.02 }
            local a, b = SSL.SSLContext.new(), SSL.SSLContext.new()
            a:load_certificate "a.pem"
            b:load_certificate "b.pem"
            %s
            moongate.listen { name = "web", address = "127.0.0.1:1", tls = tls, backend = function(conn)
                return conn.servername and "backend.example:1" or nil, "without a name"
            end }
        ]]):format(text) } }).listeners.web
end

local function tls_of(text)
    return policy_of(text).tls
end

local function shake(tls, servername, client, session)
    return testing.handshake(tls, client, { servername = servername, session = session })
end

local function serves(certificate, hs)
    assert.is_true(hs.ok, hs.server_error or hs.client_error)
    assert.equal(certificate.cert:to_der(), hs.client.peer_cert:to_der())
end

local function refuses(alert, reason, hs)
    assert.same({ false, alert }, { hs.ok, hs.alert })
    assert.matches(reason, hs.server_error, 1, true)
    assert.is_string(hs.client_error)
    assert.is_nil(hs.passthrough)
    assert.is_nil(hs.version)
end

for _, version in ipairs { "tls12", "tls13" } do
    describe("testing.handshake, " .. version, function()
        local client = testing.clients[version]

        describe("with a tls function", function()
            it("serves what it returns for this very ClientHello", function()
                local tls = tls_of [[tls = function(hello)
                    assert(#hello.raw > 100 and #hello.ja4 == 36 and hello.supports_ecdsa)
                    assert(hello.remote_ip and hello.remote_port and hello.local_port and hello.socket_ip)
                    if hello.alpn_protocols[1] == "h2" then return a end
                    return hello.servername == "b.example" and b or a
                end]]
                serves(first, shake(tls, "a.example", client))
                serves(first, shake(tls, nil, client))
                serves(second, shake(tls, "b.example", client))
                serves(first, shake(tls, "b.example", client { alpn_protocols = { "h2" } }))
            end)

            it("has the whole policy apply", function()
                local tls = tls_of [[
                    b.min_version = SSL.TLS1_3_VERSION
                    a.verify_mode, a.ca_file = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, "ca.pem"
                    a.alpn_select_cb = function(list) return list[2] end
                    tls = function(hello) return hello.servername == "b.example" and b or a end]]
                local hs = shake(tls, "a.example", client)
                assert.is_false(hs.ok)
                assert.matches("peer did not return a certificate", hs.server_error, 1, true)
                hs = shake(tls, "a.example", client { alpn_protocols = { "h2", "http/1.1" },
                    certificate = testing.certificate { ca = ca } })
                serves(first, hs)
                assert.equal("http/1.1", hs.alpn_protocol)
                hs = shake(tls, "b.example", client)
                if version == "tls13" then
                    serves(second, hs)
                else
                    assert.equal("protocol_version", hs.alert)
                end
            end)

            it("carries data both ways", function()
                local hs = shake(tls_of "tls = function() return a end", nil, client)
                hs.client:write "ping"
                assert.equal("ping", hs.server:read())
                hs.server:write "pong"
                assert.equal("pong", hs.client:read())
            end)

            it("refuses with the reason and the alert it gives", function()
                local tls = tls_of [[tls = function(hello)
                    if hello.servername == "denied.example" then return nil, "go away", 49 end
                    if hello.servername == "unknown.example" then return nil, "nobody of that name" end
                    if hello.servername == "false.example" then return false end
                end]]
                refuses("access_denied", "go away", shake(tls, "denied.example", client))
                refuses("unrecognized_name", "nobody of that name", shake(tls, "unknown.example", client))
                refuses("unrecognized_name", "nothing is served under this name", shake(tls, "false.example", client))
                refuses("unrecognized_name", "nothing is served without a name", shake(tls, nil, client))
            end)

            it("ends with internal_error where it fails, as on a listener", function()
                local tls = tls_of [[
                    local kept
                    tls = function(hello)
                        local name = hello.servername
                        if name == "raise.example" then error "nobody of that name" end
                        if name == "odd.example" then return 42 end
                        if name == "alert.example" then return nil, "x", "y" end
                        if name == "endless.example" then while true do pcall(function() while true do end end) end end
                        if name == "broken.example" then
                            local c = SSL.SSLContext.new()
                            c.ca_file = "nowhere.pem"
                            return c
                        end
                        if kept then return kept.servername and a end
                        kept = hello
                        return a
                    end]]
                local function fails(name, reason)
                    refuses("internal_error", reason, shake(tls, name, client))
                end
                fails("raise.example", "the tls function failed: moongate.lua:10: nobody of that name")
                fails("odd.example", "the function returned a number; expected an SSLContext, moongate.PASSTHROUGH")
                fails("alert.example", "the third result is the number of an alert")
                fails("endless.example", "tls function ran longer than settings.callback_budget (0.02 seconds")
                fails("broken.example", "nowhere.pem")
                serves(first, shake(tls, "a.example", client))
                fails("a.example", "Hello: it is of use only inside the tls function that was called with it")
            end)

            it("passes through", function()
                local listener = policy_of "tls = function() return moongate.PASSTHROUGH end"
                local hs = shake(listener.tls, "a.example", client)
                assert.same({ false, true, "a.example" }, { hs.ok, hs.passthrough, hs.server.servername })
                assert.same({}, hs.server.alpn_protocols)
                assert.matches("passed through", hs.server_error, 1, true)
                assert.is_nil(hs.alert)
                assert.equal("backend.example:1", (listener.backend(hs.server)))
                hs = shake(listener.tls, nil, client)
                assert.same({ nil, "without a name" }, { listener.backend(hs.server) })
            end)

            it("may make a context on the spot", function()
                local tls = tls_of [[tls = function()
                    local c = SSL.SSLContext.new()
                    c:load_certificate "b.pem"
                    c.servername_cb = function(_, name) if name == "a.example" then return a end end
                    c.alpn_select_cb = function(list) collectgarbage() return list[1] end
                    return c
                end]]
                collectgarbage()
                local hs = shake(tls, "b.example", client { alpn_protocols = { "h2" } })
                serves(second, hs)
                assert.equal("h2", hs.alpn_protocol)
                serves(first, shake(tls, "a.example", client))
            end)

            it("resumes under the name it was made for, and no other", function()
                local tls = tls_of "tls = function() return a end"
                local one = client()
                local hs = shake(tls, "a.example", one)
                local session = hs.client.session
                assert.is_true(shake(tls, "a.example", one, session).session_reused)
                assert.is_false(shake(tls, "x.a.example", one, session).session_reused)
            end)

            it("takes one of the spec's own", function()
                local ctx = openssl.SSL.SSLContext.new()
                ctx:add_certificate(first.cert, first.key)
                local seen
                local hs = shake(function(hello)
                    seen = hello.servername
                    return ctx
                end, "a.example", client)
                serves(first, hs)
                assert.equal("a.example", seen)
                assert.is_true(ctx.frozen)
                refuses("internal_error", "own fault", shake(function() error "own fault" end, nil, client))
            end)
        end)

        describe("with a ServerNames", function()
            local tls
            setup(function()
                tls = tls_of [[tls = moongate.servernames { a, ["b.example"] = b, ["no.example"] = false,
                    ["pass.example"] = moongate.PASSTHROUGH, none = b }]]
            end)

            it("serves by name", function()
                serves(first, shake(tls, "A.example", client))
                serves(first, shake(tls, "x.a.example", client))
                serves(second, shake(tls, "b.example", client))
                serves(second, shake(tls, nil, client))
                serves(second, shake(tls, "127.0.0.1", client)) -- an address is not asked for
            end)

            it("refuses, and passes through", function()
                refuses("unrecognized_name", "nothing is served under this name", shake(tls, "no.example", client))
                refuses("unrecognized_name", "nothing is served under this name", shake(tls, "c.example", client))
                local hs = shake(tls, "pass.example", client)
                assert.same({ false, true, "pass.example" }, { hs.ok, hs.passthrough, hs.server.servername })
            end)
        end)
    end)
end

describe("openssl.handshake", function()
    local ctx = openssl.SSL.SSLContext.new()
    ctx:add_certificate(first.cert, first.key)
    local client = testing.clients.permissive()

    it("asks a function for the server's context, with the ClientHello", function()
        local hs = openssl.handshake(function(message)
            assert.equal("\1\0", message:sub(1, 2))
            return ctx
        end, client)
        assert.is_true(hs.ok)
        for _, case in ipairs { { nil, "refused" }, { "certificate_unknown", "own words", nil, "own words", 46 },
            { "internal_error", "expected SSLContext", 5 } } do
            hs = openssl.handshake(function() return table.unpack(case, 3, 5) end, client)
            assert.same({ false, case[1] }, { hs.ok, hs.alert })
            assert.matches(case[2], hs.server_error, 1, true)
        end
        hs = openssl.handshake(function() error(setmetatable({}, { __tostring = error })) end, client)
        assert.equal("internal_error", hs.alert)
    end)

    it("may be nested, and run in a coroutine", function()
        local hs = coroutine.wrap(function()
            return openssl.handshake(function()
                assert(openssl.handshake(function() return ctx end, client).ok)
                return ctx
            end, client)
        end)()
        assert.is_true(hs.ok)
        hs.client:write "x"
        assert.equal("x", hs.server:read())
    end)

    it("does not ask where the client says nothing", function()
        local mute = testing.clients.tls12 { ciphers = "AES128-SHA", min_version = "TLS1_2" }
        mute.options = openssl.SSL.OP_NO_TLSv1_2
        local hs = openssl.handshake(function() error "asked" end, mute)
        assert.is_false(hs.ok)
        assert.is_nil(hs.server_error:find("asked", 1, true))
    end)
end)
