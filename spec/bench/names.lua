--[[
What thousands of certificates cost: P-256, one name each and a chain of one, below one ServerNames.

    make bench-names                    NAMES=10000 unless told otherwise

The look-up of a name, the script's run without and with the proof, a start and reloads of moongate with one worker:
each requirement with its figure, and whether it holds. Where NAMES is another number, limits in seconds are in
proportion.

Times are of the clock and, in brackets, of the processor. How long an established connection waits at worst for its
echo while moongate reloads is the machine's doing, too: beside each figure is that of a second moongate that does
nothing, with which the pings take turns.
]]

local bench = require "bench"
local process = require "process"
local testing = require "moongate.testing"
local names = require("mgtest").names

local COUNT = tonumber(os.getenv("NAMES")) or 10000
local RELOADS = 5
local PING_S = 0.001
local CHANGED = 10
local LIMITS = { load_s = 8, proof_s = 30, pause_ms = 20, memory_kb = 25, lookup = 2 }

local requirements = {}

local function say(...)
    print((...):format(select(2, ...)))
    io.stdout:flush()
end

-- A requirement's line now, and again at the end.
local function require_(holds, ...)
    local line = (holds and "  holds  " or "  FAILS  ") .. (...):format(select(2, ...))
    requirements[#requirements + 1] = line
    say("%s", line)
end

-- ---- certificates --------------------------------------------------------------------------------

local dir = bench.path("certs")
bench.must { "mkdir", dir }
local ca = testing.ca()

local function path(i)
    return ("%s/%05d.pem"):format(dir, i)
end

local function certificate_make(i)
    local made = testing.certificate { ca = ca, names = { ("host%d.example.com"):format(i) }, key = "EC" }
    bench.write(path(i), made.pem .. ca.pem .. made.key_pem)
end

local began = process.now()
for i = 1, COUNT do
    certificate_make(i)
end
say("%d certificates with their CA's: made in %.1f s", COUNT, process.now() - began)

-- ---- look-up -------------------------------------------------------------------------------------

local ASKED = {
    { "exact", "host%d.example.com" },
    { "wildcard", "www.zone%d.example.com" },
    { "default", "www.host%d.example.net" },
}

-- Nanoseconds for a look-up of each kind, the best of several times.
local function lookup(count)
    local table_, result = names.new(), {}
    local target = names.target(table_, "pass")
    names.set(table_, "default", target)
    for i = 1, count // 2 do
        names.add(table_, ("host%d.example.com"):format(i), target)
        names.add(table_, ("*.zone%d.example.com"):format(i), target)
    end
    for _, asked in ipairs(ASKED) do
        local list, best = {}, math.huge
        for i = 1, 1000 do
            list[i] = asked[2]:format(math.random(count // 2))
        end
        for _ = 1, 20 do
            best = math.min(best, names.time(table_, list, 20))
        end
        result[asked[1]] = best / 20000 * 1e9
    end
    return result
end

local few, many = lookup(100), lookup(10 * COUNT)
for _, asked in ipairs(ASKED) do
    local kind = asked[1]
    require_(many[kind] < LIMITS.lookup * few[kind], "look-up (%s) among %d names as among 100: %.0f ns, %.0f ns",
        kind, 10 * COUNT, many[kind], few[kind])
end

-- ---- the script's run ----------------------------------------------------------------------------

local SCRIPT = [[
local moongate = require "moongate"
moongate.settings { reload_timeout = 3600 }
moongate.listen { name = "web", address = "127.0.0.1:%d", backend = moongate.echo(),
    tls = moongate.servernames(moongate.certificates(%q)) }
moongate.listen { name = "plain", address = "127.0.0.1:%d", backend = moongate.echo() }
]]
local QUIET = [[
local moongate = require "moongate"
moongate.listen { address = "127.0.0.1:%d", backend = moongate.echo() }
]]

local control, port, web_port = bench.path("control"), bench.port(), bench.port()
local function script(pattern)
    return bench.write("moongate.lua", SCRIPT:format(web_port, pattern, port))
end

local function command(...)
    local arguments = { bench.moongate, ... }
    arguments.timeout = 1800
    return bench.run(arguments)
end

-- Seconds of the processor that our children took which have ended.
local function children_cpu()
    local fields = {}
    for field in bench.read("/proc/self/stat"):match("%) (.*)"):gmatch("%S+") do
        fields[#fields + 1] = tonumber(field) or field
    end
    return (fields[14] + fields[15]) / 100
end

-- Clock and processor.
local function seconds_of(...)
    local started, cpu = process.now(), children_cpu()
    local checked = command(...)
    assert(checked.code == 0, checked.err)
    return process.now() - started, children_cpu() - cpu
end

local scale = COUNT / 10000
local whole = script(dir .. "/*.pem")
local load_s, load_cpu = seconds_of("check", whole, "--listener", "plain")
require_(load_s < LIMITS.load_s * scale, "%d certificates load in under %.3g s: %.1f s (%.1f s)", COUNT,
    LIMITS.load_s * scale, load_s, load_cpu)
local check_s, check_cpu = seconds_of("check", whole)
require_(check_s - load_s < LIMITS.proof_s * scale,
    "%d contexts are proved in under %.3g s the first time: %.1f s (%.1f s)", COUNT, LIMITS.proof_s * scale,
    check_s - load_s, check_cpu - load_cpu)

-- ---- the program ---------------------------------------------------------------------------------

local function moongate_start(file, at, log)
    return bench.start { bench.moongate, "run", file, "--workers", "1", "--control", at, "--log-level", "debug",
        log = log }
end

local log, quiet_port = bench.path("log"), bench.port()
script(path(1))
local program = moongate_start(bench.path("moongate.lua"), control, log)
local quiet = moongate_start(bench.write("quiet.lua", QUIET:format(quiet_port)), bench.path("quiet"),
    bench.path("quiet.log"))

local function serves(at)
    return command("status", "--control", at).out:find("running", 1, true)
end

local function worker()
    return bench.children(program.pid)[1].pid
end

-- KiB that are the worker's own: what is anonymous, and its part of what it shares.
local function memory()
    local status = bench.read(("/proc/%d/status"):format(worker()))
    return tonumber(status:match("RssAnon:%s+(%d+)")) + tonumber(status:match("RssShmem:%s+(%d+)"))
end

local function client(at)
    local made = assert(bench.connect(at))
    made:setoption("tcp-nodelay", true)
    made:settimeout(30)
    return made
end

local function echo_ms(connection)
    local sent = process.now()
    assert(connection:send("ping\n"))
    assert(connection:receive("*l"))
    return (process.now() - sent) * 1000
end

-- Echoes of an established connection until `done()`, which then is closed, and of one that sees no reload.
local function echoes(times, done)
    local reloading, resting = client(port), client(quiet_port)
    while not done() do
        times.here[#times.here + 1] = echo_ms(reloading)
        times.there[#times.there + 1] = echo_ms(resting)
        bench.sleep(PING_S)
    end
    reloading:close()
    resting:close()
end

local function over(times, ms)
    local count = 0
    for _, one in ipairs(times) do
        count = count + (one > ms and 1 or 0)
    end
    return count
end

local function seconds_passed(seconds)
    local until_ = process.now() + seconds
    return function() return process.now() > until_ end
end

-- What the log says of the last reload: contexts that were known as proved, certificates and keys parsed and known.
local function log_read()
    local text, known, parsed, kept = bench.read(log), 0, nil, nil
    for number in text:gmatch("(%d+) contexts are as they were proved before") do
        known = tonumber(number)
    end
    for a, b in text:gmatch("certificates and keys: (%d+) parsed, (%d+) known") do
        parsed, kept = tonumber(a), tonumber(b)
    end
    return known, parsed, kept
end

-- One connection lives through the reload, under the old generation; then another one through the old one's end.
local function reload(what)
    local times, started = { here = {}, there = {} }, process.now()
    local reloading = bench.start { bench.moongate, "reload", "--control", control }
    echoes(times, function() return not reloading:alive() end)
    local took = process.now() - started
    echoes(times, seconds_passed(5))
    assert(reloading.code == 0, reloading:errors())
    table.sort(times.here)
    table.sort(times.there)
    local worst, machine = times.here[#times.here], times.there[#times.there]
    require_(worst <= LIMITS.pause_ms,
        "%s (%.1f s): no pause over %d ms: worst of %d echoes %.1f ms, %d over; the moongate that rests: %.1f ms, %d",
        what, took, LIMITS.pause_ms, #times.here, worst, over(times.here, LIMITS.pause_ms), machine,
        over(times.there, LIMITS.pause_ms))
    return took
end

local function measure()
    bench.wait("moongate to serve", function() return serves(control) and serves(bench.path("quiet")) end, 60)
    local base = memory()
    local function memory_check(when)
        local each = (memory() - base) * 1024 / COUNT / 1000
        require_(each <= LIMITS.memory_kb, "at most %d KB for each certificate %s: %.1f KB", LIMITS.memory_kb, when,
            each)
    end
    script(dir .. "/*.pem")
    reload(("reload from 1 to %d certificates"):format(COUNT))
    memory_check("when fresh")
    for i = 1, RELOADS do
        reload("reload without a change")
        memory_check(("after %d reloads"):format(i))
    end
    local known, parsed, kept = log_read()
    require_(parsed == 0, "unchanged certificates and keys are not parsed again: %d are, %d are not", parsed,
        kept)
    require_(known == COUNT, "unchanged contexts are not proved again: %d of %d", known, COUNT)
    for i = 1, CHANGED do
        certificate_make(i)
    end
    reload(("reload with %d certificates changed"):format(CHANGED))
    known, parsed, kept = log_read()
    require_(parsed == 2 * CHANGED, "of %d certificates that change, and their keys, %d are parsed, %d others not",
        CHANGED, parsed, kept)
    require_(known == COUNT - CHANGED, "of %d contexts all but the %d that change are not proved again: %d", COUNT,
        CHANGED, known)
end

local ok, reason = pcall(measure)
for _, one in ipairs { program, quiet } do
    one:signal(15)
    one:wait(60)
end
bench.cleanup()
assert(ok, reason)
say("\n%s", table.concat(requirements, "\n"))
