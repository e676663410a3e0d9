--- moongate.certificates: a directory of certificates becomes a list of contexts, one for each set of names.

local core = require("moongate.core").certificates
local openssl = require "moongate.openssl"

local FAULTS_SHOWN = 10
local LABEL_MAX = 127

-- Where the key of a certificate may be that has none in its own file.
local function key_paths(path)
  local dir, name = path:match("^(.*/)([^/]*)$")
  if not dir then
    dir, name = "", path
  end
  if name == "fullchain.pem" or name == "cert.pem" then
    return { dir .. "privkey.pem" } -- certbot's
  end
  local paths = { path .. ".key" }
  local stem = name:match("^(.+)%.[^.]*$")
  if stem then
    table.insert(paths, 1, dir .. stem .. ".key")
  end
  return paths
end

-- What certbot keeps beside fullchain.pem has nothing that fullchain.pem and privkey.pem have not.
local function without_certbots_parts(paths)
  local full = {}
  for _, path in ipairs(paths) do
    local dir = path:match("^(.*/)fullchain%.pem$")
    if dir then
      full[dir] = true
    end
  end
  local kept = {}
  for _, path in ipairs(paths) do
    local dir, name = path:match("^(.*/)([^/]*)$")
    if not (full[dir] and (name == "cert.pem" or name == "chain.pem" or name == "privkey.pem")) then
      kept[#kept + 1] = path
    end
  end
  return kept
end

-- The key for the certificates of `path`; nil and why there is none.
local function key_find(path, used)
  local tried = {}
  for _, key_path in ipairs(key_paths(path)) do
    local certs, key, missing = core.pem(key_path)
    used[key_path] = true
    if not certs and not missing then
      return nil, key
    elseif certs and key then
      return key
    elseif certs and key == false then
      return nil, key_path .. ": the private key is encrypted"
    elseif certs then
      return nil, key_path .. ": there is no private key in it"
    end
    tried[#tried + 1] = key_path
  end
  return nil, ("%s: there is no private key in it, nor is there %s"):format(path, table.concat(tried, " or "))
end

-- What a file has: certificate, key, chain, kind and names; nil where it is only a key, or nil and what is wrong.
local function file_read(path, used, keys)
  local certs, key, missing = core.pem(path)
  if not certs then
    return nil, not missing and key or nil
  elseif #certs == 0 then
    if key ~= nil then
      keys[#keys + 1] = path
      return nil
    end
    return nil, path .. ": there is no certificate in it"
  elseif key == false then
    return nil, path .. ": the private key is encrypted"
  end
  local fault
  if not key then
    key, fault = key_find(path, used)
    if not key then
      return nil, fault
    end
  end
  local kind, names = core.identity(certs[1])
  if #names == 0 then
    return nil, path .. ": the certificate has no DNS name (subjectAltName)"
  end
  return { path = path, cert = table.remove(certs, 1), chain = certs, key = key, kind = kind, names = names }
end

-- All that is wrong, at once, so that a directory is mended in one go.
local function faults_tell(faults)
  if #faults > 0 then
    local more = #faults - FAULTS_SHOWN
    core.fail(table.concat(faults, "; ", 1, math.min(#faults, FAULTS_SHOWN))
      .. (more > 0 and ("; and %d more files like these"):format(more) or ""))
  end
end

-- All files of the pattern; raises what is wrong with them, together.
local function files_read(pattern)
  local files, faults, used, keys = {}, {}, {}, {}
  for _, path in ipairs(without_certbots_parts(core.glob(pattern))) do
    local file, fault = file_read(path, used, keys)
    files[#files + 1] = file
    faults[#faults + 1] = fault
  end
  faults_tell(faults)
  if #files == 0 then
    core.fail(("no file with a certificate matches %q"):format(pattern))
  end
  for _, path in ipairs(keys) do
    if not used[path] then
      core.warn(path .. ": a private key without a certificate")
    end
  end
  return files
end

-- The same names in any order and case are one key.
local function names_key(names)
  local sorted = {}
  for i, name in ipairs(names) do
    sorted[i] = name:lower()
  end
  table.sort(sorted)
  return table.concat(sorted, " ")
end

local function add(group, file)
  local first = group.kinds[file.kind]
  if not first then
    group.kinds[file.kind] = file
    group[#group + 1] = file
  elseif first.cert:to_der() ~= file.cert:to_der() then
    core.warn(("%s: another %s certificate for the names of %s, which is the one that is served")
      :format(file.path, file.kind, first.path))
  end
end

-- In the order of the first file of each.
local function groups_make(files)
  local groups, by_key = {}, {}
  for _, file in ipairs(files) do
    local key = names_key(file.names)
    if not by_key[key] then
      by_key[key] = { kinds = {}, names = file.names }
      groups[#groups + 1] = by_key[key]
    end
    add(by_key[key], file)
  end
  return groups
end

local function context_make(group, faults)
  local ctx = openssl.SSL.SSLContext.new()
  local paths = {}
  for i, file in ipairs(group) do
    paths[i] = file.path
    local ok, fault = pcall(ctx.add_certificate, ctx, file.cert, file.key, file.chain)
    if not ok then
      faults[#faults + 1] = file.path .. ": " .. (type(fault) == "table" and fault.message or tostring(fault))
    end
  end
  local label = table.concat(paths, ", ")
  ctx.name = #label <= LABEL_MAX and label or "..." .. label:sub(-LABEL_MAX + 3)
  return ctx
end

--- The contexts for all certificates in the files of a pattern; configure(ctx, names) is called with each.
return function(pattern, configure)
  if type(pattern) ~= "string" then
    core.fail("expected a pattern for paths, got " .. type(pattern))
  elseif configure ~= nil and type(configure) ~= "function" then
    core.fail("configure: expected a function, got " .. type(configure))
  end
  local groups, contexts, faults = groups_make(files_read(pattern)), {}, {}
  for i, group in ipairs(groups) do
    contexts[i] = context_make(group, faults)
  end
  faults_tell(faults)
  if configure then
    for i, group in ipairs(groups) do
      configure(contexts[i], group.names)
    end
  end
  return contexts
end
