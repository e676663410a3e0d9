/*
 * Names to addresses: what is known of each, and when it is asked for again.
 *
 * The happy path is: the first resolver for a name starts a look-up; its answer serves everybody who waits
 * and everybody who asks; a timer looks again every interval, behind everybody's back, for as long as there
 * is a resolver. Where all of a name's are `on_demand` it does not: then it is looked up again only when
 * somebody uses it and its answer is older than the interval; who finds one that is twice as old waits.
 * Possible failure modes are: a look-up fails (the last good answer stays; without one
 * those who wait are told, and it is tried again sooner: after 1 s, 2 s, 4 s, …), it takes very long (the
 * answer that is there serves on), an asker goes away (mg_resolver_cancel), the last resolver is freed during
 * a look-up (which is abandoned); there are more records than MG_RESOLVE_MAX (those that are in use stay, and
 * whoever has a resolver is told).
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
#define BUCKETS      512

struct name {
    struct name *next, **pprev;             /* in its bucket */
    struct name *timed_next, **timed_pprev; /* in names->timed; pprev is NULL: not */
    struct mg_resolver *resolvers;          /* that share it; at least one */
    struct mg_lookup *lookup;               /* under way, or NULL */
    uint64_t interval_ms; /* the shortest of those that are not on demand; UINT64_MAX: all are */
    uint64_t ended_at, due_at; /* loop time: of the last look-up, of the next */
    unsigned failures;         /* in a row */
    int error;                 /* of the last one; 0 = it was good, or none has ended */
    bool slow;                 /* the last one was */
    struct mg_addr *addrs;     /* the last good answer, owned */
    size_t count;
    size_t records; /* that it had, of which `count` are used */
    char host[];    /* NUL-terminated */
};

struct mg_resolving {
    struct mg_net *net;
    struct name *bucket[BUCKETS];
    size_t count;       /* of names */
    uint64_t lookups;   /* begun so far */
    struct name *timed; /* those that are looked up by themselves */
    uv_timer_t timer;   /* for whichever is due first */
    bool queued;        /* look-ups may wait for a thread */
    bool closing;
};

struct mg_resolver {
    struct mg_resolver *next, **pprev; /* in name->resolvers */
    struct mg_net *net;
    struct name *name;
    uint64_t interval_ms;
    bool on_demand;
    struct mg_resolve_wait *waits;
    struct mg_addr *addrs; /* name's, with our port; owned */
    size_t count;
    size_t told_records; /* so many more than are used; 0: none are left out */
    int told;            /* enum mg_resolve_event, or TOLD_GOOD */
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
change_notice(struct mg_resolver *r, bool changed)
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

/* Of one that has more records than are used: once for each number of them. */
static void
records_notice(struct mg_resolver *r)
{
    const struct name *name = r->name;
    size_t records = name->records > name->count ? name->records : 0;
    char text[96];

    if (records == r->told_records)
        return;
    r->told_records = records;
    if (records == 0)
        return;
    snprintf(text, sizeof(text), "%zu addresses, of which %zu are used", records, name->count);
    r->ops->notice(r->data, MG_RESOLVE_MANY, text);
}

static void
notice(struct mg_resolver *r, bool changed)
{
    change_notice(r, changed);
    if (r->name->error == 0)
        records_notice(r);
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

static void
addr_swap(struct mg_addr *a, struct mg_addr *b)
{
    struct mg_addr kept = *a;

    *a = *b;
    *b = kept;
}

/*
 * Of more records than MG_RESOLVE_MAX those that are used already stay, so that no connection moves because others
 * come and go; the first of the others, which are in order, fill up.
 */
static void
addrs_choose(const struct name *name, struct mg_lookup *lookup)
{
    size_t kept = 0;

    if (lookup->count <= MG_RESOLVE_MAX)
        return;
    for (size_t i = 0; i < lookup->count && kept < MG_RESOLVE_MAX; i++) {
        if (!addrs_have(name->addrs, name->count, &lookup->addrs[i]))
            continue;
        for (size_t at = i; at > kept; at--) /* the others stay in order */
            addr_swap(&lookup->addrs[at], &lookup->addrs[at - 1]);
        kept++;
    }
    lookup->count = MG_RESOLVE_MAX;
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

static bool
is_timed(const struct name *name)
{
    return name->timed_pprev != NULL;
}

static void
due_set(struct name *name)
{
    name->due_at = !is_timed(name)
                       ? UINT64_MAX
                       : name->ended_at + (name->error != 0 ? retry_ms(name) : name->interval_ms);
}

/* One end for good and bad: when it is looked up next, and who is told. */
static void
lookup_over(struct mg_net *net, struct name *name, bool changed)
{
    struct mg_resolver *next;

    name->ended_at = uv_now(net->loop);
    due_set(name);
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
        name->records = lookup->count;
        addrs_choose(name, lookup);
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
    net->names->lookups++;
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

    for (struct name *name = names->timed; name != NULL; name = next) {
        next = name->timed_next;
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
    for (const struct name *name = names->timed; name != NULL; name = name->timed_next)
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

bool
mg_resolver_use(struct mg_resolver *r, struct mg_resolve_wait *wait)
{
    struct name *name = r->name;
    uint64_t age = uv_now(r->net->loop) - name->ended_at;

    if (!r->on_demand || r->count == 0 || is_timed(name) || age < r->interval_ms)
        return false;
    lookup_start(r->net, name);
    if (age < 2 * r->interval_ms || name->lookup == NULL)
        return false;
    wait->resolver = r;
    wait_add(r, wait);
    return true;
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

    if (names == NULL || names->count > 0 || names->closing)
        return;
    names->closing = true;
    mg_lookups_close(net);
    net->names = NULL;
    uv_close((uv_handle_t *)&names->timer, on_timer_close);
}

/* Also of names that strangers make up: there are no more of those than proxy/given.c keeps. */
static struct name **
bucket_of(struct mg_resolving *names, const char *host)
{
    char lower[256];
    size_t len = 0;

    for (; host[len] != '\0' && len < sizeof(lower); len++)
        lower[len] = mg_ascii_lower(host[len]);
    return &names->bucket[mg_str_hash(lower, len) % BUCKETS];
}

static struct name *
name_get(struct mg_resolving *names, const char *host)
{
    struct name **bucket = bucket_of(names, host), *name = *bucket;
    size_t len = strlen(host) + 1;

    while (name != NULL && strcasecmp(name->host, host) != 0)
        name = name->next;
    if (name != NULL)
        return name;
    name = mg_calloc(1, sizeof(*name) + len);
    if (name == NULL)
        return NULL;
    memcpy(name->host, host, len);
    name->interval_ms = name->due_at = UINT64_MAX;
    name->next = *bucket;
    name->pprev = bucket;
    if (name->next != NULL)
        name->next->pprev = &name->next;
    *bucket = name;
    names->count++;
    return name;
}

static void
timed_remove(struct name *name)
{
    if (!is_timed(name))
        return;
    *name->timed_pprev = name->timed_next;
    if (name->timed_next != NULL)
        name->timed_next->timed_pprev = name->timed_pprev;
    name->timed_pprev = NULL;
    name->timed_next = NULL;
}

static void
timed_add(struct mg_resolving *names, struct name *name)
{
    if (is_timed(name))
        return;
    name->timed_next = names->timed;
    name->timed_pprev = &names->timed;
    if (name->timed_next != NULL)
        name->timed_next->timed_pprev = &name->timed_next;
    names->timed = name;
}

/* After a resolver has come or gone. */
static void
interval_update(struct mg_resolving *names, struct name *name)
{
    name->interval_ms = UINT64_MAX;
    for (const struct mg_resolver *r = name->resolvers; r != NULL; r = r->next)
        if (!r->on_demand && r->interval_ms < name->interval_ms)
            name->interval_ms = r->interval_ms;
    if (name->interval_ms == UINT64_MAX)
        timed_remove(name);
    else
        timed_add(names, name);
    if (name->lookup == NULL && (!is_timed(name) || (name->error == 0 && name->count > 0)))
        due_set(name);
    timer_set(names);
}

/* What others have been told of the name need not be told again by a new generation. */
static size_t
records_told(const struct name *name)
{
    for (const struct mg_resolver *r = name->resolvers; r != NULL; r = r->next)
        if (!r->on_demand)
            return r->told_records;
    return 0;
}

struct mg_resolver *
mg_resolver_new(struct mg_net *net, const char *host, uint16_t port, unsigned interval_s,
                bool on_demand, const struct mg_resolver_ops *ops, void *data)
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
    r->on_demand = on_demand;
    r->ops = ops;
    r->data = data;
    r->told = TOLD_GOOD; /* until something else is known */
    r->told_records = records_told(name);
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
name_free(struct mg_resolving *names, struct name *name)
{
    names->count--;
    mg_lookup_abandon(name->lookup);
    timed_remove(name);
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
        name_free(net->names, name);
    else
        interval_update(net->names, name);
    mg_free(r->addrs);
    mg_free(r);
    if (net->names->count == 0 && net->closing)
        mg_resolving_close(net);
    mg_net_release(net);
}

/* ---- status ---------------------------------------------------------------------------------- */

uint64_t
mg_resolvers_lookups(const struct mg_net *net)
{
    return net->names != NULL ? net->names->lookups : 0;
}

/* Not those on demand, which may be thousands. */
void
mg_resolvers_status(const struct mg_net *net, struct mg_buf *out)
{
    const struct name *first = net->names != NULL ? net->names->timed : NULL;

    for (const struct name *name = first; name != NULL; name = name->timed_next) {
        mg_buf_adds(out, name == first ? "{\"name\":" : ",{\"name\":");
        mg_buf_add_json(out, name->host, strlen(name->host));
        mg_buf_adds(out, ",\"addresses\":[");
        for (size_t i = 0; i < name->count; i++) {
            char ip[MG_ADDR_TEXT];

            mg_buf_addf(out, "%s\"%s\"", i > 0 ? "," : "", mg_addr_ip(&name->addrs[i], ip));
        }
        mg_buf_addf(out,
                    "],\"records\":%zu,\"looking_up\":%s,\"failures\":%u,\"error\":", name->records,
                    name->lookup != NULL ? "true" : "false", name->failures);
        if (name->error != 0)
            mg_buf_add_json(out, uv_strerror(name->error), strlen(uv_strerror(name->error)));
        else
            mg_buf_adds(out, "null");
        mg_buf_adds(out, "}");
    }
}
