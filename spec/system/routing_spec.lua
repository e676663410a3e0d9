-- One port, many ways: by name, protocol, address and client certificate, passed through, plain or refused. It is the
-- example that runs, with real clients, and nginx behind it.

local bench = require "bench"
local certs = require "certs"
local nginx = require "nginx"
local proxy = require "proxy"

describe("examples/routing.lua", function()
    local web, port
    local backends = {}

    setup(function()
        local dir = bench.path("quickstart")
        bench.must { "mkdir", dir }
        bench.write("quickstart/ecdsa.pem", bench.read(certs.ec_shops.crt) .. bench.read(certs.ec_shops.key))
        bench.write("quickstart/ca.crt", bench.read(certs.ca.crt))
        local env = { MOONGATE_QUICKSTART = dir }
        for name, options in pairs { WEB = {}, H2 = { http2 = true }, ADMIN = {}, LEGACY = {},
            MAIL = { tls = certs.a_example } } do
            options.text = name .. "\n"
            backends[name] = nginx.start(options)
            env[name] = "127.0.0.1:" .. backends[name].port
        end
        port = bench.port()
        env.LISTEN = "127.0.0.1:" .. port
        local script = bench.read("examples/routing.lua"):gsub("%$", "$$")
        web = proxy.start { workers = 2, env = env, whole = true,
            script = 'require "moongate".settings { access_log = "$access" }\n' .. script }
    end)
    teardown(proxy.cleanup)

    -- What curl gets, and the connection's record.
    local function curl(url, ...)
        local number = #web:records() + 1
        local result = bench.run { "curl", "-sS", "--cacert", certs.ca.crt, "--max-time", "20",
            "--connect-to", ("::127.0.0.1:%d"):format(port), url, ... }
        return result, web:record(number)
    end

    local HOST = "https://www.shop.example.com/"

    it("goes by the protocol that was agreed on", function()
        local result, record = curl(HOST, "--http1.1")
        assert.equal("WEB\n", result.out)
        assert.equal("http/1.1", record.alpn)
        result, record = curl(HOST, "--http2")
        assert.equal("H2\n", result.out)
        assert.equal("h2", record.alpn)
        assert.equal("127.0.0.1:" .. backends.H2.port, record.backend_address)
    end)

    it("goes by the client's certificate, and refuses with a reason", function()
        local admin = "https://admin.shop.example.com/"
        local result, record = curl(admin, "--http1.1", "--cert", certs.client.crt, "--key", certs.client.key)
        assert.equal("ADMIN\n", result.out)
        assert.matches("client%-1", record.client_subject)
        result, record = curl(admin, "--http1.1")
        assert.not_equal(0, result.code)
        assert.equal("route: refused", record.reason)
        assert.equal("the administration wants a client certificate", record.detail)
        web:wait_log("refused: the administration wants a client certificate")
        assert.equal("internal_error", record.alert_sent)
        assert.is_nil(record.backend)
    end)

    it("passes through what others encrypt, and knows what its ClientHello says", function()
        local result, record = web:s_client(port, "mail.example.com", "-verify_hostname", "a.example")
        assert.matches("a.example", result.out, 1, true)
        assert.equal("yes", record.passthrough)
        assert.equal("mail.example.com", record.sni)
        assert.equal("127.0.0.1:" .. backends.MAIL.port, record.backend_address)
        result, record = web:s_client(port, "mail.example.com", "-alpn", "h2,http/1.1")
        assert.not_matches("a.example", result.out, 1, true)
        assert.equal("route: refused", record.reason)
        assert.equal("mail does not speak HTTP", record.detail)
        assert.equal("h2,http/1.1", record.alpn_offered)
    end)

    it("serves gnutls-cli, too", function()
        local number = #web:records() + 1
        local result = bench.run { "gnutls-cli", "--x509cafile", certs.ca.crt, "--sni-hostname", "www.shop.example.com",
            "--verify-hostname", "www.shop.example.com", "--alpn", "http/1.1", "-p", tostring(port), "127.0.0.1",
            input = "GET / HTTP/1.0\r\n\r\n" }
        assert.matches("WEB\n", result.out)
        assert.equal("http/1.1", web:record(number).alpn)
    end)

    it("serves plain clients by their address, on the same port", function()
        local result, record = curl("http://www.shop.example.com/", "--interface", "127.0.0.2")
        assert.equal("LEGACY\n", result.out)
        assert.equal("yes", record.plaintext)
        assert.is_nil(record.version)
        result, record = curl("http://www.shop.example.com/")
        assert.not_equal(0, result.code)
        assert.equal("route: refused", record.reason)
        assert.equal("plain text is for internal clients", record.detail)
        assert.equal("yes", record.plaintext)
    end)

    it("has no place for other names", function()
        local result, record = web:s_client(port, "nobody.example.com")
        assert.matches("unrecognized name", result.err)
        assert.equal("down: refused by name", record.reason)
    end)
end)
