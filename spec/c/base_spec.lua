local build = os.getenv("MOONGATE_BUILD") or "build"
package.cpath = build .. "/spec/?.so;" .. package.cpath
local base = require("mgtest").base

describe("an address", function()
    for text, want in pairs {
        ["127.0.0.1:80"] = { "ip", "127.0.0.1:80" },
        ["[::1]:443"] = { "ip", "[::1]:443" },
        ["[::ffff:10.0.0.1]:1"] = { "ip", "10.0.0.1:1" },
        ["*:65535"] = { "any", "[::]:65535" },
        ["unix:/run/x.sock"] = { "unix", "unix:/run/x.sock" },
        ["unix:@abstract"] = { "unix", "unix:@abstract" },
        ["localhost:6379"] = { "name", "" },
        ["a_b.example-1.com:1"] = { "name", "" },
    } do
        it(text .. " is understood", function()
            local ep = assert(base.endpoint_parse(text, true))
            assert.same(want, { ep.kind, ep.text })
        end)
    end

    for text, reason in pairs {
        [""] = "expected host:port",
        ["localhost"] = "expected host:port",
        ["::1:80"] = "expected host:port",
        [":80"] = "neither an IP address nor a host name",
        ["127.0.0.1:"] = "port must be a number",
        ["127.0.0.1:0"] = "port must be a number",
        ["127.0.0.1:65536"] = "port must be a number",
        ["127.0.0.1:8o"] = "port must be a number",
        ["127.0.0.1:+80"] = "port must be a number",
        ["[::1:80"] = "expected host:port",
        ["[localhost]:80"] = "neither an IP address nor a host name",
        ["a b:80"] = "neither an IP address nor a host name",
        ["unix:relative"] = "expected unix:/absolute/path",
        ["unix:"] = "expected unix:/absolute/path",
        ["unix:/" .. ("x"):rep(200)] = "longer than",
        [("x"):rep(300) .. ":80"] = "longer than",
    } do
        it(("%q is refused"):format(text:sub(1, 30)), function()
            local ep, err = base.endpoint_parse(text, false)
            assert.is_nil(ep)
            assert.truthy(err:find(reason, 1, true), err)
        end)
    end

    it("* is refused where one cannot connect to it", function()
        assert.is_nil(base.endpoint_parse("*:80", false))
    end)
end)

describe("text for others", function()
    it("is valid JSON whatever the bytes", function()
        assert.equal([["a\"b\\c\n\u0001ä]] .. "\u{FFFD}\u{FFFD}" .. '"', base.json('a"b\\c\n\1ä\xff\xc0'))
    end)

    it("is JSON without control characters for a terminal", function()
        assert.equal([["\u0080\u009b31m\u009f\u007f]] .. "\u{a0}é\"", base.json("\u{80}\u{9b}31m\u{9f}\127\u{a0}é"))
    end)

    it("has no control character for a terminal", function()
        assert.equal([[a\x1b[31m\x0ab\xc2\x9bä\x5c]], base.printable("a\27[31m\nb\xc2\x9bä\\"))
    end)

    it("names the nearest option, not any", function()
        assert.equal("address", base.nearest("adress", { "name", "address" }))
        assert.equal("min_version", base.nearest("min_verison", { "max_version", "min_version" }))
        assert.is_nil(base.nearest("zzz", { "name", "address" }))
    end)
end)

describe("a buffer", function()
    it("keeps every byte while it grows", function()
        assert.equal(("x"):rep(5000), base.grow(5000))
    end)

    it("remembers a failed allocation", function()
        for n = 1, 5 do assert.is_nil(base.grow(5000, n)) end
    end)
end)

describe("an error", function()
    it("takes a prefix and cuts the end, never overflows", function()
        assert.equal("here: what", base.prefix("what", "here"))
        assert.equal(2047, #base.prefix(("w"):rep(3000), ("p"):rep(600)))
    end)
end)

describe("shared counters", function()
    it("take back what a dead worker had counted", function()
        local same, open, row = base.shared()
        assert.is_true(same)
        assert.equal(2, open)
        assert.equal(0, row)
    end)

    it("have room for other names when those of old are given back", function()
        assert.equal(50, base.shared_rounds(50, 600, false))
        assert.equal(0, base.shared_rounds(1, 2049, false))
    end)

    it("have room for other names when a worker that held them is killed", function()
        assert.equal(50, base.shared_rounds(50, 600, true))
    end)

    it("know an address for as long as somebody holds it, and after a crash of those who did", function()
        local found, held, after_crash, open, prober, given_back, other = base.shared_addresses(10000)
        assert.equal(8192, found)
        assert.is_true(held)
        assert.is_true(after_crash)
        assert.equal(0, open)
        assert.equal(0, prober)
        assert.is_false(given_back)
        assert.is_false(other)
    end)

    it("are not waited for where one can come back later", function()
        local had, busy, has, still, ms = base.shared_busy()
        assert.is_false(had)
        assert.is_true(busy)
        assert.is_true(has)
        assert.is_false(still)
        assert.is_true(ms < 500, ms) -- of one or two
    end)
end)

describe("what is counted", function()
    it("of an address is summed over the workers, in whatever order they met it", function()
        assert.same({ b = 0, ["1"] = 3, ["2"] = 6, ["3"] = 9, ["4"] = 8, ["5"] = 15, ["6"] = 18 }, base.metrics_sums())
    end)

    it("does no harm to its reader, whatever a worker has written", function()
        for byte, sums in pairs(base.metrics_nonsense()) do
            assert.equal(1, sums[string.char(byte):rep(271)])
        end
    end)
end)

describe("a log that nobody reads", function()
    it("loses records, waits for nobody, and says how many were lost", function()
        local kept, last = base.log_unread(3000)
        local lines = select(2, kept:gsub("moongate: record %d+ x+\n", ""))
        assert.is_true(lines > 100 and lines < 3000)
        assert.matches("^[^\n]+warn  moongate: " .. 3000 - lines
            .. " records of this log were lost\n[^\n]+the last one\n$",
            last)
    end)
end)
