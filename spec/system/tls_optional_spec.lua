-- tls_optional: the first byte decides between TLS and plain, and before it nothing is sent.

local bench = require "bench"
local certs = require "certs"
local proxy = require "proxy"

local SCRIPT = [[
local ctx = server()
local function listen(name, port, options)
    options.name, options.address, options.tls_optional = name, "127.0.0.1:" .. port, true
    moongate.listen(options)
end
listen("context", $context, { tls = ctx, backend = moongate.echo() })
listen("names", $names, { tls = moongate.servernames { localhost = ctx }, backend = moongate.echo() })
listen("asked", $asked, { backend = "127.0.0.1:$greeter", tls = function(hello)
    if hello.servername == "pass.example" then return moongate.PASSTHROUGH end
    return ctx
end })
local plain, modern = moongate.reply("plain\n"), moongate.reply("TLSv1.3\n")
listen("route", $route, { tls = ctx, backend = function(conn)
    if not conn.ssl_version then
        assert(conn.cipher == nil and conn.servername == nil and conn.alpn_protocols == nil and conn.peer_cert == nil)
        return plain
    end
    return conn.ssl_version == "TLSv1.3" and modern
end })
listen("late", $late, { tls = ctx, backend = "127.0.0.1:$greeter", handshake_timeout = 1 })
]]
local NAMES = { "context", "names", "asked", "route", "late" }

describe("tls_optional", function()
    local web
    local ports = {}

    setup(function()
        local values = { workers = 2, script = SCRIPT }
        for _, name in ipairs { "greeter", table.unpack(NAMES) } do
            ports[name] = bench.port()
            values[name] = ports[name]
        end
        web = proxy.start(values)
    end)
    teardown(proxy.cleanup)

    local function exchange(name, tls, more)
        bench.wait("the last one's end", function() return web:open_connections() == 0 end)
        local number = #web:records() + 1
        local options = { connect = "127.0.0.1:" .. ports[name], bytes = 100000 }
        if tls then
            options.tls, options.servername, options.cafile = true, "localhost", certs.ca.crt
        end
        for key, value in pairs(more or {}) do
            options[key] = value
        end
        local result = bench.exchange(options):finish()
        return result, web:record(number)
    end

    for _, name in ipairs { "context", "names" } do
        it(name .. ": both are served, and the record says which it was", function()
            local result, record = exchange(name, true)
            assert.equal(result.sent_sha256, result.got_sha256)
            assert.equal("TLSv1.3", record.version)
            assert.is_nil(record.plaintext)
            result, record = exchange(name, true, { tls_version = "1.2" })
            assert.equal(result.sent_sha256, result.got_sha256)
            assert.equal("TLSv1.2", record.version)
            result, record = exchange(name, false)
            assert.equal(100000, result.got)
            assert.equal(result.sent_sha256, result.got_sha256)
            assert.equal("fin", result["end"])
            assert.equal("yes", record.plaintext)
            assert.is_nil(record.version)
            assert.equal("relay: done", record.reason)
        end)
    end

    it("tells a backend function", function()
        local client = bench.connect(ports.route)
        client:send("GET /\r\n")
        assert.equal("plain", client:receive("*l"))
        client:close()
        assert.matches("TLSv1.3\n", web:s_client(ports.route, "localhost").out)
    end)

    it("goes by the first byte alone, however they come", function()
        for first = 0, 255, 5 do
            if first ~= 22 then
                local client = bench.connect(ports.context)
                client:send(string.char(first))
                assert.equal(string.char(first), client:receive(1))
                client:send("rest")
                assert.equal("rest", client:receive(4))
                client:close()
            end
        end
        local client = bench.connect(ports.context)
        client:send("\22") -- not a word of TLS follows
        client:send("GET / HTTP/1.0\r\n\r\n")
        assert.not_equal("\22", client:receive(1))
        client:close()
        bench.wait("the record", function()
            for _, record in ipairs(web:records()) do
                if record.reason == "down: not TLS" then
                    return true
                end
            end
        end)
    end)

    it("passes through and serves plain to the same backend", function()
        local backend = bench.exchange { listen = "127.0.0.1:" .. ports.greeter, count = 1, bytes = 50,
            finish_when = "got:100000" }
        local result, record = exchange("asked", false)
        assert.equal(50, result.got)
        assert.equal(100000, backend:finish().got)
        assert.equal("yes", record.plaintext)
        local secure = bench.exchange { listen = "127.0.0.1:" .. ports.greeter, count = 1, bytes = 50, tls = true,
            cert = certs.a_example.crt, key = certs.a_example.key, finish_when = "got:100000" }
        result, record = exchange("asked", true, { servername = "pass.example", cafile = false })
        assert.equal(50, result.got)
        assert.equal(100000, secure:finish().got)
        assert.equal("yes", record.passthrough)
        assert.is_nil(record.plaintext)
    end)

    it("sends nothing to those who say nothing, and does not wait for them for long", function()
        local number = #web:records() + 1
        local backend = bench.exchange { listen = "127.0.0.1:" .. ports.greeter, count = 1, bytes = 50, timeout = 3000 }
        local client = bench.connect(ports.late)
        client:settimeout(20)
        local data, reason, part = client:receive(1)
        assert.is_nil(data)
        assert.equal("closed", reason)
        assert.equal("", part)
        client:close()
        local record = web:record(number)
        assert.equal("down: handshake timeout", record.reason)
        assert.is_nil(record.backend_address)
        backend:stop()
    end)

    it("is the wait for the first byte alone that handshake_timeout ends", function()
        local backend = bench.echo_server { listen = "127.0.0.1:" .. ports.greeter }
        local client = bench.connect(ports.late)
        client:settimeout(20)
        for _ = 1, 15 do
            client:send("x")
            assert.equal("x", client:receive(1))
            bench.sleep(0.1)
        end
        client:close()
        backend:stop()
    end)
end)
