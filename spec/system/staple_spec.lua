-- OCSP stapling through the real binary, as openssl s_client -status sees it.

local bench = require "bench"
local certs = require "certs"
local proxy = require "proxy"

local SCRIPT = [[
local function read(path)
    local file = assert(io.open(path, "rb"))
    local data = file:read "a"
    file:close()
    return data
end

local each = openssl.SSL.SSLContext.new()
for _, name in ipairs { "rsa", "ec" } do
    local chain = openssl.X509.Certificate.load_file("$dir/" .. name .. ".crt")
    each:add_certificate(table.remove(chain, 1), openssl.PKey.load_file("$dir/" .. name .. ".key"), chain,
        read("$dir/" .. name .. ".ocsp"))
end
moongate.listen { name = "each", address = "127.0.0.1:$each", tls = each, backend = moongate.reply "" }

local shared = server()
shared.ocsp_response = read "$dir/ec.ocsp"
moongate.listen { name = "shared", address = "127.0.0.1:$shared", tls = shared, backend = moongate.reply "" }
]]

describe("OCSP stapling", function()
    local web, serials
    local ports = { each = bench.port(), shared = bench.port() }

    setup(function()
        serials = {}
        for _, name in ipairs { "rsa", "ec" } do
            serials[name] = select(2, certs.respond(name))
        end
        ports.script = SCRIPT
        web = proxy.start(ports)
    end)
    teardown(proxy.cleanup)

    local SIGNATURES = { rsa = "RSA-PSS+SHA256", ec = "ECDSA+SHA256" }

    -- The serial number that the stapled response is about, or nil if there is none.
    local function stapled(listener, name, version)
        local seen = #web:records()
        local result = bench.run { "openssl", "s_client", "-connect", "127.0.0.1:" .. ports[listener], "-status",
            "-CAfile", certs.ca.crt, "-verify_return_error", version, "-sigalgs", SIGNATURES[name], input = "" }
        assert.equal(0, result.code, result.err .. result.out)
        web:record(seen + 1)
        if result.out:find("OCSP response: no response sent", 1, true) then
            return nil
        end
        assert.matches("OCSP Response Status: successful", result.out, 1, true)
        assert.matches("Cert Status: good", result.out, 1, true)
        return result.out:match("Serial Number: (%x+)")
    end

    for _, version in ipairs { "-tls1_2", "-tls1_3" } do
        for name in pairs(SIGNATURES) do
            it(("%s: a client with the %s certificate gets the response that came with it"):format(version, name),
                function() assert.equal(serials[name], stapled("each", name, version)) end)
        end

        it(version .. ": the context's response goes with the certificate that it is about", function()
            assert.equal(serials.ec, stapled("shared", "ec", version))
            assert.is_nil(stapled("shared", "rsa", version))
        end)
    end

    it("of files is read again with the configuration, or not at all if it is none", function()
        local port = bench.port()
        local path = bench.path "web.ocsp"
        -- As a cron job does it. `good` or `revoked`: what a client is told until the next reload.
        local function publish(text)
            os.rename(bench.write("new.ocsp", text), path)
        end
        publish(bench.read((certs.respond "ec")))
        local changing = proxy.start { port = port, arguments = { "--watch" }, script = [[
local ctx = openssl.SSL.SSLContext.new()
ctx:load_certificate("$ec_crt", "$ec_key")
ctx:load_ocsp("$dir/web.ocsp")
moongate.listen { name = "web", address = "127.0.0.1:$port", tls = ctx, backend = moongate.reply "" }
]] }
        local function told()
            local result = bench.run { "openssl", "s_client", "-connect", "127.0.0.1:" .. port, "-status",
                "-CAfile", certs.ca.crt, input = "" }
            return result.out:match("Cert Status: (%a+)") or result.out:match("OCSP response: (no response sent)")
        end
        assert.equal("good", told())
        local gnutls = bench.run { "gnutls-cli", "--x509cafile", certs.ca.crt, "-p", tostring(port), "localhost",
            input = "" }
        assert.matches("Status: The certificate is trusted", gnutls.out, 1, true)
        assert.matches("OCSP status request", gnutls.out, 1, true)

        publish("garbage")
        local refused = changing:try_reload()
        assert.equal(1, refused.code)
        assert.matches("load_ocsp: .*/web%.ocsp: not an OCSP response in DER", refused.err)
        publish(bench.read((certs.respond "rsa")))
        refused = changing:try_reload()
        assert.matches("load_ocsp: .*/web%.ocsp: is about none of the context's certificates", refused.err)
        assert.equal("good", told())

        publish(bench.read((certs.respond("ec", "R"))))
        bench.wait("the other response", function() return told() == "revoked" end, 30)
        gnutls = bench.run { "gnutls-cli", "--x509cafile", certs.ca.crt, "-p", tostring(port), "localhost",
            input = "" }
        assert.matches("revoked", gnutls.out .. gnutls.err, 1, true)

        publish((bench.read((certs.respond "ec")):gsub("20%d%d(%d%d%d%d%d%d%d%d%d%dZ)", "2001%1")))
        bench.wait("no response", function() return told() == "no response sent" end, 30)
        changing:wait_log("the OCSP response for CN=localhost has ended, and is not sent")
        changing:stop()
    end)
end)
