-- The session cache as a script sees it, with two workers: one cache, whose entries come and go for both.

local bench = require "bench"
local certs = require "certs"
local process = require "process"
local proxy = require "proxy"

local signals = proxy.signals

describe("the session cache of two workers", function()
    local web
    local ports = {}

    -- The "ask" listener runs what the client's name says, and answers by the reason of its refusal.
    setup(function()
        ports.web, ports.ask = bench.port(), bench.port()
        web = proxy.start { workers = 2, settings = "watchdog = 120", web = ports.web, ask = ports.ask, script = [[
local told, last = {}, nil
local ctx = server()
ctx.options = ctx.options | openssl.SSL.OP_NO_TICKET
ctx.session_cache_size = 10
ctx.session_new_cb = function(conn, session)
    told[#told + 1] = "new at " .. conn.listener
    last = session
end
ctx.session_remove_cb = function(_, session) told[#told + 1] = "removed " .. #session.id end
moongate.listen { name = "web", address = "127.0.0.1:$web", tls = ctx, backend = moongate.reply "bye\n" }

local orders = {
    count = function() return ctx.session_cache_stats.cache_num end,
    stats = function()
        local stats = ctx.session_cache_stats
        return stats.cache_hits .. " hits, " .. stats.cache_misses .. " misses, " .. stats.cache_full .. " full"
    end,
    told = function() return table.concat(told, "; ") end,
    remove = function() return ctx:session_remove(last) end,
    add = function() return ctx:session_add(last:dup()) end,
    expire = function() last.time = os.time() - 100000 return ctx:flush_sessions().session_cache_stats.cache_num end,
    flush = function() return ctx:flush_sessions(0).session_cache_stats.cache_num end,
    small = function() ctx.session_cache_size = 2 return ctx.session_cache_size end,
    off = function() ctx.session_cache_mode = 0 return ctx.session_cache_mode end,
    on = function() ctx.session_cache_mode = 2 return ctx.session_cache_mode end,
}
moongate.listen { name = "ask", address = "127.0.0.1:$ask", tls = server(), backend = function(conn)
    return nil, tostring(orders[conn.servername]())
end }
]] }
    end)
    teardown(proxy.cleanup)

    local function at(index, act)
        local other = web:wait_workers(2)[3 - index]
        process.kill(other, signals.STOP)
        local ok, result = pcall(act)
        process.kill(other, signals.CONT)
        return ok and result or error(result or "no answer", 0)
    end

    local asked = 0

    local function ask(index, order)
        return at(index, function()
            asked = asked + 1
            bench.run { "openssl", "s_client", "-connect", "127.0.0.1:" .. ports.ask, "-servername", order,
                "-CAfile", certs.ca.crt }
            -- those of other connections may come late
            return bench.wait("the answer", function()
                local answers = {}
                for _, record in ipairs(web:records()) do
                    answers[#answers + 1] = record.listener == "ask" and (record.detail or record.error) or nil
                end
                return answers[asked]
            end)
        end)
    end

    local function visit(index, version, ...)
        local arguments = { "openssl", "s_client", "-connect", "127.0.0.1:" .. ports.web, "-servername", "localhost",
            "-ign_eof", "-CAfile", certs.ca.crt, version, input = "hello\n", ... }
        return at(index, function() return bench.must(arguments):match("(%a+), TLSv1%.%d, Cipher is") end)
    end

    for _, version in ipairs { "-tls1_2", "-tls1_3" } do
        it("is one for both: " .. version, function()
            local session = bench.path("session")
            os.remove(session)
            assert.equal("0", ask(1, "flush"))
            assert.equal("New", visit(1, version, "-sess_out", session))
            assert.same({ "1", "1" }, { ask(1, "count"), ask(2, "count") })
            assert.equal("Reused", visit(2, version, "-sess_in", session))
            assert.equal("0", ask(2, "flush"))
            assert.equal("0", ask(1, "count"))
            assert.equal("New", visit(1, version, "-sess_in", session))
        end)
    end

    it("has one set of statistics", function()
        local session = bench.path("session")
        os.remove(session)
        local function stats(index)
            local hits, misses, full = ask(index, "stats"):match("^(%d+) hits, (%d+) misses, (%d+) full")
            return { tonumber(hits), tonumber(misses), tonumber(full) }
        end
        ask(1, "flush")
        local before = stats(1)
        assert.equal("New", visit(1, "-tls1_2", "-sess_out", session))
        assert.equal("Reused", visit(2, "-tls1_2", "-sess_in", session))
        assert.equal("Reused", visit(1, "-tls1_2", "-sess_in", session))
        ask(2, "flush")
        assert.equal("New", visit(2, "-tls1_2", "-sess_in", session))
        before[1], before[2] = before[1] + 2, before[2] + 1
        assert.same({ before, before }, { stats(1), stats(2) })
    end)

    it("is not in a core dump", function()
        for _, pid in ipairs(web:wait_workers(2)) do
            local maps = io.open("/proc/" .. pid .. "/smaps")
            if not maps then
                pending("smaps are for root")
                return
            end
            local text = maps:read("a")
            maps:close()
            assert.matches(" dd", text:match("memfd:moongate%-sessions.-VmFlags:([^\n]*)"), 1, true)
        end
    end)

    it("forgets for both what one removes or lets expire, and knows what one adds", function()
        local session = bench.path("session")
        os.remove(session)
        ask(1, "flush")
        assert.equal("New", visit(1, "-tls1_2", "-sess_out", session))
        assert.equal("true", ask(1, "remove"))
        assert.equal("0", ask(2, "count"))
        assert.equal("New", visit(2, "-tls1_2", "-sess_in", session))
        assert.equal("true", ask(1, "add"))
        assert.equal("2", ask(2, "count"))
        assert.equal("Reused", visit(2, "-tls1_2", "-sess_in", session))
        assert.equal("1", ask(2, "expire")) -- the second worker's last one
        assert.equal("1", ask(1, "count"))
        assert.matches("new at web.*removed 32", ask(1, "told"))
    end)

    it("holds no more than session_cache_size says, whoever puts", function()
        ask(1, "flush")
        for i = 1, 24 do
            visit(1 + i % 2, "-tls1_2")
        end
        assert.same({ "10", "10" }, { ask(1, "count"), ask(2, "count") })
        assert.matches("full", ask(1, "stats"))
        assert.equal("2", ask(1, "small"))
        visit(1, "-tls1_2")
        assert.equal("2", ask(2, "count"))
    end)

    it("is switched off and on while it serves, by each worker for itself", function()
        local session = bench.path("session")
        os.remove(session)
        ask(1, "flush")
        assert.equal("0", ask(1, "off"))
        assert.equal("New", visit(1, "-tls1_3", "-sess_out", session))
        assert.equal("0", ask(1, "count"))
        assert.equal("2", ask(1, "on"))
        assert.equal("New", visit(1, "-tls1_3", "-sess_in", session))
        assert.equal("1", ask(2, "count"))
    end)
end)
