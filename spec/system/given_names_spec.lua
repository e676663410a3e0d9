-- Names that only functions give, as strangers may make them up: what they cost.

local bench = require "bench"
local dns = require "dns"
local proxy = require "proxy"
local socket = require "socket"

local impossible = dns.impossible()

teardown(proxy.cleanup)

describe("names that functions give", function()
    local web, front, server

    local function ask(text, answers)
        local client = socket.tcp4()
        client:settimeout(20)
        local answer = client:connect("127.0.0.1", front) and client:send(text .. "\n") and client:receive("*l")
        client:close()
        assert.equal(answers and text or nil, answer)
    end

    local function counts()
        return web:status().workers[1].engine
    end

    local function queries()
        local _, count = bench.read(server.log):gsub("query%[A%] %l+%d+%.test ", "")
        return count
    end

    local SCRIPT = [[
local asked = 0
moongate.backend { name = "clock", address = "clock.test:80", resolve_interval = 1 }
moongate.listen { name = "web", address = "127.0.0.1:$port", backend = function(conn)
    asked = asked + 1
    return $give
end }
]]

    local function start(give, more)
        front = bench.port()
        local options = { workers = 1, port = front, up = bench.echo_server().port }
        for key, value in pairs(more or {}) do
            options[key] = value
        end
        options.script = SCRIPT:gsub("%$give", function() return give end)
        web = proxy.start(options)
    end

    it("are bounded, and the log does not say more of them than that", function()
        start([[("127.%d.%d.%d:$up"):format(1 + asked // 62500, asked // 250 % 250, asked % 250 + 1)]])
        for _ = 1, 300 do
            ask("refused", false)
        end
        assert.equal(300, counts().given.addresses)
        local before = bench.memory(web:wait_workers(1)[1])
        local more = bench.slow and 300 or 4200 -- spec/c/engine_given has the bound, too
        for _ = 1, more do
            ask("refused", false)
        end
        assert.equal(math.min(300 + more, 4096), counts().given.addresses)
        local grown = bench.memory(web:wait_workers(1)[1]) - before
        assert.is_true(bench.slow or grown < 24 * 1024, grown)
        assert.is_nil(web:log_text():find("127.1.", 1, true))
        web:stop()
    end)

    if impossible then
        pending("are looked up once each: " .. impossible)
        return
    end

    it("are looked up when somebody is sent there, not behind anybody's back, nor told of in the log", function()
        local names = {}
        for i = 1, 60 do
            names[("n%d.test"):format(i)] = { "127.0.0.1" }
        end
        names["clock.test"] = { "127.0.0.1" }
        server = dns.start(names)
        start([[(asked <= 60 and "n%d.test:$up" or "missing%d.test:$up"):format(asked)]], { prefix = server:world() })
        for i = 1, 80 do
            ask("hello", i <= 60)
        end
        bench.wait("the log of all queries", function() return queries() >= 80 end)
        local asked, clock = queries(), server:queries("clock.test")
        bench.wait("a while, by the clock of another one's look-ups", function()
            return server:queries("clock.test") >= clock + 3
        end)
        assert.equal(asked, queries())
        assert.is_true(asked <= 90, asked)
        assert.equal(80, counts().given.addresses)
        assert.same({ "clock.test" }, { counts().names[1].name, counts().names[2] })
        assert.is_nil(web:log_text():find("missing", 1, true))
        web:stop()
    end)
end)
