--- moongate: what a script calls. The functions are C (src/script); this file gives them their names.

local core = require "moongate.core"

local moongate = {
  _VERSION = core.VERSION,
  settings = core.settings,
  listen = core.listen,
  backend = core.backend,
  reply = core.reply,
  echo = core.echo,
  command = core.command,
  servernames = core.servernames,
  certificates = require "moongate.certificates",
  PASSTHROUGH = core.PASSTHROUGH,
}

-- Documented, and delivered by a later version.
local later = {
  status = true, sleep = true, resolve = true, connect = true,
}

local names = {}
for name in pairs(moongate) do
  names[#names + 1] = name
end

local function unknown(_, name)
  if later[name] then
    error(("moongate.%s is not supported by this version"):format(name), 2)
  end
  local near = type(name) == "string" and core.nearest(name, names)
  error(("moongate.%s: no such function%s"):format(
    tostring(name), near and (" (did you mean moongate.%s?)"):format(near) or ""), 2)
end

return setmetatable(moongate, { __index = unknown })
