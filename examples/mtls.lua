-- Client certificates with a rule of our own: one of our CA is not enough, its subjectAltName must be a service that
-- may come in here. Others are refused in the handshake, and no byte of theirs reaches the backend.

local moongate = require "moongate"
local openssl = require "moongate.openssl"

local dir = os.getenv("MOONGATE_QUICKSTART") or "../build/quickstart"

local welcome = {
  ["spiffe://example.com/billing"] = true,
  ["spiffe://example.com/reports"] = true,
}

-- Exactly one URI, so that nobody brings a second one along. (rules.lua shows this and more ready-made.)
local function is_welcome(cert)
  local uris = cert.subject_alt_names.uri
  return #uris == 1 and welcome[uris[1]] or false
end

local ctx = openssl.SSL.SSLContext.new()
ctx:use_profile("intermediate")
ctx:load_certificate(dir .. "/ecdsa.pem")
ctx.ca_file = dir .. "/ca.crt"
ctx.verify_mode = openssl.SSL.VERIFY_PEER | openssl.SSL.VERIFY_FAIL_IF_NO_PEER_CERT

-- It is asked for each certificate of the chain, from the root (the highest depth) to the client's own (0), and what
-- OpenSSL has found already stays as it is: the rule adds, it forgives nothing.
ctx.verify_callback = function(ok, context)
  if ok and context.error_depth == 0 and not is_welcome(context.current_cert) then
    context.error = openssl.X509.V_ERR_APPLICATION_VERIFICATION
    return false
  end
  return ok
end

moongate.listen {
  name = "services",
  address = os.getenv("LISTEN") or "127.0.0.1:8451",
  tls = ctx,
  backend = "127.0.0.1:8080",
}
