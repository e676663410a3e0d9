--[[
peers: moongate and those it is compared with, each with a fair minimal configuration: the same certificates,
TLS 1.2 and 1.3, tickets and sessions by id, one worker, no logs.

    peers.start("nginx", backend_port) → { name=, ports = { ec=, rsa=, plain= }, pids = "12,13", stop = function }
    peers.start(…) → nil, why it is not there
    peers.start("moongate", backend_port, { text =, ports =, patience =, processes =, env =, program = }): with
    another script, its ports, how many processes there are then, more in its environment, another program

Ports: `ec` and `rsa` terminate TLS with the P-256 and the RSA-2048 chain, `plain` (where a peer can) relays TCP.
moongate has more: `tickets2` (TLS 1.3 with two tickets, as the others send), `lua` and `plain_lua` (a backend
function), `lua_tls` (a tls function). A name that ends in ' is a second copy.
]]

local bench = require "bench"
local certs = require "certs"
local process = require "process"

local peers = {}

peers.cpu = nil -- the CPU that proxies are bound to; set by main

-- Leaf and CA in one file, and with the key in front in another.
local function chain(kind)
    local made = { crt = bench.path(kind .. ".chain"), key = certs[kind].key, pem = bench.path(kind .. ".pem") }
    local text = bench.read(certs[kind].crt) .. bench.read(certs.ca.crt)
    bench.write(made.crt, text)
    bench.write(made.pem, bench.read(made.key) .. text)
    return made
end

function peers.chains()
    if not peers.made then
        peers.made = { ec = chain "ec", rsa = chain "rsa" }
    end
    return peers.made
end

-- ---- configurations: fill(values) → command, port names --------------------------------------------

local recipes = {}

recipes.moongate = {
    processes = 2,
    ports = { "ec", "rsa", "plain", "tickets2", "lua", "plain_lua" },
    config = "moongate.lua",
    text = [[
local moongate = require "moongate"
local openssl = require "moongate.openssl"
moongate.settings { workers = 1, log_level = "error" }

local function context(crt, key, tickets)
    local ctx = openssl.SSL.SSLContext.new()
    ctx:load_certificate(crt, key)
    ctx.min_version = openssl.SSL.TLS1_2_VERSION
    ctx.num_tickets = tickets
    return ctx
end
local function listen(name, port, tls, backend)
    moongate.listen { name = name, address = "127.0.0.1:" .. port, tls = tls, backend = backend }
end
local function route()
    return "127.0.0.1:$backend"
end
listen("ec", $ec, context("$ec_crt", "$ec_key", 1), "127.0.0.1:$backend")
listen("rsa", $rsa, context("$rsa_crt", "$rsa_key", 1), "127.0.0.1:$backend")
listen("tickets2", $tickets2, context("$ec_crt", "$ec_key", 2), "127.0.0.1:$backend")
listen("plain", $plain, nil, "127.0.0.1:$backend")
listen("lua", $lua, context("$ec_crt", "$ec_key", 1), route)
listen("plain_lua", $plain_lua, nil, route)
$tls_function
]],
    command = function(config, number)
        return { bench.moongate, "run", config, "--control", bench.path("control." .. number) }
    end,
}

-- A moongate that knows no `tls` function yet goes without that listener.
local TLS_FUNCTION = [[
local chosen = context("$ec_crt", "$ec_key", 1)
listen("lua_tls", $lua_tls, function() return chosen end, "127.0.0.1:$backend")
]]

local function with_tls_function()
    if peers.tls_function == nil then
        local probe = bench.write("probe.lua", bench.fill([[
local SSL = require("moongate.openssl").SSL
local ctx = SSL.SSLContext.new()
ctx:load_certificate("$crt", "$key")
require("moongate").listen { address = "127.0.0.1:1", tls = function() return ctx end, backend = "127.0.0.1:2" }
]], peers.chains().ec))
        peers.tls_function = bench.run({ bench.moongate, "check", probe }).code == 0
    end
    return peers.tls_function
end

recipes.hitch = {
    processes = 2,
    ports = { "ec", "rsa" },
    config = "hitch.conf",
    text = [[
frontend = { host = "127.0.0.1" port = "$ec" pem-file = "$ec_pem" }
frontend = { host = "127.0.0.1" port = "$rsa" pem-file = "$rsa_pem" }
backend = "[127.0.0.1]:$backend"
workers = 1
backlog = 4096
tls-protos = TLSv1.2 TLSv1.3
ciphers = "ECDHE+AESGCM:ECDHE+CHACHA20"
daemon = off
syslog = off
log-level = 0
ocsp-refresh-interval = 0
]],
    command = function(config)
        return { "hitch", "--config=" .. config, "--user=root" }
    end,
}

recipes.haproxy = {
    ports = { "ec", "rsa", "plain" },
    config = "haproxy.cfg",
    text = [[
global
    nbthread 1
    maxconn 9000
    ssl-default-bind-options ssl-min-ver TLSv1.2
defaults
    mode tcp
    backlog 4096
    timeout connect 5s
    timeout client 600s
    timeout server 600s
listen ec
    bind 127.0.0.1:$ec ssl crt $ec_pem
    server backend 127.0.0.1:$backend
listen rsa
    bind 127.0.0.1:$rsa ssl crt $rsa_pem
    server backend 127.0.0.1:$backend
listen plain
    bind 127.0.0.1:$plain
    server backend 127.0.0.1:$backend
]],
    command = function(config)
        return { "haproxy", "-q", "-db", "-f", config }
    end,
}

recipes.nginx = {
    processes = 2,
    ports = { "ec", "rsa", "plain" },
    config = "nginx.conf",
    text = [[
load_module $stream_module;
$user
worker_processes 1;
daemon off;
pid $dir/nginx.$number.pid;
error_log /dev/null crit;
events { worker_connections 19000; }
stream {
    access_log off;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_cache shared:tls:10m;
    proxy_timeout 600s;
    server { listen 127.0.0.1:$ec ssl backlog=4096; ssl_certificate $ec_crt; ssl_certificate_key $ec_key;
        proxy_pass 127.0.0.1:$backend; }
    server { listen 127.0.0.1:$rsa ssl backlog=4096; ssl_certificate $rsa_crt; ssl_certificate_key $rsa_key;
        proxy_pass 127.0.0.1:$backend; }
    server { listen 127.0.0.1:$plain backlog=4096; proxy_pass 127.0.0.1:$backend; }
}
]],
    needs = "/usr/lib/nginx/modules/ngx_stream_module.so",
    command = function(config)
        return { "nginx", "-p", bench.dir, "-c", config, "-e", "/dev/null" }
    end,
}

recipes.stunnel = {
    program = "stunnel4",
    ports = { "ec", "rsa" },
    config = "stunnel.conf",
    text = [[
foreground = yes
pid =
debug = emerg
syslog = no
sslVersionMin = TLSv1.2
sessionCacheSize = 20000
socket = l:TCP_NODELAY=1
socket = r:TCP_NODELAY=1
[ec]
accept = 127.0.0.1:$ec
connect = 127.0.0.1:$backend
cert = $ec_crt
key = $ec_key
[rsa]
accept = 127.0.0.1:$rsa
connect = 127.0.0.1:$backend
cert = $rsa_crt
key = $rsa_key
]],
    command = function(config)
        return { "stunnel4", config }
    end,
}

-- ---- starting ----------------------------------------------------------------------------------------

-- Where the program is, in PATH or where Debian puts servers.
local function find(program)
    for dir in ((os.getenv("PATH") or "") .. ":/usr/sbin"):gmatch("[^:]+") do
        if bench.exists(dir .. "/" .. program) then
            return dir .. "/" .. program
        end
    end
end

local function tree(pid, into)
    into[#into + 1] = pid
    for _, child in ipairs(bench.children(pid)) do
        tree(child.pid, into)
    end
    return into
end

local number = 0

-- A command bound to the CPU, where there is `taskset`.
function peers.bound(command, cpu)
    if not cpu or not find("taskset") then
        return command
    end
    return table.move(command, 1, #command, 4, { "taskset", "-c", tostring(cpu) })
end

function peers.start(name, backend, extra)
    local kind = name:gsub("'$", "")
    local recipe = recipes[kind]
    local program = kind == "moongate" and bench.moongate or find(recipe.program or kind)
    if not program or recipe.needs and not bench.exists(recipe.needs) then
        return nil, (recipe.program or kind) .. (program and ": no " .. recipe.needs or " is not installed")
    end
    number = number + 1
    local chains = peers.chains()
    local values = {
        backend = backend, dir = bench.dir, number = number, stream_module = recipe.needs,
        ec_crt = chains.ec.crt, ec_key = chains.ec.key, ec_pem = chains.ec.pem,
        rsa_crt = chains.rsa.crt, rsa_key = chains.rsa.key, rsa_pem = chains.rsa.pem,
        user = bench.is_root and "user root;" or "",
    }
    extra = extra or {}
    local ports, names = {}, table.move(extra.ports or recipe.ports, 1, 9, 1, {})
    local lua_tls = kind == "moongate" and not extra.text and with_tls_function()
    if lua_tls then
        names[#names + 1] = "lua_tls"
    end
    for _, port in ipairs(names) do
        ports[port] = bench.port()
        values[port] = ports[port]
    end
    values.tls_function = lua_tls and bench.fill(TLS_FUNCTION, values) or ""
    local text = bench.fill(extra.text or recipe.text, values)
    local config = bench.write(("%d.%s"):format(number, recipe.config), text)
    local command = recipe.command(config, number)
    if kind ~= "moongate" then
        command[1] = program
    elseif extra.program then
        command[1] = extra.program
    end
    if kind == "hitch" and not bench.is_root then
        table.remove(command) -- --user
    end
    command = peers.bound(command, peers.cpu)
    command.env = extra.env
    local started = bench.start(command)
    local ok, reason = pcall(bench.wait, name .. " to listen", function()
        if not started:alive() then
            error(started:errors() .. started:output(), 0)
        end
        for _, port in pairs(ports) do
            local client = bench.connect(port)
            if not client then
                return false
            end
            client:close()
        end
        return true
    end, extra.patience)
    if not ok then
        started:stop()
        return nil, ("%s: %s\n%s"):format(name, reason, (started:errors() .. started:output()):sub(-500))
    end
    local pids
    bench.wait(name .. "'s workers", function()
        pids = tree(started.pid, {})
        return #pids >= (extra.processes or recipe.processes or 1)
    end)
    return {
        name = name, ports = ports, pids = table.concat(pids, ","), control = bench.path("control." .. number),
        memory = function()
            local sum = 0
            for _, pid in ipairs(tree(started.pid, {})) do
                sum = sum + bench.memory(pid)
            end
            return sum
        end,
        stop = function()
            local all = tree(started.pid, {})
            started:stop()
            for i = #all, 2, -1 do -- what its master left behind
                if bench.running(all[i]) then
                    process.kill(all[i], 9)
                end
                process.wait(all[i], 1)
            end
            -- Thousands of threads take their time, and the CPU that the next peer is to be measured on.
            pcall(bench.wait, name .. " to end", function()
                return not started:alive()
            end, 60)
        end,
    }
end

return peers
