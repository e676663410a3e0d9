-- Every wait has an end, and every end a reason in the record.

local bench = require "bench"
local proxy = require "proxy"

describe("limits", function()
    local web
    local ports = {}
    local names = { "few", "handshake", "idle", "lifetime", "half", "refused", "next" }

    setup(function()
        local values = { workers = 2 }
        for _, name in ipairs(names) do
            ports[name] = bench.port()
            values[name] = ports[name]
        end
        ports.sink = bench.port()
        values.sink, values.nobody = ports.sink, bench.port()
        values.script = [[
local echo = moongate.echo()
moongate.listen { name = "few", address = "127.0.0.1:$few", backend = echo, max_connections = 2 }
moongate.listen { name = "handshake", address = "127.0.0.1:$handshake", tls = server(), backend = echo,
    handshake_timeout = 1 }
moongate.listen { name = "idle", address = "127.0.0.1:$idle", backend = echo, idle_timeout = 1 }
moongate.listen { name = "lifetime", address = "127.0.0.1:$lifetime", backend = echo, max_lifetime = 1 }
moongate.listen { name = "half", address = "127.0.0.1:$half", backend = "127.0.0.1:$sink", half_close_timeout = 1 }
moongate.listen { name = "refused", address = "127.0.0.1:$refused", backend = "127.0.0.1:$nobody" }
moongate.listen { name = "next", address = "127.0.0.1:$next",
    backend = moongate.backend { address = { "127.0.0.1:$nobody", "127.0.0.1:$few" }, balance = "round_robin" } }
]]
        web = proxy.start(values)
    end)
    teardown(proxy.cleanup)

    local function ask(client)
        client:send("ping")
        return client:receive(4)
    end

    -- Until the other side closes; seconds that took.
    local function closed(client)
        local before = bench.now()
        client:settimeout(10)
        local _, reason = client:receive(1)
        assert.equal("closed", reason)
        client:close()
        return bench.now() - before
    end

    it("max_connections: over all workers, and the rest waits in the queue", function()
        local first, second = bench.connect(ports.few), bench.connect(ports.few)
        assert.equal("ping", ask(first))
        assert.equal("ping", ask(second))
        local third = assert(bench.connect(ports.few))
        third:settimeout(0.5)
        local _, reason = ask(third)
        assert.equal("timeout", reason)
        first:close()
        third:settimeout(5)
        assert.equal("ping", (third:receive(4)))
        second:close()
        third:close()
        web:records(3)
    end)

    local function reason(number)
        local record = web:record(number)
        return record.reason
    end

    it("handshake_timeout", function()
        local client = bench.connect(ports.handshake)
        local seconds = closed(client)
        assert.is_true(seconds > 0.8 and seconds < 4, "after " .. seconds .. " s")
        assert.equal("down: handshake timeout", reason(4))
    end)

    it("handshake_timeout, for one who says half a sentence", function()
        local client = bench.connect(ports.handshake)
        client:send("\22\3\1\2\0\1\0")
        local seconds = closed(client)
        assert.is_true(seconds > 0.8 and seconds < 4, "after " .. seconds .. " s")
        assert.equal("down: handshake timeout", reason(5))
    end)

    it("idle_timeout", function()
        local client = bench.connect(ports.idle)
        assert.equal("ping", ask(client))
        local seconds = closed(client)
        assert.is_true(seconds > 0.8 and seconds < 4, "after " .. seconds .. " s")
        assert.matches("idle timeout", reason(6), 1, true)
    end)

    it("idle_timeout does not touch who is not idle", function()
        local client = bench.connect(ports.idle)
        local stop = bench.now() + 2.5
        while bench.now() < stop do
            assert.equal("ping", ask(client))
            bench.sleep(0.25)
        end
        client:close()
        assert.is_nil(reason(7):find("timeout", 1, true))
    end)

    it("max_lifetime, busy or not", function()
        local client = bench.connect(ports.lifetime)
        local start = bench.now()
        while ask(client) == "ping" do
            assert.is_true(bench.now() - start < 5, "it lives for ever")
            bench.sleep(0.1)
        end
        assert.is_true(bench.now() - start > 0.8)
        client:close()
        assert.matches("lifetime", reason(8), 1, true)
    end)

    it("half_close_timeout", function()
        local sink = bench.exchange { listen = "127.0.0.1:" .. ports.sink, finish_when = "got:1000000" }
        local client = bench.exchange { connect = "127.0.0.1:" .. ports.half, bytes = 1000 }
        local result = client:finish()
        sink:stop()
        assert.is_true(result.ms > 800 and result.ms < 4000, "after " .. result.ms .. " ms")
        assert.matches("half", reason(9))
    end)

    it("a backend that nobody serves closes the connection", function()
        local result = bench.exchange({ connect = "127.0.0.1:" .. ports.refused, finish = "none" }):finish()
        assert.equal("rst", result["end"])
        assert.is_true(result.ms < 3000)
        assert.matches("^up: ", reason(10))
    end)

    it("one address that nobody serves is not the end of a backend", function()
        for _ = 1, 4 do
            local client = bench.connect(ports.next)
            assert.equal("ping", ask(client))
            client:close()
        end
    end)
end)
