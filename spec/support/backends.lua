--[[
backends: what specs of several servers behind one listener ask of a running moongate (proxy.lua) with two workers.
]]

local bench = require "bench"
local process = require "process"
local socket = require "socket"

local backends = {}

function backends.at(port)
    return "127.0.0.1:" .. port
end

function backends.quoted(list)
    local texts = {}
    for i, text in ipairs(list) do
        texts[i] = ("%q"):format(text)
    end
    return table.concat(texts, ", ")
end

-- So many of them, and their addresses.
function backends.echo_servers(count)
    local servers, addresses = {}, {}
    for i = 1, count do
        servers[i] = bench.echo_server()
        addresses[i] = backends.at(servers[i].port)
    end
    return servers, addresses
end

-- One on each of these hosts, all on the same port: the servers, and the port.
function backends.echo_servers_at(hosts)
    for _ = 1, 20 do
        local port, servers = bench.port(), {}
        for i, host in ipairs(hosts) do
            servers[i] = bench.peer("load", "echo-server", { listen = host .. ":" .. port })
            if not servers[i] then
                break
            end
        end
        if #servers == #hosts then
            return servers, port
        end
        for _, server in ipairs(servers) do
            server:stop()
        end
    end
    error("no port that is free on all of " .. table.concat(hosts, ", "))
end

-- Tells an echo server what to do from now on ("refuse", "reset", "serve"; see load.c), and waits until it does.
function backends.order(server, what)
    process.write(server.stdin, what .. "\n")
    bench.wait("a server to " .. what, function() return server:output():match("([^\n]+)\n$") == what end)
end

-- What each worker says of an address.
function backends.views(web, address)
    local list = {}
    for _, worker in ipairs(web:status().workers) do
        for _, backend in ipairs(worker.engine and worker.engine.backends or {}) do
            for _, each in ipairs(backend.addresses) do
                if each.address == address then
                    list[#list + 1] = each
                end
            end
        end
    end
    return list
end

-- The same of all addresses of one backend: lists by address; and how many rows there are in all.
function backends.rows(web, name)
    local list, count = {}, 0
    for _, worker in ipairs(web:status().workers) do
        for _, backend in ipairs(worker.engine and worker.engine.backends or {}) do
            for _, row in ipairs(backend.name == name and backend.addresses or {}) do
                list[row.address] = list[row.address] or {}
                table.insert(list[row.address], row)
                count = count + 1
            end
        end
    end
    return list, count
end

-- The records of a listener once there are so many, in the order of their connections.
function backends.records(web, listener, count)
    return bench.wait(count .. " records of " .. listener, function()
        local list = {}
        for _, record in ipairs(web:records()) do
            if record.listener == listener then
                list[#list + 1] = record
            end
        end
        table.sort(list, function(a, b) return a.id < b.id end) -- each worker writes its own
        return #list >= count and list
    end)
end

function backends.wait_state(web, address, state)
    bench.wait(address .. " to be " .. state, function()
        local list = backends.views(web, address)
        for _, view in ipairs(list) do
            if view.state ~= state then
                return false
            end
        end
        return #list == 2
    end)
end

function backends.total(web, address, field)
    local sum = 0
    for _, view in ipairs(backends.views(web, address)) do
        sum = sum + view[field]
    end
    return sum
end

function backends.log_count(web, text)
    local count = 0
    for line in web:log_text():gmatch("[^\n]+") do
        count = count + (line:find(text, 1, true) and 1 or 0)
    end
    return count
end

-- An answer of one line to one line, or nil.
function backends.ask(port, question, from)
    local client = socket.tcp4()
    client:settimeout(10)
    if from then
        client:bind(from, 0)
    end
    local answer = client:connect("127.0.0.1", port) and client:send(question) and client:receive("*l")
    client:close()
    return answer
end

function backends.open(port)
    local client = bench.connect(port)
    if client and client:send("hello\n") and client:receive("*l") == "hello" then
        return client
    end
    if client then
        client:close()
    end
end

function backends.redis(port)
    local program = bench.start { "redis-server", "--port", tostring(port), "--bind", "127.0.0.1", "--save", "",
        "--appendonly", "no", "--dir", bench.dir }
    bench.wait("redis", function() return backends.ask(port, "PING\r\n") == "+PONG" end)
    return program
end

return backends
