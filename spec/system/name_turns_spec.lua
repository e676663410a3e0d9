-- The records of a name take their turns over all workers; and names without a record, or with too many.

local backends = require "backends"
local bench = require "bench"
local dns = require "dns"
local process = require "process"
local proxy = require "proxy"

local impossible = dns.impossible()

teardown(proxy.cleanup)

local STOP, CONT = proxy.signals.STOP, proxy.signals.CONT
local ask = backends.ask
local TWO, THREE, FOUR = "127.0.0.2", "127.0.0.3", "127.0.0.4"

describe("a name's records", function()
    if impossible then
        pending("take turns: " .. impossible)
        return
    end
    local server, web, script, servers, port, front

    local function listener(name, options)
        return ([[
moongate.listen { name = "%s", address = "127.0.0.1:$%s", backend = moongate.backend { name = "%s",
    balance = "round_robin", %s } }
]]):format(name, name, name, options)
    end

    local function at(host)
        return host .. ":" .. port
    end

    local function records(name, count)
        return backends.records(web, name, count)
    end

    local function used(name, host)
        local total = 0
        for _, row in ipairs(backends.rows(web, name)[at(host)]) do
            total = total + row.used
        end
        return total
    end

    setup(function()
        servers, port = backends.echo_servers_at { TWO, THREE, FOUR }
        server = dns.start { ["turns.test"] = { TWO, THREE, FOUR }, ["slow.test"] = { THREE } }
        front = { turns = bench.port(), weights = bench.port(), unknown = bench.port(),
            spare = bench.port(), slow = bench.port() }
        script = listener("turns", [[address = { "turns.test:$up", { address = "127.0.0.4:$dead", backup = true } }]])
            .. listener("weights", [[address = { { address = "turns.test:$up", weight = 2 }, "127.0.0.2:$up" }]])
            .. listener("unknown", [[address = { "nobody.test:$up", "127.0.0.2:$up" }, connect_timeout = 60]])
            .. listener("spare", [[address = { "none.test:$up", { address = "127.0.0.2:$up", backup = true } },
                connect_timeout = 0.3]])
        local options = { prefix = server:world "timeout:30 attempts:5", up = port, dead = bench.port(),
            script = script }
        for name, number in pairs(front) do
            options[name] = number
        end
        web = proxy.start(options)
        bench.wait("answers", function() return select(2, backends.rows(web, "turns")) == 8 end)
    end)

    -- Only one of the two workers runs while it is called.
    local function by_turns(number, call)
        local other = web:workers()[number % 2 + 1]
        process.kill(other, STOP)
        bench.wait("it to stop", function() return bench.read(("/proc/%d/stat"):format(other)):match("%) T ") end)
        local ok, reason = pcall(call)
        process.kill(other, CONT)
        assert(ok, reason)
    end

    it("take their turns over all workers", function()
        local order = {}
        for i = 1, 12 do
            by_turns(i // 2, function() assert.equal("hello", ask(front.turns, "hello\n")) end)
        end
        for i, record in ipairs(records("turns", 12)) do
            order[i] = record.backend_address
        end
        for i = 1, 9 do
            assert.equal(order[i], order[i + 3])
        end
        assert.is_true(order[1] ~= order[2] and order[2] ~= order[3] and order[1] ~= order[3])
        for _, worker in ipairs(web:status().workers) do
            assert.is_true(worker.engine.accepted > 0)
        end
        local load = bench.echo_load { connect = "127.0.0.1:" .. front.turns, churn = 10, message = 200 }
        bench.wait("400 connections", function() return (load:result().churned or 0) > 400 end)
        assert.equal(0, load:finish().failed)
        local least, most = math.huge, 0
        for _, host in ipairs { TWO, THREE, FOUR } do
            local number = used("turns", host)
            least, most = math.min(least, number), math.max(most, number)
        end
        assert.is_true(least > 130 and most - least <= 3, ("%d to %d"):format(least, most))
    end)

    it("have the weight of the name each", function()
        local counts = {}
        for i = 1, 21 do
            by_turns(i, function() assert.equal("hello", ask(front.weights, "hello\n")) end)
        end
        for _, record in ipairs(records("weights", 21)) do
            counts[record.backend_address] = (counts[record.backend_address] or 0) + 1
        end
        assert.same({ [at(TWO)] = 9, [at(THREE)] = 6, [at(FOUR)] = 6 }, counts)
    end)

    it("are not waited for where there is another address", function()
        assert.equal("unresolved", backends.rows(web, "unknown")["nobody.test:" .. port][1].state)
        server:silence()
        web:reload(script .. listener("slow", [[address = "slow.test:$up", connect_timeout = 60]]))
        assert.equal("hello", ask(front.unknown, "hello\n"))
        local record = records("unknown", 1)[1]
        assert.equal(at(TWO), record.backend_address)
        assert.equal(1, record.tries)
        -- A backup address is another rank: it is used when the name has had its time, and by the next ones at once.
        local waited = 0
        for _ = 1, 6 do
            assert.equal("hello", ask(front.spare, "hello\n"))
        end
        for _, one in ipairs(records("spare", 6)) do
            assert.equal(at(TWO), one.backend_address)
            if one.failures then
                waited = waited + 1
                assert.equal(("none.test:%d: up: name not resolved"):format(port), one.failures)
            end
            assert.equal(one.failures and 2 or 1, one.tries)
        end
        assert.is_true(waited >= 1 and waited <= 2, waited) -- by each worker once
        -- Where there is none, they are.
        local client = assert(bench.connect(front.slow))
        client:send("hello\n")
        bench.wait("it to wait", function()
            local count = 0
            for _, worker in ipairs(web:status().workers) do
                count = count + worker.engine.states.connect
            end
            return count == 1
        end)
        server:speak()
        client:settimeout(30)
        assert.equal("hello", client:receive("*l"))
        client:close()
        assert.equal(1, records("slow", 1)[1].tries)
        web:stop()
    end)

    it("for which there is no room in the memory of all workers are used without", function()
        local number = bench.port()
        local many = proxy.start { prefix = server:world(), up = port, port = number, script = [[
local list = { "turns.test:$up" }
for i = 1, 8191 do
    list[#list + 1] = { address = ("10.0.%d.%d:80"):format(i // 250, i % 250 + 1), backup = true }
end
moongate.listen { address = "127.0.0.1:$port", backend = moongate.backend { name = "many", address = list,
    balance = "round_robin", max_connections = 1 } }
]] }
        many:wait_log("more than 8192 addresses of backends")
        local seen, clients = {}, {}
        for i = 1, 3 do
            clients[i] = assert(backends.open(number))
        end
        for _, host in ipairs { TWO, THREE, FOUR } do
            seen[#seen + 1] = #backends.views(many, at(host))
        end
        assert.same({ 2, 2, 2 }, seen)
        for _, client in ipairs(clients) do
            client:close()
        end
        many:stop()
        for _, one in ipairs(servers) do
            one:stop()
        end
    end)
end)
