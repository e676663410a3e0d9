package.path = "spec/unit/support/?.lua;" .. package.path
local fix = require "fixtures"
local SSL, X509, SSLContext = fix.SSL, fix.X509, fix.SSLContext

-- Values that are the same on OpenSSL 3.0 and 3.5.
local ssl = {
    VERIFY_NONE = 0, VERIFY_PEER = 1, VERIFY_FAIL_IF_NO_PEER_CERT = 2, VERIFY_CLIENT_ONCE = 4,
    SSL2_VERSION = 0x2, SSL3_VERSION = 0x300, TLS1_VERSION = 0x301, TLS1_1_VERSION = 0x302,
    TLS1_2_VERSION = 0x303, TLS1_3_VERSION = 0x304,
    OP_ALL = 0x80000850, OP_CLEANSE_PLAINTEXT = 0x2, OP_LEGACY_SERVER_CONNECT = 0x4, OP_ENABLE_KTLS = 0x8,
    OP_TLSEXT_PADDING = 0x10, OP_SAFARI_ECDHE_ECDSA_BUG = 0x40, OP_IGNORE_UNEXPECTED_EOF = 0x80,
    OP_ALLOW_CLIENT_RENEGOTIATION = 0x100, OP_DISABLE_TLSEXT_CA_NAMES = 0x200, OP_ALLOW_NO_DHE_KEX = 0x400,
    OP_DONT_INSERT_EMPTY_FRAGMENTS = 0x800, OP_NO_TICKET = 0x4000,
    OP_NO_SESSION_RESUMPTION_ON_RENEGOTIATION = 0x10000, OP_NO_COMPRESSION = 0x20000,
    OP_ALLOW_UNSAFE_LEGACY_RENEGOTIATION = 0x40000, OP_NO_ENCRYPT_THEN_MAC = 0x80000,
    OP_ENABLE_MIDDLEBOX_COMPAT = 0x100000, OP_PRIORITIZE_CHACHA = 0x200000,
    OP_CIPHER_SERVER_PREFERENCE = 0x400000, OP_TLS_ROLLBACK_BUG = 0x800000, OP_NO_ANTI_REPLAY = 0x1000000,
    OP_NO_SSLv3 = 0x2000000, OP_NO_TLSv1 = 0x4000000, OP_NO_TLSv1_2 = 0x8000000, OP_NO_TLSv1_1 = 0x10000000,
    OP_NO_TLSv1_3 = 0x20000000, OP_NO_RENEGOTIATION = 0x40000000, OP_CRYPTOPRO_TLSEXT_BUG = 0x80000000,
    OP_EPHEMERAL_RSA = 0, OP_MICROSOFT_BIG_SSLV3_BUFFER = 0, OP_MICROSOFT_SESS_ID_BUG = 0,
    OP_MSIE_SSLV2_RSA_PADDING = 0, OP_NETSCAPE_CA_DN_BUG = 0, OP_NETSCAPE_CHALLENGE_BUG = 0,
    OP_NETSCAPE_DEMO_CIPHER_CHANGE_BUG = 0, OP_NETSCAPE_REUSE_CIPHER_CHANGE_BUG = 0, OP_NO_SSLv2 = 0,
    OP_PKCS1_CHECK_1 = 0, OP_PKCS1_CHECK_2 = 0, OP_SINGLE_DH_USE = 0, OP_SINGLE_ECDH_USE = 0,
    OP_SSLEAY_080_CLIENT_DH_BUG = 0, OP_SSLREF2_REUSE_CERT_TYPE_BUG = 0, OP_TLS_BLOCK_PADDING_BUG = 0,
    OP_TLS_D5_BUG = 0,
}

local context = {
    SESSION_CACHE_OFF = 0, SESSION_CACHE_CLIENT = 1, SESSION_CACHE_SERVER = 2, SESSION_CACHE_BOTH = 3,
    SESSION_CACHE_NO_AUTO_CLEAR = 128, SESSION_CACHE_NO_INTERNAL_LOOKUP = 256,
    SESSION_CACHE_NO_INTERNAL_STORE = 512, SESSION_CACHE_NO_INTERNAL = 768,
}

local x509 = {
    V_OK = 0, V_ERR_UNABLE_TO_GET_ISSUER_CERT = 2, V_ERR_CERT_SIGNATURE_FAILURE = 7, V_ERR_CERT_NOT_YET_VALID = 9,
    V_ERR_CERT_HAS_EXPIRED = 10, V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT = 18, V_ERR_SELF_SIGNED_CERT_IN_CHAIN = 19,
    V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY = 20, V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE = 21,
    V_ERR_CERT_CHAIN_TOO_LONG = 22, V_ERR_CERT_REVOKED = 23, V_ERR_CERT_REJECTED = 28,
    V_ERR_APPLICATION_VERIFICATION = 50, V_ERR_HOSTNAME_MISMATCH = 62, V_ERR_IP_ADDRESS_MISMATCH = 64,
    V_FLAG_CRL_CHECK = 4, V_FLAG_CRL_CHECK_ALL = 8, V_FLAG_X509_STRICT = 0x20, V_FLAG_TRUSTED_FIRST = 0x8000,
    V_FLAG_PARTIAL_CHAIN = 0x80000, V_FLAG_NO_CHECK_TIME = 0x200000,
    PURPOSE_SSL_CLIENT = 1, PURPOSE_SSL_SERVER = 2, TRUST_SSL_CLIENT = 2, TRUST_SSL_SERVER = 3,
}

for title, set in pairs {
    ["SSL"] = { SSL, ssl },
    ["SSL.SSLContext"] = { SSLContext, context },
    ["X509"] = { X509, x509 },
} do
    describe("the constants of " .. title, function()
        for name, value in pairs(set[2]) do
            it(("%s is %#x"):format(name, value), function() assert.equal(value, set[1][name]) end)
        end
    end)
end

describe("the data of SSLContext", function()
    it("lists Ruby's METHODS", function()
        assert.equal(18, #SSLContext.METHODS)
        assert.equal("SSLv23", SSLContext.METHODS[1])
        assert.equal("TLSv1_2_server", SSLContext.METHODS[18])
        fix.raises("FrozenError", "METHODS", fix.assign, SSLContext.METHODS, 1, "x")
    end)

    it("has DEFAULT_PARAMS", function()
        local copy = {}
        for name, value in pairs(SSLContext.DEFAULT_PARAMS) do
            copy[name] = value
        end
        assert.same({ verify_mode = 1, verify_hostname = true, options = 0x80020050 }, copy)
        fix.raises("FrozenError", "DEFAULT_PARAMS", fix.assign, SSLContext.DEFAULT_PARAMS, "verify_mode", 0)
    end)

    it("has one DEFAULT_CERT_STORE", function()
        assert.equal("Store", getmetatable(SSLContext.DEFAULT_CERT_STORE))
        assert.is_true(rawequal(SSLContext.DEFAULT_CERT_STORE, SSLContext.DEFAULT_CERT_STORE))
    end)

    it("has Mozilla's profiles", function()
        assert.equal("string", type(SSL.PROFILES.version))
        assert.equal(SSL.TLS1_3_VERSION, SSL.PROFILES.modern.min_version)
        assert.equal(SSL.TLS1_2_VERSION, SSL.PROFILES.intermediate.min_version)
        assert.equal(SSL.TLS1_VERSION, SSL.PROFILES.old.min_version)
        fix.raises("FrozenError", "PROFILES", fix.assign, SSL.PROFILES, "modern", {})
    end)
end)
