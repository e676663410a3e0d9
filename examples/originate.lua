-- Plain TCP in, verified TLS out: for programs that cannot speak TLS. The CA is pinned: certificates of this one are
-- believed, of no other, and only for the name that is asked for.

local moongate = require "moongate"
local openssl = require "moongate.openssl"

local dir = os.getenv("MOONGATE_QUICKSTART") or "../build/quickstart"

local ctx = openssl.SSL.SSLContext.new()
ctx.min_version = openssl.SSL.TLS1_2_VERSION
ctx.verify_mode = openssl.SSL.VERIFY_PEER
ctx.verify_hostname = true
ctx.ca_file = dir .. "/ca.crt"

moongate.listen {
  name = "plain",
  address = os.getenv("LISTEN") or "127.0.0.1:8080",
  backend = moongate.backend {
    address = os.getenv("BACKEND") or "127.0.0.1:8443",
    tls = ctx,
    servername = "localhost",
  },
}
