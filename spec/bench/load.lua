--[[
load: the bench's own programs: backend, generator, relay and floor, started and read.
]]

local bench = require "bench"
local peers = require "peers"

local load = { cpu = nil } -- CPU of clients and backend in the split layout; set by main

local function program(name)
    return bench.absolute(bench.build .. "/bench/" .. name)
end

-- `command` with --option value for each of the table, in an order that does not change.
local function with_options(command, options)
    local names = {}
    for name in pairs(options) do
        names[#names + 1] = name
    end
    table.sort(names)
    for _, name in ipairs(names) do
        command[#command + 1] = "--" .. name
        if options[name] ~= true then
            command[#command + 1] = tostring(options[name])
        end
    end
    return command
end

-- The last line's key=value pairs; numbers are numbers.
local function figures(text)
    local result = {}
    for key, value in (text:match("([^\n]+)\n*$") or ""):gmatch("([%w_]+)=(%S+)") do
        result[key] = tonumber(value) or value
    end
    return result
end

local function listening(started, what)
    bench.wait(what .. " to listen", function()
        assert(started:alive(), started:errors())
        return started:output():match("listening port=%d+")
    end)
    return tonumber(started:output():match("listening port=(%d+)"))
end

-- With real-time priority in front of `command`, where that is allowed.
local function fifo(command)
    if load.can_fifo == nil then
        load.can_fifo = bench.is_root and bench.run({ "chrt", "-f", "10", "true" }).code == 0
    end
    if not load.can_fifo then
        return command
    end
    return table.move(command, 1, #command, 4, { "chrt", "-f", "10" })
end

function load.backend()
    local started = bench.start { program "backend", "serve", "--listen", "127.0.0.1:0", stdin = "pipe" }
    return { port = listening(started, "the backend"), pid = started.pid, program = started }
end

-- This process: off the proxy's CPU while that is split, else wherever it may be.
function load.place_self(split)
    local status = bench.read "/proc/self/status"
    load.allowed = load.allowed or status:match "Cpus_allowed_list:%s*(%S+)"
    if load.cpu then
        bench.run { "taskset", "-cp", split and tostring(load.cpu) or load.allowed, status:match "\nPid:%s*(%d+)" }
    end
end

-- Keeps a CPU busy, `nice` levels behind.
function load.burner(cpu, nice)
    return bench.start(peers.bound({ "nice", "-n", tostring(nice), "sh", "-c", "while :; do :; done" }, cpu))
end

-- Where the backend runs from now on; `first` = before clients that flood.
function load.place(backend, split, first)
    local cpu = split and load.cpu or peers.cpu
    if cpu then
        bench.run { "taskset", "-cp", tostring(cpu), tostring(backend.pid) }
    end
    if bench.is_root then
        bench.run { "chrt", first and "-f" or "-o", "-p", first and "10" or "0", tostring(backend.pid) }
    end
end

local function generator(command, port, options, layout)
    local list = with_options({ program "generator", command, "--connect", "127.0.0.1:" .. port }, options)
    list = peers.bound(list, layout.split and load.cpu or peers.cpu)
    return layout.fifo and fifo(list) or list
end

-- One run of the generator to its end: its figures, or nil and why there are none.
function load.run(command, port, options, layout)
    local list = generator(command, port, options, layout)
    list.timeout = 60
    local result = bench.run(list)
    if result.code ~= 0 then
        return nil, (result.err:match("([^\n]+)\n*$") or "no result")
    end
    local got = figures(result.out)
    if got.failed > got.units / 100 then
        return nil, ("%d of %d failed (%s)"):format(got.failed, got.failed + got.units, got.reason)
    end
    if options.resume and got.resumed < got.units then
        return nil, ("only %d of %d resumed"):format(got.resumed, got.units)
    end
    return got
end

-- A generator that goes on by itself.
function load.start(command, port, options, layout)
    local list = generator(command, port, options, layout)
    list.stdin = "pipe"
    return bench.start(list)
end

load.figures = figures

-- The relay as a subject like a peer.
function load.relay(backend, flights)
    local command = { program "relay", "serve", "--listen", "127.0.0.1:0", "--connect", "127.0.0.1:" .. backend.port,
        "--flights", flights or "" }
    command = peers.bound(command, peers.cpu)
    command.stdin = "pipe"
    local started = bench.start(command)
    return { name = "relay", port = listening(started, "the relay"), pids = tostring(started.pid),
        stop = function() started:stop() end }
end

-- What OpenSSL's server side alone takes: { ns=, bytes= } of one unit.
function load.floor(command, kind, options, seconds)
    local chain = peers.chains()[kind]
    local list = with_options({ program "floor", command }, options)
    list = with_options(list, { cert = chain.crt, key = chain.key, seconds = seconds })
    return figures(bench.must(peers.bound(list, peers.cpu)))
end

return load
