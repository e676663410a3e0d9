--- One row per attribute of SSLContext: its default, what it takes and reads back, what it refuses.

package.path = "spec/unit/support/?.lua;" .. package.path
local fix = require "fixtures"
local SSL, X509, SSLContext, raises, assign = fix.SSL, fix.X509, fix.SSLContext, fix.raises, fix.assign

local function callback() end
local NIL = {} -- stands for nil in a row
local huge = ("x"):rep(1000000)

local function lua_value(value)
    if value == NIL then
        return nil
    end
    return value
end

-- accept: { value, what is read back } (the same if left out); refuse: { value, class, text }
local rows = {
    min_version = {
        accept = {
            { SSL.TLS1_2_VERSION }, { "TLS1_2", SSL.TLS1_2_VERSION }, { "TLS1_3", SSL.TLS1_3_VERSION },
            { "SSL3", SSL.SSL3_VERSION }, { NIL }, { 0, NIL },
            { "T", SSL.TLS1_VERSION }, { "TLS1_", SSL.TLS1_1_VERSION }, -- a prefix is enough, as for Ruby
        },
        refuse = {
            { "TLSv1_2", "ArgumentError", 'SSLContext.min_version: unrecognized version "TLSv1_2"' },
            { "TLSv1.2", "ArgumentError", 'unrecognized version "TLSv1.2"' },
            { "tls1_2", "ArgumentError", 'unrecognized version "tls1_2"' },
            { "TLS1_2x", "ArgumentError", 'unrecognized version "TLS1_2x"' },
            { "", "SSLError", "SSL_CTX_set_min_proto_version" }, -- of "SSL2"
            { "SSL2", "SSLError", "SSL_CTX_set_min_proto_version" },
            { 1, "SSLError", "SSL_CTX_set_min_proto_version" },
            { 773, "SSLError", "SSL_CTX_set_min_proto_version" },
            { -1, "SSLError", "SSL_CTX_set_min_proto_version" },
            { 771.0, "TypeError", "SSLContext.min_version: expected a version" },
            { true, "TypeError", "got boolean" },
            { {}, "TypeError", "got table" },
            { "TLS1_2\0", "ArgumentError", "string contains null byte" },
            { 1 << 40, "RangeError", "out of range" },
        },
    },
    max_version = {
        accept = { { SSL.TLS1_3_VERSION }, { "TLS1_2", SSL.TLS1_2_VERSION }, { NIL } },
        refuse = {
            { "TLSv1_3", "ArgumentError", 'SSLContext.max_version: unrecognized version "TLSv1_3"' },
            { 2, "SSLError", "SSL_CTX_set_max_proto_version" },
        },
    },
    ciphersuites = {
        default = "TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256",
        accept = {
            { "TLS_AES_128_GCM_SHA256" },
            { { "TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384" }, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384" },
            { { { "TLS_AES_128_GCM_SHA256", "TLSv1.3", 128, 128 } }, "TLS_AES_128_GCM_SHA256" },
            { "", "" }, { {}, "" },
        },
        refuse = {
            { "nonsense", "SSLError", "SSL_CTX_set_ciphersuites: no cipher match" },
            { 5, "TypeError", "SSLContext.ciphersuites: expected a string or a list, got number" },
            { { 5 }, "TypeError", "SSLContext.ciphersuites: entry 1: expected a string, got number" },
        },
    },
    groups = {
        accept = { { "P-256" }, { "X25519:P-384" } },
        refuse = {
            { "BOGUS", "SSLError", "SSL_CTX_set1_groups_list" },
            { NIL, "TypeError", "SSLContext.groups: expected a string, got nil" },
            { { "P-256" }, "TypeError", "got table" },
            { huge, "SSLError", "SSL_CTX_set1_groups_list" },
            { "P-256\0", "ArgumentError", "string contains null byte" },
        },
    },
    sigalgs = {
        accept = { { "RSA+SHA256:ECDSA+SHA256" }, { "ed25519" } },
        refuse = {
            { "BOGUS", "SSLError", "SSL_CTX_set1_sigalgs_list" },
            { NIL, "TypeError", "SSLContext.sigalgs: expected a string, got nil" },
            { {}, "TypeError", "got table" },
        },
    },
    client_sigalgs = {
        accept = { { "RSA+SHA256" } },
        refuse = {
            { "BOGUS", "SSLError", "SSL_CTX_set1_client_sigalgs_list" },
            { 1, "TypeError", "SSLContext.client_sigalgs: expected a string, got number" },
        },
    },
    security_level = {
        accept = { { 0 }, { 1 }, { 5 }, { -1 }, { 100 }, { 1.9, 1 } },
        refuse = {
            { "2", "TypeError", "SSLContext.security_level: expected an integer, got string" },
            { NIL, "TypeError", "got nil" },
            { 1 << 40, "RangeError", "out of range" },
            { 0 / 0, "RangeError", "out of range" },
        },
    },
    options = {
        accept = {
            { SSL.OP_NO_TICKET }, { 0 }, { NIL, SSL.OP_ALL }, { -1, -1 }, { 2.9, 2 },
        },
        refuse = {
            { "x", "TypeError", "SSLContext.options: expected an integer, got string" },
            { 1e300, "RangeError", "out of range" },
            { {}, "TypeError", "got table" },
        },
    },
    session_cache_mode = {
        default = 2,
        thawed = true,
        accept = { { SSLContext.SESSION_CACHE_OFF }, { SSLContext.SESSION_CACHE_BOTH }, { -1, 4294967295 } },
        refuse = { { "x", "TypeError", "SSLContext.session_cache_mode: expected an integer, got string" } },
    },
    session_cache_size = {
        default = 20480,
        thawed = true,
        accept = { { 100 }, { 0 }, { -1, 20480 }, { 1.9, 1 } },
        refuse = {
            { "x", "TypeError", "SSLContext.session_cache_size: expected an integer, got string" },
            { 1e300, "RangeError", "out of range" },
        },
    },
    tmp_dh = {
        accept = { { fix.key "dh" } },
        refuse = {
            { fix.key "rsa", "SSLError", "SSLContext.tmp_dh: invalid pkey type rsaEncryption (expected DH)" },
            { "x", "TypeError", "SSLContext.tmp_dh: expected PKey, got string" },
            { NIL, "TypeError", "SSLContext.tmp_dh: expected PKey, got nil" },
        },
    },
    num_tickets = {
        default = 1,
        accept = { { 0 }, { 2 } },
        refuse = {
            { -1, "ArgumentError", "SSLContext.num_tickets: expected 0 to 16, got -1" },
            { 1000000, "ArgumentError", "got 1000000" },
            { "1", "TypeError", "got string" },
        },
    },
    name = {
        accept = { { "front" }, { NIL } },
        refuse = {
            { 1, "TypeError", "SSLContext.name: expected a string, got number" },
            { huge, "ArgumentError", "longer than 127 bytes" },
        },
    },
    cert = {
        accept = { { fix.cert "ec" }, { NIL } },
        refuse = { { "x", "TypeError", "SSLContext.cert: expected Certificate, got string" } },
    },
    key = {
        accept = { { fix.key "ec" }, { NIL } },
        refuse = {
            { "x", "TypeError", "SSLContext.key: expected PKey, got string" },
            { fix.key("ec").public_key, "ArgumentError", "SSLContext.key: private key is needed" },
            { fix.key("rsa").public_key, "ArgumentError", "private key is needed" },
            -- Ruby notices this one only when a client connects.
            { fix.key("ed25519").public_key, "ArgumentError", "private key is needed" },
        },
    },
    extra_chain_cert = {
        accept = { { { fix.cert "ca" } }, { {} }, { NIL } },
        refuse = {
            { fix.cert "ca", "TypeError",
                "SSLContext.extra_chain_cert: expected a list of Certificates, got Certificate" },
            { { fix.cert "ca", 1 }, "TypeError",
                "SSLContext.extra_chain_cert: entry 2: expected Certificate, got number" },
        },
    },
    client_ca = {
        accept = { { fix.cert "ca" }, { { fix.cert "ca", fix.cert "other_ca" } }, { {} }, { NIL } },
        refuse = {
            { fix.cert("ca").subject, "TypeError", "SSLContext.client_ca: expected a list of Certificates, got Name" },
            { { "x" }, "TypeError", "SSLContext.client_ca: entry 1: expected Certificate, got string" },
        },
    },
    ca_file = {
        accept = { { "ca.pem" }, { NIL } },
        refuse = {
            { 1, "TypeError", "SSLContext.ca_file: expected a string, got number" },
            { "a\0b", "ArgumentError", "SSLContext.ca_file: string contains null byte" },
        },
    },
    ca_path = {
        accept = { { "certs" }, { NIL } },
        refuse = { { false, "TypeError", "SSLContext.ca_path: expected a string, got boolean" } },
    },
    cert_store = {
        accept = { { X509.Store.new() }, { NIL } },
        refuse = { { fix.cert "ca", "TypeError", "SSLContext.cert_store: expected Store, got Certificate" } },
    },
    verify_mode = {
        default = SSL.VERIFY_NONE,
        accept = { { SSL.VERIFY_PEER }, { 3 }, { 99 }, { NIL }, { 1.5, 1 } },
        refuse = { { "PEER", "TypeError", "SSLContext.verify_mode: expected an integer, got string" } },
    },
    verify_depth = {
        accept = { { 3 }, { 0 }, { NIL } },
        refuse = { { "3", "TypeError", "SSLContext.verify_depth: expected an integer, got string" } },
    },
    verify_hostname = {
        default = false,
        accept = { { true }, { false }, { NIL } },
        refuse = { { 1, "TypeError", "SSLContext.verify_hostname: expected a boolean, got number" } },
    },
    verify_callback = {
        accept = { { callback }, { NIL }, { false }, { setmetatable({}, { __call = callback }) } },
        refuse = {
            { "x", "TypeError", "SSLContext.verify_callback: expected a function, got string" },
            { {}, "TypeError", "got table" },
        },
    },
    alpn_select_cb = {
        accept = { { callback }, { NIL }, { false } },
        refuse = { { 1, "TypeError", "SSLContext.alpn_select_cb: expected a function, got number" } },
    },
    timeout = {
        accept = { { 300 }, { 1.9, 1 }, { -5 }, { NIL } },
        refuse = { { "5", "TypeError", "SSLContext.timeout: expected an integer, got string" } },
    },
    ssl_timeout = { accept = { { 300 } }, refuse = {} },
    session_id_context = {
        accept = { { "app" }, { "" }, { ("x"):rep(32) }, { "a\0b" }, { NIL } },
        refuse = {
            { ("x"):rep(33), "SSLError", "SSLContext.session_id_context: ssl session id context too long" },
            { 1, "TypeError", "expected a string, got number" },
        },
    },
    alpn_protocols = {
        accept = { { { "h2", "http/1.1" } }, { {} }, { NIL }, { { ("x"):rep(255) } } },
        refuse = {
            { "h2", "TypeError", "SSLContext.alpn_protocols: expected a list of strings, got string" },
            { { "h2", 1 }, "TypeError", "SSLContext.alpn_protocols: entry 2: expected a string, got number" },
            { { "" }, "SSLError", "SSLContext.alpn_protocols: Advertised protocol must have length 1..255" },
            { { ("x"):rep(256) }, "SSLError", "Advertised protocol must have length 1..255" },
        },
    },
}

-- The callbacks take what can be called, and are looked at when their moment comes.
for _, name in ipairs { "client_cert_cb", "tmp_dh_callback", "session_get_cb", "session_new_cb", "session_remove_cb",
    "renegotiation_cb", "keylog_cb", "servername_cb", "npn_select_cb" } do
    rows[name] = {
        accept = { { callback }, { NIL }, { false }, { setmetatable({}, { __call = callback }) } },
        refuse = {
            { "x", "TypeError", ("SSLContext.%s: expected a function, got string"):format(name) },
            { {}, "TypeError", "got table" },
        },
    }
end

rows.npn_protocols = {
    accept = { { { "h2", "http/1.1" } }, { {} }, { NIL } },
    refuse = {
        { "h2", "TypeError", "SSLContext.npn_protocols: expected a list of strings, got string" },
        { { 1 }, "TypeError", "SSLContext.npn_protocols: entry 1: expected a string, got number" },
        { { ("x"):rep(256) }, "SSLError", "SSLContext.npn_protocols: Advertised protocol must have length 1..255" },
    },
}

local function defaults_of(name)
    return SSLContext.new()[name]
end

for name, row in pairs(rows) do
    describe("SSLContext." .. name, function()
        if row.default ~= nil then
            it("is at first " .. tostring(row.default), function() assert.equal(row.default, defaults_of(name)) end)
        end

        for i, case in ipairs(row.accept) do
            it(("takes value %d"):format(i), function()
                local ctx = SSLContext.new()
                local value, back = lua_value(case[1]), case[2]
                if back == nil then
                    back = value
                end
                ctx[name] = value
                assert.equal(lua_value(back), ctx[name])
            end)
        end

        for i, case in ipairs(row.refuse) do
            it(("refuses value %d: %s: %s"):format(i, case[2], case[3]), function()
                local ctx = SSLContext.new()
                local before = ctx[name]
                raises(case[2], case[3], assign, ctx, name, lua_value(case[1]))
                assert.equal(before, ctx[name])
            end)
        end

        it(row.thawed and "can be written when frozen" or "cannot be written when frozen", function()
            local ctx = SSLContext.new()
            ctx:setup()
            local value = lua_value(row.accept[1][1])
            if row.thawed then
                ctx[name] = value
                assert.equal(value, ctx[name])
            else
                raises("FrozenError", "SSLContext." .. name, assign, ctx, name, value)
                assert.no_error(function() return ctx[name] end)
            end
        end)
    end)
end

describe("SSLContext:set_minmax_proto_version", function()
    it("sets both bounds", function()
        local ctx = SSLContext.new()
        ctx:set_minmax_proto_version("TLS1_2", SSL.TLS1_3_VERSION)
        assert.same({ SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION }, { ctx.min_version, ctx.max_version })
        ctx:set_minmax_proto_version(nil, nil)
        assert.same({}, { ctx.min_version, ctx.max_version })
    end)

    it("sets none if one is wrong", function()
        local ctx = SSLContext.new("TLSv1_2")
        raises("ArgumentError", 'unrecognized version "x"', ctx.set_minmax_proto_version, ctx, "TLS1_3", "x")
        assert.same({ SSL.TLS1_2_VERSION, SSL.TLS1_2_VERSION }, { ctx.min_version, ctx.max_version })
        raises("ArgumentError", "given 1, expected 2", ctx.set_minmax_proto_version, ctx, 1)
    end)

    it("is refused when frozen", function()
        local ctx = SSLContext.new()
        ctx:setup()
        raises("FrozenError", "SSLContext:set_minmax_proto_version", ctx.set_minmax_proto_version, ctx, nil, nil)
    end)
end)

describe("SSLContext.ecdh_curves", function()
    it("is groups under its old name", function()
        local ctx = SSLContext.new()
        ctx.ecdh_curves = "P-256"
        assert.equal("P-256", ctx.groups)
        assert.equal("P-256", ctx.ecdh_curves)
        raises("TypeError", "SSLContext.ecdh_curves: expected a string", assign, ctx, "ecdh_curves", nil)
    end)
end)

describe("SSLContext.ssl_version", function()
    for version, number in pairs { TLSv1_2 = SSL.TLS1_2_VERSION, TLSv1 = SSL.TLS1_VERSION, SSLv3 = SSL.SSL3_VERSION,
        TLSv1_1_client = SSL.TLS1_1_VERSION, TLSv1_2_server = SSL.TLS1_2_VERSION } do
        it(version .. " sets both bounds", function()
            local ctx = SSLContext.new(version)
            assert.same({ number, number }, { ctx.min_version, ctx.max_version })
        end)
    end

    it("SSLv23 takes both bounds away", function()
        local ctx = SSLContext.new("SSLv23")
        assert.is_nil(ctx.min_version)
        assert.is_nil(ctx.max_version)
    end)

    for _, case in ipairs {
        { "TLSv1_3", "ArgumentError", "unknown SSL method `TLSv1_3'" },
        { "TLS1_2", "ArgumentError", "unknown SSL method `TLS1_2'" },
        { "SSLv2", "SSLError", "SSL_CTX_set_max_proto_version" },
        { huge, "ArgumentError", "unknown SSL method" },
        { 771, "TypeError", "expected a string, got number" },
    } do
        it("refuses " .. tostring(case[1]):sub(1, 20), function()
            local ctx = SSLContext.new()
            local before = { ctx.min_version, ctx.max_version }
            raises(case[2], case[3], assign, ctx, "ssl_version", case[1])
            assert.same(before, { ctx.min_version, ctx.max_version })
        end)
    end

    it("is not looked at when new is given nil or false", function()
        assert.no_error(function() SSLContext.new(nil) end)
        assert.no_error(function() SSLContext.new(false) end)
    end)
end)

describe("SSLContext.ciphers", function()
    local ctx
    before_each(function() ctx = SSLContext.new() end)

    local function names()
        local list = {}
        for i, cipher in ipairs(ctx.ciphers) do
            list[i] = cipher[1]
        end
        return table.concat(list, " ")
    end

    it("gives name, version, bits and algorithm bits, TLS 1.3 first", function()
        assert.same({ "TLS_AES_256_GCM_SHA384", "TLSv1.3", 256, 256 }, ctx.ciphers[1])
        assert.is_true(#ctx.ciphers > 20)
    end)

    for title, value in pairs {
        ["a string"] = "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384",
        ["a list"] = { "ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES256-GCM-SHA384" },
        ["the reader's form"] = { { "ECDHE-RSA-AES128-GCM-SHA256", "TLSv1.2", 128, 128 },
            { "ECDHE-RSA-AES256-GCM-SHA384" } },
        ["unknown names beside known ones"] = "NONSENSE:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384",
    } do
        it("takes " .. title, function()
            ctx.ciphers = value
            local want = "TLS_AES_128_GCM_SHA256 ECDHE-RSA-AES128-GCM-SHA256 ECDHE-RSA-AES256-GCM-SHA384"
            assert.equal(want, names():sub(-#want))
        end)
    end

    it("can be assigned what it read", function()
        ctx.ciphers = "ECDHE-RSA-AES128-GCM-SHA256"
        local before = names()
        ctx.ciphers = ctx.ciphers
        assert.equal(before, names())
    end)

    it("takes nil for nothing to do", function()
        local before = names()
        ctx.ciphers = nil
        assert.equal(before, names())
    end)

    for title, case in pairs {
        ["no match"] = { "nonsense", "SSLError", "SSL_CTX_set_cipher_list: no cipher match" },
        ["TLS 1.3 suites alone"] = { "TLS_AES_128_GCM_SHA256", "SSLError", "no cipher match" },
        ["an empty list"] = { {}, "SSLError", "no cipher match" },
        ["a number"] = { 1, "TypeError", "expected a string or a list, got number" },
        ["a NUL"] = { "ALL\0", "ArgumentError", "string contains null byte" },
        ["a list with an empty list"] = { { {} }, "TypeError", "entry 1: expected a string, got nil" },
    } do
        it("changes nothing after " .. title, function()
            local before = names()
            raises(case[2], case[3], assign, ctx, "ciphers", case[1])
            assert.equal(before, names())
        end)
    end

    it("understands @SECLEVEL", function()
        ctx.ciphers = "ALL:@SECLEVEL=0"
        assert.equal(0, ctx.security_level)
    end)
end)

describe("SSLContext.set_params", function()
    local ctx
    before_each(function() ctx = SSLContext.new() end)

    it("applies the defaults and says what they were", function()
        ctx.options = SSL.OP_NO_TICKET
        assert.same({ verify_mode = 1, verify_hostname = true }, ctx:set_params())
        assert.equal(1, ctx.verify_mode)
        assert.is_true(ctx.verify_hostname)
        assert.equal(SSL.OP_NO_TICKET | 0x80020050, ctx.options)
        assert.is_true(rawequal(SSLContext.DEFAULT_CERT_STORE, ctx.cert_store))
        assert.is_false(ctx.frozen)
    end)

    it("adds the caller's options in place of the default ones", function()
        local before = ctx.options
        ctx:set_params { options = SSL.OP_NO_TICKET }
        assert.equal(before | SSL.OP_NO_TICKET, ctx.options)
    end)

    it("sets further attributes", function()
        local result = ctx:set_params { min_version = "TLS1_3", alpn_protocols = { "h2" }, verify_hostname = false }
        assert.equal(SSL.TLS1_3_VERSION, ctx.min_version)
        assert.is_false(ctx.verify_hostname)
        assert.equal("TLS1_3", result.min_version)
    end)

    it("takes no store where nobody is verified, or one was given", function()
        ctx:set_params { verify_mode = SSL.VERIFY_NONE }
        assert.is_nil(ctx.cert_store)
        assert.is_true(ctx.verify_hostname)
        ctx = SSLContext.new()
        ctx:set_params { ca_file = "ca.pem" }
        assert.is_nil(ctx.cert_store)
    end)

    it("does not touch its argument", function()
        local params = { verify_depth = 3 }
        ctx:set_params(params)
        assert.same({ verify_depth = 3 }, params)
    end)

    for title, case in pairs {
        ["an unknown key"] = { { bogus = 1 }, "NoMethodError", "SSLContext.bogus: no such field" },
        ["a read-only key"] = { { frozen = true }, "NoMethodError", "SSLContext.frozen" },
        ["a method"] = { { setup = 1 }, "NoMethodError", "SSLContext.setup: is a method" },
        ["a wrong value"] = { { min_version = "TLSv1_2" }, "ArgumentError", "unrecognized version" },
        ["options nil-like"] = { { options = "x" }, "TypeError", "SSLContext.options" },
        ["a list"] = { { 1 }, "NoMethodError", "a name is wanted" },
        ["a string"] = { "x", "TypeError", "SSLContext:set_params: argument 1: expected a table, got string" },
    } do
        it("applies nothing after " .. title, function()
            local options = ctx.options
            raises(case[2], case[3], function() ctx:set_params(case[1]) end)
            assert.same({ 0, false, options }, { ctx.verify_mode, ctx.verify_hostname, ctx.options })
            assert.is_nil(ctx.cert_store)
        end)
    end

    it("is refused when frozen", function()
        ctx:setup()
        raises("FrozenError", "SSLContext:set_params: can't modify frozen SSLContext", function() ctx:set_params() end)
    end)
end)

describe("SSLContext.use_profile", function()
    for name, version in pairs { modern = SSL.TLS1_3_VERSION, intermediate = SSL.TLS1_2_VERSION,
        old = SSL.TLS1_VERSION } do
        it("applies " .. name, function()
            local ctx = SSLContext.new()
            assert.equal(ctx, ctx:use_profile(name))
            assert.equal(version, ctx.min_version)
            assert.equal(SSL.PROFILES[name].groups, ctx.groups)
        end)
    end

    it("knows no others", function()
        raises("ArgumentError", 'unknown profile "modren"', function() SSLContext.new():use_profile("modren") end)
    end)
end)

describe("SSLContext.ciphers", function()
    it("tells OpenSSL's error under the name of the function", function()
        local err = fix.raises("SSLError", "SSL_CTX_set_cipher_list: no cipher match", fix.assign, fix.SSLContext.new(),
            "ciphers", "NOSUCH")
        assert.same({ "error:0A0000B9:SSL routines:SSL_CTX_set_cipher_list:no cipher match" }, err.errors)
    end)
end)

describe("SSL.PROFILES", function()
    it("has no profile of another name, and says which may be meant", function()
        fix.raises("NoMethodError", "openssl.SSL.PROFILES.modren: no such name (did you mean modern?)",
            function() return fix.SSL.PROFILES.modren end)
        assert.is_nil(fix.SSL.PROFILES.modern.ciphers) -- TLS 1.3 only
    end)
end)
