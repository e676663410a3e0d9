-- What policy.lua promises, seen from both ends of handshakes in memory. No network, no files but the script: the
-- certificates are made here. Runs under `moongate test examples` and under busted with a stock lua5.4.

local testing = require "moongate.testing"

local here = debug.getinfo(1, "S").source:match("^@(.*)/") or "."

local ca = testing.ca()
local rsa = testing.certificate { ca = ca, key = "RSA" }
local ecdsa = testing.certificate { ca = ca, key = "EC" }

describe("the policy", function()
  local policy = testing.load(here .. "/policy.lua", {
    env = { MOONGATE_QUICKSTART = "keys" },
    files = {
      ["keys/ca.crt"] = ca.pem,
      ["keys/rsa.crt"] = rsa.pem, ["keys/rsa.key"] = rsa.key_pem,
      ["keys/ecdsa.crt"] = ecdsa.pem, ["keys/ecdsa.key"] = ecdsa.key_pem,
    },
  })
  local ctx, route = policy.contexts.api, policy.listeners.api.backend
  local clients = testing.clients

  local function handshake(client)
    return testing.handshake(ctx, client, { servername = "localhost" })
  end

  it("proves without a warning", function()
    assert.same({}, policy.warnings)
  end)

  for name, kind in pairs { rsa_only = "RSA", ecdsa_only = "EC", tls12 = "EC", tls13 = "EC", browser = "EC" } do
    it(("serves the client %s with its %s certificate"):format(name, kind), function()
      local hs = handshake(clients[name] { ca = ca })
      assert.is_true(hs.ok, hs.client_error)
      assert.equal(kind, hs.key_type)
    end)
  end

  it("refuses what is older than TLS 1.2", function()
    assert.equal("protocol_version", handshake(clients.tls11).alert)
  end)

  it("refuses ciphers that are not authenticated encryption", function()
    assert.equal("handshake_failure", handshake(clients.cbc).alert)
  end)

  it("carries data both ways", function()
    local hs = handshake()
    hs.client:write("ping")
    assert.equal("ping", hs.server:read())
    hs.server:write("pong")
    assert.equal("pong", hs.client:read())
  end)

  it("sends each protocol to its own backend", function()
    assert.equal("127.0.0.1:8082", route(handshake(clients.browser).server))
    assert.equal("127.0.0.1:8081", route(handshake(clients.modern { alpn_protocols = { "http/1.1" } }).server))
  end)

  it("opens the operators' door to our certificates", function()
    local operator = testing.certificate { ca = ca, names = {}, subject = "operator" }
    local hs = handshake(clients.modern { certificate = operator })
    assert.is_true(hs.ok, hs.server_error)
    assert.equal("127.0.0.1:9000", route(hs.server))
  end)

  it("takes no certificate of a stranger's, and none that has expired", function()
    local stranger = testing.certificate { ca = testing.ca { name = "Stranger" } }
    local late = testing.certificate { ca = ca, days = -1 }
    assert.equal("unknown_ca", handshake(clients.tls12 { certificate = stranger }).alert)
    assert.equal("certificate_expired", handshake(clients.tls12 { certificate = late }).alert)
  end)
end)
