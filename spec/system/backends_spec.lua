-- Several servers behind one listener: some die, stall, are not who they should be, and come back. Nobody else is cut,
-- who is dead is left, who is back is used again.

local backends = require "backends"
local bench = require "bench"
local certs = require "certs"
local nginx = require "nginx"
local proxy = require "proxy"

teardown(proxy.cleanup)

local KILL, STOP, CONT = proxy.signals.KILL, proxy.signals.STOP, proxy.signals.CONT
local at, quoted, views, wait_state = backends.at, backends.quoted, backends.views, backends.wait_state
local total, log_count, ask = backends.total, backends.log_count, backends.ask

describe("a backend that dies with 500 connections open", function()
    it("takes only its own along, and is used again when it is back", function()
        local servers, addresses = backends.echo_servers(3)
        local port = bench.port()
        local web = proxy.start { port = port, addresses = quoted(addresses), script = [[
            moongate.listen { address = "127.0.0.1:$port", backend = moongate.backend { name = "three",
                address = { $addresses }, balance = "least_connections", health = { fall = 3, rest = 0.2 } } }
        ]] }
        local held = bench.echo_load { connect = at(port), hold = 500, message = 200, pause = 200 }
        bench.wait("500 connections", function() return held:result().holding == 500 end)
        local theirs = total(web, addresses[2], "open")
        assert.is_true(theirs > 100 and theirs < 240, theirs .. " of 500")
        servers[2]:signal(KILL)
        bench.wait("the end of its connections", function() return total(web, addresses[2], "open") == 0 end)
        local churn = bench.echo_load { connect = at(port), churn = 10, message = 200 }
        web:wait_log(("backend three: %s rests for 0.2 s: 3 failures in a row, the last: up: connection refused")
            :format(addresses[2]))
        bench.wait("some that came later", function() return (churn:result().churned or 0) > 200 end)
        local back = bench.echo_server { listen = addresses[2] }
        web:wait_log(("backend three: %s is ready again: a connection succeeded"):format(addresses[2]))
        bench.wait("its use", function() return total(web, addresses[2], "open") > 0 end)
        local result = churn:finish()
        assert.equal(0, result.failed, tostring(result.reasons))
        result = held:finish()
        assert.equal(theirs, result.failed, tostring(result.reasons))
        assert.equal(500 - theirs, result.holding)
        local refused = 0
        for _, record in ipairs(web:records()) do
            if record.failures then
                refused = refused + 1
                assert.equal(addresses[2] .. ": up: connection refused", record.failures)
                assert.is_true(record.tries == 2 and record.backend_address ~= addresses[2])
            end
        end
        assert.is_true(refused >= 3, refused .. " tries that failed")
        back:stop()
        web:stop()
    end)
end)

describe("a redis that stalls", function()
    it("is left by new connections, its own are closed, and it is used again when it answers", function()
        local ports = { bench.port(), bench.port() }
        local first, second = backends.redis(ports[1]), backends.redis(ports[2])
        local port = bench.port()
        local web = proxy.start { port = port, addresses = quoted { at(ports[1]), at(ports[2]) }, script = [[
            moongate.listen { address = "127.0.0.1:$port", backend = moongate.backend { name = "redis",
                address = { $addresses }, balance = "first", on_down = "close",
                health = { interval = 0.05, timeout = 1, rise = 2, fall = 2, send = "PING\r\n", expect = "+PONG" } } }
        ]] }
        local client = bench.connect(port)
        client:send("PING\r\n")
        assert.equal("+PONG", client:receive("*l"))
        first:signal(STOP)
        wait_state(web, at(ports[1]), "down")
        assert.is_nil(client:receive("*l"))
        client:close()
        assert.equal("up: address went down", web:record(1).reason)
        for _ = 1, 4 do
            assert.equal("+PONG", ask(port, "PING\r\n"))
        end
        assert.equal(1, log_count(web, ("backend redis: %s is down: 2 probes in a row failed, the last: "
            .. "no answer within 1 s"):format(at(ports[1]))))
        first:signal(CONT)
        wait_state(web, at(ports[1]), "ready")
        assert.equal("+PONG", ask(port, "PING\r\n"))
        assert.equal(at(ports[1]), web:record(6).backend_address)
        assert.equal("ready", views(web, at(ports[2]))[1].state)
        second:stop()
        first:stop()
        web:stop()
    end)
end)

describe("an nginx with the wrong certificate", function()
    it("is down until it has the right one", function()
        local port, backend = bench.port(), bench.port()
        local bad = nginx.start { port = backend, tls = certs.stranger }
        local web = proxy.start { port = port, backend = backend, script = [[
            moongate.listen { address = "127.0.0.1:$port", backend = moongate.backend { name = "secure",
                address = "localhost:$backend", tls = client(), health = { interval = 0.05, rise = 1, fall = 1,
                    send = "GET / HTTP/1.0\r\n\r\n", expect = "200 OK" } } }
        ]] }
        local name = at(backend) -- localhost may be ::1, too, where nobody is
        wait_state(web, name, "down")
        assert.matches("certificate verify failed", web:wait_log("is down"))
        assert.is_nil(ask(port, "GET / HTTP/1.0\r\n\r\n"))
        assert.equal("up: all addresses down", web:record(1).reason)
        bad:stop()
        local good = nginx.start { port = backend, tls = certs.ec }
        wait_state(web, name, "ready")
        assert.matches("200 OK", ask(port, "GET / HTTP/1.0\r\n\r\n"))
        good:stop()
        web:stop()
    end)
end)

describe("a backend that refuses what a client has brought", function()
    it("is no worse for the others: only without a PROXY header failures of TLS count", function()
        local server = bench.echo_server() -- which is no TLS, whoever asks
        local ports = { own = bench.port(), brought = bench.port() }
        local web = proxy.start { own = ports.own, brought = ports.brought, echo = server.port, script = [[
            for name, port in pairs { own = $own, brought = $brought } do
                moongate.listen { name = name, address = "127.0.0.1:" .. port, backend = moongate.backend { name = name,
                    address = "127.0.0.1:$echo", tls = client(), send_proxy = name == "brought" and "v1",
                    health = { fall = 2, rest = 60 } } }
            end
        ]] }
        for _ = 1, 3 do
            ask(ports.brought, "hello\n")
            ask(ports.own, "hello\n")
        end
        web:records(6)
        web:wait_log(("backend own: 127.0.0.1:%d rests"):format(server.port))
        assert.equal(0, log_count(web, "backend brought:"))
        web:stop()
    end)
end)
