-- PROXY headers as bytes, by the specification's words: every good one, every bad one, cut everywhere.

local pp2 = require "pp2"
local proxy = require "mgtest".proxy

local crc32c, tlv, v2, SIGNATURE = pp2.crc32c, pp2.tlv, pp2.header, pp2.SIGNATURE
local INET = "\1\2\3\4\5\6\7\8" .. string.pack(">I2I2", 1000, 443)
local INET6 = ("\x20\x01\x0d\xb8" .. ("\0"):rep(11) .. "\1") .. ("\xfe\x80" .. ("\0"):rep(13) .. "\2")
    .. string.pack(">I2I2", 65535, 0)
local UNIX = string.pack("c108c108", "/run/client.sock", "\0abstract")

-- The header with a checksum at its end.
local function summed(command, family, rest, wrong)
    local header = v2(command, family, rest .. tlv(3, "\0\0\0\0"))
    return header:sub(1, -5) .. string.pack(">I4", crc32c(header) ~ (wrong or 0))
end

local function complete(bytes, fields)
    local status, header = proxy.read(bytes)
    local expected = {}
    for name, value in pairs(fields) do
        expected[name] = value
    end
    assert.equal("complete", status)
    expected.version = expected.version or bytes:byte() == 13 and 2 or 1
    expected.len = expected.len or #bytes
    expected.own = expected.own or false
    expected.local_ = expected.local_ or false
    expected.tlvs = expected.tlvs or {}
    assert.same(expected, header)
end

describe("a header of version 1", function()
    local LONGEST = ("ffff:"):rep(7) .. "ffff"
    local GOOD = {
        ["PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"] =
            { source = "192.168.0.1:56324", destination = "192.168.0.11:443" },
        ["PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n"] =
            { source = "255.255.255.255:65535", destination = "255.255.255.255:65535" },
        ["PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n"] = { source = "0.0.0.0:0", destination = "0.0.0.0:0" },
        ["PROXY TCP6 2001:DB8::1 ::1 1 2\r\n"] = { source = "[2001:db8::1]:1", destination = "[::1]:2" },
        ["PROXY TCP6 " .. LONGEST .. " " .. LONGEST .. " 65535 65535\r\n"] =
            { source = "[" .. LONGEST .. "]:65535", destination = "[" .. LONGEST .. "]:65535" },
        ["PROXY TCP6 ::ffff:1.2.3.4 ::ffff:102:305 1 2\r\n"] = { source = "1.2.3.4:1", destination = "1.2.3.5:2" },
        ["PROXY UNKNOWN\r\n"] = { own = true },
        ["PROXY UNKNOWN \r\n"] = { own = true },
        ["PROXY UNKNOWN anything, at all\0\255\r\n"] = { own = true },
        ["PROXY UNKNOWN " .. ("x"):rep(91) .. "\r\n"] = { own = true }, -- 107 bytes
    }
    local LINE = "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n"
    local BAD = {
        ["PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n"] = "it ends with LF instead of CR LF",
        ["PROXY TCP4 1.2.3.4 5.6.7.8 1 2\rx"] = "a CR without LF",
        ["PROXY UNKNOWN\n"] = "it ends with LF instead of CR LF",
        ["PROXY UNKNOWN \r \r\n"] = "a CR without LF",
        ["PROXY \r\n"] = "its protocol is none of TCP4, TCP6, UNKNOWN",
        ["PROXY UNKNOWNS\r\n"] = "its protocol is none of TCP4, TCP6, UNKNOWN",
        ["PROXY  TCP4 1.2.3.4 5.6.7.8 1 2\r\n"] = "its protocol is none of TCP4, TCP6, UNKNOWN",
        ["PROXY TCP5 1.2.3.4 5.6.7.8 1 2\r\n"] = "its protocol is none of TCP4, TCP6, UNKNOWN",
        ["PROXY tcp4 1.2.3.4 5.6.7.8 1 2\r\n"] = "its protocol is none of TCP4, TCP6, UNKNOWN",
        ["PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n"] = "its protocol is none of TCP4, TCP6, UNKNOWN",
        ["PROXY TCP4\r\n"] = "its source is no address of its protocol",
        ["PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n"] = "its source is no address of its protocol",
        ["PROXY TCP4 01.2.3.4 5.6.7.8 1 2\r\n"] = "its source is no address of its protocol",
        ["PROXY TCP4 256.2.3.4 5.6.7.8 1 2\r\n"] = "its source is no address of its protocol",
        ["PROXY TCP4 1.2.3 5.6.7.8 1 2\r\n"] = "its source is no address of its protocol",
        ["PROXY TCP4 ::1 ::2 1 2\r\n"] = "its source is no address of its protocol",
        ["PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n"] = "its source is no address of its protocol",
        ["PROXY TCP6 1:2:3:4:5:6:7:8:9 ::1 1 2\r\n"] = "its source is no address of its protocol",
        ["PROXY TCP6 1::2::3 ::1 1 2\r\n"] = "its source is no address of its protocol",
        ["PROXY TCP6 fe80::1%lo ::1 1 2\r\n"] = "its source is no address of its protocol",
        ["PROXY TCP4 1.2.3.4\t5.6.7.8 1 2\r\n"] = "its source is no address of its protocol",
        ["PROXY TCP4 1.2.3.4\r\n"] = "its destination is no address of its protocol",
        ["PROXY TCP4 1.2.3.4 ::1 1 2\r\n"] = "its destination is no address of its protocol",
        ["PROXY TCP4 1.2.3.4 5.6.7.8\r\n"] = "its ports are not two numbers from 0 to 65535",
        ["PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n"] = "its ports are not two numbers from 0 to 65535",
        ["PROXY TCP4 1.2.3.4 5.6.7.8 1 2 \r\n"] = "its ports are not two numbers from 0 to 65535",
        ["PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n"] = "its ports are not two numbers from 0 to 65535",
        ["PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n"] = "its ports are not two numbers from 0 to 65535",
        ["PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n"] = "its ports are not two numbers from 0 to 65535",
        ["PROXY TCP4 1.2.3.4 5.6.7.8 1 +2\r\n"] = "its ports are not two numbers from 0 to 65535",
        ["PROXY TCP4 1.2.3.4 5.6.7.8 1 -2\r\n"] = "its ports are not two numbers from 0 to 65535",
        ["PROXY TCP4 1.2.3.4 5.6.7.8 1 123456\r\n"] = "its ports are not two numbers from 0 to 65535",
        ["PROXY TCP4 1.2.3.4 5.6.7.8 1 2\0\r\n"] = "a zero byte",
        ["PROXY UNKNOWN\0\r\n"] = "a zero byte",
        ["PROXY TCP4\0 1.2.3.4 5.6.7.8 1 2\r\n"] = "a zero byte",
    }

    it("is read", function()
        for line, expected in pairs(GOOD) do
            complete(line, expected)
            complete(line .. "what follows", { len = #line, own = expected.own, source = expected.source,
                destination = expected.destination })
        end
    end)

    it("is waited for at every byte but the last, and refused at the first wrong one", function()
        for line in pairs(GOOD) do
            for cut = 0, #line - 1 do
                assert.equal("more", (proxy.read(line:sub(1, cut))), line:sub(1, cut))
            end
        end
        for cut = 1, 6 do
            assert.same({ "refused", "none" }, { proxy.read(LINE:sub(1, cut - 1) .. "x" .. LINE:sub(cut + 1)) })
            assert.same({ "refused", "none" }, { proxy.read(LINE:sub(1, cut - 1) .. "x") })
        end
    end)

    for line, detail in pairs(BAD) do
        it("is refused: " .. ("%q"):format(line), function()
            assert.same({ "refused", "malformed", detail }, { proxy.read(line) })
        end)
    end

    it("is refused without CR LF in 107 bytes", function()
        local detail = "no CR LF in its first 107 bytes"
        assert.equal("more", (proxy.read("PROXY UNKNOWN " .. ("x"):rep(92))))
        assert.equal("more", (proxy.read("PROXY UNKNOWN " .. ("x"):rep(91) .. "\r")))
        assert.same({ "refused", "oversize", detail }, { proxy.read("PROXY UNKNOWN " .. ("x"):rep(93)) })
        assert.same({ "refused", "oversize", detail }, { proxy.read("PROXY UNKNOWN " .. ("x"):rep(92) .. "\r\n") })
        assert.same({ "refused", "oversize", detail }, { proxy.read("PROXY UNKNOWN " .. ("x"):rep(100000)) })
    end)
end)

describe("a header of version 2", function()
    local inet = { source = "1.2.3.4:1000", destination = "5.6.7.8:443" }

    local function with(base, more)
        local all = {}
        for name, value in pairs(base) do all[name] = value end
        for name, value in pairs(more) do all[name] = value end
        return all
    end

    it("is read", function()
        complete(v2(0x21, 0x11, INET), inet)
        complete(v2(0x21, 0x12, INET), inet)
        complete(v2(0x21, 0x21, INET6), { source = "[2001:db8::1]:65535", destination = "[fe80::2]:0" })
        complete(v2(0x21, 0x22, INET6), { source = "[2001:db8::1]:65535", destination = "[fe80::2]:0" })
        complete(v2(0x21, 0x31, UNIX), { source = "unix:/run/client.sock", destination = "unix:@abstract" })
        complete(v2(0x21, 0x32, ("\0"):rep(108) .. "/" .. ("x"):rep(107)),
            { source = "unix:", destination = "unix:/" .. ("x"):rep(107) })
        complete(v2(0x21, 0x11, INET) .. "what follows", with(inet, { len = 28 }))
    end)

    it("has TLVs, known ones and others", function()
        local ssl = "\1\0\0\0\0" .. tlv(0x21, "TLSv1.3") .. tlv(0x22, "client")
        complete(v2(0x21, 0x11, INET .. tlv(1, "h2") .. tlv(0xEA, "\1vpce") .. tlv(0x99, "") .. tlv(4, "padding")
            .. tlv(0x20, ssl) .. tlv(5, ("i"):rep(128))),
            with(inet, { tlvs = { "1=h2", "234=\1vpce", "153=", "4=padding", "32=" .. ssl, "5=" .. ("i"):rep(128) } }))
        complete(v2(0x21, 0x21, INET6 .. tlv(2, "a.example")),
            { source = "[2001:db8::1]:65535", destination = "[fe80::2]:0", tlvs = { "2=a.example" } })
        complete(v2(0x21, 0x00, tlv(2, "a.example")), { own = true, tlvs = { "2=a.example" } })
    end)

    it("without addresses, or LOCAL, leaves those of the sockets", function()
        complete(v2(0x20, 0x00), { own = true, local_ = true })
        complete(v2(0x21, 0x00), { own = true })
        complete(v2(0x21, 0x00, "anything"), { own = true })
        complete(v2(0x21, 0x01, ""), { own = true })
        complete(v2(0x21, 0x10, INET), { own = true })
        complete(v2(0x21, 0x20, INET6), { own = true })
        complete(v2(0x20, 0x11, INET), { own = true, local_ = true })
        complete(v2(0x20, 0x11, "short"), { own = true, local_ = true })
        complete(v2(0x20, 0xff, "anything"), { own = true, local_ = true }) -- "the family which is ignored"
        complete(v2(0x20, 0x00, tlv(2, "discarded")), { own = true, local_ = true })
        assert.same({ "refused", "malformed", "a CRC32C that is not 4 bytes long" },
            { proxy.read(v2(0x20, 0x10, tlv(3, "") .. tlv(0, ""))) })
    end)

    it("is waited for at every byte but the last", function()
        for _, header in ipairs { v2(0x20, 0x00), v2(0x21, 0x11, INET .. tlv(1, "h2")), v2(0x21, 0x21, INET6),
            v2(0x21, 0x31, UNIX), summed(0x21, 0x11, INET) } do
            for cut = 0, #header - 1 do
                assert.equal("more", (proxy.read(header:sub(1, cut))), cut)
            end
        end
    end)

    it("is refused at the first wrong byte", function()
        for at = 1, 12 do
            local wrong = SIGNATURE:sub(1, at - 1) .. "x"
            assert.same({ "refused", "none" }, { proxy.read(wrong) })
            assert.same({ "refused", "none" }, { proxy.read(wrong .. v2(0x21, 0x11, INET):sub(at + 1)) })
        end
        for _, byte in ipairs { 0x00, 0x01, 0x11, 0x31, 0xf1 } do
            assert.same({ "refused", "malformed", "its version is not 2" },
                { proxy.read(SIGNATURE .. string.char(byte)) })
        end
        for command = 2, 15 do
            assert.same({ "refused", "malformed", "its command is neither LOCAL nor PROXY" },
                { proxy.read(SIGNATURE .. string.char(0x20 + command)) })
        end
        for family = 0, 255 do
            local known = family >> 4 <= 3 and family & 15 <= 2
            local status, refusal, detail = proxy.read(SIGNATURE .. string.char(0x21, family))
            if known then
                assert.equal("more", status)
            else
                assert.same({ "refused", "malformed", "its family or transport is not known" },
                    { status, refusal, detail })
            end
        end
    end)

    it("is refused when its length is wrong", function()
        local short = "shorter than the addresses of its family"
        for family, block in pairs { [0x11] = INET, [0x21] = INET6, [0x31] = UNIX } do
            for cut = 0, #block - 1 do
                assert.same({ "refused", "malformed", short }, { proxy.read(v2(0x21, family, block:sub(1, cut))) })
            end
        end
        local room = 16384 - 16 - 12 - 3
        complete(v2(0x21, 0x11, INET .. tlv(0xE0, ("x"):rep(room))),
            with(inet, { tlvs = { "224=" .. ("x"):rep(room) } }))
        for _, len in ipairs { 16384 - 15, 32768, 65535 } do -- known from its first 16 bytes
            assert.same({ "refused", "oversize", "longer than 16384 bytes" },
                { proxy.read(SIGNATURE .. "\x21\x11" .. string.pack(">I2", len)) })
        end
    end)

    it("is refused when a TLV is wrong", function()
        local function refused(detail, tlvs)
            assert.same({ "refused", "malformed", detail }, { proxy.read(v2(0x21, 0x11, INET .. tlvs)) })
        end
        local good = tlv(0xE0, "0123456789")
        for cut = 1, #good - 1 do
            refused("a TLV that is longer than the header", good:sub(1, cut))
            refused("a TLV that is longer than the header", tlv(1, "h2") .. good:sub(1, cut))
        end
        refused("a CRC32C that is not 4 bytes long", tlv(3, ""))
        refused("a CRC32C that is not 4 bytes long", tlv(3, "12345"))
        refused("two CRC32Cs", tlv(3, "1234") .. tlv(3, "1234"))
        refused("a UNIQUE_ID of more than 128 bytes", tlv(5, ("i"):rep(129)))
        refused("an SSL TLV that is not whole", tlv(0x20, "\1\0\0\0"))
        refused("an SSL TLV that is not whole", tlv(0x20, "\1\0\0\0\0\x21"))
        refused("an SSL TLV that is not whole", tlv(0x20, "\1\0\0\0\0" .. tlv(0x21, "TLSv1.3"):sub(1, -2)))
    end)

    it("has the checksum that it says", function()
        local status, header = proxy.read(summed(0x21, 0x11, INET .. tlv(2, "a.example")))
        assert.equal("complete", status)
        assert.equal("2=a.example", header.tlvs[1])
        complete(summed(0x20, 0x00, ""), { own = true, local_ = true })
        local wrong = "the CRC32C is not that of the header"
        for bit = 0, 31 do
            assert.same({ "refused", "malformed", wrong }, { proxy.read(summed(0x21, 0x11, INET, 1 << bit)) })
        end
        assert.same({ "refused", "malformed", wrong }, { proxy.read(summed(0x20, 0x00, "", 1)) })
        local whole = summed(0x21, 0x11, INET)
        for at = 17, 28 do -- each byte of the addresses counts
            local changed = whole:sub(1, at - 1) .. string.char(whole:byte(at) ~ 1) .. whole:sub(at + 1)
            assert.same({ "refused", "malformed", wrong }, { proxy.read(changed) })
        end
        assert.equal(0xe3069283, crc32c("123456789"))
    end)
end)

describe("what is no header", function()
    it("is refused at once", function()
        for _, bytes in ipairs { "GET / HTTP/1.1\r\n", "\22\3\1\2\0\1", "SSH-2.0-x\r\n", "P\n", "PROX\r", "PROXY\t",
            "proxy TCP4", "\r\n\r\nGET", "\r\r", "\0", " PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" } do
            assert.same({ "refused", "none" }, { proxy.read(bytes) })
        end
        assert.equal("more", (proxy.read("")))
    end)
end)

describe("a header of ours", function()
    it("of version 1", function()
        assert.equal("PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\n", proxy.write(1, "1.2.3.4:9", "5.6.7.8:10"))
        assert.equal("PROXY TCP6 2001:db8::1 ::1 9 10\r\n", proxy.write(1, "[2001:db8::1]:9", "[::1]:10"))
        assert.equal("PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\n", proxy.write(1, "[::ffff:1.2.3.4]:9", "5.6.7.8:10"))
        assert.equal("PROXY TCP6 ::ffff:102:304 2001:db8::1 9 10\r\n", proxy.write(1, "1.2.3.4:9", "[2001:db8::1]:10"))
        assert.equal("PROXY TCP6 2001:db8::1 ::ffff:102:304 9 10\r\n", proxy.write(1, "[2001:db8::1]:9", "1.2.3.4:10"))
        assert.equal("PROXY UNKNOWN\r\n", proxy.write(1, "unix:/a", "unix:/b"))
        assert.equal("PROXY UNKNOWN\r\n", proxy.write(1, "1.2.3.4:9", "unix:/b"))
        assert.equal("PROXY UNKNOWN\r\n", proxy.write(1, nil, nil))
    end)

    it("of version 2", function()
        local mapped = ("\0"):rep(10) .. "\255\255\1\2\3\4"
        assert.equal(summed(0x21, 0x11, INET), proxy.write(2, "1.2.3.4:1000", "5.6.7.8:443"))
        assert.equal(summed(0x21, 0x11, INET), proxy.write(2, "[::ffff:1.2.3.4]:1000", "[::ffff:5.6.7.8]:443"))
        assert.equal(summed(0x21, 0x21, mapped .. INET6:sub(17, 32) .. "\0\9\0\10"),
            proxy.write(2, "1.2.3.4:9", "[fe80::2%lo]:10"))
        local whole = v2(0x20, 0x00) -- without TLVs
        assert.equal(whole, proxy.write(2, "unix:/run/client.sock", "unix:@abstract", { [0xE0] = "x" }))
        assert.equal(whole, proxy.write(2, "1.2.3.4:9", "unix:/x"))
        assert.equal(whole, proxy.write(2, nil, nil))
        assert.equal(summed(0x21, 0x11, INET .. tlv(1, "h2") .. tlv(0xE0, "") .. tlv(0x20, "\3\0\0\1\2"
            .. tlv(0x21, "TLSv1.2") .. tlv(0x22, "c"))),
            proxy.write(2, "1.2.3.4:1000", "5.6.7.8:443", { [1] = "h2", [0xE0] = "" },
                { client = 3, verify = 258, [0x21] = "TLSv1.2", [0x22] = "c" }))
    end)

    it("can be read again", function()
        local status, header = proxy.read(proxy.write(2, "[::1]:2", "[::3]:4", { [1] = "h2" }))
        assert.equal("complete", status)
        assert.same({ "[::1]:2", "[::3]:4", "1=h2" }, { header.source, header.destination, header.tlvs[1] })
    end)

    it("is not longer than one that would be taken", function()
        local room = 16384 - 16 - 12 - 7 - 3
        assert.equal("complete", (proxy.read(proxy.write(2, "1.2.3.4:9", "5.6.7.8:10", { [224] = ("x"):rep(room) }))))
        assert.is_nil(proxy.write(2, "1.2.3.4:9", "5.6.7.8:10", { [224] = ("x"):rep(room + 1) }))
    end)

    it("for a connection of our own", function()
        assert.equal(v2(0x20, 0x00), proxy.write_own(2, "1.2.3.4:9", "5.6.7.8:10"))
        assert.equal("PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\n", proxy.write_own(1, "1.2.3.4:9", "5.6.7.8:10"))
        assert.equal("PROXY UNKNOWN\r\n", proxy.write_own(1, "unix:/a", "unix:/b"))
    end)
end)

describe("a network", function()
    local function is(expected, text, inexact)
        assert.same({ expected, inexact or false }, { table.unpack({ proxy.network(text) }, 1, 2) })
    end

    it("is read", function()
        is("10.0.0.0/8", "10.0.0.0/8")
        is("10.0.0.0/8", "10.1.2.3/8", true)
        is("0.0.0.0/0", "0.0.0.0/0")
        is("192.0.2.1/32", "192.0.2.1")
        is("2001:db8::/33", "2001:db8::/33")
        is("2001:db8::/33", "2001:db8::1/33", true)
        is("::1/128", "::1")
        is("10.0.0.0/8", "::ffff:10.0.0.0/104")
        is("unix:", "unix:")
    end)

    it("is refused", function()
        for _, text in ipairs { "", "10", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/08", "10.0.0.0/-1", "10.0.0.0/8 ",
            "10.0.0.0/1e1", "::1/129", "[::1]/128", "localhost", "unix:/x", "::1/", "10.0.0.0/8/8",
            ("1"):rep(300) } do
            local none, reason = proxy.network(text)
            assert.is_nil(none, text)
            assert.equal(1, (reason:find(('"%s": '):format(text), 1, true)))
        end
    end)

    it("contains what begins alike", function()
        local function contains(expected, text, address)
            assert.equal(expected, (select(3, proxy.network(text, address))), text .. " " .. address)
        end
        contains(true, "10.0.0.0/8", "10.255.0.1:1")
        contains(false, "10.0.0.0/8", "11.0.0.1:1")
        contains(true, "10.0.0.0/8", "[::ffff:10.255.0.1]:1")
        contains(true, "192.0.2.128/25", "192.0.2.200:1")
        contains(false, "192.0.2.128/25", "192.0.2.127:1")
        contains(true, "192.0.2.1", "192.0.2.1:5")
        contains(false, "192.0.2.1", "192.0.2.2:5")
        contains(true, "0.0.0.0/0", "1.2.3.4:1")
        contains(false, "0.0.0.0/0", "[2001:db8::1]:1")
        contains(true, "::/0", "[2001:db8::1]:1")
        contains(false, "::/0", "1.2.3.4:1")
        contains(false, "::/0", "[::ffff:1.2.3.4]:1")
        contains(true, "2001:db8::/31", "[2001:db9::1]:1")
        contains(false, "2001:db8::/32", "[2001:db9::1]:1")
        contains(true, "unix:", "unix:/x")
        contains(false, "unix:", "1.2.3.4:1")
        contains(false, "0.0.0.0/0", "unix:/x")
    end)
end)
