--[[
extra: what a Lua function on the way of a connection costs. The same listener with and without it, one after
the other, each first in every second round; the figure is the difference of the two.
]]

local load = require "load"
local rounds = require "rounds"

local extra = { id = "lua-function" }

local PAIRS = {
    { id = "lua-backend-plain", title = "Lua backend function, plain TCP", without = "plain", with = "plain_lua",
        options = {} },
    { id = "lua-backend-tls", title = "Lua backend function, TLS 1.2 resumed", without = "ec", with = "lua",
        options = { tls = true, ["tls-version"] = "1.2", resume = "ticket" } },
    { id = "lua-tls", title = "Lua tls function, TLS 1.2 resumed", without = "ec", with = "lua_tls",
        options = { tls = true, ["tls-version"] = "1.2", resume = "ticket" } },
}

local function cpu_of(peer, port, options, settings)
    local all = { cpu = peer.pids, connections = 8, seconds = settings.each, warm = settings.each / 5 }
    for name, value in pairs(options) do
        all[name] = value
    end
    local result, why = load.run("churn", peer.ports[port], all, {})
    return result and result.cpu_ns / result.units / 1000, why
end

function extra.run(running, backend, settings)
    local moongate = running[1]
    local all = {}
    load.place(backend, false)
    for _, pair in ipairs(PAIRS) do
        local row = rounds.row(pair, { name = "CPU", unit = "µs/connection" })
        row.difference = true
        row.most = pair.id:match("^lua%-backend") and 5 or nil
        if moongate.ports[pair.with] then
            -- A difference of two figures is noisier than either: three times the rounds.
            local many = { rounds = settings.rounds * 3, seconds = settings.seconds * 2 }
            local with_first = false
            rounds.run({ row }, { moongate }, many, function()
                with_first = not with_first
                local ports = with_first and { pair.with, pair.without } or { pair.without, pair.with }
                local first, why = cpu_of(moongate, ports[1], pair.options, settings)
                local second
                if first then
                    second, why = cpu_of(moongate, ports[2], pair.options, settings)
                end
                return second and { with_first and first - second or second - first }, why
            end)
        else
            row.notes.moongate = "this moongate refuses it"
        end
        all[#all + 1] = row
    end
    return all
end

return extra
