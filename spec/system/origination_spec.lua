-- TLS towards the backend: verified by default, and refused in a way that both sides see.

local bench = require "bench"
local certs = require "certs"
local nginx = require "nginx"
local proxy = require "proxy"

-- What curl calls a connection that is closed or reset: when it connects, sends, waits or reads.
local ENDED = { [7] = true, [55] = true, [52] = true, [56] = true }

describe("origination", function()
    local web
    local ports = {}
    local names = { "good", "wrong", "expired", "stranger", "by_ip", "wrong_ip", "plain", "tls_too" }

    setup(function()
        local values = {}
        local backends = {
            good = nginx.start { tls = certs.ec },
            wrong = nginx.start { tls = certs.wrong },
            expired = nginx.start { tls = certs.expired },
            stranger = nginx.start { tls = certs.stranger },
            plain = nginx.start {},
        }
        for _, name in ipairs(names) do
            ports[name] = bench.port()
            values["p_" .. name] = ports[name]
        end
        for name, program in pairs(backends) do
            values["b_" .. name] = program.port
        end
        values.script = [[
local trusting = client()
local function via(name, port, backend)
    backend.tls = trusting
    moongate.listen { name = name, address = "127.0.0.1:" .. port, backend = moongate.backend(backend) }
end
via("good", $p_good, { address = "localhost:$b_good" })
via("wrong", $p_wrong, { address = "localhost:$b_wrong" })
via("expired", $p_expired, { address = "localhost:$b_expired" })
via("stranger", $p_stranger, { address = "localhost:$b_stranger" })
via("by_ip", $p_by_ip, { address = "127.0.0.1:$b_good" })
via("wrong_ip", $p_wrong_ip, { address = "127.0.0.1:$b_good", servername = "127.0.0.9" })
via("plain", $p_plain, { address = "127.0.0.1:$b_plain" })
moongate.listen { name = "tls_too", address = "127.0.0.1:$p_tls_too", tls = server(),
    backend = moongate.backend { address = "127.0.0.1:$b_good", tls = client(), servername = "localhost" } }
]]
        web = proxy.start(values)
    end)

    teardown(proxy.cleanup)

    local seen = 0

    local function fetch(name, scheme)
        local result = bench.run { "curl", "-sS", "--max-time", "8", "--cacert", certs.ca.crt,
            ("%s://localhost:%d/"):format(scheme or "http", ports[name]) }
        seen = seen + 1
        return result, web:record(seen)
    end

    for _, name in ipairs { "good", "by_ip" } do
        it("passes where the certificate is right: " .. name, function()
            local result, record = fetch(name)
            assert.equal("hello from nginx\n", result.out)
            assert.equal(name, record.listener)
        end)
    end

    it("passes from TLS to TLS", function()
        assert.equal("hello from nginx\n", (fetch("tls_too", "https").out))
    end)

    local function refused(name, cause)
        it(("refuses %s: %s"):format(name, cause), function()
            local before = bench.now()
            local result, record = fetch(name)
            assert.equal("", result.out)
            assert.is_true(ENDED[result.code], "curl: " .. result.code .. " " .. result.err)
            assert.is_true(bench.now() - before < 5, "the client was left hanging")
            assert.matches("^up: ", record.reason)
            local text = (record.error or record.detail or "") .. " " .. record.reason
            assert.matches(cause, text:lower(), 1, true)
        end)
    end

    refused("wrong", "hostname mismatch")
    refused("expired", "expired")
    refused("stranger", "issuer")
    refused("wrong_ip", "ip address mismatch")
    refused("plain", "wrong version number")
end)
