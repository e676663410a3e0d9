-- Connections to a backend resume: under one policy, with one name, to one address – and under no other.

local bench = require "bench"
local certs = require "certs"
local nginx = require "nginx"
local proxy = require "proxy"

local SCRIPT = [[
local function trusting()
    local ctx = client()
    $change
    return ctx
end
local ctx = trusting()
moongate.listen { name = "one", address = "127.0.0.1:$one",
    backend = moongate.backend { name = "one", address = "127.0.0.1:$good", servername = "localhost", tls = ctx } }
moongate.listen { name = "same", address = "127.0.0.1:$same",
    backend = moongate.backend { name = "another", address = "127.0.0.1:$good", servername = "localhost", tls = ctx } }
moongate.listen { name = "elsewhere", address = "127.0.0.1:$elsewhere",
    backend = moongate.backend { name = "one", address = "127.0.0.1:$other", servername = "localhost", tls = ctx } }
local turn = 0
moongate.listen { name = "names", address = "127.0.0.1:$names",
    backend = moongate.backend { name = "names", address = "127.0.0.1:$good", tls = ctx, servername = function()
        turn = turn + 1
        return turn % 3 == 0 and "127.0.0.1" or "localhost"
    end } }
local asked = trusting()
asked.client_cert_cb = function()
    return openssl.X509.Certificate.load_file("$client_crt")[1], openssl.PKey.load_file("$client_key")
end
moongate.listen { name = "asked", address = "127.0.0.1:$asked",
    backend = moongate.backend { name = "asked", address = "127.0.0.1:$good", servername = "localhost", tls = asked } }
]]

local LISTENERS = { "one", "same", "elsewhere", "names", "asked" }

for version, only in pairs {
    ["TLSv1.2"] = { "ssl_protocols TLSv1.2;" },
    ["TLSv1.2 without tickets"] = { "ssl_protocols TLSv1.2; ssl_session_tickets off;" },
    ["TLSv1.3"] = { "ssl_protocols TLSv1.3;" },
    ["TLSv1.3 without tickets"] = { "ssl_protocols TLSv1.3; ssl_session_tickets off;" },
} do
    describe("a connection to a backend with " .. version, function()
        local web, good, other
        local values = { workers = 1 }
        local name = version:match("%S+")

        local function script(change)
            return (SCRIPT:gsub("%$change", { ["$change"] = change or "" }))
        end

        setup(function()
            local cache = " ssl_session_cache shared:%s:1m;"
            good = nginx.start { tls = certs.ec, more = only[1] .. cache:format("a") }
            other = nginx.start { tls = certs.ec, more = only[1] .. cache:format("b") }
            values.good, values.other = good.port, other.port
            for _, listener in ipairs(LISTENERS) do
                values[listener] = bench.port()
            end
            values.script = script()
            web = proxy.start(values)
        end)
        teardown(function()
            good:stop()
            other:stop()
            if not web.stopped then
                web:stop()
            end
        end)

        -- "r" if the backend says that the connection resumed a session, or "."
        local function fetch(listener)
            local out = bench.must { "curl", "-sS", "--max-time", "8",
                ("http://localhost:%d/tls"):format(values[listener]) }
            local how, spoken = out:match("^(%S) (%S+)")
            assert.equal(name, spoken)
            return how
        end

        it("resumes, each time", function()
            assert.equal(".", fetch "one")
            for _ = 1, 10 do
                assert.equal("r", fetch "one")
            end
        end)

        it("does not resume what belongs to another backend or address", function()
            assert.equal("r", fetch "one")
            assert.equal(".", fetch "same")
            assert.equal(".", fetch "elsewhere")
            for _, listener in ipairs { "one", "same", "elsewhere" } do
                assert.equal("r", fetch(listener))
            end
        end)

        it("does not resume what belongs to another name", function()
            local got = {}
            for i = 1, 6 do
                got[i] = fetch "names"
            end
            assert.same({ ".", "r", ".", "r", "r", "r" }, got)
        end)

        it("does not resume where the script chooses the certificate", function()
            assert.equal(".", fetch "asked")
            assert.equal(".", fetch "asked")
        end)

        it("resumes after a reload, unless the context has changed", function()
            assert.equal("r", fetch "one")
            web:reload(script "-- a comment")
            assert.equal("r", fetch "one")
            web:reload(script [[ctx.ca_file = nil ctx.cert_store = openssl.X509.Store.new()
                ctx.cert_store:add_file("$ca_crt") ctx.cert_store:add_file("$other_ca_crt")]])
            assert.equal(".", fetch "one")
            assert.equal("r", fetch "one")
            web:reload(script())
            assert.equal(".", fetch "one") -- what there was is dropped
            assert.equal("r", fetch "one")
        end)
    end)
end

describe("a session with a backend", function()
    it("that the backend knows no longer costs a full handshake, and no error", function()
        local port = bench.port()
        local backend = nginx.start { tls = certs.ec }
        local web = proxy.start { workers = 1, port = port, backend = backend.port, script = [[
moongate.listen { name = "web", address = "127.0.0.1:$port",
    backend = moongate.backend { address = "127.0.0.1:$backend", servername = "localhost", tls = client() } }
]] }
        local function fetch()
            return bench.must { "curl", "-sS", "--max-time", "8", ("http://localhost:%d/tls"):format(port) }:sub(1, 1)
        end
        assert.same({ ".", "r" }, { fetch(), fetch() })
        backend:stop()
        backend = nginx.start { tls = certs.ec, port = backend.port }
        assert.same({ ".", "r" }, { fetch(), fetch() })
        backend:stop()
        web:stop()
    end)

    -- What s_server -msg saw: each message of that name, as bytes.
    local function messages(text, name)
        local found = {}
        for hex in text:gmatch("Handshake %[length %x+%], " .. name .. "\n(.-)\n[^ ]") do
            found[#found + 1] = hex:gsub("%s", ""):gsub("%x%x", function(two)
                return string.char(tonumber(two, 16))
            end)
        end
        return found
    end

    -- The ticket that a ClientHello offers, if any: its last extension.
    local function offered(hello)
        local at = 4 + 2 + 32 + 1
        local _, after = string.unpack(">s1", hello, at)
        _, after = string.unpack(">s2", hello, after)
        _, after = string.unpack(">s1", hello, after)
        local extensions = string.unpack(">s2", hello, after)
        at = 1
        while at < #extensions do
            local kind, content
            kind, content, at = string.unpack(">I2s2", extensions, at)
            if kind == 41 then
                return (string.unpack(">s2", content, 3))
            end
        end
        return nil
    end

    local function issued(ticket)
        local _, after = string.unpack(">s1", ticket, 4 + 8 + 1)
        return (string.unpack(">s2", ticket, after))
    end

    it("of TLS 1.3 is offered once, and the newest first", function()
        local port, backend_port = bench.port(), bench.port()
        local backend = bench.start { "openssl", "s_server", "-accept", tostring(backend_port), "-cert", certs.ec.crt,
            "-key", certs.ec.key, "-tls1_3", "-msg", "-rev", "-num_tickets", "3" }
        bench.wait("s_server to listen", function() return backend:output():find("ACCEPT", 1, true) end)
        local web = proxy.start { workers = 1, port = port, backend = backend_port, script = [[
moongate.listen { name = "web", address = "127.0.0.1:$port",
    backend = moongate.backend { address = "127.0.0.1:$backend", servername = "localhost", tls = client() } }
]] }
        for i = 1, 5 do
            local client = bench.connect(port)
            client:send("abc\n")
            assert.equal("cba", client:receive("*l"))
            client:close()
            web:record(i)
        end
        local hellos, tickets = messages(backend:output(), "ClientHello"),
            messages(backend:output(), "NewSessionTicket")
        assert.same({ 5, 7 }, { #hellos, #tickets }) -- three, then one each time
        assert.is_nil(offered(hellos[1]))
        for i = 2, 5 do
            assert.equal(issued(tickets[i + 1]), offered(hellos[i]))
        end
        backend:stop()
        web:stop()
    end)

    teardown(proxy.cleanup)
end)
