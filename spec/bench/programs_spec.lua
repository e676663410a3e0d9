-- The bench's own instruments: what they count is there, and what fails is no figure.

local bench = require "bench"
local certs = require "certs"

package.path = "spec/bench/?.lua;" .. package.path
local load = require "load"
local rounds = require "rounds"

teardown(bench.cleanup)

describe("the generator", function()
    local backend, relay

    lazy_setup(function()
        backend = load.backend()
        relay = load.relay(backend, "240:1230,126:258/74")
    end)

    local function run(command, options)
        options.cpu = relay.pids
        options.seconds = options.seconds or 0.1
        return load.run(command, relay.port, options, {})
    end

    it("opens, uses and closes connections, after flights like a handshake's", function()
        local got = run("churn", { flights = "240:1230,126:258/74" })
        assert.is_true(got.units > 0)
        assert.equal(0, got.failed)
        -- 240 + 126 + 74 + the ask out, 1230 + 258 + 16 in; flights are not counted, the last one goes with the ask
        assert.equal(got.units * (74 + 16 + 16), got.bytes)
        assert.is_true(got.cpu_ns > 0)
        assert.is_true(got.p50_us > 0 and got.p99_us >= got.p50_us and got.max_us >= got.p99_us)
    end)

    it("brings and wants as many bytes as it is told", function()
        local got = run("exchange", { flights = "240:1230,126:258/74", connections = 3, brings = 300000,
            wants = 700000 })
        assert.is_true(got.units >= 3)
        assert.equal(got.units * (16 + 300000 + 700000), got.bytes)
    end)

    it("does no more than its rate", function()
        local got = run("exchange", { flights = "240:1230,126:258/74", connections = 4, rate = 200, seconds = 0.5 })
        assert.is_true(got.units > 0 and got.units <= 100)
    end)

    it("gives no figure for a proxy that refuses", function()
        local port = bench.port()
        local got, why = load.run("exchange", port, { seconds = 0.1 }, {})
        assert.is_nil(got)
        assert.matches("refused", why)
    end)

    it("gives no figure for sessions that are not resumed", function()
        local port = bench.port()
        bench.start { "openssl", "s_server", "-accept", tostring(port), "-cert", certs.ec.crt, "-key", certs.ec.key,
            "-no_ticket", "-no_cache", "-tls1_2", "-quiet", stdin = "pipe" }
        bench.wait("s_server to listen", function()
            local client = bench.connect(port)
            return client and client:close()
        end)
        local got, why = load.run("churn", port, { tls = true, ["tls-version"] = "1.2", resume = "ticket",
            seconds = 0.1 }, {})
        assert.is_nil(got)
        assert.is_string(why)
    end)
end)

describe("the floor", function()
    it("measures OpenSSL's server side in memory", function()
        local peers = require "peers"
        peers.chains()
        local full = load.floor("handshake", "ec", { tls = true, ["tls-version"] = "1.3" }, 0.1)
        local resumed = load.floor("handshake", "ec", { tls = true, ["tls-version"] = "1.2", resume = "id" }, 0.1)
        local record = load.floor("encrypt", "ec", { tls = true, ["tls-version"] = "1.3" }, 0.1)
        assert.is_true(full.ns > 0 and resumed.ns > 0)
        assert.equal(16384, record.bytes)
    end)
end)

describe("a row", function()
    local row

    before_each(function()
        row = rounds.row({ id = "x", title = "x", target = 0.9 }, { name = "CPU", unit = "µs" }, true)
        for round, figures in ipairs { { 8, 10, 16, 9 }, { 80, 100, 160, 100 }, { 9, 10, 20, 11 } } do
            for i, subject in ipairs { "moongate", "hitch", "haproxy", "nginx" } do
                rounds.put(row, subject, round, figures[i])
            end
        end
    end)

    it("pairs the figures of a round", function()
        local ratio, spread = rounds.ratio(row, "moongate", "hitch")
        assert.near(0.8, ratio, 1e-9)
        assert.near(0.025, spread, 1e-9)
        assert.is_nil(rounds.ratio(row, "moongate", "stunnel"))
    end)

    it("is judged by the strongest peer", function()
        local best, who = rounds.best(row)
        assert.equal("nginx", who)
        assert.near(0.8181, best, 1e-3)
        assert.is_true(rounds.met(row))
        row.target = 0.8
        assert.is_false(rounds.met(row))
    end)

    it("is judged by the strongest peer where more is better, too", function()
        row.more, row.target = true, 0.5
        local best, who = rounds.best(row)
        assert.equal("haproxy", who)
        assert.near(0.5, best, 1e-9)
        assert.is_true(rounds.met(row))
    end)

    it("is judged by its own figure, where there is a bound for that", function()
        row.target, row.most = nil, 9
        assert.is_true(rounds.met(row))
        row.most = 8.9
        assert.is_false(rounds.met(row))
    end)

    it("goes round: A B C, B C A, C A B", function()
        local order = {}
        rounds.run({ row }, { { name = "a" }, { name = "b" }, { name = "c" } }, { rounds = 3, seconds = 60 },
            function(subject)
                order[#order + 1] = subject.name
                return nil, "no figure"
            end)
        assert.equal("abcbcacab", table.concat(order))
        assert.equal("no figure", row.notes.a)
    end)
end)
