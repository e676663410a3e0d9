package.path = "spec/unit/support/?.lua;" .. package.path
local fix = require "fixtures"
local SSL, server, client, only = fix.SSL, fix.server, fix.client, fix.only

-- What makes another policy of a client's context.
local CHANGES = {
    TLS1_2 = { ciphers = "ECDHE+AESGCM", groups = "P-256", options = SSL.OP_ALL | SSL.OP_NO_COMPRESSION },
    TLS1_3 = { ciphersuites = "TLS_AES_128_GCM_SHA256", groups = "P-256" },
}

local function certificate(name, not_after)
    return fix.certificate {
        subject = "/CN=" .. name, key = fix.key(name), issuer = fix.cert "ca", issuer_key = fix.key "ca",
        names = "DNS:localhost", not_after = not_after,
    }
end

for _, version in ipairs { "TLS1_2", "TLS1_3" } do
    describe("resumption in memory on " .. version, function()
        -- A session made by the first client; whether the second resumes it.
        local function resumed(to, first, second, name)
            local session = assert(fix.handshake(to, first).client.session)
            local hs = fix.handshake(to, second or first, { servername = name or "localhost", session = session })
            assert.is_true(hs.ok, hs.client_error or hs.server_error)
            assert.equal(hs.server.session_reused, hs.client.session_reused)
            return hs.session_reused
        end

        it("happens under the same policy and name", function()
            local to = server()
            assert.is_true(resumed(to, client(only(version))))
            assert.is_true(resumed(to, client(only(version)), client(only(version))))
            assert.is_true(resumed(to, client(only(version)), nil, "LocalHost"))
        end)

        it("does not happen under another name", function()
            assert.is_false(resumed(server(), client(only(version)), nil, "a.example.com"))
        end)

        for name, value in pairs(CHANGES[version]) do
            it("does not happen under other " .. name, function()
                local settings = only(version)
                settings[name] = value
                assert.is_false(resumed(server(), client(only(version)), client(settings)))
            end)
        end

        it("does not happen under another time of verification", function()
            local store = fix.store()
            store.time = os.time() - 60
            assert.is_false(resumed(server(), client(only(version)), client(only(version, { cert_store = store }))))
            local other = fix.store()
            other.time = os.time() - 30
            assert.is_false(resumed(server(), client(only(version, { cert_store = store })),
                client(only(version, { cert_store = other }))))
        end)

        it("from the server's cache has no timeout beyond the end of the certificate", function()
            local ending = os.time() + 60
            local to = server { verify_mode = SSL.VERIFY_PEER, cert_store = fix.store(), options = SSL.OP_NO_TICKET }
            local hs = fix.handshake(to, client(only(version, {
                cert = certificate("client", ending), key = fix.key "client",
            })))
            local session = hs.server.session
            assert.is_true(session.time + session.timeout <= ending)
            session.timeout = 3600
            assert.is_true(session.time + session.timeout <= ending)
            session.timeout = 5
            assert.equal(5, session.timeout)
        end)

        it("does not outlast the certificate of either end", function()
            local ending = os.time() + 2
            local cases = {}
            local function case(whose, options)
                local to = server { verify_mode = SSL.VERIFY_PEER, cert_store = fix.store(), options = options }
                local from = client(only(version, { verify_mode = SSL.VERIFY_NONE, verify_hostname = false }))
                if whose == "client" then
                    from.cert, from.key = certificate("client", ending), fix.key "client"
                else
                    to.cert, to.key = certificate("other_ec", ending), fix.key "other_ec"
                    from.sigalgs = "ECDSA+SHA256"
                end
                return { to = to, from = from, session = fix.handshake(to, from).client.session }
            end
            cases["client, by ticket"] = case("client", SSL.OP_ALL)
            cases["client, by the server's cache"] = case("client", SSL.OP_ALL | SSL.OP_NO_TICKET)
            cases.server = case("server", SSL.OP_ALL)
            while os.time() <= ending do end -- there is nothing to wait for but the clock
            for whose, made in pairs(cases) do
                local hs = fix.handshake(made.to, made.from, { servername = "localhost", session = made.session })
                assert.is_false(hs.session_reused, whose)
            end
        end)
    end)
end
