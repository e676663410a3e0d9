--- Tests of TLS policies: handshakes in memory, clients of many kinds, certificates made on the spot, and scripts run
--- as moongate's loader runs them. Works under `moongate test` and under busted with a stock lua5.4.

local openssl = require "moongate.openssl"

local SSL, X509, PKey = openssl.SSL, openssl.X509, openssl.PKey

local testing = { clients = {} }

-- ---- options -------------------------------------------------------------------------------------

-- Every name in `options` must be one of `known` (in the order in which an error lists them).
local function check(what, options, known)
  if type(options) ~= "table" then
    error(("testing.%s: expected a table of options, got %s"):format(what, type(options)), 3)
  end
  for name in pairs(options) do
    local found = false
    for _, other in ipairs(known) do
      found = found or name == other
    end
    if not found then
      error(("testing.%s: unknown option %q (there are %s)"):format(what, tostring(name), table.concat(known, ", ")), 3)
    end
  end
end

-- ---- certificates --------------------------------------------------------------------------------

local DAY = 86400

local key_makers = {
  EC = function() return PKey.EC.generate("prime256v1") end,
  RSA = function() return PKey.RSA.generate(2048) end,
  ED25519 = function() return PKey.generate_key("ED25519") end,
  ED448 = function() return PKey.generate_key("ED448") end,
}

local function key_of(what, key)
  if type(key) == "userdata" then
    return key
  end
  local make = key_makers[key or "EC"]
  if not make then
    error(("testing.%s: key: expected EC, RSA, ED25519, ED448 or a PKey, got %s"):format(what, tostring(key)), 4)
  end
  return make()
end

-- "DNS:a.example,IP:127.0.0.1" for a list of names and addresses.
local function alternative_names(names)
  local entries = {}
  for i, name in ipairs(names) do
    local is_ip = name:find(":", 1, true) or name:match("^%d+%.%d+%.%d+%.%d+$")
    entries[i] = (is_ip and "IP:" or "DNS:") .. name
  end
  return table.concat(entries, ",")
end

-- The certificates that a peer needs besides a root of its own: those of the CAs from `ca` up, without the root.
local function chain_above(ca)
  local chain = {}
  while ca and ca.ca do
    chain[#chain + 1] = ca.cert
    ca = ca.ca
  end
  return chain
end

-- Signs a certificate; `extensions` is a list of { name, text, critical }.
local function issue(what, options, subject, extensions)
  local key, issuer = key_of(what, options.key), options.ca
  local cert, now = X509.Certificate.new(), os.time()
  cert.version = 2
  cert.serial = ("%015X"):format(math.random(1, (1 << 59)))
  cert.subject = X509.Name.new { { "CN", subject } }
  cert.issuer = issuer and issuer.cert.subject or cert.subject
  cert.not_after = now + (options.days or 30) * DAY
  cert.not_before = math.min(now - 3600, cert.not_after - DAY)
  cert.public_key = key
  local factory = X509.ExtensionFactory.new(issuer and issuer.cert or cert, cert)
  for _, extension in ipairs(extensions) do
    cert:add_extension(factory:create_extension(table.unpack(extension)))
  end
  local signer = issuer and issuer.key or key
  cert:sign(signer, signer.type:match("^ED") == nil and "SHA256" or nil)
  local made = { cert = cert, key = key, ca = issuer, chain = chain_above(issuer), key_pem = key:private_to_pem() }
  made.pem = cert:to_pem()
  for _, link in ipairs(made.chain) do
    made.pem = made.pem .. link:to_pem()
  end
  return made
end

-- A Store that trusts this CA alone.
local function ca_store(self)
  return X509.Store.new():add_cert(self.cert)
end

function testing.ca(options)
  options = options or {}
  check("ca", options, { "name", "key", "ca", "days" })
  local made = issue("ca", options, options.name or (options.ca and "Test intermediate CA" or "Test CA"), {
    { "basicConstraints", "CA:TRUE", true },
    { "keyUsage", "keyCertSign,cRLSign", true },
    { "subjectKeyIdentifier", "hash" },
  })
  made.store = ca_store
  return made
end

function testing.certificate(options)
  options = options or {}
  check("certificate", options, { "names", "subject", "key", "ca", "days", "usage" })
  local names = options.names or { "localhost", "127.0.0.1", "::1" }
  if type(names) == "string" then
    names = { names }
  end
  local extensions = {
    { "basicConstraints", "CA:FALSE", true },
    { "subjectKeyIdentifier", "hash" },
    { "extendedKeyUsage", options.usage or "serverAuth,clientAuth" },
  }
  if #names > 0 then
    extensions[#extensions + 1] = { "subjectAltName", alternative_names(names) }
  end
  return issue("certificate", options, options.subject or names[1] or "test", extensions)
end

-- ---- clients -------------------------------------------------------------------------------------

local FORWARD_SECRET = "ECDHE+AESGCM:ECDHE+CHACHA20"
local RSA_SIGNATURES = "RSA-PSS+SHA256:RSA-PSS+SHA384:RSA-PSS+SHA512:RSA+SHA256:RSA+SHA384:RSA+SHA512"
local ECDSA_SIGNATURES = "ECDSA+SHA256:ECDSA+SHA384:ECDSA+SHA512"

-- Each client says what differs from a new SSLContext that verifies nothing. `profile` is one of SSL.PROFILES,
-- applied first.
local clients = {
  permissive = { min_version = "TLS1", ciphers = "ALL:@SECLEVEL=0" },
  modern = { profile = "modern" },
  intermediate = { profile = "intermediate" },
  old = { profile = "old", max_version = "TLS1_2" },
  browser = { min_version = "TLS1_2", ciphers = FORWARD_SECRET, groups = "X25519:P-256:P-384",
    sigalgs = ECDSA_SIGNATURES .. ":" .. RSA_SIGNATURES, alpn_protocols = { "h2", "http/1.1" } },
  rsa_only = { min_version = "TLS1_2", sigalgs = RSA_SIGNATURES, ciphers = "aRSA" },
  ecdsa_only = { min_version = "TLS1_2", sigalgs = ECDSA_SIGNATURES, ciphers = "aECDSA" },
  ed25519_only = { min_version = "TLS1_2", sigalgs = "ed25519", ciphers = "aECDSA" },
  tls10 = { min_version = "TLS1", max_version = "TLS1", ciphers = "ALL:@SECLEVEL=0" },
  tls11 = { min_version = "TLS1_1", max_version = "TLS1_1", ciphers = "ALL:@SECLEVEL=0" },
  tls12 = { min_version = "TLS1_2", max_version = "TLS1_2" },
  tls13 = { min_version = "TLS1_3", max_version = "TLS1_3" },
  cbc = { min_version = "TLS1_2", max_version = "TLS1_2", ciphers = "AES128-SHA:ECDHE+AES:!AESGCM:!AESCCM" },
}

local function trust(ctx, ca)
  ctx.cert_store = ca:store()
  ctx.verify_mode = SSL.VERIFY_PEER
  ctx.verify_hostname = true
end

local function apply(ctx, attributes)
  for name, value in pairs(attributes) do
    if name == "ca" then
      trust(ctx, value)
    elseif name == "certificate" then
      ctx:add_certificate(value.cert, value.key, value.chain)
    elseif name ~= "profile" then
      ctx[name] = value
    end
  end
end

for name, attributes in pairs(clients) do
  testing.clients[name] = function(overrides)
    local ctx = SSL.SSLContext.new()
    ctx.name = "client " .. name
    if attributes.profile then
      ctx:use_profile(attributes.profile)
    end
    apply(ctx, attributes)
    apply(ctx, overrides or {})
    return ctx
  end
end

local function client_unknown(_, name)
  local names = {}
  for known in pairs(clients) do
    names[#names + 1] = known
  end
  table.sort(names)
  error(("testing.clients.%s: no such client (there are %s)"):format(tostring(name), table.concat(names, ", ")), 2)
end

setmetatable(testing.clients, { __index = client_unknown })

-- ---- handshakes ----------------------------------------------------------------------------------

local UNRECOGNIZED_NAME = 112

-- Where a tls function sees the client: as documentation has addresses.
local ADDRESSES = { remote_ip = "192.0.2.1", remote_port = 50000, local_ip = "192.0.2.2", local_port = 443,
  socket_ip = "192.0.2.1", socket_port = 50000, proxy_tlvs = {} }

-- What a ServerNames or a tls function says to a ClientHello: a context or PASSTHROUGH, or nil, reason, alert.
local function decide(tls, message, servername)
  local target, reason, alert
  if getmetatable(tls) == "ServerNames" then
    target = tls:find(servername)
  else
    target, reason, alert = require("moongate.script").decide(tls, message, ADDRESSES)
  end
  if target then
    return target
  elseif not reason or reason == "" then
    reason = servername and "nothing is served under this name" or "nothing is served without a name"
  end
  return nil, reason, alert or UNRECOGNIZED_NAME
end

-- As on a listener: the ClientHello decides, and then the whole policy of what was decided applies.
local function decided_handshake(tls, client, options)
  local passed
  local function on_hello(message)
    local servername = require("moongate.script").servername(message)
    local target, reason, alert = decide(tls, message, servername)
    if getmetatable(target) ~= "Passthrough" then
      return target, reason, alert
    end
    passed = { servername = servername, alpn_protocols = require("moongate.script").alpn_protocols(message) }
    return nil, "passed through: the bytes go to the backend as they came"
  end
  local hs = openssl.handshake(on_hello, client, options)
  if passed then
    hs.passthrough, hs.server = true, passed
  end
  return hs
end

function testing.handshake(server, client, options)
  if client == nil then
    client = testing.clients.permissive
  end
  if type(client) == "function" then
    client = client()
  end
  if type(server) == "function" or getmetatable(server) == "ServerNames" then
    return decided_handshake(server, client, options)
  end
  return openssl.handshake(server, client, options)
end

-- ---- scripts -------------------------------------------------------------------------------------

local function lines(text)
  local list = {}
  for line in text:gmatch("[^\n]+") do
    list[#list + 1] = line
  end
  return list
end

-- A ServerNames or a function has no name of its own.
local function is_context(value)
  return getmetatable(value) == "SSLContext"
end

-- A directory that has one of the files has nothing else: it → the names in it, in order, as the world records them.
local function listings(files)
  local directories = {}
  for path in pairs(files) do
    local directory = path:sub(1, 1) == "/" and "/" or "."
    for name in path:gmatch("[^/]+") do
      if name ~= "." then
        directories[directory] = directories[directory] or {}
        directories[directory][name] = true
        directory = directory .. "/" .. name
      end
    end
  end
  local texts = {}
  for directory, names in pairs(directories) do
    local sorted = {}
    for name in pairs(names) do
      sorted[#sorted + 1] = name .. "\0"
    end
    table.sort(sorted)
    texts[directory] = table.concat(sorted)
  end
  return texts
end

-- name → object, and into contexts name → its SSLContext; the first of a name stays.
local function by_name(list, contexts)
  local named = {}
  for _, object in ipairs(list) do
    named[object.name] = named[object.name] or object
    if is_context(object.tls) then
      contexts[object.name] = contexts[object.name] or object.tls
    end
  end
  return named
end

local function check_texts(name, texts)
  if type(texts) ~= "table" then
    error(("testing.load: %s: expected a table from name to text, got %s"):format(name, type(texts)), 3)
  end
  for key, text in pairs(texts) do
    if type(key) ~= "string" or type(text) ~= "string" then
      error(("testing.load: %s: expected a table from name to text"):format(name), 3)
    end
  end
end

function testing.load(path, options)
  if type(path) ~= "string" then
    error(("testing.load: expected the path of a script, got %s"):format(type(path)), 2)
  end
  options = options or {}
  check("load", options, { "files", "env" })
  local files, env = options.files or {}, options.env or {}
  check_texts("files", files)
  check_texts("env", env)
  local ok, listeners, backends, made, warnings = pcall(require("moongate.script").load, path, files, env,
    listings(files))
  if not ok then
    error(listeners, 0) -- the text that `moongate check` ends with
  end
  local contexts = {}
  local function add(ctx)
    if is_context(ctx) and ctx.name then
      contexts[ctx.name] = contexts[ctx.name] or ctx
    end
  end
  for _, list in ipairs { listeners, backends } do
    for _, object in ipairs(list) do
      add(object.tls)
    end
  end
  for ctx in pairs(made) do
    add(ctx)
  end
  return { listeners = by_name(listeners, contexts), backends = by_name(backends, contexts), contexts = contexts,
    warnings = lines(warnings) }
end

return testing
