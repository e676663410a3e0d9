--- ctx:add_crl and ctx:load_crl: who is refused for being on a list, and who is not for having none.

package.path = "spec/unit/support/?.lua;" .. package.path
local fix = require "fixtures"
local X509, raises = fix.X509, fix.raises

local INTERMEDIATE = { subject = "/CN=Issuing CA", key = fix.key "other_ec", ca = true, issuer = fix.cert "ca",
    issuer_key = fix.key "ca" }

-- options: key, entries (certificates), issuer, from, to, extensions
local function list(options)
    local crl = X509.CRL.new()
    crl.version = 1
    crl.issuer = (options.issuer or fix.cert "ca").subject
    crl.last_update = options.from or os.time() - 60
    crl.next_update = options.to or os.time() + 3600
    for _, cert in ipairs(options) do
        local revoked = X509.Revoked.new()
        revoked.serial, revoked.time = cert.serial, os.time() - 30
        crl:add_revoked(revoked)
    end
    local factory = X509.ExtensionFactory.new()
    crl:add_extension(factory:create_extension("crlNumber", "ASN1:INTEGER:" .. (options.number or 1)))
    for oid, value in pairs(options.extensions or {}) do
        crl:add_extension(factory:create_extension(oid, value, oid ~= "freshestCRL"))
    end
    return crl:sign(options.key or fix.key "ca", "SHA256")
end

describe("a context's CRLs", function()
    local intermediate, leaf

    setup(function()
        intermediate = fix.certificate(INTERMEDIATE)
        leaf = fix.certificate { subject = "/CN=leaf", key = fix.key "client", issuer = intermediate,
            issuer_key = fix.key "other_ec" }
    end)

    -- The alert, or false: the client came in.
    local function attempt(version, crls, client, settings)
        local store = fix.store():add_cert(fix.cert "other_ca")
        if settings and settings.flags then
            store.flags = settings.flags
        end
        local ctx = fix.server { verify_mode = 3, cert_store = store,
            verify_callback = settings and settings.verify_callback }
        for _, crl in ipairs(crls) do
            ctx:add_crl(crl)
        end
        local hs = fix.handshake(ctx, fix.client(fix.only(version, client or
            { cert = fix.cert "client", key = fix.key "client" })))
        return not hs.ok and hs.alert, hs
    end

    local function through_intermediate()
        return { cert = leaf, key = fix.key "client", extra_chain_cert = { intermediate } }
    end

    for _, version in ipairs { "TLS1_2", "TLS1_3" } do
        describe("with " .. version, function()
            it("refuse whom they name, and nobody else", function()
                assert.equal("certificate_revoked", attempt(version, { list { fix.cert "client" } }))
                assert.is_false(attempt(version, { list { fix.cert "rsa" } }))
            end)

            it("ask nothing of a CA that has none", function()
                local foreign = fix.certificate { subject = "/CN=foreign", key = fix.key "client",
                    issuer = fix.cert "other_ca", issuer_key = fix.key "other_ca" }
                local client = { cert = foreign, key = fix.key "client" }
                assert.is_false(attempt(version, { list { fix.cert "client" } }, client))
                local of_other = list { foreign, issuer = fix.cert "other_ca", key = fix.key "other_ca" }
                assert.equal("certificate_revoked", attempt(version, { of_other }, client))
                assert.is_false(attempt(version, { of_other }))
                assert.equal("certificate_revoked", attempt(version, { of_other, list { fix.cert "client" } }))
            end)

            it("ask for one from every CA where the store's flags say so", function()
                local flags = X509.V_FLAG_CRL_CHECK
                local of_other = list { issuer = fix.cert "other_ca", key = fix.key "other_ca" }
                assert.equal("unknown_ca", attempt(version, { of_other }, nil, { flags = flags }))
                assert.is_false(attempt(version, { list {} }, nil, { flags = flags }))
                local of_issuing = list { issuer = intermediate, key = fix.key "other_ec" }
                assert.is_false(attempt(version, { of_issuing }, through_intermediate(), { flags = flags }))
                flags = flags | X509.V_FLAG_CRL_CHECK_ALL
                assert.equal("unknown_ca", attempt(version, { of_issuing }, through_intermediate(), { flags = flags }))
                assert.is_false(attempt(version, { of_issuing, list {} }, through_intermediate(), { flags = flags }))
            end)

            it("refuse a chain for its intermediate certificate, too", function()
                assert.is_false(attempt(version, { list {} }, through_intermediate()))
                assert.equal("certificate_revoked", attempt(version, { list { intermediate } }, through_intermediate()))
                local of_issuing = list { leaf, issuer = intermediate, key = fix.key "other_ec" }
                assert.equal("certificate_revoked", attempt(version, { of_issuing }, through_intermediate()))
            end)

            it("that have ended refuse all of their CA, and no other's", function()
                local ended = list { to = os.time() - 10 }
                assert.equal("certificate_expired", attempt(version, { ended }))
                local _, hs = attempt(version, { ended })
                assert.truthy(hs.server_error:find("CRL has expired", 1, true), hs.server_error)
                local future = list { from = os.time() + 1000 }
                assert.is_string(attempt(version, { future }))
                local of_issuing = list { issuer = intermediate, key = fix.key "other_ec", to = os.time() - 10 }
                assert.is_false(attempt(version, { of_issuing }))
                assert.equal("certificate_expired", attempt(version, { of_issuing }, through_intermediate()))
            end)

            it("count by the newest of a CA", function()
                local old = list { fix.cert "client", from = os.time() - 3000 }
                local new = list { number = 2 }
                assert.is_false(attempt(version, { old, new }))
                assert.is_false(attempt(version, { new, old }))
                old, new = list { from = os.time() - 3000 }, list { fix.cert "client", number = 2 }
                assert.equal("certificate_revoked", attempt(version, { old, new }))
                local ended = list { from = os.time() - 3000, to = os.time() - 10 }
                assert.equal("certificate_revoked", attempt(version, { ended, new }))
            end)

            it("signed by somebody else refuse all of the CA that they name", function()
                assert.is_string(attempt(version, { list { key = fix.key "other_ca" } }))
            end)

            it("may be a base and its delta", function()
                local function delta(...)
                    return list { number = 2, extensions = { deltaCRL = "ASN1:INTEGER:1" }, ... }
                end
                local function base(...)
                    return list { extensions = { freshestCRL = "URI:http://ca.example/delta.crl" }, ... }
                end
                assert.is_false(attempt(version, { base(), delta() }))
                assert.equal("certificate_revoked", attempt(version, { base(), delta(fix.cert "client") }))
                assert.equal("certificate_revoked", attempt(version, { base(fix.cert "client"), delta() }))
                assert.equal("unknown_ca", attempt(version, { delta() }))
            end)

            it("that are not about the certificate refuse rather than let in", function()
                local only_cas = list { extensions = { issuingDistributionPoint = "onlyCA:TRUE" } }
                assert.is_string(attempt(version, { only_cas }))
                local indirect = list { issuer = fix.cert "other_ca", key = fix.key "other_ca",
                    extensions = { issuingDistributionPoint = "indirectCRL:TRUE" } }
                assert.equal("unknown_ca", attempt(version, { indirect }))
                assert.is_false(attempt(version, { list {}, indirect }))
            end)

            it("are seen by a verify_callback, without CAs that need none", function()
                local seen = {}
                local function note(ok, context)
                    seen[#seen + 1] = ok or context.error_string
                    return ok
                end
                attempt(version, { list { fix.cert "client" } }, nil, { verify_callback = note })
                assert.same({ "certificate revoked" }, seen)
                seen = {}
                local of_other = list { issuer = fix.cert "other_ca", key = fix.key "other_ca" }
                local alert, hs = attempt(version, { of_other }, nil, { verify_callback = note })
                assert.is_false(alert)
                assert.equal(0, hs.server.verify_result)
                assert.same({ true, true }, seen)
            end)

            it("refuse a server, too", function()
                local function reach(crl)
                    local ctx = fix.client(fix.only(version))
                    ctx:add_crl(crl)
                    return fix.handshake(fix.server { certs = { "ec" } }, ctx)
                end
                assert.is_true(reach(list { fix.cert "rsa" }).ok)
                local hs = reach(list { fix.cert "ec" })
                assert.equal("certificate_revoked", hs.alert)
                assert.truthy(hs.client_error:find("certificate revoked", 1, true))
                assert.is_true(reach(list { issuer = fix.cert "other_ca", key = fix.key "other_ca" }).ok)
            end)
        end)
    end
end)

describe("a CRL that was read, whose signature is verified once", function()
    local function context(...)
        local ctx = fix.server { verify_mode = 3, cert_store = fix.store() }
        for _, crl in ipairs { ... } do
            ctx:add_crl(X509.CRL.load(crl:to_pem())[1])
        end
        return ctx
    end

    local function visit(ctx, name, key)
        local cert = type(name) == "string" and fix.cert(name) or name
        local hs = fix.handshake(ctx, fix.client { cert = cert, key = key or fix.key "client" })
        return not hs.ok and hs.alert
    end

    it("refuses whom it names, every time", function()
        local other = fix.certificate { subject = "/CN=other", key = fix.key "client", issuer = fix.cert "ca",
            issuer_key = fix.key "ca" }
        for _, ctx in ipairs { context(list { fix.cert "client" }), context(list { fix.cert "client" }) } do
            for _ = 1, 3 do
                assert.is_false(visit(ctx, other))
                assert.equal("certificate_revoked", visit(ctx, "client"))
            end
        end
    end)

    it("refuses all of its CA once it has ended", function()
        local ending = os.time() + 2
        local ctx = context(list { to = ending })
        local first, in_time = visit(ctx, "client"), os.time() < ending
        assert.is_true(first == false or not in_time)
        local alert
        repeat
            alert = visit(ctx, "client")
        until alert or os.time() > ending + 20
        assert.equal("certificate_expired", alert)
        assert.is_true(os.time() >= ending)
    end)

    it("has its signature refused where another CA has the name", function()
        local twin = fix.certificate { subject = fix.cert("ca").subject, key = fix.key "other_ca", ca = true }
        local of_twin = fix.certificate { subject = "/CN=twin's", key = fix.key "client", issuer = twin,
            issuer_key = fix.key "other_ca" }
        local ctx = fix.server { verify_mode = 3, cert_store = fix.store():add_cert(twin) }
        ctx:add_crl(X509.CRL.load(list({}):to_pem())[1])
        for _ = 1, 2 do
            assert.is_false(visit(ctx, "client"))
            assert.is_string(visit(ctx, of_twin))
        end
    end)

    it("has its signature refused where the CA may not sign CRLs, or has not", function()
        local factory, no_crl_sign = X509.ExtensionFactory.new(), X509.Certificate.new()
        no_crl_sign.version, no_crl_sign.serial, no_crl_sign.public_key = 2, 77, fix.key "other_ca"
        no_crl_sign.subject, no_crl_sign.issuer = "/CN=no CRLs", "/CN=no CRLs"
        no_crl_sign.not_before, no_crl_sign.not_after = os.time() - 60, os.time() + 3600
        no_crl_sign:add_extension(factory:create_extension("basicConstraints", "CA:TRUE", true))
        no_crl_sign:add_extension(factory:create_extension("keyUsage", "keyCertSign", true))
        no_crl_sign:sign(fix.key "other_ca", "SHA256")
        local leaf = fix.certificate { subject = "/CN=leaf", key = fix.key "client", issuer = no_crl_sign,
            issuer_key = fix.key "other_ca" }
        local ctx = fix.server { verify_mode = 3, cert_store = fix.store():add_cert(no_crl_sign) }
        ctx:add_crl(X509.CRL.load(list({ issuer = no_crl_sign, key = fix.key "other_ca" }):to_pem())[1])
        local forged = context(list { key = fix.key "other_ca" })
        for _ = 1, 2 do
            assert.is_string(visit(ctx, leaf))
            assert.is_string(visit(forged, "client"))
        end
    end)
end)

describe("CRL.load", function()
    it("gives all of a PEM, whatever is between them, and the one of a DER", function()
        local a, b = list { fix.cert "ec" }, list { fix.cert "rsa", number = 2 }
        local text = "of today\n" .. a:to_pem() .. fix.cert("ca"):to_pem() .. fix.key("ec"):private_to_pem() ..
            b:to_pem()
        local loaded = X509.CRL.load(text)
        assert.equal(2, #loaded)
        assert.is_true(loaded[1] == a and loaded[2] == b)
        loaded = X509.CRL.load(b:to_der())
        assert.is_true(#loaded == 1 and loaded[1] == b)
        assert.truthy(b:by_serial(fix.cert("rsa").serial))
        assert.truthy(loaded[1]:by_serial(fix.cert("rsa").serial))
        assert.is_nil(loaded[1]:by_serial(fix.cert("ec").serial))
        assert.is_true(loaded[1]:verify(fix.key "ca"))
    end)

    it("gives what can no longer be changed", function()
        local loaded = X509.CRL.load(list({}):to_pem())[1]
        raises("FrozenError", "can't modify frozen CRL", fix.assign, loaded, "version", 0)
    end)

    it("refuses what is none, or damaged", function()
        local good = list {}
        for text, reason in pairs {
            [""] = "CRL 1 cannot be read", ["x"] = "CRL 1 cannot be read",
            [good:to_der() .. "\0"] = "CRL 1 cannot be read", [good:to_der():sub(1, -2)] = "CRL 1 cannot be read",
            [fix.cert("ca"):to_der()] = "CRL 1 cannot be read",
            [fix.cert("ca"):to_pem()] = "no CRL found",
            [good:to_pem():sub(1, -30)] = "PEM_read_bio",
            [good:to_pem() .. good:to_pem():gsub("\n%w%w%w%w", "\nAAAA", 2)] = "CRL 2 cannot be read",
        } do
            raises("CRLError", "CRL.load: " .. reason, X509.CRL.load, text)
        end
        raises("TypeError", "CRL.load: argument 1: expected a string", X509.CRL.load, {})
    end)

    it("_file says which file it was", function()
        local files = fix.files()
        finally(function() files:remove() end)
        local path = files:write("ca.crl", list({}):to_der())
        assert.equal(1, #X509.CRL.load_file(path))
        files:write("ca.crl", "")
        raises("CRLError", "CRL.load_file: " .. path .. ": CRL 1 cannot be read", X509.CRL.load_file, path)
        raises("SystemCallError", path .. ".not: No such file", X509.CRL.load_file, path .. ".not")
    end)
end)

describe("ctx:load_crl", function()
    local files

    before_each(function() files = fix.files() end)
    after_each(function() files:remove() end)

    local function refuses(path)
        local ctx = fix.server { verify_mode = 3, cert_store = fix.store() }
        assert.equal(ctx, ctx:load_crl(path))
        local hs = fix.handshake(ctx, fix.client { cert = fix.cert "client", key = fix.key "client" })
        return hs.alert == "certificate_revoked"
    end

    it("takes a file, in PEM or DER", function()
        local crl = list { fix.cert "client" }
        assert.is_true(refuses(files:write("a", crl:to_pem())))
        assert.is_true(refuses(files:write("a", crl:to_der())))
        assert.is_false(refuses(files:write("a", list({}):to_der())))
    end)

    it("takes a directory: all CRLs in it", function()
        files:write("one.crl", list({ issuer = fix.cert "other_ca", key = fix.key "other_ca" }):to_der())
        files:write("two.pem", list({ fix.cert "client" }):to_pem())
        files:write("ca.pem", fix.cert("ca"):to_pem())
        files:write("notes.txt", "not a CRL")
        files:write(".hidden.crl", "not a CRL")
        assert.is_true(refuses(files.path))
        assert.is_true(refuses(files.path .. "/"))
    end)

    it("takes a directory with hash names: those alone", function()
        files:write(("%08x.r0"):format(fix.cert("ca").subject.hash), list({ number = 2 }):to_pem())
        files:write(("%08x.0"):format(fix.cert("ca").subject.hash), fix.cert("ca"):to_pem())
        files:write("two.pem", list({ fix.cert "client" }):to_pem())
        assert.is_false(refuses(files.path))
    end)

    it("takes a pattern", function()
        files:write("one.list", list({ fix.cert "client" }):to_der())
        files:write("two.pem", "not a CRL")
        assert.is_true(refuses(files.path .. "/*.list"))
        assert.is_true(refuses(files.path .. "/one.l[ia]st"))
    end)

    it("refuses what there is not, and what is none, and then adds nothing", function()
        local ctx = fix.server { verify_mode = 3, cert_store = fix.store() }
        local function wrong(class, text, path) raises(class, text, ctx.load_crl, ctx, path) end
        wrong("SystemCallError", "load_crl: " .. files.path .. "/none: No such file", files.path .. "/none")
        wrong("CRLError", "load_crl: " .. files.path .. ": no CRL found", files.path)
        wrong("CRLError", "load_crl: " .. files.path .. "/*.crl: no CRL found", files.path .. "/*.crl")
        wrong("SystemCallError", "none/*.crl: ", files.path .. "/none/*.crl")
        files:write("a.crl", list({ fix.cert "client" }):to_der())
        files:write("b.crl", "garbage")
        wrong("CRLError", "load_crl: " .. files.path .. "/b.crl: CRL 1 cannot be read", files.path)
        files:write("b.crl", list({}):to_pem():sub(1, 100))
        wrong("CRLError", "load_crl: " .. files.path .. "/b.crl: PEM_read_bio", files.path)
        wrong("TypeError", "SSLContext:load_crl: argument 1: expected a string", nil)
        assert.is_true(fix.handshake(ctx, fix.client { cert = fix.cert "client", key = fix.key "client" }).ok)
        raises("FrozenError", "SSLContext:load_crl: can't modify frozen SSLContext", ctx.load_crl, ctx, files.path)
    end)

    it("takes the same list twice for one", function()
        local pem = list({ fix.cert "client" }):to_pem()
        files:write("a.crl", pem)
        files:write("b.crl", pem .. pem)
        assert.is_true(refuses(files.path))
    end)
end)
