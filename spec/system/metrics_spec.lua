-- What `moongate status` counts of listeners and backends: by reason, over all workers, through reloads and deaths.

local bench = require "bench"
local certs = require "certs"
local process = require "process"
local proxy = require "proxy"
local socket = require "socket"

teardown(proxy.cleanup)

-- A connection that says something, and what it hears; closed unless it is to be kept.
local function say(port, text, keep)
    local client = socket.tcp4()
    client:settimeout(20)
    local answer = client:connect("127.0.0.1", port) and client:send(text or "hello\n") and client:receive("*l")
    if keep then
        return client, answer
    end
    client:close()
    return answer
end

local function listener(web, name)
    return web:status().counts.listeners[name]
end

local function backend(web, name)
    return web:status().counts.backends[name]
end

local function wait_closed(web, name, reason, count)
    local counts
    bench.wait(("%d of %s: %s"):format(count, name, reason), function()
        counts = listener(web, name)
        return (counts.closed[reason] or 0) == count
    end)
    return counts
end

describe("counts", function()
    local web, stalled
    local ports = {}
    local names = { "echo", "refused", "plain", "untrusted", "tls", "stalled", "per_ip", "route", "silent", "two",
        "full", "nobody" }

    setup(function()
        local values = { workers = 2 }
        for _, name in ipairs(names) do
            ports[name] = bench.port()
            values[name] = ports[name]
        end
        stalled = socket.bind("127.0.0.1", 0) -- whose queue takes connections, and who never says a word
        values.stalls = select(2, stalled:getsockname())
        values.script = [[
local echo = moongate.echo()
local function to(name, options)
    options.name = name
    return moongate.backend(options)
end
local deaf = openssl.SSL.SSLContext.new()
deaf.ca_file = "$rsa_crt"
moongate.listen { name = "echo", address = "127.0.0.1:$echo", backend = echo }
moongate.listen { name = "refused", address = "127.0.0.1:$refused",
    backend = to("gone", { address = { "127.0.0.1:$nobody" }, health = false }) }
moongate.listen { name = "plain", address = "127.0.0.1:$plain",
    backend = to("not tls", { address = "127.0.0.1:$echo", tls = client(), health = false }) }
moongate.listen { name = "untrusted", address = "127.0.0.1:$untrusted",
    backend = to("untrusted", { address = "127.0.0.1:$tls", tls = deaf, servername = "localhost", health = false }) }
moongate.listen { name = "tls", address = "127.0.0.1:$tls", tls = server(), backend = echo }
moongate.listen { name = "stalled", address = "127.0.0.1:$stalled",
    backend = to("stalled", { address = "127.0.0.1:$stalls", tls = client(), connect_timeout = 0.2, health = false }) }
moongate.listen { name = "per_ip", address = "127.0.0.1:$per_ip", backend = echo, max_connections_per_ip = 1 }
moongate.listen { name = "route", address = "127.0.0.1:$route", backend = function(conn)
    if conn.remote_port % 2 == 0 then error("an even one") end
    return nil, "an odd one"
end }
moongate.listen { name = "silent", address = "127.0.0.1:$silent", tls = server(), backend = echo,
    handshake_timeout = 0.3 }
moongate.listen { name = "two", address = "127.0.0.1:$two", backend = to("two", { balance = "first",
    address = { "127.0.0.1:$nobody", "127.0.0.1:$echo" }, health = false }) }
moongate.listen { name = "full", address = "127.0.0.1:$full", backend = to("full", {
    address = "127.0.0.1:$echo", max_connections = 1 }) }
]]
        web = proxy.start(values)
    end)

    it("what goes well", function()
        for _ = 1, 6 do
            assert.equal("hello", say(ports.echo))
        end
        local held, answer = say(ports.echo, nil, true)
        assert.equal("hello", answer)
        local counts
        bench.wait("the end of six", function()
            counts = listener(web, "echo")
            return counts.open == 1
        end)
        assert.equal(7, counts.accepted)
        local closed = 0
        for reason, count in pairs(counts.closed) do
            assert.matches("^relay: ", reason)
            closed = closed + count
        end
        assert.equal(6, closed)
        assert.equal(7, backend(web, "echo").connections)
        held:close()
    end)

    it("by worker, and their sum", function()
        for _ = 1, 20 do
            say(ports.echo)
        end
        local status, sum = web:status(), 0
        for _, worker in ipairs(status.workers) do
            sum = sum + worker.counts.listeners.echo.accepted
            assert.is_table(worker.counts.backends.echo)
        end
        assert.equal(status.counts.listeners.echo.accepted, sum)
    end)

    it("a backend that refuses", function()
        for _ = 1, 3 do
            assert.is_nil((say(ports.refused)))
        end
        wait_closed(web, "refused", "up: connection refused", 3)
        local expected = { ["up: connection refused"] = 3 }
        assert.same({ connections = 3, tries = 3, failed = 3, failures = expected, addresses = {
            ["127.0.0.1:" .. ports.nobody] = { failed = 3, failures = expected } } }, backend(web, "gone"))
    end)

    it("an address that another one has stood in for", function()
        for _ = 1, 2 do
            assert.equal("hello", say(ports.two))
        end
        local counts = backend(web, "two")
        assert.same({ 2, 4, 2 }, { counts.connections, counts.tries, counts.failed })
        assert.same({ ["127.0.0.1:" .. ports.nobody] = { failed = 2, failures = { ["up: connection refused"] = 2 } } },
            counts.addresses)
        bench.wait("their end", function() return listener(web, "two").open == 0 end)
        assert.is_nil(listener(web, "two").closed["up: connection refused"])
    end)

    it("TLS that fails: with the backend, with the client", function()
        say(ports.plain)
        say(ports.untrusted)
        bench.wait("the failures", function()
            return next(backend(web, "not tls").failures) and next(backend(web, "untrusted").failures)
        end)
        assert.same({ ["up: handshake failed"] = 1 }, backend(web, "not tls").failures)
        assert.same({ ["up: certificate not accepted"] = 1 }, backend(web, "untrusted").failures)
        say(ports.tls, "no TLS at all\n")
        wait_closed(web, "tls", "down: not TLS", 1)
        bench.run { "openssl", "s_client", "-connect", "127.0.0.1:" .. ports.tls, "-CAfile", certs.rsa.crt,
            "-servername", "localhost", "-verify_return_error", input = "" }
        bench.wait("the refusal", function()
            return listener(web, "tls").closed["down: handshake refused by the client"] == 2
        end)
    end)

    it("a backend that does not answer in time", function()
        say(ports.stalled)
        wait_closed(web, "stalled", "up: connect timeout", 1)
        assert.same({ ["up: connect timeout"] = 1 }, backend(web, "stalled").failures)
    end)

    it("limits", function()
        local first, answer = say(ports.per_ip, nil, true)
        assert.equal("hello", answer)
        say(ports.per_ip)
        local counts = wait_closed(web, "per_ip", "down: too many connections of this address", 1)
        assert.same({ 2, 1 }, { counts.accepted, counts.open })
        first:close()
        first, answer = say(ports.full, nil, true)
        assert.equal("hello", answer)
        say(ports.full)
        wait_closed(web, "full", "up: all addresses full", 1)
        counts = backend(web, "full")
        assert.same({ 2, 2, { ["up: all addresses full"] = 1 }, {} },
            { counts.connections, counts.tries, counts.failures, counts.addresses })
        first:close()
    end)

    it("what a backend function refuses, and where it fails", function()
        for i = 0, 1 do
            local client = socket.tcp4()
            client:settimeout(20)
            local bound
            repeat
                bound = client:bind("127.0.0.1", bench.port() // 2 * 2 + i)
            until bound
            client:connect("127.0.0.1", ports.route)
            client:send("hello\n")
            client:receive("*l")
            client:close()
        end
        local counts = wait_closed(web, "route", "route: refused", 1)
        assert.same({ ["route: refused"] = 1, ["route: callback failed"] = 1 }, counts.closed)
        assert.matches("listener route: backend function: .*an even one", web:wait_log("an even one"))
    end)

    it("clients that leave, and those who say nothing", function()
        local client = bench.connect(ports.tls)
        client:close()
        wait_closed(web, "tls", "down: closed before the handshake", 1)
        client = bench.connect(ports.silent)
        wait_closed(web, "silent", "down: handshake timeout", 1)
        client:close()
        local before = listener(web, "echo").closed["down: reset"] or 0
        client = say(ports.echo, nil, true)
        client:setoption("linger", { on = true, timeout = 0 })
        client:close() -- a reset
        wait_closed(web, "echo", "down: reset", before + 1)
    end)

    it("and tells the most frequent of it in the text, too", function()
        local text = web:command("status").out
        assert.matches("\nLISTENER +ACCEPTED +OPEN +CLOSED\n", text)
        assert.matches("\nrefused +3 +0 +3 up: connection refused\n", text)
        assert.matches("\nBACKEND +CONNECTIONS TRIES +FAILED\n", text)
        assert.matches("\ngone +3 +3 +3 up: connection refused\n  127%.0%.0%.1:" .. ports.nobody ..
            " +3 up: connection refused\n", text)
    end)
end)

describe("counts, later:", function()
    local SCRIPT = [[
moongate.listen { name = "web", address = "127.0.0.1:$port", backend = moongate.backend { name = "app",
    address = "127.0.0.1:$nobody", health = false } }
moongate.listen { name = "by function", address = "127.0.0.1:$function", backend = function(conn)
    return "127.0.0.1:$nobody"
end }]]
    local OTHER = [[
moongate.listen { name = "other", address = "127.0.0.1:$other", backend = moongate.echo() }]]
    local web, ports

    before_each(function()
        ports = { port = bench.port(), nobody = bench.port(), ["function"] = bench.port(), other = bench.port() }
        web = proxy.start { workers = 2, port = ports.port, nobody = ports.nobody, ["function"] = ports["function"],
            other = ports.other, script = SCRIPT .. OTHER }
    end)
    after_each(function() web:stop() end)

    local function refuse(count)
        for _ = 1, count do
            say(ports.port)
            say(ports["function"])
        end
    end

    local function refusals()
        local counts = web:status().counts
        local named = counts.backends["127.0.0.1:" .. ports.nobody]
        return { counts.listeners.web.closed["up: connection refused"], counts.backends.app.failed,
            counts.listeners["by function"].closed["up: connection refused"], named and named.failed }
    end

    it("a reload lets them go on, and what is gone goes", function()
        say(ports.other)
        refuse(4)
        assert.same({ 4, 4, 4, 4 }, refusals())
        web:reload(SCRIPT)
        refuse(3)
        assert.same({ 7, 7, 7, 7 }, refusals())
        bench.wait("the end of what is gone", function()
            local counts = web:status().counts
            return not counts.listeners.other and not counts.backends.echo
        end)
        web:reload(SCRIPT .. OTHER)
        local other = listener(web, "other")
        assert.same({ 0, {} }, { other.accepted, other.closed })
        assert.same({ 7, 7, 7, 7 }, refusals())
    end)

    it("a name that only a function gives stays for a reload without it, and is gone after another", function()
        refuse(1)
        local name = "127.0.0.1:" .. ports.nobody
        web:reload()
        assert.equal(1, backend(web, name).failed)
        web:reload()
        bench.wait("its end", function() return not backend(web, name) end)
        refuse(1)
        assert.equal(1, backend(web, name).failed)
    end)

    it("a worker that dies takes nothing back, and what it had open has ended", function()
        local held = {}
        for i = 1, 12 do
            local answer
            held[i], answer = say(ports.other, nil, true)
            assert.equal("hello", answer)
        end
        refuse(4)
        local before = refusals()
        for _, pid in ipairs(web:wait_workers(2)) do
            process.kill(pid, proxy.signals.KILL)
        end
        bench.wait("its counts", function()
            local other = web:status().counts.listeners.other
            return other and other.closed["session: worker died"] == 12
        end)
        assert.equal(0, listener(web, "other").open)
        bench.wait("both workers", function()
            local serving = 0
            for _, worker in ipairs(web:status().workers) do
                serving = serving + (worker.state == "serving" and 1 or 0)
            end
            return serving == 2
        end)
        assert.same(before, refusals())
        refuse(2)
        for i, count in ipairs(refusals()) do
            assert.equal(before[i] + 2, count)
        end
        for _, client in ipairs(held) do
            client:close()
        end
    end)

    it("a worker fewer takes nothing back either", function()
        local port, nobody = bench.port(), bench.port()
        local own = proxy.start { workers = false, settings = "workers = 2", port = port, nobody = nobody, script = [[
moongate.listen { name = "web", address = "127.0.0.1:$port", backend = moongate.backend { name = "app",
    address = "127.0.0.1:$nobody", health = false } }]] }
        for _ = 1, 20 do
            say(port)
        end
        own.options.settings = "workers = 1"
        own:reload()
        own:wait_workers(1)
        assert.same({ 20, 20 }, { listener(own, "web").closed["up: connection refused"], backend(own, "app").failed })
        own:stop()
    end)
end)

describe("counts of backends that only functions name", function()
    it("are kept for 256 of them, and the others together", function()
        local port = bench.port()
        local web = proxy.start { workers = 1, port = port, nobody = bench.port(), script = [[
local asked = 0
moongate.listen { name = "web", address = "127.0.0.1:$port", backend = function()
    asked = asked + 1
    return ("127.1.%d.%d:$nobody"):format(asked // 200, asked % 200 + 1)
end }
]] }
        for _ = 1, 300 do
            say(port)
        end
        local counts, names, failed = web:status().counts.backends, 0, 0
        for _, each in pairs(counts) do
            names = names + 1
            failed = failed + each.failed
        end
        assert.same({ 257, 300, 44 }, { names, failed, counts["(others)"].connections })
        web:stop()
    end)
end)
