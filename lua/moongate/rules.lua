--- moongate.rules: who a peer may be, said by its certificate. A rule is a function of a Certificate that gives true or
--- false; without a certificate it is false. What a rule compares is checked when it is made, so that a pattern which
--- could never match is an error with the script's line.

local openssl = require "moongate.openssl"

local V_ERR_APPLICATION_VERIFICATION = openssl.X509.V_ERR_APPLICATION_VERIFICATION

local rules = {}

-- ---- how rules are made --------------------------------------------------------------------------

-- Of the caller of rules.<what>.
local function fail(what, text, ...)
  error(("rules.%s: " .. text):format(what, ...), 4)
end

-- The arguments, each a string, as read() gives them: nil and a reason is an error.
local function values_of(what, read, ...)
  local values = table.pack(...)
  if values.n == 0 then
    fail(what, "expected strings")
  end
  for i = 1, values.n do
    local value = values[i]
    if type(value) ~= "string" then
      fail(what, "argument %d: expected a string, got %s", i, type(value))
    end
    local result, reason = read(value)
    if not result then
      fail(what, "%q: %s", value, reason)
    end
    values[i] = result
  end
  return values
end

local function as_it_is(text)
  if text == "" then
    return nil, "is empty"
  end
  return text
end

local function set_of(values)
  local set = {}
  for _, value in ipairs(values) do
    set[value] = true
  end
  return set
end

local function any_of(values, fits)
  for _, value in ipairs(values) do
    if fits(value) then
      return true
    end
  end
  return false
end

-- A rule: one of the names of the certificate is in the set.
local function contains(set, names_of)
  return function(cert)
    return cert ~= nil and any_of(names_of(cert), function(name)
      return set[name]
    end)
  end
end

-- ---- the subject ---------------------------------------------------------------------------------

--- One CN, and it is one of these. A subject with two has none that could be relied on.
function rules.cn(...)
  local set = set_of(values_of("cn", as_it_is, ...))
  return function(cert)
    local name = cert and cert.subject:get "CN"
    return name ~= nil and name ~= false and set[name] == true
  end
end

--- One of the subject's OUs is one of these.
function rules.ou(...)
  return contains(set_of(values_of("ou", as_it_is, ...)), function(cert) return cert.subject:values "OU" end)
end

--- One of the subject's Os is one of these.
function rules.o(...)
  return contains(set_of(values_of("o", as_it_is, ...)), function(cert) return cert.subject:values "O" end)
end

-- ---- subjectAltName ------------------------------------------------------------------------------

-- The labels of a DNS name in lower case, or nil.
local function labels_of(name)
  local labels = {}
  for label in (name:lower() .. "."):gmatch("([^.]*)%.") do
    if not label:find("^[a-z0-9_-]+$") or #label > 63 then
      return nil
    end
    labels[#labels + 1] = label
  end
  return labels
end

-- "*.example.com" stands for one label, as in a ServerNames.
local function dns_read(pattern)
  local rest = pattern:match("^%*%.(.+)$")
  if not labels_of(rest or pattern) then
    return nil, 'expected a name ("a.example.com") or a wildcard for its first label ("*.example.com")'
  end
  return pattern:lower()
end

--- One of the DNS names is one of these names, or fits one of these wildcards; case does not matter.
function rules.dns(...)
  local set = set_of(values_of("dns", dns_read, ...))
  return function(cert)
    for _, name in ipairs(cert and cert.subject_alt_names.dns or {}) do
      local labels = labels_of(name) -- of a wildcard in the certificate: none
      if labels and (set[name:lower()] or set["*." .. table.concat(labels, ".", 2)]) then
        return true
      end
    end
    return false
  end
end

-- As a certificate would have it, so that "::1" and "0:0:0:0:0:0:0:1" are one address.
local function ip_read(text)
  local cert = openssl.X509.Certificate.new()
  local factory = openssl.X509.ExtensionFactory.new()
  local is_plain = text:find("^[%x.:]+$")
  local ok, extension = pcall(factory.create_extension, factory, "subjectAltName", "IP:" .. text)
  if not is_plain or not ok then
    return nil, "expected an IP address"
  end
  return cert:add_extension(extension).subject_alt_names.ip[1]
end

--- One of the IP addresses is one of these.
function rules.ip(...)
  return contains(set_of(values_of("ip", ip_read, ...)), function(cert) return cert.subject_alt_names.ip end)
end

--- One of the email addresses is one of these, byte for byte.
function rules.email(...)
  return contains(set_of(values_of("email", as_it_is, ...)), function(cert) return cert.subject_alt_names.email end)
end

--- One of the URIs is one of these, byte for byte.
function rules.uri(...)
  return contains(set_of(values_of("uri", as_it_is, ...)), function(cert) return cert.subject_alt_names.uri end)
end

-- ---- SPIFFE --------------------------------------------------------------------------------------

-- Trust domain and segments of a SPIFFE ID, exactly as the standard writes one; nil: it is none. In a pattern a segment
-- may be "*".
local function spiffe_read(id, is_pattern)
  local domain, path = id:match("^spiffe://([a-z0-9._-]+)(.*)$")
  if #id > 2048 or not domain or #domain > 255 or (path ~= "" and path:sub(1, 1) ~= "/") then
    return nil
  end
  local segments = {}
  for segment in path:gmatch("/([^/]*)") do
    local is_word = segment:find("^[A-Za-z0-9._-]+$") and segment ~= "." and segment ~= ".."
    if not is_word and not (is_pattern and segment == "*") then
      return nil
    end
    segments[#segments + 1] = segment
  end
  return domain, segments
end

-- The segments, and: domain; rest = true: one segment or more may follow.
local function spiffe_pattern(text)
  local pattern, count = text:gsub("/%*%*$", "")
  local domain, segments = spiffe_read(pattern, true)
  if not domain then
    return nil, 'expected "spiffe://trust.domain/path", in which "*" may be a whole segment and "/**" the end'
  end
  segments.domain, segments.rest = domain, count == 1
  return segments
end

local function spiffe_fits(pattern, domain, segments)
  if domain ~= pattern.domain or #segments < #pattern or (#segments > #pattern) ~= pattern.rest then
    return false
  end
  for i, segment in ipairs(pattern) do
    if segment ~= "*" and segment ~= segments[i] then
      return false
    end
  end
  return true
end

--- The SPIFFE ID of a certificate, or nil: exactly one URI, which is one.
function rules.spiffe_id(cert)
  local uris = cert and cert.subject_alt_names.uri or {}
  if #uris == 1 and spiffe_read(uris[1]) then
    return uris[1]
  end
  return nil
end

--- The SPIFFE ID fits one of these, segment by segment; "*" stands for any one, "/**" at the end for one or more.
function rules.spiffe(...)
  local patterns = values_of("spiffe", spiffe_pattern, ...)
  return function(cert)
    local id = rules.spiffe_id(cert)
    if not id then
      return false
    end
    local domain, segments = spiffe_read(id)
    return any_of(patterns, function(pattern)
      return spiffe_fits(pattern, domain, segments)
    end)
  end
end

-- ---- the key -------------------------------------------------------------------------------------

local function pin_read(text)
  local pin = text:gsub("^sha256//", "")
  if pin:find("^[A-Za-z0-9+/]+=$") and #pin == 44 then
    return pin
  elseif pin:find("^%x+$") and #pin == 64 then
    return pin:lower()
  end
  return nil, "expected the SHA-256 of a public key: 44 characters of base64, or 64 hexadecimal digits"
end

--- Its public key has one of these SHA-256: base64, as for curl's --pinnedpubkey (with "sha256//" or without), or
--- hexadecimal.
function rules.pin(...)
  local set = set_of(values_of("pin", pin_read, ...))
  return function(cert)
    return cert ~= nil and cert ~= false and (set[cert.pin_sha256] or set[cert.spki_sha256]) == true
  end
end

-- ---- rules of rules ------------------------------------------------------------------------------

local function rules_of(what, ...)
  local list = table.pack(...)
  if list.n == 0 then
    fail(what, "expected rules")
  end
  for i = 1, list.n do
    if type(list[i]) ~= "function" then
      fail(what, "argument %d: expected a rule, got %s", i, type(list[i]))
    end
  end
  return list
end

--- All of these rules.
function rules.all(...)
  local list = rules_of("all", ...)
  return function(cert)
    for _, rule in ipairs(list) do
      if not rule(cert) then
        return false
      end
    end
    return true
  end
end

--- At least one of these rules.
function rules.any(...)
  local list = rules_of("any", ...)
  return function(cert)
    for _, rule in ipairs(list) do
      if rule(cert) then
        return true
      end
    end
    return false
  end
end

--- A certificate, and none of these rules.
function rules.none(...)
  local any = rules.any(table.unpack(rules_of("none", ...)))
  return function(cert) return cert ~= nil and cert ~= false and not any(cert) end
end

--- A verify_callback: the peer's certificate must be verified, as without it, and obey the rule, or the handshake ends.
function rules.verify(rule)
  rules_of("verify", rule)
  return function(ok, context)
    if ok and context.error_depth == 0 and not rule(context.current_cert) then
      context.error = V_ERR_APPLICATION_VERIFICATION
      return false
    end
    return ok
  end
end

return rules
