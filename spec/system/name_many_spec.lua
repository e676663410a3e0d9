-- A name with more records than are used: which ones are, and that the log says so.

local backends = require "backends"
local bench = require "bench"
local cjson = require "cjson"
local dns = require "dns"
local proxy = require "proxy"

local impossible = dns.impossible()

teardown(proxy.cleanup)

describe("a name with more records than are used", function()
    if impossible then
        pending("is told of: " .. impossible)
        return
    end
    local server, web
    local names = { ["many.test"] = {} }

    local function used()
        local set, count = {}, 0
        for address in pairs(backends.rows(web, "many")) do
            set[address:match("^[%d.]+")] = true
            count = count + 1
        end
        return set, count
    end

    local function told()
        local list = {}
        for line in web:log_text():gmatch("[^\n]+") do
            local record = cjson.decode(line)
            local text = record.message or record.msg
            if text:find("of which", 1, true) then
                list[#list + 1] = record.level .. " " .. text
            end
        end
        return list
    end

    local function line(count)
        return ("warn backend many: many.test has %d addresses, of which 32 are used: the others get no connections")
            :format(count)
    end

    local function wait_records(count)
        bench.wait(count .. " records", function()
            for _, worker in ipairs(web:status().workers) do
                local name = worker.engine and worker.engine.names[1]
                if not name or name.records ~= count then
                    return false
                end
            end
            return true
        end)
    end

    setup(function()
        for i = 1, 40 do
            table.insert(names["many.test"], "127.0.9." .. i)
        end
        server = dns.start(names)
        web = proxy.start { workers = 2, prefix = server:world(), port = bench.port(), script = [[
moongate.listen { name = "web", address = "127.0.0.1:$port", backend = moongate.backend { name = "many",
    address = "many.test:80", resolve_interval = 1 } }
]] }
        wait_records(40)
    end)

    it("is said once, with how many there are and how many are used", function()
        local _, count = used()
        assert.equal(32, count)
        web:wait_log((line(40):gsub("^warn ", "")))
        web:reload()
        local asked = server:queries("many.test")
        bench.wait("further look-ups", function() return server:queries("many.test") >= asked + 4 end)
        assert.same({ line(40) }, told())
    end)

    it("and those that are used stay, as long as the answer has them", function()
        local before = used()
        local list = { "127.0.8.1", "127.0.8.2", "127.0.8.3", table.unpack(names["many.test"]) }
        names["many.test"] = list
        server:set(names)
        wait_records(43)
        assert.same(before, (used()))
        web:wait_log((line(43):gsub("^warn ", "")))
        assert.same({ line(40), line(43) }, told())
        local gone
        for i, address in ipairs(list) do -- one of those that are used
            if not gone and before[address] then
                gone = table.remove(list, i)
            end
        end
        server:set(names)
        wait_records(42)
        local after, count = used()
        assert.equal(32, count)
        before[gone], before["127.0.8.1"] = nil, true
        assert.same(before, after)
    end)

    it("and that cannot be resolved any more is stale in the status' text", function()
        server:set {}
        bench.wait("it to say so", function()
            return web:command("status").out:find("\nmany +many%.test:80 +stale +%- +%l[^\n]+\n")
        end)
    end)

    it("and nothing is said where there are no more than are used", function()
        names["many.test"] = { "127.0.9.1", "127.0.9.2" }
        server:set(names)
        wait_records(2)
        local said = #told()
        names["many.test"] = { "127.0.9.1" }
        server:set(names)
        wait_records(1)
        assert.equal(said, #told())
    end)
end)
