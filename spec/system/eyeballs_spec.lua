-- A name with several addresses of which some do not work: others are tried beside them (RFC 8305).

local bench = require "bench"
local certs = require "certs"
local dns = require "dns"
local proxy = require "proxy"
local socket = require "socket"

local impossible = dns.impossible()

teardown(proxy.cleanup)

describe("happy eyeballs", function()
    if impossible then
        pending("need names of several addresses: " .. impossible)
        return
    end
    local web, ports
    local holes = {}

    -- Listens, and answers no SYN: its queue is full.
    local function black_hole(host, port)
        local tcp = host:find(":") and socket.tcp6 or socket.tcp4
        local hole = tcp()
        hole:setoption("reuseaddr", true)
        assert(hole:bind(host, port))
        assert(hole:listen(0))
        holes[#holes + 1] = hole
        for _ = 1, 20 do
            local filler = tcp()
            filler:settimeout(0.1)
            holes[#holes + 1] = filler
            if not filler:connect(host, port) then
                return
            end
        end
        error("a queue without end")
    end

    local function listener(name, more)
        return ([[
moongate.listen { name = "%s", address = "127.0.0.1:$%s",
    backend = moongate.backend { address = "%s.test:$up_%s", balance = "round_robin",
        %s } }
]]):format(name, name, name, name, more or "")
    end

    setup(function()
        ports = {}
        for _, name in ipairs { "v6hangs", "refused", "allhang", "tls" } do
            ports[name], ports["up_" .. name] = bench.port(), bench.port()
        end
        ports.full = bench.port()
        local server = dns.start {
            ["v6hangs.test"] = { "127.0.0.2", "::1" },
            ["refused.test"] = { "127.0.0.2", "127.0.0.3", "::1" },
            ["allhang.test"] = { "127.0.0.2", "127.0.0.3" },
            ["tls.test"] = { "127.0.0.2", "127.0.0.3" },
        }
        black_hole("::1", ports.up_v6hangs)
        bench.peer("load", "echo-server", { listen = "127.0.0.2:" .. ports.up_v6hangs })
        black_hole("127.0.0.2", ports.up_allhang)
        black_hole("127.0.0.3", ports.up_allhang)
        for address, certificate in pairs { ["127.0.0.2"] = certs.stranger, ["127.0.0.3"] = certs.ec } do
            bench.peer("load", "echo-server", { listen = address .. ":" .. ports.up_tls, tls = true,
                cert = certificate.crt, key = certificate.key })
        end
        local options = { workers = 1, prefix = server:world(), arguments = { "--log-level", "debug" },
            script = listener("v6hangs", "connect_timeout = 60, health = { fall = 1 }") .. listener "refused" .. [[
moongate.listen { name = "full", address = "127.0.0.1:$full", backend = moongate.backend { name = "full",
    address = "v6hangs.test:$up_v6hangs", balance = "first", max_connections = 1, connect_timeout = 0.6 } }
]]
                .. listener("allhang", "connect_timeout = 0.6") .. listener("tls",
                    "tls = client(), servername = 'localhost'") }
        for name, port in pairs(ports) do options[name] = port end
        web = proxy.start(options)
    end)
    teardown(function()
        for _, hole in ipairs(holes) do hole:close() end
    end)

    local function connect(name)
        local number = #web:records() + 1
        local client = bench.connect(ports[name])
        local answer
        if client then
            client:settimeout(20)
            client:send("ping")
            answer = client:receive(4)
            client:close()
        end
        return answer, web:record(number)
    end

    local function half_open(port)
        local text = bench.must { "ss", "-Htn", "state", "syn-sent", "dport", "=", ":" .. port }
        return select(2, text:gsub("\n", ""))
    end

    local function view(name, address)
        for _, backend in ipairs(web:status().workers[1].engine.backends) do
            for _, row in ipairs(backend.name:find(name, 1, true) == 1 and backend.addresses or {}) do
                if row.address == address then return row end
            end
        end
    end

    it("do not wait for an address that does not answer, which is no failure, and then avoid it", function()
        local slow, good = "[::1]:" .. ports.up_v6hangs, "127.0.0.2:" .. ports.up_v6hangs
        local overtaken, longest = 0, 0
        local before = half_open(ports.up_v6hangs) -- of those that have filled the queue
        for _ = 1, 6 do
            local answer, record = connect "v6hangs"
            assert.equal("ping", answer)
            assert.equal(good, record.backend_address)
            if record.failures then
                overtaken = overtaken + 1
                assert.equal(slow .. ": up: overtaken", record.failures)
                longest = math.max(longest, record.connect_ms)
            end
            assert.equal(record.failures and 2 or 1, record.tries)
        end
        assert.is_true(overtaken >= 1 and longest >= 240, longest)
        local row = view("v6hangs", slow)
        assert.same({ "ready", 0, 0 }, { row.state, row.failed, row.open })
        bench.wait("the slower one to be closed", function() return half_open(ports.up_v6hangs) <= before end)
    end)

    it("do not try an address that is full", function()
        local client = assert(bench.connect(ports.full))
        client:send("ping")
        assert.equal("ping", client:receive(4))
        assert.equal(1, view("full", "127.0.0.2:" .. ports.up_v6hangs).open)
        local answer, record = connect "full"
        assert.is_nil(answer)
        assert.equal("up: connect timeout", record.reason)
        assert.equal(1, record.tries)
        assert.equal(("[::1]:%d: up: connect timeout"):format(ports.up_v6hangs), record.failures)
        local seen = #web:records()
        client:close()
        web:records(seen + 1)
    end)

    it("try each address once", function()
        local answer, record = connect "refused"
        assert.is_nil(answer)
        assert.equal("up: connection refused", record.reason)
        local tried = {}
        for line in web:log_text():gmatch("[^\n]+") do
            local address = line:match(("connection %d: backend %%S+ (%%S+): up: connection refused"):format(record.id))
            if address then
                tried[address] = (tried[address] or 0) + 1
            end
        end
        local port = ":" .. ports.up_refused
        assert.same({ ["127.0.0.2" .. port] = 1, ["127.0.0.3" .. port] = 1, ["[::1]" .. port] = 1 }, tried)
    end)

    it("give each address connect_timeout, and no more", function()
        local answer, record = connect "allhang"
        assert.is_nil(answer)
        assert.equal("up: connect timeout", record.reason)
    end)

    it("go on with the next address where TLS fails", function()
        for _ = 1, 4 do
            local answer, record = connect "tls"
            assert.equal("ping", answer)
            assert.equal("127.0.0.3:" .. ports.up_tls, record.backend_address)
        end
    end)

    it("end with their client, and with moongate", function()
        local client = bench.connect(ports.allhang)
        bench.wait("attempts", function() return half_open(ports.up_allhang) > 0 end)
        client:close()
        local other = bench.connect(ports.allhang)
        other:send("ping")
        web:command("stop")
        web.stopped = true
        local _, code = web.program:wait(20)
        assert.equal(0, code)
        web:assert_clean()
        other:close()
    end)
end)
