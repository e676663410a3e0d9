--- What editors and the reference page are told is what there is: no name too many, none too few. (The classes of
--- moongate.openssl one by one: openssl/annotations_spec.lua.)

package.path = ".ci/?.lua;spec/unit/support/?.lua;lua/?.lua;" .. package.path
local annotations = require "annotations"
local fix = require "fixtures"
local testing = require "moongate.testing"

local modules = annotations.read()
local names = annotations.names(modules)

local function sorted(set)
    local list = {}
    for name, kind in pairs(set) do
        list[#list + 1] = name .. " (" .. kind .. ")"
    end
    table.sort(list)
    return list
end

local function same(expected, class)
    assert.is_table(names[class], class .. " is not annotated")
    assert.same(sorted(expected), sorted(names[class]))
end

local function of_table(t, ignored)
    local set = {}
    for name, value in pairs(t) do
        if name ~= ignored then
            set[name] = type(value) == "function" and "function" or "field"
        end
    end
    return set
end

-- The names of a class, from its metatable in the registry.
local function of_metatable(metatable)
    local set = {}
    local _, known = debug.getupvalue(metatable.__index, 2)
    for name, kind in pairs(known) do
        set[name] = type(kind) == "function" and "method" or "field"
    end
    return set
end

-- The script's own view of moongate, out of a script.
local moongate = testing.load("moongate.lua", { files = { ["moongate.lua"] = [[
    local moongate = require "moongate"
    moongate.listen { name = "web", address = "127.0.0.1:1", backend = function() return moongate end }
]] } }).listeners.web.backend()

describe("the annotations of", function()
    it("moongate are complete and true", function() same(of_table(moongate), "moongate") end)

    for _, class in ipairs { "Listener", "Backend", "Conn", "Hello", "ServerNames", "Passthrough" } do
        it("moongate." .. class .. " are complete and true", function()
            same(of_metatable(debug.getregistry()["moongate." .. class]), "moongate." .. class)
        end)
    end

    it("moongate.rules are complete and true", function()
        same(of_table(require "moongate.rules"), "moongate.rules")
    end)

    it("moongate.testing are complete and true", function()
        same(of_table(testing), "moongate.testing")
        local clients = of_table(testing.clients)
        for name in pairs(clients) do
            clients[name] = "field" -- a function that is a value to choose from
        end
        same(clients, "moongate.testing.Clients")
    end)

    it("what moongate.testing makes are complete and true", function()
        local ca = testing.ca()
        local leaf = of_table(testing.certificate { ca = ca })
        same(leaf, "moongate.testing.Certificate")
        local of_ca = of_table(ca, "store")
        of_ca.ca = "field" -- of an intermediate one
        assert.same(sorted(leaf), sorted(of_ca))
        same({ store = "method" }, "moongate.testing.CA")
        same(of_table(testing.load("x", { files = { x = [[
            require("moongate").listen { address = "127.0.0.1:1", backend = "a:1" }]] } })), "moongate.testing.Policy")
    end)

    for class, call in pairs { CAOptions = testing.ca, CertificateOptions = testing.certificate,
        LoadOptions = function(options) testing.load("x", options) end } do
        it("moongate.testing." .. class .. " are the options that are taken", function()
            local _, err = pcall(call, { [""] = 1 })
            local taken = {}
            for name in err:match("%(there are (.-)%)"):gmatch("%w+") do
                taken[name] = "field"
            end
            same(taken, "moongate.testing." .. class)
        end)
    end
end)

-- ---- option tables -------------------------------------------------------------------------------

-- The rows of a table of struct mg_option in a C file: name → its default ("" = none). What is for later is left out.
local function options(file, table_name)
    local text = assert(io.open(file)):read("a")
    local rows = text:match("struct mg_option " .. table_name .. "%[%] = (%b{})")
    local constants, list = {}, {}
    for name, value in text:gmatch('#define (%u[%u_]+)%s+"([^"]*)"') do
        constants[name] = value
    end
    for row in rows:sub(2, -2):gmatch("%b{}") do
        local name = row:match('%.name = "([%w_]+)"') or constants[row:match("%.name = (%u[%u_]+)")]
        if name and name ~= "NULL" and not row:find("mg_option_later", 1, true) then
            list[name] = row:match('%.fallback = "([^"]*)"') or ""
        end
    end
    assert(next(list), file .. ": no rows")
    return list, text
end

local function annotated_fields(class)
    for _, module in ipairs(modules) do
        for _, item in ipairs(module.items) do
            if item.name == class then
                return item.fields
            end
        end
    end
end

local function compare(class, list)
    local expected = {}
    for name in pairs(list) do
        expected[name] = "field"
    end
    same(expected, class)
    for _, field in ipairs(annotated_fields(class)) do
        local default = list[field.name]
        if default ~= "" then
            assert.equal(default, ((annotations.default(field.doc) or ""):gsub('"', "")), field.name)
        end
    end
end

describe("the annotated options of", function()
    it("listen are those of C, with their defaults", function()
        compare("moongate.ListenOptions", (options("src/script/listen.c", "options")))
    end)

    it("backend are those of C, with their defaults", function()
        compare("moongate.BackendOptions", (options("src/script/backend.c", "options")))
        compare("moongate.BackendAddress", (options("src/script/backend.c", "entry_options")))
        compare("moongate.Health", (options("src/script/backend.c", "health_options")))
    end)

    it("settings are those of C, with their defaults", function()
        local list, text = options("src/script/settings.c", "options")
        for name, default in text:match("mg_settings%[%] = (%b{})"):gmatch('{"?([%w_]+)"?, "([^"]*)"}') do
            name = name:lower()
            assert.is_string(list[name], name)
            list[name] = default
        end
        compare("moongate.Settings", list)
    end)
end)

-- ---- openssl as a whole --------------------------------------------------------------------------

describe("every class in C", function()
    for key, metatable in pairs(debug.getregistry()) do
        local name = type(key) == "string" and key:match("^moongate%.") and rawget(metatable, "__name")
        local ours = name and rawget(metatable, "__metatable") == name -- made by the dispatcher
        if ours and name ~= "FILE*" then -- what io.open gives in a script is as in the Lua manual
            it(name .. " is annotated", function()
                assert.is_table(names["moongate." .. name] or names["moongate.openssl." .. name], name)
            end)
        end
    end
end)

describe("every function and table of", function()
    local where = { openssl = fix.openssl, SSL = fix.SSL, X509 = fix.X509, PKey = fix.PKey }
    local classes = { openssl = "moongate.openssl", SSL = "moongate.openssl.SSL", X509 = "moongate.openssl.X509",
        PKey = "moongate.openssl.PKeyModule" }
    for module, t in pairs(where) do
        it(module .. " is annotated, and the reverse", function()
            local annotated = names[classes[module]]
            for name, value in pairs(t) do
                if type(value) == "function" or type(value) == "table" then
                    assert.is_string(annotated[name], name)
                end
            end
            for name in pairs(annotated) do
                assert.is_true(name == "[string]" or t[name] ~= nil, name)
            end
        end)
    end
end)

-- ---- what the annotations say --------------------------------------------------------------------

describe("the annotations", function()
    it("name only types that they declare", function()
        local function check(type, place)
            for name in type:gmatch("moongate[%w_.]*") do
                assert.is_true(names[name] ~= nil, ("%s: there is no type %s"):format(place, name))
            end
        end
        for _, module in ipairs(modules) do
            for _, item in ipairs(module.items) do
                check(item.type or item.parent or "", item.name)
                for _, field in ipairs(item.fields or {}) do
                    check(field.type, item.name .. "." .. field.name)
                end
                for _, fn in ipairs(item.functions or {}) do
                    for _, part in ipairs(fn.params) do
                        check(part.type, item.name .. "." .. fn.name)
                    end
                    for _, part in ipairs(fn.returns) do
                        check(part.type, item.name .. "." .. fn.name)
                    end
                end
            end
        end
    end)

    it("describe each argument of each function, in order", function()
        for _, module in ipairs(modules) do
            for _, item in ipairs(module.items) do
                for _, fn in ipairs(item.functions or {}) do
                    local described = {}
                    for i, param in ipairs(fn.params) do
                        described[i] = param.name
                    end
                    local place = ("%s:%d"):format(module.file, fn.line)
                    assert.equal(fn.arguments, table.concat(described, ", "), place)
                end
            end
        end
    end)

    it("are Lua that can be loaded", function()
        for _, module in ipairs(modules) do
            assert.is_function(assert(loadfile(module.file)))
        end
    end)
end)

describe("annotations.split_type", function()
    for text, expected in pairs {
        ["string"] = { "string", "" },
        ['"a b"|string of it'] = { '"a b"|string', "of it" },
        ["fun(a: string, b?: { c: D }): X?, string? what"] = { "fun(a: string, b?: { c: D }): X?, string?", "what" },
        ["table<string, X[]> by name"] = { "table<string, X[]>", "by name" },
        ["string | integer either"] = { "string | integer", "either" },
        ["fun(x: Y) a notice"] = { "fun(x: Y)", "a notice" },
    } do
        it("understands " .. text, function() assert.same(expected, { annotations.split_type(text) }) end)
    end
end)
