/*
 * proxy: the engine. Sessions with two peers and one pump, frontends that accept, backends that are
 * connected to. No Lua: what a script decides is asked through struct mg_policy.
 *
 * Words: down is the side of the client that connected to us, up the side of the server that we connect
 * to; each peer knows its twin. A config is what one generation of a script amounts to: plain data,
 * frozen when the engine first sees it, reference-counted by the sessions that run under it.
 */
#ifndef MG_PROXY_PROXY_H
#define MG_PROXY_PROXY_H

#include "base/base.h"
#include "net/net.h"
#include "tls/tls.h"

struct mg_session;
struct mg_config;

/* ---- PROXY protocol -------------------------------------------------------------------------- */

enum mg_proxy_type {
    MG_PROXY_ALPN = 0x01,
    MG_PROXY_AUTHORITY = 0x02,
    MG_PROXY_CRC32C = 0x03,
    MG_PROXY_NOOP = 0x04,
    MG_PROXY_UNIQUE_ID = 0x05,
    MG_PROXY_SSL = 0x20,
    MG_PROXY_SSL_VERSION = 0x21, /* these five inside of SSL only */
    MG_PROXY_SSL_CN = 0x22,
    MG_PROXY_SSL_CIPHER = 0x23,
    MG_PROXY_SSL_SIG_ALG = 0x24,
    MG_PROXY_SSL_KEY_ALG = 0x25,
    MG_PROXY_CUSTOM_FIRST = 0xE0, /* whatever applications agree on */
    MG_PROXY_CUSTOM_LAST = 0xEF,
    MG_PROXY_EXPERIMENT_LAST = 0xF7, /* for trying things out */
};

#define MG_PROXY_UNIQUE_ID_MAX 128u
#define MG_PROXY_VALUE_MAX     1024u /* of a TLV that a script adds */

struct mg_proxy_tlv {
    unsigned type;
    const unsigned char *value;
    size_t len;
};

/* TLVs one after the other, in somebody's memory. */
struct mg_proxy_tlvs {
    const unsigned char *data;
    size_t len;
};

/* Takes the first one off the list; false at its end. The first one of a type, in a list that stays. */
bool mg_proxy_tlv_next(struct mg_proxy_tlvs *list, struct mg_proxy_tlv *tlv);
bool mg_proxy_tlv_find(struct mg_proxy_tlvs list, unsigned type, struct mg_proxy_tlv *tlv);

/* A TLV that a backend is told of every client. */
struct mg_backend_tlv {
    unsigned type;
    bool asked;  /* policy->proxy_tlv decides per connection */
    char *value; /* else; owned */
    size_t len;
};

/* ---- config --------------------------------------------------------------------------------- */

enum mg_backend_kind {
    MG_BACKEND_ADDRESSES, /* connect to one of the addresses */
    MG_BACKEND_REPLY, /* answer with fixed bytes once the client has sent something, and close */
    MG_BACKEND_ECHO,  /* send back what comes */
};

enum mg_balance {
    MG_BALANCE_RANDOM_TWO,        /* of two drawn by weight the one with fewer connections */
    MG_BALANCE_ROUND_ROBIN,       /* in turn, by weight, evenly spread */
    MG_BALANCE_LEAST_CONNECTIONS, /* over all workers, by weight */
    MG_BALANCE_SOURCE_HASH,       /* by the client's IP */
    MG_BALANCE_FIRST,             /* of the list */
};

/* "random_two", ... in that order; ended by NULL. */
extern const char *const mg_balance_names[];

/*
 * What the script wrote: an address, or a name, which stands for as many as its last good answer has. See
 * entries.c.
 */
struct mg_backend_entry {
    struct mg_endpoint endpoint;
    char text[MG_ADDR_TEXT + 256]; /* as written */
    unsigned weight;               /* of each address; 0 counts as 1 */
    bool backup;                   /* only when no other is to be had */
    /* run time, loop thread only */
    struct mg_backend *backend;   /* whose it is; set at activation */
    struct mg_resolver *resolver; /* names only; made at activation */
    struct mg_backend_address
        *addresses;       /* linked; those that are gone, too, while they are in use */
    size_t address_count; /* without those */
    uint64_t mark;        /* of the dial that has waited for it; see balance.c */
    bool unanswered;      /* a look-up has failed or taken too long, and there are no addresses */
    bool quiet;           /* another worker says what becomes of it, or nobody */
};

/* Whether an address may be picked now; see balance.c. */
enum mg_turn { MG_TURN_OUT, MG_TURN_MAY, MG_TURN_HAD };

/*
 * What connections get: one server. Counted references: of its entry, while it has it, and of whoever is
 * connected or has tried to; loop thread only.
 */
struct mg_backend_address {
    struct mg_backend_address *next; /* in entry->addresses */
    struct mg_backend_entry *entry;
    struct mg_addr addr;
    char text[MG_ADDR_TEXT]; /* for records: as written, or what a name has led to */
    unsigned refs;
    bool gone;                        /* the name has it no longer: not to be picked any more */
    bool seen;                        /* in the answer that is being looked through */
    struct mg_shared_address *shared; /* held; NULL: a route function's, or there was no room */
    _Atomic uint64_t *pass;           /* shared->pass, or ... */
    _Atomic uint64_t own_pass;
    unsigned active;        /* connections of this worker, being made included */
    uint64_t probed;        /* by this worker */
    uint64_t used, failed;  /* connections of this worker that began with it, and that it failed */
    uint64_t shunned_until; /* loop time; others were faster, so they come first */
    struct mg_probe *probe; /* that runs, or NULL */
    /* while one is being picked */
    uint64_t mark; /* of the dial that has tried it */
    unsigned rank;
    enum mg_turn turn;
};

/* How it is known whether an address serves. */
struct mg_health {
    unsigned
        fall; /* failures in a row, of connections or of probes; 0: those of connections do not count */
    unsigned
        rest_ms; /* after so many failed connections; twice as long each time, up to MG_RESTS_MAX times */
    bool probes;
    unsigned interval_ms, timeout_ms;
    unsigned rise;       /* probes in a row that end a rest or a down */
    bool tls;            /* a probe shakes hands */
    char *send, *expect; /* owned, or NULL: what it says then, and what it wants to hear */
    size_t send_len, expect_len;
};
#define MG_RESTS_MAX 16u

struct mg_backend {
    char *name;
    enum mg_backend_kind kind;
    bool duplicate; /* another one of the config is the same, which is probed for both */
    struct mg_backend_entry *entries; /* owned array */
    size_t entry_count;
    struct mg_backend_address **addresses; /* of all entries, in their order; run time */
    size_t address_count, address_room;
    enum mg_balance balance;
    SSL_CTX *tls;                      /* originate with it (one reference), or NULL = plain */
    bool verify_hostname;              /* the name below must match the certificate */
    bool tls_resumes;                  /* sessions are kept and offered, under ... */
    unsigned char tls_policy[32];      /* ... what they depend on in the context */
    char *servername;                  /* owned; NULL = host of the address that is connected to */
    bool servername_asked;             /* policy->servername decides per connection */
    unsigned send_proxy;               /* version of the PROXY header that goes first; 0 = none */
    struct mg_backend_tlv *proxy_tlvs; /* owned array; of version 2 */
    size_t proxy_tlv_count;
    bool
        tls_varies; /* so what the server gets to see depends on the client, or for other reasons */
    unsigned connect_timeout_ms;
    unsigned resolve_interval_s;
    struct mg_health health;
    int64_t max_connections; /* per address, over all workers; 0 = none */
    bool close_on_down;      /* connections to an address that goes down are closed */
    /* run time: */
    bool shares;             /* its addresses have slots in the memory that workers share */
    bool probed;             /* those that come are, too */
    bool watched;            /* by mg_health_watch */
    bool said_full;          /* that an address found no slot */
    struct mg_source source; /* where connections come from; transparent: from their client */
    char *reply;             /* MG_BACKEND_REPLY: owned bytes */
    size_t reply_len;
    struct mg_engine *engine; /* run time: set at activation */
    struct mg_metric *metric; /* likewise; held */
    struct mg_given *given;   /* likewise: only a function has given it; else NULL */
};

/* ---- names: which policy a client gets by the name it asks for -------------------------------- */

/* What a connection is answered with. */
struct mg_target {
    enum mg_target_kind {
        MG_TARGET_REFUSE,    /* alert unrecognized_name */
        MG_TARGET_TERMINATE, /* with tls */
        MG_TARGET_PASS,      /* the bytes go to the backend as they came */
    } kind;
    SSL_CTX *tls;    /* of TERMINATE */
    bool asks_hello; /* and its servername_cb is asked, through policy->hello */
};

struct mg_names;

/* Counted references; not atomic, since a table is one thread's at a time. NULL: no memory. */
struct mg_names *mg_names_new(void);
struct mg_names *mg_names_ref(struct mg_names *names);
void mg_names_unref(struct mg_names *names); /* NULL is fine */

/* Adds a target (which takes a reference to its context) and returns its index; -1: no memory. */
int mg_names_target(struct mg_names *names, const struct mg_target *target);

/* Adds a name, or "*.example.com" for all with one label more than that. If it is there already nothing changes
 * and *other is its target, else that is -1. -1: no memory, or empty or longer than a name. */
int mg_names_add(struct mg_names *names, const char *name, size_t len, int target, int *other);

enum mg_names_special { MG_NAMES_NONE, MG_NAMES_DEFAULT }; /* without a name; for all others */
void mg_names_set(struct mg_names *names, enum mg_names_special which, int target);

/*
 * The target for a name as a ClientHello has it; name NULL: there was none. NULL: nothing is meant for
 * it. *pattern is what matched: a name or wildcard of the table, "none" or "default".
 */
const struct mg_target *mg_names_find(const struct mg_names *names, const void *name, size_t len,
                                      const char **pattern);

size_t mg_names_count(const struct mg_names *names);
size_t mg_names_target_count(const struct mg_names *names);
const struct mg_target *mg_names_target_at(const struct mg_names *names,
                                           size_t index); /* or NULL */

/* The names in the order of adding; *cursor is 0 at first. NULL at the end. */
const char *mg_names_next(const struct mg_names *names, size_t *cursor,
                          const struct mg_target **target);

/* SipHash-2-4. */
uint64_t mg_names_hash(const uint64_t key[2], const char *data, size_t len);

/* ---- listener -------------------------------------------------------------------------------- */

/* Whose connections begin with a PROXY header. */
enum mg_accept_proxy {
    MG_ACCEPT_PROXY_NONE,
    MG_ACCEPT_PROXY_ALL,
    MG_ACCEPT_PROXY_LISTED, /* those of the networks below; nobody else's bytes are read as one */
};

struct mg_listener {
    char *name;
    char **addresses; /* owned canonical texts ("127.0.0.1:8443", "*:443", "unix:/x") */
    size_t address_count;
    SSL_CTX *tls;           /* terminate with it (one reference), or NULL = plain TCP */
    struct mg_names *names; /* terminate by name; one reference, or NULL */
    bool tls_callbacks;     /* the context has callbacks into the script */
    bool hello_asked;       /* policy->hello decides by the ClientHello */
    bool tls_optional;      /* the first byte decides between TLS and plain */
    bool tcp_nodelay;
    enum mg_accept_proxy accept_proxy;
    struct mg_backend *backend;     /* borrowed from the config; NULL = ask policy->route */
    struct mg_cidr *proxy_networks; /* owned array */
    size_t proxy_network_count;
    unsigned handshake_timeout_ms, idle_timeout_ms, max_lifetime_ms,
        half_close_timeout_ms;        /* 0 = none */
    int64_t max_connections;          /* over all workers; 0 = none */
    int64_t max_connections_per_ip;   /* likewise */
    struct mg_rate rate, rate_per_ip; /* of full handshakes, over all workers */
    unsigned backlog;
    unsigned tcp_keepalive_s; /* 0 = off */
    /* run time */
    struct mg_shared_listener *shared; /* held for `worker` from activation on */
    struct mg_metric *metric;          /* likewise */
    uint64_t accepted;
    unsigned worker;
    unsigned open; /* sessions of this worker */
};

/* What a route question is answered with. */
struct mg_route {
    struct mg_backend *backend; /* the config's, or one of mg_config_given */
    char reason[256];           /* when refused */
    bool failed; /* nobody has refused: the callback went wrong, and has been logged */
    bool full;   /* likewise: it was MG_GIVE_FULL */
};

/* What a ClientHello is answered with. */
struct mg_choice {
    struct mg_target target;
    int alert; /* of a refusal */
};

/*
 * Upward questions. They are asked from the loop, never from libssl's stack, and must not block. Any
 * may be NULL where the config has no use for it. An implementation never longjmps.
 */
struct mg_policy {
    /*
     * The ClientHello of a listener with hello_asked (or whose names lead to a target with asks_hello) is
     * complete; there is no SSL object yet. choice->target is what the listener's own context or names
     * say, or REFUSE. 0: it is what is to happen, with a reference to its context that the engine drops.
     * -1: refused with choice->alert (unrecognized_name unless it is set), err says why.
     */
    int (*hello)(void *data, struct mg_session *session, const struct mg_listener *listener,
                 const struct mg_hello *hello, struct mg_choice *choice, struct mg_err *err);
    /* After the handshake of a listener without a fixed backend. -1: refused, route->reason set. */
    int (*route)(void *data, struct mg_session *session, const struct mg_listener *listener,
                 struct mg_route *route);
    /* The SNI for this connection to a backend with servername_asked; -1: refused, err set. */
    int (*servername)(void *data, struct mg_session *session, const struct mg_backend *backend,
                      char out[256], struct mg_err *err);
    /* The value of a TLV that is `asked`. 1: it is in out; 0: none for this connection; -1: err set. */
    int (*proxy_tlv)(void *data, struct mg_session *session, const struct mg_backend *backend,
                     unsigned type, struct mg_buf *out, struct mg_err *err);
    /* The session ends: what the script holds of it must no longer reach it. */
    void (*forget)(void *data, struct mg_session *session);
};

struct mg_config {
    uint64_t generation;
    struct mg_listener *listeners; /* owned array */
    size_t listener_count;
    struct mg_backend **backends; /* owned; what the script has made */
    size_t backend_count;
    const struct mg_policy *policy;
    void *policy_data;
    /* When the last reference is dropped (loop thread): the owner frees script, contexts and this. */
    void (*on_unused)(struct mg_config *config);
    void *owner;
    struct mg_engine *engine; /* run time: set at activation */
    unsigned refs;            /* sessions + 1 while it is current */
    unsigned sessions;        /* open ones, for `status` */
};

void mg_config_ref(struct mg_config *config);
void mg_config_unref(struct mg_config *config);

/* Frees what the config owns (names, arrays, SSL_CTX references, resolvers), not the struct itself. */
void mg_config_fini(struct mg_config *config);
void mg_backend_free(struct mg_backend *backend);

/*
 * Backends that only functions give, by the address that they have returned, of a config that is in use. They live
 * while sessions have them and for a minute after the last one, unless others need the room: what is returned
 * here is good until the loop goes on. NULL: there is none yet. mg_config_give takes one over in any case.
 */
enum mg_give {
    MG_GIVE_OK,
    MG_GIVE_FULL, /* so many have connections; the log has been told */
    MG_GIVE_NO_MEMORY,
};
struct mg_backend *mg_config_given(struct mg_config *config, const char *address);
enum mg_give mg_config_give(struct mg_config *config, struct mg_backend *backend);

/* ---- engine --------------------------------------------------------------------------------- */

struct mg_engine;

struct mg_engine_options {
    uv_loop_t *loop;
    struct mg_shared *shared;
    unsigned worker; /* index into the rows of the shared counters */
    int access_fd;   /* access records, or -1; borrowed */
    enum mg_log_format access_format;
    struct mg_ring *ring;    /* keeps the ClientHellos of those who connect, or NULL; borrowed */
    unsigned unfinished_max; /* handshakes; 0 = the default */
    unsigned given_max;      /* backends that only functions give; likewise */
    unsigned given_idle_ms;  /* until one of them is forgotten; likewise */
};

struct mg_engine *mg_engine_new(const struct mg_engine_options *options, struct mg_err *err);

/* Instead of uv_run(loop, UV_RUN_DEFAULT): until the engine has closed, and then until nothing of the loop
 * is left. */
void mg_engine_run(struct mg_engine *engine);

void mg_engine_set_access_fd(struct mg_engine *engine, int fd); /* after USR1 */

/* Makes run-time parts (resolvers, addresses, shared slots) of a config; loop thread, before its first use. */
int mg_engine_activate(struct mg_engine *engine, struct mg_config *config, struct mg_err *err);

/* Nothing of the current config is probed, or touched for that, any more: the worker leaves, and others judge
 * the addresses of backends. */
void mg_engine_stop_probes(struct mg_engine *engine);

/* The worker leaves: mg_engine_stop_probes, and what is counted stays as it is. */
void mg_engine_leave(struct mg_engine *engine);

/* That config is the current one: its addresses are probed, as long as it lives, and TLS sessions with
 * backends that it does not have are dropped. */
void mg_engine_use(struct mg_engine *engine, const struct mg_config *config);

/* Closes every session (of that config, or of all when NULL) now, with that constant reason. */
void mg_engine_close_sessions(struct mg_engine *engine, const struct mg_config *config,
                              const char *reason);

size_t mg_engine_sessions(const struct mg_engine *engine);

/* Connections accepted since the start. */
uint64_t mg_engine_accepted(const struct mg_engine *engine);

/* Adds a JSON object (no newline): totals, per listener, closes by reason, states. */
void mg_engine_status(const struct mg_engine *engine, struct mg_buf *out);

/* Adds a line "unwell=BACKEND TAB ADDRESS TAB STATE TAB SECONDS TAB WHY" for each address that is down or resting,
 * and each name that cannot be resolved (seconds are -1), in the script's order; unprintable bytes are escaped. */
void mg_engine_unwell(const struct mg_engine *engine, struct mg_buf *out);

/* Sessions and frontends are closed or closing; the configs' last references may go until then.
 * `closed` is called when all handles are gone and the engine's memory is freed. The loop then has
 * nothing of the engine's (uv_loop_close == 0). */
void mg_engine_close(struct mg_engine *engine, void (*closed)(void *data), void *data);

/* Called once each time the number of sessions falls to 0. */
void mg_engine_on_idle(struct mg_engine *engine, void (*idle)(void *data), void *data);

/* ---- frontend: one listening socket --------------------------------------------------------- */

struct mg_frontend;

/* Takes the fd over, also on failure. It accepts from the first mg_frontend_set on. */
struct mg_frontend *mg_frontend_open(struct mg_engine *engine, const char *address, int fd,
                                     struct mg_err *err);
const char *mg_frontend_address(const struct mg_frontend *frontend);

/* From now on new connections run under this listener of this config (which must stay current, that is
 * referenced, until the next call). */
void mg_frontend_set(struct mg_frontend *frontend, struct mg_config *config,
                     struct mg_listener *listener);

/* Accepts what waits in the queue if `flush`, over as many turns as it takes, then closes; memory frees
 * itself. The listener's config must stay until `closed`. A second call without `flush` closes at once. */
void mg_frontend_close(struct mg_frontend *frontend, bool flush, void (*closed)(void *data),
                       void *data);

/* ---- what others may know of a session ------------------------------------------------------ */

/* Pointers are valid while the session is. */
struct mg_session_info {
    uint64_t id;
    uint64_t generation;
    const struct mg_listener *listener;
    struct mg_config *config;
    const struct mg_addr *remote;        /* as in Conn: PROXY header's where there is one */
    const struct mg_addr *socket_remote; /* the TCP peer itself */
    struct mg_proxy_tlvs proxy_tlvs;     /* of the PROXY header */
    struct mg_tls_conn *tls; /* down, without an SSL object until its context is chosen; NULL on a
                                plain listener */
    const struct mg_tls_conn
        *hello;             /* what its ClientHello offered, also where it is passed through;
                                        NULL without TLS */
    const char *servername; /* what a ClientHello that is being decided on, or was passed through,
                                asks for; or NULL */
    const struct mg_backend *backend; /* NULL until it is chosen */
    uint64_t bytes_up, bytes_down;    /* plaintext from the client, and to it */
};

void mg_session_info(const struct mg_session *session, struct mg_session_info *info);

/* The address that the client has connected to: the PROXY header's, or asked of the socket; len 0 where that
 * does not tell. */
void mg_session_local(const struct mg_session *session, struct mg_addr *out);

/* The script's slot on a session (its Conn), kept for policy; NULL at first. */
void *mg_session_user(const struct mg_session *session);
void mg_session_set_user(struct mg_session *session, void *user);

/* The session that owns this TLS connection (tls->owner), or NULL for an in-memory one. */
struct mg_session *mg_session_of_tls(const struct mg_tls_conn *tls);

#endif
