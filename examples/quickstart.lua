-- TLS on 127.0.0.1:8443 with an RSA and an ECDSA certificate: each client gets the kind that it can use.
-- Behind it, moongate itself answers. `make run` makes the certificates and starts this.

local moongate = require "moongate"
local openssl = require "moongate.openssl"

local dir = os.getenv("MOONGATE_QUICKSTART") or "../build/quickstart"

local ctx = openssl.SSL.SSLContext.new()
ctx.name = "quickstart"
ctx.min_version = openssl.SSL.TLS1_2_VERSION

local ca = openssl.X509.Certificate.load_file(dir .. "/ca.crt")
for _, kind in ipairs { "rsa", "ecdsa" } do
  local cert = openssl.X509.Certificate.load_file(dir .. "/" .. kind .. ".crt")[1]
  local key = openssl.PKey.load_file(dir .. "/" .. kind .. ".key")
  ctx:add_certificate(cert, key, ca)
end

local text = "Hello from moongate. Change me in examples/quickstart.lua and save.\n"

moongate.listen {
  name = "quickstart",
  address = "127.0.0.1:8443",
  tls = ctx,
  backend = moongate.reply(
    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: "
      .. #text .. "\r\n\r\n" .. text),
}
