/*
 * The engine of one worker: the big units that all sessions borrow, the queue of handshakes, the
 * counts.
 *
 * Handshakes cost two hundred times what a relayed request does. So the bytes of a handshake only
 * put its peer into a queue, and one of the queue is taken per loop turn, at its end, after the
 * established connections have read and written; a few of them where nobody established has
 * spoken of late, since each turn asks the kernel. While the queue is not empty the loop does not
 * sleep. From a certain length on the queue is worked off by a thread (offload.c).
 */
#include "proxy/internal.h"

#include <openssl/rand.h>
#include <string.h>

#define OTHERS_MS   100 /* since they were last heard */
#define STEPS_ALONE 4   /* of handshakes in one turn, where nobody else talks */

static bool on_turn(struct mg_net *net);

/* ---- life ------------------------------------------------------------------------------------ */

static void
memory_free(struct mg_engine *engine)
{
    mg_free(engine->plain);
    mg_free(engine->out);
    mg_reuse_free(engine->reuse);
    mg_offload_free(engine->offload);
    mg_free(engine);
}

struct mg_engine *
mg_engine_new(const struct mg_engine_options *options, struct mg_err *err)
{
    struct mg_engine *engine = mg_calloc(1, sizeof(*engine));

    if (engine == NULL) {
        mg_err_setx(err, "engine: out of memory");
        return NULL;
    }
    engine->options = *options;
    engine->plain = mg_malloc(MG_NET_UNIT);
    engine->out = mg_malloc(MG_OUT_UNIT);
    engine->reuse = mg_reuse_new();
    engine->offload = mg_offload_new(engine);
    if (engine->plain == NULL || engine->out == NULL || engine->reuse == NULL ||
        engine->offload == NULL) {
        mg_err_setx(err, "engine: out of memory");
        memory_free(engine);
        return NULL;
    }
    if (mg_net_init(&engine->net, options->loop, err) != 0) {
        memory_free(engine);
        return NULL;
    }
    engine->net.on_turn = on_turn;
    engine->net.on_deadline = mg_session_on_deadline;
    engine->net.on_short = mg_limits_spare;
    engine->metrics = mg_metrics_begin(options->shared, options->worker);
    mg_link_init(&engine->sessions);
    mg_link_init(&engine->frontends);
    mg_link_init(&engine->handshakes);
    mg_limits_init(engine);
    mg_link_init(&engine->probes);
    uv_timer_init(options->loop, &engine->full_timer);
    uv_timer_init(options->loop, &engine->down_timer);
    uv_timer_init(options->loop, &engine->told_timer);
    engine->full_timer.data = engine->down_timer.data = engine->told_timer.data = engine;
    mg_givens_init(engine);
    engine->handles = 4;
    engine->random = mg_now_ns() | 1;
    if (RAND_bytes((unsigned char *)&engine->instance, sizeof(engine->instance)) != 1)
        engine->instance = engine->random;
    return engine;
}

static void
on_net_close(struct mg_net *net)
{
    struct mg_engine *engine = MG_CONTAINER_OF(net, struct mg_engine, net);
    void (*closed)(void *) = engine->on_closed;
    void *data = engine->on_closed_data;

    memory_free(engine);
    if (closed != NULL)
        closed(data);
}

void
mg_engine_release(struct mg_engine *engine)
{
    if (engine->closing && engine->handles == 0 && engine->session_count == 0 &&
        mg_link_empty(&engine->frontends) && !engine->net.closing)
        mg_net_close(&engine->net, on_net_close);
}

static void
on_handle_close(uv_handle_t *handle)
{
    struct mg_engine *engine = handle->data;

    engine->handles--;
    mg_engine_release(engine);
}

void
mg_engine_close(struct mg_engine *engine, void (*closed)(void *data), void *data)
{
    engine->closing = true;
    engine->on_closed = closed;
    engine->on_closed_data = data;
    mg_frontends_stop(engine);
    mg_engine_stop_probes(engine);
    engine->handles += mg_offload_close(engine->offload, on_handle_close);
    uv_close((uv_handle_t *)&engine->full_timer, on_handle_close);
    uv_close((uv_handle_t *)&engine->down_timer, on_handle_close);
    uv_close((uv_handle_t *)&engine->told_timer, on_handle_close);
    uv_close((uv_handle_t *)&engine->givens.timer, on_handle_close);
    mg_told_close(engine);
}

void
mg_engine_use(struct mg_engine *engine, const struct mg_config *config)
{
    mg_engine_stop_probes(engine);
    mg_metrics_serve(engine->options.shared, engine->options.worker,
                     engine->config != NULL ? engine->config->generation : 0);
    engine->config = config;
    mg_probes_start(engine);
    mg_reuse_keep(engine->reuse, config);
}

void
mg_engine_leave(struct mg_engine *engine)
{
    mg_engine_stop_probes(engine);
    mg_metrics_leave(engine->metrics);
}

void
mg_engine_run(struct mg_engine *engine)
{
    mg_net_run(&engine->net);
}

/* ---- the queue of handshakes ----------------------------------------------------------------- */

bool
mg_engine_others_talk(const struct mg_engine *engine)
{
    return engine->heard_at != 0 && uv_now(engine->options.loop) - engine->heard_at < OTHERS_MS;
}

static bool
on_turn(struct mg_net *net)
{
    struct mg_engine *engine = MG_CONTAINER_OF(net, struct mg_engine, net);
    int steps = mg_engine_others_talk(engine) ? 1 : STEPS_ALONE;

    while (steps-- > 0 && !mg_link_empty(&engine->handshakes)) {
        struct mg_link *first = engine->handshakes.next;

        mg_link_remove(first);
        mg_handshake_step(MG_CONTAINER_OF(first, struct mg_peer, handshake_link));
    }
    return mg_offload_turn(engine) || !mg_link_empty(&engine->handshakes);
}

void
mg_handshake_enqueue(struct mg_peer *peer)
{
    struct mg_engine *engine = peer->session->engine;

    if (!mg_link_empty(&peer->handshake_link) || engine->closing)
        return;
    mg_link_append(&engine->handshakes, &peer->handshake_link);
    if (!mg_peer_is_down(peer))
        mg_dial_queued(peer->session);
}

/* ---- sessions -------------------------------------------------------------------------------- */

void
mg_engine_close_sessions(struct mg_engine *engine, const struct mg_config *config,
                         const char *reason)
{
    struct mg_link *link = engine->sessions.next;

    while (link != &engine->sessions) {
        struct mg_session *s = MG_CONTAINER_OF(link, struct mg_session, link);

        link = link->next; /* closing leaves the list alone; freeing comes from the loop */
        if (config == NULL || s->config == config)
            mg_session_close(s, reason, NULL);
    }
}

size_t
mg_engine_sessions(const struct mg_engine *engine)
{
    return engine->session_count;
}

uint64_t
mg_engine_accepted(const struct mg_engine *engine)
{
    return engine->accepted;
}

void
mg_engine_on_idle(struct mg_engine *engine, void (*idle)(void *data), void *data)
{
    engine->on_idle = idle;
    engine->on_idle_data = data;
}

void
mg_engine_set_access_fd(struct mg_engine *engine, int fd)
{
    engine->options.access_fd = fd;
}
