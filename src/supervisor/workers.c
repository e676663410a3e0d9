/*
 * The workers, seen from the supervisor: a slot each, in which a process lives, dies and is
 * replaced.
 *
 * The happy path of a slot is: spawn (HELLO, sockets, BUILD of the committed generation and of the
 * one that is being built), READY, COMMIT, SERVING, heartbeats; at the end DRAIN or QUIT, exit 0,
 * slot freed. Possible failure modes are: the process dies (replaced at once, then after 0.1 s
 * doubling to 5 s, from the start again after 10 s of life), it is silent (killed by the watchdog),
 * its channel breaks (the same), it cannot be started (as if it had died at once).
 *
 * The slot is freed when it is to leave, its process is reaped and its last handle closed.
 */
#include "supervisor/internal.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define LONG_LIFE_NS (10ull * 1000000000u)
#define START_NS     (30ull * 1000000000u) /* until the first heartbeat, at least */
#define HANG_UP_NS   (5ull * 1000000000u)  /* from closing the channel to the exit */
#define STALL_NS     (2ull * 1000000000u)  /* we were held up ourselves */

static void worker_spawn(struct mg_worker *w);
static void worker_rest(struct mg_worker *w);
static void present_send(struct mg_worker *w);

/* ---- a slot --------------------------------------------------------------------------------- */

static void
slot_free(struct mg_worker *w)
{
    struct mg_super *super = w->super;
    super->workers[w->index] = NULL;
    if (w->current != NULL)
        munmap(w->current, MG_CURRENT_CAP);
    if (w->current_fd >= 0)
        close(w->current_fd);
    mg_buf_free(&w->answer);
    mg_free(w);
    mg_super_check_done(super);
}

static void
handle_closed(struct mg_worker *w)
{
    w->live--;
    if (w->live == 0)
        slot_free(w);
    else
        worker_rest(w);
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

static void
on_respawn(uv_timer_t *timer)
{
    struct mg_worker *w = timer->data;
    if (!w->leaving)
        worker_spawn(w);
}

/* A page that the worker writes what it runs into, and the watchdog reads when it no longer
 * answers. */
static int
current_open(struct mg_worker *w, struct mg_err *err)
{
    char path[] = "/tmp/moongate-current-XXXXXX";
#ifdef MG_HAVE_MEMFD
    (void)path;
    w->current_fd = memfd_create("moongate-current", MFD_CLOEXEC | MFD_ALLOW_SEALING);
#else
    w->current_fd = mkostemp(path, O_CLOEXEC);
    if (w->current_fd >= 0)
        unlink(path);
#endif
    if (w->current_fd < 0 || ftruncate(w->current_fd, MG_CURRENT_CAP) != 0 ||
        mg_shared_fix_size(w->current_fd) != 0) {
        mg_err_set(err, "worker: shared page");
        return -1;
    }
    void *map = mmap(NULL, MG_CURRENT_CAP, PROT_READ | PROT_WRITE, MAP_SHARED, w->current_fd, 0);
    if (map == MAP_FAILED) {
        mg_err_set(err, "worker: shared page");
        return -1;
    }
    w->current = map;
    return 0;
}

static void
slot_open(struct mg_super *super, unsigned index)
{
    struct mg_err err;
    struct mg_worker *w = mg_calloc(1, sizeof(*w));
    if (w == NULL) {
        mg_log(MG_LOG_ERROR, "worker %u: out of memory", index);
        return;
    }
    w->super = super;
    w->index = index;
    w->current_fd = -1;
    w->live = 1;
    uv_timer_init(&super->loop, &w->respawn);
    w->respawn.data = w;
    super->workers[index] = w;
    if (current_open(w, &err) != 0)
        mg_log(MG_LOG_WARN, "%s; the watchdog cannot say what a worker ran", err.text);
    worker_spawn(w);
}

/* ---- death ---------------------------------------------------------------------------------- */

static void
death_log(const struct mg_worker *w, int64_t status, int signal)
{
    char how[96];
    if (signal != 0)
        snprintf(how, sizeof(how), "was ended by signal %d (%s)", signal, strsignal(signal));
    else
        snprintf(how, sizeof(how), "exited with status %d", (int)status);
    bool expected = w->leaving && signal == 0 && status == 0;
    mg_log(expected || w->reported ? MG_LOG_INFO : MG_LOG_ERROR, "worker %u (pid %d) %s", w->index,
           (int)w->process.pid, how);
    if (!w->leaving && w->super->reload.state == MG_RELOAD_BUILDING && w->reload_deaths > 1)
        mg_reload_build_failed(w->super,
                               "worker %u %s while it built the new generation, "
                               "and so did its successor",
                               w->index, how);
}

/* What the dead one had of everybody's comes back. */
static void
estate_settle(struct mg_worker *w)
{
    struct mg_super *super = w->super;
    mg_shared_forget(super->shared, w->index);
    for (struct mg_socket *socket = super->sockets, *next; socket != NULL; socket = next) {
        next = socket->next;
        mg_super_socket_released(super, socket, w->index, false);
    }
    w->heir = w->ready = w->serving = w->asked = 0;
}

static void
worker_died(struct mg_worker *w, int64_t status, int signal)
{
    w->running = false;
    if (mg_now_ns() - w->started_ns >= LONG_LIFE_NS)
        w->quick_deaths = 0;
    w->quick_deaths++;
    w->reload_deaths++;
    estate_settle(w);
    death_log(w, status, signal);
    mg_reload_progress(w->super);
    mg_control_status_progress(w->super);
}

/* Process and channel are gone: another one, after a while, or an empty slot. */
static void
worker_rest(struct mg_worker *w)
{
    if (w->live > 1 || w->running || w->connected || uv_is_closing((uv_handle_t *)&w->respawn))
        return;
    if (w->leaving) {
        uv_close((uv_handle_t *)&w->respawn, on_handle_close);
        return;
    }
    uint64_t delay = 0;
    if (w->quick_deaths > 1)
        delay = w->quick_deaths > 7 ? 5000 : 100u << (w->quick_deaths - 2);
    w->restarts++;
    uv_timer_start(&w->respawn, on_respawn, delay > 5000 ? 5000 : delay, 0);
}

static void
on_worker_exit(uv_process_t *process, int64_t status, int signal)
{
    struct mg_worker *w = process->data;
    uv_close((uv_handle_t *)process, on_handle_close);
    worker_died(w, status, signal);
}

/* ---- messages ------------------------------------------------------------------------------- */

static void
on_lost(struct mg_ipc *ipc, const char *why)
{
    struct mg_worker *w = ipc->data;
    mg_log(MG_LOG_DEBUG, "worker %u: %s", w->index, why);
    w->connected = false;
    mg_ipc_close(ipc, on_ipc_close);
}

static void
unsocket_send(struct mg_worker *w, const struct mg_socket *socket)
{
    mg_ipc_send(&w->ipc, MG_MSG_UNSOCKET, 0, socket->address, strlen(socket->address), NULL, 0);
}

static void
commit_send(struct mg_worker *w, uint64_t generation)
{
    mg_ipc_send(&w->ipc, MG_MSG_COMMIT, generation, NULL, 0, NULL, 0);
    for (struct mg_socket *socket = w->super->sockets; socket != NULL; socket = socket->next)
        if (socket->state == MG_SOCKET_GOING && socket->unsocket_at_ns == 0 &&
            socket->held[w->index])
            unsocket_send(w, socket);
}

static void
ready_take(struct mg_worker *w, const struct mg_msg *msg)
{
    struct mg_super *super = w->super;
    uint64_t generation = msg->number;
    w->ready = generation;
    mg_replay_read(&w->replay, msg);
    if (generation == w->heir) {
        commit_send(w, generation);
        present_send(w);
    } else if (generation == super->generation) { /* a replacement catches up */
        commit_send(w, generation);
    } else {
        mg_reload_progress(super);
    }
}

static void
failure_take(struct mg_worker *w, const struct mg_msg *msg)
{
    struct mg_super *super = w->super;
    if (msg->number != 0 && msg->number == w->heir) {
        mg_log(MG_LOG_ERROR, "worker %u: %s; who waits at an address that goes is lost", w->index,
               msg->data);
        present_send(w);
    } else if (msg->number == super->reload.generation &&
               super->reload.state == MG_RELOAD_BUILDING) {
        mg_reload_build_failed(super, "%s", msg->data);
    } else if (msg->number == 0 && super->phase == MG_PHASE_STARTING) {
        w->reported = true;
        mg_reload_build_failed(super, "worker: %s", msg->data);
    } else if (msg->number == 0 || msg->number == super->generation) {
        /* A replacement that cannot build what the others run, or cannot start at all. */
        mg_log(MG_LOG_ERROR, "worker %u: %s", w->index, msg->data);
        w->reported = true;
        uv_process_kill(&w->process, SIGKILL);
    }
}

static void
status_take(struct mg_worker *w, const struct mg_msg *msg)
{
    if (msg->number != w->asked || w->asked == 0)
        return;
    w->asked = 0;
    w->answer.len = 0;
    mg_buf_add(&w->answer, msg->data, msg->len);
    mg_control_status_progress(w->super);
}

static void
unsocket_take(struct mg_worker *w, const struct mg_msg *msg)
{
    for (struct mg_socket *socket = w->super->sockets; socket != NULL; socket = socket->next)
        if (socket->state == MG_SOCKET_GOING && strcmp(socket->address, msg->data) == 0) {
            mg_super_socket_released(w->super, socket, w->index, true);
            return;
        }
}

static void
on_message(struct mg_ipc *ipc, struct mg_msg *msg)
{
    struct mg_worker *w = ipc->data;
    switch (msg->type) {
    case MG_MSG_HEARTBEAT:
        w->beat_ns = mg_now_ns();
        break;
    case MG_MSG_READY:
        ready_take(w, msg);
        break;
    case MG_MSG_FAILED:
        failure_take(w, msg);
        break;
    case MG_MSG_SERVING:
        w->serving = msg->number;
        mg_reload_progress(w->super);
        break;
    case MG_MSG_RETIRED:
        mg_log(MG_LOG_DEBUG, "worker %u: generation %llu has ended", w->index,
               (unsigned long long)msg->number);
        break;
    case MG_MSG_UNSOCKET:
        unsocket_take(w, msg);
        break;
    case MG_MSG_STATUS:
        status_take(w, msg);
        break;
    default:
        mg_log(MG_LOG_WARN, "worker %u: unexpected message %u", w->index, msg->type);
    }
}

/* ---- birth ---------------------------------------------------------------------------------- */

static int
hello_send(struct mg_worker *w)
{
    struct mg_super *super = w->super;
    struct mg_buf text = {0}, names = {0};
    int fds[MG_IPC_FDS];
    size_t count = 0;
    fds[count++] = super->shared_fd;
    fds[count++] = super->sessions_fd;
    mg_buf_adds(&names, "shared,sessions");
    if (w->current != NULL) {
        fds[count++] = w->current_fd;
        mg_buf_adds(&names, ",current");
        memset(w->current, 0, MG_CURRENT_CAP);
    }
    mg_buf_addf(&text, "index=%u\nuser=%s\ngroup=%s\ntransparent=%d\nsecret=%s\n", w->index,
                super->settings.user, super->settings.group, super->settings.transparent,
                super->secret);
    mg_logs_describe(super, &text, &names, fds, &count);
    mg_buf_addf(&text, "fds=%s\n", names.data != NULL ? names.data : "");
    int result = text.failed || names.failed
                     ? -1
                     : mg_ipc_send(&w->ipc, MG_MSG_HELLO, 0, text.data, text.len, fds, count);
    mg_buf_free_secret(&text);
    mg_buf_free(&names);
    return result;
}

static void
socket_send(struct mg_worker *w, struct mg_socket *socket)
{
    socket->held[w->index] = true;
    mg_ipc_send(&w->ipc, MG_MSG_SOCKET, 0, socket->address, strlen(socket->address), &socket->fd,
                1);
}

/* What serves now, and what is being built. */
static void
present_send(struct mg_worker *w)
{
    struct mg_super *super = w->super;
    struct mg_reload *reload = &super->reload;
    w->heir = 0;
    for (struct mg_socket *socket = super->sockets; socket != NULL; socket = socket->next)
        if (socket->state != MG_SOCKET_GOING)
            socket_send(w, socket);
    if (super->generation != 0)
        mg_ipc_send(&w->ipc, MG_MSG_BUILD, super->generation, NULL, 0, &super->snapshot_fd, 1);
    if (reload->state == MG_RELOAD_BUILDING)
        mg_ipc_send(&w->ipc, MG_MSG_BUILD, reload->generation, NULL, 0, &reload->snapshot_fd, 1);
}

/*
 * Everything a new process has to know. What cannot be sent shows as a lost channel. Where a queue was
 * left to it that only the generation before can serve, that one comes first, with nothing else.
 */
static void
world_send(struct mg_worker *w)
{
    struct mg_super *super = w->super;
    bool heir = false;
    hello_send(w);
    for (struct mg_socket *socket = super->sockets; socket != NULL; socket = socket->next)
        if (socket->state == MG_SOCKET_GOING && !socket->emptied) {
            socket_send(w, socket);
            heir = true;
        }
    if (!heir || super->before_fd < 0) {
        present_send(w);
        return;
    }
    w->heir = super->before;
    mg_ipc_send(&w->ipc, MG_MSG_BUILD, super->before, NULL, 0, &super->before_fd, 1);
}

static void
worker_spawn(struct mg_worker *w)
{
    static const struct mg_ipc_ops ops = {on_message, on_lost, false};
    struct mg_super *super = w->super;
    struct mg_err err;
    int pair[2];
    w->started_ns = w->beat_ns = mg_now_ns();
    w->reported = false;
    w->process.data = w;
    if (mg_ipc_pair(pair, &err) != 0) {
        mg_log(MG_LOG_ERROR, "worker %u: %s", w->index, err.text);
        worker_died(w, 1, 0);
        worker_rest(w);
        return;
    }
    w->live++;
    int result = mg_platform_spawn(&super->loop, &w->process, "--worker", NULL, pair[1],
                                   on_worker_exit, on_handle_close, &err);
    close(pair[1]);
    w->process.data = w;
    if (result != 0) {
        mg_log(MG_LOG_ERROR, "worker %u: %s", w->index, err.text);
        close(pair[0]);
        worker_died(w, 1, 0);
        return;
    }
    w->running = true;
    if (mg_ipc_open(&w->ipc, &super->loop, pair[0], &ops, w, &err) != 0) {
        mg_log(MG_LOG_ERROR, "worker %u: %s", w->index, err.text);
        uv_process_kill(&w->process, SIGKILL);
        return;
    }
    w->live++;
    w->connected = true;
    world_send(w);
}

/* ---- all of them ---------------------------------------------------------------------------- */

void
mg_workers_send(struct mg_super *super, enum mg_msg_type type, uint64_t number, const char *text,
                int fd)
{
    for (size_t i = 0; i < MG_ARRAY_LEN(super->workers); i++) {
        struct mg_worker *w = super->workers[i];
        if (w != NULL && w->connected && (type != MG_MSG_BUILD || w->heir == 0))
            mg_ipc_send(&w->ipc, type, number, text, text != NULL ? strlen(text) : 0, &fd,
                        fd >= 0 ? 1 : 0);
    }
}

void
mg_workers_send_socket(struct mg_super *super, struct mg_socket *socket)
{
    for (size_t i = 0; i < MG_ARRAY_LEN(super->workers); i++)
        if (super->workers[i] != NULL && super->workers[i]->connected &&
            super->workers[i]->heir == 0)
            socket_send(super->workers[i], socket);
}

/* Who has nothing to empty a queue with is told with its first COMMIT. */
void
mg_workers_send_unsocket(struct mg_super *super, const struct mg_socket *socket)
{
    for (size_t i = 0; i < MG_ARRAY_LEN(super->workers); i++)
        if (super->workers[i] != NULL && super->workers[i]->connected &&
            super->workers[i]->ready != 0)
            unsocket_send(super->workers[i], socket);
}

/* Its connections may go on for limit_ms; 0 = until we end them. */
static void
worker_leave(struct mg_worker *w, uint64_t limit_ms)
{
    w->leaving = true;
    uv_timer_stop(&w->respawn);
    if (w->connected)
        mg_ipc_send(&w->ipc, MG_MSG_DRAIN, limit_ms, NULL, 0, NULL, 0);
    worker_rest(w);
}

unsigned
mg_workers_count(const struct mg_super *super)
{
    unsigned count = 0;
    for (size_t i = 0; i < MG_ARRAY_LEN(super->workers); i++)
        count += super->workers[i] != NULL && !super->workers[i]->leaving;
    return count;
}

/* For the connections of a worker that nobody needs any more: the tighter of the two limits. */
static uint64_t
leave_limit(const struct mg_settings *settings)
{
    uint64_t drain = settings->drain_timeout_ms, generation = settings->generation_timeout_ms;
    return drain == 0 || (generation != 0 && generation < drain) ? generation : drain;
}

void
mg_workers_set_count(struct mg_super *super, unsigned count)
{
    unsigned now = mg_workers_count(super);
    for (size_t i = MG_ARRAY_LEN(super->workers); i-- > 0 && now > count;)
        if (super->workers[i] != NULL && !super->workers[i]->leaving) {
            worker_leave(super->workers[i], leave_limit(&super->settings));
            now--;
        }
    for (unsigned i = 0; i < MG_ARRAY_LEN(super->workers) && now < count; i++)
        if (super->workers[i] == NULL) {
            slot_open(super, i);
            now++;
        }
}

void
mg_workers_stop(struct mg_super *super)
{
    for (size_t i = 0; i < MG_ARRAY_LEN(super->workers); i++)
        if (super->workers[i] != NULL && !super->workers[i]->leaving)
            worker_leave(super->workers[i], 0);
}

void
mg_workers_kill(struct mg_super *super)
{
    for (size_t i = 0; i < MG_ARRAY_LEN(super->workers); i++)
        if (super->workers[i] != NULL && super->workers[i]->running)
            uv_process_kill(&super->workers[i]->process, SIGKILL);
}

bool
mg_workers_gone(const struct mg_super *super)
{
    for (size_t i = 0; i < MG_ARRAY_LEN(super->workers); i++)
        if (super->workers[i] != NULL)
            return false;
    return true;
}

bool
mg_workers_all_ready(const struct mg_super *super, uint64_t generation)
{
    for (size_t i = 0; i < MG_ARRAY_LEN(super->workers); i++) {
        const struct mg_worker *w = super->workers[i];
        if (w != NULL && !w->leaving && w->ready != generation)
            return false;
    }
    return mg_workers_count(super) > 0;
}

void
mg_workers_replay(const struct mg_super *super, struct mg_replay *sum)
{
    for (size_t i = 0; i < MG_ARRAY_LEN(super->workers); i++) {
        const struct mg_worker *w = super->workers[i];
        if (w != NULL && !w->leaving)
            mg_replay_add(sum, &w->replay);
    }
}

bool
mg_workers_all_serving(const struct mg_super *super, uint64_t generation)
{
    for (size_t i = 0; i < MG_ARRAY_LEN(super->workers); i++) {
        const struct mg_worker *w = super->workers[i];
        if (w != NULL && !w->leaving && w->running && w->serving != generation)
            return false;
    }
    return true;
}

/* ---- watchdog ------------------------------------------------------------------------------- */

static void
silence_end(struct mg_worker *w, uint64_t silent_ns)
{
    char current[MG_CURRENT_CAP] = "";
    struct mg_buf text = {0};
    if (w->current != NULL)
        memcpy(current, w->current, sizeof(current) - 1); /* a stopped one cannot change it */
    if (current[0] != '\0') {
        mg_buf_adds(&text, "; it was running ");
        mg_buf_add_printable(&text, current, strlen(current));
    }
    mg_log(MG_LOG_ERROR, "worker %u (pid %d) has given no heartbeat for %.1f s and is killed%s",
           w->index, (int)w->process.pid, (double)silent_ns / 1e9,
           text.data != NULL && !text.failed ? text.data : "");
    mg_buf_free(&text);
    w->reported = true;
    uv_process_kill(&w->process, SIGKILL);
}

void
mg_workers_check(struct mg_super *super)
{
    uint64_t now = mg_now_ns(), watchdog_ns = super->settings.watchdog_ms * 1000000u;
    bool stalled = now - super->ticked_ns > STALL_NS;
    for (size_t i = 0; i < MG_ARRAY_LEN(super->workers); i++) {
        struct mg_worker *w = super->workers[i];
        if (w == NULL || !w->running)
            continue;
        if (stalled) /* their heartbeats are still in the socket */
            w->beat_ns = w->beat_ns == w->started_ns ? w->beat_ns : now;
        uint64_t limit = watchdog_ns;
        if (!w->connected)
            limit = HANG_UP_NS;
        else if (w->beat_ns == w->started_ns && limit != 0 && limit < START_NS)
            limit = START_NS;
        if (limit != 0 && now - w->beat_ns > limit && !w->reported)
            silence_end(w, now - w->beat_ns);
    }
}
