-- Between a load balancer and servers that want to know who is there: the balancer's PROXY header says who the client
-- is, and the servers get one from us, with what we know of its TLS.

local moongate = require "moongate"
local openssl = require "moongate.openssl"

local dir = os.getenv("MOONGATE_QUICKSTART") or "../build/quickstart"

local ctx = openssl.SSL.SSLContext.new()
ctx:load_certificate(dir .. "/ecdsa.pem")

-- HAProxy: bind :9080 accept-proxy. nginx: listen 9080 proxy_protocol; (before 1.23.3: send_proxy = "v1")
local servers = moongate.backend {
  address = "127.0.0.1:9080",
  send_proxy = "v2",
  proxy_tlvs = {
    [0xE0] = "moongate",
    [0xE1] = function(conn) return conn.session_reused and "resumed" or nil end, -- nil: not for this connection
  },
}

moongate.listen {
  name = "web",
  address = os.getenv("LISTEN") or "127.0.0.1:8451",
  tls = ctx,
  -- Who comes from there has to send a header, and is believed; everybody else is served directly.
  accept_proxy = { "127.0.0.2", "10.0.0.0/8" },
  backend = function(conn)
    if conn.remote_ip == "192.0.2.66" then return nil, "not welcome" end
    return servers
  end,
}
