--[[
certs: keys and certificates, made with the openssl command when they are first asked for.

    local certs = require "certs"
    certs.rsa.crt, certs.rsa.key      -- RSA-2048 for localhost, 127.0.0.1, ::1, signed by certs.ca
    certs.ec                          -- the same with P-256
    certs.wrong                       -- for other.example only
    certs.a_example, certs.b_example  -- P-256 for a.example and c.example, RSA for b.example
    certs.expired                     -- ended yesterday
    certs.stranger                    -- for localhost, but signed by certs.other_ca
    certs.small                       -- RSA-1024: security level 2 refuses it
    certs.client                      -- for a client, CN client-1
    certs.billing                     -- the same with a subjectAltName, of which certs.two_names has one more
    certs.crl { "client" }           -- the PEM of a CRL of certs.ca with these; issuer = name, ended = true
    certs.respond "rsa"               -- the path of an OCSP response that says it is good, and its serial number
]]

local bench = require "bench"

local LOCAL = "DNS:localhost,IP:127.0.0.1,IP:::1"

local recipes = {
    ca = { key = "ec", subject = "/CN=spec CA", ca = true },
    other_ca = { key = "ec", subject = "/CN=other CA", ca = true },
    rsa = { key = "rsa:2048", names = LOCAL },
    ec = { key = "ec", names = LOCAL },
    rsa_api = { key = "rsa:2048", names = LOCAL .. ",DNS:api.example.com" },
    ec_shops = { key = "ec", names = LOCAL .. ",DNS:*.shop.example.com" },
    rsa2 = { key = "rsa:2048", names = LOCAL, subject = "/CN=second rsa" },
    ec2 = { key = "ec", names = LOCAL, subject = "/CN=second ec" },
    wrong = { key = "ec", names = "DNS:other.example" },
    a_example = { key = "ec", names = "DNS:a.example,DNS:c.example" },
    b_example = { key = "rsa:2048", names = "DNS:b.example" },
    expired = { key = "ec", names = LOCAL, expired = true },
    stranger = { key = "ec", names = LOCAL, issuer = "other_ca" },
    small = { key = "rsa:1024", names = LOCAL },
    client = { key = "ec", subject = "/CN=client-1", client = true },
    billing = { key = "ec", subject = "/CN=billing", client = true, names = "URI:spiffe://example.com/billing" },
    two_names = { key = "ec", subject = "/CN=two", client = true,
        names = "URI:spiffe://example.com/billing,URI:spiffe://example.com/guest" },
    operator = { key = "ec", subject = "/O=Example/OU=night/OU=operations/CN=op", client = true,
        names = "URI:spiffe://example.com/ops/a/b,DNS:7.agents.example.com,email:op@example.com" },
    would_be_operator = { key = "ec", subject = "/O=Example/OU=operations2/CN=billing2", client = true,
        names = "URI:spiffe://example.com/opsx/a,DNS:7.8.agents.example.com,email:ops@example.com.evil.example" },
    guest = { key = "ec", subject = "/CN=guest", client = true, names = "URI:spiffe://example.com/guest" },
    stranger_billing = { key = "ec", subject = "/CN=billing", client = true,
        names = "URI:spiffe://example.com/billing", issuer = "other_ca" },
    stranger_client = { key = "ec", subject = "/CN=stranger", client = true, issuer = "other_ca" },
}

local certs = {}

local function key_options(kind)
    if kind == "ec" then
        return { "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256" }
    end
    return { "-newkey", kind }
end

local function openssl(...)
    local command = { "openssl" }
    for _, part in ipairs { ... } do
        if type(part) == "table" then
            table.move(part, 1, #part, #command + 1, command)
        else
            command[#command + 1] = part
        end
    end
    bench.must(command)
end

local function sign_expired(made, issuer, extensions)
    local name = made.crt:match("([^/]+)%.crt$")
    bench.write(name .. ".index", "")
    bench.write(name .. ".serial", "10\n")
    local config = bench.write(name .. ".cnf", bench.fill([[
[ca]
default_ca = it
[it]
database = $dir/$name.index
serial = $dir/$name.serial
new_certs_dir = $dir
default_md = sha256
policy = any
[any]
commonName = supplied
]], { dir = bench.dir, name = name }))
    openssl("ca", "-batch", "-notext", "-config", config, "-in", made.csr, "-out", made.crt,
        "-cert", issuer.crt, "-keyfile", issuer.key, "-extfile", extensions,
        "-startdate", "20200101000000Z", "-enddate", "20200201000000Z")
end

local function make(name, recipe)
    local made = { crt = bench.path(name .. ".crt"), key = bench.path(name .. ".key"),
        csr = bench.path(name .. ".csr") }
    local subject = recipe.subject or "/CN=localhost"
    if recipe.ca then
        openssl("req", "-x509", key_options(recipe.key), "-nodes", "-keyout", made.key, "-out", made.crt,
            "-subj", subject, "-days", "90", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
        return made
    end
    local issuer = certs[recipe.issuer or "ca"]
    openssl("req", "-new", key_options(recipe.key), "-nodes", "-keyout", made.key, "-out", made.csr, "-subj", subject)
    local extensions = bench.write(name .. ".ext", "basicConstraints=critical,CA:FALSE\n" ..
        (recipe.client and "extendedKeyUsage=clientAuth\n" or "") ..
        (recipe.names and "subjectAltName=" .. recipe.names .. "\n" or ""))
    if recipe.expired then
        sign_expired(made, issuer, extensions)
    else
        openssl("x509", "-req", "-in", made.csr, "-CA", issuer.crt, "-CAkey", issuer.key, "-CAcreateserial",
            "-out", made.crt, "-days", "90", "-sha256", "-extfile", extensions)
    end
    return made
end

function certs.serial(name)
    return bench.must({ "openssl", "x509", "-in", certs[name].crt, "-noout", "-serial" }):match("serial=(%x+)")
end

function certs.crl(options)
    local entries, issuer = {}, certs[options.issuer or "ca"]
    for i, name in ipairs(options) do
        entries[i] = ("R\t491231235959Z\t200101000000Z\t%s\tunknown\t/CN=%s\n"):format(certs.serial(name), name)
    end
    bench.write("crl.index", table.concat(entries))
    local config = bench.write("crl.cnf", bench.fill("[ca]\ndefault_ca = it\n[it]\ndatabase = $dir/crl.index\n" ..
        "default_md = sha256\n", { dir = bench.dir }))
    openssl("ca", "-gencrl", "-config", config, "-cert", issuer.crt, "-keyfile", issuer.key, "-out",
        bench.path("made.crl"), options.ended and { "-crl_lastupdate", "20200101000000Z", "-crl_nextupdate",
        "20200201000000Z" } or { "-crldays", "7" })
    return bench.read(bench.path("made.crl"))
end

function certs.respond(name, status) -- "R": it is revoked
    local crt, request, response = certs[name].crt, bench.path(name .. ".ocsp-request"), bench.path(name .. ".ocsp")
    local serial = certs.serial(name)
    local index = bench.write(name .. ".ocsp-index", ("%s\t491231235959Z\t%s\t%s\tunknown\t/CN=%s\n"):format(
        status or "V", status and "200101000000Z" or "", serial, name))
    openssl("ocsp", "-issuer", certs.ca.crt, "-cert", crt, "-no_nonce", "-reqout", request)
    openssl("ocsp", "-CA", certs.ca.crt, "-rsigner", certs.ca.crt, "-rkey", certs.ca.key, "-index", index,
        "-reqin", request, "-respout", response, "-ndays", "7")
    return response, serial
end

setmetatable(certs, {
    __index = function(self, name)
        local recipe = assert(recipes[name], "no certificate called " .. tostring(name))
        local made = make(name, recipe)
        rawset(self, name, made)
        return made
    end,
})

return certs
