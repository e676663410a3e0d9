-- The worker's run of a script sees the world of the loader's, and its callbacks the real one.

local bench = require "bench"
local certs = require "certs"
local proxy = require "proxy"

describe("a replayed script", function()
    teardown(proxy.cleanup)

    local function ask(port)
        local client = assert(bench.connect(port))
        client:send("?")
        local text = client:receive("*a")
        client:close()
        return text
    end

    it("asks the same world, from whichever worker", function()
        bench.must { "mkdir", "-p", bench.path("modules") }
        bench.write("modules/answer.lua", "return 42")
        bench.write("modules/data.txt", "recorded")
        bench.write("modules/moongate.lua", ([[
            local moongate, openssl = require "moongate", require "moongate.openssl"
            local parts = { require "answer", io.open "data.txt":read "a", tostring(io.open "missing.txt"),
                os.getenv "SPEC_WORLD", os.time(), os.clock(), os.date(), math.random(1 << 60),
                moongate.command { "sh", "-c", "echo $$" }, openssl.PKey.EC.generate("prime256v1"):to_pem() }
            for key in next, { x = 1, y = 2, z = 3, aa = 4, bb = 5, cc = 6 } do
                parts[#parts + 1] = key
            end
            for key in pairs { b = 1, a = 2, c = 3 } do
                parts[#parts + 1] = key
                moongate.listen { name = key, address = "127.0.0.1:" .. (PORT + string.byte(key)),
                    backend = moongate.echo() }
            end
            local key = openssl.PKey.EC.generate("prime256v1")
            local cert = openssl.X509.Certificate.new()
            cert.version, cert.serial, cert.subject, cert.issuer = 2, "01", "/CN=made", "/CN=made"
            cert.not_before, cert.not_after, cert.public_key = os.time(), os.time() + 86400 * 30, key
            cert:sign(key, "SHA256")
            local ctx = openssl.SSL.SSLContext.new()
            ctx:add_certificate(cert, key)
            ctx.cert_store = openssl.X509.Store.new():add_cert(cert)
            ctx.client_ca, ctx.verify_mode = cert, openssl.SSL.VERIFY_PEER
            parts[#parts + 1] = key:sign("SHA256", "text") .. cert:to_pem()
            moongate.listen { address = "127.0.0.1:PORT", backend = moongate.reply(table.concat(parts, "\n")) }
            moongate.listen { name = "tls", address = "unix:@spec-PORT", tls = ctx, backend = moongate.echo() }
        ]]):gsub("PORT", tostring(bench.port())))
        local port = tonumber(bench.read(bench.path("modules/moongate.lua")):match('"127.0.0.1:(%d+)"'))
        local web = proxy.start { script_path = bench.path("modules/moongate.lua"), workers = 2,
            env = { SPEC_WORLD = "outside" } }
        local answers = {} -- of both: who accepts is chance
        for _ = 1, 40 do
            answers[ask(port)] = true
        end
        local text = next(answers)
        assert.is_nil(next(answers, text), "workers differ")
        assert.matches("^42\nrecorded\nnil\noutside\n%d+\n", text)
        assert.matches("PRIVATE KEY", text)
        assert.matches("\naa\nbb\ncc\nx\ny\nz\na\nb\nc\n", text)

        -- A worker that comes later has the same answers, though the files are gone.
        bench.must { "rm", "-r", bench.path("modules") }
        local old = web:workers()
        for _, pid in ipairs(old) do
            bench.must { "kill", "-9", tostring(pid) }
        end
        bench.wait("new workers", function()
            local now = web:workers()
            return #now == 2 and now[1] ~= old[1] and now[2] ~= old[2]
        end)
        bench.wait("the same answer again", function()
            local ok, again = pcall(ask, port)
            return ok and again == text
        end)
    end)

    it("leaves no context to be changed by callbacks, attached or not", function()
        local port = bench.port()
        local web = proxy.start { port = port, workers = 1, script = [[
            contexts = { server(), openssl.SSL.SSLContext.new() }
            moongate.listen { address = "127.0.0.1:$port", backend = function()
                local texts = {}
                for i, ctx in ipairs(contexts) do
                    local _, refusal = pcall(function() ctx.groups = "X25519" end)
                    texts[i] = tostring(ctx.frozen) .. " " .. refusal.class
                end
                print("frozen: " .. table.concat(texts, ", "))
                return nil, "seen"
            end }
        ]] }
        pcall(ask, port)
        web:wait_log "frozen: true FrozenError, true FrozenError"
    end)

    it("has the real clock and real chance in callbacks, and no files", function()
        local port = bench.port()
        local web = proxy.start { port = port, workers = 1, script = [[
            local loaded = os.time()
            moongate.listen { address = "127.0.0.1:$port", backend = function(conn)
                assert(math.abs(os.time() - loaded) < 1000)
                local tried = {
                    { io.open, "/etc/hostname" }, { io.lines, "/etc/hostname" }, { dofile, "x.lua" },
                    { require, "nothing" }, { moongate.command, { "true" } }, { moongate.listen, {} },
                    { moongate.settings, {} }, { moongate.reply, "x" }, { moongate.backend, {} },
                }
                for i, call in ipairs(tried) do
                    local ok, value, text = pcall(table.unpack(call))
                    print(i, not ok and tostring(value) or value == nil and text or "was possible")
                end
                return nil, ("%s %d"):format(os.date "%Y", math.random(1 << 50))
            end }
        ]] }
        pcall(ask, port) -- the refusal may be faster than the question
        web:wait_log("backend: backends are made while the script loads; in a callback, return an " ..
            "address, or a Backend that was made outside of the function")
        local log = web:log_text()
        assert.is_nil(log:find("was possible", 1, true))
        assert.is_truthy(log:find("files are read while the script loads, not in a callback", 1, true))
        assert.is_truthy(log:find("programs are run while the script loads, not in a callback", 1, true))
        assert.is_truthy(log:find("listeners are made while the script loads, not in a callback", 1, true))
    end)

    it("freezes everything once it has returned", function()
        local port = bench.port()
        local web = proxy.start { port = port, workers = 1, script = [[
            local ctx, backend, listener = server(), moongate.echo(), nil
            listener = moongate.listen { address = "127.0.0.1:$port", tls = ctx, backend = function()
                for i, set in ipairs {
                    function() ctx.min_version = openssl.SSL.TLS1_2_VERSION end,
                    function() backend.servername = "x" end,
                    function() backend.name = "x" end,
                    function() listener.idle_timeout = 1 end,
                    function() listener.address = "x" end,
                } do
                    local ok, err = pcall(set)
                    print("frozen", i, not ok and err.class, ctx.frozen, backend.frozen, listener.frozen)
                end
                return backend
            end }
        ]] }
        local result = bench.exchange { connect = "127.0.0.1:" .. port, tls = true, cafile = certs.ca.crt,
            servername = "localhost", bytes = 10 }:finish()
        assert.equal(10, result.got)
        for i = 1, 5 do
            web:wait_log(("frozen %d FrozenError true true true"):format(i))
        end
    end)
end)
