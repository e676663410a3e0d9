--- SSL.verify_certificate_identity, verify_hostname and verify_wildcard: Ruby's matcher, row by row.

package.path = "spec/unit/support/?.lua;" .. package.path
local fix = require "fixtures"
local SSL, raises = fix.SSL, fix.raises

local function certificate(subject, names)
    return fix.certificate { subject = subject, key = fix.key "ec", issuer = fix.cert "ca", issuer_key = fix.key "ca",
        names = names }
end

describe("SSL.verify_wildcard", function()
    for _, row in ipairs {
        { "www", "*", true }, { "www", "www", true }, { "WWW", "www", true }, { "www", "mail", false },
        { "foobar", "foo*", true }, { "foobar", "*bar", true }, { "foobar", "f*r", true }, { "foobar", "f*x", false },
        { "foo", "foo*", false }, { "a", "a*a", false }, { "foobar", "f*o*r", false }, { "", "*", false },
        { "xn--abc", "*", true }, { "xn--abc", "xn*", false }, { "xn--abc", "xn--abc", true },
    } do
        it(("%q against %q: %s"):format(row[1], row[2], row[3]), function()
            assert.equal(row[3], SSL.verify_wildcard(row[1], row[2]))
        end)
    end
end)

describe("SSL.verify_hostname", function()
    for _, row in ipairs {
        { "www.example.com", "www.example.com", true }, { "WWW.example.com", "www.Example.COM", true },
        { "www.example.com", "*.example.com", true }, { "a.b.example.com", "*.example.com", false },
        { "example.com", "*.example.com", false }, { "www.example.com.", "www.example.com", true },
        { "www.example.com", "www.example.com.", true }, { "baz1.example.com", "baz*.example.com", true },
        { "foobaz.example.com", "*baz.example.com", true }, { "buzz.example.com", "b*z.example.com", true },
        { "www.example.com", "www.*.com", false }, { "localhost", "localhost", true },
        { "LOCALHOST", "localhost", false }, { "localhost.", "localhost", false }, { "localhost", "*", false },
        { "www.example.com\0.evil", "www.example.com", false }, { "www.example.com", "www.example.com\0.evil", false },
        { "w\xc3\xa4.example.com", "*.example.com", false }, { "", "", true }, { "", "a.b", false },
        { ".", "a.b", false },
        { ("a"):rep(100000), ("a"):rep(100000) .. ".b", false },
    } do
        it(("%q against %q: %s"):format(row[1]:sub(1, 40), row[2]:sub(1, 40), row[3]), function()
            assert.equal(row[3], SSL.verify_hostname(row[1], row[2]))
        end)
    end
end)

describe("SSL.verify_certificate_identity", function()
    local named = certificate("/CN=cn.example.com", "DNS:www.example.com,DNS:*.test.example,IP:127.0.0.1,IP:::1")
    local common = certificate("/CN=cn.example.com")

    for host, fits in pairs {
        ["www.example.com"] = true, ["a.test.example"] = true, ["127.0.0.1"] = true, ["::1"] = true,
        ["0:0:0:0:0:0:0:1"] = true, ["127.0.0.2"] = false, ["mail.example.com"] = false,
        ["cn.example.com"] = false, ["127.0.0.1\0"] = false,
    } do
        it((fits and "accepts " or "refuses ") .. ("%q"):format(host), function()
            assert.equal(fits, SSL.verify_certificate_identity(named, host))
        end)
    end

    it("looks at the common name only where there is no DNS or IP name (trap 20)", function()
        assert.is_true(SSL.verify_certificate_identity(common, "cn.example.com"))
        assert.is_false(SSL.verify_certificate_identity(common, "other.example.com"))
        assert.is_true(SSL.verify_certificate_identity(certificate("/CN=cn.example.com", "email:a@example.com"),
            "cn.example.com"))
    end)

    it("checks its arguments", function()
        raises("TypeError", "SSL.verify_certificate_identity: argument 1: expected Certificate, got string",
            SSL.verify_certificate_identity, "x", "y")
        raises("TypeError", "argument 2: expected a string, got nil", SSL.verify_certificate_identity, named, nil)
        raises("ArgumentError", "given 1, expected 2", SSL.verify_hostname, "x")
        raises("TypeError", "SSL.verify_wildcard: argument 2", SSL.verify_wildcard, "x", 1)
    end)

    it("is what post_connection_check asks", function()
        local hs = fix.handshake(fix.server(), fix.client())
        assert.is_true(hs.client:post_connection_check("localhost"))
        raises("SSLError", 'hostname "other.test" does not match the server certificate',
            hs.client.post_connection_check, hs.client, "other.test")
        -- trap 27
        raises("SSLError", "there is no certificate of the peer", hs.server.post_connection_check, hs.server, "x")
    end)
end)
