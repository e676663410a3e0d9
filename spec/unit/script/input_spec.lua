-- Bad input is refused when the script is loaded, with where, what and what would be right. What this machine alone
-- lacks is a warning.

local bench = require "bench"
local checks = require "checks"
local process = require "process"
local socket = require "socket"
socket.unix = require "socket.unix"

teardown(bench.cleanup)

-- Calls `call` with each of the values, all in one script: { value as Lua, what the error says; nil: it is taken }.
local function each(name, call, cases)
    describe(name, function()
        for part = 1, #cases, 40 do
            it(("is taken or refused (%d to %d)"):format(part, math.min(part + 39, #cases)), function()
                local lines = { [[local made, wrong = 0, {}
                    local function try(f, want)
                        local ok, e = pcall(f)
                        e = tostring(e)
                        if want and (ok or not e:find("moongate.lua:%d+: ") or not e:find(want, 1, true)) then
                            wrong[#wrong + 1] = ("%s, not %q"):format(ok and "taken" or e, want)
                        elseif not want and not ok then
                            wrong[#wrong + 1] = e
                        end
                    end]] }
                for i = part, math.min(part + 39, #cases) do
                    local value, want = cases[i][1], cases[i][2]
                    lines[#lines + 1] = ("made = made + 1 try(function() %s end, %s)")
                        :format(call:gsub("VALUE", (value:gsub("%%", "%%%%"))), want and ("%q"):format(want) or "nil")
                end
                lines[#lines + 1] = [[moongate.listen { name = "last", address = "unix:@last", backend = "a:1" }
                    if #wrong > 0 then error(table.concat(wrong, " | ")) end]]
                local result = checks.run(table.concat(lines, "\n"))
                assert.equal(0, result.code, result.err)
            end)
        end
    end)
end

-- ---- tables --------------------------------------------------------------------------------------

each("a table of a listener", [[
    moongate.listen { name = "l" .. made, address = "unix:@" .. made, backend = "a:1", VALUE }]], {
    { 'accept_proxy = { "10.0.0.0/8", "unix:" }' },
    { 'accept_proxy = { "10.0.0.0/8", x = "y" }',
        'listen: accept_proxy: unknown option "x" in a list of networks like "10.0.0.0/8"' },
    { 'accept_proxy = { networks = { "10.0.0.0/8" } }', 'accept_proxy: unknown option "networks" in a list' },
    { 'accept_proxy = { [1] = "10.0.0.0/8", [3] = "::1" }',
        "accept_proxy: a list with gaps: 2 entries, and the last one is number 3" },
    { 'accept_proxy = { "10.0.0.0/8", [1.5] = "::1" }', "found 1.5 as a key" },
    { 'accept_proxy = { "10.0.0.0/8", [true] = "::1" }', "found true as a key" },
    { 'accept_proxy = { "10.0.0.0/8\\0" }', "accept_proxy: the string contains a zero byte" },
    { 'handshake_rate = { per_second = 1, brust = 5 }', 'unknown option "brust" (did you mean "burst"?)' },
    { 'handshake_rate = { per_second = "1" }', "per_second: expected a number, got string" },
    { '["idle_timeout\\0x"] = 5', 'unknown option "idle_timeout\\x00x"' },
    { 'tls = false', "listen: tls: expected an SSLContext" },
    { 'address = { "unix:@a", mode = "0660" }',
        'listen: address: "mode" is an option of one entry, not of the list: { address = "...", mode = ... }' },
    { 'address = { "unix:@b", onwer = "root" }', 'listen: address: unknown option "onwer" (did you mean "owner"?)' },
    { 'address = { "unix:@c", xyzzy_plugh = "root" }', 'unknown option "xyzzy_plugh" in a list of addresses' },
    { 'address = { "unix:@d", nil, "unix:@e" }', "address: a list with gaps" },
    { 'address = { { address = "unix:/run/d", mod = "0660" } }', 'unknown option "mod" (did you mean "mode"?)' },
    { 'address = { { address = "unix:/run/d", mode = 660 } }', "mode: expected octal digits in a string" },
    { 'backend = "a:1\\0x"', "listen: backend: the string contains a zero byte" },
})

each("a table of a backend", [[moongate.backend { name = "b" .. made, address = "a:1", VALUE }]], {
    { 'address = { "a:1", { address = "b:1", weight = 2 } }' },
    { 'address = { "a:1", weight = 2 }', 'backend: address: "weight" is an option of one entry, not of the list' },
    { 'address = { "a:1", wieght = 2 }', 'backend: address: unknown option "wieght" (did you mean "weight"?)' },
    { 'address = { "a:1", nil, "b:1" }', "backend: address: a list with gaps" },
    { 'health = { intreval = 1 }', 'backend: health: unknown option "intreval" (did you mean "interval"?)' },
    { 'health = { "tcp" }', "backend: health: expected options like name = value" },
    { 'health = { fall = "3" }', "backend: health: fall: expected a whole number, got string" },
    { 'send_proxy = "v2", proxy_tlvs = { [0xE0] = "x", [0xE1] = true }', "proxy_tlvs: [0xE1]: expected a string" },
})

describe("settings", function()
    it("take a list of secrets, and nothing in it that is none", function()
        for secrets, want in pairs {
            ['{ ("x"):rep(32), ("y"):rep(32) }'] = false,
            ['{ ("x"):rep(32), previous = ("y"):rep(32) }'] = 'ticket_secret: unknown option "previous" in a list of',
            ['{ ("x"):rep(32), nil, ("y"):rep(32) }'] = "ticket_secret: a list with gaps",
        } do
            local result = checks.run(("moongate.settings { ticket_secret = %s }\n"):format(secrets) ..
                [[moongate.listen { address = "unix:@l", backend = "a:1" }]])
            assert.equal(want and 1 or 0, result.code, result.err)
            assert.matches(want or "", result.last, 1, true)
        end
    end)
end)

each("arguments of a program", "moongate.command(VALUE)", {
    { '{ "true", "x" }' },
    { '{ "true", "x", shell = true }', 'command: arguments: unknown option "shell" in a list of strings' },
    { '{ "true", nil, "x" }', "command: arguments: a list with gaps" },
})

-- ---- addresses and names ---------------------------------------------------------------------------

local NEITHER = "is neither an IP address nor a host name: "
local HOSTS = {
    { '"a-b.example.com.:80"' }, { '"_sip._tcp.example.com:80"' }, { '"xn--bcher-kva.example:80"' },
    { '"1a.2b:80"' }, { '"1.2.3.4.example:80"' }, { '"[::1]:80"' }, { '"127.0.0.1:80"' },
    { '("a"):rep(63) .. ".b:80"' }, { '("abc."):rep(62) .. "abcde:80"' },
    { '"256.1.1.1:80"', NEITHER .. "it ends in a number, as IPv4 addresses do: these have four, from 0 to 255" },
    { '"1.2.3:80"', NEITHER .. "it ends in a number" }, { '"1.2.3.4.5:80"', NEITHER .. "it ends in a number" },
    { '"127.1:80"', NEITHER .. "it ends in a number" }, { '"0x7f000001:80"', NEITHER .. "it ends in a number" },
    { '"010.0.0.1:80"', NEITHER .. "it ends in a number" }, { '"2130706433:80"', NEITHER .. "it ends in a number" },
    { '"a..b:80"', NEITHER .. "it has an empty label" }, { '".a:80"', NEITHER .. "it has an empty label" },
    { '"a.b..:80"', NEITHER .. "it has an empty label" }, { '".:80"', NEITHER .. "it is empty" },
    { '":80"', NEITHER .. "it is empty" },
    { '("a"):rep(64) .. ".b:80"', NEITHER .. "one of its labels is longer than 63 bytes" },
    { '("abc."):rep(62) .. "abcdef:80"', NEITHER .. "it is longer than 253 bytes" },
    { '("a."):rep(5000) .. "b:80"', "the host name is longer than 253 bytes" },
    { '"-a.example:80"', NEITHER .. "one of its labels begins or ends with a hyphen" },
    { '"a-.example:80"', NEITHER .. "one of its labels begins or ends with a hyphen" },
    { '"a b:80"', NEITHER .. "it has a character that is in no host name" },
    { '" a:80"', NEITHER .. "it has a character" }, { '"a\\n:80"', '"a\\x0a:80": "a\\x0a" ' .. NEITHER .. "it has" },
    { '"a/b:80"', NEITHER .. "it has a character" }, { '"*.example:80"', NEITHER .. "it has a character" },
    { '"bücher.example:80"', NEITHER .. 'an international name is written in its ASCII form ("xn--...")' },
    { '"a:80\\n"', '"a:80\\x0a": the port must be a number from 1 to 65535' },
    { '"a:0"', "the port must be a number from 1 to 65535" },
    { '"127.0.0.1:0"', "the port must be a number from 1 to 65535" },
    { '"224.0.0.1:80"', '"224.0.0.1:80": this is a multicast address, not one of a host' },
    { '"239.255.255.255:80"', "this is a multicast address" }, { '"[ff02::1]:80"', "this is a multicast address" },
    { '"[::ffff:224.0.0.1]:80"', "this is a multicast address" },
    { '"255.255.255.255:80"', "this is the broadcast address" }, { '"223.255.255.255:80"' }, { '"[fec0::1]:80"' },
    { '"[fe80::1]:80"', 'a link-local address needs its network interface ("fe80::1%eth0")' },
    { '"[fe80::1%lo]:80"' },
    { '"[fe80::1%nowhere]:80"', "expected an IPv6 address and a network interface of this machine" },
    { '"unix:/run/a b.sock"' }, { '"unix:/run/\\n.sock"', '"unix:/run/\\x0a.sock": the path has a control character' },
    { '"unix:@\\27[31m"', "the path has a control character" },
    { '"unix:/" .. ("x"):rep(106)' }, { '"unix:/" .. ("x"):rep(107)', "the path is longer than 107 bytes" },
    { '"unix:@" .. ("x"):rep(5000)', "the path is longer than 107 bytes" },
}
each("an address of a backend", [[moongate.backend { name = "b" .. made, address = VALUE }]], HOSTS)
each("an address in a listener's backend", [[
    moongate.listen { name = "l" .. made, address = "unix:@" .. made, backend = VALUE }]], HOSTS)

each("an address to listen on", [[
    moongate.listen { name = "l" .. made, address = { "unix:@" .. made, VALUE }, backend = "a:1" }]], {
    { '"127.0.0.1:80"' }, { '"*:81"' }, { '"[fe80::1%lo]:80"' },
    { '"256.1.1.1:80"', NEITHER }, { '"224.0.0.1:80"', "this is a multicast address" },
    { '"255.255.255.255:80"', "this is the broadcast address" }, { '"[fe80::1]:80"', "needs its network interface" },
    { '"unix:/" .. ("x"):rep(107)', "the path is longer than 107 bytes" },
    { '"unix:/run/\\r"', "the path has a control character" },
})

each("two addresses to listen on", [[
    moongate.listen { name = "a" .. made, address = { VALUE }, backend = "a:1" }]], {
    { '"[::]:101", "0.0.0.0:101"' }, { '"[::]:102", "127.0.0.1:102"' }, { '"0.0.0.0:103", "[::1]:103"' },
    { '"*:104", "*:105"' }, { '"127.0.0.1:106", "127.0.0.2:106"' }, { '"*:107", "unix:/run/107"' },
    { '"*:108", "127.0.0.1:108"', "*:108 and 127.0.0.1:108 are not to be had together" },
    { '"[::1]:109", "*:109"', "[::1]:109 and *:109 are not to be had together" },
    { '"0.0.0.0:110", "127.0.0.1:110"', "are not to be had together: one has all addresses of that port" },
    { '"[::1]:111", "[::]:111"', "are not to be had together" },
    { '"*:112", "[::]:112"', "are not to be had together" },
})

each("an address beside another listener's", [[
    moongate.listen { name = "all" .. made, address = "*:" .. 1000 + 2 * made, backend = "a:1" }
    moongate.listen { name = "one" .. made, address = "127.0.0.1:" .. 1001 + 2 * made, backend = "a:1" }
    moongate.listen { name = "new" .. made, address = VALUE .. 1000 + 2 * made, backend = "a:1" }
    moongate.listen { name = "odd" .. made, address = VALUE .. 1001 + 2 * made, backend = "a:1" }]], {
    { '"unix:/run/"' },
    { '"127.0.0.2:"', "which belongs to listener \"all" }, { '"[::1]:"', "which belongs to listener \"all" },
    { '"0.0.0.0:"', "which belongs to listener \"all" },
})

local NO_NAME = "is neither a host name nor an IP address: "
each("a servername", [[moongate.backend { name = "b" .. made, address = "a:1", tls = true, servername = VALUE }]], {
    { '"a.example"' }, { '"a.example."' }, { '"192.0.2.1"' }, { '"2001:db8::1"' }, { '"_a.example"' },
    { '"a b"', 'servername: "a b" ' .. NO_NAME .. "it has a character that is in no host name" },
    { '"a..b"', NO_NAME .. "it has an empty label" }, { '"a\\nb"', '"a\\x0ab" ' .. NO_NAME },
    { '"256.1.1.1"', NO_NAME .. "it ends in a number" }, { '("a"):rep(64)', NO_NAME .. "one of its labels" },
    { '("abc."):rep(64)', NO_NAME .. "it is longer than 253 bytes" }, { '"a:443"', NO_NAME .. "it has a character" },
    { '"a\\0b"', "servername: the string contains a zero byte" }, { '""', "servername: an empty string" },
})

local TOO_LONG = "name: expected at most 255 bytes, got "
local NAMES = {
    { '"web (2)"' }, { '"größer"' }, { '("x"):rep(255)' }, { '"a\\\\b\\"c"' },
    { '("x"):rep(256)', TOO_LONG .. "256" }, { '("x"):rep(100000)', TOO_LONG .. "100000" },
    { '"a\\nb"', 'name: expected UTF-8 without control characters, got "a\\x0ab"' },
    { '"a\\27[31mb"', 'got "a\\x1b[31mb"' }, { '"a\\127"', 'got "a\\x7f"' }, { '"\\u{9b}31m"', 'got "\\xc2\\x9b31m"' },
    { '"a\\xff"', 'got "a\\xff"' }, { '"\\xc0\\x8a"', "name: expected UTF-8" },
    { '"a\\0"', "name: the string contains a zero" },
    { '""', "name: an empty string" }, { '5', "name: expected a string, got number" },
}
each("a backend's name", [[moongate.backend { address = "a:1", name = VALUE }]], NAMES)
each("a listener's name", [[moongate.listen { address = "unix:@" .. made, backend = "a:1", name = VALUE }]], NAMES)

each("a source", [[moongate.backend { name = "b" .. made, address = "a:1", source = VALUE }]], {
    { '"127.0.0.9"' }, { '"::1"' }, { '"client"' },
    { '"0.0.0.0"', "source: 0.0.0.0 is no address to connect from: without source the system chooses one" },
    { '"::"', "source: :: is no address to connect from" },
    { '"224.0.0.1"', 'source: "224.0.0.1": this is a multicast address' },
    { '"ff02::1"', "this is a multicast address" },
    { '"255.255.255.255"', "this is the broadcast address" }, { '"fe80::1"', "needs its network interface" },
    { '"eth0"', "source: expected an IP address of this machine" },
})

-- ---- what only shows at the end of the script -------------------------------------------------------

describe("options that do not go together", function()
    local cases = {
        { 'address = "a:1", servername = "x"', "servername: the backend has no tls, which is what " ..
            "sends and verifies it (tls = true, or an SSLContext)" },
        { 'address = "a:1", tls = false, servername = function() end', "servername: the backend has no tls" },
        { 'address = "a:1", tls = true, servername = "x"' },
        { 'address = "[::1]:80", source = "127.0.0.1"',
            "source: 127.0.0.1 is an IPv4 address, and none of the backend's is" },
        { 'address = { "127.0.0.1:80", "unix:/x" }, source = "::1"',
            "source: ::1 is an IPv6 address, and none of the backend's is" },
        { 'address = { "127.0.0.1:80", "[::1]:80" }, source = "::1"' },
        { 'address = { "127.0.0.1:80", "a:80" }, source = "::1"' },
        { 'address = "unix:/x", source = "client"', "source: none of the addresses is an IP address" },
    }
    for _, case in ipairs(cases) do
        it(("are %s: %s"):format(case[2] and "refused" or "taken", case[1]), function()
            local result = checks.run(([[
moongate.backend { name = "b", %s }
moongate.listen { address = "unix:@l", backend = "a:1" }]]):format(case[1]))
            assert.equal(case[2] and 1 or 0, result.code, result.err)
            if case[2] then
                assert.matches("moongate.lua:1: backend: b: " .. case[2], result.last, 1, true)
            end
        end)
    end

    it("may be given one after the other", function()
        local result = checks.run [[
            local b = moongate.backend { address = "a:1", servername = "x" }
            b.tls = true
            moongate.listen { address = "unix:@l", backend = b }]]
        assert.equal(0, result.code, result.err)
    end)
end)

describe("more than there is room for", function()
    local MANY = [[
        local addresses = {}
        for i = 1, 4096 do addresses[i] = ("10.0.%%d.%%d:80"):format(i // 250, i %% 250) end
        moongate.backend { name = "a", address = addresses }
        for i = 1, 4096 - %d do addresses[i] = ("10.1.%%d.%%d:80"):format(i // 250, i %% 250) end
        for i = 4096 - %d + 1, 4096 do addresses[i] = "a.example:80" end
        moongate.backend { name = "b", address = addresses }
        moongate.listen { address = "unix:@l", backend = "%s" }]]

    it("is refused: addresses of all backends together", function()
        assert.equal(0, checks.run(MANY:format(1, 1, "127.0.0.1:1")).code)
        local result = checks.run(MANY:format(0, 0, "127.0.0.1:1"))
        assert.equal(1, result.code)
        assert.equal("moongate.lua:7: backend: 127.0.0.1:1: address: more than 8192 addresses of all backends together",
            result.last)
    end)

    it("is refused: listeners", function()
        local script = [[for i = 1, %d do moongate.listen { address = "unix:@" .. i, backend = "a:1" } end]]
        assert.equal(0, checks.run(script:format(2048)).code)
        local result = checks.run(script:format(2049))
        assert.equal(1, result.code)
        assert.equal("moongate.lua:1: listen: more than 2048 listeners", result.last)
    end)
end)

-- ---- the machine -----------------------------------------------------------------------------------

describe("what this machine lacks", function()
    local function warnings(script, options)
        options = options or {}
        options[#options + 1] = "--json"
        local result = checks.run(script, options)
        assert.equal(0, result.code, result.err)
        return result.json().warnings, result
    end

    it("is a warning of check, for people and as data", function()
        local file, dir = bench.write("a file", ""), bench.path "nowhere"
        local script = ([[
moongate.settings { user = "nobody-of-that-name", group = "no-such-group", log = "DIR/x.log", access_log = "%s/x" }
moongate.listen { name = "foreign", address = { "192.0.2.1:80", "127.0.0.1:80", "[2001:db8::1]:80" }, backend = "a:1" }
moongate.listen { name = "paths", address = { "unix:DIR/s", "unix:%s", "unix:@l", "unix:/tmp/none" }, backend = "a:1" }
moongate.backend { name = "far", address = "a:1", source = "192.0.2.7" }
moongate.backend { name = "near", address = "a:1", source = "127.0.0.9" }
]]):format(file, file):gsub("DIR", dir)
        local refused = ": moongate run would be refused on this machine"
        local missing, paths = ": No such file or directory" .. refused, "moongate.lua:3: listen: paths: address: unix:"
        local want = {
            'settings: user: there is no user "nobody-of-that-name"' .. refused,
            'settings: group: there is no group "no-such-group"' .. refused,
            "settings: log: " .. dir .. missing,
            ("settings: access_log: %s/x: Not a directory%s"):format(file, refused),
            "moongate.lua:2: listen: foreign: address: 192.0.2.1:80: no address of this machine" .. refused,
            "moongate.lua:2: listen: foreign: address: [2001:db8::1]:80: no address of this machine" .. refused,
            paths .. ("%s/s: %s"):format(dir, dir) .. missing,
            paths .. file .. ": the file exists and is not a socket" .. refused,
            "moongate.lua:4: backend: far: source: 192.0.2.7: no address of this machine: until it is one, " ..
                'connections fail ("up: source not usable")',
        }
        assert.same(want, (warnings(script)))
        local result = checks.run(script)
        assert.equal(0, result.code)
        for _, line in ipairs(want) do
            assert.matches("warning: " .. line, result.out, 1, true)
        end
    end)

    it("is what one may not write to, too", function()
        local closed = bench.path "closed"
        bench.must { "mkdir", "-p", closed }
        bench.write("closed/access", "")
        process.chmod(closed .. "/access", tonumber("400", 8))
        process.chmod(closed, tonumber("555", 8))
        local dir = checks.directory(([[
moongate.settings { log = "%s/new", access_log = "%s/access" }
moongate.listen { name = "l", address = "unix:%s/s", backend = "a:1" }]]):format(closed, closed, closed))
        local program = bench.path "moongate" -- where nobody gets to
        bench.must { "cp", bench.moongate, program }
        local result = bench.run { program, "check", "moongate.lua", cwd = dir,
            user = bench.is_root and "nobody" or nil }
        assert.equal(0, result.code, result.err)
        for _, place in ipairs { "log: " .. closed, ("access_log: %s/access"):format(closed),
            ("address: unix:%s/s: %s"):format(closed, closed) } do
            assert.matches(place .. ": Permission denied", result.out, 1, true)
        end
    end)

    it("is asked for without a trace, and who serves already is not noticed", function()
        local path, port = bench.path "there.sock", bench.port()
        local there, tcp = socket.unix(), assert(socket.bind("127.0.0.1", port))
        assert(there:bind(path))
        assert(there:listen(1))
        there:settimeout(0)
        tcp:settimeout(0)
        local list, result = warnings(([[
moongate.settings { log = "new.log", access_log = "access.log" }
moongate.listen { name = "l", address = { "unix:%s", "127.0.0.1:%d", "unix:%s" }, backend = "127.0.0.1:%d" }]])
            :format(path, port, bench.path "other", port))
        assert.same({}, list)
        assert.same({ "timeout", "timeout" }, { select(2, there:accept()), (select(2, tcp:accept())) })
        assert.is_true(bench.exists(path))
        assert.is_false(bench.exists(bench.path "other"))
        assert.same({ "moongate.lua" }, process.list(result.dir))
        there:close()
        tcp:close()
    end)
end)

-- ---- files and time --------------------------------------------------------------------------------

describe("a file that is none", function()
    local SCRIPTS = {
        { "a certificate", 'openssl.SSL.SSLContext.new():load_certificate(PATH, PATH)' },
        { "a key", 'openssl.PKey.load_file(PATH)' },
        { "a CRL", 'openssl.SSL.SSLContext.new():load_crl(PATH)', directory = true },
        { "a response", 'openssl.SSL.SSLContext.new():load_ocsp(PATH)' },
        { "a CA", 'local c = openssl.SSL.SSLContext.new() c.ca_file = PATH c:setup()' },
        { "data", 'assert(io.open(PATH))' },
        { "a script", 'dofile(PATH)' },
    }

    for _, case in ipairs(SCRIPTS) do
        it("is named as such and never waited for: " .. case[1], function()
            local fifo, there = bench.path "fifo", bench.path "there.dir"
            if not bench.exists(fifo) then
                bench.must { "mkfifo", fifo }
                bench.must { "mkdir", there }
            end
            for path, reason in pairs {
                [fifo] = "Not a regular file, but a pipe, a socket or a device",
                ["/dev/zero"] = "Not a regular file, but a pipe, a socket or a device",
                [there] = not case.directory and "Is a directory" or nil,
            } do
                local result = checks.run((case[2]:gsub("PATH", ("%q"):format(path))))
                assert.equal(1, result.code)
                assert.matches(path .. ": " .. reason, result.last, 1, true)
            end
        end)
    end

    it("is not run either", function()
        local fifo = bench.path "script.fifo"
        bench.must { "mkfifo", fifo }
        local result = bench.run { bench.moongate, "check", fifo }
        assert.equal(1, result.code)
        assert.equal(fifo .. ": Not a regular file, but a pipe, a socket or a device\n", result.err)
    end)
end)

describe("a script that does not end", function()
    for what, loop in pairs {
        ["in Lua"] = "while true do end",
        ["in C"] = 'local _ = ("a"):rep(100):find(("a*"):rep(30) .. "b")',
        ["in a program"] = 'moongate.command { "sleep", "5" }',
    } do
        it(what .. " is refused after reload_timeout, as by a reload", function()
            local script = "moongate.settings { reload_timeout = 0.2 } " .. loop
            local result = checks.run(script)
            assert.equal(1, result.code)
            assert.equal("moongate.lua: the script did not finish within reload_timeout (0.2 s)", result.last)
            result = checks.run(script, { "--json" })
            assert.equal(1, result.code)
            local data = result.json()
            assert.is_false(data.ok)
            assert.equal(result.last, data.error)
            assert.same({ result.last }, data.errors)
        end)
    end

    it("takes along what a program of it has started", function()
        local seconds = ("61.%06d"):format(math.random(0, 999999))
        local result = checks.run(([[moongate.settings { reload_timeout = 1 }
            moongate.command { "sh", "-c", "sleep %s & sleep %s" }]]):format(seconds, seconds))
        assert.equal(1, result.code)
        bench.wait("the programs to end", function()
            return bench.run({ "pgrep", "-f", "sleep " .. seconds:gsub("%.", "[.]") }).code == 1
        end)
    end)
end)
