-- Several Backends in one script that lead to the same address: each has limits and health of its own, unless they are
-- the same in everything.

local backends = require "backends"
local bench = require "bench"
local checks = require "checks"
local proxy = require "proxy"

teardown(proxy.cleanup)

local open = backends.open

-- What the first worker says of its backends, in the script's order.
local function of_first_worker(web)
    return web:status().workers[1].engine.backends
end

describe("Backends without a name, of one address,", function()
    it("do not count each other's connections", function()
        local server = bench.echo_server()
        local ports = { bench.port(), bench.port() }
        local web = proxy.start { workers = 2, one = ports[1], two = ports[2], server = server.port, script = [[
local one = moongate.backend { address = "127.0.0.1:$server", max_connections = 1 }
local two = moongate.backend { address = "127.0.0.1:$server" }
moongate.listen { address = "127.0.0.1:$one", backend = one }
moongate.listen { address = "127.0.0.1:$two", backend = two }
]] }
        local held = { open(ports[2]), open(ports[2]), open(ports[1]) }
        assert.equal(3, #held)
        assert.is_nil(open(ports[1]))
        assert.equal("up: all addresses full", web:record(1).reason)
        local name, counts = "127.0.0.1:" .. server.port, web:status().counts.backends
        assert.same({ 2, 2 }, { counts[name].connections, counts[name .. " (2)"].connections })
        assert.equal(name, web:record(1).backend)
        for _, client in ipairs(held) do
            client:close()
        end
        web:stop()
        server:stop()
    end)

    it("do not know each other's health", function()
        local web = proxy.start { workers = 1, port = bench.port(), other = bench.port(), nobody = bench.port(),
            script = [[
moongate.listen { address = "127.0.0.1:$port", backend = moongate.backend { address = "127.0.0.1:$nobody",
    health = { interval = 0.05, fall = 1 } } }
moongate.listen { address = "127.0.0.1:$other", backend = moongate.backend { address = "127.0.0.1:$nobody",
    health = false } }
]] }
        web:wait_log("is down: 1 probe failed")
        local list = of_first_worker(web)
        assert.same({ "down", "ready" }, { list[1].addresses[1].state, list[2].addresses[1].state })
        assert.equal(list[1].name .. " (2)", list[2].name)
        web:stop()
    end)

    it("are one if they say the same: one limit, one prober", function()
        local server = bench.echo_server()
        local ports = { bench.port(), bench.port() }
        local web = proxy.start { workers = 2, one = ports[1], two = ports[2], server = server.port, script = [[
local function app()
    return moongate.backend { address = "127.0.0.1:$server", max_connections = 1, health = { interval = 0.05 } }
end
moongate.listen { address = "127.0.0.1:$one", backend = app() }
moongate.listen { address = "127.0.0.1:$two", backend = app() }
]] }
        local held = open(ports[1])
        assert.is_truthy(held)
        assert.is_nil(open(ports[2]))
        local probed
        bench.wait("probes", function()
            probed = { 0, 0 }
            for _, worker in ipairs(web:status().workers) do
                for i, backend in ipairs(worker.engine and worker.engine.backends or {}) do
                    probed[i] = probed[i] + backend.addresses[1].probed
                end
            end
            return probed[1] > 3
        end)
        assert.equal(0, probed[2])
        held:close()
        web:stop()
        server:stop()
    end)
end)

describe("two Backends of one name", function()
    it("with other settings get a second one, and a warning that says where the first one is", function()
        local result = checks.run([[
            moongate.backend { name = "app", address = "a:1" }

            moongate.backend { name = "app", address = "a:1", max_connections = 3 }
            moongate.listen { address = "127.0.0.1:1", backend = "a:2" }
        ]], { "--json" })
        assert.equal(0, result.code, result.err)
        assert.same({ 'moongate.lua:3: backend: name: there is already a backend "app", with other settings, ' ..
            'made at moongate.lua:1: this one is called "app (2)"' }, result.json().warnings)
    end)

    for what, second in pairs {
        address = 'address = "b:1"',
        servername = 'address = "a:1", tls = true, servername = function() return "a" end',
        health = 'address = "a:1", health = { rest = 3 }',
        tls = 'address = "a:1", tls = true',
    } do
        it("are not the same with another " .. what, function()
            local first = what == "servername" and second or 'address = "a:1"'
            local result = checks.run(([[
                moongate.backend { name = "app", %s }
                moongate.backend { name = "app", %s }
                moongate.listen { address = "127.0.0.1:1", backend = "a:2" }
            ]]):format(first, second), { "--json" })
            assert.equal(0, result.code, result.err)
            assert.matches('moongate.lua:2: backend: name: there is already a backend "app"',
                table.concat(result.json().warnings, "\n"), 1, true)
        end)
    end

    it("that say the same, also about TLS, are fine", function()
        local result = checks.run([[
            local name = function() return "a" end
            for _ = 1, 2 do
                moongate.backend { name = "app", address = { "a:1", { address = "b:1", weight = 2 } }, tls = true,
                    servername = name, health = { interval = 3 }, send_proxy = "v2", proxy_tlvs = { [0xE0] = name } }
            end
            moongate.listen { address = "127.0.0.1:1", backend = "a:2" }
        ]])
        assert.equal(0, result.code, result.err)
    end)

    it("of which one has it from its address: that one gets another", function()
        local result = checks.run([[
            moongate.listen { address = "127.0.0.1:1", backend = "127.0.0.1:2" }
            moongate.listen { address = "127.0.0.1:3", backend = "127.0.0.1:2" }
            moongate.backend { address = "127.0.0.1:2", max_connections = 2 }
            moongate.backend { address = "127.0.0.1:2", max_connections = 3 }
            moongate.backend { name = "127.0.0.1:2 (2)", address = "127.0.0.1:4" }
            moongate.backend { name = "127.0.0.1:2", address = "127.0.0.1:5" }
        ]], { "--json" })
        assert.equal(0, result.code, result.err)
        local names = {}
        for _, backend in ipairs(result.json().backends) do
            names[#names + 1] = backend.name
        end
        assert.same({ "127.0.0.1:2 (3)", "127.0.0.1:2 (4)", "127.0.0.1:2 (2)", "127.0.0.1:2", "127.0.0.1:2 (5)",
            "127.0.0.1:2 (5)" }, names)
    end)
end)
