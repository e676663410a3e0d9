--- OCSP responses that a server staples: of the context or of one certificate, on TLS 1.2 and 1.3.

package.path = "spec/unit/support/?.lua;" .. package.path
local fix = require "fixtures"
local raises, assign = fix.raises, fix.assign
local SSLContext = fix.SSLContext

local files, responses

-- What the CA says of a certificate, made by openssl's own responder.
local function response(name, options)
    options = options or {}
    local function path(suffix) return files.path .. "/" .. name .. suffix end
    files:write("ca.pem", fix.cert("ca"):to_pem())
    files:write("ca.key", fix.key("ca"):private_to_pem())
    files:write(name .. ".pem", fix.cert(name):to_pem())
    files:write(name .. ".index", ("V\t491231235959Z\t\t%s\tunknown\t/CN=%s\n"):format(fix.cert(name).serial, name))
    local function openssl(arguments)
        local command = ("cd %s && openssl ocsp -issuer ca.pem %s >/dev/null 2>&1"):format(files.path, arguments)
        assert(os.execute(command), command)
    end
    openssl(("-cert %s.pem -no_nonce -reqout %s.req"):format(name, name))
    openssl(("-CA ca.pem -rsigner ca.pem -rkey ca.key -index %s.index -reqin %s.req -respout %s.der %s"):format(
        name, name, name, options.validity or "-ndays 7"))
    local file = assert(io.open(path ".der", "rb"))
    local der = file:read("a")
    file:close()
    return der
end

setup(function()
    files = fix.files()
    responses = { rsa = response "rsa", ec = response "ec", ed25519 = response "ed25519" }
end)
teardown(function() files:remove() end)

local UNSUCCESSFUL = "\x30\x03\x0a\x01\x03" -- tryLater

describe("ocsp_response", function()
    it("is nil, takes a response, and reads back; nil takes it away", function()
        local ctx = fix.server()
        assert.is_nil(ctx.ocsp_response)
        ctx.ocsp_response = responses.ec
        assert.equal(responses.ec, ctx.ocsp_response)
        ctx.ocsp_response = nil
        assert.is_nil(ctx.ocsp_response)
        assert.is_nil(fix.handshake(ctx, fix.client()).client.ocsp_response)
    end)

    it("refuses what is no DER of an OCSP response and keeps what it had", function()
        local ctx = fix.server()
        ctx.ocsp_response = responses.ec
        for _, bad in ipairs { "", "x", "\0", fix.cert("ec"):to_der(), responses.ec:sub(1, -2), responses.ec .. "\0",
            ("\x30"):rep(1 << 20) } do
            raises("ArgumentError", "SSLContext.ocsp_response: not an OCSP response in DER", assign, ctx,
                "ocsp_response", bad)
        end
        for _, bad in ipairs { 1, true, {}, fix.cert "ec", print } do
            raises("TypeError", "SSLContext.ocsp_response: expected a string", assign, ctx, "ocsp_response", bad)
        end
        assert.equal(responses.ec, ctx.ocsp_response)
    end)

    it("cannot be changed when frozen", function()
        local ctx = fix.server { ocsp_response = responses.ec }
        ctx:setup()
        raises("FrozenError", "SSLContext.ocsp_response: can't modify frozen SSLContext", assign, ctx, "ocsp_response",
            nil)
        assert.equal(responses.ec, ctx.ocsp_response)
    end)

    it("must be about one of the context's certificates: setup says so", function()
        local ctx = fix.server { certs = { "rsa" }, ocsp_response = responses.ec }
        raises("ArgumentError", "SSLContext.ocsp_response: is about none of the context's certificates", ctx.setup, ctx)
        assert.is_false(ctx.frozen)
        ctx.ocsp_response = responses.rsa
        ctx:setup()
    end)

    it("on a context without a certificate changes nothing", function()
        assert.is_true(fix.handshake(fix.server(), fix.client { ocsp_response = responses.ec }).ok)
    end)
end)

for _, version in ipairs { "TLS1_2", "TLS1_3" } do
    describe("with " .. version, function()
        local function stapled(server, client, options)
            local hs = fix.handshake(server, fix.client(fix.only(version, client)), options)
            assert.is_true(hs.ok, hs.client_error or hs.server_error)
            assert.equal(hs.client.ocsp_response, hs.server.ocsp_response)
            return hs.client.ocsp_response
        end

        local RSA, ECDSA = { sigalgs = "RSA-PSS+SHA256" }, { sigalgs = "ECDSA+SHA256" }

        it("the context's response goes with the certificate that it is about, and with no other", function()
            local ctx = fix.server { ocsp_response = responses.ec }
            assert.equal(responses.ec, stapled(ctx, ECDSA))
            assert.is_nil(stapled(ctx, RSA))
        end)

        it("each certificate has the response it was added with", function()
            local ctx = SSLContext.new()
            for _, name in ipairs { "rsa", "ec" } do
                assert.equal(ctx, ctx:add_certificate(fix.cert(name), fix.key(name), nil, responses[name]))
            end
            assert.equal(responses.rsa, stapled(ctx, RSA))
            assert.equal(responses.ec, stapled(ctx, ECDSA))
            assert.is_nil(ctx.ocsp_response)
        end)

        it("a certificate's own response comes before the context's", function()
            local ctx, other = fix.server { certs = { "rsa" } }, response("ec", { validity = "-ndays 3" })
            ctx:add_certificate(fix.cert "ec", fix.key "ec", {}, other)
            ctx.ocsp_response = responses.ec
            assert.equal(other, stapled(ctx, ECDSA))
        end)

        it("a chain and a response go together", function()
            local ctx = SSLContext.new()
            ctx:add_certificate(fix.cert "ec", fix.key "ec", { fix.cert "ca" }, responses.ec)
            local hs = fix.handshake(ctx, fix.client(fix.only(version)))
            assert.equal(2, #hs.client.peer_cert_chain)
            assert.equal(responses.ec, hs.client.ocsp_response)
        end)

        it("a certificate that replaces another does not take over its response", function()
            local ctx = SSLContext.new()
            ctx:add_certificate(fix.cert "ec", fix.key "ec", nil, responses.ec)
            ctx:add_certificate(fix.cert "other_ec", fix.key "other_ec")
            assert.is_nil(stapled(ctx))
            ctx = SSLContext.new()
            ctx:add_certificate(fix.cert "ec", fix.key "ec", nil, responses.ec)
            ctx:add_certificate(fix.cert "ec", fix.key "ec")
            assert.is_nil(stapled(ctx))
        end)

        it("cert and key are stapled with the context's response", function()
            local ctx = SSLContext.new()
            ctx.cert, ctx.key, ctx.ocsp_response = fix.cert "ec", fix.key "ec", responses.ec
            assert.equal(responses.ec, stapled(ctx))
        end)

        it("servername_cb brings its context's response", function()
            local other = fix.server { certs = { "ec" }, ocsp_response = responses.ec }
            local ctx = fix.server { certs = { "rsa" }, ocsp_response = responses.rsa, servername_cb = function(_, name)
                return name == "localhost" and other or nil
            end }
            assert.equal(responses.ec, stapled(ctx))
            assert.equal(responses.rsa, stapled(ctx, nil, { servername = "www.example.com" }))
        end)

        it("a response that has ended is no longer sent", function()
            local ended = responses.ec:gsub("20%d%d(%d%d%d%d%d%d%d%d%d%dZ)", "2001%1") -- nobody asks for its signature
            assert.is_nil(stapled(fix.server { certs = { "ec" }, ocsp_response = ended }))
        end)

        it("a response without an end is sent", function()
            local endless = response("ec", { validity = "" })
            assert.equal(endless, stapled(fix.server { certs = { "ec" }, ocsp_response = endless }))
        end)

        it("an unsuccessful response is about any certificate", function()
            assert.equal(UNSUCCESSFUL, stapled(fix.server { ocsp_response = UNSUCCESSFUL }))
        end)
    end)
end

describe("load_ocsp", function()
    local function path_of(name) return files:write(name .. ".ocsp", responses[name]) end

    local function stapled(ctx, sigalgs)
        local hs = fix.handshake(ctx, fix.client { sigalgs = sigalgs })
        assert.is_true(hs.ok, hs.client_error)
        return hs.client.ocsp_response
    end

    it("staples what each file says to the certificate it is about, in any order", function()
        local ctx = SSLContext.new()
        assert.equal(ctx, ctx:load_ocsp(path_of "ec"))
        ctx:add_certificate(fix.cert "rsa", fix.key "rsa")
        ctx:add_certificate(fix.cert "ec", fix.key "ec")
        ctx:load_ocsp(path_of "rsa")
        assert.equal(responses.ec, stapled(ctx, "ECDSA+SHA256"))
        assert.equal(responses.rsa, stapled(ctx, "RSA-PSS+SHA256"))
        assert.is_nil(ctx.ocsp_response)
        raises("FrozenError", "SSLContext:load_ocsp: can't modify frozen SSLContext", ctx.load_ocsp, ctx, path_of "ec")
    end)

    it("the last about a certificate counts, before ocsp_response, and after the certificate's own", function()
        local other = response("ec", { validity = "-ndays 3" })
        local ctx = fix.server { certs = { "ec" }, ocsp_response = responses.ec }
        ctx:load_ocsp(path_of "ec"):load_ocsp(files:write("other.ocsp", other))
        assert.equal(other, stapled(ctx))
        ctx = SSLContext.new()
        ctx:add_certificate(fix.cert "ec", fix.key "ec", nil, responses.ec)
        ctx:load_ocsp(files:write("other.ocsp", other))
        assert.equal(responses.ec, stapled(ctx))
    end)

    it("refuses what is no response, and what is about nobody here", function()
        local ctx = fix.server { certs = { "rsa" } }
        for _, bad in ipairs { "", "garbage", responses.rsa:sub(1, -2), fix.cert("rsa"):to_pem() } do
            local path = files:write("bad.ocsp", bad)
            raises("ArgumentError", "load_ocsp: " .. path .. ": not an OCSP response in DER", ctx.load_ocsp, ctx, path)
        end
        local path = files:write("bad.ocsp", UNSUCCESSFUL)
        raises("ArgumentError", "load_ocsp: " .. path .. ": the responder tells of an error instead of a certificate",
            ctx.load_ocsp, ctx, path)
        raises("SystemCallError", "load_ocsp: " .. files.path .. "/none: No such file", ctx.load_ocsp, ctx,
            files.path .. "/none")
        raises("TypeError", "SSLContext:load_ocsp: argument 1: expected a string", ctx.load_ocsp, ctx, nil)
        ctx:load_ocsp(path_of "ec")
        raises("ArgumentError", "load_ocsp: " .. files.path .. "/ec.ocsp: is about none of the context's certificates",
            ctx.setup, ctx)
        assert.is_false(ctx.frozen)
    end)
end)

describe("add_certificate with a response", function()
    local function add(...)
        local ctx = SSLContext.new()
        return ctx.add_certificate, ctx, ...
    end

    it("refuses what is none, and adds nothing", function()
        local ctx = SSLContext.new()
        raises("ArgumentError", "SSLContext:add_certificate: argument 4: not an OCSP response in DER",
            ctx.add_certificate, ctx, fix.cert "ec", fix.key "ec", {}, "x")
        assert.is_false(fix.handshake(ctx, fix.client()).ok)
        raises("TypeError", "SSLContext:add_certificate: argument 4: expected a string, got table",
            add(fix.cert "ec", fix.key "ec", {}, {}))
        raises("ArgumentError", "wrong number of arguments (given 5, expected 2..4)",
            add(fix.cert "ec", fix.key "ec", nil, nil, nil))
    end)

    it("refuses one about another certificate", function()
        raises("ArgumentError", "SSLContext:add_certificate: argument 4: is about another certificate",
            add(fix.cert "rsa", fix.key "rsa", nil, responses.ec))
    end)

    it("takes nil for none", function()
        local ctx = SSLContext.new()
        ctx:add_certificate(fix.cert "ec", fix.key "ec", nil, nil)
        assert.is_nil(fix.handshake(ctx, fix.client()).client.ocsp_response)
    end)

    it("many times keeps one response per kind of key", function()
        local ctx = SSLContext.new()
        for _ = 1, 100 do
            ctx:add_certificate(fix.cert "ec", fix.key "ec", nil, responses.ec)
        end
        assert.equal(responses.ec, fix.handshake(ctx, fix.client()).client.ocsp_response)
    end)
end)
