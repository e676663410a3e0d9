-- Who may come in, by the client's certificate: its CN, its OU, names in its subjectAltName, its SPIFFE ID, its key. A
-- certificate of our CA is needed in any case; the rules only choose among those.

local moongate = require "moongate"
local openssl = require "moongate.openssl"
local rules = require "moongate.rules"

local dir = os.getenv("MOONGATE_QUICKSTART") or "../build/quickstart"

local function context()
  local ctx = openssl.SSL.SSLContext.new()
  ctx:use_profile("intermediate")
  ctx:load_certificate(dir .. "/ecdsa.pem")
  ctx.ca_file = dir .. "/ca.crt"
  ctx.verify_mode = openssl.SSL.VERIFY_PEER | openssl.SSL.VERIFY_FAIL_IF_NO_PEER_CERT
  -- ctx:load_crl("/etc/moongate/crls")  -- and none that was revoked
  return ctx
end

-- The key of a certificate that we have; as text a pin is what `curl --pinnedpubkey` takes: "sha256//…".
local pinned = openssl.X509.Certificate.load_file(os.getenv("PINNED") or dir .. "/rsa.crt")[1]

-- 1. By the name that the client asks for, after the handshake: a refusal is in the access record with its reason, and
-- with the certificate's subject and SHA-256.
local doors = {
  ["cn.example.com"] = rules.cn("billing", "reports"),
  ["ou.example.com"] = rules.all(rules.o "Example", rules.ou "operations"),
  ["san.example.com"] = rules.any(
    rules.dns "*.agents.example.com", rules.email "ops@example.com", rules.ip "192.0.2.7"),
  ["spiffe.example.com"] = rules.spiffe("spiffe://example.com/ns/*/sa/billing", "spiffe://example.com/ops/**"),
  ["pin.example.com"] = rules.pin(pinned.pin_sha256),
}

moongate.listen {
  name = "doors",
  address = os.getenv("LISTEN") or "127.0.0.1:8457",
  tls = context(),
  backend = function(conn)
    local rule = doors[conn.servername]
    if rule and rule(conn.peer_cert) then
      return "127.0.0.1:8080"
    end
    return nil, "not for this certificate"
  end,
}

-- 2. In the handshake, with an alert and before any backend is asked: services of our trust domain, but no guests.
local services = context()
services.verify_callback = rules.verify(rules.all(
  rules.spiffe "spiffe://example.com/**",
  rules.none(rules.spiffe "spiffe://example.com/guest")))

moongate.listen { name = "services", address = "127.0.0.1:8458", tls = services, backend = "127.0.0.1:8080" }
