-- send_proxy: what a backend is told of the client, byte by byte.

local bench = require "bench"
local certs = require "certs"
local pp2 = require "pp2"
local proxy = require "proxy"
local socket = require "socket"

local SCRIPT = [[
local function listen(name, port, more)
    local options = { name = name, address = "127.0.0.1:" .. port, accept_proxy = { "127.0.0.2" } }
    for key, value in pairs(more) do options[key] = value end
    moongate.listen(options)
end

local v1 = moongate.backend { name = "v1", address = "127.0.0.1:$server", send_proxy = "v1" }
local v2 = moongate.backend { name = "v2", address = "127.0.0.1:$server", send_proxy = "v2" }
local function backend(name, options)
    options.name, options.address = name, options.address or "127.0.0.1:$server"
    options.send_proxy = options.send_proxy or "v2"
    return moongate.backend(options)
end
listen("v1", $v1, { backend = v1 })
listen("v2", $v2, { backend = v2 })
listen("second", $second, { backend = backend("second", {
    address = { "127.0.0.1:$nobody", "127.0.0.1:$server" }, balance = "round_robin" }) })
listen("unix backend", $unix, { backend = backend("unix backend", { address = "unix:$dir/server" }) })
listen("to tls", $totls, { backend = backend("to tls", { tls = client(), servername = "localhost" }) })

local ctx = server()
ctx.alpn_protocols = { "h2" }
ctx.verify_mode = openssl.SSL.VERIFY_PEER
ctx.ca_file = "$ca_crt"
ctx.session_id_context = "spec"
listen("tls", $tls, { backend = v2, tls = ctx })
listen("tls v1", $tls1, { backend = v1, tls = server() })
listen("pass", $pass, { backend = v2, tls = moongate.servernames { default = moongate.PASSTHROUGH } })
moongate.listen { name = "unix v1", address = "unix:$dir/v1", backend = v1 }
moongate.listen { name = "unix v2", address = "unix:$dir/v2", backend = v2 }
moongate.listen { name = "v6", address = "[::1]:$v6", backend = v2 }

listen("custom", $custom, { backend = backend("custom", { proxy_tlvs = {
    [0xE0] = "text", [0xE1] = function(conn) return conn.remote_ip end, [0xE2] = function() end,
    [0xEF] = "a\0b", [0xF7] = function() return "" end } }) })
local bad = {
    raises = function() error("out of ideas") end,
    number = function() return 5 end,
    long = function() return ("x"):rep(1025) end,
    endless = function() while true do end end,
}
listen("bad", $bad, { backend = function(conn) return bad[conn.proxy_tlvs[0xE5] ] end })
for name, value in pairs(bad) do bad[name] = backend(name, { proxy_tlvs = { [0xE0] = value } }) end
]]

local NAMES = { "v1", "v2", "second", "unix", "totls", "tls", "tls1", "pass", "v6", "custom", "bad", "nobody",
    "server" }

describe("send_proxy", function()
    local web, server
    local ports = {}

    setup(function()
        local options = { workers = 1, script = SCRIPT }
        for _, name in ipairs(NAMES) do
            ports[name] = bench.port(name == "v6" and "::1" or nil)
            options[name] = ports[name]
        end
        web = proxy.start(options)
        server = assert(socket.bind("127.0.0.1", ports.server))
        server:settimeout(20)
    end)
    teardown(function()
        server:close()
        proxy.cleanup()
    end)

    local function open(listener, source)
        local client = socket.tcp4()
        client:settimeout(20)
        assert(client:bind(source or "127.0.0.1", 0))
        assert(client:connect("127.0.0.1", ports[listener]))
        return client
    end

    local function port_of(client)
        return tonumber((select(2, client:getsockname())))
    end

    -- The record of the client that had that port.
    local function record_of(port)
        local ending = ":" .. port
        return bench.wait("the record of " .. port, function()
            for _, record in ipairs(web:records()) do
                if (record.socket or record.remote):sub(-#ending) == ending then
                    return record
                end
            end
        end)
    end

    local function accept()
        local connection = assert(server:accept())
        connection:settimeout(20)
        return connection
    end

    -- The header that the backend gets for a connection to `listener` whose own header, if any, is `first`.
    local function told(listener, first)
        local client = open(listener, first and "127.0.0.2")
        if first then
            client:send(first)
        end
        local connection = accept()
        local header = pp2.receive(connection)
        assert.equal(true, header.crc_ok)
        connection:close()
        local port = port_of(client)
        client:close()
        return header, port
    end

    -- What s_client makes the backend hear.
    local function told_tls(listener, ...)
        local s_client = bench.start { stdin = "pipe", "openssl", "s_client", "-connect",
            "127.0.0.1:" .. ports[listener], "-CAfile", certs.ca.crt, "-ign_eof", ... }
        local connection = accept()
        local header = pp2.receive(connection)
        assert.equal(true, header.crc_ok)
        connection:send("goodbye\n") -- and with it the tickets have come
        connection:close()
        s_client:wait()
        return header
    end

    it("v1 tells the addresses, at once, to a server that talks first", function()
        local client = open("v1")
        local connection = accept()
        local port = port_of(client)
        local header = ("PROXY TCP4 127.0.0.1 127.0.0.1 %d %d\r\n"):format(port, ports.v1)
        assert.equal(header, (connection:receive(#header)))
        connection:send("220 hello\r\n")
        assert.equal("220 hello", (client:receive("*l"):gsub("\r", "")))
        client:send("HELO\r\n")
        assert.equal("HELO", (connection:receive("*l"):gsub("\r", "")))
        client:close()
        connection:close()
    end)

    it("v2 tells the addresses and a unique id, with a checksum", function()
        local header, port = told("v2")
        assert.equal(0x21, header.command)
        assert.equal(0x11, header.family)
        assert.same({ "127.0.0.1", port, "127.0.0.1", ports.v2 },
            { header.source, header.source_port, header.destination, header.destination_port })
        assert.same({ 5, 3 }, header.order) -- neither ALPN, AUTHORITY nor SSL
        local record = record_of(port)
        assert.equal(record.unique_id, header.tlvs[5])
        assert.equal(("%d"):format(record.id), header.tlvs[5]:match("^%x+%-(%d+)$"))
        assert.not_equal(header.tlvs[5], told("v2").tlvs[5])
    end)

    -- What the kernel tells of that connection's end here, and of no other socket with the same port.
    local function kernel_says(connection)
        local _, mine = connection:getsockname()
        local _, other = connection:getpeername()
        return bench.must { "ss", "-tinH", "sport", "=", ":" .. mine, "and", "dport", "=", ":" .. other }
    end

    -- How many segments with data have come on that connection.
    local function segments(connection)
        return tonumber(kernel_says(connection):match("data_segs_in:(%d+)"))
    end

    it("leaves in one write with the first bytes", function()
        local header = "PROXY TCP4 192.0.2.1 192.0.2.2 3 4\r\n"
        for _, listener in ipairs { "v1", "v2" } do
            local client = open(listener, "127.0.0.2")
            client:send(header .. "hello")
            local connection = accept()
            if listener == "v1" then
                assert.equal(header, connection:receive(#header))
            else
                assert.equal("192.0.2.1", pp2.receive(connection).source)
            end
            assert.equal("hello", (connection:receive(5)))
            assert.equal(1, segments(connection))
            client:close()
            connection:close()
        end
    end)

    it("and the first bytes arrive whole where the kernel does not take them at once", function()
        local payload = ("0123456789abcde\n"):rep(65536) -- a MiB
        for _, listener in ipairs { "v1", "v2" } do
            local first = bench.write("payload", "PROXY TCP4 192.0.2.1 192.0.2.2 3 4\r\n" .. payload)
            local sender = bench.start { stdin = first, "socat", "-u", "-",
                ("TCP4:127.0.0.1:%d,bind=127.0.0.2"):format(ports[listener]) }
            local connection = accept()
            bench.wait("the reader's buffer to be full", function()
                return kernel_says(connection):match("ESTAB%s+(%d+)") ~= "0"
            end)
            if listener == "v1" then
                connection:receive("*l")
            else
                pp2.receive(connection)
            end
            assert(payload == connection:receive(#payload), "the payload is another one")
            connection:close()
            sender:wait()
        end
    end)

    it("goes before our ClientHello, in one write", function()
        local client = open("totls")
        local connection = accept()
        local header = pp2.receive(connection)
        assert.equal("127.0.0.1", header.source)
        assert.equal("\22\3", (connection:receive(2)))
        assert.equal(1, segments(connection))
        client:close()
        connection:close()
    end)

    it("goes to the address that answers", function()
        for _ = 1, 2 do -- in turn
            assert.equal("127.0.0.1", told("second").source)
        end
    end)

    it("goes to unix sockets, and tells of clients on them", function()
        local listening = bench.start { "socat", "-u", "UNIX-LISTEN:" .. bench.path("server"),
            "CREATE:" .. bench.path("heard") }
        bench.wait("socat to listen", function() -- the path is there before that
            return bench.must { "ss", "-lxH" }:find(bench.path("server"), 1, true)
        end)
        local client = open("unix")
        client:send("hello")
        client:shutdown("send")
        listening:wait()
        client:close()
        local heard = bench.read(bench.path("heard"))
        assert.equal(pp2.SIGNATURE .. "\x21\x11", heard:sub(1, 14))
        assert.equal("hello", heard:sub(-5))

        local v1 = bench.start { "socat", "-", "UNIX-CONNECT:" .. bench.path("v1"), stdin = "pipe" }
        local connection = accept()
        assert.equal("PROXY UNKNOWN\r\n", (connection:receive(15)))
        connection:close()
        v1:stop()
        local v2 = bench.start { "socat", "-", "UNIX-CONNECT:" .. bench.path("v2"), stdin = "pipe" }
        connection = accept()
        assert.equal(pp2.header(0x20, 0x00), pp2.receive(connection).bytes) -- LOCAL, and no more
        connection:close()
        v2:stop()
    end)

    it("tells of IPv6, and of IPv4 as IPv6 where one of the two is", function()
        local client = socket.tcp6()
        client:settimeout(20)
        assert(client:connect("::1", ports.v6))
        local connection = accept()
        local header = pp2.receive(connection)
        local loopback = ("\0"):rep(15) .. "\1"
        assert.same({ 0x21, loopback, loopback, ports.v6 },
            { header.family, header.source, header.destination, header.destination_port })
        client:close()
        connection:close()
    end)

    it("tells of the client's TLS", function()
        local header = told_tls("tls", "-servername", "a.example", "-alpn", "h2", "-tls1_3")
        assert.same({ "h2", "a.example" }, { header.tlvs[1], header.tlvs[2] })
        assert.equal(1, header.ssl.client)
        assert.not_equal(0, header.ssl.verify) -- no certificate was shown
        assert.equal("TLSv1.3", header.ssl.tlvs[0x21])
        assert.is_nil(header.ssl.tlvs[0x22])
        assert.equal("TLS_AES_256_GCM_SHA384", header.ssl.tlvs[0x23])
        assert.equal("ecdsa-with-SHA256", header.ssl.tlvs[0x24])
        assert.equal("EC256", header.ssl.tlvs[0x25])

        header = told_tls("tls", "-noservername", "-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256")
        assert.same({ nil, nil }, { header.tlvs[1], header.tlvs[2] })
        assert.same({ "TLSv1.2", "ECDHE-RSA-AES128-GCM-SHA256", "ecdsa-with-SHA256", "RSA2048" },
            { header.ssl.tlvs[0x21], header.ssl.tlvs[0x23], header.ssl.tlvs[0x24], header.ssl.tlvs[0x25] })
    end)

    it("tells of the client's certificate, shown now or earlier in the session", function()
        local session = bench.path("session.pem")
        for _, version in ipairs { "-tls1_3", "-tls1_2" } do
            local header = told_tls("tls", "-servername", "a.example", version, "-sess_out", session,
                "-cert", certs.client.crt, "-key", certs.client.key)
            assert.same({ 7, 0, "client-1" }, { header.ssl.client, header.ssl.verify, header.ssl.tlvs[0x22] })
            header = told_tls("tls", "-servername", "a.example", version, "-sess_in", session)
            assert.same({ 5, 0, "client-1" }, { header.ssl.client, header.ssl.verify, header.ssl.tlvs[0x22] })
        end
    end)

    it("v1 goes out in front of what was encrypted", function()
        local s_client = bench.start { "openssl", "s_client", "-connect", "127.0.0.1:" .. ports.tls1, "-quiet",
            stdin = bench.write("hello", "hello\n") }
        local connection = accept()
        assert.matches("^PROXY TCP4 127.0.0.1 127.0.0.1 %d+ " .. ports.tls1 .. "\r?$", (connection:receive("*l")))
        assert.equal("hello", (connection:receive("*l")))
        connection:close()
        s_client:stop()
    end)

    it("tells of what is passed through the name that was asked for", function()
        local s_client = bench.start { "openssl", "s_client", "-connect", "127.0.0.1:" .. ports.pass, "-servername",
            "pass.example", stdin = "pipe" }
        local connection = accept()
        local header = pp2.receive(connection)
        assert.equal("pass.example", header.tlvs[2])
        assert.same({ 2, 5, 3 }, header.order) -- the TLS is the backend's to look at
        assert.equal("\22\3\1", (connection:receive(3)))
        connection:close()
        s_client:stop()
    end)

    it("carries TLVs of the script's", function()
        local header = told("custom")
        assert.equal("text", header.tlvs[0xE0])
        assert.equal("127.0.0.1", header.tlvs[0xE1])
        assert.is_nil(header.tlvs[0xE2])
        assert.equal("a\0b", header.tlvs[0xEF])
        assert.equal("", header.tlvs[0xF7])
    end)

    it("passes on what came, where that makes sense", function()
        local ssl = pp2.tlv(0x20, "\1\0\0\0\0" .. pp2.tlv(0x21, "TLSv1.3"))
        local header = told("v2", pp2.tcp4("192.0.2.7", 4711, "198.51.100.9", 443, pp2.tlv(1, "h2")
            .. pp2.tlv(2, "b.example") .. pp2.tlv(4, "padding") .. pp2.tlv(5, "their id") .. ssl
            .. pp2.tlv(0x30, "blue") .. pp2.tlv(0x99, "?") .. pp2.tlv(0xEA, "vpce-1") .. pp2.tlv(0xF0, "try")))
        assert.same({ "192.0.2.7", 4711, "198.51.100.9", 443 },
            { header.source, header.source_port, header.destination, header.destination_port })
        assert.same({ 1, 2, 5, 0x20, 0xEA, 3 }, header.order)
        assert.same({ "h2", "b.example", "their id", "vpce-1" },
            { header.tlvs[1], header.tlvs[2], header.tlvs[5], header.tlvs[0xEA] })
        assert.equal("TLSv1.3", header.ssl.tlvs[0x21])
        header = told("custom", pp2.tcp4("192.0.2.7", 4711, "198.51.100.9", 443, pp2.tlv(0xE0, "theirs")
            .. pp2.tlv(0xE2, "theirs") .. pp2.tlv(0xE3, "theirs")))
        assert.same({ "text", nil, "theirs" }, { header.tlvs[0xE0], header.tlvs[0xE2], header.tlvs[0xE3] })
        header = told("v2", pp2.header(0x20, 0x00, pp2.tlv(5, "of a health check")))
        assert.equal("127.0.0.2", header.source)
        assert.not_equal("of a health check", header.tlvs[5])
    end)

    it("with a function that fails ends that connection only", function()
        local open_one = open("v1")
        local connection = accept()
        connection:receive("*l")
        for _, name in ipairs { "raises", "number", "long", "endless" } do
            local client = open("bad", "127.0.0.2")
            local port = port_of(client)
            client:send(pp2.tcp4("192.0.2.7", 1, "192.0.2.8", 2, pp2.tlv(0xE5, name)))
            local heard = accept() -- connected, and told nothing
            assert.is_nil((heard:receive(1)))
            heard:close()
            assert.is_nil((client:receive(1)))
            client:close()
            local record = record_of(port)
            assert.equal("up: callback failed", record.reason)
            assert.equal("the proxy_tlvs function for type 0xE0 failed", record.detail)
        end
        web:wait_log("out of ideas")
        web:wait_log("returned a longer string; expected at most 1024 bytes, or nil")
        open_one:send("still there\n")
        assert.equal("still there", (connection:receive("*l")))
        open_one:close()
        connection:close()
    end)
end)
