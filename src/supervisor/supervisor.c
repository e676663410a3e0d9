/*
 * The life of the process.
 *
 * The happy path is: open what must be ours alone (control socket), first load, all workers serve
 * (READY, pid file), reloads; TERM: drain_delay, a moment for handshakes under way, then workers
 * drain (at most drain_timeout), all gone, exit 0. Possible failure modes are: the first load fails (exit 1, the reason as the last
 * line on stderr), a second TERM or INT (connections are closed at once), workers that do not go
 * (killed).
 *
 * Everything ends in super_close, after which the loop has no handle left.
 */
#include "supervisor/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TICK_MS    250
#define QUIT_NS    (1500ull * 1000000u) /* for workers that were told to quit */
#define SECRET_LEN 48
#define EXIT_LEAK  70

/* ---- end ------------------------------------------------------------------------------------ */

static void
super_close(struct mg_super *super)
{
    if (super->phase == MG_PHASE_CLOSED)
        return;
    super->phase = MG_PHASE_CLOSED;
    uv_close((uv_handle_t *)&super->tick, NULL);
    for (size_t i = 0; i < MG_ARRAY_LEN(super->signals); i++)
        uv_close((uv_handle_t *)&super->signals[i], NULL);
    if (super->watch != NULL)
        mg_watch_close(super->watch);
    if (super->control != NULL)
        mg_control_close(super->control);
    super->watch = NULL;
    super->control = NULL;
    while (super->sockets != NULL)
        mg_socket_remove(&super->sockets, super->sockets);
}

void
mg_super_check_done(struct mg_super *super)
{
    if (super->phase >= MG_PHASE_NOT_READY && super->reload.loader.live == 0 &&
        mg_workers_gone(super))
        super_close(super);
}

/* Drain begins: nobody waits in a queue of ours any more once the workers have emptied them. */
static void
drain_begin(struct mg_super *super)
{
    super->phase = MG_PHASE_DRAINING;
    super->stop_at_ns = 0;
    if (super->settings.drain_timeout_ms != 0)
        super->stop_at_ns = mg_now_ns() + super->settings.drain_timeout_ms * 1000000u;
    mg_workers_stop(super);
    while (super->sockets != NULL)
        mg_socket_remove(&super->sockets, super->sockets);
    mg_super_check_done(super);
}

/* drain_delay is over. Who is in the middle of a TCP handshake may still end it before the drain. */
static void
door_close(struct mg_super *super)
{
    super->stop_at_ns = super->shut ? 0 : mg_sockets_shut(super->sockets);
    super->shut = true;
    if (super->stop_at_ns == 0)
        drain_begin(super);
}

/* The workers say to their connections' records whether it was drain_timeout that ended them. */
static void
quit_begin(struct mg_super *super, bool timeout)
{
    bool draining = super->phase == MG_PHASE_DRAINING;
    super->phase = MG_PHASE_QUITTING;
    super->stop_at_ns = mg_now_ns() + QUIT_NS;
    mg_workers_send(super, MG_MSG_QUIT, timeout, NULL, -1);
    if (!draining)
        mg_workers_stop(super);
    while (super->sockets != NULL)
        mg_socket_remove(&super->sockets, super->sockets);
    mg_super_check_done(super);
}

void
mg_super_stop(struct mg_super *super, bool now)
{
    bool again = super->phase >= MG_PHASE_NOT_READY;
    if (super->phase >= MG_PHASE_QUITTING)
        return;
    if (!again) {
        mg_log(MG_LOG_INFO, "stopping%s", now ? " at once" : "");
        mg_notify("STOPPING=1\nSTATUS=draining");
        mg_reload_cancel(super, "moongate is stopping");
    }
    if (now || again || super->phase == MG_PHASE_STARTING) {
        quit_begin(super, false);
        return;
    }
    super->phase = MG_PHASE_NOT_READY;
    super->stop_at_ns = mg_now_ns() + super->settings.drain_delay_ms * 1000000u;
    if (super->settings.drain_delay_ms == 0)
        door_close(super);
}

void
mg_super_fail(struct mg_super *super, const char *text)
{
    super->exit_code = 1;
    mg_err_setx(&super->reason, "%s", text);
    mg_reload_cancel(super, text);
    quit_begin(super, false);
}

/* ---- sockets -------------------------------------------------------------------------------- */

static bool
sockets_going(const struct mg_super *super)
{
    for (const struct mg_socket *socket = super->sockets; socket != NULL; socket = socket->next)
        if (socket->state == MG_SOCKET_GOING)
            return true;
    return false;
}

static void
before_forget(struct mg_super *super)
{
    if (super->before_fd >= 0)
        close(super->before_fd);
    super->before_fd = -1;
}

void
mg_super_socket_released(struct mg_super *super, struct mg_socket *socket, unsigned worker,
                         bool emptied)
{
    socket->held[worker] = false;
    socket->emptied |= emptied;
    if (socket->state != MG_SOCKET_GOING || !socket->emptied || mg_socket_is_held(socket))
        return;
    mg_socket_remove(&super->sockets, socket);
    if (!sockets_going(super))
        before_forget(super);
    mg_reload_settled(super);
}

/* Tells the workers about the sockets whose time has come. */
static void
unsocket_send(struct mg_super *super, uint64_t now)
{
    for (struct mg_socket *socket = super->sockets; socket != NULL; socket = socket->next)
        if (socket->unsocket_at_ns != 0 && now >= socket->unsocket_at_ns) {
            socket->unsocket_at_ns = 0;
            mg_workers_send_unsocket(super, socket);
        }
}

void
mg_super_retire_sockets(struct mg_super *super, enum mg_retire which)
{
    for (struct mg_socket *socket = super->sockets, *next; socket != NULL; socket = next) {
        next = socket->next;
        if (socket->state == MG_SOCKET_GOING || (which == MG_RETIRE_UNWANTED && socket->wanted) ||
            (which == MG_RETIRE_BOUND && socket->state != MG_SOCKET_BOUND))
            continue;
        if (mg_socket_is_held(socket))
            mg_socket_retire(socket);
        else
            mg_socket_remove(&super->sockets, socket);
    }
    if (!sockets_going(super))
        before_forget(super);
    unsocket_send(super, mg_now_ns());
}

int
mg_super_drain(struct mg_super *super, struct mg_err *err)
{
    if (super->phase != MG_PHASE_RUNNING || super->reload.state != MG_RELOAD_IDLE) {
        mg_err_setx(err, super->phase == MG_PHASE_RUNNING ? "a reload is under way; try again"
                                                          : "moongate is starting or stopping");
        return -1;
    }
    if (super->drained)
        return 0;
    mg_log(MG_LOG_INFO, "draining: no new connections until the next reload");
    super->drained = true;
    super->drain_at_ns = mg_now_ns() + super->settings.drain_delay_ms * 1000000u;
    return 0;
}

/* ---- running -------------------------------------------------------------------------------- */

static int
pid_file_write(const char *path, struct mg_err *err)
{
    char text[32];
    int len = snprintf(text, sizeof(text), "%d\n", (int)getpid());
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0644);
    if (fd < 0 || mg_fd_write_all(fd, text, (size_t)len) != 0) {
        mg_err_set(err, "pid file %s", path);
        if (fd >= 0)
            close(fd);
        return -1;
    }
    close(fd);
    return 0;
}

static void
rights_warn(const struct mg_settings *settings)
{
    bool root = geteuid() == 0, user = settings->user[0] != '\0',
         group = settings->group[0] != '\0';
    if (root && !user)
        mg_log(MG_LOG_WARN, "workers run as root: settings.user or --user names somebody else");
    else if (!root && user)
        mg_log(MG_LOG_WARN, "user %s: only root can become somebody else", settings->user);
    else if (!root && group)
        mg_log(MG_LOG_WARN, "group %s: only root can change groups", settings->group);
}

void
mg_super_ready(struct mg_super *super)
{
    const char *pid_file = super->options->pid_file;
    struct mg_err err;
    if (pid_file != NULL && pid_file_write(pid_file, &err) != 0) {
        mg_super_fail(super, err.text);
        return;
    }
    super->pid_written = pid_file != NULL;
    super->phase = MG_PHASE_RUNNING;

    rights_warn(&super->settings);
    struct mg_buf where = {0};
    for (const struct mg_socket *socket = super->sockets; socket != NULL; socket = socket->next)
        mg_buf_addf(&where, "%s%s", where.len > 0 ? ", " : "", socket->address);
    unsigned workers = mg_workers_count(super);
    mg_log(MG_LOG_INFO, "ready: generation %llu, %u worker%s, listening on %s",
           (unsigned long long)super->generation, workers, workers == 1 ? "" : "s",
           where.len > 0 && !where.failed ? where.data : "nothing");
    mg_buf_free(&where);
    mg_notify("READY=1\nSTATUS=generation %llu serves", (unsigned long long)super->generation);
}

static void
stop_check(struct mg_super *super, uint64_t now)
{
    if (super->stop_at_ns == 0 || now < super->stop_at_ns)
        return;
    if (super->phase == MG_PHASE_NOT_READY) {
        door_close(super);
    } else if (super->phase == MG_PHASE_DRAINING) {
        mg_log(MG_LOG_WARN, "drain_timeout has passed: the remaining connections are closed");
        quit_begin(super, true);
    } else if (super->phase == MG_PHASE_QUITTING) {
        mg_workers_kill(super);
    }
}

/* The service manager's own watchdog: told at half of the interval that it gives us. */
static void
service_watchdog(struct mg_super *super, uint64_t now)
{
    const char *interval = getenv("WATCHDOG_USEC");
    uint64_t half_ns = interval != NULL ? strtoull(interval, NULL, 10) * 1000 / 2 : 0;
    if (half_ns == 0 || now - super->notified_ns < half_ns)
        return;
    super->notified_ns = now;
    mg_notify("WATCHDOG=1");
}

static void
on_tick(uv_timer_t *timer)
{
    struct mg_super *super = timer->data;
    uint64_t now = mg_now_ns();
    mg_workers_check(super);
    mg_loader_check(super);
    mg_reload_check(super);
    /* A reload that has got as far as building needs the sockets: it cancels the drain or, if it fails,
     * has put it off. */
    if (super->drain_at_ns != 0 && now >= super->drain_at_ns &&
        super->reload.state < MG_RELOAD_BUILDING) {
        super->drain_at_ns = 0;
        mg_super_retire_sockets(super, MG_RETIRE_ALL);
    }
    unsocket_send(super, now);
    stop_check(super, now);
    service_watchdog(super, now);
    super->ticked_ns = now;
}

static void
on_signal(uv_signal_t *handle, int number)
{
    struct mg_super *super = handle->data;
    if (super->phase == MG_PHASE_CLOSED)
        return;
    if (number == SIGHUP && super->phase <= MG_PHASE_RUNNING)
        mg_reload_request(super, "HUP");
    else if (number == SIGUSR1)
        mg_logs_reopen(super);
    else if (number == SIGTERM || number == SIGINT)
        mg_super_stop(super, number == SIGINT);
}

/* ---- start ---------------------------------------------------------------------------------- */

static int
secret_draw(char out[2 * SECRET_LEN + 1], struct mg_err *err)
{
    unsigned char bytes[SECRET_LEN];
    if (mg_platform_random(bytes, sizeof(bytes), err) != 0)
        return -1;
    for (size_t i = 0; i < sizeof(bytes); i++)
        snprintf(out + 2 * i, 3, "%02x", bytes[i]);
    mg_wipe(bytes, sizeof(bytes));
    return 0;
}

/* Where --control does not say, moongate also runs without: `make run` in a bare container does. */
static int
control_start(struct mg_super *super, struct mg_err *err)
{
    char path[MG_PATH_CAP];
    const char *given = super->options->control;
    if (given == NULL && mg_control_default_path(path, sizeof(path), err) != 0) {
        mg_log(MG_LOG_WARN, "no control socket: %s", err->text);
        return 0;
    }
    super->control = mg_control_open(super, given != NULL ? given : path, err);
    return super->control != NULL ? 0 : -1;
}

/* Absolute, but as it was named: a symlink may point elsewhere at the next reload. */
static int
script_locate(struct mg_super *super, struct mg_err *err)
{
    const char *given = super->options->script;
    char cwd[PATH_MAX] = "";
    struct mg_buf path = {0};
    if (access(given, F_OK) != 0) {
        mg_err_set(err, "%s", given);
        return -1;
    }
    if (given[0] != '/' && getcwd(cwd, sizeof(cwd)) == NULL) {
        mg_err_set(err, "working directory");
        return -1;
    }
    mg_buf_addf(&path, given[0] != '/' ? "%s/%s" : "%s%s", cwd, given);
    super->script = mg_buf_take(&path);
    if (super->script == NULL) {
        mg_err_setx(err, "out of memory");
        return -1;
    }
    return 0;
}

static int
super_prepare(struct mg_super *super, struct mg_err *err)
{
    if (script_locate(super, err) != 0)
        return -1;
    if (mg_settings_read(&super->settings, NULL, super->options, super->script, err) != 0 ||
        secret_draw(super->secret, err) != 0)
        return -1;
    mg_log_open(STDERR_FILENO, super->settings.log_format, super->settings.log_level, "supervisor");
    super->shared_fd = mg_shared_create(err);
    if (super->shared_fd < 0)
        return -1;
    super->sessions_fd = mg_cache_create(err);
    if (super->sessions_fd < 0)
        return -1;
    super->shared = mg_shared_map(super->shared_fd, err);
    return super->shared != NULL ? 0 : -1;
}

static void
handles_start(struct mg_super *super)
{
    static const int numbers[] = {SIGHUP, SIGTERM, SIGINT, SIGUSR1};
    uv_timer_init(&super->loop, &super->tick);
    super->tick.data = super;
    uv_timer_start(&super->tick, on_tick, TICK_MS, TICK_MS);
    for (size_t i = 0; i < MG_ARRAY_LEN(numbers); i++) {
        uv_signal_init(&super->loop, &super->signals[i]);
        super->signals[i].data = super;
        uv_signal_start(&super->signals[i], on_signal, numbers[i]);
    }
    signal(SIGPIPE, SIG_IGN);
    signal(SIGUSR2, SIG_IGN); /* must not end a proxy */
}

static void
super_run(struct mg_super *super)
{
    struct mg_err err;
    super->ticked_ns = mg_now_ns();
    handles_start(super);
    if (control_start(super, &err) != 0) {
        mg_super_fail(super, err.text);
    } else {
        if (super->options->watch && (super->watch = mg_watch_new(super, &err)) == NULL)
            mg_log(MG_LOG_WARN, "--watch: %s", err.text);
        mg_reload_request(super, "start");
    }
    uv_run(&super->loop, UV_RUN_DEFAULT);
}

static void
on_walk(uv_handle_t *handle, void *data)
{
    (void)data;
    mg_log(MG_LOG_ERROR, "uv_loop_close: a %s handle is still open",
           uv_handle_type_name(uv_handle_get_type(handle)));
}

static void
super_fini(struct mg_super *super)
{
    if (super->pid_written)
        unlink(super->options->pid_file);
    if (super->snapshot_fd >= 0)
        close(super->snapshot_fd);
    before_forget(super);
    if (super->shared != NULL)
        mg_shared_unmap(super->shared);
    if (super->shared_fd >= 0)
        close(super->shared_fd);
    if (super->sessions_fd >= 0)
        close(super->sessions_fd);
    mg_wipe(super->secret, sizeof(super->secret));
    mg_free(super->script);
}

int
mg_supervisor_main(const struct mg_supervisor_options *options)
{
    static struct mg_super super; /* large, and one per process */
    super.options = options;
    super.snapshot_fd = super.before_fd = super.shared_fd = super.sessions_fd =
        super.reload.snapshot_fd = -1;
    super.logs = super.reload.logs = (struct mg_logs){-1, -1};
    super.started_ns = mg_now_ns();
    mg_platform_close_on_exec();
    mg_platform_raise_limits();
    if (super_prepare(&super, &super.reason) != 0) {
        super.exit_code = 1;
    } else if (uv_loop_init(&super.loop) != 0) {
        mg_err_setx(&super.reason, "the event loop cannot be made");
        super.exit_code = 1;
    } else {
        super_run(&super);
        if (uv_loop_close(&super.loop) != 0) {
            uv_walk(&super.loop, on_walk, NULL);
            super.exit_code = EXIT_LEAK;
        } else if (super.exit_code == 0) {
            mg_log(MG_LOG_INFO, "stopped");
        }
    }
    super_fini(&super);
    mg_logs_close(&super.logs);
    if (super.exit_code == 1)
        fprintf(stderr, "moongate: %s\n", super.reason.text);
    return super.exit_code;
}
