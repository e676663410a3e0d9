-- Every example passes its check, and has nothing that a user would be warned of – with certificates for its names.

local bench = require "bench"
local certs = require "certs"
local process = require "process"

local here = assert(io.popen("pwd")):read("l")

describe("examples/", function()
    local dir = bench.path("quickstart")

    setup(function()
        bench.must { "mkdir", dir }
        for name, made in pairs { ca = certs.ca, rsa = certs.rsa_api, ecdsa = certs.ec_shops } do
            bench.must { "cp", made.crt, dir .. "/" .. name .. ".crt" }
            bench.must { "cp", made.key, dir .. "/" .. name .. ".key" }
            bench.write("quickstart/" .. name .. ".pem",
                bench.read(made.crt) .. bench.read(certs.ca.crt) .. bench.read(made.key))
        end
        bench.must { "mkdir", "-p", dir .. "/live/localhost" }
        bench.write("quickstart/live/localhost/fullchain.pem", bench.read(certs.ec.crt) .. bench.read(certs.ca.crt))
        bench.write("quickstart/live/localhost/privkey.pem", bench.read(certs.ec.key))
    end)
    teardown(bench.cleanup)

    for _, name in ipairs(process.list("examples")) do
        if name:match("%.lua$") and not name:match("_spec%.lua$") then
            it(name .. " passes its check without a warning", function()
                local result = bench.run { bench.moongate, "check", "examples/" .. name, cwd = here,
                    env = { MOONGATE_QUICKSTART = dir, LIVE = dir .. "/live" } }
                assert.equal(0, result.code, result.err)
                assert.equal("", result.err)
                assert.is_nil(result.out:find("warning", 1, true), result.out)
            end)
        end
    end
end)
