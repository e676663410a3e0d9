-- moongate.servernames and moongate.certificates: which policy a name gets, and what is told of a directory.

package.path = "lua/?.lua;" .. package.path
local bench = require "bench"
local openssl = require "moongate.openssl"
local testing = require "moongate.testing"

local ca = testing.ca()
teardown(bench.cleanup)

local made = {}

-- A certificate as PEM, the same one for the same arguments.
local function pem(names, key, number)
    local id = names .. (key or "EC") .. (number or "")
    if not made[id] then
        local list = {}
        for name in names:gmatch("%S+") do
            list[#list + 1] = name
        end
        made[id] = testing.certificate { ca = ca, names = list, key = key or "EC" }
    end
    return made[id]
end

local function both(names, key, number)
    local certificate = pem(names, key, number)
    return certificate.pem .. certificate.key_pem
end

-- The policy that `text` makes, where "tls" is what it says of the listener's tls.
local function load(text, files)
    files = files or {}
    files["moongate.lua"] = [[
local moongate = require "moongate"
local openssl = require "moongate.openssl"
local function context(file)
    local ctx = openssl.SSL.SSLContext.new()
    ctx:load_certificate(file)
    ctx.name = file
    return ctx
end
local _ = context
local names
]] .. text .. "\n" .. [[
moongate.listen { name = "web", address = "127.0.0.1:1", backend = BACKEND or "127.0.0.1:2", tls = names }]]
    return testing.load("moongate.lua", { files = files })
end

-- The label of what a name gets, and what matched.
local function found(policy, name)
    local target, pattern = policy.listeners.web.tls:find(name)
    local label = target and (tostring(target):match("PASSTHROUGH") or target.name) or "nothing"
    return label .. " by " .. pattern
end

local function fails(message, text, files)
    local ok, fault = pcall(load, text, files)
    assert.is_false(ok)
    assert.matches(message, tostring(fault), 1, true)
end

local function warned(policy, text)
    for _, warning in ipairs(policy.warnings) do
        if warning:find(text, 1, true) then
            return true
        end
    end
    error(("no warning %q in\n%s"):format(text, table.concat(policy.warnings, "\n")), 2)
end

local ABC = { ["a.pem"] = both("a.example www.a.example"), ["b.pem"] = both("*.b.example b.example"),
    ["c.pem"] = both("c.example") }

local function with(more)
    local files = {}
    for name, text in pairs(ABC) do
        files[name] = text
    end
    for name, text in pairs(more or {}) do
        files[name] = text
    end
    return files
end

describe("servernames", function()
    describe("with names, wildcards, none and default", function()
        local policy

        setup(function()
            policy = load([[
names = moongate.servernames {
    ["API.example.com"] = context "a.pem", ["*.example.com"] = context "b.pem",
        ["*.deep.example.com"] = moongate.PASSTHROUGH,
    ["dot.example.org."] = context "a.pem", ["xn--bcher-kva.example"] = context "c.pem", ["closed.example.com"] = false,
    none = context "c.pem", default = context "b.pem" }]], with())
        end)

        for name, expected in pairs {
            ["api.example.com"] = "a.pem by api.example.com",
            ["aPi.ExAmPlE.com"] = "a.pem by api.example.com",
            ["api.example.com."] = "a.pem by api.example.com",
            ["www.example.com"] = "b.pem by *.example.com",
            ["WWW.example.com."] = "b.pem by *.example.com",
            ["x.www.example.com"] = "b.pem by default",
            ["x.deep.example.com"] = "PASSTHROUGH by *.deep.example.com",
            ["deep.example.com"] = "b.pem by *.example.com",
            ["example.com"] = "b.pem by default",
            [".example.com"] = "b.pem by default",
            ["*.example.com"] = "b.pem by default",
            ["."] = "b.pem by default",
            [""] = "b.pem by default",
            ["com"] = "b.pem by default",
            ["dot.example.org"] = "a.pem by dot.example.org",
            ["xn--bcher-kva.example"] = "c.pem by xn--bcher-kva.example",
            ["closed.example.com"] = "nothing by closed.example.com",
            ["none"] = "b.pem by default",
            ["default"] = "b.pem by default",
            [("x"):rep(300)] = "b.pem by default",
            ["api.example.com\0.evil"] = "b.pem by default",
        } do
            it("answers " .. ("%q"):format(name:sub(1, 40)), function() assert.equal(expected, found(policy, name)) end)
        end

        it("answers clients without a name", function() assert.equal("c.pem by none", found(policy, nil)) end)
        it("is frozen with the listener", function() assert.is_true(policy.listeners.web.tls.frozen) end)
    end)

    it("refuses what is not there", function()
        local policy = load('names = moongate.servernames { ["a.example"] = context "a.pem" }', with())
        assert.equal("nothing by none", found(policy, nil))
        assert.equal("nothing by default", found(policy, "b.example"))
    end)

    it("takes the names of certificates, also of ones that come later", function()
        local policy = load([[
local late = openssl.SSL.SSLContext.new()
names = moongate.servernames { context "b.pem", late, ["www.a.example"] = context "c.pem", default = false }
late:load_certificate "a.pem"
late.name = "late"]], with())
        assert.equal("late by a.example", found(policy, "a.example"))
        assert.equal("c.pem by www.a.example", found(policy, "www.a.example"))
        assert.equal("b.pem by *.b.example", found(policy, "x.b.example"))
        assert.equal("b.pem by b.example", found(policy, "b.example"))
    end)

    it("gives a name of two certificates to the first, with a warning", function()
        local policy = load([[
names = moongate.servernames { context "first.pem", context "second.pem", context "rsa.pem" }]], {
            ["first.pem"] = both("a.example x.example"), ["second.pem"] = both("a.example y.example"),
            ["rsa.pem"] = both("a.example", "RSA") })
        assert.equal("first.pem by a.example", found(policy, "a.example"))
        assert.equal("second.pem by y.example", found(policy, "y.example"))
        warned(policy, "listen: web: tls: a.example is a name of two contexts: first.pem gets it, as the first; the EC "
            .. "certificate of second.pem is not served under it")
        warned(policy, "the RSA certificate of rsa.pem is not served under it")
    end)

    it("is a world of its own: only what is in one list clashes", function()
        local files = { ["one/a.pem"] = both("a.example"), ["two/a.pem"] = both("a.example", "EC", 2),
            ["two/b.pem"] = both("b.example") }
        local policy = load([[
local one, two = moongate.certificates "one/*.pem", moongate.certificates "two/*.pem"
names = moongate.servernames(one)
moongate.listen { name = "other", address = "127.0.0.1:3", backend = "127.0.0.1:2", tls = moongate.servernames(two) }]],
            files)
        for _, warning in ipairs(policy.warnings) do
            assert.matches("the chain is incomplete", warning, 1, true)
        end
        policy = load([[
local list = moongate.certificates "one/*.pem"
for _, ctx in ipairs(moongate.certificates "two/*.pem") do list[#list + 1] = ctx end
names = moongate.servernames(list)]], files)
        warned(policy, "a.example is a name of two contexts: one/a.pem gets it, as the first; the EC certificate of "
            .. "two/a.pem is not served under it")
        assert.equal("one/a.pem by a.example", found(policy, "a.example"))
        assert.equal("two/b.pem by b.example", found(policy, "b.example"))
    end)

    for _, case in ipairs {
        { "moongate.servernames()", "servernames: expected a table, got no value" },
        { "moongate.servernames { 5 }", "servernames: entry 1: expected an SSLContext, got number" },
        { "moongate.servernames { moongate.PASSTHROUGH }",
            "servernames: entry 1: expected an SSLContext, got userdata" },
        { 'moongate.servernames { ["a.example"] = 5 }', 'servernames: ["a.example"]: expected an SSLContext, '
            .. "moongate.PASSTHROUGH or false, got number" },
        { 'moongate.servernames { default = true }', 'servernames: ["default"]: expected an SSLContext' },
        { 'moongate.servernames { ["a.*.example"] = false }', "a wildcard is a whole first label" },
        { 'moongate.servernames { ["*"] = false }', "a wildcard is a whole first label" },
        { 'moongate.servernames { ["w*.example"] = false }', "a wildcard is a whole first label" },
        { 'moongate.servernames { ["a..example"] = false }', "it has an empty label" },
        { 'moongate.servernames { [".example"] = false }', "it has an empty label" },
        { 'moongate.servernames { [""] = false }', "it is empty" },
        { 'moongate.servernames { ["a b"] = false }', "it has a character that is in no host name" },
        { 'moongate.servernames { ["https://a.example/"] = false }', "it has a character that is in no host name" },
        { 'moongate.servernames { ["bücher.example"] = false }',
            'international names in their ASCII form ("xn--...")' },
        { 'moongate.servernames { [("x"):rep(64) .. ".example"] = false }', "longer than 63 characters" },
        { 'moongate.servernames { [true] = false }',
            "a key is a name (a string), or an entry has none; got a boolean" },
        { 'moongate.servernames { [3] = context "a.pem" }', "got a number" },
        { 'moongate.servernames { ["A.example"] = false, ["a.example."] = false }',
            'listen: web: tls["a.example."]: the name is given twice, in another spelling' },
        { "moongate.servernames { openssl.SSL.SSLContext.new() }",
            "listen: web: tls[1]: no certificate of the context of moongate.lua:11 has a name" },
        { 'local c = context "a.pem" c.cert = openssl.X509.Certificate.load_file("a.pem")[1] '
            .. 'names = moongate.servernames { ["x.example"] = c }',
            'listen: web: tls["x.example"] (context a.pem): ' },
        { 'local n = moongate.servernames { ["a.example"] = false } n:find()',
            "ServerNames:find: names are known when" },
        { 'local n = moongate.servernames { ["a.example"] = false } n.x = 1', "ServerNames.x: no such field" },
        { 'BACKEND = moongate.backend { address = "localhost:1", tls = true } '
            .. 'names = moongate.servernames { ["a.example"] = moongate.PASSTHROUGH }',
            "listen: web: backend: it has tls, but what moongate.PASSTHROUGH passes on is encrypted already" },
    } do
        it("refuses " .. case[1], function()
            local text = case[1]:match("^moongate") and "names = " .. case[1] or case[1]
            fails(case[2], text, with())
        end)
    end

    it("can be tested by name", function()
        local policy = load([[
names = moongate.servernames { context "a.pem", context "b.pem", ["p.example"] = moongate.PASSTHROUGH }]],
            with())
        local hs = testing.handshake(policy.listeners.web.tls, nil, { servername = "x.b.example" })
        assert.equal(pem("*.b.example b.example").cert:to_der(), hs.client.peer_cert:to_der())
        hs = testing.handshake(policy.listeners.web.tls, nil, { servername = "c.example" })
        assert.same({ false, "unrecognized_name", "nothing is served under this name" },
            { hs.ok, hs.alert, hs.server_error })
        assert.is_true(testing.handshake(policy.listeners.web.tls, nil, { servername = "p.example" }).passthrough)
    end)

    it("proves each context, and names it", function()
        local policy = load([[names = moongate.servernames { context "a.pem", context "b.pem" }]], with())
        warned(policy, "listener web (context a.pem): EC certificate")
        warned(policy, "listener web (context b.pem): EC certificate")
    end)
end)

describe("certificates", function()
    local small = testing.certificate { ca = ca, names = { "a.example" }, key = openssl.PKey.RSA.generate(1024) }
    local weak = small.pem .. small.key_pem
    local function directory(pattern, files)
        return load(("names = moongate.servernames(moongate.certificates(%q))"):format(pattern), files)
    end

    local function refused(message, pattern, files)
        fails("moongate.lua:11: certificates: " .. message,
            ("names = moongate.servernames(moongate.certificates(%q))"):format(pattern), files)
    end

    it("reads files with certificate and key, and pairs of files", function()
        local c = pem("c.example")
        local policy = directory("certs/*", { ["certs/a.pem"] = both("a.example"),
            ["certs/b.crt"] = pem("b.example").pem,
            ["certs/b.key"] = pem("b.example").key_pem, ["certs/c.pem"] = c.pem, ["certs/c.pem.key"] = c.key_pem,
            ["certs/sub/d.pem"] = "nothing", ["certs/.hidden"] = "nothing" })
        assert.equal("certs/a.pem by a.example", found(policy, "a.example"))
        assert.equal("certs/b.crt by b.example", found(policy, "b.example"))
        assert.equal("certs/c.pem by c.example", found(policy, "c.example"))
    end)

    it("reads certbot's directories", function()
        local a, b = pem("a.example"), pem("b.example")
        local files = { ["live/README"] = "This directory contains your keys and certificates.\n",
            ["live/a.example/fullchain.pem"] = a.pem .. ca.pem, ["live/a.example/cert.pem"] = a.pem,
            ["live/a.example/chain.pem"] = ca.pem, ["live/a.example/privkey.pem"] = a.key_pem,
            ["live/b.example/fullchain.pem"] = b.pem .. ca.pem, ["live/b.example/privkey.pem"] = b.key_pem }
        for _, pattern in ipairs { "live/*/fullchain.pem", "live/*/*.pem", "./live/[ab].*/fullchain.p?m" } do
            local policy = directory(pattern, files)
            assert.matches("live/a.example/fullchain.pem by a.example$", found(policy, "a.example"))
            assert.matches("live/b.example/fullchain.pem by b.example$", found(policy, "b.example"))
            assert.same({}, policy.warnings)
        end
    end)

    it("puts certificates of each kind for the same names into one context", function()
        local policy = directory("*.pem", { ["ec.pem"] = both("a.example b.example"),
            ["rsa.pem"] = both("B.example a.example", "RSA"), ["ed.pem"] = both("a.example b.example", "ED25519") })
        assert.equal("ec.pem, ed.pem, rsa.pem by a.example", found(policy, "a.example"))
        local ctx = policy.listeners.web.tls:find("a.example")
        for client, kind in pairs { rsa_only = "RSA", ecdsa_only = "EC", ed25519_only = "ED25519" } do
            local hs = testing.handshake(ctx, testing.clients[client])
            assert.is_true(hs.ok, hs.server_error)
            assert.equal(kind, hs.client.peer_cert.public_key.type or kind)
        end
    end)

    it("serves the first of one kind for the same names, with a warning", function()
        local policy = directory("*.pem", { ["a.pem"] = both("a.example"), ["b.pem"] = both("a.example", "EC", 2),
            ["c.pem"] = both("a.example") })
        warned(policy,
            "certificates: b.pem: another EC certificate for the names of a.pem, which is the one that is served")
        for _, warning in ipairs(policy.warnings) do
            assert.is_nil(warning:find("c.pem", 1, true), warning) -- the same one once more
        end
        local hs = testing.handshake((policy.listeners.web.tls:find("a.example")))
        assert.equal(pem("a.example").cert:to_der(), hs.client.peer_cert:to_der())
    end)

    it("calls configure with each context and its names", function()
        local policy = load([[
local count = 0
names = moongate.servernames(moongate.certificates("*.pem", function(ctx, list)
    count = count + #list
    ctx.name = ctx.name .. "!" .. count
    ctx.alpn_protocols = { "h2" }
end))]], with())
        assert.equal("a.pem!2 by a.example", found(policy, "a.example"))
        assert.equal("b.pem!4 by b.example", found(policy, "b.example"))
    end)

    it("names the file of a certificate that ends soon", function()
        local soon = testing.certificate { ca = ca, names = { "b.example" }, key = "EC", days = 5 }
        local policy = directory("certs/*", { ["certs/a.pem"] = both("a.example"),
            ["certs/soon.pem"] = soon.pem .. soon.key_pem })
        warned(policy, "listener web (context certs/soon.pem): EC certificate CN=b.example expires in")
    end)

    it("proves each chain, also after many contexts of its kind", function()
        local strong, weaker = testing.ca { key = "EC" }, testing.ca { key = "RSA" }
        local function chained(name, issuer)
            return testing.certificate { ca = issuer, names = { name }, key = "EC" }
        end
        local files = {}
        for i = 10, 29 do
            local certificate = chained(("host%d.example"):format(i), strong)
            files[("certs/%d.pem"):format(i)] = certificate.pem .. strong.pem .. certificate.key_pem
        end
        local script = 'names = moongate.servernames(moongate.certificates("certs/*", '
            .. "function(ctx) ctx.security_level = 3 end))"
        local policy = load(script, files)
        assert.equal("certs/29.pem by host29.example", found(policy, "host29.example"))
        local last = chained("last.example", weaker)
        files["certs/99.pem"] = last.pem .. weaker.pem .. last.key_pem
        fails("listener web (context certs/99.pem): no client could use it: ca key too small", script, files)
    end)

    it("tells of a key without a certificate", function()
        local policy = directory("certs/*", { ["certs/a.pem"] = both("a.example"),
            ["certs/lost.key"] = pem("b.example").key_pem })
        warned(policy, "certificates: certs/lost.key: a private key without a certificate")
    end)

    it("names every file that cannot be used", function()
        local files = {}
        for i = 1, 12 do
            files[("broken%02d.pem"):format(i)] = "nothing"
        end
        refused("broken01.pem: it is not in PEM form, or damaged; broken02.pem: it is not in PEM form, or damaged; ",
            "*.pem",
            files)
        fails("; and 2 more", 'moongate.certificates("*.pem")', files)
    end)

    for _, case in ipairs {
        { "no file with a certificate matches \"*.crt\"", "*.crt", { ["a.pem"] = both("a.example") } },
        { "no file with a certificate matches \"no/*\"", "no/*", {} },
        { "no file with a certificate matches \"no.pem\"", "no.pem", {} },
        { "a.crt: there is no private key in it, nor is there a.key or a.crt.key", "*",
            { ["a.crt"] = pem("a.example").pem } },
        { "live/x/fullchain.pem: there is no private key in it, nor is there live/x/privkey.pem",
            "live/*/fullchain.pem",
            { ["live/x/fullchain.pem"] = pem("a.example").pem } },
        { "a.key: there is no private key in it", "*.crt", { ["a.crt"] = pem("a.example").pem, ["a.key"] = ca.pem } },
        { "a.pem: SSLContext:add_certificate: public key mismatch", "*.pem",
            { ["a.pem"] = pem("a.example").pem .. pem("b.example").key_pem } },
        { "a.pem: it is not in PEM form, or damaged", "*.pem", { ["a.pem"] = both("a.example"):sub(1, 300) } },
        { "a.pem: the certificate has no DNS name (subjectAltName)", "*.pem",
            { ["a.pem"] = both("10.0.0.1") } },
        { "a.pem: SSLContext:add_certificate: SSL_CTX_use_cert_and_key: ee key too small", "*.pem",
            { ["a.pem"] = weak } },
        { "a.pem: the private key is encrypted", "*.pem", { ["a.pem"] = pem("a.example").pem
            .. "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAAwAA==\n-----END ENCRYPTED PRIVATE KEY-----\n" } },
    } do
        it("refuses: " .. case[1], function() refused(case[1], case[2], case[3]) end)
    end

    it("refuses wrong arguments", function()
        fails("certificates: expected a pattern for paths, got nil", "moongate.certificates()")
        fails("certificates: configure: expected a function, got number", "moongate.certificates('*', 5)")
        fails("certificates: the pattern is longer than 4096 characters", "moongate.certificates(('a/'):rep(5000))")
    end)

    it("lets an error of configure through", function()
        fails("moongate.lua:11: not this one", 'moongate.certificates("*.pem", function() error("not this one") end)',
            with())
    end)
end)
