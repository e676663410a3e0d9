/*
 * What the entries of a backend stand for: addresses, each a server of its own.
 *
 * The happy path is: an entry with an IP address or a path has one, from activation on. An entry with a name has
 * one for each record of its last good answer: with every answer those that are in it stay as they are, with their
 * counts and their health, new ones come in and are probed, and those that are missing are gone – nobody is led to
 * them any more, their probes stop, and the last connection takes the memory along. A record that is back
 * before that is the same address again. Possible failure modes are: a look-up fails (nothing
 * changes; resolve.c), there was no answer yet (there is no address, and a dial that has no other waits;
 * backend.c), there is no memory (the address is missing until the next answer), no slot is left in the memory that
 * the workers share (what a script lists is refused then; a record is used without: nothing is known of its
 * health, and each worker counts for itself).
 */
#include "proxy/internal.h"

#include <stdio.h>
#include <string.h>

#define SHUNNED_MS 10000

/* What the script lists comes before records, for which there may be no room then: so it waits for its slot, but only
 * once, if somebody who holds the lock does not get on. */
#define FIXED_TRIES 200

/* ---- order: as the script has them, the records of a name by their bytes ------------------------ */

static int
addr_compare(const struct mg_addr *a, const struct mg_addr *b)
{
    if (a->u.sa.sa_family != b->u.sa.sa_family)
        return a->u.sa.sa_family == AF_INET ? -1 : 1;
    if (a->u.sa.sa_family == AF_INET)
        return memcmp(&a->u.in.sin_addr, &b->u.in.sin_addr, sizeof(a->u.in.sin_addr));
    return memcmp(&a->u.in6.sin6_addr, &b->u.in6.sin6_addr, sizeof(a->u.in6.sin6_addr));
}

static bool
is_before(const struct mg_backend_address *a, const struct mg_backend_address *b)
{
    return a->entry != b->entry ? a->entry < b->entry : addr_compare(&a->addr, &b->addr) < 0;
}

static bool
room_make(struct mg_backend *backend)
{
    size_t room = backend->address_room > 0 ? 2 * backend->address_room : 8;
    struct mg_backend_address **grown;

    if (backend->address_count < backend->address_room)
        return true;
    grown = mg_realloc(backend->addresses, room * sizeof(struct mg_backend_address *));
    if (grown == NULL)
        return false;
    backend->addresses = grown;
    backend->address_room = room;
    return true;
}

/* They mostly come in their order. */
static void
address_insert(struct mg_backend *backend, struct mg_backend_address *address)
{
    size_t at = backend->address_count++;

    for (; at > 0 && is_before(address, backend->addresses[at - 1]); at--)
        backend->addresses[at] = backend->addresses[at - 1];
    backend->addresses[at] = address;
}

static void
address_remove(struct mg_backend *backend, const struct mg_backend_address *address)
{
    size_t at = 0;

    while (backend->addresses[at] != address)
        at++;
    backend->address_count--;
    memmove(&backend->addresses[at], &backend->addresses[at + 1],
            (backend->address_count - at) * sizeof(struct mg_backend_address *));
}

/* ---- one address ----------------------------------------------------------------------------- */

/* A name's is known by what the script wrote and its IP. Each try takes a millisecond at most. */
static void
slot_hold(struct mg_backend_address *address, unsigned tries)
{
    const struct mg_backend_entry *entry = address->entry;
    const struct mg_backend *backend = entry->backend;
    struct mg_engine *engine = backend->engine;
    char key[sizeof(entry->text) + MG_ADDR_TEXT], ip[MG_ADDR_TEXT];

    if (entry->endpoint.kind == MG_ENDPOINT_NAME)
        snprintf(key, sizeof(key), "%s %s", entry->text, mg_addr_ip(&address->addr, ip));
    else
        mg_str_copy(key, sizeof(key), entry->text);
    do
        address->shared = mg_shared_address_hold(engine->options.shared, backend->name, key,
                                                 engine->options.worker, &address->slot_due);
    while (address->slot_due && --tries > 0);
    if (address->shared != NULL)
        address->pass = &address->shared->pass;
    engine->slots_due = engine->slots_due || address->slot_due;
}

/* It has been in use without: its connections are counted from here on, and none of them has seen it go down. */
static void
slot_catch_up(const struct mg_backend_address *address)
{
    struct mg_engine *engine = address->entry->backend->engine;

    atomic_fetch_add(&address->shared->open[engine->options.worker], (int32_t)address->active);
    for (struct mg_link *link = engine->sessions.next; link != &engine->sessions;
         link = link->next) {
        struct mg_session *s = MG_CONTAINER_OF(link, struct mg_session, link);

        if (s->address == address)
            s->downs = atomic_load(&address->shared->downs);
    }
}

struct mg_backend_address *
mg_backend_address_add(struct mg_backend_entry *entry, const struct mg_addr *addr,
                       struct mg_err *err)
{
    struct mg_backend *backend = entry->backend;
    struct mg_backend_address *address = room_make(backend) ? mg_calloc(1, sizeof(*address)) : NULL;
    bool is_fixed = entry->endpoint.kind != MG_ENDPOINT_NAME;

    if (address == NULL) {
        mg_err_setx(err, "backend %s: out of memory", backend->name);
        return NULL;
    }
    address->entry = entry;
    address->addr = *addr;
    address->refs = 1;
    address->pass = &address->own_pass;
    if (is_fixed)
        mg_str_copy(address->text, sizeof(address->text), entry->text);
    else
        mg_addr_text(addr, address->text);
    if (backend->shares)
        slot_hold(address, is_fixed && !backend->engine->slots_due ? FIXED_TRIES : 1);
    address->next = entry->addresses;
    entry->addresses = address;
    entry->address_count++;
    address_insert(backend, address);
    return address;
}

static void
address_free(struct mg_backend_address *address)
{
    if (address->shared != NULL)
        mg_shared_address_release(address->shared, address->entry->backend->engine->options.worker);
    mg_free(address);
}

void
mg_backend_address_ref(struct mg_backend_address *address)
{
    address->refs++;
}

void
mg_backend_address_unref(struct mg_backend_address *address)
{
    struct mg_backend_address **at = &address->entry->addresses;

    if (--address->refs > 0)
        return;
    while (*at != address)
        at = &(*at)->next;
    *at = address->next;
    address_remove(address->entry->backend, address);
    address_free(address);
}

void
mg_backend_address_shun(struct mg_backend_address *address, uint64_t now)
{
    address->shunned_until = now + SHUNNED_MS;
}

/* ---- answers --------------------------------------------------------------------------------- */

/* Once. */
static void
full_tell(const struct mg_backend_address *address)
{
    struct mg_backend *backend = address->entry->backend;

    if (!backend->shares || address->shared != NULL || address->slot_due || backend->said_full)
        return;
    backend->said_full = true;
    mg_log(address->entry->quiet ? MG_LOG_DEBUG : MG_LOG_WARN,
           "backend %s: %s: more than %d addresses of backends, those of old generations "
           "included: workers do not share what they know of it, and of others that come",
           backend->name, address->text, MG_SHARED_ADDRESSES);
}

/* Of a record. In time, the log and a probe follow. */
static void
record_add(struct mg_backend_entry *entry, const struct mg_addr *addr)
{
    struct mg_backend *backend = entry->backend;
    struct mg_err err;
    struct mg_backend_address *address = mg_backend_address_add(entry, addr, &err);

    if (address == NULL) {
        mg_log(MG_LOG_ERROR, "%s", err.text);
        return;
    }
    address->seen = true;
    full_tell(address);
    if (backend->probed)
        mg_probe_start(address);
}

static void
record_keep(struct mg_backend_address *address)
{
    address->seen = true;
    if (!address->gone)
        return;
    address->gone = false;
    mg_backend_address_ref(address);
    address->entry->address_count++;
    if (address->entry->backend->probed)
        mg_probe_start(address);
}

/* The memory may go. */
static void
record_drop(struct mg_backend_address *address)
{
    address->gone = true;
    address->entry->address_count--;
    mg_probe_stop(address);
    mg_backend_address_unref(address);
}

static struct mg_backend_address *
record_find(const struct mg_backend_entry *entry, const struct mg_addr *addr)
{
    struct mg_backend_address *address = entry->addresses;

    while (address != NULL &&
           (address->addr.len != addr->len || memcmp(&address->addr.u, &addr->u, addr->len) != 0))
        address = address->next;
    return address;
}

static void
on_answered(void *data, const struct mg_addr *addrs, size_t count)
{
    struct mg_backend_entry *entry = data;
    struct mg_backend_address *next;

    entry->unanswered = false;
    for (struct mg_backend_address *a = entry->addresses; a != NULL; a = a->next)
        a->seen = false;
    for (size_t i = 0; i < count; i++) {
        struct mg_backend_address *address = record_find(entry, &addrs[i]);

        if (address != NULL)
            record_keep(address);
        else
            record_add(entry, &addrs[i]);
    }
    for (struct mg_backend_address *a = entry->addresses; a != NULL; a = next) {
        next = a->next;
        if (!a->seen && !a->gone)
            record_drop(a);
    }
}

/* One worker speaks: all of them find the same, and each would say so; none of a name that a function has given,
 * which may be anything that a client has asked for. */
static void
on_notice(void *data, enum mg_resolve_event event, const char *text)
{
    struct mg_backend_entry *entry = data;
    enum mg_log_level bad = entry->quiet ? MG_LOG_DEBUG : MG_LOG_WARN;
    enum mg_log_level good = entry->quiet ? MG_LOG_DEBUG : MG_LOG_INFO;
    const char *backend = entry->backend->name, *name = entry->endpoint.host;

    switch (event) {
    case MG_RESOLVE_FAILED:
        entry->unanswered = true;
        mg_log(bad, "backend %s: %s cannot be resolved (%s): no connections to it until it can",
               backend, name, text);
        break;
    case MG_RESOLVE_STALE:
        mg_log(bad, "backend %s: %s cannot be resolved (%s): its last addresses stay in use",
               backend, name, text);
        break;
    case MG_RESOLVE_AGAIN:
        mg_log(good, "backend %s: %s can be resolved again: %s", backend, name, text);
        break;
    case MG_RESOLVE_CHANGED:
        mg_log(good, "backend %s: %s is %s now", backend, name, text);
        break;
    case MG_RESOLVE_MANY:
        mg_log(bad, "backend %s: %s has %s: the others get no connections", backend, name, text);
        break;
    }
}

static const struct mg_resolver_ops resolver_ops = {
    .answered = on_answered,
    .notice = on_notice,
};

/* ---- slots that were not to be had --------------------------------------------------------------- */

static void
slot_look(struct mg_backend_address *address)
{
    if (!address->slot_due)
        return;
    slot_hold(address, 1);
    full_tell(address);
    if (address->shared == NULL)
        return;
    slot_catch_up(address);
    if (address->entry->backend->probed && !address->gone)
        mg_probe_start(address);
}

void
mg_entries_look(struct mg_engine *engine)
{
    const struct mg_config *config = engine->config;

    if (!engine->slots_due || config == NULL || engine->closing)
        return;
    engine->slots_due = false;
    for (size_t b = 0; b < config->backend_count; b++)
        for (size_t i = 0; i < config->backends[b]->address_count; i++) {
            slot_look(config->backends[b]->addresses[i]);
            if (engine->slots_due)
                return; /* again at the next heartbeat: each try in vain is a millisecond */
        }
}

/* ---- life ------------------------------------------------------------------------------------ */

static int
name_activate(struct mg_engine *engine, struct mg_backend_entry *entry, struct mg_err *err)
{
    const struct mg_addr *addrs;
    size_t count;

    entry->resolver = mg_resolver_new(&engine->net, entry->endpoint.host, entry->endpoint.port,
                                      entry->backend->resolve_interval_s, !entry->backend->shares,
                                      &resolver_ops, entry);
    if (entry->resolver == NULL) {
        mg_err_setx(err, "backend %s: out of memory", entry->backend->name);
        return -1;
    }
    addrs = mg_resolver_addrs(entry->resolver, &count);
    if (count > 0)
        on_answered(entry, addrs, count);
    return 0;
}

static int
fixed_activate(struct mg_backend_entry *entry, struct mg_err *err)
{
    const struct mg_backend *backend = entry->backend;
    const struct mg_backend_address *address =
        mg_backend_address_add(entry, &entry->endpoint.addr, err);

    if (address == NULL)
        return -1;
    if (!backend->shares || address->shared != NULL || address->slot_due)
        return 0;
    mg_err_setx(err,
                "backend %s: more than %d addresses of backends, those of old generations included",
                backend->name, MG_SHARED_ADDRESSES);
    return -1;
}

int
mg_backend_activate(struct mg_engine *engine, struct mg_backend *backend, bool shares,
                    struct mg_err *err)
{
    backend->engine = engine;
    backend->shares = shares;
    for (size_t i = 0; i < backend->entry_count; i++) {
        struct mg_backend_entry *entry = &backend->entries[i];
        bool named = entry->endpoint.kind == MG_ENDPOINT_NAME;

        entry->backend = backend;
        entry->quiet = engine->options.worker != 0 || !shares;
        if ((named ? name_activate(engine, entry, err) : fixed_activate(entry, err)) != 0)
            return -1;
    }
    return 0;
}

void
mg_entries_free(struct mg_backend *backend)
{
    for (size_t i = 0; i < backend->entry_count; i++)
        mg_resolver_free(backend->entries[i].resolver);
    for (size_t i = 0; i < backend->address_count; i++)
        address_free(backend->addresses[i]);
    mg_free(backend->addresses);
    mg_free(backend->entries);
}
