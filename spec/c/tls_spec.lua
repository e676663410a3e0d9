-- tls: names of alerts, tickets over engines that share a secret, and what a record tells of a handshake.

local bench = require "bench"
local certs = require "certs"
local engine = require "engine"
local tls = require "mgtest".tls

teardown(engine.cleanup)

describe("alert names", function()
    it("are the registry's", function()
        assert.equal("unknown_ca", tls.alert_name(48))
        assert.equal("no_application_protocol", tls.alert_name(120))
        assert.equal("alert 200", tls.alert_name(200))
    end)
end)

local function s_client(web, ...)
    local number = #web:records() + 1
    local result = bench.run { "openssl", "s_client", "-connect", web.address, "-CAfile", certs.ca.crt,
        "-servername", "localhost", "-ign_eof", input = "hello\n", ... }
    return result, web:record(number)
end

local function started(server)
    return engine.start { tls = engine.server(server), backend = { kind = "reply", reply = "bye\n" } }
end

describe("a record", function()
    it("tells of the handshake", function()
        local web = started()
        local _, record = s_client(web, "-alpn", "h2,http/1.1")
        assert.equal("localhost", record.sni)
        assert.equal("h2,http/1.1", record.alpn_offered)
        assert.equal("TLSv1.3", record.version)
        assert.equal("ecdsa_secp256r1_sha256", record.sigalg)
        assert.equal("no", record.resumed)
        assert.is_string(record.cipher)
        assert.is_string(record.group)
        assert.is_true(record.hello_ms <= record.handshake_ms and record.handshake_ms <= record.total_ms)
        web:stop()
    end)

    it("tells of TLS 1.2 and an RSA key", function()
        local web = started { crt = certs.rsa.crt, key = certs.rsa.key, max_version = 12 }
        local _, record = s_client(web)
        assert.equal("TLSv1.2", record.version)
        assert.equal("rsa_pss_rsae_sha256", record.sigalg)
        web:stop()
    end)

    it("tells of the client's certificate", function()
        local web = started { ca = certs.ca.crt }
        local _, record = s_client(web, "-cert", certs.client.crt, "-key", certs.client.key)
        assert.equal("CN=client-1", record.client_subject)
        local der = bench.must { "openssl", "x509", "-in", certs.client.crt, "-noout", "-fingerprint", "-sha256" }
        assert.equal(der:match("=(.*)\n"):gsub(":", ""):lower(), record.client_sha256)
        _, record = s_client(web)
        assert.equal("down: no certificate given", record.reason)
        assert.equal("certificate_required", record.alert_sent)
        _, record = s_client(web, "-cert", certs.stranger_client.crt, "-key", certs.stranger_client.key)
        assert.equal("down: certificate not accepted", record.reason)
        assert.equal("certificate verify failed (unable to get local issuer certificate)", record.detail)
        web:stop()
    end)

    it("can be text", function()
        local web = engine.start { tls = engine.server(), access_format = "text", backend = { kind = "echo" } }
        local client = bench.connect(web.port)
        client:send("GET / HTTP/1.0\r\n\r\n")
        client:close()
        local line = web:record(1)
        assert.matches('^time=%S+ id=%d+ listener=spec generation=1 remote=127%.0%.0%.1:%d+ local=', line)
        assert.matches('reason="down: plain HTTP instead of TLS" detail="http request"$', line)
        web:stop()
    end)
end)

describe("tickets", function()
    local SECRET, OTHER = ("s"):rep(32), ("o"):rep(32)

    local function resumed(first, second, ...)
        local session = bench.path("session.pem")
        os.remove(session)
        s_client(first, "-sess_out", session, ...)
        local _, record = s_client(second, "-sess_in", session, ...)
        return record.resumed
    end

    for _, version in ipairs { "-tls1_2", "-tls1_3" } do
        it(version .. " resume on every engine that knows the secret", function()
            local first, second = started { ticket_secret = SECRET }, started { ticket_secret = SECRET }
            local stranger = started { ticket_secret = OTHER }
            assert.equal("yes", resumed(first, first, version))
            assert.equal("yes", resumed(first, second, version))
            assert.equal("no", resumed(first, stranger, version))
            first:stop()
            second:stop()
            stranger:stop()
        end)
    end

    it("resume across one turn of the period, not across many", function()
        local web = started { ticket_secret = SECRET, ticket_rotation = 1 }
        local session = bench.path("old.pem")
        s_client(web, "-sess_out", session, "-tls1_2")
        local made = os.time()
        local _, record = s_client(web, "-sess_in", session, "-tls1_2")
        assert.is_true(record.resumed == "yes" or os.time() > made + 1)
        bench.wait("the key's end", function() return os.time() > made + 2 end)
        _, record = s_client(web, "-sess_in", session, "-tls1_2")
        assert.equal("no", record.resumed)
        web:stop()
    end)
end)

describe("ephemeral keys", function()
    for _, group in ipairs { "X25519", "P-256", "ffdhe2048" } do
        it("are wiped when the handshake is over: " .. group, function()
            local server, client, talked = tls.wiped(certs.ec.crt, certs.ec.key, group)
            assert.same({ true, true, false, false }, server)
            assert.same({ true, true, false, false }, client)
            assert.is_true(talked)
        end)
    end

    it("are wiped when the handshake is over: ML-KEM, where there is any", function()
        local server, client, talked = tls.wiped(certs.ec.crt, certs.ec.key, "X25519MLKEM768")
        if server then
            assert.same({ false, false }, { server[3], server[4] })
            assert.same({ false, false }, { client[3], client[4] })
            assert.is_true(server[2] and talked)
        end
    end)

    it("leave the peer's share to scripts that may ask for it", function()
        local server, client, talked = tls.wiped(certs.ec.crt, certs.ec.key, "X25519", true)
        assert.same({ true, true, false, true }, server)
        assert.same({ true, true, false, true }, client)
        assert.is_true(talked)
    end)
end)
