-- What functions of the script return is judged as what the script says; and whatever a script or a peer puts into the
-- logs, nobody can forge a line of them.

local bench = require "bench"
local pp2 = require "pp2"
local proxy = require "proxy"

teardown(proxy.cleanup)

describe("a function", function()
    -- What it returns, and what the log says of it.
    local ADDRESSES = {
        { '"256.1.1.1:80"', "it ends in a number, as IPv4 addresses do" },
        { '"a..b:80"', "it has an empty label" },
        { '"a b:80"', "it has a character that is in no host name" },
        { '"a\\n:80"', "it has a character that is in no host name" },
        { '"224.0.0.1:80"', "this is a multicast address, not one of a host" },
        { '"255.255.255.255:80"', "this is the broadcast address" },
        { '"[fe80::1]:80"', "a link-local address needs its network interface" },
        { '"127.0.0.1:0"', "the port must be a number from 1 to 65535" },
        { '"127.0.0.1:80\\0"', "the function returned an address with a zero byte" },
        { '("x"):rep(100000) .. ":80"', "the host name is longer than 253 bytes" },
        { '"unix:/" .. ("x"):rep(1000)', "the path is longer than 107 bytes" },
        { '""', "expected host:port" },
    }
    local NAMES = {
        { '"a b"', 'the function returned "a b", neither a host name nor an IP address: it has a character' },
        { '("a"):rep(64)', "one of its labels is longer than 63 bytes" },
        { '"a\\0b"', 'returned "a\\x00b", neither' },
        { '("x."):rep(1000)', "it is longer than 253 bytes" },
        { "5", "the function returned a number; expected a host name or an IP address" },
        { '""', "it is empty" },
    }
    local web, ports

    local function values(cases)
        local list = {}
        for i, case in ipairs(cases) do
            list[i] = case[1]
        end
        return table.concat(list, ", ")
    end

    setup(function()
        ports = { address = bench.port(), name = bench.port(), good = bench.port(),
            backend = bench.echo_server().port }
        web = proxy.start { workers = 1, address = ports.address, name = ports.name, good = ports.good,
            backend = ports.backend, addresses = values(ADDRESSES), names = values(NAMES), script = [[
local turns = { address = 0, name = 0 }
local function turn(kind, list)
    turns[kind] = turns[kind] + 1
    return list[ turns[kind] ]
end
moongate.listen { name = "address", address = "127.0.0.1:$address",
    backend = function() return turn("address", { $addresses }) end }
moongate.listen { name = "name", address = "127.0.0.1:$name", backend = moongate.backend {
    address = "127.0.0.1:$backend", tls = client(), servername = function() return turn("name", { $names }) end } }
moongate.listen { name = "good", address = "127.0.0.1:$good", backend = function() return "127.0.0.1:$backend" end }
]] }
    end)

    local function ends(kind, cases, reason)
        local worker = web:workers()[1]
        for _, case in ipairs(cases) do
            local seen = #web:records()
            assert.equal(0, bench.exchange({ connect = "127.0.0.1:" .. ports[kind], bytes = 10 }):finish().got)
            assert.equal(reason, web:record(seen + 1).reason, case[1])
            web:wait_log((("%q"):format(case[2]):sub(2, -2))) -- as JSON has it
        end
        assert.equal(10, bench.exchange({ connect = "127.0.0.1:" .. ports.good, bytes = 10 }):finish().got)
        assert.equal(worker, web:workers()[1])
    end

    it("that returns what is no address ends its own connection", function()
        ends("address", ADDRESSES, "route: callback failed")
    end)

    it("that returns what is no name ends its own connection", function()
        ends("name", NAMES, "up: callback failed")
    end)
end)

describe("a line of the logs", function()
    local FORGED = "x\n2026-01-01T00:00:00.000Z info  supervisor: forged\n" ..
        "time=2026-01-01T00:00:00.000Z id=1 listener=forged\27[2J"
    local CONNECTIONS = 4

    -- In text, since JSON has no room for it.
    it("is forged neither by a script's strings nor by a peer's", function()
        local ports = { refuse = bench.port(), proxied = bench.port(), loud = bench.port() }
        local web = proxy.start { workers = 1, log_format = "text", refuse = ports.refuse, proxied = ports.proxied,
            loud = ports.loud, backend = bench.echo_server().port,
            forged = ("%q"):format(FORGED):gsub("\n", "n"), script = [[
local context = server()
context.alpn_protocols = { $forged }
moongate.listen { name = "refuse", address = "127.0.0.1:$refuse", tls = context,
    backend = function(conn) return nil, "not " .. conn.servername end }
moongate.listen { name = "loud", address = "127.0.0.1:$loud",
    tls = function(hello)
        if hello.alpn_protocols[1] then error("not " .. hello.servername) end
        return nil, "not " .. hello.servername
    end, backend = moongate.echo() }
moongate.listen { name = "proxied", address = "127.0.0.1:$proxied", accept_proxy = true,
    backend = moongate.backend { address = "127.0.0.1:$backend", send_proxy = "v2" } }
print($forged)
]] }
        for _, alpn in ipairs { FORGED, false } do
            for _, kind in ipairs { "refuse", "loud" } do
                if alpn or kind == "loud" then
                    bench.exchange({ connect = "127.0.0.1:" .. ports[kind], tls = true, servername = FORGED,
                        alpn = alpn or nil, bytes = 10 }):finish()
                end
            end
        end
        local client = assert(bench.connect(ports.proxied))
        client:send(pp2.tcp4("192.0.2.1", 1000, "192.0.2.2", 443, pp2.tlv(2, FORGED) .. pp2.tlv(5, FORGED)
            .. pp2.tlv(1, FORGED) .. pp2.tlv(0xE0, FORGED)))
        client:send("ping")
        client:receive(10)
        client:close()

        local lines = bench.wait("all records", function()
            local list = {}
            for line in bench.read(web.access):gmatch("([^\n]*)\n") do
                list[#list + 1] = line
            end
            return #list >= CONNECTIONS and list
        end)
        assert.equal(CONNECTIONS, #lines)
        local fields = {}
        for _, line in ipairs(lines) do
            assert.matches("^time=20%d%d%-%d%d%-%d%dT[%d:.]+Z id=%d+ listener=%l+ generation=1 ", line)
            assert.is_nil(line:find("[%c\127]"), line)
            for name, value in line:gmatch(' ([%w_]+)=("[^"]*)') do
                fields[name] = (fields[name] or "") .. value
            end
        end
        for _, name in ipairs { "sni", "alpn_offered", "alpn", "detail", "proxy_tlvs", "unique_id" } do
            assert.matches("forged", fields[name] or "", 1, true, name)
        end
        web:stop()
        local forged = 0
        for line in web:log_text():gmatch("([^\n]*)\n") do
            assert.truthy(line:match("^20%d%d%-%d%d%-%d%dT[%d:.]+Z %l+ +%l[%l %d]*: ") or line:match("^    "), line)
            assert.is_nil(line:match("^2026%-01%-01"))
            assert.is_nil(line:find("[%c\127]"), line)
            forged = forged + (line:find("forged", 1, true) and 1 or 0)
        end
        assert.is_true(forged > 0)
    end)
end)
