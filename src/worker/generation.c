/*
 * Generations: one run of the script each, from BUILD to its last connection.
 *
 * The happy path is: QUEUED, BUILDING on a thread of its own while the loop serves, READY, CURRENT
 * by COMMIT, OLD when the next one is committed, UNUSED when its last connection (and its last
 * address) lets go of the config, FREEING on its thread again. Possible failure modes are: it cannot
 * be built (FAILED, freed), it is discarded (freed, when its thread has built it), its connections
 * outlive generation_timeout (closed).
 *
 * The thread waits from the one to the other, and not for want of something to do: the C library gives each
 * thread a heap of its own, so that no two generations that live at a time share one. Where they did,
 * what one leaves behind would lie between the other's, and could not be given back.
 *
 * We hold one reference to a config from READY on, given back when it is no longer current. Only
 * one builds at a time, in the order of BUILD.
 */
#include "worker/internal.h"

#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void next_build(struct mg_worker_process *w);

/* ---- end ------------------------------------------------------------------------------------ */

static void
on_handle_close(uv_handle_t *handle)
{
    struct mg_generation *g = handle->data;
    struct mg_worker_process *w = g->worker;
    w->live--;
    if (--g->live > 0)
        return;
    struct mg_generation **at = &w->generations;
    while (*at != g)
        at = &(*at)->next;
    *at = g->next;
    uv_sem_destroy(&g->unused);
    mg_free(g);
    mg_worker_check_done(w);
}

/* Nothing of it is used any more. */
static void
generation_end(struct mg_generation *g)
{
    g->state = MG_GENERATION_UNUSED;
    if (g->snapshot_fd >= 0)
        close(g->snapshot_fd);
    g->snapshot_fd = -1;
    uv_close((uv_handle_t *)&g->built, on_handle_close);
    uv_close((uv_handle_t *)&g->timeout, on_handle_close);
}

static void
generation_freed(struct mg_generation *g)
{
    g->config = NULL;
    mg_worker_send(g->worker, MG_MSG_RETIRED, g->number, NULL);
    generation_end(g);
}

/* Frees what is unused; never in the call that dropped the last reference. What has handles of the
 * loop goes here. */
static void
on_reap(uv_timer_t *timer)
{
    struct mg_worker_process *w = timer->data;
    struct mg_generation *next;
    for (struct mg_generation *g = w->generations; g != NULL; g = next) {
        next = g->next;
        if (g->state != MG_GENERATION_UNUSED || g->config == NULL)
            continue;
        g->state = MG_GENERATION_FREEING;
        mg_config_fini(g->config);
        uv_sem_post(&g->unused);
    }
}

/* May come from deep inside the engine: the config is freed later, by the reaper. */
static void
on_unused(struct mg_config *config)
{
    struct mg_generation *g = config->owner;
    g->state = MG_GENERATION_UNUSED;
    uv_timer_start(&g->worker->reaper, on_reap, 0, 0);
}

static void
on_timeout(uv_timer_t *timer)
{
    struct mg_generation *g = timer->data;
    if (g->state == MG_GENERATION_OLD)
        mg_engine_close_sessions(g->worker->engine, g->config, "moongate: generation timeout");
}

/* ---- build ---------------------------------------------------------------------------------- */

/* Seconds of a setting as milliseconds; 0 for "false" and for nonsense, which the loader has
 * refused. */
static uint64_t
seconds_get(const struct mg_snapshot *snapshot, const char *name, uint64_t fallback_ms)
{
    struct mg_span value;
    char text[32];
    if (!mg_snapshot_find(snapshot, MG_RECORD_SETTING, name, strlen(name), &value) ||
        value.len == 0 || value.len >= sizeof(text))
        return fallback_ms;
    memcpy(text, value.data, value.len);
    text[value.len] = '\0';
    double seconds = strtod(text, NULL);
    return seconds > 0 && seconds < 1e9 ? (uint64_t)(seconds * 1000) : 0;
}

static size_t
count_get(const struct mg_snapshot *snapshot, const char *name)
{
    return (size_t)(seconds_get(snapshot, name, 0) / 1000);
}

static void
config_build(struct mg_generation *g)
{
    struct mg_snapshot *snapshot = mg_snapshot_open(g->snapshot_fd, true, &g->err);
    if (snapshot != NULL) {
        struct mg_script_build build = {
            .snapshot = snapshot,
            .generation = g->number,
            .ticket_secret = g->worker->secret,
            .ticket_secret_len = g->worker->secret_len,
        };
        g->drain_timeout_ms = seconds_get(snapshot, "drain_timeout", 30000);
        g->generation_timeout_ms = seconds_get(snapshot, "generation_timeout", 0);
        g->hello_ring = count_get(snapshot, "hello_ring");
        g->config = mg_script_build(&build, &g->err);
        if (g->config != NULL &&
            mg_script_replay(g->config, g->worker->ring, &g->replay, &g->err) != 0)
            mg_log(MG_LOG_WARN, "recent clients were not tried: %s", g->err.text);
        mg_snapshot_close(snapshot);
    }
}

/* The generation's thread, from BUILDING to READY and from FREEING to its end: thousands of contexts take
 * longer than connections should wait. Touches nothing of the worker but the secret, which does not
 * change, and the ring, which has a lock. */
static void
generation_run(void *data)
{
    struct mg_generation *g = data;
    mg_priority_lower();
    config_build(g);
    bool failed = g->config == NULL; /* if so, g is gone when the loop has been told */
    OPENSSL_thread_stop();
    uv_async_send(&g->built);
    if (failed)
        return;
    uv_sem_wait(&g->unused);
    mg_script_free(g->config);
    OPENSSL_thread_stop();
    mg_worker_trim();
    uv_async_send(&g->built);
}

static void
generation_fail(struct mg_generation *g)
{
    if (!g->discarded && !g->worker->leaving)
        mg_worker_send(g->worker, MG_MSG_FAILED, g->number, g->err.text);
}

/* READY, and how recent clients would fare. */
static void
ready_send(const struct mg_generation *g)
{
    const struct mg_replay *replay = &g->replay;
    struct mg_buf text = {0};
    mg_buf_addf(&text, "total=%u\nfailing=%u\nnot_asked=%u\nlate=%u\n", replay->total,
                replay->failing, replay->not_asked, replay->late);
    for (unsigned i = 0; i < replay->reason_count; i++)
        if (replay->reasons[i].count > 0)
            mg_buf_addf(&text, "reason=%u %s\n", replay->reasons[i].count, replay->reasons[i].text);
    mg_worker_send(g->worker, MG_MSG_READY, g->number, text.failed ? NULL : text.data);
    mg_buf_free(&text);
}

static void
on_built(uv_async_t *async)
{
    struct mg_generation *g = async->data;
    struct mg_worker_process *w = g->worker;
    if (g->state == MG_GENERATION_FREEING) {
        uv_thread_join(&g->thread);
        generation_freed(g);
        return;
    }
    close(g->snapshot_fd);
    g->snapshot_fd = -1;
    if (g->config == NULL) {
        uv_thread_join(&g->thread);
        generation_fail(g);
        generation_end(g);
    } else {
        g->config->owner = g;
        g->config->on_unused = on_unused;
        mg_config_ref(g->config);
        g->state = MG_GENERATION_READY;
        if (g->discarded || w->leaving) {
            mg_config_unref(g->config);
        } else if (mg_engine_activate(w->engine, g->config, &g->err) != 0) {
            generation_fail(g);
            mg_config_unref(g->config);
        } else {
            ready_send(g);
        }
    }
    next_build(w);
}

static void
next_build(struct mg_worker_process *w)
{
    struct mg_generation *first = NULL;
    for (struct mg_generation *g = w->generations; g != NULL; g = g->next) {
        if (g->state == MG_GENERATION_BUILDING)
            return;
        if (g->state == MG_GENERATION_QUEUED && first == NULL)
            first = g;
    }
    if (first == NULL)
        return;
    first->state = MG_GENERATION_BUILDING;
    int code = uv_thread_create(&first->thread, generation_run, first);
    if (code == 0)
        return;
    mg_err_setx(&first->err, "a thread to build on: %s", uv_strerror(code));
    generation_fail(first);
    generation_end(first);
    next_build(w);
}

void
mg_generation_build(struct mg_worker_process *w, uint64_t number, int snapshot_fd)
{
    struct mg_generation *g = mg_calloc(1, sizeof(*g));
    bool ready = g != NULL && uv_sem_init(&g->unused, 0) == 0;
    if (!ready || uv_async_init(&w->loop, &g->built, on_built) != 0) {
        if (ready)
            uv_sem_destroy(&g->unused);
        mg_free(g);
        close(snapshot_fd);
        mg_worker_send(w, MG_MSG_FAILED, number, "out of memory");
        return;
    }
    uv_timer_init(&w->loop, &g->timeout);
    g->built.data = g->timeout.data = g;
    g->live = 2;
    w->live += 2;
    g->worker = w;
    g->number = number;
    g->snapshot_fd = snapshot_fd;
    struct mg_generation **at = &w->generations;
    while (*at != NULL)
        at = &(*at)->next;
    *at = g;
    next_build(w);
}

/* ---- switch --------------------------------------------------------------------------------- */

static struct mg_generation *
generation_find(const struct mg_worker_process *w, uint64_t number)
{
    struct mg_generation *g = w->generations;
    while (g != NULL && (g->number != number || g->state >= MG_GENERATION_UNUSED))
        g = g->next;
    return g;
}

/* It is no longer current: from here on its connections alone keep it. */
static void
current_release(struct mg_worker_process *w)
{
    struct mg_generation *old = w->current;
    w->current = NULL;
    if (old == NULL)
        return;
    old->state = MG_GENERATION_OLD;
    mg_config_unref(old->config);
}

void
mg_generation_commit(struct mg_worker_process *w, uint64_t number)
{
    struct mg_generation *g = generation_find(w, number);
    if (g == NULL || g->state != MG_GENERATION_READY || w->leaving)
        return;
    struct mg_generation *old = w->current;
    g->state = MG_GENERATION_CURRENT;
    mg_addresses_use(w, g->config);
    mg_engine_use(w->engine, g->config);
    if (mg_ring_resize(w->ring, g->hello_ring) != 0)
        mg_log(MG_LOG_WARN, "hello_ring: no memory for %zu; it stays as it is", g->hello_ring);
    mg_ring_adopt(w->ring, number);
    if (old != NULL && g->generation_timeout_ms > 0)
        uv_timer_start(&old->timeout, on_timeout, g->generation_timeout_ms, 0);
    current_release(w);
    w->current = g;
    mg_worker_send(w, MG_MSG_SERVING, number, NULL);
}

static void
generation_drop(struct mg_generation *g)
{
    g->discarded = true;
    if (g->state == MG_GENERATION_QUEUED)
        generation_end(g);
    else if (g->state == MG_GENERATION_READY)
        mg_config_unref(g->config);
}

void
mg_generation_discard(struct mg_worker_process *w, uint64_t number)
{
    struct mg_generation *g = generation_find(w, number);
    if (g != NULL && g->state < MG_GENERATION_CURRENT)
        generation_drop(g);
}

void
mg_generations_retire(struct mg_worker_process *w)
{
    for (struct mg_generation *g = w->generations; g != NULL; g = g->next)
        if (g->state < MG_GENERATION_CURRENT && !g->discarded)
            generation_drop(g);
    current_release(w);
}

bool
mg_generations_building(const struct mg_worker_process *w)
{
    for (const struct mg_generation *g = w->generations; g != NULL; g = g->next)
        if (g->state == MG_GENERATION_BUILDING)
            return true;
    return false;
}

/* ---- status --------------------------------------------------------------------------------- */

static const char *
state_name(const struct mg_generation *g)
{
    static const char *const names[] = {"queued", "building", "ready", "current", "old"};
    return names[g->state];
}

void
mg_generations_text(const struct mg_worker_process *w, struct mg_buf *out)
{
    const char *comma = "";
    for (const struct mg_generation *g = w->generations; g != NULL; g = g->next) {
        if (g->state >= MG_GENERATION_UNUSED)
            continue;
        mg_buf_addf(out, "%s%llu", comma, (unsigned long long)g->number);
        if (g->state < MG_GENERATION_CURRENT)
            mg_buf_addf(out, " (%s)", state_name(g));
        else
            mg_buf_addf(out, " (%u)", g->config->sessions);
        comma = ", ";
    }
}

void
mg_generations_json(const struct mg_worker_process *w, struct mg_buf *out)
{
    const char *comma = "";
    mg_buf_adds(out, "[");
    for (const struct mg_generation *g = w->generations; g != NULL; g = g->next) {
        if (g->state >= MG_GENERATION_UNUSED)
            continue;
        mg_buf_addf(out, "%s{\"id\":%llu,\"state\":\"%s\",\"connections\":%u}", comma,
                    (unsigned long long)g->number, state_name(g),
                    g->state >= MG_GENERATION_CURRENT ? g->config->sessions : 0);
        comma = ",";
    }
    mg_buf_adds(out, "]");
}
