-- An end that is no end is not made one: what was cut off reaches the other side as a reset.

local modes = require "modes"
local proxy = require "proxy"

local KIB = 1024

describe("truncation", function()
    local web

    setup(function() web = modes.start {} end)
    teardown(proxy.cleanup)

    -- The client's result, the server's, and the connection's record.
    local function carry(mode, down, up)
        local number = #web:records() + 1
        local client, server = modes.connect(mode, down, up)
        return client:finish(), server:finish(), web:record(number)
    end

    for _, mode in ipairs(modes) do
        if mode.down then
            it(mode.name .. ": a client's FIN without close_notify", function()
                local _, server, record = carry(mode, { bytes = 10 * KIB, finish = "fin" }, { finish_when = "eof" })
                assert.equal("rst", server["end"])
                assert.matches("^down: ", record.reason)
            end)
        end

        if mode.up then
            it(mode.name .. ": a server's FIN without close_notify", function()
                local client, server, record = carry(mode, { bytes = KIB, finish_when = "eof" },
                    { bytes = 10 * KIB, finish = "fin", finish_when = "got:" .. KIB })
                assert.equal("rst", client["end"])
                assert.equal(KIB, server.got)
                assert.matches("^up: ", record.reason)
            end)
        end

        it(mode.name .. ": a client's RST", function()
            local _, server, record = carry(mode, { bytes = KIB, finish = "rst", finish_when = "got:" .. KIB },
                { bytes = KIB, finish_when = "eof" })
            assert.equal("rst", server["end"])
            assert.matches("^down: ", record.reason)
        end)

        it(mode.name .. ": a server's RST", function()
            local client, _, record = carry(mode, { bytes = KIB, finish_when = "eof" },
                { bytes = KIB, finish = "rst", finish_when = "got:" .. KIB })
            assert.equal("rst", client["end"])
            assert.matches("^up: ", record.reason)
        end)
    end
end)
