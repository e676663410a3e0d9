/*
 * The engine without the rest of the program: a child process with a loop, an engine and one
 * listener, configured by a Lua table, asked and ended over a socket. Its exit status is what every
 * spec of the engine ends with: 0 only if no session, no handle and no config was left.
 */
#include "mgtest.h"
#include "proxy/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#ifdef MG_SANITIZED
#include <sanitizer/lsan_interface.h>
#endif

enum {
    EXIT_CLEAN,
    EXIT_SETUP = 3,
    EXIT_SESSIONS_LEFT,
    EXIT_LOOP_OPEN,
    EXIT_CONFIG_KEPT,
    EXIT_LEAK
};

/* ---- options: the table at index 1 ----------------------------------------------------------- */

static const char *
opt_string(lua_State *L, int idx, const char *name)
{
    const char *text;

    lua_getfield(L, idx, name);
    text = lua_tostring(L, -1);
    lua_pop(L, 1); /* the table keeps it */
    return text;
}

static lua_Integer
opt_integer(lua_State *L, int idx, const char *name, lua_Integer fallback)
{
    lua_Integer value;

    lua_getfield(L, idx, name);
    value = luaL_optinteger(L, -1, fallback);
    lua_pop(L, 1);
    return value;
}

static bool
opt_boolean(lua_State *L, int idx, const char *name)
{
    bool value;

    lua_getfield(L, idx, name);
    value = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return value;
}

/* ---- the child ------------------------------------------------------------------------------- */

struct host {
    uv_loop_t loop;
    uv_poll_t control;
    int control_fd, listen_fd;
    struct mg_shared *shared;
    struct mg_engine *engine;
    struct mg_frontend *frontend;
    struct mg_config *config; /* the current one */
    unsigned configs;         /* not yet given back */
    bool gives;               /* routes lead to what the table's `give` has */
    size_t given;             /* so many times */
    lua_State *L;             /* read at every reload */
    bool frontend_closed, engine_closed;
    bool (*on_turn)(struct mg_net *net); /* the engine's */
    uint64_t answered;                   /* bytes to the first session's client */
    unsigned waited,
        waited_max; /* turns in a row that left it with something unread and unanswered */
};

static struct host *running; /* the child's only one */

static MG_NORETURN void
setup_failed(const char *what)
{
    fprintf(stderr, "engine: %s\n", what);
    _exit(EXIT_SETUP);
}

/* Any other thread's first step waits until somebody writes to that pipe. */
static const char *hold_path;
static uv_thread_t loop_thread;

static void
on_info(const SSL *ssl, int where, int ret)
{
    static atomic_bool held;
    uv_thread_t self = uv_thread_self();

    (void)ssl;
    (void)where;
    (void)ret;
    if (!uv_thread_equal(&self, &loop_thread) && !atomic_exchange(&held, true))
        close(open(hold_path, O_RDONLY | O_CLOEXEC));
}

static SSL_CTX *
context_make(lua_State *L, int idx, bool server)
{
    SSL_CTX *ctx = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
    const char *crt = opt_string(L, idx, "crt"), *key = opt_string(L, idx, "key");
    const char *ca = opt_string(L, idx, "ca"), *secret = opt_string(L, idx, "ticket_secret");
    struct mg_err err;

    if (ctx == NULL)
        setup_failed("no context");
    if (crt != NULL && (SSL_CTX_use_certificate_chain_file(ctx, crt) != 1 ||
                        SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1))
        setup_failed(crt);
    if (ca != NULL) {
        if (SSL_CTX_load_verify_locations(ctx, ca, NULL) != 1)
            setup_failed(ca);
        SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    }
    mg_tls_threads_allow(ctx, true);
    hold_path = server ? opt_string(L, idx, "hold_thread") : hold_path;
    loop_thread = uv_thread_self();
    if (hold_path != NULL)
        SSL_CTX_set_info_callback(ctx, on_info);
    SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
    if (opt_integer(L, idx, "max_version", 0) == 12)
        SSL_CTX_set_max_proto_version(ctx, TLS1_2_VERSION);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_session_id_context(ctx, (const unsigned char *)"spec", 4);
    if (secret != NULL &&
        mg_tls_ticket_setup(ctx, secret, strlen(secret), NULL, 0,
                            (unsigned)opt_integer(L, idx, "ticket_rotation", 3600), &err) != 0)
        setup_failed(err.text);
    return ctx;
}

static void
addresses_read(lua_State *L, int idx, struct mg_backend *backend)
{
    struct mg_err err;

    lua_getfield(L, idx, "addresses");
    backend->entry_count = lua_istable(L, -1) ? lua_rawlen(L, -1) : 0;
    backend->entries = mg_calloc(backend->entry_count, sizeof(*backend->entries));
    for (size_t i = 0; i < backend->entry_count; i++) {
        struct mg_backend_entry *entry = &backend->entries[i];

        lua_rawgeti(L, -1, (lua_Integer)i + 1);
        if (lua_istable(L, -1)) { /* { address =, weight =, backup = } */
            entry->weight = (unsigned)opt_integer(L, lua_gettop(L), "weight", 1);
            entry->backup = opt_boolean(L, lua_gettop(L), "backup");
            lua_getfield(L, -1, "address");
            lua_remove(L, -2);
        }
        mg_str_copy(entry->text, sizeof(entry->text), lua_tostring(L, -1));
        if (mg_endpoint_parse(&entry->endpoint, entry->text, false, &err) != 0)
            setup_failed(err.text);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
}

static char *
text_copy(const char *text, size_t *len)
{
    *len = text != NULL ? strlen(text) : 0;
    return text != NULL ? mg_strdup(text) : NULL;
}

/* health = { fall=, rest= (ms), interval= (ms: it is probed), timeout= (ms), rise=, tls=, send=, expect= } */
static void
health_read(lua_State *L, int idx, struct mg_health *health)
{
    *health = (struct mg_health){.fall = 3, .rest_ms = 10000};
    lua_getfield(L, idx, "health");
    if (lua_istable(L, -1)) {
        int at = lua_gettop(L);

        health->fall = (unsigned)opt_integer(L, at, "fall", 3);
        health->rest_ms = (unsigned)opt_integer(L, at, "rest", 10000);
        health->interval_ms = (unsigned)opt_integer(L, at, "interval", 0);
        health->probes = health->interval_ms > 0;
        health->timeout_ms = (unsigned)opt_integer(L, at, "timeout", 2000);
        health->rise = (unsigned)opt_integer(L, at, "rise", 2);
        health->tls = opt_boolean(L, at, "tls");
        health->send = text_copy(opt_string(L, at, "send"), &health->send_len);
        health->expect = text_copy(opt_string(L, at, "expect"), &health->expect_len);
    }
    lua_pop(L, 1);
}

static enum mg_balance
balance_of(const char *name)
{
    for (size_t i = 0; name != NULL && mg_balance_names[i] != NULL; i++)
        if (strcmp(name, mg_balance_names[i]) == 0)
            return (enum mg_balance)i;
    return MG_BALANCE_RANDOM_TWO;
}

static struct mg_backend *
backend_make(lua_State *L, int idx)
{
    struct mg_backend *backend = mg_calloc(1, sizeof(*backend));
    const char *kind = opt_string(L, idx, "kind");
    const char *servername = opt_string(L, idx, "servername"), *reply = opt_string(L, idx, "reply");

    backend->name = mg_strdup("spec");
    addresses_read(L, idx, backend);
    if (kind != NULL)
        backend->kind = strcmp(kind, "echo") == 0 ? MG_BACKEND_ECHO : MG_BACKEND_REPLY;
    backend->balance = balance_of(opt_string(L, idx, "balance"));
    backend->max_connections = opt_integer(L, idx, "max_connections", 0);
    backend->close_on_down = opt_boolean(L, idx, "close_on_down");
    backend->tls_varies = opt_boolean(L, idx, "tls_varies");
    health_read(L, idx, &backend->health);
    backend->servername = servername != NULL ? mg_strdup(servername) : NULL;
    backend->reply = reply != NULL ? mg_strdup(reply) : NULL;
    backend->reply_len = reply != NULL ? strlen(reply) : 0;
    backend->send_proxy = (unsigned)opt_integer(L, idx, "send_proxy", 0);
    backend->connect_timeout_ms = (unsigned)opt_integer(L, idx, "connect_timeout", 5000);
    backend->resolve_interval_s = 30;
    lua_getfield(L, idx, "tls");
    if (lua_istable(L, -1)) {
        backend->tls = context_make(L, lua_gettop(L), false);
        backend->verify_hostname = true;
    }
    lua_pop(L, 1);
    return backend;
}

static bool
on_turn(struct mg_net *net)
{
    struct host *host = running;
    struct mg_link *first = host->engine->sessions.next;
    int unread = 0;

    if (first != &host->engine->sessions) {
        const struct mg_session *s = MG_CONTAINER_OF(first, struct mg_session, link);

        if (s->down.stream.fd < 0 || ioctl(s->down.stream.fd, FIONREAD, &unread) != 0 ||
            s->bytes_down != host->answered)
            unread = 0;
        host->answered = s->bytes_down;
    }
    host->waited = unread > 0 ? host->waited + 1 : 0;
    if (host->waited > host->waited_max)
        host->waited_max = host->waited;
    return host->on_turn(net);
}

static void
on_unused(struct mg_config *config)
{
    struct host *host = config->owner;

    mg_config_fini(config);
    mg_free(config);
    host->configs--;
}

/* What a function has returned as the number-th: of the table's `give`, in turn. */
static enum mg_give
given_find(struct host *host, struct mg_config *config, struct mg_route *route)
{
    struct mg_backend *backend;
    struct mg_err err;
    const char *text;

    lua_getfield(host->L, 1, "give");
    lua_rawgeti(host->L, -1, (lua_Integer)(host->given++ % lua_rawlen(host->L, -1)) + 1);
    text = lua_tostring(host->L, -1);
    lua_pop(host->L, 2); /* the table keeps it */
    route->backend = mg_config_given(config, text);
    if (route->backend != NULL)
        return MG_GIVE_OK;
    backend = mg_calloc(1, sizeof(*backend));
    if (backend == NULL)
        return MG_GIVE_NO_MEMORY;
    backend->name = mg_strdup(text);
    backend->entries = mg_calloc(1, sizeof(*backend->entries));
    if (backend->name == NULL || backend->entries == NULL) {
        mg_backend_free(backend);
        return MG_GIVE_NO_MEMORY;
    }
    backend->connect_timeout_ms = 5000;
    backend->resolve_interval_s = (unsigned)opt_integer(host->L, 1, "given_interval", 30);
    backend->entry_count = 1;
    mg_str_copy(backend->entries[0].text, sizeof(backend->entries[0].text), text);
    if (mg_endpoint_parse(&backend->entries[0].endpoint, text, false, &err) != 0)
        setup_failed(err.text);
    route->backend = backend;
    return mg_config_give(config, backend);
}

/* Refuses with the table's `refuse`, else answers with the next of `give` or the config's only backend. */
static int
on_route(void *data, struct mg_session *session, const struct mg_listener *listener,
         struct mg_route *route)
{
    struct mg_config *config = data;
    struct host *host = config->owner;
    const char *refuse = opt_string(host->L, 1, "refuse");
    struct mg_session_info info;
    enum mg_give how;

    (void)listener;
    mg_session_info(session, &info);
    if (refuse != NULL || info.config != config) {
        mg_str_copy(route->reason, sizeof(route->reason), refuse);
        return -1;
    }
    if (!host->gives) {
        route->backend = config->backends[0];
        return 0;
    }
    how = given_find(host, config, route);
    route->full = how == MG_GIVE_FULL;
    return how == MG_GIVE_OK ? 0 : -1;
}

static const struct mg_policy policy = {.route = on_route};

static void
config_replace(struct host *host)
{
    lua_State *L = host->L;
    struct mg_config *config = mg_calloc(1, sizeof(*config)), *old = host->config;
    struct mg_listener *listener = mg_calloc(1, sizeof(*listener));
    struct mg_backend *backend;
    struct mg_err err;

    config->generation = old != NULL ? old->generation + 1 : 1;
    config->listeners = listener;
    config->listener_count = 1;
    config->policy = &policy;
    config->policy_data = config;
    config->owner = host;
    config->on_unused = on_unused;
    config->refs = 1;
    listener->name = mg_strdup("spec");
    listener->handshake_timeout_ms = (unsigned)opt_integer(L, 1, "handshake_timeout", 10000);
    listener->idle_timeout_ms = (unsigned)opt_integer(L, 1, "idle_timeout", 600000);
    listener->half_close_timeout_ms = (unsigned)opt_integer(L, 1, "half_close_timeout", 60000);
    listener->max_lifetime_ms = (unsigned)opt_integer(L, 1, "max_lifetime", 0);
    listener->max_connections = opt_integer(L, 1, "max_connections", 0);
    listener->max_connections_per_ip = opt_integer(L, 1, "max_connections_per_ip", 0);
    listener->accept_proxy =
        opt_boolean(L, 1, "accept_proxy") ? MG_ACCEPT_PROXY_ALL : MG_ACCEPT_PROXY_NONE;
    listener->tcp_nodelay = true;
    listener->tcp_keepalive_s = 60;
    lua_getfield(L, 1, "tls");
    if (lua_istable(L, -1))
        listener->tls = context_make(L, lua_gettop(L), true);
    lua_pop(L, 1);
    lua_getfield(L, 1, "backend");
    backend = backend_make(L, lua_gettop(L));
    lua_pop(L, 1);
    config->backends = mg_calloc(1, sizeof(struct mg_backend *));
    config->backends[config->backend_count++] = backend;
    listener->backend = opt_boolean(L, 1, "route") ? NULL : backend;
    if (mg_engine_activate(host->engine, config, &err) != 0)
        setup_failed(err.text);
    host->configs++;
    host->config = config;
    mg_engine_use(host->engine, config);
    mg_frontend_set(host->frontend, config, listener);
    if (old != NULL)
        mg_config_unref(old);
}

static void
on_frontend_closed(void *data)
{
    struct host *host = data;

    host->frontend_closed = true;
}

static void
on_engine_closed(void *data)
{
    struct host *host = data;

    host->engine_closed = true;
}

static void
host_stop(struct host *host)
{
    uv_close((uv_handle_t *)&host->control, NULL);
    if (host->frontend != NULL)
        mg_frontend_close(host->frontend, false, on_frontend_closed, host);
    mg_engine_close_sessions(host->engine, NULL, "session: engine closed");
    mg_config_unref(host->config);
    mg_engine_close(host->engine, on_engine_closed, host);
}

static void
answer(struct host *host, struct mg_buf *text)
{
    mg_buf_adds(text, "\n");
    if (text->failed) /* by a fault that was meant for the engine */
        mg_fd_write_all(host->control_fd, "\n", 1);
    else
        mg_fd_write_all(host->control_fd, text->data, text->len);
    mg_buf_free(text);
}

static void
on_control(uv_poll_t *poll, int status, int events)
{
    struct host *host = poll->data;
    struct mg_buf text = {0};
    char command[32];
    ssize_t len = status < 0 ? -1 : read(host->control_fd, command, sizeof(command) - 1);

    (void)events;
    if (len <= 0) {
        host_stop(host);
        return;
    }
    command[len] = '\0';
    switch (command[0]) {
    case 's':
        mg_engine_status(host->engine, &text);
        break;
    case 'r':
        config_replace(host);
        mg_buf_adds(&text, "reloaded");
        break;
    case 'c':
        mg_engine_close_sessions(host->engine, NULL, "session: closed by the spec");
        mg_buf_adds(&text, "closed");
        break;
    case 'd':
        mg_frontend_close(host->frontend, true, on_frontend_closed, host);
        host->frontend = NULL;
        mg_buf_addf(&text, "draining, %zu accepted", mg_engine_sessions(host->engine));
        break;
    case 'l':
        listen(host->listen_fd, 16);
        mg_buf_adds(&text, "listening");
        break;
    case 'm': {
        struct mallinfo2 heap = mallinfo2();

        mg_buf_addf(&text, "%zu", heap.uordblks + heap.hblkhd);
        break;
    }
    case 'g':
        mg_buf_addf(&text, "%u", host->configs);
        break;
    case 'w':
        mg_buf_addf(&text, "%u", host->waited_max);
        break;
    default: /* "fail N": the answer is made first, it allocates too */
        mg_buf_addf(&text, "%ld", mg_alloc_count());
        answer(host, &text);
        mg_alloc_fail_at(atol(command + strcspn(command, "0123456789")));
        return;
    }
    answer(host, &text);
}

/* What a new thread's stack takes; more than there is, and there are no threads. */
static void
stack_limit(rlim_t bytes)
{
    struct rlimit limit;

    if (bytes == 0)
        return;
    getrlimit(RLIMIT_STACK, &limit);
    limit.rlim_cur = bytes;
    if (setrlimit(RLIMIT_STACK, &limit) != 0)
        setup_failed("the limit of the stack");
}

static int
host_run(lua_State *L, int control_fd)
{
    struct host host = {.L = L, .control_fd = control_fd};
    const char *access = opt_string(L, 1, "access_log"),
               *format = opt_string(L, 1, "access_format");
    struct mg_engine_options options = {.loop = &host.loop, .access_fd = -1};
    struct mg_err err;

    stack_limit((rlim_t)opt_integer(L, 1, "thread_stack", 0));
    uv_loop_init(&host.loop);
    host.shared = mg_shared_map((int)opt_integer(L, 1, "shared", -1), &err);
    if (host.shared == NULL)
        setup_failed(err.text);
    options.shared = host.shared;
    options.worker = (unsigned)opt_integer(L, 1, "worker", 0);
    options.unfinished_max = (unsigned)opt_integer(L, 1, "unfinished_max", 0);
    options.given_max = (unsigned)opt_integer(L, 1, "given_max", 0);
    options.given_idle_ms = (unsigned)opt_integer(L, 1, "given_idle", 0);
    lua_getfield(L, 1, "give");
    host.gives = lua_istable(L, -1);
    lua_pop(L, 1);
    options.access_format =
        format != NULL && strcmp(format, "text") == 0 ? MG_LOG_TEXT : MG_LOG_JSON;
    if (access != NULL)
        options.access_fd = open(access, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    host.engine = mg_engine_new(&options, &err);
    if (host.engine == NULL)
        setup_failed(err.text);
    running = &host;
    host.on_turn = host.engine->net.on_turn;
    host.engine->net.on_turn = on_turn;
    host.listen_fd = (int)opt_integer(L, 1, "fd", -1);
    host.frontend = mg_frontend_open(host.engine, "spec", host.listen_fd, &err);
    if (host.frontend == NULL)
        setup_failed(err.text);
    config_replace(&host);
    uv_poll_init(&host.loop, &host.control, control_fd);
    host.control.data = &host;
    uv_poll_start(&host.control, UV_READABLE, on_control);
    mg_engine_run(host.engine);
    if (!host.frontend_closed || !host.engine_closed)
        return EXIT_SESSIONS_LEFT;
    if (uv_loop_close(&host.loop) != 0)
        return EXIT_LOOP_OPEN;
    if (host.configs != 0)
        return EXIT_CONFIG_KEPT;
    mg_shared_unmap(host.shared);
#ifdef MG_SANITIZED
    memset(&host, 0, sizeof(host)); /* nothing is reachable through what was closed */
    if (__lsan_do_recoverable_leak_check() != 0)
        return EXIT_LEAK;
#endif
    return EXIT_CLEAN;
}

/* Nothing of the runner's stays open but what the engine needs. */
static void
descriptors_close(lua_State *L, int control_fd)
{
    int keep[] = {control_fd, (int)opt_integer(L, 1, "fd", -1),
                  (int)opt_integer(L, 1, "shared", -1)};
    long max = sysconf(_SC_OPEN_MAX);

    for (int fd = 3; fd < max && fd < 4096; fd++) {
        bool kept = false;

        for (size_t i = 0; i < MG_ARRAY_LEN(keep); i++)
            kept = kept || keep[i] == fd;
        if (!kept)
            close(fd);
    }
}

/* ---- the functions --------------------------------------------------------------------------- */

/* listen(address[, backlog]) → fd; backlog -1: bound only */
static int
engine_listen(lua_State *L)
{
    const char *address = luaL_checkstring(L, 1);
    struct mg_endpoint ep;
    struct mg_err err;
    int fd, on = 1, backlog = (int)luaL_optinteger(L, 2, 4096);

    if (mg_endpoint_parse(&ep, address, true, &err) != 0)
        return luaL_error(L, "%s", err.text);
    fd = socket(ep.addr.u.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (fd < 0 || bind(fd, &ep.addr.u.sa, ep.addr.len) != 0 ||
        (backlog >= 0 && listen(fd, backlog) != 0))
        return luaL_error(L, "%s: %s", address, strerror(errno));
    lua_pushinteger(L, fd);
    return 1;
}

/* shared() → fd of fresh counters */
static int
engine_shared(lua_State *L)
{
    struct mg_err err;

    lua_pushinteger(L, mg_shared_create(&err));
    return 1;
}

/*
 * start{ fd=, shared=, worker=, tls={crt,key,ca,…} | nil, backend={kind=, addresses=, tls={…}, …},
 * route=, give=, given_max=, given_idle= (ms), given_interval= (s), refuse=, accept_proxy=, …_timeout= (ms), nofile=, max_connections=, max_connections_per_ip=, unfinished_max=, access_log=, access_format=, log= } → pid,
 * control fd
 */
static int
engine_start(lua_State *L)
{
    const char *log;
    struct rlimit nofile;
    int pair[2];
    pid_t pid, parent = getpid();

    luaL_checktype(L, 1, LUA_TTABLE);
    log = opt_string(L, 1, "log");
    nofile.rlim_cur = nofile.rlim_max = (rlim_t)opt_integer(L, 1, "nofile", 0);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
        return luaL_error(L, "socketpair: %s", strerror(errno));
    fflush(NULL);
    pid = fork();
    if (pid < 0)
        return luaL_error(L, "fork: %s", strerror(errno));
    if (pid == 0) {
        int fd = log != NULL ? open(log, O_WRONLY | O_CREAT | O_APPEND, 0644) : -1;

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(EXIT_SETUP);
        signal(SIGPIPE, SIG_IGN);
        if (fd >= 0)
            dup2(fd, 2);
        descriptors_close(L, pair[1]); /* as many as there may be without the limit */
        if (nofile.rlim_cur == 0 && getrlimit(RLIMIT_NOFILE, &nofile) == 0)
            nofile.rlim_cur = nofile.rlim_max; /* as the supervisor does */
        setrlimit(RLIMIT_NOFILE, &nofile);
        _exit(host_run(L, pair[1]));
    }
    close(pair[1]);
    lua_pushinteger(L, pid);
    lua_pushinteger(L, pair[0]);
    return 2;
}

/* ask(control fd, "status" | "reload" | "close" | "drain" (the frontend) | "listen" | "generations" |
 * "memory" (bytes that are allocated and not freed) | "waited": for how many turns in a row, at most, the client of
 * the oldest session was not read | "fail N": the N-th allocation
 * from then on fails, 0 = none; answers how many there have been) → its answer */
static int
engine_ask(lua_State *L)
{
    int fd = (int)luaL_checkinteger(L, 1);
    struct mg_buf line = {0};
    size_t len;
    const char *command = luaL_checklstring(L, 2, &len);
    char c;

    if (write(fd, command, len) != (ssize_t)len)
        return luaL_error(L, "ask: %s", strerror(errno));
    while (read(fd, &c, 1) == 1 && c != '\n')
        mg_buf_add(&line, &c, 1);
    lua_pushlstring(L, line.data != NULL ? line.data : "", line.len);
    mg_buf_free(&line);
    return 1;
}

static int
fd_close(lua_State *L)
{
    close((int)luaL_checkinteger(L, 1));
    return 0;
}

int
mgtest_engine(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"listen", engine_listen}, {"shared", engine_shared}, {"start", engine_start},
        {"ask", engine_ask},       {"close", fd_close},       {NULL, NULL},
    };

    luaL_newlib(L, functions);
    return 1;
}
