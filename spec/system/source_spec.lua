-- Where connections to backends come from.

local bench = require "bench"
local process = require "process"
local proxy = require "proxy"
local socket = require "socket"

teardown(proxy.cleanup)

local networks = bench.is_root and bench.run { "unshare", "--net", "true" }.code == 0 -- namespaces of them

local function ask(client)
    client:send("ping")
    return client:receive(4)
end

-- Its own address of the loopback network.
local function from(address, port)
    local client = socket.tcp4()
    client:settimeout(5)
    assert(client:bind(address, 0))
    return client:connect("127.0.0.1", port) and client
end

-- The one record of that listener after the first `seen`, waited for.
local function record_of(web, listener, seen)
    return bench.wait("a record of " .. listener, function()
        local records = web:records()
        for i = #records, seen + 1, -1 do
            if records[i].listener == listener then
                return records[i]
            end
        end
    end)
end

-- Listeners "to" (the backend) and "from" (which has `source`).
local SCRIPT = [[
moongate.listen { name = "to", address = { "127.0.0.1:$to", "[::1]:$to" }, backend = moongate.echo() }
moongate.listen { name = "from", address = "127.0.0.1:$from",
    backend = moongate.backend { address = $addresses, source = $source, balance = "round_robin" } }
]]

describe("source", function()
    local web, ports

    setup(function()
        ports = { to = bench.port(), from = bench.port() }
        web = proxy.start { workers = 1, to = ports.to, from = ports.from, script = SCRIPT,
            source = "'127.0.0.9'", addresses = "'127.0.0.1:" .. ports.to .. "'" }
    end)

    local function use(source, ...)
        web.options.source = ("%q"):format(source)
        web.options.addresses = ("{ '%s' }"):format(table.concat({ ... }, "', '"))
        web:reload(SCRIPT)
    end

    local function remote_seen(client_address)
        local seen = #web:records()
        local client = from(client_address or "127.0.0.1", ports.from)
        local answer = client and ask(client)
        if client then client:close() end
        local record = record_of(web, "from", seen)
        if answer ~= "ping" then
            return record.reason, record
        end
        return record_of(web, "to", seen).remote:match("^(.*):%d+$"), record
    end

    it("is the address that the backend sees", function()
        assert.equal("127.0.0.9", (remote_seen()))
        use("::1", "[::1]:" .. ports.to)
        assert.equal("[::1]", (remote_seen()))
    end)

    it("of another family makes an address fail, and no other", function()
        use("127.0.0.9", "[::1]:" .. ports.to, "127.0.0.1:" .. ports.to)
        for _ = 1, 2 do
            assert.equal("127.0.0.9", (remote_seen()))
        end
        web.options.addresses = ("'[::1]:%d'"):format(ports.to)
        local refused = web:try_reload(SCRIPT)
        assert.equal(1, refused.code)
        assert.matches("source: 127.0.0.9 is an IPv4 address, and none of the backend's is", refused.err, 1, true)
    end)

    it("that is not of this machine makes the connection fail, and says why", function()
        use("192.0.2.1", "127.0.0.1:" .. ports.to)
        web:wait_log("source: 192.0.2.1: no address of this machine: until it is one, connections fail")
        local reason, record = remote_seen()
        assert.equal("up: source not usable", reason)
        assert.matches("address not available", record.detail, 1, true)
    end)

    it("may be the client's own address", function()
        if not bench.is_root then
            pending("needs CAP_NET_RAW")
            return
        end
        use("client", "127.0.0.1:" .. ports.to)
        assert.equal("127.0.0.77", (remote_seen "127.0.0.77"))
        assert.equal("127.0.0.78", (remote_seen "127.0.0.78"))
    end)
end)

describe("source = \"client\"", function()
    if not bench.is_root then
        pending("needs to be started as root")
        return
    end
    local ports = { to = bench.port(), from = bench.port() }

    local function capabilities(web)
        return bench.read("/proc/" .. web:wait_workers(1)[1] .. "/status"):match("CapEff:%s*(%x+)")
    end

    local function start(options)
        options.workers, options.to, options.from, options.script = 1, ports.to, ports.from, SCRIPT
        options.addresses = "'127.0.0.1:" .. ports.to .. "'"
        return options
    end

    it("leaves workers that are not root CAP_NET_RAW, and nothing else", function()
        local web = proxy.start(start { source = "'client'", settings = "user = 'nobody'" })
        assert.equal("0000000000002000", capabilities(web))
        local seen = #web:records()
        local client = from("127.0.0.77", ports.from)
        assert.equal("ping", ask(client))
        client:close()
        assert.matches("^127%.0%.0%.77:", record_of(web, "to", seen).remote)
        process.kill(web:workers()[1], proxy.signals.KILL) -- so has the next one
        bench.wait("another worker", function()
            local client_again = from("127.0.0.78", ports.from)
            local answer = client_again and ask(client_again)
            if client_again then client_again:close() end
            return answer == "ping"
        end)
        assert.equal("0000000000002000", capabilities(web))
        web:stop()
    end)

    it("is refused by a reload whose workers have given that up", function()
        local web = proxy.start(start { source = "nil", settings = "user = 'nobody'" })
        assert.equal("0000000000000000", capabilities(web))
        web.options.source = "'client'"
        local result = web:try_reload(SCRIPT)
        assert.equal(1, result.code)
        assert.matches('source = "client": operation not permitted: workers need CAP_NET_RAW', result.err, 1, true)
        local client = from("127.0.0.77", ports.from)
        assert.equal("ping", ask(client))
        client:close()
        web:stop()
    end)

    it("is refused at start without that right", function()
        process.chmod(bench.dir, tonumber("777", 8))
        local result = proxy.refused(start { source = "'client'", as = "nobody", log_format = "text" })
        assert.equal(1, result.code)
        assert.matches('source = "client": operation not permitted: workers need CAP_NET_RAW',
            result.log:match("([^\n]*)\n*$"), 1, true)
    end)
end)

describe("a client of another network", function()
    if not networks then
        pending("is who the backend sees: needs network namespaces")
        return
    end

    local function network()
        local holder = bench.start { "unshare", "--net", "sleep", "300" }
        local ours = process.readlink("/proc/self/ns/net")
        bench.wait("a network namespace", function()
            local link = process.readlink(("/proc/%d/ns/net"):format(holder.pid))
            return link and link ~= ours
        end)
        return holder.pid
    end

    local function within(pid, command)
        return table.move(command, 1, #command, 5, { "nsenter", "--target", tostring(pid), "--net" })
    end

    it("is who the backend sees, where its answers come back through us", function()
        local here, clients, backends = network(), network(), network()
        bench.must { "sh", "-e", "-c", [[
at() { pid=$1; shift; nsenter --target "$pid" --net "$@"; }
for pid; do at "$pid" ip link set lo up; done
at $1 ip link add c0 type veth peer name c1
at $1 ip link add b0 type veth peer name b1
at $1 ip link set c1 netns $2
at $1 ip link set b1 netns $3
at $1 ip addr add 10.91.0.1/24 dev c0
at $1 ip addr add 10.92.0.1/24 dev b0
at $2 ip addr add 10.91.0.2/24 dev c1
at $3 ip addr add 10.92.0.2/24 dev b1
at $1 ip link set c0 up
at $1 ip link set b0 up
at $2 ip link set c1 up
at $3 ip link set b1 up
at $3 ip route add default via 10.92.0.1
at $1 ip rule add iif b0 lookup 100
at $1 ip route add local default dev lo table 100
]], "sh", tostring(here), tostring(clients), tostring(backends) }
        local backend = proxy.start { workers = 1, prefix = within(backends, {}), script = [[
moongate.listen { name = "to", address = "10.92.0.2:80", backend = moongate.echo() }
]] }
        local web = proxy.start { workers = 1, prefix = within(here, {}), settings = "user = 'nobody'", script = [[
moongate.listen { name = "from", address = "10.91.0.1:80",
    backend = moongate.backend { address = "10.92.0.2:80", source = "client" } }
]] }
        local command = within(clients, { "socat", "-t", "10", "-", "TCP:10.91.0.1:80" })
        command.input = "hello"
        assert.equal("hello", bench.run(command).out)
        assert.matches("^10%.91%.0%.2:", backend:record(1).remote)
        web:stop()
        backend:stop()
    end)
end)
