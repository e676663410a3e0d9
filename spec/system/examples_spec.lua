-- Every example passes its check, and those that can be run beside others are.

local bench = require "bench"
local certs = require "certs"
local process = require "process"
local proxy = require "proxy"

local here = assert(io.popen("pwd")):read("l")

describe("examples/", function()
    local env

    setup(function()
        local dir = bench.path("quickstart")
        bench.must { "mkdir", dir }
        for name, made in pairs { ca = certs.ca, rsa = certs.rsa, ecdsa = certs.ec } do
            bench.must { "cp", made.crt, dir .. "/" .. name .. ".crt" }
            bench.must { "cp", made.key, dir .. "/" .. name .. ".key" }
        end
        env = { MOONGATE_QUICKSTART = dir }
    end)
    teardown(proxy.cleanup)

    for _, name in ipairs(process.list("examples")) do
        if name:match("%.lua$") then
            it(name .. " passes its check without a warning", function()
                local result = bench.run { bench.moongate, "check", "examples/" .. name, cwd = here, env = env }
                assert.equal(0, result.code, result.err)
                assert.equal("", result.err)
                assert.is_nil(result.out:find("warning", 1, true), result.out)
            end)
        end
    end

    local function start(name, more)
        local values = setmetatable(more, { __index = env })
        values.MOONGATE_QUICKSTART = env.MOONGATE_QUICKSTART
        return proxy.start { script_path = here .. "/examples/" .. name, workers = 1, env = values }
    end

    it("originate.lua speaks TLS for its client", function()
        local server = bench.exchange { listen = "127.0.0.1:0", tls = true, cert = certs.ec.crt,
            key = certs.ec.key, bytes = 100 }
        local port = bench.port()
        start("originate.lua", { LISTEN = "127.0.0.1:" .. port, BACKEND = "127.0.0.1:" .. server.port })
        assert.equal(100, bench.exchange { connect = "127.0.0.1:" .. port, bytes = 100 }:finish().got)
        assert.equal(100, server:finish().got)
    end)

    it("alpn.lua agrees on the protocols that it has backends for", function()
        local port = bench.port()
        start("alpn.lua", { LISTEN = "127.0.0.1:" .. port })
        local function protocol(offered)
            return bench.exchange { connect = "127.0.0.1:" .. port, tls = true, cafile = certs.ca.crt,
                servername = "localhost", alpn = offered, bytes = 1 }:finish()
        end
        assert.equal("h2", protocol("spdy/1,h2,http/1.1").alpn)
        assert.equal("alert:no_application_protocol", protocol("spdy/1")["end"])
    end)
end)
