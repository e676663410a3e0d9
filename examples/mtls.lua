-- Client certificates with a rule of our own: one of our CA is not enough, its subjectAltName must be a service that
-- may come in here. Others are refused in the handshake, and no byte of theirs reaches the backend.

local moongate = require "moongate"
local openssl = require "moongate.openssl"

local dir = os.getenv("MOONGATE_QUICKSTART") or "../build/quickstart"

-- The subjectAltName that is this URI and nothing else, in DER: what is compared byte for byte cannot be misread, as
-- "URI:a, URI:b" can, which may be two names or a strange one.
local function only_uri(uri)
  return "\x30" .. string.pack("s1", "\x86" .. string.pack("s1", uri))
end

local welcome = {
  [only_uri "spiffe://example.com/billing"] = true,
  [only_uri "spiffe://example.com/reports"] = true,
}

local function is_welcome(cert)
  for _, extension in ipairs(cert.extensions) do
    if extension.oid == "subjectAltName" then
      return welcome[extension.value_der] or false
    end
  end
  return false
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
