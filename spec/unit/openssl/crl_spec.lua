package.path = "spec/unit/support/?.lua;" .. package.path
local fix = require "fixtures"
local X509, raises = fix.X509, fix.raises

local CONFIG = [[
[ca]
default_ca = test
[test]
database = %s/index.txt
default_md = sha256
default_crl_days = 30
]]

-- A CRL of the test CA that revokes one certificate; the openssl command signs it.
local function revoking(files, cert)
    local serial = #cert.serial % 2 == 0 and cert.serial or "0" .. cert.serial
    files:write("index.txt", ("R\t400101000000Z\t240101000000Z\t%s\tunknown\t/CN=x\n"):format(serial))
    local config = files:write("ca.cnf", CONFIG:format(files.path))
    local ca, key = files:write("ca.pem", fix.cert("ca"):to_pem()), files:write("ca.key", fix.key("ca"):to_pem())
    local command = "openssl ca -gencrl -config %s -cert %s -keyfile %s -out %s/crl.pem 2>&1"
    local pipe = assert(io.popen(command:format(config, ca, key, files.path)))
    local output = pipe:read("a")
    assert(pipe:close(), output)
    local file <close> = assert(io.open(files.path .. "/crl.pem"))
    return file:read("a")
end

describe("X509.CRL", function()
    local files, pem, crl
    setup(function()
        files = fix.files()
        pem = revoking(files, fix.cert "ec")
        crl = X509.CRL.new(pem)
    end)
    teardown(function() files:remove() end)
    after_each(fix.queue_is_empty)

    it("has Ruby's fields", function()
        assert.equal("/CN=Test CA", crl.issuer:to_s())
        assert.is_true(math.abs(crl.last_update - os.time()) < 300)
        assert.is_true(crl.next_update > os.time())
        assert.is_true(crl:verify(fix.key "ca"))
        assert.is_false(crl:verify(fix.key "other_ca"))
        assert.equal(crl:to_pem(), X509.CRL.new(crl:to_der()):to_pem())
    end)

    it("is refused when it is none", function()
        for _, text in ipairs { "", "x", fix.cert("ca"):to_pem(), crl:to_der():sub(1, -2) } do
            raises("CRLError", "PEM_read_bio_X509_CRL", X509.CRL.new, text)
        end
    end)

    for title, fill in pairs {
        ["add_crl"] = function(store) store:add_crl(crl) end,
        ["add_file"] = function(store) store:add_file(files:write("crl.pem", pem)) end,
        ["add_path"] = function(store)
            files:write(("%08x.r0"):format(crl.issuer.hash), pem)
            store:add_path(files.path)
        end,
    } do
        it("revokes in handshakes, by " .. title, function()
            local store = fix.store()
            fill(store)
            store.flags = X509.V_FLAG_CRL_CHECK
            for _, version in ipairs { "TLS1_2", "TLS1_3" } do
                local function with(sigalgs)
                    local client = fix.client(fix.only(version, { cert_store = store, sigalgs = sigalgs }))
                    return fix.handshake(fix.server(), client)
                end
                assert.is_true(with("RSA-PSS+SHA256").ok)
                local hs = with("ECDSA+SHA256")
                assert.same({ false, "certificate_revoked" }, { hs.ok, hs.alert })
                assert.truthy(hs.client_error:find("certificate revoked", 1, true))
            end
        end)
    end

    it("counts in a ca_file, too, when the store says so", function()
        local store = X509.Store.new()
        store.flags = X509.V_FLAG_CRL_CHECK
        local client = fix.client { cert_store = store, sigalgs = "ECDSA+SHA256" }
        client.ca_file = files:write("both.pem", fix.cert("ca"):to_pem() .. pem)
        assert.equal("certificate_revoked", fix.handshake(fix.server(), client).alert)
    end)
end)
