--- What rules about a peer go by: subject:get, subject:values, subject_alt_names, sha256, spki_sha256, pin_sha256.

package.path = "spec/unit/support/?.lua;" .. package.path
local fix = require "fixtures"
local X509, raises = fix.X509, fix.raises

local function cert_with(build)
    local cert = X509.Certificate.new()
    cert.version, cert.serial, cert.subject, cert.issuer = 2, 1, "/CN=x", "/CN=x"
    cert.not_before, cert.not_after, cert.public_key = os.time() - 60, os.time() + 60, fix.key "ec"
    build(cert)
    cert:sign(fix.key "ec", "SHA256")
    return X509.Certificate.new(cert:to_der())
end

-- names: { tag, bytes } …
local function names(...)
    local parts = {}
    for i, name in ipairs { ... } do
        parts[i] = string.pack("Bs1", name[1], name[2])
    end
    local der = "\x30" .. string.pack("s1", table.concat(parts))
    return cert_with(function(cert) cert:add_extension(X509.Extension.new("subjectAltName", der)) end).subject_alt_names
end

local EMAIL, DNS, URI, IP, RID = 0x81, 0x82, 0x86, 0x87, 0x88

describe("Certificate.subject_alt_names", function()
    it("has the names by kind, in their order", function()
        local cert = cert_with(function(cert)
            cert:add_extension(X509.ExtensionFactory.new():create_extension("subjectAltName",
                "DNS:a.example,IP:127.0.0.1,URI:spiffe://example.com/x,DNS:*.b.example,email:a@b.example," ..
                "IP:2001:db8:0:0:0:0:0:1,RID:1.2.3.4,otherName:1.2.3.4;UTF8:z"))
        end)
        assert.same({
            dns = { "a.example", "*.b.example" }, ip = { "127.0.0.1", "2001:db8::1" },
            email = { "a@b.example" }, uri = { "spiffe://example.com/x" },
        }, cert.subject_alt_names)
    end)

    it("is four empty lists where there are none", function()
        assert.same({ dns = {}, ip = {}, email = {}, uri = {} }, fix.cert("ca").subject_alt_names)
        assert.same({ dns = {}, ip = {}, email = {}, uri = {} }, X509.Certificate.new().subject_alt_names)
        assert.same({ dns = {}, ip = {}, email = {}, uri = {} }, names({ RID, "\x2a\x03" }))
    end)

    it("lets nothing look like another name", function()
        local found = names({ DNS, "good.example\0.evil.example" }, { DNS, "good.example " }, { DNS, "a\\x00b" },
            { URI, "spiffe://good/\xc3\xa4" }, { EMAIL, "a@b\n" }, { DNS, "" })
        assert.same({ "good.example\\x00.evil.example", "good.example\\x20", "a\\x5cx00b", "" }, found.dns)
        assert.same({ "spiffe://good/\\xc3\\xa4" }, found.uri)
        assert.same({ "a@b\\x0a" }, found.email)
    end)

    it("has addresses as everybody writes them, and bytes for what is none", function()
        assert.same({ "10.0.0.255", "::", "::ffff:10.0.0.1", "\\x01\\x02\\x03", "" }, names(
            { IP, "\x0a\0\0\xff" }, { IP, ("\0"):rep(16) }, { IP, ("\0"):rep(10) .. "\xff\xff\x0a\0\0\1" },
            { IP, "\1\2\3" }, { IP, "" }).ip)
    end)

    it("is an error where it cannot be read, or is there twice", function()
        local broken = cert_with(function(cert)
            cert:add_extension(X509.Extension.new("subjectAltName", "\x30\x05\x82\x09a"))
        end)
        raises("CertificateError", "Certificate.subject_alt_names: it cannot be read",
            function() return broken.subject_alt_names end)
        local twice = cert_with(function(cert)
            for _ = 1, 2 do
                cert:add_extension(X509.ExtensionFactory.new():create_extension("subjectAltName", "DNS:a.example"))
            end
        end)
        raises("CertificateError", "Certificate.subject_alt_names: there are several",
            function() return twice.subject_alt_names end)
    end)

    it("cannot be assigned", function()
        raises("NoMethodError", "subject_alt_names", fix.assign, X509.Certificate.new(), "subject_alt_names", {})
    end)
end)

describe("Name", function()
    local name = X509.Name.new {
        { "C", "DE" }, { "O", "Bäcker" }, { "OU", "ops" }, { "OU", "night\0shift" }, { "CN", "billing" },
        { "1.2.3.4", "odd" },
    }

    it("get gives the one value of a type", function()
        assert.equal("billing", name:get "CN")
        assert.equal("billing", name:get "commonName")
        assert.equal("billing", name:get "2.5.4.3")
        assert.equal("Bäcker", name:get "O")
        assert.equal("odd", name:get "1.2.3.4")
        assert.is_nil(name:get "L")
    end)

    it("get gives nothing of several: values does", function()
        assert.is_nil(name:get "OU")
        assert.same({ "ops", "night\0shift" }, name:values "OU")
        assert.same({ "DE" }, name:values "C")
        assert.same({}, name:values "L")
    end)

    it("values are UTF-8, however they are encoded", function()
        local bmp = X509.Name.new { { "CN", "\0b\0\xe4", 30 }, { "O", "b\xe4", 20 } } -- BMPString, T61String
        assert.equal("bä", bmp:get "CN")
        assert.equal("bä", bmp:get "O")
    end)

    it("refuses what is no type", function()
        raises("NameError", 'Name:get: "nonsense" is no type of an entry', name.get, name, "nonsense")
        raises("NameError", "Name:values", name.values, name, "")
        raises("TypeError", "Name:get: argument 1: expected a string", name.get, name, 1)
        raises("TypeError", "Name:get", name.get, nil, "CN")
    end)
end)

describe("Certificate's hashes", function()
    local files
    setup(function() files = fix.files() end)
    teardown(function() files:remove() end)

    local function openssl(command, ...)
        local pipe = assert(io.popen(command:format(...)))
        local text = pipe:read("a")
        assert(pipe:close(), command)
        return text
    end

    for _, kind in ipairs { "rsa", "ec", "ed25519" } do
        it("are those that openssl has of " .. kind, function()
            local cert = fix.cert(kind)
            local path = files:write(kind .. ".pem", cert:to_pem())
            assert.equal(openssl("openssl x509 -in %s -noout -fingerprint -sha256", path):match("=(%S+)")
                :gsub(":", ""):lower(), cert.sha256)
            local key = "openssl x509 -in %s -noout -pubkey | openssl pkey -pubin -outform DER | openssl dgst -sha256 "
            assert.equal(openssl(key .. "-r", path):match("^%x+"), cert.spki_sha256)
            assert.equal(openssl(key .. "-binary | base64", path):match("^%S+"), cert.pin_sha256)
        end)
    end

    it("of certificates with one key: the key's are the same", function()
        local a, b = cert_with(function() end), cert_with(function(cert) cert.serial = 2 end)
        assert.not_equal(a.sha256, b.sha256)
        assert.equal(a.spki_sha256, b.spki_sha256)
    end)

    it("of an empty one harm nobody", function()
        for _, name in ipairs { "sha256", "spki_sha256", "pin_sha256" } do
            pcall(function() return X509.Certificate.new()[name] end)
        end
    end)
end)
