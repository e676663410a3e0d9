-- TLS messages after the handshake: what a peer may have libssl do, and what waits for their second half.

local bench = require "bench"
local engine = require "engine"
local tls = require "mgtest".tls

local HANDSHAKE, DATA = 22, 23
local MIB = 1024 * 1024

teardown(engine.cleanup)

local function update(requested)
    return { HANDSHAKE, "\24\0\0\1" .. (requested and "\1" or "\0"), rekey = true }
end

local function times(count, ...)
    local list = {}
    for _ = 1, count do
        for _, record in ipairs { ... } do
            list[#list + 1] = record
        end
    end
    return list
end

-- A client of these records (see records in tls.c); what came back.
local function say(web, repeats, first, second)
    local client = bench.connect(web.port)
    client:settimeout(nil) -- a blocking descriptor for C
    local answer = tls.records(client:getfd(), repeats, first, second)
    client:close()
    return answer
end

describe("key updates", function()
    local web

    setup(function() web = engine.start { tls = engine.server(), backend = { kind = "echo" } } end)
    teardown(function() web:stop() end)

    for name, requested in pairs { ["that want an answer"] = true, ["that want none"] = false } do
        it(name .. " are taken, a few of them", function()
            local number = #web:records() + 1
            assert.equal("hello", say(web, 1, times(30, update(requested)), { { DATA, "hello" }, { 21, "\1\0" } }))
            assert.equal("relay: done", web:record(number).reason)
        end)

        it(name .. " end the connection when they are many, at once", function()
            local number = #web:records() + 1
            say(web, 1, times(2000, update(requested)))
            local record = web:record(number)
            assert.equal("down: too many key updates", record.reason)
            assert.is_true(bench.slow or record.total_ms < 1000, record.total_ms)
        end)

        it(name .. " end it also when there is a byte in between, or a pause", function()
            local number = #web:records() + 1
            say(web, 1, times(100, update(requested), { DATA, "x" }))
            assert.equal("down: too many key updates", web:record(number).reason)
            say(web, 200, { update(requested) })
            assert.equal("down: too many key updates", web:record(number + 1).reason)
        end)
    end

    it("may come now and then for ever", function()
        local between = engine.between(engine.modes[1])
        local server = bench.exchange { listen = "127.0.0.1:" .. between.backend_port, finish_when = "eof" }
        local part = times(32, { DATA, ("x"):rep(16384) })
        part[#part + 1] = update(false)
        say(between, 60, part, { { 21, "\1\0" } })
        assert.equal(30 * MIB, server:finish().got)
        assert.equal("relay: done", between:record(1).reason)
        between:stop()
    end)
end)

describe("empty records", function()
    it("end the connection when they are many", function()
        local web = engine.start { tls = engine.server(), backend = { kind = "echo" } }
        say(web, 1, times(2000, { DATA, "" }))
        assert.matches("^down: ", web:record(1).reason)
        assert.not_equal("down: reset", web:record(1).reason)
        web:stop()
    end)
end)

describe("a client that asks for answers and does not read them", function()
    it("is no longer read, and is found not to be reading", function()
        local web = engine.between(engine.modes[1], { idle_timeout = 1000 })
        local server = bench.exchange { listen = "127.0.0.1:" .. web.backend_port, bytes = 64 * MIB,
            finish_when = "eof" }
        local part = times(2, { DATA, ("x"):rep(16384) }, { DATA, ("x"):rep(7000) })
        part[#part + 1] = update(true)
        say(web, 2000, part)
        assert.equal("down: not reading", web:record(1).reason)
        assert.is_true(web:record(1).bytes_up < 60 * MIB)
        server:stop()
        web:stop()
    end)
end)

describe("half a message behind a request", function()
    local first = { { DATA, "hello" }, { HANDSHAKE, "\24\0\0\1" } }
    local second = { { HANDSHAKE, "\0", rekey = true } }
    local ending = { { HANDSHAKE, "\0", rekey = true }, { 21, "\1\0" } }

    it("holds a reply back, and loses nothing of it", function()
        local web = engine.start { tls = engine.server(), backend = { kind = "reply", reply = "answer" } }
        for number, rest in ipairs { second, ending } do
            assert.equal("answer", say(web, 1, first, rest))
            assert.equal("relay: done", web:record(number).reason)
        end
        web:stop()
    end)

    it("holds an echo back, and loses nothing of it", function()
        local web = engine.start { tls = engine.server(), backend = { kind = "echo" } }
        assert.equal("hello", say(web, 1, first, ending))
        assert.equal("relay: done", web:record(1).reason)
        web:stop()
    end)

    it("holds a backend's answer and its end back", function()
        local web = engine.between(engine.modes[1])
        local server = bench.exchange { listen = "127.0.0.1:" .. web.backend_port, bytes = 100000,
            finish_when = "got:5" }
        assert.equal(100000, #say(web, 1, first, ending))
        assert.equal("fin", server:finish()["end"])
        assert.equal("relay: done", web:record(1).reason)
        web:stop()
    end)
end)
