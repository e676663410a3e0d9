-- Which policy a client gets by the name that it asks for (SNI): looked up without calling the script. An exact name
-- wins over a wildcard, and a wildcard stands for one label. The quickstart's certificates are for localhost alone: so
-- `moongate check` warns of the other names.

local moongate = require "moongate"
local openssl = require "moongate.openssl"

local dir = os.getenv("MOONGATE_QUICKSTART") or "../build/quickstart"

local function policy(name, file)
  local ctx = openssl.SSL.SSLContext.new()
  ctx.name = name
  ctx:load_certificate(dir .. "/" .. file)
  return ctx
end

local site = policy("site", "ecdsa.pem")
local shops = policy("shops", "ecdsa.pem")
local machines = policy("machines", "rsa.pem")
machines.min_version = openssl.SSL.TLS1_3_VERSION -- no browser comes here

moongate.listen {
  name = "web",
  address = os.getenv("LISTEN") or "127.0.0.1:8447",
  tls = moongate.servernames {
    site, -- without a key: the names in its certificates
    ["*.shop.example.com"] = shops,
    ["api.example.com"] = machines,
    ["old.shop.example.com"] = false, -- alert unrecognized_name, although the wildcard would match
    none = site, -- clients that ask for no name
    -- no default: whoever asks for another name gets unrecognized_name, too
  },
  backend = function(conn)
    return conn.servername == "api.example.com" and "127.0.0.1:8082" or "127.0.0.1:8081"
  end,
}
