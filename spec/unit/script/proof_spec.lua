-- The proof: handshakes in memory before anything is served, and what they say of contexts and certificates.

local bench = require "bench"
local certs = require "certs"
local checks = require "checks"

local PREPARE = [[
local function server(...)
    local ctx = openssl.SSL.SSLContext.new()
    for _, name in ipairs { ... } do
        ctx:add_certificate(openssl.X509.Certificate.load_file("DIR/" .. name .. ".crt")[1],
            openssl.PKey.load_file("DIR/" .. name .. ".key"), openssl.X509.Certificate.load_file("$ca_crt"))
    end
    return ctx
end
local function listen(ctx, name)
    moongate.listen { name = name or "web", address = "unix:/tmp/" .. (name or "web"), tls = ctx, backend = "a:1" }
end
]]
local LINES = select(2, PREPARE:gsub("\n", ""))

local function run(script, options)
    for _, name in ipairs { "rsa", "ec", "rsa2", "expired", "wrong", "small" } do
        local _ = certs[name]
    end
    return checks.run((PREPARE:gsub("DIR", bench.dir)) .. script, options)
end

local function passes(script, options)
    local result = run(script, options)
    assert.equal(0, result.code, result.err)
    return result
end

local function refused(message, script)
    local result = run(script)
    assert.equal(1, result.code, result.out)
    assert.equal(("moongate.lua:%d: %s"):format(LINES - 1, message), result.last)
    return result
end

-- The certificate of CA `issuer` for `subject`; more extensions than certs makes.
local function issue(name, issuer, days, extensions)
    local path = bench.path(name)
    local made = { crt = path .. ".crt", key = path .. ".key", csr = path .. ".csr" }
    bench.must { "openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
        made.key, "-out", made.csr, "-subj", "/CN=" .. name }
    local file = bench.write(name .. ".extensions", extensions)
    bench.must { "openssl", "x509", "-req", "-in", made.csr, "-CA", issuer.crt, "-CAkey", issuer.key,
        "-set_serial", tostring(math.random(1, 1 << 40)), "-out", made.crt, "-days", tostring(days), "-extfile", file }
    return made
end

describe("a proof", function()
    teardown(bench.cleanup)

    it("shakes hands with each certificate under each version", function()
        local result = passes([[local ctx = server("rsa", "ec") ctx.name = "both" listen(ctx)]])
        assert.matches("\nweb +unix:/tmp/web +RSA 2048 +ok +ok +%d+ +localhost, IP 127.0.0.1, IP ::1\n", result.out)
        assert.matches("\n +EC 256 +ok +ok +%d+ +localhost", result.out)
        assert.equal("", result.err)
    end)

    it("is data with --json", function()
        local data = passes([[local ctx = server("rsa", "ec") ctx.name = "both" listen(ctx)]], { "--json" }).json()
        assert.is_true(data.ok)
        assert.equal("moongate.lua", data.script)
        assert.same({}, data.warnings)
        local listener = data.listeners[1]
        assert.equal("web", listener.name)
        assert.equal("both", listener.context)
        assert.same({ "unix:/tmp/web" }, listener.addresses)
        assert.same({ "TLSv1.2", "TLSv1.3" }, listener.versions)
        assert.equal(2, #listener.certificates)
        local rsa = listener.certificates[1]
        assert.same({ "RSA", 2048, "CN=localhost" }, { rsa.type, rsa.bits, rsa.subject })
        assert.same({ "localhost", "127.0.0.1", "::1" }, rsa.names)
        assert.matches("^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%dZ$", rsa.not_after)
        assert.is_true(rsa.days_left == 89 or rsa.days_left == 90)
        assert.equal(64, #rsa.sha256)
        assert.equal(4, #rsa.results) -- two versions, without SNI and with localhost
        for _, one in ipairs(rsa.results) do
            assert.is_true(one.ok)
            assert.is_string(one.cipher)
        end
        assert.equal("localhost", rsa.results[2].servername)
    end)

    it("takes one more name with --sni and one listener with --listener", function()
        local script = [[listen(server "ec", "one") listen(server "ec", "two")]]
        local data = passes(script, { "--json", "--listener", "two", "--sni", "more.example" }).json()
        assert.equal(1, #data.listeners)
        assert.equal("two", data.listeners[1].name)
        assert.equal("more.example", data.listeners[1].certificates[1].results[3].servername)
        local result = run(script, { "--listener", "tow" })
        assert.equal(1, result.code)
        assert.equal('no listener "tow" (did you mean "two"?)', result.last)
    end)

    it("knows which versions are off", function()
        local result = passes([[local ctx = server("ec") ctx.min_version = openssl.SSL.TLS1_3_VERSION listen(ctx)]])
        assert.matches("EC 256 +off +ok", result.out)
        result = passes([[local ctx = server("ec") ctx.max_version = openssl.SSL.TLS1_2_VERSION listen(ctx)]])
        assert.matches("EC 256 +ok +off", result.out)
    end)

    it("refuses a context without a version", function()
        refused("listener web (context none): no protocol version is left between min_version, max_version and options",
            [[local ctx = server("ec") ctx.name = "none" ctx.min_version = openssl.SSL.TLS1_3_VERSION ]] ..
            [[ctx.max_version = openssl.SSL.TLS1_2_VERSION listen(ctx)]])
    end)

    it("refuses a context without a certificate", function()
        refused("listener web: no certificate (add_certificate or load_certificate gives it one)",
            [[listen(openssl.SSL.SSLContext.new())]])
    end)

    it("refuses a certificate that the security level refuses", function()
        refused("listener web: no client could use it: ee key too small",
            [[local ctx = server("rsa") ctx.security_level = 4 listen(ctx)]])
        local result = run([[listen(server("small"))]])
        assert.equal(1, result.code)
        assert.matches("^moongate.lua:%d+: .*ee key too small", result.last)
    end)

    it("refuses ciphers that no certificate can serve", function()
        refused("listener web: no client could use it: no shared cipher", [[local ctx = server("rsa") ]] ..
            [[ctx.max_version = openssl.SSL.TLS1_2_VERSION ctx.ciphers = "ECDHE-ECDSA-AES128-GCM-SHA256" listen(ctx)]])
    end)

    it("warns of what only some clients can use", function()
        local result = passes([[local ctx = server("rsa", "ec")
            ctx.ciphers = "ECDHE-ECDSA-AES128-GCM-SHA256" listen(ctx)]])
        assert.matches("RSA 2048 +FAILED +ok", result.out)
        assert.matches("warning: moongate.lua:%d+: listener web: RSA certificate CN=localhost: TLS 1.2: " ..
            "no shared cipher", result.out)
    end)

    it("does without client certificates and says so", function()
        local result = passes([[local ctx = server("ec") ctx.ca_file = "$ca_crt"
            ctx.verify_mode = openssl.SSL.VERIFY_PEER | openssl.SSL.VERIFY_FAIL_IF_NO_PEER_CERT listen(ctx)]])
        assert.matches("EC 256 +ok +ok", result.out)
        assert.matches("not proved: listener web: a client certificate of the CA", result.out)
        assert.is_nil(result.out:find("warning", 1, true))
    end)

    it("warns of asking for client certificates without a CA", function()
        local result = passes([[local ctx = server("ec") ctx.verify_mode = openssl.SSL.VERIFY_PEER listen(ctx)]])
        assert.matches("warning: .*verify_mode asks for client certificates, but there is no CA", result.out)
    end)

    it("does not run callbacks and says so", function()
        local result = passes([[local ctx = server("ec") ctx.alpn_select_cb = function() error "it was run" end
            ctx.ca_file = "$ca_crt" ctx.verify_mode = openssl.SSL.VERIFY_PEER
            ctx.verify_callback = function() error "it was run" end listen(ctx)]])
        assert.matches("EC 256 +ok +ok", result.out)
        assert.matches("not proved: listener web: the script's callbacks", result.out)
        assert.is_nil(result.err:find("it was run", 1, true))
    end)

    it("passes over callbacks that every handshake reaches", function()
        for _, name in ipairs { "keylog_cb", "renegotiation_cb", "session_new_cb", "session_remove_cb" } do
            local result = passes(([[local ctx = server("ec")
                ctx.session_cache_mode = openssl.SSL.SSLContext.SESSION_CACHE_BOTH
                ctx.%s = function() error "it was run" end listen(ctx)]]):format(name))
            assert.matches("EC 256 +ok +ok", result.out)
            assert.is_nil(result.err:find("it was run", 1, true))
        end
    end)

    it("warns of certificates that have ended, end soon or have not begun", function()
        issue("soon", certs.ca, 5, "subjectAltName=DNS:soon.example")
        local result = passes([[listen(server("expired"), "a") listen(server("soon"), "b")]])
        assert.matches("listener a: EC certificate CN=localhost has expired", result.out)
        assert.matches("listener b: EC certificate CN=soon expires in [45] days", result.out)
        result = passes([[
            local key = openssl.PKey.EC.generate("prime256v1")
            local name = "/CN=later"
            local cert = openssl.X509.Certificate.new()
            cert.version, cert.serial, cert.subject, cert.issuer = 2, "01", name, name
            cert.not_before, cert.not_after, cert.public_key = os.time() + 86400, os.time() + 90 * 86400, key
            cert:sign(key, "SHA256")
            local ctx = openssl.SSL.SSLContext.new()
            ctx:add_certificate(cert, key)
            listen(ctx)
        ]])
        assert.matches("listener web: EC certificate CN=later is not valid yet", result.out)
    end)

    it("warns of chains that are incomplete or out of order", function()
        local middle = issue("middle", certs.ca, 90, "basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign\n")
        issue("leaf", middle, 90, "subjectAltName=DNS:leaf.example")
        local script = [[
            local ctx = openssl.SSL.SSLContext.new()
            local function file(name) return openssl.X509.Certificate.load_file("DIR/" .. name .. ".crt")[1] end
            ctx:add_certificate(file "leaf", openssl.PKey.load_file "DIR/leaf.key", CHAIN)
            listen(ctx)
        ]]
        local function with(chain)
            return passes((script:gsub("DIR", bench.dir):gsub("CHAIN", chain))).out
        end
        assert.matches("EC certificate CN=leaf: the chain is incomplete: the issuer CN=middle is neither sent",
            with "nil")
        assert.matches("EC certificate CN=leaf: the chain is incomplete: the issuer CN=spec CA is neither sent",
            with "{ file 'middle' }")
        assert.matches("EC certificate CN=leaf: the chain is out of order: certificate 1 of it did not issue the one",
            with "{ file 'ca', file 'middle' }")
        assert.is_nil(with "{ file 'middle', file 'ca' }":find("warning", 1, true))
    end)

    it("warns of a name on two certificates of one kind", function()
        local result = passes([[listen(server("rsa", "ec"), "a")
            listen(server("rsa2"), "b") listen(server("ec"), "c")]])
        assert.matches("warning: moongate.lua:%d+: listener b: localhost is also on another RSA certificate, " ..
            "that of listener a", result.out)
        assert.is_nil(result.out:find("another EC", 1, true))
    end)

    it("warns of a backend that nobody verifies", function()
        local result = passes([[
            local none = openssl.SSL.SSLContext.new()
            none.verify_mode = openssl.SSL.VERIFY_NONE
            local any = openssl.SSL.SSLContext.new()
            any.verify_mode, any.verify_hostname, any.ca_file = openssl.SSL.VERIFY_PEER, false, "$ca_crt"
            moongate.backend { name = "none", address = "a:1", tls = none }
            moongate.backend { name = "any", address = "a:1", tls = any }
            moongate.backend { name = "default", address = "a:1", tls = true }
            listen(server "ec")
        ]])
        assert.matches("warning: moongate.lua:%d+: backend none: verify_mode is VERIFY_NONE", result.out)
        assert.matches("warning: moongate.lua:%d+: backend any: verify_hostname is false", result.out)
        assert.is_nil(result.out:find("backend default: verify", 1, true))
        assert.matches("not proved: backend default: the backend's certificate", result.out)
    end)

    it("refuses a backend's context that no server could meet", function()
        local result = run([[
            local ctx = openssl.SSL.SSLContext.new()
            ctx.min_version, ctx.max_version = openssl.SSL.TLS1_3_VERSION, openssl.SSL.TLS1_2_VERSION
            moongate.backend { name = "b", address = "a:1", tls = ctx }
            listen(server "ec")
        ]])
        assert.equal(1, result.code)
        assert.matches("^moongate.lua:%d+: backend b: no protocol version is left", result.last)
    end)

    it("shakes hands with each backend's context, as far as a server without a known certificate goes", function()
        local result = run([[
            local ctx = openssl.SSL.SSLContext.new()
            ctx.min_version, ctx.ciphersuites = openssl.SSL.TLS1_3_VERSION, ""
            moongate.backend { name = "b", address = "a:1", tls = ctx }
            listen(server "ec")
        ]])
        assert.equal(1, result.code)
        assert.matches("^moongate.lua:%d+: backend b: no server could be reached with it: no ciphers available",
            result.last)
        result = passes([[
            local ctx = openssl.SSL.SSLContext.new()
            ctx.ciphersuites, ctx.ca_file = "", "$ca_crt"
            moongate.backend { name = "older", address = "a:1", tls = ctx }
            local mutual = server "ec"
            mutual.ca_file, mutual.verify_mode = "$ca_crt", openssl.SSL.VERIFY_PEER
            moongate.backend { name = "mutual", address = "a:1", tls = mutual }
            local asked = openssl.SSL.SSLContext.new()
            asked.ca_file, asked.verify_mode = "$ca_crt", openssl.SSL.VERIFY_PEER
            asked.verify_callback = function() error "run" end
            moongate.backend { name = "asked", address = "a:1", tls = asked }
            listen(server "ec")
        ]])
        assert.matches("warning: moongate.lua:%d+: backend older: TLS 1.3: ", result.out)
        assert.is_nil(result.out:find("backend mutual: TLS", 1, true))
        assert.is_nil(result.out:find("backend asked: TLS", 1, true))
    end)

    it("wants a name for the certificate of a backend on a unix socket", function()
        local result = run([[
            moongate.backend { name = "b", address = "unix:/run/b.sock", tls = true }
            listen(server "ec")
        ]])
        assert.equal(1, result.code)
        assert.matches("^moongate.lua:%d+: backend: b: unix:/run/b.sock has no name to verify: servername is required$",
            result.last)
        passes([[
            moongate.backend { address = "unix:/run/b.sock", tls = true, servername = "b.example" }
            moongate.backend { address = "unix:/run/c.sock", tls = true, servername = function() return "c" end }
            local ctx = openssl.SSL.SSLContext.new()
            ctx.verify_mode, ctx.ca_file = openssl.SSL.VERIFY_PEER, "$ca_crt"
            moongate.backend { address = "unix:/run/d.sock", tls = ctx }
            listen(server "ec")
        ]])
    end)

    it("warns of a context that asks for certificates and has nothing to verify them with", function()
        local WARNING = "verify_mode asks for client certificates, but there is no CA"
        local function warns(settings)
            return passes([[
                local ctx = server "ec"
                ctx.verify_mode = openssl.SSL.VERIFY_PEER
                ]] .. settings .. " listen(ctx)").out:find(WARNING, 1, true) ~= nil
        end
        assert.is_true(warns "")
        assert.is_true(warns [[ctx.client_ca = openssl.X509.Certificate.load_file "$ca_crt"]])
        assert.is_true(warns "ctx.cert_store = openssl.X509.Store.new()")
        assert.is_false(warns [[ctx.ca_file = "$ca_crt"]])
        assert.is_false(warns [[ctx.cert_store = openssl.X509.Store.new():add_file "$ca_crt"]])
        assert.is_false(warns "ctx.verify_callback = function(ok) return ok end")
    end)

    it("warns of an OCSP response that nobody can go by", function()
        local good = bench.read((certs.respond "ec"))
        local function warnings(response)
            bench.write("tried.ocsp", response)
            return passes([[
                local ctx = openssl.SSL.SSLContext.new()
                local cert, key = openssl.X509.Certificate.load_file("$ec_crt")[1], openssl.PKey.load_file "$ec_key"
                ctx:add_certificate(cert, key, openssl.X509.Certificate.load_file "$ca_crt")
                ctx:load_ocsp "]] .. bench.path "tried.ocsp" .. [["
                listen(ctx)
            ]]).out
        end
        assert.not_matches("OCSP", warnings(good), 1, true)
        local PREFIX = "listener web: the OCSP response for CN=localhost "
        local function as_of(year) return (good:gsub("20%d%d(%d%d%d%d%d%d%d%d%d%dZ)", year .. "%1")) end
        assert.matches(PREFIX .. "has ended, and is not sent", warnings(as_of "2001"), 1, true)
        assert.matches(PREFIX .. "is not valid yet", warnings(as_of "2099"), 1, true)
        assert.matches(PREFIX .. "says that it is revoked", warnings(bench.read((certs.respond("ec", "R")))), 1, true)
        local changed = good:gsub("(20%d%d%d%d%d%d%d%d%d%d%d)(%d)Z", function(time, digit)
            return time .. (digit + 1) % 10 .. "Z"
        end, 1)
        assert.matches(PREFIX .. "is not signed by its CA", warnings(changed), 1, true)
    end)

    it("warns of CRLs for which all of a CA are refused, and of those that refuse nobody", function()
        local function warnings(text, verify)
            bench.write("tried.crl", text)
            return passes([[
                local ctx = server "ec"
                ctx.ca_file = "$ca_crt"
                ctx.verify_mode = ]] .. (verify or 1) .. [[

                ctx:load_crl "]] .. bench.path "tried.crl" .. [["
                listen(ctx)
            ]]).out
        end
        assert.not_matches("CRL", warnings(certs.crl {}), 1, true)
        assert.not_matches("CRL", warnings(certs.crl { issuer = "other_ca" }), 1, true)
        local ENDED = "listener web: the CRL of CN=spec CA has ended: certificates of that CA are refused"
        assert.matches(ENDED, warnings(certs.crl { ended = true }), 1, true)
        assert.not_matches("has ended", warnings(certs.crl { ended = true } .. certs.crl {}), 1, true)
        assert.matches("there are CRLs, but verify_mode is VERIFY_NONE", warnings(certs.crl {}, 0), 1, true)
        local forged = bench.run { "openssl", "crl", "-outform", "DER", input = certs.crl {} }.out
        assert.matches("the CRL of CN=spec CA is not signed by the CA of that name",
            warnings(forged:sub(1, -2) .. string.char(forged:byte(-1) ~ 1)), 1, true)
    end)

    it("offers ALPN and client certificates", function()
        local result = passes([[
            local ctx = server "ec"
            ctx.alpn_protocols, ctx.ca_file, ctx.verify_mode = { "h2" }, "$ca_crt", openssl.SSL.VERIFY_PEER
            listen(ctx)
        ]])
        assert.equal("", result.err)
        assert.matches("not proved: listener web: a client certificate of the CA", result.out)
        result = passes([[
            local ctx = server "ec"
            ctx.ca_file, ctx.verify_mode, ctx.client_sigalgs = "$ca_crt",
                openssl.SSL.VERIFY_PEER | openssl.SSL.VERIFY_FAIL_IF_NO_PEER_CERT, "RSA-PSS+SHA256"
            listen(ctx)
        ]])
        assert.equal("", result.err)
        result = passes([[
            local ctx = server "ec"
            ctx.ca_file, ctx.verify_mode = "$ca_crt", openssl.SSL.VERIFY_PEER
            ctx.verify_callback = function() error "run" end
            listen(ctx)
        ]])
        assert.equal("", result.err)
    end)

    it("is data with --json also where the script itself fails", function()
        local result = run("moongate.listen { adress = 'x' }", { "--json" })
        assert.equal(1, result.code)
        local data = result.json()
        assert.is_false(data.ok)
        assert.equal("moongate.lua", data.script)
        assert.equal(result.last, data.error)
        assert.same({ data.error }, data.errors)
    end)

    it("leaves names of a wildcard certificate to their simplest member", function()
        issue("wild", certs.ca, 90, "subjectAltName=DNS:*.wild.example,DNS:wild.example")
        local data = passes([[listen(server "wild")]], { "--json" }).json()
        local results = data.listeners[1].certificates[1].results
        assert.equal("www.wild.example", results[2].servername)
        assert.equal("wild.example", results[3].servername)
    end)
end)
