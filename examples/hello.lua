-- A policy chosen for each client by what it offers, before the handshake: current ones get TLS 1.3 alone, the rest
-- what they need, and a tool that nobody wants is sent away by its fingerprint.

local moongate = require "moongate"
local openssl = require "moongate.openssl"

local dir = os.getenv("MOONGATE_QUICKSTART") or "../build/quickstart"
local UNWANTED = os.getenv("UNWANTED") or "t13d190900_9dc949149365_97f8aa674fd9"
local ACCESS_DENIED = 49 -- the alert's number

local function policy(profile, file)
  local ctx = openssl.SSL.SSLContext.new()
  ctx.name = profile
  ctx:use_profile(profile)
  ctx:load_certificate(dir .. "/" .. file)
  return ctx
end

local modern, intermediate = policy("modern", "ecdsa.pem"), policy("intermediate", "rsa.pem")

moongate.listen {
  name = "web",
  address = os.getenv("LISTEN") or "127.0.0.1:8450",
  tls = function(hello)
    if hello.ja4 == UNWANTED then
      return nil, "unwanted client from " .. hello.remote_ip, ACCESS_DENIED
    end
    if hello.versions[1] == "TLSv1.3" and hello.supports_ecdsa then
      return modern
    end
    return intermediate
  end,
  backend = "127.0.0.1:8080",
}
