-- A new policy is tried with the ClientHellos of recent clients before it serves.

local bench = require "bench"
local proxy = require "proxy"

local LISTEN = [[
do
    local ctx = server()
    ctx.ciphers = "ECDHE+AESGCM:ECDHE+CHACHA20" -- few: each is tried at each load
    %s
    moongate.listen { name = "%s", address = "127.0.0.1:$%s", tls = ctx, backend = moongate.reply "bye\n" }
end
]]

local function listener(name, policy)
    return LISTEN:format(policy or "", name, name)
end

local SSL = "openssl.SSL."

-- Sends a line and takes the answer, so that the handshake is over on both sides.
local function client(port, ...)
    local result = bench.run { stdin = bench.write("hello", "hello\n"), "openssl", "s_client",
        "-connect", "127.0.0.1:" .. port, "-ign_eof", "-brief", ... }
    return result.code, result.out, result.err
end

local function clients(count, port, ...)
    for _ = 1, count do
        local code, out, err = client(port, ...)
        assert(code == 0 and out:find("bye"), err)
    end
end

-- Hellos held over all workers.
local function held(web)
    local sum = 0
    for _, worker in ipairs(web:status().workers) do
        sum = sum + worker.hello_ring.held
    end
    return sum
end

teardown(proxy.cleanup)

describe("the ring of recent ClientHellos", function()
    local web, ports
    local base = listener "web" .. listener "api"

    before_each(function()
        ports = { web = bench.port(), api = bench.port(), other = bench.port() }
    end)
    after_each(function()
        web:stop()
    end)

    local function start(settings, script, workers)
        web = proxy.start { settings = settings or "", script = script or base, web = ports.web, api = ports.api,
            other = ports.other, workers = workers or 2 }
    end

    it("says how many recent clients a new policy would refuse, and why", function()
        start()
        clients(3, ports.web, "-tls1_2")
        clients(5, ports.web, "-tls1_3")
        local result = web:reload(listener("web", "ctx.min_version = " .. SSL .. "TLS1_3_VERSION") .. listener "api")
        assert.matches("3 of 8 recent clients would now fail: unsupported protocol\n", result.out, 1, true)
        web:wait_log("3 of 8 recent clients would now fail: unsupported protocol")
    end)

    it("calls a missing group by its name, in every version", function()
        start("hello_ring = 500,")
        clients(2, ports.web, "-tls1_3", "-groups", "X25519")
        clients(1, ports.web, "-tls1_2", "-groups", "X25519", "-cipher", "ECDHE")
        clients(4, ports.web, "-groups", "X25519:P-256")
        local result = web:reload(listener("web", 'ctx.groups = "P-256"') .. listener "api")
        assert.matches("3 of 7 recent clients would now fail: no shared group\n", result.out, 1, true)
    end)

    it("gives several reasons with their counts, the most frequent first", function()
        start(nil, nil, 1)
        clients(1, ports.web, "-tls1_2", "-cipher", "ECDHE+AES128")
        clients(2, ports.web, "-groups", "X25519")
        local result = web:reload(listener("web", 'ctx.groups = "P-256" ctx.ciphers = "ECDHE+CHACHA20"') ..
            listener "api")
        assert.matches("3 of 3 recent clients would now fail: no shared group (2), no shared cipher (1)\n", result.out,
            1, true)
    end)

    it("is silent where nobody would fail who did not before", function()
        start('hello_ring = 100, refuse_reload_above = 0,')
        clients(2, ports.web)
        assert.not_equal(0, client(ports.web, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"))
        local result = web:reload(listener("web", "ctx.min_version = " .. SSL .. "TLS1_2_VERSION") .. listener "api")
        assert.is_nil(result.out:find("would now fail", 1, true))
        web:wait_log("none of 3 recent clients would fail that did not before")
    end)

    it("refuses the reload above the share that the new script allows; the old policy serves on", function()
        start()
        clients(2, ports.web, "-tls1_2")
        clients(2, ports.web, "-tls1_3")
        local stricter = listener("web", "ctx.min_version = " .. SSL .. "TLS1_3_VERSION") .. listener "api"
        local before = web:status().generation
        web.options.settings = "refuse_reload_above = 0.49,"
        local result = web:try_reload(stricter)
        assert.equal(1, result.code)
        assert.equal("", result.out)
        assert.matches("2 of 4 recent clients would now fail: unsupported protocol",
            result.err:match("([^\n]*)\n*$"), 1, true)
        assert.equal(before, web:status().generation)
        clients(1, ports.web, "-tls1_2")
        web.options.settings = "refuse_reload_above = 0.8,"
        result = web:reload(stricter)
        assert.matches("3 of 5 recent clients would now fail", result.out, 1, true)
        assert.not_equal(0, client(ports.web, "-tls1_2"))
    end)

    it("does not count again who fails under the policy in force, but does after the way back", function()
        local stricter = listener("web", "ctx.min_version = " .. SSL .. "TLS1_3_VERSION") .. listener "api"
        start()
        clients(2, ports.web, "-tls1_2")
        assert.matches("2 of 2 recent clients would now fail", web:reload(stricter).out, 1, true)
        assert.is_nil(web:reload(stricter).out:find("would now fail", 1, true))
        assert.is_nil(web:reload(base).out:find("would now fail", 1, true))
        assert.matches("2 of 2 recent clients would now fail", web:reload(stricter).out, 1, true)
    end)

    it("asks each listener for its own clients, and nobody for those of one that goes", function()
        start()
        clients(2, ports.web, "-tls1_2")
        clients(3, ports.api, "-tls1_2")
        local result = web:reload(listener("api", "ctx.min_version = " .. SSL .. "TLS1_3_VERSION") .. listener "other")
        assert.matches("3 of 3 recent clients would now fail", result.out, 1, true)
    end)

    it("keeps as many as hello_ring says in each worker, the newest ones", function()
        start("hello_ring = 3,", base, 1)
        clients(2, ports.web, "-tls1_2")
        clients(2, ports.web, "-tls1_3")
        assert.equal(3, held(web))
        local result = web:reload(listener("web", "ctx.min_version = " .. SSL .. "TLS1_3_VERSION") .. listener "api")
        assert.matches("1 of 3 recent clients would now fail", result.out, 1, true)
        web.options.settings = "hello_ring = 2,"
        web:reload(base)
        assert.equal(2, held(web))
        web.options.settings = "hello_ring = 0,"
        web:reload(base)
        assert.equal(0, held(web))
        clients(1, ports.web)
        assert.equal(0, held(web))
    end)

    it("runs no callback of the script's, and says what that leaves open", function()
        local asked = [[ctx.%s = function() error "never in a replay" end]]
        start()
        clients(2, ports.web, "-alpn", "h2", "-servername", "a.example")
        clients(1, ports.api, "-servername", "a.example")
        local result = web:reload(listener("web", asked:format "alpn_select_cb") ..
            listener("api", asked:format "servername_cb"))
        assert.is_nil(result.out:find("would now fail", 1, true))
        web:wait_log("of 3 recent clients 3 were tried without the script's callbacks")
        assert.is_nil(web:log_text():find("never in a replay", 1, true))
    end)

    it("names no client and no server name, in log and output", function()
        start('log_level = "debug",')
        clients(2, ports.web, "-tls1_2", "-servername", "secret.example")
        local result = web:reload(listener("web", "ctx.min_version = " .. SSL .. "TLS1_3_VERSION") .. listener "api")
        assert.matches("2 of 2 recent clients", result.out, 1, true)
        assert.is_nil((result.out .. web:log_text()):find("secret.example", 1, true))
        local status = web:command("status", "--json").out
        assert.is_nil(status:find("secret.example", 1, true))
    end)

    it("does not resume a session for the proof of it", function()
        local session = bench.path "session.pem"
        start()
        clients(1, ports.web, "-tls1_2", "-sigalgs", "RSA-PSS+SHA256", "-sess_out", session)
        clients(2, ports.web, "-tls1_2", "-sigalgs", "RSA-PSS+SHA256", "-sess_in", session)
        local result = web:reload([[
do
    local ctx = openssl.SSL.SSLContext.new()
    ctx:load_certificate("$ec_crt", "$ec_key")
    moongate.listen { name = "web", address = "127.0.0.1:$web", tls = ctx, backend = moongate.reply "bye\n" }
end
]])
        assert.matches("3 of 3 recent clients would now fail", result.out, 1, true)
    end)

    -- ---- where the context is chosen before the handshake ----------------------------------------

    local NAMED = [[
do
    local old, new = server(), server()
    for _, ctx in ipairs { old, new } do ctx.ciphers = "ECDHE+AESGCM:ECDHE+CHACHA20" end
    new.min_version = openssl.SSL.TLS1_3_VERSION
    local _ = old, new
    moongate.listen { name = "web", address = "127.0.0.1:$web", backend = %s, tls = %s }
end
]]
    local BYE = [[moongate.reply "bye\n"]]

    local function named(names)
        return NAMED:format(BYE, "moongate.servernames { " .. names .. " }")
    end

    local function asked(name, ...)
        clients(1, ports.web, "-servername", name, ...)
    end

    it("asks the names for the context that a client would get", function()
        start(nil, named [[ ["a.example"] = old, ["*.w.example"] = old, default = old, none = old ]])
        asked("a.example", "-tls1_2")
        asked("A.example", "-tls1_3")
        asked("x.w.example", "-tls1_2")
        asked("other.example", "-tls1_2")
        clients(1, ports.web, "-tls1_2", "-noservername")
        local result = web:reload(named [[ ["a.example"] = new, ["*.w.example"] = old, default = new, none = old ]])
        assert.matches("2 of 5 recent clients would now fail: unsupported protocol\n", result.out, 1, true)
        result = web:reload(named [[ ["a.example"] = old, ["*.w.example"] = new, default = old, none = new ]])
        assert.matches("2 of 5 recent clients would now fail: unsupported protocol\n", result.out, 1, true)
    end)

    it("counts names that would be refused, and those that were before not again", function()
        start(nil, named [[ ["a.example"] = old, ["b.example"] = old, ["c.example"] = false, default = old,
            none = old ]])
        asked "a.example"
        asked "b.example"
        asked "other.example"
        clients(1, ports.web, "-noservername")
        assert.not_equal(0, client(ports.web, "-servername", "c.example"))
        local result = web:reload(named [[ ["a.example"] = old, ["b.example"] = false ]])
        assert.matches("3 of 5 recent clients would now fail: unrecognized name\n", result.out, 1, true)
        assert.is_nil(web:reload(named [[ ["a.example"] = old ]]).out:find("would now fail", 1, true))
    end)

    it("counts a name that is passed through as fine, wherever it then goes", function()
        local nobody = bench.port()
        local passing = NAMED:format('"127.0.0.1:' .. nobody .. '"', [[moongate.servernames {
            ["a.example"] = moongate.PASSTHROUGH, none = old }]])
        start(nil, named [[ ["a.example"] = old, none = old ]])
        asked("a.example", "-tls1_2")
        local result = web:reload(passing)
        assert.is_nil(result.out:find("would now fail", 1, true))
        client(ports.web, "-servername", "a.example", "-tls1_2")
        assert.equal(2, held(web))
        result = web:reload(named [[ ["a.example"] = new, none = old ]])
        assert.matches("2 of 2 recent clients would now fail: unsupported protocol\n", result.out, 1, true)
    end)

    it("does not run a tls function", function()
        start(nil, NAMED:format(BYE, "function() return old end"))
        asked("a.example", "-tls1_2")
        asked("b.example", "-tls1_3")
        assert.equal(2, held(web))
        local result = web:reload(NAMED:format(BYE, [[function() error "never in a replay" end]]))
        assert.is_nil(result.out:find("would now fail", 1, true))
        web:wait_log("of 2 recent clients 2 were tried without the script's callbacks")
        assert.is_nil(web:log_text():find("never in a replay", 1, true))
        result = web:reload(NAMED:format(BYE, "new"))
        assert.matches("1 of 2 recent clients would now fail: unsupported protocol\n", result.out, 1, true)
    end)
end)
