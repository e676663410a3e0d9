-- One side says "that was all" and still hears the answer.

local modes = require "modes"
local proxy = require "proxy"

local KIB = 1024
local CLEAN = { [true] = "close_notify+fin", [false] = "fin" }

describe("half-close", function()
    setup(function() modes.start {} end)
    teardown(proxy.cleanup)

    local function carry(mode, down, up)
        local client, server = modes.connect(mode, down, up)
        client, server = client:finish(), server:finish()
        assert.equal(down.bytes, server.got)
        assert.equal(up.bytes, client.got)
        assert.equal(client.sent_sha256, server.got_sha256)
        assert.equal(server.sent_sha256, client.got_sha256)
        assert.equal(CLEAN[mode.up], server["end"])
        assert.equal(CLEAN[mode.down], client["end"])
    end

    for _, mode in ipairs(modes) do
        it(mode.name .. ": the server answers after the client's end", function()
            carry(mode, { bytes = 100 * KIB }, { send_when = "eof", bytes = 300 * KIB, seed = 2 })
        end)

        it(mode.name .. ": the client sends on after the server's end", function()
            carry(mode, { send_when = "eof", bytes = 300 * KIB }, { bytes = 100 * KIB, seed = 2 })
        end)

        it(mode.name .. ": both end at once, with nothing said", function()
            carry(mode, { bytes = 0 }, { bytes = 0 })
        end)

        if mode.down then
            it(mode.name .. ": close_notify without FIN is a half-close too", function()
                carry(mode, { bytes = KIB, finish = "notify" }, { send_when = "eof", bytes = 2 * KIB, seed = 2 })
            end)
        end
    end
end)
