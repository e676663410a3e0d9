package.path = "spec/unit/support/?.lua;" .. package.path
local fix = require "fixtures"
local SSL, X509, PKey, SSLContext, raises = fix.SSL, fix.X509, fix.PKey, fix.SSLContext, fix.raises

describe("SSLContext:setup", function()
    local ctx, files
    before_each(function()
        ctx = SSLContext.new()
        files = fix.files()
    end)
    after_each(function()
        files:remove()
    end)

    for _, name in ipairs { "setup", "freeze" } do
        it("is also called " .. name .. ": true first, then nil", function()
            assert.is_false(ctx.frozen)
            assert.is_true(ctx[name](ctx))
            assert.is_true(ctx.frozen)
            assert.is_nil(ctx[name](ctx))
        end)
    end

    it("wants cert and key together", function()
        ctx.cert = fix.cert "ec"
        raises("ArgumentError", "cert is set, but key is not", ctx.setup, ctx)
        assert.is_false(ctx.frozen)
        ctx.cert, ctx.key = nil, fix.key "ec"
        raises("ArgumentError", "key is set, but cert is not", ctx.setup, ctx)
        ctx.cert = fix.cert "ec"
        assert.is_true(ctx:setup())
    end)

    for title, pair in pairs {
        ["two RSA keys"] = { "rsa", "other_rsa" }, ["two EC keys"] = { "ec", "other_ec" },
        ["RSA and EC"] = { "rsa", "ec" },
    } do
        it("refuses a pair that does not fit: " .. title, function()
            ctx.cert, ctx.key = fix.cert(pair[1]), fix.key(pair[2])
            raises("SSLError", "cert and key", ctx.setup, ctx)
            assert.is_false(ctx.frozen)
        end)
    end

    it("refuses what the security level refuses, and can be repeated", function()
        ctx.cert, ctx.key = fix.cert "small_rsa", fix.key "small_rsa"
        raises("SSLError", "ee key too small", ctx.setup, ctx)
        ctx.security_level = 0
        assert.is_true(ctx:setup())
    end)

    it("adds nothing twice when it is repeated after a failure", function()
        ctx.cert, ctx.key = fix.cert "ec", fix.key "ec"
        ctx.extra_chain_cert = { fix.cert "ca" }
        ctx.client_ca = { fix.cert "ca" }
        ctx.verify_mode = SSL.VERIFY_PEER
        ctx.ca_file = files.path .. "/missing.pem"
        raises("SSLError", "missing.pem: No such file or directory", ctx.setup, ctx)
        raises("SSLError", "missing.pem: No such file or directory", ctx.setup, ctx)
        ctx.ca_file = nil
        ctx:setup()
        local hs = fix.handshake(ctx, fix.client())
        assert.equal(2, #hs.client.peer_cert_chain)
        assert.equal(1, #hs.client.client_ca)
    end)

    it("freezes the store that it verifies with", function()
        local store = fix.store()
        ctx.cert_store = store
        store:add_cert(fix.cert "other_ca")
        ctx:setup()
        local file = files:write("ca.pem", fix.cert("ca"):to_pem())
        for method, arguments in pairs {
            add_cert = { fix.cert "ca" }, add_file = { file }, add_path = { files.path }, set_default_paths = {},
            clear_flags = { X509.V_FLAG_X509_STRICT },
        } do
            raises("FrozenError", "Store:" .. method .. ": can't modify frozen Store", store[method], store,
                table.unpack(arguments))
        end
        for name, value in pairs { flags = 0, purpose = X509.PURPOSE_ANY, trust = 0, time = 0 } do
            raises("FrozenError", "Store." .. name .. ": can't modify frozen Store", fix.assign, store, name, value)
        end
        assert.is_true(store:verify(fix.cert "ec"))
    end)

    it("looks again at lists that were changed after their assignment", function()
        local protocols, chain = { "h2" }, { fix.cert "ca" }
        ctx.alpn_protocols, ctx.extra_chain_cert = protocols, chain
        protocols[1] = ("x"):rep(256)
        raises("SSLError", "length 1..255", ctx.setup, ctx)
        protocols[1], chain[1] = "h2", "not a certificate"
        raises("TypeError", "SSLContext.extra_chain_cert: entry 1: expected Certificate, got string", ctx.setup, ctx)
        assert.is_false(ctx.frozen)
    end)

    for title, case in pairs {
        ["is empty"] = { "", "no certificate or crl found" },
        ["holds no PEM"] = { "hello\n", "no certificate or crl found" },
        ["is broken"] = { "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "ca.pem: " },
    } do
        it("refuses a ca_file that " .. title, function()
            ctx.ca_file = files:write("ca.pem", case[1])
            raises("SSLError", case[2], ctx.setup, ctx)
        end)
    end

    it("refuses a ca_file that is a directory", function()
        ctx.ca_file = files.path
        raises("SSLError", "Is a directory", ctx.setup, ctx)
    end)

    it("accepts a ca_path that does not exist, as Ruby does", function()
        ctx.ca_path = files.path .. "/missing"
        assert.is_true(ctx:setup())
    end)

    it("trusts what ca_file holds", function()
        local client = SSLContext.new()
        client.verify_mode = SSL.VERIFY_PEER
        client.ca_file = files:write("ca.pem", fix.cert("other_ca"):to_pem() .. fix.cert("ca"):to_pem())
        assert.is_true(fix.handshake(fix.server(), client).ok)
    end)

    it("trusts the hash names in ca_path, and only those", function()
        local function client()
            local c = SSLContext.new()
            c.verify_mode = SSL.VERIFY_PEER
            c.ca_path = files.path
            return c
        end
        files:write("ca.pem", fix.cert("ca"):to_pem())
        assert.is_false(fix.handshake(fix.server(), client()).ok)
        files:write("00000000.0", "not a certificate")
        files:write(("%08x.0"):format(fix.cert("ca").subject.hash), fix.cert("ca"):to_pem())
        assert.is_true(fix.handshake(fix.server(), client()).ok)
    end)

    it("does not change the cert_store by ca_file", function()
        local store = fix.store "other_ca"
        local client = SSLContext.new()
        client.verify_mode = SSL.VERIFY_PEER
        client.cert_store = store
        client.ca_file = files:write("ca.pem", fix.cert("ca"):to_pem())
        assert.is_true(fix.handshake(fix.server(), client).ok)
        assert.is_false(fix.handshake(fix.server(), fix.client { cert_store = store }).ok)
    end)

    it("sees what is added to the cert_store before, and shares it with others", function()
        local store = X509.Store.new()
        local first, second = fix.client { cert_store = store }, fix.client { cert_store = store }
        store:add_cert(fix.cert "ca")
        assert.is_true(fix.handshake(fix.server(), first).ok)
        assert.is_true(fix.handshake(fix.server(), second).ok)
    end)

    it("does not collect what a context needs", function()
        local server = fix.server { alpn_select_cb = function() return "h2" end }
        server:setup()
        collectgarbage()
        collectgarbage()
        local hs = fix.handshake(server, fix.client { alpn_protocols = { "h2" } })
        assert.equal("h2", hs.alpn_protocol)
    end)

    it("lets a context go that its own callback names", function()
        local seen = setmetatable({}, { __mode = "k" })
        do
            local cyclic = SSLContext.new()
            cyclic.verify_callback = function() return cyclic.frozen end
            cyclic:setup()
            seen[cyclic] = true
        end
        collectgarbage()
        collectgarbage()
        assert.is_nil(next(seen))
    end)

    it("reads DEFAULT_CERT_STORE where the environment says", function()
        local program = ([[
            package.cpath = %q
            local openssl = require "moongate.openssl"
            local cert = openssl.X509.Certificate.new(io.read("a"))
            print(openssl.SSL.SSLContext.DEFAULT_CERT_STORE:verify(cert))
        ]]):format(package.cpath)
        local script = files:write("default.lua", program)
        local leaf = files:write("leaf.pem", fix.cert("ec"):to_pem())
        local ca = files:write("ca.pem", fix.cert("ca"):to_pem())
        local function run(environment)
            local pipe = assert(io.popen(("env %s lua5.4 %s < %s"):format(environment, script, leaf)))
            local answer = pipe:read("l")
            pipe:close()
            return answer
        end
        assert.equal("true", run("SSL_CERT_FILE=" .. ca))
        assert.equal("false", run("SSL_CERT_FILE=/nonexistent SSL_CERT_DIR=" .. files.path))
        files:write(("%08x.0"):format(fix.cert("ca").subject.hash), fix.cert("ca"):to_pem())
        assert.equal("true", run("SSL_CERT_FILE=/nonexistent SSL_CERT_DIR=/nonexistent:" .. files.path))
    end)
end)

describe("SSLContext:add_certificate", function()
    local ctx
    before_each(function() ctx = SSLContext.new() end)

    it("returns the context", function()
        assert.equal(ctx, ctx:add_certificate(fix.cert "ec", fix.key "ec"))
        assert.is_nil(ctx.cert)
    end)

    for title, case in pairs {
        ["a public RSA key"] = { "rsa", fix.key("rsa").public_key, "ArgumentError", "private key is needed" },
        ["a public EC key"] = { "ec", fix.key("ec").public_key, "ArgumentError", "private key is needed" },
        ["a public Ed25519 key"] = { "ed25519", fix.key("ed25519").public_key, "ArgumentError",
            "private key is needed" },
        ["another key of the same type"] = { "rsa", fix.key "other_rsa", "ArgumentError", "public key mismatch" },
        ["a key of another type"] = { "rsa", fix.key "ec", "ArgumentError", "public key mismatch" },
        ["a small key"] = { "small_rsa", fix.key "small_rsa", "SSLError", "ee key too small" },
    } do
        it("refuses " .. title, function()
            raises(case[3], case[4], ctx.add_certificate, ctx, fix.cert(case[1]), case[2])
        end)
    end

    it("refuses a certificate without a public key", function()
        raises("ArgumentError", "certificate does not contain public key", ctx.add_certificate, ctx,
            X509.Certificate.new(), fix.key "ec")
    end)

    it("refuses a weak chain and keeps what it had", function()
        local weak = fix.certificate { subject = "/CN=weak", key = fix.key "small_rsa", ca = true,
            issuer = fix.cert "other_ca", issuer_key = fix.key "other_ca" }
        ctx:add_certificate(fix.cert "ec", fix.key "ec")
        local server_cert = fix.cert "other_ec"
        raises("SSLError", "ca key too small", ctx.add_certificate, ctx, server_cert, fix.key "other_ec", { weak })
        assert.equal(fix.cert "ec", fix.handshake(ctx, fix.client()).client.peer_cert)
    end)

    it("checks the chain's entries", function()
        raises("TypeError", "SSLContext:add_certificate: argument 3: entry 2: expected Certificate, got PKey",
            ctx.add_certificate, ctx, fix.cert "ec", fix.key "ec", { fix.cert "ca", fix.key "ca" })
        raises("TypeError", "SSLContext:add_certificate: argument 3: expected a table, got Certificate",
            ctx.add_certificate, ctx, fix.cert "ec", fix.key "ec", fix.cert "ca")
    end)

    it("replaces the certificate of the same type and keeps its chain, which {} drops", function()
        local function chain_length()
            return #fix.handshake(ctx, fix.client()).client.peer_cert_chain
        end
        ctx:add_certificate(fix.cert "other_ec", fix.key "other_ec", { fix.cert "ca" })
        ctx:add_certificate(fix.cert "ec", fix.key "ec")
        local hs = fix.handshake(ctx, fix.client())
        assert.equal(fix.cert "ec", hs.client.peer_cert)
        assert.equal(2, chain_length())
        local again = SSLContext.new()
        again:add_certificate(fix.cert "ec", fix.key "ec", { fix.cert "ca" })
        again:add_certificate(fix.cert "ec", fix.key "ec", {})
        ctx = again
        assert.equal(1, chain_length())
    end)

    it("is overridden by cert and key of that type only", function()
        ctx:add_certificate(fix.cert "rsa", fix.key "rsa")
        ctx:add_certificate(fix.cert "other_ec", fix.key "other_ec")
        ctx.cert, ctx.key = fix.cert "ec", fix.key "ec"
        assert.equal(fix.cert "ec", fix.handshake(ctx, fix.client { sigalgs = "ECDSA+SHA256" }).client.peer_cert)
        assert.equal(fix.cert "rsa", fix.handshake(ctx, fix.client { sigalgs = "RSA-PSS+SHA256" }).client.peer_cert)
    end)

    it("makes the certificate unchangeable", function()
        local key = PKey.EC.generate("prime256v1")
        local cert = fix.certificate { subject = "/CN=x", key = key }
        ctx:add_certificate(cert, key)
        raises("FrozenError", "Certificate.subject: can't modify frozen Certificate", fix.assign, cert, "subject",
            "/CN=y")
        raises("FrozenError", "Certificate:sign: can't modify frozen Certificate", cert.sign, cert, key, "SHA256")
    end)

    it("is refused when frozen, but the count comes first", function()
        ctx:setup()
        raises("FrozenError", "SSLContext:add_certificate: can't modify frozen SSLContext", ctx.add_certificate, ctx,
            fix.cert "ec", fix.key "ec")
        raises("ArgumentError", "given 1, expected 2..4", ctx.add_certificate, ctx, fix.cert "ec")
    end)
end)

describe("SSLContext:load_certificate", function()
    local ctx, files, cert_pem, key_pem
    before_each(function()
        ctx, files = SSLContext.new(), fix.files()
        cert_pem = fix.cert("ec"):to_pem() .. fix.cert("ca"):to_pem()
        key_pem = fix.key("ec"):private_to_pem()
    end)
    after_each(function()
        files:remove()
    end)

    local function served()
        local hs = fix.handshake(ctx, fix.client())
        return hs.client.peer_cert, #hs.client.peer_cert_chain
    end

    it("takes certbot's two files", function()
        assert.equal(ctx, ctx:load_certificate(files:write("fullchain.pem", cert_pem), files:write("privkey.pem",
            key_pem)))
        local cert, length = served()
        assert.equal(fix.cert "ec", cert)
        assert.equal(2, length)
    end)

    it("takes one file with both", function()
        ctx:load_certificate(files:write("both.pem", key_pem .. cert_pem))
        assert.equal(fix.cert "ec", (served()))
        ctx = SSLContext.new()
        ctx:load_certificate(files:write("both.pem", cert_pem .. key_pem))
        assert.equal(fix.cert "ec", (served()))
    end)

    it("takes DER", function()
        ctx:load_certificate(files:write("c.der", fix.cert("ec"):to_der()), files:write("k.der",
            fix.key("ec"):private_to_der()))
        assert.equal(fix.cert "ec", (served()))
    end)

    it("takes a key with a passphrase, and never asks for one", function()
        local chain = files:write("fullchain.pem", cert_pem)
        local key = files:write("privkey.pem", fix.key("ec"):private_to_pem("AES-256-CBC", "secret"))
        raises("PKeyError", "privkey.pem: the private key is encrypted and no passphrase was given",
            ctx.load_certificate,
            ctx, chain, key)
        raises("PKeyError", "privkey.pem: Could not parse PKey (wrong passphrase?)", ctx.load_certificate, ctx,
            chain, key,
            "wrong")
        ctx:load_certificate(chain, key, "secret")
        assert.equal(fix.cert "ec", (served()))
    end)

    it("says which file is missing", function()
        raises("SystemCallError", "load_certificate: /nonexistent/c.pem: No such file or directory",
            ctx.load_certificate,
            ctx, "/nonexistent/c.pem", "/nonexistent/k.pem")
        raises("SystemCallError", "load_certificate: /nonexistent/k.pem: No such file or directory",
            ctx.load_certificate,
            ctx, files:write("c.pem", cert_pem), "/nonexistent/k.pem")
    end)

    it("says which file is wrong", function()
        local chain = files:write("c.pem", cert_pem)
        raises("CertificateError", "c.pem: Could not detect format", ctx.load_certificate, ctx, files:write("c.pem",
            key_pem))
        raises("CertificateError", "empty.pem: Could not detect format", ctx.load_certificate, ctx,
            files:write("empty.pem", ""))
        files:write("c.pem", cert_pem)
        raises("PKeyError", "c.pem: Could not parse PKey", ctx.load_certificate, ctx, chain)
        raises("ArgumentError", "k.pem: public key mismatch", ctx.load_certificate, ctx, chain,
            files:write("k.pem", fix.key("rsa"):private_to_pem()))
        raises("ArgumentError", "pub.pem: private key is needed", ctx.load_certificate, ctx, chain,
            files:write("pub.pem", fix.key("ec"):public_to_pem()))
    end)
end)
