-- What is known of backends' addresses is known to all workers: it survives one that dies, and a reload.

local backends = require "backends"
local bench = require "bench"
local process = require "process"
local proxy = require "proxy"

teardown(proxy.cleanup)

local at, quoted, views, wait_state = backends.at, backends.quoted, backends.views, backends.wait_state
local log_count, ask, open = backends.log_count, backends.ask, backends.open

describe("a worker that dies", function()
    it("gives back what it had of an address, and another one probes", function()
        local server = bench.echo_server()
        local port, address = bench.port(), at(server.port)
        local web = proxy.start { port = port, address = address, script = [[
            moongate.listen { address = "127.0.0.1:$port", backend = moongate.backend { name = "one",
                address = "$address", max_connections = 4, health = { interval = 0.05, fall = 1, rise = 1 } } }
        ]] }
        local clients = {}
        for i = 1, 4 do
            clients[i] = assert(open(port))
        end
        assert.is_nil(open(port))
        assert.equal("up: all addresses full", web:record(1).reason)
        -- The one that probes, with its connections; the others' stay.
        local killed
        bench.wait("a prober", function()
            for _, worker in ipairs(web:status().workers) do
                if worker.engine and worker.engine.backends[1].addresses[1].prober then
                    killed = worker
                    return true
                end
            end
        end)
        local lost = killed.engine.backends[1].addresses[1].open
        process.kill(killed.pid, proxy.signals.KILL)
        bench.wait("the other's count", function()
            local list = views(web, address)
            return #list == 2 and list[1].open_everywhere == 4 - lost and list[2].open_everywhere == 4 - lost
        end)
        bench.wait("one that probes", function()
            local probers = 0
            for _, view in ipairs(views(web, address)) do
                probers = probers + (view.prober and 1 or 0)
            end
            return probers == 1
        end)
        for i = 1, lost do
            clients[4 + i] = assert(open(port))
        end
        assert.is_nil(open(port))
        server:stop()
        wait_state(web, address, "down")
        for _, client in ipairs(clients) do
            client:close()
        end
        web:stop()
    end)
end)

describe("a reload", function()
    it("keeps what is known of addresses that stay, and forgets what is gone", function()
        local good, dead = bench.echo_server(), at(bench.port())
        local port = bench.port()
        local script = [[
            moongate.listen { address = "127.0.0.1:$port", backend = moongate.backend { name = "two",
                address = { %s }, balance = "first", health = { fall = 1, rest = 3600 } } }
        ]]
        local both, one = script:format(quoted { dead, at(good.port) }), script:format(quoted { at(good.port) })
        local web = proxy.start { port = port, script = both }
        local client = assert(open(port))
        wait_state(web, dead, "resting")
        for _ = 1, 2 do
            web:reload(both)
            wait_state(web, dead, "resting")
            assert.equal("hello", ask(port, "hello\n"))
        end
        client:send("still\n")
        assert.equal("still", client:receive("*l"))
        assert.equal(1, log_count(web, dead .. " rests for 3600 s"))
        for _, record in ipairs(web:records(2)) do
            assert.equal(1, record.tries)
        end
        client:close()
        bench.wait("the old generations to go", function()
            local count = 0
            for _ in pairs(web:generations()) do
                count = count + 1
            end
            return count == 1
        end)
        web:reload(one)
        bench.wait("the old generation to go", function() return #views(web, dead) == 0 end)
        web:reload(both)
        wait_state(web, dead, "ready")
        local heavy = both:gsub(("%q"):format(dead), "{ address = %0, weight = 3 }")
        local result = web:reload((heavy:gsub("fall = 1", "fall = 2")))
        assert.matches("backend two: weights: now 3, 1 (was 1, 1)", result.out, 1, true)
        assert.matches("backend two: health fall: now 2 (was 1)", result.out, 1, true)
        good:stop()
        web:stop()
    end)

    it("with more addresses than there is room for is refused, and nothing is lost", function()
        local server = bench.echo_server()
        local port = bench.port()
        local script = [[
            local list = {}
            for i = 1, %d do
                list[i] = ("10.0.%%d.%%d:80"):format(i // 250, i %% 250 + 1)
            end
            list[#list + 1] = { address = "127.0.0.1:$server", weight = 65535 }
            moongate.listen { address = "127.0.0.1:$port", backend = moongate.backend { name = "many",
                address = list, balance = "round_robin" } }
        ]]
        local web = proxy.start { port = port, server = server.port, script = script:format(0) }
        local client = assert(open(port))
        local result = web:try_reload(script:format(8200))
        assert.equal(1, result.code)
        assert.matches("backend: many: address: more than 8192 addresses of all backends together", result.err, 1, true)
        client:send("still\n")
        assert.equal("still", client:receive("*l"))
        open(port):close()
        client:close()
        server:stop()
        web:stop()
    end)
end)

describe("a route function", function()
    it("may answer with a Backend of many addresses, or with an address", function()
        local a, b = bench.echo_server(), bench.echo_server()
        local port, dead = bench.port(), at(bench.port())
        local web = proxy.start { port = port, a = at(a.port), b = at(b.port), dead = dead, workers = 1, script = [[
            local many = moongate.backend { name = "many", address = { "$dead", { address = "$a", backup = true } },
                health = { fall = 2, rest = 3600 } }
            local n = 0
            moongate.listen { address = "127.0.0.1:$port", backend = function()
                n = n + 1
                return n % 2 == 0 and many or "$b"
            end }
        ]] }
        for _ = 1, 8 do
            assert.equal("hello", ask(port, "hello\n"))
        end
        local tries = {}
        for _, record in ipairs(web:records(8)) do
            if record.backend == "many" then
                assert.equal(at(a.port), record.backend_address)
                tries[#tries + 1] = record.tries
            else
                assert.equal(at(b.port), record.backend_address)
                assert.equal(1, record.tries)
            end
        end
        assert.same({ 2, 2, 1, 1 }, tries)
        a:stop()
        b:stop()
        web:stop()
    end)
end)

describe("source_hash", function()
    it("leads a client to the same address through every worker", function()
        local servers, addresses = backends.echo_servers(3)
        local port = bench.port()
        local web = proxy.start { port = port, addresses = quoted(addresses), script = [[
            moongate.listen { address = "127.0.0.1:$port", backend = moongate.backend { address = { $addresses },
                balance = "source_hash" } }
        ]] }
        for client = 1, 12 do
            for _ = 1, 4 do
                assert.equal("hello", ask(port, "hello\n", "127.0.0." .. client))
            end
        end
        local of, used, count = {}, {}, 0
        for _, record in ipairs(web:records(48)) do
            local ip = record.remote:match("^[%d.]+")
            of[ip] = of[ip] or record.backend_address
            assert.equal(of[ip], record.backend_address)
            count = count + (used[record.backend_address] and 0 or 1)
            used[record.backend_address] = true
        end
        assert.is_true(count > 1)
        for _, server in ipairs(servers) do
            server:stop()
        end
        web:stop()
    end)
end)

describe("examples/balance.lua", function()
    it("serves, with the spare one when nothing else is up", function()
        local ports = { port = bench.port(), first = bench.port(), spare = bench.port() }
        local first = backends.redis(ports.first)
        local dead = { at(bench.port()), at(bench.port()) }
        local web = proxy.start { script_path = bench.absolute("examples/balance.lua"), env = {
            LISTEN = at(ports.port), FIRST = at(ports.first), SECOND = dead[1], THIRD = dead[2],
            SPARE = at(ports.spare), INTERVAL = "0.05" } }
        for _, address in ipairs { dead[1], dead[2], at(ports.spare) } do
            wait_state(web, address, "down")
        end
        assert.equal("+PONG", ask(ports.port, "PING\r\n"))
        local spare = backends.redis(ports.spare)
        wait_state(web, at(ports.spare), "ready")
        first:stop()
        wait_state(web, at(ports.first), "down")
        assert.equal("+PONG", ask(ports.port, "PING\r\n"))
        spare:stop()
        web:stop()
    end)
end)
