-- accept_proxy: who the client is says a proxy in front of us, or the connection is over.

local bench = require "bench"
local pp2 = require "pp2"
local proxy = require "proxy"
local socket = require "socket"

local V1 = "PROXY TCP4 192.0.2.7 198.51.100.9 4711 443\r\n"
local V2 = pp2.tcp4("192.0.2.7", 4711, "198.51.100.9", 443)

local SCRIPT = [[
local function seen(conn)
    local tlvs = {}
    for type, value in pairs(conn.proxy_tlvs) do tlvs[#tlvs + 1] = ("%02X=%s"):format(type, value) end
    table.sort(tlvs)
    return ("%s:%s %s:%s %s [%s]"):format(conn.remote_ip, conn.remote_port, conn.local_ip, conn.local_port,
        conn.socket_ip, table.concat(tlvs, " "))
end

moongate.listen { name = "plain", address = "127.0.0.1:$plain", backend = moongate.echo(), accept_proxy = true }
moongate.listen { name = "asked", address = "127.0.0.1:$asked", accept_proxy = true,
    backend = function(conn) return nil, seen(conn) end }
moongate.listen { name = "tls", address = "127.0.0.1:$tls", backend = moongate.echo(), accept_proxy = true,
    tls = server() }
moongate.listen { name = "hello", address = "127.0.0.1:$hello", backend = moongate.echo(), accept_proxy = true,
    tls = function(hello) return nil, hello.servername .. " " .. seen(hello) end }
moongate.listen { name = "trusting", address = "*:$trusting", backend = moongate.echo(),
    accept_proxy = { "127.0.0.2/31", "10.0.0.0/8" } }
moongate.listen { name = "unix", address = "unix:$dir/accept", backend = moongate.echo(), accept_proxy = true }
moongate.listen { name = "trusting unix", address = "unix:$dir/trusting", backend = moongate.echo(),
    accept_proxy = { "unix:" } }
moongate.listen { name = "other unix", address = "unix:$dir/other", backend = moongate.echo(),
    accept_proxy = { "0.0.0.0/0", "::/0" } }
moongate.listen { name = "quick", address = "127.0.0.1:$quick", backend = moongate.echo(), accept_proxy = true,
    handshake_timeout = 0.3 }
moongate.listen { name = "few", address = "127.0.0.1:$few", backend = moongate.echo(), accept_proxy = true,
    max_connections = 2 }
]]

describe("accept_proxy", function()
    local web, records
    local ports = {}

    setup(function()
        local options = { workers = 1, script = SCRIPT }
        for _, name in ipairs { "plain", "asked", "tls", "hello", "trusting", "quick", "few" } do
            ports[name] = bench.port()
            options[name] = ports[name]
        end
        web = proxy.start(options)
    end)
    teardown(proxy.cleanup)
    before_each(function() records = #web:records() end)

    local function next_record()
        records = records + 1
        return web:record(records)
    end

    local function open(listener, source)
        local client = socket.tcp4()
        client:settimeout(20)
        if source then
            assert(client:bind(source, 0))
        end
        assert(client:connect("127.0.0.1", ports[listener]))
        client:setoption("tcp-nodelay", true)
        return client
    end

    -- Sends in pieces of `size` bytes.
    local function send(client, bytes, size)
        size = size or math.max(#bytes, 1)
        for at = 1, #bytes, size do
            assert(client:send(bytes:sub(at, at + size - 1)))
        end
    end

    -- What comes back until the end, after our own.
    local function talk(listener, bytes, size, source)
        local client = open(listener, source)
        send(client, bytes, size)
        client:shutdown("send")
        local all, _, part = client:receive("*a")
        client:close()
        return all or part, next_record()
    end

    local function silent_tcp(client)
        client:settimeout(0)
        return select(2, client:receive(1)) == "timeout"
    end

    for name, header in pairs { ["version 1"] = V1, ["version 2"] = V2 } do
        it("takes the client's addresses from a header of " .. name, function()
            for _, size in ipairs { false, 1, 7 } do
                local echo, record = talk("plain", header .. "hello", size)
                assert.equal("hello", echo)
                assert.equal("192.0.2.7:4711", record.remote)
                assert.equal("198.51.100.9:443", record["local"])
                assert.matches("^127%.0%.0%.1:%d+$", record.socket)
                assert.equal(name == "version 1" and "v1" or "v2", record.proxy)
                assert.equal("relay: done", record.reason)
                assert.equal(5, record.bytes_up)
            end
        end)

        it("goes on with TLS behind a header of " .. name, function()
            local server = assert(socket.bind("127.0.0.1", 0))
            local _, port = server:getsockname()
            local s_client = bench.start { "openssl", "s_client", "-connect", "127.0.0.1:" .. port, "-servername",
                "asked.example" }
            server:settimeout(20)
            local words = assert(server:accept())
            words:settimeout(20)
            local head = assert(words:receive(5))
            local hello = head .. assert(words:receive((string.unpack(">I2", head, 4))))
            words:close()
            server:close()
            s_client:stop()
            for _, size in ipairs { false, 1, #header + 1, #header, #header - 1 } do
                local answer, record = talk("tls", header .. hello, size)
                assert.equal("\22\3\3", answer:sub(1, 3)) -- a ServerHello
                assert.equal("192.0.2.7:4711", record.remote)
                assert.equal("asked.example", record.sni)
                assert.equal("down: closed during the handshake", record.reason)
                local refusal
                refusal, record = talk("hello", header .. hello, size)
                assert.equal("\21", refusal:sub(1, 1)) -- an alert
                assert.equal("asked.example 192.0.2.7:4711 198.51.100.9:443 127.0.0.1 []", record.detail)
            end
        end)
    end

    it("shows a function what came", function()
        local tlvs = pp2.tlv(0xEA, "vpce-1") .. pp2.tlv(0x02, "a.example") .. pp2.tlv(0x04, "padding")
            .. pp2.tlv(0x99, "?") .. pp2.tlv(0xEA, "second")
        local _, record = talk("asked", pp2.tcp4("192.0.2.7", 4711, "198.51.100.9", 443, tlvs))
        assert.equal("192.0.2.7:4711 198.51.100.9:443 127.0.0.1 [02=a.example 99=? EA=vpce-1]", record.detail)
        assert.equal("0xEA=vpce-1 0x02=a.example 0x04=padding 0x99=? 0xEA=second", record.proxy_tlvs)
        _, record = talk("asked", "PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n")
        assert.equal("2001:db8::1:1 2001:db8::2:2 127.0.0.1 []", record.detail)
        assert.equal("[2001:db8::1]:1", record.remote)
        _, record = talk("asked", pp2.header(0x21, 0x31, string.pack("c108c108", "/run/client", "/run/server")))
        assert.equal("nil:nil nil:nil 127.0.0.1 []", record.detail)
        assert.equal("unix:/run/client", record.remote)
        assert.equal("unix:/run/server", record["local"])
    end)

    it("leaves the sockets' own addresses where the header has none", function()
        for header, command in pairs {
            ["PROXY UNKNOWN\r\n"] = "UNKNOWN",
            ["PROXY UNKNOWN 1.2.3.4 whatever\r\n"] = "UNKNOWN",
            [pp2.header(0x20, 0x00)] = "LOCAL",
            [pp2.header(0x20, 0x11, V2:sub(17))] = "LOCAL",
            [pp2.header(0x21, 0x00)] = "UNSPEC",
        } do
            local _, record = talk("asked", header)
            assert.matches("^127%.0%.0%.1:%d+ 127%.0%.0%.1:" .. ports.asked .. " 127%.0%.0%.1 %[%]$", record.detail)
            assert.equal(command, record.proxy_command)
            assert.equal(record.socket, record.remote)
        end
    end)

    local BAD = {
        { "GET / HTTP/1.0\r\n\r\n", "down: no PROXY header", "text instead" },
        { "\22\3\1\2\0\1\0\1\252\3\3", "down: no PROXY header", "a TLS handshake instead" },
        { "\0" .. V1, "down: no PROXY header", "other bytes instead" },
        { "hello" .. V2, "down: no PROXY header", "text instead" },
        { "PROXY TCP4 192.0.2.7 198.51.100.9 4711 443\nhello", "down: malformed PROXY header",
            "version 1: it ends with LF instead of CR LF" },
        { "PROXY TCP4 192.0.2.7 ::1 4711 443\r\nhello", "down: malformed PROXY header",
            "version 1: its destination is no address of its protocol" },
        { "PROXY UNKNOWN" .. (" "):rep(1000) .. "\r\nhello", "down: PROXY header too long",
            "version 1: no CR LF in its first 107 bytes" },
        { pp2.SIGNATURE .. "\x31\x11\0\12" .. V2:sub(17), "down: malformed PROXY header",
            "version 2: its version is not 2" },
        { pp2.SIGNATURE .. "\x22\x11\0\12" .. V2:sub(17), "down: malformed PROXY header",
            "version 2: its command is neither LOCAL nor PROXY" },
        { pp2.SIGNATURE .. "\x21\x11\255\255hello", "down: PROXY header too long",
            "version 2: longer than 16384 bytes" },
        { pp2.tcp4("1.2.3.4", 1, "5.6.7.8", 2, "\1\0\9h2") .. "hello", "down: malformed PROXY header",
            "version 2: a TLV that is longer than the header" },
        { pp2.tcp4("1.2.3.4", 1, "5.6.7.8", 2, pp2.tlv(3, "\1\2\3\4")) .. "hello", "down: malformed PROXY header",
            "version 2: the CRC32C is not that of the header" },
    }

    it("ends what is no header, relays nothing and harms nobody else", function()
        local other = open("plain")
        send(other, V1)
        for _, listener in ipairs { "plain", "tls", "hello" } do
            for _, case in ipairs(BAD) do
                local answer, record = talk(listener, case[1])
                assert.equal("", answer)
                assert.equal(case[2], record.reason, case[1])
                assert.equal(case[3], record.detail)
                assert.equal(0, record.bytes_up + record.bytes_down)
                assert.is_nil(record.backend)
                assert.is_nil(record.proxy)
                assert.equal("127.0.0.1", (record.remote:match("^[^:]+")))
            end
        end
        send(other, "still there")
        assert.equal("still there", (other:receive(11)))
        other:close()
        assert.equal("relay: done", next_record().reason)
    end)

    it("tells who leaves before the header is whole", function()
        for _, listener in ipairs { "plain", "tls" } do
            local _, record = talk(listener, "")
            assert.equal("down: closed before the PROXY header", record.reason)
            assert.equal("after 0 bytes of it", record.detail)
            _, record = talk(listener, V1:sub(1, -2))
            assert.equal("down: closed before the PROXY header", record.reason)
            assert.equal(("after %d bytes of it"):format(#V1 - 1), record.detail)
        end
        local _, record = talk("tls", V1)
        assert.equal("down: closed before the handshake", record.reason)
    end)

    it("waits for a header as long as for a handshake", function()
        for _, begun in ipairs { "", "PROX", V2:sub(1, 20) } do
            local client = open("quick")
            send(client, begun)
            local record = next_record()
            assert.equal("down: PROXY header timeout", record.reason)
            client:close()
        end
    end)

    it("shows in the status who is in the middle of it", function()
        local client = open("plain")
        send(client, "PROXY ")
        bench.wait("the state", function()
            for _, worker in ipairs(web:status().workers) do
                if worker.engine and worker.engine.states.proxy == 1 then
                    return true
                end
            end
        end)
        send(client, V1:sub(7) .. "hello")
        assert.equal("hello", (client:receive(5)))
        client:close()
        assert.equal("relay: done", next_record().reason)
    end)

    it("with networks is for those in them, and reads nobody else's bytes", function()
        local echo, record = talk("trusting", V1 .. "hello", nil, "127.0.0.1")
        assert.equal(V1 .. "hello", echo)
        assert.matches("^127%.0%.0%.1:", record.remote)
        assert.is_nil(record.proxy)
        assert.is_nil(record.socket)
        for _, source in ipairs { "127.0.0.2", "127.0.0.3" } do
            echo, record = talk("trusting", V1 .. "hello", nil, source)
            assert.equal("hello", echo)
            assert.equal("192.0.2.7:4711", record.remote)
            assert.matches("^127%.0%.0%.[23]:", record.socket)
            echo, record = talk("trusting", "hello", nil, source)
            assert.equal("", echo)
            assert.equal("down: no PROXY header", record.reason)
        end
        echo = talk("trusting", V1, nil, "127.0.0.4")
        assert.equal(V1, echo)
    end)

    it("counts those whose header has not come", function()
        local first, second = open("few"), open("few")
        send(first, "PROXY")
        local third = open("few")
        send(third, V1 .. "third")
        bench.wait("both to be accepted", function()
            for _, worker in ipairs(web:status().workers) do
                if worker.engine and worker.engine.states.proxy == 2 then
                    return true
                end
            end
        end)
        assert(silent_tcp(third))
        second:close()
        assert.equal("down: closed before the PROXY header", next_record().reason)
        third:settimeout(20)
        assert.equal("third", (third:receive(5)))
        first:close()
        third:close()
        records = records + 2
        web:records(records)
    end)

    it("is taken on unix sockets", function()
        local function socat(name, bytes)
            return bench.run { "socat", "-t20", "-", "UNIX-CONNECT:" .. bench.path(name), input = bytes }.out,
                next_record()
        end
        for _, name in ipairs { "accept", "trusting" } do
            local echo, record = socat(name, V1 .. "hello")
            assert.equal("hello", echo)
            assert.equal("192.0.2.7:4711", record.remote)
            assert.equal("unix:", record.socket)
            _, record = socat(name, "hello")
            assert.equal("down: no PROXY header", record.reason)
        end
        assert.equal(V1 .. "hello", (socat("other", V1 .. "hello")))
    end)
end)
