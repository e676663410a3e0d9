--[[
nginx: a real web server as a backend.

    local web = nginx.start { port =, tls = certs.ec, text = "hello" }
]]

local bench = require "bench"

local nginx = {}
local number = 0
local STREAM = "/usr/lib/nginx/modules/ngx_stream_module.so" -- where it is not built in

-- Options: port, tls (a certificate of certs), http2 (without TLS: to those who know), text, address, more (lines for
-- its server), proxy_protocol (true: it takes headers), stream (the inside of its stream block), ports (that are waited
-- for, too). /tls says what it knows of the connection: "r" or "." for resumed or not, version, server name.
function nginx.start(options)
    number = number + 1
    local dir = bench.path("nginx." .. number)
    bench.must { "mkdir", "-p", dir .. "/logs", dir .. "/html" }
    bench.write(dir .. "/html/index.html", options.text or "hello from nginx\n")
    local port = options.port or bench.port()
    local values = {
        dir = dir,
        listen = (options.address or "127.0.0.1") .. ":" .. port .. (options.tls and " ssl" or "")
            .. (options.http2 and " http2" or "") .. (options.proxy_protocol and " proxy_protocol" or ""),
        module = options.stream and bench.exists(STREAM) and ("load_module %s;"):format(STREAM) or "",
        stream = options.stream and ("stream { %s }"):format(options.stream) or "",
        tls = options.tls and ("ssl_certificate %s; ssl_certificate_key %s;"):format(options.tls.crt, options.tls.key)
            or "",
        user = bench.is_root and "user root;" or "",
        more = options.more or "",
    }
    local config = bench.write(dir .. "/nginx.conf", bench.fill([[
$user $module
daemon off;
master_process off;
pid $dir/nginx.pid;
error_log $dir/error.log;
events { worker_connections 512; }
$stream
http {
    access_log off;
    client_body_temp_path $dir/body; proxy_temp_path $dir/proxy; fastcgi_temp_path $dir/fcgi;
    uwsgi_temp_path $dir/uwsgi; scgi_temp_path $dir/scgi;
    server {
        listen $listen; $tls root $dir/html; $more
        location = /tls { return 200 "$ssl_session_reused $ssl_protocol $ssl_server_name\n"; }
    }
}
]], values))
    local program = bench.start { "nginx", "-p", dir, "-c", config, "-e", dir .. "/error.log" }
    program.port = port
    for _, each in ipairs { port, table.unpack(options.ports or {}) } do
        bench.wait("nginx to listen", function()
            assert(program:alive(), program:errors())
            local client = bench.connect(each, options.address)
            return client and client:close()
        end)
    end
    return program
end

return nginx
