--[[
bench: what every system spec stands on. A directory of its own, free ports, programs that are started
without a shell and ended by pid, and waiting for conditions instead of sleeping.

    local bench = require "bench"
    teardown(bench.cleanup)

Everything that was started is ended by `cleanup`, everything that was written is below `bench.dir`.
]]

local process = require "process"
local socket = require "socket"

local bench = {
    build = os.getenv("MOONGATE_BUILD") or "build",
    is_root = process.uid() == 0,
}
bench.sanitized = bench.build:match("asan$") ~= nil
bench.slow = bench.sanitized or bench.build:match("gcstress$") ~= nil
bench.moongate = bench.build .. "/moongate"

-- The directory programs and scripts are named from.
local here = assert(io.popen("pwd")):read("l")

function bench.absolute(path)
    return path:sub(1, 1) == "/" and path or here .. "/" .. path
end

bench.moongate = bench.absolute(bench.moongate)

process.ignore_pipe()

-- ---- files ---------------------------------------------------------------------------------------

bench.dir = assert(process.mkdtemp((os.getenv("TMPDIR") or "/tmp") .. "/moongate-spec-"))
process.chmod(bench.dir, tonumber("755", 8)) -- workers that are nobody reach their sockets here

function bench.path(name)
    return bench.dir .. "/" .. name
end

function bench.read(path)
    local file = io.open(path, "rb")
    if not file then
        return ""
    end
    local text = file:read("a")
    file:close()
    return text or "" -- nil: of a process in /proc that has ended since
end

-- Writes below bench.dir (or at an absolute path) and returns the path.
function bench.write(name, text)
    local path = name:sub(1, 1) == "/" and name or bench.path(name)
    local file = assert(io.open(path, "wb"))
    file:write(text)
    file:close()
    return path
end

bench.exists = process.exists

-- `$name` becomes values.name.
function bench.fill(template, values)
    return (template:gsub("%$([%a_][%w_]*)", function(name)
        local value = values[name]
        return value ~= nil and tostring(value) or nil
    end))
end

-- ---- time and ports ------------------------------------------------------------------------------

bench.now = process.now
bench.sleep = process.sleep

-- Calls `condition` until it returns something true, and returns that.
function bench.wait(what, condition, seconds)
    seconds = (seconds or 20) * (bench.slow and 3 or 1)
    local deadline = process.now() + seconds
    local interval = 0.005
    while true do
        local result = condition()
        if result then
            return result
        end
        if process.now() > deadline then
            error(("waited %g s for %s"):format(seconds, what), 2)
        end
        process.sleep(interval)
        interval = math.min(interval * 1.5, 0.1)
    end
end

-- The lines of `text` that contain `wanted` (plain).
function bench.lines(text, wanted)
    local list = {}
    for line in text:gmatch("[^\n]+") do
        if line:find(wanted, 1, true) then
            list[#list + 1] = line
        end
    end
    return list
end

local claims = {}

-- A port nobody listens on; never the same twice, also not in specs that run at the same time: a UDP socket
-- on it, kept for as long as this process lives, is the claim. Below the range that clients are given, so
-- that no connection of ours takes it in between.
function bench.port(host)
    for _ = 1, 200 do
        local port = math.random(10000, 32000)
        local claim = socket.udp()
        local server = claim:setsockname("127.0.0.1", port) and socket.bind(host or "127.0.0.1", port)
        if server then
            server:close()
            claims[#claims + 1] = claim
            return port
        end
        claim:close()
    end
    error("no free port")
end

function bench.connect(port, host)
    local client = socket.tcp4()
    client:settimeout(5)
    local ok, reason = client:connect(host or "127.0.0.1", port)
    if not ok then
        client:close()
        return nil, reason
    end
    return client
end

-- ---- programs ------------------------------------------------------------------------------------

local Program = {}
Program.__index = Program
local started = {}
local outputs = 0

local function environment(extra)
    local list = {}
    for _, entry in ipairs(process.environment()) do
        if not entry:match("^LD_PRELOAD=") then
            list[#list + 1] = entry
        end
    end
    for name, value in pairs(extra or {}) do
        for i = #list, 1, -1 do
            if list[i]:sub(1, #name + 1) == name .. "=" then
                table.remove(list, i)
            end
        end
        list[#list + 1] = name .. "=" .. value
    end
    return list
end

-- start{ program, argument …, stdin="pipe", cwd=, env={K=V}, user=, nofile=, log=path for both outputs }
function bench.start(options)
    outputs = outputs + 1
    local out = options.log or bench.path(("out.%d"):format(outputs))
    local err = options.log or bench.path(("err.%d"):format(outputs))
    local command = table.move(options, 1, #options, 1, {})
    command.stdin, command.cwd, command.user, command.nofile =
        options.stdin, options.cwd, options.user, options.nofile
    command.stdout, command.stderr, command.env = out, err, environment(options.env)
    local pid, stdin = assert(process.spawn(command))
    local program = setmetatable({ pid = pid, stdin = stdin, out = out, err = err, name = options[1] }, Program)
    started[#started + 1] = program
    return program
end

function Program:output()
    return bench.read(self.out)
end

function Program:errors()
    return bench.read(self.err)
end

-- The last line as a table of key=value; numbers are numbers.
function Program:result()
    local result = {}
    local last = self:output():match("([^\n]+)\n*$") or ""
    for key, value in last:gmatch("([%w_]+)=(%S*)") do
        result[key] = tonumber(value) and not key:match("sha256") and tonumber(value) or value
    end
    return result
end

function Program:alive()
    if not self.how then
        self.how, self.code = process.wait(self.pid, 0)
    end
    return not self.how
end

function Program:signal(number)
    if self:alive() then
        process.kill(self.pid, number)
    end
end

-- Waits for the end: "exit", code or "signal", number.
function Program:wait(seconds)
    seconds = (seconds or 30) * (bench.slow and 3 or 1)
    if not self.how then
        self.how, self.code = process.wait(self.pid, seconds)
    end
    if not self.how then
        error(("%s (pid %d) has not ended after %g s"):format(self.name, self.pid, seconds), 2)
    end
    return self.how, self.code
end

function Program:close_stdin()
    if self.stdin then
        process.close(self.stdin)
        self.stdin = nil
    end
end

-- Closes stdin, waits, and returns the last line's keys.
function Program:finish(seconds)
    self:close_stdin()
    self:wait(seconds)
    return self:result()
end

function Program:stop()
    self:close_stdin()
    for _, number in ipairs { 15, 9 } do
        if not self:alive() then
            return
        end
        process.kill(self.pid, 18) -- a stopped process takes nothing but KILL and CONT
        process.kill(self.pid, number)
        self.how, self.code = process.wait(self.pid, 3)
    end
end

-- Runs to the end: { code=, signal=, out=, err= }. `input` becomes its stdin.
function bench.run(options)
    if options.input then
        options.stdin = bench.write("stdin", options.input)
    end
    local program = bench.start(options)
    local how, code = program:wait(options.timeout or 30)
    started[#started] = nil
    local result = { out = program:output(), err = program:errors() }
    result[how == "exit" and "code" or "signal"] = code
    os.remove(program.out)
    os.remove(program.err)
    return result
end

-- Runs and fails unless it exits 0; returns stdout.
function bench.must(options)
    local result = bench.run(options)
    if result.code ~= 0 then
        error(("%s\nexit %s signal %s\n%s%s"):format(table.concat(options, " "), result.code, result.signal,
            result.out, result.err), 2)
    end
    return result.out
end

-- ---- peers: the programs of spec/system/support --------------------------------------------------

local function peer_command(program, command, options)
    local list = { bench.absolute(bench.build .. "/spec/" .. program), command }
    for key, value in pairs(options) do
        if type(key) == "string" and value then
            list[#list + 1] = "--" .. key:gsub("_", "-")
            if value ~= true then
                list[#list + 1] = tostring(value)
            end
        end
    end
    return list
end

-- peer("peer", "exchange", { connect=, bytes=, tls=true … }) starts it; options as on its command line.
function bench.peer(program, command, options)
    local list = peer_command(program, command, options)
    list.stdin = "pipe"
    local started_peer = bench.start(list)
    if options.listen then
        bench.wait(command .. " to listen", function()
            return started_peer:output():match("listening port=%d+") or not started_peer:alive()
        end)
        assert(started_peer:alive(), started_peer:errors())
        started_peer.port = tonumber(started_peer:output():match("listening port=(%d+)"))
    end
    return started_peer
end

function bench.exchange(options)
    return bench.peer("peer", "exchange", options)
end

-- An echo server on a port (or address) of its own.
function bench.echo_server(options)
    options = options or {}
    options.listen = options.listen or "127.0.0.1:0"
    return bench.peer("load", "echo-server", options)
end

function bench.echo_load(options)
    return bench.peer("load", "echo", options)
end

-- What a client of TLS says first.
function bench.client_hello()
    local listening = assert(socket.bind("127.0.0.1", 0))
    local client = bench.exchange { connect = "127.0.0.1:" .. ("%d"):format(select(2, listening:getsockname())),
        tls = true, servername = "localhost" }
    local accepted = listening:accept()
    accepted:settimeout(20)
    local header = accepted:receive(5)
    local hello = header .. accepted:receive((string.unpack(">I2", header, 4)))
    accepted:close()
    listening:close()
    client:stop()
    return hello
end

-- ---- /proc ---------------------------------------------------------------------------------------

-- KiB that the process holds: anonymous and shared memory, not the pages of files. The share of libcrypto's
-- pages that counts as ours grows by a MiB when another process that has it mapped ends.
function bench.memory(pid)
    local map = bench.read("/proc/" .. pid .. "/smaps_rollup")
    local anonymous, shared = map:match("\nPss_Anon:%s+(%d+)"), map:match("\nPss_Shmem:%s+(%d+)")
    if not anonymous then -- not ours to look at (a process that is not dumpable), or an older kernel
        local status = bench.read("/proc/" .. pid .. "/status")
        anonymous, shared = status:match("\nRssAnon:%s+(%d+)"), status:match("\nRssShmem:%s+(%d+)")
    end
    return anonymous and tonumber(anonymous) + tonumber(shared or 0) or 0
end

-- Open descriptors, or nil where we may not look (a process that is not dumpable, and we are not root).
function bench.descriptors(pid)
    local list = process.list("/proc/" .. pid .. "/fd")
    return list and #list
end

-- Direct children: list of { pid=, command= }, ordered by pid.
function bench.children(pid)
    local found = {}
    for child in bench.read(("/proc/%d/task/%d/children"):format(pid, pid)):gmatch("%d+") do
        local state = bench.read("/proc/" .. child .. "/stat"):match("^%d+ %(.*%) (%a)")
        if state and state ~= "Z" then
            found[#found + 1] = {
                pid = tonumber(child),
                command = (bench.read("/proc/" .. child .. "/cmdline"):gsub("%z", " ")),
            }
        end
    end
    table.sort(found, function(a, b) return a.pid < b.pid end)
    return found
end

function bench.running(pid)
    local state = bench.read("/proc/" .. pid .. "/stat"):match("^%d+ %(.*%) (%a)")
    return state ~= nil and state ~= "Z"
end

-- ---- the end -------------------------------------------------------------------------------------

local function remove(path)
    local names = process.readlink(path) and nil or process.list(path)
    for _, name in ipairs(names or {}) do
        remove(path .. "/" .. name)
    end
    os.remove(path)
end
bench.remove = remove

function bench.cleanup()
    for i = #started, 1, -1 do
        started[i]:stop()
    end
    if not os.getenv("KEEP") then
        remove(bench.dir)
    end
end

return bench
