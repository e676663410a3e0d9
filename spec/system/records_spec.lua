-- One access record per connection, whether it succeeded or not, in JSON and in text.

local bench = require "bench"
local certs = require "certs"
local proxy = require "proxy"

local SCRIPT = [[
local ctx = server()
ctx.verify_mode = openssl.SSL.VERIFY_PEER
ctx.ca_file = "$ca_crt"
ctx.alpn_protocols = { "h2", "http/1.1" }
moongate.listen { name = "web", address = "127.0.0.1:$port", tls = ctx, backend = "127.0.0.1:$backend" }
moongate.listen { name = "gone", address = "127.0.0.1:$gone", tls = server(), backend = "127.0.0.1:$nobody" }
]]

teardown(proxy.cleanup)

describe("access records", function()
    local backend

    setup(function() backend = bench.echo_server() end)

    local function start(options)
        options.port, options.gone, options.nobody, options.backend = bench.port(), bench.port(), bench.port(),
            backend.port
        options.script = SCRIPT
        return proxy.start(options), options
    end

    local function exchange(port, options)
        options.connect, options.tls, options.cafile, options.servername = "127.0.0.1:" .. port, true,
            certs.ca.crt, "localhost"
        options.cert, options.key = certs.client.crt, certs.client.key
        return bench.exchange(options):finish()
    end

    describe("in JSON", function()
        local web, options

        setup(function() web, options = start {} end)

        it("say everything about a connection that went well", function()
            exchange(options.port, { bytes = 5000, alpn = "http/1.1,h2", tls_version = "1.3" })
            local record = web:record(1)
            assert.equal("web", record.listener)
            assert.equal(1, record.generation)
            assert.matches("^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%d%.%d+Z$", record.time)
            assert.is_number(record.id)
            assert.matches("^127%.0%.0%.1:%d+$", record.remote)
            assert.equal("127.0.0.1:" .. options.port, record["local"])
            assert.equal("localhost", record.sni)
            assert.equal("http/1.1,h2", record.alpn_offered)
            assert.is_true(record.alpn == "h2" or record.alpn == "http/1.1")
            assert.equal("TLSv1.3", record.version)
            assert.matches("^TLS_", record.cipher)
            assert.is_string(record.group)
            assert.is_string(record.sigalg)
            assert.equal("no", record.resumed)
            assert.equal("CN=client-1", record.client_subject)
            local printed = bench.must { "openssl", "x509", "-in", certs.client.crt, "-noout", "-fingerprint",
                "-sha256" }
            assert.equal(printed:match("=(%S+)"):gsub(":", ""):lower(), record.client_sha256)
            assert.equal("127.0.0.1:" .. backend.port, record.backend_address)
            assert.equal(5000, record.bytes_up)
            assert.equal(5000, record.bytes_down)
            assert.is_true(record.handshake_ms > 0 and record.total_ms >= record.handshake_ms)
            assert.is_number(record.connect_ms)
            assert.equal("relay: done", record.reason)
        end)

        it("say why there was no backend", function()
            assert.equal(0, exchange(options.gone, { bytes = 10 }).got)
            local record = web:record(2)
            assert.equal("gone", record.listener)
            assert.equal("up: connection refused", record.reason)
            assert.equal(0, record.bytes_down)
        end)

        it("say why there was no handshake, with the alert", function()
            local client = bench.connect(options.gone)
            client:send("GET / HTTP/1.0\r\n\r\n")
            client:close()
            assert.matches("^down: .*HTTP", web:record(3).reason)
            exchange(options.gone, { tls_version = "1.2", sigalgs = "ed25519", bytes = 1 })
            local record = web:record(4)
            assert.equal("down: handshake failed", record.reason)
            assert.equal("handshake_failure", record.alert_sent)
        end)

        it("number connections without a gap or a double", function()
            local seen = {}
            for _, record in ipairs(web:records(4)) do
                assert.is_nil(seen[record.id])
                seen[record.id] = true
            end
        end)

        it("go to a new file after USR1", function()
            os.rename(web.access, web.access .. ".1")
            web.program:signal(proxy.signals.USR1)
            bench.wait("a new file", function() return bench.exists(web.access) end)
            bench.wait("a record in it", function()
                exchange(options.port, { bytes = 1 })
                return #web:records() > 0
            end)
            assert.is_true(#bench.read(web.access .. ".1") > 0)
        end)
    end)

    it("in text are one line of key=value", function()
        local web, options = start { log_format = "text" }
        exchange(options.port, { bytes = 5000 })
        local text = bench.wait("a record", function()
            return bench.read(web.access):match("^[^\n]+\n$")
        end)
        assert.matches("^time=%S+ id=%d+ listener=web generation=1 remote=127%.0%.0%.1:%d+ ", text)
        assert.matches(' client_subject="CN=client%-1" ', text)
        assert.matches(" bytes_up=5000 bytes_down=5000 ", text)
        assert.matches(' reason="relay: done"', text)
    end)
end)

describe("hello_ms", function()
    it("is the time until the ClientHello has come, however it is read", function()
        local ports = { context = bench.port(), chosen = bench.port(), plain = bench.port() }
        local web = proxy.start { workers = 1, context = ports.context, chosen = ports.chosen, plain = ports.plain,
            script = [[
local ctx = server()
moongate.listen { name = "context", address = "127.0.0.1:$context", tls = ctx, backend = moongate.echo() }
moongate.listen { name = "chosen", address = "127.0.0.1:$chosen", tls = function() return ctx end,
    backend = moongate.echo() }
moongate.listen { name = "plain", address = "127.0.0.1:$plain", tls = ctx, tls_optional = true,
    backend = moongate.echo() }
]] }
        local hello = bench.client_hello()
        for number, name in ipairs { "context", "chosen" } do
            local client = bench.connect(ports[name])
            client:send(hello:sub(1, 100))
            bench.wait("it to be accepted", function() return web:status().workers[1].engine.unfinished == 1 end)
            bench.sleep(0.2)
            client:send(hello:sub(101))
            assert.equal("\22", client:receive(1)) -- it is answered
            bench.sleep(0.1)
            client:send("\20\3\3\0\1\1") -- which is no part of it
            bench.sleep(0.3)
            client:close()
            local record = web:record(number)
            assert.equal(name, record.listener)
            assert.is_true(record.hello_ms >= 200, record.hello_ms)
            assert.is_true(record.hello_ms <= record.total_ms - 400 + 1, record.hello_ms)
        end
        local client = bench.connect(ports.plain)
        client:send("hello")
        assert.equal("hello", client:receive(5))
        client:close()
        assert.is_nil(web:record(3).hello_ms)
        web:stop()
    end)
end)
