---@meta moongate.testing

--- Tests of TLS policies: `require "moongate.testing"`, under `moongate test` and under busted with a stock lua5.4.
--- Nothing touches the network. For editors that read LuaCATS annotations; never loaded.
---@class moongate.testing
---@field clients moongate.testing.Clients
local testing = {}

--- A handshake in memory. Contexts are set up if they were not. What came of it is in the result: `hs.ok`, `hs.alert`,
--- both ends with the fields of a Conn and with `read`, `write` and `close`. A ServerNames or a tls function decides by the
--- ClientHello, as on a listener; where it passes the client through there is no handshake, and `hs.passthrough` is true.
---@param server moongate.openssl.SSLContext|moongate.ServerNames|moongate.Decision what a listener has as `tls`
---@param client? moongate.openssl.SSLContext|moongate.testing.Client default: testing.clients.permissive
---@param options? { servername?: string, session?: moongate.openssl.Session }
---@return moongate.testing.Handshake
function testing.handshake(server, client, options) end

---@class moongate.testing.Handshake: moongate.openssl.Handshake
---@field passthrough? true the bytes go to the backend as they came; `server` has just `servername` and `alpn_protocols`, for a backend function

--- Runs a script as the loader would: in the guarded world, frozen and proved. An error is the text that `moongate
--- check` ends with. Callbacks and route functions can be called from the test.
---@param path string
---@param options? moongate.testing.LoadOptions
---@return moongate.testing.Policy
function testing.load(path, options) end

--- A certificate authority; an intermediate one with `ca`.
---@param options? moongate.testing.CAOptions
---@return moongate.testing.CA
function testing.ca(options) end

--- A certificate with its key: self-signed, or signed by `ca`.
---@param options? moongate.testing.CertificateOptions
---@return moongate.testing.Certificate
function testing.certificate(options) end

--- What the script sees besides the files and the environment that are there.
---@class moongate.testing.LoadOptions
---@field files? table<string, string> path, relative to the script, to content; the script itself may be among them. A directory that has one of them has no others
---@field env? table<string, string> name to value

--- What a script made.
---@class moongate.testing.Policy
---@field listeners table<string, moongate.Listener> by name
---@field backends table<string, moongate.Backend> by name; those that are addresses by address
---@field contexts table<string, moongate.openssl.SSLContext> by their own name, their listener's, their backend's
---@field warnings string[] of the proof

---@class moongate.testing.CAOptions
---@field name? string common name ("Test CA")
---@field key? "EC"|"RSA"|"ED25519"|"ED448"|moongate.openssl.PKey ("EC")
---@field ca? moongate.testing.CA the issuer, of an intermediate CA
---@field days? number until it ends; negative: it has ended (30)

---@class moongate.testing.CertificateOptions
---@field names? string|string[] host names and IP addresses; default: localhost, 127.0.0.1, ::1
---@field subject? string common name; default: the first of names
---@field key? "EC"|"RSA"|"ED25519"|"ED448"|moongate.openssl.PKey P-256, 2048 bits, or a key that is there ("EC")
---@field ca? moongate.testing.CA the issuer; default: itself
---@field days? number until it ends; negative: it has ended (30)
---@field usage? string extended key usage ("serverAuth,clientAuth")

---@class moongate.testing.Certificate
---@field cert moongate.openssl.Certificate
---@field key moongate.openssl.PKey
---@field chain moongate.openssl.Certificate[] intermediates, without the root
---@field ca? moongate.testing.CA the issuer
---@field pem string certificate and chain, as a CA delivers them
---@field key_pem string

---@class moongate.testing.CA: moongate.testing.Certificate
local CA = {}

--- A Store that trusts this CA alone.
---@return moongate.openssl.Store
function CA:store() end

--- Makes a fresh client context; overrides are its attributes, and `ca` (trusted; the server's name is verified) and
--- `certificate` (shown when asked for).
---@alias moongate.testing.Client fun(overrides?: table<string, any>): moongate.openssl.SSLContext

--- Clients of many kinds. None verifies the server unless it is given a `ca`. What is not said is OpenSSL's default.
--- The groups of Mozilla's profiles and of `browser` are X25519, P-256 and P-384.
---@class moongate.testing.Clients
---@field permissive moongate.testing.Client all that OpenSSL can: TLS 1.0 to 1.3, every cipher, security level 0
---@field modern moongate.testing.Client Mozilla's "modern" profile: TLS 1.3
---@field intermediate moongate.testing.Client Mozilla's "intermediate": TLS 1.2 and 1.3, forward-secret
---@field old moongate.testing.Client Mozilla's "old" up to TLS 1.2, CBC and RSA key exchange too
---@field browser moongate.testing.Client TLS 1.2 and 1.3, ECDHE with AEAD, SHA-256 up; ALPN h2, http/1.1
---@field rsa_only moongate.testing.Client TLS 1.2 and 1.3; signatures (PSS, PKCS #1) and ciphers of RSA only
---@field ecdsa_only moongate.testing.Client TLS 1.2 and 1.3; signatures and ciphers of ECDSA only
---@field ed25519_only moongate.testing.Client TLS 1.2 and 1.3, Ed25519 signatures only
---@field tls10 moongate.testing.Client TLS 1.0 only, security level 0
---@field tls11 moongate.testing.Client TLS 1.1 only, security level 0
---@field tls12 moongate.testing.Client TLS 1.2 only
---@field tls13 moongate.testing.Client TLS 1.3 only
---@field cbc moongate.testing.Client TLS 1.2 only, CBC ciphers only

return testing
