/*
 * net: the loop without TLS. Streams over TCP and unix sockets with bounded, copying-once writes; listening
 * sockets that many processes share; name resolution with a cache. Sockets are waited for in a descriptor
 * of net's own, in which libuv's loop is one of many (ready.c): timers, threads and other handles are libuv's.
 *
 * A turn of mg_net_run is: wait, hear every socket once, let libuv's loop turn where it has something, read on
 * where a stream has had its share, tell who has closed, the owner's on_turn.
 *
 * Ownership: every object is embedded in its owner's struct and lives until its close callback. After
 * mg_stream_close no callback but that one comes.
 */
#ifndef MG_NET_NET_H
#define MG_NET_NET_H

#include "base/base.h"

#include <uv.h>

/* The read unit: one per loop, shared by all streams. What on_read gets points into it and is gone
 * when on_read returns. */
#define MG_NET_UNIT (256u * 1024u)

struct mg_stream;
struct mg_deadline;

/* One socket that is waited for; see ready.c. */
struct mg_watch {
    void (*ready)(struct mg_watch *watch, unsigned events); /* MG_EVENT_* */
#ifndef MG_HAVE_EPOLL
    uv_poll_t poll;
    int polled; /* libuv's events that it waits for */
    bool open;
#endif
};

struct mg_net {
    uv_loop_t *loop;
    unsigned char *unit;      /* MG_NET_UNIT bytes, owned */
    struct mg_stream *due;    /* those with something to read in the next turn */
    struct mg_stream *closed; /* closing ones; their owners are told at the end of the turn */
#ifdef MG_HAVE_EPOLL
    int epoll_fd;           /* of all sockets; owned */
    uint64_t crowded_since; /* loop time since which no turn has heard all of them; 0 = one has */
#endif
    struct mg_deadline **deadlines; /* a heap of those that are set; owned */
    uint32_t deadlines_set, deadlines_open, deadlines_room;
    uv_timer_t timer; /* of the earliest */
    /* A deadline has passed; it is not set any more. */
    void (*on_deadline)(struct mg_net *net, struct mg_deadline *deadline);
    struct mg_lookups *lookups; /* made when first needed */
    struct mg_resolving *names; /* likewise: what resolvers share */
    struct mg_acceptor *acceptors;
    uint64_t descriptors_max; /* of the process */
    size_t streams;           /* open ones */
    size_t others;            /* descriptors that are no streams', as counted at: */
    uint64_t counted_at;      /* loop time; 0 = never */
    size_t wanted; /* descriptors that those who are accepted will need; the owner's to count */
    uv_timer_t shortage;
    int short_of; /* 0, or the libuv code of what there is too little of: nothing is accepted */
    bool shortage_said;                          /* the log knows */
    bool memory_short;                           /* as of memory_looked_at */
    uint64_t memory_looked_at, limits_looked_at; /* loop time; 0 = never */
    /* Several times a second while there is too little: the owner may close what it can do without. NULL at first. */
    void (*on_short)(struct mg_net *net);
    unsigned live; /* streams, acceptors, resolvers and handles that are not yet over */
    bool closing;
    void (*on_close)(struct mg_net *net);
    /* Late in each turn, for the owner's work, of which each turn is to get a piece. true: there is more of
     * it, so the next turn begins without waiting. NULL at first. */
    bool (*on_turn)(struct mg_net *net);
};

int mg_net_init(struct mg_net *net, uv_loop_t *loop, struct mg_err *err);

/* Instead of uv_run(net->loop, UV_RUN_DEFAULT): until net has closed, and then until nothing of the loop is
 * left. The struct may go in its close callback. */
void mg_net_run(struct mg_net *net);

/* All streams and acceptors are closed or closing. Calls back, out of mg_net_run, when nothing of net is left;
 * the unit is freed by then and the struct may go. */
void mg_net_close(struct mg_net *net, void (*on_close)(struct mg_net *net));

/* ---- deadlines ------------------------------------------------------------------------------ */

/* Embedded in its owner; net->on_deadline tells that it has passed. */
struct mg_deadline {
    uint64_t at;    /* loop time; 0 = not set */
    uint32_t place; /* private */
};

/* Makes room for it, so that setting cannot fail: 0 or UV_ENOMEM, then there is nothing to close. */
int mg_deadline_open(struct mg_net *net, struct mg_deadline *d);
void mg_deadline_set(struct mg_net *net, struct mg_deadline *d, uint64_t at);
void mg_deadline_close(struct mg_net *net, struct mg_deadline *d);

/* ---- stream --------------------------------------------------------------------------------- */

/* All but on_close may call mg_stream_close; status and error are libuv codes (< 0). None is called
 * from inside mg_stream_*. */
struct mg_stream_ops {
    void (*on_connect)(struct mg_stream *s, int status);
    void (*on_read)(struct mg_stream *s, const unsigned char *data, size_t len);
    void (*on_eof)(struct mg_stream *s);
    void (*on_error)(struct mg_stream *s, int error); /* of a read, a write or a shutdown */
    void (*on_drain)(struct mg_stream *s);            /* the stash is empty again */
    void (*on_shutdown)(struct mg_stream *s);         /* a FIN that had to wait has left */
    void (*on_close)(struct mg_stream *s);            /* the memory may go, or be opened again */
};

struct mg_stream {
    struct mg_watch watch;
    struct mg_net *net;
    const struct mg_stream_ops *ops;
    void *data;                      /* the owner's */
    char *stash;                     /* what the kernel did not take at once; owned */
    size_t stash_len, stash_done;    /* of it, what has left meanwhile */
    struct mg_stream *next, **pprev; /* in net->due (pprev not NULL) or net->closed */
    uint64_t bytes_in, bytes_out;    /* bytes_out counts when handed to mg_stream_write */
    int fd;                          /* owned; -1 = none */
    uint32_t read_max;               /* bytes per read, at most MG_NET_UNIT */
    bool is_unix, open, connected, reading, eof, writing, closing;
    bool shutdown_wanted, shutdown_done;
    bool watching_writes;
    bool nodelay_due;
    bool readable; /* the socket has not said yet that there is nothing more */
    bool ask;      /* it says so by EAGAIN only, not by a short read */
    bool fin;      /* the other side's has come: nothing follows what is there */
    bool drained;  /* and that has been read */
    bool prefixed; /* what is stashed waits for the first write */
};

/*
 * Takes the accepted fd over, also on failure (a libuv code). Whatever comes back, the stream is open
 * from here on and has to be closed; the same holds for mg_stream_connect.
 */
int mg_stream_accept(struct mg_stream *s, struct mg_net *net, int fd, bool is_unix,
                     const struct mg_stream_ops *ops, void *data);

/* Where a connection is to come from; len 0: wherever the kernel likes. The port is the kernel's choice. */
struct mg_source {
    struct mg_addr addr;
    bool transparent; /* addr is not ours */
};

/* Starts connecting. 0: on_connect follows; 1: connected already (unix sockets), on_connect does not
 * come; < 0: a libuv code known at once. source may be NULL; it is not for unix sockets. */
int mg_stream_connect(struct mg_stream *s, struct mg_net *net, const struct mg_addr *addr,
                      const struct mg_source *source, const struct mg_stream_ops *ops, void *data);

/* Whether there is a way to that address, and an address of ours for it. */
bool mg_net_reaches(const struct mg_addr *to);

/* Whether anything can be connected from there; 0 or a libuv code. */
int mg_source_check(const struct mg_source *source);

/* `error` is one of mg_net_is_short's: accepting pauses for a while. */
void mg_net_shortage(struct mg_net *net, int error);

/* There is no descriptor, or no memory for a socket: not the other side's fault, and it passes. */
bool mg_net_is_short(int error);

/* The socket of a connected stream is the caller's from here on; the stream closes. */
int mg_stream_take_fd(struct mg_stream *s);

/* Our end's address; len 0 where the socket does not tell. */
void mg_stream_local(const struct mg_stream *s, struct mg_addr *out);

/* Whether small segments leave while others are on their way: what is written first never waits, so the
 * kernel is told with the second write. */
void mg_stream_nodelay(struct mg_stream *s, bool on);
int mg_stream_keepalive(struct mg_stream *s, unsigned delay_s); /* 0 = off */

/* Reading may be started and stopped at any time; both are idempotent, and nothing happens after the
 * end of the input. One stream reads at most one full unit per loop turn, so that none can hold the
 * others up. */
void mg_stream_read_start(struct mg_stream *s);
void mg_stream_read_stop(struct mg_stream *s);

/*
 * Writes what the kernel takes now; the rest is copied once into the stash. 0: all is gone; 1: something
 * is stashed and on_drain will be called – the caller stops its source and does not write before it
 * (a further write is appended all the same, for alerts); < 0: a libuv error, nothing more can be sent.
 */
int mg_stream_write(struct mg_stream *s, const void *data, size_t len);

/*
 * Bytes (copied) that go before the first ones written, in one write with them; before any write. What follows
 * is mg_stream_write or, where there is nothing yet, mg_stream_flush, which otherwise does nothing and answers
 * like it. 0, or a libuv code.
 */
int mg_stream_prefix(struct mg_stream *s, const void *data, size_t len);
int mg_stream_flush(struct mg_stream *s);

/* As mg_stream_write, where mg_stream_shutdown follows at once: both leave in one packet. */
int mg_stream_write_last(struct mg_stream *s, const void *data, size_t len);

/* Bytes that the other side has not taken yet, as far as the platform tells: those of the stash, and
 * those in the kernel's hands. That the number changes is a sign of life. */
size_t mg_stream_unsent(const struct mg_stream *s);

/* FIN after everything that was written; idempotent. 0: it has left; 1: it waits for the stash and
 * on_shutdown or on_error comes; < 0: a libuv error. */
int mg_stream_shutdown(struct mg_stream *s);

/* The same where nothing is stashed, the input has ended and mg_stream_close without `reset` follows at
 * once: that sends the FIN, too. */
void mg_stream_shutdown_by_close(struct mg_stream *s);

/* Closes; what is stashed is dropped. `reset` sends RST where the transport has one. Idempotent; a
 * stream that was never opened is left alone. */
void mg_stream_close(struct mg_stream *s, bool reset);

/* ---- race ------------------------------------------------------------------------------------ */

#define MG_RACE_DELAY_MS 250 /* RFC 8305: connection attempt delay */

/*
 * Connects to one of several addresses of a host ("happy eyeballs", RFC 8305): to the first, and to the one that
 * the owner names next whenever one has failed or the last attempt is MG_RACE_DELAY_MS old, without giving up
 * those before. Who connects first wins, the others are closed. Without a descriptor to connect with it waits for
 * one. Attempts are numbered: the first one is 0, and each answer of `next` is one more.
 */
struct mg_race;

struct mg_race_ops {
    /* true: *addr is tried. false: there is none, and the race does not ask again. */
    bool (*next)(void *data, struct mg_addr *addr);
    /* error is a libuv code: UV_ETIMEDOUT after timeout_ms. */
    void (*on_failed)(void *data, size_t attempt, int error);
    /* An attempt has its socket and its local port: what may still fail is up to the other side. Or NULL. */
    void (*on_port)(void *data);
    /* The race is over, and not to be cancelled any more. fd is the callee's, of that attempt, which began at
     * started_at (loop time); or -1: all have failed. */
    void (*on_over)(void *data, size_t attempt, int fd, uint64_t started_at);
};

/* None of the callbacks comes from inside. NULL: no memory. */
struct mg_race *mg_race_start(struct mg_net *net, const struct mg_addr *first,
                              const struct mg_source *source, unsigned timeout_ms,
                              const struct mg_race_ops *ops, void *data);
void mg_race_cancel(struct mg_race *race); /* NULL is fine */

/* ---- listen --------------------------------------------------------------------------------- */

struct mg_acceptor;

struct mg_acceptor_ops {
    /* Before each accept4. false = stop for now: mg_acceptor_resume. With `must` (flush) the answer does
     * not count. NULL = always. */
    bool (*may_accept)(struct mg_acceptor *a, bool must);
    /* may_accept was asked, but there was nobody to accept. */
    void (*accepted_none)(struct mg_acceptor *a);
    /* Owns fd. */
    void (*on_accept)(struct mg_acceptor *a, int fd, const struct mg_addr *peer);
    void (*on_close)(struct mg_acceptor *a); /* the memory may go */
};

/*
 * Polls a listening socket that other processes poll too. EAGAIN after a wake-up is normal. At most
 * 16 connections per turn. On EMFILE, ENFILE, ENOBUFS, ENOMEM all of net's pause until that is over.
 */
struct mg_acceptor {
    struct mg_acceptor *next, **pprev; /* in net->acceptors */
    struct mg_net *net;
    const struct mg_acceptor_ops *ops;
    void *data; /* the owner's */
    struct mg_watch watch;
    uv_timer_t retry;
    int fd;               /* owned */
    uint64_t accepted_at; /* loop time of the last wake-up */
    bool is_unix, watched, paused, starved, starvation_said, closing;
    unsigned accepted;   /* since it last went to the end of the line; see ready.c */
    unsigned flush_left; /* accepts until it closes anyway */
};

/* Takes fd over, also on failure (then there is nothing to close). It is paused at first; the socket need
 * not be listening when it is resumed. */
int mg_acceptor_open(struct mg_acceptor *a, struct mg_net *net, int fd,
                     const struct mg_acceptor_ops *ops, void *data, struct mg_err *err);

/* What accepted TCP sockets inherit; does nothing for unix sockets. keepalive_s 0 = off. */
void mg_acceptor_set_tcp(struct mg_acceptor *a, bool nodelay, unsigned keepalive_s);

/* Whether there is somebody to accept. */
bool mg_acceptor_is_waited_for(const struct mg_acceptor *a);

void mg_acceptor_pause(struct mg_acceptor *a);
void mg_acceptor_resume(struct mg_acceptor *a);

/* Accepts those that wait, a few per turn, and closes then: for an address that goes away. */
void mg_acceptor_flush(struct mg_acceptor *a);
void mg_acceptor_close(struct mg_acceptor *a);

/* ---- resolve -------------------------------------------------------------------------------- */

#define MG_RESOLVE_MAX 32 /* addresses of a name that are used */

/*
 * A name's addresses, looked up by threads, again every interval for as long as there is a resolver for
 * it; a failed look-up keeps the last good answer. Resolvers for the same name share what is known of
 * it, those of another generation, too: a reload asks nobody anew. Live on the loop's thread only, and net
 * lives at least as long as they do.
 */
struct mg_resolver;

/* Waits for an answer, which is mg_resolver_addrs then; error is 0 or a libuv code. */
struct mg_resolve_wait {
    void (*done)(struct mg_resolve_wait *wait, int error);
    void *data;
    struct mg_resolver *resolver; /* private, like the rest */
    struct mg_resolve_wait *next, **pprev;
};

enum mg_resolve_event {
    MG_RESOLVE_FAILED,  /* there is no answer yet */
    MG_RESOLVE_STALE,   /* a look-up has failed, the last answer stays */
    MG_RESOLVE_AGAIN,   /* one has not, after either of these */
    MG_RESOLVE_CHANGED, /* there are other addresses than before */
    MG_RESOLVE_MANY,    /* the name has another number of them, and more than are used */
};

struct mg_resolver_ops {
    /* A look-up was good: these are the name's addresses now. Comes before those who wait are answered; may make
     * resolvers, but frees none. */
    void (*answered)(void *data, const struct mg_addr *addrs, size_t count);
    /* Something to tell; the text is an error's, or the addresses. Before answered. */
    void (*notice)(void *data, enum mg_resolve_event event, const char *text);
};

/* Begins to look the name up. `on_demand`: again only for mg_resolver_use, unless others want more. NULL: no
 * memory. */
struct mg_resolver *mg_resolver_new(struct mg_net *net, const char *host, uint16_t port,
                                    unsigned interval_s, bool on_demand,
                                    const struct mg_resolver_ops *ops, void *data);

/* The last good answer; *count is 0 if there was none. */
const struct mg_addr *mg_resolver_addrs(const struct mg_resolver *r, size_t *count);

/* Why there is none, or the last look-up has failed: a libuv code; 0: neither. */
int mg_resolver_error(const struct mg_resolver *r);

/* Calls back at once when an answer is known, else later, but at once, too, when the last look-up has
 * failed a moment ago. Cancel with mg_resolver_cancel before the wait's memory goes. */
void mg_resolver_ask(struct mg_resolver *r, struct mg_resolve_wait *wait);
void mg_resolver_cancel(struct mg_resolve_wait *wait);

/* Its addresses are about to be used: what is older than the interval is looked up again. true: it is older than
 * two, and `wait` is answered when that is over, with error 0. */
bool mg_resolver_use(struct mg_resolver *r, struct mg_resolve_wait *wait);

/* Waits still registered are forgotten. NULL is fine. */
void mg_resolver_free(struct mg_resolver *r);

/* How many look-ups have begun, of all names. */
uint64_t mg_resolvers_lookups(const struct mg_net *net);

/* Adds a JSON object for each name that is looked up by itself, with commas between. */
void mg_resolvers_status(const struct mg_net *net, struct mg_buf *out);

#endif
