-- What is counted per client in shared memory.

local base = require "mgtest".base

describe("a client", function()
    it("is an IPv4 address", function()
        assert.equal("00c000020100000000", base.limits_client "192.0.2.1:80")
        assert.not_equal(base.limits_client "192.0.2.1:80", base.limits_client "192.0.2.2:80")
        assert.equal(base.limits_client "192.0.2.1:80", base.limits_client "192.0.2.1:81")
        assert.equal(base.limits_client "192.0.2.1:80", base.limits_client "[::ffff:192.0.2.1]:80")
    end)

    it("is the /64 of an IPv6 address", function()
        assert.equal("0120010db800010002", base.limits_client "[2001:db8:1:2:3:4:5:6]:80")
        assert.equal(base.limits_client "[2001:db8:1:2::1]:80", base.limits_client "[2001:db8:1:2:ffff::]:80")
        assert.not_equal(base.limits_client "[2001:db8:1:2::1]:80", base.limits_client "[2001:db8:1:3::1]:80")
        assert.not_equal(base.limits_client "0.0.0.1:80", base.limits_client "[0:1::]:80")
    end)

    it("has no unix socket", function()
        assert.is_nil(base.limits_client "unix:/tmp/x")
    end)
end)

describe("connections", function()
    local ok, refused, uncounted = 0, -1, -2

    it("are summed up over the workers", function()
        assert.same({ ok, ok, ok, ok, ok, refused, refused }, base.limits_count "+1+1+2+2+1+1+2")
        assert.same({ ok, ok, ok, ok, ok, ok, ok, refused }, base.limits_count "+1+1+1+2+2-1+2+2")
    end)

    it("of a worker that died are given back", function()
        assert.same({ ok, ok, ok, ok, ok, refused, ok, ok, ok, ok, refused },
            base.limits_count "+1+1+1+2+2+2x1+2+1+2+1")
    end)

    it("beyond the table's room are not counted", function()
        assert.equal(32, (base.limits_crowd(32)))
        assert.same({ 32, uncounted }, { base.limits_crowd(40) })
    end)
end)

describe("a bucket", function()
    local function takes(...)
        local steps = {}
        for i, step in ipairs { ... } do
            steps[i] = type(step) == "table" and step or { step, 10, 3 }
        end
        return base.bucket(steps)
    end

    it("has its burst, and a token more each interval", function()
        assert.same({ true, true, true, false, false, true, false }, takes(0, 0, 0, 0, 0.05, 0.1, 0.1))
        assert.same({ true, true, true, true, true, true, false }, takes(0, 0, 0, 10, 10, 10, 10))
    end)

    it("takes one back", function()
        assert.same({ true, true, true, true, true, false }, takes(0, 0, 0, { "back", 10, 3 }, 0, 0))
    end)

    it("is no more than empty when the rate has changed", function()
        local slow = { 0, 0.001, 2 }
        assert.same({ true, true, false, false, true }, takes(slow, slow, slow, 0, 0.4))
    end)

    it("that somebody has used up outlives those of many others", function()
        assert.equal(100, base.buckets(100, 0))
        assert.equal(100, base.buckets(100, 30000))
        assert.is_true(base.buckets(100, 1000000) > 95)
    end)
end)
