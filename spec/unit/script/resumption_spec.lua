-- Whom a verify_callback lets in may depend on everything that the script has read: when that changes, a
-- session made before is not resumed.

local bench = require "bench"
local certs = require "certs"
local proxy = require "proxy"

-- Each gives the text of the file "allowed".
local SOURCES = {
    ["io.open"] = [[io.open("allowed"):read "a"]],
    ["a certificate's file"] = [[openssl.X509.Certificate.load_file("allowed")[1]:digest()]],
    ["a program"] = [[moongate.command { "cat", "allowed" }]],
}

describe("a session of a context with verify_callback", function()
    teardown(proxy.cleanup)

    for name, source in pairs(SOURCES) do
        it("ends with a reload at which " .. name .. " says something else", function()
            local port = bench.port()
            local allowed, session = bench.path "allowed", bench.path "session"
            bench.write("allowed", bench.read(certs.rsa.crt))
            local web = proxy.start { port = port, workers = 1, source = source, script = [[
                local ctx = server()
                local allowed = $source
                ctx.ca_file = "$ca_crt"
                ctx.verify_mode = openssl.SSL.VERIFY_PEER
                ctx.verify_callback = function(ok) return ok and #allowed > 0 end
                moongate.listen { address = "127.0.0.1:$port", tls = ctx, backend = moongate.echo() }
            ]] }
            local function connect(...)
                return bench.run { "openssl", "s_client", "-connect", "127.0.0.1:" .. port, "-tls1_2",
                    "-cert", certs.rsa.crt, "-key", certs.rsa.key, ... }.out
            end
            assert.matches("New, TLSv1.2", connect("-sess_out", session))
            assert.matches("Reused, TLSv1.2", connect("-sess_in", session))
            web:reload()
            assert.matches("Reused, TLSv1.2", connect("-sess_in", session))
            bench.write(allowed, bench.read(certs.ec.crt))
            web:reload()
            assert.matches("New, TLSv1.2", connect("-sess_in", session))
        end)
    end
end)
