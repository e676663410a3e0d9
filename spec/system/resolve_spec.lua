-- Backends by name: which addresses that means, when it changes, and when nobody says.

local bench = require "bench"
local cjson = require "cjson"
local dns = require "dns"
local proxy = require "proxy"

local impossible = dns.impossible()

teardown(proxy.cleanup)

local function ask(client)
    client:send("ping")
    return client:receive(4)
end

describe("a backend by name", function()
    if impossible then
        pending("is resolved: " .. impossible)
        return
    end
    local server, web, port, front
    local names = {
        ["api.test"] = { "127.0.0.2", "127.0.0.3", "::1" },
        ["moves.test"] = { "127.0.0.2" },
    }

    setup(function()
        server = dns.start(names)
        for attempt = 1, 20 do -- one port on all of the addresses
            port = bench.port()
            local all = {}
            for i, address in ipairs { "127.0.0.2", "127.0.0.3", "[::1]" } do
                all[i] = bench.peer("load", "echo-server", { listen = address .. ":" .. port })
            end
            if #all == 3 then break end
            assert(attempt < 20)
        end
        front = { all = bench.port(), moves = bench.port(), late = bench.port() }
        web = proxy.start { workers = 1, prefix = server:world(), port = port, all = front.all, moves = front.moves,
            late = front.late, script = [[
local function backend(name)
    return moongate.backend { name = name, address = name .. ".test:$port", resolve_interval = 1,
        balance = "round_robin" }
end
moongate.listen { name = "all", address = "127.0.0.1:$all", backend = backend "api" }
moongate.listen { name = "moves", address = "127.0.0.1:$moves", backend = backend "moves" }
moongate.listen { name = "late", address = "127.0.0.1:$late", backend = backend "late" }
]] }
    end)

    -- One connection, and which backend it had.
    local function used(listener)
        local number = #web:records() + 1
        local client = bench.connect(front[listener]) -- nil: it was reset before it knew
        local answer = client and ask(client)
        if client then client:close() end
        local record = web:record(number)
        return answer == "ping" and record.backend_address or record.reason, record
    end

    local function resolved(name)
        for _, one in ipairs(web:status().workers[1].engine.names) do
            if one.name == name .. ".test" then
                return one
            end
        end
    end

    it("that nobody knows at start is a warning, with the backend's name and its own", function()
        local line = cjson.decode(web:wait_log("late.test cannot be resolved"))
        assert.equal("warn", line.level)
        assert.matches("backend late: late.test cannot be resolved", line.message or line.msg, 1, true)
        assert.equal("up: name not resolved", (used "late"))
    end)

    it("is that warning with several workers, too, and once", function()
        local two = proxy.start { prefix = server:world(), workers = 2, port = bench.port(), script = [[
moongate.listen { name = "web", address = "127.0.0.1:$port", backend = "nobody.test:80" }
]] }
        assert.equal("warn", cjson.decode(two:wait_log("nobody.test cannot be resolved")).level)
        bench.wait("both to have asked", function()
            local asked = 0
            for _, worker in ipairs(two:status().workers) do
                asked = asked + (worker.engine.names[1].failures > 0 and 1 or 0)
            end
            return asked == 2
        end)
        local _, said = two:log_text():gsub("nobody%.test cannot be resolved", "")
        assert.equal(1, said)
        two:stop()
    end)

    it("means all of its addresses, of both families", function()
        local seen = {}
        for _ = 1, 9 do -- one that was overtaken would come last for a while
            local address = used "all"
            seen[address] = (seen[address] or 0) + 1
        end
        for _, address in ipairs { "127.0.0.2:", "127.0.0.3:", "[::1]:" } do
            assert.is_truthy(seen[address .. port], address)
        end
    end)

    it("is looked up again, by itself: new connections follow, who is connected stays", function()
        local seen = #web:records()
        local client = bench.connect(front.moves)
        assert.equal("ping", ask(client))
        names["moves.test"] = { "127.0.0.3" }
        server:set(names)
        bench.wait("the new address", function() return resolved("moves").addresses[1] == "127.0.0.3" end)
        assert.equal("127.0.0.3:" .. port, (used "moves"))
        web:wait_log("moves.test is 127.0.0.3 now")
        assert.equal("ping", ask(client))
        client:close()
        web:records(seen + 2)
    end)

    it("that becomes known is used", function()
        names["late.test"] = { "127.0.0.2" }
        server:set(names)
        bench.wait("an answer", function() return #resolved("late").addresses == 1 end)
        assert.equal("127.0.0.2:" .. port, (used "late"))
        web:wait_log("late.test can be resolved again")
    end)

    it("that is known no longer keeps its last addresses, through a reload too", function()
        server:set {}
        web:wait_log("moves.test cannot be resolved")
        assert.equal("127.0.0.3:" .. port, (used "moves"))
        web:reload()
        assert.equal("127.0.0.3:" .. port, (used "moves"))
        bench.wait("a further look-up", function() return resolved("moves").failures > 1 end)
        assert.equal("127.0.0.3:" .. port, (used "moves"))
        local _, said = web:log_text():gsub("moves%.test cannot be resolved", "")
        assert.is_true(said <= 2, said) -- by each generation once
    end)

    it("is not looked up by check", function()
        names["unasked.test"] = { "127.0.0.2" }
        local result = proxy.check { prefix = server:world(), port = bench.port(), script = [[
moongate.listen { address = "127.0.0.1:$port", backend = "unasked.test:80" }
moongate.listen { address = "unix:$dir/unasked.sock", backend = "unknown.test:80" }
]] }
        assert.equal(0, result.code, result.err)
        assert.equal(0, server:queries("unasked.test"))
        assert.equal(0, server:queries("unknown.test"))
        assert.is_true(server:queries("moves.test") > 0)
    end)
end)

describe("a name server that is silent", function()
    if impossible then
        pending("holds nobody up: " .. impossible)
        return
    end
    local server, web, front
    local SCRIPT = [[
moongate.listen { name = "known", address = "127.0.0.1:$known",
    backend = moongate.backend { address = "known.test:$echo", resolve_interval = 1 } }
moongate.listen { name = "dead", address = "127.0.0.1:$dead",
    backend = moongate.backend { address = "silent.test:80", connect_timeout = 0.3 } }
moongate.listen { name = "fixed", address = "127.0.0.1:$fixed", backend = "fixed.test:$echo" }
]]

    setup(function()
        server = dns.start { ["known.test"] = { "127.0.0.1" } }
        front = { fixed = bench.port(), dead = bench.port(), known = bench.port() }
        web = proxy.start { workers = 1, fixed = front.fixed, dead = front.dead, known = front.known,
            echo = bench.echo_server().port, script = SCRIPT,
            prefix = server:world("timeout:30 attempts:5", { ["fixed.test"] = { "127.0.0.1" },
                ["unasked.test"] = { "127.0.0.1" } }) }
    end)

    local function echoes(listener)
        local client = assert(bench.connect(front[listener]))
        local answer = ask(client)
        client:close()
        return answer == "ping"
    end

    local function looking_up()
        local count = 0
        for _, name in ipairs(web:status().workers[1].engine.names) do
            count = count + (name.looking_up and 1 or 0)
        end
        return count
    end

    it("is not waited for where there is an answer", function()
        assert.is_true(echoes "known")
        server:silence()
        bench.wait("a look-up that hangs", function() return looking_up() > 0 end)
        assert.is_true(echoes "known") -- within 5 s, and it takes 150
    end)

    it("is waited for no longer than connect_timeout", function()
        local client = bench.connect(front.dead) -- nil: it was reset before it knew
        if client then
            client:settimeout(20)
            client:send("ping")
            assert.is_nil((client:receive(1)))
            client:close()
        end
        local record = bench.wait("a record", function()
            for _, one in ipairs(web:records()) do
                if one.listener == "dead" then return one end
            end
        end)
        assert.equal("up: name not resolved", record.reason)
    end)

    it("holds up neither others nor a reload, however many names it is asked for", function()
        web:reload(SCRIPT .. [[
for i = 1, 40 do
    moongate.backend { name = "b" .. i, address = ("silent%d.test:80"):format(i) }
end
]])
        bench.wait("look-ups that hang", function() return looking_up() >= 40 end)
        assert.is_true(echoes "fixed")
        assert.is_true(echoes "known")
        web:reload((SCRIPT:gsub("fixed%.test", "unasked.test"))) -- its look-up gets a thread all the same
        assert.is_true(echoes "fixed")
        bench.wait("those that nobody needs to be forgotten", function() return looking_up() <= 2 end)
    end)

    it("does not hold up the end", function()
        web:stop(20)
    end)
end)
