--- The callbacks beside verify_callback and alpn_select_cb: on which side and version each is called, with what,
--- and what its answers and its errors lead to.

package.path = "spec/unit/support/?.lua;" .. package.path
local fix = require "fixtures"
local SSL, SSLContext, raises = fix.SSL, fix.SSLContext, fix.raises
local server, client, only, handshake = fix.server, fix.client, fix.only, fix.handshake

local function is_connection(value)
    return tostring(value):match("^Connection: ") ~= nil
end

-- A context whose callback `name` notes what it gets.
local function noting(ctx, name, result)
    local calls = {}
    ctx[name] = function(...)
        calls[#calls + 1] = table.pack(...)
        if result then
            return result(...)
        end
    end
    return calls, ctx
end

local function fails(hs, side, ...)
    assert.is_false(hs.ok)
    local text = hs[side .. "_error"] or ""
    for _, part in ipairs { ... } do
        assert.truthy(text:find(part, 1, true), ("%s_error %q does not contain %q"):format(side, text, part))
    end
    return hs
end

local function without_tickets(ctx)
    ctx.options = ctx.options | SSL.OP_NO_TICKET
    return ctx
end

for _, version in ipairs { "TLS1_2", "TLS1_3" } do
    local tls13 = version == "TLS1_3"

    describe(version .. ": client_cert_cb", function()
        local function demanding(mode)
            return server { verify_mode = mode or SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT,
                cert_store = fix.store(), client_ca = fix.cert "ca" }
        end

        it("gets the connection, where client_ca can be read, and gives certificate and key", function()
            local ctx, authority = client(only(version)), nil
            local calls = noting(ctx, "client_cert_cb", function(conn)
                authority = conn.client_ca[1]:to_s()
                return fix.cert "client", fix.key "client"
            end)
            local hs = handshake(demanding(), ctx)
            assert.is_true(hs.ok, hs.server_error)
            assert.equal(1, #calls)
            assert.equal(hs.client, calls[1][1])
            assert.equal("/CN=Test CA", authority)
            assert.equal(fix.cert "client", hs.server.peer_cert)
            assert.equal(fix.cert "client", hs.client.cert)
        end)

        for title, answer in pairs {
            ["nil"] = function() end, ["a string"] = function() return "x" end,
            ["a certificate alone"] = function() return fix.cert "client" end,
            ["a public key"] = function() return fix.cert "client", fix.key("client").public_key end,
            ["another's key"] = function() return fix.cert "client", fix.key "other_ec" end,
        } do
            it(title .. " is no certificate, and the handshake goes on", function()
                local ctx = client(only(version, { client_cert_cb = answer }))
                local hs = handshake(demanding(SSL.VERIFY_PEER), ctx)
                assert.is_true(hs.ok, hs.client_error)
                assert.is_nil(hs.server.peer_cert)
                fails(handshake(demanding(), ctx), "server", "peer did not return a certificate")
            end)
        end

        it("is not called where a certificate is configured, or none is wanted", function()
            local ctx = client(only(version, { cert = fix.cert "client", key = fix.key "client",
                client_cert_cb = error }))
            assert.is_true(handshake(demanding(), ctx).ok)
            assert.is_true(handshake(server(), client(only(version, { client_cert_cb = error }))).ok)
            assert.is_true(handshake(server { client_cert_cb = error }, client(only(version))).ok)
        end)

        it("that raises ends the connection with internal_error (trap 12: nothing is left behind)", function()
            local hs = handshake(demanding(), client(only(version, {
                client_cert_cb = function() error("no card") end })))
            fails(hs, "client", "client_cert_cb", "no card")
            assert.equal("internal_error", hs.alert)
        end)
    end)

    describe(version .. ": session_new_cb", function()
        it("of a server is told of " .. (tls13 and "every ticket" or "sessions it keeps"), function()
            local calls, ctx = noting(server { num_tickets = 2 }, "session_new_cb")
            assert.is_true(handshake(ctx, client(only(version))).ok)
            assert.equal(tls13 and 2 or 0, #calls) -- trap 18
            calls, ctx = noting(without_tickets(server { num_tickets = 2 }), "session_new_cb")
            local hs = handshake(ctx, client(only(version)))
            assert.equal(tls13 and 2 or 1, #calls)
            assert.equal(hs.server, calls[1][1])
            assert.is_true(calls[#calls][2] == hs.server.session)
        end)

        it("of a client needs SESSION_CACHE_CLIENT", function()
            local calls, ctx = noting(client(only(version)), "session_new_cb")
            assert.is_true(handshake(server(), ctx).ok)
            assert.equal(0, #calls)
            calls, ctx = noting(client(only(version, { session_cache_mode = SSLContext.SESSION_CACHE_CLIENT })),
                "session_new_cb")
            local hs = handshake(server(), ctx)
            assert.equal(1, #calls)
            assert.is_true(calls[1][2] == hs.client.session)
            assert.is_true(handshake(server(), ctx).ok)
        end)

        it("that raises ends the connection", function()
            fails(handshake(without_tickets(server { session_new_cb = function() error("full") end }),
                client(only(version))), "server", "session_new_cb", "full")
        end)
    end)

    describe(version .. ": session_get_cb", function()
        local external = SSLContext.SESSION_CACHE_SERVER | SSLContext.SESSION_CACHE_NO_INTERNAL

        local function keeping(answer, settings)
            settings = settings or {}
            settings.session_cache_mode = settings.session_cache_mode or external
            local ctx, kept = without_tickets(server(settings)), {}
            ctx.session_new_cb = function(_, session) kept[session.id] = session end
            local calls = noting(ctx, "session_get_cb", answer or function(_, id) return kept[id] end)
            return ctx, calls, kept
        end

        it("gets connection and id, and gives the session", function()
            local ctx, calls, kept = keeping()
            local client_ctx = client(only(version))
            local hs = handshake(ctx, client_ctx)
            assert.equal(0, #calls)
            hs = handshake(ctx, client_ctx, { servername = "localhost", session = hs.client.session })
            assert.is_true(hs.session_reused)
            assert.equal(1, #calls)
            assert.is_true(is_connection(calls[1][1]))
            assert.equal(32, #calls[1][2])
            assert.is_not_nil(kept[calls[1][2]])
            assert.equal(1, ctx.session_cache_stats.cb_hits)
        end)

        it("is not asked for what the cache knows", function()
            local ctx, calls = keeping(nil, { session_cache_mode = SSLContext.SESSION_CACHE_SERVER })
            local client_ctx = client(only(version))
            local session = handshake(ctx, client_ctx).client.session
            assert.is_true(handshake(ctx, client_ctx, { servername = "localhost", session = session }).session_reused)
            assert.equal(0, #calls)
        end)

        for title, answer in pairs {
            ["nil"] = function() end, ["false"] = function() return false end, ["a string"] = function() return "x" end,
            ["a certificate"] = function() return fix.cert "ca" end,
        } do
            it(title .. " is a miss", function()
                local ctx, calls = keeping(answer)
                local client_ctx = client(only(version))
                local session = handshake(ctx, client_ctx).client.session
                local hs = handshake(ctx, client_ctx, { servername = "localhost", session = session })
                assert.is_true(hs.ok)
                assert.is_false(hs.session_reused)
                assert.equal(1, #calls)
            end)
        end

        it("cannot give a session of another policy", function()
            local first, _, kept = keeping()
            local client_ctx = client(only(version))
            local session = handshake(first, client_ctx).client.session
            local second = keeping(function(_, id) return kept[id] end, { session_id_context = "other" })
            local hs = handshake(second, client_ctx, { servername = "localhost", session = session })
            assert.is_true(hs.ok, hs.server_error)
            assert.is_false(hs.session_reused)
        end)

        it("may give what another context has in its cache", function()
            local first, _, kept = keeping(nil, { session_cache_mode = SSLContext.SESSION_CACHE_SERVER })
            local client_ctx = client(only(version))
            local session = handshake(first, client_ctx).client.session
            for _ = 1, 3 do
                local second = keeping(function(_, id) return kept[id] end,
                    { session_cache_mode = SSLContext.SESSION_CACHE_SERVER })
                local hs = handshake(second, client_ctx, { servername = "localhost", session = session })
                assert.is_true(hs.session_reused)
            end
            first:flush_sessions(0)
            collectgarbage()
        end)

        it("that raises ends the connection", function()
            local ctx = keeping(function() error("no store") end)
            local client_ctx = client(only(version))
            local session = handshake(ctx, client_ctx).client.session
            fails(handshake(ctx, client_ctx, { servername = "localhost", session = session }), "server",
                "session_get_cb", "no store")
        end)
    end)

    describe(version .. ": session_remove_cb", function()
        it("gets context and session when one is removed, flushed or has expired", function()
            local calls, ctx = noting(without_tickets(server()), "session_remove_cb")
            local client_ctx = client(only(version))
            local hs = handshake(ctx, client_ctx)
            assert.equal(0, #calls)
            local session = hs.server.session
            assert.is_true(ctx:session_remove(session))
            assert.equal(1, #calls)
            assert.equal(ctx, calls[1][1])
            assert.is_true(calls[1][2] == session)
            handshake(ctx, client_ctx)
            ctx:flush_sessions(0)
            assert.is_true(#calls >= 2)
            local before = #calls
            hs = handshake(ctx, client_ctx)
            hs.server.session.time = 1000
            handshake(ctx, client_ctx, { servername = "localhost", session = hs.client.session })
            assert.equal(before + (tls13 and 0 or 1), #calls) -- libssl leaves an expired one to the sweep in TLS 1.3
        end)

        it("may not use the cache, which is locked", function()
            local errors = {}
            local ctx = without_tickets(server())
            ctx.session_remove_cb = function(self, session)
                for _, name in ipairs { "session_add", "session_remove" } do
                    local _, err = pcall(self[name], self, session)
                    errors[#errors + 1] = err.message
                end
                local _, err = pcall(self.flush_sessions, self, 0)
                errors[#errors + 1] = err.message
                handshake(self, client(only(version)))
            end
            local hs = handshake(ctx, client(only(version)))
            ctx:session_remove(hs.server.session)
            assert.same({ "SSLContext:session_add: not possible inside session_remove_cb",
                "SSLContext:session_remove: not possible inside session_remove_cb",
                "SSLContext:flush_sessions: not possible inside session_remove_cb" }, errors)
            assert.no_error(function() ctx:flush_sessions(os.time()) end)
        end)

        it("that raises harms nobody", function()
            local ctx = without_tickets(server { session_remove_cb = function() error("lost") end })
            local hs = handshake(ctx, client(only(version)))
            assert.is_true(ctx:session_remove(hs.server.session))
            assert.is_true(handshake(ctx, client(only(version))).ok)
        end)

        it("is not called when the context is collected", function()
            local calls = 0
            do
                local ctx = without_tickets(server { session_remove_cb = function() calls = calls + 1 end })
                handshake(ctx, client(only(version)))
            end
            collectgarbage()
            collectgarbage()
            assert.equal(0, calls)
        end)
    end)

    describe(version .. ": renegotiation_cb", function()
        it("is told of a server's first handshake, also of a resumed one (trap 22)", function()
            local calls, ctx = noting(server(), "renegotiation_cb")
            local client_ctx = client(only(version))
            local hs = handshake(ctx, client_ctx)
            assert.equal(1, #calls)
            assert.equal(hs.server, calls[1][1])
            handshake(ctx, client_ctx, { servername = "localhost", session = hs.client.session })
            assert.equal(2, #calls)
        end)

        it("is not told of a client's", function()
            assert.is_true(handshake(server(), client(only(version, { renegotiation_cb = error }))).ok)
        end)

        it("that raises ends the connection", function()
            fails(handshake(server { renegotiation_cb = function() error("again") end }, client(only(version))),
                "server", "renegotiation_cb", "again")
        end)
    end)

    describe(version .. ": keylog_cb", function()
        local function labels(calls)
            local list = {}
            for i, call in ipairs(calls) do
                assert.equal(2, call.n)
                assert.is_true(is_connection(call[1]))
                assert.is_nil(call[2]:find("\n", 1, true))
                list[i] = call[2]:match("^(%S+) %x+ %x+$")
            end
            table.sort(list)
            return list
        end

        it("gets connection and line on both sides", function()
            local server_calls, server_ctx = noting(server(), "keylog_cb")
            local client_calls, client_ctx = noting(client(only(version)), "keylog_cb")
            assert.is_true(handshake(server_ctx, client_ctx).ok)
            local want = tls13 and { "CLIENT_HANDSHAKE_TRAFFIC_SECRET", "CLIENT_TRAFFIC_SECRET_0", "EXPORTER_SECRET",
                "SERVER_HANDSHAKE_TRAFFIC_SECRET", "SERVER_TRAFFIC_SECRET_0" } or { "CLIENT_RANDOM" }
            assert.same(want, labels(server_calls))
            assert.same(want, labels(client_calls))
        end)

        it("that raises ends the connection", function()
            fails(handshake(server(), client(only(version, { keylog_cb = function() error("disk") end }))), "client",
                "keylog_cb", "disk")
        end)
    end)
end

describe("tmp_dh_callback", function()
    local DHE = "DHE-RSA-AES128-GCM-SHA256"

    local function dhe_server(answer, settings)
        settings = settings or {}
        settings.certs, settings.max_version, settings.ciphers = { "rsa" }, "TLS1_2", settings.ciphers or DHE
        local ctx = server(settings)
        return ctx, noting(ctx, "tmp_dh_callback", answer)
    end

    it("gets connection, is_export and bits, and gives the parameters", function()
        local ctx, calls = dhe_server(function() return fix.key "dh" end)
        local hs = handshake(ctx, client())
        assert.is_true(hs.ok, hs.server_error)
        assert.equal(DHE, hs.cipher)
        assert.equal(1, #calls)
        assert.equal(3, calls[1].n)
        assert.same({ hs.server, 0, 1024 }, { calls[1][1], calls[1][2], calls[1][3] })
        assert.equal("DH", hs.client.tmp_key.type)
    end)

    it("is asked for DHE suites only", function()
        local ctx, calls = dhe_server(error, { ciphers = "ECDHE-RSA-AES128-GCM-SHA256" })
        assert.is_true(handshake(ctx, client()).ok)
        assert.equal(0, #calls)
        ctx = server { tmp_dh_callback = error }
        assert.is_true(handshake(ctx, client(only "TLS1_3")).ok)
    end)

    it("is not asked where tmp_dh is set, nor on resumption", function()
        local ctx, calls = dhe_server(error, { tmp_dh = fix.key "dh" })
        assert.is_true(handshake(ctx, client()).ok)
        assert.equal(0, #calls)
        ctx, calls = dhe_server(function() return fix.key "dh" end)
        local client_ctx = client()
        local session = handshake(ctx, client_ctx).client.session
        assert.is_true(handshake(ctx, client_ctx, { servername = "localhost", session = session }).session_reused)
        assert.equal(1, #calls)
    end)

    for title, case in pairs {
        ["an error"] = { function() error("no prime") end, "no prime" },
        ["nil"] = { function() end, "TypeError: expected a PKey as result, got nil" },
        ["a key of another type"] = { function() return fix.key "ec" end,
            "invalid pkey type id-ecPublicKey (expected DH)" },
    } do
        it(title .. " ends the handshake with internal_error", function()
            local hs = fails(handshake((dhe_server(case[1])), client()), "server", "tmp_dh_callback", case[2])
            assert.equal("internal_error", hs.alert)
        end)
    end

    it("is not needed: parameters are automatic", function()
        local ctx = server { certs = { "rsa" }, max_version = "TLS1_2", ciphers = DHE }
        assert.is_true(handshake(ctx, client()).ok)
    end)
end)

describe("NPN", function()
    local function offering()
        return server { npn_protocols = { "http/1.1", "spdy/2" } }
    end

    it("lets a TLS 1.2 client choose, even what was not offered", function()
        local seen
        for _, choice in ipairs { "spdy/2", "other" } do
            local hs = handshake(offering(), client(only("TLS1_2", { npn_select_cb = function(protocols)
                seen = protocols
                return choice
            end })))
            assert.is_true(hs.ok, hs.client_error)
            assert.same({ "http/1.1", "spdy/2" }, seen)
            assert.same({ choice, choice }, { hs.client.npn_protocol, hs.server.npn_protocol })
        end
    end)

    it("is not used in TLS 1.3, nor without both sides", function()
        local hs = handshake(offering(), client(only("TLS1_3", { npn_select_cb = error })))
        assert.is_true(hs.ok)
        assert.is_nil(hs.client.npn_protocol)
        assert.is_true(handshake(server(), client(only("TLS1_2", { npn_select_cb = error }))).ok)
        assert.is_true(handshake(offering(), client(only "TLS1_2")).ok)
    end)

    for title, case in pairs {
        ["an error"] = { function() error("neither") end, "neither" },
        ["nil"] = { function() end, "expected a string as result, got nil" },
        ["an empty string"] = { function() return "" end, "length 1..255" },
        ["a long string"] = { function() return ("x"):rep(256) end, "length 1..255" },
    } do
        it(title .. " ends the handshake", function()
            local hs = handshake(offering(), client(only("TLS1_2", { npn_select_cb = case[1] })))
            fails(hs, "client", "npn_select_cb", case[2])
            assert.equal("handshake_failure", hs.alert)
        end)
    end
end)

describe("enable_fallback_scsv", function()
    it("makes a server that can do better refuse", function()
        local ctx = client(only "TLS1_2")
        assert.is_nil(ctx:enable_fallback_scsv())
        local hs = handshake(server(), ctx)
        assert.equal("inappropriate_fallback", hs.alert)
        assert.is_true(handshake(server(only "TLS1_2"), ctx).ok)
    end)
end)

describe("callbacks", function()
    it("may drop and collect everything", function()
        local ctx
        ctx = without_tickets(server())
        local function forget()
            ctx = nil
            collectgarbage()
            collectgarbage()
        end
        ctx.renegotiation_cb, ctx.keylog_cb, ctx.session_new_cb = forget, forget, forget
        local function run() return handshake(ctx, client()) end
        assert.is_true(run().ok)
    end)

    it("may start handshakes of the same contexts", function()
        local depth, ctx, client_ctx = 0, without_tickets(server()), client()
        ctx.session_new_cb = function()
            depth = depth + 1
            if depth < 5 then
                assert(handshake(ctx, client_ctx).ok)
            end
        end
        assert.is_true(handshake(ctx, client_ctx).ok)
    end)

    it("may use the connection that they get, which is in its handshake", function()
        local ctx = server()
        ctx.keylog_cb = function(conn)
            for _, act in ipairs { "read", "write" } do
                raises("SSLError", "the handshake is not done", conn[act], conn, act == "write" and "x" or nil)
            end
            conn:close()
            return conn.cipher, conn.group, conn.session, conn.peer_cert
        end
        local hs = handshake(ctx, client(only "TLS1_2"))
        assert.is_true(hs.ok, hs.server_error)
    end)
end)
