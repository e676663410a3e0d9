/*
 * Limits that bite, told in the log: once when it begins, once when it is over, with how many were turned away or
 * had to wait.
 *
 * The happy path is: somebody is turned away – the first of all workers to see it says so, and looks from time to
 * time; when nobody has been for QUIET_MS it says that it is over. Within EVERY_MS of the first line there is no
 * other pair for that limit of that listener, or backend: who is turned away meanwhile is counted, and told of
 * with the next one. So a flood makes two lines a minute.
 *
 * Possible failure modes are: the worker that has begun dies or leaves – nobody says that it is over, and another
 * one begins anew, if it goes on; there is no memory – nothing is said.
 */
#include "proxy/internal.h"

#include <stdio.h>
#include <string.h>

/* A client that is accepted so long after somebody was seen to wait had waited. */
#define WAITED_MS 200
#define QUIET_MS  2000
#define EVERY_MS  60000
#define LOOK_MS   250

#define WHAT_CAP 320

struct told {
    struct told *next;
    struct mg_shared_told *shared;
    uint64_t since;
    enum mg_limit limit;
    char what[WHAT_CAP]; /* "listener web: max_connections (100)" */
};

/* ---- words ----------------------------------------------------------------------------------- */

static double
per_second(const struct mg_rate *rate)
{
    return rate->interval_ns > 0 ? 1e9 / (double)rate->interval_ns : 0;
}

static void
listener_describe(const struct mg_engine *engine, const struct mg_listener *l, enum mg_limit limit,
                  char out[WHAT_CAP])
{
    size_t len = (size_t)snprintf(out, WHAT_CAP, "listener %.200s: ", l->name);
    char *rest = out + len;

    switch (limit) {
    case MG_LIMIT_CONNECTIONS:
        snprintf(rest, WHAT_CAP - len, "max_connections (%lld)", (long long)l->max_connections);
        break;
    case MG_LIMIT_PER_IP:
        snprintf(rest, WHAT_CAP - len, "max_connections_per_ip (%lld)",
                 (long long)l->max_connections_per_ip);
        break;
    case MG_LIMIT_RATE:
        snprintf(rest, WHAT_CAP - len, "handshake_rate (%g per second)", per_second(&l->rate));
        break;
    case MG_LIMIT_RATE_PER_IP:
        snprintf(rest, WHAT_CAP - len, "handshake_rate (%g per second of one address)",
                 per_second(&l->rate_per_ip));
        break;
    default:
        snprintf(rest, WHAT_CAP - len, "unfinished handshakes (%u in each worker)",
                 engine->unfinished_max);
        break;
    }
}

static const char *
consequence(enum mg_limit limit)
{
    switch (limit) {
    case MG_LIMIT_CONNECTIONS:
        return "further clients wait";
    case MG_LIMIT_PER_IP:
        return "further connections of an address that has so many are closed";
    case MG_LIMIT_RATE:
    case MG_LIMIT_RATE_PER_IP:
        return "further full handshakes are refused";
    case MG_LIMIT_UNFINISHED:
        return "the oldest gives way, or further clients wait";
    default:
        return "further connections are closed";
    }
}

/* ---- telling --------------------------------------------------------------------------------- */

static void
over_tell(const struct told *told, uint64_t now)
{
    uint64_t count = atomic_exchange(&told->shared->count, 0);

    mg_log(MG_LOG_INFO, "%s: no longer reached: %llu %s within %.0f s", told->what,
           (unsigned long long)count,
           told->limit == MG_LIMIT_CONNECTIONS ? "had to wait" : "were turned away",
           (double)(now - told->since) / 1000);
}

static void
on_look(uv_timer_t *timer)
{
    struct mg_engine *engine = timer->data;
    struct told **at = &engine->told;
    uint64_t now = mg_now_ms();

    while (*at != NULL) {
        struct told *told = *at;

        if (now < atomic_load(&told->shared->hit_at) + QUIET_MS) {
            at = &told->next;
            continue;
        }
        *at = told->next;
        over_tell(told, now);
        atomic_store(&told->shared->teller, 0);
        mg_free(told);
    }
    if (engine->told == NULL)
        uv_timer_stop(timer);
}

/* Whether it is on us to say that it has begun. */
static bool
is_ours(const struct mg_engine *engine, struct mg_shared_told *shared, unsigned count, uint64_t now)
{
    uint32_t nobody = 0;

    atomic_store(&shared->hit_at, now);
    atomic_fetch_add(&shared->count, count);
    if (atomic_load(&shared->teller) != 0 || now < atomic_load(&shared->next_at) ||
        !atomic_compare_exchange_strong(&shared->teller, &nobody, engine->options.worker + 1))
        return false;
    atomic_store(&shared->next_at, now + EVERY_MS);
    return true;
}

/* An empty one, or NULL: nothing is to be said. */
static struct told *
told_begin(struct mg_engine *engine, struct mg_shared_told *shared, unsigned count)
{
    uint64_t now = mg_now_ms();
    struct told *told;

    if (engine->closing || !is_ours(engine, shared, count, now))
        return NULL;
    told = mg_calloc(1, sizeof(*told));
    if (told == NULL) {
        atomic_store(&shared->teller, 0);
        return NULL;
    }
    told->shared = shared;
    told->since = now;
    told->next = engine->told;
    engine->told = told;
    if (!uv_is_active((uv_handle_t *)&engine->told_timer))
        uv_timer_start(&engine->told_timer, on_look, LOOK_MS, LOOK_MS);
    return told;
}

void
mg_told_close(struct mg_engine *engine)
{
    while (engine->told != NULL) {
        struct told *told = engine->told;

        engine->told = told->next;
        atomic_store(&told->shared->teller, 0);
        mg_free(told);
    }
}

/* ---- what bites ------------------------------------------------------------------------------ */

enum mg_limit
mg_limit_of_reason(const char *reason)
{
    static const struct {
        const char *reason;
        enum mg_limit limit;
    } rows[] = {
        {"down: too many connections of this address", MG_LIMIT_PER_IP},
        {"down: handshake rate", MG_LIMIT_RATE},
        {"down: handshake rate of this address", MG_LIMIT_RATE_PER_IP},
        {"down: too many unfinished handshakes", MG_LIMIT_UNFINISHED},
        {"up: all addresses full", MG_LIMIT_BACKEND},
    };

    for (size_t i = 0; i < MG_ARRAY_LEN(rows); i++)
        if (strcmp(rows[i].reason, reason) == 0)
            return rows[i].limit;
    return MG_LIMIT_NONE;
}

static void
listener_bites(struct mg_engine *engine, const struct mg_listener *l, enum mg_limit limit,
               bool waits, const struct mg_addr *client)
{
    struct told *told = told_begin(engine, &l->shared->told[limit], waits ? 0 : 1);
    char ip[MG_ADDR_TEXT] = "";

    if (told == NULL)
        return;
    told->limit = limit;
    listener_describe(engine, l, limit, told->what);
    if (client != NULL)
        mg_addr_ip(client, ip);
    mg_log(MG_LOG_WARN, "%s: reached%s%s: %s", told->what, ip[0] != '\0' ? ", by " : "", ip,
           consequence(limit));
}

static void
backend_bites(struct mg_engine *engine, const struct mg_backend *backend)
{
    struct mg_shared_address *shared =
        backend->address_count > 0 ? backend->addresses[0]->shared : NULL;
    struct told *told = shared != NULL ? told_begin(engine, &shared->told, 1) : NULL;

    if (told == NULL)
        return;
    told->limit = MG_LIMIT_BACKEND;
    snprintf(told->what, sizeof(told->what),
             "backend %.200s: max_connections (%lld each) of all addresses", backend->name,
             (long long)backend->max_connections);
    mg_log(MG_LOG_WARN, "%s: reached: %s", told->what, consequence(MG_LIMIT_BACKEND));
}

void
mg_told_closed(const struct mg_session *s, enum mg_limit limit)
{
    bool of_one = limit == MG_LIMIT_PER_IP || limit == MG_LIMIT_RATE_PER_IP;

    if (limit == MG_LIMIT_BACKEND && s->backend != NULL)
        backend_bites(s->engine, s->backend);
    else if (limit < MG_LIMIT_BACKEND)
        listener_bites(s->engine, s->listener, limit, false, of_one ? s->remote : NULL);
}

void
mg_told_waits(struct mg_engine *engine, const struct mg_listener *listener, enum mg_limit limit)
{
    listener_bites(engine, listener, limit, true, NULL);
}

void
mg_told_accepted(const struct mg_listener *listener)
{
    struct mg_shared_told *shared = &listener->shared->told[MG_LIMIT_CONNECTIONS];
    uint64_t hit_at = atomic_load(&shared->hit_at);

    if (hit_at != 0 && mg_now_ms() < hit_at + WAITED_MS)
        atomic_fetch_add(&shared->count, 1);
}
