-- An address that a backend lists more than once is one server, of the weights together.

local backends = require "backends"
local bench = require "bench"
local process = require "process"
local proxy = require "proxy"

teardown(proxy.cleanup)

describe("an address that is listed twice", function()
    local web, front, servers, addresses

    setup(function()
        servers, addresses = backends.echo_servers(2)
        front = bench.port()
        web = proxy.start { workers = 2, port = front, a = servers[1].port, b = servers[2].port, script = [[
moongate.listen { name = "web", address = "127.0.0.1:$port", backend = moongate.backend { name = "web",
    balance = "round_robin", health = { interval = 0.05, timeout = 5 },
    address = { "127.0.0.1:$a", { address = "127.0.0.1:$b", backup = true }, "127.0.0.1:$a",
        "127.0.0.1:$b" } } }
]] }
    end)

    it("is one, with the weights added, and a warning says so", function()
        local rows, count = backends.rows(web, "web")
        assert.equal(4, count) -- of each worker
        assert.equal(2, #rows[addresses[1]])
        local result = proxy.check { port = bench.port(), script = web.options.script, a = servers[1].port,
            b = servers[2].port }
        assert.equal(0, result.code, result.err)
        local text = result.out .. result.err
        assert.matches(("backend: address: \"%s\" is listed more than once: it is one server, of weight 2")
            :format(addresses[1]), text, 1, true)
        assert.matches(("\"%s\" is listed more than once: it is one server, of weight 1"):format(addresses[2]), text,
            1, true)
    end)

    it("gets its share of connections", function()
        for _ = 1, 12 do
            assert.equal("hello", backends.ask(front, "hello\n"))
        end
        local used = {}
        for _, record in ipairs(backends.records(web, "web", 12)) do
            used[record.backend_address] = (used[record.backend_address] or 0) + 1
        end
        assert.same({ [addresses[1]] = 8, [addresses[2]] = 4 }, used)
    end)
end)

describe("entries that are one server", function()
    it("are those that differ in spelling only", function()
        local result = proxy.check { port = bench.port(), script = [[
local b = moongate.backend { name = "web", address = { "Localhost:80", { address = "localhost:80", weight = 65000 },
    "[::1]:80", { address = "[0:0:0:0:0:0:0:1]:80", weight = 3 }, "unix:/run/x", "unix:/run/y", "localhost:81" } }
local texts = {}
for i, entry in ipairs(b.address) do
    texts[i] = type(entry) == "table" and entry.address .. "*" .. entry.weight or entry
end
assert(table.concat(texts, " ") == "Localhost:80*65001 [::1]:80*4 unix:/run/x unix:/run/y localhost:81",
    table.concat(texts, " "))
moongate.backend { name = "again", address = b.address }
moongate.listen { address = "127.0.0.1:$port", backend = b }
]] }
        assert.equal(0, result.code, result.err)
    end)

    local other
    for _, interface in ipairs(process.list "/sys/class/net" or {}) do
        other = interface ~= "lo" and interface or other
    end
    if other then
        it("are not those on different networks", function()
            local result = proxy.check { port = bench.port(), other = other, script = [[
moongate.listen { address = "127.0.0.1:$port", backend = moongate.backend { name = "web",
    address = { "[fe80::1%lo]:80", "[fe80::1%$other]:80" } } }
]] }
            assert.equal(0, result.code, result.err)
            assert.not_matches("more than once", result.out .. result.err, 1, true)
        end)
    end
end)
