-- Much, in every mode: nothing is lost or changed, and the worker's memory does not depend on how much.

local bench = require "bench"
local modes = require "modes"
local proxy = require "proxy"

local MIB = 1024 * 1024
local SIZE = (tonumber(os.getenv("MOONGATE_TRANSFER_MIB")) or (bench.slow and 16 or 128)) * MIB
local LIMIT = 240 -- seconds
local GROWTH = 8 * 1024 -- KiB

-- Where the process watches its own memory, its size says nothing about ours.
local measures_memory = not bench.sanitized

describe("transfer", function()
    local web, worker

    -- One connection; returns the results of the two peers and how far the worker's memory rose, in KiB.
    local function carry(mode, down, up)
        down.timeout, up.timeout = LIMIT * 1000, LIMIT * 1000
        local before, peak = bench.memory(worker), 0
        local client, server = modes.connect(mode, down, up)
        while client:alive() do
            peak = math.max(peak, bench.memory(worker))
            bench.sleep(0.02)
        end
        return client:finish(LIMIT), server:finish(), peak - before
    end

    setup(function()
        web = modes.start { workers = 1 }
        worker = web:wait_workers(1)[1]
        -- The first bytes make the worker's buffers, once; what is measured comes after.
        for _, mode in ipairs(modes) do
            carry(mode, { bytes = MIB }, { bytes = MIB, seed = 2 })
        end
    end)

    teardown(proxy.cleanup)

    local function assert_same(client, server, sent, got)
        assert.equal(sent, client.sent)
        assert.equal(sent, server.got)
        assert.equal(client.sent_sha256, server.got_sha256)
        assert.equal(got, server.sent)
        assert.equal(got, client.got)
        assert.equal(server.sent_sha256, client.got_sha256)
        assert.matches("fin$", client["end"])
        assert.matches("fin$", server["end"])
    end

    local function assert_flat(growth)
        if measures_memory then
            assert.is_true(growth < GROWTH, ("the worker grew by %d KiB"):format(growth))
        end
    end

    for _, mode in ipairs(modes) do
        it(mode.name .. ": up", function()
            local client, server, growth = carry(mode, { bytes = SIZE, seed = 3 }, { finish_when = "eof" })
            assert_same(client, server, SIZE, 0)
            assert_flat(growth)
        end)

        it(mode.name .. ": down", function()
            local client, server, growth = carry(mode, { finish_when = "eof" }, { bytes = SIZE, seed = 4 })
            assert_same(client, server, 0, SIZE)
            assert_flat(growth)
        end)

        it(mode.name .. ": both at once", function()
            local client, server, growth = carry(mode, { bytes = SIZE, seed = 5 }, { bytes = SIZE, seed = 6 })
            assert_same(client, server, SIZE, SIZE)
            assert_flat(growth)
        end)

        it(mode.name .. ": to a slow reader", function()
            local size = 4 * MIB
            local client, server, growth = carry(mode, { finish_when = "eof", recv_rate = MIB },
                { bytes = size, seed = 7 })
            assert_same(client, server, 0, size)
            assert.is_true(client.ms >= 3500, "took only " .. client.ms .. " ms")
            assert_flat(growth)
        end)
    end

    it("records what went each way", function()
        local record = web:records()[1]
        assert.equal(MIB, record.bytes_up)
        assert.equal(MIB, record.bytes_down)
    end)
end)
