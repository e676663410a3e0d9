--- annotations: reads the LuaCATS annotations below lua/moongate/meta as data, for the reference page and for the spec
--- that compares them with what there is.
---
---     modules = annotations.read()   a list, in order, of
---       { file =, name = "moongate.openssl", items = { class … } }
---     class  { kind = "class", name =, parent =, doc =, line =, fields = {…}, functions = {…} }
---     alias  { kind = "alias", name =, type =, doc =, line = }
---     field     { name =, optional =, type =, doc =, line = }
---     function  { name =, separator = "." or ":", owner = variable, doc =, params = {…}, returns = {…}, line = }

local annotations = { files = { "moongate", "openssl", "rules", "testing" } }

local CLOSING = { ["("] = ")", ["{"] = "}", ["["] = "]", ["<"] = ">" }

-- Where the bracket or quote that opens at `at` ends.
local function closed(text, at)
    local open = text:sub(at, at)
    if open == '"' or open == "`" then
        return assert(text:find(open, at + 1, true), text)
    end
    local i = at + 1
    while text:sub(i, i) ~= CLOSING[open] do
        local c = text:sub(i, i)
        assert(c ~= "", "unbalanced: " .. text)
        i = (CLOSING[c] or c == '"') and closed(text, i) + 1 or i + 1
    end
    return i
end

--- Splits "type doc" where the type ends: at a space outside of brackets, unless a union or a function's results go on.
function annotations.split_type(text)
    local i = 1
    while i <= #text do
        local c = text:sub(i, i)
        if CLOSING[c] or c == '"' then
            i = closed(text, i) + 1
        elseif c == " " then
            local before = text:sub(1, i - 1)
            local results = before:match("^fun%b()[:,]") or before:match("|fun%b()[:,]")
            if not (before:match("|$") or text:match("^ |", i) or (results and before:match("[:,]$"))) then
                return before, text:sub(i + 1)
            end
            i = i + 1
        else
            i = i + 1
        end
    end
    return text, ""
end

local function typed(line, number)
    local name, optional, rest = line:match("^([%w_]+)(%??) (.*)$")
    if not name then
        name, rest = line:match("^(%b[]) (.*)$")
    end
    if not name then
        name, rest = line:match("^(%.%.%.) (.*)$")
    end
    local type, doc = annotations.split_type(rest)
    return { name = name, optional = optional == "?", type = type, doc = doc, line = number }
end

local function new_pending()
    return { doc = {}, params = {}, returns = {} }
end

local function read_file(short)
    local module = { file = "lua/moongate/meta/" .. short .. ".lua", items = {} }
    local pending, current, variables, number = new_pending(), nil, {}, 0
    local function add(item)
        item.doc, item.line = table.concat(pending.doc, " "), number
        module.items[#module.items + 1] = item
        pending = new_pending()
        return item
    end
    for line in io.lines(module.file) do
        number = number + 1
        local tag, rest = line:match("^%-%-%-@(%w+) ?(.*)$")
        local owner, separator, method = line:match("^function ([%w_]+)([.:])([%w_]+)%(")
        if tag == "meta" then
            module.name = rest
        elseif tag == "class" then
            local name, parent = rest:match("^([%w_.]+):? ?([%w_.]*)$")
            current = add { kind = "class", name = name, parent = parent ~= "" and parent or nil, fields = {},
                functions = {} }
        elseif tag == "alias" then
            local name, definition = rest:match("^(%S+) (.*)$")
            local type, doc = annotations.split_type(definition)
            pending.doc[#pending.doc + 1] = doc ~= "" and doc or nil
            add { kind = "alias", name = name, type = type }
        elseif tag == "field" then
            current.fields[#current.fields + 1] = typed(rest, number)
        elseif tag == "param" then
            pending.params[#pending.params + 1] = typed(rest, number)
        elseif tag == "return" then
            local type, doc = annotations.split_type(rest)
            pending.returns[#pending.returns + 1] = { type = type, doc = doc }
        elseif owner then
            local class = assert(variables[owner], ("%s:%d: %s is no class"):format(module.file, number, owner))
            class.functions[#class.functions + 1] = { name = method, separator = separator, owner = owner,
                doc = table.concat(pending.doc, " "), params = pending.params, returns = pending.returns,
                arguments = line:match("%((.-)%)"), line = number }
            pending = new_pending()
        elseif line:match("^local [%w_]+ = {}") then
            variables[line:match("^local ([%w_]+)")] = current
        elseif line:match("^%-%-%- ?") then
            pending.doc[#pending.doc + 1] = line:match("^%-%-%- ?(.*)$")
        elseif line == "" then
            pending = new_pending()
        end
    end
    return module
end

function annotations.read()
    local modules = {}
    for i, short in ipairs(annotations.files) do
        modules[i] = read_file(short)
    end
    return modules
end

--- class name → { name → "field", "function" (with a dot) or "method" }, aliases → false.
function annotations.names(modules)
    local names = {}
    for _, module in ipairs(modules) do
        for _, item in ipairs(module.items) do
            local set = {}
            for _, field in ipairs(item.fields or {}) do
                set[field.name] = "field"
            end
            for _, fn in ipairs(item.functions or {}) do
                set[fn.name] = fn.separator == ":" and "method" or "function"
            end
            names[item.name] = item.kind == "class" and set
        end
    end
    return names
end

local function is_value(text)
    return tonumber(text) or text == "true" or text == "false" or text:match('^"[^"]*"$')
        or text:match("^[A-Z][A-Z0-9_]+$")
end

--- What a field's text says of its default, and the text without it: the last brackets around a value, or what follows
--- "default:". The third result tells which.
function annotations.default(doc)
    local before, words, after = doc:match("^(.-);? ?default: ([^;]+);? ?(.*)$")
    if words then
        return words, before .. (before ~= "" and after ~= "" and "; " or "") .. after, "words"
    end
    local value, rest
    for at, inside, next_at in doc:gmatch("()%(([^()]*)%)()") do
        if is_value(inside) then
            value, rest = inside, doc:sub(1, at - 1):gsub(" $", "") .. doc:sub(next_at)
        end
    end
    return value, rest or doc, "value"
end

return annotations
