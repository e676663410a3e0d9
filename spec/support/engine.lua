--[[
engine: an engine in a process of its own (spec/c/engine.c), with one listener.

    local web = engine.start { tls = engine.server(), backend = { addresses = { "127.0.0.1:1" } } }
    web.port  web:status()  web:records()  web:record(1)  web:stop()

stop() asserts the exit status: no session, handle or config left, nothing from a sanitizer.
]]

local bench = require "bench"
local certs = require "certs"
local cjson = require "cjson"
local process = require "process"
local host = require "mgtest".engine

local Engine = {}
Engine.__index = Engine

local engine = { running = {} }

-- A server context's table; `more` is added.
function engine.server(more)
    local tls = { crt = certs.ec.crt, key = certs.ec.key }
    for key, value in pairs(more or {}) do
        tls[key] = value
    end
    return tls
end

function engine.start(options)
    local self = setmetatable({ options = options }, Engine)
    if options.unix then
        self.address = "unix:" .. options.unix
    else
        self.port = options.port or bench.port()
        self.address = "127.0.0.1:" .. self.port
    end
    options.fd = options.fd or host.listen(self.address)
    options.shared = options.shared or host.shared()
    options.access_log = options.access_log or bench.path("access." .. #engine.running)
    options.log = bench.path("engine." .. #engine.running)
    self.pid, self.control = host.start(options)
    engine.running[#engine.running + 1] = self
    return self
end

function Engine:ask(what)
    return host.ask(self.control, what)
end

function Engine:status()
    return cjson.decode(self:ask("status"))
end

function Engine:records()
    local list = {}
    for line in bench.read(self.options.access_log):gmatch("([^\n]+)\n") do
        list[#list + 1] = self.options.access_format == "text" and line or cjson.decode(line)
    end
    return list
end

-- The n-th record, waited for.
function Engine:record(n)
    return bench.wait("record " .. n, function()
        return self:records()[n]
    end)
end

function Engine:wait_idle(seconds)
    bench.wait("no session", function()
        return self:status().sessions == 0
    end, seconds)
end

function Engine:stop()
    if not self.control then
        return
    end
    host.close(self.control)
    self.control = nil
    local how, code = process.wait(self.pid, bench.slow and 30 or 10)
    if not how then
        process.kill(self.pid, 9)
        process.wait(self.pid, 5)
    end
    local log = bench.read(self.options.log)
    if how ~= "exit" or code ~= 0 or log:find("ERROR: ", 1, true) or log:find("runtime error", 1, true) then
        error(("the engine ended by %s %s\n%s"):format(how, code, log), 2)
    end
end

-- Stops every engine and everything of bench's.
function engine.cleanup()
    local ok, message = true, nil
    for _, each in ipairs(engine.running) do
        local stopped, reason = pcall(each.stop, each)
        if not stopped then
            ok, message = false, reason
        end
    end
    bench.cleanup()
    assert(ok, message)
end

-- ---- the four modes ------------------------------------------------------------------------------

engine.modes = {
    { name = "TLS to plain", down = true, up = false },
    { name = "plain to TLS", down = false, up = true },
    { name = "TLS to TLS", down = true, up = true },
    { name = "plain to plain", down = false, up = false },
}

-- An engine between two ends in that mode; `more` are its options. Its backend listens nowhere yet.
function engine.between(mode, more)
    local options = { backend = {} }
    for key, value in pairs(more or {}) do
        options[key] = value
    end
    local backend_port = bench.port()
    options.backend.addresses = { "127.0.0.1:" .. backend_port }
    options.backend.servername = mode.up and "localhost" or nil
    options.tls = mode.down and engine.server() or nil
    options.backend.tls = mode.up and { ca = certs.ca.crt } or nil
    local self = engine.start(options)
    self.mode, self.backend_port = mode, backend_port
    return self
end

-- One connection through it: options of `peer exchange` for each end. Returns client and server programs.
function Engine:connect(down, up)
    down.connect, up.listen = self.address, "127.0.0.1:" .. self.backend_port
    if self.mode.up then
        up.tls, up.cert, up.key = true, certs.ec.crt, certs.ec.key
    end
    if self.mode.down then
        down.tls, down.cafile, down.servername = true, certs.ca.crt, "localhost"
    end
    local server = bench.exchange(up)
    return bench.exchange(down), server
end

return engine
