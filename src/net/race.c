/*
 * Which of a host's addresses answers first?
 *
 * The happy path is: an attempt to the first address; it connects, its descriptor goes to the owner, the race
 * is over. Possible failure modes are: an attempt fails (the owner is asked for the next address at once), it does
 * not answer (he is asked after MG_RACE_DELAY_MS, and that one is tried beside it; after timeout_ms it has
 * failed), all have failed and the owner has no other, the owner cancels, there is no descriptor (tried again
 * every SHORT_MS, for timeout_ms).
 *
 * The race is its own: it frees itself when the handles of its attempts have closed, which may be after its
 * owner has gone.
 */
#include "net/internal.h"

#include <string.h>
#include <unistd.h>

#define SHORT_MS 100

struct attempt {
    struct mg_stream stream;
    struct mg_addr addr;
    uint64_t started_at; /* loop time */
    bool running;
};

struct mg_race {
    struct mg_net *net;
    const struct mg_race_ops *ops;
    void *data;
    struct mg_source source;
    uv_timer_t timer;
    uint64_t timeout_ms, next_at; /* when the next attempt may begin; loop time */
    uint64_t short_since;         /* there has been no descriptor since then; 0 = there is */
    size_t next, running;         /* attempts: begun; of them, not failed */
    unsigned live;                /* handles not yet closed */
    bool again; /* the last one has yet to begin, or anew: there was no descriptor */
    bool last;  /* the owner has no other address */
    bool over;
    struct attempt *attempts[MG_RESOLVE_MAX]; /* owned */
};

static void
race_release(struct mg_race *race)
{
    struct mg_net *net = race->net;

    if (--race->live > 0)
        return;
    for (size_t i = 0; i < MG_RESOLVE_MAX && race->attempts[i] != NULL; i++)
        mg_free(race->attempts[i]);
    mg_free(race);
    mg_net_release(net);
}

static void
on_timer_close(uv_handle_t *handle)
{
    race_release(handle->data);
}

static void timer_set(struct mg_race *race);

/* It may be the one that begins anew. */
static void
on_stream_close(struct mg_stream *stream)
{
    struct mg_race *race = stream->data;

    if (!race->over)
        timer_set(race);
    race_release(race);
}

/* No callback comes any more. */
static void
race_end(struct mg_race *race)
{
    race->over = true;
    for (size_t i = 0; i < race->next; i++)
        mg_stream_close(&race->attempts[i]->stream, false);
    uv_close((uv_handle_t *)&race->timer, on_timer_close);
}

static void
race_won(struct mg_race *race, size_t index)
{
    uint64_t started_at = race->attempts[index]->started_at;
    int fd = mg_stream_take_fd(&race->attempts[index]->stream);

    race_end(race);
    race->ops->on_over(race->data, index, fd, started_at);
}

static void
race_lost(struct mg_race *race)
{
    race_end(race);
    race->ops->on_over(race->data, 0, -1, 0);
}

/* true: it is over, because that may be what the owner does about it. */
static bool
attempt_failed(struct mg_race *race, size_t index, int error)
{
    struct attempt *a = race->attempts[index];

    if (a->running)
        race->running--;
    a->running = false;
    mg_stream_close(&a->stream, false);
    race->next_at = 0;
    race->ops->on_failed(race->data, index, error);
    return race->over;
}

/* ---- the next one ---------------------------------------------------------------------------- */

static void on_connect(struct mg_stream *stream, int status);

static const struct mg_stream_ops attempt_ops = {
    .on_connect = on_connect,
    .on_close = on_stream_close,
};

static bool
waits_for_descriptor(struct mg_race *race, uint64_t now)
{
    if (race->short_since == 0)
        race->short_since = now;
    return race->timeout_ms == 0 || now - race->short_since < race->timeout_ms;
}

/* false: there is none. The owner is not asked for what there is no memory for. */
static bool
attempt_make(struct mg_race *race)
{
    struct attempt *a =
        race->next < MG_RESOLVE_MAX ? mg_calloc(1, sizeof(*race->attempts[0])) : NULL;

    if (a == NULL || !race->ops->next(race->data, &a->addr)) {
        mg_free(a);
        race->last = true;
        return false;
    }
    race->attempts[race->next++] = a;
    return true;
}

/* The last one's. true: the race is over. */
static bool
attempt_start(struct mg_race *race)
{
    size_t index = race->next - 1;
    struct attempt *a = race->attempts[index];
    uint64_t now = uv_now(race->net->loop);
    int rc = mg_stream_connect(&a->stream, race->net, &a->addr, &race->source, &attempt_ops, race);

    race->live++;
    if (mg_net_is_short(rc) && waits_for_descriptor(race, now)) {
        mg_net_shortage(race->net, rc);
        /* The stream closes first: it begins anew after SHORT_MS. */
        mg_stream_close(&a->stream, false);
        race->next_at = now + SHORT_MS;
        race->again = true;
        return false;
    }
    race->again = false;
    race->short_since = 0;
    race->next_at = now + MG_RACE_DELAY_MS;
    a->started_at = now;
    if (rc < 0)
        return attempt_failed(race, index, rc);
    a->running = true;
    race->running++;
    if (race->ops->on_port != NULL)
        race->ops->on_port(race->data);
    if (rc == 0)
        return false;
    race_won(race, index);
    return true;
}

static void on_timer(uv_timer_t *timer);

/* Whether the one that had no descriptor still closes. */
static bool
again_waits(const struct mg_race *race)
{
    return race->again && race->attempts[race->next - 1]->stream.open;
}

static void
timer_set(struct mg_race *race)
{
    uint64_t now = uv_now(race->net->loop), due = UINT64_MAX;

    if ((race->again || !race->last) && !again_waits(race))
        due = race->next_at;
    for (size_t i = 0; i < race->next && race->timeout_ms > 0; i++) {
        const struct attempt *a = race->attempts[i];

        if (a->running && a->started_at + race->timeout_ms < due)
            due = a->started_at + race->timeout_ms;
    }
    if (due != UINT64_MAX)
        uv_timer_start(&race->timer, on_timer, due > now ? due - now : 0, 0);
    else
        uv_timer_stop(&race->timer);
}

/* Begins what is due. */
static void
race_go(struct mg_race *race)
{
    uint64_t now = uv_now(race->net->loop);

    while ((race->again || !race->last) && race->next_at <= now && !again_waits(race))
        if ((race->again || attempt_make(race)) && attempt_start(race))
            return;
    if (race->last && !race->again && race->running == 0)
        race_lost(race);
    else
        timer_set(race);
}

static void
on_timer(uv_timer_t *timer)
{
    struct mg_race *race = timer->data;
    uint64_t now = uv_now(race->net->loop);

    for (size_t i = 0; i < race->next && race->timeout_ms > 0; i++) {
        const struct attempt *a = race->attempts[i];

        if (a->running && now - a->started_at >= race->timeout_ms &&
            attempt_failed(race, i, UV_ETIMEDOUT))
            return;
    }
    race_go(race);
}

static void
on_connect(struct mg_stream *stream, int status)
{
    struct mg_race *race = stream->data;
    size_t index = 0;

    while (&race->attempts[index]->stream != stream)
        index++;
    if (status == 0)
        race_won(race, index);
    else if (!attempt_failed(race, index, status))
        race_go(race);
}

/* ---- life ------------------------------------------------------------------------------------ */

struct mg_race *
mg_race_start(struct mg_net *net, const struct mg_addr *first, const struct mg_source *source,
              unsigned timeout_ms, const struct mg_race_ops *ops, void *data)
{
    struct mg_race *race = mg_calloc(1, sizeof(*race));
    struct attempt *a = race != NULL ? mg_calloc(1, sizeof(*a)) : NULL;

    if (a == NULL) {
        mg_free(race);
        return NULL;
    }
    race->net = net;
    race->ops = ops;
    race->data = data;
    a->addr = *first;
    race->attempts[race->next++] = a;
    race->again = true;
    race->timeout_ms = timeout_ms;
    if (source != NULL)
        race->source = *source;
    uv_timer_init(net->loop, &race->timer);
    race->timer.data = race;
    race->live = 1;
    mg_net_hold(net);
    uv_timer_start(&race->timer, on_timer, 0, 0);
    return race;
}

void
mg_race_cancel(struct mg_race *race)
{
    if (race != NULL && !race->over)
        race_end(race);
}
