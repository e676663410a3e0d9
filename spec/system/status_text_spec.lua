-- What `moongate status` shows a person: in which order, which addresses do not serve and why, all reasons.

local backends = require "backends"
local bench = require "bench"
local proxy = require "proxy"

teardown(proxy.cleanup)

describe("status", function()
    local web, port, front, nobody

    setup(function()
        port, front, nobody = bench.port(), bench.port(), bench.port()
        web = proxy.start { workers = 1, port = port, front = front, nobody = nobody, up = bench.echo_server().port,
            resting = bench.port(), script = [[
local full = moongate.backend { name = "zebra", address = "127.0.0.1:$up", max_connections = 1 }
local resting = moongate.backend { name = "middle", address = { "127.0.0.1:$resting", "127.0.0.1:$up" },
    balance = "first", health = { fall = 1, rest = 3600 } }
moongate.backend { name = "ape", address = "127.0.0.1:$nobody",
    health = { interval = 0.05, timeout = 1, fall = 1, rise = 1 } }
for i = 9, 1, -1 do
    moongate.listen { name = "l" .. i, address = "unix:$dir/l" .. i, backend = resting }
end
moongate.listen { name = "front", address = "127.0.0.1:$front", backend = resting }
local asked = 0
moongate.listen { name = "all", address = "127.0.0.1:$port", backend = function()
    asked = asked + 1
    if asked == 1 or asked == 2 then return full end
    if asked == 3 then return nil, "maintenance" end
    if asked == 4 then error("four") end
    if asked == 5 then return "127.0.0.1:$nobody" end
    return resting
end }
]] }
    end)

    local function text()
        return web:command("status").out
    end

    it("has names in their order, those that only functions have given last", function()
        backends.ask(front, "hello\n")
        local held = backends.open(port)
        for _ = 2, 6 do
            backends.ask(port, "hello\n")
        end
        held:close()
        bench.wait("their ends", function()
            local all = web:status().counts.listeners.all
            return all.accepted == 6 and all.open == 0
        end)
        local listeners, backs = text():match("\nLISTENER.-\n(.-)\n\nBACKEND.-\n(.-)\n\n")
        local order = {}
        for line in (listeners .. "\n" .. backs):gmatch("[^\n]+") do
            order[#order + 1] = line:match("^(%S+)")
        end
        assert.same({ "all", "front", "l1", "l2", "l3", "l4", "l5", "l6", "l7", "l8", "l9", "ape", "middle", "zebra",
            "127.0.0.1:" .. nobody }, order)
    end)

    it("says which addresses are down or rest, since when and why", function()
        bench.wait("it to be down", function()
            local row = backends.views(web, "127.0.0.1:" .. nobody)[1]
            return row and row.state == "down" and row["for"] >= 0 and row.why:find("refused", 1, true)
        end)
        local shown = text()
        assert.matches("\nNOT READY +ADDRESS +STATE +FOR +WHY\n", shown)
        assert.matches("\nape +127%.0%.0%.1:" .. nobody .. " +down +%d+ s +connection refused\n", shown)
        assert.matches("\nmiddle +127%.0%.0%.1:%d+ +resting +%d+ s +up: connection refused\n", shown)
        local _, rows = shown:match("NOT READY.*"):gsub("\n", "")
        assert.equal(3, rows)
    end)

    it("counts all reasons, the less frequent ones together", function()
        local others, reasons, count = 6, text():match("\nall +6 +0 +([^\n]+), (%d+ for %d+ other reasons?)\n")
        for number in reasons:gmatch("%f[%d](%d+) %l+:") do
            others = others - number
        end
        local closed = web:status().counts.listeners.all.closed
        local kinds = 0
        for _ in pairs(closed) do
            kinds = kinds + 1
        end
        assert.equal(("%d for %d other reason%s"):format(others, kinds - 4, kinds == 5 and "" or "s"), count)
        for _, reason in ipairs { "route: refused", "route: callback failed", "up: connection refused",
            "up: all addresses full" } do
            assert.equal(1, closed[reason], reason)
        end
    end)

    it("never counts more failures than tries", function()
        for _, each in pairs(web:status().counts.backends) do
            assert.is_true(each.failed <= each.tries, each.failed .. " of " .. each.tries)
        end
        local zebra = web:status().counts.backends.zebra
        assert.same({ 2, 2, 1 }, { zebra.connections, zebra.tries, zebra.failed })
    end)
end)
