-- Backends that stall, refuse, reset and come back while 500 connections are open (200 where all is slow): nobody on
-- another address loses a byte, who comes goes elsewhere, who is back is used again, and the records say what happened.

local backends = require "backends"
local bench = require "bench"
local certs = require "certs"
local proxy = require "proxy"

teardown(proxy.cleanup)

local STOP, CONT = proxy.signals.STOP, proxy.signals.CONT
local at, quoted, total = backends.at, backends.quoted, backends.total
local log_count, order = backends.log_count, backends.order
local HELD, TIMEOUT = bench.slow and 200 or 500, bench.slow and 6 or 3

describe("with hundreds of connections open", function()
    local web, port, held, churn
    local servers, addresses, descriptors = {}, {}, {}

    setup(function()
        for i = 1, 3 do
            addresses[i] = at(bench.port())
            servers[i] = bench.echo_server { listen = addresses[i], tls = true, cert = certs.ec.crt,
                key = certs.ec.key }
        end
        port = bench.port()
        web = proxy.start { port = port, addresses = quoted(addresses), timeout = TIMEOUT, script = [[
            moongate.listen { address = "127.0.0.1:$port", tls = server(), handshake_timeout = 60,
                backend = moongate.backend { name = "three",
                address = { $addresses }, balance = "least_connections", tls = client(), servername = "localhost",
                connect_timeout = $timeout, health = { fall = 3, rest = 0.2 } } }
        ]] }
        for _, pid in ipairs(web:wait_workers(2)) do
            descriptors[pid] = bench.descriptors(pid) -- nil: not ours to see
        end
        held = bench.echo_load { connect = at(port), tls = true, servername = "localhost", cafile = certs.ca.crt,
            hold = HELD, message = 200, pause = 1000, stuck = 200000 }
        bench.wait("connections", function() return held:result().holding == HELD end, 60)
    end)

    local function others_come()
        churn = bench.echo_load { connect = at(port), tls = true, servername = "localhost", cafile = certs.ca.crt,
            churn = 4, every = 50, message = 200, stuck = 200000 }
    end

    local function others_came()
        local result = churn:finish(60)
        assert.equal(0, result.failed, tostring(result.reasons))
    end

    -- From here on so many connections more have come and gone.
    local function some_more(count)
        local before = churn:result().churned or 0
        bench.wait("some that came later", function() return (churn:result().churned or 0) > before + count end, 60)
    end

    local function wait_rest(address, reason)
        local rests = "backend three: %s rests for 0.2 s: 3 failures in a row, the last: %s"
        web:wait_log(rests:format(address, reason), 60)
    end

    local function wait_use(address)
        local ready = ("backend three: %s is ready again: a connection succeeded"):format(address)
        bench.wait("its use", function() return log_count(web, ready) > 0 and total(web, address, "open") > 0 end, 60)
    end

    -- That many bytes more have come to those who hold.
    local function all_talk()
        local before = held:result().bytes
        bench.wait("their answers", function() return held:result().bytes > before + HELD * 100 end, 60)
    end

    -- Records of connections that found the address so, and were served elsewhere: at least so many.
    local function check_records(least, address, reasons)
        local found = 0
        for _, record in ipairs(web:records()) do
            local reason = (record.failures or ""):match("^" .. address:gsub("%p", "%%%0") .. ": ([^;]+)$")
            if reason and reasons[reason] and record.reason == "relay: done" then
                found = found + 1
                assert.equal(2, record.tries)
                assert.is_true(record.backend_address ~= address)
            end
        end
        assert.is_true(found >= least, found .. " tries that failed")
    end

    it("one that stalls is left by those who come, and takes up where it was when it goes on", function()
        others_come()
        servers[1]:signal(STOP)
        wait_rest(addresses[1], "up: connect timeout")
        some_more(20)
        servers[1]:signal(CONT)
        wait_use(addresses[1])
        others_came()
        all_talk()
        assert.equal(0, held:result().failed) -- those who had to wait have lost nothing, either
        check_records(3, addresses[1], { ["up: connect timeout"] = true })
    end)

    it("one that refuses keeps those that it has", function()
        others_come()
        order(servers[2], "refuse")
        wait_rest(addresses[2], "up: connection refused")
        some_more(20)
        all_talk()
        assert.equal(0, held:result().failed)
        order(servers[2], "serve")
        wait_use(addresses[2])
        others_came()
        check_records(3, addresses[2], { ["up: connection refused"] = true })
    end)

    it("one that resets all takes only its own along", function()
        bench.wait("no others", function() return web:open_connections() == HELD end, 60)
        local theirs = total(web, addresses[3], "open")
        assert.is_true(theirs > HELD / 10 and theirs < HELD * 0.6, theirs .. " of " .. HELD)
        order(servers[3], "reset")
        bench.wait("the end of its connections", function() return total(web, addresses[3], "open") == 0 end, 60)
        bench.wait("their word", function() return held:result().failed == theirs end, 60)
        others_come()
        web:wait_log(("backend three: %s rests"):format(addresses[3]), 60)
        some_more(20)
        all_talk()
        order(servers[3], "serve")
        wait_use(addresses[3])
        others_came()
        check_records(3, addresses[3], { ["up: reset during the handshake"] = true,
            ["up: reset while connecting"] = true, ["up: closed during the handshake"] = true })
        local reset = 0
        for _, record in ipairs(web:records()) do
            if record.reason == "up: reset" then
                assert.equal(addresses[3], record.backend_address)
                reset = reset + 1
            end
        end
        assert.equal(theirs, reset)
        local result = held:finish(60)
        assert.equal(theirs, result.failed, tostring(result.reasons))
        assert.equal(HELD - theirs, result.holding)
    end)

    it("nothing is left of it all", function()
        bench.wait("no connection", function() return web:open_connections() == 0 end, 60)
        for _, address in ipairs(addresses) do
            for _, view in ipairs(backends.views(web, address)) do
                assert.equal(0, view.open_everywhere)
            end
        end
        for pid, before in pairs(descriptors) do
            bench.wait("descriptors to be given back", function() return bench.descriptors(pid) <= before + 8 end)
        end
        for _, server in ipairs(servers) do
            server:stop()
        end
        web:stop()
    end)
end)
