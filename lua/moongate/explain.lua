--- What `moongate explain` does: runs the script as a guest, lets a client of moongate.testing shake hands with a
--- listener in memory, and says what was decided and by which line of the script.

local openssl = require "moongate.openssl"
local script = require "moongate.script"
local testing = require "moongate.testing"

local explain = {}

-- ---- which line ----------------------------------------------------------------------------------

-- SSLContext → attribute or method → "script.lua:12"; the last assignment counts.
local lines = setmetatable({}, { __mode = "k" })

-- SSLContext → PEM of a certificate → how and where it came there.
local certificates = setmetatable({}, { __mode = "k" })

local METHODS = {}
for name in ("add_certificate load_certificate set_params use_profile set_minmax_proto_version " ..
    "add_crl load_crl load_ocsp enable_fallback_scsv"):gmatch("%S+") do
  METHODS[name] = true
end

-- Of the innermost function of a file.
local function current_line()
  local level = 2
  while true do
    local info = debug.getinfo(level, "Sl")
    if not info then
      return nil
    end
    if info.source:sub(1, 1) == "@" and info.currentline > 0 then
      return ("%s:%d"):format(info.short_src, info.currentline)
    end
    level = level + 1
  end
end

local function function_at(callback)
  local info = debug.getinfo(callback, "S")
  return ("%s:%d"):format(info.short_src, info.linedefined)
end

local function note(context, name, value)
  lines[context] = lines[context] or {}
  lines[context][name] = type(value) == "function" and function_at(value) or current_line()
end

-- What cannot be read is the method's own business to complain of.
local function note_certificate(name, context, first)
  local cert, file = first, nil
  if name == "load_certificate" then
    file = first
    cert = openssl.X509.Certificate.load_file(file)[1]
  end
  certificates[context] = certificates[context] or {}
  certificates[context][cert:to_pem()] = { what = name, line = current_line(), file = file }
end

-- From now on assignments to contexts are noted. Tail calls: errors name the script's line, as ever.
local function watch_contexts()
  local metatable = debug.getmetatable(openssl.SSL.SSLContext.new())
  local index, newindex = metatable.__index, metatable.__newindex
  metatable.__newindex = function(context, name, value)
    note(context, name, value)
    return newindex(context, name, value)
  end
  metatable.__index = function(context, name)
    local value = index(context, name)
    if not METHODS[name] then
      return value
    end
    return function(...)
      note(context, name)
      if name == "add_certificate" or name == "load_certificate" then
        pcall(note_certificate, name, ...)
      end
      return value(...)
    end
  end
end

-- "script.lua:12" of "script.lua:12: ".
local function place(text)
  return text and text:match("^(.-):?%s*$")
end

-- Where the context was made.
local function made_at(context)
  return place(debug.getuservalue(context, 1).where)
end

-- The lines in which these attributes were set, or the methods called that may set them.
local function set_at(context, ...)
  local found = {}
  for _, name in ipairs { ... } do
    local line = (lines[context] or {})[name]
    if line then
      found[#found + 1] = { what = name, line = line }
    end
  end
  return found
end

-- ---- the handshake -------------------------------------------------------------------------------

local BUDGET = 50000000 -- instructions of a backend function

-- As documentation has them.
local ADDRESSES = { remote_ip = "192.0.2.1", remote_port = 50000, local_ip = "192.0.2.2", local_port = 443,
  socket_ip = "192.0.2.1", socket_port = 50000, proxy_tlvs = {} }

-- A Conn for a backend function; server: its end, or what is known of a client that is passed through.
local function conn_for(listener, server)
  local fixed = { id = 0, generation = 0, listener = listener.name }
  for name, value in pairs(ADDRESSES) do
    fixed[name] = value
  end
  return setmetatable({}, {
    __index = function(_, name)
      if fixed[name] ~= nil or not server then
        return fixed[name]
      end
      return server[name]
    end,
    __newindex = function() error("Conn is read-only", 2) end,
  })
end

local function ask(callback, argument)
  local thread = coroutine.create(callback)
  debug.sethook(thread, function() error("stopped: it runs too long", 0) end, "", BUDGET)
  return coroutine.resume(thread, argument)
end

local function backend_of(listener, server)
  local where = place(debug.getuservalue(listener, 1)["(where)"])
  local backend = listener.backend
  if type(backend) ~= "function" then
    return { name = backend.name, line = where, fixed = true }
  end
  local line = function_at(backend)
  local ok, answer, reason = ask(backend, conn_for(listener, server))
  if not ok then
    return { line = line, error = tostring(answer) }
  elseif answer == nil then
    return { line = line, refused = tostring(reason or "the backend function returned nil") }
  end
  return { name = type(answer) == "string" and answer or answer.name, line = line }
end

-- ---- before the handshake ------------------------------------------------------------------------

local UNRECOGNIZED_NAME = 112

-- What a ServerNames or a tls function says: the value, by what and which line, of a refusal also reason and alert.
local function by_servernames(names, servername)
  local target, pattern = names:find(servername)
  local set = { { what = ("servernames[%q]"):format(pattern), line = place(debug.getuservalue(names, 1).where) } }
  return target, set, servername and "nothing is served under this name" or "nothing is served without a name",
    UNRECOGNIZED_NAME
end

local function by_function(callback, message)
  local target, reason, alert = script.decide(callback, message, ADDRESSES)
  return target, { { what = "tls", line = function_at(callback) } },
    reason ~= "" and reason or "the tls function returned nil", alert
end

local function choose(tls, message, servername)
  local kind = getmetatable(tls)
  if kind == "SSLContext" then
    return tls, {}
  elseif kind == "ServerNames" then
    return by_servernames(tls, servername)
  end
  return by_function(tls, message)
end

-- The context that servername_cb chose, where it did: the server's end keeps it.
local function chosen_context(server)
  local kept = debug.getuservalue(server, 1)[2]
  return type(kept) == "userdata" and kept or nil
end

-- ---- the handshake, continued --------------------------------------------------------------------

-- Attributes that can be the reason of an alert, by what OpenSSL says.
local CAUSES = {
  { "application protocol", "alpn_select_cb", "alpn_protocols" },
  { "protocol", "min_version", "max_version", "options", "ssl_version", "set_minmax_proto_version" },
  { "version too low", "min_version", "max_version", "options", "ssl_version", "set_minmax_proto_version" },
  { "key share", "groups", "ecdh_curves" },
  { "shared group", "groups", "ecdh_curves" },
  { "signature algorithm", "sigalgs", "add_certificate", "load_certificate" },
  { "shared cipher", "ciphers", "ciphersuites", "groups", "sigalgs", "add_certificate", "load_certificate" },
  { "certificate", "verify_mode", "verify_callback", "ca_file", "ca_path", "cert_store", "client_ca" },
  { "servername_cb", "servername_cb" },
  { "alpn_select_cb", "alpn_select_cb" },
}

local function cause_of(context, reason)
  for _, cause in ipairs(CAUSES) do
    if reason:find(cause[1], 1, true) then
      local names = table.move(cause, 2, #cause, 1, {})
      names[#names + 1] = "set_params"
      names[#names + 1] = "use_profile"
      return set_at(context, table.unpack(names))
    end
  end
  return {}
end

-- Certificate, its file and the line that brought it into the context.
local function certificate_of(context, cert, kind)
  local known = cert and (certificates[context] or {})[cert:to_pem()]
  return { type = kind, subject = cert and cert.subject:to_utf8() or nil, file = known and known.file or nil,
    set = known and { { what = known.what, line = known.line } } or
      set_at(context, "add_certificate", "load_certificate", "cert", "key") }
end

local VERIFY = { [0] = "not asked for", [1] = "asked for", [3] = "required" }

-- What the backend function may ask of a client that is passed through.
local function passed_through(servername)
  return { servername = servername }
end

-- Returns what the backend function is asked with, or nil: it is not.
local function shake(result, listener, client, options)
  local message = script.hello(client, options.sni)
  local servername = script.servername(message)
  local chosen, chosen_by, reason, alert = choose(listener.tls, message, servername)
  if not chosen then
    result.ok = false
    result.alert = { name = script.alert_name(alert), reason = reason, side = "server", set = chosen_by }
    return nil
  elseif getmetatable(chosen) == "Passthrough" then
    result.ok = true
    result.passthrough = { set = chosen_by }
    return passed_through(servername)
  end
  local hs = testing.handshake(chosen, client, { servername = options.sni })
  local context = chosen_context(hs.server) or chosen
  result.ok = hs.ok
  result.context = { name = context.name, line = made_at(context) }
  if context ~= chosen then
    table.move(set_at(chosen, "servername_cb"), 1, 1, #chosen_by + 1, chosen_by)
  end
  if #chosen_by > 0 then
    result.context.chosen_by = chosen_by
  end
  result.client_certificates = { value = VERIFY[context.verify_mode & 3] or "not asked for",
    set = set_at(context, "verify_mode", "set_params", "use_profile") }
  if not hs.ok then
    reason = hs.server_error or hs.client_error or "the handshake failed"
    result.alert = { name = hs.alert, reason = reason, side = hs.server_error and "server" or "client",
      set = cause_of(context, reason) }
    return nil
  end
  result.version = { value = hs.version, set = set_at(context, "min_version", "max_version", "ssl_version",
    "set_minmax_proto_version", "set_params", "use_profile") }
  result.cipher = { value = hs.cipher, set = set_at(context, hs.version == "TLSv1.3" and "ciphersuites" or "ciphers",
    "set_params", "use_profile") }
  result.group = { value = hs.client.group, set = set_at(context, "groups", "ecdh_curves", "use_profile") }
  result.signature = { value = hs.client.peer_sigalg, set = set_at(context, "sigalgs", "use_profile") }
  result.alpn = { value = hs.alpn_protocol, set = set_at(context, "alpn_select_cb", "alpn_protocols") }
  result.certificate = certificate_of(context, hs.client.peer_cert, hs.key_type)
  return hs.server
end

-- ---- JSON ----------------------------------------------------------------------------------------

local ESCAPES = { ['"'] = '\\"', ["\\"] = "\\\\" }

local function json_string(text)
  return '"' .. text:gsub('[%c"\\\127]', function(c)
    return ESCAPES[c] or ("\\u%04x"):format(c:byte())
  end) .. '"'
end

local function json(value)
  if type(value) == "string" then
    return json_string(value)
  elseif type(value) ~= "table" then
    return tostring(value)
  end
  local parts = {}
  if #value > 0 or next(value) == nil then
    for i, entry in ipairs(value) do
      parts[i] = json(entry)
    end
    return "[" .. table.concat(parts, ",") .. "]"
  end
  for name, entry in pairs(value) do
    parts[#parts + 1] = json_string(name) .. ":" .. json(entry)
  end
  table.sort(parts)
  return "{" .. table.concat(parts, ",") .. "}"
end

-- ---- text ----------------------------------------------------------------------------------------

local function printable(text)
  return (tostring(text):gsub("[%c\127]", function(c) return ("\\x%02x"):format(c:byte()) end))
end

local function set_text(set)
  local parts = {}
  for i, one in ipairs(set or {}) do
    parts[i] = ("%s: %s"):format(one.what, one.line)
  end
  return #parts > 0 and table.concat(parts, ", ") or "by default"
end

local function row(out, label, value, why)
  out[#out + 1] = ("  %-20s %s%s"):format(label, printable(value), why and ("  (" .. printable(why) .. ")") or "")
end

local function value_row(out, label, field, none)
  if field then
    row(out, label, field.value or none or "none", set_text(field.set))
  end
end

local function backend_rows(out, backend)
  if backend.error then
    row(out, "backend", "the function failed: " .. backend.error, backend.line)
  elseif backend.refused then
    row(out, "backend", "refused: " .. backend.refused, backend.line)
  else
    row(out, "backend", backend.name, (backend.fixed and "fixed, " or "the function at ") .. backend.line)
  end
end

local function text(result)
  local out = { ("client %s, %s, at listener %s"):format(result.client, result.servername and
    "asking for " .. printable(result.servername) or "without a server name", printable(result.listener.name)) }
  row(out, "listener", result.listener.name, result.listener.line)
  if not result.tls then
    row(out, "TLS", "none: bytes are passed on as they come")
  elseif result.passthrough then
    local name = result.backend and result.backend.name
    row(out, "TLS", name and "passed through to " .. name or "passed through", set_text(result.passthrough.set))
  elseif result.context then
    local chosen = result.context.chosen_by
    row(out, "context", result.context.name or "without a name", ("made in %s%s"):format(result.context.line,
      chosen and "; chosen by " .. set_text(chosen) or ""))
  end
  if result.alert then
    row(out, "refused", result.alert.reason, set_text(result.alert.set))
    row(out, "alert", result.alert.name or "none", "of the " .. result.alert.side)
  end
  if result.certificate then
    local cert = result.certificate
    row(out, "certificate", ("%s %s%s"):format(cert.type, cert.subject, cert.file and " from " .. cert.file or ""),
      set_text(cert.set))
  end
  value_row(out, "version", result.version)
  value_row(out, "cipher suite", result.cipher)
  value_row(out, "group", result.group)
  value_row(out, "signature", result.signature)
  value_row(out, "ALPN", result.alpn)
  value_row(out, "client certificate", result.client_certificates)
  if result.backend then
    backend_rows(out, result.backend)
  end
  return table.concat(out, "\n") .. "\n"
end

-- ---- all of it -----------------------------------------------------------------------------------

local function listener_find(policy, name)
  if policy.listeners[name] then
    return policy.listeners[name]
  end
  local names = {}
  for known in pairs(policy.listeners) do
    names[#names + 1] = ("%q"):format(known)
  end
  table.sort(names)
  error(('no listener "%s" (there are %s)'):format(name, #names > 0 and table.concat(names, ", ") or "none"), 0)
end

local function protocols_of(list)
  local protocols = {}
  for name in list:gmatch("[^,%s]+") do
    protocols[#protocols + 1] = name
  end
  return protocols
end

-- A usage error's text, or nil and the client.
local function client_of(options)
  local ok, make = pcall(function() return testing.clients[options.client] end)
  if not ok then
    return "--client: " .. tostring(make):gsub("^.-testing%.clients%.", "")
  end
  local overrides = options.alpn and { alpn_protocols = protocols_of(options.alpn) } or nil
  local made, client = pcall(make, overrides)
  if not made then
    return "--alpn: " .. tostring(client)
  end
  return nil, client
end

--- options: script, listener, client, and perhaps sni, alpn, json. Writes to stdout; raises what the script or the
--- listener's name is refused for. Returns a usage error's text, or nil.
function explain.run(options)
  local usage, client = client_of(options)
  if usage then
    return usage
  end
  watch_contexts()
  local policy = testing.load(options.script)
  local listener = listener_find(policy, options.listener)
  local result = { client = options.client, servername = options.sni, tls = listener.tls ~= nil,
    listener = { name = listener.name, line = place(debug.getuservalue(listener, 1)["(where)"]) } }
  local server
  if listener.tls then
    server = shake(result, listener, client, options)
  end
  if server or not listener.tls then
    result.backend = backend_of(listener, server)
  end
  io.write(options.json and json(result) .. "\n" or text(result))
  return nil
end

return explain
