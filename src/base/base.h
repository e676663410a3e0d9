/*
 * base: what every room of moongate may use; libc only.
 *
 *   alloc   allocation with fault injection in test builds
 *   err     one error text, filled by the function that failed
 *   buf     a growing byte string that remembers a failed allocation
 *   addr    socket addresses as users write them; cidr: networks
 *   log     one line, one write(2); text or JSON
 *   shared  counters over all workers
 *   limits  connections and rates per client, over all workers
 *   cache   bytes under a key, for all workers: TLS sessions
 *
 * Convention of the whole project: functions that can fail return 0 or -1 (or a pointer or NULL) and
 * take `struct mg_err *` as their last argument; they fill it exactly when they fail.
 */
#ifndef MG_BASE_BASE_H
#define MG_BASE_BASE_H

#include "base/features.h"

#include <netinet/in.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>

#define MG_VERSION "0.1.0"

#define MG_ARRAY_LEN(a)                    (sizeof(a) / sizeof((a)[0]))
#define MG_CONTAINER_OF(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

/* ---- alloc ---------------------------------------------------------------------------------- */

/* As malloc(3) and friends; NULL on failure. mg_free(NULL) is fine. */
void *mg_malloc(size_t size);
void *mg_calloc(size_t count, size_t size);
void *mg_realloc(void *old, size_t size);
char *mg_strdup(const char *text);
char *mg_strndup(const char *text, size_t len);
void mg_free(void *ptr);

/* Frees after overwriting: for anything that held a secret. */
void mg_free_secret(void *ptr, size_t size);

/* Overwrites in a way the compiler keeps. */
void mg_wipe(void *ptr, size_t size);

/* Test builds (MG_FAULTS) only: the n-th allocation from now fails, 1 being the next; 0 = never. */
void mg_alloc_fail_at(long n);

/* Allocations asked for since the last mg_alloc_fail_at; always 0 without MG_FAULTS. */
long mg_alloc_count(void);

/* ---- err ------------------------------------------------------------------------------------ */

/* An error as a person reads it: where, what, and what would be right. Never allocated. */
struct mg_err {
    char text[2048];
};

/* Formats; mg_err_set appends ": " and strerror(errno), mg_err_setx does not (as err(3), errx(3)). */
void mg_err_set(struct mg_err *err, const char *fmt, ...) MG_PRINTF(2, 3);
void mg_err_setx(struct mg_err *err, const char *fmt, ...) MG_PRINTF(2, 3);

/* Puts "text: " in front of what is there; the end is cut if it no longer fits. */
void mg_err_prefix(struct mg_err *err, const char *fmt, ...) MG_PRINTF(2, 3);

/* ---- buf ------------------------------------------------------------------------------------ */

/*
 * A growing byte string, always followed by a NUL that len does not count. An allocation failure
 * sets `failed` and makes every later call a no-op, so that one test at the end is enough.
 * All zero is a valid empty buffer.
 */
struct mg_buf {
    char *data; /* NULL while empty; owned */
    size_t len;
    size_t cap;
    bool failed;
};

void mg_buf_add(struct mg_buf *buf, const void *data, size_t len);
void mg_buf_adds(struct mg_buf *buf, const char *text);
void mg_buf_addf(struct mg_buf *buf, const char *fmt, ...) MG_PRINTF(2, 3);
void mg_buf_addv(struct mg_buf *buf, const char *fmt, va_list args) MG_PRINTF(2, 0);

/* A JSON string with quotes; bytes that are not UTF-8 become U+FFFD. */
void mg_buf_add_json(struct mg_buf *buf, const char *data, size_t len);

/* `data` with control characters, backslash and non-UTF-8 as \xNN: safe on a terminal and in a log. */
void mg_buf_add_printable(struct mg_buf *buf, const char *data, size_t len);

/* Whether it is UTF-8 without control characters. */
bool mg_text_is_printable(const char *data, size_t len);

/* For errors: what somebody wrote, with what is not printable as \xNN, cut where it is long. Returns `out`. */
#define MG_TEXT_SHOWN 128
const char *mg_text_show(const char *data, size_t len, char out[MG_TEXT_SHOWN]);

/* Hands the bytes over (the caller frees with mg_free) and leaves the buffer empty; NULL if failed. */
char *mg_buf_take(struct mg_buf *buf);
void mg_buf_free(struct mg_buf *buf);
void mg_buf_free_secret(struct mg_buf *buf);

/* ---- addr ----------------------------------------------------------------------------------- */

/* A socket address that a socket call takes. family AF_UNSPEC = none. */
struct mg_addr {
    socklen_t len;
    union {
        struct sockaddr sa;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
        struct sockaddr_un un;
        struct sockaddr_storage storage;
    } u;
};

enum mg_endpoint_kind {
    MG_ENDPOINT_IP,   /* a literal IPv4 or IPv6 address; addr is filled */
    MG_ENDPOINT_ANY,  /* "*:port": IPv6 any with IPv4 mapped; addr is [::]:port */
    MG_ENDPOINT_UNIX, /* "unix:/path" or, abstract, "unix:@name"; addr is filled */
    MG_ENDPOINT_NAME, /* "host:port": host and port are filled, addr is AF_UNSPEC */
};

/* An address as a script writes it. */
struct mg_endpoint {
    enum mg_endpoint_kind kind;
    struct mg_addr addr;
    char host[256]; /* without brackets; "" for unix */
    uint16_t port;  /* host order; 0 for unix */
};

/* Parses "host:port", "[::1]:port", "*:port" (allow_any), "unix:/path". Port 1..65535. What no TCP socket can have
 * is refused: multicast and broadcast addresses, link-local ones without interface. */
int mg_endpoint_parse(struct mg_endpoint *ep, const char *text, bool allow_any, struct mg_err *err);

/* Why these bytes are no host name (RFC 1123; underscores and a dot at the end are allowed), or NULL. */
const char *mg_host_fault(const char *host, size_t len);

/* Why no TCP socket can have this IP address, or NULL; and whether it is 0.0.0.0 or [::]. */
const char *mg_addr_fault(const struct mg_addr *addr);
bool mg_addr_is_any(const struct mg_addr *addr);

/* A literal IPv4 or IPv6 address (with %zone), without brackets; the port is 0. */
bool mg_addr_parse_ip(struct mg_addr *addr, const char *text);

/* A copy for mg_free without the room that this address does not need: for the functions below only,
 * never to be copied as a whole. NULL: no memory. */
struct mg_addr *mg_addr_keep(const struct mg_addr *addr);

/* The IP as one of IPv6: IPv4 is mapped (::ffff:192.0.2.1), so that a client is the same one on every socket.
 * false: it is none. */
bool mg_addr_ip16(const struct mg_addr *addr, unsigned char out[16]);

#define MG_ADDR_TEXT 160 /* room for any address as text */

/* "1.2.3.4:5", "[::1]:5", "unix:/path"; IPv4-mapped IPv6 is shown as IPv4. Returns `out`. */
const char *mg_addr_text(const struct mg_addr *addr, char out[MG_ADDR_TEXT]);

/* The IP without port ("" for unix), and the port in host order (0 for unix). */
const char *mg_addr_ip(const struct mg_addr *addr, char out[MG_ADDR_TEXT]);
uint16_t mg_addr_port(const struct mg_addr *addr);
void mg_addr_set_port(struct mg_addr *addr, uint16_t port);

/* A network: all addresses that have the first `bits` of these bytes. Unix sockets have no bits. */
struct mg_cidr {
    int family;
    unsigned bits;
    unsigned char bytes[16]; /* 0 behind the prefix */
    bool inexact;            /* there was something else behind it */
};

/* Parses "10.0.0.0/8", "2001:db8::/32", "192.0.2.1", "unix:". IPv4 in IPv6 is IPv4, here and below. */
int mg_cidr_parse(struct mg_cidr *cidr, const char *text, struct mg_err *err);

#define MG_CIDR_TEXT 64
const char *mg_cidr_text(const struct mg_cidr *cidr, char out[MG_CIDR_TEXT]);
bool mg_cidr_contains(const struct mg_cidr *cidr, const struct mg_addr *addr);

/* ---- log ------------------------------------------------------------------------------------ */

enum mg_log_level { MG_LOG_DEBUG, MG_LOG_INFO, MG_LOG_WARN, MG_LOG_ERROR };
enum mg_log_format { MG_LOG_TEXT, MG_LOG_JSON };

/* Names for the two enums; -1 for an unknown name. */
int mg_log_level_parse(const char *name);
int mg_log_format_parse(const char *name);

/*
 * Sets up this process's log. `who` ("supervisor", "worker 2") is copied. fd is borrowed; -1 means
 * syslog(3). Before the first call everything goes to stderr as text at level info.
 */
void mg_log_open(int fd, enum mg_log_format format, enum mg_log_level level, const char *who);
void mg_log_set(enum mg_log_format format, enum mg_log_level level);
enum mg_log_format mg_log_format(void);
bool mg_log_enabled(enum mg_log_level level);

/* For a process that serves nobody: waits for the log's reader instead of losing records. */
void mg_log_wait(void);

/* One record; embedded newlines stay one record (text: following lines are indented). What the log's
 * reader does not take at once is lost, and the next record that it takes says how many were. */
void mg_log(enum mg_log_level level, const char *fmt, ...) MG_PRINTF(2, 3);
void mg_logv(enum mg_log_level level, const char *fmt, va_list args) MG_PRINTF(2, 0);

/* ---- time ----------------------------------------------------------------------------------- */

/* CLOCK_MONOTONIC in nanoseconds, and in milliseconds; wall clock as "2026-11-23T03:40:00.123Z". */
uint64_t mg_now_ns(void);
void mg_time_text(char out[32]);

static inline uint64_t
mg_now_ms(void)
{
    return mg_now_ns() / 1000000;
}

/* From now on the calling thread stands back for the others. */
void mg_priority_lower(void);

/* ---- str ------------------------------------------------------------------------------------ */

/* The nearest of `count` names to `word` (edit distance at most 2, or a third of it), else NULL. */
const char *mg_str_nearest(const char *word, const char *const *names, size_t count);

/* Copies with a NUL, cutting; returns dst. */
char *mg_str_copy(char *dst, size_t cap, const char *src);

/* Of ASCII letters, whatever the locale. */
char mg_ascii_lower(char c);

/* FNV-1a, for hash tables over trusted names only. */
uint64_t mg_str_hash(const char *data, size_t len);

/* ---- fd ------------------------------------------------------------------------------------- */

/* Writes all or fails (EINTR handled, EAGAIN waited for); reads a whole file up to max bytes. */
int mg_fd_write_all(int fd, const void *data, size_t len);

/* Opens a regular file to be read, and nothing else, which could wait or have an effect: a descriptor, or -1 and errno,
 * which mg_file_error puts into words (EINVAL: no regular file). */
int mg_fd_open_file(const char *path);
const char *mg_file_error(int error);

/* One record of a log, whole or not at all, and never waiting for whoever reads a pipe, socket or
 * terminal. -1: not written; errno is EAGAIN if that was for a reader who does not keep up. */
int mg_fd_write_now(int fd, const void *data, size_t len);
int mg_fd_read_all(int fd, struct mg_buf *out, size_t max, struct mg_err *err);

/* ---- shared counters ------------------------------------------------------------------------ */

/*
 * One page-aligned mapping shared by the supervisor and all workers: what has to be counted over all
 * of them. A worker only ever writes to its own row, and nothing is kept twice, so that a worker may be
 * killed at any moment: the supervisor clears its rows, and what is left is true. All fields are C11
 * atomics.
 */
#define MG_SHARED_WORKERS   256
#define MG_SHARED_LISTENERS 2048 /* those of generations that end count as well */

/* A limit that bites, of which one of all workers tells; see proxy/told.c. Times are milliseconds of mg_now_ns. */
struct mg_shared_told {
    _Atomic uint32_t teller;  /* index + 1 of the worker that has said so; 0; or the one below */
    _Atomic uint64_t hit_at;  /* the last time that somebody was turned away, or seen to wait */
    _Atomic uint64_t next_at; /* it is not said again before */
    _Atomic uint64_t count;   /* of those, since it was last said how many ... */
    _Atomic uint64_t since;   /* ... which is as long as this; 0 = there is none */
};
#define MG_TELLER_GONE   UINT32_MAX /* the worker that has said so is; another one is to go on */
#define MG_SHARED_LIMITS 5          /* of a listener */

struct mg_shared_listener {
    _Atomic uint64_t name_hash; /* 0 = never used; written under the lock */
    struct mg_shared_told told[MG_SHARED_LIMITS];
    _Atomic int32_t open[MG_SHARED_WORKERS];  /* connections, per worker */
    _Atomic int32_t users[MG_SHARED_WORKERS]; /* configs that hold the slot, per worker */
};

/* Per client; see limits.c. */
#define MG_LIMITS_COUNTS 65536 /* rows per worker */
#define MG_LIMITS_RATES  65536

struct mg_limits_count {
    _Atomic uint64_t key;
    _Atomic uint32_t count; /* 0 = the row is nobody's */
};

struct mg_limits_rate {
    _Atomic uint64_t key, full_at; /* CLOCK_MONOTONIC, ns */
};

/* Pages that nobody has touched do not exist. */
struct mg_limits {
    _Atomic uint64_t secret[2];
    _Atomic uint64_t listener_full_at[MG_SHARED_LISTENERS];
    _Atomic uint32_t used[MG_SHARED_WORKERS]; /* connections that are counted */
    struct mg_limits_rate rates[MG_LIMITS_RATES];
    struct mg_limits_count counts[MG_SHARED_WORKERS][MG_LIMITS_COUNTS];
};

#define MG_SHARED_ADDRESSES 8192 /* of all backends; likewise */

/*
 * One address of a backend. What is known of its health is each a number of its own: a worker that dies
 * between two of them leaves nothing worse than one failure that was not counted. Times are milliseconds of
 * mg_now_ns, a clock that all processes have in common.
 */
#define MG_SHARED_WHY 96
struct mg_shared_address {
    _Atomic uint32_t rows;                    /* of the three below: those behind were never used */
    _Atomic uint32_t failures;                /* of connections, in a row */
    _Atomic uint32_t rests;                   /* in a row: each is longer than the one before */
    _Atomic uint64_t rest_until;              /* 0 = it does not rest */
    _Atomic uint32_t down;                    /* 1 = so say the probes */
    _Atomic uint32_t passed, missed;          /* probes in a row; one of them is 0 */
    _Atomic uint32_t prober;                  /* index + 1 of the worker that probes, or 0 */
    struct mg_shared_told told;               /* of a backend's first: all are full */
    struct mg_shared_told told_ports;         /* likewise: no local port is left for any */
    _Atomic uint32_t downs;                   /* times it went down or to rest; only grows */
    _Atomic uint64_t since;                   /* when it last did; 0 = it has not */
    _Atomic uint64_t why[MG_SHARED_WHY / 8];  /* a text; see mg_shared_address_why */
    _Atomic uint64_t pass;                    /* whose turn it is: the least; 0 = new */
    _Atomic int32_t open[MG_SHARED_WORKERS];  /* connections, per worker */
    _Atomic int32_t users[MG_SHARED_WORKERS]; /* configs that hold the slot, per worker */
    _Atomic int32_t portless[MG_SHARED_WORKERS]; /* of a backend's first: who wants a local port */
};

/*
 * What has been counted of each listener and each backend, by name; see metrics.c. Each worker has a table that it
 * alone writes.
 */
#define MG_METRICS_REASONS        128 /* the last one is for those that find no place */
#define MG_METRICS_NAMES          2048 /* of listeners and backends, those of old generations included */
#define MG_METRICS_FUNCTION_NAMES 256  /* of them: backends that only functions have named */
#define MG_METRICS_ADDRESSES      1024 /* that have failed */
#define MG_METRICS_EACH           512  /* of one backend */
#define MG_METRICS_REASON_CAP     48
#define MG_METRICS_TEXT_CAP       272

enum mg_metric_kind { MG_METRIC_NONE, MG_METRIC_LISTENER, MG_METRIC_BACKEND, MG_METRIC_ADDRESS };

struct mg_metric {
    _Atomic uint32_t epoch;       /* odd while the place changes hands */
    _Atomic uint32_t kind;        /* MG_METRIC_NONE: it is nobody's */
    _Atomic int32_t users;        /* configs that have the name */
    _Atomic uint32_t by_function; /* only functions have named it */
    _Atomic uint64_t generation;  /* the last one that has held it */
    _Atomic uint32_t next;      /* a backend's first address, an address's next: place + 1, or 0 */
    _Atomic uint32_t addresses; /* of a backend */
    _Atomic uint64_t begun;     /* connections */
    _Atomic uint64_t tries;     /* of a backend: addresses that failed, served, or were overtaken */
    _Atomic uint64_t by[MG_METRICS_REASONS]; /* ends of connections; failures */
    char text[MG_METRICS_TEXT_CAP];          /* name or address, cut if need be */
};

/* Pages that nobody has touched do not exist. */
struct mg_metrics {
    _Atomic uint32_t serving;        /* a config is in use: names that no config has are gone */
    _Atomic uint32_t function_names; /* in use */
    _Atomic uint32_t address_end,
        address_free; /* places ever used; place + 1 of one given back, or 0 */
    _Atomic uint32_t reason_count;
    char reason[MG_METRICS_REASONS][MG_METRICS_REASON_CAP];
    _Atomic uint64_t hash[MG_METRICS_NAMES]; /* of the names below, apart; 0 = never used */
    struct mg_metric others[2];              /* listeners and backends for which no place is left */
    struct mg_metric name[MG_METRICS_NAMES];
    struct mg_metric address[MG_METRICS_ADDRESSES];
};

struct mg_shared {
    _Atomic uint64_t next_id; /* connection ids are unique over workers and reloads */
    _Atomic uint32_t lock; /* of the tables of names: index + 1 of the worker that has it, or 0 */
    _Atomic uint32_t
        downs; /* of all addresses: whoever remembers it sees that something went down */
    _Atomic uint32_t tellers_gone; /* likewise, that a teller did */
    struct mg_shared_listener listener[MG_SHARED_LISTENERS];
    struct mg_limits limits;
    /* Of the names below, apart, so that looking for one touches no other's pages. 0 = never used. */
    _Atomic uint64_t address_hash[MG_SHARED_ADDRESSES];
    struct mg_shared_address address[MG_SHARED_ADDRESSES];
    _Atomic uint32_t metrics_used[MG_SHARED_WORKERS]; /* whose table is not empty */
    struct mg_metrics metrics[MG_SHARED_WORKERS];
};

/* Memory for several processes: a descriptor without a name whose size is fixed. */
int mg_shared_memory(const char *name, size_t size, struct mg_err *err);

/* Creates the mapping's fd (supervisor), or maps a received one (worker). */
int mg_shared_create(struct mg_err *err);
struct mg_shared *mg_shared_map(int fd, struct mg_err *err);
void mg_shared_unmap(struct mg_shared *shared);

/* Seals it: what a worker could cut short would be the end of whoever looks at its mapping. */
int mg_shared_fix_size(int fd);

/*
 * The slot of the listener of that name, held by worker `index` until it is given back; a slot that
 * nobody holds is used for another name. NULL: all are held, or, with *busy, the lock was not to be had: not
 * within a fifth of a second, since a listener cannot do without.
 */
struct mg_shared_listener *mg_shared_listener_hold(struct mg_shared *shared, const char *name,
                                                   unsigned index, bool *busy);
void mg_shared_listener_release(struct mg_shared_listener *slot, unsigned index);

/* Connections over all workers. Whoever adds itself to its row first and asks then, is never one too
 * many with another who does the same. */
int64_t mg_shared_listener_open(const struct mg_shared_listener *slot);

/*
 * The same for an address of the backend of that name. What is known of it stays for as long as somebody
 * holds it, and is there again for the successor of a worker that died; whoever gives it back last forgets it.
 * Never waits for longer than a millisecond: with *busy it is to be tried again later.
 */
struct mg_shared_address *mg_shared_address_hold(struct mg_shared *shared, const char *backend,
                                                 const char *address, unsigned index, bool *busy);
void mg_shared_address_release(struct mg_shared_address *slot, unsigned index);
int64_t mg_shared_address_open(const struct mg_shared_address *slot);
int64_t mg_shared_address_portless(const struct mg_shared_address *slot);

/* Worker `index`, if it is the teller, tells no more. */
void mg_shared_untell(struct mg_shared *shared, struct mg_shared_told *told, unsigned index);

/* Why it went down or rests, cut if need be. Who reads while another writes may see a mixture. */
void mg_shared_address_blame(struct mg_shared_address *slot, const char *why);
void mg_shared_address_why(const struct mg_shared_address *slot, char out[MG_SHARED_WHY]);

/* Takes back everything worker `index` had. */
void mg_shared_forget(struct mg_shared *shared, unsigned index);

/* ---- metrics -------------------------------------------------------------------------------- */

/* A new process has that worker's table: nothing in it is held, what is counted goes on. */
struct mg_metrics *mg_metrics_begin(struct mg_shared *shared, unsigned worker);

/*
 * Numbers of the listener or backend of that name, which go on from what is there; never NULL, but many names
 * share one where there is no place. Held, by that generation, until they are given back, which any thread may do.
 * With `by_function` they outlive that, until a whole generation has not named it in any worker.
 */
struct mg_metric *mg_metrics_hold(struct mg_metrics *metrics, enum mg_metric_kind kind,
                                  const char *name, uint64_t generation, bool by_function);
void mg_metrics_release(struct mg_metric *metric);

/* Those of an address of a backend; NULL: it is too many. They go with the backend's. */
struct mg_metric *mg_metrics_address(struct mg_metrics *metrics, struct mg_metric *backend,
                                     const char *address);

/* Another generation serves than the one `before` (0: there was none): what nobody holds goes. Then: the worker
 * leaves, and what is there stays as it is. */
void mg_metrics_serve(struct mg_shared *shared, unsigned worker, uint64_t before);
void mg_metrics_leave(struct mg_metrics *metrics);

/* The index of a reason in mg_metric.by. */
unsigned mg_metrics_reason(struct mg_metrics *metrics, const char *reason);

/* Only by the table's worker. */
static inline void
mg_metric_add(_Atomic uint64_t *number)
{
    atomic_store_explicit(number, atomic_load_explicit(number, memory_order_relaxed) + 1,
                          memory_order_relaxed);
}

/* Part of mg_shared_forget: connections of a listener that were open end with `reason`. */
void mg_metrics_forget(struct mg_shared *shared, unsigned worker, const char *reason);

/* One name's numbers, of one worker or summed up. */
struct mg_metric_sum {
    enum mg_metric_kind kind;
    char text[MG_METRICS_TEXT_CAP];
    uint64_t begun, tries, ended; /* ended: over all reasons */
    size_t reason_count;
    struct mg_metric_reason {
        char text[MG_METRICS_REASON_CAP];
        uint64_t count; /* not 0 */
    } reasons[MG_METRICS_REASONS];
};

/*
 * Calls visit for each listener, or for each backend and, behind it, for each of its addresses that has failed. One
 * worker's, or with worker = MG_SHARED_WORKERS the sums over all, of those that are gone, too; only names that are
 * in use in some worker, in their order, those that only functions have given last. Any process may ask, at any time,
 * and whatever a worker may have written.
 */
void mg_metrics_each(const struct mg_shared *shared, unsigned worker, enum mg_metric_kind kind,
                     void (*visit)(const struct mg_metric_sum *sum, void *data), void *data);

/* ---- limits per client ----------------------------------------------------------------------- */

/*
 * Whose that address is: its own where it is IPv4's, else its /64, which is what one customer has and can
 * choose from. false: nobody's (a unix socket).
 */
#define MG_LIMITS_CLIENT 9
bool mg_limits_client(const struct mg_addr *addr, unsigned char out[MG_LIMITS_CLIENT]);

/* For making keys that nobody outside can foresee; drawn once. */
void mg_limits_secret(struct mg_shared *shared, uint64_t out[2]);

/*
 * One connection more under that key, of `most` over all workers. What comes back is for mg_limits_leave, unless it
 * is one of these two; the second one is a connection like any other.
 */
#define MG_LIMITS_REFUSED   (-1) /* there are `most` already */
#define MG_LIMITS_UNCOUNTED (-2) /* no row is left for it */
int32_t mg_limits_enter(struct mg_shared *shared, unsigned worker, uint64_t key, uint64_t most);
void mg_limits_leave(struct mg_shared *shared, unsigned worker, int32_t place);

/* Part of mg_shared_forget. */
void mg_limits_forget(struct mg_shared *shared, unsigned worker);

/* A token bucket's: one token more every interval, and no more than depth_ns / interval_ns. */
struct mg_rate {
    uint64_t interval_ns; /* 0 = no limit */
    uint64_t depth_ns;
};
void mg_rate_set(struct mg_rate *rate, double per_second, double burst);

/* Takes a token, from any thread and process; false: there is none. A bucket is the time at which it
 * is full; 0 will do. */
bool mg_bucket_take(_Atomic uint64_t *full_at, const struct mg_rate *rate, uint64_t now);
void mg_bucket_give_back(_Atomic uint64_t *full_at, const struct mg_rate *rate);

/* The bucket of that key in the table that all share. */
_Atomic uint64_t *mg_limits_bucket(struct mg_shared *shared, uint64_t key);

/* ---- cache ----------------------------------------------------------------------------------- */

/*
 * Bytes under (owner, id) in memory that all workers share; bounded, never waiting, indifferent to a
 * process that dies or is stopped anywhere. What cannot be had whole is a miss. Memory of entries that
 * go is wiped; core dumps leave it out. All functions may be called by several threads.
 */
#define MG_CACHE_ID_MAX   32u
#define MG_CACHE_DATA_MAX (8192u - MG_CACHE_ID_MAX)

struct mg_cache;

/* A copy. Whoever has one wipes it. */
struct mg_cache_entry {
    uint64_t owner; /* not 0 */
    uint64_t order; /* younger entries have higher numbers; no two the same */
    int64_t expires;
    size_t id_len, len;
    unsigned char id[MG_CACHE_ID_MAX];
    unsigned char data[MG_CACHE_DATA_MAX];
};

/* Creates the memory's fd (supervisor); maps a received one, or with -1 memory of this process alone. */
int mg_cache_create(struct mg_err *err);
struct mg_cache *mg_cache_map(int fd, struct mg_err *err);
void mg_cache_unmap(struct mg_cache *cache);

/*
 * Puts the entry in the place of one with that id and sets its order. If the owner has `limit` others
 * (0 = any number), the oldest has to leave, as it may have to where the memory is full; gone is told.
 * false: it is not there, being too long (which is counted) or because of writers in its way.
 */
bool mg_cache_put(struct mg_cache *cache, struct mg_cache_entry *entry, size_t limit,
                  void (*gone)(void *data, const struct mg_cache_entry *entry), void *data);

/* false: not there; *out is wiped. */
bool mg_cache_get(const struct mg_cache *cache, uint64_t owner, const void *id, size_t id_len,
                  struct mg_cache_entry *out);
bool mg_cache_remove(struct mg_cache *cache, uint64_t owner, const void *id, size_t id_len);

/* Removes what has expired by `before` (0: everything); gone may be NULL. Their number. */
size_t mg_cache_sweep(struct mg_cache *cache, uint64_t owner, int64_t before,
                      void (*gone)(void *data, const struct mg_cache_entry *entry), void *data);

/* Wipes what dead writers have left, and what ended long ago, whoever it belonged to. */
void mg_cache_tidy(struct mg_cache *cache);

size_t mg_cache_count(const struct mg_cache *cache, uint64_t owner);

/* Numbers that an owner counts over all processes: what they mean is the caller's business. An owner
 * without entries may lose them to another where there are very many owners. */
#define MG_CACHE_EVENTS 11
void mg_cache_events_add(struct mg_cache *cache, uint64_t owner, const int64_t by[MG_CACHE_EVENTS]);
void mg_cache_events_get(const struct mg_cache *cache, uint64_t owner,
                         int64_t out[MG_CACHE_EVENTS]);

uint64_t mg_cache_oversize(const struct mg_cache *cache); /* not put, over all owners */

#ifdef MG_FAULTS
/* Test builds: called in the middle of writing a slot. */
extern void (*mg_cache_writing)(void);
#endif

#endif
