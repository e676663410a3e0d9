-- The ClientHello's parser: what real programs send, cut and wrapped in every way, and what nobody should send.

local bench = require "bench"
local socket = require "socket"
local tls = require "mgtest".tls

local SUITE, MAX_RECORD, MAX = "\19\1", 16384, 65536

teardown(bench.cleanup)

local function vector(bytes, data)
    return string.pack(">s" .. bytes, data)
end

local function extension(number, data)
    return string.pack(">I2", number) .. vector(2, data)
end

local function message(body)
    return "\1" .. string.pack(">I3", #body) .. body
end

local function hello(extensions, fields)
    fields = fields or {}
    return message("\3\3" .. ("r"):rep(32) .. vector(1, fields.session_id or "id") .. vector(2, fields.suites or SUITE)
        .. vector(1, fields.compression or "\0") .. (extensions and vector(2, extensions) or ""))
end

local function record(data, kind, version)
    return (kind or "\22") .. (version or "\3\1") .. vector(2, data)
end

-- The message in records of `size` bytes.
local function records(data, size)
    local list = {}
    for at = 1, #data, size do
        list[#list + 1] = record(data:sub(at, at + size - 1))
    end
    return table.concat(list)
end

local function server_name(...)
    local list = {}
    for i, name in ipairs { ... } do
        list[i] = "\0" .. vector(2, name)
    end
    return extension(0, vector(2, table.concat(list)))
end

local function refused(wire, refusal, alert, detail)
    local status, found = tls.hello_read(wire)
    assert.equal("refused", status)
    assert.same({ refusal = refusal, alert = alert, detail = detail }, found)
end

local function malformed(extensions, detail, alert)
    refused(record(hello(extensions)), "malformed", alert or 50, detail)
end

-- ---- what programs send --------------------------------------------------------------------------

-- The first bytes that a program sends to us, up to the end of its ClientHello.
local function captured(command, ...)
    local server = assert(socket.bind("127.0.0.1", 0))
    local _, port = server:getsockname()
    local full = {}
    for _, part in ipairs { command, ... } do
        full[#full + 1] = (part:gsub("$PORT", tostring(port)))
    end
    full.log = bench.path("client.log")
    local program = bench.start(full)
    server:settimeout(10)
    local client = assert(server:accept())
    client:settimeout(10)
    local wire = ""
    repeat
        wire = wire .. assert(client:receive(1))
    until tls.hello_read(wire) ~= "more"
    client:close()
    server:close()
    program:wait(10)
    return wire
end

local function contains(list, wanted)
    for _, number in ipairs(list) do
        if number == wanted then
            return true
        end
    end
    return false
end

local PROGRAMS = {
    { name = "openssl s_client", "openssl", "s_client", "-connect", "127.0.0.1:$PORT", "-servername", "a.example",
        "-alpn", "h2,http/1.1" },
    { name = "openssl s_client -tls1_2", "openssl", "s_client", "-tls1_2", "-connect", "127.0.0.1:$PORT",
        "-servername", "a.example", "-alpn", "h2,http/1.1", old = true },
    { name = "gnutls-cli", "gnutls-cli", "--insecure", "--port", "$PORT", "127.0.0.1", "--sni-hostname", "a.example",
        "--alpn", "h2", "--alpn", "http/1.1" },
    { name = "curl", "curl", "-sk", "--connect-timeout", "5", "--connect-to", "a.example::127.0.0.1:$PORT",
        "https://a.example/" },
}

describe("the ClientHello of", function()
    for _, program in ipairs(PROGRAMS) do
        describe(program.name, function()
            local wire

            setup(function() wire = captured(table.unpack(program)) end)

            it("is understood", function()
                local status, found = tls.hello_read(wire)
                assert.equal("complete", status)
                assert.equal("a.example", found.servername)
                assert.equal("h2,http/1.1", found.protocols)
                assert.equal(not program.old, contains(found.versions or {}, 0x0304))
                assert.is_true(contains(found.cipher_suites, 0xc02f))
                assert.equal(not program.old, contains(found.cipher_suites, 0x1301))
                assert.is_true(contains(found.groups, 23))
                assert.is_true(contains(found.signature_algorithms, 0x0403))
                assert.equal(wire:sub(6), found.raw)
            end)

            it("needs all of its bytes", function()
                for length = 0, #wire - 1 do
                    assert.equal("more", (tls.hello_read(wire:sub(1, length))))
                end
            end)

            it("may come byte by byte, or in any two pieces", function()
                local _, whole = tls.hello_read(wire)
                local status, found, at = tls.hello_read(wire, 1)
                assert.equal("complete", status)
                assert.equal(#wire, at)
                assert.same(whole, found)
                for piece = 1, #wire do
                    status, found = tls.hello_read(wire, piece)
                    assert.equal("complete", status)
                    assert.same(whole, found)
                end
            end)

            it("may be split over records of any size", function()
                local _, whole = tls.hello_read(wire)
                for size = 1, #wire - 5 do
                    local status, found = tls.hello_read(records(wire:sub(6), size))
                    assert.equal("complete", status)
                    assert.same(whole, found)
                end
                assert.equal("complete", (tls.hello_read(records(wire:sub(6), 3), 1)))
            end)

            it("cut short inside, with lengths that say otherwise, is refused", function()
                local body = wire:sub(10)
                for length = 0, #body - 1 do
                    local status, found = tls.hello_read(record(message(body:sub(1, length))))
                    -- What ends before the extensions is a whole ClientHello.
                    assert.is_true(status == "refused" and found.refusal == "malformed" or not found.servername)
                end
            end)

            it("with any one byte changed gives an answer", function()
                for at = 1, #wire do
                    for _, byte in ipairs { 0, 1, 127, 255 } do
                        tls.hello_read(wire:sub(1, at - 1) .. string.char(byte) .. wire:sub(at + 1))
                    end
                end
            end)

            it("with what follows it is the same", function()
                local _, whole = tls.hello_read(wire)
                local status, found = tls.hello_read(wire .. record("\1", "\20") .. ("x"):rep(100))
                assert.equal("complete", status)
                assert.same(whole, found)
            end)
        end)
    end
end)

-- ---- what else may come --------------------------------------------------------------------------

describe("a ClientHello", function()
    it("may have no extensions", function()
        local status, found = tls.hello_read(record(hello()))
        assert.equal("complete", status)
        assert.same({ protocols = "", raw = hello(), session_id = "id", cipher_suites = { 0x1301 },
            supports_ecdsa = true, ja4 = "t12i010000_0f2cb44170f4_000000000000" }, found)
    end)

    it("shows protocols so that they can be printed", function()
        local _, found = tls.hello_read(record(hello(extension(16, vector(2, vector(1, "h2") .. vector(1, "a\nb"))))))
        assert.equal("h2,a\\x0ab", found.protocols)
    end)

    it("may have GREASE anywhere", function()
        local grease = "\x1a\x1a"
        local _, found = tls.hello_read(record(hello(extension(0x0a0a, "") .. server_name("a.example")
            .. extension(10, vector(2, "\xfa\xfa\0\29")) .. extension(13, vector(2, "\4\3\x2a\x2a"))
            .. extension(43, vector(1, grease .. "\3\4")) .. extension(0xdada, "\0"), { suites = grease .. SUITE })))
        assert.equal("a.example", found.servername)
        assert.same({ 0x1301 }, found.cipher_suites)
        assert.same({ 29 }, found.groups)
        assert.same({ 0x0403 }, found.signature_algorithms)
        assert.same({ 0x0304 }, found.versions)
    end)

    it("may carry the key shares of post-quantum groups", function()
        local share = extension(51, vector(2, string.pack(">I2", 4588) .. vector(2, ("k"):rep(1216))))
        local wire = records(hello(share .. server_name("pq.example")), 700)
        for piece = 1, #wire do
            local status, found = tls.hello_read(wire, piece)
            assert.equal("complete", status)
            assert.equal("pq.example", found.servername)
        end
    end)

    it("may have 64 KiB, and not a byte more", function()
        local rest = #hello(extension(21, ""))
        local whole = hello(extension(21, ("\0"):rep(MAX - rest)))
        assert.equal(MAX, #whole)
        local status, found = tls.hello_read(records(whole, MAX_RECORD))
        assert.equal("complete", status)
        assert.equal(whole, found.raw)
        refused(record("\1" .. string.pack(">I3", MAX - 4 + 1)), "oversize", 47, "the message")
        refused(record("\1\xff\xff\xff"), "oversize", 47, "the message")
    end)

    it("may not come in ever so many records", function()
        refused(records(hello(extension(21, ("\0"):rep(40000))), 2), "oversize", 47, "too many records")
    end)
end)

describe("first bytes that are no ClientHello", function()
    it("are known as HTTP", function()
        for method in ("GET HEAD POST PUT DELETE CONNECT OPTIONS PATCH TRACE PRI"):gmatch("%u+") do
            local line = method .. " / HTTP/1.1\r\n"
            refused(line, "http", -1)
            local status, _, at = tls.hello_read(line, 1)
            assert.equal("refused", status)
            assert.equal(#method + 1, at)
        end
    end)

    it("are known as SSL 2", function()
        refused("\x80\x2e\1\3\1", "ssl2", 70)
        assert.equal("more", (tls.hello_read("\x80\x2e")))
        refused("\x80\x2e\2\3\1", "not tls", -1)
    end)

    it("are known as neither", function()
        for _, bytes in ipairs { "SSH-2.0-x\r\n", "\0", "GETAWAY", "\23\3\3\0\1x", "\21\3\1\0\2\1\0", "PROXY TCP4 " } do
            refused(bytes, "not tls", -1)
        end
        refused("\22\2", "not tls", 70)
    end)
end)

describe("records", function()
    local whole = hello(server_name("a.example"))

    it("may not be empty, or longer than the protocol has it", function()
        refused(record(""), "malformed", 10, "an empty record")
        refused(record(whole:sub(1, 9)) .. record("") .. record(whole:sub(10)), "malformed", 10, "an empty record")
        refused("\22\3\1" .. string.pack(">I2", MAX_RECORD + 1), "oversize", 22, "a record")
    end)

    it("may not be of another kind in between", function()
        local first = record(whole:sub(1, 9))
        refused(first .. record("\1\0", "\21"), "malformed", 10, "a record of another type in its middle")
        refused(first .. record("GET ", "G"), "malformed", 10, "a record of another type in its middle")
        refused(first .. record(whole:sub(10), "\22", "\2\0"), "malformed", 70,
            "a record of another version in its middle")
    end)

    it("may hold another message only behind it", function()
        refused(record("\2\0\0\0"), "malformed", 10, "not a ClientHello")
        assert.equal("complete", (tls.hello_read(record(whole .. "\20\0\0\0"))))
    end)
end)

describe("in a ClientHello", function()
    it("the fixed part has its limits", function()
        local function fixed(fields)
            refused(record(hello("", fields)), "malformed", 50, "its fixed part")
        end
        fixed { session_id = ("s"):rep(33) }
        fixed { suites = "" }
        fixed { suites = "\19" }
        fixed { compression = "" }
        refused(record(message("")), "malformed", 50, "its fixed part")
    end)

    it("the extensions fill the message", function()
        refused(record(message(hello(""):sub(5) .. "x")), "malformed", 50, "extensions")
        malformed("\0", "extensions")
        malformed("\0\0\0\5abc", "extensions")
    end)

    it("no extension is there twice", function()
        malformed(extension(21, "") .. extension(0xabcd, "") .. extension(21, ""), "an extension is there twice", 47)
    end)

    it("pre_shared_key comes last", function()
        malformed(extension(41, "psk") .. extension(21, ""), "pre_shared_key is not the last extension", 47)
        assert.equal("complete", (tls.hello_read(record(hello(extension(21, "") .. extension(41, "psk"))))))
    end)

    it("the server's name is one, not empty, not too long, and without NUL", function()
        local name = ("n"):rep(255)
        local _, found = tls.hello_read(record(hello(server_name(name))))
        assert.equal(name, found.servername)
        malformed(server_name(name .. "n"), "server_name")
        malformed(server_name(""), "server_name")
        malformed(server_name("a\0b"), "server_name")
        malformed(server_name("a", "b"), "server_name")
        malformed(extension(0, ""), "server_name")
        malformed(extension(0, vector(2, "")), "server_name")
        malformed(extension(0, vector(2, "\0\0\5abc")), "server_name")
        malformed(extension(0, vector(2, "\0" .. vector(2, "abc")) .. "x"), "server_name")
    end)

    it("names of other types do not count", function()
        local _, found = tls.hello_read(record(hello(extension(0, vector(2, "\7" .. vector(2, "other")
            .. "\0" .. vector(2, "a.example"))))))
        assert.equal("a.example", found.servername)
    end)

    it("protocols have 1 to 255 bytes", function()
        local alpn = "application_layer_protocol_negotiation"
        malformed(extension(16, ""), alpn)
        malformed(extension(16, vector(2, "")), alpn)
        malformed(extension(16, vector(2, "\0")), alpn)
        malformed(extension(16, vector(2, vector(1, "h2") .. "\3ab")), alpn)
        malformed(extension(16, vector(2, vector(1, "h2")) .. "x"), alpn)
    end)

    it("lists of numbers are of whole numbers, and not empty", function()
        for number, list in pairs { [10] = { 2, "supported_groups" }, [13] = { 2, "signature_algorithms" },
            [43] = { 1, "supported_versions" } } do
            malformed(extension(number, ""), list[2])
            malformed(extension(number, vector(list[1], "")), list[2])
            malformed(extension(number, vector(list[1], "\3\4\5")), list[2])
            malformed(extension(number, vector(list[1], "\3\4") .. "x"), list[2])
            malformed(extension(number, string.pack(">I" .. list[1], 9) .. "\3\4"), list[2])
        end
    end)
end)

describe("the parser", function()
    it("answers whatever comes", function()
        math.randomseed(1)
        local whole = record(hello(server_name("a.example") .. extension(16, vector(2, vector(1, "h2")))
            .. extension(10, vector(2, "\0\29")) .. extension(43, vector(1, "\3\4"))))
        for _ = 1, bench.slow and 2000 or 20000 do
            local wire = whole
            for _ = 1, math.random(1, 4) do
                local at, how = math.random(#wire), math.random(3)
                local byte = string.char(math.random(0, 255))
                wire = wire:sub(1, at - 1) .. (how == 1 and byte or how == 2 and byte:rep(2) or "")
                    .. wire:sub(at + 1)
            end
            local status, _, at = tls.hello_read(wire, math.random(#wire))
            assert.is_true(status ~= "more" or at == #wire)
        end
    end)
end)
