-- Probes of a worker that leaves, and of one that has no port to probe from.

local backends = require "backends"
local bench = require "bench"
local proxy = require "proxy"

teardown(proxy.cleanup)

local at = backends.at

describe("a worker that leaves", function()
    it("probes no more, and its connections are closed all the same when their address goes down", function()
        local port, address = bench.port(), at(bench.port())
        local server = bench.echo_server { listen = address }
        local web = proxy.start { workers = false, settings = "workers = 2", port = port, address = address, script = [[
            moongate.listen { address = "127.0.0.1:$port", backend = moongate.backend { name = "one",
                address = "$address", on_down = "close", health = { interval = 0.05, fall = 1, rise = 1 } } }
        ]] }
        local clients = {}
        bench.wait("a connection in each", function()
            clients[#clients + 1] = assert(backends.open(port))
            local workers = web:status().workers
            return workers[1].connections > 0 and workers[2].connections > 0
        end)
        web.options.settings = "workers = 1"
        web:reload()
        bench.wait("one that leaves, and the other to probe", function()
            local leaving, probers, both = 0, 0, 0
            for _, worker in ipairs(web:status().workers) do
                local leaves = worker.state ~= "serving"
                leaving = leaving + (leaves and 1 or 0)
                for _, backend in ipairs(worker.engine and worker.engine.backends or {}) do
                    local prober = backend.addresses[1].prober
                    probers = probers + (prober and 1 or 0)
                    both = both + (prober and leaves and 1 or 0)
                end
            end
            return leaving == 1 and probers == 1 and both == 0
        end)
        for _, client in ipairs(clients) do
            client:send("hello\n")
            assert.equal("hello", client:receive("*l"))
        end
        backends.order(server, "refuse")
        for i, client in ipairs(clients) do
            assert.is_nil((client:receive(1)))
            client:close()
            assert.equal("up: address went down", web:record(i).reason)
        end
        web:wait_workers(1)
        backends.order(server, "serve")
        web:wait_log(("backend one: %s is ready again"):format(address))
        assert.equal("hello", backends.ask(port, "hello\n"))
        server:stop()
        web:stop()
    end)
end)

describe("without a local port", function()
    if not bench.is_root or bench.run({ "unshare", "--net", "true" }).code ~= 0 then
        pending("a probe says nothing: needs a network namespace of its own")
        return
    end

    it("a probe says nothing of the address", function()
        local web = proxy.start { workers = 1, arguments = { "--log-level", "debug" }, prefix = { "unshare", "--net",
            "sh", "-c", "ip link set lo up && " ..
            'echo "61000 61003" > /proc/sys/net/ipv4/ip_local_port_range && exec "$@"', "sh" }, script = [[
moongate.listen { name = "inner", address = "127.0.0.1:7000", backend = moongate.echo() }
moongate.listen { name = "front", address = "unix:$dir/front.sock", backend = moongate.backend { name = "one",
    address = "127.0.0.1:7000", health = { interval = 0.02, fall = 1, rise = 1 } } }
]] }
        bench.wait("probes without a port", function() -- each one that was there keeps its port for a while
            return backends.log_count(web, "backend one: 127.0.0.1:7000 could not be probed") >= 3
        end)
        local address = web:status().workers[1].engine.backends[1].addresses[1]
        assert.equal("ready", address.state)
        assert.is_true(address.probed > 3)
        assert.equal(0, backends.log_count(web, "is down"))
        web:stop()
    end)
end)
