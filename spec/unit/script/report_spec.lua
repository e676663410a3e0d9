-- What `check` reports of each context: what clients can really get from it, its certificates with the files that
-- they came from, and what is wrong with them.

local bench = require "bench"
local certs = require "certs"
local checks = require "checks"

local function report(script)
    local result = checks.run(script, { "--json" })
    assert.equal(0, result.code, result.err)
    return result.json()
end

local LISTEN = [[ moongate.listen { name = "web", address = "unix:/tmp/web", tls = ctx, backend = "a:1" } ]]

local function offer(policy)
    return report([[
        local ctx = openssl.SSL.SSLContext.new()
        ctx:load_certificate("$rsa_crt", "$rsa_key")
    ]] .. policy .. LISTEN).listeners[1].offer
end

local function has(list, value)
    for _, one in ipairs(list) do
        if one == value then
            return true
        end
    end
    return false
end

-- A certificate of our CA: its paths. `options` go to `openssl req`, `days` and the like to `openssl x509`.
local function issue(name, options, ...)
    local made = { crt = bench.path(name .. ".pem"), key = bench.path(name .. ".key") }
    local csr = bench.path(name .. ".csr")
    local req = { "openssl", "req", "-new", "-nodes", "-keyout", made.key, "-out", csr, "-subj", "/CN=" .. name }
    table.move(options, 1, #options, #req + 1, req)
    bench.must(req)
    local sign = { "openssl", "x509", "-req", "-in", csr, "-CA", certs.ca.crt, "-CAkey", certs.ca.key,
        "-set_serial", tostring(math.random(1, 1 << 40)), "-out", made.crt,
        "-extfile", bench.write(name .. ".ext", "subjectAltName=DNS:" .. name .. ".example,DNS:common.example\n") }
    table.move({ ... }, 1, select("#", ...), #sign + 1, sign)
    bench.must(sign)
    return made
end

local RSA = { "-newkey", "rsa:2048" }

describe("the report", function()
    teardown(bench.cleanup)

    it("has the versions, suites and groups that a client can get, each tried", function()
        local seen = offer [[ctx.groups = "X25519:P-384" ctx.ciphers = "ECDHE+AESGCM:AES128-SHA"]]
        assert.same({ "TLSv1.2", "TLSv1.3" }, seen.versions)
        assert.same({ "X25519", "P-384" }, seen.groups)
        assert.is_true(has(seen.cipher_suites, "TLS_AES_128_GCM_SHA256"))
        assert.is_true(has(seen.cipher_suites, "ECDHE-RSA-AES128-GCM-SHA256"))
        assert.is_true(has(seen.cipher_suites, "AES128-SHA"))
        assert.is_false(has(seen.cipher_suites, "ECDHE-ECDSA-AES128-GCM-SHA256")) -- no such certificate
    end)

    it("leaves out what the security level takes away", function()
        local seen = offer [[ctx.security_level = 3 ctx.ciphers = "ECDHE+AESGCM:AES128-SHA"
            ctx:load_certificate("$ec_crt", "$ec_key")]]
        assert.is_false(has(seen.cipher_suites, "AES128-SHA"))
        seen = offer [[ctx.min_version = openssl.SSL.TLS1_VERSION ctx.max_version = openssl.SSL.TLS1_2_VERSION]]
        assert.same({ "TLSv1.2" }, seen.versions)
        seen = offer [[ctx.min_version = openssl.SSL.TLS1_VERSION ctx.security_level = 0
            ctx.ciphers = "ALL:@SECLEVEL=0"]]
        assert.same({ "TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3" }, seen.versions)
    end)

    it("has ALPN, client verification and resumption", function()
        local seen = offer [[ctx.alpn_protocols = { "h2", "http/1.1" }]]
        assert.same({ "h2", "http/1.1" }, seen.alpn_protocols)
        assert.same({ false, "not asked for", true, true },
            { seen.alpn_select_cb, seen.client_certificates, seen.tickets, seen.sessions })
        seen = offer [[ctx.alpn_select_cb = function() end ctx.verify_mode = 3 ctx.ca_file = "$ca_crt"
            ctx.options = ctx.options | openssl.SSL.OP_NO_TICKET
            ctx.session_cache_mode = openssl.SSL.SSLContext.SESSION_CACHE_OFF]]
        assert.same({ true, "required", false, false },
            { seen.alpn_select_cb, seen.client_certificates, seen.tickets, seen.sessions })
        assert.is_true(has(seen.groups, "X25519")) -- a client without a certificate is told so much
    end)

    it("is for people, too", function()
        local result = checks.run([[local ctx = openssl.SSL.SSLContext.new()
            ctx:load_certificate("$rsa_crt", "$rsa_key") ctx.alpn_protocols = { "h2" }]] .. LISTEN)
        assert.equal(0, result.code, result.err)
        assert.matches("\nweb offers\n  versions +TLSv1.2, TLSv1.3\n  cipher suites +TLS_AES", result.out)
        assert.matches("\n  groups +X25519.*\n  ALPN +h2\n  client certificates not asked for\n" ..
            "  resumption +by ticket, by session\n", result.out)
        assert.matches("\n  certificate +RSA 2048, CN=localhost, until %d+%-%d%d%-%d%d %(%d+ days left%), " ..
            "from %S+rsa%.crt\n", result.out)
        assert.matches("\n    names +localhost, IP 127.0.0.1, IP ::1\n    chain as sent +none\n", result.out)
    end)

    it("has the chain as it is sent, and the file", function()
        local leaf = issue("chained", RSA)
        local both = bench.write("both.pem", bench.read(leaf.crt) .. bench.read(certs.ca.crt))
        local data = report(([[local ctx = openssl.SSL.SSLContext.new()
            ctx:load_certificate("%s", "%s")]]):format(both, leaf.key) .. LISTEN)
        local cert = data.listeners[1].certificates[1]
        assert.equal(both, cert.file)
        assert.same({ "CN=spec CA" }, cert.chain)
        assert.same({}, data.warnings)
    end)

    -- One listener per certificate.
    local function listeners(made)
        local parts = {}
        for i, one in ipairs(made) do
            parts[i] = ([[do
                local ctx = openssl.SSL.SSLContext.new()
                ctx.security_level = 0
                ctx:load_certificate("%s", "%s")
                moongate.listen { name = "l%d", address = "unix:/tmp/l%d", tls = ctx, backend = "a:1" }
            end ]]):format(one.crt, one.key, i, i)
        end
        return table.concat(parts)
    end

    local function warns(warnings, ...)
        for _, text in ipairs(warnings) do
            local all = true
            for _, part in ipairs { ... } do
                all = all and text:find(part, 1, true) ~= nil
            end
            if all then
                return true
            end
        end
        error("no warning with " .. table.concat({ ... }, " and ") .. " among\n" .. table.concat(warnings, "\n"), 2)
    end

    it("names the file of what is expired, weak, without a chain, or in conflict", function()
        local made = {
            issue("fine", RSA),
            issue("clash", RSA),
            issue("weak", { "-newkey", "rsa:1024" }),
            issue("sha1", RSA, "-sha1"),
            issue("soon", RSA, "-days", "5"),
            { crt = certs.expired.crt, key = certs.expired.key },
        }
        local warnings = report(listeners(made)).warnings
        warns(warnings, "weak.pem", "has a weak key (1024 bits)")
        warns(warnings, "sha1.pem", "has a weak signature (SHA1)")
        warns(warnings, "soon.pem", "expires in ")
        warns(warnings, certs.expired.crt, "has expired")
        warns(warnings, "fine.pem", "the chain is incomplete")
        warns(warnings, "clash.pem and ", "fine.pem", "common.example is also on another RSA certificate")
    end)

    it("proves many of a kind in two handshakes each, and tries what they offer once", function()
        local made = issue("many", { "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256" })
        local data = report(([[
            for i = 1, 40 do
                local ctx = openssl.SSL.SSLContext.new()
                ctx:load_certificate("%s", "%s")
                moongate.listen { name = "l" .. i, address = "unix:/tmp/l" .. i, tls = ctx, backend = "a:1" }
            end
        ]]):format(made.crt, made.key))
        assert.equal(6, #data.listeners[1].certificates[1].results) -- without a name, and with two, under two versions
        assert.equal(2, #data.listeners[40].certificates[1].results)
        assert.same(data.listeners[1].offer, data.listeners[40].offer)
        for _, one in ipairs(data.listeners[40].certificates[1].results) do
            assert.is_true(one.ok)
        end
    end)

    -- ---- by name ---------------------------------------------------------------------------------

    local NAMES = [[
        local function context(name, version)
            local ctx = openssl.SSL.SSLContext.new()
            ctx.name = name
            ctx:load_certificate("$rsa_crt", "$rsa_key")
            ctx.max_version = openssl.SSL[version]
            return ctx
        end
        local a, b = context("a", "TLS1_3_VERSION"), context("b", "TLS1_2_VERSION")
        moongate.listen { name = "web", address = "unix:/tmp/web", backend = "a:1", tls = moongate.servernames {
            b,
            ["a.example"] = a, ["*.sub.example"] = a, default = a,
            ["pass.example"] = moongate.PASSTHROUGH, ["no.example"] = false, none = false,
        } }
        moongate.listen { name = "asked", address = "unix:/tmp/asked", backend = "a:1", tls = function() return a end }
    ]]

    local function by_name(...)
        local result = checks.run(NAMES, { "--json", ... })
        assert.equal(0, result.code, result.err)
        local seen = {}
        for i, one in ipairs(result.json().listeners) do
            seen[i] = { one.name, one.context, one.outcome, one.servernames and table.concat(one.servernames, " ") }
        end
        return seen
    end

    it("has which names lead to which context, and which to none", function()
        assert.same({
            { "web", "a", "terminate", "*.sub.example a.example default" },
            { "web", "b", "terminate", "localhost" },
            { "web", "", "passthrough", "pass.example" },
            { "web", "", "refuse", "no.example none" },
            { "asked", "" },
        }, by_name())
        local entries = checks.run(NAMES, { "--json" }).json().listeners
        assert.same({ "TLSv1.2", "TLSv1.3" }, entries[1].offer.versions)
        assert.same({ "TLSv1.2" }, entries[2].offer.versions)
        assert.same({ "what is passed through" }, entries[3].not_proved)
        assert.same({}, entries[4].not_proved)
        local out = checks.run(NAMES).out
        assert.matches("\nweb +unix:/tmp/web +RSA 2048 +ok +ok +%d+ +%*%.sub%.example, a%.example, default\n", out)
        assert.matches("\nweb +unix:/tmp/web +passed through +pass%.example\n", out)
        assert.matches("\nweb +unix:/tmp/web +refused +no%.example, none\n", out)
        assert.matches("\nweb: localhost offers\n  versions +TLSv1.2\n", out)
    end)

    it("shows with --sni what that name leads to", function()
        local function only(name, ...)
            assert.same({ { "web", ... } }, by_name("--listener", "web", "--sni", name))
        end
        only("X.sub.example", "a", "terminate", "*.sub.example a.example default")
        only("localhost", "b", "terminate", "localhost")
        only("other.example", "a", "terminate", "*.sub.example a.example default")
        only("pass.example", "", "passthrough", "pass.example")
        only("no.example", "", "refuse", "no.example none")
        local nobody = checks.run([[ moongate.listen { name = "web", address = "unix:/tmp/web", backend = "a:1",
            tls = moongate.servernames {} } ]], { "--json", "--sni", "a.example" }).json().listeners
        assert.same({ "refuse", { "default" } }, { nobody[1].outcome, nobody[1].servernames })
        assert.equal(2, #by_name("--sni", "a.example")) -- the other listener is there, too
    end)

    it("names the files of a directory of certificates", function()
        local expired = certs.expired
        local dir = bench.path "directory"
        bench.must { "mkdir", "-p", dir }
        bench.write(dir .. "/old.pem", bench.read(expired.crt) .. bench.read(expired.key))
        local soon = issue("brief", RSA, "-days", "5")
        bench.write(dir .. "/soon.pem", bench.read(soon.crt) .. bench.read(soon.key))
        local data = report(([[
            local list = moongate.certificates "%s/*.pem"
            moongate.listen { name = "web", address = "unix:/tmp/web", backend = "a:1",
                tls = moongate.servernames(list) }
        ]]):format(dir))
        local files = {}
        for i, one in ipairs(data.listeners) do
            files[i] = one.certificates[1].file
        end
        assert.same({ dir .. "/old.pem", dir .. "/soon.pem" }, files)
        warns(data.warnings, "has expired", "(" .. dir .. "/old.pem)")
        warns(data.warnings, "expires in ", "(" .. dir .. "/soon.pem)")
    end)
end)
