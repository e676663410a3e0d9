--- testing.load in stock lua5.4: a script in the test's own state, under the loader's rules.

package.path = "spec/unit/support/?.lua;lua/?.lua;" .. package.path
local fix = require "fixtures"
local testing = require "moongate.testing"

local own = testing.certificate()
local KEYS = { ["web.crt"] = own.pem, ["web.key"] = own.key_pem }
local PREAMBLE = [[local moongate, openssl = require "moongate", require "moongate.openssl" ]]

-- Runs the text as moongate.lua, with more files and environment.
local function load(text, files, env)
    local all = { ["moongate.lua"] = PREAMBLE .. text }
    for name, content in pairs(files or {}) do
        all[name] = content
    end
    return testing.load("moongate.lua", { files = all, env = env })
end

local function refused(text, expected, files)
    local ok, err = pcall(load, text, files)
    assert.is_false(ok)
    assert.equal(expected, err)
end

local WEB = [[
    local ctx = openssl.SSL.SSLContext.new()
    ctx:load_certificate("web.crt", "web.key")
    moongate.listen { name = "web", address = "127.0.0.1:1", tls = ctx, backend = moongate.echo() }
]]

describe("testing.load", function()
    it("gives listeners, backends and contexts by name", function()
        local policy = load([[
            local ctx = openssl.SSL.SSLContext.new()
            ctx.name = "api"
            ctx:load_certificate("web.crt", "web.key")
            local pool = moongate.backend { name = "pool", address = { "a:1", "b:2" }, tls = true }
            moongate.listen { name = "web", address = "127.0.0.1:1", tls = ctx, backend = pool }
            moongate.listen { address = "127.0.0.1:2", backend = "127.0.0.1:3" }
        ]], KEYS)
        assert.same({ "127.0.0.1:1" }, policy.listeners.web.address)
        assert.equal(600, policy.listeners["127.0.0.1:2"].idle_timeout)
        assert.equal(policy.backends.pool, policy.listeners.web.backend)
        assert.same({ "127.0.0.1:3" }, policy.backends["127.0.0.1:3"].address)
        assert.equal(policy.listeners.web.tls, policy.contexts.web)
        assert.equal(policy.contexts.api, policy.contexts.web)
        assert.equal(policy.backends.pool.tls, policy.contexts.pool)
        assert.is_true(policy.contexts.pool.verify_hostname)
    end)

    it("gives contexts that shake hands", function()
        local hs = testing.handshake(load(WEB, KEYS).contexts.web, nil, { servername = "localhost" })
        assert.is_true(hs.ok, hs.server_error)
        assert.equal(own.cert:to_pem(), hs.client.peer_cert:to_pem())
    end)

    it("gives contexts that only a callback returns, frozen as the loader does", function()
        local mine = fix.SSLContext.new()
        local policy = load([[
            local ctx, other = openssl.SSL.SSLContext.new(), openssl.SSL.SSLContext.new()
            ctx:load_certificate("web.crt", "web.key")
            other:load_certificate("web.crt", "web.key")
            other.name, other.max_version = "other", "TLS1_2"
            ctx.servername_cb = function(_, name) return name == "other.example" and other or nil end
            moongate.listen { name = "web", address = "127.0.0.1:1", tls = ctx, backend = "a:1" }
        ]], KEYS)
        assert.is_true(policy.contexts.other.frozen)
        assert.is_false(mine.frozen)
        for name, version in pairs { ["other.example"] = "TLSv1.2", ["web.example"] = "TLSv1.3" } do
            local hs = testing.handshake(policy.contexts.web, nil, { servername = name })
            assert.equal(version, hs.version, hs.server_error)
        end
    end)

    it("freezes everything", function()
        local policy = load(WEB, KEYS)
        assert.is_true(policy.contexts.web.frozen)
        fix.raises("FrozenError", "can't modify frozen Listener", fix.assign, policy.listeners.web, "idle_timeout", 1)
        fix.raises("FrozenError", "can't modify frozen SSLContext", fix.assign, policy.contexts.web, "verify_mode", 1)
        fix.raises("FrozenError", "can't modify frozen Backend", fix.assign, policy.backends.echo, "tls", nil)
    end)

    it("gives functions as they are", function()
        local policy = load([[
            local calls = 0
            moongate.listen { name = "web", address = "127.0.0.1:1", backend = function(conn)
                calls = calls + 1
                return conn.alpn_protocol == "h2" and "127.0.0.1:2" or nil, "no " .. calls
            end }
        ]])
        local route = policy.listeners.web.backend
        assert.equal("127.0.0.1:2", (route { alpn_protocol = "h2" }))
        assert.same({ nil, "no 2" }, { route {} })
    end)

    it("calls callbacks in handshakes", function()
        local policy = load([[
            local ctx = openssl.SSL.SSLContext.new()
            ctx:load_certificate("web.crt", "web.key")
            ctx.alpn_select_cb = function(protocols) return protocols[2] end
            moongate.listen { name = "web", address = "127.0.0.1:1", tls = ctx, backend = "a:1" }
        ]], KEYS)
        assert.equal("http/1.1", testing.handshake(policy.contexts.web, testing.clients.browser).alpn_protocol)
    end)

    it("tells the proof's warnings", function()
        local late = testing.certificate { days = -1 }
        local policy = load(WEB, { ["web.crt"] = late.pem, ["web.key"] = late.key_pem })
        assert.equal(1, #policy.warnings)
        assert.matches("moongate.lua:3: listener web: EC certificate CN=localhost has expired", policy.warnings[1],
            1, true)
        assert.same({}, load(WEB, KEYS).warnings)
    end)

    it("gives files and environment that are not there", function()
        local policy = load([[
            local helper = require "lib.helper"
            moongate.listen { name = os.getenv "NAME", address = "127.0.0.1:1", backend = helper.backend }
        ]], { ["lib/helper.lua"] = [[return { backend = "127.0.0.1:7" }]] }, { NAME = "from env" })
        assert.same({ "127.0.0.1:7" }, policy.listeners["from env"].backend.address)
    end)

    it("reads a script and what lies beside it from files", function()
        local files = fix.files()
        finally(function() files:remove() end)
        files:write("web.crt", own.pem)
        files:write("web.key", own.key_pem)
        assert.is_true(testing.load(files:write("moongate.lua", PREAMBLE .. WEB)).contexts.web.frozen)
    end)
end)

describe("a mistake in a script", function()
    it("has the text that the loader gives it", function()
        refused([[moongate.listen { adress = "127.0.0.1:1" }]],
            'moongate.lua:1: listen: unknown option "adress" (did you mean "address"?)')
        refused("\n\nx = = 1", "moongate.lua:3: unexpected symbol near '='")
        refused("", "moongate.lua: the script has no listener (moongate.listen{...} makes one)")
        refused("\n" .. WEB, "moongate.lua:3: load_certificate: web.crt: No such file or directory")
        local ok, err = pcall(testing.load, "missing.lua")
        assert.is_false(ok)
        assert.equal("missing.lua: No such file or directory", err)
    end)

    it("is found when it freezes, and when it is proved", function()
        refused([[
            local ctx = openssl.SSL.SSLContext.new()
            ctx.cert = openssl.X509.Certificate.load_file("web.crt")[1]
            moongate.listen { name = "web", address = "127.0.0.1:1", tls = ctx, backend = "a:1" }]],
            "moongate.lua:3: listen: web: tls: moongate.lua:1: ArgumentError: "
                .. "SSLContext:setup: cert is set, but key is not",
            KEYS)
        refused('moongate.listen { address = "127.0.0.1:1", tls = openssl.SSL.SSLContext.new(), backend = "a:1" }',
            "moongate.lua:1: listener 127.0.0.1:1: no certificate (add_certificate or load_certificate gives it one)")
    end)

    it("leaves the test's state alone", function()
        pcall(load, "string.upper = nil  os.time = nil  secret = 1  error('x')")
        assert.equal("X", ("x"):upper())
        assert.is_function(os.time)
        assert.is_nil(rawget(_G, "secret"))
        assert.is_true(load(WEB, KEYS).contexts.web.frozen)
    end)
end)

describe("the script's world", function()
    -- What the chunk returns, run as a route function's upvalue after the script has returned.
    local function later(chunk)
        return load(([[moongate.listen { name = "web", address = "127.0.0.1:1", backend = function() %s end }]])
            :format(chunk)).listeners.web.backend()
    end

    it("is guarded, the test's is not", function()
        assert.equal("moongate.lua:1: os.exit is not available in a script: raise an error to stop the script",
            later "return select(2, pcall(os.exit))")
        assert.is_nil(later "return package.loaded.busted")
        assert.is_nil(later "return describe")
        assert.is_function(os.exit)
    end)

    it("stays the script's when its functions are called later", function()
        assert.is_true(later [[return require "moongate" == moongate]])
        assert.is_true(later [[mine = true return load "return mine"()]])
        assert.equal(os.time() // 100, later "return os.time() // 100")
        assert.matches("files are read while the script loads", later [[return select(2, pcall(io.open, "x"))]])
        assert.matches("listeners are made while the script loads",
            later [[return select(2, pcall(moongate.listen, {}))]])
    end)

    it("is one per script", function()
        local one, two = load("count = 1 " .. WEB, KEYS), load("assert(count == nil) " .. WEB, KEYS)
        assert.are_not.equal(one.contexts.web, two.contexts.web)
        assert.equal(one.listeners.web.name, two.listeners.web.name)
    end)
end)

describe("testing.load itself", function()
    for expected, arguments in pairs {
        ["testing.load: expected the path of a script, got nil"] = {},
        ['testing.load: unknown option "file" (there are files, env)'] = { "x", { file = {} } },
        ["testing.load: files: expected a table from name to text, got string"] = { "x", { files = "x" } },
        ["testing.load: env: expected a table from name to text"] = { "x", { env = { A = 1 } } },
    } do
        it("says " .. expected, function()
            local ok, err = pcall(testing.load, table.unpack(arguments))
            assert.is_false(ok)
            assert.equal(expected, (err:gsub("^%S+:%d+: ", "")))
        end)
    end

    it("can be called from a coroutine, and again and again", function()
        local policy = coroutine.wrap(function() return load(WEB, KEYS) end)()
        assert.is_true(testing.handshake(policy.contexts.web).ok)
        for _ = 1, 20 do
            load(WEB, KEYS)
        end
        assert.is_true(testing.handshake(policy.contexts.web).ok)
    end)
end)
