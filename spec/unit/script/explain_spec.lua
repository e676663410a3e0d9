-- moongate explain: what a client would get, and which line of the script decided it.

local bench = require "bench"
local checks = require "checks"
local cjson = require "cjson"

local SCRIPT = [[

local function h2_only(protocols)
    for _, name in ipairs(protocols) do
        if name == "h2" then return name end
    end
end
-- The line numbers below are counted from here: 7.
local ctx = openssl.SSL.SSLContext.new()
ctx.name = "api"
ctx:load_certificate("$rsa_crt", "$rsa_key")
ctx:load_certificate("$ec_crt", "$ec_key")
ctx.min_version = openssl.SSL.TLS1_2_VERSION
ctx.groups = "X25519"
ctx.ciphers = "ECDHE+AESGCM"
ctx.alpn_select_cb = h2_only
local other = openssl.SSL.SSLContext.new()
other:add_certificate(openssl.X509.Certificate.load_file("$rsa_crt")[1], openssl.PKey.load_file("$rsa_key"))
ctx.servername_cb = function(_, name)
    if name == "other.example" then return other end
end
moongate.listen { name = "web", address = "unix:/tmp/web", tls = ctx, backend = function(conn)
    assert(conn.listener == "web" and conn.remote_ip and conn.cipher)
    if conn.alpn_protocol == "h2" then return "127.0.0.1:8082" end
    if conn.servername == "none.example" then return nil, "nobody there" end
    if conn.servername == "endless.example" then while true do end end
    return "127.0.0.1:1"
end }
local strict = openssl.SSL.SSLContext.new()
strict:load_certificate("$ec_crt", "$ec_key")
strict:set_params { verify_mode = 3, ca_file = "$ca_crt" }
moongate.listen { name = "strict", address = "unix:/tmp/strict", tls = strict, backend = "127.0.0.1:81" }
moongate.listen { name = "plain", address = "unix:/tmp/plain", backend = "127.0.0.1:82" }
]]

describe("explain", function()
    local dir

    setup(function()
        dir = checks.directory(SCRIPT)
    end)
    teardown(bench.cleanup)

    local function run(...)
        return bench.run { cwd = dir, bench.moongate, "explain", "moongate.lua", ... }
    end

    local function data(...)
        local result = run("--json", ...)
        assert.equal(0, result.code, result.err)
        return cjson.decode(result.out)
    end

    local function line(number)
        return "moongate.lua:" .. number
    end

    local function set(what, number)
        return { { what = what, line = line(number) } }
    end

    it("says what a client gets, and where each of it comes from", function()
        local seen = data("--listener", "web", "--client", "ecdsa_only", "--alpn", "http/1.1,h2")
        assert.is_true(seen.ok)
        assert.same({ name = "web", line = line(21) }, seen.listener)
        assert.same({ name = "api", line = line(8) }, seen.context)
        assert.same({ "EC", "CN=localhost" }, { seen.certificate.type, seen.certificate.subject })
        assert.matches("ec%.crt$", seen.certificate.file)
        assert.same(set("load_certificate", 11), seen.certificate.set)
        assert.same({ value = "TLSv1.3", set = set("min_version", 12) }, seen.version)
        assert.same({ value = "x25519", set = set("groups", 13) }, seen.group)
        assert.same({ value = "h2", set = set("alpn_select_cb", 2) }, seen.alpn)
        assert.same({ value = "not asked for", set = {} }, seen.client_certificates)
        assert.equal("ecdsa_secp256r1_sha256", seen.signature.value)
        assert.same({ name = "127.0.0.1:8082", line = line(21) }, seen.backend)
    end)

    it("is for people without --json", function()
        local result = run("--listener", "web", "--client", "tls12", "--alpn", "h2")
        assert.equal(0, result.code, result.err)
        assert.matches("^client tls12, without a server name, at listener web\n", result.out)
        assert.matches("\n  cipher suite +ECDHE%-[%w-]+  %(ciphers: moongate.lua:14%)\n", result.out)
        assert.matches("\n  signature +%S+  %(by default%)\n", result.out)
        assert.matches("\n  backend +127.0.0.1:8082  %(the function at moongate.lua:21%)\n$", result.out)
    end)

    it("takes RSA where that is all that a client can", function()
        local seen = data("--listener", "web", "--client", "rsa_only", "--alpn", "h2")
        assert.equal("RSA", seen.certificate.type)
        assert.same(set("load_certificate", 10), seen.certificate.set)
    end)

    it("follows the name to another context", function()
        local seen = data("--listener", "web", "--sni", "other.example", "--client", "rsa_only")
        assert.equal(line(16), seen.context.line)
        assert.same(set("servername_cb", 18), seen.context.chosen_by)
        assert.same(set("add_certificate", 17), seen.certificate.set)
        assert.same({ name = "127.0.0.1:1", line = line(21) }, seen.backend)
    end)

    it("names alert, reason and line of what is refused", function()
        local function refused(alert, reason, from, ...)
            local seen = data(...)
            assert.is_false(seen.ok)
            assert.is_nil(seen.backend)
            assert.equal(alert, seen.alert.name)
            assert.matches(reason, seen.alert.reason, 1, true)
            assert.same(from, seen.alert.set)
        end
        refused("protocol_version", "unsupported protocol", set("min_version", 12), "--listener", "web",
            "--client", "tls11")
        refused("no_application_protocol", "no application protocol", set("alpn_select_cb", 2), "--listener", "web",
            "--alpn", "http/1.1")
        refused("certificate_required", "peer did not return a certificate",
            { { what = "verify_mode", line = line(30) }, { what = "ca_file", line = line(30) },
                { what = "set_params", line = line(30) } }, "--listener", "strict", "--client", "tls13")
    end)

    it("tells what a backend function does, whatever it does", function()
        local function backend(name)
            return data("--listener", "web", "--sni", name, "--client", "tls12").backend
        end
        assert.same({ refused = "nobody there", line = line(21) }, backend "none.example")
        local endless = backend "endless.example"
        assert.matches("it runs too long", endless.error, 1, true)
    end)

    it("has an answer for a plain listener", function()
        local seen = data("--listener", "plain")
        assert.is_false(seen.tls)
        assert.same({ name = "127.0.0.1:82", fixed = true, line = line(32) }, seen.backend)
        assert.matches("TLS +none", run("--listener", "plain").out)
    end)

    it("refuses what it cannot explain", function()
        local result = run("--listener", "wep")
        assert.same({ 1, "" }, { result.code, result.out })
        assert.matches('^no listener "wep" %(there are "plain", "strict", "web"%)\n$', result.err)
        local broken = bench.run { cwd = dir, bench.moongate, "explain", "missing.lua", "--listener", "web" }
        assert.same({ 1, "missing.lua: No such file or directory\n" }, { broken.code, broken.err })
        for _, arguments in ipairs { {}, { "--listener" }, { "--listener", "web", "--client", "firefox" },
            { "--listener", "web", "--alpn", ("x"):rep(300) }, { "more", "--listener", "web" } } do
            local usage = run(table.unpack(arguments))
            assert.equal(2, usage.code, usage.err)
            assert.matches("moongate help explain", usage.err, 1, true)
        end
    end)

    -- ---- where the context is chosen before the handshake ----------------------------------------

    describe("by name", function()
        local NAMES = [[

local function context(name)
    local ctx = openssl.SSL.SSLContext.new()
    ctx.name = name
    ctx:load_certificate("$rsa_crt", "$rsa_key")
    return ctx
end
local a, b = context "a", context "b"
b.max_version = openssl.SSL.TLS1_2_VERSION
b.servername_cb = function(_, name) if name == "deep.b.example" then return a end end
local function backend(conn)
    if conn.servername == "pass.example" then return "127.0.0.1:81" end
    return not conn.ssl_version and "127.0.0.1:82" or "127.0.0.1:83"
end
moongate.listen { name = "named", address = "unix:/tmp/named", backend = backend, tls = moongate.servernames {
    a,
    ["a.example"] = a, ["*.b.example"] = b, ["no.example"] = false,
    ["*.example"] = moongate.PASSTHROUGH,
} }
moongate.listen { name = "asked", address = "unix:/tmp/asked", backend = backend, tls = function(hello)
    local name = hello.servername
    assert(hello.remote_ip == "192.0.2.1" and hello.local_port == 443 and #hello.ja4 == 36 and #hello.versions > 0)
    if name == "raise.example" then error "nobody of that name" end
    if name == "odd.example" then return 42 end
    if name == "endless.example" then while true do end end
    if name == "denied.example" then return nil, "go away", 49 end
    if name == "empty.example" then local c = context "broken" c.ca_file = "/nowhere" return c end
    if name == "pass.example" then return moongate.PASSTHROUGH end
    if hello.alpn_protocols[1] == "h2" then return a end
    if name == "b.example" then return b end
end }
]]
        setup(function()
            dir = checks.directory(NAMES)
        end)

        local function chosen(...)
            local seen = data(...)
            assert.is_true(seen.ok)
            return { seen.context.name, seen.context.line, seen.context.chosen_by, seen.version.value }
        end

        local function named(name, ...)
            return chosen("--listener", "named", "--sni", name, ...)
        end

        it("takes the context of the name, as the engine does", function()
            assert.same({ "a", line(3), set('servernames["a.example"]', 15), "TLSv1.3" }, named "A.example")
            assert.same({ "a", line(3), set('servernames["localhost"]', 15), "TLSv1.3" }, named "localhost")
            assert.same({ "b", line(3), set('servernames["*.b.example"]', 15), "TLSv1.2" }, named "x.b.example")
            assert.same({ "a", line(3), { set('servernames["*.b.example"]', 15)[1], set("servername_cb", 10)[1] },
                "TLSv1.3" }, named "deep.b.example")
            local seen = data("--listener", "named", "--sni", "x.b.example", "--client", "tls13")
            assert.same({ false, "protocol_version", set("max_version", 9) },
                { seen.ok, seen.alert.name, seen.alert.set })
        end)

        it("answers with what is refused, and with what is passed through", function()
            local seen = data("--listener", "named", "--sni", "no.example")
            assert.same({ name = "unrecognized_name", reason = "nothing is served under this name", side = "server",
                set = set('servernames["no.example"]', 15) }, seen.alert)
            assert.is_nil(seen.backend)
            seen = data("--listener", "named")
            assert.same({ "nothing is served without a name", set('servernames["none"]', 15) },
                { seen.alert.reason, seen.alert.set })
            seen = data("--listener", "named", "--sni", "10.0.0.1") -- clients do not ask for addresses
            assert.equal("nothing is served without a name", seen.alert.reason)
            seen = data("--listener", "named", "--sni", "pass.example")
            assert.same({ true, set('servernames["*.example"]', 15), "127.0.0.1:81" },
                { seen.ok, seen.passthrough.set, seen.backend.name })
            assert.equal("127.0.0.1:82", data("--listener", "named", "--sni", "c.example").backend.name)
            local out = run("--listener", "named", "--sni", "pass.example").out
            assert.matches('\n  TLS +passed through to 127.0.0.1:81  %(servernames%["%*%.example"%]: ' ..
                'moongate.lua:15%)\n', out)
            assert.matches('\n  refused +nothing is served under this name  %(servernames%["no%.example"%]: ' ..
                'moongate.lua:15%)\n  alert +unrecognized_name', run("--listener", "named", "--sni", "no.example").out)
        end)

        it("calls a tls function with the client's Hello", function()
            local function asked(name)
                return data("--listener", "asked", "--sni", name, "--client", "tls13")
            end
            assert.same({ "a", line(3), set("tls", 20), "TLSv1.3" },
                chosen("--listener", "asked", "--client", "browser"))
            assert.same({ "b", line(3), set("tls", 20), "TLSv1.2" },
                chosen("--listener", "asked", "--sni", "b.example", "--client", "tls12"))
            assert.equal("127.0.0.1:81", asked("pass.example").backend.name)
            local function refused(name, alert, reason)
                local seen = asked(name)
                assert.same({ false, alert, set("tls", 20) }, { seen.ok, seen.alert.name, seen.alert.set })
                assert.matches(reason, seen.alert.reason, 1, true)
                assert.is_nil(seen.backend)
            end
            refused("other.example", "unrecognized_name", "the tls function returned nil")
            refused("denied.example", "access_denied", "go away")
            refused("raise.example", "internal_error", "nobody of that name")
            refused("odd.example", "internal_error", "the function returned a number")
            refused("endless.example", "internal_error", "tls function ran longer than settings.callback_budget")
            refused("empty.example", "internal_error", "/nowhere")
        end)
    end)
end)
