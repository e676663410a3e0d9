--[[
modes: one moongate with a listener for each of the four combinations of plain and TLS, and a peer at each
end of a connection through it.

    local web = modes.start { workers = 1 }
    for _, mode in ipairs(modes) do
        local client, server = modes.connect(mode, { bytes = 10 }, { finish_when = "eof" })
]]

local bench = require "bench"
local certs = require "certs"
local proxy = require "proxy"

local modes = {
    { name = "tls_plain", down = true, up = false },
    { name = "plain_tls", down = false, up = true },
    { name = "tls_tls", down = true, up = true },
    { name = "plain_plain", down = false, up = false },
}

function modes.start(values)
    for _, mode in ipairs(modes) do
        mode.port, mode.backend = bench.port(), bench.port()
        values["p_" .. mode.name], values["b_" .. mode.name] = mode.port, mode.backend
    end
    values.script = [[
local up = client()
local function secure(port)
    return moongate.backend { address = "127.0.0.1:" .. port, tls = up, servername = "localhost" }
end
moongate.listen { name = "tls_plain", address = "127.0.0.1:$p_tls_plain", tls = server(),
    backend = "127.0.0.1:$b_tls_plain" }
moongate.listen { name = "plain_tls", address = "127.0.0.1:$p_plain_tls", backend = secure($b_plain_tls) }
moongate.listen { name = "tls_tls", address = "127.0.0.1:$p_tls_tls", tls = server(), backend = secure($b_tls_tls) }
moongate.listen { name = "plain_plain", address = "127.0.0.1:$p_plain_plain", backend = "127.0.0.1:$b_plain_plain" }
]]
    return proxy.start(values)
end

-- Starts the two ends (options of `peer exchange`): client program, server program.
function modes.connect(mode, down, up)
    down.connect, up.listen = "127.0.0.1:" .. mode.port, "127.0.0.1:" .. mode.backend
    if mode.up then
        up.tls, up.cert, up.key = true, certs.ec.crt, certs.ec.key
    end
    if mode.down then
        down.tls, down.cafile, down.servername = true, certs.ca.crt, "localhost"
    end
    local server = bench.exchange(up)
    return bench.exchange(down), server
end

return modes
