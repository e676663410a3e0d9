/*
 * Names to addresses: what is known of each, and when it is asked for again.
 *
 * The happy path is: the first resolver for a name starts a look-up; its answer serves everybody who waits
 * and everybody who asks; a timer looks again every interval, behind everybody's back, for as long as there
 * is a resolver. Possible failure modes are: a look-up fails (the last good answer stays; without one
 * those who wait are told, and it is tried again sooner: after 1 s, 2 s, 4 s, …), it takes very long (the
 * answer that is there serves on), an asker goes away (mg_resolver_cancel), the last resolver is freed during
 * a look-up (which is abandoned).
 *
 * Each loop looks up for itself: what a worker knows is in its own memory, no process waits for another's
 * answer, and a handful of questions every half a minute is nothing to a name server.
 */
#include "net/internal.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#define RETRY_MS     1000 /* after a first failure, and between failing at somebody's request */
#define SLOW_MS      1000 /* such a look-up is one */
#define HELP_MS      1000
#define FAILURES_MAX 16

struct name {
    struct name *next, **pprev;    /* in names->list */
    struct mg_resolver *resolvers; /* that share it; at least one */
    struct mg_lookup *lookup;      /* under way, or NULL */
    uint64_t interval_ms;          /* the shortest of theirs */
    uint64_t ended_at, due_at;     /* loop time: of the last look-up, of the next */
    unsigned failures;             /* in a row */
    int error;                     /* of the last one; 0 = it was good, or none has ended */
    bool slow;                     /* the last one was */
    struct mg_addr *addrs;         /* the last good answer, owned */
    size_t count;
    char host[]; /* NUL-terminated */
};

struct mg_resolving {
    struct mg_net *net;
    struct name *list;
    uv_timer_t timer; /* for whichever is due first */
    bool queued;      /* look-ups may wait for a thread */
    bool closing;
};

struct mg_resolver {
    struct mg_resolver *next, **pprev; /* in name->resolvers */
    struct mg_net *net;
    struct name *name;
    uint64_t interval_ms;
    struct mg_resolve_wait *waits;
    struct mg_addr *addrs; /* name's, with our port; owned */
    size_t count;
    int told; /* enum mg_resolve_event, or TOLD_GOOD */
    const struct mg_resolver_ops *ops;
    void *data;
    uint16_t port;
};

#define TOLD_GOOD (-1)

static void timer_set(struct mg_resolving *names);

/* ---- waits: a list whose links know who points at them --------------------------------------- */

static void
wait_add(struct mg_resolver *r, struct mg_resolve_wait *wait)
{
    wait->next = r->waits;
    wait->pprev = &r->waits;
    if (wait->next != NULL)
        wait->next->pprev = &wait->next;
    r->waits = wait;
}

void
mg_resolver_cancel(struct mg_resolve_wait *wait)
{
    if (wait->pprev == NULL)
        return;
    *wait->pprev = wait->next;
    if (wait->next != NULL)
        wait->next->pprev = wait->pprev;
    wait->pprev = NULL;
    wait->next = NULL;
}

/* Why there is no answer. */
static int
error_of(const struct mg_resolver *r)
{
    if (r->count > 0)
        return 0;
    return r->name->error != 0 ? r->name->error : UV_ENOMEM;
}

/* The list is taken off first: a callback may cancel others of it, or ask anew and wait again. It may also
 * make resolvers, but never frees one. */
static void
waits_answer(struct mg_resolver *r)
{
    struct mg_resolve_wait *waits = r->waits;

    r->waits = NULL;
    if (waits != NULL)
        waits->pprev = &waits;
    while (waits != NULL) {
        struct mg_resolve_wait *wait = waits;

        mg_resolver_cancel(wait);
        wait->done(wait, error_of(r));
    }
}

/* ---- telling --------------------------------------------------------------------------------- */

static void
addrs_text(const struct name *name, char *out, size_t cap)
{
    size_t len = 0;

    out[0] = '\0';
    for (size_t i = 0; i < name->count && len < cap; i++) {
        char ip[MG_ADDR_TEXT];
        int more = snprintf(out + len, cap - len, "%s%s", i > 0 ? ", " : "",
                            mg_addr_ip(&name->addrs[i], ip));

        len += more > 0 ? (size_t)more : 0;
    }
}

/* What a look-up has brought; `changed`: other addresses than there were. */
static void
notice(struct mg_resolver *r, bool changed)
{
    const struct name *name = r->name;
    char text[512];
    int now = name->error == 0 ? TOLD_GOOD : name->count > 0 ? MG_RESOLVE_STALE : MG_RESOLVE_FAILED;
    bool again = now == TOLD_GOOD && r->told != TOLD_GOOD;

    if (now == r->told && !changed)
        return;
    r->told = now;
    if (now == TOLD_GOOD) {
        addrs_text(name, text, sizeof(text));
        r->ops->notice(r->data, again ? MG_RESOLVE_AGAIN : MG_RESOLVE_CHANGED, text);
    } else {
        r->ops->notice(r->data, now, uv_strerror(name->error));
    }
}

/* ---- look-ups -------------------------------------------------------------------------------- */

static bool
addrs_have(const struct mg_addr *addrs, size_t count, const struct mg_addr *one)
{
    for (size_t i = 0; i < count; i++)
        if (addrs[i].len == one->len && memcmp(&addrs[i].u, &one->u, one->len) == 0)
            return true;
    return false;
}

/* Name servers turn the order with every answer. */
static bool
addrs_differ(const struct name *name, const struct mg_lookup *lookup)
{
    if (name->count != lookup->count)
        return true;
    for (size_t i = 0; i < name->count; i++)
        if (!addrs_have(lookup->addrs, lookup->count, &name->addrs[i]))
            return true;
    return false;
}

/* Without memory what there was stays, and it is false. */
static bool
addrs_copy(struct mg_resolver *r)
{
    const struct name *name = r->name;
    struct mg_addr *addrs = mg_calloc(name->count, sizeof(*addrs));

    if (addrs == NULL)
        return false;
    memcpy(addrs, name->addrs, name->count * sizeof(*addrs));
    for (size_t i = 0; i < name->count; i++)
        mg_addr_set_port(&addrs[i], r->port);
    mg_free(r->addrs);
    r->addrs = addrs;
    r->count = name->count;
    return true;
}

static uint64_t
retry_ms(const struct name *name)
{
    uint64_t ms = (uint64_t)RETRY_MS << (name->failures - 1);

    return name->count > 0 || ms > name->interval_ms ? name->interval_ms : ms;
}

static void
lookup_failed(struct name *name, int error)
{
    name->error = error;
    name->failures += name->failures < FAILURES_MAX;
}

/* One end for good and bad: when it is looked up next, and who is told. */
static void
lookup_over(struct mg_net *net, struct name *name, bool changed)
{
    struct mg_resolver *next;

    name->ended_at = uv_now(net->loop);
    name->due_at = name->ended_at + (name->error != 0 ? retry_ms(name) : name->interval_ms);
    timer_set(net->names);
    for (struct mg_resolver *r = name->resolvers; r != NULL; r = next) {
        bool good = name->error == 0 && addrs_copy(r);

        next = r->next;
        notice(r, changed);
        if (good)
            r->ops->answered(r->data, r->addrs, r->count);
        waits_answer(r);
    }
}

static void
on_looked_up(struct mg_lookup *lookup)
{
    struct name *name = lookup->data;
    struct mg_net *net = name->resolvers->net;
    bool had = name->count > 0, changed = false;

    name->lookup = NULL;
    name->slow = lookup->took_ms >= SLOW_MS;
    if (lookup->status != 0) {
        lookup_failed(name, lookup->status);
    } else {
        changed = had && addrs_differ(name, lookup);
        mg_free(name->addrs);
        name->addrs = lookup->addrs;
        name->count = lookup->count;
        lookup->addrs = NULL;
        name->error = 0;
        name->failures = 0;
    }
    lookup_over(net, name, changed);
}

static void
lookup_start(struct mg_net *net, struct name *name)
{
    if (name->lookup != NULL)
        return;
    name->lookup = mg_lookup_start(net, name->host, name->slow, on_looked_up, name);
    name->due_at = UINT64_MAX; /* while it is under way */
    net->names->queued = true; /* perhaps */
    timer_set(net->names);
    if (name->lookup == NULL) {
        lookup_failed(name, UV_ENOMEM);
        lookup_over(net, name, false);
    }
}

static void
on_timer(uv_timer_t *timer)
{
    struct mg_resolving *names = timer->data;
    uint64_t now = uv_now(names->net->loop);
    struct name *next;

    for (struct name *name = names->list; name != NULL; name = next) {
        next = name->next;
        if (name->due_at <= now)
            lookup_start(names->net, name);
    }
    names->queued = mg_lookups_help(names->net);
    timer_set(names);
}

static void
timer_set(struct mg_resolving *names)
{
    uint64_t now = uv_now(names->net->loop), due = UINT64_MAX;

    if (names->closing)
        return;
    for (const struct name *name = names->list; name != NULL; name = name->next)
        due = name->due_at < due ? name->due_at : due;
    if (names->queued && now + HELP_MS < due)
        due = now + HELP_MS;
    if (due != UINT64_MAX)
        uv_timer_start(&names->timer, on_timer, due > now ? due - now : 0, 0);
    else
        uv_timer_stop(&names->timer);
}

void
mg_resolver_ask(struct mg_resolver *r, struct mg_resolve_wait *wait)
{
    struct name *name = r->name;

    wait->resolver = r;
    wait->pprev = NULL;
    wait->next = NULL;
    if (r->count == 0 && name->lookup == NULL &&
        (name->error == 0 || uv_now(r->net->loop) - name->ended_at >= RETRY_MS))
        lookup_start(r->net, name);
    if (r->count > 0 || name->lookup == NULL)
        wait->done(wait, error_of(r));
    else
        wait_add(r, wait);
}

/* ---- life ------------------------------------------------------------------------------------ */

static struct mg_resolving *
names_get(struct mg_net *net)
{
    struct mg_resolving *names = net->names;

    if (names != NULL)
        return names;
    names = mg_calloc(1, sizeof(*names));
    if (names == NULL)
        return NULL;
    names->net = net;
    uv_timer_init(net->loop, &names->timer);
    names->timer.data = names;
    net->names = names;
    mg_net_hold(net);
    return names;
}

static void
on_timer_close(uv_handle_t *handle)
{
    struct mg_resolving *names = handle->data;
    struct mg_net *net = names->net;

    mg_free(names);
    mg_net_release(net);
}

/* Handles go when both net closes and there is no resolver any more. */
void
mg_resolving_close(struct mg_net *net)
{
    struct mg_resolving *names = net->names;

    if (names == NULL || names->list != NULL || names->closing)
        return;
    names->closing = true;
    mg_lookups_close(net);
    net->names = NULL;
    uv_close((uv_handle_t *)&names->timer, on_timer_close);
}

static struct name *
name_get(struct mg_resolving *names, const char *host)
{
    struct name *name = names->list;
    size_t len = strlen(host) + 1;

    while (name != NULL && strcasecmp(name->host, host) != 0)
        name = name->next;
    if (name != NULL)
        return name;
    name = mg_calloc(1, sizeof(*name) + len);
    if (name == NULL)
        return NULL;
    memcpy(name->host, host, len);
    name->interval_ms = UINT64_MAX;
    name->next = names->list;
    name->pprev = &names->list;
    if (name->next != NULL)
        name->next->pprev = &name->next;
    names->list = name;
    return name;
}

/* After a resolver has come or gone. */
static void
interval_update(struct mg_resolving *names, struct name *name)
{
    name->interval_ms = UINT64_MAX;
    for (const struct mg_resolver *r = name->resolvers; r != NULL; r = r->next)
        if (r->interval_ms < name->interval_ms)
            name->interval_ms = r->interval_ms;
    if (name->lookup == NULL && name->error == 0 && name->count > 0)
        name->due_at = name->ended_at + name->interval_ms;
    timer_set(names);
}

struct mg_resolver *
mg_resolver_new(struct mg_net *net, const char *host, uint16_t port, unsigned interval_s,
                const struct mg_resolver_ops *ops, void *data)
{
    struct mg_resolving *names = names_get(net);
    struct mg_resolver *r = names != NULL ? mg_calloc(1, sizeof(*r)) : NULL;
    struct name *name = r != NULL ? name_get(names, host) : NULL;

    if (name == NULL) {
        mg_free(r);
        return NULL;
    }
    r->net = net;
    r->name = name;
    r->port = port;
    r->interval_ms = (uint64_t)interval_s * 1000;
    r->ops = ops;
    r->data = data;
    r->told = TOLD_GOOD; /* until something else is known */
    r->next = name->resolvers;
    r->pprev = &name->resolvers;
    if (r->next != NULL)
        r->next->pprev = &r->next;
    name->resolvers = r;
    mg_net_hold(net);
    if (name->count > 0)
        addrs_copy(r);
    interval_update(names, name);
    if (name->count == 0 || name->error != 0)
        lookup_start(net, name);
    return r;
}

const struct mg_addr *
mg_resolver_addrs(const struct mg_resolver *r, size_t *count)
{
    *count = r->count;
    return r->addrs;
}

int
mg_resolver_error(const struct mg_resolver *r)
{
    return r->name->error;
}

static void
name_free(struct name *name)
{
    mg_lookup_abandon(name->lookup);
    *name->pprev = name->next;
    if (name->next != NULL)
        name->next->pprev = name->pprev;
    mg_free(name->addrs);
    mg_free(name);
}

void
mg_resolver_free(struct mg_resolver *r)
{
    struct mg_net *net;
    struct name *name;

    if (r == NULL)
        return;
    net = r->net;
    name = r->name;
    while (r->waits != NULL)
        mg_resolver_cancel(r->waits);
    *r->pprev = r->next;
    if (r->next != NULL)
        r->next->pprev = r->pprev;
    if (name->resolvers == NULL)
        name_free(name);
    else
        interval_update(net->names, name);
    mg_free(r->addrs);
    mg_free(r);
    if (net->names->list == NULL && net->closing)
        mg_resolving_close(net);
    mg_net_release(net);
}

/* ---- status ---------------------------------------------------------------------------------- */

void
mg_resolvers_status(const struct mg_net *net, struct mg_buf *out)
{
    const struct name *first = net->names != NULL ? net->names->list : NULL;

    for (const struct name *name = first; name != NULL; name = name->next) {
        mg_buf_adds(out, name == first ? "{\"name\":" : ",{\"name\":");
        mg_buf_add_json(out, name->host, strlen(name->host));
        mg_buf_adds(out, ",\"addresses\":[");
        for (size_t i = 0; i < name->count; i++) {
            char ip[MG_ADDR_TEXT];

            mg_buf_addf(out, "%s\"%s\"", i > 0 ? "," : "", mg_addr_ip(&name->addrs[i], ip));
        }
        mg_buf_addf(out, "],\"looking_up\":%s,\"failures\":%u,\"error\":",
                    name->lookup != NULL ? "true" : "false", name->failures);
        if (name->error != 0)
            mg_buf_add_json(out, uv_strerror(name->error), strlen(uv_strerror(name->error)));
        else
            mg_buf_adds(out, "null");
        mg_buf_adds(out, "}");
    }
}
