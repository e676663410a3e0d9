/*
 * net: libuv without TLS. Streams over TCP and unix sockets with bounded, copying-once writes; listening
 * sockets that many processes share; name resolution with a cache.
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

struct mg_net {
    uv_loop_t *loop;
    unsigned char *unit;      /* MG_NET_UNIT bytes, owned */
    uv_check_t check;         /* restarts streams that had used up their budget of the turn */
    struct mg_stream *paused; /* intrusive list of those */
    unsigned live;            /* handles not yet closed, streams included */
};

int mg_net_init(struct mg_net *net, uv_loop_t *loop, struct mg_err *err);
void mg_net_close(struct mg_net *net); /* all streams are closed before; frees the unit when done */

/* ---- stream --------------------------------------------------------------------------------- */

/* All but on_close may call mg_stream_close; status and error are libuv codes (< 0). */
struct mg_stream_ops {
    void (*on_connect)(struct mg_stream *s, int status);
    void (*on_read)(struct mg_stream *s, const unsigned char *data, size_t len);
    void (*on_eof)(struct mg_stream *s);
    void (*on_error)(struct mg_stream *s, int error); /* of a read or a write */
    void (*on_drain)(struct mg_stream *s);            /* the stash is empty again */
    void (*on_close)(struct mg_stream *s);            /* the memory may go */
};

struct mg_stream {
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } uv;
    struct mg_net *net;
    const struct mg_stream_ops *ops;
    void *data; /* the owner's */
    uv_write_t write_req;
    uv_shutdown_t shutdown_req;
    uv_connect_t connect_req;
    char *stash;        /* what the kernel did not take at once; owned; NULL when idle */
    size_t stash_len;
    struct mg_stream *paused_next;
    uint64_t bytes_in, bytes_out; /* bytes_out counts when handed to mg_stream_write */
    bool is_unix, open, reading, paused, writing, shutdown_wanted, shutdown_done, connected, closing;
};

/* Takes the accepted fd over, also on failure. A failed call leaves nothing to close. */
int mg_stream_accept(struct mg_stream *s, struct mg_net *net, int fd, bool is_unix,
                     const struct mg_stream_ops *ops, void *data);

/* Starts connecting; on_connect follows later, also for errors known at once. */
int mg_stream_connect(struct mg_stream *s, struct mg_net *net, const struct mg_addr *addr,
                      const struct mg_stream_ops *ops, void *data);

int mg_stream_nodelay(struct mg_stream *s, bool on);
int mg_stream_keepalive(struct mg_stream *s, unsigned delay_s); /* 0 = off */

/* Reading may be started and stopped at any time; both are idempotent. One stream reads at most one
 * full unit per loop turn, so that none can hold the others up. */
void mg_stream_read_start(struct mg_stream *s);
void mg_stream_read_stop(struct mg_stream *s);

/*
 * Writes what the kernel takes now; the rest is copied once into the stash. 0: all is gone; 1: something
 * is stashed and on_drain will be called – the caller stops its source and does not write before it
 * (a further write is appended all the same, for alerts); < 0: a libuv error, nothing more can be sent.
 */
int mg_stream_write(struct mg_stream *s, const void *data, size_t len);

/* Bytes that wait in the stash. */
size_t mg_stream_stashed(const struct mg_stream *s);

/* FIN after everything that was written; idempotent. on_error if it fails. */
void mg_stream_shutdown(struct mg_stream *s);

/* Closes; what is stashed is dropped. `reset` sends RST where the transport has one. Idempotent. */
void mg_stream_close(struct mg_stream *s, bool reset);

/* ---- listen --------------------------------------------------------------------------------- */

/*
 * Polls a listening socket that other processes poll too. EAGAIN after a wake-up is normal. At most
 * 16 connections per turn. On EMFILE, ENFILE, ENOBUFS, ENOMEM it pauses itself for 100 ms at a time and says so once.
 */
struct mg_acceptor {
    struct mg_net *net;
    uv_poll_t poll;
    uv_timer_t retry;
    int fd; /* owned */
    bool is_unix, paused, starved, closing;
    unsigned live;
    void *data;
    /* Owns fd and closes it if it does not want it. false = stop for now: mg_acceptor_resume. */
    bool (*on_accept)(struct mg_acceptor *a, int fd, const struct mg_addr *peer);
    void (*on_close)(struct mg_acceptor *a);
};

/* Takes fd over, also on failure. Starts polling at once; the socket need not be listening yet. */
int mg_acceptor_open(struct mg_acceptor *a, struct mg_net *net, int fd, bool is_unix,
                     bool (*on_accept)(struct mg_acceptor *, int, const struct mg_addr *),
                     void *data, struct mg_err *err);
void mg_acceptor_pause(struct mg_acceptor *a);
void mg_acceptor_resume(struct mg_acceptor *a);

/* Accepts (through on_accept, whatever it returns) until EAGAIN: for an address that goes away. */
void mg_acceptor_flush(struct mg_acceptor *a);
void mg_acceptor_close(struct mg_acceptor *a, void (*on_close)(struct mg_acceptor *a));

/* ---- resolve -------------------------------------------------------------------------------- */

#define MG_RESOLVE_MAX 32

/*
 * A name's addresses, looked up in the thread pool, again every interval when somebody asks; a failed
 * look-up keeps the last good answer. Lives on the loop's thread only.
 */
struct mg_resolver;

/* Waits for an answer: count 0 means none (error is a libuv code). */
struct mg_resolve_wait {
    void (*done)(struct mg_resolve_wait *wait, const struct mg_addr *addrs, size_t count,
                 int error);
    void *data;
    struct mg_resolve_wait *next, **pprev; /* private */
};

struct mg_resolver *mg_resolver_new(struct mg_net *net, const char *host, uint16_t port,
                                    unsigned interval_s);

/* Calls back at once when an answer is known (and refreshes it in the background when it is old),
 * else later. Cancel with mg_resolver_cancel before the wait's memory goes. */
void mg_resolver_ask(struct mg_resolver *r, struct mg_resolve_wait *wait);
void mg_resolver_cancel(struct mg_resolve_wait *wait);

/* Asynchronous: frees itself when no look-up is under way; waits still registered are forgotten. */
void mg_resolver_free(struct mg_resolver *r);

#endif
