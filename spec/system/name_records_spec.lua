-- A name is as many servers as it has records: each is balanced, counted, probed and left on its own, in all workers.

local backends = require "backends"
local bench = require "bench"
local dns = require "dns"
local proxy = require "proxy"

local impossible = dns.impossible()

teardown(proxy.cleanup)

local STOP, CONT = proxy.signals.STOP, proxy.signals.CONT
local ask, open = backends.ask, backends.open
local TWO, THREE, FOUR = "127.0.0.2", "127.0.0.3", "127.0.0.4"

describe("a name's records", function()
    if impossible then
        pending("are servers of their own: " .. impossible)
        return
    end
    local server, names, web, servers, port, front

    local function listener(name, options)
        return ([[
moongate.listen { name = "%s", address = "127.0.0.1:$%s", backend = moongate.backend { name = "%s",
    resolve_interval = 1, %s } }
]]):format(name, name, name, options)
    end

    local function set(name, ...)
        names[name .. ".test"] = { ... }
        server:set(names)
    end

    local function views(name)
        return backends.rows(web, name)
    end

    local function at(host)
        return host .. ":" .. port
    end

    -- Waits until both workers say of those, and of no others, what is said here.
    local function wait_states(name, states)
        local wanted = 0
        for _ in pairs(states) do
            wanted = wanted + 2
        end
        bench.wait(name .. "'s addresses to be so", function()
            local list, rows = views(name)
            for host, state in pairs(states) do
                for worker = 1, 2 do
                    local row = list[at(host)] and list[at(host)][worker]
                    if not row or row.state ~= state then
                        return false
                    end
                end
            end
            return rows == wanted
        end)
    end

    local function sum(name, host, field)
        local total = 0
        for _, row in ipairs(views(name)[at(host)] or {}) do
            total = total + row[field]
        end
        return total
    end

    local function records(name, count)
        return backends.records(web, name, count)
    end

    -- Where an open connection has led: whose count has grown.
    local function held(name)
        local list = {}
        for _, host in ipairs { TWO, THREE, FOUR } do
            list[host] = sum(name, host, "open")
        end
        return list
    end

    setup(function()
        servers, port = backends.echo_servers_at { TWO, THREE, FOUR }
        names = { ["moves.test"] = { TWO } }
        for _, name in ipairs { "full", "hash", "down" } do
            names[name .. ".test"] = { TWO, THREE, FOUR }
        end
        names["fall.test"] = { TWO, THREE, "127.0.0.5" } -- where nobody is
        server = dns.start(names)
        front = {}
        for _, name in ipairs { "fall", "full", "hash", "down", "moves" } do
            front[name] = bench.port()
        end
        local options = { prefix = server:world(), up = port, script =
            listener("fall", [[address = "fall.test:$up", balance = "round_robin", health = { fall = 2, rest = 3600 }]])
            .. listener("full", [[address = "full.test:$up", max_connections = 1]])
            .. listener("hash", [[address = "hash.test:$up", balance = "source_hash"]])
            .. listener("down", [[address = "down.test:$up", balance = "round_robin", on_down = "close",
                health = { interval = 0.05, timeout = 1, fall = 1, rise = 1, send = "ping", expect = "ping" }]])
            .. listener("moves", [[address = "moves.test:$up", balance = "round_robin",
                health = { interval = 0.05, timeout = 5, fall = 5, rise = 1 }]]) }
        for name, number in pairs(front) do
            options[name] = number
        end
        web = proxy.start(options)
        bench.wait("answers", function()
            local _, rows = views "fall"
            return rows == 6
        end)
    end)

    it("of which one refuses: that one rests, and its turns are the others'", function()
        local gone = "127.0.0.5"
        bench.wait("its rest", function()
            assert.equal("hello", ask(front.fall, "hello\n"))
            return sum("fall", gone, "failed") >= 2
        end)
        wait_states("fall", { [TWO] = "ready", [THREE] = "ready", [gone] = "resting" })
        assert.equal("fall.test:" .. port, views("fall")[at(gone)][1].name)
        local before = #records("fall", 1)
        for _ = 1, 10 do
            assert.equal("hello", ask(front.fall, "hello\n"))
        end
        local used, failed = {}, 0
        for i, record in ipairs(records("fall", before + 10)) do
            if i > before then
                used[record.backend_address] = (used[record.backend_address] or 0) + 1
                assert.equal(1, record.tries)
            elseif record.failures then
                failed = failed + 1
                assert.equal(at(gone) .. ": up: connection refused", record.failures)
                assert.equal(2, record.tries)
            end
        end
        assert.same({ [at(TWO)] = 5, [at(THREE)] = 5 }, used)
        assert.equal(2, failed)
        assert.equal(1, backends.log_count(web, ("backend fall: %s rests for 3600 s: 2 failures in a row, the last: "
            .. "up: connection refused"):format(at(gone))))
        web:reload()
        wait_states("fall", { [TWO] = "ready", [THREE] = "ready", [gone] = "resting" })
        assert.equal("hello", ask(front.fall, "hello\n"))
    end)

    it("have max_connections each", function()
        local clients = {}
        for i = 1, 3 do
            clients[i] = assert(open(front.full))
        end
        assert.same({ [TWO] = 1, [THREE] = 1, [FOUR] = 1 }, held "full")
        assert.is_nil(open(front.full))
        assert.equal("up: all addresses full", records("full", 1)[1].reason)
        clients[2]:close()
        records("full", 2)
        clients[2] = assert(open(front.full))
        for _, client in ipairs(clients) do
            client:close()
        end
    end)

    -- The address that each client is led to.
    local function map()
        local before, count, of = #records("hash", 0), 24, {}
        for client = 1, count do
            assert.equal("hello", ask(front.hash, "hello\n", "127.0.1." .. client))
        end
        for i, record in ipairs(records("hash", before + count)) do
            if i > before then
                of[record.remote:match("^[%d.]+")] = record.backend_address
            end
        end
        return of
    end

    it("keep their clients with source_hash when one goes, which has its own when it is back", function()
        local before = map()
        set("hash", TWO, THREE)
        wait_states("hash", { [TWO] = "ready", [THREE] = "ready" })
        local lost = 0
        for client, address in pairs(map()) do
            if before[client] == at(FOUR) then
                lost = lost + 1
                assert.not_equal(at(FOUR), address)
            else
                assert.equal(before[client], address)
            end
        end
        assert.is_true(lost > 0 and lost < 20, lost)
        set("hash", FOUR, TWO, THREE)
        wait_states("hash", { [TWO] = "ready", [THREE] = "ready", [FOUR] = "ready" })
        assert.same(before, map())
    end)

    it("are probed each by one worker, and close their own connections when they go down", function()
        wait_states("down", { [TWO] = "ready", [THREE] = "ready", [FOUR] = "ready" })
        bench.wait("a prober for each", function()
            for _, rows in pairs(views "down") do
                if (rows[1].prober and 1 or 0) + (rows[2].prober and 1 or 0) ~= 1 then
                    return false
                end
            end
            return true
        end)
        local clients = {}
        for i = 1, 6 do
            clients[i] = assert(open(front.down))
        end
        assert.same({ [TWO] = 2, [THREE] = 2, [FOUR] = 2 }, held "down")
        servers[2]:signal(STOP)
        wait_states("down", { [TWO] = "ready", [THREE] = "down", [FOUR] = "ready" })
        for _, record in ipairs(records("down", 2)) do
            assert.equal("up: address went down", record.reason)
            assert.equal(at(THREE), record.backend_address)
        end
        local alive = 0
        for _, client in ipairs(clients) do
            client:send("still\n")
            alive = alive + (client:receive("*l") == "still" and 1 or 0)
            client:close()
        end
        assert.equal(4, alive)
        for _ = 1, 4 do
            assert.equal("hello", ask(front.down, "hello\n"))
        end
        servers[2]:signal(CONT)
        wait_states("down", { [TWO] = "ready", [THREE] = "ready", [FOUR] = "ready" })
    end)

    it("come and go: who is gone keeps its connections, and gets no others, nor probes", function()
        local client = assert(open(front.moves))
        bench.wait("a probe", function() return sum("moves", TWO, "probed") > 0 end)
        set("moves", THREE)
        bench.wait("the new one", function()
            local list = views "moves"
            local rows = list[at(TWO)] or {}
            return list[at(THREE)] and #list[at(THREE)] == 2 and #rows == 1 and rows[1].state == "gone" and rows[1]
        end)
        local left = views("moves")[at(TWO)][1]
        assert.equal(1, left.open)
        assert.is_false(left.prober)
        for _ = 1, 4 do
            assert.equal("hello", ask(front.moves, "hello\n"))
        end
        for _, record in ipairs(records("moves", 4)) do
            assert.equal(at(THREE), record.backend_address)
        end
        client:send("still\n")
        assert.equal("still", client:receive("*l"))
        set("moves", THREE, TWO) -- it is back, and its connection counts
        wait_states("moves", { [TWO] = "ready", [THREE] = "ready" })
        assert.equal(1, sum("moves", TWO, "open"))
        local probed = sum("moves", TWO, "probed")
        bench.wait("further probes", function() return sum("moves", TWO, "probed") > probed end)
        set("moves", THREE)
        bench.wait("its going", function() return #(views("moves")[at(TWO)] or {}) == 1 end)
        client:close()
        wait_states("moves", { [THREE] = "ready" })
    end)
end)
