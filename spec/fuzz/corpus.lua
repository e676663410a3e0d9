-- What openssl s_client says first, in many ways, as files for the fuzzer: corpus.lua DIRECTORY
local socket = require "socket"

local directory = assert(arg[1], "a directory, please")
local ways = {
    "", "-servername a.example", "-tls1_2", "-tls1_2 -servername a.example -alpn h2,http/1.1", "-tls1_1",
    "-alpn h2 -status", "-groups P-521:X448 -sigalgs ed25519", "-cipher AES128-SHA -tls1_2 -no_ticket",
    "-alpn " .. ("protocol,"):rep(60) .. "h2 -max_send_frag 512",
}

for i, way in ipairs(ways) do
    local server = assert(socket.bind("127.0.0.1", 0))
    local _, port = server:getsockname()
    local client = io.popen(("openssl s_client -connect 127.0.0.1:%d %s </dev/null >/dev/null 2>&1"):format(port, way))
    server:settimeout(10)
    local connection = assert(server:accept(), "no connection for " .. way)
    connection:settimeout(0.2)
    local whole, _, part = connection:receive(65536)
    connection:close()
    server:close()
    client:close()
    for name, first in pairs { byte = "\0", many = "\255" } do
        local file = assert(io.open(("%s/hello-%d-%s"):format(directory, i, name), "wb"))
        file:write(first, whole or part)
        file:close()
    end
end
