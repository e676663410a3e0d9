-- run --watch: what the script reads changes, and moongate follows – but never a pair that is half written.

local bench = require "bench"
local certs = require "certs"
local process = require "process"
local proxy = require "proxy"

local SECONDS = 15 -- comparing every 5 s is the truth, events only hasten it

describe("--watch", function()
    local web, port, plain

    local function copy(from, to)
        bench.write(to, bench.read(from))
    end

    setup(function()
        port, plain = bench.port(), bench.port()
        bench.must { "mkdir", bench.path("live"), bench.path("mount"), bench.path("mount/v1"),
            bench.path("mount/v2") }
        copy(certs.ec.crt, bench.path("live/tls.crt"))
        copy(certs.ec.key, bench.path("live/tls.key"))
        bench.write("mount/v1/answer", "mounted one")
        bench.write("mount/v2/answer", "mounted two")
        process.symlink("v1", bench.path("mount/..data"))
        process.symlink("..data/answer", bench.path("mount/answer"))
        web = proxy.start { port = port, plain = plain, answer = "one", arguments = { "--watch" }, script = [[
local ctx = openssl.SSL.SSLContext.new()
ctx:load_certificate("$dir/live/tls.crt", "$dir/live/tls.key")
local file = assert(io.open("$dir/mount/answer"))
local mounted = file:read("a")
file:close()
moongate.listen { name = "web", address = "127.0.0.1:$port", tls = ctx, backend = moongate.reply(mounted) }
moongate.listen { name = "plain", address = "127.0.0.1:$plain", backend = moongate.reply("$answer") }
]] }
    end)
    teardown(proxy.cleanup)

    local function answer()
        local client = bench.connect(plain)
        client:send("x")
        local text = client:receive("*a")
        client:close()
        return text
    end

    local function served()
        return bench.exchange({ connect = "127.0.0.1:" .. port, tls = true, cafile = certs.ca.crt,
            servername = "localhost", bytes = 1 }):finish()
    end

    local function becomes(text)
        bench.wait("the answer " .. text, function() return answer() == text end, SECONDS)
    end

    it("sees a script that is written in place", function()
        assert.equal("one", answer())
        web.options.answer = "two"
        web:write_script()
        becomes("two")
    end)

    it("sees a script that another is renamed over", function()
        local text = bench.read(web.script):gsub('reply%("two"%)', 'reply("three")')
        os.rename(bench.write("new.lua", text), web.script)
        becomes("three")
    end)

    it("keeps what serves while the script is wrong, and takes it once it is right", function()
        local text = bench.read(web.script)
        bench.write(web.script, "this is no Lua")
        web:wait_log("moongate.1.lua:1", SECONDS)
        assert.equal("three", answer())
        bench.write(web.script, (text:gsub('reply%("three"%)', 'reply("four")')))
        becomes("four")
    end)

    it("follows a symlink that is swapped, as for mounted secrets", function()
        assert.equal(#"mounted one", served().got)
        process.symlink("v2", bench.path("mount/..tmp"))
        os.rename(bench.path("mount/..tmp"), bench.path("mount/..data"))
        local before = web:status().generation
        bench.wait("another generation", function() return web:status().generation > before end, SECONDS)
        local client = bench.run { "openssl", "s_client", "-quiet", "-connect", "127.0.0.1:" .. port, input = "x" }
        assert.matches("mounted two", client.out, 1, true)
    end)

    it("serves the old pair until both halves of the new one are there", function()
        assert.equal("EC", served().key)
        local before = web:status().generation
        copy(certs.rsa.crt, bench.path("live/tls.crt"))
        web:wait_log("mismatch", SECONDS)
        assert.equal("EC", served().key)
        assert.equal(before, web:status().generation)
        copy(certs.rsa.key, bench.path("live/tls.key"))
        bench.wait("the new pair", function() return served().key == "RSA" end, SECONDS)
    end)

    it("follows the script itself when it is a symlink that is swapped", function()
        local dir = bench.path("linked")
        bench.must { "mkdir", dir }
        local linked_port = bench.port()
        for _, name in ipairs { "one", "two" } do
            bench.write("linked/" .. name .. ".lua", ([[
local moongate = require "moongate"
moongate.listen { address = "127.0.0.1:%d", backend = moongate.reply("linked %s") }
]]):format(linked_port, name))
        end
        process.symlink("one.lua", dir .. "/current.lua")
        local linked = proxy.start { script_path = dir .. "/current.lua", arguments = { "--watch" } }
        local function linked_answer()
            local client = bench.connect(linked_port)
            client:send("x")
            local text = client:receive("*a")
            client:close()
            return text
        end
        assert.equal("linked one", linked_answer())
        process.symlink("two.lua", dir .. "/next.lua")
        os.rename(dir .. "/next.lua", dir .. "/current.lua")
        bench.wait("the other script", function() return linked_answer() == "linked two" end, SECONDS)
        linked:stop()
    end)
end)
