-- No local port left to connect to a backend from: who is connected goes on, who comes waits, nobody is lost.

local backends = require "backends"
local bench = require "bench"
local proxy = require "proxy"
local socket = require "socket"
socket.unix = require "socket.unix"

teardown(proxy.cleanup)

local PORTS = 4

describe("without a local port", function()
    if not (bench.is_root and bench.run { "unshare", "--net", "true" }.code == 0) then
        pending("a connection waits: needs a network namespace of its own")
        return
    end

    local function start(options)
        options.prefix = { "unshare", "--net", "sh", "-c", "ip link set lo up && cd /proc/sys/net/ipv4 && " ..
            ("echo 61000 %d > ip_local_port_range && "):format(60999 + PORTS) ..
            'echo 0 > tcp_max_tw_buckets && cd / && exec "$@"', "sh" } -- a port is free at once
        options.servers = options.servers or '"127.0.0.1:7000", "[::1]:7000", "127.0.0.1:7001"'
        options.script = [[
moongate.listen { name = "server", address = { $servers },
    backend = moongate.echo() }
]] .. options.script
        return proxy.start(options)
    end

    -- Of a listener at that unix socket; says ping.
    local function dial(name)
        local client = socket.unix()
        client:settimeout(40)
        assert(client:connect(bench.path(name)))
        client:send("ping")
        return client
    end

    local function is_answered(client)
        return client:receive(4) == "ping"
    end

    local function ask(client)
        client:send("ping")
        return is_answered(client)
    end

    -- So many that are connected.
    local function connected(name, count)
        local list = {}
        for i = 1, count do
            list[i] = dial(name)
            assert.is_true(is_answered(list[i]))
        end
        return list
    end

    local function close(list)
        for _, client in ipairs(list) do
            client:close()
        end
    end

    -- Each leaves when it has been served, so that its port is another one's.
    local function all_served(list)
        local left = { table.unpack(list) }
        bench.wait("all to be served", function()
            for i = #left, 1, -1 do
                left[i]:settimeout(0)
                local answer, reason = left[i]:receive(4)
                if answer == "ping" then
                    table.remove(left, i):close()
                else
                    assert.equal("timeout", reason)
                end
            end
            return #left == 0
        end, 40)
    end

    local function lines(web, text)
        return bench.lines(web:log_text(), text)
    end

    local function frontends(web, listener)
        local accepted, full = 0, 0
        for _, worker in ipairs(web:status().workers) do
            for _, frontend in ipairs(worker.engine.frontends) do
                if frontend.listener == listener then
                    accepted = accepted + frontend.accepted
                    full = full + (frontend.full and 1 or 0)
                end
            end
        end
        return accepted, full
    end

    it("its listener pauses, no other does, and all are served in the end", function()
        local web = start { workers = 2, script = [[
local function backend(name, address, source)
    return moongate.backend { name = name, address = address, source = source, connect_timeout = 60 }
end
moongate.listen { name = "short", address = "unix:$dir/short", backend = backend("app", "127.0.0.1:7000") }
moongate.listen { name = "other", address = "unix:$dir/other", backend = backend("api", "127.0.0.1:7001") }
for port = 7000, 7001 do
    local address = "127.0.0.1:" .. port
    moongate.listen { name = "from " .. port, address = "unix:$dir/from" .. port,
        backend = backend("s" .. port, address, "127.0.0.9") }
end
]] }
        local going_on, waiting = connected("short", PORTS), {}
        assert.same({}, lines(web, "port"))
        for i = 1, 8 do
            waiting[i] = dial("short")
        end
        local line = web:wait_log("no local port left")
        assert.matches('"level":"warn"', line, 1, true)
        assert.matches("backend app: no local port left to connect to 127.0.0.1:7000: listener short: accepting " ..
            "pauses, those who are connected go on; ", line, 1, true)
        assert.matches("ip_local_port_range", line, 1, true)
        bench.wait("both workers to pause", function() return select(2, frontends(web, "short")) == 2 end)
        assert.is_true((frontends(web, "short")) <= PORTS + 2) -- the kernel has the rest
        for _, client in ipairs(going_on) do
            assert.is_true(ask(client))
        end
        -- Ports are of each destination and each source.
        for _, name in ipairs { "other", "from7000", "from7001" } do
            close(connected(name, PORTS))
        end
        close(going_on)
        all_served(waiting)
        line = web:wait_log("there are local ports again")
        assert.matches('"level":"info"', line, 1, true)
        local count = tonumber(line:match("backend app: there are local ports again: (%d+) had to wait within %d+ s"))
        assert.is_true(count >= 1 and count <= 8, line)
        assert.equal(1, #lines(web, "no local port left"))
        assert.equal(1, #lines(web, "there are local ports again"))
        local records, waited = backends.records(web, "short", PORTS + 8), 0
        assert.equal(PORTS + 8, #records)
        for _, record in ipairs(records) do
            assert.equal("relay: done", record.reason)
            if record.failures then
                waited = waited + 1
                assert.equal("127.0.0.1:7000: up: no local port left", record.failures)
                assert.equal(2, record.tries)
            end
        end
        assert.is_true(waited >= 1)
        local addresses = web:status().counts.backends.app.addresses
        assert.equal(waited, addresses["127.0.0.1:7000"].failures["up: no local port left"])
        web:stop()
    end)

    it("for any address of a name it waits, too", function()
        local web = start { workers = 1, script = [[
moongate.listen { name = "name", address = "unix:$dir/name", backend = moongate.backend { address = "localhost:7000",
    connect_timeout = 60 } }
]] }
        local going_on = connected("name", PORTS)
        while #lines(web, "accepting pauses") == 0 do -- it may have two addresses, or one
            local client = dial("name")
            client:settimeout(1)
            going_on[#going_on + 1] = client
            is_answered(client)
            assert.is_true(#going_on <= 2 * PORTS + 4)
        end
        local last = dial("name")
        close(going_on)
        all_served { last }
        web:stop()
    end)

    it("a reload to another backend is not paused, and who waits does not notice", function()
        local script = [[
moongate.listen { name = "short", address = "unix:$dir/short", backend = moongate.backend { address = "127.0.0.1:$to",
    connect_timeout = 60 } }
]]
        local web = start { workers = 1, to = 7000, script = script }
        local going_on, waiting = connected("short", PORTS), {}
        for i = 1, 4 do
            waiting[i] = dial("short")
        end
        web:wait_log("accepting pauses")
        web.options.to = 7001
        web:reload()
        local served = 0 -- by another address, while the ports of the first are taken
        bench.wait("those in the kernel's queue", function()
            for i = #waiting, 1, -1 do
                waiting[i]:settimeout(0)
                if is_answered(waiting[i]) then
                    served = served + 1
                    table.remove(waiting, i):close()
                end
            end
            return served >= 3
        end)
        for _, client in ipairs(going_on) do
            assert.is_true(ask(client))
        end
        close(going_on)
        all_served(waiting)
        web:stop()
    end)

    it("workers that leave serve who waits, and who is in the queue", function()
        local web = start { workers = 1, settings = "drain_timeout = 60", script = [[
moongate.listen { name = "short", address = "unix:$dir/short", backend = moongate.backend { address = "127.0.0.1:7002",
    connect_timeout = 60 } }
]] }
        local server = proxy.start { workers = 1, prefix = { "nsenter", "--target", tostring(web.pid), "--net" },
            script = [[
moongate.listen { address = "127.0.0.1:7002", backend = moongate.echo() }
]] }
        local going_on, waiting = connected("short", PORTS), {}
        for i = 1, 4 do
            waiting[i] = dial("short")
        end
        web:wait_log("accepting pauses")
        web.program:signal(proxy.signals.TERM)
        web:wait_log("stopping")
        for _, client in ipairs(going_on) do
            assert.is_true(ask(client))
        end
        close(going_on)
        all_served(waiting)
        local how, code = web.program:wait(40)
        assert.equal("exit 0", ("%s %s"):format(how, code))
        web.stopped = true
        web:assert_clean()
        server:stop()
    end)

    describe("and with other things in the same process", function()
        local web

        setup(function()
            local servers = {}
            for i = 0, 6 do
                servers[i + 1] = ('"127.0.0.1:%d"'):format(7000 + i)
            end
            web = start { workers = 1, servers = table.concat(servers, ", "), script = [[
local function backend(options)
    options.connect_timeout = options.connect_timeout or 60
    return moongate.backend(options)
end
moongate.listen { name = "short", address = "unix:$dir/short", backend = backend { address = "127.0.0.1:7000",
    connect_timeout = 0.3, health = { fall = 1 } } }
moongate.listen { name = "both", address = "unix:$dir/both", backend = backend { name = "both",
    address = { "127.0.0.1:7002", "127.0.0.1:7003" }, balance = "first" } }
local asked, free = backend { name = "asked", address = "127.0.0.1:7004" }, backend { address = "127.0.0.1:7005" }
local number = 0
moongate.listen { name = "some", address = "unix:$dir/some", backend = function()
    number = number + 1
    return number <= ]] .. PORTS + 1 .. [[ and asked or free
end }
local app = backend { name = "app", address = "127.0.0.1:7006" }
moongate.listen { name = "plain", address = "unix:$dir/plain", backend = app }
moongate.listen { name = "tls", address = "unix:$dir/tls", tls = server(), backend = app }
]] }
        end)

        teardown(function() web:stop() end)

        it("it waits no longer than connect_timeout, and no address rests for it", function()
            local going_on = connected("short", PORTS)
            for i = 1, 3 do
                local client = dial("short")
                assert.is_false(is_answered(client))
                client:close()
                local record = backends.records(web, "short", i)[i]
                assert.equal("up: no local port left", record.reason)
                assert.equal("none within 0.3 s", record.detail)
                assert.is_true(record.total_ms >= 290, record.total_ms) -- by the clock of the loop
            end
            assert.same({}, lines(web, "rests for"))
            close(going_on)
        end)

        it("it has another address", function()
            local going_on = connected("both", 2 * PORTS)
            assert.same({}, lines(web, "backend both"))
            close(going_on)
            local taken = {}
            for _, record in ipairs(backends.records(web, "both", 2 * PORTS)) do
                taken[record.backend_address] = (taken[record.backend_address] or 0) + 1
                local has_failed = record.backend_address == "127.0.0.1:7003"
                assert.equal(has_failed and "127.0.0.1:7002: up: no local port left" or nil, record.failures)
            end
            assert.same({ ["127.0.0.1:7002"] = PORTS, ["127.0.0.1:7003"] = PORTS }, taken)
        end)

        it("and with a function that chooses backends it alone waits", function()
            local going_on = connected("some", PORTS)
            local waiting = dial("some")
            local line = web:wait_log("backend asked: no local port left")
            assert.matches("no local port left to connect to 127.0.0.1:7004: who wants it waits", line, 1, true)
            close(connected("some", PORTS))
            close(going_on)
            all_served { waiting }
        end)

        it("whoever leaves while it waits ends its listener's pause", function()
            local going_on = connected("plain", PORTS)
            for i = 1, 3 do
                local client = bench.start { "openssl", "s_client", "-unix", bench.path("tls"), stdin = "pipe" }
                bench.wait("it to wait", function() return client:output():find("Verification", 1, true) end)
                assert.equal(i, (frontends(web, "tls")))
                client:signal(proxy.signals.KILL) -- TERM lets it say close_notify, which might end a request
                local record = backends.records(web, "tls", i)[i]
                assert.equal("down: closed while connecting", record.reason)
                client:stop()
            end
            close(going_on)
        end)
    end)
end)
