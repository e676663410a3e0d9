--- What is left of Ruby's reference once every attribute, callback and class has its own spec: names that are gone,
--- defaults, forms of values that are rare, when a callback is asked and when not, and what a connection tells
--- before, during and after its handshake.

package.path = "spec/unit/support/?.lua;" .. package.path
local fix = require "fixtures"
local openssl, SSL, X509, PKey, SSLContext = fix.openssl, fix.SSL, fix.X509, fix.PKey, fix.SSLContext
local raises, assign = fix.raises, fix.assign
local server, client, only, handshake = fix.server, fix.client, fix.only, fix.handshake

local VERSIONS = { "TLS1_2", "TLS1_3" }
local OPENSSL_3_5 = openssl.OPENSSL_VERSION_NUMBER >= 0x30500000

local function frozen(settings)
    local ctx = server(settings)
    ctx:setup()
    return ctx
end

-- ---- SSLContext: names ---------------------------------------------------------------------------

describe("SSLContext", function()
    it("has Ruby's METHODS, in its order", function()
        local names = {}
        for _, name in ipairs { "SSLv23", "SSLv2", "SSLv3", "TLSv1", "TLSv1_1", "TLSv1_2" } do
            for _, side in ipairs { "", "_client", "_server" } do
                names[#names + 1] = name .. side
            end
        end
        local methods = {}
        for i, name in ipairs(SSLContext.METHODS) do
            methods[i] = name
        end
        assert.same(names, methods)
    end)

    for _, name in ipairs { "METHODS_MAP", "DEFAULT_2048", "DEFAULT_TMP_DH_CALLBACK" } do
        it("has no " .. name .. ", which is private or gone", function()
            raises("NoMethodError", "openssl.SSL.SSLContext." .. name .. ": no such name",
                function() return SSLContext[name] end)
        end)
    end

    it("has no flags of DTLS", function()
        raises("NoMethodError", "openssl.SSL.OP_NO_QUERY_MTU: no such name",
            function() return SSL.OP_NO_QUERY_MTU end)
    end)

    for _, name in ipairs { "dup", "clone" } do
        it("cannot be copied by " .. name, function()
            raises("NoMethodError", "SSLContext." .. name .. ": no such field",
                function() SSLContext.new()[name](SSLContext.new()) end)
        end)
    end

    for _, name in ipairs { "cert", "key", "extra_chain_cert", "client_ca", "ca_file", "ca_path", "cert_store",
        "verify_depth", "timeout", "ssl_timeout", "session_id_context", "alpn_protocols", "npn_protocols",
        "npn_select_cb", "alpn_select_cb", "client_cert_cb", "tmp_dh_callback", "session_get_cb", "session_new_cb",
        "session_remove_cb", "servername_cb", "keylog_cb", "verify_callback", "renegotiation_cb", "tmp_dh", "groups",
        "sigalgs", "client_sigalgs", "name", "ocsp_response" } do
        it("has no " .. name .. " at first", function() assert.is_nil(SSLContext.new()[name]) end)
    end

    it("verifies nobody at first", function()
        local ctx = SSLContext.new()
        assert.same({ SSL.VERIFY_NONE, false, false }, { ctx.verify_mode, ctx.verify_hostname, ctx.frozen })
    end)

    it("does not fill cert, key and extra_chain_cert by add_certificate", function()
        local ctx = SSLContext.new()
        ctx:add_certificate(fix.cert "ec", fix.key "ec", { fix.cert "ca" })
        assert.same({}, { ctx.cert, ctx.key, ctx.extra_chain_cert })
    end)

    it("reads what was assigned to timeout as ssl_timeout, and the reverse", function()
        local ctx = SSLContext.new()
        ctx.ssl_timeout = 7
        assert.equal(7, ctx.timeout)
        ctx.timeout = nil
        assert.is_nil(ctx.ssl_timeout)
    end)
end)

describe("SSLContext.new", function()
    it("takes what METHODS has, but what OpenSSL has not", function()
        for _, name in ipairs(SSLContext.METHODS) do
            if name:find("^SSLv2%f[^%w]") or name:find("^SSLv2_") then
                raises("SSLError", "SSL_CTX_set_max_proto_version", SSLContext.new, name)
            else
                assert.no_error(function() SSLContext.new(name) end)
            end
        end
    end)

    for title, case in pairs {
        ["an empty name"] = { "", "ArgumentError", "unknown SSL method `'" },
        ["a name with a NUL"] = { "TLSv1_2\0", "ArgumentError", "string contains null byte" },
        ["a name with two sides"] = { "TLSv1_2_client_server", "ArgumentError", "unknown SSL method" },
        ["a side alone"] = { "_client", "ArgumentError", "unknown SSL method" },
        ["true"] = { true, "TypeError", "SSLContext.ssl_version: expected a string, got boolean" },
        ["an integer"] = { SSL.TLS1_2_VERSION, "TypeError", "expected a string, got number" },
    } do
        it("refuses " .. title, function() raises(case[2], case[3], SSLContext.new, case[1]) end)
    end
end)

-- ---- SSLContext: forms of values -----------------------------------------------------------------

describe("SSLContext", function()
    local function names(list)
        local ctx, found = SSLContext.new(), {}
        ctx.ciphers = list
        for _, cipher in ipairs(ctx.ciphers) do
            if cipher[2] ~= "TLSv1.3" then
                found[#found + 1] = cipher[1]
            end
        end
        return table.concat(found, " ")
    end

    for title, list in pairs { commas = "AES128-GCM-SHA256,AES256-GCM-SHA384",
        spaces = "AES128-GCM-SHA256 AES256-GCM-SHA384" } do
        it("takes ciphers between " .. title, function()
            assert.equal("AES128-GCM-SHA256 AES256-GCM-SHA384", names(list))
        end)
    end

    it("takes nil for ciphersuites: nothing to do", function()
        local ctx = SSLContext.new()
        ctx.ciphersuites = "TLS_AES_128_GCM_SHA256"
        ctx.ciphersuites = nil
        assert.equal("TLS_AES_128_GCM_SHA256", ctx.ciphersuites)
    end)

    -- { attribute, value, class, text }
    for _, case in ipairs {
        { "ciphers", "", "SSLError", "SSL_CTX_set_cipher_list: no cipher match" },
        { "ciphers", { "" }, "SSLError", "no cipher match" },
        { "ciphers", { "AES128-SHA\0" }, "ArgumentError", "string contains null byte" },
        { "ciphersuites", { "TLS_AES_128_GCM_SHA256\0" }, "ArgumentError", "string contains null byte" },
        { "sigalgs", "ed25519\0", "ArgumentError", "string contains null byte" },
        { "client_sigalgs", nil, "TypeError", "expected a string, got nil" },
        { "ssl_version", nil, "TypeError", "SSLContext.ssl_version: expected a string, got nil" },
        { "verify_mode", 1 << 40, "RangeError", "SSLContext.verify_mode: 1099511627776 is out of range" },
        { "verify_depth", 1 << 40, "RangeError", "SSLContext.verify_depth: 1099511627776 is out of range" },
        { "timeout", 1 << 40, "RangeError", "SSLContext.timeout: 1099511627776 is out of range" },
        { "verify_depth", 0 / 0, "RangeError", "out of range" },
        { "session_cache_mode", 1e300, "RangeError", "out of range" },
        { "name", "a\0b", "ArgumentError", "SSLContext.name: string contains null byte" },
        { "ca_path", "a\0b", "ArgumentError", "SSLContext.ca_path: string contains null byte" },
    } do
        it(("refuses %s = %s"):format(case[1], tostring(case[2])), function()
            raises(case[3], case[4], assign, SSLContext.new(), case[1], case[2])
        end)
    end

    -- trap 29
    it((OPENSSL_3_5 and "takes" or "refuses") .. " groups that are empty or named twice, as OpenSSL does", function()
        for _, list in ipairs { "", "P-256:P-256" } do
            if OPENSSL_3_5 then
                assert.no_error(function() SSLContext.new().groups = list end)
            else
                raises("SSLError", "SSL_CTX_set1_groups_list", assign, SSLContext.new(), "groups", list)
            end
        end
    end)

    it((OPENSSL_3_5 and "passes over" or "refuses") .. " ?NAME in groups, as OpenSSL does", function()
        local ctx = SSLContext.new()
        if OPENSSL_3_5 then
            ctx.groups = "?NOSUCH:P-256"
        else
            raises("SSLError", "'?NOSUCH' cannot be set", assign, ctx, "groups", "?NOSUCH:P-256")
        end
    end)

    it("forgets on nil what was assigned", function()
        local ctx = client { cert_store = fix.store(), alpn_protocols = { "h2" }, verify_depth = 0,
            verify_callback = error }
        ctx.alpn_protocols, ctx.verify_depth, ctx.verify_callback = nil, nil, nil
        local hs = handshake(server { alpn_protocols = { "h2" } }, ctx)
        assert.is_true(hs.ok, hs.client_error)
        assert.is_nil(hs.alpn_protocol)
    end)

    it("sends no names of CAs after client_ca = {}", function()
        assert.same({}, handshake(server { client_ca = {} }, client()).server.client_ca)
    end)
end)

describe("SSLContext:set_params", function()
    it("applies nothing where the context itself is the obstacle", function()
        local ctx = SSLContext.new()
        ctx.security_level = 5
        local options = ctx.options
        raises("SSLError", "dh key too small", ctx.set_params, ctx, { tmp_dh = fix.key "dh" })
        assert.same({ 0, false, options, nil }, { ctx.verify_mode, ctx.verify_hostname, ctx.options, ctx.cert_store })
    end)

    it("can lift the obstacle", function()
        local ctx = SSLContext.new()
        ctx.security_level = 5
        ctx:set_params { security_level = 1, tmp_dh = fix.key "dh" }
        assert.equal(1, ctx.security_level)
    end)

    it("keeps a store that was there", function()
        local ctx, store = SSLContext.new(), fix.store()
        ctx.cert_store = store
        ctx:set_params()
        assert.is_true(rawequal(store, ctx.cert_store))
    end)

    it("keeps options that were set, also OP_DONT_INSERT_EMPTY_FRAGMENTS", function()
        local ctx = SSLContext.new()
        ctx.options = SSL.OP_DONT_INSERT_EMPTY_FRAGMENTS
        ctx:set_params()
        assert.not_equal(0, ctx.options & SSL.OP_DONT_INSERT_EMPTY_FRAGMENTS)
    end)
end)

-- ---- SSLContext: frozen --------------------------------------------------------------------------

describe("a frozen SSLContext", function()
    for name, call in pairs {
        ssl_version = function(ctx) ctx.ssl_version = "TLSv1_2" end,
        ecdh_curves = function(ctx) ctx.ecdh_curves = "P-256" end,
        ciphers = function(ctx) ctx.ciphers = nil end,
        ciphersuites = function(ctx) ctx.ciphersuites = nil end,
        ["load_certificate"] = function(ctx) ctx:load_certificate(1) end,
        ["use_profile"] = function(ctx) ctx:use_profile(1) end,
        ["add_crl"] = function(ctx) ctx:add_crl(1) end,
        ["set_params"] = function(ctx) ctx:set_params { bogus = 1 } end,
        ["add_certificate"] = function(ctx) ctx:add_certificate(1, 2) end,
    } do
        it("refuses " .. name .. " before it looks at the argument", function()
            local err = raises("FrozenError", "can't modify frozen SSLContext", call, frozen())
            assert.truthy(err.message:find("SSLContext[.:]" .. name .. ": "))
        end)
    end

    it("can be read, and used as its cache allows", function()
        local ctx = frozen { timeout = 5 }
        assert.equal(5, ctx.timeout)
        assert.is_nil(ctx:enable_fallback_scsv())
        assert.equal(ctx, ctx:flush_sessions())
        assert.is_nil(ctx:freeze())
        assert.is_false(ctx:session_remove(handshake(server(), client()).client.session))
    end)
end)

describe("SSLContext:flush_sessions", function()
    -- A Time is a number of seconds here; Ruby's have fractions, too.
    for _, time in ipairs { -1, 0, 0.5, 1e9 + 0.25, math.maxinteger } do
        it("takes " .. time, function()
            local ctx = SSLContext.new()
            assert.equal(ctx, ctx:flush_sessions(time))
        end)
    end

    for title, time in pairs { ["not a number"] = 0 / 0, ["infinity"] = 1 / 0, ["a string"] = "1", ["true"] = true } do
        it("refuses " .. title, function()
            raises("ArgumentError", "SSLContext:flush_sessions: arg must be Time or nil", function()
                SSLContext.new():flush_sessions(time)
            end)
        end)
    end
end)

-- ---- chains --------------------------------------------------------------------------------------

describe("the chain of a certificate", function()
    local function chain(to, sigalgs)
        local subjects = {}
        for i, cert in ipairs(handshake(to, client { sigalgs = sigalgs, verify_mode = 0 }).client.peer_cert_chain) do
            subjects[i] = cert.subject:to_s()
        end
        return subjects
    end

    it("is extra_chain_cert only where it has none of its own", function()
        local to = server { certs = { "rsa" }, extra_chain_cert = { fix.cert "other_ca" } }
        to:add_certificate(fix.cert "ec", fix.key "ec", { fix.cert "ca" })
        assert.same({ "/CN=ec", "/CN=Test CA" }, chain(to, "ECDSA+SHA256"))
        assert.same({ "/CN=rsa", "/CN=Other CA" }, chain(to, "RSA-PSS+SHA256"))
    end)

    it("is completed from cert_store where there is no other", function()
        assert.same({ "/CN=ec", "/CN=Test CA" }, chain(server { cert_store = fix.store() }))
        assert.same({ "/CN=ec" }, chain(server()))
    end)
end)

-- ---- callbacks: when they are asked --------------------------------------------------------------

for _, version in ipairs(VERSIONS) do
    describe("on " .. version, function()
        it("a resumption asks servername_cb and alpn_select_cb again, but not verify_callback", function()
            local calls = { name = 0, alpn = 0, verify = 0 }
            local function count(what, answer)
                return function(...)
                    calls[what] = calls[what] + 1
                    return answer(...)
                end
            end
            local to = server { servername_cb = count("name", function() end),
                alpn_select_cb = count("alpn", function(list) return list[1] end) }
            local from = client(only(version, { alpn_protocols = { "h2" },
                verify_callback = count("verify", function(ok) return ok end) }))
            local session = handshake(to, from).client.session
            assert.same({ name = 1, alpn = 1, verify = 2 }, calls)
            local hs = handshake(to, from, { servername = "localhost", session = session })
            assert.is_true(hs.session_reused)
            assert.equal("h2", hs.alpn_protocol)
            assert.same({ name = 2, alpn = 2, verify = 2 }, calls)
        end)

        it("a server that wants no certificate does not ask verify_callback", function()
            local from = client(only(version, { cert = fix.cert "client", key = fix.key "client" }))
            assert.is_true(handshake(server { verify_callback = error }, from).ok)
        end)

        it("VERIFY_FAIL_IF_NO_PEER_CERT alone means nothing", function()
            local to = server { verify_mode = SSL.VERIFY_FAIL_IF_NO_PEER_CERT, cert_store = fix.store() }
            assert.is_true(handshake(to, client(only(version))).ok)
        end)

        it("a context of servername_cb that cannot be set up is unrecognized_name", function()
            local to = server { servername_cb = function()
                local ctx = SSLContext.new()
                ctx.cert = fix.cert "ec"
                return ctx
            end }
            local hs = handshake(to, client(only(version)))
            assert.same({ false, 112 }, { hs.ok, hs.alert_number })
            assert.truthy(hs.server_error:find("cert is set, but key is not", 1, true))
        end)

        it("a name that does not match shows with VERIFY_NONE in verify_result", function()
            local from = client(only(version, { verify_mode = SSL.VERIFY_NONE }))
            local hs = handshake(server(), from, { servername = "other.test" })
            assert.same({ true, X509.V_ERR_HOSTNAME_MISMATCH }, { hs.ok, hs.client.verify_result })
        end)

        it("keylog_cb gets its lines in OpenSSL's order", function()
            local lines = { server = {}, client = {} }
            local function note(side)
                return function(_, line) table.insert(lines[side], line:match("^%S+")) end
            end
            assert.is_true(handshake(server { keylog_cb = note "server" },
                client(only(version, { keylog_cb = note "client" }))).ok)
            assert.same(version == "TLS1_2" and { server = { "CLIENT_RANDOM" }, client = { "CLIENT_RANDOM" } } or {
                server = { "SERVER_HANDSHAKE_TRAFFIC_SECRET", "CLIENT_HANDSHAKE_TRAFFIC_SECRET", "EXPORTER_SECRET",
                    "SERVER_TRAFFIC_SECRET_0", "CLIENT_TRAFFIC_SECRET_0" },
                client = { "SERVER_HANDSHAKE_TRAFFIC_SECRET", "EXPORTER_SECRET", "SERVER_TRAFFIC_SECRET_0",
                    "CLIENT_HANDSHAKE_TRAFFIC_SECRET", "CLIENT_TRAFFIC_SECRET_0" },
            }, lines)
        end)
    end)
end

-- ---- what a context that servername_cb chose contributes: everything ------------------------------

describe("a context chosen by servername_cb brings its", function()
    -- The first context would do the opposite of each.
    local function chosen(settings, first)
        first = first or {}
        local other = server(settings)
        first.servername_cb = function() return other end
        return server(first)
    end

    -- title -> function(version) that asserts
    for title, check in pairs {
        certificate = function(version)
            local to = chosen({ certs = { "rsa" } }, { certs = { "ec" } })
            assert.equal("RSA", handshake(to, client(only(version))).key_type)
        end,
        ["verify_mode, cert_store and client_ca"] = function(version)
            local to = chosen { verify_mode = 3, cert_store = fix.store(), client_ca = fix.cert "ca" }
            local hs = handshake(to, client(only(version)))
            assert.truthy(hs.server_error:find("peer did not return a certificate", 1, true))
            hs = handshake(to, client(only(version, { cert = fix.cert "client", key = fix.key "client" })))
            assert.is_true(hs.ok, hs.server_error)
            assert.equal("/CN=Test CA", hs.client.client_ca[1]:to_s())
        end,
        ["min_version and max_version"] = function(version)
            local to = chosen({ min_version = version, max_version = version },
                { [version == "TLS1_2" and "min_version" or "max_version"] =
                    version == "TLS1_2" and "TLS1_3" or "TLS1_2" })
            assert.is_true(handshake(to, client()).ok)
            assert.equal(version == "TLS1_2" and "TLSv1.2" or "TLSv1.3", handshake(to, client()).version)
        end,
        options = function(version)
            local to = chosen({ options = SSL.OP_ALL | SSL.OP_NO_TICKET | SSL.OP_CIPHER_SERVER_PREFERENCE,
                ciphers = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384",
                ciphersuites = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384" })
            local from = client(only(version))
            assert.truthy(handshake(to, from).cipher:find("AES_?128"))
        end,
        ["ciphers and ciphersuites"] = function(version)
            local to = chosen({ ciphersuites = "TLS_AES_128_GCM_SHA256", ciphers = "ECDHE-ECDSA-AES128-GCM-SHA256" },
                { ciphersuites = "TLS_AES_256_GCM_SHA384", ciphers = "ECDHE-ECDSA-AES256-GCM-SHA384" })
            assert.truthy(handshake(to, client(only(version))).cipher:find("AES_?128"))
        end,
        groups = function(version)
            local to = chosen({ groups = "P-384" }, { groups = "X25519" })
            local hs = handshake(to, client(only(version)))
            assert.truthy(hs.client.group:find("384", 1, true), hs.client.group)
        end,
        ["alpn_protocols"] = function(version)
            local to = chosen({ alpn_protocols = { "a" } }, { alpn_protocols = { "b" } })
            assert.equal("a", handshake(to, client(only(version, { alpn_protocols = { "b", "a" } }))).alpn_protocol)
        end,
        ["lack of ALPN"] = function(version)
            local to = chosen({}, { alpn_select_cb = error })
            local hs = handshake(to, client(only(version, { alpn_protocols = { "a" } })))
            assert.is_true(hs.ok, hs.server_error)
            assert.is_nil(hs.alpn_protocol)
        end,
        ["callbacks"] = function(version)
            local called = {}
            local function note(name, answer)
                return function(...)
                    called[name] = true
                    return answer and answer(...)
                end
            end
            local to = chosen({ options = SSL.OP_ALL | SSL.OP_NO_TICKET, verify_mode = 1, cert_store = fix.store(),
                alpn_select_cb = note("alpn", function(list) return list[1] end),
                verify_callback = note("verify", function(ok) return ok end), keylog_cb = note "keylog",
                session_new_cb = note "session_new", renegotiation_cb = note "renegotiation" },
                { alpn_select_cb = error, verify_callback = error, keylog_cb = error, session_new_cb = error,
                    renegotiation_cb = error })
            local hs = handshake(to, client(only(version, { alpn_protocols = { "a" }, cert = fix.cert "client",
                key = fix.key "client" })))
            assert.is_true(hs.ok, hs.server_error)
            assert.same({ alpn = true, verify = true, keylog = true, session_new = true, renegotiation = true },
                called)
        end,
        ["sessions, which nobody else resumes"] = function(version)
            local plain = server()
            local to, from = chosen { session_id_context = "other" }, client(only(version))
            local session = handshake(to, from).client.session
            assert.is_true(handshake(to, from, { servername = "localhost", session = session }).session_reused)
            local hs = handshake(plain, from, { servername = "localhost", session = session })
            assert.same({ true, false }, { hs.ok, hs.session_reused })
        end,
    } do
        for _, version in ipairs(VERSIONS) do
            it(title .. ": " .. version, function() check(version) end)
        end
    end
end)

-- ---- what a connection tells ---------------------------------------------------------------------

describe("a Connection", function()
    local BEFORE = { ssl_version = "TLSv1.3", verify_result = 0, session_reused = false, state = "PINIT", pending = 0 }
    local NOTHING = { "cipher", "alpn_protocol", "npn_protocol", "servername", "peer_cert", "peer_cert_chain",
        "session", "tmp_key", "sigalg", "peer_sigalg", "group", "finished_message", "peer_finished_message" }

    for _, version in ipairs(VERSIONS) do
        it("has Ruby's values before its handshake: " .. version, function()
            local seen, missing, refused = {}, {}, nil
            local hs = handshake(server { renegotiation_cb = function(conn)
                for name in pairs(BEFORE) do
                    seen[name] = conn[name]
                end
                for _, name in ipairs(NOTHING) do
                    missing[#missing + 1] = conn[name] ~= nil and name or nil
                end
                refused = not pcall(conn.export_keying_material, conn, "label", 8)
                assert.same({}, conn.client_ca)
            end }, client(only(version)))
            assert.is_true(hs.ok, hs.server_error)
            assert.same(BEFORE, seen)
            assert.same({}, missing)
            assert.is_true(refused)
        end)

        it("has a finished message as long as the version says: " .. version, function()
            local hs = handshake(server(), client(only(version, { ciphersuites = "TLS_AES_256_GCM_SHA384" })))
            assert.equal(version == "TLS1_2" and 12 or 48, #hs.client.finished_message)
        end)

        it("has a tmp_key of the peer on a server in TLS 1.3 only: " .. version, function()
            local hs = handshake(server { groups = "P-256" }, client(only(version)))
            assert.equal("prime256v1", hs.client.tmp_key.group.curve_name)
            assert.equal(version == "TLS1_3", hs.server.tmp_key ~= nil)
        end)

        it("tells a server of no chain, an empty one and one without the leaf apart: " .. version, function()
            local asking = server { verify_mode = SSL.VERIFY_PEER, cert_store = fix.store() }
            local mine = client(only(version, { cert = fix.cert "client", key = fix.key "client" }))
            assert.is_nil(handshake(server(), mine).server.peer_cert_chain)
            assert.same({}, handshake(asking, client(only(version))).server.peer_cert_chain)
            assert.same({ fix.cert "ca" }, handshake(asking, mine).server.peer_cert_chain)
        end)
    end
end)

-- ---- helper classes ------------------------------------------------------------------------------

describe("a method", function()
    local function objects()
        local hs = handshake(server(), client())
        local crl = X509.CRL.new()
        crl.issuer, crl.last_update = "/CN=x", 0
        return { SSLContext.new(), fix.certificate { subject = "/CN=x", key = fix.key "ec" }, fix.cert("ec").subject,
            X509.ExtensionFactory.new(), X509.Store.new(), fix.key "rsa", fix.key "ed25519", crl, X509.Revoked.new(),
            hs.client, hs.client.session }
    end

    for _, object in ipairs(objects()) do
        local _, known = debug.getupvalue(debug.getmetatable(object).__index, 2)
        for name, method in pairs(known) do
            if type(method) == "function" then
                it(getmetatable(object) .. ":" .. name .. " counts its arguments", function()
                    raises("ArgumentError", ":" .. name .. ": wrong number of arguments (given 9, expected ", method,
                        object, 1, 2, 3, 4, 5, 6, 7, 8, 9)
                end)
            end
        end
    end
end)

describe("X509.Name", function()
    it("is written whole, however long it is", function()
        local entries, text = {}, {}
        for i = 1, 40 do
            entries[i] = { "OU", ("%02d"):format(i) .. ("x"):rep(58) }
            text[i] = "/OU=" .. entries[i][2]
        end
        local name = X509.Name.new(entries)
        assert.equal(table.concat(text), name:to_s())
        assert.equal(table.concat(text), tostring(name))
        assert.equal(name, X509.Name.parse(name:to_s()))
    end)

    it("shows a NUL in a value", function()
        assert.equal("/CN=a\\x00b", X509.Name.new({ { "CN", "a\0b" } }):to_s())
    end)
end)

describe("X509.Store", function()
    it("has Ruby's return values", function()
        local store = X509.Store.new()
        assert.equal(0, select("#", store:set_default_paths()))
        assert.equal(0, select("#", store:clear_flags()))
        assert.equal(store, store:add_path("/nonexistent"))
        assert.is_nil(store.chain)
        store.trust = X509.TRUST_SSL_SERVER
        assert.equal(X509.TRUST_SSL_SERVER, store.trust)
        raises("StoreError", "X509_STORE_set_trust", assign, store, "trust", 99)
        raises("NoMethodError", "Store.dup: no such field", function() store:dup() end)
    end)

    it("is not asked by its own verify_callback in a handshake", function()
        local store = fix.store()
        store.verify_callback = error
        assert.is_true(handshake(server(), client { cert_store = store }).ok)
    end)

    it("refuses files without a certificate", function()
        local files = fix.files()
        finally(function() files:remove() end)
        raises("StoreError", "no certificate or crl found", X509.Store.new().add_file, X509.Store.new(),
            files:write("empty.pem", ""))
        raises("StoreError", "Is a directory", X509.Store.new().add_file, X509.Store.new(), files.path)
    end)
end)

describe("X509.CRL", function()
    local function crl(settings)
        local made = X509.CRL.new()
        made.version, made.issuer, made.last_update = 1, fix.cert("ca").subject, os.time() - 60
        if settings.next_update then
            made.next_update = settings.next_update
        end
        local revoked = X509.Revoked.new()
        revoked.serial, revoked.time = fix.cert("ec").serial, os.time() - 60
        return made:add_revoked(revoked):sign(fix.key "ca", "SHA256")
    end

    it("may have no next_update", function()
        assert.is_nil(X509.CRL.new(crl({}):to_der()).next_update)
    end)

    it("is the current_crl of a verification that it ends", function()
        local store, list, seen = fix.store(), crl { next_update = os.time() + 60 }, nil
        store:add_crl(list)
        store.flags = X509.V_FLAG_CRL_CHECK
        assert.is_false(store:verify(fix.cert "ec", nil, function(ok, context)
            seen = not ok and { context.error, context.current_crl } or seen
            return ok
        end))
        assert.same({ X509.V_ERR_CERT_REVOKED, list }, seen)
    end)
end)

describe("PKey", function()
    local parameters = PKey.generate_parameters("DH", { group = "ffdhe2048" })

    it("of parameters alone has neither half, and says so", function()
        assert.same({ false, false }, { parameters.private, parameters.public })
        for _, method in ipairs { "public_to_pem", "public_to_der" } do
            raises("PKeyError", "PKey:" .. method .. ": has no public key, only parameters", parameters[method],
                parameters)
        end
        raises("PKeyError", "PKey.public_key: has no public key, only parameters",
            function() return parameters.public_key end)
        raises("ArgumentError", "private key is needed", parameters.private_to_pem, parameters)
    end)

    it("of type DH gives its parameters by to_pem, as in Ruby, never its key", function()
        for _, key in ipairs { parameters, fix.key "dh" } do
            local pem = key:to_pem()
            assert.truthy(pem:find("-----BEGIN DH PARAMETERS-----", 1, true), pem)
            local again = PKey.DH.new(pem)
            assert.same({ key.p, key.g, false }, { again.p, again.g, again.private })
        end
    end)

    it("of EC parameters gives them by to_pem", function()
        local pem = PKey.generate_parameters("EC", { ec_paramgen_curve = "P-256" }):to_pem()
        assert.equal("prime256v1", PKey.read(pem).group.curve_name)
    end)

    for type, oid in pairs { ED25519 = "ED25519", ED448 = "ED448", X25519 = "X25519" } do
        it("of type " .. type .. " has the oid " .. oid, function()
            assert.equal(oid, PKey.generate_key(type).oid)
        end)
    end

    it("has both halves, or the public one", function()
        for _, name in ipairs { "rsa", "ec", "ed25519", "dh" } do
            local key = fix.key(name)
            assert.same({ true, true, false, true },
                { key.private, key.public, key.public_key.private, key.public_key.public })
        end
    end)

    it("is compared with keys only", function()
        assert.is_false(fix.key("rsa"):compare(fix.key "ec"))
        raises("TypeError", "PKey:compare: argument 1: expected PKey, got string", fix.key("rsa").compare,
            fix.key "rsa", "x")
    end)

    it("may have an empty passphrase", function()
        local pem = fix.key("ec"):private_to_pem("AES-256-CBC", "")
        assert.is_true(PKey.read(pem, ""):compare(fix.key "ec"))
    end)

    it("is not written with a passphrase that OpenSSL could not read back", function()
        raises("OpenSSLError", "PKey:private_to_pem: password must not be longer than 1024 bytes",
            fix.key("ec").private_to_pem, fix.key "ec", "AES-256-CBC", ("x"):rep(1025))
    end)
end)

describe("Session", function()
    it("takes numbers with fractions, as seconds", function()
        local session = handshake(server(), client()).client.session
        session.time, session.timeout = os.time() + 0.75, 10.9
        assert.equal(10, session.timeout)
        assert.equal("integer", math.type(session.time))
    end)

    it("is none when its DER is cut", function()
        local der = handshake(server(), client()).client.session:to_der()
        raises("ArgumentError", "Session.new: unknown type: no start line", SSL.Session.new, der:sub(1, -5))
    end)
end)
