/*
 * Limits that bite, and a backend without local ports to connect from, told in the log: once when it begins, once
 * when it is over, with how many were turned away or had to wait.
 *
 * The happy path is: somebody is turned away – the first of all workers to see it says so, and looks from time to
 * time; when nobody has been for QUIET_MS it says that it is over. Within EVERY_MS of the first line there is no
 * other pair for that limit of that listener, or backend: who is turned away meanwhile is counted, and told of
 * with the next one, which says since when it counts. So a flood makes two lines a minute.
 *
 * Possible failure modes are: the worker that has begun dies or leaves – then the first of the others, or its
 * successor, to see that goes on for it, at the heartbeat or when somebody is turned away; the name in question is
 * none of the config in use any more, or there is no memory – nothing is said.
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
listener_describe(const struct mg_engine *engine, const struct mg_listener *l, struct told *told)
{
    size_t len = (size_t)snprintf(told->what, WHAT_CAP, "listener %.200s: ", l->name);
    char *rest = told->what + len;

    switch (told->limit) {
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

static void
backend_describe(const struct mg_backend *backend, struct told *told)
{
    size_t len = (size_t)snprintf(told->what, WHAT_CAP, "backend %.200s", backend->name);

    if (told->limit == MG_LIMIT_BACKEND)
        snprintf(told->what + len, WHAT_CAP - len, ": max_connections (%lld each) of all addresses",
                 (long long)backend->max_connections);
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
        return "the oldest that waits for its client is closed for each that comes, or further "
               "clients wait";
    default:
        return "further connections are closed";
    }
}

/* ---- telling --------------------------------------------------------------------------------- */

static const char *
fate(enum mg_limit limit)
{
    switch (limit) {
    case MG_LIMIT_CONNECTIONS:
    case MG_LIMIT_PORTS:
        return "had to wait";
    case MG_LIMIT_UNFINISHED:
        return "gave way and were closed";
    default:
        return "were turned away";
    }
}

static void
over_tell(const struct told *told, uint64_t now)
{
    uint64_t since = atomic_exchange(&told->shared->since, 0);
    uint64_t count = atomic_exchange(&told->shared->count, 0);

    mg_log(MG_LOG_INFO, "%s: %s: %llu %s within %.0f s", told->what,
           told->limit == MG_LIMIT_PORTS ? "there are local ports again" : "no longer reached",
           (unsigned long long)count, fate(told->limit),
           since != 0 && since < now ? (double)(now - since) / 1000 : 0.0);
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

/* NULL: no memory. */
static struct told *
told_add(struct mg_engine *engine, struct mg_shared_told *shared, enum mg_limit limit)
{
    struct told *told = mg_calloc(1, sizeof(*told));

    if (told == NULL)
        return NULL;
    told->shared = shared;
    told->limit = limit;
    told->next = engine->told;
    engine->told = told;
    if (!uv_is_active((uv_handle_t *)&engine->told_timer))
        uv_timer_start(&engine->told_timer, on_look, LOOK_MS, LOOK_MS);
    return told;
}

static void
since_set(struct mg_shared_told *shared, uint64_t now)
{
    uint64_t never = 0;

    atomic_compare_exchange_strong(&shared->since, &never, now);
}

/* Whether it is on us to say that it has begun. */
static bool
is_ours(const struct mg_engine *engine, struct mg_shared_told *shared, unsigned count, uint64_t now)
{
    uint32_t nobody = 0;

    since_set(shared, now);
    atomic_store(&shared->hit_at, now);
    atomic_fetch_add(&shared->count, count);
    if (atomic_load(&shared->teller) != 0 || now < atomic_load(&shared->next_at) ||
        !atomic_compare_exchange_strong(&shared->teller, &nobody, engine->options.worker + 1))
        return false;
    atomic_store(&shared->next_at, now + EVERY_MS);
    return true;
}

/* It has begun; we say when it is over. NULL: there is nothing to take over, or no memory. */
static struct told *
told_take_over(struct mg_engine *engine, struct mg_shared_told *shared, enum mg_limit limit)
{
    uint32_t gone = MG_TELLER_GONE;
    struct told *told;

    if (atomic_load(&shared->teller) != gone ||
        !atomic_compare_exchange_strong(&shared->teller, &gone, engine->options.worker + 1))
        return NULL;
    told = told_add(engine, shared, limit);
    if (told == NULL)
        atomic_store(&shared->teller, 0);
    return told;
}

/* One whose `what` is empty, or NULL: we have nothing to do with it. *begins: it is to be said that it has begun. */
static struct told *
told_begin(struct mg_engine *engine, struct mg_shared_told *shared, enum mg_limit limit,
           unsigned count, bool *begins)
{
    struct told *told;

    if (engine->closing)
        return NULL;
    *begins = is_ours(engine, shared, count, mg_now_ms());
    if (!*begins)
        return told_take_over(engine, shared, limit);
    told = told_add(engine, shared, limit);
    if (told == NULL)
        atomic_store(&shared->teller, 0);
    return told;
}

/* ---- one teller after another ------------------------------------------------------------------ */

void
mg_told_close(struct mg_engine *engine)
{
    while (engine->told != NULL) {
        struct told *told = engine->told;

        engine->told = told->next;
        mg_shared_untell(engine->options.shared, told->shared, engine->options.worker);
        mg_free(told);
    }
}

static struct mg_shared_address *
shared_of(const struct mg_backend *backend)
{
    return backend->address_count > 0 ? backend->addresses[0]->shared : NULL;
}

static void
listener_take_over(struct mg_engine *engine, const struct mg_listener *l)
{
    for (int limit = 0; limit < MG_SHARED_LIMITS; limit++) {
        struct told *told = told_take_over(engine, &l->shared->told[limit], (enum mg_limit)limit);

        if (told != NULL)
            listener_describe(engine, l, told);
    }
}

static void
backend_take_over(struct mg_engine *engine, const struct mg_backend *backend)
{
    struct mg_shared_address *shared = shared_of(backend);
    struct told *full, *portless;

    if (shared == NULL)
        return;
    full = told_take_over(engine, &shared->told, MG_LIMIT_BACKEND);
    if (full != NULL)
        backend_describe(backend, full);
    portless = told_take_over(engine, &shared->told_ports, MG_LIMIT_PORTS);
    if (portless != NULL)
        backend_describe(backend, portless);
}

void
mg_told_look(struct mg_engine *engine)
{
    uint32_t gone = atomic_load(&engine->options.shared->tellers_gone);
    const struct mg_config *config = engine->config;

    if (config == NULL || engine->closing || gone == engine->tellers_gone)
        return;
    engine->tellers_gone = gone;
    for (size_t i = 0; i < config->listener_count; i++)
        listener_take_over(engine, &config->listeners[i]);
    for (size_t i = 0; i < config->backend_count; i++)
        backend_take_over(engine, config->backends[i]);
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
    bool begins;
    struct told *told = told_begin(engine, &l->shared->told[limit], limit, waits ? 0 : 1, &begins);
    char ip[MG_ADDR_TEXT] = "";

    if (told == NULL)
        return;
    listener_describe(engine, l, told);
    if (!begins)
        return;
    if (client != NULL)
        mg_addr_ip(client, ip);
    mg_log(MG_LOG_WARN, "%s: reached%s%s: %s", told->what, ip[0] != '\0' ? ", by " : "", ip,
           consequence(limit));
}

static void
backend_bites(struct mg_engine *engine, const struct mg_backend *backend)
{
    struct mg_shared_address *shared = shared_of(backend);
    bool begins;
    struct told *told =
        shared != NULL ? told_begin(engine, &shared->told, MG_LIMIT_BACKEND, 1, &begins) : NULL;

    if (told == NULL)
        return;
    backend_describe(backend, told);
    if (!begins)
        return;
    mg_log(MG_LOG_WARN, "%s: reached: %s", told->what, consequence(MG_LIMIT_BACKEND));
}

void
mg_told_portless(const struct mg_session *s, const struct mg_addr *source, bool pauses, bool first)
{
    struct mg_engine *engine = s->engine;
    struct mg_shared_address *shared = shared_of(s->backend);
    bool begins;
    struct told *told = told_begin(engine, shared != NULL ? &shared->told_ports : &engine->told_own,
                                   MG_LIMIT_PORTS, first ? 1 : 0, &begins);
    const struct mg_backend *backend = s->backend;
    char from[MG_ADDR_TEXT] = "";

    if (told == NULL)
        return;
    backend_describe(backend, told);
    if (!begins)
        return;
    if (source->len > 0)
        mg_addr_ip(source, from);
    mg_log(
        MG_LOG_WARN,
        "%s: no local port left to connect to %s%s%s%s: %s%.200s%s; more addresses of the backend, "
        "another source, a wider net.ipv4.ip_local_port_range or shorter connections would help",
        told->what, backend->address_count > 0 ? backend->addresses[0]->text : "it",
        backend->address_count > 1 ? " or another one" : "", from[0] != '\0' ? " from " : "", from,
        pauses ? "listener " : "", pauses ? s->listener->name : "who wants it waits",
        pauses ? ": accepting pauses, those who are connected go on" : "");
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
    uint64_t hit_at = atomic_load(&shared->hit_at), now = mg_now_ms();

    if (hit_at == 0 || now >= hit_at + WAITED_MS)
        return;
    since_set(shared, hit_at);
    atomic_fetch_add(&shared->count, 1);
}
