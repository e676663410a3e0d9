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

    teardown(proxy.cleanup)
end)
