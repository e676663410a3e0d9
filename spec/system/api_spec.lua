-- The API end to end: contexts and callbacks of a script, as programs that people have see them.

local bench = require "bench"
local certs = require "certs"
local cjson = require "cjson"
local nginx = require "nginx"
local proxy = require "proxy"

local SCRIPT = [[
local SSL = openssl.SSL

moongate.listen { name = "types", address = "127.0.0.1:$types", tls = server(), backend = "127.0.0.1:$backend" }

-- Says what it is asked about, and lets nobody in but client-1.
local strict = server()
strict.verify_mode = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT
strict.ca_file = "$ca_crt"
strict.verify_callback = function(ok, store_context)
    local depth, subject = store_context.error_depth, tostring(store_context.current_cert.subject)
    print(("callback: verify ok=%s error=%d depth=%d subject=%s"):format(ok, store_context.error, depth, subject))
    return ok and (depth > 0 or subject == "/CN=client-1")
end
moongate.listen { name = "strict", address = "127.0.0.1:$strict", tls = strict, backend = "127.0.0.1:$backend" }

-- h2 for those who can, http/1.1 for those who cannot; "none" goes on without, all others are refused.
local alpn = server()
alpn.alpn_select_cb = function(protocols)
    print("callback: offered " .. table.concat(protocols, " "))
    local offered = {}
    for _, protocol in ipairs(protocols) do
        offered[protocol] = true
    end
    if offered.none then
        return false
    end
    return offered.h2 and "h2" or offered["http/1.1"] and "http/1.1" or nil
end
moongate.listen { name = "alpn", address = "127.0.0.1:$alpn", tls = alpn, backend = function(conn)
    return conn.alpn_protocol == "h2" and "127.0.0.1:$backend_h2" or "127.0.0.1:$backend"
end }

local open = server()
open.keylog_cb = function(_, line)
    print("callback: " .. line)
end
moongate.listen { name = "open", address = "127.0.0.1:$open", tls = open, backend = "127.0.0.1:$backend" }
]]

local VERSIONS = { "1.2", "1.3" }
local TEXT = "hello from nginx\n"
local REQUEST = "GET / HTTP/1.0\r\nHost: localhost\r\n\r\n"

describe("through the real binary", function()
    local web, ports

    setup(function()
        ports = { types = bench.port(), strict = bench.port(), alpn = bench.port(), open = bench.port() }
        ports.backend = nginx.start({ text = TEXT }).port
        ports.backend_h2 = nginx.start({ text = "hello over h2\n", http2 = true }).port
        ports.script = SCRIPT
        web = proxy.start(ports)
    end)
    teardown(proxy.cleanup)

    -- Runs `client` and returns what it returns, the record of its connection, and a function from a count to
    -- that many lines (or more) that callbacks have printed meanwhile, waited for.
    local function watch(client)
        local seen, logged = #web:records(), #web:log_text()
        local result = client()
        local record = web:record(seen + 1)
        return result, record, function(count)
            local lines
            bench.wait("callbacks to print", function()
                lines = {}
                for line in web:log_text():sub(logged + 1):gmatch("([^\n]+)\n") do
                    lines[#lines + 1] = cjson.decode(line).message:match("callback: (.*)")
                end
                return #lines >= count
            end)
            return lines
        end
    end

    -- A command of words and lists of words.
    local function command(...)
        local list = {}
        for _, part in ipairs { ... } do
            local words = type(part) == "table" and part or { part }
            table.move(words, 1, #words, #list + 1, list)
        end
        return list
    end

    local function curl(port, version, ...)
        return bench.run(command("curl", "-sS", "--cacert", certs.ca.crt, "--tlsv" .. version, "--tls-max", version,
            { ... }, ("https://localhost:%d/"):format(port)))
    end

    local function s_client(port, ...)
        local options = command("openssl", "s_client", "-connect", "127.0.0.1:" .. port, "-servername", "localhost",
            "-CAfile", certs.ca.crt, "-verify_return_error", "-ign_eof", { ... })
        options.input = REQUEST
        return bench.run(options)
    end

    describe("the client's signature algorithms pick the certificate:", function()
        local S_CLIENT = { RSA = "RSA-PSS+SHA256:RSA+SHA256", ECDSA = "ECDSA+SHA256" }
        local GNUTLS = { RSA = "+SIGN-RSA-PSS-RSAE-SHA256:+SIGN-RSA-SHA256",
            ECDSA = "+SIGN-ECDSA-SECP256R1-SHA256:+SIGN-ECDSA-SHA256" }
        local PUBLIC_KEY = { RSA = "rsa", ECDSA = "ec" }

        local function gnutls_cli(port, version, priority)
            return bench.run { "gnutls-cli", "--x509cafile", certs.ca.crt, "--print-cert", "-p", tostring(port),
                "--priority", ("NORMAL:-VERS-ALL:+VERS-TLS%s:-SIGN-ALL:%s"):format(version, priority),
                "localhost", input = REQUEST }
        end

        local function assert_certificate(kind, result, record)
            assert.equal(0, result.code, result.err .. result.out)
            assert.matches(TEXT, result.out, 1, true)
            local pem = result.out:match("%-%-%-%-%-BEGIN CERTIFICATE.-END CERTIFICATE%-%-%-%-%-\n")
            assert.equal(bench.read(certs[PUBLIC_KEY[kind]].crt):match("%-%-%-%-%-BEGIN.*"), pem)
            assert.matches(kind == "RSA" and "^rsa_" or "^ecdsa_", record.sigalg)
        end

        for _, version in ipairs(VERSIONS) do
            for _, kind in ipairs { "RSA", "ECDSA" } do
                it(("openssl s_client -sigalgs, %s, TLS %s"):format(kind, version), function()
                    local result, record = watch(function()
                        return s_client(ports.types, "-tls" .. version:gsub("%.", "_"), "-sigalgs", S_CLIENT[kind])
                    end)
                    assert_certificate(kind, result, record)
                end)

                it(("gnutls-cli --priority, %s, TLS %s"):format(kind, version), function()
                    local result, record = watch(function()
                        return gnutls_cli(ports.types, version, GNUTLS[kind])
                    end)
                    assert_certificate(kind, result, record)
                end)
            end
        end
    end)

    for _, version in ipairs(VERSIONS) do
        describe("curl --cert and a verify_callback, TLS " .. version .. ":", function()
            local function present(cert)
                return watch(function()
                    return curl(ports.strict, version, "--cert", cert.crt, "--key", cert.key)
                end)
            end

            it("a good client is asked about from the root down, and let in", function()
                local result, record, printed = present(certs.client)
                assert.equal(TEXT, result.out, result.err)
                assert.same({
                    "verify ok=true error=0 depth=1 subject=/CN=spec CA",
                    "verify ok=true error=0 depth=0 subject=/CN=client-1",
                }, printed(2))
                assert.equal("CN=client-1", record.client_subject)
                assert.is_number(record.handshake_ms)
                assert.is_nil(record.alert_sent)
            end)

            it("a client of another CA is refused for what OpenSSL found", function()
                local result, record, printed = present(certs.stranger_client)
                assert.not_equal(0, result.code)
                assert.matches("unknown ca", result.err:lower(), 1, true)
                assert.same({ "verify ok=false error=20 depth=0 subject=/CN=stranger" }, printed(1))
                assert.equal("down: certificate not accepted", record.reason)
                assert.equal("unknown_ca", record.alert_sent)
            end)

            it("a client whom only the callback refuses", function()
                local result, record, printed = present(certs.ec2)
                assert.not_equal(0, result.code)
                assert.equal("", result.out)
                assert.equal("verify ok=true error=0 depth=0 subject=/CN=second ec", printed(2)[2])
                assert.equal("down: certificate not accepted", record.reason)
                assert.equal("bad_certificate", record.alert_sent)
            end)

            it("a client without a certificate is refused without asking", function()
                local result, record, printed = watch(function() return curl(ports.strict, version) end)
                assert.not_equal(0, result.code)
                assert.same({}, printed(0))
                assert.equal("down: no certificate given", record.reason)
                assert.equal(version == "1.3" and "certificate_required" or "handshake_failure", record.alert_sent)
            end)
        end)

        describe("alpn_select_cb, TLS " .. version .. ":", function()
            local function ask(...)
                local arguments = { ... }
                return watch(function() return curl(ports.alpn, version, table.unpack(arguments)) end)
            end

            local function offer(protocols)
                return watch(function()
                    return s_client(ports.alpn, "-tls" .. version:gsub("%.", "_"), "-alpn", protocols)
                end)
            end

            it("curl --http2 gets its page over h2", function()
                local result, record, printed = ask("--http2", "-w", "%{http_version}")
                assert.equal("hello over h2\n2", result.out, result.err)
                assert.same({ "offered h2 http/1.1" }, printed(1))
                assert.equal("h2", record.alpn)
            end)

            it("curl --http1.1 gets its page over http/1.1", function()
                local result, record, printed = ask("--http1.1", "-w", "%{http_version}")
                assert.equal(TEXT .. "1.1", result.out, result.err)
                assert.same({ "offered http/1.1" }, printed(1))
                assert.equal("http/1.1", record.alpn)
            end)

            it("s_client gets the one chosen of those it offers", function()
                local result = offer("spdy/3,http/1.1")
                assert.matches("ALPN protocol: http/1.1\n", result.out, 1, true)
                assert.matches(TEXT, result.out, 1, true)
            end)

            it("nil ends the handshake with no_application_protocol", function()
                local result, record = offer("h3")
                assert.not_equal(0, result.code)
                assert.matches("alert no application protocol", result.err, 1, true)
                assert.equal("down: handshake failed", record.reason)
                assert.equal("no_application_protocol", record.alert_sent)
            end)

            it("false goes on without", function()
                local result, record = offer("none")
                assert.matches("No ALPN negotiated", result.out, 1, true)
                assert.matches(TEXT, result.out, 1, true)
                assert.is_nil(record.alpn)
            end)

            it("is not asked when nothing is offered", function()
                local result, record, printed = ask("--no-alpn")
                assert.equal(TEXT, result.out, result.err)
                assert.same({}, printed(0))
                assert.is_nil(record.alpn)
            end)
        end)
    end

    describe("key log lines of keylog_cb", function()
        local LABELS = {
            ["1.2"] = { "CLIENT_RANDOM" },
            ["1.3"] = { "SERVER_HANDSHAKE_TRAFFIC_SECRET", "CLIENT_HANDSHAKE_TRAFFIC_SECRET", "EXPORTER_SECRET",
                "SERVER_TRAFFIC_SECRET_0", "CLIENT_TRAFFIC_SECRET_0" },
        }

        -- A page fetched over TLS `version`; the lines that were printed meanwhile.
        local function fetch(version)
            local result, _, printed = watch(function() return curl(ports.open, version, "--http1.1") end)
            assert.equal(TEXT, result.out, result.err)
            return printed(#LABELS[version])
        end

        for _, version in ipairs(VERSIONS) do
            it("are those of the format, TLS " .. version, function()
                local labels = {}
                for _, line in ipairs(fetch(version)) do
                    labels[#labels + 1] = line:match("^([%w_]+) %x+ %x+$")
                end
                assert.same(LABELS[version], labels)
            end)
        end

        local function missing()
            if not bench.is_root then
                return "capturing on the loopback interface needs root"
            end
            local found = os.execute("command -v tshark >/dev/null 2>&1")
            return not found and "tshark is not installed" or nil
        end

        local reason = missing()
        if reason then
            pending("decrypt a capture in tshark: " .. reason)
            return
        end

        -- A capture of everything on `port`, running, and how many connections of ours may be in it; nil and why
        -- where the kernel allows none, as in some containers. What tshark says when it begins depends on its
        -- version, and the file's header may come too early: it has begun when it has seen a connection.
        local function capture(port, file)
            local tshark = bench.start { "tshark", "-i", "lo", "-f", "tcp port " .. port, "-w", file }
            local probes, header = 0, nil
            bench.wait("tshark to capture", function()
                header = header or #bench.read(file) > 0 and #bench.read(file)
                if header then
                    probes = probes + 1
                    bench.connect(port):close()
                end
                return header and #bench.read(file) > header or not tshark:alive()
            end)
            if not tshark:alive() and tshark:errors():lower():find("permission") then
                return nil, tshark:errors()
            end
            assert(tshark:alive(), tshark:errors())
            return tshark, probes
        end

        -- The plaintext of one of the capture's connections, as far as the keys in `key_log` give it.
        local function decrypted(file, port, key_log, stream)
            return bench.run(command("tshark", "-r", file, "-d", ("tcp.port==%d,tls"):format(port), "-o",
                "tls.keylog_file:" .. key_log, "-q", "-z", "follow,tls,ascii," .. stream)).out
        end

        for _, version in ipairs(VERSIONS) do
            it("decrypt a capture in tshark, TLS " .. version, function()
                local file = bench.path(("capture.%s.pcapng"):format(version))
                local tshark, probes = capture(ports.open, file)
                if not tshark then
                    pending("no capture on the loopback interface: " .. probes)
                    return
                end
                local key_log = bench.write("keys." .. version, table.concat(fetch(version), "\n") .. "\n")
                local none = bench.write("nokeys." .. version, "")
                local text, stream
                bench.wait("the page in the capture", function()
                    for i = 0, probes + 1 do -- curl may have tried ::1 first
                        text, stream = decrypted(file, ports.open, key_log, i), i
                        if text:find(TEXT, 1, true) then
                            return true
                        end
                    end
                end, 30)
                tshark:stop()
                assert.matches("GET / HTTP/1.1", text, 1, true)
                assert.is_nil(decrypted(file, ports.open, none, stream):find(TEXT, 1, true))
            end)
        end
    end)
end)
