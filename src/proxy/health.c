/*
 * Which addresses of backends serve; of a name each record is one (entries.c).
 *
 * The happy path is: connections succeed, and nothing here is touched. Possible failure modes are: `fall`
 * connections in a row fail – the address rests; when its rest is over one connection tries it, which ends
 * the rest or begins a longer one. Probes (probe.c) miss `fall` times – it is down until `rise` in a row have
 * passed; they end a rest, too. An address that rests is used when nothing else is left, one that is
 * down is not.
 *
 * All of it is in the memory that the workers share, so that they agree. Who makes a change is who logs it.
 * Workers see by a count that something went down, and close its connections where the backend says so: each
 * those that had begun before.
 */
#include "proxy/internal.h"

#include <stdio.h>
#include <string.h>

#define DOWN_LOOK_MS 100 /* how often workers look whether something went down */

/* ---- asking ---------------------------------------------------------------------------------- */

enum mg_fitness
mg_health_fitness(const struct mg_backend_address *address)
{
    const struct mg_backend *backend = address->entry->backend;
    const struct mg_shared_address *shared = address->shared;
    uint64_t until;

    if (shared == NULL)
        return MG_FIT_READY;
    /* What an earlier generation has known does not count where nobody would find out that it is over. */
    if (backend->health.probes && atomic_load(&shared->down) != 0)
        return MG_FIT_DOWN;
    until = atomic_load(&shared->rest_until);
    if (until == 0 || backend->health.fall == 0)
        return MG_FIT_READY;
    return until > mg_now_ms() ? MG_FIT_RESTS : MG_FIT_TRIAL;
}

bool
mg_health_try(const struct mg_backend_address *address)
{
    const struct mg_backend *backend = address->entry->backend;
    uint64_t until = atomic_load(&address->shared->rest_until), now = mg_now_ms();

    return until != 0 && until <= now &&
           atomic_compare_exchange_strong(&address->shared->rest_until, &until,
                                          now + backend->connect_timeout_ms + 1);
}

/* ---- connections ----------------------------------------------------------------------------- */

static void
ready_log(const struct mg_backend_address *address, const char *why)
{
    mg_log(MG_LOG_INFO, "backend %s: %s is ready again: %s", address->entry->backend->name,
           address->text, why);
}

/* What begins from here on is not closed for it. */
static void
down_count(const struct mg_backend *backend, struct mg_shared_address *shared)
{
    struct mg_engine *engine = backend->engine;

    atomic_store(&shared->since, mg_now_ms());
    atomic_fetch_add(&shared->downs, 1);
    atomic_fetch_add(&engine->options.shared->downs, 1);
}

bool
mg_health_blames(const struct mg_session *s, const char *reason)
{
    static const char *const of_connect[] = {
        "up: connection refused",
        "up: reset while connecting",
        "up: connect timeout",
        "up: unreachable",
    };
    static const char *const of_tls[] = {
        "up: closed during the handshake",
        "up: reset during the handshake",
        "up: handshake failed",
        "up: handshake refused by the server",
        "up: certificate not accepted",
        "up: plain HTTP instead of TLS",
        "up: not TLS",
    };
    /* A name, a certificate, a PROXY header or an address that came with the client may be why the server
     * refuses: whoever brings bad ones must not send an address to rest for all others. */
    if (s->backend->source.transparent)
        return false;
    for (size_t i = 0; i < MG_ARRAY_LEN(of_connect); i++)
        if (strcmp(reason, of_connect[i]) == 0)
            return true;
    for (size_t i = 0; !s->backend->tls_varies && i < MG_ARRAY_LEN(of_tls); i++)
        if (strcmp(reason, of_tls[i]) == 0)
            return true;
    return false;
}

void
mg_health_served(struct mg_backend_address *address)
{
    struct mg_shared_address *shared = address->shared;

    if (shared == NULL || (atomic_load(&shared->failures) == 0 && atomic_load(&shared->rests) == 0))
        return;
    atomic_store(&shared->failures, 0);
    atomic_store(&shared->rests, 0);
    if (atomic_exchange(&shared->rest_until, 0) != 0)
        ready_log(address, "a connection succeeded");
}

static unsigned
rest_ms(const struct mg_health *health, uint32_t rests)
{
    unsigned times = rests < 31 && 1u << rests < MG_RESTS_MAX ? 1u << rests : MG_RESTS_MAX;

    return health->rest_ms < UINT32_MAX / times ? health->rest_ms * times : UINT32_MAX;
}

static void
rest(const struct mg_backend_address *address, uint64_t until, uint64_t now, const char *reason)
{
    const struct mg_backend *backend = address->entry->backend;
    struct mg_shared_address *shared = address->shared;
    unsigned ms = rest_ms(&backend->health, atomic_load(&shared->rests));

    if (!atomic_compare_exchange_strong(&shared->rest_until, &until, now + ms))
        return; /* another worker was faster */
    atomic_fetch_add(&shared->rests, 1);
    atomic_store(&shared->passed, 0);
    mg_shared_address_blame(shared, reason);
    if (until != 0) {
        mg_log(MG_LOG_DEBUG, "backend %s: %s rests for another %g s: %s", backend->name,
               address->text, ms / 1000.0, reason);
        return;
    }
    mg_log(MG_LOG_WARN, "backend %s: %s rests for %g s: %u failure%s: %s", backend->name,
           address->text, ms / 1000.0, backend->health.fall,
           backend->health.fall == 1 ? "" : "s in a row, the last", reason);
    down_count(backend, shared);
}

/* While it rests only the one connection counts that was to try it. */
void
mg_health_failed(struct mg_backend_address *address, bool trial, const char *reason)
{
    struct mg_shared_address *shared = address->shared;
    unsigned fall = address->entry->backend->health.fall;
    uint64_t until, now;
    uint32_t failures;

    address->failed++;
    if (shared == NULL || fall == 0)
        return;
    failures = atomic_fetch_add(&shared->failures, 1) + 1;
    until = atomic_load(&shared->rest_until);
    now = mg_now_ms();
    if (until == 0 ? failures >= fall : until <= now || trial)
        rest(address, until, now, reason);
}

/* ---- probes ---------------------------------------------------------------------------------- */

static void
probe_passed(const struct mg_backend_address *address)
{
    const struct mg_health *health = &address->entry->backend->health;
    struct mg_shared_address *shared = address->shared;
    char why[64];

    atomic_store(&shared->missed, 0);
    if (atomic_fetch_add(&shared->passed, 1) + 1 < health->rise)
        return;
    if (atomic_load(&shared->down) == 0 && atomic_load(&shared->rest_until) == 0)
        return;
    atomic_store(&shared->failures, 0);
    atomic_store(&shared->rest_until, 0);
    atomic_store(&shared->down, 0);
    snprintf(why, sizeof(why), "%u probe%s passed", health->rise,
             health->rise == 1 ? "" : "s in a row");
    ready_log(address, why);
}

static void
probe_missed(const struct mg_backend_address *address, const char *why)
{
    const struct mg_backend *backend = address->entry->backend;
    struct mg_shared_address *shared = address->shared;

    atomic_store(&shared->passed, 0);
    if (atomic_fetch_add(&shared->missed, 1) + 1 < backend->health.fall ||
        atomic_exchange(&shared->down, 1) != 0)
        return;
    mg_shared_address_blame(shared, why);
    mg_log(MG_LOG_WARN, "backend %s: %s is down: %u probe%s: %s", backend->name, address->text,
           backend->health.fall,
           backend->health.fall == 1 ? " failed" : "s in a row failed, the last", why);
    down_count(backend, shared);
}

void
mg_health_probed(const struct mg_backend_address *address, const char *why)
{
    if (why == NULL)
        probe_passed(address);
    else
        probe_missed(address, why);
}

/* ---- on_down = "close" ----------------------------------------------------------------------- */

static bool
is_for(const struct mg_session *s)
{
    return s->state < S_LINGER && s->address != NULL && s->dial == NULL &&
           s->address->shared != NULL && s->backend->close_on_down &&
           atomic_load(&s->address->shared->downs) != s->downs;
}

static void
on_look(uv_timer_t *timer)
{
    struct mg_engine *engine = timer->data;
    uint32_t downs = atomic_load(&engine->options.shared->downs);

    if (downs == engine->downs_seen)
        return;
    engine->downs_seen = downs;
    for (struct mg_link *link = engine->sessions.next; link != &engine->sessions;
         link = link->next) {
        struct mg_session *s = MG_CONTAINER_OF(link, struct mg_session, link);

        if (is_for(s))
            mg_session_close(s, "up: address went down", NULL);
    }
}

void
mg_health_watch(struct mg_engine *engine)
{
    if (engine->down_watchers++ > 0)
        return;
    engine->downs_seen = atomic_load(&engine->options.shared->downs);
    uv_timer_start(&engine->down_timer, on_look, DOWN_LOOK_MS, DOWN_LOOK_MS);
}

void
mg_health_unwatch(struct mg_engine *engine)
{
    if (--engine->down_watchers == 0 && !engine->closing)
        uv_timer_stop(&engine->down_timer);
}

/* ---- status ---------------------------------------------------------------------------------- */

static const char *
state_name(const struct mg_backend_address *address)
{
    static const char *const names[] = {"ready", "trial", "resting", "down"};

    return names[mg_health_fitness(address)];
}

/* Seconds since it went down or to rest, or -1: it is neither. `why` is empty then. */
static double
unwell_since(const struct mg_backend_address *address, char why[MG_SHARED_WHY])
{
    const struct mg_shared_address *shared = address->shared;
    uint64_t since, now = mg_now_ms();

    why[0] = '\0';
    if (mg_health_fitness(address) == MG_FIT_READY)
        return -1;
    since = atomic_load(&shared->since);
    mg_shared_address_why(shared, why);
    return since != 0 && since < now ? (double)(now - since) / 1000 : 0;
}

static void
row_begin(const struct mg_backend_entry *entry, const char *text, const char *state,
          struct mg_buf *out)
{
    mg_buf_adds(out, "{\"address\":");
    mg_buf_add_json(out, text, strlen(text));
    if (entry->endpoint.kind == MG_ENDPOINT_NAME) {
        mg_buf_adds(out, ",\"name\":");
        mg_buf_add_json(out, entry->text, strlen(entry->text));
    }
    mg_buf_addf(out, ",\"state\":\"%s\"", state);
}

static void
address_status(const struct mg_backend_address *address, struct mg_buf *out)
{
    const struct mg_backend *backend = address->entry->backend;
    const struct mg_shared_address *shared = address->shared;
    uint32_t rests = shared != NULL ? atomic_load(&shared->rests) : 0;
    uint32_t prober = shared != NULL ? atomic_load(&shared->prober) : 0;
    long long everywhere = shared != NULL ? mg_shared_address_open(shared) : address->active;
    char why[MG_SHARED_WHY];
    double since;

    row_begin(address->entry, address->text, address->gone ? "gone" : state_name(address), out);
    since = unwell_since(address, why);
    if (since >= 0) {
        mg_buf_addf(out, ",\"for\":%.3f,\"why\":", since);
        mg_buf_add_json(out, why, strlen(why));
    }
    mg_buf_addf(out,
                ",\"rest\":%g,\"prober\":%s,\"probed\":%llu,\"open\":%u,"
                "\"open_everywhere\":%lld,\"used\":%llu,\"failed\":%llu}",
                rests > 0 ? rest_ms(&backend->health, rests - 1) / 1000.0 : 0.0,
                prober == backend->engine->options.worker + 1 ? "true" : "false",
                (unsigned long long)address->probed, address->active, everywhere,
                (unsigned long long)address->used, (unsigned long long)address->failed);
}

/* A name without an answer has a row, too. */
static void
backend_status(const struct mg_backend *backend, struct mg_buf *out)
{
    const char *comma = "";

    mg_buf_adds(out, "{\"name\":");
    mg_buf_add_json(out, backend->name, strlen(backend->name));
    mg_buf_adds(out, ",\"addresses\":[");
    for (size_t i = 0; i < backend->address_count; i++, comma = ",") {
        mg_buf_adds(out, comma);
        address_status(backend->addresses[i], out);
    }
    for (size_t i = 0; i < backend->entry_count; i++) {
        const struct mg_backend_entry *entry = &backend->entries[i];

        if (entry->address_count > 0)
            continue;
        mg_buf_adds(out, comma);
        comma = ",";
        row_begin(entry, entry->text, "unresolved", out);
        mg_buf_adds(out, ",\"rest\":0,\"prober\":false,\"probed\":0,\"open\":0,"
                         "\"open_everywhere\":0,\"used\":0,\"failed\":0}");
    }
    mg_buf_adds(out, "]}");
}

/* Of the config in use; what only functions have given is left out, being any number. */
void
mg_health_status(const struct mg_engine *engine, struct mg_buf *out)
{
    const char *comma = "";

    for (size_t i = 0; engine->config != NULL && i < engine->config->backend_count; i++) {
        const struct mg_backend *backend = engine->config->backends[i];

        if (backend->entry_count == 0)
            continue;
        mg_buf_adds(out, comma);
        backend_status(backend, out);
        comma = ",";
    }
}

static void
unwell_line(const struct mg_backend *backend, const char *address, const char *state, double since,
            const char *why, struct mg_buf *out)
{
    mg_buf_adds(out, "unwell=");
    mg_buf_add_printable(out, backend->name, strlen(backend->name));
    mg_buf_adds(out, "\t");
    mg_buf_add_printable(out, address, strlen(address));
    mg_buf_addf(out, "\t%s\t%.3f\t", state, since);
    mg_buf_add_printable(out, why, strlen(why));
    mg_buf_adds(out, "\n");
}

static void
backend_unwell(const struct mg_backend *backend, struct mg_buf *out)
{
    char why[MG_SHARED_WHY];

    for (size_t i = 0; i < backend->address_count; i++) {
        const struct mg_backend_address *address = backend->addresses[i];
        double since = unwell_since(address, why);

        if (since >= 0 && !address->gone)
            unwell_line(backend, address->text, state_name(address), since, why, out);
    }
    for (size_t i = 0; i < backend->entry_count; i++) {
        const struct mg_backend_entry *entry = &backend->entries[i];
        int error = entry->resolver != NULL ? mg_resolver_error(entry->resolver) : 0;

        if (error != 0)
            unwell_line(backend, entry->text, entry->address_count > 0 ? "stale" : "unresolved", -1,
                        uv_strerror(error), out);
    }
}

void
mg_engine_unwell(const struct mg_engine *engine, struct mg_buf *out)
{
    for (size_t i = 0; engine->config != NULL && i < engine->config->backend_count; i++)
        if (!engine->config->backends[i]->duplicate)
            backend_unwell(engine->config->backends[i], out);
}
