package.path = "spec/unit/support/?.lua;" .. package.path
local fix = require "fixtures"
local X509, raises, assign = fix.X509, fix.raises, fix.assign
local Certificate, Name, Extension, ExtensionFactory, Store = X509.Certificate, X509.Name, X509.Extension,
    X509.ExtensionFactory, X509.Store

describe("X509.Certificate", function()
    local ca, leaf = fix.cert "ca", fix.cert "ec"

    it("reads PEM and DER", function()
        assert.equal(ca, Certificate.new(ca:to_pem()))
        assert.equal(ca, Certificate.new(ca:to_der()))
        assert.equal(ca, Certificate.new("text before\n" .. ca:to_pem()))
        assert.equal(ca:to_pem(), ca:to_s())
        assert.not_equal(ca, leaf)
    end)

    it("reads several", function()
        local list = Certificate.load(ca:to_pem() .. "comment\n" .. leaf:to_pem())
        assert.same({ 2, true, true }, { #list, list[1] == ca, list[2] == leaf })
        assert.equal(1, #Certificate.load(ca:to_der()))
    end)

    it("reads a file", function()
        local files = fix.files()
        assert.equal(leaf, Certificate.load_file(files:write("c.pem", ca:to_pem() .. leaf:to_pem()))[2])
        files:remove()
    end)

    for title, case in pairs {
        ["nothing"] = { "", "PEM_read_bio_X509: no start line" },
        ["text"] = { "hello", "PEM_read_bio_X509" },
        ["a NUL"] = { "\0", "PEM_read_bio_X509" },
        ["a key"] = { fix.key("ec"):private_to_pem(), "no start line" },
        ["a truncated certificate"] = { ca:to_pem():sub(1, 200), "PEM_read_bio_X509" },
        ["a truncated DER"] = { ca:to_der():sub(1, -2), "PEM_read_bio_X509" },
        ["much"] = { ("x"):rep(10000000), "PEM_read_bio_X509" },
    } do
        it("refuses " .. title, function() raises("CertificateError", case[2], Certificate.new, case[1]) end)
    end

    for title, case in pairs {
        ["nothing"] = { "", "Certificate.load: Could not detect format of certificate data!" },
        ["text"] = { "hello", "Could not detect format" },
        ["a key"] = { fix.key("ec"):private_to_pem(), "Could not detect format" },
        ["a broken second"] = { ca:to_pem() .. "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "certificate 2" },
    } do
        it("load refuses " .. title, function() raises("CertificateError", case[2], Certificate.load, case[1]) end)
    end

    it("load_file says which file is missing", function()
        raises("SystemCallError", "Certificate.load_file: /nonexistent: No such file or directory",
            Certificate.load_file,
            "/nonexistent")
    end)

    it("has Ruby's fields", function()
        local key = fix.key "ec"
        local cert = fix.certificate { subject = "/CN=fields/O=Org", key = key, issuer = ca, issuer_key = fix.key "ca",
            not_before = 1700000000, not_after = 2000000000, names = "DNS:localhost" }
        assert.equal("/CN=fields/O=Org", cert.subject:to_s())
        assert.equal("/CN=Test CA", cert.issuer:to_s())
        assert.equal(2, cert.version)
        assert.truthy(cert.serial:match("^[0-9A-F]+$"))
        assert.equal(1700000000, cert.not_before)
        assert.equal(2000000000, cert.not_after)
        assert.equal("ecdsa-with-SHA256", cert.signature_algorithm)
        assert.is_true(cert.public_key:compare(key))
        assert.is_false(cert.public_key.private)
        assert.equal(40, #cert.subject_key_identifier)
        assert.is_nil(cert.authority_key_identifier)
        assert.truthy(cert:to_text():find("DNS:localhost", 1, true))
        assert.equal(64, #cert:digest())
        assert.equal(40, #cert:digest("SHA1"))
        local by_oid = {}
        for _, extension in ipairs(cert.extensions) do
            by_oid[extension.oid] = extension
        end
        assert.equal("DNS:localhost", by_oid.subjectAltName.value)
        assert.is_false(by_oid.subjectAltName.critical)
        assert.equal("string", type(by_oid.subjectAltName.value_der))
        assert.equal("Certificate: /CN=fields/O=Org", tostring(cert))
    end)

    it("answers Ruby's questions", function()
        assert.is_true(leaf:verify(fix.key "ca"))
        assert.is_false(leaf:verify(fix.key "other_ca"))
        assert.is_false(leaf:verify(fix.key "rsa"))
        assert.is_true(leaf:check_private_key(fix.key "ec"))
        assert.is_false(leaf:check_private_key(fix.key "other_ec"))
        assert.is_false(leaf:check_private_key(fix.key("ec").public_key))
    end)

    describe("being built", function()
        local cert
        before_each(function() cert = Certificate.new() end)

        for name, case in pairs {
            version = { 2, { { 3, "CertificateError", "expected 0 to 2" }, { "3", "TypeError",
                "expected an integer" } } },
            not_before = { 1700000000, { { "x", "TypeError", "expected an integer" }, { 1 << 60, "CertificateError",
                "not_before" } } },
            not_after = { 4102444800, { { {}, "TypeError", "got table" }, { math.mininteger, "CertificateError",
                "not_after" } } },
            serial = { "0123ABCD", {
                { "xyz", "CertificateError", "hexadecimal" }, { "", "CertificateError", "hexadecimal" },
                { ("F"):rep(41), "CertificateError", "1 to 40" }, { -1, "CertificateError", "must not be negative" },
                { {}, "TypeError", "expected a string" },
            } },
        } do
            it(name .. " is checked and read back", function()
                cert[name] = case[1]
                assert.equal(case[1] == "0123ABCD" and "0123ABCD" or case[1], cert[name])
                for _, refused in ipairs(case[2]) do
                    raises(refused[2], refused[3], assign, cert, name, refused[1])
                end
                assert.equal(case[1], cert[name])
            end)
        end

        it("takes serials as numbers, up to 20 octets as text", function()
            cert.serial = 255
            assert.equal("FF", cert.serial)
            cert.serial = math.maxinteger
            assert.equal("7FFFFFFFFFFFFFFF", cert.serial)
            cert.serial = ("F"):rep(40)
            assert.equal(("F"):rep(40), cert.serial)
        end)

        it("takes names as text or Name", function()
            cert.subject = "/C=DE/CN=a/b"
            assert.equal("a/b", cert.subject:to_a()[2][2])
            cert.issuer = Name.new { { "CN", "x" } }
            assert.equal("/CN=x", cert.issuer:to_s())
            raises("NameError", 'expected "/CN=…"', assign, cert, "subject", "CN=x")
            raises("NameError", "invalid field name", assign, cert, "subject", "/NOSUCH=x")
            raises("TypeError", "Certificate.subject: expected a Name or a string", assign, cert, "subject", 1)
        end)

        it("wants a key as public_key", function()
            raises("TypeError", "Certificate.public_key: expected PKey, got nil", assign, cert, "public_key", nil)
            raises("CertificateError", "Certificate.public_key", function() return cert.public_key end)
        end)

        it("is signed with a private key and a digest of the key's kind", function()
            cert.public_key = fix.key "ec"
            raises("ArgumentError", "private key is needed", cert.sign, cert, fix.key("ec").public_key, "SHA256")
            raises("ArgumentError", "unsupported digest algorithm (MD99)", cert.sign, cert, fix.key "ec", "MD99")
            raises("CertificateError", "X509_sign", cert.sign, cert, fix.key "ed25519", "SHA256")
            assert.equal(cert, cert:sign(fix.key "ec", "SHA256"))
            assert.is_true(cert:verify(fix.key "ec"))
            cert.public_key = fix.key "ed25519"
            cert:sign(fix.key "ed25519", nil)
            assert.is_true(cert:verify(fix.key "ed25519"))
        end)

        it("answers while it is still empty", function()
            for _, name in ipairs { "subject", "issuer", "serial", "version", "signature_algorithm", "extensions" } do
                assert.is_not_nil(cert[name])
            end
            for _, name in ipairs { "not_before", "not_after", "subject_key_identifier", "authority_key_identifier" } do
                assert.is_nil(cert[name])
            end
            assert.is_false(cert == Certificate.new(fix.cert("ca"):to_der()))
            pcall(cert.to_der, cert)
            pcall(cert.to_pem, cert)
            pcall(cert.to_text, cert)
            pcall(cert.verify, cert, fix.key "ec")
        end)
    end)
end)

describe("X509.Name", function()
    it("is written in several ways", function()
        local name = Name.parse("/C=DE/O=Äpfel/CN=localhost")
        assert.equal("/C=DE/O=\\xC3\\x84pfel/CN=localhost", name:to_s())
        assert.equal("CN=localhost,O=Äpfel,C=DE", name:to_utf8())
        assert.equal("CN=localhost,O=\\C3\\84pfel,C=DE", name:to_s(Name.RFC2253))
        assert.same({ { "C", "DE", 19 }, { "O", "Äpfel", 12 }, { "CN", "localhost", 12 } }, name:to_a())
        assert.equal(Name.parse("/CN=x"):to_der(), Name.new({ { "CN", "x" } }):to_der())
    end)

    it("compares", function()
        local a, b = Name.parse("/CN=a"), Name.parse("/CN=b")
        assert.equal(a, Name.parse("/CN=a"))
        assert.not_equal(a, b)
        assert.is_true(a:eql(Name.parse("/CN=a")))
        assert.is_false(a:eql(b))
        assert.same({ 0, -1, 1 }, { a:cmp(a), a:cmp(b), b:cmp(a) })
        assert.equal("integer", math.type(a.hash))
    end)

    it("takes what to_a gives", function()
        local name = Name.parse("/C=DE/CN=localhost")
        assert.equal(name, Name.new(name:to_a()))
        assert.equal("", Name.new():to_s())
    end)

    for title, case in pairs {
        ["no list"] = { 1, "TypeError", "expected a table" },
        ["entries that are none"] = { { "CN" }, "TypeError", "entry 1: expected {type, value}" },
        ["numbers"] = { { { "CN", 1 } }, "TypeError", "entry 1" },
        ["unknown types"] = { { { "NOSUCH", "x" } }, "NameError", "invalid field name" },
        ["long values"] = { { { "CN", ("x"):rep(1000) } }, "NameError", "too long" },
    } do
        it("refuses " .. title, function() raises(case[2], case[3], Name.new, case[1]) end)
    end
end)

describe("X509.Extension", function()
    it("is made of DER", function()
        local made = ExtensionFactory.new():create_extension("keyUsage", "digitalSignature", true)
        local again = Extension.new("keyUsage", made.value_der, true)
        assert.same({ "keyUsage", "Digital Signature", true }, { again.oid, again.value, again.critical })
        assert.equal("1.2.3.4", Extension.new("1.2.3.4", "\5\0").oid)
        raises("ExtensionError", 'Extension.new: "nosuch"', Extension.new, "nosuch", "x")
    end)

    it("is made by a factory", function()
        local factory = ExtensionFactory.new()
        factory.issuer_certificate, factory.subject_certificate = fix.cert "ca", fix.cert "ec"
        assert.equal(fix.cert "ca", factory.issuer_certificate)
        local id = factory:create_extension("authorityKeyIdentifier", "keyid").value
        assert.equal(fix.cert("ca").subject_key_identifier, (id:gsub("keyid:", ""):gsub("[:%s]", "")))
        raises("ExtensionError", 'unknown OID "nosuch"', factory.create_extension, factory, "nosuch", "x")
        raises("ExtensionError", "subjectAltName = DNS", factory.create_extension, factory, "subjectAltName", "DNS")
        raises("ExtensionError", "subjectAltName = @names", factory.create_extension, factory, "subjectAltName",
            "@names")
        raises("TypeError", "expected Certificate, got string", assign, factory, "issuer_certificate", "x")
    end)
end)

describe("X509.Store", function()
    it("verifies, and says why not", function()
        local store = fix.store()
        assert.is_true(store:verify(fix.cert "ec"))
        assert.same({ 0, "ok", 2 }, { store.error, store.error_string, #store.chain })
        assert.is_false(store:verify(fix.cert "expired"))
        assert.same({ X509.V_ERR_CERT_HAS_EXPIRED, "certificate has expired" }, { store.error, store.error_string })
        assert.is_false(Store.new():verify(fix.cert "ec"))
    end)

    it("takes a chain", function()
        local middle = fix.certificate { subject = "/CN=middle", key = fix.key "other_ca", ca = true,
            issuer = fix.cert "ca", issuer_key = fix.key "ca" }
        local leaf = fix.certificate { subject = "/CN=leaf", key = fix.key "ec", issuer = middle,
            issuer_key = fix.key "other_ca" }
        local store = fix.store()
        assert.is_false(store:verify(leaf))
        assert.is_true(store:verify(leaf, { middle }))
        raises("TypeError", "chain entry 1: expected Certificate, got number", store.verify, store, leaf, { 1 })
        raises("TypeError", "expected a table", store.verify, store, leaf, "x")
    end)

    it("takes the same certificate twice", function()
        local store = fix.store()
        assert.equal(store, store:add_cert(fix.cert "ca"))
    end)

    it("adds and clears flags", function()
        local store = Store.new()
        local before = store.flags
        store.flags = X509.V_FLAG_CRL_CHECK
        store.flags = X509.V_FLAG_PARTIAL_CHAIN
        assert.equal(before | X509.V_FLAG_CRL_CHECK | X509.V_FLAG_PARTIAL_CHAIN, store.flags)
        store:clear_flags(X509.V_FLAG_CRL_CHECK)
        assert.equal(before | X509.V_FLAG_PARTIAL_CHAIN, store.flags)
        store:clear_flags()
        assert.equal(0, store.flags)
    end)

    it("has a time and a purpose", function()
        local store = fix.store()
        store.time = os.time() - 40000
        assert.is_false(store:verify(fix.cert "ec"))
        assert.equal(X509.V_ERR_CERT_NOT_YET_VALID, store.error)
        store = fix.store()
        store.purpose = X509.PURPOSE_SSL_SERVER
        assert.equal(X509.PURPOSE_SSL_SERVER, store.purpose)
        local other = fix.certificate { subject = "/CN=c", key = fix.key "ec", issuer = fix.cert "ca",
            issuer_key = fix.key "ca", usage = "clientAuth" }
        assert.is_false(store:verify(other))
        raises("StoreError", "X509_STORE_set_purpose", assign, store, "purpose", 9999)
    end)

    it("needs CRLs once it is told to check them", function()
        local store = fix.store()
        store.flags = X509.V_FLAG_CRL_CHECK
        assert.is_false(store:verify(fix.cert "ec"))
        assert.equal(X509.V_ERR_UNABLE_TO_GET_CRL, store.error)
    end)

    it("reads files and directories", function()
        local files = fix.files()
        local path = files:write("ca.pem", fix.cert("ca"):to_pem())
        assert.is_true(Store.new():add_file(path):verify(fix.cert "ec"))
        files:write(("%08x.0"):format(fix.cert("ca").subject.hash), fix.cert("ca"):to_pem())
        assert.is_true(Store.new():add_path(files.path):verify(fix.cert "ec"))
        assert.no_error(function() Store.new():add_path("/nonexistent") end)
        raises("StoreError", "Store:add_file: /nonexistent: No such file or directory", Store.new().add_file,
            Store.new(), "/nonexistent")
        files:remove()
    end)
end)

describe("what a certificate says about where to ask", function()
    local function with(extensions)
        local cert = X509.Certificate.new()
        local factory = X509.ExtensionFactory.new()
        cert.version, cert.serial, cert.subject, cert.issuer = 2, 1, "/CN=uris", "/CN=uris"
        cert.not_before, cert.not_after, cert.public_key = 0, 2000000000, fix.key "ec"
        for oid, value in pairs(extensions) do
            cert:add_extension(factory:create_extension(oid, value))
        end
        return cert:sign(fix.key "ec", "SHA256")
    end

    it("is read from its extensions", function()
        local cert = with {
            crlDistributionPoints = "URI:http://a.example/1.crl,URI:http://a.example/2.crl",
            authorityInfoAccess = "OCSP;URI:http://o.example,caIssuers;URI:http://c.example/ca.der," ..
                "caIssuers;email:a@b.c",
        }
        assert.same({ "http://a.example/1.crl", "http://a.example/2.crl" }, cert.crl_uris)
        assert.same({ "http://c.example/ca.der" }, cert.ca_issuer_uris)
        assert.same({ "http://o.example" }, cert.ocsp_uris)
    end)

    it("is nil without them", function()
        local cert = with {}
        assert.is_nil(cert.crl_uris)
        assert.is_nil(cert.ca_issuer_uris)
        assert.is_nil(cert.ocsp_uris)
        assert.is_nil(X509.Certificate.new().crl_uris)
    end)

    it("leaves what is signed as it was", function()
        local cert = with {}
        local der = cert:to_der()
        assert.truthy(der:find(cert.tbs_bytes, 1, true))
        assert.equal(der, cert:to_der())
        assert.is_true(cert:verify(fix.key "ec"))
        pcall(function() return X509.Certificate.new().tbs_bytes end)
    end)
end)

describe("X509.Name.new", function()
    it("takes the DER of a name", function()
        local name = fix.cert("ec").subject
        assert.equal(name, fix.X509.Name.new(name:to_der()))
    end)

    it("refuses a string that is none", function()
        local der = fix.cert("ec").subject:to_der()
        for _, text in ipairs { "", "/CN=x", der:sub(1, -2), der .. "x" } do
            fix.raises("NameError", 'Name.new: expected a list or DER (Name.parse reads "/CN=…")', fix.X509.Name.new,
                text)
        end
    end)
end)

describe("X509.Store:verify", function()
    it("takes a function without a chain", function()
        local store, called = fix.store(), 0
        assert.is_true(store:verify(fix.cert "ec", function(ok) called = called + 1 return ok end))
        assert.equal(2, called)
        assert.is_false(store:verify(fix.cert "ec", function() return false end))
    end)
end)

describe("X509.Certificate.not_before", function()
    it("refuses years that a certificate cannot have", function()
        local cert = fix.X509.Certificate.new()
        for _, time in ipairs { -1e11, 1e15 } do
            fix.raises("CertificateError", "Certificate.not_before: ", fix.assign, cert, "not_before", time)
        end
        assert.is_nil(cert.not_before)
    end)
end)
