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
end)
