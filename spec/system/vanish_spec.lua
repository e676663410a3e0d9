-- Clients that are gone in the middle of their first message leave nothing behind.

local bench = require "bench"
local certs = require "certs"
local proxy = require "proxy"

local COUNT = bench.slow and 100 or 1000
local ROUNDS = 6
-- KiB: what a worker makes once, and less than 100 bytes of each of the connections below.
local GROWTH = 2048

describe("vanishing clients", function()
    local web, port

    setup(function()
        port = bench.port()
        web = proxy.start { workers = 1, port = port,
            script = [[moongate.listen { name = "web", address = "127.0.0.1:$port", tls = server(),
                backend = moongate.echo() }]] }
    end)
    teardown(proxy.cleanup)

    local function vanish(sizes)
        local peer = bench.peer("peer", "vanish", { connect = "127.0.0.1:" .. port, count = COUNT, sizes = sizes,
            servername = "localhost" })
        return peer:finish()
    end

    it("cost neither descriptor nor memory", function()
        local worker = web:wait_workers(1)[1]
        local before = bench.memory(worker)
        local descriptors
        for round = 1, ROUNDS do
            assert.equal(4 * COUNT, vanish("0,1,5,100").connected)
            web:records(round * 4 * COUNT)
            bench.wait("all connections to be closed", function() return web:open_connections() == 0 end)
            descriptors = descriptors or bench.descriptors(worker) -- of one who has worked before
            if descriptors then
                bench.wait("the descriptors of before", function()
                    return bench.descriptors(worker) <= descriptors
                end)
            end
        end
        -- How much the heap keeps in between depends on how many happened to be there at once.
        if not bench.sanitized then
            bench.wait("the memory of the storm to be given back", function()
                return bench.memory(worker) < before + GROWTH
            end)
        end
        assert.equal(worker, web:workers()[1])
    end)

    it("have a record each, with a reason of their side", function()
        for _, record in ipairs(web:records()) do
            assert.matches("^down: ", record.reason)
        end
    end)

    it("do not keep the next one from being served", function()
        local result = bench.exchange({ connect = "127.0.0.1:" .. port, tls = true, cafile = certs.ca.crt,
            servername = "localhost", bytes = 1000 }):finish()
        assert.equal(1000, result.got)
        assert.equal(result.sent_sha256, result.got_sha256)
    end)
end)
