-- Every wrong key and every wrong value is named, with the line and with what would be right.

local bench = require "bench"
local checks = require "checks"

-- { Lua, what the error says after "moongate.lua:1: " }
local WRONG = {
    { [[moongate.listen { adress = "127.0.0.1:1" }]],
        'listen: unknown option "adress" (did you mean "address"?)' },
    { [[moongate.listen { address = "127.0.0.1:1", backend = "a:1", xyzzy_plugh = 1 }]],
        'listen: unknown option "xyzzy_plugh"' },
    { [[moongate.listen { "127.0.0.1:1" }]], "listen: expected options like name = value, found one without a name" },
    { [[moongate.listen "127.0.0.1:1"]], "listen: expected a table of options, got string" },
    { [[moongate.listen { backend = "a:1" }]],
        'listen: address is required: "host:port", "*:port" or "unix:/path"' },
    { [[moongate.listen { address = "127.0.0.1:1" }]],
        'listen: backend is required: "host:port", a Backend or a function of a Conn' },
    { [[moongate.listen { address = {}, backend = "a:1" }]], "listen: address: an empty list" },
    { [[moongate.listen { address = 80, backend = "a:1" }]],
        'listen: address: expected "host:port" or a list of these, got number' },
    { [[moongate.listen { address = { "127.0.0.1:1", "127.0.0.1:1" }, backend = "a:1" }]],
        "listen: address: 127.0.0.1:1 is given twice" },
    { [[moongate.listen { address = "127.0.0.1:1", backend = 5 }]],
        'listen: backend: expected "host:port", "unix:/path", a Backend or a function, got number' },
    { [[moongate.listen { address = "127.0.0.1:1", backend = "a:1", name = "" }]], "listen: name: an empty string" },
    { [[moongate.listen { address = "127.0.0.1:1", backend = "a:1", tls = 1 }]],
        "listen: tls: expected an SSLContext, a ServerNames or a function of a Hello, got number" },
    { [[moongate.listen { address = "127.0.0.1:1", backend = "a:1", tls = {} }]],
        "listen: tls: a table of names is made by moongate.servernames{...}" },
    { [[moongate.listen { address = "127.0.0.1:1", backend = "a:1", idle_timeout = "10" }]],
        "listen: idle_timeout: expected a number of seconds or false, got string" },
    { [[moongate.listen { address = "127.0.0.1:1", backend = "a:1", idle_timeout = 0 }]],
        "listen: idle_timeout: expected a number of seconds from 0.001 to 4294967, or false, got 0" },
    { [[moongate.listen { address = "127.0.0.1:1", backend = "a:1", max_lifetime = 0/0 }]],
        "listen: max_lifetime: expected a number of seconds from 0.001 to 4294967, or false, got -nan" },
    { [[moongate.listen { address = "127.0.0.1:1", backend = "a:1", max_connections = 1.5 }]],
        "listen: max_connections: expected a whole number from 1 to 1000000000, got 1.5" },
    { [[moongate.listen { address = "127.0.0.1:1", backend = "a:1", backlog = 0 }]],
        "listen: backlog: expected a whole number from 1 to 65535, got 0" },
    { [[moongate.listen { address = "127.0.0.1:1", backend = "a:1", tcp_nodelay = 1 }]],
        "listen: tcp_nodelay: expected true or false, got number" },
    { [[moongate.listen { address = "127.0.0.1:1", backend = "a:1" }
        moongate.listen { address = "127.0.0.1:1", backend = "a:1", name = "b" }]],
        'listen: address: 127.0.0.1:1 belongs to listener "127.0.0.1:1" already', line = 2 },
    { [[moongate.listen { address = "127.0.0.1:1", backend = "a:1", name = "b" }
        moongate.listen { address = "127.0.0.1:2", backend = "a:1", name = "b" }]],
        'listen: name: there is already a listener "b"', line = 2 },
    { [[moongate.listen { address = "127.0.0.1:1", backend = "a:1", handshake_rate = 5 }]],
        "listen: handshake_rate: expected a table of options, got number" },
    { [[moongate.listen { address = "127.0.0.1:1", backend = "a:1", handshake_rate = { burst = 5 } }]],
        "listen: handshake_rate: expected per_second, per_ip or both" },
    { [[moongate.listen { address = "127.0.0.1:1", backend = "a:1", handshake_rate = { per_secnd = 5 } }]],
        'listen: handshake_rate: unknown option "per_secnd" (did you mean "per_second"?)' },
    { [[moongate.listen { address = "127.0.0.1:1", backend = "a:1", handshake_rate = { per_second = 0 } }]],
        "listen: handshake_rate: per_second: expected a number from 0.001 to 1000000, got 0" },
    { [[moongate.listen { address = "127.0.0.1:1", backend = "a:1", handshake_rate = { per_ip = 1, burst = 0.5 } }]],
        "listen: handshake_rate: burst: expected a number from 1 to 1000000, got 0.5" },
    { [[moongate.listen { address = "127.0.0.1:1", backend = "a:1", handshake_rate = { per_second = 5 } }]],
        "listen: 127.0.0.1:1: handshake_rate: needs tls, and the listener has none" },
    { [[moongate.listen { address = "127.0.0.1:1", backend = "a:1", max_connections_per_ip = 0 }]],
        "listen: max_connections_per_ip: expected a whole number from 1 to 1000000000, got 0" },
    { [[moongate.listen { address = "127.0.0.1:1", backend = "a:1", tls_optional = "yes" }]],
        "listen: tls_optional: expected true or false, got string" },
    { [[moongate.listen { address = "127.0.0.1:1", backend = "a:1", accept_proxy = "127.0.0.1" }]],
        "listen: accept_proxy: expected true, false or a list of networks, got string" },
    { [[moongate.listen { address = "127.0.0.1:1", backend = "a:1", accept_proxy = {} }]],
        "listen: accept_proxy: an empty list of networks; false: nobody sends a header" },
    { [[moongate.listen { address = "127.0.0.1:1", backend = "a:1", accept_proxy = { true } }]],
        'listen: accept_proxy: expected networks like "10.0.0.0/8", got boolean' },
    { [[moongate.listen { address = "127.0.0.1:1", backend = "a:1", accept_proxy = { "10.0.0.0/33" } }]],
        'listen: accept_proxy: "10.0.0.0/33": behind the slash a number from 0 to 32 is expected' },
    { [[moongate.listen { address = "127.0.0.1:1", backend = "a:1", accept_proxy = { "::1", "localhost" } }]],
        'listen: accept_proxy: "localhost": expected an IP address or a network like 10.0.0.0/8 or 2001:db8::/32' },
    { [[moongate.listen { address = "127.0.0.1:1", backend = "a:1", tls_optional = true }]],
        "listen: 127.0.0.1:1: tls_optional: needs tls, and the listener has none" },

    { [[moongate.backend { addresses = "a:1" }]], 'backend: unknown option "addresses" (did you mean "address"?)' },
    { [[moongate.backend { }]], 'backend: address is required: "host:port", "unix:/path" or a list' },
    { [[moongate.backend { address = { "a:1", 2 } }]],
        'backend: address: expected "host:port", "unix:/path" or a list of these, got number' },
    { [[moongate.backend { address = { { address = "a:1", weight = 0 } } }]],
        "backend: weight: expected a whole number from 1 to 65535, got 0: leave the address out, or say " ..
        "backup = true if it is to serve when no other can" },
    { [[moongate.backend { address = { { address = "a:1", backup = "yes" } } }]],
        "backend: backup: expected true or false, got string" },
    { [[moongate.backend { address = { { address = "a:1", wieght = 2 } } }]],
        'backend: unknown option "wieght" (did you mean "weight"?)' },
    { [[moongate.backend { address = { { weight = 2 } } }]], "backend: address: an entry without address" },
    { [[moongate.backend { address = {} }]], "backend: address: an empty list" },
    { [[moongate.backend { address = "a:1", tls = "yes" }]],
        "backend: tls: expected an SSLContext, true or false, got string" },
    { [[moongate.backend { address = "a:1", servername = 5 }]],
        "backend: servername: expected a string or a function of a Conn, got number" },
    { [[moongate.backend { address = "a:1", balance = "frist" }]],
        'backend: balance: expected "random_two", "round_robin", "least_connections", "source_hash" or "first", ' ..
        'got "frist"' },
    { [[moongate.backend { address = "a:1", connect_timeout = false }]],
        "backend: connect_timeout: expected a number of seconds, got boolean" },
    { [[moongate.backend { address = "a:1", send_proxy = "v3" }]],
        'backend: send_proxy: expected "v1" or "v2", got "v3"' },
    { [[moongate.backend { address = "a:1", send_proxy = true }]],
        'backend: send_proxy: expected "v1" or "v2", got boolean' },
    { [[moongate.backend { address = "a:1", send_proxy = "v2", proxy_tlvs = "text" }]],
        'backend: proxy_tlvs: expected a table like { [0xE0] = "text" }, got string' },
    { [[moongate.backend { address = "a:1", send_proxy = "v2", proxy_tlvs = { "text" } }]],
        "backend: proxy_tlvs: 1 is ALPN, which moongate writes itself where it has one; yours are "
        .. "0xE0 to 0xEF, and 0xF0 to 0xF7 for experiments" },
    { [[moongate.backend { address = "a:1", send_proxy = "v2", proxy_tlvs = { [0xDF] = "text" } }]],
        "backend: proxy_tlvs: expected types from 0xE0 to 0xEF, and 0xF0 to 0xF7 for experiments, got 223" },
    { [[moongate.backend { address = "a:1", send_proxy = "v2", proxy_tlvs = { [0x1E0] = "text" } }]],
        "backend: proxy_tlvs: expected types from 0xE0 to 0xEF, and 0xF0 to 0xF7 for experiments, got 480" },
    { [[moongate.backend { address = "a:1", send_proxy = "v2", proxy_tlvs = { [224.5] = "text" } }]],
        "backend: proxy_tlvs: expected types as whole numbers (0xE0 to 0xEF, and 0xF0 to 0xF7 for experiments), "
        .. "got 224.5" },
    { [[moongate.backend { address = "a:1", send_proxy = "v2", proxy_tlvs = { ["0xE0"] = "text" } }]],
        'backend: proxy_tlvs: the key "0xE0" is a string (did you mean [0xE0]?)' },
    { [[moongate.backend { address = "a:1", send_proxy = "v2", proxy_tlvs = { e1 = "text" } }]],
        'backend: proxy_tlvs: the key "e1" is a string (did you mean [0xE1]?)' },
    { [[moongate.backend { address = "a:1", send_proxy = "v2", proxy_tlvs = { alpn = "text" } }]],
        'backend: proxy_tlvs: expected types as numbers (0xE0 to 0xEF, and 0xF0 to 0xF7 for experiments), got "alpn"' },
    { [[moongate.backend { address = "a:1", send_proxy = "v2", proxy_tlvs = { [0xE0] = 5 } }]],
        "backend: proxy_tlvs: [0xE0]: expected a string or a function of a Conn, got number" },
    { [[moongate.backend { address = "a:1", send_proxy = "v2", proxy_tlvs = { [0xE0] = ("x"):rep(1025) } }]],
        "backend: proxy_tlvs: [0xE0]: longer than 1024 bytes" },
    { [[moongate.backend { address = "a:1", proxy_tlvs = { [0xE0] = "x" } }]],
        'backend: a:1: proxy_tlvs: only a header of version 2 carries them: send_proxy = "v2"' },
    { [[moongate.backend { address = "a:1", send_proxy = "v1", proxy_tlvs = { [0xE0] = "x" } }]],
        'backend: a:1: proxy_tlvs: only a header of version 2 carries them: send_proxy = "v2"' },
    { [[moongate.backend { address = "a:1", health = 5 }]],
        "backend: health: expected a table, true or false, got number" },
    { [[moongate.backend { address = "a:1", health = { intervall = 1 } }]],
        'backend: health: unknown option "intervall" (did you mean "interval"?)' },
    { [[moongate.backend { address = "a:1", health = { interval = 0 } }]],
        "backend: health: interval: expected a number of seconds from 0.01 to 86400, got 0" },
    { [[moongate.backend { address = "a:1", health = { fall = 1.5 } }]],
        "backend: health: fall: expected a whole number from 1 to 1000, got 1.5" },
    { [[moongate.backend { address = "a:1", health = { kind = "http" } }]],
        'backend: health: kind: expected "tcp" or "tls", got "http"' },
    { [[moongate.backend { address = "a:1", health = { send = "" } }]],
        "backend: health: send: expected 1 to 4096 bytes, got 0" },
    { [[moongate.backend { address = "a:1", health = { expect = ("x"):rep(4097) } }]],
        "backend: health: expect: expected 1 to 4096 bytes, got 4097" },
    { [[moongate.listen { address = "127.0.0.1:1", backend = moongate.backend { address = "a:1",
            health = { kind = "tls" } } }]], 'backend: a:1: health: kind = "tls" needs the backend\'s tls' },
    { [[moongate.backend { address = "a:1", max_connections = 0 }]],
        "backend: max_connections: expected a whole number from 1 to 2147483647, got 0" },
    { [[moongate.backend { address = "a:1", on_down = "panic" }]],
        'backend: on_down: expected "keep" or "close", got "panic"' },
    { [[moongate.backend { address = "a:1", source = "10.0.0.1:80" }]],
        'backend: source: expected an IP address of this machine (without port), or "client", got "10.0.0.1:80"' },
    { [[moongate.backend { address = "a:1", source = true }]], "backend: source: expected a string, got boolean" },
    { [[moongate.reply(5)]], "reply: expected the text to answer with, got number" },

    { [[moongate.settings { wrokers = 1 }]], 'settings: unknown option "wrokers" (did you mean "workers"?)' },
    { [[moongate.settings { workers = 0 }]], "settings: workers: expected a whole number from 1 to 256, got 0" },
    { [[moongate.settings { log_level = "loud" }]],
        'settings: log_level: expected "debug", "info", "warn" or "error", got "loud"' },
    { [[moongate.settings { log_format = 1 }]], 'settings: log_format: expected "text" or "json", got number' },
    { [[moongate.settings { log = false }]], 'settings: log: expected a path, "stderr" or "syslog", got boolean' },
    { [[moongate.settings { access_log = true }]],
        'settings: access_log: expected a path, "stderr" or false, got boolean' },
    { [[moongate.settings { drain_timeout = -1 }]],
        "settings: drain_timeout: expected a number of seconds from 0 to 4294967, or false, got -1" },
    { [[moongate.settings { watchdog = false }]], "settings: watchdog: expected a number of seconds, got boolean" },
    { [[moongate.settings { watchdog = 0.15 }]], -- workers give a sign of life every 0.2 s
        "settings: watchdog: expected a number of seconds from 1 to 4294967, got 0.15" },
    { [[moongate.settings { callback_budget = 0 }]],
        "settings: callback_budget: expected a number of seconds from 0.001 to 3600, got 0" },
    { [[moongate.settings { ticket_secret = "short" }]],
        "settings: ticket_secret: expected a string of 32 to 1024 bytes, or { current, previous }" },
    { [[moongate.settings { ticket_secret = { ("x"):rep(32), "short" } }]],
        "settings: ticket_secret: expected a string of 32 to 1024 bytes, or { current, previous }" },
    { [[moongate.settings { ticket_secret = {} }]], "settings: ticket_secret: expected { current, previous }" },
    { [[moongate.settings { refuse_reload_above = 2 }]],
        "settings: refuse_reload_above: expected a number from 0 to 1, or false, got 2" },
    { [[moongate.settings { user = 0 }]], "settings: user: expected a string, got number" },
    { [[moongate.settings {} moongate.settings {}]], "settings: called twice; one call sets everything" },
}

describe("an option", function()

    for _, case in ipairs(WRONG) do
        it("is refused: " .. case[1], function()
            local result = checks.run(case[1])
            assert.equal(1, result.code)
            assert.equal(("moongate.lua:%d: %s"):format(case.line or 1, case[2]), result.last)
        end)
    end

    it("of every kind is taken", function()
        local result = checks.run([[
            moongate.settings { workers = 2, user = "nobody", group = "nogroup", drain_timeout = false,
                drain_delay = 0.5,
                watchdog = 5, reload_timeout = 60, generation_timeout = 3600, log = "x.log", log_format = "json",
                log_level = "debug", access_log = false, callback_budget = 0.5, ticket_secret = { ("x"):rep(32) },
                hello_ring = 0, refuse_reload_above = 0.25, ticket_rotation = 60 }
            local backend = moongate.backend { address = { "a:1", { address = "[::1]:2", weight = 1, backup = false },
                "unix:/run/x.sock" }, name = "b", tls = false, send_proxy = false,
                balance = "round_robin", connect_timeout = 0.1, resolve_interval = 5, on_down = "keep" }
            moongate.backend { address = { address = "a:1", weight = 65535, backup = true }, health = true,
                max_connections = 1, on_down = "close", balance = "source_hash" }
            moongate.backend { address = "a:1", health = false, balance = "first" }
            moongate.backend { address = "a:1", tls = true, servername = "x",
                balance = "least_connections", health = { interval = 0.05,
                timeout = 1, rise = 1, fall = 1, rest = 0.5, kind = "tls", send = "\0", expect = "." } }
            moongate.listen { address = { "127.0.0.1:1", "[::1]:1", "*:2", "unix:/tmp/x", "unix:@x" }, name = "l",
                backend = backend, accept_proxy = false, max_connections = 5, max_connections_per_ip = 2,
                handshake_timeout = 1.5,
                idle_timeout = false, max_lifetime = 60, half_close_timeout = 1, tls_optional = false, backlog = 1,
                tcp_nodelay = false, tcp_keepalive = false }
        ]])
        assert.equal(0, result.code, result.err)
        assert.equal("", result.err)
    end)
end)

describe("an object", function()
    teardown(bench.cleanup)

    local function passes(script)
        local result = checks.run(script)
        assert.equal(0, result.code, result.err)
    end

    it("shows its options and takes new ones while the script runs", function()
        passes([[
            local l = moongate.listen { address = { "127.0.0.1:1", "*:2" }, backend = "localhost:80", idle_timeout = 5 }
            assert(l.name == "127.0.0.1:1" and l.address[2] == "*:2" and l.idle_timeout == 5)
            assert(l.half_close_timeout == 60 and l.max_connections == nil and l.max_lifetime == false)
            assert(l.backend.name == "localhost:80" and l.backend.address[1] == "localhost:80")
            assert(l.frozen == false and l.backend.frozen == false and tostring(l):match "^Listener: ")
            l.handshake_rate = { per_second = 10, per_ip = 2 }
            assert(l.handshake_rate.per_second == 10 and l.handshake_rate.per_ip == 2 and l.handshake_rate.burst == nil)
            l.handshake_rate = nil
            assert(l.handshake_rate == nil and l.tls_optional == false and l.max_connections_per_ip == nil)
            l.idle_timeout = 7
            assert(l.idle_timeout == 7)
            l.idle_timeout = nil
            assert(l.idle_timeout == 600)
            l.backend = moongate.echo()
            assert(l.backend.name == "echo" and l.backend.address == nil)
            local function message(f) return (select(2, pcall(f)):gsub("^[^:]+:%d+: ", "")) end
            assert(message(function() l.idle_timeout = "x" end) ==
                "Listener: idle_timeout: expected a number of seconds or false, got string")
            assert(l.idle_timeout == 600)
            assert(tostring(select(2, pcall(function() l.name = "x" end))):match
                "NoMethodError: Listener.name: is given once, when the object is made$")
            assert(tostring(select(2, pcall(function() l.idel_timeout = 1 end))):match
                "NoMethodError: Listener.idel_timeout: no such field %(did you mean idle_timeout%?%)")
            l.accept_proxy = { "10.1.0.0/16", "::1", "unix:" }
            assert(l.accept_proxy[1] == "10.1.0.0/16" and l.accept_proxy[2] == "::1/128" and #l.accept_proxy == 3)
            l.accept_proxy = true
            assert(l.accept_proxy == true)
            l.accept_proxy = nil
            assert(l.accept_proxy == false)
            local b = moongate.backend { address = "a:1" }
            assert(b.send_proxy == false and b.proxy_tlvs == nil)
            b.send_proxy, b.proxy_tlvs = "v2", { [0xE0] = "text", [0xF7] = print }
            assert(b.proxy_tlvs[0xE0] == "text" and b.proxy_tlvs[0xF7] == print)
            b.proxy_tlvs = {}
            assert(b.proxy_tlvs == nil)
            b.servername, b.tls = "name", true
            assert(b.servername == "name" and tostring(b.tls):match "^SSLContext")
            assert(not pcall(function() moongate.echo().servername = "x" end))
            assert(b.health == nil and b.max_connections == nil and b.on_down == "keep")
            b.health = { fall = 2 }
            assert(b.health.fall == 2 and b.health.rest == 10 and b.health.send == nil)
            b.health, b.max_connections, b.on_down = false, 7, "close"
            assert(b.health == false and b.max_connections == 7 and b.on_down == "close")
        ]])
    end)

    it("gives out tables that cannot be written to, and says what would be right", function()
        passes([[
            local l = moongate.listen { address = { "127.0.0.1:1", "*:2" }, backend = "localhost:80",
                handshake_rate = { per_second = 10 }, accept_proxy = { "10.0.0.0/8" } }
            local b = moongate.backend { address = { "a:1", { address = "b:2", weight = 2 } },
                health = { interval = 3 }, proxy_tlvs = { [0xE0] = "text" }, send_proxy = "v2" }
            local function refuses(f, what)
                local ok, e = pcall(f)
                assert(not ok and e.class == "NoMethodError" and tostring(e):find(what, 1, true), tostring(e))
                assert(tostring(e):match "^[^:]+:%d+: ")
            end
            refuses(function() b.health.interval = 5 end, "Backend.health.interval: read-only: give health = { … } " ..
                "when the Backend is made, or assign a whole table")
            refuses(function() b.health.intervall = 5 end, "Backend.health.intervall: read-only: ")
            refuses(function() b.address[2].weight = 3 end,
                "Backend.address[2].weight: read-only: give address = { … } when the Backend is made")
            refuses(function() b.address[3] = "c:3" end, "Backend.address[3]: read-only: give address = { … } when")
            refuses(function() table.insert(b.address, "c:3") end, "Backend.address[3]: read-only: ")
            refuses(function() b.proxy_tlvs[0xE0] = nil end, "Backend.proxy_tlvs[224]: read-only: give proxy_tlvs = {")
            refuses(function() l.address[1] = "*:3" end,
                "Listener.address[1]: read-only: give address = { … } when the Listener is made")
            refuses(function() l.handshake_rate.per_ip = 1 end, "Listener.handshake_rate.per_ip: read-only: give")
            refuses(function() l.accept_proxy["a b"] = 1 end, "Listener.accept_proxy[a b]: read-only: give")
            assert(b.health.interval == 3 and b.address[2].weight == 2 and b.address[2].address == "b:2")
            assert(#b.address == 2 and table.concat(l.address, " ") == "127.0.0.1:1 *:2")
            assert(getmetatable(b.health) == "read-only" and not pcall(setmetatable, b.health, nil))
            local seen = {}
            for i, address in ipairs(l.address) do seen[i] = address end
            for name, value in pairs(b.health) do seen[name] = value end
            assert(seen[2] == "*:2" and seen.interval == 3 and seen.kind == nil and seen.rise == 2)
            -- and that can be given to others
            local c = moongate.backend { address = b.address, health = b.health, proxy_tlvs = b.proxy_tlvs,
                send_proxy = "v2", name = "c" }
            assert(#c.address == 2 and c.address[2].weight == 2 and c.health.interval == 3)
            assert(c.proxy_tlvs[0xE0] == "text")
            local d = moongate.backend { address = { "d:1", b.address[2] }, health = { fall = 7 }, name = "d" }
            assert(d.address[2].address == "b:2")
            d.health = moongate.backend { address = "e:1", health = { fall = 7 } }.health
            assert(d.health.fall == 7 and d.health.interval == nil) -- it does not probe now
            l.accept_proxy, l.handshake_rate = l.accept_proxy, nil
            assert(l.accept_proxy[1] == "10.0.0.0/8")
        ]])
    end)

    it("takes a network with more than its prefix for the network, and says so", function()
        local result = checks.run([[
            moongate.listen { address = "127.0.0.1:1", backend = "a:1", accept_proxy = { "10.1.2.3/8" } }
        ]])
        assert.equal(0, result.code, result.err)
        assert.matches('listen: accept_proxy: "10.1.2.3/8" is taken for 10.0.0.0/8', result.out, 1, true)
    end)

    it("made from a failed call is not there", function()
        passes([[
            local ok = pcall(moongate.listen, { address = "127.0.0.1:1", backend = "a:1", idle_timeout = "x" })
            assert(not ok)
            moongate.listen { address = "127.0.0.1:1", backend = "a:1" }
        ]])
    end)

    it("takes unused contexts in the order in which they were made", function()
        local result = checks.run([[
            unused = {}
            for i = 1, 20 do
                unused[i] = openssl.SSL.SSLContext.new()
                unused[i].name = "number " .. i
                if i > 5 then unused[i].ca_file = i .. ".pem" end
            end
            moongate.listen { address = "127.0.0.1:1", backend = "a:1" }
        ]])
        assert.equal(1, result.code, result.out)
        assert.matches("6.pem: No such file or directory$", result.last)
        assert.is_nil(result.last:find("1%d.pem"), result.last)
    end)

    it("leaves no backend behind that nothing uses", function()
        local result = checks.run([[
            moongate.listen { address = "127.0.0.1:1", backend = "a:1" }
            assert(not pcall(moongate.listen, { address = "127.0.0.1:1", backend = "b:1" }))
            assert(not pcall(moongate.listen, { address = "127.0.0.1:2", backend = "c:1", idle_timeout = "x" }))
            moongate.listen { address = "127.0.0.1:3", backend = "d:1" }.backend = "e:1"
            moongate.backend { address = "f:1" }
        ]], { "--json" })
        local names = {}
        for _, backend in ipairs(result.json().backends) do
            names[#names + 1] = backend.name
        end
        table.sort(names)
        assert.same({ "a:1", "e:1", "f:1" }, names)
    end)

    it("cannot be freed twice, nor taken for another", function()
        passes([[
            moongate.listen { address = "127.0.0.1:1", backend = "a:1" }
            local b = moongate.echo()
            assert(getmetatable(b) == "Backend")
            assert(not pcall(moongate.listen, { address = "127.0.0.1:2", backend = b, tls = b }))
        ]])
    end)

    it("are many, and what one has, no other gets", function()
        passes([[
            for i = 1, 2000 do
                moongate.listen { name = "l" .. i, address = "unix:/run/" .. i, backend = ("a:%d"):format(i) }
            end
            local function refused(options)
                local ok, fault = pcall(moongate.listen, options)
                assert(not ok)
                return fault
            end
            assert(refused { name = "l1500", address = "unix:/run/free", backend = "a:1" }
                :find('name: there is already a listener "l1500"', 1, true))
            assert(refused { name = "new", address = { "unix:/run/free", "unix:/run/1999" }, backend = "a:1" }
                :find('address: unix:/run/1999 belongs to listener "l1999" already', 1, true))
            moongate.listen { name = "new", address = "unix:/run/free", backend = "a:1" } -- refusals take nothing
        ]])
    end)

    it("whose context cannot be set up is named with its line", function()
        local result = checks.run([[
            local ctx = openssl.SSL.SSLContext.new()
            ctx.name = "half"
            ctx.cert = openssl.X509.Certificate.load_file("$rsa_crt")[1]
            moongate.listen {
                name = "web", address = "127.0.0.1:1", tls = ctx, backend = "a:1" }
        ]])
        assert.equal(1, result.code)
        assert.matches("^moongate.lua:[45]: listen: web: tls %(context half%): .*key", result.last)
    end)
end)
