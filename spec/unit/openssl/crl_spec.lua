package.path = "spec/unit/support/?.lua;" .. package.path
local fix = require "fixtures"
local X509, raises = fix.X509, fix.raises

local CONFIG = [[
[ca]
default_ca = test
[test]
database = %s/index.txt
default_md = sha256
default_crl_days = 30
]]

-- A CRL of the test CA that revokes one certificate; the openssl command signs it.
local function revoking(files, cert)
    local serial = #cert.serial % 2 == 0 and cert.serial or "0" .. cert.serial
    files:write("index.txt", ("R\t400101000000Z\t240101000000Z\t%s\tunknown\t/CN=x\n"):format(serial))
    local config = files:write("ca.cnf", CONFIG:format(files.path))
    local ca, key = files:write("ca.pem", fix.cert("ca"):to_pem()), files:write("ca.key", fix.key("ca"):to_pem())
    local command = "openssl ca -gencrl -config %s -cert %s -keyfile %s -out %s/crl.pem 2>&1"
    local pipe = assert(io.popen(command:format(config, ca, key, files.path)))
    local output = pipe:read("a")
    assert(pipe:close(), output)
    local file <close> = assert(io.open(files.path .. "/crl.pem"))
    return file:read("a")
end

describe("X509.CRL", function()
    local files, pem, crl
    setup(function()
        files = fix.files()
        pem = revoking(files, fix.cert "ec")
        crl = X509.CRL.new(pem)
    end)
    teardown(function() files:remove() end)

    it("has Ruby's fields", function()
        assert.equal("/CN=Test CA", crl.issuer:to_s())
        assert.is_true(math.abs(crl.last_update - os.time()) < 300)
        assert.is_true(crl.next_update > os.time())
        assert.is_true(crl:verify(fix.key "ca"))
        assert.is_false(crl:verify(fix.key "other_ca"))
        assert.equal(crl:to_pem(), X509.CRL.new(crl:to_der()):to_pem())
    end)

    it("is refused when it is none", function()
        for _, text in ipairs { "", "x", fix.cert("ca"):to_pem(), crl:to_der():sub(1, -2) } do
            raises("CRLError", "PEM_read_bio_X509_CRL", X509.CRL.new, text)
        end
    end)

    for title, fill in pairs {
        ["add_crl"] = function(store) store:add_crl(crl) end,
        ["add_file"] = function(store) store:add_file(files:write("crl.pem", pem)) end,
        ["add_path"] = function(store)
            files:write(("%08x.r0"):format(crl.issuer.hash), pem)
            store:add_path(files.path)
        end,
    } do
        it("revokes in handshakes, by " .. title, function()
            local store = fix.store()
            fill(store)
            store.flags = X509.V_FLAG_CRL_CHECK
            for _, version in ipairs { "TLS1_2", "TLS1_3" } do
                local function with(sigalgs)
                    local client = fix.client(fix.only(version, { cert_store = store, sigalgs = sigalgs }))
                    return fix.handshake(fix.server(), client)
                end
                assert.is_true(with("RSA-PSS+SHA256").ok)
                local hs = with("ECDSA+SHA256")
                assert.same({ false, "certificate_revoked" }, { hs.ok, hs.alert })
                assert.truthy(hs.client_error:find("certificate revoked", 1, true))
            end
        end)
    end

    it("counts in a ca_file, too, when the store says so", function()
        local store = X509.Store.new()
        store.flags = X509.V_FLAG_CRL_CHECK
        local client = fix.client { cert_store = store, sigalgs = "ECDSA+SHA256" }
        client.ca_file = files:write("both.pem", fix.cert("ca"):to_pem() .. pem)
        assert.equal("certificate_revoked", fix.handshake(fix.server(), client).alert)
    end)
end)

describe("a CRL that is built", function()
    local function entry(serial, reason)
        local revoked = X509.Revoked.new()
        revoked.serial = serial
        revoked.time = 1700000000
        if reason then
            local factory = X509.ExtensionFactory.new()
            revoked:add_extension(factory:create_extension("CRLReason", "ASN1:ENUMERATED:" .. reason))
        end
        return revoked
    end

    local function build(entries, key, digest)
        local crl = X509.CRL.new()
        crl.version = 1
        crl.issuer = fix.cert("ca").subject
        crl.last_update = os.time() - 60
        crl.next_update = os.time() + 3600
        for _, revoked in ipairs(entries) do
            crl:add_revoked(revoked)
        end
        crl:add_extension(X509.ExtensionFactory.new():create_extension("crlNumber", "ASN1:INTEGER:7"))
        return crl:sign(key or fix.key "ca", digest or "SHA256")
    end

    it("reads back what it was given", function()
        local crl = build { entry("0A1B", 1), entry(5) }
        crl = X509.CRL.new(crl:to_der())
        assert.equal(1, crl.version)
        assert.equal("/CN=Test CA", crl.issuer:to_s())
        assert.is_true(crl:verify(fix.key "ca"))
        assert.equal("ecdsa-with-SHA256", crl.signature_algorithm)
        assert.equal("crlNumber", crl.extensions[1].oid)
        assert.equal("7", crl.extensions[1].value)
        local serials = {}
        for _, revoked in ipairs(crl.revoked) do
            serials[revoked.serial] = revoked
            assert.equal(1700000000, revoked.time)
        end
        assert.equal("CRLReason", serials["0A1B"].extensions[1].oid)
        assert.same({}, serials["05"].extensions)
        assert.truthy(crl:to_text():find("0A1B", 1, true))
        assert.is_true(crl == X509.CRL.new(crl:to_s()))
        assert.is_false(crl == build {})
    end)

    it("finds an entry by its serial", function()
        local crl = build { entry("0A1B"), entry("FFFFFFFFFFFFFFFFFFFF") }
        assert.equal("0A1B", crl:by_serial("0a1b").serial)
        assert.equal("0A1B", crl:by_serial(0x0a1b).serial)
        assert.equal(1700000000, crl:by_serial("FFFFFFFFFFFFFFFFFFFF").time)
        assert.is_nil(crl:by_serial("01"))
        raises("CRLError", "hexadecimal", crl.by_serial, crl, "xyz")
        raises("TypeError", "expected a string", crl.by_serial, crl, nil)
    end)

    it("refuses a client in a handshake", function()
        for _, version in ipairs { "TLS1_2", "TLS1_3" } do
            local client = fix.client(fix.only(version, { cert = fix.cert "client", key = fix.key "client" }))
            local function attempt(crl)
                local ctx = fix.server { verify_mode = 3, cert_store = fix.store() }
                assert.equal(ctx, ctx:add_crl(crl))
                return fix.handshake(ctx, client)
            end
            assert.is_true(attempt(build {}).ok)
            local hs = attempt(build { entry(fix.cert("client").serial) })
            assert.equal("certificate_revoked", hs.alert) -- trap 11
            assert.truthy(hs.server_error:find("certificate revoked", 1, true))
        end
    end)

    it("leaves the store that a context shares as it is", function()
        local store = fix.store()
        local ctx = fix.server { verify_mode = 3, cert_store = store }
        ctx:add_crl(build { entry(fix.cert("client").serial) }):setup()
        assert.equal(0, store.flags & X509.V_FLAG_CRL_CHECK)
        assert.is_true(store:verify(fix.cert "client"))
    end)

    it("cannot be changed once a store has it", function()
        local crl = build {}
        fix.store():add_crl(crl)
        raises("FrozenError", "CRL.version: can't modify frozen CRL", fix.assign, crl, "version", 0)
        raises("FrozenError", "CRL:add_revoked: can't modify frozen CRL", crl.add_revoked, crl, entry(1))
        raises("FrozenError", "CRL:sign", crl.sign, crl, fix.key "ca", "SHA256")
        raises("FrozenError", "CRL:add_extension", crl.add_extension, crl, fix.cert("ca").extensions[1])
        assert.is_nil(crl:by_serial(1))
    end)

    it("checks what it is given", function()
        local crl, revoked = X509.CRL.new(), X509.Revoked.new()
        raises("CRLError", "CRL.version: expected 0 or 1, got 2", fix.assign, crl, "version", 2)
        raises("TypeError", "CRL.issuer: expected a Name", fix.assign, crl, "issuer", 1)
        raises("TypeError", "CRL.last_update: expected an integer", fix.assign, crl, "last_update", "now")
        raises("TypeError", "CRL:add_revoked: argument 1: expected Revoked, got number", crl.add_revoked, crl, 1)
        raises("ArgumentError", "CRL:sign: private key is needed", crl.sign, crl, fix.key("ca").public_key, "SHA256")
        raises("RevokedError", "Revoked.serial", fix.assign, revoked, "serial", "zz")
        raises("RevokedError", "must not be negative", fix.assign, revoked, "serial", -1)
        raises("TypeError", "Revoked.time: expected an integer", fix.assign, revoked, "time", {})
        raises("TypeError", "SSLContext:add_crl: argument 1: expected CRL, got string",
            fix.SSLContext.new().add_crl, fix.SSLContext.new(), "x")
    end)

    it("that is empty harms nobody", function()
        local crl = X509.CRL.new()
        for _, name in ipairs { "version", "issuer", "last_update", "next_update", "revoked", "extensions",
            "signature_algorithm" } do
            assert.no_error(function() return crl[name] end)
        end
        assert.is_false(crl:verify(fix.key "ca"))
        assert.is_false(crl == X509.CRL.new())
        pcall(crl.to_der, crl)
        pcall(crl.to_text, crl)
        pcall(crl.to_pem, crl)
        pcall(function() return X509.Revoked.new().serial end)
        pcall(fix.store().add_crl, fix.store(), crl)
    end)
end)

describe("Store:verify with a callback", function()
    it("asks it for each certificate, and true accepts", function()
        local store, depths = X509.Store.new(), {}
        assert.is_false(store:verify(fix.cert "ec", { fix.cert "ca" }))
        local function accept(ok, context)
            depths[#depths + 1] = context.error_depth
            return ok or true
        end
        assert.is_true(store:verify(fix.cert "ec", { fix.cert "ca" }, accept))
        assert.equal(0, store.error)
        assert.is_true(#depths >= 2)
        store.verify_callback = accept
        assert.equal(accept, store.verify_callback)
        assert.is_true(store:verify(fix.cert "ec"))
        assert.is_false(store:verify(fix.cert "ec", nil, function() return 1 end))
    end)

    it("sees a context whose settings can be changed, and which is dead afterwards", function()
        local kept
        fix.store():verify(fix.cert "ec", nil, function(ok, context)
            kept = context
            context.flags = X509.V_FLAG_X509_STRICT
            assert.is_true(context.flags & X509.V_FLAG_X509_STRICT ~= 0)
            context:clear_flags(X509.V_FLAG_X509_STRICT)
            assert.equal(0, context.flags & X509.V_FLAG_X509_STRICT)
            context.purpose, context.trust = X509.PURPOSE_SSL_SERVER, X509.TRUST_SSL_SERVER
            context.time = os.time()
            assert.is_false(context:verify())
            return ok
        end)
        raises("RuntimeError", "StoreContext: STORE_CTX is out of scope!", function() return kept.error end)
        raises("RuntimeError", "StoreContext: STORE_CTX is out of scope!", function() return kept:verify() end)
    end)

    it("raises what it raises", function()
        local store = fix.store()
        raises("SSLError", "mine", store.verify, store, fix.cert "ec", nil,
            function() error { class = "SSLError", message = "mine" } end)
        local ok, err = pcall(store.verify, store, fix.cert "ec", {}, function() coroutine.yield() end)
        assert.is_false(ok)
        assert.truthy(tostring(err):find("yield", 1, true))
        raises("TypeError", "expected a function", store.verify, store, fix.cert "ec", nil, "x")
        raises("TypeError", "Store.verify_callback: expected a function, got string", fix.assign, store,
            "verify_callback", "x")
    end)
end)
