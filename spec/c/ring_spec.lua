-- The ring of recent ClientHellos, against a model that keeps everything.

local tls = require("mgtest").tls

local LONGEST = 4096

describe("the ring", function()
    it("holds nothing until it is given a size, and nothing again with 0", function()
        local ring = tls.ring()
        assert.equal(0, ring:add(1, "hello"))
        assert.equal(0, ring:resize(2))
        assert.equal(1, ring:add(1, "hello"))
        assert.equal(0, ring:resize(0))
        assert.same({}, ring:list())
        assert.equal(0, ring:add(1, "hello"))
    end)

    it("counts what is too long, and does not keep it", function()
        local ring = tls.ring()
        ring:resize(10)
        assert.equal(1, ring:add(7, ("x"):rep(LONGEST)))
        assert.equal(0, ring:add(7, ("x"):rep(LONGEST + 1)))
        local capacity, held, skipped = ring:counts()
        assert.same({ 10, 1, 1 }, { capacity, held, skipped })
    end)

    it("takes a hello for refused until it is confirmed, and a number that has gone for nothing", function()
        local ring = tls.ring()
        ring:resize(2)
        for i = 1, 3 do
            assert.equal(i, ring:add(i, "hello " .. i))
        end
        ring:confirm(1)
        ring:confirm(3)
        ring:confirm(4)
        assert.same({ { 2, 2, false, "hello 2" }, { 3, 3, true, "hello 3" } }, ring:list())
    end)

    it("does not call accepted what the policy in force would refuse, as long as it is in force", function()
        local ring = tls.ring()
        ring:resize(2)
        ring:confirm(ring:add(1, "hello"))
        ring:refuse(1, 8)
        assert.is_true(ring:list()[1][3]) -- generation 8 is not in force
        ring:adopt(8)
        assert.is_false(ring:list()[1][3])
        ring:adopt(9)
        assert.is_true(ring:list()[1][3])
    end)

    it("has the newest ones in order, whatever their lengths and its sizes", function()
        local ring = tls.ring()
        local all, size = {}, 0
        math.randomseed(20261125)
        for _ = 1, 20000 do
            if math.random(500) == 1 then
                size = math.random(0, 40)
                assert.equal(0, ring:resize(size))
            end
            local data = string.char(math.random(0, 255)):rep(math.random(0, 1) == 0 and math.random(LONGEST) or 300)
            local number = ring:add(#data, data)
            if number > 0 then
                all[number] = data
                if math.random(2) == 1 then
                    ring:confirm(number)
                end
            end
            if math.random(50) == 1 then
                local list = ring:list()
                assert.is_true(#list <= size)
                for i, hello in ipairs(list) do
                    local expected = #all - #list + i
                    assert.equal(expected, hello[1])
                    assert.is_true(all[expected] == hello[4] and #hello[4] == hello[2])
                end
            end
        end
    end)

    it("keeps as many as it is told of ordinary ones", function()
        local ring = tls.ring()
        ring:resize(1000)
        for _ = 1, 2500 do
            ring:add(1, ("x"):rep(1900))
        end
        local _, held = ring:counts()
        assert.equal(1000, held)
    end)
end)
