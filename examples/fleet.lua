-- Several machines behind one name: whichever a client meets, its ticket is good, because all derive the keys of
-- tickets from one secret and the clock. To change the secret, give every machine { new, old } first.

local moongate = require "moongate"
local openssl = require "moongate.openssl"

local dir = os.getenv("MOONGATE_QUICKSTART") or "../build/quickstart"

-- 32 bytes or more, the same on every machine: head -c 48 /dev/urandom > ticket.secret
-- (or moongate.command{ "vault", … }). Without the file this machine draws one of its own.
local function secret(name)
  local file = io.open(dir .. "/" .. name, "rb")
  local bytes = file and file:read("a")
  if file then
    file:close()
  end
  return bytes
end

local current, previous = secret("ticket.secret"), secret("ticket.secret.old")

local ctx = openssl.SSL.SSLContext.new()
for _, kind in ipairs { "rsa", "ecdsa" } do
  ctx:add_certificate(openssl.X509.Certificate.load_file(dir .. "/" .. kind .. ".crt")[1],
    openssl.PKey.load_file(dir .. "/" .. kind .. ".key"), openssl.X509.Certificate.load_file(dir .. "/ca.crt"))
end
ctx:use_profile "intermediate"

moongate.settings {
  ticket_secret = current and previous and { current, previous } or current,
  ticket_rotation = 3600, -- a ticket is good for the rest of this hour and the next one
}
moongate.listen {
  name = "web", -- the same on every machine: sessions belong to a listener
  address = os.getenv("LISTEN") or "127.0.0.1:8443",
  tls = ctx,
  backend = moongate.reply "Hello from one of many\n",
}
