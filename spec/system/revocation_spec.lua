-- CRLs of files and directories: who is revoked comes in until the configuration is read again, and then no more, with
-- no ticket and no session of before either; who is there already stays.

local bench = require "bench"
local certs = require "certs"
local process = require "process"
local proxy = require "proxy"

local SCRIPT = [[
local reply = moongate.reply "bye\n"
for name, port in pairs { tickets = $tickets, stateful = $stateful } do
    local ctx = server()
    ctx.ca_file = "$ca_crt"
    ctx.verify_mode = openssl.SSL.VERIFY_PEER | openssl.SSL.VERIFY_FAIL_IF_NO_PEER_CERT
    ctx:load_crl("$dir/clients")
    if name == "stateful" then ctx.options = ctx.options | openssl.SSL.OP_NO_TICKET end
    moongate.listen { name = name, address = "127.0.0.1:" .. port, tls = ctx,
        backend = function(conn) return conn.servername == "echo" and "127.0.0.1:$echo" or reply end }
end

local up = client()
up:load_crl("$dir/servers.crl")
moongate.listen { name = "relay", address = "127.0.0.1:$relay",
    backend = moongate.backend { address = "127.0.0.1:$inner", tls = up, servername = "localhost" } }
moongate.listen { name = "inner", address = "127.0.0.1:$inner", tls = server(), backend = moongate.reply "inside\n" }
]]

describe("revocation", function()
    local web, options

    -- As an editor or a cron job does it.
    local function publish(path, text)
        os.rename(bench.write("new.crl", text), bench.path(path))
    end

    setup(function()
        bench.must { "mkdir", bench.path "clients" }
        publish("clients/ca.crl", certs.crl {})
        publish("clients/other.pem", certs.crl { issuer = "other_ca" })
        publish("servers.crl", certs.crl {})
        options = { tickets = bench.port(), stateful = bench.port(), relay = bench.port(), inner = bench.port(),
            echo = bench.echo_server().port, script = SCRIPT }
        web = proxy.start(options)
    end)
    teardown(proxy.cleanup)

    -- The access record of a visit.
    local function visit(listener, version, ...)
        local seen = #web:records()
        bench.run { "openssl", "s_client", "-connect", "127.0.0.1:" .. options[listener], "-CAfile", certs.ca.crt,
            "-servername", "localhost", version, "-cert", certs.client.crt, "-key", certs.client.key, "-ign_eof",
            input = "hello\n", ... }
        return web:record(seen + 1)
    end

    local function refused(record)
        assert.same({ "down: certificate not accepted", "certificate_revoked" }, { record.reason, record.alert_sent })
        assert.is_nil(record.backend_address)
        assert.equal("CN=client-1", record.client_subject)
        assert.matches("^%x+$", record.client_sha256)
    end

    local KINDS = {}
    for _, listener in ipairs { "tickets", "stateful" } do
        for _, version in ipairs { "-tls1_2", "-tls1_3" } do
            KINDS[#KINDS + 1] = { listener, version, bench.path(listener .. version) }
        end
    end

    it("refuses a client from the reload on, also with its old session; who is there stays", function()
        for _, kind in ipairs(KINDS) do
            local listener, version, session = table.unpack(kind)
            assert.equal("no", visit(listener, version, "-sess_out", session).resumed)
        end
        local there = bench.start { "openssl", "s_client", "-quiet", "-connect", "127.0.0.1:" .. options.tickets,
            "-servername", "echo", "-cert", certs.client.crt, "-key", certs.client.key, stdin = "pipe" }
        process.write(there.stdin, "before\n")
        bench.wait("the first echo", function() return there:output():find("before\n", 1, true) end)

        web:reload() -- the same lists
        publish("clients/ca.crl", certs.crl { "client" })
        for _, kind in ipairs(KINDS) do -- nobody has read it yet
            local listener, version, session = table.unpack(kind)
            assert.equal("yes", visit(listener, version, "-sess_in", session).resumed)
        end
        web:reload()
        for _, kind in ipairs(KINDS) do
            local listener, version, session = table.unpack(kind)
            refused(visit(listener, version, "-sess_in", session))
            refused(visit(listener, version))
        end

        process.write(there.stdin, "after\n")
        bench.wait("the second echo", function() return there:output():find("after\n", 1, true) end)
        local seen = #web:records()
        there:stop()
        web:records(seen + 1)
        publish("clients/ca.crl", certs.crl {})
        web:reload()
        assert.equal("TLSv1.3", visit("tickets", "-tls1_3").version)
    end)

    it("of a backend's certificate ends the connection to it", function()
        local function answer()
            local client = bench.connect(options.relay)
            if not client then -- reset before connect() has returned
                return nil
            end
            client:send("x")
            local text = client:receive("*a")
            client:close()
            return text
        end
        assert.equal("inside\n", answer())
        publish("servers.crl", certs.crl { "ec", "rsa" })
        web:reload()
        local seen = #web:records()
        answer()
        local found
        for i, record in ipairs(web:records(seen + 2)) do
            found = i > seen and record.listener == "relay" and record or found
        end
        assert.same({ "up: certificate not accepted", "certificate_revoked" },
            { found.reason, found.backend_alert_sent })
        publish("servers.crl", certs.crl {})
        web:reload()
        assert.equal("inside\n", answer())
    end)

    it("lists that nobody can read refuse the reload, and what was there goes on", function()
        for text, reason in pairs {
            [""] = "CRL 1 cannot be read",
            [certs.crl({ "client" }):sub(1, 200)] = "PEM_read_bio",
        } do
            publish("clients/ca.crl", text)
            local result = web:try_reload()
            assert.equal(1, result.code)
            assert.matches("load_crl: .*/clients/ca%.crl: " .. reason, result.err)
            assert.equal("TLSv1.3", visit("tickets", "-tls1_3").version)
        end
        publish("clients/ca.crl", certs.crl {})
    end)

    it("a list that has ended is a warning, and refuses all of its CA", function()
        publish("clients/ca.crl", certs.crl { ended = true })
        local result = web:reload()
        assert.matches("the CRL of CN=spec CA has ended: certificates of that CA are refused", result.out .. result.err,
            1, true)
        assert.equal("certificate_expired", visit("tickets", "-tls1_3").alert_sent)
        publish("clients/ca.crl", certs.crl {})
        web:reload()
        assert.equal("TLSv1.3", visit("tickets", "-tls1_3").version)
    end)

    it("lists are read again by --watch: one that changes, and one that is new in the directory", function()
        bench.must { "mkdir", bench.path "watched" }
        bench.write("watched/other.crl", certs.crl { issuer = "other_ca" })
        local port = bench.port()
        local watching = proxy.start { port = port, arguments = { "--watch" }, script = [[
local ctx = server()
ctx.ca_file = "$ca_crt"
ctx.verify_mode = openssl.SSL.VERIFY_PEER | openssl.SSL.VERIFY_FAIL_IF_NO_PEER_CERT
ctx:load_crl("$dir/watched/*.crl")
moongate.listen { name = "web", address = "127.0.0.1:$port", tls = ctx, backend = moongate.reply "bye\n" }
]] }
        local function becomes(text)
            bench.wait("a client that is " .. text, function()
                local result = bench.run { "curl", "-sS", "--http0.9", "--cacert", certs.ca.crt, "--cert",
                    certs.client.crt, "--key", certs.client.key, ("https://localhost:%d/"):format(port) }
                return (result.out .. result.err):find(text, 1, true)
            end, 15)
        end
        becomes("bye")
        publish("watched/ca.crl", certs.crl { "client" })
        becomes("revoked")
        publish("watched/ca.crl", certs.crl {})
        becomes("bye")
        watching:stop()
    end)
end)
