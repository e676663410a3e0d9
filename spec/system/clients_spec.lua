-- Programs that people have, through moongate, to programs that people have.

local bench = require "bench"
local certs = require "certs"
local nginx = require "nginx"
local proxy = require "proxy"

describe("clients", function()
    local web, port, redis_port, redis_backend

    setup(function()
        port, redis_port, redis_backend = bench.port(), bench.port(), bench.port()
        local backend = nginx.start { text = "hello from nginx\n" }
        bench.start { "redis-server", "--port", tostring(redis_backend), "--bind", "127.0.0.1", "--save", "",
            "--appendonly", "no", "--dir", bench.dir }
        bench.wait("redis to listen", function()
            local client = bench.connect(redis_backend)
            return client and client:close()
        end)
        web = proxy.start {
            port = port, redis_port = redis_port, backend = backend.port, redis_backend = redis_backend,
            script = [[
moongate.listen { name = "web", address = "127.0.0.1:$port", tls = server(), backend = "127.0.0.1:$backend" }
moongate.listen { name = "redis", address = "127.0.0.1:$redis_port", tls = server(),
    backend = "127.0.0.1:$redis_backend" }
]],
        }
    end)

    teardown(proxy.cleanup)

    it("curl gets a page, and keeps its connection for the next", function()
        local url = ("https://localhost:%d/"):format(port)
        local out = bench.must { "curl", "-sS", "--cacert", certs.ca.crt, "-w", "%{num_connects}\n", url, url }
        assert.equal("hello from nginx\n1\nhello from nginx\n0\n", out)
    end)

    it("curl by address is satisfied with the IP in the certificate", function()
        local out = bench.must { "curl", "-sS", "--cacert", certs.ca.crt, ("https://127.0.0.1:%d/"):format(port) }
        assert.equal("hello from nginx\n", out)
    end)

    it("gnutls-cli gets a page", function()
        local result = bench.run { "gnutls-cli", "--x509cafile", certs.ca.crt, "-p", tostring(port), "localhost",
            input = "GET / HTTP/1.0\r\nHost: localhost\r\n\r\n" }
        assert.matches("Status: The certificate is trusted", result.out, 1, true)
        assert.matches("hello from nginx", result.out, 1, true)
    end)

    it("redis-cli speaks TLS to a redis-server that does not", function()
        local function redis(...)
            local command = { "redis-cli", "--tls", "--cacert", certs.ca.crt, "-h", "localhost", "-p",
                tostring(redis_port) }
            return bench.must(table.move({ ... }, 1, select("#", ...), #command + 1, command))
        end
        assert.equal("PONG\n", redis("ping"))
        local value = ("x"):rep(100000)
        assert.equal("OK\n", redis("set", "long", value))
        assert.equal(value .. "\n", redis("get", "long"))
    end)

    local function s_client(...)
        local command = { "openssl", "s_client", "-connect", "127.0.0.1:" .. port, "-servername", "localhost",
            "-CAfile", certs.ca.crt, "-verify_return_error", "-ign_eof",
            input = "GET / HTTP/1.0\r\nHost: localhost\r\n\r\n" }
        local result = bench.run(table.move({ ... }, 1, select("#", ...), #command + 1, command))
        assert.equal(0, result.code, result.err)
        assert.matches("hello from nginx", result.out, 1, true)
        return result.out
    end

    -- "RSA-PSS" or "ECDSA"; newer versions of OpenSSL name the whole algorithm.
    local function handshake(version, sigalgs)
        local out = s_client(version, "-sigalgs", sigalgs)
        local name = out:match("Peer signature type: ([%w_%-]+)"):upper():gsub("_", "-")
        return name:match("^RSA%-PSS") or name:match("^ECDSA") or name
    end

    for _, version in ipairs { "-tls1_2", "-tls1_3" } do
        it("openssl s_client gets the RSA certificate if that is all it knows: " .. version, function()
            assert.equal("RSA-PSS", handshake(version, "RSA-PSS+SHA256:RSA+SHA256"))
        end)

        it("openssl s_client gets the ECDSA certificate if it can take both: " .. version, function()
            assert.equal("ECDSA", handshake(version, "ECDSA+SHA256:RSA-PSS+SHA256:RSA+SHA256"))
        end)
    end

    it("a TLS 1.2 client with RSA ciphers only gets the RSA certificate", function()
        local peer = bench.exchange { connect = "127.0.0.1:" .. port, tls = true, tls_version = "1.2",
            ciphers = "ECDHE-RSA-AES128-GCM-SHA256", cafile = certs.ca.crt, servername = "localhost", finish = "full" }
        local result = peer:finish()
        assert.equal("RSA", result.key)
        assert.equal("ECDHE-RSA-AES128-GCM-SHA256", result.cipher)
    end)

    it("leaves a record for each of them", function()
        for _, record in ipairs(web:records(10)) do
            assert.is_string(record.reason)
            assert.is_true(record.listener == "web" or record.listener == "redis")
        end
    end)
end)
