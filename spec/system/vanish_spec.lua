-- Clients that are gone in the middle of their first message leave nothing behind.

local bench = require "bench"
local certs = require "certs"
local proxy = require "proxy"

local COUNT = bench.slow and 100 or 1000

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
        local descriptors, peak, least = nil, 0, math.huge
        for round = 1, 6 do
            assert.equal(4 * COUNT, vanish("0,1,5,100").connected)
            web:records(round * 4 * COUNT)
            bench.wait("all connections to be closed", function() return web:open_connections() == 0 end)
            descriptors = descriptors or bench.descriptors(worker) -- of one who has worked before
            if descriptors then
                bench.wait("the descriptors of before", function()
                    return bench.descriptors(worker) <= descriptors
                end)
            end
            -- How much of the heap's free memory is resident changes from round to round; a leak only adds.
            if round <= 3 then
                peak = math.max(peak, bench.memory(worker))
            else
                least = math.min(least, bench.memory(worker))
            end
        end
        if not bench.sanitized then
            assert.is_true(least < peak + 512, ("the worker grew by %d KiB"):format(least - peak))
            bench.wait("the memory of the storm to be given back", function()
                return bench.memory(worker) < before + 4096
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
