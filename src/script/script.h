/*
 * script: the Lua side of moongate. Runs a user's script in a guarded state that records what it
 * reads (loader) or replays it (worker), turns listen/backend/settings into a frozen struct
 * mg_config, answers the engine's questions (struct mg_policy), and proves contexts with in-memory
 * handshakes.
 */
#ifndef MG_SCRIPT_SCRIPT_H
#define MG_SCRIPT_SCRIPT_H

#include "base/base.h"
#include "proxy/proxy.h"
#include "snapshot/snapshot.h"

/* One setting of section 3 as it goes into MG_RECORD_SETTING: name, default ("" = none). */
struct mg_setting {
    const char *name;
    const char *fallback;
};
extern const struct mg_setting mg_settings[]; /* ended by a NULL name */

/* ---- loader --------------------------------------------------------------------------------- */

struct mg_script_load {
    /* in */
    const char *path; /* the script, or a packed snapshot */
    bool prove;       /* run the proof; its errors fail the load */
    bool machine;     /* `check`: warn of all that this machine lacks, which `run` would find out */
    void (*on_settings)(double reload_timeout); /* `check`: the script has said so; or NULL */
    const char *listener;             /* `check --listener`: report that one only; or NULL */
    const char *sni;                  /* `check --sni`: prove that name too; or NULL */
    const struct mg_snapshot *before; /* of the policy in force: what it has proved is not proved
                                       * again, and what changes is told; or NULL; borrowed */
    /* out */
    int snapshot_fd;        /* sealed, owned by the caller; -1 on failure */
    struct mg_buf warnings; /* one line each */
    struct mg_buf report;   /* table for people (with `prove`) */
    struct mg_buf report_json;
    struct mg_buf
        faults; /* all there is to mend of a script that was not proved; texts, each with a NUL */
    struct mg_buf changes;              /* with `before`: in words, one line each */
    struct mg_buf facts, proved, kinds; /* for the snapshot; of the proof */
    size_t contexts_known;              /* contexts that were not proved again */
};

/* Frees what came out, but for the descriptor. */
void mg_script_load_fini(struct mg_script_load *load);

/*
 * Runs the script, freezes, proves, seals. -1: err->text is what the user reads ("moongate.lua:12:
 * …"). Also on failure the watch list is known: `watch` (may be NULL) gets the paths touched so
 * far, each with a NUL, so that --watch can wait for the mistake to be mended.
 */
int mg_script_load(struct mg_script_load *load, struct mg_buf *watch, struct mg_err *err);

/* Ends the program that the script is waiting for, if any, and what that has started. A signal handler may. */
void mg_command_kill(void);

/* ---- tests ---------------------------------------------------------------------------------- */

/*
 * Runs busted with these arguments (ended by NULL). When it has run specs it ends the process with
 * its own exit status. -1: it could not be started, err says why.
 */
int mg_script_test(char *const *args, struct mg_err *err);

/* ---- explain -------------------------------------------------------------------------------- */

struct mg_script_explain {
    const char *path, *listener, *client; /* client: a profile of moongate.testing */
    const char *sni, *alpn;               /* or NULL */
    bool json;
};

/* Writes what that client would get to stdout. -1: err is what the script, or the listener's name, is
 * refused for. `usage` is "", or what is wrong with the rest (nothing was written then). */
int mg_script_explain(const struct mg_script_explain *explain, char *usage, size_t cap,
                      struct mg_err *err);

/* ---- worker --------------------------------------------------------------------------------- */

struct mg_script_build {
    struct mg_snapshot *snapshot; /* borrowed during the call */
    uint64_t generation;
    const char *ticket_secret; /* drawn by the supervisor, used where settings give none */
    size_t ticket_secret_len;
};

/*
 * Replays the snapshot's run on the calling thread (not the loop's) and compares manifests. The
 * result is handed to the loop's thread as a whole; no uv handle is made here. NULL: err says why.
 * Free with mg_script_free on the loop's thread when the config is unused (config->on_unused is set
 * by the caller).
 */
struct mg_config *mg_script_build(const struct mg_script_build *build, struct mg_err *err);
void mg_script_free(struct mg_config *config);

/* How recent clients would fare under a new generation. */
#define MG_REPLAY_REASONS 8u
struct mg_replay {
    unsigned total;     /* hellos of listeners that the generation has, too */
    unsigned failing;   /* of these, those that came through until now */
    unsigned not_asked; /* where a callback of the script's has a say, which is not run */
    unsigned late;      /* not tried, because it took too long */
    unsigned reason_count;
    struct {
        unsigned count;
        char text[96];
    } reasons[MG_REPLAY_REASONS]; /* of failing; may be 0 */
};

/* On the thread that built it, before the hand-over. What fails is noted in the ring. */
int mg_script_replay(struct mg_config *config, struct mg_ring *ring, struct mg_replay *out,
                     struct mg_err *err);

/* What runs in Lua right now ("alpn_select_cb of listener web"), for the heartbeat and the
 * watchdog's message; "" when nothing does. Written and read by the loop's thread and by a dying
 * one: a static buffer in shared memory if mg_script_set_current gave one. */
void mg_script_set_current(char *place, size_t cap);

#endif
