-- Logs whose reader has stopped: records are lost, and counted; nothing waits.

local bench = require "bench"
local engine = require "engine"

teardown(engine.cleanup)

-- A FIFO that is open and that nobody reads, yet.
local function fifo(name)
    local path = bench.path(name)
    bench.must { "mkfifo", path }
    return path, io.open(path, "r+")
end

local function connections(web, count)
    for _ = 1, count do
        local client = assert(bench.connect(web.port))
        client:send("x\n")
        assert.equal("x", client:receive("*l"))
        client:close()
    end
    web:wait_idle()
end

local function count(text, pattern)
    return select(2, text:gsub(pattern, ""))
end

describe("an access log that nobody reads", function()
    it("costs records, and no more", function()
        local path, kept = fifo("access.fifo")
        local web = engine.start { backend = { kind = "echo" }, access_log = path }
        connections(web, 500)
        local log = bench.read(web.options.log)
        assert.equal(1, count(log, "access log: its reader does not keep up; records are lost"))

        local reader = bench.start { "cat", path }
        local made = 500
        bench.wait("it to go on", function()
            connections(web, 1)
            made = made + 1
            return bench.read(web.options.log):find("access log: goes on", 1, true)
        end)
        local lost = tonumber(bench.read(web.options.log):match("goes on; (%d+) records were lost"))
        assert.is_true(lost > 100, lost)
        assert.is_true(made - lost > 50)
        connections(web, 20)
        bench.wait("all other records", function() return count(reader:output(), "\n") == made + 20 - lost end)
        for line in reader:output():gmatch("[^\n]+") do
            assert.matches("^{.*}$", line)
        end
        reader:stop()
        kept:close()
        web:stop()
    end)
end)
