/*
 * The worker's process.
 *
 * The happy path is: HELLO, rights given up, loop; SOCKET, BUILD, COMMIT as the supervisor says;
 * DRAIN, last connection, exit 0. Possible failure modes are: it cannot start (FAILED 0, exit 1),
 * the supervisor is gone (listening stops at once, the connections get drain_timeout, then exit 0),
 * QUIT (connections are closed now), something is left over at the end (exit 70, which specs look
 * for).
 */
#include "openssl/binding.h"
#include "worker/internal.h"

#include <errno.h>
#include <fcntl.h>
#ifdef MG_HAVE_MALLOC_TRIM
#include <malloc.h>
#endif
#include <netdb.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define HEARTBEAT_MS  200
#define HELLO_MS      10000
#define TRIM_PEAK     256  /* sessions at once that are worth it */
#define TRIM_ACCEPTED 1000 /* or one after the other */
#define TIDY_BEATS    300  /* a minute */
#define TRIM_QUIET    16   /* fewer connections in a heartbeat: it is quiet */
#define TRIM_MS       5000 /* between two times */
#define TRIM_STACK    (256u * 1024u)
#define CURRENT_CAP   256
#define EXIT_LEAK     70

void
mg_worker_send(struct mg_worker_process *w, enum mg_msg_type type, uint64_t number,
               const char *text)
{
    if (w->connected)
        mg_ipc_send(&w->ipc, type, number, text, text != NULL ? strlen(text) : 0, NULL, 0);
}

/* ---- end ------------------------------------------------------------------------------------ */

static void
handle_closed(struct mg_worker_process *w)
{
    w->live--;
}

static void
on_handle_close(uv_handle_t *handle)
{
    handle_closed(handle->data);
}

static void
on_ipc_close(struct mg_ipc *ipc)
{
    handle_closed(ipc->data);
}

/* The engine is gone; what is left is ours. The loop ends with the last of it. */
static void
on_engine_closed(void *data)
{
    struct mg_worker_process *w = data;
    uv_close((uv_handle_t *)&w->heartbeat, on_handle_close);
    uv_close((uv_handle_t *)&w->reaper, on_handle_close);
    uv_close((uv_handle_t *)&w->drain, on_handle_close);
    if (w->connected)
        mg_ipc_close(&w->ipc, on_ipc_close);
    w->connected = false;
}

void
mg_worker_check_done(struct mg_worker_process *w)
{
    if (!w->leaving || w->engine_closing || w->addresses != NULL ||
        mg_engine_sessions(w->engine) > 0)
        return;
    mg_generations_retire(w);
    if (w->generations != NULL)
        return;
    w->engine_closing = true;
    mg_engine_close(w->engine, on_engine_closed, w);
}

static void
on_idle(void *data)
{
    mg_worker_check_done(data);
}

static const char reason_drained[] = "moongate: drain timeout";

static void
leave(struct mg_worker_process *w, bool flush)
{
    w->leaving = true;
    mg_engine_leave(w->engine);
    mg_addresses_close(w, flush);
}

static void
quit(struct mg_worker_process *w, const char *reason)
{
    leave(w, false);
    mg_engine_close_sessions(w->engine, NULL, reason);
    mg_worker_check_done(w);
}

static void
on_drain_timeout(uv_timer_t *timer)
{
    struct mg_worker_process *w = timer->data;
    if (!w->engine_closing)
        quit(w, reason_drained);
}

/* ---- messages ------------------------------------------------------------------------------- */

static void
on_lost(struct mg_ipc *ipc, const char *why)
{
    struct mg_worker_process *w = ipc->data;
    w->connected = false;
    mg_ipc_close(ipc, on_ipc_close);
    if (w->engine_closing)
        return;
    signal(SIGTERM, SIG_DFL); /* nobody else will tell us */
    mg_log(MG_LOG_WARN, "no supervisor any more (%s): leaving with the last connection", why);
    if (w->current != NULL && w->current->drain_timeout_ms > 0)
        uv_timer_start(&w->drain, on_drain_timeout, w->current->drain_timeout_ms, 0);
    leave(w, true);
    mg_worker_check_done(w);
}

/* The log keeps its descriptor's number for as long as we live, because a thread that builds may be in
 * mg_log with it; also while the log is syslog. */
static void
log_fd_take(struct mg_worker_process *w, int fd)
{
    if (w->log_fd < 0) {
        w->log_fd = fd;
    } else if (fd >= 0) {
        if (dup3(fd, w->log_fd, O_CLOEXEC) < 0)
            mg_log(MG_LOG_ERROR, "reopening the log: %s; the open one stays", strerror(errno));
        close(fd);
    }
}

/* The log part of HELLO and REOPEN. */
static void
logs_take(struct mg_worker_process *w, struct mg_msg *msg)
{
    char level[16], format[16], who[32];
    int log_fd = mg_msg_take_fd(msg, "log"), access_fd = mg_msg_take_fd(msg, "access");
    mg_msg_field(msg, "log_level", level, sizeof(level));
    mg_msg_field(msg, "log_format", format, sizeof(format));
    int level_value = mg_log_level_parse(level), format_value = mg_log_format_parse(format);
    snprintf(who, sizeof(who), "worker %u", w->index);
    log_fd_take(w, log_fd);
    mg_log_open(log_fd < 0 ? -1 : w->log_fd,
                format_value < 0 ? MG_LOG_TEXT : (enum mg_log_format)format_value,
                level_value < 0 ? MG_LOG_INFO : (enum mg_log_level)level_value, who);
    if (w->engine != NULL)
        mg_engine_set_access_fd(w->engine, access_fd);
    if (w->access_fd >= 0)
        close(w->access_fd);
    w->access_fd = access_fd;
}

static void
status_send(struct mg_worker_process *w, uint64_t request)
{
    struct mg_buf text = {0};
    struct mg_ring_counts ring;
    mg_ring_counts(w->ring, &ring);
    size_t connections = mg_engine_sessions(w->engine);
    mg_buf_addf(&text, "connections=%zu\ngenerations=", connections);
    mg_generations_text(w, &text);
    mg_buf_adds(&text, "\n");
    mg_engine_unwell(w->engine, &text);
    mg_buf_add(&text, "", 1); /* the NUL that ends the lines */
    mg_buf_addf(&text, "\"connections\":%zu,\"generations\":", connections);
    mg_generations_json(w, &text);
    mg_buf_addf(&text, ",\"sessions_too_long\":%llu",
                (unsigned long long)mg_cache_oversize(w->sessions));
    mg_buf_addf(&text, ",\"hello_ring\":{\"size\":%zu,\"held\":%zu,\"too_long\":%llu},\"engine\":",
                ring.capacity, ring.held, (unsigned long long)ring.skipped);
    mg_engine_status(w->engine, &text);
    if (!text.failed)
        mg_ipc_send(&w->ipc, MG_MSG_STATUS, request, text.data, text.len, NULL, 0);
    mg_buf_free(&text);
}

static int
fd_take(struct mg_msg *msg)
{
    if (msg->fd_count != 1)
        return -1;
    int fd = msg->fds[0];
    msg->fds[0] = -1;
    return fd;
}

static void
on_message(struct mg_ipc *ipc, struct mg_msg *msg)
{
    struct mg_worker_process *w = ipc->data;
    int fd;
    switch (msg->type) {
    case MG_MSG_SOCKET: /* without it the generation that needs it cannot be built */
        if ((fd = fd_take(msg)) >= 0)
            mg_address_add(w, msg->data, fd);
        break;
    case MG_MSG_UNSOCKET:
        mg_address_remove(w, msg->data);
        break;
    case MG_MSG_BUILD:
        if ((fd = fd_take(msg)) >= 0)
            mg_generation_build(w, msg->number, fd);
        else if (msg->fds_lost)
            mg_worker_send(w, MG_MSG_FAILED, msg->number,
                           "no descriptor left for the new configuration (ulimit -n)");
        break;
    case MG_MSG_COMMIT:
        mg_generation_commit(w, msg->number);
        break;
    case MG_MSG_DISCARD:
        mg_generation_discard(w, msg->number);
        break;
    case MG_MSG_REOPEN:
        if (msg->fds_lost)
            mg_log(MG_LOG_ERROR, "no descriptor left for the log files: the old ones stay in use");
        else
            logs_take(w, msg);
        break;
    case MG_MSG_STATUS:
        status_send(w, msg->number);
        break;
    case MG_MSG_DRAIN:
        if (msg->number > 0)
            uv_timer_start(&w->drain, on_drain_timeout, msg->number, 0);
        leave(w, true);
        mg_worker_check_done(w);
        break;
    case MG_MSG_QUIT:
        quit(w, msg->number != 0 ? reason_drained : "moongate: stopped");
        break;
    default:
        mg_log(MG_LOG_WARN, "unexpected message %u from the supervisor", msg->type);
    }
}

void
mg_worker_trim(void)
{
#ifdef MG_HAVE_MALLOC_TRIM
    malloc_trim(0);
#endif
}

#ifdef MG_HAVE_MALLOC_TRIM
static void
on_trim(void *data)
{
    struct mg_worker_process *w = data;
    mg_worker_trim();
    atomic_store(&w->trimmed, true);
}

/* Not by libuv's pool, which ends the process where it gets no threads. */
static void
trim_start(struct mg_worker_process *w)
{
    const uv_thread_options_t options = {.flags = UV_THREAD_HAS_STACK_SIZE,
                                         .stack_size = TRIM_STACK};
    atomic_store(&w->trimmed, false);
    w->trimming = uv_thread_create_ex(&w->trimmer, &options, on_trim, w) == 0;
    if (!w->trimming) /* no memory for a thread: then it is worth holding everybody up */
        mg_worker_trim();
}
#endif

static void
trim_join(struct mg_worker_process *w)
{
    if (w->trimming)
        uv_thread_join(&w->trimmer);
    w->trimming = false;
}

/* The end of the heap does not move with a handful of connections that come and go: each time costs system
 * calls and fresh pages. What is not needed for longer is given back below. */
static void
heap_setup(void)
{
#ifdef MG_HAVE_MALLOC_TRIM
    mallopt(M_TRIM_THRESHOLD, 4 << 20);
    mallopt(M_TOP_PAD, 64 << 10);
    mallopt(M_MMAP_THRESHOLD, 1 << 20); /* what streams stash for slow readers stays below */
#endif
}

/*
 * After a storm the C library keeps what it took for it; so most of that is given back: when half of many
 * connections have gone, or when it is quiet after many that were too short for a heartbeat to see. Not
 * on the loop: it looks at all that is free, tens of milliseconds in a heap with thousands of contexts.
 */
static void
heap_trim(struct mg_worker_process *w)
{
#ifdef MG_HAVE_MALLOC_TRIM
    size_t sessions = mg_engine_sessions(w->engine);
    uint64_t now = uv_now(&w->loop);
    uint64_t accepted = mg_engine_accepted(w->engine);
    bool quiet = accepted - w->beat_accepted < TRIM_QUIET;
    w->beat_accepted = accepted;
    if (sessions > w->peak)
        w->peak = sessions;
    bool ebbed = w->peak >= TRIM_PEAK && sessions < w->peak / 2;
    bool passed = quiet && accepted - w->trim_accepted >= TRIM_ACCEPTED;
    if (w->trimming && atomic_load(&w->trimmed))
        trim_join(w);
    if ((!ebbed && !passed) || now - w->trimmed_ms < TRIM_MS || w->trimming ||
        mg_generations_building(w))
        return;
    trim_start(w);
    w->peak = sessions;
    w->trim_accepted = accepted;
    w->trimmed_ms = now;
#else
    (void)w;
#endif
}

/* A supervisor that is stopped must not make the queue grow. */
static void
on_heartbeat(uv_timer_t *timer)
{
    struct mg_worker_process *w = timer->data;
    heap_trim(w);
    if (++w->beats % TIDY_BEATS == 0)
        mg_cache_tidy(w->sessions);
    mg_engine_heartbeat(w->engine);
    if (w->connected && w->ipc.queue == NULL)
        mg_ipc_send(&w->ipc, MG_MSG_HEARTBEAT, 0, NULL, 0, NULL, 0);
}

/* ---- start ---------------------------------------------------------------------------------- */

/* Of a digit that the supervisor has written. */
static int
hex_value(char c)
{
    return c >= 'a' ? c - 'a' + 10 : c - '0';
}

static int
secret_take(struct mg_worker_process *w, const struct mg_msg *hello, struct mg_err *err)
{
    char hex[256];
    mg_msg_field(hello, "secret", hex, sizeof(hex));
    size_t len = strlen(hex) / 2;
    w->secret = mg_malloc(len);
    if (w->secret == NULL) {
        mg_err_setx(err, "out of memory");
        return -1;
    }
    w->secret_len = len;
    for (size_t i = 0; i < len; i++)
        w->secret[i] = (char)(hex_value(hex[2 * i]) * 16 + hex_value(hex[2 * i + 1]));
    mg_wipe(hex, sizeof(hex));
    return 0;
}

static int
shared_take(struct mg_worker_process *w, struct mg_msg *hello, struct mg_err *err)
{
    int fd = mg_msg_take_fd(hello, "shared");
    if (fd < 0) {
        mg_err_setx(err, "HELLO without shared counters");
        return -1;
    }
    w->shared = mg_shared_map(fd, err);
    close(fd);
    fd = mg_msg_take_fd(hello, "sessions");
    w->sessions = w->shared != NULL && fd >= 0 ? mg_cache_map(fd, err) : NULL;
    if (fd >= 0)
        close(fd);
    else if (w->shared != NULL)
        mg_err_setx(err, "HELLO without memory for sessions");
    mg_openssl_set_cache(w->sessions);
    fd = mg_msg_take_fd(hello, "current");
    if (fd >= 0) {
        void *page = mmap(NULL, CURRENT_CAP, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        close(fd);
        if (page != MAP_FAILED)
            mg_script_set_current(page, CURRENT_CAP);
    }
    return w->shared != NULL && w->sessions != NULL ? 0 : -1;
}

/* What loads files when it is first used must be used while there still may be files. */
static void
libraries_warm(void)
{
    unsigned char byte;
    struct addrinfo *found = NULL;
    OPENSSL_init_ssl(OPENSSL_INIT_LOAD_CONFIG, NULL);
    EVP_MD_free(EVP_MD_fetch(NULL, "SHA256", NULL));
    RAND_bytes(&byte, 1);
    if (getaddrinfo("localhost", "1", NULL, &found) == 0)
        freeaddrinfo(found);
    getpwuid(geteuid());
    tzset();
}

static int
hello_take(struct mg_worker_process *w, struct mg_msg *hello, struct mg_err *err)
{
    char index[16], user[64], group[64], transparent[8] = "";
    if (hello->type != MG_MSG_HELLO || !mg_msg_field(hello, "index", index, sizeof(index))) {
        mg_err_setx(err, "the first message was no HELLO");
        return -1;
    }
    unsigned long number = strtoul(index, NULL, 10);
    if (number >= MG_SHARED_WORKERS) {
        mg_err_setx(err, "there is no worker %s", index);
        return -1;
    }
    w->index = (unsigned)number;
    logs_take(w, hello);
    if (shared_take(w, hello, err) != 0 || secret_take(w, hello, err) != 0)
        return -1;
    mg_msg_field(hello, "user", user, sizeof(user));
    mg_msg_field(hello, "group", group, sizeof(group));
    libraries_warm();
    mg_msg_field(hello, "transparent", transparent, sizeof(transparent));
    return mg_rights_drop(user, group, strcmp(transparent, "1") == 0, err);
}

static int
worker_start(struct mg_worker_process *w, int channel, struct mg_err *err)
{
    struct mg_msg hello;
    struct mg_buf payload = {0};
    int got = mg_ipc_receive_blocking(channel, &hello, &payload, HELLO_MS, err);
    if (got == 0)
        mg_err_setx(err, "the supervisor is gone");
    int result = got == 1 ? hello_take(w, &hello, err) : -1;
    if (got == 1)
        mg_msg_close_fds(&hello);
    mg_buf_free_secret(&payload);
    return result;
}

static int
engine_start(struct mg_worker_process *w, struct mg_err *err)
{
    w->ring = mg_ring_new();
    if (w->ring == NULL) {
        mg_err_setx(err, "out of memory");
        return -1;
    }
    struct mg_engine_options options = {
        .loop = &w->loop,
        .shared = w->shared,
        .worker = w->index,
        .access_fd = w->access_fd,
        .access_format = mg_log_format(),
        .ring = w->ring,
    };
    w->engine = mg_engine_new(&options, err);
    if (w->engine == NULL)
        return -1;
    mg_engine_on_idle(w->engine, on_idle, w);
    return 0;
}

static void
timers_start(struct mg_worker_process *w)
{
    uv_timer_t *const timers[] = {&w->heartbeat, &w->reaper, &w->drain};
    for (size_t i = 0; i < MG_ARRAY_LEN(timers); i++) {
        uv_timer_init(&w->loop, timers[i]);
        timers[i]->data = w;
        w->live++;
    }
    uv_timer_start(&w->heartbeat, on_heartbeat, 0, HEARTBEAT_MS);
}

static void
on_walk(uv_handle_t *handle, void *data)
{
    (void)data;
    mg_log(MG_LOG_ERROR, "uv_loop_close: a %s handle is still open",
           uv_handle_type_name(uv_handle_get_type(handle)));
}

/* The loop from the first handle to the last; the exit status. */
static int
loop_run(struct mg_worker_process *w, int channel, struct mg_err *err)
{
    static const struct mg_ipc_ops ops = {on_message, on_lost, true};
    if (mg_ipc_open(&w->ipc, &w->loop, channel, &ops, w, err) != 0)
        return -1;
    w->live++;
    w->connected = true;
    timers_start(w);
    mg_engine_run(w->engine);
    trim_join(w);
    if (w->live == 0 && uv_loop_close(&w->loop) == 0)
        return 0;
    mg_log(MG_LOG_ERROR, "uv_loop_close: %u handles of the worker itself are still open", w->live);
    uv_walk(&w->loop, on_walk, NULL);
    return EXIT_LEAK;
}

/* The supervisor speaks for the signals that a terminal or a service manager sends to the whole
 * group. */
static void
signals_ignore(void)
{
    static const int numbers[] = {SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGPIPE};
    for (size_t i = 0; i < MG_ARRAY_LEN(numbers); i++)
        signal(numbers[i], SIG_IGN);
}

int
mg_worker_main(int channel)
{
    static struct mg_worker_process worker = {.log_fd = -1, .access_fd = -1};
    struct mg_worker_process *w = &worker;
    struct mg_err err, ignored;
    signals_ignore();
    heap_setup();
    fcntl(channel, F_SETFD, FD_CLOEXEC);
    int status = -1;
    if (worker_start(w, channel, &err) == 0) {
        int code = uv_loop_init(&w->loop);
        if (code != 0)
            mg_err_setx(&err, "the event loop cannot be made: %s", uv_strerror(code));
        else if (engine_start(w, &err) == 0)
            status = loop_run(w, channel, &err);
    }
    if (status < 0) {
        mg_ipc_send_blocking(channel, MG_MSG_FAILED, 0, err.text, strlen(err.text), NULL, 0,
                             &ignored);
        status = 1;
    }
    mg_free_secret(w->secret, w->secret_len);
    mg_ring_free(w->ring);
    if (w->shared != NULL)
        mg_shared_unmap(w->shared);
    mg_openssl_set_cache(NULL);
    mg_cache_unmap(w->sessions);
    if (w->access_fd >= 0)
        close(w->access_fd);
    return status;
}
