-- servername_cb: the name decides before there is an SSL object, so the whole policy of the returned context applies.

local bench = require "bench"
local certs = require "certs"
local proxy = require "proxy"
local socket = require "socket"

local COUNT = bench.slow and 100 or 1000

local SCRIPT = [[
local SSL = openssl.SSL

local a = SSL.SSLContext.new()
a:load_certificate("$first_crt", "$first_key")
a.alpn_protocols = { "h2" }

local b = SSL.SSLContext.new()
b:load_certificate("$b_example_crt", "$b_example_key")
b.max_version = SSL.TLS1_2_VERSION
b.verify_mode = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT
b.ca_file = "$ca_crt"

local certificate = openssl.X509.Certificate.load_file("$wrong_crt")[1]
local key = openssl.PKey.load_file("$wrong_key")

local answers = {
    ["a.example"] = function() return a end,
    ["c.example"] = function() return a end,
    ["b.example"] = function() return b end,
    ["other.example"] = function()
        local made = SSL.SSLContext.new()
        made:add_certificate(certificate, key)
        return made
    end,
    ["empty.example"] = function() return SSL.SSLContext.new() end,
    ["raise.example"] = function() error("nobody of that name") end,
    ["number.example"] = function() return 42 end,
    ["false.example"] = function() return false end,
    ["slow.example"] = function() while true do end end,
}

local function asked(conn, name)
    print(("asked %s: %s %s %s %s %s"):format(name, conn.servername, conn.listener, conn.remote_ip,
        conn.ssl_version, conn.cipher))
    return answers[name] and answers[name]()
end

local own = server()
own.servername_cb = asked
moongate.listen { name = "web", address = "127.0.0.1:$port", tls = own,
    backend = moongate.reply("HTTP/1.0 200 OK\r\n\r\nserved\n"), handshake_timeout = $timeout }
]]

describe("servername_cb", function()
    local web, port

    local function started(timeout, workers)
        port = bench.port()
        web = proxy.start { workers = workers or 1, port = port, timeout = timeout or 10, script = SCRIPT,
            first_crt = certs.a_example.crt, first_key = certs.a_example.key }
    end

    setup(function() started() end)
    teardown(proxy.cleanup)

    local function asked()
        local _, count = web:log_text():gsub('"asked ', "")
        return count
    end

    local function s_client(name, ...)
        if not name then
            return web:s_client(port, nil, ...)
        end
        return web:s_client(port, name, "-verify_hostname", name, ...)
    end

    local CLIENT = { "-cert", certs.client.crt, "-key", certs.client.key }

    -- ---- which policy ----------------------------------------------------------------------------

    it("gives each name its certificate, and its protocols", function()
        local result, record = s_client("a.example", "-alpn", "http/1.1,h2")
        assert.equal(0, result.code, result.err)
        assert.matches("ALPN protocol: h2", result.out)
        assert.same({ "a.example", "TLSv1.3", "ecdsa_secp256r1_sha256" }, { record.sni, record.version, record.sigalg })
        assert.equal("http/1.1,h2", record.alpn_offered)
        assert.equal(0, (s_client("c.example")).code)
        assert.equal(0, (s_client("b.example", table.unpack(CLIENT))).code)
    end)

    it("leaves other names to the listener's own context", function()
        local result, record = s_client("localhost", "-alpn", "h2")
        assert.equal(0, result.code, result.err)
        assert.matches("No ALPN negotiated", result.out)
        assert.equal("localhost", record.sni)
    end)

    it("is not asked by a client without a name", function()
        local before = asked()
        local result, record = s_client(nil)
        assert.equal(0, result.code, result.err)
        assert.is_nil(record.sni)
        assert.equal(before, asked())
        s_client("localhost")
        bench.wait("the next call", function() return asked() == before + 1 end)
    end)

    it("gets a Conn that knows the addresses, and the name but no handshake", function()
        s_client("somewhere.example")
        web:wait_log("asked somewhere.example: somewhere.example web 127.0.0.1 nil nil")
    end)

    it("applies the versions of the policy", function()
        local _, record = s_client("b.example", table.unpack(CLIENT))
        assert.equal("TLSv1.2", record.version)
        local result
        result, record = s_client("b.example", "-tls1_3", table.unpack(CLIENT))
        assert.matches("protocol version", result.err)
        assert.equal("protocol_version", record.alert_sent)
        assert.equal(0, (s_client("a.example", "-tls1_3")).code)
    end)

    it("applies its demand for a certificate", function()
        local _, record = s_client("b.example", table.unpack(CLIENT))
        assert.equal("CN=client-1", record.client_subject)
        _, record = s_client("b.example")
        assert.equal("down: no certificate given", record.reason)
        _, record = s_client("b.example", "-cert", certs.stranger_client.crt, "-key", certs.stranger_client.key)
        assert.equal("down: certificate not accepted", record.reason)
        _, record = s_client("a.example", table.unpack(CLIENT))
        assert.is_nil(record.client_subject)
    end)

    it("may make a context", function()
        local result = s_client("other.example")
        assert.equal(0, result.code, result.err)
    end)

    it("serves curl and gnutls-cli", function()
        local result = bench.run { "curl", "-s", "--cacert", certs.ca.crt, "--no-alpn", "--max-time", "10",
            "--connect-to", "c.example::127.0.0.1:" .. port, "https://c.example/it" }
        assert.equal("served\n", result.out)
        result = bench.run { "gnutls-cli", "--x509cafile", certs.ca.crt, "--port", tostring(port), "127.0.0.1",
            "--sni-hostname", "a.example", "--verify-hostname", "a.example", input = "hello\n" }
        assert.equal(0, result.code, result.out .. result.err)
        assert.matches("TLS1.3", result.out)
    end)

    -- ---- what goes wrong -------------------------------------------------------------------------

    for name, log in pairs {
        raise = "nobody of that name", number = "got number", false_ = "got boolean",
        slow = "callback_budget", empty = false,
    } do
        name = name:gsub("_", "")
        it("answers " .. name .. " with unrecognized_name, and the log says why", function()
            local worker = web:workers()[1]
            local result, record = s_client(name .. ".example")
            if log then
                assert.matches("unrecognized name:.*SSL alert number 112", result.err)
                assert.equal("unrecognized_name", record.alert_sent)
                assert.equal("down: refused by name", record.reason)
                assert.matches("servername_cb", record.detail, 1, true)
                assert.equal(name .. ".example", record.sni)
                assert.matches("stack traceback", web:wait_log(log))
            else
                assert.is_not_nil(record.alert_sent) -- a context without a certificate serves nobody
            end
            assert.equal(0, (s_client("a.example")).code)
            assert.equal(worker, web:workers()[1])
        end)
    end

    for _, wrong in ipairs {
        { name = "HTTP", bytes = "GET / HTTP/1.1\r\n\r\n", reason = "down: plain HTTP instead of TLS" },
        { name = "SSL 2", bytes = "\x80\x2e\1\3\1\0\x15\0\0\0\x10", reason = "down: SSL 2",
            alert = "protocol_version" },
        { name = "noise", bytes = "SSH-2.0-OpenSSH\r\n", reason = "down: not TLS" },
        { name = "a broken ClientHello", bytes = "\22\3\1\0\6\1\0\0\2\3\3", reason = "down: malformed ClientHello",
            alert = "decode_error" },
        { name = "a long ClientHello", bytes = "\22\3\1\0\6\1\1\0\0\3\3", reason = "down: ClientHello too long",
            alert = "illegal_parameter" },
    } do
        it("is not asked by " .. wrong.name, function()
            local before, number = asked(), #web:records() + 1
            local client = bench.connect(port)
            client:send(wrong.bytes)
            local answer, _, rest = client:receive("*a")
            answer = answer or rest
            client:close()
            local record = web:record(number)
            assert.equal(wrong.reason, record.reason)
            assert.equal(wrong.alert, record.alert_sent)
            assert.equal(wrong.alert and "\21\3\3\0\2\2" or "", answer:sub(1, 6))
            assert.equal(wrong.alert and 7 or 0, #answer)
            assert.equal(before, asked())
        end)
    end

    -- ---- pieces ----------------------------------------------------------------------------------

    -- A client of s_client's making: the program, its connection, and the first record's contents.
    local function caught(name)
        local server = assert(socket.bind("127.0.0.1", 0))
        local _, here = server:getsockname()
        local program = bench.start { "openssl", "s_client", "-connect", "127.0.0.1:" .. here, "-CAfile", certs.ca.crt,
            "-verify_return_error", "-verify_hostname", name, "-servername", name, "-ign_eof",
            stdin = bench.write("request", "hello\n") }
        server:settimeout(10)
        local client = assert(server:accept())
        server:close()
        client:settimeout(10)
        local header = assert(client:receive(5))
        return program, client, assert(client:receive((string.unpack(">I2", header, 4))))
    end

    -- Between a client and us: sends the first record's contents as `send` does, and passes the rest on.
    local function relay(name, send)
        local program, client, hello = caught(name)
        local up = bench.connect(port)
        up:setoption("tcp-nodelay", true)
        send(up, hello)
        client:settimeout(0)
        up:settimeout(0)
        local open = { client, up }
        while #open > 0 do
            local ready = socket.select(open, nil, 10)
            assert(#ready > 0, "nothing has moved for 10 s")
            for _, from in ipairs(ready) do
                local to = from == client and up or client
                local data, why, part = from:receive(65536)
                to:settimeout(5)
                to:send(data or part)
                to:settimeout(0)
                if why == "closed" then
                    to:shutdown("send")
                    table.remove(open, open[1] == from and 1 or 2)
                end
            end
        end
        client:close()
        up:close()
        program:wait(10)
        return program
    end

    local function byte_by_byte(up, data)
        for i = 1, #data do
            assert(up:send(data:sub(i, i)))
        end
    end

    local function records(hello, size)
        local list = {}
        for at = 1, #hello, size do
            list[#list + 1] = "\22\3\1" .. string.pack(">s2", hello:sub(at, at + size - 1))
        end
        return table.concat(list)
    end

    local function served_through(send)
        local number = #web:records() + 1
        local program = relay("a.example", send)
        assert.equal(0, program.code, program:errors())
        local record = web:record(number)
        assert.equal("TLSv1.3", record.version)
        assert.equal("a.example", record.sni)
    end

    it("gets a name that comes byte by byte", function()
        served_through(function(up, hello)
            byte_by_byte(up, records(hello, #hello))
        end)
    end)

    for _, size in ipairs { 1, 3, 100, 250 } do
        it(("gets a name that comes in records of %d bytes"):format(size), function()
            served_through(function(up, hello)
                assert(up:send(records(hello, size)))
            end)
        end)
    end

    it("gets a name that comes in two records, byte by byte", function()
        served_through(function(up, hello)
            byte_by_byte(up, records(hello, #hello // 2 + 1))
        end)
    end)

    -- ---- sessions --------------------------------------------------------------------------------

    for _, version in ipairs { "-tls1_2", "-tls1_3" } do
        it(version .. ": a session counts for its name only", function()
            local session = bench.path("session" .. version)
            local function resumed(name)
                local result, record = s_client(name, version, "-sess_in", session)
                assert.equal(0, result.code, result.err)
                return record.resumed
            end
            s_client("a.example", version, "-sess_out", session)
            assert.is_true(bench.exists(session))
            assert.equal("yes", resumed("a.example"))
            assert.equal("no", resumed("c.example"))
            assert.equal("no", resumed("localhost"))
            assert.equal("yes", resumed("a.example"))
        end)
    end

    -- ---- who does not stay -----------------------------------------------------------------------

    it("is none of the business of clients that vanish", function()
        local worker = web:wait_workers(1)[1]
        local before, number = asked(), #web:records()
        local descriptors, memory = nil, bench.memory(worker)
        for round = 1, 6 do
            local result = bench.peer("peer", "vanish", { connect = "127.0.0.1:" .. port, count = COUNT,
                sizes = "0,1,5,100", servername = "a.example" }):finish()
            assert.equal(4 * COUNT, result.connected)
            web:records(number + round * 4 * COUNT)
            bench.wait("all connections to be closed", function() return web:open_connections() == 0 end)
            descriptors = descriptors or bench.descriptors(worker)
            if descriptors then
                bench.wait("the descriptors of before", function()
                    return bench.descriptors(worker) <= descriptors
                end)
            end
        end
        if not bench.sanitized then
            bench.wait("the memory of the storm to be given back", function()
                return bench.memory(worker) < memory + 2048
            end)
        end
        assert.equal(before, asked())
        assert.equal(worker, web:workers()[1])
        for _, record in ipairs(web:records()) do
            assert.matches("^%a+: ", record.reason)
        end
    end)

    it("of the old generation answers who began under it", function()
        local program, client, hello = caught("raise.example")
        client:close()
        program:wait(10)
        hello = records(hello, #hello)
        local early = bench.connect(port)
        early:send(hello:sub(1, 100))
        bench.wait("the client to be there", function() return web:open_connections() == 1 end)
        web.options.first_crt, web.options.first_key = certs.wrong.crt, certs.wrong.key
        web:reload((SCRIPT:gsub("nobody of that name", "nobody any more")))
        assert.matches("hostname mismatch", (s_client("a.example")).err)
        early:send(hello:sub(101))
        local answer, _, rest = early:receive("*a")
        assert.equal("\21\3\3\0\2\2\112", answer or rest)
        early:close()
        local _, count = web:log_text():gsub("any more", "")
        assert.equal(0, count)
        s_client("raise.example")
        web:wait_log("nobody any more")
        web.options.first_crt, web.options.first_key = certs.a_example.crt, certs.a_example.key
        web:reload(SCRIPT)
        assert.equal(0, (s_client("a.example")).code)
        web:stop()
    end)

    it("has no time for those who dawdle", function()
        started(0.3)
        local client = bench.connect(port)
        client:send("\22\3\1\2\0\1\0\1\xfc\3\3")
        client:receive(1)
        client:close()
        assert.equal("down: handshake timeout", web:record(1).reason)
        web:stop()
    end)
end)
