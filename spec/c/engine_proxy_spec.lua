-- PROXY headers in the engine: a prefix that does not leave at once, and every allocation that fails.

local bench = require "bench"
local engine = require "engine"
local net = require "mgtest".net
local socket = require "socket"

teardown(engine.cleanup)

describe("what goes before the first bytes", function()
    local function sent(filler, prefix, data, flush)
        local got, rc, closed = net.prefixed(filler, prefix, data, flush)
        assert.is_true(closed)
        return got:gsub("^%.*", ""), rc
    end

    it("leaves with them, or when it is flushed", function()
        for _, flush in ipairs { true, false } do
            local got, rc = sent("", "prefix", "data", flush)
            assert.same({ "prefixdata", 0 }, { got, rc })
        end
        assert.equal("prefix", (sent("", "prefix", "", true)))
        assert.equal("", (sent("", "prefix", ""))) -- a stream that closes
    end)

    it("is finished later where the socket takes nothing, or a part", function()
        local long = ("0123456789"):rep(3000)
        for _, filler in ipairs { ("."):rep(4096), ("."):rep(100), "" } do
            for _, flush in ipairs { true, false } do
                for _, prefix in ipairs { "prefix", long } do
                    local got, rc = sent(filler, prefix, long, flush)
                    assert(got == prefix .. long, #got)
                    assert.equal(1, rc)
                end
            end
            assert(long == sent(filler, long, "", true))
        end
    end)
end)

describe("a failing allocation", function()
    for version = 1, 2 do
        it(("costs at most its connection: version %d"):format(version), function()
            local server = assert(socket.bind("127.0.0.1", 0))
            local _, port = server:getsockname()
            local web = engine.start { accept_proxy = true,
                backend = { addresses = { "127.0.0.1:" .. port }, send_proxy = version } }
            server:settimeout(0)
            -- What the backend gets up to "hello", or to the end; "": nobody has connected to it.
            local function heard(client)
                local connection
                bench.wait("the backend or an end", function()
                    connection = server:accept()
                    return connection or select(2, client:receive(1)) ~= "timeout"
                end)
                if not connection then
                    return ""
                end
                local got = ""
                connection:settimeout(20)
                repeat
                    local byte = connection:receive(1)
                    got = got .. (byte or "")
                until not byte or got:find("hello$")
                connection:close()
                return got
            end
            local function once()
                local client, got = bench.connect(web.port), "" -- nil: reset as soon as it was accepted
                if client then
                    client:send("PROXY TCP4 192.0.2.1 192.0.2.2 3 4\r\nhello")
                    client:settimeout(0)
                    got = heard(client)
                    client:close()
                end
                local count = tonumber(web:ask("fail 0"))
                web:wait_idle()
                return got, count
            end
            local whole = once()
            assert.equal("hello", whole:sub(-5))
            local _, count = once()
            assert.is_true(count > 0)
            for n = 1, count do
                web:ask("fail " .. n)
                local got = once()
                assert(got == "" or got:sub(-5) == "hello", got)
            end
            assert.equal("hello", once():sub(-5))
            server:close()
            web:stop()
        end)
    end
end)
