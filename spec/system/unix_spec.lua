-- Unix sockets, in and out: whose file, what becomes of it, and those without a file.

local bench = require "bench"
local process = require "process"
local proxy = require "proxy"
local socket = require "socket"
socket.unix = require "socket.unix"

teardown(proxy.cleanup)

local function dial(path)
    local client = socket.unix()
    client:settimeout(5)
    local ok, reason = client:connect(path)
    if not ok then
        client:close()
        return nil, reason
    end
    return client
end

local function ask(client)
    client:send("ping")
    return client:receive(4)
end

local function serves(path)
    local client = dial(path)
    local answer = client and ask(client)
    if client then client:close() end
    return answer == "ping"
end

-- "660 nobody games"
local function file(path)
    return (bench.must { "stat", "-c", "%a %U %G", path }:gsub("%s+$", ""))
end

local function listener(address)
    return ("moongate.listen { name = 'web', address = %s, backend = moongate.echo() }"):format(address)
end

describe("a unix socket's file", function()
    local path = bench.path("web.sock")
    local web, me

    setup(function()
        web = proxy.start { workers = 1, path = path, script = listener "'unix:$path'" }
        me = bench.must { "stat", "-c", "%U %G", web.script }:gsub("%s+$", "")
    end)

    it("is everybody's to connect to, unless the script says otherwise", function()
        assert.equal("666 " .. me, file(path))
        assert.is_true(serves(path))
    end)

    it("has the mode that the script gives it, from the next reload on, without who is connected noticing", function()
        local client = assert(dial(path))
        assert.equal("ping", ask(client))
        web:reload(listener "{ address = 'unix:$path', mode = '0600' }")
        assert.equal("600 " .. me, file(path))
        assert.equal("ping", ask(client))
        client:close()
        web:reload(listener("{ '127.0.0.1:" .. bench.port() .. "', { address = 'unix:$path', mode = '660' } }"))
        assert.equal("660 " .. me, file(path))
        assert.is_true(serves(path))
    end)

    it("has its owner and group, and is given back", function()
        if not bench.is_root then
            pending("only root gives files away")
            return
        end
        web:reload(listener "{ address = 'unix:$path', mode = '0660', owner = 'nobody', group = 'games' }")
        assert.equal("660 nobody games", file(path))
        web:reload(listener "'unix:$path'")
        assert.equal("666 root root", file(path))
    end)

    it("is as it was after a reload that was refused", function()
        web:reload(listener "{ address = 'unix:$path', mode = '0600' }")
        local taken = socket.bind("127.0.0.1", 0)
        local _, port = taken:getsockname()
        local result = web:try_reload(listener("{ { address = 'unix:$path', mode = '0666' }, '127.0.0.1:"
            .. ("%d"):format(port) .. "' }"))
        taken:close()
        assert.equal(1, result.code)
        assert.equal("600 " .. me, file(path))
        assert.is_true(serves(path))
    end)

    it("goes with moongate", function()
        web:write_script(listener "'unix:$path'")
        web:stop()
        assert.is_false(bench.exists(path))
    end)
end)

describe("what is at its path already", function()
    local path = bench.path("taken.sock")

    local function refused()
        return proxy.refused { workers = 1, log_format = "text", script = listener("'unix:" .. path .. "'") }
    end

    it("is removed if nobody listens there any more", function()
        local dead = proxy.start { workers = 1, script = listener("'unix:" .. path .. "'") }
        dead.stopped = true
        local children = bench.children(dead.pid)
        process.kill(dead.pid, proxy.signals.KILL)
        dead.program:wait(5)
        for _, child in ipairs(children) do -- which leave by themselves, but let go of the socket late
            bench.wait("the workers to leave", function() return not bench.running(child.pid) end, 40)
        end
        assert.is_true(bench.exists(path))
        local web = proxy.start { workers = 1, script = listener("'unix:" .. path .. "'") }
        assert.is_true(serves(path))
        web:stop()
    end)

    it("stays if somebody does, who goes on", function()
        local other = bench.start { "socat", "UNIX-LISTEN:" .. path .. ",fork", "SYSTEM:cat" }
        bench.wait("socat", function() return bench.exists(path) end)
        local result = refused()
        assert.equal(1, result.code)
        assert.matches(path .. ": Address already in use", result.log:match("([^\n]*)\n*$"), 1, true)
        assert.is_true(serves(path))
        other:stop()
        os.remove(path)
    end)

    it("stays if it is anything else", function()
        bench.write(path, "not a socket")
        local result = refused()
        assert.equal(1, result.code)
        assert.matches("the file exists and is not a socket", result.log:match("([^\n]*)\n*$"), 1, true)
        assert.equal("not a socket", bench.read(path))
        os.remove(path)
        process.symlink(bench.write("elsewhere", "neither"), path)
        assert.equal(1, refused().code)
        assert.equal("neither", bench.read(path))
        os.remove(path)
        bench.must { "mkdir", path }
        assert.equal(1, refused().code)
        assert.is_true(bench.exists(path))
    end)

    it("is not moongate's to remove when it was put there later", function()
        local mine = bench.path("mine.sock")
        local web = proxy.start { workers = 1, script = listener("'unix:" .. mine .. "'") }
        os.remove(mine)
        bench.write(mine, "somebody else's")
        web:stop()
        assert.equal("somebody else's", bench.read(mine))
    end)
end)

describe("a unix address", function()
    it("may be a backend, and abstract, in and out", function()
        local name = "moongate-spec-" .. bench.port()
        local path, port = bench.path("inner.sock"), bench.port()
        local web = proxy.start { workers = 1, name = name, path = path, port = port, other = bench.port(), script = [[
moongate.listen { name = "inner", address = { "unix:@$name", "unix:$path" }, backend = moongate.echo() }
moongate.listen { name = "abstract", address = "127.0.0.1:$port", backend = "unix:@$name" }
moongate.listen { name = "path", address = "127.0.0.1:$other", backend = "unix:$path" }
]] }
        local client = bench.connect(port)
        assert.equal("ping", ask(client))
        client:close()
        for _, record in ipairs(web:records(2)) do
            if record.listener == "abstract" then
                assert.equal("unix:@" .. name, record.backend_address)
            end
        end
        client = bench.connect(web.options.other)
        assert.equal("ping", ask(client))
        client:close()
        local answer = bench.run { "socat", "-t", "5", "-", "ABSTRACT-CONNECT:" .. name, input = "hello" }
        assert.equal("hello", answer.out)
        local second = proxy.refused { workers = 1, log_format = "text", script = listener("'unix:@" .. name .. "'") }
        assert.matches("Address already in use", second.log, 1, true)
        web:stop()
    end)

    for text, message in pairs {
        ["{ address = 'unix:/x', mode = 660 }"] = 'mode: expected octal digits in a string, like "0660", got 660',
        ["{ address = 'unix:/x', mode = '0999' }"] = 'mode: expected octal digits in a string, like "0660", got 0999',
        ["{ address = 'unix:/x', mode = '4755' }"] = 'mode: expected octal digits in a string, like "0660", got 4755',
        ["{ address = 'unix:/x', owner = 'no-such-user' }"] = 'owner: there is no user "no-such-user"',
        ["{ address = 'unix:/x', group = 'no-such-group' }"] = 'group: there is no group "no-such-group"',
        ["{ address = 'unix:/x', user = 'root' }"] = 'unknown option "user"',
        ["{ address = '127.0.0.1:80', mode = '0600' }"] = "127.0.0.1:80 is no file",
        ["{ address = 'unix:@x', mode = '0600' }"] = "unix:@x is no file",
        ["{ { mode = '0600' } }"] = "address: an entry without address",
        ["'unix:x'"] = "expected unix:/absolute/path or unix:@name",
        ["'unix:/" .. ("x"):rep(120) .. "'"] = "the path is longer than 107 bytes",
        ["'unix:/x\\0y'"] = "the string contains a zero byte",
    } do
        it("is refused as " .. text:sub(1, 50), function()
            local result = proxy.check { script = listener(text) }
            assert.equal(1, result.code)
            assert.matches(message, result.err, 1, true)
            assert.matches("moongate%.%d+%.lua:%d+: listen: ", result.err)
        end)
    end
end)
