--[=[
checks: what `moongate check` says of a script.

    local checks = require "checks"
    local result = checks.run([[ moongate.listen{ … } ]], { files = { ["a/b.lua"] = "…" }, env = {…}, "--json" })
    result.code, result.out, result.err, result.last   -- last: the last line on stderr
    result.json()                                      -- stdout, decoded

The script is moongate.lua in a directory of its own, and is called so; a preamble on its first line gives it
`moongate` and `openssl`. `$rsa_crt` and the like become paths as in `proxy`.
]=]

local bench = require "bench"
local certs = require "certs"
local cjson = require "cjson"

local checks = {}
local count = 0

local PREAMBLE = [[local moongate, openssl = require "moongate", require "moongate.openssl" ]]

local function fill(text)
    return (text:gsub("%$([%w_]-)_(%a+)", function(name, part)
        return (part == "crt" or part == "key") and certs[name][part] or nil
    end))
end

-- A fresh directory with moongate.lua and the other files in it.
function checks.directory(script, files)
    count = count + 1
    local dir = bench.path(("check.%d"):format(count))
    bench.must { "mkdir", "-p", dir }
    bench.write(dir .. "/moongate.lua", PREAMBLE .. fill(script))
    for name, text in pairs(files or {}) do
        bench.must { "mkdir", "-p", (dir .. "/" .. name):match("^(.*)/") }
        bench.write(dir .. "/" .. name, fill(text))
    end
    return dir
end

function checks.run(script, options)
    options = options or {}
    local dir = checks.directory(script, options.files)
    local command = { bench.moongate, "check", options.path or "moongate.lua", cwd = options.cwd or dir,
        env = options.env, timeout = options.timeout }
    table.move(options, 1, #options, #command + 1, command)
    local result = bench.run(command)
    result.dir = dir
    result.last = result.err:match("([^\n]*)\n*$")
    result.json = function()
        return cjson.decode(result.out)
    end
    return result
end

return checks
