--[[
dns: a name server of our own (dnsmasq), and a world of one process that asks it.

    local server = dns.start { ["api.test"] = { "127.0.0.2", "::1" } }
    server:set { ["api.test"] = { "127.0.0.3" } }
    proxy.start { prefix = server:world(), … }

The world is a mount namespace in which /etc/resolv.conf and /etc/hosts are other files, because libc knows no
other way. That needs root, and a system that lets it: `dns.impossible()` says what is missing, or nil.
]]

local bench = require "bench"
local process = require "process"

local Server = {}
Server.__index = Server

local dns = {}
local number = 0

function dns.impossible()
    if not bench.is_root then
        return "a mount namespace needs root"
    end
    if not bench.exists("/usr/sbin/dnsmasq") then
        return "there is no dnsmasq"
    end
    local tried = bench.run { "unshare", "--mount", "sh", "-c", "mount --bind /etc/hosts /etc/hosts" }
    return tried.code ~= 0 and "no mount namespace here: " .. tried.err or nil
end

local function hosts(names)
    local lines = {}
    for name, addresses in pairs(names) do
        for _, address in ipairs(addresses) do
            lines[#lines + 1] = ("%s %s\n"):format(address, name)
        end
    end
    table.sort(lines)
    return table.concat(lines)
end

-- All names of "test" are its business.
function dns.start(names)
    number = number + 1
    local port = bench.port() -- nobody else's, and so is the address made of it
    local self = setmetatable({
        address = ("127.%d.%d.%d"):format(100 + number, port // 256, port % 256),
        hosts = bench.path(("dns.%d"):format(number)),
        log = bench.path(("dns.%d.log"):format(number)),
    }, Server)
    self:write(names)
    self.program = bench.start {
        "/usr/sbin/dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--user=root",
        "--no-resolv", "--no-hosts", "--addn-hosts=" .. self.hosts, "--local=/test/", "--cache-size=0",
        "--bind-interfaces", "--listen-address=" .. self.address, "--log-queries", "--log-facility=" .. self.log,
    }
    bench.wait("dnsmasq", function()
        assert(self.program:alive(), self.program:errors())
        return bench.read(self.log):find("started", 1, true)
    end)
    return self
end

function Server:write(names)
    local new = bench.write(self.hosts .. ".new", hosts(names))
    assert(os.rename(new, self.hosts))
end

-- From now on, or a moment later, these are the names.
function Server:set(names)
    self:write(names)
    self.program:signal(1)
end

-- How many questions for that name there were.
function Server:queries(name)
    local _, count = bench.read(self.log):gsub("query%[A%] " .. name:gsub("%p", "%%%0"), "")
    return count
end

-- It says nothing any more, and listens on.
function Server:silence()
    process.kill(self.program.pid, 19)
end

function Server:speak()
    process.kill(self.program.pid, 18)
end

-- What to put before a command. `options` are resolv.conf's, `fixed` what its /etc/hosts says.
function Server:world(options, fixed)
    local resolv = bench.write("resolv." .. self.address, ("nameserver %s\noptions %s\n"):format(self.address,
        options or "timeout:1 attempts:1"))
    local file = bench.write("hosts." .. self.address, "127.0.0.1 localhost\n" .. hosts(fixed or {}))
    return { "unshare", "--mount", "--propagation", "private", "sh", "-c",
        'mount --bind "$1" /etc/resolv.conf && mount --bind "$2" /etc/hosts && shift 2 && exec "$@"', "sh",
        resolv, file }
end

return dns
