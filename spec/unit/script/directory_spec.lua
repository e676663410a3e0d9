-- A directory of 200 certificates, with everything in it that can be wrong with one: `check` tells of each in words
-- that name its file.

package.path = "lua/?.lua;" .. package.path
local bench = require "bench"
local checks = require "checks"
local openssl = require "moongate.openssl"
local testing = require "moongate.testing"

teardown(bench.cleanup)

local PKey, X509 = openssl.PKey, openssl.X509
local DAY = 86400
local ca = testing.ca()
local middle = testing.ca { ca = ca, name = "Middle" }
local far = testing.ca { name = "Far" }
local key = PKey.EC.generate("prime256v1") -- of all but a few: what matters is what the certificates say

local function pem_of(...)
    local parts = {}
    for i, cert in ipairs { ... } do
        parts[i] = cert:to_pem()
    end
    return table.concat(parts)
end

-- One certificate with its key, as a file's text. `more`: days, begins (in days), key, issuer, digest, chain.
local function file(names, more)
    more = more or {}
    local issuer, own, now = more.issuer or ca, more.key or key, os.time()
    local cert = X509.Certificate.new()
    cert.version, cert.serial = 2, ("%X"):format(math.random(1, 1 << 48))
    cert.subject, cert.issuer, cert.public_key = "/CN=" .. (names:match("%S+") or "nobody"), issuer.cert.subject, own
    cert.not_before, cert.not_after = now - 30 * DAY, now + (more.days or 90) * DAY + DAY // 2
    if more.begins then
        cert.not_before = now + more.begins * DAY
    end
    if names ~= "" then
        local factory = X509.ExtensionFactory.new()
        cert:add_extension(factory:create_extension("subjectAltName", "DNS:" .. names:gsub(" ", ",DNS:")))
    end
    cert:sign(issuer.key, more.digest or "SHA256")
    return pem_of(cert, table.unpack(more.chain or { issuer.cert })) .. own:private_to_pem()
end

-- So many files, 200 if not said; `wrong` is part of them, the others have nothing the matter.
local function directory(wrong, total)
    local files, count = {}, 0
    for name, text in pairs(wrong) do
        files["certs/" .. name] = text
        count = count + 1
    end
    for i = count + 1, total or 200 do
        files[("certs/fine%03d.pem"):format(i)] = file(("fine%d.example"):format(i))
    end
    return files
end

local function read_in_a_loop(files)
    local names = {}
    for name in pairs(files) do
        names[#names + 1] = ("%q"):format(name)
    end
    table.sort(names)
    return ([[
        moongate.settings { reload_timeout = 300 } local list = {}
        for i, file in ipairs { %s } do
            local ctx = openssl.SSL.SSLContext.new()
            ctx.security_level = 0
            ctx:load_certificate(file)
            list[i] = ctx
        end
        moongate.listen { name = "web", address = "unix:/tmp/web", tls = moongate.servernames(list), backend = "a:1" }
    ]]):format(table.concat(names, ", "))
end

local ALL_AT_ONCE = [[
    moongate.settings { reload_timeout = 300 } moongate.listen { name = "web", address = "unix:/tmp/web",
        backend = "a:1", tls = moongate.servernames(moongate.certificates "certs/*.pem") }
]]

-- Whether `text` has all the parts, in their order.
local function has(text, parts)
    local at = 1
    for _, part in ipairs(parts) do
        at = at and select(2, text:find(part, at, true))
    end
    return at ~= nil
end

-- For each of `expected`, the parts of a warning, there is one, and none of a file that has nothing the matter.
local function tells(script, files, expected)
    local result = checks.run(script, { files = files, timeout = 120, "--json" })
    assert.equal(0, result.code, result.err)
    local warnings = result.json().warnings
    for _, parts in ipairs(expected) do
        local found = false
        for _, warning in ipairs(warnings) do
            found = found or has(warning, parts)
        end
        assert.is_true(found, ("no warning with %s in\n%s"):format(table.concat(parts, " … "),
            table.concat(warnings, "\n")))
    end
    for _, warning in ipairs(warnings) do
        assert.is_nil(warning:find("fine", 1, true), warning)
    end
end

-- What neither stops a policy nor a handshake.
local WRONG = {
    ["expired.pem"] = file("expired.example", { days = -2 }),
    ["soon.pem"] = file("soon.example", { days = 5 }),
    ["later.pem"] = file("later.example", { begins = 3 }),
    ["no_chain.pem"] = file("chain.example", { issuer = middle, chain = {} }),
    ["half_chain.pem"] = file("half.example", { issuer = middle, chain = { middle.cert } }),
    ["order.pem"] = file("order.example", { issuer = middle, chain = { ca.cert, middle.cert } }),
    ["foreign_chain.pem"] = file("foreign.example", { chain = { far.cert } }),
    ["same_1.pem"] = file("same.example", { key = PKey.EC.generate("prime256v1") }),
    ["same_2.pem"] = file("same.example"),
    ["some_1.pem"] = file("some.example one.example"),
    ["some_2.pem"] = file("two.example some.example"),
    ["case_1.pem"] = file("case.example"),
    ["case_2.pem"] = file("CASE.example other.example"),
    ["wild_1.pem"] = file("*.wild.example wild1.example"),
    ["wild_2.pem"] = file("*.wild.example wild2.example"),
    ["kinds_1.pem"] = file("kinds.example kind.example"),
    ["kinds_2.pem"] = file("kinds.example", { key = PKey.RSA.generate(2048) }),
}

-- What OpenSSL takes below security level 1 only.
local WEAK = {
    ["weak_key.pem"] = file("weak.example", { key = PKey.RSA.generate(1024) }),
    ["weak_signature.pem"] = file("sha1.example", { digest = "SHA1" }),
}

-- What is told of WRONG: parts of warnings; `of` orders a file's name and the words about it.
local function told_of_all(of)
    local list = {
        of("expired.pem", "has expired"),
        of("soon.pem", "expires in "),
        of("later.pem", "is not valid yet"),
        of("no_chain.pem", "the chain is incomplete: the issuer CN=Middle"),
        of("half_chain.pem", "the chain is incomplete: the issuer CN=Test CA"),
        of("order.pem", "the chain is out of order: certificate 1"),
        of("foreign_chain.pem", "the chain is out of order: certificate 1"),
    }
    for name, kind in pairs { some = "EC", case = "EC", wild = "EC", kinds = "RSA" } do
        list[#list + 1] = { "is a name of two contexts", ("certs/%s_1.pem"):format(name), "gets it, as the first; the "
            .. kind, ("certs/%s_2.pem"):format(name), "is not served under it" }
    end
    return list
end

describe("of a directory of 200 certificates", function()
    it("moongate.certificates tells of those it cannot use and of those it warns of in one run", function()
        local wrong, broken = {}, {
            ["garbage.pem"] = "-----BEGIN CERTIFICATE-----\nnothing of the kind\n-----END CERTIFICATE-----\n",
            ["cut.pem"] = file("cut.example"):sub(1, 300),
            ["text.pem"] = "these are not the certificates you are looking for\n",
            ["empty.pem"] = "",
            ["no_key.pem"] = file("nokey.example"):gsub("%-+BEGIN PRIVATE.*", ""),
            ["other_key.pem"] = file("other.example"):gsub("%-+BEGIN PRIVATE.*", "")
                .. PKey.EC.generate("prime256v1"):private_to_pem(),
            ["no_name.pem"] = file(""),
            ["locked.pem"] = file("locked.example"):gsub("%-+BEGIN PRIVATE.*", "")
                .. key:private_to_pem("AES-128-CBC", "secret"),
        }
        for _, list in ipairs { WRONG, WEAK, broken } do
            for name, text in pairs(list) do
                wrong[name] = text
            end
        end
        local dir = checks.directory(ALL_AT_ONCE, directory(wrong))
        bench.must { "ln", "-s", "nowhere", dir .. "/certs/dangling.pem" }
        bench.must { "ln", "-s", "loop.pem", dir .. "/certs/loop.pem" }
        local words = { ["garbage.pem"] = "it is not in PEM form, or damaged", ["cut.pem"] = "or damaged",
            ["text.pem"] = "it is not in PEM form", ["empty.pem"] = "it is not in PEM form",
            ["no_key.pem"] = "there is no private key in it, nor is there certs/no_key.key",
            ["other_key.pem"] = "key mismatch", ["no_name.pem"] = "the certificate has no DNS name",
            ["locked.pem"] = "the private key is encrypted", ["dangling.pem"] = "No such file or directory",
            ["loop.pem"] = "symbolic links", ["weak_key.pem"] = "ee key too small" }
        local result = bench.run { bench.moongate, "check", "moongate.lua", "--json", cwd = dir, timeout = 120 }
        assert.equal(1, result.code)
        local report = require("cjson").decode(result.out)
        local function told(list, parts)
            for _, line in ipairs(list) do
                if has(line, parts) then
                    return
                end
            end
            error(("none with %s in\n%s"):format(table.concat(parts, " … "), table.concat(list, "\n")))
        end
        for name, text in pairs(words) do
            told(report.errors, { "moongate.lua:2: certificates: certs/" .. name, text })
        end
        local minor = tonumber(bench.must({ "openssl", "version" }):match("^OpenSSL 3%.(%d+)"))
        if minor < 5 then -- newer ones look at signatures in handshakes only
            told(report.errors, { "certs/weak_signature.pem: ", "too weak" })
        end
        local expected = told_of_all(function(name, text) return { "certs/" .. name, text } end)
        expected[#expected + 1] = { "certs/same_2.pem: another EC certificate for the names of certs/same_1.pem" }
        for _, parts in ipairs(expected) do
            told(report.warnings, parts)
        end
        for _, list in ipairs { report.errors, report.warnings } do
            for _, line in ipairs(list) do
                assert.is_nil(line:find("fine", 1, true), line)
            end
        end
        assert.is_true(#report.errors <= 12, table.concat(report.errors, "\n"))
        local few = {}
        for name, text in pairs(broken) do
            few["certs/" .. name] = text
        end
        result = checks.run(ALL_AT_ONCE, { files = few })
        for name in pairs(broken) do
            assert.matches("error: moongate.lua:2: certificates: certs/" .. name, result.out, 1, true)
        end
        assert.matches("^moongate.lua:2: certificates: certs/cut.pem: it is not in PEM form, or damaged; certs/",
            result.last)
    end)

    it("what cannot be used is told of where the script fails because of it, too", function()
        local files = {}
        for i = 1, 12 do
            files[("certs/broken%02d.pem"):format(i)] = "nothing"
        end
        local script = 'moongate.certificates("certs/*.pem")[1].min_version = "TLS1_3"'
        local result = checks.run(script, { files = files, "--json" })
        local errors = result.json().errors
        assert.equal(13, #errors)
        assert.equal("moongate.lua:1: certificates: certs/broken12.pem: it is not in PEM form, or damaged", errors[12])
        assert.matches("^moongate.lua:1: attempt to index a nil value", errors[13])
        assert.matches("certs/broken10.pem: it is not in PEM form, or damaged; and 2 more; moongate.lua:1: attempt to "
            .. "index", result.last, 1, true)
        result = checks.run(script, { files = files })
        assert.matches("\nerror: moongate.lua:1: certificates: certs/broken12.pem: it is not in PEM form", result.out)
    end)

    it("a name that its certificate is not for is told of, by file", function()
        local files = directory({ ["wild.pem"] = file("*.wild.example"),
            ["one.pem"] = file("one.example ONE.example.net"),
            ["rsa.pem"] = file("rsa.example two.example", { key = PKey.RSA.generate(2048) }) }, 12)
        local result = checks.run([[
            moongate.settings { reload_timeout = 300 } local function context(...)
                local ctx = openssl.SSL.SSLContext.new()
                for _, file in ipairs { ... } do ctx:load_certificate("certs/" .. file .. ".pem") end
                return ctx
            end
            local names = { ["one.example"] = context "one", ["api.example"] = context "one",
                ["one.example.net"] = context "one", ["deep.x.wild.example"] = context "wild",
                ["x.wild.example"] = context "wild", ["*.wild.example"] = context "wild",
                ["*.one.example"] = context "one", ["two.example"] = context("one", "rsa"),
                none = context "one", default = context "one" }
            for i, ctx in ipairs(moongate.certificates "certs/fine*.pem") do names[i] = ctx end
            moongate.listen { name = "web", address = "unix:/tmp/web", backend = "a:1",
                tls = moongate.servernames(names) }
        ]], { files = files, timeout = 120, "--json" })
        assert.equal(0, result.code, result.err)
        local found = {}
        for _, warning in ipairs(result.json().warnings) do
            found[#found + 1] = warning:match("certificate (CN=.* is served under .*)$") or "other: " .. warning
        end
        table.sort(found)
        assert.same({
            "CN=*.wild.example is served under deep.x.wild.example, but is not for this name (certs/wild.pem)",
            "CN=one.example is served under *.one.example, but is not for this name (certs/one.pem)",
            "CN=one.example is served under api.example, but is not for this name (certs/one.pem)",
            "CN=one.example is served under two.example, but is not for this name (certs/one.pem)",
        }, found)
    end)

    it("a name that was asked for and leads to another's certificate is told of", function()
        local function warnings(sni)
            local result = checks.run([[
                local ctx = openssl.SSL.SSLContext.new()
                ctx:load_certificate("certs/one.pem")
                moongate.listen { name = "web", address = "unix:/tmp/web", backend = "a:1",
                    tls = moongate.servernames { ctx, ["*.wild.example"] = ctx, default = ctx } }
            ]], { files = { ["certs/one.pem"] = file("one.example *.wild.example") }, "--json", "--sni", sni })
            assert.equal(0, result.code, result.err)
            return result.json().warnings
        end
        assert.same({}, warnings "ONE.example")
        assert.same({}, warnings "x.wild.example")
        assert.matches("CN=one.example is served under other.example, but is not for this name (certs/one.pem)",
            warnings "other.example"[1], 1, true)
    end)

    it("load_certificate tells all that is wrong, by file", function()
        local wrong = {}
        for _, list in ipairs { WRONG, WEAK } do
            for name, text in pairs(list) do
                wrong[name] = text
            end
        end
        local files = directory(wrong)
        local function of(name, words)
            return { words, ("(certs/%s)"):format(name) }
        end
        local expected = told_of_all(of)
        expected[#expected + 1] = of("weak_key.pem", "has a weak key (1024 bits)")
        expected[#expected + 1] = of("weak_signature.pem", "has a weak signature (SHA1)")
        expected[#expected + 1] = { "same.example is a name of two contexts", "(certs/same_1.pem) gets it",
            "(certs/same_2.pem) is not served" }
        tells(read_in_a_loop(files), files, expected)
    end)

    it("load_certificate tells which one of a type a context has", function()
        local files = { ["a.pem"] = file("a.example"), ["b.pem"] = file("b.example"), ["c.pem"] = file("c.example"),
            ["rsa.pem"] = file("a.example", { key = PKey.RSA.generate(2048) }) }
        local function told(...)
            local result = checks.run(([[
                local ctx = openssl.SSL.SSLContext.new()
                for _, file in ipairs { "%s" } do
                    ctx:load_certificate(file)
                end
                moongate.listen { name = "web", address = "unix:/tmp/web", tls = ctx, backend = "a:1" }
            ]]):format(table.concat({ ... }, '", "')), { files = files, "--json" })
            assert.equal(0, result.code, result.err)
            return result.json().warnings
        end
        assert.same({}, told("a.pem", "rsa.pem", "a.pem"))
        local warnings = told("a.pem", "rsa.pem", "b.pem", "c.pem")
        assert.is_true(has(warnings[1], { "listener web: /CN=b.example (b.pem) takes the place of another EC "
            .. "certificate, /CN=a.example (a.pem); /CN=c.example (c.pem) takes the place of another EC certificate, "
            .. "/CN=b.example (b.pem): a context has one of a type" }), warnings[1])
        assert.is_nil(warnings[2])
    end)
end)
