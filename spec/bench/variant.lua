--[[
variant: moongate beside another one, that has more in its environment or is another program. What was tried and
does not pay is told with the command that repeats it.

    make bench ONLY=variant WITH="GLIBC_TUNABLES=glibc.malloc.mxfast=0"
    make bench ONLY=variant PROGRAM=/path/to/another/moongate
]]

local bench = require "bench"
local beside = require "beside"
local load = require "load"

local variant = { id = "variant" }

function variant.run(_, backend, settings)
    local with, program, all = os.getenv "WITH" or "", os.getenv "PROGRAM" or "", {}
    if with == "" and program == "" then
        return all
    end
    local env = {}
    for name, value in with:gmatch "([%w_]+)=(%S+)" do
        env[name] = value
    end
    load.place(backend, false)
    local one = beside.start(backend, {})
    local other = beside.start(backend, { env = env, program = program ~= "" and program or bench.moongate })
    beside.compare(all, settings, "variant", (with .. " " .. program):match "^%s*(.-)%s*$", nil, one, other,
        { beside.CONNECTION, beside.RESUMPTION, beside.BYTE, beside.REQUEST })
    one.stop()
    other.stop()
    return all
end

return variant
