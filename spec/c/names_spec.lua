-- The engine's table of names, JA4 and the names of numbers, and decisions on bytes from anybody.

local bench = require "bench"
local mgtest = require "mgtest"

local names, tls = mgtest.names, mgtest.tls

local function vector(bytes, data)
    return string.pack(">s" .. bytes, data)
end

local function numbers(text)
    return (text:gsub("(%x%x)(%x%x),?", function(high, low)
        return string.char(tonumber(high, 16), tonumber(low, 16))
    end))
end

-- A ClientHello in a record: suites and extensions as lists of hexadecimal numbers; `bodies` by number.
local function hello(suites, extensions, bodies, version)
    local list = {}
    for number in extensions:gmatch("%x%x%x%x") do
        list[#list + 1] = numbers(number) .. vector(2, bodies and bodies[number] or "")
    end
    local body = (version or "\3\3") .. ("r"):rep(32) .. vector(1, ("s"):rep(32)) .. vector(2, numbers(suites))
        .. vector(1, "\0")
        .. (#list > 0 and vector(2, table.concat(list)) or "")
    return "\22\3\1" .. vector(2, "\1" .. string.pack(">I3", #body) .. body)
end

local function name(text)
    return vector(2, "\0" .. vector(2, text))
end

local SUITES = "1301,1302,1303,c02b,c02f,c02c,c030,cca9,cca8,c013,c014,009c,009d,002f,0035"
local SIGNATURES = "0403,0804,0401,0503,0805,0501,0806,0601"
local EXTENSIONS = "001b,0000,0033,0010,4469,0017,002d,000d,0005,0023,0012,002b,ff01,000b,000a,0015"

local function bodies(more)
    local all = { ["0000"] = name("a.example"), ["0010"] = vector(2, vector(1, "h2") .. vector(1, "http/1.1")),
        ["000d"] = vector(2, numbers(SIGNATURES)), ["002b"] = vector(1, numbers("0304,0303")),
        ["000a"] = vector(2, numbers("001d,0017,0018")) }
    for key, value in pairs(more or {}) do
        all[key] = value
    end
    return all
end

local function read(wire)
    local status, found = tls.hello_read(wire)
    assert.equal("complete", status, found and found.detail)
    return found
end

local function ja4(...)
    return read(hello(...)).ja4
end

-- ---- JA4 -----------------------------------------------------------------------------------------

describe("JA4", function()
    it("is that of the definition's example", function()
        assert.equal("t13d1516h2_8daaf6152771_e5627efa2ab1", ja4(SUITES, EXTENSIONS, bodies()))
    end)

    it("is that of browsers, as published", function()
        local chrome = "002d,0033,0010,fe0d,0017,44cd,0000,000b,000a,002b,ff01,0023,0012,0005,000d,001b"
        assert.equal("t13d1516h2_8daaf6152771_d8a2da3f94cd", ja4(SUITES, chrome, bodies()))
        assert.equal("t13d1516h2_8daaf6152771_02713d6af862", ja4(SUITES, (chrome:gsub("44cd", "4469")), bodies()))
    end)

    -- What FoxIO publishes for captures of its own: JA4, and JA4_ro, the lists in the client's order.
    for client, case in pairs {
        ["Chrome in the definition's capture"] = { "t13d1516h2_8daaf6152771_e5627efa2ab1",
            "t13d1516h2_1301,1302,1303,c02b,c02f,c02c,c030,cca9,cca8,c013,c014,009c,009d,002f,0035_"
            .. "ff01,0033,002d,0005,4469,000d,0010,0023,001b,002b,0000,0012,000a,0017,000b,0015_"
            .. "0403,0804,0401,0503,0805,0501,0806,0601" },
        ["Firefox"] = { "t13d1715h2_5b57614c22b0_3d5424432f57",
            "t13d1715h2_1301,1303,1302,c02b,c02f,cca9,cca8,c02c,c030,c00a,c009,c013,c014,009c,009d,002f,0035_"
            .. "0000,0017,ff01,000a,000b,0023,0010,0005,0022,0033,002b,000d,002d,001c,0015_"
            .. "0403,0503,0603,0804,0805,0806,0401,0501,0601,0203,0201" },
        ["Chrome with post-quantum signatures and trust anchors"] = { "t13d1517h2_8daaf6152771_cb7bf5808d99",
            "t13d1517h2_1301,1302,1303,c02b,c02f,c02c,c030,cca9,cca8,c013,c014,009c,009d,002f,0035_"
            .. "fe0d,0010,0017,0033,44cd,ff01,000a,000d,0023,002b,000b,ca34,002d,0000,0005,001b,0012_"
            .. "0904,0905,0906,0403,0804,0401,0503,0805,0501,0806,0601", "1a1a," },
    } do
        it("is that of " .. client .. ", as published with its raw form", function()
            local suites, extensions, signatures = case[2]:match("^%w+_([%x,]+)_([%x,]+)_([%x,]+)$")
            assert.equal(case[1], ja4(suites, extensions,
                bodies { ["000d"] = vector(2, numbers((case[3] or "") .. signatures)) }))
        end)
    end

    it("leaves GREASE out and does not mind the order", function()
        assert.equal("t13d1516h2_8daaf6152771_e5627efa2ab1",
            ja4("5a5a,0035,1301,1302,1303,c02b,c02f,c02c,c030,cca9,cca8,c013,"
            .. "c014,009c,009d,002f", "0a0a,000a,000b," .. EXTENSIONS:gsub(",000b,000a", "") .. ",7a7a",
            bodies { ["002b"] = vector(1, numbers("fafa,0304,0303")), ["000d"] = vector(2, numbers("2a2a,"
                .. SIGNATURES)) }))
    end)

    for _, case in ipairs {
        { "h", "hh" }, { "http/1.1", "h1" }, { "h2c", "hc" }, { "\xab", "ab" }, { "\xab\xcd", "ad" },
        { "0\xab", "3b" }, { "01\xab\xcd", "3d" }, { "0\xab\xcd1", "01" }, { "\x0a\x0a", "0a" },
    } do
        it(("ends its first part with %s for the protocol %q"):format(case[2], case[1]), function()
            assert.equal("t13d1516" .. case[2], ja4(SUITES, EXTENSIONS,
                bodies { ["0010"] = vector(2, vector(1, case[1])) }):sub(1, 10))
        end)
    end

    it("tells versions, a missing name, missing protocols and counts", function()
        local few = bodies()
        assert.equal("t12i010200_", ja4("002f", "000d,0017", few):sub(1, 11))
        assert.equal("t10i010000_8cab8f9c09c7_000000000000", ja4("002f", "", nil, "\3\1"):gsub("_%x+_",
            "_8cab8f9c09c7_"))
        assert.equal("ts3i", ja4("002f", "", nil, "\3\0"):sub(1, 4))
        assert.equal("t00i", ja4("002f", "", nil, "\7\7"):sub(1, 4))
        assert.equal("t11i", ja4("002f", "002b", { ["002b"] = vector(1, numbers("0302,0301")) }):sub(1, 4))
        local many, list = {}, {}
        for i = 1, 150 do
            many[i], list[i] = ("%04x"):format(i), ("%04x"):format(0x8000 + i)
        end
        assert.equal("9999", ja4(table.concat(many, ","), table.concat(list, ","), {}):sub(5, 8))
    end)

    it("has no underscore without signature algorithms, and zeros without extensions", function()
        local process = assert(io.popen("printf 0017,0023 | sha256sum"))
        local digest = process:read(12)
        process:close()
        assert.equal(digest, ja4("002f", "0023,0017"):match("_(%x+)$"))
        assert.equal("000000000000", ja4("002f", ""):match("_(%x+)$"))
        assert.equal("000000000000", ja4("0a0a", "0017"):match("_(%x+)_"))
        assert.equal("000000000000", ja4("002f", "0000", { ["0000"] = name("x") }):match("_(%x+)$"))
    end)
end)

describe("supports_ecdsa", function()
    for _, case in ipairs {
        { true, SUITES, EXTENSIONS, bodies() },
        { false, SUITES, EXTENSIONS, bodies { ["000d"] = vector(2, numbers("0804,0401")) } },
        { false, "c02f,c030,002f", EXTENSIONS, bodies() },
        { true, "c02b", "000d", bodies() },
        { true, "c009", "", nil },
        { false, "002f", "", nil },
        { true, "1301", "000d", bodies { ["000d"] = vector(2, numbers("0804,0503")) } },
    } do
        it(("is %s for %s with %s"):format(case[1], case[2], case[3]), function()
            assert.equal(case[1], read(hello(case[2], case[3], case[4])).supports_ecdsa)
        end)
    end
end)

describe("the names of numbers", function()
    it("are those that OpenSSL knows, too", function()
        local count = 0
        local process = assert(io.popen("openssl ciphers -V -stdname 'ALL:COMPLEMENTOFALL:@SECLEVEL=0'"))
        for line in process:lines() do
            local high, low, standard = line:match("0x(%x%x),0x(%x%x)%s+%-%s+(%S+)")
            if standard then
                assert.equal(standard, tls.number_name(1, tonumber(high .. low, 16)))
                count = count + 1
            end
        end
        process:close()
        assert.is_true(count > 60)
    end)

    for _, case in ipairs {
        { 0, 0x0304, "TLSv1.3" }, { 0, 0x0301, "TLSv1" }, { 0, 0x7f1c, "0x7f1c" }, { 1, 0x1301,
            "TLS_AES_128_GCM_SHA256" },
        { 1, 0x00ff, "TLS_EMPTY_RENEGOTIATION_INFO_SCSV" }, { 1, 0x00fe, "0x00fe" }, { 1, 0xffff, "0xffff" },
        { 2, 29, "x25519" }, { 2, 4588, "X25519MLKEM768" }, { 2, 0, "0x0000" }, { 3, 0x0804, "rsa_pss_rsae_sha256" },
        { 3, 0x0905, "mldsa65" }, { 3, 0x0202, "0x0202" },
    } do
        it(("has %s for %04x"):format(case[3], case[2]), function()
            assert.equal(case[3], tls.number_name(case[1], case[2]))
        end)
    end
end)

-- ---- the table -----------------------------------------------------------------------------------

describe("the table of names", function()
    it("hashes as SipHash-2-4 does", function() -- its authors' test vectors
        local key = ""
        for i = 0, 15 do
            key = key .. string.char(i)
        end
        local vectors = { [0] = "310e0edd47db6f72", [1] = "fd67dc93c539f874", [7] = "37d1018bf50002ab",
            [8] = "6224939a79f5f593", [15] = "e545be4961ca29a1", [63] = "724506eb4c328a95" }
        for length, expected in pairs(vectors) do
            local data = ""
            for i = 0, length - 1 do
                data = data .. string.char(i)
            end
            assert.equal(expected, (names.hash(key, data):gsub(".", function(c) return ("%02x"):format(c:byte()) end)))
        end
    end)

    it("finds each of many names, and each wildcard once", function()
        local table_ = names.new()
        local targets = { [0] = names.target(table_, "pass"), names.target(table_, "refuse"), names.target(table_,
            "pass") }
        for i = 1, 20000 do
            assert.is_true(names.add(table_, ("Host%d.Example.com"):format(i), targets[i % 2]))
            assert.is_true(names.add(table_, ("*.zone%d.example.com"):format(i), targets[2]))
        end
        names.set(table_, "default", targets[1])
        for i = 1, 20000, 7 do
            assert.same({ targets[i % 2], ("host%d.example.com"):format(i) }, { names.find(table_,
                ("hOST%d.example.COM."):format(i)) })
            assert.same({ targets[2], ("*.zone%d.example.com"):format(i) }, { names.find(table_,
                ("www.zone%d.example.com"):format(i)) })
            assert.same({ targets[1], "default" }, { names.find(table_, ("a.b.zone%d.example.com"):format(i)) })
        end
        assert.same({ -1, "none" }, { names.find(table_) })
        assert.equal(targets[1], names.add(table_, "HOST1.example.com.", targets[2]))
        assert.equal(targets[1], (names.find(table_, "host1.example.com")))
        assert.is_false(names.add(table_, "", 0))
        assert.is_false(names.add(table_, ".", 0))
        assert.is_false(names.add(table_, ("x"):rep(256), 0))
    end)

    it("agrees with a slow search on names of every kind", function()
        local labels = { "a", "b", "www", "*", "xn--x", "" }
        local function random_name()
            local parts = {}
            for i = 1, math.random(4) do
                parts[i] = labels[math.random(#labels)]
            end
            return table.concat(parts, ".")
        end
        for _ = 1, 50 do
            local table_, known = names.new(), {}
            for i = 0, 9 do
                names.target(table_, "pass")
                local text = random_name()
                if text ~= "" and text ~= "." and not text:match("%.%*") and text:gsub("%.$", "") ~= "" then
                    names.add(table_, text, i)
                    text = text:gsub("%.$", "")
                    known[text] = known[text] or i
                end
            end
            for _ = 1, 200 do
                local text = random_name()
                local plain = text:gsub("%.$", "")
                local expected = -1
                if plain ~= "" and not plain:find("*", 1, true) then
                    local rest = plain:match("^[^.]+(%..*)$")
                    expected = known[plain] or rest and known["*" .. rest] or -1
                end
                assert.equal(expected, (names.find(table_, text)), text)
            end
        end
    end)
end)

-- ---- anything at all -----------------------------------------------------------------------------

describe("decisions on 100,000 mutants of ClientHellos", function()
    local seeds = {
        hello(SUITES, EXTENSIONS, bodies()),
        hello(SUITES, EXTENSIONS, bodies { ["0000"] = name("www.zone.example"), ["0033"] = ("k"):rep(1300) }),
        hello("002f,0035", "", nil, "\3\1"),
        hello(SUITES, EXTENSIONS, bodies { ["0000"] = name("nobody.example") }),
        "\x80\x2e\1\3\1\0\x15\0\0\0\x10" .. ("s"):rep(40),
        "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
    }
    local whole = seeds[1]
    seeds[#seeds + 1] = "\22\3\1" .. vector(2, whole:sub(6, 60)) .. "\22\3\3" .. vector(2, whole:sub(61))

    it("are made, without a crash, and memory does not grow", function()
        local table_ = names.new()
        local target = names.target(table_, "pass")
        names.add(table_, "a.example", target)
        names.add(table_, "*.zone.example", target)
        local count = bench.slow and 20000 or 100000
        names.storm(table_, seeds, 1000, 1)
        collectgarbage()
        local before = names.heap()
        local total = names.storm(table_, seeds, count, math.random(1 << 40))
        collectgarbage()
        assert.is_true(names.heap() - before < 65536, names.heap() - before .. " bytes more")
        assert.equal(count, total.more + total.refused + total.none + total.decided)
        for what, number in pairs(total) do
            assert.is_true(number > count / 100, ("only %d were %s"):format(number, what))
        end
    end)
end)
