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

/* ---- engine ---------------------------------------------------------------------------------- */

/* One call's ciphertext out: a full read unit encrypted. */
#define MG_OUT_UNIT (MG_NET_UNIT + MG_TLS_OUT_SLACK)

/* A peer in the middle of its handshake reads no more than this at once, because it may have to be
 * kept until its turn. */
#define MG_HANDSHAKE_READ (16u * 1024u)

#define MG_REASONS 64

struct mg_reason_count {
    const char *reason; /* constant */
    uint64_t count;
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
    unsigned handles;           /* that one, and offload's, not yet closed */
    size_t session_count;       /* until their memory is freed */
    uint64_t accepted, handshakes_done, bytes_up, bytes_down; /* of closed sessions: the bytes */
    struct mg_reason_count closes[MG_REASONS];
    uint64_t records_lost;    /* access records, since the log last went on */
    uint64_t records_lost_at; /* loop time */
    uint64_t random;          /* xorshift state: balancing, nothing secret */
    struct mg_reuse *reuse;   /* TLS sessions with backends; owned */
    bool closing;
    void (*on_idle)(void *data);
    void *on_idle_data;
    void (*on_closed)(void *data);
    void *on_closed_data;
};

void mg_engine_count_close(struct mg_engine *engine, const char *reason);
uint64_t mg_engine_random(struct mg_engine *engine);

/* Something the engine waits for at its close is gone. */
void mg_engine_release(struct mg_engine *engine);

/* A session of that age is not one of a flood. */
#define MG_ESTABLISHED_MS 50

/* Some of that age were heard a short while ago: handshakes stand back for them. */
bool mg_engine_others_talk(const struct mg_engine *engine);

/* ---- session --------------------------------------------------------------------------------- */

enum mg_state {
    S_HELLO,     /* the ClientHello, where the policy chooses the context by it */
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
    bool deciding;      /* its ClientHello comes first: S_HELLO, or refused in it */
    bool ended;         /* its input came to a proper end */
    uint64_t told;      /* relayed bytes that had left to it by then; UINT64_MAX: some had not */
    bool finish_wanted; /* its end is to be told once what is parked has left */
    bool finished; /* it has been told a proper end: close_notify where there is TLS, and FIN */
};

/* One attempt to reach a backend; see backend.c. */
struct mg_dial;

/* A step of down's handshake in the helper thread; see offload.c. */
struct mg_job;

struct mg_session {
    struct mg_link link; /* in engine->sessions */
    struct mg_engine *engine;
    struct mg_config *config; /* one reference */
    struct mg_listener *listener;
    struct mg_backend *backend;         /* chosen, or NULL */
    struct mg_backend_address *address; /* tried or connected to: its `active` counts us; or NULL */
    struct mg_dial *dial;               /* owned; NULL unless connecting */
    struct mg_job *job; /* owned; while it is there down.tls and down.held are not ours */
    struct mg_peer down, up;
    struct mg_deadline
        deadline; /* one for all; set again when it passes or an earlier one appears */
    uint64_t id;
    uint64_t born_at;      /* loop time */
    uint64_t active_at;    /* loop time of the last byte */
    uint64_t linger_until; /* loop time; 0 = none */
    uint64_t keepalive_at; /* loop time at which up gets its keepalive; 0 = has it, or none */
    uint64_t born_ns;
    uint32_t hello_us, handshake_us,
        connect_us;    /* accept to first byte, to handshake; dial to up */
    uint32_t lingered; /* bytes thrown away in S_LINGER */
    uint64_t bytes_up, bytes_down;
    const char *reason;           /* constant; why it closes or lingers */
    char *detail;                 /* owned; or NULL */
    struct mg_hello_reader hello; /* of S_HELLO */
    char *servername;       /* from the ClientHello, until down has an SSL object, if ever; owned */
    struct mg_addr *remote; /* owned */
    struct mg_addr *up_addr; /* tried or connected to; owned, or NULL */
    void *user;
    unsigned live; /* streams not yet closed: down, up */
    enum mg_state state;
    bool passed;    /* down has TLS, but with the backend: what it sends is relayed as it is */
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

/* The client's context is chosen: S_HANDSHAKE, and the backend is dialled where it is known. */
void mg_session_handshake(struct mg_session *s);

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

/* The callbacks of both peers' streams. */
extern const struct mg_stream_ops mg_peer_ops;

/* ---- handshake: handshake.c, hello.c --------------------------------------------------------- */

/* Whether the peer has TLS that is not yet established. */
static inline bool
mg_peer_in_handshake(const struct mg_peer *peer)
{
    return peer->deciding || (peer->tls.ssl != NULL && !peer->tls.handshake_done);
}

/* Adds to what is held. false: no memory, the session has closed. */
bool mg_peer_hold(struct mg_peer *peer, const unsigned char *data, size_t len);

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

/* Whether the ClientHello is read before there is an SSL object. */
static inline bool
mg_listener_reads_hello(const struct mg_listener *listener)
{
    return listener->hello_asked || listener->names != NULL;
}

/* Opens down in S_HELLO. */
void mg_session_hello_open(struct mg_session *s);

/* Reads what down holds in S_HELLO. true: down has an SSL object now, which takes what is held. */
bool mg_session_hello_step(struct mg_session *s);

/* Whether the chosen backend cannot take what is passed through; then the client is told. */
bool mg_session_pass_refused(struct mg_session *s);

/* ---- offload.c: the helper thread for handshakes ---------------------------------------------- */

struct mg_offload *mg_offload_new(struct mg_engine *engine); /* NULL: no memory */

/* No session has a job any more. Whether a handle is closing. The memory goes by _free, after that. */
bool mg_offload_close(struct mg_offload *offload, uv_close_cb closed);
void mg_offload_free(struct mg_offload *offload);

/* The peer's step is the thread's, and mg_handshake_answered follows; false: it is to be done here. */
bool mg_offload_take(struct mg_peer *peer);

/* Afterwards down.tls may be looked at: a job that was not begun waits for its turn again. */
void mg_offload_settle(struct mg_session *s);

/* Afterwards there is no job. */
void mg_offload_cancel(struct mg_session *s);

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

/* Loop time of the current address's deadline; 0 = none. */
uint64_t mg_dial_deadline(const struct mg_session *s);
void mg_dial_cancel(struct mg_session *s);

/* ---- order.c --------------------------------------------------------------------------------- */

/* Where the connection to s->backend is to come from. */
void mg_source_get(const struct mg_session *s, struct mg_source *source);

/*
 * All that can be reached from that source: the `first`-th (any number) first, the families in turn, those that
 * are shunned last. `out` has room for all; returns how many.
 */
size_t mg_addrs_order(const struct mg_backend_address *entry, const struct mg_addr *addrs,
                      size_t count, const struct mg_source *source, unsigned first, uint64_t now,
                      struct mg_addr *out);

/* It has failed, or others were faster. */
void mg_addr_shun(struct mg_backend_address *entry, const struct mg_addr *addr, uint64_t now);

/* ---- reuse.c --------------------------------------------------------------------------------- */

struct mg_reuse *mg_reuse_new(void);
void mg_reuse_free(struct mg_reuse *reuse);

/* up is about to shake hands with its backend under that name: a session that is kept is offered, and
 * those to come are kept. */
void mg_reuse_offer(struct mg_session *s, const char *servername);

/* That handshake has failed: none of the sessions that it might have offered is offered again. */
void mg_reuse_forget(struct mg_session *s);

/* ---- frontend.c, record.c -------------------------------------------------------------------- */

/* One connection fewer of that listener: a frontend that waits for room may go on. */
void mg_frontend_give_back(struct mg_engine *engine, struct mg_listener *listener);

/* Those that are still being emptied close now; the engine closes. */
void mg_frontends_stop(struct mg_engine *engine);

/* Adds the frontends' part of the status. */
void mg_frontend_status(const struct mg_engine *engine, struct mg_buf *out);

/* Writes the access record; the SSL objects are still there. */
void mg_record_write(const struct mg_session *s);

#endif
