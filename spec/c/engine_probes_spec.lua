-- Probes and on_down = "close" while things change: a reload under a probe, an address that comes and goes.

local backends = require "backends"
local bench = require "bench"
local engine = require "engine"
local socket = require "socket"

teardown(engine.cleanup)

local at, order = backends.at, backends.order

local function state(web, text)
    for _, each in ipairs(web:status().backends[1].addresses) do
        if each.address == text then
            return each.state
        end
    end
end

local function wait_state(web, text, expected)
    bench.wait(text .. " to be " .. expected, function() return state(web, text) == expected end)
end

local function log_count(web, text)
    local count = 0
    for line in bench.read(web.options.log):gmatch("[^\n]+") do
        count = count + (line:find(text, 1, true) and 1 or 0)
    end
    return count
end

local function open(web)
    local client = bench.connect(web.port)
    client:send("hello\n")
    assert.equal("hello", client:receive("*l"))
    return client
end

describe("a reload while a probe is under way", function()
    it("ends it without a verdict, and asks anew", function()
        local listening = socket.bind("127.0.0.1", 0)
        listening:settimeout(20)
        local port = select(2, listening:getsockname())
        local web = engine.start { backend = { addresses = { at(port) }, health = { interval = 60000, fall = 1,
            rise = 1, timeout = 60000, expect = "220" } } }
        local probe = assert(listening:accept())
        for _ = 1, 3 do
            assert.equal("reloaded", web:ask("reload"))
            probe:settimeout(20)
            local _, reason = probe:receive(1)
            assert.equal("closed", reason)
            probe:close()
            probe = assert(listening:accept())
            assert.equal("ready", state(web, at(port)))
        end
        probe:send("500 no\n")
        probe:close()
        wait_state(web, at(port), "down")
        assert.equal(1, log_count(web, "is down"))
        bench.wait("the old generations to go", function() return web:ask("generations") == "1" end)
        listening:close()
        web:stop()
    end)
end)

describe("an address that comes and goes, with on_down = \"close\"", function()
    local web, flaps, stays, address

    setup(function()
        address = at(bench.port())
        flaps, stays = bench.echo_server { listen = address }, bench.echo_server()
        web = engine.start { backend = { balance = "first", close_on_down = true,
            addresses = { address, at(stays.port) }, health = { interval = 10, fall = 1, rise = 1 } } }
    end)
    teardown(function()
        flaps:stop()
        stays:stop()
        web:stop()
    end)

    local number = 0 -- of records that were seen

    it("takes those along who were there each time, and nobody else", function()
        local others = {}
        for i = 1, 5 do
            local theirs = open(web)
            order(flaps, "refuse")
            wait_state(web, address, "down")
            others[i] = open(web)
            order(flaps, "serve")
            wait_state(web, address, "ready")
            assert.is_nil((theirs:receive(1)))
            theirs:close()
            number = number + 1
            local record = web:record(number)
            assert.equal("up: address went down", record.reason)
            assert.equal(address, record.backend_address)
            local again = open(web)
            again:close()
            number = number + 1
            record = web:record(number)
            assert.equal("relay: done", record.reason)
            assert.equal(address, record.backend_address)
        end
        for _, client in ipairs(others) do
            client:send("still here\n")
            assert.equal("still here", client:receive("*l"))
            client:close()
        end
        number = number + 5
        for i = number - 4, number do
            assert.equal("relay: done", web:record(i).reason)
            assert.equal(at(stays.port), web:record(i).backend_address)
        end
    end)

    it("takes them along, too, when it is back before anybody has looked", function()
        local theirs = open(web)
        local downs = log_count(web, "is down")
        order(flaps, "refuse")
        bench.wait("its fall", function() return log_count(web, "is down") > downs end)
        order(flaps, "serve")
        assert.is_nil((theirs:receive(1)))
        theirs:close()
        assert.equal("up: address went down", web:record(number + 1).reason)
        local later = open(web) -- the same down is none of its business
        wait_state(web, address, "ready")
        later:send("still here\n")
        assert.equal("still here", later:receive("*l"))
        later:close()
    end)
end)
