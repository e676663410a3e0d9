-- PROXY headers between moongate and real HAProxy and nginx, in both directions.

local bench = require "bench"
local certs = require "certs"
local haproxy = require "haproxy"
local nginx = require "nginx"
local pp2 = require "pp2"
local proxy = require "proxy"

local SCRIPT = [[
local function listen(name, port, more)
    more.name, more.address = name, "127.0.0.1:" .. port
    moongate.listen(more)
end
local function seen(conn)
    return ("%s %s %s %s %s\n"):format(conn.remote_ip, conn.remote_port ~= conn.socket_port, conn.local_ip,
        conn.local_port, conn.socket_ip)
end
listen("plain", $plain, { accept_proxy = true, backend = moongate.reply("plain\n") })
listen("tls", $tls, { accept_proxy = true, backend = moongate.reply("tls\n"), tls = server() })
listen("told", $told, { accept_proxy = true, backend = function(conn)
    local list = {}
    for type, value in pairs(conn.proxy_tlvs) do
        list[#list + 1] = ("%02X=%s"):format(type, value:gsub(".", function(c) return ("%02x"):format(c:byte()) end))
    end
    table.sort(list)
    return nil, seen(conn) .. table.concat(list, " ")
end })

local ctx = server()
ctx.alpn_protocols = { "http/1.1" }
local function to(name, down, up, options, plain)
    options.name, options.address = name, "127.0.0.1:" .. up
    listen(name, down, { backend = moongate.backend(options), tls = not plain and ctx or nil })
end
to("haproxy 1", $ha1, $from, { send_proxy = "v1" })
to("haproxy 2", $ha2, $from, { send_proxy = "v2", proxy_tlvs = { [0xE0] = "x" } })
to("haproxy tls", $hatls, $fromtls, { send_proxy = "v2", tls = client(), servername = "localhost" })
to("nginx 1", $ng1, $http, { send_proxy = "v1" })
-- nginx before 1.23.3 takes headers of at most 107 bytes, and what there is to tell of TLS is more
to("nginx 2", $ng2, $http, { send_proxy = "v2", proxy_tlvs = { [0xE0] = "x" } }, true)
to("nginx stream 1", $ngs1, $stream, { send_proxy = "v1" })
to("nginx stream 2", $ngs2, $stream, { send_proxy = "v2" }, true)
to("nginx tls", $ngtls, $https, { send_proxy = "v2", tls = client(), servername = "localhost" }, true)
to("unspoken", $unspoken, $http, {})
for _, version in ipairs { "v1", "v2" } do
    moongate.listen { name = "unix " .. version, address = "unix:$dir/" .. version,
        backend = moongate.backend { name = "from unix " .. version, address = "127.0.0.1:$from",
            send_proxy = version } }
end
]]

local HAPROXY = [[
frontend v1
    bind 127.0.0.1:$hav1
    default_backend v1
backend v1
    server s 127.0.0.1:$told send-proxy
frontend v2
    bind 127.0.0.1:$hav2
    unique-id-format id-of-%ci
    default_backend v2
backend v2
    server s 127.0.0.1:$told send-proxy-v2 proxy-v2-options crc32c,unique-id
frontend ssl
    bind 127.0.0.1:$hassl ssl crt $dir/both.pem alpn h2,http/1.1 ca-file $ca verify optional
    default_backend ssl
backend ssl
    server s 127.0.0.1:$told send-proxy-v2-ssl-cn proxy-v2-options $known
frontend through
    bind 127.0.0.1:$hathrough
    default_backend through
backend through
    server s 127.0.0.1:$tls send-proxy-v2 check check-send-proxy inter 100ms
frontend v6
    bind [::1]:$hav6
    default_backend v6
backend v6
    server s 127.0.0.1:$told send-proxy-v2

defaults
    mode http
    timeout connect 10s
    timeout client 60s
    timeout server 60s
frontend from
    bind 127.0.0.1:$from accept-proxy
    http-request return status 200 content-type text/plain lf-string "$seen\n"
frontend fromtls
    bind 127.0.0.1:$fromtls accept-proxy ssl crt $dir/both.pem
    http-request return status 200 content-type text/plain lf-string "$seen %[ssl_fc_sni]\n"
]]

local KNOWN = "ssl,cert-cn,ssl-cipher,cert-sig,cert-key,authority,crc32c"
local SEEN = "%[src] %[src_port] %[dst] %[dst_port] %[fc_pp_authority] %[fc_pp_unique_id]"

local PORTS = { "plain", "tls", "told", "ha1", "ha2", "hatls", "ng1", "ng2", "ngs1", "ngs2", "ngtls", "unspoken",
    "from", "fromtls", "http", "https", "stream", "hav1", "hav2", "hassl", "hathrough", "hav6", "ngout", "ngin" }

describe("PROXY headers", function()
    local web
    local ports = { dir = bench.dir, workers = 1, known = KNOWN, seen = SEEN }

    setup(function()
        for _, name in ipairs(PORTS) do
            ports[name] = bench.port(name == "hav6" and "::1" or nil)
        end
        ports.ca = certs.ca.crt
        bench.write("both.pem", bench.read(certs.ec.crt) .. bench.read(certs.ec.key))
        ports.script = SCRIPT
        web = proxy.start(ports)
        haproxy.start { config = HAPROXY, values = ports, ports = { ports.from } }
        local say = [[return "$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr ]]
            .. [[$proxy_protocol_server_port $remote_addr\n"; ]]
        local located = "location = /who { " .. say:gsub("return ", "return 200 ") .. "} "
            .. "set_real_ip_from 127.0.0.1; real_ip_header proxy_protocol;"
        nginx.start { port = ports.http, proxy_protocol = true, more = located, ports = { ports.stream, ports.ngout },
            stream = bench.fill([[
                server { listen 127.0.0.1:$stream proxy_protocol; ]] .. say .. [[ }
                server { listen 127.0.0.1:$ngout; proxy_pass 127.0.0.1:$told; proxy_protocol on; }
                server { listen 127.0.0.1:$ngin proxy_protocol; set_real_ip_from 127.0.0.1;
                    proxy_pass 127.0.0.1:$told; proxy_protocol on; }
            ]], ports) }
        nginx.start { port = ports.https, proxy_protocol = true, tls = certs.ec, more = located }
    end)
    teardown(proxy.cleanup)

    -- The record of one connection to "told" that something makes.
    local function told(make)
        local before = #web:records()
        local function mine(record) return record.listener == "told" end
        make()
        local found
        bench.wait("a record", function()
            for i, record in ipairs(web:records()) do
                found = i > before and mine(record) and record or found
            end
            return found
        end)
        local line, tlvs = found.detail:match("^(.-)\\x0a(.*)$")
        local list = {}
        for type, hex in tlvs:gmatch("(%x%x)=(%x*)") do
            list[tonumber(type, 16)] = hex:gsub("%x%x", function(c) return string.char(tonumber(c, 16)) end)
        end
        return line, list, found
    end

    local function connect(name, host)
        return function()
            bench.run { "socat", "-t5", "-", ("TCP:%s:%d"):format(host or "127.0.0.1", ports[name]), input = "" }
        end
    end

    it("come from HAProxy in version 1", function()
        local line, tlvs, record = told(connect("hav1"))
        assert.equal(("127.0.0.1 true 127.0.0.1 %d 127.0.0.1"):format(ports.hav1), line)
        assert.is_nil(next(tlvs))
        assert.equal("v1", record.proxy)
    end)

    it("come from HAProxy in version 2, with a checksum", function()
        local line, tlvs, record = told(connect("hav2"))
        assert.equal(("127.0.0.1 true 127.0.0.1 %d 127.0.0.1"):format(ports.hav2), line)
        assert.equal(4, #tlvs[3])
        assert.equal("id-of-127.0.0.1", tlvs[5])
        assert.equal("v2", record.proxy)
        line = told(connect("hav6", "[::1]"))
        assert.equal(("::1 true ::1 %d 127.0.0.1"):format(ports.hav6), line)
    end)

    it("come from HAProxy with what it knows of TLS", function()
        local line, tlvs = told(function()
            bench.run { "openssl", "s_client", "-connect", "127.0.0.1:" .. ports.hassl, "-servername", "a.example",
                "-alpn", "h2", "-cert", certs.client.crt, "-key", certs.client.key, input = "Q\n" }
        end)
        assert.equal(("127.0.0.1 true 127.0.0.1 %d 127.0.0.1"):format(ports.hassl), line)
        assert.same({ "h2", "a.example" }, { tlvs[1], tlvs[2] })
        local client, verify = string.unpack(">BI4", tlvs[0x20])
        local ssl = pp2.tlvs(tlvs[0x20]:sub(6))
        assert.same({ 7, 0, "TLSv1.3", "client-1", "TLS_AES_256_GCM_SHA384", "ecdsa-with-SHA256", "EC256" },
            { client, verify, ssl[0x21], ssl[0x22], ssl[0x23], ssl[0x24], ssl[0x25] })
    end)

    it("from HAProxy go before a handshake with us, and its health checks are taken", function()
        local result = bench.run { "openssl", "s_client", "-connect", "127.0.0.1:" .. ports.hathrough, "-CAfile",
            certs.ca.crt, "-quiet", "-ign_eof", input = "hello\n" }
        assert.matches("tls\n$", result.out)
        bench.wait("health check and connection", function()
            local checked, relayed
            for _, record in ipairs(web:records()) do
                checked = checked or record.listener == "tls" and record.proxy_command == "LOCAL"
                relayed = relayed or record.listener == "tls" and record.reason == "relay: done"
                    and record["local"] == "127.0.0.1:" .. ports.hathrough
            end
            return checked and relayed
        end)
    end)

    it("come from curl, before its handshake", function()
        local result = bench.run { "curl", "-sS", "--max-time", "20", "--http0.9", "--haproxy-protocol", "--cacert",
            certs.ca.crt, "--resolve", ("localhost:%d:127.0.0.1"):format(ports.tls), "-w", "%{local_port}",
            ("https://localhost:%d/"):format(ports.tls) }
        local port = result.out:match("^tls\n(%d+)$")
        assert(port, result.out .. result.err)
        bench.wait("its record", function()
            for _, record in ipairs(web:records()) do
                if record.listener == "tls" and record.remote == "127.0.0.1:" .. port then
                    return record.proxy == "v1" and record.socket == record.remote and record.sni == "localhost"
                end
            end
        end)
    end)

    it("come from nginx, of its own clients and of those that it was told of", function()
        local line, _, record = told(connect("ngout"))
        assert.equal(("127.0.0.1 true 127.0.0.1 %d 127.0.0.1"):format(ports.ngout), line)
        assert.equal("v1", record.proxy)
        line = told(function()
            local client = bench.connect(ports.ngin)
            client:send("PROXY TCP4 192.0.2.7 192.0.2.8 1 2\r\n")
            client:receive(1)
            client:close()
        end)
        assert.equal(("192.0.2.7 true 127.0.0.1 %d 127.0.0.1"):format(ports.ngin), line)
    end)

    local function get(name, path, scheme)
        local port
        local result = bench.run { "curl", "-sS", "--max-time", "20", "--cacert", certs.ca.crt, "-w", "%{local_port}",
            ("%s://localhost:%d%s"):format(scheme or "https", ports[name], path or "/"), "--resolve",
            ("localhost:%d:127.0.0.1"):format(ports[name]) }
        assert.equal("", result.err)
        local body
        body, port = result.out:match("^(.-)\n?(%d+)$")
        return body, port
    end

    it("are understood by HAProxy", function()
        local body, port = get("ha1")
        assert.equal(("127.0.0.1 %s 127.0.0.1 %d  "):format(port, ports.ha1), body)
        body, port = get("ha2")
        local id
        body, id = body:match("^(.*) (%x+%-%d+)$")
        assert.equal(("127.0.0.1 %s 127.0.0.1 %d localhost"):format(port, ports.ha2), body)
        assert(id)
        body, port = get("hatls")
        assert.matches(("^127.0.0.1 %s 127.0.0.1 %d localhost %%x+%%-%%d+ localhost$"):format(port, ports.hatls), body)
    end)

    it("are taken by HAProxy when they tell of a client on a unix socket", function()
        for _, version in ipairs { "v1", "v2" } do
            local body = bench.must { "curl", "-sS", "--max-time", "20", "--unix-socket", bench.path(version),
                "http://localhost/" }
            assert.matches("^127.0.0.1 %d+ 127.0.0.1 " .. ports.from, body) -- moongate's own connection
        end
    end)

    it("are understood by nginx", function()
        for name, scheme in pairs { ng1 = "https", ng2 = "http" } do
            local body, port = get(name, "/who", scheme)
            assert.equal(("127.0.0.1 %s 127.0.0.1 %d 127.0.0.1"):format(port, ports[name]), body)
        end
        local function stream(name, ...)
            local result = bench.run { input = "", ... }
            assert.matches(("^127.0.0.1 %%d+ 127.0.0.1 %d 127.0.0.1\n"):format(ports[name]), result.out)
        end
        stream("ngs1", "openssl", "s_client", "-connect", "127.0.0.1:" .. ports.ngs1, "-quiet", "-ign_eof")
        stream("ngs2", "socat", "-t20", "-", "TCP4:127.0.0.1:" .. ports.ngs2)
        local body, port = get("ngtls", "/who", "http")
        assert.equal(("127.0.0.1 %s 127.0.0.1 %d 127.0.0.1"):format(port, ports.ngtls), body)

    end)

    it("are missed by both where none is sent", function()
        local result = bench.run { "curl", "-sS", "--max-time", "20", "--cacert", certs.ca.crt,
            ("https://localhost:%d/"):format(ports.unspoken) }
        assert.not_equal(0, result.code)
        assert.equal("", result.out)
        bench.wait("its record", function()
            for _, record in ipairs(web:records()) do
                if record.listener == "unspoken" then
                    return true
                end
            end
        end)
    end)
end)
