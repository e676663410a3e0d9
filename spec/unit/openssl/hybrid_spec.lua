--- What newer versions of OpenSSL add: the hybrid post-quantum group. And what both ends read back of a handshake.

package.path = "spec/unit/support/?.lua;" .. package.path
local fix = require "fixtures"

local HYBRID = "X25519MLKEM768"
local has_hybrid = pcall(function() fix.SSLContext.new().groups = HYBRID end)
fix.openssl.errors()

local function handshake(server, client)
    local hs = fix.handshake(fix.server(server), fix.client(client))
    assert.is_true(hs.ok, hs.client_error)
    return hs
end

describe("the group " .. HYBRID, function()
    local function it_if(name, body)
        it(name, function()
            if not has_hybrid then
                pending("this OpenSSL (" .. fix.openssl.OPENSSL_LIBRARY_VERSION .. ") has no " .. HYBRID)
                return
            end
            body()
        end)
    end
    local BOTH = HYBRID .. ":X25519"

    it_if("is negotiated where both ends have it", function()
        local hs = handshake({ groups = BOTH }, { groups = BOTH })
        assert.equal("TLSv1.3", hs.version)
        assert.same({ HYBRID, HYBRID }, { hs.server.group, hs.client.group })
    end)

    it_if("is negotiated where the client sent a share of another", function()
        local hs = handshake({ groups = HYBRID }, { groups = "X25519:" .. HYBRID })
        assert.same({ HYBRID, HYBRID }, { hs.server.group, hs.client.group })
    end)

    it_if("is passed over where one end has only X25519", function()
        for _, case in ipairs { { BOTH, "X25519" }, { "X25519", BOTH } } do
            local hs = handshake({ groups = case[1] }, { groups = case[2] })
            assert.same({ "x25519", "x25519" }, { hs.server.group:lower(), hs.client.group:lower() })
        end
    end)

    it_if("needs TLS 1.3", function()
        local hs = handshake({ groups = BOTH, max_version = "TLS1_2" }, { groups = BOTH })
        assert.equal("TLSv1.2", hs.version)
        assert.equal("x25519", hs.client.group:lower())
    end)

    it_if("alone meets nobody without it", function()
        local hs = fix.handshake(fix.server { groups = HYBRID }, fix.client { groups = "X25519" })
        assert.is_false(hs.ok)
        assert.equal("handshake_failure", hs.alert)
    end)

    it_if("reads back as it was assigned", function()
        local ctx = fix.SSLContext.new()
        ctx.groups = BOTH
        assert.equal(BOTH, ctx.groups)
    end)

    it("is an error, and changes nothing, where OpenSSL has none", function()
        if has_hybrid then
            pending "this OpenSSL has it"
            return
        end
        local ctx = fix.SSLContext.new()
        ctx.groups = "X25519"
        fix.raises("SSLError", HYBRID, fix.assign, ctx, "groups", BOTH)
        assert.equal("X25519", ctx.groups)
    end)
end)

describe("both ends read back", function()
    -- { certificate, version, sigalgs, name on the wire }
    for _, case in ipairs {
        { "rsa", "TLS1_3", "RSA-PSS+SHA256", "rsa_pss_rsae_sha256" },
        { "rsa", "TLS1_2", "RSA+SHA384", "rsa_pkcs1_sha384" },
        { "ec", "TLS1_3", "ECDSA+SHA256", "ecdsa_secp256r1_sha256" },
        { "ec", "TLS1_2", "ECDSA+SHA512", "ecdsa_secp521r1_sha512" },
        { "ed25519", "TLS1_3", "ed25519", "ed25519" },
    } do
        it(("the signature algorithm %s with %s"):format(case[4], case[2]), function()
            local hs = handshake({ certs = { case[1] } }, fix.only(case[2], { sigalgs = case[3] }))
            assert.same({ case[4], case[4] }, { hs.server.sigalg, hs.client.peer_sigalg })
            assert.is_nil(hs.server.peer_sigalg)
        end)
    end

    for _, version in ipairs { "TLS1_2", "TLS1_3" } do
        it("the client's signature algorithm with " .. version, function()
            local hs = handshake({ verify_mode = fix.SSL.VERIFY_PEER, cert_store = fix.store() },
                fix.only(version, { cert = fix.cert "client", key = fix.key "client" }))
            assert.is_string(hs.client.sigalg)
            assert.equal(hs.client.sigalg, hs.server.peer_sigalg)
        end)

        it("the group with " .. version, function()
            local hs = handshake({ groups = "P-384" }, fix.only(version))
            assert.equal(hs.server.group, hs.client.group)
            assert.truthy(hs.client.group:find("384", 1, true), hs.client.group)
        end)
    end
end)
