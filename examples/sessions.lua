-- The script keeps the TLS sessions itself and sees each one come and go: no tickets, no cache of moongate's. The
-- table below belongs to one worker, so there is one; without the callbacks, and the mode, all workers share a cache.

local moongate = require "moongate"
local openssl = require "moongate.openssl"

local dir = os.getenv("MOONGATE_QUICKSTART") or "../build/quickstart"
local SSLContext = openssl.SSL.SSLContext

local ctx = SSLContext.new()
ctx:add_certificate(openssl.X509.Certificate.load_file(dir .. "/ecdsa.crt")[1],
  openssl.PKey.load_file(dir .. "/ecdsa.key"), openssl.X509.Certificate.load_file(dir .. "/ca.crt"))
ctx.options = ctx.options | openssl.SSL.OP_NO_TICKET
ctx.timeout = 3600 -- seconds
ctx.session_cache_mode = SSLContext.SESSION_CACHE_SERVER | SSLContext.SESSION_CACHE_NO_INTERNAL

local kept, order = {}, {}

ctx.session_new_cb = function(conn, session)
  kept[session.id] = session
  order[#order + 1] = session.id
  if #order > 1000 then
    kept[table.remove(order, 1)] = nil
  end
  print("a session for " .. conn.remote_ip)
end

-- A session made under another policy or name is not resumed, whatever this returns.
ctx.session_get_cb = function(conn, id)
  print((kept[id] and "known to us: " or "not known: ") .. conn.remote_ip)
  return kept[id]
end

-- Its connection failed, or its time is over.
ctx.session_remove_cb = function(_, session)
  kept[session.id] = nil
end

moongate.settings { workers = 1 }
moongate.listen {
  name = "sessions",
  address = os.getenv("LISTEN") or "127.0.0.1:8443",
  tls = ctx,
  backend = moongate.reply "Hello again?\n",
}
