--- make reference: every public name is on the page, and the page stands alone.

package.path = ".ci/?.lua;" .. package.path
local annotations = require "annotations"

local function page(format)
    local pipe = assert(io.popen(".ci/reference " .. format))
    local text = pipe:read("a")
    assert(pipe:close())
    return text
end

local html, markdown = page "html", page "markdown"
local modules = annotations.read()

describe("the reference page", function()
    for _, module in ipairs(modules) do
        for _, item in ipairs(module.items) do
            it("has " .. item.name .. " with all its names", function()
                assert.truthy(html:find(('<section id="%s">'):format(item.name), 1, true))
                assert.truthy(markdown:find("\n### " .. item.name .. "\n", 1, true))
                for _, list in ipairs { item.fields or {}, item.functions or {} } do
                    for _, member in ipairs(list) do
                        local id = ('id="%s:%s"'):format(item.name, (member.name:gsub("[%[%]]", "")))
                        assert.truthy(html:find(id, 1, true), id)
                        assert.truthy(markdown:find(member.name, 1, true))
                    end
                end
            end)
        end
    end

    it("links only to what is on it", function()
        for target in html:gmatch('href="(.-)"') do
            assert.truthy(html:find('id="' .. target:sub(2) .. '"', 1, true), target)
        end
    end)

    it("needs nothing from elsewhere", function()
        assert.is_nil(html:find("<script", 1, true))
        assert.is_nil(html:find("http[s]?://"))
        assert.is_nil(html:find("src=", 1, true))
    end)

    it("is well formed", function()
        local open = {}
        local VOID = { meta = true }
        for slash, tag in html:gsub("<style>.-</style>", ""):gsub("<!.->", ""):gmatch("<(/?)([%w]+)[^>]*>") do
            if slash == "/" then
                assert.equal(tag, table.remove(open))
            elseif not VOID[tag] then
                open[#open + 1] = tag
            end
        end
        assert.same({}, open)
    end)

    it("gives each id once", function()
        local seen = {}
        for id in html:gmatch(' id="(.-)"') do
            assert.is_nil(seen[id], id)
            seen[id] = true
        end
    end)

    it("shows defaults and sources", function()
        local row = html:match('<tr id="moongate.ListenOptions:idle_timeout">(.-)</tr>')
        assert.truthy(row:find("<code>600</code>", 1, true), row)
        assert.truthy(html:find("src/script/listen.c", 1, true))
        assert.truthy(html:find("src/openssl/ssl_context.c", 1, true))
    end)
end)
