--[[
main: `make bench`. Starts the peers once, runs every scenario in rounds, prints the table and writes
bench.json and bench.svg below the build directory.

    QUICK=1     few and short rounds: two minutes
    ONLY=text   scenarios whose id contains it (several, separated by commas)
    ROUNDS=n, SECONDS_EACH=s          of each measurement
    WITH="NAME=value …", PROGRAM=path    what the other one of ONLY=variant has
    CONNECTIONS=n, CERTIFICATES=n     idle connections, certificates of a reload
]]

local bench = require "bench"
local load = require "load"
local peers = require "peers"
local process = require "process"
local report = require "report"
local rounds = require "rounds"

local quick = os.getenv("QUICK") and os.getenv("QUICK") ~= "" and os.getenv("QUICK") ~= "0"
local settings = {
    quick = quick,
    rounds = tonumber(os.getenv("ROUNDS")) or (quick and 3 or 15),
    each = tonumber(os.getenv("SECONDS_EACH")) or (quick and 0.1 or 0.15),
    seconds = quick and 1.5 or 600, -- of a scenario: no round begins after it
    connections = tonumber(os.getenv("CONNECTIONS")) or (quick and 500 or 5000), -- idle ones
    certificates = tonumber(os.getenv("CERTIFICATES")) or (quick and 200 or 10000), -- of a reload
}

local function selected(id)
    local only = os.getenv("ONLY")
    if not only or only == "" then
        return true
    end
    for part in only:gmatch("[^,%s]+") do
        if id:find(part, 1, true) then
            return true
        end
    end
    return false
end

-- The first two CPUs we may use: proxies, and (split) clients; the same one twice on a small machine.
local function cpus()
    local found = {}
    local list = bench.read("/proc/self/status"):match("Cpus_allowed_list:%s*(%S+)") or ""
    for low, high in list:gmatch("(%d+)%-?(%d*)") do
        for cpu = tonumber(low), tonumber(high) or tonumber(low) do
            found[#found + 1] = cpu
        end
    end
    return found[1], found[2] or found[1]
end

-- ---- one measurement ---------------------------------------------------------------------------------

local function values_of(scenario, result)
    local values = {}
    for i, metric in ipairs(scenario.metrics) do
        values[i] = metric.of(result)
    end
    return values
end

local function once(scenario, port, pids, more)
    local options = { cpu = pids, seconds = settings.each, warm = settings.each / 5 }
    for _, part in ipairs { scenario.with, more or {} } do
        for name, value in pairs(part) do
            options[name] = value or nil
        end
    end
    return load.run(scenario.command, port, options, scenario)
end

-- The limit: the relay's figure with OpenSSL's in-memory figure on top.
local function limit_once(scenario, relay)
    local result, why = once(scenario, relay.port, relay.pids,
        { tls = false, resume = false, ciphers = false, ciphersuites = false, ["tls-version"] = false,
            flights = scenario.floor.flights, connections = scenario.with.connections })
    if not result then
        return nil, why
    end
    for _, part in ipairs(scenario.floor.memory) do
        local alone = load.floor(part[1], part[3] == "rsa" and "rsa" or "ec", part[2], settings.each / 2)
        local per = result.units
        if part[1] == "encrypt" or part[1] == "decrypt" then
            per = result.bytes / alone.bytes
        end
        local both = result.cpu_ns + alone.ns * per
        result.seconds = result.seconds * both / result.cpu_ns -- of a relay that is busy all the time
        result.cpu_ns = both
    end
    return values_of(scenario, result)
end

-- The others have no second port for another number of tickets: they always send two.
local function port_of(peer, scenario)
    return peer.ports[scenario.port] or scenario.port == "tickets2" and peer.ports.ec
end

local function run_scenario(scenario, running, backend)
    local rows, subjects = {}, {}
    for i, metric in ipairs(scenario.metrics) do
        rows[i] = rounds.row(scenario, metric, i == 1)
    end
    for _, peer in ipairs(running) do
        if port_of(peer, scenario) then
            subjects[#subjects + 1] = peer
        end
    end
    local relay = scenario.floor and load.relay(backend, scenario.floor.flights)
    if relay then
        relay.name = "limit"
        subjects[#subjects + 1] = relay
    end
    load.place(backend, scenario.split, scenario.fifo)
    rounds.run(rows, subjects, settings, function(subject)
        if subject == relay then
            return limit_once(scenario, relay)
        end
        local result, why = once(scenario, port_of(subject, scenario), subject.pids)
        return result and values_of(scenario, result), why
    end)
    if relay then
        relay.stop()
    end
    return rows
end

-- ---- everything --------------------------------------------------------------------------------------

local NAMES = { "moongate", "hitch", "haproxy", "nginx", "stunnel", "nginx'" }
-- What is more than one generator against a peer that runs already.
local SPECIAL = { "extra", "flood", "memory", "growth", "variant", "reload" }

local running = {}

local function main()
    peers.cpu, load.cpu = cpus()
    local backend = load.backend()
    for _, name in ipairs(NAMES) do
        local peer, why = peers.start(name, backend.port)
        if peer then
            running[#running + 1] = peer
        else
            print("bench: without " .. name .. ": " .. why)
        end
    end
    assert(running[1] and running[1].name == "moongate", "moongate does not run")

    local started = bench.now()
    local all = {}
    local function take(rows)
        for _, row in ipairs(rows) do
            all[#all + 1] = row
            report.line(row)
        end
    end
    report.head(settings)
    for _, scenario in ipairs(require "scenarios") do
        if selected(scenario.id) then
            take(run_scenario(scenario, running, backend))
        end
    end
    for _, name in ipairs(SPECIAL) do
        local special = require(name)
        if selected(special.id) then
            take(special.run(running, backend, settings))
        end
    end
    if selected("testing-handshake") then
        dofile("spec/bench/handshake.lua")
    end
    report.finish(all, settings, bench.now() - started)
end

process.adopt() -- what a peer's master leaves behind is ours to end and to reap
local ok, reason = xpcall(main, debug.traceback)
for _, peer in ipairs(running) do
    peer.stop()
end
bench.cleanup()
if not ok then
    io.stderr:write(reason, "\n")
    os.exit(1)
end
