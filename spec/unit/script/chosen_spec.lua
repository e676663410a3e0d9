-- Contexts that only functions choose are proved, too: what a tls function or a servername_cb may return.

local bench = require "bench"
local certs = require "certs"
local checks = require "checks"

local PREPARE = [[
local function server(name)
    local ctx = openssl.SSL.SSLContext.new()
    ctx:add_certificate(openssl.X509.Certificate.load_file("DIR/" .. name .. ".crt")[1],
        openssl.PKey.load_file("DIR/" .. name .. ".key"), openssl.X509.Certificate.load_file("$ca_crt"))
    return ctx
end
local function listen(tls)
    moongate.listen { name = "web", address = "unix:/tmp/web", tls = tls, backend = "a:1" }
end
]]

local function check(script, ...)
    for _, name in ipairs { "rsa", "ec", "expired" } do
        local _ = certs[name]
    end
    return checks.run((PREPARE:gsub("DIR", bench.dir)) .. script, { "--json", ... })
end

local function contexts_of(script)
    local result = check(script)
    assert.equal(0, result.code, result.err)
    local report, found = result.json(), {}
    for i, context in ipairs(report.contexts) do
        found[i] = context.name .. " " .. table.concat(context.versions, " ") .. " " .. context.certificates[1].type
    end
    return found, report
end

describe("the proof of a context that no listener has", function()
    teardown(bench.cleanup)

    it("tells what a client gets when a tls function returns it", function()
        local found, report = contexts_of [[
            local modern, old = server "ec", server "rsa"
            modern.name, modern.min_version, old.max_version = "modern", "TLS1_3", "TLS1_2"
            listen(function(hello) return hello.supports_ecdsa and modern or old end)]]
        assert.same({ "context modern TLSv1.3 EC", "context of moongate.lua:2 TLSv1.2 RSA" }, found)
        assert.same({ {}, 1 }, { report.warnings, #report.listeners })
        assert.same({ "TLSv1.3" }, report.contexts[1].offer.versions)
        assert.same({}, report.listeners[1].versions)
    end)

    it("warns and refuses, with its place and name", function()
        local _, report = contexts_of [[
            local old = server "expired"
            old.name = "old"
            listen(function() return old end)]]
        assert.matches("^moongate.lua:2: context old: EC certificate CN=localhost has expired", report.warnings[1])
        local result = check [[
            local none = server "ec"
            none.min_version, none.max_version = "TLS1_3", "TLS1_2"
            listen(function() return none end)]]
        assert.equal(1, result.code)
        assert.equal("moongate.lua:2: context: no protocol version is left between min_version, max_version "
            .. "and options", result.last)
    end)

    it("is made where a servername_cb chooses", function()
        assert.same({ "context other TLSv1.2 TLSv1.3 RSA" }, (contexts_of [[
            local ctx, other = server "ec", server "rsa"
            other.name = "other"
            ctx.servername_cb = function(_, name) return name == "other.example" and other or nil end
            listen(ctx)]]))
    end)

    it("is not made of one that a listener or a backend has, that nobody holds, or that serves nobody", function()
        local script = [[
            local used, mine, kept, client = server "ec", server "ec", server "ec", openssl.SSL.SSLContext.new()
            server "rsa"
            moongate.listen { name = "other", address = "unix:/tmp/other", tls = used,
                backend = moongate.backend { address = "a:1", tls = mine } }
            moongate.listen { name = "names", address = "unix:/tmp/names", backend = "a:1",
                tls = moongate.servernames { ["a.example"] = kept } }]]
        assert.same({}, (contexts_of(script .. " listen(function() return used, mine, kept, client end)")))
        assert.same({}, (contexts_of(script .. [[ local held = server "expired" HELD = held listen(used)]])))
    end)

    it("is part of the table, of the whole script only", function()
        local script = [[
            local ctx = server "ec"
            ctx.name = "mine"
            listen(function() return ctx end)]]
        local result = checks.run((PREPARE:gsub("DIR", bench.dir)) .. script)
        assert.matches("\nweb +unix:/tmp/web +by function\n", result.out)
        assert.matches("\ncontext mine +for functions +EC 256 +ok +ok ", result.out)
        assert.matches("\ncontext mine offers\n", result.out)
        assert.same({}, check(script, "--listener", "web").json().contexts)
    end)
end)
