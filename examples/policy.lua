-- A policy with a spec of its own, policy_spec.lua: forward secrecy or nothing, client certificates asked for but not
-- required, and a door that opens only to those who show one. `moongate test examples` runs the spec.

local moongate = require "moongate"
local openssl = require "moongate.openssl"

local dir = os.getenv("MOONGATE_QUICKSTART") or "../build/quickstart"

local ctx = openssl.SSL.SSLContext.new()
ctx.name = "api"
ctx:use_profile("intermediate")
ctx:load_certificate(dir .. "/rsa.crt", dir .. "/rsa.key")
ctx:load_certificate(dir .. "/ecdsa.crt", dir .. "/ecdsa.key")
ctx.alpn_protocols = { "h2", "http/1.1" }
ctx.ca_file = dir .. "/ca.crt"
ctx.verify_mode = openssl.SSL.VERIFY_PEER -- who shows a certificate must have one of ours

moongate.listen {
  name = "api",
  address = os.getenv("LISTEN") or "127.0.0.1:8445",
  tls = ctx,
  backend = function(conn)
    if conn.peer_cert then
      return "127.0.0.1:9000" -- operators
    end
    return conn.alpn_protocol == "h2" and "127.0.0.1:8082" or "127.0.0.1:8081"
  end,
}
