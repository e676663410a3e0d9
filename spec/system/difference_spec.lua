-- A reload tells what the new policy changes, in words, and proves only what has changed.

local bench = require "bench"
local certs = require "certs"
local proxy = require "proxy"

teardown(proxy.cleanup)

describe("a reload", function()
    local web

    -- Listeners as one text; each { name, policy, options }.
    local function script(...)
        local parts = {}
        for _, listener in ipairs { ... } do
            local name, policy, options = table.unpack(listener)
            parts[#parts + 1] = ([[
                do
                    local ctx = server()
                    %s
                    moongate.listen { name = "%s", address = "unix:$dir/%s", tls = ctx, backend = "127.0.0.1:%d", %s }
                end
            ]]):format(policy or "", name, name, 8080, options or "")
        end
        return table.concat(parts)
    end

    local function start(...)
        web = proxy.start { script = script(...), workers = 1, settings = 'log_level = "debug",' }
    end

    after_each(function()
        web:stop()
    end)

    -- Everything that is said of changes: output without the generation and the warnings.
    local function changes(text)
        local lines = {}
        for line in web:reload(text).out:gmatch("[^\n]+") do
            if not line:find("^generation") and not line:find("%.lua:%d") then
                lines[#lines + 1] = line
                web:wait_log(line)
            end
        end
        return lines
    end

    it("says nothing of what stays", function()
        start { "web" }
        assert.same({}, changes(script { "web" }))
    end)

    it("says what is no longer offered, and what is now", function()
        start { "web", "ctx.min_version = openssl.SSL.TLS1_2_VERSION ctx.groups = 'X25519:P-256'" }
        local lines = changes(script { "web",
            "ctx.min_version = openssl.SSL.TLS1_3_VERSION ctx.groups = 'X25519:P-256'" })
        assert.equal("web: TLS 1.2 no longer offered", lines[1])
        assert.matches("^web: cipher suites ECDHE.* no longer offered$", lines[2])
        assert.equal(2, #lines)
        assert.same({ "web: group P-256 no longer offered", "web: groups P-384, P-521 now offered" },
            changes(script { "web", "ctx.min_version = openssl.SSL.TLS1_3_VERSION ctx.groups = 'X25519:P-384:P-521'" }))
    end)

    it("says it once for all listeners that change alike", function()
        local names = {}
        for i = 1, 8 do
            names[i] = { "l" .. i, "ctx.alpn_protocols = { 'h2', 'http/1.1' }" }
        end
        start(table.unpack(names))
        for i = 1, 8 do
            names[i][2] = "ctx.alpn_protocols = { 'http/1.1' }"
        end
        assert.same({ "l1, l2, l3, l4, l5 and 3 more: ALPN protocol h2 no longer offered" },
            changes(script(table.unpack(names))))
    end)

    it("tells of client certificates, resumption, CAs, options and backends", function()
        start { "web" }
        local ca = "ctx.ca_file = '$ca_crt' ctx.verify_mode = "
        assert.same({ "web: client certificates: now required (was not asked for)" },
            changes(script { "web", ca .. "openssl.SSL.VERIFY_PEER | openssl.SSL.VERIFY_FAIL_IF_NO_PEER_CERT" }))
        assert.same({ "web: client certificates: now asked for (was required)" },
            changes(script { "web", ca .. "openssl.SSL.VERIFY_PEER" }))
        assert.same({ "web: TLS policy changed (CAs, CRLs, options or signature algorithms)" },
            changes(script { "web", ca:gsub("ca_crt", "rsa2_crt") .. "openssl.SSL.VERIFY_PEER" }))
        assert.same({ "web: client certificates: now not asked for (was asked for)",
            "web: idle_timeout: now 30 (was 600)",
            "web: resumption: now by session (was by ticket, by session)" },
            (function()
                local lines = changes(script { "web",
                    "ctx.options = ctx.options | openssl.SSL.OP_NO_TICKET", "idle_timeout = 30" })
                table.sort(lines)
                return lines
            end)())
        local lines = changes((script { "web", "ctx.options = ctx.options | openssl.SSL.OP_NO_TICKET",
            "idle_timeout = 30" }:gsub("8080", "8081")))
        assert.same({ "backend 127.0.0.1:8080 removed", "backend 127.0.0.1:8081 added",
            "web: backend: now 127.0.0.1:8081 (was 127.0.0.1:8080)" }, lines)
    end)

    it("tells of PROXY headers", function()
        local function with(accept, more)
            return ('moongate.listen { name = "web", address = "unix:$dir/web", accept_proxy = %s, backend = '
                .. 'moongate.backend { name = "up", address = "127.0.0.1:8080", %s } }'):format(accept, more)
        end
        web = proxy.start { script = with("false", ""), workers = 1, settings = 'log_level = "debug",' }
        assert.same({ "backend up: send_proxy: now v1 (was false)", "web: accept_proxy: now true (was false)" },
            changes(with("true", 'send_proxy = "v1"')))
        assert.same({ "backend up: proxy_tlvs: now 0xE0=2 bytes #20e5, 0xE1=a function (was none)",
            "backend up: send_proxy: now v2 (was v1)", "web: accept_proxy: now 10.0.0.0/8, ::1/128 (was true)" },
            changes(with('{ "10.0.0.0/8", "::1" }',
                'send_proxy = "v2", proxy_tlvs = { [0xE0] = "x\\0", [0xE1] = function() end }')))
    end)

    it("tells of listeners that come and go, and of certificates", function()
        start({ "web" }, { "old" })
        assert.same({ "listener new added", "listener old removed" }, changes(script({ "new" }, { "web" })))
        local only = script({ "new" }, { "web" }):gsub("server%(%)",
            'openssl.SSL.SSLContext.new():load_certificate("$rsa2_crt", "$rsa2_key")')
        local lines = changes(only)
        assert.matches("^new, web: EC certificate no longer served$", lines[1])
        assert.matches("^new, web: RSA certificate replaced, valid until %d+%-%d%d%-%d%d %(was %d+%-%d%d%-%d%d%)$",
            lines[2])
    end)

    it("tells of nothing that is refused", function()
        start { "web" }
        local refused = web:try_reload(script { "web", "ctx.min_version = openssl.SSL.TLS1_3_VERSION" } ..
            "error 'no'")
        assert.equal(1, refused.code)
        assert.is_nil((web:log_text()):find("no longer offered", 1, true))
    end)

    it("proves only what has changed", function()
        start({ "one" }, { "two" }, { "three" })
        local _ = certs.rsa2
        changes(script({ "one" }, { "two", "ctx.min_version = openssl.SSL.TLS1_3_VERSION" }, { "three" }))
        web:wait_log("2 contexts are as they were proved before")
        changes(script({ "one", "ctx:load_certificate('$rsa2_crt', '$rsa2_key')" },
            { "two", "ctx.min_version = openssl.SSL.TLS1_3_VERSION" }, { "three", "ctx.name = 'third'" }))
        bench.wait("the second line", function()
            return select(2, web:log_text():gsub("2 contexts are as they were proved before", "")) == 2
        end)
    end)

    -- ---- by name ---------------------------------------------------------------------------------

    local function named(names, policy, options)
        return ([[
            do
                local a, b, rsa = server(), server(), openssl.SSL.SSLContext.new()
                rsa:load_certificate("$rsa2_crt", "$rsa2_key")
                local _ = a, b, rsa
                %s
                moongate.listen { name = "web", address = "unix:$dir/web", backend = "127.0.0.1:8080", %s
                    tls = %s }
            end
        ]]):format(policy or "", options or "", names:find "^function" and names or
            "moongate.servernames { " .. names .. " }")
    end

    local function start_named(...)
        web = proxy.start { script = named(...), workers = 1, settings = 'log_level = "debug",' }
    end

    it("tells of each name what its policy no longer offers", function()
        start_named '["a.example"] = a, ["*.b.example"] = b'
        assert.same({}, changes(named '["a.example"] = a, ["*.b.example"] = b'))
        local lines = changes(named('["a.example"] = a, ["*.b.example"] = b',
            "b.min_version = openssl.SSL.TLS1_3_VERSION"))
        assert.equal("web: *.b.example: TLS 1.2 no longer offered", lines[1])
        assert.matches("^web: %*%.b%.example: cipher suites ECDHE.* no longer offered$", lines[2])
        assert.equal(2, #lines)
        assert.same({ "web: idle_timeout: now 30 (was 600)", "web: a.example: client certificates: now asked for " ..
            "(was not asked for)" }, changes(named('["a.example"] = a, ["*.b.example"] = b', [[
                b.min_version = openssl.SSL.TLS1_3_VERSION
                a.ca_file = "$ca_crt" a.verify_mode = openssl.SSL.VERIFY_PEER]], "idle_timeout = 30,")))
        assert.same({ "web: idle_timeout: now 600 (was 30)",
            "web: a.example: TLS policy changed (CAs, CRLs, options or signature algorithms)" },
            changes(named('["a.example"] = a, ["*.b.example"] = b', [[
                b.min_version = openssl.SSL.TLS1_3_VERSION
                a.ca_file = "$rsa2_crt" a.verify_mode = openssl.SSL.VERIFY_PEER]])))
    end)

    it("tells of names that come, go and end otherwise, and of their certificates", function()
        start_named '["a.example"] = a, ["b.example"] = a, default = a, ["c.example"] = moongate.PASSTHROUGH'
        assert.same({ "web: b.example, default: no longer served", "web: c.example: now served (was passed through)",
            "web: d.example: now refused", "web: none: now passed through" },
            changes(named [[["a.example"] = a, ["c.example"] = a, ["d.example"] = false,
                none = moongate.PASSTHROUGH]]))
        local lines = changes(named [[["a.example"] = rsa, ["c.example"] = a, ["d.example"] = false,
            none = moongate.PASSTHROUGH]])
        assert.equal("web: a.example: EC certificate no longer served", lines[1])
        assert.matches("^web: a.example: RSA certificate replaced, valid until %d+%-", lines[2])
        assert.matches("^web: a.example: cipher suites ECDHE%-ECDSA.* no longer offered$", lines[3])
        assert.equal(3, #lines)
    end)

    it("says it once for all names that change alike", function()
        local names = {}
        for i = 1, 8 do
            names[i] = ('["n%d.example"] = a'):format(i)
        end
        local list = table.concat(names, ", ")
        start_named(list, "a.alpn_protocols = { 'h2', 'http/1.1' }")
        assert.same({ "web: n1.example, n2.example, n3.example, n4.example, n5.example and 3 more: " ..
            "ALPN protocol h2 no longer offered" }, changes(named(list, "a.alpn_protocols = { 'http/1.1' }")))
    end)

    it("does not call it a loss where names or a function decide from now on", function()
        start { "web" }
        assert.same({ "web: now TLS by name (was TLS)", "web: a.example: now served" },
            changes(named '["a.example"] = a'))
        assert.same({ "web: now TLS by a function (was TLS by name)", "web: a.example: no longer served" },
            changes(named "function() return a end"))
        assert.same({ "web: now TLS (was TLS by a function)" }, changes(script { "web" }))
    end)

    it("tells of named contexts that a function chooses", function()
        local function of(names, policy)
            local parts = {}
            for i, name in ipairs(names) do
                parts[i] = ("local c%d = server() c%d.name = %q\n"):format(i, i, name)
                    .. (policy and ("c%d.min_version = 'TLS1_3'\n"):format(i) or "")
            end
            local chosen = {}
            for i = 1, #names do
                chosen[i] = "c" .. i
            end
            return table.concat(parts) .. ([[
                local contexts = { %s }
                moongate.listen { name = "web", address = "unix:$dir/web", backend = "127.0.0.1:8080",
                    tls = function() return contexts[1] end }]]):format(table.concat(chosen, ", "))
        end
        web = proxy.start { script = of { "one", "same", "same" }, workers = 1, settings = 'log_level = "debug",' }
        local lines = changes(of({ "one", "same", "same" }, true))
        assert.same({ 2, "context one: TLS 1.2 no longer offered" }, { #lines, lines[1] })
        assert.matches("^context one: cipher suites ECDHE.* no longer offered$", lines[2])
        assert.same({ "context one removed", "context two added" }, changes(of({ "two", "same", "same" }, true)))
    end)

    it("does not tell of every name of a listener that comes or goes", function()
        start { "old" }
        assert.same({ "listener old removed", "listener web added" }, changes(named '["a.example"] = a'))
        assert.same({ "listener old added", "listener web removed" }, changes(script { "old" }))
    end)
end)
