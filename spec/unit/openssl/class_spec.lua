package.path = "spec/unit/support/?.lua;" .. package.path
local fix = require "fixtures"
local SSLContext, raises, assign = fix.SSLContext, fix.raises, fix.assign

describe("the attribute dispatcher", function()
    local ctx
    before_each(function() ctx = SSLContext.new() end)

    it("refuses an unknown name on write, with a suggestion", function()
        raises("NoMethodError", "SSLContext.min_verison: no such field (did you mean min_version?)", assign, ctx,
            "min_verison", 1)
    end)

    it("refuses an unknown name on read, with a suggestion", function()
        raises("NoMethodError", "SSLContext.chiphers: no such field (did you mean ciphers?)",
            function() return ctx.chiphers end)
    end)

    it("suggests methods, too", function()
        raises("NoMethodError", "did you mean add_certificate?", function() ctx:add_certifcate() end)
    end)

    it("has no suggestion for what is near to nothing", function()
        local err = raises("NoMethodError", "SSLContext.xyzzy_plugh: no such field",
            function() return ctx.xyzzy_plugh end)
        assert.is_nil(err.message:find("did you mean", 1, true))
    end)

    it("refuses keys that are no names", function()
        for _, key in ipairs { 1, 1.5, true, {}, print, ctx } do
            raises("NoMethodError", "a name is wanted", function() return ctx[key] end)
            raises("NoMethodError", "a name is wanted", assign, ctx, key, 1)
        end
    end)

    it("shows a hostile name escaped and cut", function()
        local err = raises("NoMethodError", "no such field", function() return ctx[("\0\27[31m"):rep(1000000)] end)
        assert.is_true(#err.message < 1000)
        assert.is_nil(err.message:find("[\0\27]"))
    end)

    it("refuses to write what can only be read", function()
        raises("NoMethodError", "SSLContext.frozen: is read-only", assign, ctx, "frozen", true)
    end)

    it("refuses to read what can only be written", function()
        raises("NoMethodError", "SSLContext.ssl_version: cannot be read", function() return ctx.ssl_version end)
    end)

    it("refuses to overwrite a method", function()
        raises("NoMethodError", "SSLContext.setup: is a method", assign, ctx, "setup", print)
    end)

    it("asks the frozen question before it looks at the value", function()
        ctx:setup()
        raises("FrozenError", "SSLContext.min_version: can't modify frozen SSLContext", assign, ctx, "min_version", {})
    end)

    it("says when a method was called with a dot", function()
        raises("TypeError", "SSLContext:setup: expected SSLContext before the colon, got no value",
            function() ctx.setup() end)
        raises("TypeError", "SSLContext:setup: expected SSLContext before the colon, got Store",
            function() ctx.setup(fix.X509.Store.new()) end)
    end)

    it("names function, argument and type", function()
        raises("TypeError", "SSLContext:add_certificate: argument 1: expected Certificate, got string",
            function() ctx:add_certificate("x", "y") end)
        raises("TypeError", "SSLContext:add_certificate: argument 2: expected PKey, got Certificate",
            function() ctx:add_certificate(fix.cert "ec", fix.cert "ec") end)
        raises("TypeError", "Certificate.load: argument 1: expected a string, got number",
            function() fix.X509.Certificate.load(1) end)
    end)

    it("counts arguments as Ruby does", function()
        raises("ArgumentError", "SSLContext:add_certificate: wrong number of arguments (given 1, expected 2..4)",
            function() ctx:add_certificate(1) end)
        raises("ArgumentError", "SSLContext.new: wrong number of arguments (given 2, expected 0..1)",
            function() SSLContext.new(1, 2) end)
    end)

    it("hides its metatables", function()
        assert.equal("SSLContext", getmetatable(ctx))
        assert.has_error(function() setmetatable(ctx, {}) end)
    end)

    it("tells its class and its name", function()
        assert.truthy(tostring(ctx):match("^SSLContext: "))
        ctx.name = "front"
        assert.equal("SSLContext: front", tostring(ctx))
    end)

    it("answers for an object that was closed", function()
        local store = fix.finalised(fix.X509.Store.new)
        raises("RuntimeError", "Store: is closed", function() return store.flags end)
        raises("RuntimeError", "Store: is closed", assign, store, "flags", 1)
        raises("TypeError", "expected a list of Certificates", assign, ctx, "extra_chain_cert", store)
        raises("TypeError", "SSLContext.cert_store: expected Store, got closed Store", assign, ctx, "cert_store", store)
    end)

    it("lets no script close what C may still use", function()
        local objects = {
            ctx, fix.X509.Store.new(), fix.X509.Name.new {}, fix.X509.Certificate.new(), fix.key "ec",
        }
        for _, object in ipairs(objects) do
            local ok, err = pcall(function()
                local closing <close> = object
                return closing
            end)
            assert.is_false(ok)
            assert.truthy(err:find("got a non-closable value", 1, true), err)
        end
    end)

    for name, make in pairs { client_ca = fix.X509.Certificate.new, cert_store = fix.X509.Store.new } do
        it("refuses to set up a context whose " .. name .. " is gone", function()
            local answer
            local function drop()
                -- The youngest is finalised first.
                local dying = SSLContext.new()
                setmetatable({ dying }, { __gc = function(self) answer = { pcall(self[1].setup, self[1]) } end })
                dying[name] = make()
            end
            drop()
            collectgarbage()
            collectgarbage()
            assert.is_false(answer[1])
            assert.truthy(tostring(answer[2]):find("SSLContext." .. name .. ": expected", 1, true), answer[2])
        end)
    end
end)

describe("the module's tables", function()
    for path, wrong in pairs {
        ["openssl"] = { SLL = "SSL" },
        ["openssl.SSL"] = { VERIFY_PEERS = "VERIFY_PEER", TLS1_2_VERSIO = "TLS1_2_VERSION", SSLcontext = "SSLContext" },
        ["openssl.SSL.SSLContext"] = { DEFAULT_PARAM = "DEFAULT_PARAMS", nwe = "new" },
        ["openssl.X509"] = { V_FLAG_CRL_CHEK = "V_FLAG_CRL_CHECK", Stor = "Store" },
        ["openssl.X509.Certificate"] = { loadfile = "load_file" },
        ["openssl.PKey"] = { loadfile = "load_file" },
        ["openssl.PKey.EC"] = { genrate = "generate" },
    } do
        it("know no other names: " .. path, function()
            local where = fix.openssl
            for part in path:gmatch("%.(%w+)") do
                where = where[part]
            end
            for name, right in pairs(wrong) do
                raises("NoMethodError", ("%s.%s: no such name (did you mean %s?)"):format(path, name, right),
                    function() return where[name] end)
                assert.is_not_nil(where[right])
                assert.is_nil(rawget(where, name))
            end
            raises("NoMethodError", path .. ".xyzzy: no such name", function() return where.xyzzy end)
            raises("NoMethodError", "a name is wanted", function() return where[1] end)
        end)
    end

    it("keep what a script puts there", function()
        fix.SSL.mine = 1
        assert.equal(1, fix.SSL.mine)
        fix.SSL.mine = nil
    end)
end)

describe("an error value", function()
    local function error_of(fn)
        local ok, err = pcall(fn)
        assert.is_false(ok)
        return err
    end

    it("has class, message and OpenSSL's queue, and a position", function()
        local err = error_of(function()
            SSLContext.new().ciphers = "nonsense"
        end)
        assert.equal("SSLError", err.class)
        assert.equal("SSL_CTX_set_cipher_list: no cipher match", err.message)
        assert.equal(1, #err.errors)
        assert.truthy(err.errors[1]:match("^error:0A0000B9:SSL routines:.*:no cipher match$"))
        local position, text = tostring(err):match("^(.-): (SSLError: .*)$")
        assert.truthy(position:match("class_spec%.lua:%d+$"))
        assert.equal("SSLError: SSL_CTX_set_cipher_list: no cipher match", text)
    end)

    it("names the line of the script also from within a pcall of the function itself", function()
        local ok, err = pcall(SSLContext.new, "TLSv9")
        assert.is_false(ok)
        assert.truthy(tostring(err):match("class_spec%.lua:%d+: ArgumentError: "))
    end)

    it("has no class in its text when the system refused", function()
        local err = error_of(function() SSLContext.new():load_certificate("/nonexistent/rsa.pem") end)
        assert.equal("SystemCallError", err.class)
        assert.truthy(tostring(err):match(
            "class_spec%.lua:%d+: load_certificate: /nonexistent/rsa%.pem: No such file or directory$"))
    end)

    it("survives being changed", function()
        local err = error_of(function() SSLContext.new("x") end)
        err.class, err.message, err.where = 1, nil, {}
        assert.equal("string", type(tostring(err)))
    end)
end)
