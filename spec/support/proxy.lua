--[=[
proxy: a running moongate, from the outside.

    local web = proxy.start { script = [[ moongate.listen{ address = "127.0.0.1:$port", … } ]], port = port }
    web:reload("…")  web:status()  web:records()  web:stop()

`script` is filled in (bench.fill) with the other fields of the table, $dir, $access and the certificates'
paths ($rsa_crt, $rsa_key …), and gets a preamble: `moongate`, `openssl`, `server()` – a context with both
certificates, `client()` – one that trusts our CA. `settings` is the inside of moongate.settings{}.
`whole = true` leaves the preamble out; `script_path` names a script that is there already.

When a spec fails, logs and records of what was started are printed.
]=]

local bench = require "bench"
local certs = require "certs"
local cjson = require "cjson"
local process = require "process"

local Proxy = {}
Proxy.__index = Proxy

local proxy = {}
local proxies = {}
local TERM, INT, HUP, KILL, USR1, STOP, CONT = 15, 2, 1, 9, 10, 19, 18
proxy.signals = { TERM = TERM, INT = INT, HUP = HUP, KILL = KILL, USR1 = USR1, STOP = STOP, CONT = CONT }

-- What no log of a healthy run contains.
local COMPLAINTS = {
    "AddressSanitizer", "LeakSanitizer", "runtime error:", "UndefinedBehavior", "stack smashing",
    "uv_loop_close", "Assertion", "handles left", "live ~= 0",
}

local PREAMBLE = [[
local moongate = require "moongate"
local openssl = require "moongate.openssl"
local function server()
    local ctx = openssl.SSL.SSLContext.new()
    ctx:load_certificate("$rsa_crt", "$rsa_key")
    ctx:load_certificate("$ec_crt", "$ec_key")
    return ctx
end
local function client()
    local ctx = openssl.SSL.SSLContext.new()
    ctx.ca_file = "$ca_crt"
    return ctx
end
local _ = server, client
moongate.settings { access_log = "$access", $settings }
]]

local function fill(options, values)
    local text = options.whole and options.script or PREAMBLE .. options.script
    return (text:gsub("%$([%a_][%w_]*)", function(name)
        if values[name] ~= nil then
            return tostring(values[name])
        end
        local made, part = name:match("^(.+)_(crt)$")
        if not made then
            made, part = name:match("^(.+)_(key)$")
        end
        return made and certs[made][part] or nil
    end))
end

local function new(options)
    local number = #proxies + 1
    local self = setmetatable({
        options = options,
        control = bench.path(("control.%d"):format(number)),
        log = bench.path(("log.%d"):format(number)),
        script = options.script_path or bench.path(("moongate.%d.lua"):format(number)),
        access = bench.path(("access.%d"):format(number)),
        exit = 0,
    }, Proxy)
    proxies[number] = self
    return self
end

function Proxy:write_script(text)
    if text then
        self.options.script = text
    end
    local values = setmetatable({ access = self.access, dir = bench.dir }, { __index = self.options })
    if not values.settings then
        values.settings = ""
    end
    bench.write(self.script, fill(self.options, values))
    return self.script
end

function Proxy:arguments()
    local command = { self.program_path or bench.moongate, "run", self.script, "--control", self.control,
        "--log-format", self.options.log_format or "json" }
    if self.options.workers ~= false then -- false: the script's number
        command[#command + 1] = "--workers"
        command[#command + 1] = tostring(self.options.workers or 2)
    end
    for _, argument in ipairs(self.options.arguments or {}) do
        command[#command + 1] = argument
    end
    return command
end

local function sanitizer_options()
    return {
        ASAN_OPTIONS = "detect_leaks=1:abort_on_error=0:exitcode=99",
        UBSAN_OPTIONS = "print_stacktrace=1:halt_on_error=1",
    }
end

-- `prefix` comes before the command: a program that becomes it.
local function prefixed(prefix, command)
    local all = table.move(prefix, 1, #prefix, 1, {})
    return table.move(command, 1, #command, #all + 1, all)
end

function Proxy:launch()
    if self.options.as then -- who may have no way to where it was built, below root's home for one
        self.program_path = bench.path("moongate")
        bench.must { "cp", bench.moongate, self.program_path }
    end
    local command = prefixed(self.options.prefix or {}, self:arguments())
    command.log = self.log
    command.cwd = self.options.cwd
    command.user = self.options.as
    command.nofile = self.options.nofile
    command.env = bench.sanitized and sanitizer_options() or {}
    for name, value in pairs(self.options.env or {}) do
        command.env[name] = value
    end
    self.program = bench.start(command)
    self.pid = self.program.pid
end

-- Starts and waits until it serves.
function proxy.start(options)
    local self = new(options)
    if not options.script_path then
        self:write_script()
    end
    self:launch()
    self:wait_ready()
    return self
end

-- Starts what is expected to be refused: { code=, log= }.
function proxy.refused(options)
    local self = new(options)
    self:write_script()
    self:launch()
    local _, code = self.program:wait(20)
    self.stopped = true
    return { code = code, log = self:log_text() }
end

-- `check`: { code=, out=, err= }
function proxy.check(options)
    local self = new(options)
    self:write_script()
    self.stopped = true
    local command = prefixed(options.prefix or {}, { bench.moongate, "check", self.script })
    for _, argument in ipairs(options.arguments or {}) do
        command[#command + 1] = argument
    end
    return bench.run(command)
end

function Proxy:wait_ready()
    bench.wait("moongate to serve", function()
        if not self.program:alive() then
            error(("moongate ended (%s %s)\n%s"):format(self.program.how, self.program.code, self:log_text()), 0)
        end
        if not bench.exists(self.control) then
            return false
        end
        local result = self:command("status", "--json")
        return result.code == 0 and cjson.decode(result.out).state == "running"
    end, 20)
end

-- ---- asking it -----------------------------------------------------------------------------------

function Proxy:command(...)
    local command = { bench.moongate, ... }
    command[#command + 1] = "--control"
    command[#command + 1] = self.control
    command.timeout = 60
    return bench.run(command)
end

function Proxy:status()
    local result = self:command("status", "--json")
    assert(result.code == 0, result.err)
    return cjson.decode(result.out)
end

-- With a new script, if one is given; { code=, out=, err= }.
function Proxy:try_reload(text)
    self:write_script(text)
    return self:command("reload")
end

function Proxy:reload(text)
    local result = self:try_reload(text)
    if result.code ~= 0 then
        error("reload: " .. result.err .. result.out, 2)
    end
    return result
end

function Proxy:log_text()
    return bench.read(self.log)
end

-- Waits until the log has a line that contains `text` (plain), and returns it.
function Proxy:wait_log(text, seconds)
    return bench.wait(("%q in the log"):format(text), function()
        return bench.lines(self:log_text(), text)[1]
    end, seconds)
end

-- Pids of its workers, in order of index as far as that shows.
function Proxy:workers()
    local pids = {}
    for _, child in ipairs(bench.children(self.pid)) do
        if child.command:find("worker", 1, true) then
            pids[#pids + 1] = child.pid
        end
    end
    return pids
end

function Proxy:wait_workers(count, seconds)
    return bench.wait(("%d workers"):format(count), function()
        local pids = self:workers()
        return #pids == count and pids
    end, seconds)
end

-- Access records as tables; waits until there are `count`.
function Proxy:records(count)
    local list
    local function all()
        list = {}
        for line in bench.read(self.access):gmatch("([^\n]+)\n") do
            list[#list + 1] = cjson.decode(line)
        end
        return #list >= (count or 0)
    end
    if not pcall(bench.wait, "records", all, 10) then
        error(("%d access records instead of %d"):format(#list, count), 2)
    end
    return list
end

-- The record after the first `seen`, waited for.
function Proxy:record(number)
    return self:records(number)[number]
end

-- What s_client says of a connection to `name` (nil: to nobody by name), and its record.
function Proxy:s_client(port, name, ...)
    local number = #self:records() + 1
    local arguments = { "openssl", "s_client", "-connect", "127.0.0.1:" .. port, "-CAfile", certs.ca.crt,
        "-verify_return_error", "-ign_eof", name and "-servername" or "-noservername", input = "hello\n" }
    for _, argument in ipairs(name and { name, ... } or { ... }) do
        arguments[#arguments + 1] = argument
    end
    local result = bench.run(arguments)
    return result, self:record(number)
end

function Proxy:open_connections()
    local total = 0
    for _, worker in ipairs(self:status().workers) do
        total = total + (worker.connections or 0)
    end
    return total
end

-- Generation number → its connections over all workers.
function Proxy:generations()
    local counts = {}
    for _, worker in ipairs(self:status().workers) do
        for _, generation in ipairs(worker.generations or {}) do
            counts[generation.id] = (counts[generation.id] or 0) + generation.connections
        end
    end
    return counts
end

-- ---- the end -------------------------------------------------------------------------------------

function Proxy:assert_clean()
    local text = self:log_text()
    for _, complaint in ipairs(COMPLAINTS) do
        if text:find(complaint, 1, true) then
            error(("the log says %q"):format(complaint), 2)
        end
    end
    -- A worker leaves with 0 (anything else: something was left over in it), or because somebody killed it.
    local status = text:match("exited with status ([1-9]%d*)")
    local signal = text:gsub("ended by signal 9%f[%D]", ""):match("ended by signal (%d+)")
    if status or signal then
        error(("a child ended with status %s, signal %s"):format(status, signal), 2)
    end
end

-- TERM; fails unless it leaves with 0, without a complaint and without a child.
function Proxy:stop(seconds)
    local children = bench.children(self.pid)
    self.stopped = true
    self.program:signal(TERM)
    local how, code = self.program:wait(seconds or 40)
    if how ~= "exit" or code ~= 0 then
        error(("moongate ended by %s %s"):format(how, code), 2)
    end
    for _, child in ipairs(children) do
        assert(not bench.running(child.pid), "a child outlived moongate: " .. child.command)
    end
    assert(not bench.exists(self.control), "the control socket is still there")
    self:assert_clean()
end

-- Stops those that still run; for teardown, before bench.cleanup.
function proxy.cleanup()
    for _, self in ipairs(proxies) do
        if not self.stopped and self.program and self.program:alive() then
            local ok, reason = pcall(self.stop, self)
            if not ok then
                proxy.dump()
                bench.cleanup()
                error(reason, 0)
            end
        end
    end
    bench.cleanup()
end

local function tail(path, lines)
    local all = {}
    for line in bench.read(path):gmatch("[^\n]+") do
        all[#all + 1] = line
    end
    for i = math.max(1, #all - lines + 1), #all do
        print("# | " .. all[i]:sub(1, 1500))
    end
end

function proxy.dump()
    for _, self in ipairs(proxies) do
        print(("# | ---- %s: %s"):format(self.script, self.stopped and "stopped" or "running"))
        tail(self.log, 40)
        print("# | ---- access records")
        tail(self.access, 8)
    end
    io.stdout:flush()
end

local busted = require "busted"
for _, event in ipairs { "failure", "error" } do
    busted.subscribe({ event }, function(element)
        if element.descriptor ~= "file" then
            proxy.dump()
        end
        return nil, true
    end)
end

proxy.uid = process.uid()

return proxy
