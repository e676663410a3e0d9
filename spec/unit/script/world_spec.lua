-- What a script can do, and what it cannot: the world of its run.

local bench = require "bench"
local checks = require "checks"

local LISTENER = "\nmoongate.listen { address = '127.0.0.1:1', backend = '127.0.0.1:2' }\n"

describe("a script", function()
    teardown(bench.cleanup)

    -- Runs Lua that raises if something is not as it should be.
    local function passes(script, options)
        local result = checks.run(script .. LISTENER, options)
        assert.equal(0, result.code, result.err)
        return result
    end

    local function fails(message, script, options)
        local result = checks.run(script .. LISTENER, options)
        assert.equal(1, result.code, result.out)
        assert.equal(message, result.last)
    end

    it("has moongate and its bindings, whatever lies beside it", function()
        passes([[
            assert(require "moongate" == moongate and require "moongate.openssl" == openssl)
            assert(moongate._VERSION:match "^%d+%.%d+%.%d+$")
        ]], { files = { ["moongate/openssl.lua"] = "error 'the wrong one'" } })
    end)

    it("finds modules and files beside it, from wherever it is started", function()
        local files = {
            ["sub/module.lua"] = "return { name = ..., value = 42 }",
            ["package/init.lua"] = "return 'a package'",
            ["chunk.lua"] = "#!/usr/bin/lua\nreturn 1, 2, ...",
            ["data.txt"] = "some data",
        }
        local script = [[
            local module = require "sub.module"
            assert(module.value == 42 and module.name == "sub.module")
            assert(require "package" ~= nil)
            assert(select(2, dofile "chunk.lua") == 2)
            local a, b, c = assert(loadfile "chunk.lua")("x")
            assert(a == 1 and b == 2 and c == "x")
            assert(loadfile("chunk.lua", "t", {}))
            assert(io.open("data.txt"):read "a" == "some data")
            assert(io.open("./sub/../data.txt"):read "a" == "some data")
            assert(package.searchpath("sub.module", package.path) == "sub/module.lua")
        ]]
        passes(script, { files = files })
        local dir = checks.directory(script .. LISTENER, files)
        local elsewhere = bench.run { bench.moongate, "check", dir .. "/moongate.lua", cwd = "/" }
        assert.equal(0, elsewhere.code, elsewhere.err)
        local above = bench.run { bench.moongate, "check", dir:match("[^/]+$") .. "/moongate.lua", cwd = bench.dir }
        assert.equal(0, above.code, above.err)
    end)

    it("says where it looked for a module", function()
        fails("moongate.lua:1: module 'no.such' not found: no field package.preload['no.such'], " ..
            "no file 'no/such.lua', no file 'no/such/init.lua'", [[require "no.such"]])
    end)

    it("names errors in its modules by their file", function()
        fails("sub/module.lua:2: oh dear", [[require "sub.module"]],
            { files = { ["sub/module.lua"] = "local x\nerror 'oh dear'" } })
        local result = checks.run([[require "broken"]], { files = { ["broken.lua"] = "x = = 1" } })
        assert.matches("broken.lua:1: unexpected symbol near '='", result.last, 1, true)
    end)


    it("prefers a directory named by MOONGATE_LUA to what is compiled in", function()
        local mine = "return setmetatable({ mine = true }, { __index = require 'moongate.core' })"
        local files = { ["lua/moongate/init.lua"] = mine }
        passes("assert(moongate.mine)", { files = files, env = { MOONGATE_LUA = "lua" } })
        local dir = checks.directory("", files)
        passes("assert(moongate.mine)", { env = { MOONGATE_LUA = dir .. "/lua" } })
    end)

    it("reads files as Lua does", function()
        passes([[
            local f = assert(io.open("lines.txt", "r"))
            assert(io.type(f) == "file" and tostring(f) == "file (lines.txt)")
            assert(f:read() == "first" and f:read "L" == "\n" and f:read "n" == 0x1F)
            assert(f:read(2) == " a" and f:read(0) == "")
            assert(f:seek "cur" == 13 and f:seek("set", 2) == 2 and f:read "*l" == "rst")
            local a, b = f:read("L", "n")
            assert(a == "\n" and b == 31)
            assert(f:read "a" == " and\nlast" and f:read "a" == "" and f:read "l" == nil and f:read(0) == nil)
            assert(f:seek "end" == 20 and f:seek("set", 0) == 0)
            assert(f:close() and io.type(f) == "closed file" and tostring(f) == "file (closed)")
            assert(not pcall(f.read, f) and io.type(42) == nil)
            local list = {}
            for line in io.lines "lines.txt" do list[#list + 1] = line end
            assert(table.concat(list, "|") == "first||0x1F and|last")
            for a, b in io.lines("lines.txt", 1, "L") do assert(a == "f" and b == "irst\n") break end
            do local g <close> = io.open "lines.txt" end
            local none, message, code = io.open "no.txt"
            assert(none == nil and message == "no.txt: No such file or directory" and code == 2)
            assert(select(2, pcall(io.lines, "no.txt")) == "moongate.lua:19: no.txt: No such file or directory")
            assert(select(2, io.open ".") == ".: Is a directory")
            assert(select(2, io.open "/dev/zero") == "/dev/zero: Not a regular file, but a pipe, a socket or a device")
        ]], { files = { ["lines.txt"] = "first\n\n0x1F and\nlast" } })
    end)

    it("reads numbers as Lua does", function()
        passes([[
            local f = io.open "numbers.txt"
            local all = { f:read("n", "n", "n", "n", "n", "n") }
            assert(all[1] == 1 and all[2] == -2.5 and all[3] == 1e3 and all[4] == 0x.8p1 and all[5] == 7)
            assert(math.type(all[1]) == "integer" and all[6] == nil and #all == 5)
        ]], { files = { ["numbers.txt"] = "1 -2.5\n1e3 0x.8p1 +7 nan" } })
    end)

    it("sees its environment, the clock and random numbers", function()
        passes([[
            assert(os.getenv "SPEC_VALUE" == "from outside" and os.getenv "SPEC_OTHER" == nil)
            assert(math.abs(os.time() - os.time { year = 2026, month = 1, day = 1 }) < 1e10)
            assert(os.date("%Y", 0):match "^19[67]%d$" and os.date "%Y" >= "2026")
            assert(os.date("*t").year >= 2026 and os.clock() >= 0 and os.difftime(2, 1) == 1)
            local a = math.random(1 << 40)
            assert(math.random(1 << 40) ~= a)
            math.randomseed(1)
            local b = math.random()
            math.randomseed(1)
            assert(math.random() == b)
        ]], { env = { SPEC_VALUE = "from outside" } })
    end)

    it("prints to the log", function()
        local result = passes("print('printed', 1, nil) warn('warned ', 'too')")
        assert.matches("info .*printed 1 nil\n", result.err)
        assert.matches("warn .*warned too\n", result.err)
    end)

    it("goes through tables in order", function()
        passes([[
            local keys = {}
            for key, value in pairs { z = 1, a = 2, m = 3, 10, 20, [-1] = 0, [2.5] = 0, [true] = 0 } do
                keys[#keys + 1] = tostring(key)
            end
            assert(table.concat(keys, " ") == "-1 1 2 2.5 a m z true", table.concat(keys, " "))
            local t = { a = 1, b = 2, c = 3 }
            for key in pairs(t) do t[key] = nil t.c = nil end
            assert(next(t) == nil)
            for _ in pairs(setmetatable({}, { __pairs = function() return function() end end })) do error() end
            assert(not pcall(pairs))
        ]])
    end)

    it("has next in the order of pairs while it loads", function()
        passes([[
            local keys = {}
            local t = { z = 1, a = 2, m = 3, 10, 20, [-1] = 0, [2.5] = 0, [true] = 0 }
            for key, value in next, t do keys[#keys + 1] = tostring(key) assert(t[key] == value) end
            assert(table.concat(keys, " ") == "-1 1 2 2.5 a m z true")
            assert(next({}) == nil and next({ 5 }) == 1 and select(2, next { 5 }) == 5)
            -- Keys may go while they are visited, and others may be asked for meanwhile.
            t = { a = 1, b = 2, c = 3, d = 4 }
            keys = {}
            for key in next, t do
                keys[#keys + 1] = key
                t[key] = nil
                if key == "a" then t.b = nil end
                local _ = next(t)
            end
            assert(table.concat(keys) == "acd" and next(t) == nil)
            t = { b = 1 }
            for _ in next, t do end
            t.a, t.c = 0, 0
            assert(next(t) == "a" and next(t, "a") == "b" and next(t, "b") == "c" and next(t, "c") == nil)
            assert(not pcall(next) and not pcall(next, {}, {}) and not pcall(next, 1))
        ]])
    end)

    it("runs programs through moongate.command alone", function()
        passes([[
            assert(moongate.command { "printf", "%s", "$HOME; `id`" } == "$HOME; `id`")
            assert(moongate.command { "cat", "data.txt" } == "beside")
            assert(moongate.command { "cat" } == "")
            local _, text = pcall(moongate.command, { "sh", "-c", "echo why >&2; echo more >&2; exit 3" })
            assert(text:match ": command: sh: exit status 3: why$", text)
            _, text = pcall(moongate.command, { "./no-such-program" }) -- nor does it depend on the PATH
            assert(text:match ": command: %./no%-such%-program: exit status 127: No such file or directory$", text)
            _, text = pcall(moongate.command, { "sh", "-c", "kill -9 $$" })
            assert(text:match ": command: sh: killed by signal 9$", text)
            _, text = pcall(moongate.command, { "head", "-c", "2000000", "/dev/zero" })
            assert(text:match ": command: head: wrote more than 1048576 bytes$", text)
            assert(not pcall(moongate.command, "ls") and not pcall(moongate.command, {}))
            assert(not pcall(moongate.command, { "ls", 1 }) and not pcall(moongate.command, { "l\0s" }))
        ]], { files = { ["data.txt"] = "beside" } })
    end)

    local refused = {
        { "io.popen('ls')", "io.popen is not available in a script: programs run through moongate.command, " ..
            "and only while the script loads" },
        { "io.open('x', 'w')", "io.open(\"x\", \"w\"): a script can only read files (mode \"r\")" },
        { "io.open('x', 'r+')", "io.open(\"x\", \"r+\"): a script can only read files (mode \"r\")" },
        { "io.open('moongate.lua'):write('x')",
            "file:write is not available in a script: a script cannot write files" },
        { "io.tmpfile()", "io.tmpfile is not available in a script: a script cannot write files" },
        { "io.stdout:write('x')", "io.stdout is not available in a script: print writes to the log" },
        { "io.write('x')", "io.write is not available in a script: print writes to the log" },
        { "io.read()", "io.read is not available in a script: there is no standard input" },
        { "os.execute('ls')", "os.execute is not available in a script: programs run through moongate.command, " ..
            "and only while the script loads" },
        { "os.remove('x')", "os.remove is not available in a script: a script cannot change files" },
        { "os.rename('x', 'y')", "os.rename is not available in a script: a script cannot change files" },
        { "os.tmpname()", "os.tmpname is not available in a script: a script cannot write files" },
        { "os.exit()", "os.exit is not available in a script: raise an error to stop the script" },
        { "os.setlocale('C')", "os.setlocale is not available in a script: the locale belongs to the whole process" },
        { "package.loadlib('x', 'y')", "package.loadlib is not available in a script: C libraries cannot be loaded" },
        { "debug.sethook()", "debug.sethook is not available in a script: the hook enforces settings.callback_budget" },
        { "debug.getregistry()",
            "debug.getregistry is not available in a script: it would lead out of the guarded state" },
        { "for _ in io.lines 'no.txt' do end", "no.txt: No such file or directory" },
        { "dofile 'no.lua'", "no.lua: No such file or directory" },
        { "moongate.listen { address = '127.0.0.1:3', backend = 'a:1' }.name = 'x'",
            "NoMethodError: Listener.name: is given once, when the object is made" },
        { "moongate.echo().balance = 'round_robin'",
            "NoMethodError: Backend.balance: only a backend with addresses has it" },
        { "dofile()", "dofile: expected the name of a file: there is no standard input" },
        { "moongate.status {}", "moongate.status is not supported by this version" },
        { "moongate.lisen {}", "moongate.lisen: no such function (did you mean moongate.listen?)" },
        { "moongate.xyzzy()", "moongate.xyzzy: no such function" },
    }
    for _, case in ipairs(refused) do
        it("is refused " .. case[1], function()
            fails("moongate.lua:1: " .. case[2], case[1])
        end)
    end

    it("loads no precompiled code", function()
        passes([[
            local code = string.dump(function() end)
            assert(load(code) == nil and load(code, "x", "b") == nil and load(code, "x", "bt") == nil)
            assert(load("return 1", "x", "b") == nil and load("return ...", "x", "bt")(3) == 3)
            assert(load("x = 1", "x", "t", { }))
            local parts = { "return", " 5" }
            assert(load(function() return table.remove(parts, 1) end)() == 5)
            assert(select(2, loadfile "code.luac"):match "^code.luac: this is compiled Lua, a binary chunk")
            assert(select(2, load("\27Lua", "=x")):match "binary chunk" and not load "\27Lua")
        ]], { files = { ["code.luac"] = string.dump(function() end) } })
    end)

    it("keeps traceback and getinfo of debug", function()
        passes("assert(debug.traceback 'x':match '^x\\nstack' and debug.getinfo(1, 'l').currentline == 1)")
        passes([[
            local function level(...) local info = debug.getinfo(2, ...) return info end
            local here = level()
            assert(here.currentline == 2 and here.what == "main" and here.source == "@moongate.lua")
            assert(debug.getinfo(0, "n").name == "getinfo" and debug.getinfo(-1) == nil)
            assert(debug.getinfo(1, "l").currentline == 5 and debug.getinfo(coroutine.running(), 1).currentline == 5)
            local co = coroutine.create(function() coroutine.yield() end)
            coroutine.resume(co)
            assert(debug.getinfo(co, 1, "l").currentline == 6)
            assert(debug.getinfo(level).func == level and debug.getinfo(level, "S").linedefined == 1)
            assert(not pcall(debug.getinfo, 1, ">f"))
        ]])
    end)

    it("gets no function that it was not given", function()
        passes([[
            for level = 0, 3 do
                for _, what in ipairs { "f", "nf", "flnSrtu" } do
                    assert((debug.getinfo(level, what) or {}).func == nil)
                    assert((debug.getinfo(coroutine.running(), level, what) or {}).func == nil)
                end
                assert((debug.getinfo(level) or {}).func == nil)
            end
        ]])
    end)

    it("has coroutines as ever", function()
        passes([[
            local co = coroutine.create(function(a) local b = coroutine.yield(a + 1) error({ b }) end)
            local ok, value = coroutine.resume(co, 1)
            assert(ok and value == 2)
            ok, value = coroutine.resume(co, "b")
            assert(not ok and value[1] == "b" and coroutine.status(co) == "dead")
            assert(select(2, coroutine.resume(co)) == "cannot resume dead coroutine")
            local gen = coroutine.wrap(function(...) for i = 1, select("#", ...) do coroutine.yield(i) end end)
            assert(gen("a", "b") == 1 and gen() == 2 and gen() == nil and not pcall(gen))
            assert(not pcall(coroutine.wrap, 1) and not pcall(coroutine.resume, 1))
            local closed
            co = coroutine.create(function()
                local x <close> = setmetatable({}, { __close = function() closed = true end })
                coroutine.yield()
            end)
            coroutine.resume(co)
            assert(coroutine.close(co) and closed)
            -- A yield through xpcall and pcall.
            co = coroutine.wrap(function() return xpcall(function() coroutine.yield(1) error "x" end,
                function(text) return text .. "!" end) end)
            assert(co() == 1)
            ok, value = co()
            assert(ok == false and value:match "x!$")
        ]])
    end)

    it("without a listener is refused", function()
        local result = checks.run("")
        assert.equal(1, result.code)
        assert.equal("moongate.lua: the script has no listener (moongate.listen{...} makes one)", result.last)
    end)

    it("that is not there is refused by name", function()
        local result = bench.run { bench.moongate, "check", "no.lua", cwd = bench.dir }
        assert.equal(1, result.code)
        assert.equal("no.lua: No such file or directory\n", result.err)
    end)

    it("that raises no text is refused all the same", function()
        assert.equal("moongate.lua: the script raised a table value", checks.run("error {}").last)
        assert.equal("moongate.lua: the script raised a nil value", checks.run("error()").last)
    end)
end)
