-- The command line: what it understands, what it says about the rest, and its exit codes.

local bench = require "bench"
local proxy = require "proxy"

local DONE, REFUSED, USAGE = 0, 1, 2

local function moongate(...)
    return bench.run { bench.moongate, ... }
end

local function lines(text)
    local _, count = text:gsub("\n", "")
    return count
end

teardown(proxy.cleanup)

describe("usage", function()
    for _, arguments in ipairs { { "help" }, { "--help" }, { "-h" } } do
        it(("is shown by %s"):format(arguments[1]), function()
            local result = moongate(table.unpack(arguments))
            assert.equal(DONE, result.code)
            for _, command in ipairs { "run", "check", "test", "reload", "drain", "stop", "status", "version",
                "help" } do
                assert.matches("\n  " .. command .. " ", result.out)
            end
            assert.is_nil(result.out:find("--worker", 1, true), "hidden commands are not for people")
            assert.equal("", result.err)
        end)
    end

    for _, command in ipairs { "run", "check", "test", "reload", "drain", "stop", "status", "version", "help" } do
        it("of " .. command .. " is shown by help and by --help", function()
            local result = moongate("help", command)
            assert.equal(DONE, result.code)
            assert.matches("usage: moongate " .. command, result.out, 1, true)
            assert.equal(result.out, moongate(command, "--help").out)
        end)
    end

    for _, option in ipairs { "workers", "watch", "control", "pid-file", "user", "log-level", "log-format" } do
        it("of run has --" .. option, function()
            assert.matches("--" .. option, moongate("help", "run").out, 1, true)
        end)
    end

    it("is what nothing at all gets, as an error", function()
        assert.equal(USAGE, moongate().code)
    end)
end)

describe("version", function()
    for _, word in ipairs { "version", "--version" } do
        it("is shown by " .. word .. ", the libraries' too", function()
            local result = moongate(word)
            assert.equal(DONE, result.code)
            for _, name in ipairs { "^moongate %d", "\nOpenSSL 3", "\nlibuv 1", "\nLua 5%.4" } do
                assert.matches(name, result.out)
            end
        end)
    end
end)

describe("a mistake", function()
    for text, mistake in pairs {
        ['unknown command "relaod" (did you mean "reload"?)'] = { "relaod" },
        ['unknown command "frobnicate"'] = { "frobnicate" },
        ["unknown option --wokers (did you mean --workers?)"] = { "run", "x.lua", "--wokers", "2" },
        ["unknown option --nothing"] = { "status", "--nothing" },
        ["unknown option -x"] = { "check", "-x" },
        ["option --workers needs a value"] = { "run", "x.lua", "--workers" },
        ["option --watch takes no value"] = { "run", "x.lua", "--watch=yes" },
        ['--workers: expected a number from 1 to 256, got "none"'] = { "run", "x.lua", "--workers", "none" },
        ['--workers: expected a number from 1 to 256, got "0"'] = { "run", "x.lua", "--workers=0" },
        ['--log-level: expected debug, info, warn or error, got "loud"'] = { "run", "x.lua", "--log-level", "loud" },
        ['--log-format: expected text or json, got "xml"'] = { "run", "x.lua", "--log-format", "xml" },
        ["unknown option --filter"] = { "test", "--filter=x" },
        ["which script?"] = { "run" },
        ["expected one script"] = { "check", "a.lua", "b.lua" },
        ["unknown option --json"] = { "reload", "--json" },
        ['unexpected argument "now"'] = { "stop", "now" },
    } do
        it(("as in 'moongate %s' is named in one line, with a hint"):format(table.concat(mistake, " ")), function()
            local result = moongate(table.unpack(mistake))
            assert.equal(USAGE, result.code)
            assert.equal("", result.out)
            assert.matches(text, result.err, 1, true)
            assert.matches("\nTry 'moongate help", result.err, 1, true)
            assert.equal(2, lines(result.err))
        end)
    end
end)

describe("without a moongate", function()
    for _, command in ipairs { "reload", "drain", "stop", "status" } do
        it(command .. " says so", function()
            local result = moongate(command, "--control", bench.path("nobody.sock"))
            assert.equal(REFUSED, result.code)
            assert.matches("no moongate runs", result.err, 1, true)
            assert.equal(1, lines(result.err))
        end)
    end
end)

describe("run", function()
    it("refuses a script that is not there", function()
        local result = moongate("run", bench.path("missing.lua"), "--control", bench.path("c"))
        assert.equal(REFUSED, result.code)
        assert.matches("missing.lua: No such file or directory\n$", result.err)
    end)

    it("refuses a user that does not exist", function()
        local result = moongate("run", bench.write("user.lua", ""), "--user", "nobody-of-that-name",
            "--control", bench.path("c"))
        assert.equal(REFUSED, result.code)
        assert.matches('there is no user "nobody%-of%-that%-name"\n$', result.err)
    end)

    it("refuses a control path that cannot be", function()
        local result = moongate("run", bench.write("path.lua", ""), "--control", bench.path("no/such/dir"))
        assert.equal(REFUSED, result.code)
        assert.matches("No such file or directory\n$", result.err)
    end)

    it("refuses to take a file for its control socket", function()
        local path = bench.write("precious", "data")
        local result = moongate("run", bench.write("file.lua", ""), "--control", path)
        assert.equal(REFUSED, result.code)
        assert.matches("not a socket", result.err)
        assert.equal("data", bench.read(path))
    end)

    it("writes its pid, and removes it with itself", function()
        local pid_file = bench.path("pid")
        local web = proxy.start { port = bench.port(), workers = 1, arguments = { "--pid-file", pid_file },
            script = [[moongate.listen { address = "127.0.0.1:$port", backend = moongate.echo() }]] }
        assert.equal(web.pid .. "\n", bench.read(pid_file))
        web:stop()
        assert.is_false(bench.exists(pid_file))
    end)
end)
