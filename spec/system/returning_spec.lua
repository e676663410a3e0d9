-- Returning clients resume wherever they land – with and without tickets, before and after a reload and the death of
-- a worker, between two moongates with one secret – and never under a policy that is not the one they know.

local bench = require "bench"
local certs = require "certs"
local process = require "process"
local proxy = require "proxy"

local signals = proxy.signals

local SCRIPT = [[
local function listen(name, port, options)
    local ctx = server()
    ctx.options = ctx.options | options
    ctx.ca_file = "$ca_crt"
    $change
    moongate.listen { name = name, address = "127.0.0.1:" .. port, tls = ctx, backend = moongate.reply "bye\n" }
end
listen("tickets", $tickets, 0)
listen("stateful", $stateful, openssl.SSL.OP_NO_TICKET)
]]

-- "New" or "Reused"; the client got its answer. Then which key the ticket it has now was sealed with, if any.
local function connect(port, version, ...)
    local result = bench.run { "openssl", "s_client", "-connect", "127.0.0.1:" .. port, "-ign_eof", "-CAfile",
        certs.ca.crt, "-" .. version, "-cert", certs.client.crt, "-key", certs.client.key, input = "hello\n", ... }
    local how = result.out:match("(%a+), TLSv1%.%d, Cipher is")
    assert(how and result.out:find("bye\n", 1, true), result.out .. result.err)
    return how, result.out:match("TLS session ticket:%s+0000 %- ([%x -]+)   ")
end

-- A session made there, in a file.
local function session_of(port, version, name)
    local session = bench.path(("%d.%s.session"):format(port, version))
    os.remove(session)
    assert.equal("New", (connect(port, version, "-servername", name or "localhost", "-sess_out", session)))
    return session
end

local function again(port, version, session, name)
    return connect(port, version, "-servername", name or "localhost", "-sess_in", session)
end

local function each_kind(what)
    for _, kind in ipairs { "tickets", "stateful" } do
        for _, version in ipairs { "tls1_2", "tls1_3" } do
            what(kind, version)
        end
    end
end

describe("resumption:", function()
    teardown(proxy.cleanup)

    describe("a returning client", function()
        local web
        local ports = {}

        local function script(change)
            return (SCRIPT:gsub("%$change", { ["$change"] = change or "" }))
        end

        setup(function()
            ports.tickets, ports.stateful = bench.port(), bench.port()
            web = proxy.start { workers = 2, settings = "watchdog = 120", tickets = ports.tickets,
                stateful = ports.stateful, script = script() }
        end)

        -- Only the `index`-th worker runs meanwhile.
        local function at_worker(index, act)
            local other = web:wait_workers(2)[3 - index]
            process.kill(other, signals.STOP)
            local ok, result = pcall(act)
            process.kill(other, signals.CONT)
            if not ok then
                error(result, 0)
            end
            return result
        end

        each_kind(function(kind, version)
            describe(("with %s of %s"):format(kind == "tickets" and "a ticket" or "a session", version), function()
                it("resumes in 20 of 20 tries, whichever worker it meets", function()
                    local session = at_worker(1, function() return session_of(ports[kind], version) end)
                    for try = 1, 20 do
                        at_worker(1 + try % 2, function()
                            -- the next session each time, as a client has it
                            assert.equal("Reused", connect(ports[kind], version, "-servername", "localhost",
                                "-sess_in", session, "-sess_out", session), "try " .. try)
                        end)
                    end
                end)

                it("resumes after a reload, and after the worker that it knew was killed", function()
                    local session = at_worker(1, function() return session_of(ports[kind], version) end)
                    web:reload(script("-- a comment"))
                    assert.equal("Reused", (again(ports[kind], version, session)))
                    local killed = web:wait_workers(2)
                    for _, pid in ipairs(killed) do
                        process.kill(pid, signals.KILL)
                    end
                    bench.wait("two others", function()
                        local pids = web:workers()
                        return #pids == 2 and not bench.running(killed[1]) and not bench.running(killed[2])
                    end, 20)
                    assert.equal("Reused", (again(ports[kind], version, session)))
                end)

                it("does not resume under another name or at another listener", function()
                    local session = session_of(ports[kind], version)
                    assert.equal("New", (again(ports[kind], version, session, "other.example")))
                    assert.equal("New", (again(ports[kind == "tickets" and "stateful" or "tickets"], version, session)))
                    assert.equal("Reused", (again(ports[kind], version, session)))
                end)
            end)
        end)

        it("does not resume after a change of the policy, and has no error either", function()
            local verifying = "ctx.verify_mode = openssl.SSL.VERIFY_PEER "
            local sessions = {}
            web:reload(script(verifying))
            each_kind(function(kind, version)
                sessions[kind .. version] = session_of(ports[kind], version)
                assert.equal("Reused", (again(ports[kind], version, sessions[kind .. version])))
            end)
            for title, change in pairs {
                ["the verify mode"] = "",
                ["the verify mode, stricter"] = verifying .. "ctx.verify_mode = ctx.verify_mode | 2",
                ["the set of CAs"] = verifying .. [[
                    ctx.cert_store = openssl.X509.Store.new()
                    ctx.cert_store:add_file("$other_ca_crt")]],
                ["the CAs that are asked for"] = verifying ..
                    [[ctx.client_ca = openssl.X509.Certificate.load_file("$ca_crt")]],
                ["the CRLs"] = verifying .. [[
                    local crl = openssl.X509.CRL.new()
                    local ca = openssl.X509.Certificate.load_file("$ca_crt")[1]
                    crl.issuer, crl.last_update, crl.next_update = ca.subject, os.time() - 60, os.time() + 3600
                    crl:sign(openssl.PKey.load_file("$ca_key"), "SHA256")
                    ctx:add_crl(crl)]],
                ["the depth"] = verifying .. "ctx.verify_depth = 2",
                ["the callback"] = verifying .. "ctx.verify_callback = function(ok) return ok end",
                ["the lowest version"] = verifying .. "ctx.min_version = openssl.SSL.TLS1_1_VERSION",
                ["the security level"] = verifying .. "ctx.security_level = 1",
                ["the signature algorithms"] = verifying ..
                    [[ctx.sigalgs = "ECDSA+SHA256:RSA-PSS+SHA256:RSA+SHA256"]],
                ["the session_id_context"] = verifying .. [[ctx.session_id_context = "another"]],
            } do
                web:reload(script(change))
                each_kind(function(kind, version)
                    assert.equal("New", (again(ports[kind], version, sessions[kind .. version])), title)
                end)
            end
            web:reload(script(verifying))
            each_kind(function(kind, version)
                assert.equal("Reused", (again(ports[kind], version, sessions[kind .. version])))
            end)
            web:reload(script())
        end)

        it("that is one of many, some of whose workers are killed while they write, is fine", function()
            for _ = 1, 3 do
                local clients, seen = {}, #web:records()
                for i = 1, 8 do
                    clients[i] = bench.start { "openssl", "s_time", "-connect", "127.0.0.1:" .. ports.stateful, "-new",
                        "-time", "2", "-tls1_2", "-CAfile", certs.ca.crt }
                end
                local pids = web:wait_workers(2)
                bench.wait("handshakes", function() return #web:records() > seen + 50 end)
                process.kill(pids[1], signals.KILL)
                bench.wait("another worker", function()
                    return not bench.running(pids[1]) and #web:workers() == 2
                end, 20)
                for _, client in ipairs(clients) do
                    client:stop()
                end
            end
            local session = session_of(ports.stateful, "tls1_2")
            assert.equal("Reused", (again(ports.stateful, "tls1_2", session)))
        end)
    end)

    describe("two moongates with one secret", function()

        local function start(settings)
            local ports = { tickets = bench.port(), stateful = bench.port() }
            local web = proxy.start { workers = 1, settings = settings, tickets = ports.tickets,
                stateful = ports.stateful, change = "", script = SCRIPT }
            return ports, web
        end

        it("take each other's tickets, also while the secret is changed; others do not", function()
            local old, new = ("old"):rep(11), ("new"):rep(11)
            local a = start(('ticket_secret = %q'):format(old))
            local b = start(('ticket_secret = %q'):format(old))
            local changed = start(('ticket_secret = { %q, %q }'):format(new, old))
            local stranger = start('ticket_secret = ("strange"):rep(5)')
            for _, version in ipairs { "tls1_2", "tls1_3" } do
                local session = session_of(a.tickets, version)
                assert.equal("Reused", (again(b.tickets, version, session)))
                assert.equal("Reused", (again(changed.tickets, version, session)))
                assert.equal("New", (again(stranger.tickets, version, session)))
                assert.equal("New", (again(a.tickets, version, session_of(changed.tickets, version))))
            end
        end)
    end)

    describe("a ticket", function()

        local ROTATION = 6

        local function period()
            return os.time() // ROTATION
        end

        for _, version in ipairs { "tls1_2", "tls1_3" } do
            it("of the previous period is taken and renewed, an older one is not: " .. version, function()
            local ports = { tickets = bench.port(), stateful = bench.port() }
            local web = proxy.start { workers = 2, settings = "ticket_rotation = " .. ROTATION, change = "",
                tickets = ports.tickets, stateful = ports.stateful, script = SCRIPT }
            local session = bench.path("rotated." .. version)
            local tried, got = 0, nil
            repeat -- a busy machine may let a period pass in the middle
                tried = tried + 1
                local made = period()
                local _, key = connect(ports.tickets, version, "-servername", "localhost", "-sess_out", session)
                if period() == made then
                    bench.wait("the next period", function() return period() > made end)
                    local second, second_key = again(ports.tickets, version, session)
                    if period() == made + 1 then
                        bench.wait("the period after that", function() return period() > made + 1 end)
                        local third = again(ports.tickets, version, session)
                        if period() == made + 2 then
                            got = { second, key and second_key and key ~= second_key, third }
                        end
                    end
                end
            until got or tried == 10
            assert.same({ "Reused", true, "New" }, got)
            web:stop()
            end)
        end
    end)

end)
