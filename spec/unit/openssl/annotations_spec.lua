--- What editors are told of moongate.openssl is what there is: no name too many and none too few.

package.path = "spec/unit/support/?.lua;" .. package.path
local fix = require "fixtures"
local X509 = fix.X509

-- class -> name -> "field" or "method", as annotated
local function annotated()
    local classes, current, variables = {}, nil, {}
    for line in io.lines("lua/moongate/meta/openssl.lua") do
        local class = line:match("^%-%-%-@class moongate%.openssl%.(%w+)")
        local field = line:match("^%-%-%-@field ([%w_]+)%??%s")
        local variable = line:match("^local (%w+) = {}")
        local owner, separator, method = line:match("^function (%w+)([.:])([%w_]+)%(")
        if class then
            current = class
            classes[class] = {}
        elseif field and current then
            classes[current][field] = "field"
        elseif variable then
            variables[variable] = current
        elseif method and variables[owner] then
            classes[variables[owner]][method] = separator == ":" and "method" or "function"
        end
    end
    return classes
end

local function sorted(set)
    local list = {}
    for name, kind in pairs(set) do
        list[#list + 1] = name .. " (" .. kind .. ")"
    end
    table.sort(list)
    return list
end

-- The names of an object, from its metatable's look-up table.
local function of_object(object)
    local set = {}
    local _, known = debug.getupvalue(debug.getmetatable(object).__index, 2)
    for name, kind in pairs(known) do
        set[name] = type(kind) == "function" and "method" or "field"
    end
    return set
end

local function of_table(t)
    local set = {}
    for name, value in pairs(t) do
        set[name] = type(value) == "function" and "function" or "field"
    end
    return set
end

describe("the annotations of", function()
    local classes = annotated()
    local store_context
    local hs = fix.handshake(fix.server(), fix.client { verify_callback = function(ok, context)
        store_context = of_object(context)
        return ok
    end })

    local session = hs.client.session

    for class, names in pairs {
        SSLContext = of_object(fix.SSLContext.new()),
        SessionClass = of_table(fix.SSL.Session),
        Session = of_object(session),
        Connection = of_object(hs.client),
        Certificate = of_object(fix.cert "ca"),
        Name = of_object(fix.cert("ca").subject),
        Extension = of_object(fix.cert("ca").extensions[1]),
        ExtensionFactory = of_object(X509.ExtensionFactory.new()),
        Store = of_object(X509.Store.new()),
        StoreContext = store_context,
        PKey = of_object(fix.key "ec"),
        CertificateClass = of_table(X509.Certificate),
        NameClass = of_table(X509.Name),
        ExtensionClass = of_table(X509.Extension),
        ExtensionFactoryClass = of_table(X509.ExtensionFactory),
        StoreClass = of_table(X509.Store),
        CRL = of_object(X509.CRL.new()),
        CRLClass = of_table(X509.CRL),
        Revoked = of_object(X509.Revoked.new()),
        RevokedClass = of_table(X509.Revoked),
        PKeyModule = of_table(fix.PKey),
        RSAClass = of_table(fix.PKey.RSA),
        ECClass = of_table(fix.PKey.EC),
        DHClass = of_table(fix.PKey.DH),
    } do
        it(class .. " are complete and true", function() assert.same(sorted(names), sorted(classes[class])) end)
    end

    it("SSLContextClass are complete and true", function()
        local names = of_table(fix.SSLContext)
        names.DEFAULT_CERT_STORE = "field" -- there from its first use on
        assert.same(sorted(names), sorted(classes.SSLContextClass))
    end)
end)
