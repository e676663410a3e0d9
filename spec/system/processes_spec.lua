-- The processes over a longer life: what reloads leave behind, how many workers there are, logs, and who is told.

local bench = require "bench"
local process = require "process"
local proxy = require "proxy"

local signals = proxy.signals
local RELOADS = bench.slow and 20 or 100

local ECHO = [[moongate.listen { name = "echo", address = "127.0.0.1:$port", backend = moongate.echo() }]]

-- 0 where they cannot be seen: workers are not dumpable, so only root may look.
local function descriptors(pid)
    return #(process.list("/proc/" .. pid .. "/fd") or {})
end

local function echoes(port)
    local client = bench.connect(port)
    if not client then
        return false
    end
    client:send("ping")
    local answer = client:receive(4)
    client:close()
    return answer == "ping"
end

local function states(web)
    local list = {}
    for i, worker in ipairs(web:status().workers) do
        list[i] = worker.state
    end
    return table.concat(list, " ")
end

local function wait_states(web, wanted)
    bench.wait(wanted, function() return states(web) == wanted end)
end

-- Descriptors of all processes once old generations and the loader are gone. What was closed last (a client of
-- the control socket, an echo) may still be counted, so a single reading is an upper bound.
local function settled(web)
    bench.wait("the loader to be gone", function() return #bench.children(web.pid) == #web:workers() end)
    bench.wait("one generation", function()
        local number = next(web:generations())
        return not next(web:generations(), number)
    end)
    local counts = { descriptors(web.pid) }
    for i, pid in ipairs(web:workers()) do
        counts[i + 1] = descriptors(pid)
    end
    return counts
end

local function wait_no_more_than(before, web)
    bench.wait("no more descriptors than the " .. table.concat(before, ", ") .. " of before", function()
        local now = settled(web)
        for i, count in ipairs(now) do
            if count > before[i] then
                return false
            end
        end
        return #now == #before
    end)
end

teardown(proxy.cleanup)

-- The nice values of a process's first thread and, in order, of those of the others that stand back for it.
local function priorities(pid)
    local first, others = nil, {}
    for _, thread in ipairs(process.list(("/proc/%d/task"):format(pid)) or {}) do
        -- One that has just ended is gone, or empty.
        local fields, nice = bench.read(("/proc/%d/task/%s/stat"):format(pid, thread)):match("%) (.*)"), nil
        if fields then
            nice = tonumber(fields:match("^" .. ("%S+ "):rep(16) .. "(%-?%d+)"))
        end
        if tonumber(thread) == pid then
            first = nice
        else
            others[#others + 1] = nice
        end
    end
    local behind = {}
    for _, nice in ipairs(others) do
        if nice > first then
            behind[#behind + 1] = nice
        end
    end
    return first, behind
end

describe("each process", function()
    it("is called moongate, whatever it was started as", function()
        local web = proxy.start { port = bench.port(), workers = 2, script = ECHO }
        for _, pid in ipairs { web.pid, table.unpack(web:workers()) } do
            assert.equal("moongate\n", bench.read("/proc/" .. pid .. "/comm"))
        end
        web:stop()
    end)
end)

describe("a generation", function()
    it("has a thread of its own as long as it lives, which stands back for the loop", function()
        local web = proxy.start { port = bench.port(), workers = 1, script = ECHO }
        local pid = web:workers()[1]
        local loop = priorities(pid)
        assert.is_true(loop <= 14, "the specs run with so low a priority that there is no lower one")
        local function wait_threads(count)
            bench.wait(count .. " threads of generations", function()
                local _, behind = priorities(pid)
                for _, nice in ipairs(behind) do
                    assert.equal(math.min(loop + 15, 19), nice)
                end
                return #behind == count
            end)
        end
        wait_threads(1)
        local client = assert(bench.connect(web.options.port))
        client:send("ping")
        assert.equal("ping", client:receive(4))
        web:reload()
        wait_threads(2) -- that of the client's generation waits to free it
        client:close()
        wait_threads(1)
        web:stop()
    end)
end)

describe("many reloads", function()
    local web

    setup(function()
        web = proxy.start { port = bench.port(), second = bench.port(), script = ECHO }
    end)
    it("leave no descriptor, no process and no zombie", function()
        web:reload()
        local before, workers = settled(web), web:workers()
        for _ = 1, RELOADS do
            web:reload()
        end
        bench.wait("the loader to be gone", function() return #bench.children(web.pid) == #workers end)
        assert.same(workers, web:workers())
        wait_no_more_than(before, web)
        assert.is_true(echoes(web.options.port))
    end)

    it("that fail leave none either", function()
        local before = settled(web)
        local holder = assert(require("socket").bind("127.0.0.1", web.options.second))
        for i = 1, RELOADS / 5 do
            assert.equal(1, web:try_reload(i % 2 == 0 and "this is no Lua" or ECHO ..
                [[ moongate.listen { address = "127.0.0.1:$second", backend = moongate.echo() }]]).code)
        end
        holder:close()
        wait_no_more_than(before, web)
        assert.equal(0, web:try_reload(ECHO).code)
        local reloads = web:status().reloads
        assert.equal(RELOADS / 5, reloads.failed)
    end)

    it("may give hundreds of listeners new names each", function()
        local many = proxy.start { workers = 1, round = 0, script = [[
for i = 1, 600 do
    moongate.listen { name = "round $round, " .. i, address = "unix:$dir/" .. i .. ".sock", backend = moongate.echo() }
end
]] }
        for round = 1, 3 do
            many.options.round = round
            many:reload()
        end
        many:stop()
    end)

    it("asked for at the same time are all answered", function()
        local asked = {}
        for i = 1, 8 do
            asked[i] = bench.start { bench.moongate, "reload", "--control", web.control }
        end
        for _, program in ipairs(asked) do
            local how, code = program:wait(30)
            assert.same({ "exit", 0 }, { how, code })
        end
    end)
end)

describe("the number of workers", function()
    it("follows the script at a reload", function()
        local web = proxy.start { port = bench.port(), workers = false, settings = "workers = 1", script = ECHO }
        assert.equal("serving", states(web))
        web.options.settings = "workers = 3"
        web:reload()
        wait_states(web, "serving serving serving")
        local clients = {}
        for i = 1, 12 do
            clients[i] = bench.connect(web.options.port)
            clients[i]:send("ping")
            assert.equal("ping", clients[i]:receive(4))
        end
        web.options.settings = "workers = 1"
        web:reload()
        for _, client in ipairs(clients) do -- a worker that leaves does so with its last connection
            client:send("pong")
            assert.equal("pong", client:receive(4))
            client:close()
        end
        wait_states(web, "serving")
        assert.is_true(echoes(web.options.port))
        web:stop()
    end)

    it("waits for those who leave no longer than drain_timeout", function()
        local web = proxy.start { port = bench.port(), workers = false, settings = "workers = 2, drain_timeout = 1",
            script = ECHO }
        local clients = {}
        local function count(what)
            local found = 0
            for _, worker in ipairs(web:status().workers) do
                found = found + (what(worker) and 1 or 0)
            end
            return found
        end
        bench.wait("a connection in each", function()
            clients[#clients + 1] = bench.connect(web.options.port)
            clients[#clients]:send("ping")
            assert.equal("ping", clients[#clients]:receive(4))
            return count(function(worker) return worker.connections > 0 end) == 2
        end)
        web.options.settings = "workers = 1, drain_timeout = 1"
        web:reload()
        wait_states(web, "serving")
        local open = 0
        for _, client in ipairs(clients) do
            client:send("pong")
            open = open + (client:receive(4) == "pong" and 1 or 0)
            client:close()
        end
        assert.is_true(open > 0 and open < #clients, open .. " of " .. #clients)
        web:stop()
    end)
end)

describe("drain", function()
    it("stops accepting and keeps running, until a reload", function()
        local web = proxy.start { port = bench.port(), script = ECHO }
        local port = web.options.port
        local client = bench.connect(port)
        client:send("ping")
        assert.equal("ping", client:receive(4))
        assert.equal(0, web:command("drain").code)
        bench.wait("nobody to listen", function() return not echoes(port) end)
        assert.equal("drained", web:status().state)
        client:send("pong")
        assert.equal("pong", client:receive(4))
        web:reload()
        assert.is_true(echoes(port))
        assert.equal("running", web:status().state)
        client:close()
    end)
end)

describe("log files", function()
    it("are opened again by USR1, in every process", function()
        local log = bench.path("moongate.log")
        local web = proxy.start { port = bench.port(), workers = 1,
            settings = ('log = "%s", access_log = "%s"'):format(log, bench.path("access.log")), script = ECHO }
        local access = bench.path("access.log")
        assert.is_true(echoes(web.options.port))
        bench.wait("a record", function() return bench.read(access) ~= "" end)
        os.rename(log, log .. ".1")
        os.rename(access, access .. ".1")
        web.program:signal(signals.USR1)
        bench.wait("a new log", function() return bench.read(log):find("reopened", 1, true) end)
        local old = bench.read(access .. ".1")
        bench.wait("a record in the new file", function()
            return echoes(web.options.port) and bench.read(access) ~= ""
        end)
        web:stop()
        assert.matches("stopped", bench.read(log), 1, true)
        assert.is_true(#bench.read(access .. ".1") >= #old)
    end)

    -- A thread that builds a generation may be writing to it at that very moment.
    it("keep their descriptor's number in a worker", function()
        local log = bench.path("same.log")
        local web = proxy.start { port = bench.port(), workers = 1, settings = ('log = "%s"'):format(log),
            script = ECHO }
        local worker = web:wait_workers(1)[1]
        local function number()
            for _, fd in ipairs(process.list("/proc/" .. worker .. "/fd") or {}) do
                if process.readlink("/proc/" .. worker .. "/fd/" .. fd) == log then
                    return fd
                end
            end
        end
        local before = number()
        if not before then
            pending("only root may look at a worker's descriptors")
        end
        os.rename(log, log .. ".1")
        web.program:signal(signals.USR1)
        bench.wait("the new file", number)
        assert.equal(before, number())
        web:stop()
    end)
end)

describe("a silent worker", function()
    it("does not fail a reload if the one that takes its place can build", function()
        local web = proxy.start { port = bench.port(), settings = "watchdog = 1", script = ECHO }
        process.kill(web:wait_workers(2)[1], signals.STOP)
        web:reload()
        assert.equal(2, web:status().generation)
        assert.is_true(echoes(web.options.port))
    end)

    it("does not keep status from being answered", function()
        local web = proxy.start { port = bench.port(), settings = "watchdog = 20", script = ECHO }
        local stopped = web:wait_workers(2)[1]
        process.kill(stopped, signals.STOP)
        local found = {}
        for _, worker in ipairs(web:status().workers) do
            found[worker.state] = worker.pid
        end
        assert.equal(stopped, found.silent)
        assert.is_number(found.serving)
        process.kill(stopped, signals.CONT)
    end)
end)

describe("a supervisor that is killed", function()
    it("can be followed by another while its last connections end", function()
        local web = proxy.start { port = bench.port(), script = ECHO }
        local workers, port = web:wait_workers(2), web.options.port
        local client = bench.connect(port)
        client:send("ping")
        assert.equal("ping", client:receive(4))
        web.stopped = true
        web.program:signal(signals.KILL)
        web.program:wait()
        bench.wait("nobody to listen", function() return not echoes(port) end)
        -- The stale control socket is no obstacle.
        local next_web = proxy.start { port = port, script = ECHO }
        assert.is_true(echoes(port))
        client:send("pong")
        assert.equal("pong", client:receive(4))
        client:close()
        for _, pid in ipairs(workers) do
            bench.wait("the old workers to leave", function() return not bench.running(pid) end)
        end
        next_web:stop()
    end)
end)
