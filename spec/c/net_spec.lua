-- Listening sockets: shared, not yet listening, out of descriptors, on their way out.

local bench = require "bench"
local engine = require "engine"
local process = require "process"
local host = require "mgtest".engine

local STOP, CONT = 19, 18

teardown(engine.cleanup)

local function asks(client)
    client:send("hello\n")
    client:settimeout(10)
    return client:receive("*l")
end

describe("a listening socket", function()
    it("is shared by several processes; each connection has one of them", function()
        local port = bench.port()
        local fd, shared, workers = host.listen("127.0.0.1:" .. port), host.shared(), {}
        for i = 1, 3 do
            workers[i] = engine.start { fd = fd, shared = shared, worker = i, port = port, backend = { kind = "echo" } }
        end
        local seen = {}
        for _ = 1, 60 do
            local client = bench.connect(port)
            assert.equal("hello", asks(client))
            client:close()
        end
        for _, worker in ipairs(workers) do
            worker:wait_idle()
            for _, record in ipairs(worker:records()) do
                assert.is_nil(seen[record.id])
                seen[record.id] = true
            end
            worker:stop()
        end
        assert.equal(60, #seen)
        host.close(fd)
    end)

    it("may begin to listen later", function()
        local port = bench.port()
        local web = engine.start { fd = host.listen("127.0.0.1:" .. port, -1), port = port,
            backend = { kind = "echo" } }
        local before = bench.read(("/proc/%d/stat"):format(web.pid))
        bench.sleep(0.2)
        local function ticks(stat)
            return tonumber(stat:match("^%d+ %(.*%) %a" .. (" %-?%d+"):rep(10) .. " (%d+)"))
        end
        assert.is_true(ticks(bench.read(("/proc/%d/stat"):format(web.pid))) - ticks(before) < 10) -- no busy loop
        assert.is_nil((bench.connect(port)))
        web:ask("listen")
        assert.equal("hello", asks(assert(bench.connect(port))))
        web:stop()
    end)

    it("gives those that wait in its queue to its last owner", function()
        local web = engine.start { backend = { kind = "echo" } }
        host.close(web.options.fd) -- ours: the engine's is the only one now
        process.kill(web.pid, STOP)
        local clients = {}
        for i = 1, 40 do
            clients[i] = assert(bench.connect(web.port))
        end
        process.kill(web.pid, CONT)
        assert.matches("^draining", web:ask("drain"))
        for _, client in ipairs(clients) do
            assert.equal("hello", asks(client))
            client:close()
        end
        assert.is_nil((bench.connect(web.port)))
        web:wait_idle()
        web:stop()
    end)

    it("is left alone while there is no descriptor, and picked up again", function()
        local web = engine.start { backend = { kind = "echo" }, nofile = 40 }
        local clients = {}
        for i = 1, 60 do
            clients[i] = assert(bench.connect(web.port))
        end
        bench.wait("the complaint", function()
            return bench.read(web.options.log):find("Too many open files", 1, true)
        end)
        assert.equal("hello", asks(clients[1]))
        for i = 1, 40 do
            clients[i]:close()
        end
        for i = 41, 60 do
            assert.equal("hello", asks(clients[i]))
            clients[i]:close()
        end
        web:wait_idle()
        local _, complaints = bench.read(web.options.log):gsub("Too many open files", "")
        assert.is_true(complaints < 10, complaints)
        web:stop()
    end)
end)
