---@meta moongate.rules

--- Who a peer may be, said by its certificate: `require "moongate.rules"`. A rule is a function of a Certificate; without
--- one (nil) it is false. For `ctx.verify_callback = rules.verify(rule)`, which refuses in the handshake, and for backend
--- functions: `if not rule(conn.peer_cert) then return nil, "not for you" end`. That the certificate is genuine is the
--- context's business (verify_mode and a CA). What could never match is an error when the rule is made. For editors that
--- read LuaCATS annotations; never loaded.
---@class moongate.rules
local rules = {}

---@alias moongate.rules.Rule fun(cert?: moongate.openssl.Certificate): boolean

--- The subject has one CN, and it is one of these, byte for byte.
---@param ... string
---@return moongate.rules.Rule
function rules.cn(...) end

--- One of the subject's OUs is one of these.
---@param ... string
---@return moongate.rules.Rule
function rules.ou(...) end

--- One of the subject's Os is one of these.
---@param ... string
---@return moongate.rules.Rule
function rules.o(...) end

--- One of the DNS names is one of these, case ignored; "*.example.com" stands for one label. Wildcards in the certificate
--- fit nothing.
---@param ... string
---@return moongate.rules.Rule
function rules.dns(...) end

--- One of the IP addresses is one of these.
---@param ... string
---@return moongate.rules.Rule
function rules.ip(...) end

--- One of the email addresses is one of these, byte for byte.
---@param ... string
---@return moongate.rules.Rule
function rules.email(...) end

--- One of the URIs is one of these, byte for byte.
---@param ... string
---@return moongate.rules.Rule
function rules.uri(...) end

--- The certificate's SPIFFE ID fits one of these, segment by segment and byte for byte: "*" is any one segment, "/**" at the
--- end any one or more. A certificate with several URIs has no SPIFFE ID.
---@param ... string "spiffe://example.com/ns/*/sa/billing", "spiffe://example.com/ops/**"
---@return moongate.rules.Rule
function rules.spiffe(...) end

--- The SPIFFE ID of a certificate; nil if there is none, or not exactly one URI.
---@param cert? moongate.openssl.Certificate
---@return string?
function rules.spiffe_id(cert) end

--- The SHA-256 of its public key is one of these: base64, as for curl's --pinnedpubkey, or hexadecimal.
---@param ... string "sha256//…"
---@return moongate.rules.Rule
function rules.pin(...) end

---@param ... moongate.rules.Rule
---@return moongate.rules.Rule
function rules.all(...) end

---@param ... moongate.rules.Rule
---@return moongate.rules.Rule
function rules.any(...) end

--- There is a certificate, and none of these is true of it.
---@param ... moongate.rules.Rule
---@return moongate.rules.Rule
function rules.none(...) end

--- A verify_callback: the chain must be good, as without it, and the peer's certificate must obey the rule; else the
--- handshake ends with handshake_failure. A session is resumed only while script and rule are the same.
---@param rule moongate.rules.Rule
---@return moongate.openssl.VerifyCallback
function rules.verify(rule) end
