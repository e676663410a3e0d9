--[[
What thousands of certificates cost: P-256, one name each, below one ServerNames.

    make bench                          NAMES=10000 unless told otherwise

Stages of a run of the script (in this process), the look-up of a name, a start and three reloads of moongate with one
worker: seconds, the worker's memory for each certificate, and how long an established connection waits at worst for its
echo while moongate reloads. A benchmark and no test: it prints figures and judges none.
]]

local bench = require "bench"
local process = require "process"
local testing = require "moongate.testing"
local names = require("mgtest").names
local openssl = require "moongate.openssl"

local COUNT = tonumber(os.getenv("NAMES")) or 10000
local PING_S = 0.001

local function say(...)
    print((...):format(select(2, ...)))
    io.stdout:flush()
end

local dir = bench.path("certs")
bench.must { "mkdir", dir }
local ca = testing.ca()

local function path(i)
    return ("%s/%05d.pem"):format(dir, i)
end

local began = process.now()
for i = 1, COUNT do
    local made = testing.certificate { ca = ca, names = { ("host%d.example.com"):format(i) }, key = "EC" }
    bench.write(path(i), made.pem .. ca.pem .. made.key_pem)
end
say("%d certificates with their CA's: made in %.1f s", COUNT, process.now() - began)

-- ---- stages --------------------------------------------------------------------------------------

local contexts = {}

local function stage(what, body)
    local cpu = os.clock()
    for i = 1, COUNT do
        body(i)
    end
    cpu = os.clock() - cpu
    say("  %-42s %6.2f s of CPU, %4.0f us each", what, cpu, cpu / COUNT * 1e6)
end

stage("reading the files", function(i) bench.read(path(i)) end)
stage("SSLContext.new", function(i) contexts[i] = openssl.SSL.SSLContext.new() end)
stage("load_certificate (reading, parsing)", function(i) contexts[i]:load_certificate(path(i)) end)
stage("setup", function(i) contexts[i]:setup() end)
contexts = {}
collectgarbage()
stage("the same once more: SSLContext.new", function(i) contexts[i] = openssl.SSL.SSLContext.new() end)
stage("load_certificate of what is known", function(i) contexts[i]:load_certificate(path(i)) end)
contexts = {}
collectgarbage()

-- ---- look-up -------------------------------------------------------------------------------------

for _, count in ipairs { 10, COUNT, 10 * COUNT } do
    local table_, list = names.new(), {}
    local target = names.target(table_, "pass")
    for i = 1, count do
        names.add(table_, ("host%d.example.com"):format(i), target)
    end
    for i = 1, 1000 do
        list[i] = ("host%d.example.com"):format(math.random(count))
    end
    local seconds = names.time(table_, list, 200)
    say("look-up among %6d names: %3.0f ns", count, seconds / 200000 * 1e9)
end

-- ---- the program ---------------------------------------------------------------------------------

local SCRIPT = [[
local moongate = require "moongate"
moongate.settings { reload_timeout = 3600 }
moongate.listen { name = "web", address = "127.0.0.1:%d", backend = moongate.echo(),
    tls = moongate.servernames(moongate.certificates(%q)) }
moongate.listen { name = "plain", address = "127.0.0.1:%d", backend = moongate.echo() }
]]

local control, port = bench.path("control"), bench.port()
local function script(pattern)
    return bench.write("moongate.lua", SCRIPT:format(bench.port(), pattern, port))
end

local function command(...)
    local arguments = { bench.moongate, ... }
    arguments.timeout = 1800
    return bench.run(arguments)
end

local function anonymous(pid)
    return tonumber(bench.read(("/proc/%d/status"):format(pid)):match("RssAnon:%s+(%d+)"))
end

local function echo_client()
    local client = assert(bench.connect(port))
    client:setoption("tcp-nodelay", true)
    client:settimeout(30)
    return client
end

-- Milliseconds of the echoes of an established connection until `done()`, which then is closed; added to `times`.
local function echoes(client, done, times)
    while not done() do
        local sent = process.now()
        assert(client:send("ping\n"))
        assert(client:receive("*l"))
        times[#times + 1] = (process.now() - sent) * 1000
        bench.sleep(PING_S)
    end
    client:close()
    return times
end

local function summary(times)
    table.sort(times)
    return ("median %.2f ms, 99.9%% %.1f ms, worst %.1f ms of %d"):format(times[#times // 2 + 1],
        times[math.max(1, #times * 999 // 1000)], times[#times], #times)
end

local function seconds_passed(seconds)
    local until_ = process.now() + seconds
    return function() return process.now() > until_ end
end

began = process.now()
local checked = command("check", script(dir .. "/*.pem"))
assert(checked.code == 0, checked.err)
say("moongate check, proof included: %.1f s", process.now() - began)

script(path(1))
local program = bench.start { bench.moongate, "run", bench.path("moongate.lua"), "--workers", "1", "--control", control,
    log = bench.path("log") }

local function running()
    assert(program:alive(), bench.read(bench.path("log")):sub(-2000))
    return command("status", "--control", control).out:find("running", 1, true)
end

local function worker()
    return bench.children(program.pid)[1].pid
end

-- One connection lives through the reload, under the old generation; then another one through the old one's end.
local function reload(what)
    local client = echo_client()
    local started = process.now()
    local reloading = bench.start { bench.moongate, "reload", "--control", control }
    local times = echoes(client, function() return not reloading:alive() end, {})
    local took = process.now() - started
    echoes(echo_client(), seconds_passed(5), times)
    say("%s: %.1f s; echoes meanwhile: %s", what, took, summary(times))
    assert(reloading.code == 0, reloading:errors())
end

local function measure()
    bench.wait("moongate to serve", running, 60)
    local base = anonymous(worker())
    say("with one certificate the worker has %.1f MiB", base / 1024)
    say("echoes while nothing happens: %s", summary(echoes(echo_client(), seconds_passed(5), {})))
    script(dir .. "/*.pem")
    reload(("reload to %d certificates"):format(COUNT))
    say("memory: %.1f KiB for each certificate", (anonymous(worker()) - base) / COUNT)
    for _ = 1, 3 do
        reload("reload, nothing changed")
        say("memory: %.1f KiB for each certificate", (anonymous(worker()) - base) / COUNT)
    end
end

local ok, reason = pcall(measure)
program:signal(15)
program:wait(60)
bench.cleanup()
assert(ok, reason)
