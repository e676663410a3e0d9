-- Addresses that only functions give: what is kept of them, for how long, and what happens when there are too many.

local bench = require "bench"
local engine = require "engine"
local socket = require "socket"

teardown(engine.cleanup)

-- So many ways to write "localhost": one name, and an address each for who compares texts.
local function spellings(count, port)
    local list = {}
    for i = 0, count - 1 do
        local at = 0
        list[i + 1] = ("localhost"):gsub(".", function(c)
            at = at + 1
            return i >> (at - 1) & 1 == 1 and c:upper() or c
        end) .. ":" .. port
    end
    return list
end

-- A reset may come before the client has noticed that it was connected.
local function open(web)
    local client = socket.tcp4()
    client:settimeout(20)
    return client, client:connect("127.0.0.1", web.port) and client:send("hello\n") and client:receive("*l") or nil
end

local function ask(web)
    local client, answer = open(web)
    client:close()
    return answer
end

local function start(options)
    options.route, options.backend = true, { kind = "echo" }
    return engine.start(options)
end

local function memory(web)
    web:wait_idle()
    return tonumber(web:ask("memory"))
end

describe("addresses that functions give", function()
    local port

    setup(function() port = bench.echo_server().port end)

    it("are kept up to a bound, over which the one that nobody has used for the longest time gives way", function()
        local web = start { give = spellings(64, port), given_max = 8 }
        for _ = 1, 64 do
            assert.equal("hello", ask(web))
        end
        local before = memory(web)
        for _ = 1, 192 do
            assert.equal("hello", ask(web))
        end
        assert.is_true(memory(web) - before < 64 * 1024)
        assert.same({ addresses = 8, in_use = 0 }, web:status().given)
        web:stop()
    end)

    it("that connections have do not give way: who is sent to a further one is refused, and the log says so", function()
        local web = start { give = spellings(6, port), given_max = 3 }
        local clients = {}
        for i = 1, 3 do
            local answer
            clients[i], answer = open(web)
            assert.equal("hello", answer)
        end
        assert.is_nil((ask(web)))
        assert.is_nil((ask(web)))
        for i = 1, 2 do
            assert.equal("route: too many addresses", web:record(i).reason)
        end
        local _, said = bench.read(web.options.log):gsub("3 different addresses have connections", "")
        assert.equal(1, said)
        assert.same({ addresses = 3, in_use = 3 }, web:status().given)
        for i = 1, 3 do
            clients[i]:send("still\n")
            assert.equal("still", (clients[i]:receive("*l")))
            clients[i]:close()
        end
        web:wait_idle()
        for _ = 1, 6 do
            assert.equal("hello", ask(web))
        end
        web:stop()
    end)

    it("are forgotten a while after their last connection, and not before", function()
        local web = start { give = spellings(4, port), given_idle = 50 }
        local client = open(web)
        for _ = 1, 3 do
            assert.equal("hello", ask(web))
        end
        bench.wait("three to be forgotten", function()
            local given = web:status().given
            return given.addresses == 1 and given.in_use == 1
        end)
        client:send("still\n")
        assert.equal("still", (client:receive("*l")))
        client:close()
        bench.wait("the last one, too", function() return web:status().given.addresses == 0 end)
        assert.equal("hello", ask(web))
        web:stop()
    end)

    it("go with their generation, once their last connection does", function()
        local web = start { give = spellings(3, port) }
        local client = open(web)
        assert.equal("hello", ask(web))
        web:ask("reload")
        bench.wait("the old one's end, but for what it has open", function()
            return web:status().given.addresses == 2
        end)
        assert.equal("hello", ask(web))
        client:send("still\n")
        assert.equal("still", (client:receive("*l")))
        client:close()
        bench.wait("the new one's to be left", function()
            return web:status().given.addresses == 1
        end)
        web:stop()
    end)

    it("cost a connection, and no more, when an allocation for them fails", function()
        local web = start { give = spellings(200, port), given_max = 4 }
        ask(web)
        web:ask("fail 0")
        assert.equal("hello", ask(web))
        web:wait_idle()
        for n = 1, tonumber(web:ask("fail 0")) do
            web:ask("fail " .. n)
            ask(web)
        end
        web:ask("fail 0")
        assert.equal("hello", ask(web))
        web:stop()
    end)

    it("may be closed in the middle of their look-up", function()
        local web = start { give = { "no-such-host.invalid:1", "no-such-host.invalid:2" }, given_max = 1 }
        for _ = 1, 4 do
            local client = socket.tcp4()
            client:connect("127.0.0.1", web.port)
            client:setoption("linger", { on = true, timeout = 0 })
            client:close()
        end
        web:ask("close")
        web:stop()
    end)
end)

describe("a name that a function gives", function()
    it("is looked up again only when it is used, and an old answer is waited for", function()
        local port = bench.echo_server().port
        local web = start { give = { "localhost:" .. port }, given_interval = 1 }
        for _ = 1, 3 do
            assert.equal("hello", ask(web))
        end
        local lookups, began = web:status().lookups, bench.now()
        bench.wait("more than two intervals", function() return bench.now() - began > 2.2 end)
        assert.equal(lookups, web:status().lookups)
        assert.equal("hello", ask(web))
        assert.equal(lookups + 1, web:status().lookups)
        web:stop()
    end)
end)
