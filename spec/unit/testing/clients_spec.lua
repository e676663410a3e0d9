--- moongate.testing in stock lua5.4: certificates, clients, handshakes.

package.path = "spec/unit/support/?.lua;lua/?.lua;" .. package.path
local fix = require "fixtures"
local testing = require "moongate.testing"
local SSL = fix.SSL

local ca = testing.ca()
local made = {}
for _, kind in ipairs { "RSA", "EC", "ED25519" } do
    made[kind] = testing.certificate { ca = ca, key = kind }
end

-- A server with those kinds of certificates (all of them: none named), and other attributes.
local function server(attributes, kinds)
    local ctx = SSL.SSLContext.new()
    for name, value in pairs(attributes or {}) do
        ctx[name] = value
    end
    for _, kind in ipairs(kinds or { "RSA", "EC", "ED25519" }) do
        ctx:add_certificate(made[kind].cert, made[kind].key, made[kind].chain)
    end
    return ctx
end

local LENIENT = { min_version = "TLS1", ciphers = "ALL:@SECLEVEL=0" }
local NAMED = { servername = "localhost" }

describe("testing.certificate", function()
    it("makes one for localhost that a context takes", function()
        local own = testing.certificate()
        assert.is_true(own.cert:check_private_key(own.key))
        assert.equal(own.cert:to_pem(), own.pem)
        assert.equal("EC", own.key.type)
        assert.same({}, own.chain)
        assert.is_true(own.cert:verify(own.key))
    end)

    for _, case in ipairs { { "RSA", "RSA" }, { "EC", "EC" }, { "ED25519", "ED25519" }, { "ED448", "ED448" } } do
        it("makes a key of kind " .. case[1], function()
            assert.equal(case[2], testing.certificate({ key = case[1] }).key.type)
        end)
    end

    it("takes a key that is there", function()
        assert.is_true(testing.certificate({ key = fix.key "ec" }).key:compare(fix.key "ec"))
    end)

    it("takes names and addresses", function()
        local names
        for _, extension in ipairs(testing.certificate({ names = { "a.example", "*.b.example", "10.0.0.1", "::1" } })
                .cert.extensions) do
            names = extension.oid == "subjectAltName" and extension.value or names
        end
        assert.equal("DNS:a.example, DNS:*.b.example, IP Address:10.0.0.1, IP Address:0:0:0:0:0:0:0:1", names)
    end)

    it("is valid for so many days, or over", function()
        local now = os.time()
        assert.near(now + 5 * 86400, testing.certificate({ days = 5 }).cert.not_after, 5)
        local late = testing.certificate({ days = -1 }).cert
        assert.is_true(late.not_after < now and late.not_before < late.not_after)
    end)

    it("is signed by a CA, whose intermediates are its chain", function()
        local middle = testing.ca { ca = ca }
        local leaf = testing.certificate { ca = middle }
        assert.is_true(leaf.cert:verify(middle.key))
        assert.equal(1, #leaf.chain)
        assert.equal(leaf.cert:to_pem() .. middle.cert:to_pem(), leaf.pem)
        assert.is_true(ca:store():verify(leaf.cert, leaf.chain))
        assert.is_false(ca:store():verify(leaf.cert))
        assert.same({}, testing.certificate({ ca = ca }).chain)
    end)

    it("names what it does not know", function()
        local ok, err = pcall(testing.certificate, { nmaes = "x" })
        assert.is_false(ok)
        assert.matches('testing.certificate: unknown option "nmaes" %(there are names, subject, key', err)
        ok, err = pcall(testing.certificate, { key = "DSA" })
        assert.is_false(ok)
        assert.matches("testing.certificate: key: expected EC, RSA, ED25519, ED448 or a PKey, got DSA", err, 1, true)
        ok, err = pcall(testing.ca, "x")
        assert.is_false(ok)
        assert.matches("testing.ca: expected a table of options, got string", err, 1, true)
    end)
end)

describe("testing.handshake", function()
    it("has a permissive client where none is given", function()
        local hs = testing.handshake(server())
        assert.is_true(hs.ok)
        assert.is_nil(hs.server_error)
        assert.is_nil(hs.client_error)
        assert.is_nil(hs.alert)
        assert.equal("TLSv1.3", hs.server.ssl_version)
        assert.is_true(testing.handshake(server(LENIENT), nil, NAMED).ok)
    end)

    it("carries data both ways, and an end", function()
        local hs = testing.handshake(server(), testing.clients.modern, NAMED)
        hs.client:write("ping")
        assert.equal("ping", hs.server:read())
        hs.server:write(("x"):rep(100000))
        assert.equal(("x"):rep(100000), hs.client:read())
        hs.client:close()
        assert.same({ nil, "closed" }, { hs.server:read() })
    end)

    it("tells what went wrong on both ends, and the alert", function()
        local hs = testing.handshake(server(), testing.clients.tls13 { ca = testing.ca { name = "Another" } }, NAMED)
        assert.is_false(hs.ok)
        assert.equal("unknown_ca", hs.alert)
        assert.is_string(hs.client_error)
        assert.is_string(hs.server_error)
    end)

    for _, client in ipairs { "tls12", "tls13" } do
        it("resumes a session with " .. client, function()
            local ctx, peer = server(), testing.clients[client] { ca = ca }
            local first = testing.handshake(ctx, peer, NAMED)
            assert.is_true(first.ok, first.client_error)
            local again = testing.handshake(ctx, peer, { servername = "localhost", session = first.client.session })
            assert.is_true(again.client.session_reused)
            assert.is_true(again.server.session_reused)
        end)
    end

    it("refuses a client that is no context", function()
        fix.raises("TypeError", "SSLContext", testing.handshake, server(), "modern")
    end)
end)

describe("the client", function()
    -- { version, kind of certificate, attributes of the server }
    local EXPECTED = {
        permissive = { "TLSv1.3", "EC" },
        modern = { "TLSv1.3", "EC" },
        intermediate = { "TLSv1.3", "EC" },
        old = { "TLSv1.2", "EC" },
        browser = { "TLSv1.3", "EC" },
        rsa_only = { "TLSv1.3", "RSA" },
        ecdsa_only = { "TLSv1.3", "EC" },
        ed25519_only = { "TLSv1.3", "ED25519" },
        tls10 = { "TLSv1", "EC", LENIENT },
        tls11 = { "TLSv1.1", "EC", LENIENT },
        tls12 = { "TLSv1.2", "EC" },
        tls13 = { "TLSv1.3", "EC" },
        cbc = { "TLSv1.2", "RSA" },
    }

    for name, expected in pairs(EXPECTED) do
        it(name .. " gets " .. expected[1] .. " and the " .. expected[2] .. " certificate", function()
            local hs = testing.handshake(server(expected[3]), testing.clients[name] { ca = ca }, NAMED)
            assert.is_true(hs.ok, hs.client_error)
            assert.same({ expected[1], expected[2] }, { hs.version, hs.key_type })
        end)
    end

    it("that is not listed here does not exist", function()
        for name in pairs(testing.clients) do
            assert.is_table(EXPECTED[name], name)
        end
        assert.has_error(function() return testing.clients.netscape end)
    end)

    for name, kinds in pairs { rsa_only = { "EC", "ED25519" }, ecdsa_only = { "RSA", "ED25519" },
        ed25519_only = { "RSA", "EC" } } do
        for _, version in ipairs { "TLS1_2", "TLS1_3" } do
            it(name .. " gets nothing from a server without that kind, with " .. version, function()
                local client = testing.clients[name] { min_version = version, max_version = version }
                assert.is_false(testing.handshake(server({}, kinds), client, NAMED).ok)
            end)
        end
    end

    it("is made afresh, with what is asked for besides", function()
        local clients = testing.clients
        assert.are_not.equal(clients.modern(), clients.modern())
        local ctx = clients.modern { name = "mine", alpn_protocols = { "h2" } }
        assert.equal("mine", ctx.name)
        local hs = testing.handshake(server { alpn_protocols = { "h2" } }, ctx)
        assert.equal("h2", hs.alpn_protocol)
        fix.raises("NoMethodError", "did you mean min_version?", clients.modern, { min_verison = "TLS1_2" })
    end)

    it("trusts a CA and shows a certificate", function()
        local ctx = server { verify_mode = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, cert_store = ca:store() }
        local hs = testing.handshake(ctx, testing.clients.tls13 { ca = ca, certificate = made.RSA }, NAMED)
        assert.is_true(hs.ok, hs.server_error)
        assert.equal(made.RSA.cert:to_pem(), hs.server.peer_cert:to_pem())
        assert.equal("certificate_required", testing.handshake(ctx, testing.clients.tls13, NAMED).alert)
        assert.is_false(testing.handshake(server(), testing.clients.tls13 { ca = ca },
            { servername = "elsewhere.example" }).ok)
    end)
end)
