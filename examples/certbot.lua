-- All that certbot keeps, in one line: every certificate answers for its own names, RSA and ECDSA ones for the same
-- names share a context. `moongate run --watch` takes a renewed certificate as soon as it is there.

local moongate = require "moongate"

local live = os.getenv("LIVE") or "/etc/letsencrypt/live"

local list = moongate.certificates(live .. "/*/fullchain.pem", function(ctx)
  ctx:use_profile("intermediate")
  ctx.alpn_protocols = { "http/1.1" }
end)
list.none = list[1] -- for clients that ask for no name

moongate.listen {
  name = "web",
  address = os.getenv("LISTEN") or "127.0.0.1:8448",
  tls = moongate.servernames(list),
  backend = "127.0.0.1:8080",
}
