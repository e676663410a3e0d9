-- What `make run` starts, and every other example: each runs, and does what its first lines say.

local bench = require "bench"
local certs = require "certs"
local pp2 = require "pp2"
local process = require "process"
local proxy = require "proxy"
local socket = require "socket"

teardown(proxy.cleanup)

describe("make help", function()
    it("lists every target", function()
        local help = bench.must { "env", "-u", "MAKEFLAGS", "-u", "MAKELEVEL", "make", "--no-print-directory", "help" }
        for line in bench.read("Makefile"):gmatch("\n%.PHONY: ([^\n]*)") do
            for target in line:gmatch("%S+") do
                assert.truthy(help:find("\n  " .. target .. " ", 1, true), target)
            end
        end
    end)
end)

describe("make run", function()
    it("serves https://localhost:8443 with both certificates, as it says", function()
        if bench.connect(8443) then
            pending("port 8443 is in use here")
            return
        end
        local build = bench.path("build")
        bench.must { "mkdir", build }
        process.symlink(bench.moongate, build .. "/moongate")
        local quickstart = bench.start { "sh", "examples/quickstart.sh", build }
        local ca = build .. "/quickstart/ca.crt"
        local url = "https://localhost:8443/"
        bench.wait("an answer", function()
            assert(quickstart:alive(), quickstart:errors())
            return bench.run({ "curl", "-sS", "--cacert", ca, url }).code == 0
        end, 20)
        assert.matches("^Hello from moongate", bench.must { "curl", "-sS", "--cacert", ca, url })
        for algorithm, type in pairs { ["ECDSA+SHA256"] = "ecdsa", ["RSA-PSS+SHA256"] = "rsa.pss" } do
            local result = bench.run { "openssl", "s_client", "-connect", "localhost:8443", "-CAfile", ca,
                "-sigalgs", algorithm, "-brief", "-verify_return_error" }
            assert.equal(0, result.code, result.err)
            assert.matches("signature type: " .. type, (result.out .. result.err):lower())
        end
        assert.equal(0, bench.run({ bench.moongate, "reload", "--control",
            build .. "/quickstart/control.sock" }).code)
        quickstart:signal(proxy.signals.INT)
        local how, code = quickstart:wait(5)
        assert.same({ "exit", 0 }, { how, code })
    end)
end)

describe("the example", function()
    -- The files of quickstart.sh, from our own CA.
    local function keys()
        local dir = bench.path("keys")
        if not bench.exists(dir) then
            bench.must { "mkdir", dir }
            for name, made in pairs { ca = certs.ca, rsa = certs.rsa, ecdsa = certs.ec } do
                bench.write("keys/" .. name .. ".crt", bench.read(made.crt))
                bench.write("keys/" .. name .. ".key", bench.read(made.key))
                bench.write("keys/" .. name .. ".pem",
                    bench.read(made.crt) .. bench.read(certs.ca.crt) .. bench.read(made.key))
            end
        end
        return dir
    end

    -- Runs examples/NAME.lua on a free port, with more environment; the port, the proxy.
    local function example(name, environment)
        local port = bench.port()
        environment = environment or {}
        environment.MOONGATE_QUICKSTART, environment.LISTEN = keys(), "127.0.0.1:" .. port
        local text = bench.read("examples/" .. name .. ".lua")
        for from, to in pairs(environment.replace or {}) do
            text = text:gsub(from:gsub("%p", "%%%0"), to)
        end
        local log_format = environment.log_format
        environment.replace, environment.log_format = nil, nil
        -- as many workers as the script says
        return port, proxy.start { whole = true, script = text, env = environment, workers = false,
            log_format = log_format }
    end

    -- With an access log, which examples leave to their users, and with somebody behind it.
    local function logged(name, environment)
        environment.replace = environment.replace or {}
        local server = bench.echo_server {}
        for _, address in ipairs { "127.0.0.1:8080", "127.0.0.1:8081", "127.0.0.1:8082" } do
            environment.replace[address] = "127.0.0.1:" .. server.port
        end
        environment.replace['local moongate = require "moongate"'] = 'local moongate = require "moongate" '
            .. 'moongate.settings { access_log = "$access" }'
        return example(name, environment)
    end

    local tried = { balance = true, routing = true } -- in backends_shared_spec and routing_spec
    local function describe_example(name, body)
        tried[name] = true
        it(name .. ".lua", body)
    end

    describe_example("quickstart", function()
        local port = bench.port()
        example("quickstart", { replace = { ["127.0.0.1:8443"] = "127.0.0.1:" .. port } })
        assert.matches("^Hello from moongate", bench.must { "curl", "-sS", "--cacert", certs.ca.crt,
            ("https://localhost:%d/"):format(port) })
    end)

    describe_example("alpn", function()
        local h2, http = bench.exchange { listen = "127.0.0.1:0", bytes = 2, finish_when = "eof" },
            bench.exchange { listen = "127.0.0.1:0", bytes = 1, finish_when = "eof" }
        local port = example("alpn", { replace = { ["127.0.0.1:8082"] = "127.0.0.1:" .. h2.port,
            ["127.0.0.1:8081"] = "127.0.0.1:" .. http.port } })
        local function got(alpn)
            return bench.exchange({ connect = "127.0.0.1:" .. port, tls = true, cafile = certs.ca.crt,
                servername = "localhost", alpn = alpn }):finish()
        end
        local result = got("h2,http/1.1")
        assert.same({ "h2", 2 }, { result.alpn, result.got })
        result = got("http/1.1")
        assert.same({ "http/1.1", 1 }, { result.alpn, result.got })
        assert.equal("alert:no_application_protocol", got("gopher")["end"])
    end)

    describe_example("originate", function()
        local server = bench.echo_server { tls = true, cert = certs.ec.crt, key = certs.ec.key }
        local port = example("originate", { BACKEND = "127.0.0.1:" .. server.port })
        assert.equal(1000, bench.exchange({ connect = "127.0.0.1:" .. port, bytes = 1000 }):finish().got)
        for name, alert in pairs { stranger = "unknown_ca", wrong = "bad_certificate" } do
            server = bench.echo_server { tls = true, cert = certs[name].crt, key = certs[name].key }
            local web
            port, web = logged("originate", { BACKEND = "127.0.0.1:" .. server.port })
            assert.equal(0, bench.exchange({ connect = "127.0.0.1:" .. port, bytes = 1000 }):finish().got)
            local record = web:record(1)
            assert.same({ "up: certificate not accepted", alert }, { record.reason, record.backend_alert_sent },
                record.detail)
        end
    end)

    describe_example("tcp", function()
        local server = bench.echo_server {}
        local port = example("tcp", { replace = { ["127.0.0.1:6379"] = "127.0.0.1:" .. bench.port(),
            ["127.0.0.1:6381"] = "127.0.0.1:" .. server.port } })
        for _ = 1, 5 do
            assert.equal(1000, bench.exchange({ connect = "127.0.0.1:" .. port, bytes = 1000 }):finish().got)
        end
    end)

    describe_example("policy", function()
        local doors = {}
        for name, from in pairs { operators = "127.0.0.1:9000", h2 = "127.0.0.1:8082", http = "127.0.0.1:8081" } do
            doors[from] = "127.0.0.1:" .. bench.exchange { listen = "127.0.0.1:0", bytes = #name,
                finish_when = "eof" }.port
        end
        local port = example("policy", { replace = doors })
        local function got(more)
            more.connect, more.tls, more.cafile, more.servername = "127.0.0.1:" .. port, true, certs.ca.crt, "localhost"
            return bench.exchange(more):finish().got
        end
        assert.same({ #"http", #"h2", #"operators" },
            { got {}, got { alpn = "h2" }, got { cert = certs.client.crt, key = certs.client.key } })
    end)

    -- "New" or "Reused"
    local function resumption(port, version, ...)
        return bench.must({ "openssl", "s_client", "-connect", "127.0.0.1:" .. port, "-CAfile", certs.ca.crt,
            "-servername", "localhost", "-ign_eof", version, input = "hello\n", ... })
            :match("(%a+), TLSv1%.%d, Cipher is")
    end

    describe_example("sessions", function()
        local port, web = example("sessions")
        local session = bench.path("example.session")
        for _, version in ipairs { "-tls1_2", "-tls1_3" } do
            assert.equal("New", resumption(port, version, "-sess_out", session))
            assert.equal("Reused", resumption(port, version, "-sess_in", session))
        end
        web:wait_log("a session for 127.0.0.1")
        web:wait_log("known to us: 127.0.0.1")
    end)

    describe_example("fleet", function()
        local first = example("fleet") -- before there is a secret
        bench.write(keys() .. "/ticket.secret", ("s"):rep(48))
        local second, third = example("fleet"), example("fleet")
        bench.write(keys() .. "/ticket.secret.old", ("s"):rep(48))
        bench.write(keys() .. "/ticket.secret", ("t"):rep(48))
        local changed = example("fleet")
        local session = bench.path("example.session")
        for _, version in ipairs { "-tls1_2", "-tls1_3" } do
            assert.equal("New", resumption(second, version, "-sess_out", session))
            assert.equal("Reused", resumption(third, version, "-sess_in", session))
            assert.equal("Reused", resumption(changed, version, "-sess_in", session))
            assert.equal("New", resumption(first, version, "-sess_in", session))
        end
    end)

    -- What s_client says of a connection, and its record.
    local function s_client(port, web, ...)
        local number = #web:records() + 1
        local result = bench.run { "openssl", "s_client", "-connect", "127.0.0.1:" .. port, "-CAfile", certs.ca.crt,
            "-verify_return_error", input = "", ... }
        return result, web:record(number)
    end

    describe_example("dual", function()
        local port, web = logged("dual", {})
        local _, record = s_client(port, web, "-sigalgs", "rsa_pss_rsae_sha256")
        assert.equal("rsa_pss_rsae_sha256", record.sigalg)
        _, record = s_client(port, web)
        assert.equal("ecdsa_secp256r1_sha256", record.sigalg)
    end)

    describe_example("servernames", function()
        local port, web = logged("servernames", {})
        for name, expected in pairs { ["localhost"] = "ecdsa_secp256r1_sha256",
            ["a.shop.example.com"] = "ecdsa_secp256r1_sha256",
            ["api.example.com"] = "rsa_pss_rsae_sha256" } do
            local result, record = s_client(port, web, "-servername", name)
            assert.equal(expected, record.sigalg, result.err)
        end
        for _, name in ipairs { "old.shop.example.com", "a.b.shop.example.com", "elsewhere.example" } do
            local _, record = s_client(port, web, "-servername", name)
            assert.equal("unrecognized_name", record.alert_sent)
        end
        local _, record = s_client(port, web, "-servername", "api.example.com", "-tls1_2")
        assert.equal("protocol_version", record.alert_sent)
        assert.equal(0, (s_client(port, web, "-noservername")).code)
    end)

    describe_example("certbot", function()
        local live = bench.path("live")
        bench.must { "mkdir", "-p", live .. "/localhost", live .. "/a.example", live .. "/localhost-rsa" }
        for name, made in pairs { localhost = certs.ec, ["localhost-rsa"] = certs.rsa,
            ["a.example"] = certs.a_example } do
            bench.write("live/" .. name .. "/fullchain.pem", bench.read(made.crt) .. bench.read(certs.ca.crt))
            bench.write("live/" .. name .. "/privkey.pem", bench.read(made.key))
        end
        local port, web = logged("certbot", { LIVE = live })
        assert.equal(0, (s_client(port, web, "-servername", "a.example", "-verify_hostname", "a.example")).code)
        local result, last = s_client(port, web, "-servername", "localhost", "-sigalgs", "rsa_pss_rsae_sha256")
        assert.same({ 0, "rsa_pss_rsae_sha256" }, { result.code, last.sigalg })
        assert.equal(0, (s_client(port, web, "-noservername", "-verify_hostname", "a.example")).code)
        bench.write("live/a.example/fullchain.pem", bench.read(certs.wrong.crt) .. bench.read(certs.ca.crt))
        bench.write("live/a.example/privkey.pem", bench.read(certs.wrong.key))
        web:reload()
        local _, record = s_client(port, web, "-servername", "a.example")
        assert.equal("unrecognized_name", record.alert_sent)
        assert.equal(0, (s_client(port, web, "-servername", "other.example", "-verify_hostname", "other.example")).code)
    end)

    describe_example("proxy_protocol", function()
        local server = assert(socket.bind("127.0.0.1", 0))
        server:settimeout(20)
        local port, web = logged("proxy_protocol", { replace = {
            ["127.0.0.1:9080"] = "127.0.0.1:" .. select(2, server:getsockname()) } })
        local function visit()
            local visitor = bench.start { "openssl", "s_client", "-connect", "127.0.0.1:" .. port, "-CAfile",
                certs.ca.crt, "-verify_return_error", "-servername", "localhost", stdin = "pipe" }
            local connection = assert(server:accept())
            connection:settimeout(20)
            local header = pp2.receive(connection)
            connection:close()
            visitor:stop()
            return header
        end
        local header = visit()
        assert.same({ "127.0.0.1", port, "localhost", "moongate" },
            { header.source, header.destination_port, header.tlvs[2], header.tlvs[0xE0] })
        assert.is_nil(header.tlvs[0xE1])
        assert.equal("TLSv1.3", header.ssl.tlvs[0x21])
        web:record(1)
        local balancer = socket.tcp4()
        assert(balancer:bind("127.0.0.2", 0))
        assert(balancer:connect("127.0.0.1", port))
        balancer:send("\22\3\1")
        assert.equal("down: no PROXY header", web:record(2).reason)
        balancer:close()
        server:close()
    end)

    describe_example("passthrough", function()
        local theirs = bench.echo_server { tls = true, cert = certs.a_example.crt, key = certs.a_example.key }
        local port, web = logged("passthrough", { replace = { ["127.0.0.1:9443"] = "127.0.0.1:" .. theirs.port } })
        local result, record = s_client(port, web, "-servername", "mail.example.com", "-verify_hostname", "a.example")
        assert.same({ 0, "yes" }, { result.code, record.passthrough }, result.err)
        result, record = s_client(port, web, "-servername", "localhost", "-verify_hostname", "localhost")
        assert.same({ 0, nil }, { result.code, record.passthrough }, result.err)
    end)

    describe_example("hello", function()
        local port, web = logged("hello", {})
        local _, record = s_client(port, web)
        assert.same({ "TLSv1.3", "ecdsa_secp256r1_sha256" }, { record.version, record.sigalg })
        _, record = s_client(port, web, "-tls1_2")
        assert.same({ "TLSv1.2", "rsa_pss_rsae_sha256" }, { record.version, record.sigalg })
        local fingerprint = record.ja4
        web:stop()
        port, web = logged("hello", { UNWANTED = fingerprint })
        _, record = s_client(port, web, "-tls1_2")
        assert.same({ "access_denied", "unwanted client from 127.0.0.1" }, { record.alert_sent, record.detail })
        assert.equal(0, (s_client(port, web)).code)
    end)

    describe_example("mtls", function()
        local port, web = logged("mtls", {})
        local function as(name, ...)
            if name then
                return s_client(port, web, "-cert", certs[name].crt, "-key", certs[name].key, ...)
            end
            return s_client(port, web, ...)
        end
        for _, version in ipairs { "-tls1_2", "-tls1_3" } do
            local _, record = as("billing", version)
            assert.same({ "CN=billing" }, { record.client_subject, record.alert_sent })
            for name, alert in pairs { client = "handshake_failure", two_names = "handshake_failure",
                stranger_billing = "unknown_ca" } do
                _, record = as(name, version)
                assert.equal(alert, record.alert_sent, name)
            end
            _, record = as(nil, version)
            assert.equal(version == "-tls1_2" and "handshake_failure" or "certificate_required", record.alert_sent)
        end
    end)

    describe_example("rules", function()
        local services = bench.port()
        local port, web = logged("rules", { PINNED = certs.client.crt,
            replace = { ["127.0.0.1:8458"] = "127.0.0.1:" .. services } })
        local function as(client, at, name)
            return select(2, s_client(at, web, "-cert", certs[client].crt, "-key", certs[client].key,
                "-servername", name or "localhost"))
        end
        for door, clients in pairs {
            cn = { "billing", "would_be_operator" }, ou = { "operator", "would_be_operator" },
            san = { "operator", "would_be_operator" }, spiffe = { "operator", "would_be_operator" },
            pin = { "client", "billing" }, no = { nil, "operator" },
        } do
            local good, bad = clients[1], clients[2]
            local record = good and as(good, port, door .. ".example.com")
            assert.equal(good and "relay: done", record and record.reason, door)
            record = as(bad, port, door .. ".example.com")
            assert.same({ "route: refused", "not for this certificate" }, { record.reason, record.detail }, door)
            assert.is_nil(record.backend_address)
            -- who it was
            local printed = bench.must { "openssl", "x509", "-in", certs[bad].crt, "-noout", "-fingerprint", "-sha256",
                "-subject", "-nameopt", "RFC2253" }
            assert.equal(printed:match("Fingerprint=(%S+)"):gsub(":", ""):lower(), record.client_sha256)
            assert.equal(printed:match("subject=([^\n]+)"), record.client_subject)
        end
        assert.equal("relay: done", as("operator", services).reason)
        for _, client in ipairs { "guest", "client", "two_names" } do
            assert.equal("handshake_failure", as(client, services).alert_sent, client)
        end
        assert.equal("unknown_ca", as("stranger_billing", services).alert_sent)
    end)

    describe_example("profiles", function()
        local other = bench.port()
        local port, web = logged("profiles", { replace = { ["127.0.0.1:8454"] = "127.0.0.1:" .. other } })
        local function alert(at, version)
            local result, record = s_client(at, web, version, "-cipher", "ALL:@SECLEVEL=0")
            return record.alert_sent or result.code
        end
        assert.same({ "protocol_version", 0, 0 },
            { alert(port, "-tls1_1"), alert(port, "-tls1_2"), alert(port, "-tls1_3") })
        assert.same({ "protocol_version", "protocol_version", 0 },
            { alert(other, "-tls1_1"), alert(other, "-tls1_2"), alert(other, "-tls1_3") })
    end)

    describe_example("keylog", function()
        -- What the command in its comment finds in the log: what the client itself says its secrets were?
        local command = assert(bench.read("examples/keylog.lua"):match("\n%-%- +(grep .-) moongate%.log > keys%.txt"))
        local function secrets(web)
            return bench.run({ "sh", "-c", command .. " " .. web.log }).out
        end
        local function sorted(text)
            local lines = {}
            for line in text:gmatch("[^\n]+") do
                lines[#lines + 1] = line:match("^%u[%u%d_]+ %x+ %x+$")
            end
            table.sort(lines)
            return lines
        end
        local port, web = logged("keylog", { SECRETS_OF = "127.0.0.1", log_format = "text" })
        local known = bench.path("client.keys")
        local function connect(...)
            assert.equal(0, bench.run({ "openssl", "s_client", "-connect", "127.0.0.1:" .. port, "-CAfile",
                certs.ca.crt, "-verify_return_error", input = "", ... }).code)
        end
        connect("-tls1_2", "-keylogfile", known)
        connect("-tls1_3", "-keylogfile", known)
        local expected = sorted(bench.read(known))
        assert.equal(6, #expected) -- one line of TLS 1.2, five of TLS 1.3
        bench.wait("all lines", function() return #sorted(secrets(web)) >= #expected end)
        assert.same(expected, sorted(secrets(web)))

        for _, environment in ipairs { { SECRETS_OF = "192.0.2.1" }, {} } do
            environment.log_format = "text"
            port, web = logged("keylog", environment)
            connect()
            web:stop()
            assert.equal("", secrets(web))
        end
    end)

    it("that is not tried here does not exist", function()
        for _, name in ipairs(process.list("examples")) do
            local example_name = not name:match("_spec%.lua$") and name:match("^(.*)%.lua$")
            assert.is_true(not example_name or tried[example_name], name)
        end
    end)
end)
