---@meta moongate

--- What a script calls: `require "moongate"`. For editors that read LuaCATS annotations; never loaded.
---@class moongate
---@field _VERSION string of the running moongate
---@field PASSTHROUGH moongate.Passthrough in the place of a context: the bytes go to the backend as they came
local moongate = {}

--- `"host:port"`, `"[::1]:port"` or `"unix:/path"`.
---@alias moongate.Address string

--- Where a connection goes.
---@alias moongate.Target moongate.Address|moongate.Backend

--- Decides for one connection: a target, or nil and the reason, which is logged and counted.
---@alias moongate.Route fun(conn: moongate.Conn): moongate.Target?, string?

--- Options of `moongate.settings`. Times are in seconds.
---@class moongate.Settings
---@field workers? integer number of worker processes; default: the usable CPUs
---@field user? string who the workers become after a start as root; default: who started moongate
---@field group? string default: the user's
---@field drain_timeout? number|false seconds that `stop` waits for connections (30); false = for ever
---@field drain_delay? number seconds between not being ready and no longer accepting (0)
---@field watchdog? number seconds without a heartbeat until a worker is replaced, at least 1 (5)
---@field reload_timeout? number seconds until a silent worker, or a script that does not end, fails a reload; also of `moongate check` (60)
---@field generation_timeout? number|false seconds until a generation's last connections are closed (false)
---@field log? string a path, "stderr" or "syslog" ("stderr")
---@field log_format? "text"|"json" default: the command line's, else "text"
---@field log_level? "debug"|"info"|"warn"|"error" default: the command line's, else "info"
---@field access_log? string|false a path or "stderr" for one record per connection; default: none
---@field callback_budget? number seconds of CPU time for one callback (0.1)
---@field ticket_secret? string|string[] 32 or more bytes, or { current, previous }; default: drawn at the start
---@field ticket_rotation? integer seconds for which a ticket key encrypts (3600)
---@field hello_ring? integer recent ClientHellos kept per worker (1000)
---@field refuse_reload_above? number|false share of the ring that may newly fail (false)

--- Settings of the whole program; may be called once.
---@param options moongate.Settings
function moongate.settings(options) end

--- New full handshakes a second; resumptions are not counted. What comes above it is refused before any public-key work.
---@class moongate.HandshakeRate
---@field per_second? number of the listener, over all workers
---@field burst? number so many may come at once; default: as many as come in a second, at least 1
---@field per_ip? number of one client: an IPv4 address, or the /64 of an IPv6 address; as many may come at once, at least 1

--- A unix socket, and whose its file is.
---@class moongate.ListenAddress
---@field address moongate.Address "unix:/path"
---@field mode? string who may connect, as octal digits: "0660" ("0666")
---@field owner? string a user; default: who started moongate
---@field group? string

--- Options of `moongate.listen`. Times are in seconds; `false` switches one off.
---@class moongate.ListenOptions
---@field address moongate.Address|moongate.ListenAddress|(moongate.Address|moongate.ListenAddress)[] also "*:port" for IPv4 and IPv6
---@field name? string for logs and reports, at most 255 bytes of UTF-8 without control characters; default: the first address
---@field tls? moongate.openssl.SSLContext|moongate.ServerNames|moongate.Decision terminate TLS with it, by name, or decide per connection; nil = plain TCP
---@field backend moongate.Target|moongate.Route where connections go
---@field accept_proxy? boolean|string[] true: every connection begins with a PROXY header; or networks ("10.0.0.0/8", "unix:") whose connections do, while others are served directly (false)
---@field max_connections? integer over all workers; more wait in the accept queue; default: no limit
---@field max_connections_per_ip? integer over all workers, of an IPv4 address or the /64 of an IPv6 address; more are closed at once; default: no limit
---@field handshake_rate? moongate.HandshakeRate new full handshakes a second; default: no limit
---@field tls_optional? boolean the first byte decides between TLS and plain; nothing is sent before it (false)
---@field handshake_timeout? number|false seconds from accept to a finished handshake, PROXY header included (10)
---@field idle_timeout? number|false seconds without a byte in either direction (600)
---@field max_lifetime? number|false seconds (false)
---@field half_close_timeout? number|false seconds without a byte after one direction has ended (60)
---@field backlog? integer length of the accept queue (4096)
---@field tcp_nodelay? boolean (true)
---@field tcp_keepalive? number|false seconds (60)

--- What `moongate.listen` returns: its options as fields, which may be assigned until the script has returned.
---@class moongate.Listener
---@field address moongate.Address[] (read-only) names looked up
---@field name string (read-only)
---@field tls? moongate.openssl.SSLContext|moongate.ServerNames|moongate.Decision
---@field backend moongate.Backend|moongate.Route
---@field accept_proxy boolean|string[]
---@field max_connections? integer
---@field max_connections_per_ip? integer
---@field handshake_rate? moongate.HandshakeRate
---@field tls_optional boolean
---@field handshake_timeout number|false
---@field idle_timeout number|false
---@field max_lifetime number|false
---@field half_close_timeout number|false
---@field backlog integer
---@field tcp_nodelay boolean
---@field tcp_keepalive number|false
---@field frozen boolean (read-only) true once the script has returned

--- Accepts connections.
---@param options moongate.ListenOptions
---@return moongate.Listener
function moongate.listen(options) end

--- What a `tls` function sees: the client's ClientHello, before there is anything else of TLS. Read-only, and of no use
--- after the function has returned. GREASE is left out of the lists; a number without a name is "0x1234".
---@class moongate.Hello
---@field servername? string the name that the client asks for
---@field alpn_protocols string[] {} if it offers none
---@field versions string[] "TLSv1.3" …; of a client that has no list of them only the highest one
---@field cipher_suites string[] IANA's names: "TLS_AES_128_GCM_SHA256"
---@field groups string[] "x25519", "secp256r1", "X25519MLKEM768"
---@field signature_algorithms string[] "ecdsa_secp256r1_sha256", "rsa_pss_rsae_sha256"
---@field supports_ecdsa boolean it can be shown an ECDSA certificate
---@field ja4 string fingerprint of the client's TLS library
---@field session_id string
---@field raw string the whole message
---@field remote_ip? string these seven as in moongate.Conn
---@field remote_port? integer
---@field local_ip? string
---@field local_port? integer
---@field socket_ip? string
---@field socket_port? integer
---@field proxy_tlvs table<integer, string>

---@class moongate.Passthrough

--- Decides for one connection: a context, all of whose policy applies; PASSTHROUGH; or nil, the reason for the log and the
--- number of the alert that the client gets (112, unrecognized_name).
---@alias moongate.Decision fun(hello: moongate.Hello): (moongate.openssl.SSLContext|moongate.Passthrough)?, string?, integer?

--- Which policy a client gets by the name that it asks for, looked up without calling the script.
---@class moongate.ServerNames
---@field frozen boolean (read-only) true once the script has returned
local ServerNames = {}

--- What a client that asks for this name (nil: for none) gets, nil if nothing, and the name or wildcard that matched. Names are
--- known when the script has returned.
---@param name? string
---@return (moongate.openssl.SSLContext|moongate.Passthrough)?
---@return string
function ServerNames:find(name) end

--- Keys are names or wildcards for one label ("*.example.com"); a context without a key answers for the names of its
--- certificates; `none` is for clients without a name, `default` for all others. false, or no entry: alert unrecognized_name.
--- Exact names win over wildcards, keys over names of certificates, and of two certificates with one name the first. Each
--- ServerNames is a world of its own: that two of them have different certificates for a name is no clash.
---@param entries table<string|integer, moongate.openssl.SSLContext|moongate.Passthrough|false>
---@return moongate.ServerNames
function moongate.servernames(entries) end

--- Reads every file that matches ("certs/*.pem", "live/*/fullchain.pem"): certificate and key in one file, x.crt and x.key, or
--- certbot's fullchain.pem and privkey.pem. Certificates for the same names share a context; of two of one kind the first
--- is served. A file that cannot be used is left out here, and the script is refused at its end: all of them are told at once.
---@param pattern string
---@param configure? fun(ctx: moongate.openssl.SSLContext, names: string[]) called with each context
---@return moongate.openssl.SSLContext[] for moongate.servernames
function moongate.certificates(pattern, configure) end

--- An address in a list.
---@class moongate.BackendAddress
---@field address moongate.Address
---@field weight? integer its share beside the others', 1 to 65535 (1); of a name: each record's
---@field backup? boolean used only when no other can be (false)

--- How it is known whether an address serves. With `fall` and `rest` alone it is the connections that tell: so many in a row
--- that fail, and the address rests, twice as long each time up to 16 times, and is used only when nothing else is left. With
--- any other option it is probed, too, by one of the workers: `fall` probes in a row that fail take it out altogether.
--- Times are in seconds.
---@class moongate.Health
---@field fall? integer failures in a row (3)
---@field rest? number seconds of the first rest (10)
---@field interval? number seconds between probes (2)
---@field timeout? number seconds for one probe (2)
---@field rise? integer probes in a row that have to pass before the address is used again (2)
---@field kind? "tcp"|"tls" default: "tls" where the backend has tls
---@field send? string what a probe says
---@field expect? string what it wants to hear then: this text, as it is, anywhere in the first 64 KiB

--- The value of a TLV for one connection, at most 1024 bytes; nil: none. If it fails, that connection is closed.
---@alias moongate.ProxyValue fun(conn: moongate.Conn): string?

--- Options of `moongate.backend`. Times are in seconds.
---@class moongate.BackendOptions
---@field address moongate.Address|moongate.BackendAddress|(moongate.Address|moongate.BackendAddress)[] a name is as many addresses as it has A and AAAA records
---@field name? string at most 255 bytes, likewise; default: the first address; a second one with other settings gets " (2)"
---@field tls? moongate.openssl.SSLContext|boolean originate TLS; true = verify with the default CAs
---@field servername? string|fun(conn: moongate.Conn): string host name or IP address to send and verify; default: the host; needs tls
---@field send_proxy? "v1"|"v2"|false each connection begins with a PROXY header (false)
---@field proxy_tlvs? table<integer, string|moongate.ProxyValue> more TLVs for a v2 header; types are 0xE0 to 0xEF, and 0xF0 to 0xF7 for experiments
---@field balance? "random_two"|"round_robin"|"least_connections"|"source_hash"|"first" which address comes first ("random_two")
---@field connect_timeout? number seconds per address (5)
---@field resolve_interval? number seconds between look-ups of a name (30); new records come in, those that stay keep what is known of them
---@field health? moongate.Health|boolean true: probes with the defaults; false: not even failed connections count; default: they do
---@field max_connections? integer per address (of a name: per record), over all workers; default: no limit
---@field on_down? "keep"|"close" what becomes of connections to an address that goes down or to rest ("keep")
---@field source? string local IP address to connect from, of the family of an address; if it is none of this machine, a warning; "client" = each client's own (Linux, CAP_NET_RAW, and routes back to us)

--- What `moongate.backend` returns: its options as fields, which may be assigned until the script has returned.
---@class moongate.Backend
---@field address? moongate.Address[] (read-only)
---@field name string (read-only)
---@field tls? moongate.openssl.SSLContext
---@field servername? string|fun(conn: moongate.Conn): string
---@field send_proxy "v1"|"v2"|false
---@field proxy_tlvs? table<integer, string|moongate.ProxyValue>
---@field balance? string
---@field connect_timeout? number
---@field resolve_interval? number
---@field health? moongate.Health|boolean
---@field max_connections? integer
---@field on_down? string
---@field source? string
---@field frozen boolean (read-only) true once the script has returned

--- A server, or several that do the same, to connect to.
---@param options moongate.BackendOptions
---@return moongate.Backend
function moongate.backend(options) end

--- A backend inside moongate that answers with fixed bytes and closes.
---@param text string
---@return moongate.Backend
function moongate.reply(text) end

--- A backend inside moongate that sends back what comes.
---@return moongate.Backend
function moongate.echo() end

--- Runs a program while the script loads and returns its standard output. No shell is involved; at most 1 MiB
--- and 30 seconds.
---@param argv string[] program and arguments
---@return string
function moongate.command(argv) end

--- A connection as callbacks see it; read-only, and of no use after the connection has ended.
---@class moongate.Conn
---@field id integer
---@field listener string
---@field generation integer
---@field remote_ip? string the client: a PROXY header's source, where there was one; nil on a unix socket
---@field remote_port? integer
---@field local_ip? string what it had connected to: a PROXY header's destination, likewise
---@field local_port? integer
---@field socket_ip? string the TCP peer itself
---@field socket_port? integer
---@field proxy_tlvs table<integer, string> what a PROXY header of version 2 has said beside addresses, by type; {} if nothing
---@field ssl_version? string
---@field cipher? moongate.openssl.Cipher
---@field alpn_protocol? string
---@field alpn_protocols? string[] what the client offered, also where it is passed through; nil on a plain connection
---@field servername? string
---@field cert? moongate.openssl.Certificate
---@field peer_cert? moongate.openssl.Certificate
---@field peer_cert_chain? moongate.openssl.Certificate[]
---@field verify_result? integer
---@field session? moongate.openssl.Session
---@field session_reused? boolean
---@field tmp_key? moongate.openssl.PKey
---@field sigalg? string
---@field peer_sigalg? string
---@field group? string
---@field state? string
---@field pending? integer
---@field finished_message? string
---@field peer_finished_message? string
---@field client_ca? moongate.openssl.Name[]
---@field ocsp_response? string the DER that was stapled
local Conn = {}

--- Keying material of the connection (RFC 5705).
---@param label string
---@param length integer
---@param context? string
---@return string
function Conn:export_keying_material(label, length, context) end

return moongate
