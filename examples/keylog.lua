-- What Wireshark needs to read a capture: the secrets of each connection, in the log, since a script writes no files.
--
--   grep -oE '[A-Z]+_[A-Z0-9_]+( [0-9a-f]+){2}$' moongate.log > keys.txt     (of a log in text form)
--   wireshark -o tls.keylog_file:keys.txt capture.pcapng
--
-- Whoever has these lines can read what they belong to. Hence those of one client only, and none without SECRETS_OF.

local moongate = require "moongate"
local openssl = require "moongate.openssl"

local dir = os.getenv("MOONGATE_QUICKSTART") or "../build/quickstart"
local client = os.getenv("SECRETS_OF") -- the address of the client that is looked into

local ctx = openssl.SSL.SSLContext.new()
ctx:load_certificate(dir .. "/ecdsa.pem")
ctx:load_certificate(dir .. "/rsa.pem")

if client then
  ctx.keylog_cb = function(conn, line)
    if conn.remote_ip == client then
      print(line)
    end
  end
end

moongate.listen {
  name = "web",
  address = os.getenv("LISTEN") or "127.0.0.1:8455",
  tls = ctx,
  backend = "127.0.0.1:8080",
}
