package.path = "spec/unit/support/?.lua;" .. package.path
local fix = require "fixtures"
local PKey, raises = fix.PKey, fix.raises

describe("PKey", function()
    for name, want in pairs {
        rsa = { "RSA", "rsaEncryption" }, ec = { "EC", "id-ecPublicKey" }, ed25519 = { "ED25519", "ED25519" },
    } do
        describe("of type " .. want[1], function()
            local key = fix.key(name)

            it("tells what it is", function()
                assert.same({ want[1], want[2] }, { key.type, key.oid })
                assert.is_true(key.private)
                assert.is_true(key.public)
                assert.is_true(key.bits > 200)
                assert.equal(name == "ec" and "prime256v1" or nil, key.group and key.group.curve_name)
            end)

            it("has a public half", function()
                local public = key.public_key
                assert.is_false(public.private)
                assert.is_true(public:compare(key))
                assert.is_true(PKey.read(key:public_to_pem()):compare(key))
                assert.is_true(PKey.read(key:public_to_der()):compare(key))
                assert.is_false(PKey.read(key:public_to_pem()).private)
                assert.equal(public:to_pem(), key:public_to_pem())
            end)

            it("goes out and comes back", function()
                for _, text in ipairs { key:private_to_pem(), key:private_to_der(), key:to_pem(), key:export() } do
                    local again = PKey.read(text)
                    assert.is_true(again.private)
                    assert.is_true(again:compare(key))
                end
                assert.truthy(key:to_text():find("rivate", 1, true))
            end)

            it("goes out encrypted and never asks for the passphrase", function()
                for _, text in ipairs {
                    key:private_to_pem("AES-256-CBC", "secret"), key:private_to_der("AES-256-CBC", "secret"),
                    key:to_pem("AES-256-CBC", "secret"),
                } do
                    assert.is_true(PKey.read(text, "secret"):compare(key))
                    raises("PKeyError", "PKey.read: the private key is encrypted and no passphrase was given",
                        PKey.read, text)
                    raises("PKeyError", "Could not parse PKey (wrong passphrase?)", PKey.read, text, "wrong")
                    raises("PKeyError", "Could not parse PKey (wrong passphrase?)", PKey.read, text, "")
                end
            end)

            it("signs and verifies", function()
                local digest = name ~= "ed25519" and "SHA256" or nil
                local signature = key:sign(digest, "data\0")
                assert.is_true(key.public_key:verify(digest, signature, "data\0"))
                assert.is_false(key:verify(digest, signature, "other"))
                assert.is_false(key:verify(digest, "nonsense", "data\0"))
                assert.is_false(key:verify(digest, "", "data\0"))
            end)

            it("does nothing private with its public half", function()
                local public = key.public_key
                raises("ArgumentError", "private key is needed", public.sign, public, "SHA256", "x")
                raises("ArgumentError", "private key is needed", public.private_to_pem, public)
                raises("ArgumentError", "private key is needed", public.private_to_der, public)
            end)
        end)
    end

    describe("asks a function for the passphrase", function()
        local key = fix.key "ec"
        local pem = key:private_to_pem("AES-256-CBC", "secret")
        local calls
        local function secret(writing)
            calls[#calls + 1] = writing
            return "secret"
        end
        before_each(function() calls = {} end)

        it("once, and says that nothing is written", function()
            for _, text in ipairs { pem, key:private_to_der("AES-256-CBC", "secret"),
                key:to_pem("AES-256-CBC", "secret") } do
                calls = {}
                assert.is_true(PKey.read(text, secret):compare(key))
                assert.same({ false }, calls)
            end
            assert.is_true(PKey.read(pem, nil, secret):compare(key))
            assert.is_true(PKey.EC.new(pem, secret):compare(key))
        end)

        it("not where the key is not encrypted, or a passphrase was given", function()
            assert.is_true(PKey.read(key:private_to_pem(), secret):compare(key))
            assert.is_true(PKey.read(pem, "secret", secret):compare(key))
            raises("PKeyError", "(wrong passphrase?)", PKey.read, pem, "wrong", secret)
            assert.same({}, calls)
        end)

        it("of a file, too", function()
            local files = fix.files()
            local path = files:write("key.pem", pem)
            assert.is_true(PKey.load_file(path, secret):compare(key))
            local chain = files:write("chain.pem", fix.cert("ec"):to_pem())
            local ctx = fix.SSLContext.new()
            assert.equal(ctx, ctx:load_certificate(chain, path, secret))
            assert.equal(ctx, ctx:load_certificate(chain, path, nil, secret))
            files:remove()
        end)

        it("and says what is wrong with its answer", function()
            raises("PKeyError", "(wrong passphrase?)", PKey.read, pem, function() return "wrong" end)
            raises("PKeyError", "the private key is encrypted and no passphrase was given", PKey.read, pem,
                function() end)
            raises("TypeError", "PKey.read: the passphrase function: expected a string, got number", PKey.read, pem,
                function() return 1 end)
            raises("OpenSSLError", "longer than 1024 bytes", PKey.read, pem, function() return ("x"):rep(1025) end)
            local ok, err = pcall(PKey.read, pem, function() error({ mine = true }) end)
            assert.is_false(ok)
            assert.is_true(err.mine)
            raises("TypeError", "PKey.read: argument 2: expected a string or a function, got table", PKey.read, pem, {})
            raises("TypeError", "PKey.read: argument 3: expected a function, got string", PKey.read, pem, nil, "x")
        end)

        it("which may read keys itself", function()
            assert.is_true(PKey.read(pem, function() return PKey.read(pem, secret) and "secret" end):compare(key))
        end)
    end)

    it("of a class is of its type", function()
        for class, case in pairs { RSA = { fix.key "ec", "id-ecPublicKey" }, EC = { fix.key "rsa", "rsaEncryption" },
            DH = { fix.key "ed25519", "ED25519" } } do
            raises("PKeyError", ("PKey.%s.new: incorrect pkey type: %s"):format(class, case[2]), PKey[class].new,
                case[1]:private_to_pem())
        end
        assert.equal("DH", PKey.DH.new(fix.key("dh"):private_to_pem()).type)
    end)

    it("is not made larger than OpenSSL uses it", function()
        raises("PKeyError", "PKey.RSA.generate: rsa_keygen_bits: at most 16384, got 1000000000", PKey.RSA.generate, 1e9)
        raises("PKeyError", "at most 16384", PKey.RSA.new, 16385)
        raises("PKeyError", "at most 16384", PKey.generate_key, "RSA", { rsa_keygen_bits = "99999" })
        raises("PKeyError", "at most 10000", PKey.generate_parameters, "DH", { dh_paramgen_prime_len = 1 << 40 })
    end)

    it("reads parameters from DER as from PEM", function()
        local files = fix.files()
        assert(os.execute(("cd %s && openssl genpkey -genparam -algorithm DH -pkeyopt group:ffdhe2048 -out dh.pem " ..
            "2>/dev/null && openssl pkeyparam -in dh.pem -out x.pem && openssl asn1parse -in dh.pem -out dh.der -noout")
            :format(files.path)))
        for _, name in ipairs { "dh.pem", "dh.der" } do
            local parameters = PKey.load_file(files.path .. "/" .. name)
            assert.equal("02", parameters.g)
            assert.is_false(parameters.private)
            assert.equal(2048, PKey.generate_key(parameters).bits)
        end
        files:remove()
    end)

    it("gives raw keys of the types that have them", function()
        assert.equal(32, #fix.key("ed25519").raw_private_key)
        assert.equal(32, #fix.key("ed25519").raw_public_key)
        assert.is_nil(fix.key("rsa").raw_private_key)
        assert.is_nil(fix.key("ed25519").public_key.raw_private_key)
    end)

    it("generates", function()
        assert.equal("X25519", PKey.generate_key("X25519").type)
        assert.equal("ED448", PKey.generate_key("ED448").type)
        assert.equal(1024, PKey.generate_key("RSA", { rsa_keygen_bits = 1024 }).bits)
        assert.equal(1024, PKey.generate_key("RSA", { rsa_keygen_bits = "1024" }).bits)
        assert.equal("secp384r1", PKey.generate_key("EC", { ec_paramgen_curve = "P-384" }).group.curve_name)
        assert.equal(1024, PKey.RSA.new(1024).bits)
        assert.is_true(PKey.RSA.new(fix.key("rsa"):to_pem()):compare(fix.key "rsa"))
        assert.is_true(PKey.EC.new(fix.key("ec"):to_pem()):compare(fix.key "ec"))
    end)

    for title, case in pairs {
        ["an unknown type"] = { PKey.generate_key, { "NOSUCH" }, "PKeyError", 'unsupported algorithm "NOSUCH"' },
        ["an unknown option"] = { PKey.generate_key, { "RSA", { nosuch = 1 } }, "PKeyError", "nosuch" },
        ["an option that is a table"] = { PKey.generate_key, { "RSA", { rsa_keygen_bits = {} } }, "TypeError",
            "argument 2" },
        ["a list of options"] = { PKey.generate_key, { "RSA", { 1 } }, "TypeError", "argument 2" },
        ["a bad size"] = { PKey.RSA.generate, { 1 }, "PKeyError", "rsa_keygen_bits" },
        ["a negative size"] = { PKey.RSA.generate, { -2048 }, "PKeyError", "rsa_keygen_bits" },
        ["an unknown curve"] = { PKey.EC.generate, { "nosuch" }, "PKeyError", "nosuch" },
        ["a curve with a NUL"] = { PKey.EC.generate, { "P-256\0" }, "ArgumentError", "string contains null byte" },
        ["nothing to read"] = { PKey.read, { "" }, "PKeyError", "PKey.read: Could not parse PKey" },
        ["a certificate to read"] = { PKey.read, { fix.cert("ca"):to_pem() }, "PKeyError", "Could not parse PKey" },
        ["noise to read"] = { PKey.read, { ("\48\130\1"):rep(1000) }, "PKeyError", "Could not parse PKey" },
        ["a number to read"] = { PKey.read, { 1 }, "TypeError",
            "PKey.read: argument 1: expected a string, got number" },
        ["a passphrase that is none"] = { PKey.read, { "x", 1 }, "TypeError",
            "PKey.read: argument 2: expected a string" },
        ["a long passphrase"] = { PKey.read, { "x", ("x"):rep(1025) }, "OpenSSLError", "longer than 1024 bytes" },
        ["a missing file"] = { PKey.load_file, { "/nonexistent" }, "SystemCallError",
            "PKey.load_file: /nonexistent: No such file" },
        ["a cipher that is none"] = { fix.key("ec").private_to_pem, { fix.key "ec", "NOSUCH", "x" }, "ArgumentError",
            "unsupported cipher algorithm (NOSUCH)" },
        ["a cipher without a passphrase"] = { fix.key("ec").private_to_pem, { fix.key "ec", "AES-128-CBC" },
            "TypeError",
            "PKey:private_to_pem: argument 2: expected a string, got no value" },
        ["a digest that is none"] = { fix.key("ec").sign, { fix.key "ec", "NOSUCH", "x" }, "ArgumentError",
            "unsupported digest algorithm (NOSUCH)" },
    } do
        it("refuses " .. title, function() raises(case[3], case[4], case[1], table.unpack(case[2])) end)
    end

    it("reads a file", function()
        local files = fix.files()
        local path = files:write("k.pem", fix.cert("ec"):to_pem() .. fix.key("ec"):to_pem())
        assert.is_true(PKey.load_file(path):compare(fix.key "ec"))
        path = files:write("c.pem", fix.cert("ec"):to_pem())
        raises("PKeyError", "c.pem: Could not parse PKey", PKey.load_file, path)
        files:remove()
    end)

    it("does not show itself", function()
        assert.equal("PKey: RSA 2048 bits", tostring(fix.key "rsa"))
        assert.equal("PKey: RSA 2048 bits (public)", tostring(fix.key("rsa").public_key))
    end)
end)

describe("keys from raw bytes", function()
    for type, size in pairs { ED25519 = 32, ED448 = 57, X25519 = 32, X448 = 56 } do
        it("are " .. type, function()
            local key = PKey.generate_key(type)
            assert.equal(type, key.type)
            assert.equal(size, #key.raw_private_key)
            assert.equal(size, #key.raw_public_key)
            local private = PKey.new_raw_private_key(type, key.raw_private_key)
            local public = PKey.new_raw_public_key(type, key.raw_public_key)
            assert.is_true(private.private)
            assert.is_false(public.private)
            assert.is_true(private:compare(key))
            assert.is_true(public:compare(key))
            if type:find "ED" then
                assert.is_true(public:verify(nil, private:sign(nil, "data"), "data"))
                assert.is_false(public:verify(nil, private:sign(nil, "data"), "other"))
            else
                raises("PKeyError", "EVP_DigestSign", private.sign, private, nil, "data")
            end
            raises("PKeyError", "PKey.new_raw_private_key: " .. type, PKey.new_raw_private_key, type, "short")
            raises("PKeyError", "PKey.new_raw_public_key", PKey.new_raw_public_key, type, "")
            raises("ArgumentError", "private key is needed", public.sign, public, nil, "data")
        end)
    end

    it("need a type that has them", function()
        raises("PKeyError", "PKey.new_raw_private_key: nonsense", PKey.new_raw_private_key, "nonsense", "x")
        raises("TypeError", "argument 2: expected a string", PKey.new_raw_public_key, "ED25519", 1)
        assert.is_nil(fix.key("rsa").raw_private_key)
        assert.is_nil(fix.key("rsa").raw_public_key)
    end)
end)

describe("PKey.DH", function()
    local key = fix.key "dh"

    it("has p, g and params", function()
        assert.equal("DH", key.type)
        assert.equal(512, #key.p)
        assert.equal("02", key.g)
        assert.same({ key.p, key.g }, { key.params.p, key.params.g })
        assert.is_string(key.params.pub_key)
        assert.is_string(key.params.priv_key)
        assert.is_true(key.private)
        assert.is_nil(fix.key("ec").p)
    end)

    it("comes from PEM, also encrypted", function()
        assert.is_true(PKey.DH.new(key:private_to_pem()):compare(key))
        local pem = key:private_to_pem("AES-256-CBC", "secret")
        assert.is_true(PKey.DH.new(pem, "secret"):compare(key))
        raises("PKeyError", "encrypted and no passphrase", PKey.DH.new, pem)
    end)

    it("can be made from parameters", function()
        local parameters = PKey.generate_parameters("DH", { group = "ffdhe2048" })
        assert.is_false(parameters.private)
        local made = PKey.generate_key(parameters)
        assert.is_true(made.private)
        assert.equal(key.p, made.p)
        assert.is_false(made:compare(key))
    end)

    it("of parameters alone serves as tmp_dh", function()
        local ctx = fix.server { certs = { "rsa" }, max_version = "TLS1_2", ciphers = "DHE-RSA-AES128-GCM-SHA256",
            tmp_dh = PKey.generate_parameters("DH", { group = "ffdhe3072" }) }
        local hs = fix.handshake(ctx, fix.client())
        assert.is_true(hs.ok, hs.server_error)
        assert.equal(3072, hs.client.tmp_key.bits)
    end)
end)

describe("PKey.params", function()
    it("of RSA are Ruby's", function()
        local params = fix.key("rsa").params
        for _, name in ipairs { "n", "e", "d", "p", "q", "dmp1", "dmq1", "iqmp" } do
            assert.truthy(params[name]:match("^%x+$"), name)
        end
        assert.equal("010001", params.e)
        assert.is_nil(fix.key("rsa").public_key.params.d)
    end)

    it("of others are nil", function()
        assert.is_nil(fix.key("ec").params)
        assert.is_nil(fix.key("ed25519").params)
    end)

    it("of EC parameters make a key", function()
        local key = PKey.generate_key(PKey.generate_parameters("EC", { ec_paramgen_curve = "P-384" }))
        assert.equal("secp384r1", key.group.curve_name)
        raises("PKeyError", "unsupported algorithm", PKey.generate_parameters, "nonsense")
    end)
end)
