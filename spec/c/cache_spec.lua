-- The cache in shared memory: bounded, whole or a miss, and indifferent to processes that die in the middle.

local build = os.getenv("MOONGATE_BUILD") or "build"
package.cpath = build .. "/spec/?.so;" .. package.cpath
local bench = require "bench"
local cache = require("mgtest").cache

local NOW = os.time()

for _, shared in ipairs { true, false } do
    describe(shared and "a shared cache" or "a private cache", function()
        local c
        before_each(function() c = cache.new(shared) end)

        it("gives back what was put, small, large and empty", function()
            for _, data in ipairs { "", "x", ("y"):rep(480), ("y"):rep(481), ("z"):rep(2016), ("z"):rep(2017),
                ("w"):rep(8160), "\0\1\0" } do
                assert.is_true((cache.put(c, 1, "id" .. #data, data, NOW + 100)))
                local got, expires = cache.get(c, 1, "id" .. #data)
                assert.same({ data, NOW + 100 }, { got, expires })
            end
            assert.equal(8, cache.count(c, 1))
        end)

        it("knows an entry by owner and whole id", function()
            cache.put(c, 1, "id", "one")
            cache.put(c, 2, "id", "two")
            cache.put(c, 1, "", "none")
            assert.equal("one", (cache.get(c, 1, "id")))
            assert.equal("two", (cache.get(c, 2, "id")))
            assert.equal("none", (cache.get(c, 1, "")))
            assert.is_nil((cache.get(c, 3, "id")))
            assert.is_nil((cache.get(c, 1, "i")))
            assert.is_nil((cache.get(c, 1, "id\0")))
        end)

        it("replaces an entry with the same id, whatever its size", function()
            for _, data in ipairs { "a", ("b"):rep(5000), "c" } do
                assert.is_true((cache.put(c, 1, "id", data)))
                assert.equal(data, (cache.get(c, 1, "id")))
                assert.equal(1, cache.count(c, 1))
            end
        end)

        it("refuses what is too long, and counts it", function()
            local done = cache.put(c, 1, "id", ("x"):rep(8161))
            assert.is_false(done)
            assert.equal(1, cache.oversize(c))
            assert.is_nil((cache.get(c, 1, "id")))
        end)

        it("removes", function()
            cache.put(c, 1, "id", "x")
            assert.is_false(cache.remove(c, 2, "id"))
            assert.is_true(cache.remove(c, 1, "id"))
            assert.is_false(cache.remove(c, 1, "id"))
            assert.is_nil((cache.get(c, 1, "id")))
            assert.equal(0, cache.count(c, 1))
        end)

        it("sweeps what has ended by then, or all, of one owner", function()
            for i = 1, 5 do
                cache.put(c, 1, "id" .. i, "x", NOW + i)
                cache.put(c, 2, "id" .. i, "x", NOW + i)
            end
            local gone = cache.sweep(c, 1, NOW + 3)
            table.sort(gone)
            assert.same({ "id1", "id2" }, gone)
            assert.equal(3, cache.count(c, 1))
            assert.equal(3, #cache.sweep(c, 1, 0))
            assert.equal(5, cache.count(c, 2))
        end)

        it("keeps so many entries of an owner: the oldest leaves", function()
            cache.put(c, 2, "other", "x")
            for i = 1, 300 do
                local done, gone = cache.put(c, 1, "id" .. i, "x", NOW + 100, 100)
                assert.is_true(done)
                assert.same({ i > 100 and "id" .. i - 100 or nil }, gone)
            end
            assert.equal(100, cache.count(c, 1))
            for i = 1, 300 do
                assert.equal(i > 200, cache.get(c, 1, "id" .. i) ~= nil)
            end
            assert.same({ 1, "x" }, { cache.count(c, 2), (cache.get(c, 2, "other")) })
            local _, gone = cache.put(c, 1, "id300", "y", NOW + 100, 100) -- in its own place
            assert.same({}, gone)
            _, gone = cache.put(c, 1, "id301", "y", NOW + 100, 3) -- a smaller number from now on
            assert.equal(98, #gone)
            assert.equal(3, cache.count(c, 1))
        end)

        it("is bounded as a whole: the oldest and the ended ones make room", function()
            local total = 0
            for i = 1, 100000 do
                assert.is_true((cache.put(c, 1 + i % 3, "id" .. i, "x", i % 2 == 0 and 1 or NOW + 100)))
            end
            for owner = 1, 3 do
                total = total + cache.count(c, owner)
            end
            assert.is_true(total <= 65536 and total >= 30000, tostring(total))
            for i = 99000, 100000 do
                assert.equal(i % 2 == 1 and "x" or nil, i % 2 == 1 and cache.get(c, 1 + i % 3, "id" .. i) or nil)
            end
        end)
    end)
end

describe("the cache's memory", function()
    it("has nothing left of an entry that has gone", function()
        for title, remove in pairs {
            removed = function(c) cache.remove(c, 1, "id") end,
            swept = function(c) cache.sweep(c, 1, 0) end,
            ["made room"] = function(c) cache.put(c, 1, "other", "x", NOW + 100, 1) end,
            replaced = function(c) cache.put(c, 1, "id", "x") end,
            ["ended long ago"] = cache.tidy,
        } do
            local c = cache.new(true)
            local ended = title:find("ended") and NOW - 7200 or NOW + 100
            cache.put(c, 1, "id", "a long master secret, quite alone", ended)
            assert.is_true(cache.contains(c, "a long master secret"), title)
            remove(c)
            assert.is_false(cache.contains(c, "a long master secret"), title)
        end
    end)
end)

describe("a writer that is", function()
    local SECRET = ("secret "):rep(20)

    for _, how in ipairs { "kill", "stop" } do
        it(how .. (how == "kill" and "ed" or "ped") .. " in the middle is in nobody's way", function()
            local c = cache.new(true)
            cache.put(c, 1, "before", "x")
            local pid = cache.interrupted(c, 1, "half", SECRET, how)
            finally(function() if pid then cache.resume(pid) end end)
            assert.is_nil((cache.get(c, 1, "half")))
            assert.equal("x", (cache.get(c, 1, "before")))
            -- the same id, and everybody else's
            assert.is_true((cache.put(c, 1, "half", "whole")))
            assert.equal("whole", (cache.get(c, 1, "half")))
            for i = 1, 2000 do
                assert.is_true((cache.put(c, 1, "id" .. i, "x", NOW + 100, 1000)))
            end
            assert.equal(1000, cache.count(c, 1))
            -- what it has written goes, too
            assert.is_true(cache.contains(c, "secret s"))
            bench.wait("the slot to be taken over", function()
                cache.tidy(c)
                return not cache.contains(c, "secret s")
            end)
            if how == "stop" then
                assert.is_false(cache.resume(pid)) -- wakes up too late, and tidies up
                pid = nil
                assert.is_nil((cache.get(c, 1, "half")))
                assert.is_false(cache.contains(c, "secret s"))
            end
        end)
    end

    it("stopped, and whose slot has another entry when it wakes up, spoils at most that one", function()
        local c = cache.new(true)
        local pid = cache.interrupted(c, 1, "half", SECRET, "stop")
        finally(function() if pid then cache.resume(pid) end end)
        bench.wait("the slot to be taken over", function()
            cache.tidy(c)
            return not cache.contains(c, "secret s")
        end)
        -- the set's first free slot is the one it had
        cache.put(c, 1, "half", ("other "):rep(20))
        assert.equal(("other "):rep(20), (cache.get(c, 1, "half")))
        assert.is_false(cache.resume(pid))
        pid = nil
        assert.is_nil((cache.get(c, 1, "half"))) -- torn: a miss, and wiped
        assert.is_false(cache.contains(c, "secret s"))
        assert.is_false(cache.contains(c, "other o"))
        assert.is_true((cache.put(c, 1, "half", "again")))
        assert.equal("again", (cache.get(c, 1, "half")))
    end)

    it("one of many, of which some are killed, never makes another one read what nobody wrote", function()
        local c = cache.new(true)
        local rounds = bench.slow and 1000 or 6000
        assert.equal(4, cache.crowd(c, 7, rounds, 3))
        assert.equal(4, cache.crowd(c, 4, rounds, 0))
        -- and the bound holds exactly again
        for i = 1, 10 do
            cache.put(c, 7, "id" .. i, "x", NOW + 100, 5)
        end
        assert.equal(5, cache.count(c, 7))
    end)
end)
