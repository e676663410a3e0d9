-- ServerNames with real clients: each name its policy, chosen without Lua; what is passed through goes on as it came.

local bench = require "bench"
local certs = require "certs"
local nginx = require "nginx"
local proxy = require "proxy"
local socket = require "socket"

local KIB = 1024

local SCRIPT = [[
local SSL = openssl.SSL
local function context(crt, key)
    local ctx = SSL.SSLContext.new()
    ctx:load_certificate(crt, key)
    return ctx
end
local a = context("$a_crt", "$a_key")
local b = context("$b_example_crt", "$b_example_key")
b.max_version = SSL.TLS1_2_VERSION
local asking = server()
asking.servername_cb = function(_, name) print("asked " .. name) return name == "x.ask.example" and a or nil end

local encrypted = moongate.backend { name = "encrypted", address = "127.0.0.1:$tls_port", tls = client(),
    servername = "localhost" }
local names = {
    a,
    ["b.example"] = b,
    ["*.sub.example"] = b,
    ["*.ask.example"] = asking,
    ["pass.example"] = moongate.PASSTHROUGH,
    ["echo.example"] = moongate.PASSTHROUGH,
    ["nowhere.example"] = moongate.PASSTHROUGH,
    ["wrong.example"] = moongate.PASSTHROUGH,
    ["closed.example"] = false,
    none = server(),
}

moongate.listen { name = "web", address = "127.0.0.1:$port", tls = moongate.servernames(names),
    backend = function(conn)
        print(("route %s %s %s %s %s %s"):format(conn.servername, conn.remote_ip, conn.ssl_version, conn.cipher,
            conn.peer_cert, conn.alpn_protocol))
        if conn.servername == "pass.example" then return "127.0.0.1:$tls_port" end
        if conn.servername == "echo.example" then return "127.0.0.1:$echo_port" end
        if conn.servername == "nowhere.example" then return "127.0.0.1:$dead_port" end
        if conn.servername == "wrong.example" then return encrypted end
        return "127.0.0.1:$plain_port"
    end }
moongate.listen { name = "fixed", address = "127.0.0.1:$fixed_port", backend = encrypted,
    tls = function(hello) if hello.servername == "a.example" then return a end return moongate.PASSTHROUGH end }
]]

teardown(proxy.cleanup)

describe("names", function()
    local web, port, fixed_port, echo_port

    setup(function()
        port, fixed_port, echo_port = bench.port(), bench.port(), bench.port()
        web = proxy.start { workers = 1, port = port, fixed_port = fixed_port, script = SCRIPT,
            dead_port = bench.port(),
            a_crt = certs.a_example.crt, a_key = certs.a_example.key, echo_port = echo_port,
            tls_port = nginx.start({ tls = certs.ec, text = "encrypted\n" }).port,
            plain_port = nginx.start({ text = "plain\n" }).port }
    end)
    -- What curl gets under a name, and its record.
    local function fetch(name, ...)
        local number = #web:records() + 1
        local command = { "curl", "-sS", "--cacert", certs.ca.crt, "--max-time", "10", "--connect-to",
            ("%s::127.0.0.1:%d"):format(name, port), "https://" .. name .. "/" }
        for _, argument in ipairs { ... } do
            command[#command + 1] = argument
        end
        return bench.run(command), web:record(number)
    end

    local function s_client(name, ...)
        local number = #web:records() + 1
        local command = { "openssl", "s_client", "-connect", "127.0.0.1:" .. port, "-CAfile", certs.ca.crt,
            input = "", name and "-servername" or "-noservername", name, ... }
        return bench.run(command), web:record(number)
    end

    -- ---- terminated ------------------------------------------------------------------------------

    for name, version in pairs { ["a.example"] = "TLSv1.3", ["c.example"] = "TLSv1.3", ["b.example"] = "TLSv1.2" } do
        it("serve " .. name .. " with its policy", function()
            local result, record = fetch(name)
            assert.equal("plain\n", result.out, result.err)
            assert.same({ name, version, nil }, { record.sni, record.version, record.passthrough })
        end)
    end

    it("know wildcards, any case and no name", function()
        local _, record = s_client("WWW.Sub.Example")
        assert.equal("TLSv1.2", record.version)
        _, record = s_client(nil)
        assert.equal("TLSv1.3", record.version)
        assert.is_nil(record.sni)
    end)

    for _, name in ipairs { "nobody.example", "closed.example", "a.b.sub.example", "sub.example" } do
        it("refuse " .. name, function()
            local result, record = s_client(name)
            assert.matches("unrecognized name", result.err)
            assert.same({ "unrecognized_name", "down: refused by name", "nothing is served under this name" },
                { record.alert_sent, record.reason, record.detail })
        end)
    end

    it("lead on to a servername_cb", function()
        local _, record = s_client("x.ask.example")
        assert.equal("ecdsa_secp256r1_sha256", record.sigalg)
        web:wait_log("asked x.ask.example")
        local result = s_client("y.ask.example", "-verify_hostname", "localhost", "-verify_return_error")
        assert.equal(0, result.code, result.err)
    end)

    it("resume under each name, and only there", function()
        local file = bench.path("session.pem")
        s_client("b.example", "-sess_out", file)
        local _, record = s_client("b.example", "-sess_in", file)
        assert.equal("yes", record.resumed)
        _, record = s_client("x.sub.example", "-sess_in", file)
        assert.equal("no", record.resumed)
    end)

    -- ---- passed through --------------------------------------------------------------------------

    it("pass a connection through, TLS and all", function()
        local result, record = fetch("pass.example", "-k", "-w", "%{ssl_verify_result} %{http_version}")
        assert.matches("^encrypted\n", result.out, result.err)
        assert.same({ "yes", "pass.example", "relay: done" }, { record.passthrough, record.sni, record.reason })
        assert.is_nil(record.version)
        assert.matches("^t13d", record.ja4)
        assert.is_true(record.bytes_up > 300 and record.bytes_down > 800)
        web:wait_log("route pass.example 127.0.0.1 nil nil nil nil")
        result = s_client("pass.example", "-verify_hostname", "localhost", "-verify_return_error")
        assert.equal(0, result.code, result.err) -- the backend's certificate, not one of ours
    end)

    -- A ClientHello for `name` as s_client makes it, with its record.
    local function hello(name)
        local server = assert(socket.bind("127.0.0.1", 0))
        local _, here = server:getsockname()
        local program = bench.start { "openssl", "s_client", "-connect", "127.0.0.1:" .. here, "-servername", name,
            "-alpn", "h2" }
        server:settimeout(10)
        local client = assert(server:accept())
        client:settimeout(10)
        local header = assert(client:receive(5))
        local wire = header .. assert(client:receive((string.unpack(">I2", header, 4))))
        client:close()
        server:close()
        program:wait(10)
        return wire
    end

    -- What the backend got from a client that sends `pieces`, ends, and reads what `answer` is sent back.
    local function through(pieces, answer)
        local number = #web:records() + 1
        local backend = assert(socket.bind("127.0.0.1", echo_port))
        local client = bench.connect(port)
        client:setoption("tcp-nodelay", true)
        client:settimeout(10)
        for _, piece in ipairs(pieces) do
            assert(client:send(piece))
        end
        client:shutdown("send")
        backend:settimeout(10)
        local up = assert(backend:accept())
        backend:close()
        up:settimeout(10)
        local got = assert(up:receive("*a")) -- up to the client's half-close
        assert(up:send(answer))
        up:close()
        local came = assert(client:receive("*a"))
        client:close()
        return got, came, web:record(number)
    end

    it("pass the bytes on as they came, and half-closes, too", function()
        local wire = hello("echo.example")
        local tail = ("what follows\0"):rep(10 * KIB)
        local got, came, record = through({ wire, tail }, ("answer"):rep(20 * KIB))
        assert.is_true(got == wire .. tail)
        assert.is_true(came == ("answer"):rep(20 * KIB))
        assert.same({ "yes", "h2", "relay: done", #wire + #tail, 120 * KIB },
            { record.passthrough, record.alpn_offered, record.reason, record.bytes_up, record.bytes_down })
    end)

    it("pass on a ClientHello that comes byte by byte", function()
        local pieces = {}
        hello("echo.example"):gsub(".", function(byte) pieces[#pieces + 1] = byte end)
        assert.equal(table.concat(pieces), (through(pieces, "x")))
    end)

    it("pass on a ClientHello in many records as it is", function()
        local message, wire = hello("echo.example"):sub(6), {}
        for at = 1, #message, 7 do
            wire[#wire + 1] = "\22\3\1" .. string.pack(">s2", message:sub(at, at + 6))
        end
        assert.equal(table.concat(wire), (through({ table.concat(wire) }, "x")))
    end)

    it("are refused where the backend would encrypt once more", function()
        for name, at in pairs { ["wrong.example"] = port, ["other.example"] = fixed_port } do
            local number = #web:records() + 1
            local result = bench.run { "openssl", "s_client", "-connect", "127.0.0.1:" .. at, "-servername", name }
            assert.matches("alert internal error", result.err)
            local record = web:record(number)
            assert.same({ "route: backend with tls for a passthrough", "internal_error", "yes", name },
                { record.reason, record.alert_sent, record.passthrough, record.sni })
            assert.matches("backend encrypted has tls, but what is passed through is encrypted already", record.detail)
        end
    end)

    it("tell of a backend that is not there", function()
        local result, record = s_client("nowhere.example")
        assert.not_equal(0, result.code)
        assert.same({ "up: connection refused", "yes" }, { record.reason, record.passthrough })
    end)

    it("are found anew after a reload, while connections go on", function()
        local backend = assert(socket.bind("127.0.0.1", echo_port))
        local client = bench.connect(port)
        local wire = hello("echo.example")
        client:settimeout(10)
        client:send(wire)
        backend:settimeout(10)
        local up = backend:accept()
        up:settimeout(10)
        assert.equal(wire, up:receive(#wire))
        web:reload((SCRIPT:gsub('%["b.example"%] = b', '["new.example"] = b')))
        local _, record = s_client("new.example")
        assert.equal("TLSv1.2", record.version)
        _, record = s_client("b.example")
        assert.equal("unrecognized_name", record.alert_sent)
        up:send("still there")
        assert.equal("still there", client:receive(11))
        up:close()
        client:close()
        backend:close()
    end)
end)

describe("a reload", function()
    it("parses only the certificates and keys that have changed", function()
        local port, dir = bench.port(), bench.path("many")
        bench.must { "mkdir", dir }
        local function write(name, made)
            bench.write("many/" .. name .. ".pem",
                bench.read(made.crt) .. bench.read(certs.ca.crt) .. bench.read(made.key))
        end
        write("a", certs.a_example)
        write("b", certs.b_example)
        local web = proxy.start { workers = 1, port = port, settings = 'log_level = "debug"', script = [[
moongate.listen { name = "web", address = "127.0.0.1:$port", backend = moongate.reply("x"),
    tls = moongate.servernames(moongate.certificates("$dir/many/*.pem")) }]] }
        local function served(name)
            return bench.run { "openssl", "s_client", "-connect", "127.0.0.1:" .. port, "-CAfile", certs.ca.crt,
                "-servername", name, "-verify_hostname", name, "-verify_return_error", input = "" }.code == 0
        end
        web:reload()
        web:wait_log("generation 2: certificates and keys: 0 parsed, 6 known") -- the CA's is there twice
        assert.is_true(served("a.example") and served("b.example"))
        write("b", certs.wrong)
        web:reload()
        web:wait_log("generation 3: certificates and keys: 2 parsed, 4 known")
        assert.is_true(served("a.example") and served("other.example"))
        assert.is_false(served("b.example"))
        write("b", certs.b_example)
        web:reload()
        web:wait_log("generation 4: certificates and keys: 2 parsed, 4 known") -- what is not used is forgotten
        assert.is_true(served("b.example"))
    end)
end)
