--- What the specs of moongate.openssl share: the module, keys and certificates made once per process, and
--- assertions about its errors.

local build = os.getenv("MOONGATE_BUILD") or "build"
package.cpath = build .. "/lua/?.so;" .. package.cpath

local openssl = require "moongate.openssl"
local assert = require "luassert"
local X509, PKey, SSLContext = openssl.X509, openssl.PKey, openssl.SSL.SSLContext

local M = { openssl = openssl, SSL = openssl.SSL, X509 = X509, PKey = PKey, SSLContext = SSLContext }

-- ---- errors --------------------------------------------------------------------------------------

--- fn must raise one of our errors of that class, with that text in its message.
function M.raises(class, text, fn, ...)
    local ok, err = pcall(fn, ...)
    assert.is_false(ok, "expected " .. class .. ": " .. text .. ", but nothing was raised")
    assert.equal("table", type(err), "not an error value of ours: " .. tostring(err))
    assert.equal(class .. ": ", err.class .. ": ", tostring(err))
    assert.truthy(err.message:find(text, 1, true), ("%q does not contain %q"):format(err.message, text))
    return err
end

--- Assigns; for M.raises.
function M.assign(object, name, value)
    object[name] = value
end

--- What make() makes, after its finalizer: what a script's own finalizer may still reach.
function M.finalised(make)
    local found
    -- Younger objects are finalised first.
    local grave = setmetatable({}, { __gc = function(self) found = self.object end })
    grave.object = make()
    grave = nil -- luacheck: ignore
    collectgarbage()
    collectgarbage()
    return assert(found)
end

-- ---- keys ----------------------------------------------------------------------------------------

local makers = {
    rsa = function() return PKey.RSA.generate(2048) end,
    small_rsa = function() return PKey.RSA.generate(1024) end,
    ec = function() return PKey.EC.generate("prime256v1") end,
    ed25519 = function() return PKey.generate_key("ED25519") end,
    ca = function() return PKey.EC.generate("prime256v1") end,
    other_ca = function() return PKey.EC.generate("prime256v1") end,
    other_rsa = function() return PKey.RSA.generate(2048) end,
    other_ec = function() return PKey.EC.generate("prime256v1") end,
    client = function() return PKey.EC.generate("prime256v1") end,
    dh = function() return PKey.generate_key("DH", { group = "ffdhe2048" }) end,
}
local keys = {}

--- A key of that name, always the same in this process.
function M.key(name)
    keys[name] = keys[name] or makers[name]()
    return keys[name]
end

-- ---- certificates --------------------------------------------------------------------------------

local serial = 0

--- options: subject, key, issuer, issuer_key, names (subjectAltName), ca, not_before, not_after, usage.
function M.certificate(options)
    local cert = X509.Certificate.new()
    serial = serial + 1
    cert.version = 2
    cert.serial = serial
    cert.subject = options.subject
    cert.issuer = options.issuer and options.issuer.subject or options.subject
    cert.not_before = options.not_before or os.time() - 3600
    cert.not_after = options.not_after or os.time() + 30 * 86400
    cert.public_key = options.key
    local factory = X509.ExtensionFactory.new(options.issuer or cert, cert)
    if options.ca then
        cert:add_extension(factory:create_extension("basicConstraints", "CA:TRUE", true))
        cert:add_extension(factory:create_extension("keyUsage", "keyCertSign,cRLSign", true))
    end
    cert:add_extension(factory:create_extension("subjectKeyIdentifier", "hash"))
    if options.names then
        cert:add_extension(factory:create_extension("subjectAltName", options.names))
    end
    if options.usage then
        cert:add_extension(factory:create_extension("extendedKeyUsage", options.usage))
    end
    local key = options.issuer_key or options.key
    return cert:sign(key, key.type ~= "ED25519" and (options.digest or "SHA256") or nil)
end

local LOCAL = "DNS:localhost,DNS:*.example.com,IP:127.0.0.1"
local certs = {}

local cert_makers = {
    ca = function() return M.certificate { subject = "/CN=Test CA", key = M.key "ca", ca = true } end,
    other_ca = function()
        return M.certificate { subject = "/CN=Other CA", key = M.key "other_ca", ca = true }
    end,
    expired = function()
        return M.certificate {
            subject = "/CN=expired", key = M.key "ec", issuer = M.cert "ca", issuer_key = M.key "ca",
            names = LOCAL, not_before = os.time() - 86400, not_after = os.time() - 3600,
        }
    end,
    small_rsa = function()
        return M.certificate { subject = "/CN=small", key = M.key "small_rsa" }
    end,
}

--- A certificate of that name: a CA's, or one for the key of that name, signed by the CA.
function M.cert(name)
    if not certs[name] then
        certs[name] = cert_makers[name] and cert_makers[name]() or M.certificate {
            subject = "/CN=" .. name, key = M.key(name), issuer = M.cert "ca", issuer_key = M.key "ca",
            names = LOCAL,
        }
    end
    return certs[name]
end

-- ---- contexts ------------------------------------------------------------------------------------

--- A store that trusts the CA (or the one named).
function M.store(name)
    return X509.Store.new():add_cert(M.cert(name or "ca"))
end

local function configure(ctx, settings)
    for name, value in pairs(settings or {}) do
        ctx[name] = value
    end
    return ctx
end

--- A server context with an RSA and an ECDSA certificate, or those named by settings.certs.
function M.server(settings)
    settings = settings or {}
    local ctx = SSLContext.new()
    for _, name in ipairs(settings.certs or { "rsa", "ec" }) do
        ctx:add_certificate(M.cert(name), M.key(name))
    end
    local rest = {}
    for name, value in pairs(settings) do
        rest[name] = name ~= "certs" and value or nil
    end
    return configure(ctx, rest)
end

--- A client context that trusts the CA and verifies.
function M.client(settings)
    local ctx = SSLContext.new()
    ctx.verify_mode = M.SSL.VERIFY_PEER
    ctx.verify_hostname = true
    ctx.cert_store = M.store()
    return configure(ctx, settings)
end

--- Limits a client to one version; for `M.client(M.only("TLS1_2", { … }))`.
function M.only(version, settings)
    settings = settings or {}
    settings.min_version, settings.max_version = version, version
    return settings
end

function M.handshake(server, client, options)
    return openssl.handshake(server, client, options or { servername = "localhost" })
end

-- ---- files ---------------------------------------------------------------------------------------

local Files = {}
Files.__index = Files

--- A directory of its own: files:write(name, text) gives the path; files:remove() at the end.
function M.files()
    local path = os.tmpname()
    os.remove(path)
    assert(os.execute("mkdir -m 700 " .. path))
    return setmetatable({ path = path }, Files)
end

function Files:write(name, text)
    local path = self.path .. "/" .. name
    local file = assert(io.open(path, "wb"))
    assert(file:write(text))
    file:close()
    return path
end

function Files:remove()
    os.execute("rm -rf " .. self.path)
end

return M
