-- Termination and passthrough behind one address: what is ours ends here, what others encrypt for themselves goes on to
-- them byte for byte, ClientHello included. They see the certificates and the policy of their own server.

local moongate = require "moongate"
local openssl = require "moongate.openssl"

local dir = os.getenv("MOONGATE_QUICKSTART") or "../build/quickstart"

local ours = openssl.SSL.SSLContext.new()
ours:load_certificate(dir .. "/ecdsa.pem")

local theirs = {
  ["mail.example.com"] = "127.0.0.1:9443",
  ["git.example.com"] = "127.0.0.1:9444",
}

local names = { ours }
for name in pairs(theirs) do
  names[name] = moongate.PASSTHROUGH
end

moongate.listen {
  name = "web",
  address = os.getenv("LISTEN") or "127.0.0.1:8449",
  tls = moongate.servernames(names),
  -- It runs after the ClientHello. Of a connection that is passed through it knows the name and the addresses.
  backend = function(conn)
    return theirs[conn.servername] or "127.0.0.1:8080"
  end,
}
