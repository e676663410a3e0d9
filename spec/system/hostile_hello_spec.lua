-- Random and mutated ClientHellos at the real thing: each gets a ServerHello or a clean refusal, the worker neither
-- dies nor grows. HELLOS=33400 says how many for each of three listeners.

local bench = require "bench"
local proxy = require "proxy"
local socket = require "socket"

local COUNT = tonumber(os.getenv("HELLOS")) or bench.slow and 400 or 2000

local SCRIPT = [[
local ctx = server()
moongate.listen { name = "names", address = "127.0.0.1:$names", backend = moongate.echo(), tls = moongate.servernames {
    ctx, ["*.example"] = server(), ["no.example"] = false, none = ctx } }
moongate.listen { name = "asked", address = "127.0.0.1:$asked", backend = moongate.echo(), tls = function(hello)
    local seen = { hello.servername, hello.ja4, #hello.raw, #hello.session_id, hello.supports_ecdsa }
    for _, list in ipairs { hello.alpn_protocols, hello.versions, hello.cipher_suites, hello.groups,
        hello.signature_algorithms } do
        seen[#seen + 1] = table.concat(list, ",")
    end
    if hello.servername == "no.example" then return nil, "not on the list" end
    return ctx
end }
moongate.listen { name = "plain", address = "127.0.0.1:$plain", backend = moongate.echo(), tls = ctx }
]]

-- What s_client says first.
local function first_words(...)
    local server = assert(socket.bind("127.0.0.1", 0))
    local _, port = server:getsockname()
    local client = bench.start { "openssl", "s_client", "-connect", "127.0.0.1:" .. port, ... }
    server:settimeout(20)
    local connection = assert(server:accept())
    connection:settimeout(20)
    local header = assert(connection:receive(5))
    local body = assert(connection:receive((string.unpack(">I2", header, 4))))
    connection:close()
    server:close()
    client:stop()
    return header .. body
end

local function byte()
    return string.char(math.random(0, 255))
end

local function random_bytes(count)
    local bytes = {}
    for i = 1, count do
        bytes[i] = byte()
    end
    return table.concat(bytes)
end

local mutations = {
    function(wire, at) return wire:sub(1, at - 1) .. byte() .. wire:sub(at + 1) end,
    function(wire, at) return wire:sub(1, at - 1) .. wire:sub(at + 1) end,
    function(wire, at) return wire:sub(1, at) .. random_bytes(math.random(4)) .. wire:sub(at + 1) end,
    function(wire, at) return wire:sub(1, at) end,
    function(wire, at) return wire:sub(1, at - 1) .. ("\0"):rep(4) .. wire:sub(at + 4) end,
    function(wire, at) return wire:sub(1, at - 1) .. ("\255"):rep(2) .. wire:sub(at + 2) end,
    function(wire, at) return wire .. wire:sub(at) end,
    function(wire) -- in records of any size
        local message, records = wire:sub(6), {}
        while #message > 0 do
            local part = message:sub(1, math.random(#message))
            message = message:sub(#part + 1)
            records[#records + 1] = "\22\3\1" .. (">s2"):pack(part)
        end
        return table.concat(records)
    end,
}

local random_starts = {
    function() return random_bytes(math.random(300)) end,
    function() return "\22\3\1" .. (">s2"):pack("\1" .. random_bytes(math.random(200))) end,
    function() return "\22\3\1" .. (">s2"):pack("\1" .. (">s3"):pack("\3\3" .. random_bytes(math.random(34, 400)))) end,
    function() return "\128" .. string.char(math.random(9, 255)) .. "\1\3\1" .. random_bytes(60) end, -- SSL 2's form
    function() return "GET / HTTP/1.1\r\nHost: " .. random_bytes(10) .. "\r\n\r\n" end,
}

local function hostile(originals)
    if math.random(6) == 1 then
        return random_starts[math.random(#random_starts)]()
    end
    local wire = originals[math.random(#originals)]
    for _ = 1, math.random(3) do
        wire = mutations[math.random(#mutations)](wire, math.random(#wire))
        if #wire < 6 then
            break
        end
    end
    return wire
end

-- "\22": handshake, "\21": alert, "": closed. Sends no more after the words.
local function answer(port, words)
    local client = assert(bench.connect(port))
    client:setoption("linger", { on = true, timeout = 0 })
    client:settimeout(60)
    client:send(words)
    client:shutdown("send")
    local first, reason = client:receive(1)
    client:close()
    if not first and reason == "timeout" then
        error(("no answer to %q"):format(words))
    end
    return first or ""
end

describe("random and mutated hellos", function()
    local web
    local ports = {}
    local originals

    setup(function()
        ports.names, ports.asked, ports.plain = bench.port(), bench.port(), bench.port()
        web = proxy.start { workers = 1, settings = "watchdog = 120, hello_ring = 50", names = ports.names,
            asked = ports.asked, plain = ports.plain, script = SCRIPT }
        originals = { first_words("-servername", "a.example"), first_words("-noservername", "-tls1_2"),
            first_words("-servername", "localhost", "-alpn", "h2,http/1.1", "-status"),
            first_words("-servername", "no.example", "-groups", "P-521:X25519") }
    end)
    teardown(proxy.cleanup)

    for _, listener in ipairs { "names", "asked", "plain" } do
        it("have an answer at the listener " .. listener, function()
            local worker = web:wait_workers(1)[1]
            local counts = { ["\22"] = 0, ["\21"] = 0, [""] = 0 }
            math.randomseed(4)
            local before
            for i = 1, COUNT do
                local first = answer(ports[listener], hostile(originals))
                assert.is_number(counts[first], ("%q"):format(first))
                counts[first] = counts[first] + 1
                if i == COUNT // 2 then
                    before = bench.memory(worker)
                end
            end
            assert.is_true(counts["\22"] > COUNT / 50 and counts["\21"] > COUNT / 50,
                ("%d served, %d refused, %d closed"):format(counts["\22"], counts["\21"], counts[""]))
            local grown = bench.memory(worker) - before
            if not bench.sanitized then -- which keeps what is freed
                assert.is_true(grown < (bench.slow and 16384 or 1024), grown .. " KiB more")
            end
            assert.same({ worker }, web:wait_workers(1))
            assert.equal("\22", answer(ports[listener], originals[1]))
            bench.wait("their ends", function() return web:open_connections() == 0 end)
        end)
    end
end)
