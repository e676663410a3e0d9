/*
 * Backends that only functions have given: one address each, whoever has asked for it.
 *
 * The happy path is: a function returns an address for the first time, and a backend is made of it, which the next
 * one who is sent there finds; when its last connection is over it waits for others, and after a minute without any
 * is forgotten, with its resolver and all that is known of it. Names are looked up again only when somebody is sent
 * to them (mg_resolver_use). So what a stranger can have made by asking for names costs memory and name servers no
 * more than his connections do. Possible failure modes are: there are very many, over all generations of the worker
 * – the one that nobody has used for the longest time gives way; connections have all of them – who is sent
 * to a further one is refused, and the log says so once a minute.
 *
 * A session uses its backend from the choice until its memory goes, and so does everything that points into it:
 * dials, waits, addresses. They take no room in the memory that the workers share, and are not probed.
 */
#include "proxy/internal.h"

#include <string.h>

#define MOST    4096u
#define IDLE_MS 60000u /* two intervals in which a name's answer is looked up again */
#define SAID_MS 60000u

struct mg_given {
    struct mg_given *next, **pprev; /* in its bucket */
    struct mg_link idle;            /* in givens->idle, unless somebody uses it */
    struct mg_config *config;
    struct mg_backend *backend; /* owned */
    uint64_t idle_at;           /* loop time */
    unsigned users;             /* sessions */
};

static struct mg_given **
bucket_of(struct mg_engine *engine, const char *text)
{
    return &engine->givens.bucket[mg_names_hash(engine->limits_secret, text, strlen(text)) %
                                  MG_GIVEN_BUCKETS];
}

/* ---- forgetting ------------------------------------------------------------------------------ */

static void
given_free(struct mg_givens *givens, struct mg_given *given)
{
    *given->pprev = given->next;
    if (given->next != NULL)
        given->next->pprev = given->pprev;
    mg_link_remove(&given->idle);
    givens->count--;
    mg_backend_free(given->backend);
    mg_free(given);
}

/* The first of those that nobody uses, which is so for the longest time; or NULL. */
static struct mg_given *
idle_first(const struct mg_givens *givens)
{
    return mg_link_empty(&givens->idle) ? NULL
                                        : MG_CONTAINER_OF(givens->idle.next, struct mg_given, idle);
}

static void
on_idle(uv_timer_t *timer)
{
    struct mg_engine *engine = timer->data;
    struct mg_givens *givens = &engine->givens;
    uint64_t now = uv_now(engine->net.loop);
    struct mg_given *first;

    while ((first = idle_first(givens)) != NULL && first->idle_at + givens->idle_ms <= now)
        given_free(givens, first);
    if (first != NULL)
        uv_timer_start(timer, on_idle, first->idle_at + givens->idle_ms - now, 0);
}

static void
idle_begin(struct mg_engine *engine, struct mg_given *given)
{
    struct mg_givens *givens = &engine->givens;

    given->idle_at = uv_now(engine->net.loop);
    mg_link_remove(&given->idle);
    mg_link_append(&givens->idle, &given->idle);
    if (!engine->closing && !uv_is_active((uv_handle_t *)&givens->timer))
        uv_timer_start(&givens->timer, on_idle, givens->idle_ms, 0);
}

/* ---- giving ---------------------------------------------------------------------------------- */

struct mg_backend *
mg_config_given(struct mg_config *config, const char *text)
{
    struct mg_given *given = *bucket_of(config->engine, text);

    while (given != NULL && (given->config != config || strcmp(given->backend->name, text) != 0))
        given = given->next;
    if (given == NULL)
        return NULL;
    if (given->users == 0)
        idle_begin(config->engine, given);
    return given->backend;
}

static bool
room_make(struct mg_engine *engine)
{
    struct mg_givens *givens = &engine->givens;
    struct mg_given *first = idle_first(givens);
    uint64_t now = uv_now(engine->net.loop);

    if (givens->count < givens->most)
        return true;
    if (first != NULL) {
        given_free(givens, first);
        return true;
    }
    if (now >= givens->say_at) {
        givens->say_at = now + SAID_MS;
        mg_log(MG_LOG_WARN,
               "backend functions: %u different addresses have connections, more are not kept: "
               "who is sent to another one is refused",
               givens->most);
    }
    return false;
}

enum mg_give
mg_config_give(struct mg_config *config, struct mg_backend *backend)
{
    struct mg_engine *engine = config->engine;
    struct mg_given **bucket = bucket_of(engine, backend->name), *given;
    struct mg_err err;

    if (!room_make(engine)) {
        mg_backend_free(backend);
        return MG_GIVE_FULL;
    }
    given = mg_calloc(1, sizeof(*given));
    if (given == NULL || mg_backend_begin(engine, config, backend, true, &err) != 0) {
        mg_backend_free(backend);
        mg_free(given);
        return MG_GIVE_NO_MEMORY;
    }
    backend->given = given;
    given->backend = backend;
    given->config = config;
    given->next = *bucket;
    given->pprev = bucket;
    if (given->next != NULL)
        given->next->pprev = &given->next;
    *bucket = given;
    engine->givens.count++;
    mg_link_init(&given->idle);
    idle_begin(engine, given);
    return MG_GIVE_OK;
}

void
mg_given_use(struct mg_backend *backend)
{
    struct mg_given *given = backend->given;

    if (given != NULL && given->users++ == 0)
        mg_link_remove(&given->idle);
}

void
mg_given_leave(struct mg_backend *backend)
{
    struct mg_given *given = backend->given;

    if (given != NULL && --given->users == 0)
        idle_begin(backend->engine, given);
}

/* ---- life ------------------------------------------------------------------------------------ */

void
mg_givens_init(struct mg_engine *engine)
{
    struct mg_givens *givens = &engine->givens;

    mg_link_init(&givens->idle);
    givens->most = engine->options.given_max > 0 ? engine->options.given_max : MOST;
    givens->idle_ms = engine->options.given_idle_ms > 0 ? engine->options.given_idle_ms : IDLE_MS;
    uv_timer_init(engine->net.loop, &givens->timer);
    givens->timer.data = engine;
}

void
mg_givens_forget(struct mg_engine *engine, const struct mg_config *config)
{
    for (size_t i = 0; i < MG_GIVEN_BUCKETS; i++)
        for (struct mg_given *given = engine->givens.bucket[i], *next; given != NULL;
             given = next) {
            next = given->next;
            if (given->config == config)
                given_free(&engine->givens, given);
        }
}

void
mg_givens_status(const struct mg_engine *engine, struct mg_buf *out)
{
    unsigned idle = 0;

    for (const struct mg_link *at = engine->givens.idle.next; at != &engine->givens.idle;
         at = at->next)
        idle++;
    mg_buf_addf(out, "{\"addresses\":%u,\"in_use\":%u}", engine->givens.count,
                engine->givens.count - idle);
}
