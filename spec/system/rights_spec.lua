-- Started as root, working as nobody: keys that only root can read serve all the same, and no worker could
-- read them again.

local bench = require "bench"
local certs = require "certs"
local process = require "process"
local proxy = require "proxy"

local NO_CAPABILITY = "0000000000000000"
local SECRET = tonumber("600", 8)

if not bench.is_root then
    describe("rights", function()
        pending("need to be started as root")
    end)
    return
end

teardown(proxy.cleanup)

describe("rights", function()
    local web, port
    local nobody = tonumber(bench.must { "id", "-u", "nobody" })

    setup(function()
        port = bench.port()
        for _, name in ipairs { "rsa", "ec", "rsa2", "ec2" } do
            process.chmod(certs[name].key, SECRET)
        end
        web = proxy.start { port = port, settings = 'user = "nobody"', script = [[
moongate.listen { name = "web", address = "127.0.0.1:$port", tls = server(), backend = moongate.echo() }
]] }
    end)
    local function serves(kind)
        local result = bench.exchange({ connect = "127.0.0.1:" .. port, tls = true, cafile = certs.ca.crt,
            servername = "localhost", bytes = 1000,
            sigalgs = kind == "RSA" and "RSA-PSS+SHA256" or "ECDSA+SHA256:RSA-PSS+SHA256" }):finish()
        assert.equal(1000, result.got)
        assert.equal(kind, result.key)
    end

    it("are root's for the keys", function()
        serves("RSA")
        serves("EC")
    end)

    it("are root's at a reload as well", function()
        web:reload([[
local ctx = openssl.SSL.SSLContext.new()
ctx:load_certificate("$rsa2_crt", "$rsa2_key")
moongate.listen { name = "web", address = "127.0.0.1:$port", tls = ctx, backend = moongate.echo() }
]])
        serves("RSA")
    end)

    local function status(pid)
        local fields = {}
        for name, value in bench.read("/proc/" .. pid .. "/status"):gmatch("(%w+):%s*([^\n]*)\n") do
            fields[name] = value
        end
        return fields
    end

    it("are nobody's in the workers, for good", function()
        local workers = web:wait_workers(2)
        for _, pid in ipairs(workers) do
            local fields = status(pid)
            assert.same({ nobody, nobody, nobody, nobody }, (function()
                local ids = {}
                for id in fields.Uid:gmatch("%d+") do
                    ids[#ids + 1] = tonumber(id)
                end
                return ids
            end)())
            assert.is_nil(fields.Gid:match("%f[%d]0%f[%D]"), "still in root's group")
            assert.is_nil(fields.Groups:match("%f[%d]0%f[%D]"), "still in root's supplementary group")
            for _, set in ipairs { "CapInh", "CapPrm", "CapEff", "CapAmb" } do
                assert.equal(NO_CAPABILITY, fields[set], set)
            end
            assert.equal("1", fields.NoNewPrivs)
        end
    end)

    it("do not reach the key file, by path or by descriptor", function()
        local result = bench.run { "cat", certs.rsa.key, user = "nobody" }
        assert.not_equal(0, result.code)
        assert.equal("", result.out)
        for _, pid in ipairs(web:workers()) do
            for _, fd in ipairs(process.list("/proc/" .. pid .. "/fd")) do
                local target = process.readlink("/proc/" .. pid .. "/fd/" .. fd) or ""
                assert.is_nil(target:find(".key", 1, true), target)
            end
        end
    end)

    it("are kept by a worker that takes another's place", function()
        local victim = web:workers()[1]
        process.kill(victim, proxy.signals.KILL)
        local workers = bench.wait("another worker", function()
            local pids = web:workers()
            return #pids == 2 and pids[1] ~= victim and pids[2] ~= victim and pids
        end)
        serves("RSA")
        bench.wait("its rights to go", function()
            return status(workers[1]).CapEff == NO_CAPABILITY and status(workers[2]).CapEff == NO_CAPABILITY
        end)
    end)

    it("may be those of another group alone", function()
        local group = bench.must({ "id", "-gn", "nobody" }):match("%S+")
        local number = bench.must({ "id", "-g", "nobody" }):match("%d+")
        local other = proxy.start { port = bench.port(), workers = 1, settings = ("group = %q"):format(group),
            script = [[moongate.listen { name = "e", address = "127.0.0.1:$port", backend = moongate.echo() }]] }
        local fields = status(other:wait_workers(1)[1])
        assert.equal((number .. "\t"):rep(3) .. number, fields.Gid)
        assert.equal(number, fields.Groups:match("^(.-)%s*$"))
        other:stop()
    end)

    it("do not reach as far as cutting shared memory short", function()
        local found = {}
        for _, fd in ipairs(process.list("/proc/" .. web.pid .. "/fd")) do
            local path = "/proc/" .. web.pid .. "/fd/" .. fd
            local name = (process.readlink(path) or ""):match("^/memfd:moongate%-(%w+)")
            if name == "counters" or name == "current" then
                found[name] = true
                assert.not_equal(0, bench.run({ "truncate", "-s", "0", path }).code)
                assert.not_equal(0, bench.run({ "truncate", "-s", "16M", path }).code)
            end
        end
        assert.same({ counters = true, current = true }, found)
    end)

    it("are not lent to a script that others can write", function()
        local path = bench.path("open.lua")
        bench.write(path, 'require "moongate".listen { address = "127.0.0.1:' .. bench.port() ..
            '", backend = require "moongate".echo() }')
        process.chmod(path, tonumber("666", 8))
        local result = bench.run { bench.moongate, "run", path, "--control", bench.path("open.control") }
        assert.equal(1, result.code)
        assert.matches("open.lua", result.err, 1, true)
        assert.matches("writ", result.err, 1, true)
    end)

    it("are not lent to a script that belongs to somebody else", function()
        local path = bench.path("theirs.lua")
        bench.write(path, 'require "moongate".listen { address = "127.0.0.1:' .. bench.port() ..
            '", backend = require "moongate".echo() }')
        bench.must { "chown", "nobody", path }
        bench.must { "ln", "-s", path, bench.path("link.lua") }
        for _, name in ipairs { path, bench.path("link.lua") } do
            local run = { "run", name, "--control", bench.path("theirs.control") }
            for _, command in ipairs { run, { "check", name } } do
                local result = bench.run { bench.moongate, table.unpack(command) }
                assert.equal(1, result.code)
                assert.matches("belongs to nobody", result.err, 1, true)
                assert.matches("chown root", result.err, 1, true)
            end
        end
        bench.must { "chown", "root", path }
        assert.equal(0, bench.run({ bench.moongate, "check", path }).code)
    end)
end)

describe("without rights", function()
    it("moongate runs as whoever started it", function()
        process.chmod(bench.dir, tonumber("777", 8))
        process.chmod(certs.rsa.key, tonumber("644", 8))
        process.chmod(certs.ec.key, tonumber("644", 8))
        local port = bench.port()
        local web = proxy.start { port = port, as = "nobody", script = [[
moongate.listen { name = "web", address = "127.0.0.1:$port", tls = server(), backend = moongate.echo() }
]] }
        local result = bench.exchange({ connect = "127.0.0.1:" .. port, tls = true, cafile = certs.ca.crt,
            servername = "localhost", bytes = 1000 }):finish()
        assert.equal(1000, result.got)
        assert.equal(2, #web:wait_workers(2))
    end)
end)
