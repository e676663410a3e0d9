-- tls = function(hello): the decision precedes the SSL object. What the function sees, and what its answer does.

local bench = require "bench"
local certs = require "certs"
local proxy = require "proxy"

local SCRIPT = [[
local SSL = openssl.SSL

local a = SSL.SSLContext.new()
a:load_certificate("$first_crt", "$first_key")
a.alpn_protocols = { "h2" }

local b = SSL.SSLContext.new()
b:load_certificate("$b_example_crt", "$b_example_key")
b.max_version = SSL.TLS1_2_VERSION
b.verify_mode = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT
b.ca_file = "$ca_crt"

local switching = server()
switching.servername_cb = function(_, name) print("switch " .. name) return name == "switch.example" and a or nil end

local made_certificate = openssl.X509.Certificate.load_file("$wrong_crt")[1]
local made_key = openssl.PKey.load_file("$wrong_key")
local plain, kept = server(), nil

local answers = {
    ["a.example"] = function() return a end,
    ["b.example"] = function() return b end,
    ["switch.example"] = function() return switching end,
    ["other.example"] = function()
        local made = SSL.SSLContext.new()
        made:add_certificate(made_certificate, made_key)
        made.alpn_select_cb = function(protocols) print("select " .. #protocols) return protocols[1] end
        return made
    end,
    ["pass.example"] = function() return moongate.PASSTHROUGH end,
    ["no.example"] = function() return nil, "not on the list" end,
    ["silent.example"] = function() return nil end,
    ["denied.example"] = function() return nil, "go away", 49 end,
    ["raise.example"] = function() error("nobody of that name") end,
    ["table.example"] = function() return setmetatable({}, { __tostring = function() error("twice") end }) end,
    ["alert.example"] = function() return nil, "x", 4711 end,
    ["slow.example"] = function() while true do end end,
    ["swallow.example"] = function() pcall(function() while true do end end) return a end,
    ["empty.example"] = function() return SSL.SSLContext.new() end,
    ["broken.example"] = function()
        local made = SSL.SSLContext.new()
        made.cert = made_certificate
        return made
    end,
    ["write.example"] = function(hello) hello.servername = "a.example" return a end,
    ["misspelt.example"] = function(hello) return hello.server_name and a or b end,
    ["keep.example"] = function(hello) kept = hello return a end,
    ["kept.example"] = function() print("kept", pcall(function() return kept.servername end)) return a end,
}

moongate.listen { name = "web", address = "127.0.0.1:$port",
    backend = moongate.reply("HTTP/1.0 200 OK\r\n\r\nserved\n"),
    tls = function(hello)
        if not hello.servername or hello.servername == "first.example" then
            print(("hello %s|%s|%s|%s|%s|%s|%s|%s|%d|%d|%s:%s %s:%s %s:%s"):format(hello.servername,
                table.concat(hello.alpn_protocols, ","), table.concat(hello.versions, ","),
                table.concat(hello.cipher_suites, ","), table.concat(hello.groups, ","),
                table.concat(hello.signature_algorithms, ","), hello.supports_ecdsa, hello.ja4, #hello.session_id,
                #hello.raw, hello.remote_ip, hello.remote_port, hello.local_ip, hello.local_port, hello.socket_ip,
                hello.socket_port))
        end
        local answer = answers[hello.servername]
        if answer then return answer(hello) end
        return plain
    end }
]]

describe("a tls function", function()
    local web, port

    setup(function()
        port = bench.port()
        web = proxy.start { workers = 1, port = port, script = SCRIPT,
            first_crt = certs.a_example.crt, first_key = certs.a_example.key }
    end)
    teardown(proxy.cleanup)

    local function s_client(name, ...)
        return web:s_client(port, name, ...)
    end

    local function seen(name, ...)
        local _, record = s_client(name, ...)
        local line = web:wait_log(("hello %s|"):format(tostring(name)))
        local fields = {}
        for field in line:match('hello (.*)"}$'):gmatch("[^|]*") do
            fields[#fields + 1] = field
        end
        return fields, record
    end

    local CLIENT = { "-cert", certs.client.crt, "-key", certs.client.key }

    it("sees what the client offers", function()
        local fields, record = seen("first.example", "-min_protocol", "TLSv1.2", "-alpn", "h2,http/1.1", "-groups",
            "P-256:X25519",
            "-sigalgs", "ECDSA+SHA256:rsa_pss_rsae_sha256", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256")
        assert.same({ "h2,http/1.1", "TLSv1.3,TLSv1.2" }, { fields[2], fields[3] })
        assert.equal("TLS_AES_256_GCM_SHA384,TLS_CHACHA20_POLY1305_SHA256,TLS_AES_128_GCM_SHA256,"
            .. "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", (fields[4]:gsub(",TLS_EMPTY_RENEGOTIATION_INFO_SCSV$", "")))
        assert.equal("secp256r1,x25519", fields[5])
        assert.equal("ecdsa_secp256r1_sha256,rsa_pss_rsae_sha256", fields[6])
        assert.equal("true", fields[7])
        assert.matches("^t13d0[45]1%dh2_%x+_%x+$", fields[8]) -- newer clients send more extensions
        assert.equal(record.ja4, fields[8])
        assert.equal("32", fields[9])
        assert.is_true(tonumber(fields[10]) > 150)
        assert.equal(("%s 127.0.0.1:%d %s"):format(record.remote, port, record.remote), fields[11])
    end)

    it("sees a client that has neither name nor extensions of TLS 1.3", function()
        local fields = seen(nil, "-tls1_2", "-sigalgs", "RSA+SHA256")
        assert.same({ "nil", "", "TLSv1.2", "false" }, { fields[1], fields[2], fields[3], fields[7] })
        assert.matches("^t12i", fields[8])
    end)

    it("has the fingerprint in the record where no function is asked, too", function()
        local plain_port = bench.port()
        local other = proxy.start { workers = 1, port = plain_port, script = [[
moongate.listen { name = "web", address = "127.0.0.1:$port", tls = server(), backend = moongate.reply("x") }]] }
        local same = { "openssl", "s_client", "-CAfile", certs.ca.crt, "-servername", "a.example", "-connect" }
        same[#same + 1] = "127.0.0.1:" .. plain_port
        bench.run(same)
        local _, record = s_client("a.example")
        assert.equal(record.ja4, other:record(1).ja4)
        other:stop()
    end)

    it("gives each name its whole policy", function()
        local result, record = s_client("a.example", "-alpn", "http/1.1,h2", "-verify_hostname", "a.example")
        assert.equal(0, result.code, result.err)
        assert.matches("ALPN protocol: h2", result.out)
        assert.equal("TLSv1.3", record.version)
        record = select(2, s_client("b.example", table.unpack(CLIENT)))
        assert.same({ "TLSv1.2", "CN=client-1" }, { record.version, record.client_subject })
        record = select(2, s_client("b.example"))
        assert.equal("down: no certificate given", record.reason)
        result, record = s_client(nil)
        assert.equal(0, result.code, result.err)
        assert.is_nil(record.sni)
    end)

    it("may make a context, whose callbacks are called", function()
        local result, record = s_client("other.example", "-alpn", "one,two", "-verify_hostname", "other.example")
        assert.equal(0, result.code, result.err)
        assert.equal("one", record.alpn)
        web:wait_log("select 2")
    end)

    it("leads on to the servername_cb of the context", function()
        local result = s_client("switch.example", "-verify_hostname", "a.example")
        assert.equal(0, result.code, result.err)
        web:wait_log("switch switch.example")
    end)

    for name, expected in pairs {
        no = { "unrecognized_name", "not on the list" },
        silent = { "unrecognized_name" },
        denied = { "access_denied", "go away" },
        raise = { "internal_error", "the tls function failed", "nobody of that name" },
        table = { "internal_error", "the tls function failed", "the function returned a table" },
        alert = { "internal_error", "the tls function failed", "0 to 255), got 4711" },
        slow = { "internal_error", "the tls function failed", "callback_budget" },
        swallow = { "internal_error", "the tls function failed", "callback_budget" },
        broken = { "internal_error", "the tls function failed", "cert is set, but key is not" },
        write = { "internal_error", "the tls function failed", "Hello.servername: is read-only" },
        misspelt = { "internal_error", "the tls function failed", "did you mean servername?" },
    } do
        it("that answers like " .. name .. " ends the handshake, and the worker goes on", function()
            local worker = web:workers()[1]
            local result, record = s_client(name .. ".example")
            assert.not_equal(0, result.code)
            assert.same({ expected[1], "down: refused by name", expected[2] },
                { record.alert_sent, record.reason, record.detail })
            assert.equal(name .. ".example", record.sni)
            if expected[3] then
                assert.matches("listener web: tls function: ", web:wait_log(expected[3]), 1, true)
                assert.matches("stack traceback", web:log_text(), 1, true)
            end
            assert.equal(0, (s_client("a.example")).code)
            assert.equal(worker, web:workers()[1])
        end)
    end

    it("gets a Hello that is of no use afterwards", function()
        assert.equal(0, (s_client("keep.example")).code)
        assert.equal(0, (s_client("kept.example")).code)
        web:wait_log("of use only inside the tls function")
    end)

    it("resumes with the same ticket keys as any context", function()
        local file = bench.path("session.pem")
        local first = s_client("a.example", "-tls1_2", "-sess_out", file)
        assert.equal(0, first.code, first.err)
        for _ = 1, 3 do
            local _, record = s_client("a.example", "-tls1_2", "-sess_in", file)
            assert.equal("yes", record.resumed)
        end
        web:reload()
        local _, record = s_client("a.example", "-tls1_2", "-sess_in", file)
        assert.equal("yes", record.resumed)
    end)
end)
