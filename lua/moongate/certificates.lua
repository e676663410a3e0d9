--- moongate.certificates: a directory of certificates becomes a list of contexts, one for each set of names.

local core = require("moongate.core").certificates
local openssl = require "moongate.openssl"

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

-- All files of the pattern that can be used. What is wrong with another does not end the script here: it is refused
-- when all of it has been looked at, so that a directory is mended in one go.
local function files_read(pattern)
  local files, used, keys, is_faulty = {}, {}, {}, false
  for _, path in ipairs(without_certbots_parts(core.glob(pattern))) do
    local file, fault = file_read(path, used, keys)
    files[#files + 1] = file
    if fault then
      is_faulty = true
      core.fault(fault)
    end
  end
  if #files == 0 and not is_faulty then
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

-- nil: none of the certificates can be used.
local function context_make(group)
  local ctx = openssl.SSL.SSLContext.new()
  local paths = {}
  for _, file in ipairs(group) do
    local ok, fault = pcall(ctx.add_certificate, ctx, file.cert, file.key, file.chain)
    if ok then
      paths[#paths + 1] = file.path
    else
      core.fault(file.path .. ": " .. (type(fault) == "table" and fault.message or tostring(fault)))
    end
  end
  local label = table.concat(paths, ", ")
  ctx.name = #label <= LABEL_MAX and label or "..." .. label:sub(-LABEL_MAX + 3)
  return #paths > 0 and ctx or nil
end

--- The contexts for all certificates in the files of a pattern; configure(ctx, names) is called with each.
return function(pattern, configure)
  if type(pattern) ~= "string" then
    core.fail("expected a pattern for paths, got " .. type(pattern))
  elseif configure ~= nil and type(configure) ~= "function" then
    core.fail("configure: expected a function, got " .. type(configure))
  end
  local contexts, names = {}, {}
  for _, group in ipairs(groups_make(files_read(pattern))) do
    local ctx = context_make(group)
    if ctx then
      contexts[#contexts + 1] = ctx
      names[#names + 1] = group.names
    end
  end
  if configure then
    for i, ctx in ipairs(contexts) do
      configure(ctx, names[i])
    end
  end
  return contexts
end
