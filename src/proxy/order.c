/*
 * In which order the addresses that a name has resolved to are tried.
 *
 * Each connection begins with another one, so that all of them are used; then the families take turns (RFC
 * 8305, 4), so that one that does not work costs one attempt. Those that have failed of late, or were overtaken
 * in a race, come last for a while.
 */
#include "proxy/internal.h"

#include <string.h>

#define SHUNNED_MS 10000

/* Of one entry of a backend, in the order of nothing. */
struct mg_shunned {
    struct {
        struct mg_addr addr;
        uint64_t until; /* loop time */
    } slots[MG_RESOLVE_MAX];
};

static bool
addr_equal(const struct mg_addr *a, const struct mg_addr *b)
{
    return a->len == b->len && memcmp(&a->u, &b->u, a->len) == 0;
}

void
mg_addr_shun(struct mg_backend_address *entry, const struct mg_addr *addr, uint64_t now)
{
    size_t at = 0;

    if (entry->shunned == NULL)
        entry->shunned = mg_calloc(1, sizeof(*entry->shunned));
    if (entry->shunned == NULL)
        return;
    for (size_t i = 0; i < MG_RESOLVE_MAX; i++) {
        if (addr_equal(&entry->shunned->slots[i].addr, addr)) {
            at = i;
            break;
        }
        if (entry->shunned->slots[i].until < entry->shunned->slots[at].until)
            at = i;
    }
    entry->shunned->slots[at].addr.len = addr->len;
    memcpy(&entry->shunned->slots[at].addr.u, &addr->u, addr->len);
    entry->shunned->slots[at].until = now + SHUNNED_MS;
}

static bool
is_shunned(const struct mg_backend_address *entry, const struct mg_addr *addr, uint64_t now)
{
    for (size_t i = 0; entry->shunned != NULL && i < MG_RESOLVE_MAX; i++)
        if (entry->shunned->slots[i].until > now &&
            addr_equal(&entry->shunned->slots[i].addr, addr))
            return true;
    return false;
}

/* ---- sources --------------------------------------------------------------------------------- */

/* ::ffff:1.2.3.4 is what a client of IPv4 is called on a socket that takes both. */
static void
addr_unmap(struct mg_addr *addr)
{
    struct sockaddr_in in = {.sin_family = AF_INET};

    if (addr->u.sa.sa_family != AF_INET6 || !IN6_IS_ADDR_V4MAPPED(&addr->u.in6.sin6_addr))
        return;
    memcpy(&in.sin_addr, addr->u.in6.sin6_addr.s6_addr + 12, sizeof(in.sin_addr));
    addr->u.in = in;
    addr->len = sizeof(in);
}

void
mg_source_get(const struct mg_session *s, struct mg_source *source)
{
    *source = s->backend->source;
    if (!source->transparent)
        return;
    memset(&source->addr, 0, sizeof(source->addr));
    source->addr.len = s->remote->len;
    memcpy(&source->addr.u, &s->remote->u, s->remote->len);
    addr_unmap(&source->addr);
    mg_addr_set_port(&source->addr, 0);
}

static bool
is_reachable(const struct mg_addr *addr, const struct mg_source *source)
{
    int family = addr->u.sa.sa_family;

    return (source->addr.len == 0 && !source->transparent) || family == AF_UNIX ||
           family == source->addr.u.sa.sa_family;
}

/* ---- order ----------------------------------------------------------------------------------- */

/* Those that are shunned, or those that are not. */
static size_t
addrs_pick(const struct mg_backend_address *entry, const struct mg_addr *addrs, size_t count,
           const struct mg_source *source, uint64_t now, bool shunned, const struct mg_addr **out)
{
    size_t n = 0;

    for (size_t i = 0; i < count; i++)
        if (is_reachable(&addrs[i], source) && is_shunned(entry, &addrs[i], now) == shunned)
            out[n++] = &addrs[i];
    return n;
}

/* Where that one is, or who comes behind it. */
static size_t
start_at(const struct mg_addr **list, size_t count, const struct mg_addr *first)
{
    for (size_t i = 0; i < count; i++)
        if (list[i] >= first)
            return i;
    return 0;
}

/* The next one, of the other family than the last if there is one; taken ones are NULL. */
static const struct mg_addr *
addr_take(const struct mg_addr **list, size_t count, size_t start, int last)
{
    size_t found = count;

    for (size_t i = 0; i < count; i++) {
        size_t at = (start + i) % count;

        if (list[at] == NULL)
            continue;
        if (found == count)
            found = at;
        if (list[at]->u.sa.sa_family != last) {
            found = at;
            break;
        }
    }
    if (found == count)
        return NULL;
    const struct mg_addr *addr = list[found];
    list[found] = NULL;
    return addr;
}

size_t
mg_addrs_order(const struct mg_backend_address *entry, const struct mg_addr *addrs, size_t count,
               const struct mg_source *source, unsigned first, uint64_t now, struct mg_addr *out)
{
    const struct mg_addr *list[MG_RESOLVE_MAX], *addr;
    size_t done = 0;
    int family = AF_UNSPEC;

    if (count > MG_RESOLVE_MAX)
        count = MG_RESOLVE_MAX;
    for (int shunned = 0; shunned < 2; shunned++) {
        size_t n = addrs_pick(entry, addrs, count, source, now, shunned, list);
        size_t start = n > 0 ? start_at(list, n, &addrs[first % count]) : 0;

        while (n > 0 && (addr = addr_take(list, n, start, family)) != NULL) {
            out[done++] = *addr;
            family = addr->u.sa.sa_family;
        }
    }
    return done;
}
