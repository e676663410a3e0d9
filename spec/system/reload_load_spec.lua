-- The promise: a reload under full load costs nobody a connection or a byte.

local bench = require "bench"
local certs = require "certs"
local proxy = require "proxy"

local HOLD = bench.slow and 300 or 2000
local RELOADS = bench.slow and 6 or 20

describe("reload under load", function()
    local web, port, backend

    setup(function()
        port = bench.port()
        backend = bench.echo_server()
        web = proxy.start { port = port, backend = backend.port, reload = 0, script = [[
-- reload number $reload
moongate.listen { name = "web", address = "127.0.0.1:$port", tls = server(), backend = "127.0.0.1:$backend" }
]] }
    end)
    teardown(proxy.cleanup)

    it("fails no connection and loses no byte", function()
        local load = bench.echo_load { connect = "127.0.0.1:" .. port, hold = HOLD, churn = 8, pause = 400,
            message = 4096, tls = true, cafile = certs.ca.crt, servername = "localhost" }
        bench.wait("all held connections to be answered", function()
            return (load:result().holding or 0) >= HOLD
        end, 60)

        for i = 1, RELOADS do
            web.options.reload = i
            web:reload()
        end

        local churned = load:result().churned
        bench.wait("short connections under the last generation", function()
            return load:result().churned > churned + 16
        end)
        local status = web:status()
        assert.equal(RELOADS + 1, status.generation)
        local held = 0
        for _, count in pairs(web:generations()) do
            held = held + count
        end
        assert.is_true(held >= HOLD, ("status shows %d connections"):format(held))

        local result = load:finish(60)
        assert.equal("", result.reasons)
        assert.equal(0, result.failed)
        assert.is_true(result.churned > 50, "only " .. result.churned .. " short connections")
        assert.is_true(result.pause_ms < 5000 * (bench.slow and 4 or 1),
            "an answer took " .. result.pause_ms .. " ms")
    end)

    it("lets old generations go with their last connection", function()
        bench.wait("one generation to be left", function()
            local number, count = next(web:generations())
            return number == RELOADS + 1 and count == 0 and not next(web:generations(), number)
        end)
    end)

    it("shows generations and counts to people as well", function()
        local result = web:command("status")
        assert.equal(0, result.code)
        assert.matches(tostring(RELOADS + 1), result.out, 1, true)
    end)
end)
