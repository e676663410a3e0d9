package.path = "spec/unit/support/?.lua;" .. package.path
local fix = require "fixtures"
local SSL, X509, SSLContext, raises = fix.SSL, fix.X509, fix.SSLContext, fix.raises
local server, client, only, handshake = fix.server, fix.client, fix.only, fix.handshake

local versions = { TLS1_2 = "TLSv1.2", TLS1_3 = "TLSv1.3" }

local function refused(hs, alert, side, text)
    assert.is_false(hs.ok)
    assert.equal(alert, hs.alert)
    assert.truthy((hs[side .. "_error"] or ""):find(text, 1, true),
        ("%s_error %q does not contain %q"):format(side, tostring(hs[side .. "_error"]), text))
    return hs
end

for version, version_name in pairs(versions) do
    describe("a handshake on " .. version_name, function()
        for title, case in pairs {
            ["an RSA-only client gets RSA"] = { "RSA+SHA256:RSA-PSS+SHA256", "RSA", "rsa" },
            ["an ECDSA-only client gets ECDSA"] = { "ECDSA+SHA256", "EC", "ec" },
            ["a client of both kinds gets ECDSA"] = { "ECDSA+SHA256:RSA-PSS+SHA256", "EC", "ec" },
        } do
            it(title, function()
                local hs = handshake(server(), client(only(version, { sigalgs = case[1] })))
                assert.is_true(hs.ok, hs.client_error)
                assert.equal(version_name, hs.version)
                assert.equal(case[2], hs.key_type)
                assert.equal(fix.cert(case[3]), hs.client.peer_cert)
                assert.equal(fix.cert(case[3]), hs.server.cert)
            end)
        end

        it("uses Ed25519, too", function()
            local hs = handshake(server { certs = { "ed25519" } }, client(only(version)))
            assert.equal("ED25519", hs.key_type)
            assert.equal("ed25519", hs.client.peer_sigalg)
        end)

        it("fills the readers of both ends", function()
            local hs = handshake(server(), client(only(version, { sigalgs = "ECDSA+SHA256", groups = "P-256" })))
            for _, side in ipairs { "server", "client" } do
                local conn = hs[side]
                assert.equal(version_name, conn.ssl_version)
                assert.equal(hs.cipher, conn.cipher[1])
                assert.equal("localhost", conn.servername)
                assert.equal(0, conn.verify_result)
                assert.is_false(conn.session_reused)
                assert.equal(0, conn.pending)
                assert.truthy(conn.state:match("^SSLOK"))
                assert.truthy(({ prime256v1 = true, secp256r1 = true, ["P-256"] = true })[conn.group], conn.group)
            end
            assert.equal(hs.client.finished_message, hs.server.peer_finished_message)
            assert.equal(hs.server.finished_message, hs.client.peer_finished_message)
            assert.equal("ecdsa_secp256r1_sha256", hs.client.peer_sigalg)
            assert.equal("ecdsa_secp256r1_sha256", hs.server.sigalg)
            assert.equal("EC", hs.client.tmp_key.type)
            assert.equal(1, #hs.client.peer_cert_chain)
            assert.is_nil(hs.server.peer_cert_chain)
            assert.is_nil(hs.client.cert)
            assert.same({}, hs.server.alpn_protocols)
            assert.is_nil(hs.client.alpn_protocols)
            assert.same({ "h2", "http/1.1" }, handshake(server(), client(only(version,
                { alpn_protocols = { "h2", "http/1.1" } }))).server.alpn_protocols)
            assert.same({}, hs.server.client_ca)
        end)

        -- ---- verification ------------------------------------------------------------------------

        it("refuses an unknown CA", function()
            local hs = handshake(server(), client(only(version, { cert_store = X509.Store.new() })))
            refused(hs, "unknown_ca", "client", "certificate verify failed (unable to get local issuer certificate)")
        end)

        it("refuses an expired certificate", function()
            local ctx = SSLContext.new()
            ctx:add_certificate(fix.cert "expired", fix.key "ec")
            refused(handshake(ctx, client(only(version))), "certificate_expired", "client", "certificate has expired")
        end)

        for name, accepted in pairs {
            localhost = true, ["a.example.com"] = true, ["127.0.0.1"] = true, ["a.b.example.com"] = false,
            ["example.com"] = false, ["127.0.0.2"] = false, ["::1"] = false,
        } do
            it((accepted and "accepts " or "refuses ") .. name, function()
                local hs = handshake(server(), client(only(version)), { servername = name })
                if accepted then
                    assert.is_true(hs.ok, hs.client_error)
                else
                    refused(hs, "bad_certificate", "client", "mismatch")
                end
            end)
        end

        it("verifies no name without verify_hostname", function()
            local hs = handshake(server(), client(only(version, { verify_hostname = false })), { servername = "other" })
            assert.is_true(hs.ok)
        end)

        it("shows with VERIFY_NONE only in verify_result that a certificate is bad", function()
            local hs = handshake(server(), client(only(version, { verify_mode = SSL.VERIFY_NONE,
                verify_hostname = false, cert_store = X509.Store.new() })))
            assert.is_true(hs.ok)
            assert.equal(X509.V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY, hs.client.verify_result)
        end)

        it("limits the depth", function()
            local middle = fix.certificate { subject = "/CN=middle", key = fix.key "other_ca", ca = true,
                issuer = fix.cert "ca", issuer_key = fix.key "ca" }
            local leaf = fix.certificate { subject = "/CN=leaf", key = fix.key "ec", issuer = middle,
                issuer_key = fix.key "other_ca", names = "DNS:localhost" }
            local ctx = SSLContext.new()
            ctx:add_certificate(leaf, fix.key "ec", { middle })
            assert.is_true(handshake(ctx, client(only(version))).ok)
            local hs = handshake(ctx, client(only(version, { verify_depth = 0 })))
            assert.is_false(hs.ok)
        end)

        -- ---- client certificates -----------------------------------------------------------------

        describe("with client certificates", function()
            local function demanding(settings)
                local ctx = server(settings)
                if ctx.verify_mode == SSL.VERIFY_NONE then
                    ctx.verify_mode = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT
                end
                ctx.cert_store = ctx.cert_store or fix.store()
                ctx.client_ca = fix.cert "ca"
                return ctx
            end

            it("accepts a good one", function()
                local hs = handshake(demanding(), client(only(version, { cert = fix.cert "client",
                    key = fix.key "client" })))
                assert.is_true(hs.ok, hs.server_error)
                assert.equal(fix.cert "client", hs.server.peer_cert)
                -- Without the leaf; the client completed its chain from its cert_store.
                assert.same({ fix.cert "ca" }, hs.server.peer_cert_chain)
                assert.equal("/CN=Test CA", hs.client.client_ca[1]:to_s())
                assert.equal(fix.cert "client", hs.client.cert)
            end)

            it("takes add_certificate's on a client, too", function()
                local ctx = client(only(version))
                ctx:add_certificate(fix.cert "client", fix.key "client")
                assert.is_true(handshake(demanding(), ctx).ok)
            end)

            it("refuses none", function()
                refused(handshake(demanding(), client(only(version))),
                    version == "TLS1_3" and "certificate_required" or "handshake_failure", "server",
                    "peer did not return a certificate")
            end)

            it("lets none pass with VERIFY_PEER alone", function()
                local hs = handshake(demanding { verify_mode = SSL.VERIFY_PEER }, client(only(version)))
                assert.is_true(hs.ok)
                assert.is_nil(hs.server.peer_cert)
            end)

            it("refuses one of another CA", function()
                local hs = handshake(demanding { cert_store = fix.store "other_ca" },
                    client(only(version, { cert = fix.cert "client", key = fix.key "client" })))
                refused(hs, "unknown_ca", "server", "certificate verify failed")
            end)

            it("asks verify_callback on the server", function()
                local subjects = {}
                local ctx = demanding()
                ctx.verify_callback = function(ok, store_context)
                    table.insert(subjects, 1, store_context.current_cert.subject:to_s())
                    return ok
                end
                local hs = handshake(ctx, client(only(version, { cert = fix.cert "client", key = fix.key "client" })))
                assert.is_true(hs.ok)
                assert.same({ "/CN=client", "/CN=Test CA" }, subjects)
            end)
        end)

        it("verifies an address with a zone without it, and sends no name", function()
            local ctx = SSLContext.new()
            ctx:add_certificate(fix.certificate {
                subject = "/CN=link-local", key = fix.key "ec", issuer = fix.cert "ca", issuer_key = fix.key "ca",
                names = "IP:fe80::1,DNS:10.0.0.1",
            }, fix.key "ec")
            for name, accepted in pairs {
                ["fe80::1%eth0"] = true, ["fe80::1%"] = true, ["fe80::2%eth0"] = false, ["10.0.0.1%eth0"] = false,
            } do
                local hs = handshake(ctx, client(only(version)), { servername = name })
                assert.equal(accepted, hs.ok, name)
                assert.equal(name:find("^10") and name or nil, hs.server.servername)
            end
        end)

        -- ---- verify_callback ---------------------------------------------------------------------

        describe("with a verify_callback", function()
            it("goes from the root to the leaf", function()
                local depths, chain = {}, nil
                local hs = handshake(server(), client(only(version, { verify_callback = function(ok, store_context)
                    assert.is_true(ok)
                    depths[#depths + 1] = store_context.error_depth
                    chain = #store_context.chain
                    return ok
                end })))
                assert.is_true(hs.ok)
                assert.same({ 1, 0 }, depths)
                assert.equal(2, chain)
            end)

            it("true accepts, and wipes the error", function()
                local errors = {}
                local hs = handshake(server(), client(only(version, {
                    cert_store = X509.Store.new(),
                    verify_callback = function(ok, store_context)
                        errors[#errors + 1] = store_context.error
                        assert.equal(ok, store_context.error == 0)
                        return true
                    end,
                })))
                assert.is_true(hs.ok)
                assert.equal(X509.V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY, errors[1])
                assert.equal(0, hs.client.verify_result)
            end)

            for title, answer in pairs {
                ["1"] = function() return 1 end, ["a string"] = function() return "yes" end,
                ["false"] = function() return false end, ["a table"] = function() return {} end,
                ["nothing"] = function() end,
            } do
                it(title .. " rejects", function()
                    local hs = handshake(server(), client(only(version, { verify_callback = answer })))
                    refused(hs, "bad_certificate", "client", "certificate rejected")
                    assert.equal(X509.V_ERR_CERT_REJECTED, hs.client.verify_result)
                end)
            end

            it("may choose the error", function()
                local hs = handshake(server(), client(only(version, { verify_callback = function(_, store_context)
                    store_context.error = X509.V_ERR_CERT_REVOKED
                    return false
                end })))
                refused(hs, "certificate_revoked", "client", "certificate revoked")
            end)

            it("is asked about a wrong name, and may accept it", function()
                local seen
                local hs = handshake(server(), client(only(version, { verify_callback = function(ok, store_context)
                    seen = not ok and store_context.error or seen
                    return true
                end })), { servername = "other.test" })
                assert.is_true(hs.ok)
                assert.equal(X509.V_ERR_HOSTNAME_MISMATCH, seen)
            end)

            it("runs with VERIFY_NONE, where its rejection stops nothing", function()
                local calls = 0
                local hs = handshake(server(), client(only(version, { verify_mode = SSL.VERIFY_NONE,
                    verify_callback = function()
                        calls = calls + 1
                        return false
                    end })))
                assert.is_true(hs.ok)
                assert.equal(1, calls)
                assert.equal(X509.V_ERR_CERT_REJECTED, hs.client.verify_result)
            end)

            it("may close its StoreContext itself", function()
                local hs = handshake(server(), client(only(version, { verify_callback = function(ok, store_context)
                    local closing <close> = store_context
                    return ok and closing.error == 0
                end })))
                assert.is_true(hs.ok, hs.client_error)
            end)

            it("leaves a StoreContext that is dead", function()
                local kept
                handshake(server(), client(only(version, { verify_callback = function(ok, store_context)
                    kept = store_context
                    return ok
                end })))
                for _, name in ipairs { "error", "error_string", "error_depth", "current_cert", "chain", "flags" } do
                    raises("RuntimeError", "StoreContext: STORE_CTX is out of scope!", function() return kept[name] end)
                end
                raises("RuntimeError", "StoreContext: STORE_CTX is out of scope!", fix.assign, kept, "error", 0)
            end)

            for _, mode in ipairs { SSL.VERIFY_PEER, SSL.VERIFY_NONE } do
                it("fails the connection when it raises, verify_mode " .. mode, function()
                    local kept
                    local hs = handshake(server(), client(only(version, { verify_mode = mode,
                        verify_callback = function(_, store_context)
                            kept = store_context
                            error("no opinion")
                        end })))
                    refused(hs, "bad_certificate", "client", "no opinion")
                    assert.truthy(hs.client_error:find("verify_callback", 1, true))
                    raises("RuntimeError", "StoreContext: STORE_CTX is out of scope!", function() return kept.error end)
                end)
            end
        end)

        -- ---- ALPN --------------------------------------------------------------------------------

        describe("with alpn_protocols", function()
            it("the server's preference decides", function()
                local hs = handshake(server { alpn_protocols = { "h2", "http/1.1" } },
                    client(only(version, { alpn_protocols = { "http/1.1", "h2" } })))
                assert.equal("h2", hs.alpn_protocol)
                assert.equal("h2", hs.server.alpn_protocol)
            end)

            it("no overlap is no_application_protocol", function()
                local hs = handshake(server { alpn_protocols = { "h2" } },
                    client(only(version, { alpn_protocols = { "smtp" } })))
                refused(hs, "no_application_protocol", "server", "no application protocol")
            end)

            it("is not needed on either side", function()
                assert.is_nil(handshake(server(), client(only(version, { alpn_protocols = { "h2" } }))).alpn_protocol)
                assert.is_nil(handshake(server { alpn_protocols = { "h2" } }, client(only(version))).alpn_protocol)
                assert.is_nil(handshake(server { alpn_protocols = {} },
                    client(only(version, { alpn_protocols = { "h2" } }))).alpn_protocol)
            end)
        end)

        describe("with an alpn_select_cb", function()
            local offer = { "h2", "http/1.1", "a\0b" }
            local function select(fn, settings)
                settings = settings or {}
                settings.alpn_select_cb = fn
                return handshake(server(settings), client(only(version, { alpn_protocols = offer })))
            end

            it("does no harm by calling its caller", function()
                local caller
                select(function(protocols)
                    caller = debug.getinfo(2, "f").func
                    return protocols[1]
                end)
                for _, argument in ipairs { false, "text", server(), {} } do
                    assert.is_false(pcall(caller, argument))
                end
                assert.is_false(pcall(caller))
            end)

            it("gets the offer, and its string is chosen", function()
                local seen
                local hs = select(function(protocols)
                    seen = protocols
                    return "http/1.1"
                end)
                assert.same(offer, seen)
                assert.equal("http/1.1", hs.alpn_protocol)
                assert.equal("a\0b", select(function(protocols) return protocols[3] end).alpn_protocol)
            end)

            it("wins over the server's alpn_protocols", function()
                assert.equal("http/1.1", select(function() return "http/1.1" end,
                    { alpn_protocols = { "h2" } }).alpn_protocol)
            end)

            it("nil is no_application_protocol", function()
                refused(select(function() end), "no_application_protocol", "server", "no application protocol")
            end)

            it("false goes on without ALPN", function()
                local hs = select(function() return false end)
                assert.is_true(hs.ok)
                assert.is_nil(hs.alpn_protocol)
            end)

            it("is not asked when nothing is offered", function()
                assert.is_true(handshake(server { alpn_select_cb = error }, client(only(version))).ok)
            end)

            for title, case in pairs {
                ["an error"] = { function() error("cannot choose") end, "cannot choose" },
                ["an error that is a table"] = { function() error({}) end, "alpn_select_cb: " },
                ["an error whose text raises"] = { function()
                    error(setmetatable({}, { __tostring = function() error("again") end }))
                end, "(error object is a table value)" },
                ["an error of ours"] = { function() SSLContext.new("x") end, "ArgumentError: " },
                ["a number"] = { function() return 1 end, "expected a string, nil or false as result, got number" },
                ["true"] = { function() return true end, "got boolean" },
                ["an empty string"] = { function() return "" end, "Selected protocol name must have length 1..255" },
                ["a long string"] = { function() return ("x"):rep(256) end, "length 1..255" },
                ["what was not offered"] = { function() return "h3" end, 'the client did not offer "h3"' },
                ["a yield"] = { function() coroutine.yield() end, "attempt to yield" },
                ["an endless recursion"] = { function() local function f() return 1 + f() end f() end,
                    "stack overflow" },
            } do
                it(title .. " fails the connection with no_application_protocol", function()
                    local hs = refused(select(case[1]), "no_application_protocol", "server", case[2])
                    assert.truthy(hs.server_error:find("alpn_select_cb", 1, true))
                end)
            end

            it("may start handshakes itself", function()
                local inner
                local hs = select(function()
                    inner = handshake(server { alpn_protocols = { "x" } }, client { alpn_protocols = { "x" } })
                    collectgarbage()
                    return "h2"
                end)
                assert.equal("x", inner.alpn_protocol)
                assert.equal("h2", hs.alpn_protocol)
            end)

            it("survives handshakes without end", function()
                local ctx, peer = server(), client(only(version, { alpn_protocols = offer }))
                ctx.alpn_select_cb = function()
                    assert(handshake(ctx, peer).ok)
                    return "h2"
                end
                assert.is_false(handshake(ctx, peer).ok)
            end)

            it("runs in the coroutine of the handshake", function()
                local hs = coroutine.wrap(function() return select(function() return "h2" end) end)()
                assert.equal("h2", hs.alpn_protocol)
            end)
        end)

        it("fails where the server has no certificate", function()
            local hs = handshake(SSLContext.new(), client(only(version)))
            if version == "TLS1_3" then -- which such a server cannot speak at all
                refused(hs, "protocol_version", "server", "unsupported protocol")
            else
                refused(hs, "handshake_failure", "server", "no shared cipher")
            end
        end)
    end)
end

describe("versions", function()
    it("that do not meet are protocol_version", function()
        refused(handshake(server { min_version = "TLS1_3" }, client { max_version = "TLS1_2" }), "protocol_version",
            "server", "unsupported protocol")
    end)

    it("that cross each other are accepted, and fail the handshake", function()
        local hs = handshake(server { min_version = "TLS1_3", max_version = "TLS1_2" }, client())
        refused(hs, "protocol_version", "server", "no protocols available")
    end)

    it("groups, ciphers and suites that were set are used", function()
        local hs = handshake(server { ciphersuites = "TLS_AES_128_GCM_SHA256", groups = "P-384" }, client())
        assert.equal("TLS_AES_128_GCM_SHA256", hs.cipher)
        assert.equal("secp384r1", hs.client.group)
        hs = handshake(server { max_version = "TLS1_2", ciphers = "ECDHE-RSA-AES128-GCM-SHA256" }, client())
        assert.equal("ECDHE-RSA-AES128-GCM-SHA256", hs.cipher)
    end)

    it("OP_CIPHER_SERVER_PREFERENCE makes the server choose", function()
        local order = { "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384" }
        local function cipher(options)
            local ctx = server { max_version = "TLS1_2", ciphers = { order[2], order[1] } }
            ctx.options = ctx.options | options
            return handshake(ctx, client { ciphers = order }).cipher
        end
        assert.equal(order[1], cipher(0))
        assert.equal(order[2], cipher(SSL.OP_CIPHER_SERVER_PREFERENCE))
    end)
end)

describe("openssl.handshake", function()
    it("sets both contexts up", function()
        local a, b = server(), client()
        handshake(a, b)
        assert.is_true(a.frozen)
        assert.is_true(b.frozen)
    end)

    it("raises what setup raises", function()
        local ctx = server { cert = fix.cert "ec" }
        raises("ArgumentError", "cert is set, but key is not", handshake, ctx, client())
    end)

    it("checks its arguments", function()
        raises("TypeError", "openssl.handshake: argument 1: expected SSLContext, got string", handshake, "x", client())
        raises("TypeError", "openssl.handshake: argument 2: expected SSLContext, got Store", handshake, server(),
            fix.store())
        raises("ArgumentError", "given 1, expected 2..3", fix.openssl.handshake, server())
    end)

    it("knows its options", function()
        raises("ArgumentError", 'openssl.handshake: unknown option "sni" (there are servername and session)', handshake,
            server(), client(),
            { sni = "x" })
        raises("TypeError", "openssl.handshake.servername: expected a string, got number", handshake, server(),
            client(),
            { servername = 1 })
        raises("SSLError", "server name longer than", handshake, server(), client(), { servername = ("x"):rep(300) })
    end)
end)
