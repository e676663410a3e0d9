---@meta moongate.openssl

--- Ruby's OpenSSL API in Lua: `require "moongate.openssl"`. For editors that read LuaCATS annotations; never loaded.
---
--- An attribute or a query without arguments is a field, what takes arguments or acts is a method, constructors are
--- `Class.new(…)`. Errors are values with `class`, `message` and `errors`; their text names the script's line.
---@class moongate.openssl
---@field SSL moongate.openssl.SSL
---@field X509 moongate.openssl.X509
---@field PKey moongate.openssl.PKeyModule
---@field VERSION string moongate's
---@field OPENSSL_LIBRARY_VERSION string
---@field OPENSSL_VERSION_NUMBER integer
local openssl = {}

---@class moongate.openssl.Error
---@field class string "SSLError", "FrozenError", "ArgumentError", "TypeError", "NoMethodError", "RangeError", …
---@field message string
---@field errors string[] OpenSSL's queue, oldest first
---@field where string "script.lua:12:" or ""

--- One end of a handshake in memory: what Ruby's SSLSocket tells, and data both ways.
---@class moongate.openssl.Connection
---@field ssl_version string "TLSv1.3"; before the handshake the highest that is possible
---@field cipher? moongate.openssl.Cipher
---@field alpn_protocol? string
---@field alpn_protocols? string[] what the client offered; nil on a client
---@field npn_protocol? string where OpenSSL has NPN
---@field servername? string
---@field cert? moongate.openssl.Certificate the certificate this end uses
---@field peer_cert? moongate.openssl.Certificate
---@field peer_cert_chain? moongate.openssl.Certificate[] with the leaf on a client, without it on a server
---@field verify_result integer an X509.V_* number
---@field session? moongate.openssl.Session
---@field session_reused boolean
---@field tmp_key? moongate.openssl.PKey the peer's ephemeral key
---@field sigalg? string "rsa_pss_rsae_sha256"
---@field peer_sigalg? string
---@field group? string
---@field state string
---@field pending integer decrypted bytes that were not read yet
---@field finished_message? string
---@field peer_finished_message? string
---@field client_ca moongate.openssl.Name[]
---@field ocsp_response? string the DER that a server has stapled
local Connection = {}

--- Raises unless the peer's certificate is for that host, as SSL.verify_certificate_identity sees it.
---@param host string
---@return true
function Connection:post_connection_check(host) end

--- What has arrived, at most `max` bytes. `nil, "wait"`: nothing yet; `nil, "closed"`: the other end has closed.
---@param max? integer
---@return string? data
---@return string? why "wait" or "closed"
function Connection:read(max) end

---@param data string
---@return moongate.openssl.Connection self
function Connection:write(data) end

--- Sends close_notify. What the other end still has to say can be read.
function Connection:close() end

---@param label string
---@param length integer
---@param context? string
---@return string
function Connection:export_keying_material(label, length, context) end

--- Name, version, bits, algorithm bits.
---@alias moongate.openssl.Cipher { [1]: string, [2]: string, [3]: integer, [4]: integer }

---@class moongate.openssl.Handshake
---@field ok boolean
---@field version? string
---@field cipher? string
---@field key_type? "RSA"|"EC"|"ED25519"|string of the server's certificate
---@field alert? string name of the fatal alert that crossed
---@field alert_number? integer
---@field server_error? string
---@field client_error? string
---@field alpn_protocol? string
---@field session_reused boolean
---@field server moongate.openssl.Connection
---@field client moongate.openssl.Connection

--- A handshake in memory between two contexts, which are set up if they were not. A function in the place of the server's
--- gets the ClientHello (the message) and returns a context, or nil, why not, and the alert's number (nil: none is sent).
---@param server moongate.openssl.SSLContext|fun(message: string): moongate.openssl.SSLContext?, string?, integer?
---@param client moongate.openssl.SSLContext
---@param options? { servername?: string, session?: moongate.openssl.Session }
---@return moongate.openssl.Handshake
function openssl.handshake(server, client, options) end

--- What is left in OpenSSL's error queue, which is emptied; `{}` unless something is wrong with moongate.
---@return string[]
function openssl.errors() end

-- ---- SSL -----------------------------------------------------------------------------------------

--- Constants keep Ruby's names and values: VERIFY_*, OP_*, TLS1_2_VERSION, ….
---@class moongate.openssl.SSL
---@field SSLContext moongate.openssl.SSLContextClass
---@field Session moongate.openssl.SessionClass
---@field PROFILES { version: string, modern: table, intermediate: table, old: table } Mozilla's guideline as data
---@field [string] integer

local SSL = {}

--- Whether a certificate is for a host, as Ruby sees it: partial wildcards count, and the common name where there is
--- no DNS or IP name. Handshakes are stricter: they use OpenSSL's matcher, without partial wildcards.
---@param cert moongate.openssl.Certificate
---@param hostname string
---@return boolean
function SSL.verify_certificate_identity(cert, hostname) end

---@param hostname string
---@param san string
---@return boolean
function SSL.verify_hostname(hostname, san) end

---@param label string
---@param san_label string
---@return boolean
function SSL.verify_wildcard(label, san_label) end

---@class moongate.openssl.SessionClass
local SessionClass = {}

--- What to_pem or to_der gave, or the session of a connection.
---@param source string|moongate.openssl.Connection
---@return moongate.openssl.Session
function SessionClass.new(source) end

--- What a connection can be resumed with, by the same policies and for the same name. Two are equal if protocol
--- version and id are.
---@class moongate.openssl.Session
---@field id string bytes
---@field time? integer seconds; when it was made
---@field timeout integer seconds that it lives
local Session = {}

---@return string
function Session:to_der() end

---@return string
function Session:to_pem() end

---@return string
function Session:to_text() end

---@return moongate.openssl.Session
function Session:dup() end

---@class moongate.openssl.SSLContextClass
---@field METHODS string[]
---@field DEFAULT_PARAMS { verify_mode: integer, verify_hostname: boolean, options: integer }
---@field DEFAULT_CERT_STORE moongate.openssl.Store the system's; read at first use
---@field SESSION_CACHE_OFF integer
---@field SESSION_CACHE_CLIENT integer
---@field SESSION_CACHE_SERVER integer
---@field SESSION_CACHE_BOTH integer
---@field SESSION_CACHE_NO_AUTO_CLEAR integer
---@field SESSION_CACHE_NO_INTERNAL_LOOKUP integer
---@field SESSION_CACHE_NO_INTERNAL_STORE integer
---@field SESSION_CACHE_NO_INTERNAL integer
local SSLContextClass = {}

--- A new context for clients and servers. A version is a METHODS entry: "TLSv1_2" means only that one.
---@param version? string
---@return moongate.openssl.SSLContext
function SSLContextClass.new(version) end

---@alias moongate.openssl.Version integer|"SSL3"|"TLS1"|"TLS1_1"|"TLS1_2"|"TLS1_3"|nil nil: as far as OpenSSL goes

--- Called for each certificate of the peer from the root to the leaf; only `true` accepts.
---@alias moongate.openssl.VerifyCallback fun(preverify_ok: boolean, context: moongate.openssl.StoreContext): boolean

--- A server's choice among what the client offers: false goes on without ALPN, nil ends with no_application_protocol.
---@alias moongate.openssl.AlpnSelectCallback fun(protocols: string[]): string|false|nil

--- Who may connect, with what, and what is shown to them. Frozen once it is in use; then only session_cache_mode may
--- be written.
---@class moongate.openssl.SSLContext
---@field name? string a label for reports, up to 127 bytes
---@field frozen boolean (read-only)
---@field min_version moongate.openssl.Version
---@field max_version moongate.openssl.Version
---@field ssl_version string (write-only) both bounds at once: an entry of METHODS
---@field ciphers string|string[]|moongate.openssl.Cipher[] up to TLS 1.2; reads as a list of Cipher, TLS 1.3 included
---@field ciphersuites string|string[] those of TLS 1.3; reads as a string
---@field groups? string "X25519:P-256"
---@field ecdh_curves? string the old name of groups
---@field sigalgs? string "ECDSA+SHA256:RSA-PSS+SHA256"
---@field client_sigalgs? string
---@field security_level integer
---@field options integer OP_* flags; an assignment replaces all
---@field tmp_dh? moongate.openssl.PKey a DH key whose parameters DHE suites use instead of automatic ones
---@field session_cache_mode integer SESSION_CACHE_* flags; can be written on a frozen context, for this worker
---@field session_cache_size integer sessions of this context, over all workers; the oldest make room. 0 is as many as fit (20480); can be written on a frozen context
---@field session_cache_stats table<string, integer> over all workers, as long as the policy stays the same: cache_num, connect, connect_good, connect_renegotiate, accept, accept_good, accept_renegotiate, cache_hits, cb_hits, cache_misses, cache_full, timeouts
---@field num_tickets integer TLS 1.3 tickets per handshake, 0 to 16 (1)
---@field cert? moongate.openssl.Certificate with key; add_certificate is the better way
---@field key? moongate.openssl.PKey
---@field extra_chain_cert? moongate.openssl.Certificate[] for certificates without a chain of their own
---@field ocsp_response? string DER, stapled to the certificate that it is about while it is valid
---@field client_ca? moongate.openssl.Certificate|moongate.openssl.Certificate[] whose names a server sends to clients
---@field ca_file? string PEM; read at setup
---@field ca_path? string a directory with hash names; read whole at setup
---@field cert_store? moongate.openssl.Store is frozen with the context
---@field verify_mode? integer VERIFY_* flags (VERIFY_NONE); nil lets a backend verify by default
---@field verify_depth? integer
---@field verify_hostname? boolean client: the server's name must match (false)
---@field verify_callback? moongate.openssl.VerifyCallback
---@field timeout? integer seconds a session lives
---@field ssl_timeout? integer another name of timeout
---@field session_id_context? string up to 32 bytes; sessions are bound to the policy in any case
---@field alpn_protocols? string[] what a client offers, and what a server chooses from, best first
---@field alpn_select_cb? moongate.openssl.AlpnSelectCallback
---@field npn_protocols? string[] server, TLS 1.2 at most; where OpenSSL has NPN
---@field npn_select_cb? fun(protocols: string[]): string client, TLS 1.2 at most
---@field client_cert_cb? fun(conn: moongate.Conn): moongate.openssl.Certificate?, moongate.openssl.PKey? client: the server wants a certificate and none is configured
---@field tmp_dh_callback? fun(conn: moongate.Conn, is_export: integer, bits: integer): moongate.openssl.PKey server, DHE suites
---@field session_get_cb? fun(conn: moongate.Conn, id: string): moongate.openssl.Session? server: a session that is not in the cache
---@field session_new_cb? fun(conn: moongate.Conn, session: moongate.openssl.Session) clients need SESSION_CACHE_CLIENT
---@field session_remove_cb? fun(ctx: moongate.openssl.SSLContext, session: moongate.openssl.Session) may not use the cache itself
---@field renegotiation_cb? fun(conn: moongate.Conn) server: a handshake starts, the first one too
---@field keylog_cb? fun(conn: moongate.Conn, line: string)
---@field servername_cb? fun(conn: moongate.Conn, name: string): moongate.openssl.SSLContext? server: another context, whose whole policy then applies; nil stays here
local SSLContext = {}

--- A client says in its hello that this is a second attempt with a lower version.
function SSLContext:enable_fallback_scsv() end

--- Both bounds at once; nil is none.
---@param min? integer|string
---@param max? integer|string
function SSLContext:set_minmax_proto_version(min, max) end

--- Puts it into the cache – which all workers share –, also with SESSION_CACHE_OFF.
---@param session moongate.openssl.Session
---@return boolean added false for one that is there already, one whose peer's certificate has ended, and one of more than 8 KiB
function SSLContext:session_add(session) end

--- Removes the one with that id, for all workers.
---@param session moongate.openssl.Session
---@return boolean removed
function SSLContext:session_remove(session) end

--- Removes what has expired by that time: by now if left out, everything if 0.
---@param time? number
---@return moongate.openssl.SSLContext self
function SSLContext:flush_sessions(time) end

--- From now on certificates on that list are refused: of peers and of the CAs between them and the root. It must be valid
--- and signed by its CA, else all certificates of that CA are refused (check warns). CAs without any CRL here are not
--- asked for one, unless cert_store.flags has V_FLAG_CRL_CHECK (for peers) and V_FLAG_CRL_CHECK_ALL (for the CAs, too).
--- Of several lists of a CA the newest counts; a delta comes with its base.
---@param crl moongate.openssl.CRL
---@return moongate.openssl.SSLContext self
function SSLContext:add_crl(crl) end

--- As add_crl, for all in a file (PEM, or DER), in the files of a directory – those with hash names (9a2b3c4d.r0), or, where
--- there is none of those, *.crl and *.pem – or in those that match a pattern. All of them, or an error.
---@param path string
---@return moongate.openssl.SSLContext self
function SSLContext:load_crl(path) end

--- Reads an OCSP response (DER) that is then stapled to the certificate it is about, while it is valid; which of the
--- context's that is shows at setup. Several, for several certificates, are fine; the last about one counts.
---@param path string
---@return moongate.openssl.SSLContext self
function SSLContext:load_ocsp(path) end

--- Adds a certificate with its private key; one of each key type can be there. Another one takes its place, with a
--- warning in check.
---@param cert moongate.openssl.Certificate
---@param key moongate.openssl.PKey
---@param chain? moongate.openssl.Certificate[] intermediates; left out, the chain of that key type stays
---@param ocsp_response? string DER; left out, that of the context if it is about this certificate
---@return moongate.openssl.SSLContext self
function SSLContext:add_certificate(cert, key, chain, ocsp_response) end

--- Adds what certbot's fullchain.pem and privkey.pem hold.
---@param chain_file string
---@param key_file? string default: chain_file
---@param passphrase? string|moongate.openssl.PassphraseFunction
---@param ask? moongate.openssl.PassphraseFunction
---@return moongate.openssl.SSLContext self
function SSLContext:load_certificate(chain_file, key_file, passphrase, ask) end

--- DEFAULT_PARAMS and what is given; all or nothing. Options are added to those that are set.
---@param params? table<string, any>
---@return table<string, any> applied options excepted
function SSLContext:set_params(params) end

--- Applies Mozilla's server-side TLS guideline (SSL.PROFILES.version).
---@param name "modern"|"intermediate"|"old"
---@return moongate.openssl.SSLContext self
function SSLContext:use_profile(name) end

--- Applies what was assigned, and freezes. moongate does it after the script has run.
---@return true? first true the first time
function SSLContext:setup() end

--- The same as setup.
---@return true? first
function SSLContext:freeze() end

-- ---- X509 ----------------------------------------------------------------------------------------

--- Constants keep Ruby's names and values: V_*, V_ERR_*, V_FLAG_*, PURPOSE_*, TRUST_*.
---@class moongate.openssl.X509
---@field Certificate moongate.openssl.CertificateClass
---@field Name moongate.openssl.NameClass
---@field Extension moongate.openssl.ExtensionClass
---@field ExtensionFactory moongate.openssl.ExtensionFactoryClass
---@field Store moongate.openssl.StoreClass
---@field CRL moongate.openssl.CRLClass
---@field Revoked moongate.openssl.RevokedClass
---@field [string] integer|string

---@class moongate.openssl.CertificateClass
local CertificateClass = {}

--- A certificate from PEM or DER, or an empty one to be built.
---@param pem_or_der? string
---@return moongate.openssl.Certificate
function CertificateClass.new(pem_or_der) end

---@param pem_or_der string
---@return moongate.openssl.Certificate[]
function CertificateClass.load(pem_or_der) end

---@param path string
---@return moongate.openssl.Certificate[]
function CertificateClass.load_file(path) end

--- Times are Unix seconds, a serial is upper-case hexadecimal. Once a context, store or connection has it too, it can
--- no longer be changed.
---@class moongate.openssl.Certificate
---@field version integer 2 means v3
---@field serial string|integer
---@field subject moongate.openssl.Name|string
---@field issuer moongate.openssl.Name|string
---@field not_before? integer
---@field not_after? integer
---@field public_key moongate.openssl.PKey
---@field signature_algorithm string (read-only)
---@field extensions moongate.openssl.Extension[] (read-only)
---@field subject_key_identifier? string (read-only) hexadecimal
---@field authority_key_identifier? string (read-only) hexadecimal
---@field crl_uris? string[] (read-only)
---@field ca_issuer_uris? string[] (read-only)
---@field ocsp_uris? string[] (read-only)
---@field tbs_bytes string (read-only) DER of what is signed
---@field subject_alt_names moongate.openssl.AltNames (read-only)
---@field sha256 string (read-only) of the certificate: hexadecimal, lower case, as in the access record
---@field spki_sha256 string (read-only) of its public key (SubjectPublicKeyInfo), likewise
---@field pin_sha256 string (read-only) the same in base64, as for curl's --pinnedpubkey "sha256//…"
local Certificate = {}

---@return string
function Certificate:to_pem() end

---@return string
function Certificate:to_s() end

---@return string
function Certificate:to_der() end

---@return string
function Certificate:to_text() end

---@param algorithm? string "SHA256"
---@return string hexadecimal
function Certificate:digest(algorithm) end

---@param key moongate.openssl.PKey the issuer's
---@return boolean
function Certificate:verify(key) end

---@param key moongate.openssl.PKey
---@return boolean
function Certificate:check_private_key(key) end

---@param extension moongate.openssl.Extension
---@return moongate.openssl.Certificate self
function Certificate:add_extension(extension) end

---@param key moongate.openssl.PKey
---@param digest? string nil for Ed25519 and Ed448
---@return moongate.openssl.Certificate self
function Certificate:sign(key, digest) end

--- The names in subjectAltName by kind, in their order; a kind that is not there is an empty list, other kinds (otherName,
--- …) are left out. What does not belong into a name – NUL, blanks, what is not ASCII – and the backslash come as "\\x00",
--- so that nothing that looks like another name equals it.
---@class moongate.openssl.AltNames
---@field dns string[] (read-only)
---@field ip string[] (read-only) "192.0.2.1", "2001:db8::1"
---@field email string[] (read-only)
---@field uri string[] (read-only)

---@class moongate.openssl.NameClass
---@field COMPAT integer
---@field RFC2253 integer
---@field ONELINE integer
---@field MULTILINE integer
local NameClass = {}

---@param entries_or_der? { [1]: string, [2]: string, [3]: integer? }[]|string type, value, ASN.1 type
---@return moongate.openssl.Name
function NameClass.new(entries_or_der) end

---@param text string "/C=DE/CN=localhost"
---@return moongate.openssl.Name
function NameClass.parse(text) end

---@class moongate.openssl.Name
---@field hash integer (read-only) the number in ca_path's file names, "%08x.0"
local Name = {}

---@param flags? integer Name.RFC2253, …
---@return string
function Name:to_s(flags) end

---@return string
function Name:to_utf8() end

---@return { [1]: string, [2]: string, [3]: integer }[]
function Name:to_a() end

---@return string
function Name:to_der() end

--- The one value of a type, in UTF-8; nil where there is none, or more than one.
---@param type string "CN", "O", "OU", "commonName", "2.5.4.3", …
---@return string?
function Name:get(type) end

--- All values of a type, in UTF-8 and in their order.
---@param type string
---@return string[]
function Name:values(type) end

---@param other moongate.openssl.Name
---@return -1|0|1
function Name:cmp(other) end

---@param other any
---@return boolean
function Name:eql(other) end

---@class moongate.openssl.ExtensionClass
local ExtensionClass = {}

---@param oid string
---@param value_der string
---@param critical? boolean
---@return moongate.openssl.Extension
function ExtensionClass.new(oid, value_der, critical) end

---@class moongate.openssl.Extension
---@field oid string (read-only)
---@field value string (read-only)
---@field value_der string (read-only)
---@field critical boolean (read-only)

---@class moongate.openssl.ExtensionFactoryClass
local ExtensionFactoryClass = {}

---@param issuer? moongate.openssl.Certificate
---@param subject? moongate.openssl.Certificate
---@return moongate.openssl.ExtensionFactory
function ExtensionFactoryClass.new(issuer, subject) end

---@class moongate.openssl.ExtensionFactory
---@field issuer_certificate? moongate.openssl.Certificate
---@field subject_certificate? moongate.openssl.Certificate
local ExtensionFactory = {}

--- An extension from text as in openssl.cnf: "subjectAltName", "DNS:localhost".
---@param oid string
---@param value string
---@param critical? boolean
---@return moongate.openssl.Extension
function ExtensionFactory:create_extension(oid, value, critical) end

---@class moongate.openssl.StoreClass
local StoreClass = {}

---@return moongate.openssl.Store
function StoreClass.new() end

--- Trust anchors and CRLs.
---@class moongate.openssl.Store
---@field flags integer V_FLAG_*; an assignment adds bits
---@field purpose integer PURPOSE_*
---@field trust integer TRUST_*
---@field time? integer verify as of then
---@field error integer (read-only) of the last verify
---@field error_string string (read-only)
---@field chain? moongate.openssl.Certificate[] (read-only)
---@field verify_callback? moongate.openssl.VerifyCallback of verify; a context asks its own
local Store = {}

---@param cert moongate.openssl.Certificate
---@return moongate.openssl.Store self
function Store:add_cert(cert) end

---@param crl moongate.openssl.CRL
---@return moongate.openssl.Store self
function Store:add_crl(crl) end

---@param path string PEM with certificates and CRLs
---@return moongate.openssl.Store self
function Store:add_file(path) end

---@param path string a directory with hash names; a missing one is accepted
---@return moongate.openssl.Store self
function Store:add_path(path) end

--- Adds the system's, or what SSL_CERT_FILE and SSL_CERT_DIR name.
function Store:set_default_paths() end

---@param bits? integer default: all
function Store:clear_flags(bits) end

---@param cert moongate.openssl.Certificate
---@param chain? moongate.openssl.Certificate[]|moongate.openssl.VerifyCallback
---@param callback? moongate.openssl.VerifyCallback
---@return boolean
function Store:verify(cert, chain, callback) end

--- What a verify_callback sees; dead when it has returned.
---@class moongate.openssl.StoreContext
---@field error integer
---@field error_string string (read-only)
---@field error_depth integer (read-only)
---@field current_cert? moongate.openssl.Certificate (read-only)
---@field current_crl? moongate.openssl.CRL (read-only)
---@field chain? moongate.openssl.Certificate[] (read-only)
---@field flags integer V_FLAG_*; an assignment adds bits
---@field purpose integer (write-only)
---@field trust integer (write-only)
---@field time integer (write-only)
local StoreContext = {}

---@param bits? integer default: all
function StoreContext:clear_flags(bits) end

--- False for a verification that is going on.
---@return boolean
function StoreContext:verify() end

---@class moongate.openssl.CRLClass
local CRLClass = {}

---@param pem_or_der? string left out: an empty one, to be built
---@return moongate.openssl.CRL
function CRLClass.new(pem_or_der) end

--- All CRLs of a PEM, or the one of a DER. They cannot be changed; one that was read before is not parsed again.
---@param pem_or_der string
---@return moongate.openssl.CRL[]
function CRLClass.load(pem_or_der) end

---@param path string
---@return moongate.openssl.CRL[]
function CRLClass.load_file(path) end

--- A store that has it freezes it.
---@class moongate.openssl.CRL
---@field version integer 1 is v2
---@field issuer moongate.openssl.Name a string "/CN=x" can be assigned, too
---@field last_update? integer
---@field next_update? integer
---@field revoked moongate.openssl.Revoked[] (read-only) copies
---@field extensions moongate.openssl.Extension[] (read-only)
---@field signature_algorithm string (read-only)
local CRL = {}

---@param serial string|integer hexadecimal
---@return moongate.openssl.Revoked? entry
function CRL:by_serial(serial) end

---@param revoked moongate.openssl.Revoked
---@return moongate.openssl.CRL self
function CRL:add_revoked(revoked) end

---@param extension moongate.openssl.Extension
---@return moongate.openssl.CRL self
function CRL:add_extension(extension) end

---@param key moongate.openssl.PKey
---@param digest? string nil for Ed25519 and Ed448
---@return moongate.openssl.CRL self
function CRL:sign(key, digest) end

---@return string
function CRL:to_pem() end

---@return string
function CRL:to_s() end

---@return string
function CRL:to_der() end

---@return string
function CRL:to_text() end

---@param key moongate.openssl.PKey the issuer's
---@return boolean
function CRL:verify(key) end

---@class moongate.openssl.RevokedClass
local RevokedClass = {}

---@return moongate.openssl.Revoked
function RevokedClass.new() end

--- An entry of a CRL.
---@class moongate.openssl.Revoked
---@field serial string hexadecimal; an integer can be assigned, too
---@field time? integer
---@field extensions moongate.openssl.Extension[] (read-only)
local Revoked = {}

---@param extension moongate.openssl.Extension
---@return moongate.openssl.Revoked self
function Revoked:add_extension(extension) end

-- ---- PKey ----------------------------------------------------------------------------------------

--- Called once, if the key is encrypted.
---@alias moongate.openssl.PassphraseFunction fun(writing: boolean): string?

---@class moongate.openssl.PKeyModule
---@field RSA moongate.openssl.RSAClass
---@field EC moongate.openssl.ECClass
---@field DH moongate.openssl.DHClass
local PKeyModule = {}

--- A key from PEM or DER. Of an encrypted one the function is asked, if no passphrase is given; with neither it is an
--- error, never a prompt.
---@param pem_or_der string
---@param passphrase? string|moongate.openssl.PassphraseFunction
---@param ask? moongate.openssl.PassphraseFunction
---@return moongate.openssl.PKey
function PKeyModule.read(pem_or_der, passphrase, ask) end

---@param path string
---@param passphrase? string|moongate.openssl.PassphraseFunction
---@param ask? moongate.openssl.PassphraseFunction
---@return moongate.openssl.PKey
function PKeyModule.load_file(path, passphrase, ask) end

---@param type "RSA"|"EC"|"ED25519"|"ED448"|"X25519"|string|moongate.openssl.PKey a type, or parameters
---@param options? table<string, string|integer> { rsa_keygen_bits = 2048 }, { ec_paramgen_curve = "P-256" }
---@return moongate.openssl.PKey
function PKeyModule.generate_key(type, options) end

---@param type "DH"|"EC"|string
---@param options? table<string, string|integer> { dh_paramgen_prime_len = 2048 }
---@return moongate.openssl.PKey parameters
function PKeyModule.generate_parameters(type, options) end

---@param type "ED25519"|"ED448"|"X25519"|"X448"|string
---@param bytes string
---@return moongate.openssl.PKey
function PKeyModule.new_raw_private_key(type, bytes) end

---@param type "ED25519"|"ED448"|"X25519"|"X448"|string
---@param bytes string
---@return moongate.openssl.PKey
function PKeyModule.new_raw_public_key(type, bytes) end

---@class moongate.openssl.RSAClass
local RSAClass = {}

---@param bits_or_pem integer|string
---@param passphrase? string|moongate.openssl.PassphraseFunction
---@param ask? moongate.openssl.PassphraseFunction
---@return moongate.openssl.PKey
function RSAClass.new(bits_or_pem, passphrase, ask) end

---@param bits integer
---@return moongate.openssl.PKey
function RSAClass.generate(bits) end

---@class moongate.openssl.ECClass
local ECClass = {}

---@param pem_or_der string
---@param passphrase? string|moongate.openssl.PassphraseFunction
---@param ask? moongate.openssl.PassphraseFunction
---@return moongate.openssl.PKey
function ECClass.new(pem_or_der, passphrase, ask) end

---@param curve string "prime256v1"
---@return moongate.openssl.PKey
function ECClass.generate(curve) end

---@class moongate.openssl.DHClass
local DHClass = {}

---@param pem_or_der string parameters or a key
---@param passphrase? string|moongate.openssl.PassphraseFunction
---@param ask? moongate.openssl.PassphraseFunction
---@return moongate.openssl.PKey
function DHClass.new(pem_or_der, passphrase, ask) end

---@class moongate.openssl.PKey
---@field type string (read-only) "RSA", "EC", "ED25519", …
---@field oid string (read-only) "rsaEncryption", "id-ecPublicKey", "ED25519", …
---@field bits integer (read-only)
---@field private boolean (read-only) whether the private half is there
---@field public boolean (read-only) false for parameters alone
---@field public_key moongate.openssl.PKey (read-only) the public half
---@field raw_private_key? string (read-only) of Ed25519, Ed448, X25519, X448
---@field raw_public_key? string (read-only)
---@field group? { curve_name: string } (read-only) of EC
---@field params? table<string, string> (read-only) of RSA and DH: Ruby's names, hexadecimal
---@field p? string (read-only) of DH, hexadecimal
---@field g? string (read-only) of DH, hexadecimal
local PKey = {}

---@param cipher? string "AES-256-CBC"
---@param passphrase? string
---@return string
function PKey:private_to_pem(cipher, passphrase) end

---@param cipher? string
---@param passphrase? string
---@return string
function PKey:private_to_der(cipher, passphrase) end

---@return string
function PKey:public_to_pem() end

---@return string
function PKey:public_to_der() end

--- The traditional form for RSA and EC, PKCS#8 for others, the public form of a public key; of DH the parameters
--- alone, as in Ruby.
---@param cipher? string
---@param passphrase? string
---@return string
function PKey:to_pem(cipher, passphrase) end

--- The same as to_pem.
---@param cipher? string
---@param passphrase? string
---@return string
function PKey:export(cipher, passphrase) end

---@return string
function PKey:to_text() end

---@param digest? string nil for Ed25519 and Ed448
---@param data string
---@return string signature
function PKey:sign(digest, data) end

---@param digest? string
---@param signature string
---@param data string
---@return boolean
function PKey:verify(digest, signature, data) end

--- Whether both have the same public half.
---@param other moongate.openssl.PKey
---@return boolean
function PKey:compare(other) end

return openssl
