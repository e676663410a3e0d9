-- One port, two services: the protocol that the client and we agreed on by ALPN decides where it goes.

local moongate = require "moongate"
local openssl = require "moongate.openssl"

local dir = os.getenv("MOONGATE_QUICKSTART") or "../build/quickstart"

local ctx = openssl.SSL.SSLContext.new()
ctx.min_version = openssl.SSL.TLS1_2_VERSION
ctx:add_certificate(
  openssl.X509.Certificate.load_file(dir .. "/ecdsa.crt")[1],
  openssl.PKey.load_file(dir .. "/ecdsa.key"),
  openssl.X509.Certificate.load_file(dir .. "/ca.crt"))

local backends = {
  ["acme-tls/1"] = "unix:/run/acme.sock",
  ["h2"] = "127.0.0.1:8082",
  ["http/1.1"] = "127.0.0.1:8081",
}

-- The client's list is in its order of preference; the first protocol that we know wins.
ctx.alpn_select_cb = function(protocols)
  for _, protocol in ipairs(protocols) do
    if backends[protocol] then
      return protocol
    end
  end
end

moongate.listen {
  name = "web",
  address = os.getenv("LISTEN") or "127.0.0.1:8444",
  tls = ctx,
  backend = function(conn)
    return backends[conn.alpn_protocol or "http/1.1"]
  end,
}
