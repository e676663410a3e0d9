/* What the files of net/ share with each other only. */
#ifndef MG_NET_INTERNAL_H
#define MG_NET_INTERNAL_H

#include "net/net.h"

/* One more, one fewer of what net->live counts. Releasing the last one may end net. */
void mg_net_hold(struct mg_net *net);
void mg_net_release(struct mg_net *net);

/* The kernel probes the other side of an idle TCP socket after so many seconds; 0 = never. */
void mg_net_keepalive(int fd, unsigned delay_s);

/* ---- ready.c: which sockets are ready? --------------------------------------------------------- */

#define MG_EVENT_READ  1u
#define MG_EVENT_WRITE 2u
#define MG_EVENT_END   4u  /* the other side has sent its FIN, and nothing went wrong */
#define MG_EVENT_ASK   8u  /* there may be more behind a short read: urgent data, an error */
#define MG_EVENT_ERROR 16u /* or perhaps: SO_ERROR tells */

int mg_ready_init(struct mg_net *net); /* a libuv code */
void mg_ready_fini(struct mg_net *net);

/* Waits, unless `busy`, until something is ready, and tells each socket once; libuv's loop has its turn. */
void mg_ready_wait(struct mg_net *net, bool busy);

/* Begins to watch s->fd, for s->watch; a libuv code. */
int mg_ready_open(struct mg_stream *s);

/* What s waits for may have changed. A libuv code. */
int mg_ready_update(struct mg_stream *s);

/* A listening socket: a->fd, for a->watch. Libuv codes. */
int mg_ready_listen_init(struct mg_acceptor *a);
int mg_ready_listen(struct mg_acceptor *a, bool wanted);
int mg_ready_accepted(struct mg_acceptor *a); /* once for each */

/* Before s->fd goes on without s. */
void mg_ready_forget(struct mg_stream *s);

/* Before the descriptor is closed. What has happened already may still be told. */
void mg_ready_close(struct mg_watch *watch);

/* The memory may go, as far as watching is concerned. */
bool mg_ready_closed(const struct mg_watch *watch);

/* ---- deadline.c ------------------------------------------------------------------------------ */

void mg_deadlines_init(struct mg_net *net);
void mg_deadlines_fini(struct mg_net *net); /* none is open any more */

/* ---- net.c ----------------------------------------------------------------------------------- */

/* In the next turn mg_stream_due is called, unless the stream closes before. Idempotent. */
void mg_net_due(struct mg_net *net, struct mg_stream *s);
void mg_stream_due(struct mg_stream *s);

/* At the end of this turn mg_stream_closed is called. */
void mg_net_closed(struct mg_net *net, struct mg_stream *s);
void mg_stream_closed(struct mg_stream *s);

/* ---- shortage.c, memory.c: without descriptors, without memory ----------------------------------------------------------- */

void mg_shortage_init(struct mg_net *net);
void mg_shortage_fini(struct mg_net *net);

/* accept has returned fd: that may have been one of the last. */
void mg_net_accepted(struct mg_net *net, int fd);

/* ---- memory.c: where the process may not have all it wants ------------------------------------- */

/* Nobody should be accepted: what is left is for those who are connected. */
bool mg_memory_is_short(struct mg_net *net);

/* Polls or does not, as things are. */
void mg_acceptor_update(struct mg_acceptor *a);

/* ---- lookup.c: asking the system --------------------------------------------------------------- */

struct mg_lookups;

/* One question. Freed after `done`, which is called on the loop, or after mg_lookup_abandon. */
struct mg_lookup {
    struct mg_lookup *next;
    struct mg_lookups *pool;
    void (*done)(struct mg_lookup *lookup);
    void *data; /* the asker's */
    int progress;
    bool slow, abandoned;
    uint64_t began_ns, took_ms;
    int status; /* 0, or a libuv code */
    struct mg_addr *addrs;
    size_t count; /* the ports are 0 */
    char host[];
};

/* `slow`: it was, the last time. NULL: no memory or no thread. */
struct mg_lookup *mg_lookup_start(struct mg_net *net, const char *host, bool slow,
                                  void (*done)(struct mg_lookup *lookup), void *data);

/* done() will not be called, at any moment before it was. NULL is fine. */
void mg_lookup_abandon(struct mg_lookup *lookup);

/* To be called every second while it returns true: questions wait for a thread. */
bool mg_lookups_help(struct mg_net *net);

/* Nobody asks any more, and everybody has gone away. */
void mg_lookups_close(struct mg_net *net);

/* ---- resolve.c --------------------------------------------------------------------------------- */

/* net closes; what resolvers need goes with the last of them. */
void mg_resolving_close(struct mg_net *net);

#endif
