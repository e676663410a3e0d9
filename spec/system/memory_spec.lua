-- A process that may not have more memory: who comes waits, and who is connected is not cut off.

local bench = require "bench"
local certs = require "certs"
local proxy = require "proxy"

local MIB = 1024 * 1024

teardown(proxy.cleanup)

-- A worker's address space, which shared tables are most of; a sanitizer's is without bounds.
local function space(pid)
    return tonumber(bench.read("/proc/" .. pid .. "/status"):match("VmSize:%s+(%d+)")) * 1024
end

local function complaints(web)
    local _, count = web:log_text():gsub("Cannot allocate memory: accepting pauses", "")
    return count
end

if not bench.sanitized then
    describe("a worker with a limit of its address space", function()
        it("pauses accepting, says so once, keeps those it has, and goes on when there is room", function()
            local port = bench.port()
            local web = proxy.start { workers = 1, port = port, echo = bench.echo_server().port, script = [[
                moongate.listen { name = "web", address = "127.0.0.1:$port", tls = server(),
                    backend = "127.0.0.1:$echo" }]] }
            local worker = web:wait_workers(1)[1]
            local function clients(count, pause)
                return bench.echo_load { connect = "127.0.0.1:" .. port, tls = true, servername = "localhost",
                    cafile = certs.ca.crt, hold = count, pause = pause, message = 20000, stuck = 60000 }
            end
            local first = clients(5, 20)
            bench.wait("the first ones", function() return first:result().holding == 5 end)
            bench.must { "prlimit", "--pid", tostring(worker), ("--as=%d"):format(space(worker) + 24 * MIB) }
            local crowd = clients(600, 600000)
            bench.wait("accepting to pause", function() return complaints(web) == 1 end)
            crowd:stop()
            local later = clients(1, 20)
            bench.wait("one that comes later", function() return later:result().holding == 1 end, 60)
            assert.equal(0, later:finish().failed)
            assert.equal(0, first:finish().failed)
            assert.equal(worker, web:workers()[1])
            assert.is_true(complaints(web) <= 2) -- a second time where the crowd's end took its time
            web:stop()
        end)
    end)
end
