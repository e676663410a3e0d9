--- Sessions: the class, the cache of a context, and what is resumed and what is not.

package.path = "spec/unit/support/?.lua;" .. package.path
local fix = require "fixtures"
local SSL, SSLContext, raises, assign = fix.SSL, fix.SSLContext, fix.raises, fix.assign
local server, client, only, handshake = fix.server, fix.client, fix.only, fix.handshake
local Session = SSL.Session

-- A server that keeps its sessions itself.
local function stateful(settings)
    local ctx = server(settings)
    ctx.options = ctx.options | SSL.OP_NO_TICKET
    return ctx
end

local function resume(server_ctx, client_ctx, session, servername)
    return handshake(server_ctx, client_ctx, { servername = servername or "localhost", session = session })
end

for _, version in ipairs { "TLS1_2", "TLS1_3" } do
    describe("a session of " .. version, function()
        local function session_of(server_ctx, client_ctx)
            local hs = handshake(server_ctx or server(), client_ctx or client(only(version)))
            assert.is_true(hs.ok, hs.client_error)
            return hs.client.session
        end

        it("has id, time and timeout", function()
            local session = session_of(server { timeout = 300 })
            assert.equal(32, #session.id)
            assert.is_true(math.abs(os.time() - session.time) < 60)
            assert.is_true(session.timeout > 0)
            session.time, session.timeout = 1000, 7
            assert.same({ 1000, 7 }, { session.time, session.timeout })
            session.time = 0
            assert.is_nil(session.time)
            raises("TypeError", "Session.timeout: expected an integer, got string", assign, session, "timeout", "7")
            raises("TypeError", "Session.time: expected an integer, got nil", assign, session, "time", nil)
            raises("NoMethodError", "Session.id: is read-only", assign, session, "id", "x")
        end)

        it("comes back from DER and PEM, and is resumed then", function()
            local server_ctx, client_ctx = server(), client(only(version))
            for _, form in ipairs { "to_der", "to_pem" } do
                local session = session_of(server_ctx, client_ctx)
                local copy = Session.new(session[form](session))
                assert.is_true(copy == session)
                assert.equal(session.id, copy.id)
                assert.is_true(resume(server_ctx, client_ctx, copy).session_reused)
            end
        end)

        it("is told as text", function()
            assert.truthy(session_of():to_text():find("SSL-Session:", 1, true))
            assert.truthy(session_of():to_pem():find("BEGIN SSL SESSION PARAMETERS", 1, true))
        end)

        it("is equal to its copy, not to another", function()
            local session = session_of()
            assert.is_true(session == session:dup())
            assert.is_false(session == session_of())
            assert.is_false(session == "x")
        end)

        it("is a connection's", function()
            local hs = handshake(server(), client(only(version)))
            assert.is_true(Session.new(hs.client) == hs.client.session)
        end)

        -- ---- resumption --------------------------------------------------------------------------

        it("is resumed, as often as wanted", function()
            local server_ctx, client_ctx = server(), client(only(version))
            local hs = handshake(server_ctx, client_ctx)
            for _ = 1, 3 do
                hs = resume(server_ctx, client_ctx, hs.client.session)
                assert.is_true(hs.ok, hs.client_error)
                assert.is_true(hs.client.session_reused)
                assert.is_true(hs.server.session_reused)
                assert.equal(fix.cert "ec", hs.client.peer_cert)
                hs.client:write("after")
                assert.equal("after", hs.server:read())
            end
        end)

        it("is resumed from the server's cache, too", function()
            local server_ctx, client_ctx = stateful(), client(only(version))
            local hs = resume(server_ctx, client_ctx, session_of(server_ctx, client_ctx))
            assert.is_true(hs.session_reused)
            assert.equal(1, server_ctx.session_cache_stats.cache_hits)
        end)

        it("is resumed for the same name in other letters", function()
            local server_ctx, client_ctx = server(), client(only(version, { verify_hostname = false }))
            local session = session_of(server_ctx, client_ctx)
            assert.is_true(resume(server_ctx, client_ctx, session, "LocalHost").session_reused)
        end)

        it("is not resumed for another name", function()
            for _, server_ctx in ipairs { server(), stateful() } do
                local client_ctx = client(only(version))
                local hs = resume(server_ctx, client_ctx, session_of(server_ctx, client_ctx), "a.example.com")
                assert.is_true(hs.ok, hs.client_error)
                assert.is_false(hs.session_reused)
            end
        end)

        it("is not resumed for another name, even if the client tries", function()
            -- A client that binds nothing: the session says that it was made for the name it is offered for.
            local server_ctx, client_ctx = server(), client(only(version))
            local here = session_of(server_ctx, client_ctx)
            local there = handshake(server_ctx, client_ctx, { servername = "a.example.com" }).client.session
            local from, to = there:to_der(), here:to_der()
            local function context_of(der) return der:match("\xa4\x22\x04\x20(" .. (".") :rep(32) .. ")") end
            assert.not_equal(context_of(from), context_of(to))
            local at = from:find(context_of(from), 1, true)
            local forged = Session.new(from:sub(1, at - 1) .. context_of(to) .. from:sub(at + 32))
            local hs = resume(server_ctx, client_ctx, forged)
            assert.is_true(hs.ok, hs.client_error)
            assert.is_false(hs.session_reused)
        end)

        for title, settings in pairs {
            ["another verify_mode"] = { verify_mode = SSL.VERIFY_PEER },
            ["another certificate"] = { certs = { "rsa" } },
            ["another session_id_context"] = { session_id_context = "other" },
            ["another security level"] = { security_level = 1 },
        } do
            it("is not resumed by a server with " .. title, function()
                local client_ctx = client(only(version))
                local keys = session_of(server(), client_ctx)
                local hs = resume(server(settings), client_ctx, keys)
                assert.is_true(hs.ok, hs.client_error)
                assert.is_false(hs.session_reused)
            end)
        end

        it("put into the cache of another policy is not resumed", function()
            local client_ctx, first = client(only(version)), stateful()
            local hs = handshake(first, client_ctx)
            for _, settings in ipairs { {}, { session_id_context = "other" } } do
                local second = stateful(settings)
                assert.is_true(second:session_add(hs.server.session))
                local again = resume(second, client_ctx, hs.client.session)
                assert.is_true(again.ok, again.client_error)
                assert.equal(next(settings) == nil, again.session_reused)
            end
        end)

        -- trap 13: what was agreed without verification does not count where there is one
        it("made under VERIFY_NONE is not resumed by a client that verifies", function()
            local server_ctx = server()
            local careless = client(only(version, { verify_mode = SSL.VERIFY_NONE, verify_hostname = false }))
            local session = session_of(server_ctx, careless)
            assert.is_true(resume(server_ctx, careless, session).session_reused)
            local hs = resume(server_ctx, client(only(version)), session)
            assert.is_true(hs.ok)
            assert.is_false(hs.session_reused)
            hs = resume(server_ctx, client(only(version, { cert_store = fix.X509.Store.new() })), session)
            assert.is_false(hs.ok)
        end)

        -- trap 14: Ruby's client aborts here
        it("made by a client with another session_id_context leads to a full handshake", function()
            local server_ctx = server()
            local session = session_of(server_ctx, client(only(version, { session_id_context = "one" })))
            local hs = resume(server_ctx, client(only(version, { session_id_context = "two" })), session)
            assert.is_true(hs.ok, hs.client_error)
            assert.is_false(hs.session_reused)
        end)

        -- trap 15: Ruby needs a session_id_context for this
        it("with a client certificate is resumed without a session_id_context of one's own", function()
            local server_ctx = server { verify_mode = 3, cert_store = fix.store() }
            local client_ctx = client(only(version, { cert = fix.cert "client", key = fix.key "client" }))
            local hs = resume(server_ctx, client_ctx, session_of(server_ctx, client_ctx))
            assert.is_true(hs.session_reused)
            assert.equal(fix.cert "client", hs.server.peer_cert)
        end)

        it("is not resumed once the peer's certificate has ended", function()
            local ending = fix.certificate { subject = "/CN=ending", key = fix.key "client", issuer = fix.cert "ca",
                issuer_key = fix.key "ca", not_before = os.time() - 100, not_after = os.time() - 10 }
            local server_ctx = server { verify_mode = 3, cert_store = fix.store(), verify_callback = function()
                return true
            end }
            local client_ctx = client(only(version, { cert = ending, key = fix.key "client" }))
            local hs = resume(server_ctx, client_ctx, session_of(server_ctx, client_ctx))
            assert.is_true(hs.ok, hs.server_error)
            assert.is_false(hs.session_reused)
        end)

        it("is not resumed after its timeout", function()
            local server_ctx, client_ctx = stateful { timeout = 100 }, client(only(version))
            local hs = handshake(server_ctx, client_ctx)
            assert.equal(100, hs.server.session.timeout)
            hs.server.session.time = os.time() - 101
            local again = resume(server_ctx, client_ctx, hs.client.session)
            assert.is_true(again.ok)
            assert.is_false(again.session_reused)
            assert.equal(1, server_ctx.session_cache_stats.timeouts)
        end)

        it("is resumed within its timeout", function()
            local server_ctx, client_ctx = stateful { timeout = 100 }, client(only(version))
            local hs = handshake(server_ctx, client_ctx)
            hs.server.session.time = os.time() - 50
            assert.is_true(resume(server_ctx, client_ctx, hs.client.session).session_reused)
        end)

        -- ---- the cache ---------------------------------------------------------------------------

        it("is not kept with SESSION_CACHE_OFF", function()
            local server_ctx, client_ctx = stateful { session_cache_mode = SSLContext.SESSION_CACHE_OFF },
                client(only(version))
            local hs = resume(server_ctx, client_ctx, session_of(server_ctx, client_ctx))
            assert.is_true(hs.ok)
            assert.is_false(hs.session_reused)
            assert.equal(0, server_ctx.session_cache_stats.cache_num)
        end)

        it("leaves the cache by session_remove and flush_sessions", function()
            local server_ctx, client_ctx = stateful(), client(only(version))
            local hs = handshake(server_ctx, client_ctx)
            local kept = server_ctx.session_cache_stats.cache_num
            assert.is_true(kept > 0)
            assert.is_true(server_ctx:session_remove(hs.server.session:dup())) -- trap 17: by id
            assert.is_false(server_ctx:session_remove(hs.server.session))
            assert.equal(kept - 1, server_ctx.session_cache_stats.cache_num)
            assert.is_false(resume(server_ctx, client_ctx, hs.client.session).session_reused)
            assert.equal(server_ctx, server_ctx:flush_sessions())
            assert.is_true(server_ctx.session_cache_stats.cache_num > 0)
            server_ctx:flush_sessions(os.time() + 100000)
            assert.equal(0, server_ctx.session_cache_stats.cache_num)
        end)

        it("enters the cache by session_add", function()
            local server_ctx, client_ctx = stateful(), client(only(version))
            local hs = handshake(server_ctx, client_ctx)
            local session = hs.server.session
            server_ctx:flush_sessions(0) -- trap 16: 0 is "all"
            assert.equal(0, server_ctx.session_cache_stats.cache_num)
            -- trap 17: the same object only once, its copy replaces it, and SESSION_CACHE_OFF is no reason
            server_ctx.session_cache_mode = SSLContext.SESSION_CACHE_OFF
            local copy = session:dup()
            assert.is_true(server_ctx:session_add(copy))
            assert.is_false(server_ctx:session_add(copy))
            assert.is_true(server_ctx:session_add(session:dup()))
            assert.equal(1, server_ctx.session_cache_stats.cache_num)
        end)

        it("makes room when the cache is full", function()
            local removed = 0
            local server_ctx, client_ctx = stateful { session_remove_cb = function() removed = removed + 1 end },
                client(only(version))
            server_ctx.session_cache_size = 2
            for _ = 1, 5 do
                handshake(server_ctx, client_ctx)
            end
            local stats = server_ctx.session_cache_stats
            assert.is_true(stats.cache_num <= 2)
            assert.equal(removed, stats.cache_full)
            assert.is_true(removed >= 3)
        end)
    end)
end

describe("Session.new", function()
    it("refuses what is none", function()
        raises("ArgumentError", "Session.new: unknown type: no start line", Session.new, "x")
        raises("ArgumentError", "unknown type", Session.new, "")
        raises("ArgumentError", "unknown type", Session.new, fix.cert("ca"):to_pem())
        raises("TypeError", "Session.new: argument 1: expected a string or a connection, got number", Session.new, 1)
        raises("NoMethodError", "Certificate.session", Session.new, fix.cert "ca")
        raises("ArgumentError", "given 0, expected 1", Session.new)
    end)

    it("finds none on a connection without", function()
        local hs = handshake(server { min_version = "TLS1_3" }, client(only "TLS1_2"))
        raises("SessionError", "Session.new: no session available", Session.new, hs.server)
    end)
end)

describe("the session cache of a context", function()
    it("counts, in Ruby's names", function()
        local names = {}
        for name, count in pairs(SSLContext.new().session_cache_stats) do
            names[#names + 1] = name
            assert.equal(0, count)
        end
        table.sort(names)
        assert.same({ "accept", "accept_good", "accept_renegotiate", "cache_full", "cache_hits", "cache_misses",
            "cache_num", "cb_hits", "connect", "connect_good", "connect_renegotiate", "timeouts" }, names)
    end)

    it("checks its arguments", function()
        local ctx = SSLContext.new()
        raises("TypeError", "SSLContext:session_add: argument 1: expected Session, got string", ctx.session_add,
            ctx, "x")
        raises("TypeError", "SSLContext:session_remove: argument 1: expected Session, got nil", ctx.session_remove,
            ctx, nil)
        raises("ArgumentError", "SSLContext:flush_sessions: arg must be Time or nil", ctx.flush_sessions, ctx, "now")
        raises("NoMethodError", "SSLContext.session_cache_stats: is read-only", assign, ctx, "session_cache_stats", {})
    end)

    it("keeps a client's sessions if told so", function()
        local client_ctx = client(only("TLS1_2", { session_cache_mode = SSLContext.SESSION_CACHE_BOTH }))
        handshake(server(), client_ctx)
        assert.equal(1, client_ctx.session_cache_stats.cache_num)
        assert.equal(1, client_ctx.session_cache_stats.connect_good)
    end)

    it("works on a frozen context", function()
        local ctx = SSLContext.new()
        ctx:setup()
        ctx:flush_sessions():enable_fallback_scsv()
        ctx.session_cache_mode = 3
        ctx.session_cache_size = 5
        assert.same({ 3, 5 }, { ctx.session_cache_mode, ctx.session_cache_size })
    end)

    -- ---- modes ---------------------------------------------------------------------------------------

    local NO_LOOKUP = SSLContext.SESSION_CACHE_SERVER | SSLContext.SESSION_CACHE_NO_INTERNAL_LOOKUP
    local NO_STORE = SSLContext.SESSION_CACHE_SERVER | SSLContext.SESSION_CACHE_NO_INTERNAL_STORE

    for _, version in ipairs { "TLS1_2", "TLS1_3" } do
        local function there_and_back(server_ctx)
            local client_ctx = client(only(version))
            local hs = resume(server_ctx, client_ctx, handshake(server_ctx, client_ctx).client.session)
            assert.is_true(hs.ok, hs.client_error)
            return hs.session_reused, server_ctx.session_cache_stats
        end

        it("keeps and finds: " .. version, function()
            local reused, stats = there_and_back(stateful())
            assert.is_true(reused)
            assert.same({ 1, 0, 0 }, { stats.cache_hits, stats.cache_misses, stats.cb_hits })
        end)

        it("is not looked into with NO_INTERNAL_LOOKUP: " .. version, function()
            local reused, stats = there_and_back(stateful { session_cache_mode = NO_LOOKUP })
            assert.is_false(reused)
            assert.same({ 0, 0, true }, { stats.cache_hits, stats.cache_misses, stats.cache_num > 0 })
        end)

        it("takes in nothing with NO_INTERNAL_STORE, but what is added: " .. version, function()
            local server_ctx, client_ctx = stateful { session_cache_mode = NO_STORE }, client(only(version))
            local reused, stats = there_and_back(server_ctx)
            assert.is_false(reused)
            assert.same({ 0, 1 }, { stats.cache_num, stats.cache_misses })
            local hs = handshake(server_ctx, client_ctx)
            assert.is_true(server_ctx:session_add(hs.server.session))
            assert.is_true(resume(server_ctx, client_ctx, hs.client.session).session_reused)
        end)

        it("takes in what session_get_cb gives, unless it is told not to: " .. version, function()
            for mode, calls in pairs { [SSLContext.SESSION_CACHE_SERVER] = 1, [NO_STORE] = 2 } do
                local server_ctx, client_ctx = stateful { session_cache_mode = mode }, client(only(version))
                local kept, asked = {}, 0
                server_ctx.session_new_cb = function(_, session) kept[session.id] = session end
                server_ctx.session_get_cb = function(_, id)
                    asked = asked + 1
                    return kept[id]
                end
                local session = handshake(server_ctx, client_ctx).client.session
                server_ctx:flush_sessions(0)
                local before = server_ctx.session_cache_stats.cache_misses
                for _ = 1, 2 do
                    assert.is_true(resume(server_ctx, client_ctx, session).session_reused)
                end
                local stats = server_ctx.session_cache_stats
                assert.same({ calls, calls, calls }, { asked, stats.cb_hits, stats.cache_misses - before })
            end
        end)

        it("forgets what has expired, every 255 connections, unless it is told not to: " .. version, function()
            for mode, left in pairs { [2] = false, [2 | SSLContext.SESSION_CACHE_NO_AUTO_CLEAR] = true } do
                local removed = 0
                local server_ctx, client_ctx = stateful { session_cache_mode = mode, session_remove_cb = function()
                    removed = removed + 1
                end }, client(only(version))
                local hs = handshake(server_ctx, client_ctx)
                hs.server.session.time = os.time() - 100000
                for _ = 1, 260 do
                    handshake(server_ctx, client_ctx)
                end
                assert.equal(left and 261 or 260, server_ctx.session_cache_stats.cache_num)
                assert.equal(left and 0 or 1, removed)
            end
        end)

        it("keeps the youngest, at most so many, and tells of those that leave: " .. version, function()
            local gone, sessions = {}, {}
            local server_ctx = stateful { session_remove_cb = function(_, session) gone[#gone + 1] = session.id end }
            local client_ctx = client(only(version))
            server_ctx.session_cache_size = 5
            for i = 1, 8 do
                sessions[i] = handshake(server_ctx, client_ctx)
            end
            local stats = server_ctx.session_cache_stats
            assert.same({ 5, 3 }, { stats.cache_num, stats.cache_full })
            for i = 1, 8 do
                assert.equal(i <= 3 and sessions[i].server.session.id or nil, gone[i])
            end
            for i = 8, 1, -1 do -- a resumed TLS 1.3 connection makes a session, too
                server_ctx.session_cache_size = 0
                assert.equal(i > 3, resume(server_ctx, client_ctx, sessions[i].client.session).session_reused)
            end
        end)
    end

    it("is a context's own: another one with the same policy does not see it", function()
        local first, second, client_ctx = stateful(), stateful(), client(only "TLS1_2")
        local hs = handshake(first, client_ctx)
        assert.same({ 1, 0 }, { first.session_cache_stats.cache_num, second.session_cache_stats.cache_num })
        assert.is_false(resume(second, client_ctx, hs.client.session).session_reused)
        assert.is_false(second:session_remove(hs.server.session))
        second:flush_sessions(0)
        assert.is_true(resume(first, client_ctx, hs.client.session).session_reused)
    end)

    it("holds before setup what is added, and afterwards", function()
        local made = stateful()
        local client_ctx = client(only "TLS1_2")
        local hs = handshake(made, client_ctx)
        local ctx = stateful()
        assert.is_true(ctx:session_add(hs.server.session:dup()))
        assert.equal(1, ctx.session_cache_stats.cache_num)
        assert.is_true(resume(ctx, client_ctx, hs.client.session).session_reused)
    end)

    it("does not take in a session that is too long", function()
        local names = {}
        for i = 1, 300 do
            names[i] = ("DNS:%s%d.example"):format(("long"):rep(8), i)
        end
        local big = fix.certificate { subject = "/CN=big", key = fix.key "client", issuer = fix.cert "ca",
            issuer_key = fix.key "ca", names = table.concat(names, ",") }
        assert.is_true(#big:to_der() > 8192)
        local server_ctx = stateful { verify_mode = 1, cert_store = fix.store() }
        local client_ctx = client(only("TLS1_2", { cert = big, key = fix.key "client" }))
        local hs = handshake(server_ctx, client_ctx)
        assert.is_true(hs.ok, hs.server_error)
        assert.equal(0, server_ctx.session_cache_stats.cache_num)
        assert.is_false(server_ctx:session_add(hs.server.session))
        assert.is_false(resume(server_ctx, client_ctx, hs.client.session).session_reused)
    end)
end)
