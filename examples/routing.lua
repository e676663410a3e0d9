-- One port for everything: TLS ends here or is passed through, who speaks none is served plain, and where they all go
-- is decided by name, protocol, address and client certificate. Refusals have a reason, in log and access record.

local moongate = require "moongate"
local openssl = require "moongate.openssl"

local dir = os.getenv("MOONGATE_QUICKSTART") or "../build/quickstart"

local function backend(name, default)
  return os.getenv(name) or default
end

local web = backend("WEB", "127.0.0.1:8080")
local h2 = backend("H2", "127.0.0.1:8082")
local admin = backend("ADMIN", "127.0.0.1:8083")
local mail = backend("MAIL", "127.0.0.1:9443")
local legacy = backend("LEGACY", "127.0.0.1:8084")

local ctx = openssl.SSL.SSLContext.new()
ctx:load_certificate(dir .. "/ecdsa.pem")
ctx.alpn_protocols = { "h2", "http/1.1" }
ctx.ca_file = dir .. "/ca.crt"
ctx.verify_mode = openssl.SSL.VERIFY_PEER -- asks for a certificate, and serves those without one, too

local internal = { ["127.0.0.2"] = true }

-- After the handshake. A plain connection has no ssl_version, one that is passed through no ssl_version either, but a
-- name and the protocols that its client offers.
local function route(conn)
  if not conn.alpn_protocols then
    if internal[conn.remote_ip] then return legacy end
    return nil, "plain text is for internal clients"
  end
  if conn.servername == "mail.example.com" then
    for _, protocol in ipairs(conn.alpn_protocols) do
      if protocol == "h2" then return nil, "mail does not speak HTTP" end
    end
    return mail
  end
  if conn.servername == "admin.shop.example.com" then
    if not conn.peer_cert then return nil, "the administration wants a client certificate" end
    return admin
  end
  return conn.alpn_protocol == "h2" and h2 or web
end

moongate.listen {
  name = "front",
  address = os.getenv("LISTEN") or "127.0.0.1:8452",
  tls = moongate.servernames {
    ctx,
    ["mail.example.com"] = moongate.PASSTHROUGH,
    none = ctx,
  },
  tls_optional = true,
  backend = route,
  max_connections_per_ip = 1000,
  handshake_rate = { per_second = 2000, per_ip = 100 },
}
