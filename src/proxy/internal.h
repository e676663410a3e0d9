/*
 * What the files of proxy/ share with each other only.
 *
 * Ownership: a session owns its two peers and its deadline (embedded) and, while it connects, its dial.
 * The engine's lists only link what exists. Everything a session holds is released in
 * mg_session_release, when `live` falls to 0.
 */
#ifndef MG_PROXY_INTERNAL_H
#define MG_PROXY_INTERNAL_H

#include "proxy/proxy.h"

/* ---- lists: circular, the head is a link too ------------------------------------------------- */

struct mg_link {
    struct mg_link *next, *prev;
};

static inline void
mg_link_init(struct mg_link *link)
{
    link->next = link->prev = link;
}

static inline void
mg_link_append(struct mg_link *head, struct mg_link *link)
{
    link->prev = head->prev;
    link->next = head;
    head->prev->next = link;
    head->prev = link;
}

/* Idempotent for an initialised link. */
static inline void
mg_link_remove(struct mg_link *link)
{
    link->prev->next = link->next;
    link->next->prev = link->prev;
    mg_link_init(link);
}

static inline bool
mg_link_empty(const struct mg_link *head)
{
    return head->next == head;
}

/* ---- proxy_protocol.c: PROXY headers as bytes ------------------------------------------------- */

#define MG_PROXY_HEADER_MAX 16384u /* a longer one is refused, and not written either */

enum mg_proxy_status { MG_PROXY_MORE, MG_PROXY_COMPLETE, MG_PROXY_REFUSED };

enum mg_proxy_refusal {
    MG_PROXY_NONE,      /* something else than a header */
    MG_PROXY_MALFORMED, /* detail says where */
    MG_PROXY_OVERSIZE,
};

struct mg_proxy_header {
    unsigned version;                   /* 1 or 2 */
    size_t len;                         /* of the whole header; what follows is not its */
    bool local;                         /* LOCAL: on its sender's own behalf */
    bool own_addresses;                 /* it has none: those of the sockets hold */
    struct mg_addr source, destination; /* else */
    struct mg_proxy_tlvs tlvs;          /* points into what was read */
    /* of REFUSED */
    enum mg_proxy_refusal refusal;
    const char *detail; /* constant, or NULL */
};

/* `data` is all that has come so far. */
enum mg_proxy_status mg_proxy_read(const unsigned char *data, size_t len,
                                   struct mg_proxy_header *header);

/* A whole header of version 1; UNKNOWN where not both are IP addresses. */
void mg_proxy_write_v1(struct mg_buf *out, const struct mg_addr *source,
                       const struct mg_addr *destination);

/* One of version 2, into an empty buffer, in the order begin, TLVs, end. An address may have len 0. false: not
 * both are IP addresses; the header is LOCAL, whole, and there are no TLVs. */
bool mg_proxy_v2_begin(struct mg_buf *out, const struct mg_addr *source,
                       const struct mg_addr *destination);
void mg_proxy_v2_tlv(struct mg_buf *out, unsigned type, const void *value, size_t len);

/* An SSL TLV, with the TLVs until _end inside of it. */
#define MG_PROXY_CLIENT_SSL       1u
#define MG_PROXY_CLIENT_CERT_CONN 2u
#define MG_PROXY_CLIENT_CERT_SESS 4u
size_t mg_proxy_v2_ssl_begin(struct mg_buf *out, unsigned client, uint32_t verify);
void mg_proxy_v2_ssl_end(struct mg_buf *out, size_t begun);

/* -1: no memory, or too long. */
int mg_proxy_v2_end(struct mg_buf *out);

/* For a connection of our own (a health check): LOCAL; or a line with its own addresses, as the specification
 * wants it, in version 1. */
void mg_proxy_write_own(struct mg_buf *out, unsigned version, const struct mg_addr *local,
                        const struct mg_addr *peer);

/* ---- engine ---------------------------------------------------------------------------------- */

/* One call's ciphertext out: a full read unit encrypted. */
#define MG_OUT_UNIT (MG_NET_UNIT + MG_TLS_OUT_SLACK)

/* A peer in the middle of its handshake reads no more than this at once, because it may have to be
 * kept until its turn. */
#define MG_HANDSHAKE_READ (16u * 1024u)

#define MG_REASONS 192 /* more than there are */

/* What the log tells of when it bites; the first ones are mg_shared_listener.told's. */
enum mg_limit {
    MG_LIMIT_CONNECTIONS,
    MG_LIMIT_PER_IP,
    MG_LIMIT_RATE,
    MG_LIMIT_RATE_PER_IP,
    MG_LIMIT_UNFINISHED,
    MG_LIMIT_BACKEND, /* all addresses are full */
    MG_LIMIT_PORTS,   /* no limit of ours: there is none to connect from */
    MG_LIMIT_NONE,
};

/* Backends that only functions have given; see given.c. */
#define MG_GIVEN_BUCKETS 1024
struct mg_givens {
    struct mg_given *bucket[MG_GIVEN_BUCKETS]; /* of all configs, by address */
    struct mg_link idle;                       /* those that nobody uses, the first since longest */
    unsigned count, most, idle_ms;
    uint64_t say_at;  /* loop time from which on the log is told that there are too many */
    uv_timer_t timer; /* runs while some are idle */
};

struct mg_reason_count {
    const char *reason; /* constant */
    unsigned index;     /* in the metrics' tables */
    enum mg_limit limit;
    uint64_t count; /* of closes; 0 for what only an address has failed by */
};

struct mg_engine {
    struct mg_engine_options options;
    struct mg_net net;
    unsigned char *plain; /* MG_NET_UNIT bytes: what one call decrypts */
    unsigned char *out;   /* MG_OUT_UNIT bytes: what one call encrypts */
    struct mg_link sessions, frontends;
    struct mg_link handshakes;  /* peers whose handshake can go a step further */
    uint64_t heard_at;          /* loop time at which an established session was last heard, or 0 */
    struct mg_offload *offload; /* takes them over when there are many; owned */
    uv_timer_t full_timer;      /* runs while a frontend waits for room under max_connections */
    unsigned handles;           /* of the timers, offload's and the probes', not yet closed */
    size_t session_count;       /* until their memory is freed */
    uint64_t accepted, handshakes_done, bytes_up, bytes_down; /* of closed sessions: the bytes */
    struct mg_reason_count closes[MG_REASONS];
    struct mg_metrics *metrics; /* this worker's */
    uint64_t records_lost;      /* access records, since the log last went on */
    uint64_t records_lost_at;   /* loop time */
    uint64_t random;            /* xorshift state: balancing, nothing secret */
    uint64_t instance;          /* drawn at the start: with a session's id unique everywhere */
    struct mg_reuse *reuse;     /* TLS sessions with backends; owned */
    struct mg_link unfinished;  /* sessions whose handshake is not over, the oldest first */
    unsigned unfinished_count, unfinished_max;
    uint64_t limits_secret[2];
    const struct mg_config *config; /* in use, or NULL; borrowed */
    struct mg_link probes;          /* those of its addresses */
    uint64_t marks;                 /* drawn so far, each by a dial that picks; see balance.c */
    uv_timer_t down_timer;          /* runs while a backend has on_down = "close" */
    unsigned down_watchers;         /* such backends */
    uint32_t downs_seen;            /* of shared->downs */
    struct told *told;              /* limits of which we say when they no longer bite; owned */
    uv_timer_t told_timer;          /* runs while there is one */
    struct mg_givens givens;
    uint32_t tellers_gone;          /* of shared->tellers_gone, as last seen */
    struct mg_shared_told told_own; /* of backends that share nothing: their ports */
    struct mg_link portless;        /* waits for a local port, in the order in which they began */
    uv_timer_t ports_timer;         /* runs while there is one */
    uint64_t ports_round;           /* of tries; see ports.c */
    bool slots_due;                 /* an address may lack its slot, and get it now */
    bool closing;
    void (*on_idle)(void *data);
    void *on_idle_data;
    void (*on_closed)(void *data);
    void *on_closed_data;
};

/* Something the engine waits for at its close is gone. */
void mg_engine_release(struct mg_engine *engine);

/* A session of that age is not one of a flood. */
#define MG_ESTABLISHED_MS 50

/* Some of that age were heard a short while ago: handshakes stand back for them. */
bool mg_engine_others_talk(const struct mg_engine *engine);

/* ---- session --------------------------------------------------------------------------------- */

enum mg_state {
    S_PROXY, /* the PROXY header, where one is to come */
    S_HELLO, /* the ClientHello, where the policy chooses the context by it; or the first byte */
    S_HANDSHAKE, /* TLS with the client */
    S_ROUTE,     /* which backend */
    S_CONNECT,   /* TCP, and TLS, with the backend */
    S_RELAY,     /* bytes */
    S_LINGER,    /* both ends are said; what is buffered still leaves */
    S_CLOSING,   /* waiting for close callbacks */
};
extern const char *const mg_state_names[];

/* One side of a session. */
struct mg_peer {
    struct mg_session *session;
    struct mg_peer
        *twin; /* who gets what this one sends; itself where there is no backend to connect to */
    struct mg_stream stream;
    struct mg_tls_conn tls;        /* tls.ssl is NULL on a plain side */
    struct mg_link handshake_link; /* in engine->handshakes */
    char *held;                    /* input that waits for its handshake step or the relay; owned */
    size_t held_len;
    char *parked; /* output that libssl does not take before it has read more; owned; see pump.c */
    size_t parked_len;
    size_t answers;     /* of libssl to this peer, that wait in its stash; about */
    size_t unsent_seen; /* bytes that its other side had not taken at ... */
    uint64_t moved_at;  /* ... this loop time, when the number was last seen to have changed */
    uint64_t told;      /* relayed bytes that had left to it by then; UINT64_MAX: some had not */
    bool deciding;      /* its ClientHello comes first: S_HELLO, or refused in it */
    bool ended;         /* its input came to a proper end */
    bool finish_wanted; /* its end is to be told once what is parked has left */
    bool finished; /* it has been told a proper end: close_notify where there is TLS, and FIN */
};

/* What a PROXY header has said beside the client's address, which is session->remote. */
struct mg_origin {
    unsigned version;
    bool local, own_addresses;
    struct mg_addr *socket; /* the TCP peer; owned. NULL: it is session->remote */
    struct mg_addr *target; /* what the client had connected to; owned. NULL: ask the socket */
    size_t tlv_len;
    unsigned char tlvs[];
};

/* One attempt to reach a backend; see backend.c. */
struct mg_dial;

/* A step of down's handshake in the helper thread; see offload.c. */
struct mg_job;

struct mg_session {
    struct mg_link link;            /* in engine->sessions */
    struct mg_link unfinished_link; /* in engine->unfinished */
    struct mg_engine *engine;
    struct mg_config *config; /* one reference */
    struct mg_listener *listener;
    struct mg_backend *backend; /* chosen, or NULL */
    struct mg_backend_address
        *address;         /* tried (its counts are the dial's) or connected to; or NULL */
    struct mg_dial *dial; /* owned; NULL unless connecting */
    struct mg_job *job;   /* owned; while it is there down.tls and down.held are not ours */
    struct mg_peer down, up;
    struct mg_deadline
        deadline; /* one for all; set again when it passes or an earlier one appears */
    uint64_t id;
    uint64_t born_at;      /* loop time */
    uint64_t active_at;    /* loop time of the last byte that was relayed */
    uint64_t linger_until; /* loop time; 0 = none */
    uint64_t keepalive_at; /* loop time at which up gets its keepalive; 0 = has it, or none */
    uint64_t born_ns;
    uint32_t hello_us, handshake_us,
        connect_us;    /* accept to ClientHello, to handshake; dial to up */
    uint32_t lingered; /* bytes thrown away in S_LINGER */
    uint64_t bytes_up, bytes_down;
    const char *reason;           /* constant; why it closes or lingers */
    const char *counted;          /* likewise; the failure of its backend that was counted last */
    char *detail;                 /* owned; or NULL */
    struct mg_hello_reader hello; /* of S_HELLO */
    char *servername;       /* from the ClientHello, until down has an SSL object, if ever; owned */
    struct mg_addr *remote; /* owned */
    struct mg_origin *origin; /* owned; NULL: no PROXY header */
    struct mg_addr *up_addr;  /* tried or connected to; owned, or NULL */
    char *failures; /* of addresses, "127.0.0.1:1: up: connection refused; ..."; owned, or NULL */
    void *user;
    uint32_t downs;       /* of the address's, when it was connected to */
    uint16_t tries;       /* addresses that have failed, were overtaken, or served */
    unsigned live;        /* streams not yet closed: down, up */
    int32_t limits_place; /* for mg_limits_leave, if not negative */
    enum mg_state state;
    bool passed;    /* down has TLS, but with the backend: what it sends is relayed as it is */
    bool plain;     /* tls_optional, and down has none */
    bool up_ready;  /* the backend takes bytes */
    bool connected; /* up_ready was reached: connect_us is true */
    bool settled;   /* it needs no further descriptor, or none that was counted */
};

/* Takes the accepted fd over, also on failure. The listener's shared count is the session's from
 * here on.*/
int mg_session_open(struct mg_engine *engine, struct mg_config *config,
                    struct mg_listener *listener, int fd, const struct mg_addr *remote,
                    bool is_unix);

/*
 * The one function that closes, callable anywhere but inside libssl, idempotent. `reason` is a
 * constant; detail may be NULL. A side that was not told a proper end gets a reset, so that nobody
 * takes what it has for the whole.
 */
void mg_session_close(struct mg_session *s, const char *reason, const char *detail);

/* Nothing more to relay: closes when what was written has left and, with `drain`, the client has
 * closed too or MG_LINGER_MS or MG_LINGER_BYTES are over. */
#define MG_LINGER_MS    2000u
#define MG_LINGER_BYTES (256u * 1024u)
void mg_session_linger(struct mg_session *s, const char *reason, const char *detail, bool drain);

/* A read or write of that peer's socket failed. */
void mg_session_socket_error(struct mg_peer *peer, int error);
/* Relayed bytes that were meant for this peer. */
uint64_t mg_peer_told(const struct mg_peer *peer);

/* Who the client is is settled, and what it has said so far is held: S_HELLO, S_HANDSHAKE or S_ROUTE. */
void mg_session_begin(struct mg_session *s);

/* The client's context is chosen: S_HANDSHAKE. */
void mg_session_handshake(struct mg_session *s);

/* Unless it has begun, and once the ClientHello is answered: connects to a backend that does not depend on the
 * rest of the handshake. */
void mg_session_dial_early(struct mg_session *s);

/* Down's handshake is over, or there is none: route, connect, relay. */
void mg_session_route(struct mg_session *s);

/* The backend takes bytes. */
void mg_session_up_ready(struct mg_session *s);

/* It has, or will not need, the descriptor that it was expected to want. Idempotent. */
void mg_session_settle(struct mg_session *s);

/* Sets the deadline if there is one earlier than what it is set to. */
void mg_session_arm(struct mg_session *s);
void mg_session_on_deadline(struct mg_net *net, struct mg_deadline *deadline);

/* Microseconds since accept, saturating. */
uint32_t mg_session_elapsed_us(const struct mg_session *s);

static inline bool
mg_peer_is_down(const struct mg_peer *peer)
{
    return peer == &peer->session->down;
}

/* down where peer is down, else up: for the constant reasons that exist for both sides. */
static inline const char *
mg_peer_reason(const struct mg_peer *peer, const char *down, const char *up)
{
    return mg_peer_is_down(peer) ? down : up;
}

/* The reason if the peer, or libssl on its behalf, has had enough of records that bring nothing; else NULL. */
const char *mg_peer_flood_reason(const struct mg_peer *peer);

/* The callbacks of both peers' streams. */
extern const struct mg_stream_ops mg_peer_ops;

/* ---- proxied.c: PROXY headers of sessions ----------------------------------------------------- */

/* Whether the client has to send one. */
bool mg_session_proxy_expected(const struct mg_session *s);

/* S_PROXY: more of it. */
void mg_session_proxy_input(struct mg_session *s, const unsigned char *data, size_t len);
void mg_session_proxy_eof(struct mg_session *s);

/* Whether what the backend is told depends on the handshake with the client. */
bool mg_backend_proxy_waits(const struct mg_backend *backend);

/* The header for the session's backend, empty if there is none. -1: the session has closed. */
int mg_session_proxy_header(struct mg_session *s, struct mg_buf *out);

/* The UNIQUE_ID that a backend gets: the one that came, or one of ours. */
void mg_session_unique_id(const struct mg_session *s, struct mg_buf *out);

void mg_origin_free(struct mg_origin *origin); /* NULL is fine */

/* The TCP peer, whatever a header says. */
const struct mg_addr *mg_session_socket(const struct mg_session *s);

/* ---- handshake: handshake.c, hello.c --------------------------------------------------------- */

/* Whether the peer has TLS that is not yet established. */
static inline bool
mg_peer_in_handshake(const struct mg_peer *peer)
{
    return peer->deciding || (peer->tls.ssl != NULL && !peer->tls.handshake_done);
}

/* Adds to what is held. false: no memory, the session has closed. */
bool mg_peer_hold(struct mg_peer *peer, const unsigned char *data, size_t len);

/* Forgets the first `used` bytes of what is held. */
void mg_peer_consume(struct mg_peer *peer, size_t used);

/* Keeps the bytes until the peer's turn; stops reading. */
void mg_handshake_input(struct mg_peer *peer, const unsigned char *data, size_t len);

/* Puts the peer into the engine's queue, from where it gets a step; engine.c. */
void mg_handshake_enqueue(struct mg_peer *peer);

/* Takes what is held as far as it goes, or has the helper thread do it. */
void mg_handshake_step(struct mg_peer *peer);

/* What a step has brought. */
struct mg_handshake_answer {
    enum mg_tls_status status;
    size_t used; /* of what is held */
    struct mg_buf out;
    struct mg_err err;
};

/* Goes on after a step that was done elsewhere. */
void mg_handshake_answered(struct mg_peer *peer, const struct mg_handshake_answer *answer);

/* Down gets no further: what it was told has left, FIN follows, and we wait for its end. */
void mg_handshake_refused(struct mg_session *s, const char *reason, const char *detail);

/* Whether a client has to say something before it is known what becomes of it. */
static inline bool
mg_listener_waits(const struct mg_listener *listener)
{
    return listener->tls != NULL || listener->hello_asked || listener->names != NULL;
}

/* Whether there is something of the client's before its connection is more than an unfinished one. */
static inline bool
mg_listener_hears_first(const struct mg_listener *listener)
{
    return listener->accept_proxy != MG_ACCEPT_PROXY_NONE || mg_listener_waits(listener);
}

/* Whether the ClientHello is read before there is an SSL object. */
static inline bool
mg_listener_reads_hello(const struct mg_listener *listener)
{
    return listener->hello_asked || listener->names != NULL;
}

/* Whether a record or the script may ask what the client had offered. */
static inline bool
mg_session_notes_hello(const struct mg_session *s)
{
    const struct mg_listener *l = s->listener;

    return s->engine->options.access_fd >= 0 || l->backend == NULL || l->tls_callbacks ||
           mg_listener_reads_hello(l);
}

/* Gives down its SSL object. false: the session has closed. */
bool mg_session_tls_open(struct mg_session *s, SSL_CTX *ctx);

/* Opens down in S_HELLO. */
void mg_session_hello_open(struct mg_session *s);

/* Reads what down holds in S_HELLO. true: down has an SSL object now, which takes what is held. */
bool mg_session_hello_step(struct mg_session *s);

/* Whether the chosen backend cannot take what is passed through; then the client is told. */
bool mg_session_pass_refused(struct mg_session *s);

/* ---- offload.c: the helper thread for handshakes ---------------------------------------------- */

struct mg_offload *mg_offload_new(struct mg_engine *engine); /* NULL: no memory */

/* No session has a job any more. How many handles are closing. The memory goes by _free, after that. */
unsigned mg_offload_close(struct mg_offload *offload, uv_close_cb closed);
void mg_offload_free(struct mg_offload *offload);

/* The peer's step is the thread's, and mg_handshake_answered follows; false: it is to be done here. */
bool mg_offload_take(struct mg_peer *peer);

/* Afterwards down.tls may be looked at: a job that was not begun waits for its turn again. */
void mg_offload_settle(struct mg_session *s);

/* Afterwards there is no job. */
void mg_offload_cancel(struct mg_session *s);

/* Once a turn: what the thread has done goes on, and if it does not get on, one of its steps is done here. true:
 * there may be more of these. */
bool mg_offload_turn(struct mg_engine *engine);

/* How many steps the thread has done. */
uint64_t mg_offload_steps(const struct mg_offload *offload);

/* ---- pump: pump.c ---------------------------------------------------------------------------- */

/* Starts relaying: what was held first, then both sockets. */
void mg_pump_start(struct mg_session *s);
void mg_pump_input(struct mg_peer *peer, const unsigned char *data, size_t len);
void mg_pump_eof(struct mg_peer *peer);
void mg_pump_drain(struct mg_peer *peer);

/* Looks whether the other side has taken bytes since the last look: a slow reader is not idle. */
void mg_pump_look(struct mg_peer *peer, uint64_t now);

/* ---- dial: backend.c ------------------------------------------------------------------------- */

/* Starts connecting to s->backend; ends in mg_session_up_ready or mg_session_close. */
void mg_dial_start(struct mg_session *s);
void mg_dial_connected(struct mg_session *s, int status);

/* This address will not do: the next one, or the end. Reason and detail as for mg_session_close. */
void mg_dial_failed(struct mg_session *s, const char *reason, const char *detail);

/* up's TLS is established. */
void mg_dial_done(struct mg_session *s);

/* up's stream has closed while the session goes on. */
void mg_dial_closed(struct mg_session *s);

/* The name that is sent to that address and verified, where no function gives one for each client. */
void mg_backend_servername(const struct mg_backend_address *address, char out[256]);

/* How many addresses are being connected to. */
unsigned mg_dial_trying(const struct mg_session *s);

/* up's handshake waits in the engine's queue; has its turn. */
void mg_dial_queued(struct mg_session *s);
void mg_dial_turn(struct mg_session *s);

/* Loop time of the current address's deadline; 0 = none. And that it has passed. */
uint64_t mg_dial_deadline(const struct mg_session *s);
void mg_dial_timeout(struct mg_session *s);
void mg_dial_cancel(struct mg_session *s);

/* Where the connection to s->backend is to come from, and whether that can reach an address. */
void mg_source_get(const struct mg_session *s, struct mg_source *source);
bool mg_source_reaches(const struct mg_source *source, const struct mg_addr *addr);

/* It waits for a local port, and may try again. */
void mg_dial_port(struct mg_session *s);

/* ---- ports.c: without a local port ------------------------------------------------------------- */

/* A dial's, embedded. */
struct mg_port_wait {
    struct mg_link link; /* in engine->portless while it does nothing else */
    struct mg_session *session;
    uint64_t since;                        /* loop time at which it began; 0 = it never did */
    bool wants;                            /* it has had none since then, and is counted: */
    struct mg_backend_address *counted_at; /* one reference; or NULL */
    struct mg_shared_address *shared;      /* its, at that time; or NULL */
};

void mg_ports_init(struct mg_session *s, struct mg_port_wait *wait);

/* Whether connections to that backend wait, of whatever worker, so that it is no use to try, or to accept more. */
bool mg_ports_awaited(const struct mg_backend *backend);

/* It is about to wait: counted from now on, so that nobody is accepted meanwhile. */
void mg_ports_want(struct mg_port_wait *wait);

/* mg_dial_port follows, perhaps several times, each after this; until there is a port. */
void mg_ports_wait(struct mg_port_wait *wait, const struct mg_source *source);

/* It has one, or wants none any more. Idempotent. */
void mg_ports_leave(struct mg_port_wait *wait);

void mg_ports_on_timer(uv_timer_t *timer);

/* ---- entries.c: what entries stand for --------------------------------------------------------- */

/* From time to time: addresses that lack their slot, since its table was busy, get it. */
void mg_entries_look(struct mg_engine *engine);

/* Its entries' addresses, which come and go from here on. `shares`: they are known to all workers. */
int mg_backend_activate(struct mg_engine *engine, struct mg_backend *backend, bool shares,
                        struct mg_err *err);

/* No session has anything to do with it any more. */
void mg_entries_free(struct mg_backend *backend);

/* One more of the entry's. NULL: err is set. */
struct mg_backend_address *mg_backend_address_add(struct mg_backend_entry *entry,
                                                  const struct mg_addr *addr, struct mg_err *err);
void mg_backend_address_ref(struct mg_backend_address *address);
void mg_backend_address_unref(struct mg_backend_address *address);

/* Others were faster: for a while they come first. */
void mg_backend_address_shun(struct mg_backend_address *address, uint64_t now);

/* ---- config.c, given.c: backends ---------------------------------------------------------------- */

/* Its run-time parts. `by_function`: it is one that only a function has given. */
int mg_backend_begin(struct mg_engine *engine, const struct mg_config *config,
                     struct mg_backend *backend, bool by_function, struct mg_err *err);

/* A session has chosen the backend; its memory goes. Nothing happens to those that the script has made. */
void mg_given_use(struct mg_backend *backend);
void mg_given_leave(struct mg_backend *backend);

void mg_givens_init(struct mg_engine *engine);

/* That config goes. */
void mg_givens_forget(struct mg_engine *engine, const struct mg_config *config);

void mg_givens_status(const struct mg_engine *engine, struct mg_buf *out);

/* ---- balance.c: which address ---------------------------------------------------------------- */

/* Of the addresses with MG_TURN_MAY, of which there is one at least, the one for that client. */
struct mg_backend_address *mg_balance_pick(struct mg_backend *backend, const struct mg_addr *client,
                                           uint64_t *random);

enum mg_pick_kind {
    MG_PICK_NONE,    /* reason says why */
    MG_PICK_ADDRESS, /* it counts the session, until mg_balance_leave */
    MG_PICK_WAIT,    /* for the entry's addresses: there is nothing better */
};

struct mg_pick {
    struct mg_backend_address *address;
    struct mg_backend_entry *entry;
    bool rests; /* it is picked because nothing else is left */
    bool trial; /* its rest is over, and this connection is the first to see whether it serves */
    const char *reason, *detail; /* constants; detail may be NULL */
};

/*
 * What comes next. What has that mark has had its turn: addresses that were tried, entries that were waited
 * for.
 */
enum mg_pick_kind mg_balance_next(struct mg_session *s, uint64_t mark,
                                  const struct mg_source *source, struct mg_pick *pick);

/* The same within the entry: what may be picked instead of `last`, another family first. */
bool mg_balance_sibling(struct mg_session *s, uint64_t mark, const struct mg_source *source,
                        const struct mg_backend_address *last, bool rests, struct mg_pick *pick);

/* The connection is over, or not to be. */
void mg_balance_leave(struct mg_backend_address *address);

/* ---- health.c: which addresses serve ---------------------------------------------------------- */

enum mg_fitness {
    MG_FIT_READY,
    MG_FIT_TRIAL, /* its rest is over: one may see whether it serves */
    MG_FIT_RESTS, /* only when nothing else is left */
    MG_FIT_DOWN,  /* not at all */
};
enum mg_fitness mg_health_fitness(const struct mg_backend_address *address);

/* true: the caller is the one. Others have to wait until connect_timeout is over. */
bool mg_health_try(const struct mg_backend_address *address);

/* What a connection has seen of an address: that it serves; that it does not. */
void mg_health_served(struct mg_backend_address *address);
void mg_health_failed(struct mg_backend_address *address, bool trial, const char *reason);

/* Whether a failure with that reason says something about the address – and not about us, or what this client
 * has brought with it. */
bool mg_health_blames(const struct mg_session *s, const char *reason);

/* What a probe has seen; why is NULL if all was well. */
void mg_health_probed(const struct mg_backend_address *address, const char *why);

/* A backend with on_down = "close" is there, or gone. */
void mg_health_watch(struct mg_engine *engine);
void mg_health_unwatch(struct mg_engine *engine);

void mg_health_status(const struct mg_engine *engine, struct mg_buf *out);

/* ---- probe.c ---------------------------------------------------------------------------------- */

/* Those of engine->config. Without memory there are fewer, and the log says so. */
void mg_probes_start(struct mg_engine *engine);

/* One address has come, or is gone. The latter is idempotent. */
void mg_probe_start(struct mg_backend_address *address);
void mg_probe_stop(struct mg_backend_address *address);

/* ---- reuse.c --------------------------------------------------------------------------------- */

struct mg_reuse *mg_reuse_new(void);
void mg_reuse_free(struct mg_reuse *reuse);

/* Only what this config may resume stays. */
void mg_reuse_keep(struct mg_reuse *reuse, const struct mg_config *config);

/* up is about to shake hands with its backend under that name: a session that is kept is offered, and
 * those to come are kept. */
void mg_reuse_offer(struct mg_session *s, const char *servername);

/* That handshake has failed: none of the sessions that it might have offered is offered again. */
void mg_reuse_forget(struct mg_session *s);

/* ---- limits.c -------------------------------------------------------------------------------- */

void mg_limits_init(struct mg_engine *engine);

/* The client's address is known. false: it has too many connections, and this one has closed. */
bool mg_limits_admit(struct mg_session *s);
void mg_limits_give_back(struct mg_session *s); /* idempotent */

static inline bool
mg_listener_has_rate(const struct mg_listener *listener)
{
    return listener->rate.interval_ns != 0 || listener->rate_per_ip.interval_ns != 0;
}

/* down has an SSL object now: its full handshake is counted against the listener's rates. */
void mg_limits_watch(struct mg_session *s);

/* The client has to say something before anything goes on; and no more. Both idempotent. */
void mg_limits_begin(struct mg_session *s);
void mg_limits_end(struct mg_session *s);

/* Before one more of those is accepted; may close another one. false: not now. */
bool mg_limits_room(struct mg_engine *engine);

/* net.on_short: some of those that have waited longest for their client close. */
void mg_limits_spare(struct mg_net *net);

/* ---- counts.c: by listener and backend -------------------------------------------------------- */

/* It has been accepted; its backend is chosen. */
void mg_count_accepted(const struct mg_session *s);
void mg_count_chosen(const struct mg_session *s);

/* An address has served; was overtaken; has failed, and is called that in the record. */
void mg_count_served(struct mg_session *s);
void mg_count_tried(const struct mg_session *s);
void mg_count_failed(struct mg_session *s, const char *address, const char *reason);

/* It closes. */
void mg_count_closed(struct mg_session *s);

/* ---- told.c: limits that bite ----------------------------------------------------------------- */

/* Whether a connection that closes with that reason was turned away. */
enum mg_limit mg_limit_of_reason(const char *reason);
void mg_told_closed(const struct mg_session *s, enum mg_limit limit);

/* Somebody waits for room; has been accepted. */
void mg_told_waits(struct mg_engine *engine, const struct mg_listener *listener,
                   enum mg_limit limit);
void mg_told_accepted(const struct mg_listener *listener);

/* A connection to its backend begins to wait for a local port, or (not `first`) goes on to. source may have len 0;
 * `pauses`: its listener accepts nobody meanwhile. */
void mg_told_portless(const struct mg_session *s, const struct mg_addr *source, bool pauses,
                      bool first);

/* From time to time: goes on for workers that are gone. */
void mg_told_look(struct mg_engine *engine);
void mg_told_close(struct mg_engine *engine);

/* ---- frontend.c, record.c -------------------------------------------------------------------- */

/* One connection fewer of that listener: a frontend that waits for room may go on. */
void mg_frontend_give_back(struct mg_engine *engine, struct mg_listener *listener);

/* All of them may, for another reason. */
void mg_frontends_go_on(struct mg_engine *engine);

/* Those that are still being emptied close now; the engine closes. */
void mg_frontends_stop(struct mg_engine *engine);

/* Adds the frontends' part of the status. */
void mg_frontend_status(const struct mg_engine *engine, struct mg_buf *out);

/* Writes the access record; the SSL objects are still there. */
void mg_record_write(const struct mg_session *s);

#endif
