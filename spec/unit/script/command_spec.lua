-- What bounds a program that moongate.command runs.

local bench = require "bench"
local checks = require "checks"

describe("moongate.command", function()
    teardown(bench.cleanup)

    it("ends a program that lives on without its streams", function()
        local result = checks.run([[
            local _, text = pcall(moongate.command, { "sh", "-c", "echo $$ > pid; exec >&- 2>&-; exec sleep 600" })
            assert(text:match ": command: sh: not finished after 30 seconds$", text)
            assert(moongate.command { "sh", "-c", "echo done; exec >&- 2>&-; sleep 0.1" } == "done\n")
            moongate.listen { address = "127.0.0.1:1", backend = "127.0.0.1:2" }
        ]], { timeout = 50 })
        assert.equal(0, result.code, result.err)
        assert.is_false(bench.running(tonumber(bench.read(result.dir .. "/pid"))))
    end)
end)
