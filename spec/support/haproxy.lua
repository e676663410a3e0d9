--[[
haproxy: a real HAProxy, in front of us or behind.

    local peer = haproxy.start { ports = { a, b }, config = "frontend …" }

`config` is what follows global and defaults (mode tcp, timeouts, no log); it is filled in with `values`. Starts when
something listens at each of `ports`.
]]

local bench = require "bench"

local haproxy = {}
local number = 0

function haproxy.start(options)
    number = number + 1
    local config = bench.write(("haproxy.%d.cfg"):format(number), [[
global
    maxconn 500
defaults
    mode tcp
    timeout connect 10s
    timeout client 60s
    timeout server 60s
]] .. bench.fill(options.config, options.values or {}) .. "\n")
    local program = bench.start { "haproxy", "-db", "-f", config }
    for _, port in ipairs(options.ports) do
        bench.wait("haproxy to listen", function()
            assert(program:alive(), program:errors())
            local client = bench.connect(port)
            return client and client:close()
        end)
    end
    return program
end

return haproxy
