/*
 * What the files of the supervisor share.
 *
 *   supervisor.c  life of the process: start, signals, stop
 *   reload.c      the two-phase reload, the first start included
 *   loader.c      the child that runs the script
 *   replay.c      how recent clients would fare under it
 *   workers.c     the children that serve: spawn, messages, respawn, watchdog
 *   sockets.c     listening sockets
 *   settings.c    what a snapshot says to the supervisor
 *   logs.c        log files
 *   watch.c       --watch
 *   control.c     the control socket; status.c what it answers to `status`
 *   platform.c    limits, processors, starting children;  notify.c  the service manager
 */
#ifndef MG_SUPERVISOR_INTERNAL_H
#define MG_SUPERVISOR_INTERNAL_H

#include "base/base.h"
#include "ipc/ipc.h"
#include "snapshot/snapshot.h"
#include "supervisor/supervisor.h"

#include <uv.h>

struct mg_super;

/* ---- settings ------------------------------------------------------------------------------- */

#define MG_PATH_CAP 1024

struct mg_settings {
    unsigned workers; /* at least 1 */
    char user[64], group[64];
    bool transparent; /* workers keep the right to connect from foreign addresses */
    uint64_t drain_timeout_ms, generation_timeout_ms; /* 0 = for ever */
    uint64_t drain_delay_ms, watchdog_ms, reload_timeout_ms;
    double refuse_reload_above;   /* share of recent clients; -1 = never */
    char log[MG_PATH_CAP];        /* "stderr", "syslog" or an absolute path */
    char access_log[MG_PATH_CAP]; /* "" = none, "stderr" or an absolute path */
    enum mg_log_level log_level;
    enum mg_log_format log_format;
};

/* Defaults, then the snapshot's records (NULL: none), then the command line. */
int mg_settings_read(struct mg_settings *out, const struct mg_snapshot *snapshot,
                     const struct mg_supervisor_options *options, const char *script,
                     struct mg_err *err);

/* ---- logs ----------------------------------------------------------------------------------- */

struct mg_logs {
    int log;    /* -1 = syslog */
    int access; /* -1 = none */
};

int mg_logs_open(struct mg_logs *logs, const struct mg_settings *settings, struct mg_err *err);
void mg_logs_close(struct mg_logs *logs);

/* Makes them the supervisor's and tells the workers; the old ones are closed. */
void mg_logs_use(struct mg_super *super, struct mg_logs *logs);

/* Opens the same paths again (USR1); what cannot be opened stays as it is. */
void mg_logs_reopen(struct mg_super *super);

/* The log part of HELLO and REOPEN: lines to text, descriptors to fds, their names to names. */
void mg_logs_describe(const struct mg_super *super, struct mg_buf *text, struct mg_buf *names,
                      int fds[MG_IPC_FDS], size_t *count);

/* ---- sockets -------------------------------------------------------------------------------- */

enum mg_socket_state {
    MG_SOCKET_BOUND, /* of a generation that is not committed yet */
    MG_SOCKET_LISTENING,
    MG_SOCKET_GOING, /* no longer wanted; workers empty its queue and close it */
};

/* Of a unix socket. */
struct mg_socket_file {
    mode_t mode;
    uid_t uid; /* -1: as it comes */
    gid_t gid;
};

struct mg_socket {
    struct mg_socket *next;
    char *address;
    enum mg_socket_state state;
    int fd;
    unsigned backlog;
    uint64_t unsocket_at_ns; /* GOING: when the workers are told; 0 = they have been */
    bool emptied;            /* GOING: nobody waits in its queue any more */
    bool wanted;             /* by the generation that is being prepared */
    struct mg_socket_file file, file_wanted; /* as it is; as that generation wants it */
    char *unlink_path;                       /* of a unix socket, or NULL */
    dev_t unlink_dev;
    ino_t unlink_ino;
    bool held[MG_SHARED_WORKERS]; /* workers that have a descriptor of it */
};

/* Binds what the snapshot names and is not there yet. -1: nothing has changed. */
int mg_sockets_prepare(struct mg_socket **list, const struct mg_snapshot *snapshot,
                       struct mg_err *err);

/* Listens on what is wanted; a new backlog takes effect, too. -1: the BOUND ones are to be given
 * up. */
int mg_sockets_listen(struct mg_socket *list, struct mg_err *err);

/* Closes the socket, removes a unix socket's file if it is still ours, and frees the entry. */
void mg_socket_remove(struct mg_socket **list, struct mg_socket *socket);

/* GOING: nobody new gets in. Handshakes under way may still end; the workers are told after that. */
void mg_socket_retire(struct mg_socket *socket);

/* At the end of all: nobody new gets in. Until when handshakes may be under way; 0 = there are none. */
uint64_t mg_sockets_shut(struct mg_socket *list);
bool mg_socket_is_held(const struct mg_socket *socket);

/* Takes a path over for a unix socket: a stale one is removed, a live one refuses. */
int mg_unix_path_claim(const char *path, int type, struct mg_err *err);

/* ---- replay --------------------------------------------------------------------------------- */

#define MG_REPLAY_REASONS 8u

/* How recent clients would fare under a new generation; of one worker, or of all. */
struct mg_replay {
    uint64_t total, failing; /* failing: those that came through until now */
    uint64_t not_asked;      /* a callback of the script's has a say, which was not run */
    uint64_t late;           /* not tried, because it took too long */
    unsigned reason_count;
    struct {
        uint64_t count;
        char text[96];
    } reasons[MG_REPLAY_REASONS];
};

/* From the payload of READY: bytes of a worker. */
void mg_replay_read(struct mg_replay *replay, const struct mg_msg *msg);
void mg_replay_add(struct mg_replay *sum, const struct mg_replay *part);

/* "37 of 1,000 recent clients would now fail: no shared group"; "" if none would. */
void mg_replay_text(const struct mg_replay *replay, char *out, size_t cap);

/* What else there is to say, a line each. */
void mg_replay_notes(const struct mg_replay *replay, struct mg_buf *out);

/* ---- workers -------------------------------------------------------------------------------- */

#define MG_CURRENT_CAP 256 /* bytes of the page in which a worker says what it runs */

struct mg_worker {
    struct mg_super *super;
    unsigned index;
    uv_process_t process;
    struct mg_ipc ipc;
    uv_timer_t respawn;
    unsigned live;  /* open handles among the three */
    bool running;   /* the process has not been reaped */
    bool connected; /* the channel is open */
    bool leaving;   /* is to drain and go, and will not be replaced */
    bool reported;  /* its death has a reason in the log already */
    uint64_t started_ns, beat_ns;
    uint64_t heir;  /* builds this generation first, for the queues of addresses that go; 0 = no */
    uint64_t ready; /* the generation it last said READY for */
    struct mg_replay replay; /* what it said with it */
    uint64_t serving;        /* the one it last said SERVING for */
    unsigned quick_deaths;   /* in a row, each after less than 10 s of life */
    unsigned reload_deaths;  /* during the reload under way */
    unsigned restarts;
    int current_fd; /* a page in which it says what it runs */
    char *current;  /* our mapping of it; bytes from the worker */
    uint64_t asked; /* the status request that it has not answered yet; 0 = none */
    struct mg_buf answer;
};

void mg_workers_set_count(struct mg_super *super, unsigned count);
void mg_workers_send(struct mg_super *super, enum mg_msg_type type, uint64_t number,
                     const char *text, int fd);
void mg_workers_stop(struct mg_super *super); /* none will be started any more */
void mg_workers_kill(struct mg_super *super);
void mg_workers_check(struct mg_super *super); /* the watchdog; from the tick */
void mg_workers_send_socket(struct mg_super *super, struct mg_socket *socket);
void mg_workers_send_unsocket(struct mg_super *super, const struct mg_socket *socket);
bool mg_workers_all_ready(const struct mg_super *super, uint64_t generation);
bool mg_workers_all_serving(const struct mg_super *super, uint64_t generation);
unsigned mg_workers_count(const struct mg_super *super); /* leaving ones not counted */
void mg_workers_replay(const struct mg_super *super,
                       struct mg_replay *sum); /* of all that are ready */
bool mg_workers_gone(const struct mg_super *super);

/* ---- loader --------------------------------------------------------------------------------- */

struct mg_loader {
    uv_process_t process;
    struct mg_ipc ipc;
    unsigned live; /* open handles of the two */
    bool answered; /* LOADED or FAILED has come, or nobody waits for it any more */
    uint64_t kill_at_ns;
    int64_t exit_status;
    int exit_signal;
    bool exited, lost;
};

/* Its end is mg_reload_loaded or mg_reload_load_failed, unless it is stopped before. */
int mg_loader_start(struct mg_super *super, struct mg_err *err);
void mg_loader_stop(struct mg_super *super);
void mg_loader_check(struct mg_super *super); /* from the tick */

/* ---- reload --------------------------------------------------------------------------------- */

enum mg_reload_state {
    MG_RELOAD_IDLE,
    MG_RELOAD_LOADING,    /* the loader runs */
    MG_RELOAD_SETTLING,   /* an address of the last change is still being given up */
    MG_RELOAD_BUILDING,   /* workers build */
    MG_RELOAD_COMMITTING, /* they were told to switch */
};

struct mg_reload {
    enum mg_reload_state state;
    uint64_t sequence; /* of the reload under way, or the last one */
    bool pending;      /* another one was asked for meanwhile */
    uint64_t deadline_ns;
    uint64_t generation; /* being built */
    int snapshot_fd;
    struct mg_snapshot *snapshot;
    struct mg_settings settings;
    struct mg_logs logs;
    struct mg_buf warnings, changes; /* lines */
    struct mg_loader loader;
    uint64_t succeeded, failed;
    char *last_error; /* of the last one, NULL if it went well */
};

/* Starts a reload, or remembers one; either is number reload.sequence + 1 (as it was before). */
void mg_reload_request(struct mg_super *super, const char *why);
void mg_reload_cancel(struct mg_super *super, const char *why);
/* text: as in LOADED. */
void mg_reload_loaded(struct mg_super *super, int snapshot_fd, const char *text, size_t len);
void mg_reload_load_failed(struct mg_super *super, const char *text, const char *paths, size_t len);
void mg_reload_loader_gone(struct mg_super *super);
void mg_reload_settled(struct mg_super *super);  /* a socket was given up */
void mg_reload_progress(struct mg_super *super); /* a worker got further */
void mg_reload_build_failed(struct mg_super *super, const char *fmt, ...) MG_PRINTF(2, 3);
void mg_reload_check(struct mg_super *super); /* from the tick */

/* ---- watch ---------------------------------------------------------------------------------- */

struct mg_watch;

struct mg_watch *mg_watch_new(struct mg_super *super, struct mg_err *err);

/* Watches these paths from now on: pairs of path and identity, each with a NUL; an empty identity
 * means: as it is now. failed: the load did not succeed and is tried again by itself. */
void mg_watch_set(struct mg_watch *watch, const char *list, size_t len, bool failed);
void mg_watch_close(struct mg_watch *watch); /* frees itself */

/* ---- control -------------------------------------------------------------------------------- */

struct mg_control;

struct mg_control *mg_control_open(struct mg_super *super, const char *path, struct mg_err *err);
void mg_control_close(struct mg_control *control); /* frees itself */

/* Answers all clients that wait for this reload; control may be NULL. */
void mg_control_reloaded(struct mg_control *control, uint64_t sequence, int code, const char *text);

/* A worker has answered `status`, or has gone; and, from the tick, whether it takes too long. */
void mg_control_status_progress(struct mg_super *super);

/* What `status` shows, from what the workers have answered. */
void mg_status_text(const struct mg_super *super, struct mg_buf *out);
void mg_status_json(const struct mg_super *super, struct mg_buf *out);

/* Of it, what is counted of listeners and backends (metrics.c): ,"counts":{…} of one worker, or with
 * MG_SHARED_WORKERS of all; two tables. */
void mg_metrics_json(const struct mg_super *super, unsigned worker, struct mg_buf *out);
void mg_metrics_text(const struct mg_super *super, struct mg_buf *out);

/* ---- platform, notify ----------------------------------------------------------------------- */

void mg_platform_raise_limits(void);
unsigned mg_platform_processors(void);
void mg_platform_close_on_exec(void); /* whatever we were started with above stderr */
int mg_platform_random(void *out, size_t len, struct mg_err *err);

/*
 * Starts this very binary again with one of the hidden arguments; `channel` (the caller's to close)
 * becomes its fd 3. Also on failure there is a handle to be closed: that is under way then,
 * on_close will come.
 */
int mg_platform_spawn(uv_loop_t *loop, uv_process_t *process, const char *role,
                      const char *argument, int channel, uv_exit_cb on_exit, uv_close_cb on_close,
                      struct mg_err *err);

void mg_notify(const char *fmt, ...) MG_PRINTF(1, 2);

/* ---- the supervisor ------------------------------------------------------------------------- */

enum mg_phase {
    MG_PHASE_STARTING,
    MG_PHASE_RUNNING,
    MG_PHASE_NOT_READY, /* stop was asked for; drain_delay runs */
    MG_PHASE_DRAINING,  /* workers leave with their last connections */
    MG_PHASE_QUITTING,  /* workers leave now */
    MG_PHASE_CLOSED,
};

struct mg_super {
    uv_loop_t loop;
    const struct mg_supervisor_options *options;
    char *script; /* absolute */
    enum mg_phase phase;
    int exit_code;
    struct mg_err reason; /* of exit_code 1 */
    uint64_t started_ns;
    uint64_t generation;      /* committed; 0 = none */
    uint64_t last_generation; /* number given last */
    int snapshot_fd;          /* of the committed generation */
    uint64_t before;          /* the one before it, while an address of it is being given up */
    int before_fd;            /* its snapshot; -1 = none */
    struct mg_settings settings;
    struct mg_logs logs;
    struct mg_reload reload;
    struct mg_socket *sockets;
    struct mg_worker *workers[MG_SHARED_WORKERS];
    struct mg_watch *watch;     /* NULL without --watch */
    struct mg_control *control; /* NULL if there is none */
    struct mg_shared *shared;
    int shared_fd;
    int sessions_fd;      /* TLS sessions of all workers; not mapped here */
    char secret[97];      /* hex; for ticket keys */
    bool drained;         /* `drain` was asked for: no socket is listened on */
    uint64_t drain_at_ns; /* when `drain` gives the sockets up; 0 = not asked */
    uint64_t stop_at_ns;  /* end of the present phase of stopping; 0 = none */
    bool shut;            /* stopping: the sockets take no newcomers any more */
    bool pid_written;
    uv_timer_t tick;
    uv_signal_t signals[4];
    uint64_t ticked_ns;
    uint64_t notified_ns; /* the last WATCHDOG=1 */
};

/* Stops: gracefully, or at once. */
void mg_super_stop(struct mg_super *super, bool now);

/* The first start failed: exit 1 with this as the last line on stderr. */
void mg_super_fail(struct mg_super *super, const char *text);

/* The first generation serves. */
void mg_super_ready(struct mg_super *super);

/* `drain`: stop accepting but keep running. -1: not now. */
int mg_super_drain(struct mg_super *super, struct mg_err *err);

/* Which sockets to let go. */
enum mg_retire {
    MG_RETIRE_ALL,
    MG_RETIRE_UNWANTED, /* not named by the generation that has just been committed */
    MG_RETIRE_BOUND,    /* of a generation that will not be */
};
void mg_super_retire_sockets(struct mg_super *super, enum mg_retire which);

/* A worker has emptied the queue and closed the socket, or has died with it. One that nobody has
 * emptied waits for the next worker. */
void mg_super_socket_released(struct mg_super *super, struct mg_socket *socket, unsigned worker,
                              bool emptied);

/* Ends the process when nothing is left to wait for. */
void mg_super_check_done(struct mg_super *super);

#endif
