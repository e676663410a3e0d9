-- Listening sockets at their edges: a queue that is emptied, and an error of the socket itself.

local bench = require "bench"
local engine = require "engine"

teardown(engine.cleanup)

describe("an address that goes away", function()
    it("is emptied over many turns, and loses nobody", function()
        local port = bench.port()
        local web = engine.start { port = port, backend = { kind = "echo" }, max_connections = 1 }
        local clients = {}
        for i = 1, 600 do
            clients[i] = assert(bench.connect(port))
        end
        local began = bench.now()
        local accepted = tonumber(web:ask("drain"):match("draining, (%d+) accepted"))
        assert.is_true(accepted < 100, accepted) -- the rest while the loop goes on
        bench.wait("all of them", function() return web:status().sessions == 600 end)
        assert.is_true(bench.slow or bench.now() - began < 5)
        bench.wait("no frontend", function() return #web:status().frontends == 0 end)
        for _, client in ipairs(clients) do
            client:send("x\n")
            assert.equal("x", client:receive("*l"))
            client:close()
        end
        web:stop()
    end)

    it("is closed at once when the engine closes", function()
        local port = bench.port()
        local web = engine.start { port = port, backend = { kind = "echo" }, max_connections = 1 }
        local clients = {}
        for i = 1, 300 do
            clients[i] = assert(bench.connect(port))
        end
        web:ask("drain")
        web:stop()
        for _, client in ipairs(clients) do
            client:close()
        end
    end)
end)

describe("a listening socket with an error", function()
    it("is reported once, and polled again", function()
        local path = bench.path("pair.sock")
        local server = require "socket.unix" ()
        assert(server:bind(path))
        assert(server:listen())
        local near = require "socket.unix" ()
        assert(near:connect(path))
        local far = server:accept()
        near:send("unread")
        local web = engine.start { fd = near:getfd(), backend = { kind = "echo" } }
        far:close() -- with unread bytes: ECONNRESET, which polls as an error
        bench.wait("the report", function()
            return bench.read(web.options.log):find("listening socket: Connection reset by peer", 1, true)
        end)
        bench.sleep(0.3)
        assert.equal(1, select(2, bench.read(web.options.log):gsub("listening socket:", "")))
        near:close()
        server:close()
        web:stop()
    end)
end)
