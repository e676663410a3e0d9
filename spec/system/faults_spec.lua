-- What goes wrong around the processes, and what they make of it.

local bench = require "bench"
local process = require "process"
local proxy = require "proxy"

local signals = proxy.signals

local ECHO = [[moongate.listen { name = "echo", address = "127.0.0.1:$port", backend = moongate.echo() }]]

local function echoes(port)
    local client = bench.connect(port)
    if not client then
        return false
    end
    client:send("ping")
    local answer = client:receive(4)
    client:close()
    return answer == "ping"
end

teardown(proxy.cleanup)

describe("a reload while drain_delay runs", function()
    -- The worker stands still until the delay is over, and the reload too if that `fails`: the reload spans its end.
    local function reload_across(web, script, fails)
        local worker = web:wait_workers(1)[1]
        assert.equal(0, web:command("drain").code)
        local over = bench.now() + 1.5
        process.kill(worker, signals.STOP)
        web:write_script(script)
        local reload = bench.start { bench.moongate, "reload", "--control", web.control }
        bench.wait("the delay to pass", function()
            return bench.now() > over and not (fails and reload:alive())
        end)
        process.kill(worker, signals.CONT)
        local _, code = reload:wait()
        return code
    end

    local function start()
        return proxy.start { port = bench.port(), workers = 1, settings = "drain_delay = 1", script = ECHO }
    end

    it("cancels the drain", function()
        local web = start()
        assert.equal(0, reload_across(web, ECHO))
        assert.equal("running", web:status().state)
        assert.is_true(echoes(web.options.port))
        web:stop()
    end)

    it("and fails puts the drain off", function()
        local web = start()
        web.options.settings = "drain_delay = 1, reload_timeout = 1.2" -- over while the worker stands still
        assert.equal(1, reload_across(web, ECHO, true))
        bench.wait("nobody to listen", function() return not echoes(web.options.port) end)
        assert.equal("drained", web:status().state)
        web:stop()
    end)
end)

describe("a start without stdin, stdout and stderr", function()
    it("serves all the same", function()
        local port, control = bench.port(), bench.path("closed.control")
        local script = bench.write("closed.lua", 'local moongate = require "moongate"\n' ..
            bench.fill(ECHO, { port = port }))
        local program = bench.start { "sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh",
            bench.moongate, "run", script, "--workers", "1", "--control", control }
        bench.wait("moongate to serve", function()
            assert.is_true(program:alive())
            return echoes(port)
        end)
        program:signal(signals.TERM)
        assert.same({ "exit", 0 }, { program:wait() })
    end)
end)

describe("a log that nobody reads", function()
    it("is refused if it is a named pipe, and keeps nobody waiting", function()
        local pipe = bench.path("log.pipe")
        bench.must { "mkfifo", pipe }
        local web = proxy.start { port = bench.port(), workers = 1, script = ECHO }
        web.options.settings = ("log = %q"):format(pipe)
        local result = web:try_reload()
        assert.equal(1, result.code)
        assert.matches("log file " .. pipe, result.err, 1, true)
        assert.is_true(echoes(web.options.port))
        web:stop()
    end)

    it("holds nobody up when its reader has stopped reading", function()
        local pipe = bench.path("full.pipe")
        bench.must { "mkfifo", pipe }
        bench.start { "sh", "-c", 'exec sleep 300 <"$1"', "sh", pipe }
        bench.start({ "sh", "-c", 'exec dd if=/dev/zero oflag=nonblock bs=4096 >"$1"', "sh", pipe }):wait()
        local web = proxy.start { port = bench.port(), workers = 1, settings = ("log = %q"):format(pipe),
            arguments = { "--log-level", "debug" }, script = ECHO }
        for _ = 1, 3 do
            assert.equal(0, web:try_reload().code)
        end
        assert.is_true(echoes(web.options.port))
        web:stop()
    end)
end)
