--- moongate.rules: each rule with a client that it lets in and with those that only look like one.

package.path = "spec/unit/support/?.lua;lua/?.lua;" .. package.path
local fix = require "fixtures"
local rules = require "moongate.rules"
local testing = require "moongate.testing"

-- subject: a list of { type, value }; names as for create_extension, or a list of { tag, bytes }
local function client(subject, names)
    local X509 = fix.X509
    if type(names) == "table" then
        local parts = {}
        for i, name in ipairs(names) do
            parts[i] = string.pack("Bs1", name[1], name[2])
        end
        names = X509.Extension.new("subjectAltName", "\x30" .. string.pack("s1", table.concat(parts)))
    elseif names then
        names = X509.ExtensionFactory.new():create_extension("subjectAltName", names)
    end
    local cert = X509.Certificate.new()
    cert.version, cert.serial, cert.issuer = 2, math.random(1 << 30), fix.cert("ca").subject
    cert.subject = X509.Name.new(subject or { { "CN", "x" } })
    cert.not_before, cert.not_after, cert.public_key = os.time() - 60, os.time() + 3600, fix.key "client"
    if names then
        cert:add_extension(names)
    end
    return cert:sign(fix.key "ca", "SHA256")
end

-- In a handshake, by verify_callback, and on the server's end after one without.
local function judged(rule, cert)
    local function handshake(callback)
        local ctx = fix.server { certs = { "ec" }, verify_mode = 3, cert_store = fix.store(),
            verify_callback = callback }
        return testing.handshake(ctx, testing.clients.permissive {
            certificate = { cert = cert, key = fix.key "client", chain = {} } })
    end
    local hs, after = handshake(rules.verify(rule)), handshake()
    assert.is_true(after.ok, after.server_error)
    assert.equal(hs.ok, rule(after.server.peer_cert))
    if not hs.ok then
        assert.equal("handshake_failure", hs.alert)
    end
    return hs.ok
end

local URI, DNS = 0x86, 0x82

-- title → rule, certificates that it lets in, certificates that it refuses
local cases = {
    cn = { rules.cn("billing", "reports"), {
        client { { "CN", "billing" } }, client { { "O", "x" }, { "CN", "reports" } },
    }, {
        client { { "CN", "Billing" } }, client { { "CN", "billing " } }, client { { "CN", "billing\0" } },
        client { { "O", "billing" } }, client { { "CN", "billing" }, { "CN", "root" } },
        client { { "CN", "root" }, { "CN", "billing" } }, client({ { "CN", "x" } }, "DNS:billing"),
        client { { "CN", "bill" } }, client { { "CN", "x/CN=billing" } },
    } },
    ou = { rules.ou("operations"), {
        client { { "OU", "operations" } }, client { { "OU", "night" }, { "OU", "operations" }, { "CN", "x" } },
    }, {
        client { { "OU", "operation" } }, client { { "O", "operations" } }, client { { "CN", "operations" } },
        client { { "OU", "Operations" } },
    } },
    o = { rules.o("Example"), { client { { "O", "Example" } } }, { client { { "OU", "Example" } } } },
    ["dns"] = { rules.dns("a.example.com", "*.Agents.example.com"), {
        client(nil, "DNS:a.example.com"),
        client(nil, "DNS:A.EXAMPLE.com"), client(nil, "DNS:x,DNS:7.agents.example.com"),
    }, {
        client(nil, "DNS:b.example.com"), client(nil, "DNS:a.example.com.evil"), client(nil, "DNS:agents.example.com"),
        client(nil, "DNS:7.8.agents.example.com"), client(nil, "DNS:*.agents.example.com"),
        client(nil, { { DNS, "a.example.com\0.evil" } }), client(nil, { { DNS, ".agents.example.com" } }),
        client(nil, { { DNS, "a.example.com." } }), client(nil, "URI:a.example.com"),
        client { { "CN", "a.example.com" } },
    } },
    ip = { rules.ip("192.0.2.7", "2001:db8:0:0::1"), {
        client(nil, "IP:192.0.2.7"), client(nil, "IP:2001:db8::1"),
    }, {
        client(nil, "IP:192.0.2.8"), client(nil, "DNS:192.0.2.7"), client(nil, "IP:::ffff:192.0.2.7"),
    } },
    email = { rules.email("ops@example.com"), { client(nil, "email:ops@example.com") }, {
        client(nil, "email:Ops@example.com"), client(nil, "email:ops@example.com.evil"),
        client(nil, { { 0x81, "ops@example.com\0" } }), client { { "emailAddress", "ops@example.com" } },
    } },
    uri = { rules.uri("urn:x:1"), { client(nil, "URI:urn:x:2,URI:urn:x:1") }, { client(nil, "URI:urn:x:11") } },
    spiffe = { rules.spiffe("spiffe://example.com/ns/*/sa/billing", "spiffe://example.com/ops/**",
        "spiffe://example.org"), {
        client(nil, "URI:spiffe://example.com/ns/a/sa/billing"),
        client(nil, "URI:spiffe://example.com/ns/b-1/sa/billing"),
        client(nil, "URI:spiffe://example.com/ops/x"), client(nil, "URI:spiffe://example.com/ops/x/y"),
        client(nil, "URI:spiffe://example.org"), client(nil, "URI:spiffe://example.org,DNS:a.example"),
    }, {
        client(nil, "URI:spiffe://example.com/ns/a/sa/billing2"), client(nil, "URI:spiffe://example.com/ns/a/sa/bill"),
        client(nil, "URI:spiffe://example.com/ns/a/b/sa/billing"),
        client(nil, "URI:spiffe://example.com/ns/sa/billing"),
        client(nil, "URI:spiffe://example.com/ns/a/sa/billing/x"), client(nil, "URI:spiffe://example.com/ns/a/sa"),
        client(nil, "URI:spiffe://example.com/ops"), client(nil, "URI:spiffe://example.com/opsx/y"),
        client(nil, "URI:spiffe://example.com"), client(nil, "URI:spiffe://example.org/x"),
        client(nil, "URI:spiffe://evil.com/ns/a/sa/billing"), client(nil, "URI:spiffe://example.com.evil.com/ops/x"),
        client(nil, "URI:spiffe://evil.example.com/ops/x"), client(nil, "URI:spiffe://Example.com/ops/x"),
        client(nil, "URI:SPIFFE://example.com/ops/x"), client(nil, "URI:https://example.com/ops/x"),
        client(nil, "URI:spiffe://example.com:443/ops/x"), client(nil, "URI:spiffe://a@example.com/ops/x"),
        client(nil, "URI:spiffe://example.com/ops/x/"), client(nil, "URI:spiffe://example.com//ops/x"),
        client(nil, "URI:spiffe://example.com/ops/../x"), client(nil, "URI:spiffe://example.com/ops/."),
        client(nil, "URI:spiffe://example.com/ops/x?y"), client(nil, "URI:spiffe://example.com/ops/%78"),
        client(nil, "URI:spiffe://example.com/ops/*"), client(nil, "URI:spiffe://example.com/ns/*/sa/billing"),
        client(nil, "URI:spiffe://example.com/ops/**"),
        client(nil, { { URI, "spiffe://example.com/ops/x\0" } }),
        client(nil, { { URI, "spiffe://example.com/ops/\0" } }),
        client(nil, { { URI, " spiffe://example.com/ops/x" } }),
        client(nil, { { URI, "spiffe://example.com/ops/x\n" } }),
        client(nil, { { URI, "spiffe://example.com/ops/\xc3\xa4" } }),
        client(nil, "DNS:spiffe://example.com/ops/x"), client { { "CN", "spiffe://example.com/ops/x" } },
        client(nil, "URI:spiffe://example.com/ops/x,URI:spiffe://example.com/guest"),
        client(nil, "URI:spiffe://example.com/ops/x,URI:spiffe://example.com/ops/x"),
    } },
    pin = { rules.pin(fix.cert("client").pin_sha256), { client() }, {} },
    ["pin, by name"] = { rules.pin("sha256//" .. fix.cert("client").pin_sha256), { client() }, {} },
    ["pin, in hexadecimal"] = { rules.pin(fix.cert("client").spki_sha256:upper()), { client() }, {} },
    ["pin of another"] = { rules.pin(fix.cert("ec").pin_sha256, fix.cert("client").sha256), {}, { client() } },
    all = { rules.all(rules.cn "a", rules.ou "b"), { client { { "CN", "a" }, { "OU", "b" } } }, {
        client { { "CN", "a" } }, client { { "OU", "b" } } } },
    any = { rules.any(rules.cn "a", rules.ou "b"), { client { { "CN", "a" } }, client { { "OU", "b" } } },
        { client { { "CN", "b" } } } },
    none = { rules.none(rules.cn "a", rules.ou "b"), { client { { "CN", "b" } } }, {
        client { { "CN", "a" } }, client { { "OU", "b" } } } },
}

describe("moongate.rules", function()
    for name, case in pairs(cases) do
        local rule, good, bad = table.unpack(case)
        it(name .. " lets in whom it means, and nobody else", function()
            for i, cert in ipairs(good) do
                assert.is_true(judged(rule, cert), ("good %d: %s"):format(i, cert:to_text()))
            end
            for i, cert in ipairs(bad) do
                assert.is_false(judged(rule, cert), ("bad %d: %s"):format(i, cert:to_text()))
            end
        end)

        it(name .. " is false without a certificate", function() assert.is_false(rule(nil)) end)
    end

    it("verify forgives nothing", function()
        local stranger = fix.certificate { subject = "/CN=billing", key = fix.key "client",
            issuer = fix.cert "other_ca", issuer_key = fix.key "other_ca" }
        local ctx = fix.server { verify_mode = 3, cert_store = fix.store(),
            verify_callback = rules.verify(rules.cn "billing") }
        local hs = fix.handshake(ctx, fix.client { cert = stranger, key = fix.key "client" })
        assert.equal("unknown_ca", hs.alert)
    end)

    it("spiffe_id gives the one that there is", function()
        assert.equal("spiffe://example.com/a", rules.spiffe_id(client(nil, "URI:spiffe://example.com/a")))
        assert.is_nil(rules.spiffe_id(client(nil, "URI:spiffe://example.com/a/")))
        assert.is_nil(rules.spiffe_id(client()))
        assert.is_nil(rules.spiffe_id(nil))
    end)

    for what, wrong in pairs {
        cn = { "", 1 }, ou = { "" }, ["dns"] = { "", "a..b", "*", "*.", "a.*.b", "a b", "**.example.com" },
        ip = { "", "localhost", "1.2.3", "::1,DNS:x", "1.2.3.4/8", "\n" }, pin = { "", "sha256//x", ("a"):rep(63) },
        spiffe = { "", "spiffe://", "spiffe://*/x", "spiffe://A/x", "spiffe://a/", "spiffe://a//b", "spiffe://a/b*",
            "spiffe://a/**/b", "http://a/b", "spiffe://a:1/b", "spiffe://a/..", "spiffe://a/%41", "a",
            "spiffe://a/***" },
    } do
        it(what .. " refuses what could never fit, where it is written", function()
            for _, value in ipairs(wrong) do
                local ok, err = pcall(function() rules[what](value) end)
                assert.is_false(ok, value)
                assert.matches("^spec/unit/rules_spec%.lua:%d+: rules%." .. what .. ": ", err)
            end
            for _, arguments in ipairs { {}, { nil, "x", n = 2 } } do
                assert.is_false(pcall(rules[what], table.unpack(arguments, 1, arguments.n or #arguments)))
            end
        end)
    end

    it("all, any, none and verify want rules", function()
        for _, what in ipairs { "all", "any", "none", "verify" } do
            local ok, err = pcall(function() rules[what]("cn") end)
            assert.is_false(ok)
            assert.matches("^spec/unit/rules_spec%.lua:%d+: rules%." .. what ..
                ": argument 1: expected a rule, got string", err)
            assert.is_false(pcall(rules[what]))
        end
    end)
end)
