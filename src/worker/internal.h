/*
 * What the files of a worker share.
 *
 *   worker.c      life of the process and its messages
 *   generation.c  building, switching and ending generations
 *   address.c     the listening sockets it was given
 *   rights.c      giving up root
 */
#ifndef MG_WORKER_INTERNAL_H
#define MG_WORKER_INTERNAL_H

#include "base/base.h"
#include "ipc/ipc.h"
#include "proxy/proxy.h"
#include "script/script.h"
#include "snapshot/snapshot.h"
#include "worker/worker.h"

#include <uv.h>

struct mg_worker_process;

/* ---- generation ----------------------------------------------------------------------------- */

enum mg_generation_state {
    MG_GENERATION_QUEUED,
    MG_GENERATION_BUILDING, /* its thread runs */
    MG_GENERATION_READY,
    MG_GENERATION_CURRENT,
    MG_GENERATION_OLD,     /* its connections go on */
    MG_GENERATION_UNUSED,  /* nothing refers to its config: over for everybody else */
    MG_GENERATION_FREEING, /* its thread goes on */
};

struct mg_generation {
    struct mg_generation *next;
    struct mg_worker_process *worker;
    enum mg_generation_state state;
    uint64_t number;
    int snapshot_fd;                                  /* -1 once it is built */
    struct mg_config *config;                         /* NULL until it is built */
    struct mg_err err;                                /* why it could not be */
    uint64_t drain_timeout_ms, generation_timeout_ms; /* settings; 0 = none */
    size_t hello_ring;                                /* likewise */
    struct mg_replay replay;                          /* of recent clients, under its policy */
    bool discarded;
    uv_thread_t thread; /* builds, waits, frees */
    uv_sem_t unused;    /* to the thread: nothing refers to the config */
    uv_async_t built;   /* from the thread: it has built, or freed */
    uv_timer_t timeout;
    unsigned live; /* open handles of the two */
};

/* Takes the fd. */
void mg_generation_build(struct mg_worker_process *w, uint64_t number, int snapshot_fd);
void mg_generation_commit(struct mg_worker_process *w, uint64_t number);
void mg_generation_discard(struct mg_worker_process *w, uint64_t number);

/* At the end: none is current, none will be built. What a thread still builds is freed when it is
 * done. */
void mg_generations_retire(struct mg_worker_process *w);

/* Whether a thread of ours allocates a lot. */
bool mg_generations_building(const struct mg_worker_process *w);

/* "7 (3), 8 (12)", and the same as a JSON array. */
void mg_generations_text(const struct mg_worker_process *w, struct mg_buf *out);
void mg_generations_json(const struct mg_worker_process *w, struct mg_buf *out);

/* ---- addresses ------------------------------------------------------------------------------ */

struct mg_address {
    struct mg_address *next;
    struct mg_worker_process *worker;
    char *text;
    int fd;                       /* until the frontend has it; then -1 */
    struct mg_frontend *frontend; /* NULL until a generation names the address */
    struct mg_config *config;     /* what the frontend runs under; one reference */
    bool closing;
    bool report; /* the supervisor waits for UNSOCKET */
};

void mg_address_add(struct mg_worker_process *w, const char *text, int fd);
void mg_address_remove(struct mg_worker_process *w, const char *text);
void mg_addresses_close(struct mg_worker_process *w, bool flush);

/* Puts the listeners of this config behind their addresses. */
void mg_addresses_use(struct mg_worker_process *w, struct mg_config *config);

/* ---- the process ---------------------------------------------------------------------------- */

struct mg_worker_process {
    uv_loop_t loop;
    struct mg_ipc ipc;
    bool connected; /* the supervisor is there */
    unsigned index;
    struct mg_engine *engine;
    struct mg_shared *shared;
    struct mg_cache *sessions;         /* TLS sessions, for all workers */
    unsigned beats;                    /* of the heart, so far */
    struct mg_ring *ring;              /* recent ClientHellos; owned */
    struct mg_generation *generations; /* oldest first */
    struct mg_generation *current;
    struct mg_address *addresses;
    char *secret; /* decoded; for ticket keys */
    size_t secret_len;
    int log_fd, access_fd; /* owned; -1 = syslog, none */
    bool leaving;          /* accepts no more; exits with the last connection */
    bool engine_closing;
    uv_thread_t trimmer;  /* gives memory back */
    bool trimming;        /* it is to be joined */
    _Atomic bool trimmed; /* it has done so */
    size_t peak;          /* of sessions since the heap was last given back */
    uint64_t trimmed_ms;  /* when that was, in loop time */
    uint64_t trim_accepted,
        beat_accepted; /* connections accepted until then, until the last heartbeat */
    uv_timer_t heartbeat, reaper, drain;
    unsigned live; /* open handles of the worker's own: these timers, the channel, generations */
};

void mg_worker_send(struct mg_worker_process *w, enum mg_msg_type type, uint64_t number,
                    const char *text);

/* Gives free memory back to the system; on any thread. */
void mg_worker_trim(void);

/* Whether the last thing has gone that a worker which leaves must wait for. */
void mg_worker_check_done(struct mg_worker_process *w);

/* ---- rights --------------------------------------------------------------------------------- */

/* Becomes user and group for good ("" = stays) and gives up whatever else a worker can do without.
 * `transparent`: it cannot do without CAP_NET_RAW, the right to connect from foreign addresses. */
int mg_rights_drop(const char *user, const char *group, bool transparent, struct mg_err *err);

#endif
