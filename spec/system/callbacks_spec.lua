-- A callback that goes wrong costs its own connection, with an alert and a traceback, and nothing else.

local bench = require "bench"
local certs = require "certs"
local proxy = require "proxy"

teardown(proxy.cleanup)

local WRONGS = {
    { name = "never ends", body = "while true do end" },
    { name = "raises", body = "error('not like this')", log = "not like this" },
    { name = "raises something that is no text", body = "error({})" },
    { name = "raises something that never becomes text",
        body = "error(setmetatable({}, { __tostring = function() while true do end end }))" },
    { name = "returns nonsense", body = "return 42, {}" },
}

describe("a callback that", function()
    local web, good
    local ports = {}

    setup(function()
        local parts = { [[
local function listener(name, port, change, backend)
    local ctx = server()
    if change then
        change(ctx)
    end
    moongate.listen { name = name, address = "127.0.0.1:" .. port, tls = ctx, backend = backend or moongate.echo() }
end
listener("good", $good)
]] }
        good = bench.port()
        local function add(kind, body)
            local name = kind .. #parts
            ports[#ports + 1] = bench.port()
            local shape = {
                alpn = "listener(%q, %d, function(ctx) ctx.alpn_select_cb = function(...) %s end end)",
                verify = "listener(%q, %d, function(ctx) ctx.verify_mode = openssl.SSL.VERIFY_PEER " ..
                    "ctx.ca_file = '$ca_crt' ctx.verify_callback = function() %s end end)",
                backend = "listener(%q, %d, nil, function() %s end)",
            }
            parts[#parts + 1] = shape[kind]:format(name, ports[#ports], body)
            return ports[#ports]
        end
        for _, wrong in ipairs(WRONGS) do
            wrong.port = { alpn = add("alpn", wrong.body), verify = add("verify", wrong.body),
                backend = add("backend", wrong.body) }
        end
        ports.none = add("alpn", "return nil")
        ports.without = add("alpn", "return false")
        ports.not_offered = add("alpn", "return 'h3'")
        ports.second = add("alpn", "local list = ... return list[2]")
        ports.refused = add("backend", "return nil, 'closed on Sundays'")
        ports.yes = add("verify", "return true")
        ports.no = add("verify", "return false")
        web = proxy.start { good = good, workers = 1, script = table.concat(parts, "\n") }
    end)

    local function connect(port, options)
        options = options or {}
        options.connect, options.tls, options.cafile, options.servername = "127.0.0.1:" .. port, true,
            certs.ca.crt, "localhost"
        options.bytes, options.alpn = 100, options.alpn or "h2,http/1.1"
        options.cert, options.key = certs.client.crt, certs.client.key
        return bench.exchange(options):finish()
    end

    local function lines_with(text)
        local count = 0
        for line in web:log_text():gmatch("[^\n]+") do
            if line:find(text, 1, true) then
                count = count + 1
            end
        end
        return count
    end

    for _, wrong in ipairs(WRONGS) do
        for _, kind in ipairs { "alpn", "verify", "backend" } do
            for _, version in ipairs { "1.2", "1.3" } do
                it(("%s: %s, TLS %s"):format(wrong.name, kind, version), function()
                    local worker = web:workers()[1]
                    local seen, traced = #web:records(), lines_with("stack traceback")
                    local result = connect(wrong.port[kind], { tls_version = version })
                    assert.matches("^alert:", result["end"])
                    if kind == "backend" then
                        assert.equal(version == "1.3" and "alert:internal_error" or "alert:handshake_failure",
                            result["end"])
                    end
                    assert.equal(0, result.got)
                    local record = web:record(seen + 1)
                    assert.is_string(record.reason)
                    if kind == "backend" then
                        assert.equal("route: callback failed", record.reason)
                        assert.equal("the backend function failed", record.detail)
                        web:wait_log(("listener %s: backend function: "):format(record.listener))
                    end
                    if wrong.name ~= "returns nonsense" then
                        bench.wait("a traceback in the log", function()
                            return lines_with("stack traceback") > traced
                        end)
                    end
                    if wrong.log then
                        web:wait_log(wrong.log)
                    end
                    assert.equal(100, connect(good).got)
                    assert.equal(worker, web:workers()[1])
                end)
            end
        end
    end

    it("chooses no protocol ends the handshake so", function()
        assert.equal("alert:no_application_protocol", connect(ports.none)["end"])
        assert.equal("alert:no_application_protocol", connect(ports.none, { tls_version = "1.2" })["end"])
    end)

    it("wants none goes on without", function()
        local result = connect(ports.without)
        assert.equal(100, result.got)
        assert.equal("", result.alpn)
    end)

    it("chooses what was not offered ends the handshake", function()
        assert.matches("^alert:", connect(ports.not_offered)["end"])
    end)

    it("chooses is followed", function()
        local result = connect(ports.second)
        assert.equal(100, result.got)
        assert.equal("http/1.1", result.alpn)
    end)

    it("accepts or refuses a client's certificate is followed", function()
        assert.equal(100, connect(ports.yes).got)
        assert.matches("^alert:", connect(ports.no)["end"])
    end)

    it("refuses a backend closes the connection, with the reason in the record", function()
        local seen = #web:records()
        local result = connect(ports.refused)
        assert.equal(0, result.got)
        assert.equal("alert:internal_error", result["end"])
        local record = web:record(seen + 1)
        assert.same({ "route: refused", "closed on Sundays" }, { record.reason, record.detail })
    end)
end)

describe("a servername function that fails", function()
    it("ends its connection with a reason of its own, and is not asked again for the next address", function()
        local port = bench.port()
        local web = proxy.start { workers = 1, port = port, a = bench.echo_server().port, b = bench.echo_server().port,
            script = [[
moongate.listen { name = "web", address = "127.0.0.1:$port", backend = moongate.backend { name = "web", tls = client(),
    address = { "127.0.0.1:$a", "127.0.0.1:$b" }, servername = function() error("out of names") end } }
]] }
        local client = bench.connect(port)
        if client then
            client:send("hello\n")
            assert.is_nil((client:receive(1)))
            client:close()
        end
        local record = web:record(1)
        assert.same({ "up: callback failed", "the servername function failed", 1 },
            { record.reason, record.detail, record.tries })
        web:wait_log("out of names")
        local _, traced = web:log_text():gsub("stack traceback", "")
        assert.equal(1, traced)
        local counts = web:status().counts.backends.web
        assert.same({ 1, 1, { ["up: callback failed"] = 1 } }, { counts.tries, counts.failed, counts.failures })
        web:stop()
    end)
end)
