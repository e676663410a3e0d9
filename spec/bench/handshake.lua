--[[
How long testing.handshake takes with P-256 certificates: the median of 1,000 handshakes in memory, for TLS 1.2 and 1.3.

    make bench ONLY=testing-handshake

A benchmark and no test: it prints figures and judges none.
]]

local process = require "process"
local testing = require "moongate.testing"
local SSL = require("moongate.openssl").SSL

local ROUNDS, WARM_UP = 1000, 50

local ca = testing.ca()
local web = testing.certificate { ca = ca, key = "EC" }
local server = SSL.SSLContext.new()
server:add_certificate(web.cert, web.key, web.chain)

-- Seconds of each handshake, in ascending order. The client verifies the certificate, as real ones do.
local function measure(version)
    local client = testing.clients[version] { ca = ca }
    local options = { servername = "localhost" }
    local times = {}
    for round = 1 - WARM_UP, ROUNDS do
        local started = process.now()
        local result = testing.handshake(server, client, options)
        local taken = process.now() - started
        assert(result.ok, result.client_error or result.server_error)
        if round > 0 then
            times[round] = taken
        end
    end
    table.sort(times)
    return times
end

for _, version in ipairs { "tls12", "tls13" } do
    local times = measure(version)
    print(("testing.handshake, %s, P-256: median %.3f ms, 90%% below %.3f ms (%d handshakes)"):format(version,
        times[ROUNDS // 2] * 1000, times[ROUNDS * 9 // 10] * 1000, ROUNDS))
end
