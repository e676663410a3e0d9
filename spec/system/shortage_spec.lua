-- No descriptors left: nobody is lost. Who is connected goes on, who comes waits until there is room.

local bench = require "bench"
local process = require "process"
local proxy = require "proxy"

local LIMIT, CLIENTS = 64, 60

teardown(proxy.cleanup)

local function ask(client)
    client:settimeout(20)
    client:send("ping")
    return client:receive(4)
end

-- Those of `clients` that have had an answer within a moment.
local function answered(clients)
    local list = {}
    for _, client in ipairs(clients) do
        client:settimeout(0)
        local answer = client:receive(4)
        if answer == "ping" then
            list[#list + 1] = client
        end
    end
    return list
end

local function complaints(web)
    local _, count = web:log_text():gsub("accepting pauses", "")
    return count
end

for _, mode in ipairs { "a limit from the start", "a limit that comes later" } do
    describe("more clients than descriptors, by " .. mode, function()
        local web, port, second

        setup(function()
            local later = mode:find("later")
            port, second = bench.port(), bench.port()
            local echo = bench.echo_server()
            web = proxy.start { workers = 1, nofile = not later and LIMIT or nil, port = port, second = second,
                echo = echo.port, script = [[
moongate.listen { name = "web", address = "127.0.0.1:$port", backend = "127.0.0.1:$echo" }
moongate.listen { name = "second", address = "127.0.0.1:$second", backend = "127.0.0.1:$echo" }
]] }
            if later then -- which moongate is not told
                bench.must { "prlimit", "--pid", tostring(web:wait_workers(1)[1]),
                    "--nofile=" .. LIMIT .. ":" .. LIMIT }
            end
        end)

        it("are served one after the other, and none is lost", function()
            local waiting, served = {}, {}
            for i = 1, CLIENTS do
                waiting[i] = assert(bench.connect(i % 4 == 0 and second or port))
                waiting[i]:send("ping")
            end
            bench.wait("accepting to pause", function() return complaints(web) > 0 end)
            while #waiting > 0 do
                local now = bench.wait("somebody to be served", function()
                    local list = answered(waiting)
                    return #list > 0 and list
                end, 40)
                for _, client in ipairs(now) do
                    served[#served + 1] = client
                    for i, one in ipairs(waiting) do
                        if one == client then
                            table.remove(waiting, i)
                            break
                        end
                    end
                end
                for _, client in ipairs(served) do -- in the middle of it
                    assert.equal("ping", ask(client))
                end
                if #waiting > 0 then
                    for _ = 1, math.max(1, #served // 2) do
                        table.remove(served, 1):close()
                    end
                end
            end
            for _, client in ipairs(served) do
                client:close()
            end
            for _, record in ipairs(web:records(CLIENTS)) do
                assert.equal("relay: done", record.reason)
            end
        end)

        it("are spoken of once", function()
            assert.equal(1, complaints(web))
        end)

        it("leave nothing behind", function()
            for _ = 1, 3 do
                local client = bench.connect(port)
                assert.equal("ping", ask(client))
                client:close()
            end
        end)
    end)
end

describe("handshakes that do not go on, when those who are connected have left few descriptors", function()
    it("give way to who comes", function()
        local port, plain = bench.port(), bench.port()
        local web = proxy.start { workers = 1, nofile = 128, port = port, plain = plain, script = [[
moongate.listen { name = "web", address = "127.0.0.1:$port", tls = server(), handshake_timeout = 600,
    backend = moongate.reply "bye\n" }
moongate.listen { name = "plain", address = "127.0.0.1:$plain", backend = moongate.echo() }
]] }
        local connected = bench.echo_load { connect = "127.0.0.1:" .. plain, hold = 60, pause = 100, message = 100 }
        bench.wait("60 of them", function() return connected:result().holding == 60 end)
        local silent = {}
        for i = 1, 40 do
            silent[i] = assert(bench.connect(port))
            silent[i]:send(i % 2 == 0 and "\22\3\1" or "")
        end
        bench.wait("accepting to pause", function() return complaints(web) > 0 end)
        for _ = 1, 3 do
            local result = bench.run { "openssl", "s_client", "-connect", "127.0.0.1:" .. port, "-ign_eof",
                input = "hello\n" }
            assert.matches("bye", result.out)
        end
        local gave_way = 0
        for _, record in ipairs(web:records()) do
            gave_way = gave_way + (record.reason == "down: no descriptor left" and 1 or 0)
        end
        assert.is_true(gave_way >= 20, gave_way .. " have given way")
        local before = connected:result().bytes
        bench.wait("answers for the connected", function() return connected:result().bytes > before + 3000 end)
        local result = connected:finish()
        assert.equal(60, result.holding)
        assert.equal(0, result.failed)
        for _, client in ipairs(silent) do
            client:close()
        end
        web:stop()
    end)
end)

describe("clients that come and go while there are few descriptors", function()
    it("do not use up what a reload needs", function()
        local port = bench.port()
        local web = proxy.start { workers = 1, nofile = 128, port = port, echo = bench.echo_server().port, script = [[

moongate.listen { name = "web", address = "127.0.0.1:$port", backend = moongate.backend {
    address = "127.0.0.1:$echo", connect_timeout = 600 } }
]] }
        local waiting, served = {}, {}
        local function come(count)
            for _ = 1, count do
                waiting[#waiting + 1] = assert(bench.connect(port))
                waiting[#waiting]:send("ping")
            end
        end
        local function wait_served(more)
            local wanted = #served + more
            bench.wait(wanted .. " to be served", function()
                for i = #waiting, 1, -1 do
                    if #answered { waiting[i] } == 1 then
                        served[#served + 1] = table.remove(waiting, i)
                    end
                end
                return #served >= wanted
            end)
        end
        come(80)
        bench.wait("accepting to pause", function() return complaints(web) > 0 end)
        wait_served(40)
        for _ = 1, 8 do -- who goes leaves low numbers to who comes
            for _ = 1, 3 do
                table.remove(served, 1):close()
            end
            come(3)
            wait_served(3)
        end
        web:reload()
        for _, client in ipairs(served) do
            assert.equal("ping", ask(client))
        end
        assert.same({}, { web:log_text():match("descriptors were lost") })
        for _, client in ipairs(served) do
            client:close()
        end
        for _, client in ipairs(waiting) do
            client:close()
        end
        web:stop()
    end)
end)

-- The lowest number that no descriptor of the process has.
local function next_descriptor(pid)
    local used, number = {}, 0
    for _, name in ipairs(process.list("/proc/" .. pid .. "/fd")) do
        used[tonumber(name) or -1] = true
    end
    while used[number] do
        number = number + 1
    end
    return number
end

describe("without a descriptor for its backend", function()
    if not bench.is_root then
        pending("a connection waits: descriptors of a process that is not dumpable are root's to see")
        return
    end
    local web, port, plain, hello

    setup(function()
        port, plain, hello = bench.port(), bench.port(), bench.client_hello()
        web = proxy.start { workers = 1, port = port, plain = plain, echo = bench.echo_server().port, script = [[
moongate.listen { name = "web", address = "127.0.0.1:$port", tls = function() return moongate.PASSTHROUGH end,
    backend = moongate.backend { address = "127.0.0.1:$echo", connect_timeout = $timeout } }
moongate.listen { name = "plain", address = "127.0.0.1:$plain", backend = "127.0.0.1:$echo" }
]], timeout = 60 }
    end)

    -- A connection that is accepted, and then there is no further descriptor.
    local function short()
        local client = assert(bench.connect(port)) -- whose backend is dialled when it has said something
        bench.wait("it to be accepted", function() return web:open_connections() == 1 end)
        local worker = web:wait_workers(1)[1]
        bench.must { "prlimit", "--pid", tostring(worker), "--nofile=" .. next_descriptor(worker) .. ":" }
        return client, function()
            bench.must { "prlimit", "--pid", tostring(worker), "--nofile=1024:" }
        end
    end

    it("a connection waits for one, and nobody is accepted meanwhile", function()
        local client, relieve = short()
        client:send(hello)
        web:wait_log("accepting pauses")
        local other = assert(bench.connect(plain))
        other:send("ping")
        assert.equal(1, web:open_connections())
        relieve()
        client:settimeout(20)
        assert.equal(hello, client:receive(#hello))
        assert.equal("ping", other:receive(4))
        client:close()
        other:close()
        web:records(2)
    end)

    it("but no longer than connect_timeout", function()
        web.options.timeout = 0.3
        web:reload()
        local client, relieve = short()
        client:send(hello)
        client:settimeout(20)
        assert.is_nil((client:receive(1)))
        client:close()
        assert.equal("up: no descriptor left", web:record(3).reason)
        relieve()
        local other = assert(bench.connect(plain))
        assert.equal("ping", ask(other))
        other:close()
    end)
end)

describe("a worker without descriptors", function()
    if not bench.is_root then
        pending("has nothing to keep: descriptors of a process that is not dumpable are root's to see")
        return
    end

    it("refuses a reload, and goes on as it is", function()
        local port = bench.port()
        local web = proxy.start { workers = 1, port = port, script = [[
moongate.listen { name = "web", address = "127.0.0.1:$port", backend = moongate.echo() }
]] }
        local client = assert(bench.connect(port))
        assert.equal("ping", ask(client))
        local worker = web:wait_workers(1)[1]
        bench.must { "prlimit", "--pid", tostring(worker), "--nofile=" .. next_descriptor(worker) .. ":" }
        local result = web:try_reload()
        assert.equal(1, result.code)
        assert.matches("no descriptor left for the new configuration", result.err, 1, true)
        assert.equal("ping", ask(client))
        bench.must { "prlimit", "--pid", tostring(worker), "--nofile=1024:" }
        web:reload()
        assert.equal("ping", ask(client))
        client:close()
        assert.equal(worker, web:wait_workers(1)[1])
        web:stop()
    end)

    it("leaves whoever has woken it to another one", function()
        local port = bench.port()
        local web = proxy.start { workers = 2, port = port, script = [[
moongate.listen { name = "web", address = "127.0.0.1:$port", backend = moongate.echo() }
]] }
        local first = assert(bench.connect(port)) -- both have begun to accept
        assert.equal("ping", ask(first))
        first:close()
        for _, worker in ipairs(web:wait_workers(2)) do -- one of them is who is woken first
            bench.must { "prlimit", "--pid", tostring(worker), "--nofile=" .. next_descriptor(worker) .. ":" }
            local client = assert(bench.connect(port))
            assert.equal("ping", ask(client))
            client:close()
            bench.must { "prlimit", "--pid", tostring(worker), "--nofile=1024:" }
        end
    end)
end)
