-- An RSA and an ECDSA certificate side by side in one context: each client is shown the kind that it can verify, ECDSA
-- where it can verify both. A file holds the chain as the CA gave it, and the key.

local moongate = require "moongate"
local openssl = require "moongate.openssl"

local dir = os.getenv("MOONGATE_QUICKSTART") or "../build/quickstart"

local ctx = openssl.SSL.SSLContext.new()
ctx.name = "both kinds"
ctx.min_version = openssl.SSL.TLS1_2_VERSION
ctx:load_certificate(dir .. "/ecdsa.pem")
ctx:load_certificate(dir .. "/rsa.pem")

moongate.listen {
  name = "web",
  address = os.getenv("LISTEN") or "127.0.0.1:8446",
  tls = ctx,
  backend = "127.0.0.1:8080",
}
