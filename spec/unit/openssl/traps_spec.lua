--- The surprises of Ruby's API, by the numbers of the list that moongate was written against: mirrored, or stricter
--- on purpose. Those that have a spec beside the thing itself are not repeated: 1 and 27 (connection, identity), 11
--- (crl), 12, 18 and 22 (callbacks), 13 to 17 (session), 20 (identity).

package.path = "spec/unit/support/?.lua;" .. package.path
local fix = require "fixtures"
local SSL, X509, SSLContext, raises, assign = fix.SSL, fix.X509, fix.SSLContext, fix.raises, fix.assign
local server, client, only, handshake = fix.server, fix.client, fix.only, fix.handshake

describe("trap", function()
    it("2: ssl_version is the highest version where no handshake came to one", function()
        local hs = handshake(SSLContext.new(), client { verify_mode = 0, min_version = "TLS1_3" })
        assert.is_false(hs.ok)
        assert.is_string(hs.server.ssl_version)
    end)

    it("3: what is wrong is said before anything is frozen", function()
        local ctx = server()
        raises("SSLError", "ssl session id context too long", assign, ctx, "session_id_context", ("x"):rep(33))
        assert.is_false(ctx.frozen)
        assert.is_true(ctx:setup())
    end)

    it("4: setup and freeze return true, then nil, flush_sessions the context, set_params no options", function()
        local ctx = server()
        local applied = ctx:set_params {}
        assert.same({ verify_mode = SSL.VERIFY_PEER, verify_hostname = true }, applied)
        assert.is_true(ctx:freeze())
        assert.is_nil(ctx:setup())
        assert.equal(ctx, ctx:flush_sessions())
    end)

    it("5: a failed assignment changes nothing", function()
        local ctx = server()
        local options, ciphers, mode = ctx.options, #ctx.ciphers, ctx.verify_mode
        raises("TypeError", "SSLContext.options", assign, ctx, "options", "x")
        raises("SSLError", "no cipher match", assign, ctx, "ciphers", "nonsense")
        raises("NoMethodError", "no such field", ctx.set_params, ctx, { bogus = 1 })
        assert.same({ options, ciphers, mode }, { ctx.options, #ctx.ciphers, ctx.verify_mode })
    end)

    it("6: a setup that is repeated after a fix sends nothing twice", function()
        local ctx = SSLContext.new()
        ctx.extra_chain_cert, ctx.client_ca = { fix.cert "ca" }, fix.cert "ca"
        ctx.cert = fix.cert "ec"
        raises("ArgumentError", "cert is set, but key is not", ctx.setup, ctx)
        ctx.key = fix.key "ec"
        ctx.ca_file = "/nowhere.pem"
        raises("SSLError", "/nowhere.pem", ctx.setup, ctx)
        ctx.ca_file = nil
        local hs = handshake(ctx, client())
        assert.equal(2, #hs.client.peer_cert_chain)
        assert.equal(1, #hs.server.client_ca)
    end)

    it("7: cert without key, or the reverse, is an error", function()
        raises("ArgumentError", "cert is set, but key is not", handshake, server { cert = fix.cert "ec" }, client())
        raises("ArgumentError", "key is set, but cert is not", handshake, server { key = fix.key "ec" }, client())
    end)

    it("8: a public key of any type is refused at once", function()
        for _, name in ipairs { "rsa", "ec", "ed25519" } do
            raises("ArgumentError", "private key is needed", SSLContext.new().add_certificate, SSLContext.new(),
                fix.cert(name), fix.key(name).public_key)
        end
    end)

    it("9: ALPN and NPN entries are strings", function()
        for _, name in ipairs { "alpn_protocols", "npn_protocols" } do
            for _, bad in ipairs { 1, true, {}, print } do
                raises("TypeError", "entry 1: expected a string", assign, SSLContext.new(), name, { bad })
            end
        end
    end)

    it("10: only true accepts in verify_callback, and wipes the error", function()
        local function verifying(answer)
            return handshake(server(), client { cert_store = X509.Store.new(),
                verify_callback = function() return answer end })
        end
        assert.is_true(verifying(true).ok)
        assert.equal(0, verifying(true).client.verify_result)
        for _, answer in ipairs { 1, "x", {} } do
            assert.is_false(verifying(answer).ok)
        end
    end)

    it("19: verify_hostname without a name verifies none", function()
        assert.is_true(handshake(server(), client(), {}).ok)
        assert.is_false(handshake(server(), client(), { servername = "other.test" }).ok)
    end)

    it("21: what ca_file trusts stays in its own context", function()
        local files = fix.files()
        local shared = fix.store "other_ca"
        local ctx = client { cert_store = shared, ca_file = files:write("ca.pem", fix.cert("ca"):to_pem()) }
        assert.is_true(handshake(server(), ctx).ok)
        assert.is_false(shared:verify(fix.cert "ec"))
        assert.is_false(handshake(server(), client { cert_store = shared }).ok)
        files:remove()
    end)

    it("23: alpn_select_cb can decline", function()
        local ctx = server { alpn_select_cb = function() return false end }
        local hs = handshake(ctx, client { alpn_protocols = { "h2" } })
        assert.is_true(hs.ok)
        assert.is_nil(hs.alpn_protocol)
    end)

    it("24: the name that the client sent can be read on the server, too", function()
        assert.equal("localhost", handshake(server(), client()).server.servername)
    end)

    it("25: peer_cert_chain holds the leaf on clients only", function()
        for _, version in ipairs { "TLS1_2", "TLS1_3" } do
            local hs = handshake(server { verify_mode = 1, cert_store = fix.store() }, client(only(version)))
            assert.equal(fix.cert "ec", hs.client.peer_cert_chain[1])
            assert.same({}, hs.server.peer_cert_chain or {})
            assert.is_nil(handshake(server(), client(only(version))).server.peer_cert_chain)
        end
    end)

    it("26: tmp_key is the peer's share in TLS 1.3, and nil where there is none", function()
        local hs = handshake(server { groups = "X25519" }, client(only "TLS1_3"))
        assert.equal("X25519", hs.client.tmp_key.type)
        hs = handshake(server { certs = { "rsa" }, ciphers = "AES128-GCM-SHA256" }, client(only "TLS1_2"))
        assert.is_true(hs.ok)
        assert.is_nil(hs.client.tmp_key)
    end)

    it("28: an empty exporter context is none in TLS 1.3 only", function()
        for version, same in pairs { TLS1_2 = false, TLS1_3 = true } do
            local conn = handshake(server(), client(only(version))).client
            assert.equal(same, conn:export_keying_material("l", 8) == conn:export_keying_material("l", 8, ""))
        end
    end)

    it("29: groups that do not exist are an error", function()
        raises("SSLError", "SSL_CTX_set1_groups_list", assign, SSLContext.new(), "groups", "BOGUS")
    end)

    it("30: errors name the reason, whatever the library's wording", function()
        local hs = handshake(server(), client { cert_store = X509.Store.new() })
        assert.truthy(hs.client_error:find("unable to get local issuer certificate", 1, true))
        assert.equal("unknown_ca", hs.alert)
    end)

    it("31: what Ruby cannot read can be read", function()
        local ctx = SSLContext.new()
        ctx.min_version, ctx.groups, ctx.sigalgs = "TLS1_2", "P-256", "ed25519"
        assert.same({ SSL.TLS1_2_VERSION, "P-256", "ed25519" }, { ctx.min_version, ctx.groups, ctx.sigalgs })
    end)

    it("32: session_remove_cb runs under the cache's lock, and is told so", function()
        local message
        local ctx = server { session_remove_cb = function(self, session)
            message = select(2, pcall(self.session_add, self, session)).message
        end }
        ctx.options = ctx.options | SSL.OP_NO_TICKET
        ctx:session_remove(handshake(ctx, client()).server.session)
        assert.truthy(message:find("not possible inside session_remove_cb", 1, true))
    end)
end)
