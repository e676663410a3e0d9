--- Every allocation fails once: what is going on then ends with an error or gets by, nothing leaks, nothing is left
--- in OpenSSL's queue, and the same objects work afterwards.

package.path = "spec/unit/support/?.lua;" .. package.path
local build = os.getenv("MOONGATE_BUILD") or "build"
local path = build .. "/spec/lua/moongate/openssl.so"
local faults = assert(package.loadlib(path, "luaopen_moongate_faults"))()
package.loaded["moongate.openssl"] = assert(package.loadlib(path, "luaopen_moongate_openssl"))()
local fix = require "fixtures"
local SSLContext = fix.SSLContext

-- Not luassert's, whose errors are tables.
local function must(value)
    return value or error("not what was expected", 2)
end

local function collect()
    collectgarbage()
    collectgarbage()
end

local SLACK = 20 -- allocations that differ between rounds without being a leak

-- Whose allocations fail: OpenSSL's and the module's own, or those of Lua, which then runs out of memory.
local WHOSE = { faults.attempt, faults.lua_attempt }

local EVERY = os.getenv("FAULTS") == "all" -- what `make faults` runs

local function walk_one(attempt, prepare, act, check, step)
    local failures, rounds, n, base = 0, 0, 1 - step, nil
    repeat
        n, rounds = n + step, rounds + 1
        local object = prepare()
        local ok, err, used = attempt(n, act, object)
        if not ok then
            failures = failures + 1
            assert.is_true(type(err) == "string" or type(err.class) == "string", tostring(err))
        end
        assert.same({}, fix.openssl.errors())
        if rounds % 50 == 0 or used < n then
            assert.is_true(pcall(check, object), ("unusable after allocation %d failed"):format(n))
            collect()
            base = base or faults.live()
            assert.is_true(faults.live() <= base + SLACK,
                ("after %d: %d live, at first %d"):format(n, faults.live(), base))
        end
    until used < n
    assert.is_true(failures > 0)
end

-- Runs act(prepare()) with allocation n failing, for every n – or, where an act is long and this is the ordinary run,
-- every `step`-th; check(object) must hold afterwards.
local function walk(prepare, act, check, step)
    for i, attempt in ipairs(WHOSE) do
        act(prepare()) -- what is made once and kept
        check(prepare())
        collect()
        walk_one(attempt, prepare, act, check, (EVERY or i > 1) and 1 or step or 1)
    end
end

describe("every failing allocation is survived by", function()
    it("SSLContext.new", function()
        walk(function() end, SSLContext.new, function() must(SSLContext.new()) end)
    end)

    it("add_certificate", function()
        walk(SSLContext.new, function(ctx)
            ctx:add_certificate(fix.cert "ec", fix.key "ec", { fix.cert "ca" })
        end, function(ctx)
            ctx:add_certificate(fix.cert "ec", fix.key "ec", { fix.cert "ca" })
            must(fix.handshake(ctx, fix.client()).ok)
        end)
    end)

    it("setup", function()
        walk(function()
            local ctx = fix.server { certs = {}, cert = fix.cert "ec", key = fix.key "ec",
                extra_chain_cert = { fix.cert "ca" }, client_ca = { fix.cert "ca" }, cert_store = fix.store(),
                alpn_protocols = { "h2" }, npn_protocols = { "h2" }, verify_callback = function(ok) return ok end,
                session_id_context = "x" }
            return ctx
        end, function(ctx) ctx:setup() end, function(ctx)
            ctx:setup()
            local hs = fix.handshake(ctx, fix.client { alpn_protocols = { "h2" } })
            must(hs.ok, hs.client_error or hs.server_error)
            must(#hs.client.peer_cert_chain == 2) -- not the chain twice (trap 6)
        end)
    end)

    for _, version in ipairs { "TLS1_2", "TLS1_3" } do
        it("a handshake of " .. version, function()
            local server = fix.server { verify_mode = 1, cert_store = fix.store(), certs = { "ec" },
                alpn_select_cb = function(list) return list[1] end, keylog_cb = function() end,
                servername_cb = function() end, session_new_cb = function() end, renegotiation_cb = function() end,
                verify_callback = function(ok, context) return ok and context.current_cert ~= nil end }
            local client = fix.client(fix.only(version, { alpn_protocols = { "h2" },
                client_cert_cb = function(conn)
                    return conn.client_ca and fix.cert "client", fix.key "client"
                end }))
            local function shake()
                local hs = fix.handshake(server, client)
                if hs.ok then
                    hs.client:write("ping")
                    must(hs.server:read() == "ping")
                else
                    error(hs.server_error or hs.client_error)
                end
            end
            walk(function() end, shake, shake, 7)
        end)
    end

    it("a handshake whose context a function chooses", function()
        local chosen, client = fix.server { certs = { "ec" } }, fix.client()
        local function shake()
            local hs = fix.openssl.handshake(function(message)
                return #message > 40 and chosen or nil, "too short"
            end, client)
            if not hs.ok then
                error(hs.server_error or hs.client_error)
            end
        end
        walk(function() end, shake, shake, 7)
    end)

    for _, version in ipairs { "TLS1_2", "TLS1_3" } do
        it("sessions that come into the cache, are found, and leave: " .. version, function()
            local gone = 0
            local server = fix.server { certs = { "ec" }, verify_mode = 1, cert_store = fix.store(),
                session_remove_cb = function() gone = gone + 1 end }
            server.options = server.options | fix.SSL.OP_NO_TICKET
            server.session_cache_size = 3
            local client = fix.client(fix.only(version, { cert = fix.cert "client", key = fix.key "client" }))
            local function shake(session)
                local hs = fix.handshake(server, client, { servername = "localhost", session = session })
                return hs.ok and hs or error(hs.server_error or hs.client_error)
            end
            local function act()
                local hs = shake()
                shake(hs.client.session)
                server:session_add(hs.server.session:dup())
                hs.server.session.timeout = 100
                server:session_remove(hs.server.session)
            end
            walk(function() end, act, function()
                server:flush_sessions(0)
                local hs = shake()
                must(server.session_cache_stats.cache_num == 1)
                must(shake(hs.client.session).session_reused)
                must(server:session_remove(hs.server.session))
            end, 29)
        end)
    end

    it("reading a certificate", function()
        local pem = fix.cert("ec"):to_pem()
        local function read() must(fix.X509.Certificate.new(pem).subject:to_s() == "/CN=ec") end
        walk(function() end, read, read)
    end)

    it("reading an encrypted key, and signing", function()
        local pem = fix.key("ec"):private_to_pem("aes-128-cbc", "secret")
        local function read()
            local key = fix.PKey.read(pem, "secret")
            must(key:verify("SHA256", key:sign("SHA256", "data"), "data"))
            must(key.group.curve_name == "prime256v1")
        end
        walk(function() end, read, read, 7)
    end)

    it("building a certificate and a CRL", function()
        local function make()
            local cert = fix.certificate { subject = "/CN=x/O=y", key = fix.key "ec", names = "DNS:a", ca = true }
            local crl = fix.X509.CRL.new()
            crl.issuer, crl.last_update, crl.next_update = cert.subject, 1700000000, 1800000000
            crl:sign(fix.key "ec", "SHA256")
            must(crl:verify(fix.key "ec"))
        end
        walk(function() end, make, make, 7)
    end)

    it("loading a CRL, and refusing whom it names", function()
        local revoked, crl = fix.X509.Revoked.new(), fix.X509.CRL.new()
        revoked.serial, revoked.time = fix.cert("client").serial, 1700000000
        crl.issuer, crl.last_update, crl.next_update = fix.cert("ca").subject, os.time() - 60, os.time() + 3600
        crl:add_revoked(revoked):sign(fix.key "ca", "SHA256")
        local pem, store = crl:to_pem(), fix.store()
        local function visit()
            local ctx = fix.server { certs = { "ec" }, verify_mode = 3, cert_store = store }
            ctx:add_crl(fix.X509.CRL.load(pem)[1])
            ctx:setup()
            local hs = fix.handshake(ctx, fix.client { cert = fix.cert "client", key = fix.key "client" })
            must(not hs.ok) -- whatever fails, nobody comes in
            return hs.alert == "certificate_revoked" or error("no memory", 0)
        end
        walk(function() end, visit, function() must(visit()) end, 23)
    end)

    it("reading names and hashes of a certificate", function()
        local pem = fix.certificate { subject = "/CN=x/O=y", key = fix.key "ec",
            names = "DNS:a,IP:::1,URI:b:c" }:to_pem()
        local function read()
            local cert = fix.X509.Certificate.new(pem)
            local names = cert.subject_alt_names
            must(names.dns[1] == "a" and names.ip[1] == "::1" and names.uri[1] == "b:c")
            must(cert.subject:get "CN" == "x" and cert.subject:values("O")[1] == "y")
            must(#cert.sha256 == 64 and #cert.spki_sha256 == 64 and #cert.pin_sha256 == 44)
        end
        walk(function() end, read, read)
    end)

    it("signing a certificate, which has a whole signature or none afterwards", function()
        local function sign(cert)
            local ok, err = pcall(cert.sign, cert, fix.key "ec", "SHA256")
            pcall(cert.to_der, cert)
            return ok or error(err, 0)
        end
        walk(function()
            local cert = fix.X509.Certificate.new()
            cert.subject, cert.issuer, cert.public_key = "/CN=x", "/CN=x", fix.key "ec"
            return cert
        end, sign, sign)
    end)

    it("verifying with a store", function()
        local function verify()
            local store = fix.store()
            must(store:verify(fix.cert "ec", {}, function(ok, context) return ok and #context.chain > 0 end))
            must(#store.chain == 2)
        end
        walk(function() end, verify, verify)
    end)

    it("reading and copying a session", function()
        local der = fix.handshake(fix.server { certs = { "ec" } }, fix.client()).client.session:to_der()
        local function read() must(#fix.SSL.Session.new(der):dup().id == 32) end
        walk(function() end, read, read)
    end)
end)

describe("memory returns after", function()
    it("2,000 contexts, cycles through closures included", function()
        local function make()
            local ctx = fix.server { certs = { "ec" }, cert_store = fix.store() }
            ctx.alpn_select_cb = function() return ctx.name end
            ctx.keylog_cb = function() return ctx end
            ctx.servername_cb = function() return ctx end
            ctx:setup()
        end
        for _ = 1, 50 do
            make()
        end
        collect()
        local before, lua_before = faults.live(), collectgarbage("count")
        for _ = 1, 2000 do
            make()
        end
        collect()
        assert.is_true(faults.live() <= before + 50, faults.live() .. " live, before " .. before)
        assert.is_true(collectgarbage("count") < lua_before + 200)
    end)

    it("300 handshakes whose connections refer to each other", function()
        local server, client = fix.server { certs = { "ec" } }, fix.client()
        local function run()
            local hs = fix.handshake(server, client)
            server.session_cache_mode = 2
            hs.cycle = { hs.server, hs.client, hs }
        end
        for _ = 1, 20 do
            run()
        end
        collect()
        local before = faults.live()
        for _ = 1, 300 do
            run()
        end
        collect()
        assert.is_true(faults.live() <= before + 50, faults.live() .. " live, before " .. before)
    end)
end)
