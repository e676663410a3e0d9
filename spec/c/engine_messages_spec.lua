-- TLS messages after the handshake: what a peer may have libssl do, and what waits for their second half.

local bench = require "bench"
local certs = require "certs"
local engine = require "engine"
local socket = require "socket"
local tls = require "mgtest".tls

local ALERT, HANDSHAKE, DATA = 21, 22, 23
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

-- A client of these records (see records.c); what came back.
local function say(web, repeats, first, second, options)
    local client = bench.connect(web.port)
    client:settimeout(nil) -- a blocking descriptor for C
    local answer = tls.records(client:getfd(), repeats, first, second, options)
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
            assert.is_true(record.total_ms < 10000, record.total_ms) -- and not at idle_timeout
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

-- What brings nothing, and the end that many of it make of the connection.
local floods = {
    { name = "empty records", record = { DATA, "" }, reason = "too many records without data" },
    { name = "records of padding", record = { DATA, "", padding = 16000 }, count = 100,
        reason = "too many records without data" },
    { name = "empty records", version = "1.2", record = { DATA, "" }, reason = "too many records without data" },
    { name = "warnings", record = { ALERT, "\1\90" }, reason = "too many warnings" },
    { name = "warnings", version = "1.2", record = { ALERT, "\1\90" }, reason = "too many warnings" },
    { name = "ChangeCipherSpec", record = { 20, "\1", plain = true }, reason = "TLS error" },
    { name = "ChangeCipherSpec", version = "1.2", record = { 20, "\1" }, reason = "TLS error" },
    { name = "beginnings of a message", record = { HANDSHAKE, "\24" }, reason = "TLS error" },
    { name = "renegotiations", version = "1.2", record = { HANDSHAKE, "\1\0\0\2\3\3" },
        of_server = { HANDSHAKE, "\0\0\0\0" }, reason = "too many renegotiations" },
    { name = "key updates", record = update(true), reason = "too many key updates" },
}

-- One who was there before and has to be served all the time.
local function witness(web)
    local load = bench.echo_load { connect = web.address, tls = true, servername = "localhost",
        cafile = certs.ca.crt, hold = 1, pause = 1, message = 100 }
    bench.wait("the witness", function() return load:result().holding == 1 end)
    return load
end

describe("a flood by a client", function()
    local web, others

    setup(function()
        web = engine.start { tls = engine.server(), backend = { kind = "echo" } }
        others = witness(web)
    end)
    teardown(function()
        assert.equal(0, others:finish().failed)
        web:stop()
    end)

    for _, flood in ipairs(floods) do
        it(("of %s (TLS %s) ends its connection with a reason"):format(flood.name, flood.version or "1.3"), function()
            local number = #web:records() + 1
            say(web, 1, times(flood.count or 2000, flood.record), nil, { version = flood.version })
            assert.equal("down: " .. flood.reason, web:record(number).reason)
        end)
    end

    for _, version in ipairs { "1.2", "1.3" } do
        it(("of warnings with a byte in between (TLS %s) is called so, too"):format(version), function()
            local number = #web:records() + 1
            say(web, 1, times(500, { ALERT, "\1\90" }, { DATA, "x" }), nil,
                { version = version ~= "1.3" and version or nil })
            assert.equal("down: too many warnings", web:record(number).reason)
        end)
    end

    it("of all kinds, and of bytes one by one, holds up nobody else for more than a turn", function()
        local slow, before, rounds = {}, #web:records(), 3
        for i = 1, 40 do
            slow[i] = bench.connect(web.port)
            if i % 4 == 0 then -- has shaken hands, and begun a record
                slow[i]:settimeout(nil)
                tls.records(slow[i]:getfd(), 1, { { DATA, ("x"):rep(16000), cut = 10 } }, nil, { stay = "yes" })
            else
                slow[i]:send("\22\3\1\2\0\1\0\1\252\3\3")
            end
        end
        for _ = 1, rounds do
            for _, flood in ipairs(floods) do
                say(web, 1, times(flood.count or 2000, flood.record), nil, { version = flood.version })
                for _, client in ipairs(slow) do
                    client:send("\0")
                end
            end
        end
        for _, client in ipairs(slow) do
            client:close()
        end
        web:record(before + rounds * #floods + #slow)
        local waited = tonumber(web:ask("waited"))
        assert.is_true(waited <= 2, waited .. " turns")
    end)

    it("need not come at once", function()
        local number = #web:records() + 1
        say(web, 60, { { HANDSHAKE, "\1\0\0\2\3\3" }, { DATA, "still here" } }, nil, { version = "1.2" })
        assert.equal("down: too many renegotiations", web:record(number).reason)
    end)

    it("is not what a single one makes", function()
        local number = #web:records() + 1
        -- libssl as a client takes our no for a failure.
        say(web, 1, { { HANDSHAKE, "\1\0\0\2\3\3" }, { DATA, "" }, { ALERT, "\1\90" },
            { DATA, "hello" }, { ALERT, "\1\0" } }, nil, { version = "1.2" })
        local record = web:record(number)
        assert.equal("relay: done", record.reason)
        assert.equal(5, record.bytes_down)
    end)
end)

describe("a flood by a backend", function()
    local web

    setup(function() web = engine.between { down = false, up = true } end)
    teardown(function() web:stop() end)

    for _, flood in ipairs(floods) do
        it(("of %s (TLS %s) ends its connection with a reason"):format(flood.name, flood.version or "1.3"), function()
            local number = #web:records() + 1
            local listening = assert(socket.bind("127.0.0.1", web.backend_port))
            local client = bench.connect(web.port)
            client:send("hello")
            listening:settimeout(20)
            local up = assert(listening:accept())
            up:settimeout(nil)
            tls.records(up:getfd(), 1, times(flood.count or 2000, flood.of_server or flood.record), nil,
                { version = flood.version, crt = certs.ec.crt, key = certs.ec.key })
            assert.equal("up: " .. flood.reason, web:record(number).reason)
            client:close()
            up:close()
            listening:close()
        end)
    end
end)

describe("a flood that a probe meets", function()
    for _, name in ipairs { "renegotiations", "key updates" } do
        it(("of %s is why the address is down"):format(name), function()
            local flood
            for _, each in ipairs(floods) do
                flood = each.name == name and each or flood
            end
            local listening = assert(socket.bind("127.0.0.1", 0))
            listening:settimeout(20)
            local web = engine.start { backend = {
                addresses = { "127.0.0.1:" .. select(2, listening:getsockname()) },
                tls = { ca = certs.ca.crt }, servername = "localhost",
                health = { interval = 60000, timeout = 60000, fall = 1, rise = 1, tls = true, expect = "220" } } }
            local probe = assert(listening:accept())
            probe:settimeout(nil)
            tls.records(probe:getfd(), 1, times(flood.count or 2000, flood.of_server or flood.record), nil,
                { version = flood.version, crt = certs.ec.crt, key = certs.ec.key })
            bench.wait("the verdict", function()
                return bench.read(web.options.log):find("is down: 1 probe failed: " .. flood.reason, 1, true)
            end)
            probe:close()
            listening:close()
            web:stop()
        end)
    end
end)

describe("a record that comes byte by byte", function()
    it("is no sign of life", function()
        local web = engine.start { tls = engine.server(), idle_timeout = 500, backend = { kind = "echo" } }
        local client = bench.connect(web.port)
        client:settimeout(nil)
        -- A whole record, and the beginning of another one.
        tls.records(client:getfd(), 1, { { DATA, "hello" }, { DATA, ("x"):rep(16000), cut = 10 } }, nil,
            { stay = "yes" })
        bench.wait("the end", function()
            client:send("x")
            bench.sleep(0.05)
            return web:records()[1]
        end)
        assert.equal("relay: idle timeout", web:record(1).reason)
        client:close()
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
