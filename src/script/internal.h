/*
 * What the files of script/ share.
 *
 *   world     the store of facts: what a run of the script has seen, recorded or replayed
 *   files     reading files and directories through it
 *   vm        the guarded Lua state; stdlib, io, modules, command are what it holds
 *   guard     running Lua under a CPU budget, by protected call
 *   options   option tables, checked to the letter
 *   settings, listen, backend, conn, hello   what the script makes and gets
 *   servernames, names, certificates  many names, and what they are served with
 *   plan      the frozen result as text (manifest) and as struct mg_config
 *   policy    answers the engine's questions
 *   offer, proved   what clients get; what was proved before
 *   facts, difference   a policy as facts, and two of them compared
 *   prove, report   in-memory handshakes and what came of them
 *   replay    recent clients against a new generation
 *   testing   a script as the guest of a test's Lua state; moongate test
 */
#ifndef MG_SCRIPT_INTERNAL_H
#define MG_SCRIPT_INTERNAL_H

#include "openssl/binding.h"
#include "script/script.h"

struct mg_script;

/* ---- world ---------------------------------------------------------------------------------- */

/* A file larger than this is refused. */
#define MG_FILE_MAX (64u << 20)

enum mg_world_mode {
    MG_WORLD_RECORD, /* loader: ask the system once, keep the answer */
    MG_WORLD_REPLAY, /* worker, while the script runs: only what was recorded exists */
    MG_WORLD_LIVE,   /* after the script has returned: the clock is real, files are out of reach */
};

struct mg_fact;

/*
 * Facts are found by kind and key. Those without a natural key (the n-th os.time) are numbered in
 * the order in which the script asks, which is the same in every run because every earlier answer
 * was.
 */
struct mg_world {
    enum mg_world_mode mode;
    const struct mg_snapshot *snapshot; /* replay only; borrowed */
    char *dir;                          /* absolute directory of the script; owned */
    struct mg_fact *first, **last;      /* owned, in the order of asking */
    struct mg_fact *buckets[1024];
    unsigned long times, keys, signatures, commands; /* how many were asked for so far */
    unsigned char digest[32]; /* over the script and all that it has read, in order */
};

/* snapshot NULL = record. */
int mg_world_init(struct mg_world *w, const char *dir, const struct mg_snapshot *snapshot,
                  struct mg_err *err);
void mg_world_fini(struct mg_world *w);

/* What is known, recorded or from the snapshot; the span lives as long as the mode does not change.
 */
bool mg_world_find(const struct mg_world *w, enum mg_record kind, const char *key,
                   struct mg_span *value);

/* Records (MG_WORLD_RECORD only). */
int mg_world_add(struct mg_world *w, enum mg_record kind, const char *key, const void *value,
                 size_t len, struct mg_err *err);

/* What the script decides may depend on this from now on: text that it loads, and answers that may
 * differ at the next reload. Both modes call it alike, so that loader and workers agree. */
void mg_world_depend(struct mg_world *w, enum mg_record kind, const char *key,
                     struct mg_span value);

/* All facts as records; the paths to watch, each with a NUL. */
void mg_world_write(const struct mg_world *w, struct mg_snapshot_writer *writer);
void mg_world_watched(const struct mg_world *w, struct mg_buf *out);

/* A number that the system gives (`ask`), the n-th of its kind. */
int mg_world_number(struct mg_world *w, double (*ask)(void), double *out, struct mg_err *err);

/* The variable's value; false = not set. */
bool mg_world_getenv(struct mg_world *w, const char *name, struct mg_span *value);

/* 16 random bytes, the same in every run. */
int mg_world_seed(struct mg_world *w, unsigned char out[16], struct mg_err *err);

/* The addresses of a name to listen on, each with a NUL. */
int mg_world_lookup(struct mg_world *w, const char *host, struct mg_buf *out, struct mg_err *err);

/* Of struct mg_openssl_hooks: what is made by chance is recorded, or replaced by what was. */
int mg_world_made_key(struct mg_world *w, EVP_PKEY **key, struct mg_err *err);
int mg_world_made_signature(struct mg_world *w, struct mg_buf *signature, struct mg_err *err);

/* ---- files ---------------------------------------------------------------------------------- */

/* `path` as the script gave it, relative to the script's directory; owned by the caller, NULL
 * without memory. */
char *mg_world_path(const struct mg_world *w, const char *path);

/* The whole file. -1: err is "path: reason" and *error (may be NULL) the errno. */
int mg_world_read(struct mg_world *w, const char *path, struct mg_buf *out, int *error,
                  struct mg_err *err);

/* The names in a directory, sorted, each with a NUL; as for a file. */
int mg_world_list(struct mg_world *w, const char *path, struct mg_buf *out, int *error,
                  struct mg_err *err);

/* ---- guard ---------------------------------------------------------------------------------- */

struct mg_budget {
    double seconds;       /* settings.callback_budget */
    uint64_t deadline_ns; /* of this thread's CPU clock, while depth > 0 */
    unsigned depth;       /* callbacks under way: one may cause another */
    bool expired;
    const char *what; /* the outermost callback */
};

/*
 * As lua_pcall(L, nargs, nresults, 0) under the budget. A failure is logged with its traceback,
 * naming what and listener (may be NULL); its text is left on the stack.
 */
int mg_guard_call(struct mg_script *s, lua_State *L, int nargs, int nresults, const char *what,
                  const char *listener);

/* The functions through which a script could slip out of the budget: coroutines, xpcall, finalizers. */
void mg_guard_open(lua_State *L);

/* Before lua_close: the script's finalizers are not run any more. */
void mg_guard_close(lua_State *L);

/* CPU time of the calling thread, in nanoseconds. */
uint64_t mg_thread_cpu_ns(void);

/* Pushes "script.lua:12: " for the innermost function of the script on the stack, or "". */
void mg_script_where(lua_State *L);

/* ---- vm ------------------------------------------------------------------------------------- */

#define MG_SETTINGS_MAX 24

struct mg_settings {
    bool given;                  /* moongate.settings was called */
    char *text[MG_SETTINGS_MAX]; /* by index of mg_settings; NULL = not given; owned */
    char *secret, *previous;     /* ticket_secret; owned; each may be NULL */
    size_t secret_len, previous_len;
};

struct mg_script {
    lua_State *L;
    struct mg_world world;
    struct mg_settings settings;
    struct mg_budget budget;
    char *name;               /* the script's path as the user gave it: what errors call it */
    bool loaded;              /* the script has returned: everything is frozen */
    bool proving;             /* callbacks of the script are not run */
    bool is_guest;            /* L is a thread of a state that is not ours */
    struct mg_config *config; /* what this state is the script of (worker) */
    SSL_CTX *tickets;         /* holds the ticket keys that contexts get (worker); owned, or NULL */
};

/* A state for one run. `dir` and `snapshot` as for mg_world_init. NULL: err. */
struct mg_script *mg_script_new(const char *name, const char *dir,
                                const struct mg_snapshot *snapshot, struct mg_err *err);
void mg_script_delete(struct mg_script *s);

/*
 * A script in a state of somebody else's. `thread` must stay alive until the script is deleted.
 * _open puts the guarded world into whatever is the registry's table of globals, of loaded and of
 * preloaded modules then.
 */
struct mg_script *mg_script_guest_new(lua_State *thread, const char *name, const char *dir,
                                      struct mg_err *err);
int mg_script_guest_open(struct mg_script *s, struct mg_err *err);

/* The script that a state belongs to; of several guests the latest, or the one whose callback runs.
 * Raises where there is none. */
struct mg_script *mg_script_of(lua_State *L);

/* Makes s (NULL: none) that script, and returns the one before. Never raises. */
struct mg_script *mg_script_enter(lua_State *L, struct mg_script *s);

/* `path` from where the user stands as an absolute path, symlinks kept; owned by the caller. NULL:
 * err. */
char *mg_script_path(const char *path, struct mg_err *err);

/* What loader and tests have in common: reads the script at the absolute path into text (the
 * caller's), runs, freezes and, if load->prove, proves it. */
int mg_script_rehearse(struct mg_script *s, struct mg_script_load *load, const char *path,
                       struct mg_buf *text, struct mg_err *err);

/* The directory of an absolute path; owned by the caller, NULL without memory. */
char *mg_script_dir(const char *path);

/* Runs the text; freezes contexts, listeners and backends; err as the user reads it. */
int mg_script_run(struct mg_script *s, const char *text, size_t len, struct mg_err *err);

/* Raises "script.lua:12: …"; position as mg_script_where. */
MG_NORETURN void mg_script_error(lua_State *L, const char *fmt, ...);

/* Pushes an empty buffer that the collector wipes and frees: for bytes that must survive an error.
 */
struct mg_buf *mg_bytes_push(lua_State *L);

/* Pushes text as a string and frees it, also when the push raises. */
void mg_push_taken(lua_State *L, char *text);

/* Replaces the value named `name` in the table at -1 by a function that raises "lib.name is not
 * available in a script: why". */
void mg_refuse(lua_State *L, const char *lib, const char *name, const char *why);

void mg_stdlib_open(lua_State *L);  /* os, math, debug, print, pairs, warn */
void mg_io_open(lua_State *L);      /* io on recorded files */
void mg_modules_open(lua_State *L); /* require, load, loadfile, dofile, package */
int mg_command(lua_State *L);       /* moongate.command */

/* Loads text (not binary; a first line with # is skipped) and pushes the function, or pushes an
 * error message and returns a Lua status. */
int mg_load_text(lua_State *L, const char *text, size_t len, const char *chunk);

/* ---- options -------------------------------------------------------------------------------- */

struct mg_option {
    const char *name;
    /* Checks the value at `value` and pushes its normal form; raises through mg_option_error. */
    void (*read)(lua_State *L, const struct mg_option *option, const char *what, int value);
    double min, max;          /* of numbers */
    bool may_be_off;          /* false is allowed */
    const char *const *words; /* of words; ended by NULL */
    const char *fallback; /* the default as Lua writes it ("600", "false", a word); NULL = nil */
};

/* handshake_rate in its normal form; 0 = not given. false: there is none. */
struct mg_option_rate {
    double per_second, burst, per_ip;
};
bool mg_option_rate(lua_State *L, int idx, struct mg_option_rate *out);

/*
 * Checks the table at `table` against the options (ended by a NULL name) and stores each value in
 * its normal form, or its default, in the table at `into`. `what` is the function's name: "listen".
 */
void mg_options_read(lua_State *L, const char *what, const struct mg_option *options, int table,
                     int into);

/* Raises "script.lua:12: what: …". */
MG_NORETURN void mg_option_error(lua_State *L, const char *what, const char *fmt, ...);

/* Readers of struct mg_option. Durations are seconds. */
void mg_option_string(lua_State *L, const struct mg_option *o, const char *what, int value);
void mg_option_word(lua_State *L, const struct mg_option *o, const char *what, int value);
void mg_option_boolean(lua_State *L, const struct mg_option *o, const char *what, int value);
void mg_option_integer(lua_State *L, const struct mg_option *o, const char *what, int value);
void mg_option_number(lua_State *L, const struct mg_option *o, const char *what, int value);
void mg_option_duration(lua_State *L, const struct mg_option *o, const char *what, int value);
void mg_option_later(lua_State *L, const struct mg_option *o, const char *what, int value);

/* The longest duration: it fits into 32 bits of milliseconds. */
#define MG_DURATION_MAX 4294967.0

/* Pushes the option `name` of the object at idx (a Listener or Backend). Returns its type. */
int mg_option_push(lua_State *L, int idx, const char *name);

/* The duration option `name` of the object at idx in milliseconds; 0 = off. */
unsigned mg_option_ms(lua_State *L, int idx, const char *name);

/* For rows of the dispatcher, which leaves the field's name at index 2: any option is read alike;
 * assigned by the options' own rules (nil = back to the default); or not at all. */
int mg_option_get(lua_State *L, void *self);
void mg_option_assign(lua_State *L, const char *what, const struct mg_option *options, int value);
void mg_option_fixed(lua_State *L, void *self, int value);

/* ---- what the script makes ------------------------------------------------------------------ */

/* The value of a setting as text: given, or its default. */
const char *mg_settings_text(const struct mg_settings *settings, const char *name);
int mg_settings_lua(lua_State *L); /* moongate.settings */
void mg_settings_fini(struct mg_settings *settings);

/* Registry names of the lists of Listeners and Backends, in the order in which they were made. */
#define MG_LISTENERS "moongate.listeners"
#define MG_BACKENDS  "moongate.backends"

/* Registry name, with guests only: the set of contexts that are not the script's. */
#define MG_OTHERS "moongate.others"

/* readonly.c: the copy at the top becomes a view of it that cannot be written to: object "Backend", field "health",
 * and whether the object takes another table for it. */
void mg_readonly_push(lua_State *L, const char *object, const char *field, bool assignable);

/* Pushes a plain table like the view at idx; false: it is no view, and nothing is pushed. */
bool mg_readonly_copy(lua_State *L, int idx);

/* Where the script made a Listener or Backend, beside its options: "script.lua:12: ". */
#define MG_WHERE "(where)"

struct mg_listener_object {
    bool frozen;
};

struct mg_backend_object {
    bool frozen;
    bool listed;    /* in MG_BACKENDS */
    bool named;     /* by the script */
    bool duplicate; /* another one in the list is the same in everything, name included */
    enum mg_backend_kind kind;
    struct mg_backend *built; /* borrowed from the config, once there is one */
};

void mg_listen_open(lua_State *L); /* registers the class and the list */
int mg_listen_lua(lua_State *L);   /* moongate.listen */
void mg_backend_open(lua_State *L);
int mg_backend_lua(lua_State *L); /* moongate.backend */
int mg_reply_lua(lua_State *L);   /* moongate.reply */
int mg_echo_lua(lua_State *L);    /* moongate.echo */
struct mg_backend_object *mg_backend_test(lua_State *L, int idx);

/* Pushes a Backend for an address ("host:port", "unix:/path") as a listener may name it. It joins the list
 * with its listener, at the end of the script, where it is known to be used. */
void mg_backend_push_address(lua_State *L, const char *what, const char *text);

/* The address at the top, of the entry above the list: if the list has that server already, the entry is added to
 * it, and it is true. The list's `places` keeps where servers are. */
#define MG_WEIGHT_MAX 65535
bool mg_address_merge(lua_State *L, const char *what, int list, const struct mg_endpoint *ep);

/* Backend.source: each connection comes from its client's address. */
#define MG_SOURCE_CLIENT "client"

/* The object at idx joins MG_BACKENDS, if it is a Backend that has not yet. */
void mg_backend_join(lua_State *L, int idx);

/* Freezes the object at idx and the context it uses; raises with the place where it was made. */
void mg_listener_freeze(lua_State *L, int idx);
void mg_backend_freeze(lua_State *L, int idx);

/* setup() of the context, or of those in the ServerNames, in option `tls` of the object at idx; an error
 * names the object's place, `what`, the object and the context. */
void mg_context_freeze(lua_State *L, int idx, const char *what, bool as_client);

/* setup() of one context; an error begins with `place` and the context's name. */
void mg_context_setup(lua_State *L, int context, bool as_client, const char *place);

/* Adds a line to the warnings that the loader shows; to the faults for which it refuses the script, when that has
 * been proved as far as it goes, so that all there is to mend is told at once. */
void mg_script_warn(lua_State *L, const char *fmt, ...);
void mg_script_fault(lua_State *L, const char *fmt, ...);

/* Registry names of the lists of these lines. */
#define MG_WARNINGS "moongate.warnings"
#define MG_FAULTS   "moongate.faults"

/* The texts (each with a NUL) in a line, as many as err takes; `last` (or NULL) comes after them. */
void mg_faults_join(const struct mg_buf *texts, const char *last, struct mg_err *err);

/* The script has failed: err tells of its faults, too; all of them and the failure are in `texts`. */
void mg_faults_prefix(struct mg_script *s, struct mg_buf *texts, struct mg_err *err);

/* ---- names, certificates --------------------------------------------------------------------- */

/* User value: contexts without a key; names in their order, and what is meant for each; once frozen all
 * contexts. */
enum {
    MG_SERVERNAMES_LISTED = 1,
    MG_SERVERNAMES_NAMES,
    MG_SERVERNAMES_VALUES,
    MG_SERVERNAMES_CONTEXTS
};

struct mg_servernames_object {
    struct mg_names *names;   /* once frozen; one reference */
    unsigned char digest[32]; /* over names and policies */
};

void mg_servernames_open(lua_State *L);
int mg_servernames_lua(lua_State *L); /* moongate.servernames */
struct mg_servernames_object *mg_servernames_test(lua_State *L, int idx);

/* Sets up its contexts and fills `names`; an error begins with `place`. */
void mg_servernames_freeze(lua_State *L, int idx, const char *place);

/* Why the text is no name that a client could ask for, or NULL. */
const char *mg_name_fault(const char *name, size_t len);

/* Pushes the functions of lua/moongate/certificates.lua. */
int mg_certificates_core(lua_State *L);

/* moongate.PASSTHROUGH. */
void mg_passthrough_push(lua_State *L);
bool mg_passthrough_test(lua_State *L, int idx);

/* ---- plan ----------------------------------------------------------------------------------- */

/* A listener's options that are numbers or truths; ended by NULL. */
extern const char *const mg_listener_limits[];

/* What a backend's health may say; likewise. */
extern const char *const mg_backend_health[];

/* Frozen Backends that differ get names that differ (namesakes.c). */
int mg_backends_settle(struct mg_script *s, struct mg_err *err);

/* Appends the frozen Backend at `object` as canonical text. May raise. */
void mg_plan_backend(lua_State *L, int object, struct mg_buf *out);

/* Appends the frozen listeners and backends as canonical text, one line each. */
int mg_plan_manifest(struct mg_script *s, struct mg_buf *out, struct mg_err *err);

/* The first line in which two manifests differ, into err. */
void mg_plan_difference(const char *recorded, size_t recorded_len, const char *here,
                        size_t here_len, struct mg_err *err);

/* Fills a config (all zero before) with everything that listeners and backends say; on failure too
 * it is to be given to mg_config_fini. */
int mg_plan_config(struct mg_script *s, struct mg_config *config, struct mg_err *err);

/* A backend with defaults for one address. */
struct mg_backend *mg_plan_address(const char *text, struct mg_err *err);

/* Registry name of the table from struct mg_backend (light userdata) to Backend. */
#define MG_BUILT "moongate.built"

/* Calls body(L, data) with nothing else on the stack; its error becomes err. */
int mg_script_protect(struct mg_script *s, void (*body)(lua_State *L, void *data), void *data,
                      struct mg_err *err);

/* ---- conn, policy --------------------------------------------------------------------------- */

void mg_conn_open(lua_State *L);

/* Pushes the session's Conn, making it if there is none yet. May raise. */
void mg_conn_push(lua_State *L, struct mg_session *session);

/* Keeps the SSLContext at the top of the stack, and pops it, for as long as the session lives. */
void mg_conn_keep(lua_State *L, struct mg_session *session);

/* The session ends: its Conn answers with errors from now on. Never raises. */
void mg_conn_forget(struct mg_script *s, struct mg_session *session);

/* Pushes a Hello that is of use until mg_hello_forget, which never raises. */
void mg_hello_open(lua_State *L);
void mg_hello_push(lua_State *L, struct mg_session *session, const struct mg_hello *hello);
void mg_hello_forget(struct mg_script *s, struct mg_session *session);

/* Pushes a Hello of no connection, for the message (a string) and the table of addresses at these positive
 * indices. May raise. It is of use until it is forgotten. */
void mg_hello_sample_push(lua_State *L, int message, int addresses);
void mg_hello_sample_forget(lua_State *L, int idx);

/* What a tls function has returned, at indices 1 to 3, with a reference to the context; err is the reason of a
 * refusal, or "". Freezes the context. True: it has callbacks. May raise. */
bool mg_choice_read(lua_State *L, struct mg_choice *choice, struct mg_err *err);

extern const struct mg_policy mg_script_policy;

/* Tells moongate.openssl how the world is asked and callbacks are called. */
void mg_hooks_open(lua_State *L);

/* mg_guard_call for a function of a guest, from the state of its test. */
int mg_guest_call(struct mg_script *s, lua_State *L, int nargs, int nresults, const char *what);

/* ---- prove, report -------------------------------------------------------------------------- */

enum mg_proof_version { MG_PROOF_TLS12, MG_PROOF_TLS13, MG_PROOF_VERSIONS };
extern const char *const mg_proof_version_names[MG_PROOF_VERSIONS]; /* for people: "TLS 1.2" */
extern const char *const mg_proof_version_ids[MG_PROOF_VERSIONS];   /* for programs: "TLSv1.2" */

/* What the handshakes of one certificate under one version came to. */
struct mg_proof_cell {
    bool enabled;    /* the context offers the version */
    bool ok;         /* every handshake came through */
    char cipher[64]; /* of the first one */
    char cause[320]; /* of the first failure */
};

struct mg_proof_certificate {
    char type[16]; /* "RSA", "EC", "ED25519" */
    int bits;
    char *subject;       /* owned */
    char *file;          /* it was read from, as the script gave it; owned; or NULL */
    struct mg_buf chain; /* subjects of what is sent with it, each with a NUL */
    struct mg_buf names; /* SANs, each with a NUL */
    int64_t not_before, not_after;
    int days_left;
    unsigned char fingerprint[32];
    struct mg_proof_cell cells[MG_PROOF_VERSIONS];
    struct mg_buf results; /* members of a JSON array: every single handshake */
};

#define MG_PROOF_CERTIFICATES 12 /* more kinds of keys than OpenSSL has places for */

/* What clients can really get from a context, each tried by a handshake; texts, each with a NUL. */
struct mg_proof_offer {
    struct mg_buf versions; /* "TLSv1.2", the oldest first */
    struct mg_buf suites;   /* OpenSSL's names, in the server's order */
    struct mg_buf groups;
    const struct mg_proof_entry *first; /* of whose context this was found out; borrowed */
};

/* Contexts of one kind offer the same, whatever their certificates say. */
struct mg_proof_kind {
    unsigned char digest[32];
    struct mg_proof_offer offer;
    unsigned proved; /* contexts of this kind */
};

/* A listener or a backend. */
struct mg_proof_entry {
    bool is_backend;
    char *name;        /* owned */
    char *addresses;   /* owned; ", " between them */
    char where[128];   /* "script.lua:12: " */
    char context[128]; /* ctx.name, or "" */
    bool tls;
    bool by_name;   /* one of several contexts of a ServerNames, which tells of names that clash */
    bool is_asked;  /* a tls function decides */
    bool is_chosen; /* a context of no listener, for functions to choose; `name` says which */
    enum mg_target_kind outcome; /* what becomes of its clients */
    const SSL_CTX *server;       /* of TERMINATE; borrowed */
    struct mg_buf served;        /* names that lead to it, "none" and "default", each with a NUL */
    bool enabled[MG_PROOF_VERSIONS];
    struct mg_buf alpn;                 /* the context's protocols in wire form */
    bool alpn_asked;                    /* alpn_select_cb decides */
    unsigned char digest[32];           /* of its policy */
    unsigned char kind[32];             /* of what its offer depends on */
    unsigned char proof[32];            /* of what its handshakes depend on */
    bool unique;                        /* it has what no digest covers */
    bool complained;                    /* some client did not come through */
    struct mg_buf options;              /* name and value of each, with NULs */
    const struct mg_proof_offer *offer; /* borrowed from the proof; NULL: not tried */
    int verify_mode;
    bool tickets, sessions;                    /* what can be resumed */
    struct mg_proof_certificate *certificates; /* owned */
    size_t certificate_count;
    struct mg_buf unproved; /* what could not be proved, each with a NUL */
};

/* A peer of mg_peer_client, kept because many contexts are alike. */
struct mg_proof_client {
    struct mg_proof_client *next;
    char type[16];
    enum mg_proof_version version;
    SSL_CTX *ctx;
};

struct mg_proof {
    struct mg_script *script;
    const struct mg_snapshot *before; /* of the policy in force, or NULL; borrowed */
    size_t known;                     /* contexts that were proved for it */
    const char *sni;                  /* one more name to prove, or NULL */
    bool functions_choose;            /* contexts, besides those that listeners have */
    struct mg_proof_entry *entries;   /* owned */
    size_t entry_count;
    SSL_CTX *server;   /* what backends' contexts are tried against; owned, made when needed */
    X509_STORE *usual; /* the roots that are known here; likewise */
    struct mg_proof_client *clients; /* what servers are tried with; likewise */
    struct mg_proof_kind **kinds;    /* owned; sorted by digest */
    size_t kind_count;
    struct mg_proof_chain {
        unsigned char digest[32]; /* of a kind and a chain */
        bool proved;
    } chains[256]; /* more are sent each time */
    size_t chain_count;
    struct mg_buf warnings, errors; /* texts, each with a NUL */
};

void mg_proof_warn(struct mg_proof *proof, const char *fmt, ...) MG_PRINTF(2, 3);
void mg_proof_fail(struct mg_proof *proof, const char *fmt, ...) MG_PRINTF(2, 3);

/* "script.lua:12: listener web (context api)", cut if need be. */
#define MG_PROOF_WHO 512
void mg_proof_who(const struct mg_proof_entry *entry, char out[MG_PROOF_WHO]);

/* Subject, names, dates and kind of key of a certificate. */
int mg_proof_describe(struct mg_proof_certificate *out, X509 *x509, const STACK_OF(X509) * chain,
                      struct mg_err *err);

/* The digest of what the context at the top of the stack offers, into entry->kind. May raise. */
void mg_proof_kind(lua_State *L, struct mg_proof_entry *entry, SSL_CTX *ctx);

/* Tries what a context of that kind offers, once; *known: several were proved before. */
int mg_proof_offer(struct mg_proof *proof, struct mg_proof_entry *entry, SSL_CTX *ctx, bool *known,
                   struct mg_err *err);
void mg_proof_kinds_free(struct mg_proof *proof);

/* Warns of what is wrong with the certificate itself: dates, and the chain sent with it. */
void mg_proof_inspect(struct mg_proof *proof, const struct mg_proof_entry *entry,
                      const struct mg_proof_certificate *certificate, X509 *x509,
                      const STACK_OF(X509) * chain, SSL_CTX *ctx);

/* Whether such a chain has come through with a context of the entry's kind, to be read and noted, or NULL:
 * the chain is always sent (prove_chain.c). */
bool *mg_proof_chain_find(struct mg_proof *proof, const struct mg_proof_entry *entry, SSL_CTX *ctx,
                          const STACK_OF(X509) * chain);

/* Warns of CRLs and OCSP responses that are of no use (prove_revocation.c). -1: no memory. */
int mg_proof_revocation(struct mg_proof *proof, const char *who, SSL_CTX *ctx,
                        const struct mg_ssl_context_facts *facts, struct mg_err *err);

/* Whether it came through under each version that its context offers. */
bool mg_proof_is_flawless(const struct mg_proof_certificate *certificate);

/* What the policy in force was proved with: proved.c. */
int mg_proved_digest(struct mg_proof_entry *entry, SSL_CTX *ctx, struct mg_err *err);
bool mg_proved_has(const struct mg_proof *proof, const struct mg_proof_entry *entry);
bool mg_proved_offer(const struct mg_proof *proof, const struct mg_proof_entry *entry,
                     struct mg_proof_offer *offer);
void mg_proved_write(const struct mg_proof *proof, struct mg_buf *proved, struct mg_buf *kinds);

/* What an entry amounts to: its options (may raise), then all of all as lines. */
#define MG_FACTS_POLICY_MARK " policy " /* a subject that is no listener's and no backend's */
#define MG_FACTS_POLICY      32
void mg_facts_options(lua_State *L, int object, struct mg_proof_entry *entry);
void mg_facts_add(const struct mg_proof *proof, struct mg_buf *out);

/* Adds a line for each difference between two policies' facts. */
int mg_facts_difference(const char *before, size_t before_len, const char *after, size_t after_len,
                        struct mg_buf *out, struct mg_err *err);

/* Adds an entry for the object at `object`, with the context (or whatever is in its place; nil: plain) at
 * `context`. May raise. */
void mg_proof_entry_add(lua_State *L, struct mg_proof *proof, bool is_backend, int object,
                        int context);

/* All that is proved of the context at `context`; nothing where it is none. May raise. */
void mg_proof_context(lua_State *L, struct mg_proof *proof, struct mg_proof_entry *entry,
                      int context);

/* Contexts that functions may choose: how many entries they need at most, and those entries. */
size_t mg_proof_chosen_count(lua_State *L);
void mg_proof_chosen_prove(lua_State *L, struct mg_proof *proof);

/* The listener at `object`, with a ServerNames next to it at the top: an entry for each context, and for each
 * other outcome that a name can have; with `check --sni` for what that name leads to. May raise. */
void mg_proof_names_add(lua_State *L, struct mg_proof *proof, int object,
                        const struct mg_names *names);

/* Warns of names that lead to a certificate which is not for them. -1: no memory. */
int mg_proof_cover(struct mg_proof *proof, const struct mg_proof_entry *entry);

/* Pushes the list of contexts in the ServerNames at the top. */
void mg_proof_contexts_push(lua_State *L);

/* Warns of names that different certificates of the same kind claim. -1: no memory. */
int mg_proof_compare(struct mg_proof *proof, struct mg_err *err);

/* The error of a callback that a proof's handshake has reached. */
#define MG_NOT_RUN "not run while contexts are proved"

/* Peers that refuse nothing, for one version; NULL: OpenSSL's queue says why. A client takes one kind of
 * certificate ("RSA", "EC"); a server has those of both kinds and asks for the client's. */
SSL_CTX *mg_peer_client(const char *type, int version);
SSL_CTX *mg_peer_server(void);
bool mg_peer_limit(SSL_CTX *ctx, int version);

/* Gives a peer a certificate that no CA knows. */
bool mg_peer_identify(SSL_CTX *ctx);

extern const int mg_proof_version_numbers[MG_PROOF_VERSIONS]; /* OpenSSL's */

/* What the bounds and options of a context leave: this version; one before TLS 1.2. */
bool mg_proof_enabled(SSL_CTX *ctx, enum mg_proof_version version);
bool mg_proof_older_enabled(SSL_CTX *ctx);

/* An error that says nothing against the context: our certificates are known to nobody, callbacks are
 * not run. */
bool mg_proof_is_expected(const char *error);

/* Notes what could not be proved. */
void mg_proof_unproved(struct mg_proof_entry *entry, const char *text);

/* The bounds, the verification and handshakes of a frozen client context, into entry. */
int mg_proof_client(struct mg_proof *proof, struct mg_proof_entry *entry, SSL_CTX *ctx,
                    const struct mg_ssl_context_facts *facts, struct mg_err *err);

/* All handshakes with a frozen server context, into entry. */
int mg_proof_server(struct mg_proof *proof, struct mg_proof_entry *entry, SSL_CTX *ctx,
                    const struct mg_ssl_context_facts *facts, struct mg_err *err);

/* Proves every context and fills report, JSON and warnings of `load`. -1: a context that no client
 * could use, or load->listener is not there; err says so. */
int mg_prove(struct mg_script *s, struct mg_script_load *load, struct mg_err *err);

/* ---- testing -------------------------------------------------------------------------------- */

/* The C module moongate.script: load(path, files, env), for moongate.testing. */
int luaopen_moongate_script(lua_State *L);

/* "required", "by ticket": for people. */
const char *mg_proof_verification(const struct mg_proof_entry *entry);
const char *mg_proof_resumption(const struct mg_proof_entry *entry);

void mg_report_text(const struct mg_proof *proof, struct mg_buf *out);
void mg_report_json(const struct mg_proof *proof, struct mg_buf *out);

#endif
