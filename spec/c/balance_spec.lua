-- Which address of a backend comes first, without a connection.

local build = os.getenv("MOONGATE_BUILD") or "build"
package.cpath = build .. "/spec/?.so;" .. package.cpath
local pick = require("mgtest").balance.pick

-- 20,000 clients of all kinds.
local clients = {}
for i = 0, 19999 do
    clients[#clients + 1] = i % 4 == 3 and ("2001:db8:%x::%x"):format(i % 977, i)
        or ("%d.%d.%d.%d"):format(10 + i % 3, i // 256 % 256, i % 7, i % 256)
end

local function shares(picked, count)
    local list = {}
    for i = 1, count do
        list[i] = 0
    end
    for _, index in ipairs(picked) do
        list[index] = list[index] + 1 / #picked
    end
    return list
end

-- Within a tenth of what each should have.
local function assert_shares(weights, picked)
    local total, list = 0, shares(picked, #weights)
    for _, weight in ipairs(weights) do
        total = total + weight
    end
    for i, weight in ipairs(weights) do
        local right = weight / total
        assert.is_true(math.abs(list[i] - right) < 0.1 * right, ("%d has %.4f, not %.4f"):format(i, list[i], right))
    end
end

local function moved(before, after)
    local count = 0
    for i = 1, #before do
        count = count + (before[i] ~= after[i] and 1 or 0)
    end
    return count / #before
end

describe("source_hash", function()
    it("spreads clients evenly, or by weight", function()
        for _, weights in ipairs { { 1, 1, 1, 1, 1, 1, 1, 1 }, { 3, 1 }, { 5, 2, 2, 1 } } do
            assert_shares(weights, pick { balance = "source_hash", weights = weights, clients = clients })
        end
    end)

    it("gives a client the same address each time", function()
        local options = { balance = "source_hash", weights = { 1, 2, 3 }, clients = clients }
        assert.same(pick(options), pick(options))
    end)

    it("moves only the clients of an address that goes, and to all others", function()
        for _, weights in ipairs { { 1, 1, 1, 1, 1, 1, 1, 1, 1, 1 }, { 4, 1, 2, 1, 2 } } do
            local before = pick { balance = "source_hash", weights = weights, clients = clients }
            local had = shares(before, #weights)
            for gone = 1, #weights do
                local after = pick { balance = "source_hash", weights = weights, clients = clients,
                    without = { [gone] = true } }
                local wrong = 0
                for i = 1, #before do
                    if after[i] == gone or (before[i] ~= gone and before[i] ~= after[i]) then
                        wrong = wrong + 1
                    end
                end
                assert.equal(0, wrong)
                assert.is_true(math.abs(moved(before, after) - had[gone]) < 1e-9)
                local rest, now = { table.unpack(weights) }, {}
                table.remove(rest, gone)
                for i, index in ipairs(after) do
                    now[i] = index > gone and index - 1 or index
                end
                assert_shares(rest, now)
            end
        end
    end)

    it("moves little when one is added, or gets more weight", function()
        local five = pick { balance = "source_hash", weights = { 1, 1, 1, 1, 1 }, clients = clients }
        local six = pick { balance = "source_hash", weights = { 1, 1, 1, 1, 1, 1 }, clients = clients }
        local heavy = pick { balance = "source_hash", weights = { 2, 1, 1, 1, 1 }, clients = clients }
        assert.is_true(math.abs(moved(five, six) - 1 / 6) < 0.02)
        assert.is_true(math.abs(moved(five, heavy) - (2 / 6 - 1 / 5)) < 0.02)
    end)

    it("takes an IPv4 address for the same when it comes mapped", function()
        for i = 1, 200 do
            local ip = ("192.0.2.%d"):format(i)
            local both = pick { balance = "source_hash", weights = { 1, 1, 1, 1 }, clients = { ip, "::ffff:" .. ip } }
            assert.equal(both[1], both[2])
        end
    end)

    it("draws where the client has no IP", function()
        assert_shares({ 1, 1 }, pick { balance = "source_hash", weights = { 1, 1 }, count = 20000 })
    end)
end)

describe("round_robin", function()
    -- The longest time that each has to wait, in picks.
    local function gaps(picked, count)
        local last, longest = {}, {}
        for i, index in ipairs(picked) do
            longest[index] = math.max(longest[index] or 0, i - (last[index] or 0))
            last[index] = i
        end
        for index = 1, count do
            longest[index] = math.max(longest[index] or 0, #picked + 1 - (last[index] or 0))
        end
        return longest
    end

    it("takes turns", function()
        assert.same({ 1, 2, 3, 1, 2, 3 }, pick { balance = "round_robin", weights = { 1, 1, 1 }, count = 6 })
    end)

    it("spreads weights, and each evenly", function()
        for _, weights in ipairs { { 3, 1 }, { 5, 1, 1 }, { 1, 2, 3 }, { 7, 7, 7 }, { 1, 65535 } } do
            local total = 0
            for _, weight in ipairs(weights) do
                total = total + weight
            end
            local picked = pick { balance = "round_robin", weights = weights, count = total * 3 }
            local list = shares(picked, #weights)
            for i, gap in ipairs(gaps(picked, #weights)) do
                assert.is_true(math.abs(list[i] * total - weights[i]) < 0.4, ("%d has %.3f"):format(i, list[i] * total))
                assert.is_true(gap <= math.ceil(total / weights[i]) + #weights - 1, ("%d waits for %d"):format(i, gap))
            end
        end
    end)

    it("leaves out who may not, who does not catch up afterwards", function()
        assert.same({ 1, 3, 1, 3 }, pick { balance = "round_robin", weights = { 1, 9, 1 }, count = 4,
            without = { [2] = true } })
        local picked = pick { balance = "round_robin", weights = { 1, 1, 1 }, count = 330, from = 1, to = 30,
            without = { [2] = true } }
        for i = 31, 330, 3 do
            assert.same({ [1] = true, [2] = true, [3] = true },
                { [picked[i]] = true, [picked[i + 1]] = true, [picked[i + 2]] = true })
        end
        picked = pick { balance = "round_robin", weights = { 1, 1, 1 }, count = 330, from = 31, to = 60,
            without = { [2] = true } }
        local second = 0
        for i = 61, 90 do
            second = second + (picked[i] == 2 and 1 or 0)
        end
        assert.is_true(second <= 11, second)
    end)

    it("takes no turn from who has had it", function()
        local picked = pick { balance = "round_robin", weights = { 1, 1, 1 }, count = 6, from = 2, to = 3,
            had = { [2] = true } }
        assert.same({ 1, 3, 1, 2 }, table.move(picked, 1, 4, 1, {}))
    end)
end)

describe("least_connections", function()
    it("fills up evenly, and by weight", function()
        for _, weights in ipairs { { 1, 1, 1 }, { 3, 1 } } do
            assert_shares(weights, pick { balance = "least_connections", weights = weights, count = 300, keep = true })
        end
    end)

    it("takes turns among those that are equal, and who was busy does not catch up", function()
        local picked = pick { balance = "least_connections", weights = { 1, 1, 1 }, count = 120, from = 1, to = 60,
            without = { [3] = true } }
        local third = 0
        for i = 61, 90 do
            third = third + (picked[i] == 3 and 1 or 0)
        end
        assert.is_true(third <= 11, third)
        assert_shares({ 1, 1, 1 }, pick { balance = "least_connections", weights = { 1, 1, 1 }, count = 300 })
    end)
end)

describe("random_two", function()
    it("spreads by weight", function()
        assert_shares({ 1, 1, 1, 1 }, pick { balance = "random_two", weights = { 1, 1, 1, 1 }, count = 20000 })
        for _, weights in ipairs { { 1, 1, 1, 1 }, { 6, 3, 1 } } do
            assert_shares(weights, pick { balance = "random_two", weights = weights, count = 20000, keep = true })
        end
    end)

    it("prefers who has fewer connections", function()
        local list = shares(pick { balance = "random_two", weights = { 1, 1, 1, 1, 1 }, count = 50, keep = true }, 5)
        for _, share in ipairs(list) do
            assert.is_true(share > 0.1 and share < 0.3)
        end
    end)
end)

describe("first", function()
    it("is the first that may", function()
        assert.same({ 1, 1 }, pick { balance = "first", weights = { 1, 9, 1 }, count = 2 })
        assert.same({ 3 }, pick { balance = "first", weights = { 1, 9, 1 }, count = 1, without = { true, true } })
    end)
end)
