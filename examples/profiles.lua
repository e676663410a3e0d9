-- Mozilla's guideline for server-side TLS, by name: "modern" is TLS 1.3 alone, "intermediate" lets TLS 1.2 with forward
-- secrecy in, too, "old" is for clients that nobody can replace. What each one sets is data in openssl.SSL.PROFILES.

local moongate = require "moongate"
local openssl = require "moongate.openssl"

local dir = os.getenv("MOONGATE_QUICKSTART") or "../build/quickstart"

local function policy(profile)
  local ctx = openssl.SSL.SSLContext.new()
  ctx.name = profile .. " " .. openssl.SSL.PROFILES.version -- in reports: "modern 5.7"
  ctx:use_profile(profile) -- what is assigned after it changes the profile's part only
  ctx:load_certificate(dir .. "/ecdsa.pem")
  ctx:load_certificate(dir .. "/rsa.pem")
  return ctx
end

moongate.listen {
  name = "public",
  address = os.getenv("LISTEN") or "127.0.0.1:8453",
  tls = policy "intermediate",
  backend = "127.0.0.1:8080",
}
moongate.listen {
  name = "machines", -- our own programs, all of them current
  address = "127.0.0.1:8454",
  tls = policy "modern",
  backend = "127.0.0.1:8080",
}
