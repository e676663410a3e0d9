/*
 * The two-phase reload. The first start is one, too.
 *
 * The happy path is: the loader answers with a snapshot; new addresses are bound; every worker
 * builds the generation and says READY; the addresses are listened on and COMMIT goes out; every
 * worker says SERVING; whoever asked is answered. Possible failure modes are: the script fails, the
 * snapshot is not sealed, an address or a log file cannot be had, too many recent clients would fail, a worker cannot build (or neither
 * it nor its successor lives to tell), somebody is silent for reload_timeout. Each of them ends in
 * reload_fail: DISCARD, new addresses unbound, the generation that serves untouched. Once COMMIT is
 * out nothing fails any more: a worker that dies then is replaced by one that builds the committed
 * snapshot.
 *
 * One reload at a time; any number asked for meanwhile are one more.
 */
#include "supervisor/internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void reload_start(struct mg_super *super);

/* ---- end ------------------------------------------------------------------------------------ */

static void
reload_clear(struct mg_reload *r)
{
    mg_snapshot_close(r->snapshot);
    r->snapshot = NULL;
    if (r->snapshot_fd >= 0)
        close(r->snapshot_fd);
    r->snapshot_fd = -1;
    mg_logs_close(&r->logs);
    mg_buf_free(&r->warnings);
    mg_buf_free(&r->changes);
    mg_free(r->last_error);
    r->last_error = NULL;
    r->state = MG_RELOAD_IDLE;
}

/* The paths that the snapshot was made from, with what they were then. */
static void
watch_snapshot(struct mg_super *super, const struct mg_snapshot *snapshot, bool failed)
{
    struct mg_buf list = {0};
    struct mg_span path, identity;
    if (super->watch == NULL)
        return;
    for (size_t cursor = 0;
         mg_snapshot_next(snapshot, MG_RECORD_WATCH, &cursor, &path, &identity);) {
        mg_buf_add(&list, path.data, path.len);
        mg_buf_add(&list, "", 1);
        mg_buf_add(&list, identity.data, identity.len);
        mg_buf_add(&list, "", 1);
    }
    if (!list.failed)
        mg_watch_set(super->watch, list.data, list.len, failed);
    mg_buf_free(&list);
}

static void
pending_start(struct mg_super *super)
{
    struct mg_reload *r = &super->reload;
    if (r->pending && r->state == MG_RELOAD_IDLE && r->loader.live == 0 &&
        super->phase == MG_PHASE_RUNNING)
        reload_start(super);
}

static void
reload_fail(struct mg_super *super, const char *text)
{
    struct mg_reload *r = &super->reload;
    char *copy = mg_strdup(text);
    if (r->snapshot != NULL)
        watch_snapshot(super, r->snapshot, true);
    if (r->state >= MG_RELOAD_BUILDING) {
        mg_workers_send(super, MG_MSG_DISCARD, r->generation, NULL, -1);
        mg_super_retire_sockets(super, MG_RETIRE_BOUND);
    }
    reload_clear(r);
    r->failed++;
    r->last_error = copy;
    if (super->phase == MG_PHASE_STARTING) {
        mg_super_fail(super, copy != NULL ? copy : "out of memory");
        return;
    }
    mg_log(MG_LOG_ERROR, "reload failed, generation %llu goes on: %s",
           (unsigned long long)super->generation, copy != NULL ? copy : "out of memory");
    mg_notify("READY=1\nSTATUS=reload failed, generation %llu goes on",
              (unsigned long long)super->generation);
    mg_control_reloaded(super->control, r->sequence, 1, copy != NULL ? copy : "out of memory");
    pending_start(super);
}

static void
reload_succeed(struct mg_super *super)
{
    struct mg_reload *r = &super->reload;
    struct mg_buf text = {0};
    watch_snapshot(super, r->snapshot, false);
    mg_buf_addf(&text, "generation %llu\n", (unsigned long long)super->generation);
    mg_buf_add(&text, r->changes.data, r->changes.len);
    if (r->warnings.len > 0)
        mg_buf_add(&text, r->warnings.data, r->warnings.len);
    reload_clear(r);
    r->succeeded++;
    if (super->phase == MG_PHASE_STARTING) {
        mg_super_ready(super);
    } else {
        mg_log(MG_LOG_INFO, "reloaded: generation %llu serves",
               (unsigned long long)super->generation);
        mg_notify("READY=1\nSTATUS=generation %llu serves", (unsigned long long)super->generation);
    }
    mg_control_reloaded(super->control, r->sequence, 0, text.failed ? "" : text.data);
    mg_buf_free(&text);
    pending_start(super);
}

/* ---- load ----------------------------------------------------------------------------------- */

static void
reload_start(struct mg_super *super)
{
    struct mg_reload *r = &super->reload;
    struct mg_err err;
    r->pending = false;
    r->sequence++;
    r->state = MG_RELOAD_LOADING;
    for (size_t i = 0; i < MG_ARRAY_LEN(super->workers); i++)
        if (super->workers[i] != NULL)
            super->workers[i]->reload_deaths = 0;
    if (super->phase == MG_PHASE_RUNNING)
        mg_notify("RELOADING=1\nMONOTONIC_USEC=%llu", (unsigned long long)(mg_now_ns() / 1000));
    if (mg_loader_start(super, &err) != 0)
        mg_reload_load_failed(super, err.text, NULL, 0);
}

void
mg_reload_request(struct mg_super *super, const char *why)
{
    struct mg_reload *r = &super->reload;
    if (super->phase > MG_PHASE_RUNNING)
        return;
    if (super->phase == MG_PHASE_RUNNING)
        mg_log(MG_LOG_INFO, "reload: %s", why);
    r->pending = true;
    if (r->state == MG_RELOAD_IDLE && r->loader.live == 0)
        reload_start(super);
}

void
mg_reload_loader_gone(struct mg_super *super)
{
    pending_start(super);
    mg_super_check_done(super);
}

void
mg_reload_load_failed(struct mg_super *super, const char *text, const char *paths, size_t len)
{
    struct mg_buf list = {0};
    for (const char *path = paths, *end = paths + len; path < end;) {
        size_t path_len = strnlen(path, (size_t)(end - path));
        mg_buf_add(&list, path, path_len);
        mg_buf_add(&list, "\0", 2); /* the path's end, and an empty identity */
        path += path_len + 1;
    }
    if (super->watch != NULL && !list.failed)
        mg_watch_set(super->watch, list.data, list.len, true);
    mg_buf_free(&list);
    reload_fail(super, text);
}

static void
lines_log(enum mg_log_level level, const struct mg_buf *lines)
{
    for (const char *line = lines->data; line != NULL && *line != '\0';) {
        size_t len = strcspn(line, "\n");
        if (len > 0)
            mg_log(level, "%.*s", (int)len, line);
        line += len + (line[len] == '\n');
    }
}

/* ---- build ---------------------------------------------------------------------------------- */

static void
deadline_set(struct mg_reload *r)
{
    r->deadline_ns = mg_now_ns() + r->settings.reload_timeout_ms * 1000000u;
}

static void
reload_build(struct mg_super *super)
{
    struct mg_reload *r = &super->reload;
    struct mg_err err;
    if (mg_sockets_prepare(&super->sockets, r->snapshot, &err) != 0) {
        reload_fail(super, err.text);
        return;
    }
    r->generation = ++super->last_generation;
    r->state = MG_RELOAD_BUILDING;
    deadline_set(r);
    for (struct mg_socket *socket = super->sockets; socket != NULL; socket = socket->next)
        if (socket->state == MG_SOCKET_BOUND)
            mg_workers_send_socket(super, socket);
    mg_workers_send(super, MG_MSG_BUILD, r->generation, NULL, r->snapshot_fd);
    if (super->phase == MG_PHASE_STARTING) { /* each gets sockets and BUILD when it is started */
        super->settings = r->settings;
        mg_workers_set_count(super, r->settings.workers);
    }
}

void
mg_reload_loaded(struct mg_super *super, int snapshot_fd, const char *text, size_t len)
{
    struct mg_reload *r = &super->reload;
    struct mg_err err;
    r->snapshot_fd = snapshot_fd;
    size_t warnings = strnlen(text, len);
    mg_buf_add(&r->warnings, text, warnings);
    if (warnings < len)
        mg_buf_add(&r->changes, text + warnings + 1, len - warnings - 1);
    lines_log(MG_LOG_WARN, &r->warnings);
    r->snapshot = mg_snapshot_open(snapshot_fd, true, &err);
    if (r->snapshot == NULL) {
        mg_reload_load_failed(super, err.text, NULL, 0);
        return;
    }
    if (mg_settings_read(&r->settings, r->snapshot, super->options, super->script, &err) != 0 ||
        mg_logs_open(&r->logs, &r->settings, &err) != 0) {
        reload_fail(super, err.text);
        return;
    }
    r->state = MG_RELOAD_SETTLING;
    deadline_set(r);
    mg_reload_settled(super);
}

void
mg_reload_settled(struct mg_super *super)
{
    if (super->reload.state != MG_RELOAD_SETTLING)
        return;
    for (struct mg_socket *socket = super->sockets; socket != NULL; socket = socket->next)
        if (socket->state == MG_SOCKET_GOING)
            return;
    reload_build(super);
}

void
mg_reload_build_failed(struct mg_super *super, const char *fmt, ...)
{
    char text[sizeof(struct mg_err)];
    va_list args;
    if (super->reload.state != MG_RELOAD_BUILDING)
        return;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    reload_fail(super, text);
}

/* ---- commit --------------------------------------------------------------------------------- */

/* What only takes effect in a new process, or only for new ones. */
static void
settings_compare(const struct mg_settings *old, const struct mg_settings *new)
{
    if (strcmp(old->user, new->user) != 0 || strcmp(old->group, new->group) != 0)
        mg_log(MG_LOG_WARN, "settings: a changed user or group takes effect at the next start");
    if (old->log_format != new->log_format &&new->access_log[0] != '\0')
        mg_log(MG_LOG_WARN, "settings: a changed log_format takes effect for access records at "
                            "the next start");
}

/* All workers have tried their recent clients. false: too many would fail, and the reload has. */
static bool
replay_judge(struct mg_super *super)
{
    struct mg_reload *r = &super->reload;
    struct mg_replay sum = {0};
    char text[1024];
    mg_workers_replay(super, &sum);
    mg_replay_text(&sum, text, sizeof(text));
    if (text[0] != '\0' && r->settings.refuse_reload_above >= 0 &&
        (double)sum.failing > r->settings.refuse_reload_above * (double)sum.total) {
        size_t len = strlen(text);
        snprintf(text + len, sizeof(text) - len, " (refuse_reload_above is %g)",
                 r->settings.refuse_reload_above);
        reload_fail(super, text);
        return false;
    }
    if (text[0] != '\0') {
        mg_log(MG_LOG_WARN, "%s", text);
        mg_buf_addf(&r->warnings, "%s\n", text);
    }
    struct mg_buf notes = {0};
    mg_replay_notes(&sum, &notes);
    lines_log(MG_LOG_INFO, &notes);
    mg_buf_free(&notes);
    return true;
}

static void
reload_commit(struct mg_super *super)
{
    struct mg_reload *r = &super->reload;
    struct mg_err err;
    if (!replay_judge(super))
        return;
    if (mg_sockets_listen(super->sockets, &err) != 0) {
        reload_fail(super, err.text);
        return;
    }
    r->state = MG_RELOAD_COMMITTING;
    deadline_set(r);
    lines_log(MG_LOG_INFO, &r->changes);
    settings_compare(&super->settings, &r->settings);
    super->settings = r->settings;
    uint64_t before = super->generation;
    super->generation = r->generation;
    super->drained = false;
    super->drain_at_ns = 0;
    if (super->before_fd >= 0)
        close(super->before_fd);
    super->before = before;
    super->before_fd = super->snapshot_fd; /* forgotten below, unless an address goes */
    super->snapshot_fd = r->snapshot_fd;
    r->snapshot_fd = -1;
    mg_workers_send(super, MG_MSG_COMMIT, super->generation, NULL, -1);
    mg_logs_use(super, &r->logs);
    mg_super_retire_sockets(super, MG_RETIRE_UNWANTED);
    mg_workers_set_count(super, super->settings.workers);
    mg_reload_progress(super);
}

void
mg_reload_progress(struct mg_super *super)
{
    struct mg_reload *r = &super->reload;
    if (r->state == MG_RELOAD_BUILDING && mg_workers_all_ready(super, r->generation))
        reload_commit(super);
    else if (r->state == MG_RELOAD_COMMITTING && mg_workers_all_serving(super, super->generation))
        reload_succeed(super);
}

void
mg_reload_check(struct mg_super *super)
{
    struct mg_reload *r = &super->reload;
    if (r->state < MG_RELOAD_SETTLING || mg_now_ns() < r->deadline_ns)
        return;
    if (r->state == MG_RELOAD_COMMITTING) {
        mg_log(MG_LOG_WARN, "not every worker has switched to generation %llu yet",
               (unsigned long long)super->generation);
        reload_succeed(super);
        return;
    }
    char text[160];
    snprintf(text, sizeof(text), "%s within reload_timeout (%.3g s)",
             r->state == MG_RELOAD_SETTLING ? "an address of the last change was not given up"
                                            : "a worker did not finish building",
             (double)r->settings.reload_timeout_ms / 1000);
    reload_fail(super, text);
}

void
mg_reload_cancel(struct mg_super *super, const char *why)
{
    struct mg_reload *r = &super->reload;
    mg_loader_stop(super);
    if (r->state != MG_RELOAD_IDLE) {
        if (r->state == MG_RELOAD_BUILDING)
            mg_workers_send(super, MG_MSG_DISCARD, r->generation, NULL, -1);
        reload_clear(r);
        mg_control_reloaded(super->control, r->sequence, 1, why);
    }
    if (r->pending) {
        r->pending = false;
        mg_control_reloaded(super->control, r->sequence + 1, 1, why);
    }
    mg_free(r->last_error);
    r->last_error = NULL;
}
