/*
 * Names to addresses, by getaddrinfo in the thread pool.
 *
 * The happy path is: the first question starts a look-up and waits; its answer serves everybody who
 * waits and everybody who asks within the interval; the first question after that is still answered
 * from memory and starts a new look-up behind its back. Possible failure modes are: a look-up fails
 * (the last good answer stays; without one those who wait are told), an asker goes away
 * (mg_resolver_cancel), the resolver is freed during a look-up (its callback frees the memory).
 */
#include "net/internal.h"

#include <netdb.h>
#include <stdio.h>
#include <string.h>

struct mg_resolver {
    struct mg_net *net;
    uv_getaddrinfo_t req;
    bool asking; /* req is under way; the memory stays until its callback */
    bool freed;
    uint64_t interval_ms;
    uint64_t answered_at; /* loop time of the last look-up's end */
    struct mg_resolve_wait *waits;
    struct mg_addr *addrs; /* the last good answer, owned */
    size_t count;
    char service[8];
    char host[]; /* NUL-terminated */
};

struct mg_resolver *
mg_resolver_new(struct mg_net *net, const char *host, uint16_t port, unsigned interval_s)
{
    size_t len = strlen(host) + 1;
    struct mg_resolver *r = mg_calloc(1, sizeof(*r) + len);

    if (r == NULL)
        return NULL;
    memcpy(r->host, host, len);
    snprintf(r->service, sizeof(r->service), "%u", port);
    r->net = net;
    r->interval_ms = (uint64_t)interval_s * 1000;
    return r;
}

static void
memory_free(struct mg_resolver *r)
{
    mg_free(r->addrs);
    mg_free(r);
}

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

/* The list is taken off first: a callback may cancel others of it, or ask anew and wait again. */
static void
waits_answer(struct mg_resolver *r, int error)
{
    struct mg_resolve_wait *waits = r->waits;

    r->waits = NULL;
    if (waits != NULL)
        waits->pprev = &waits;
    while (waits != NULL) {
        struct mg_resolve_wait *wait = waits;

        mg_resolver_cancel(wait);
        wait->done(wait, r->addrs, r->count, r->count > 0 ? 0 : error);
    }
}

/* ---- look-ups -------------------------------------------------------------------------------- */

static int
answer_keep(struct mg_resolver *r, const struct addrinfo *list)
{
    struct mg_addr *addrs;
    size_t count = 0;

    for (const struct addrinfo *ai = list; ai != NULL && count < MG_RESOLVE_MAX; ai = ai->ai_next)
        count++;
    addrs = count > 0 ? mg_calloc(count, sizeof(*addrs)) : NULL;
    if (addrs == NULL)
        return count > 0 ? UV_ENOMEM : UV_EAI_NODATA;
    for (size_t i = 0; i < count; i++, list = list->ai_next) {
        addrs[i].len = list->ai_addrlen;
        memcpy(&addrs[i].u, list->ai_addr, list->ai_addrlen);
    }
    mg_free(r->addrs);
    r->addrs = addrs;
    r->count = count;
    return 0;
}

static void
on_addrinfo(uv_getaddrinfo_t *req, int status, struct addrinfo *list)
{
    struct mg_resolver *r = req->data;
    struct mg_net *net = r->net;

    r->asking = false;
    if (status == 0 && !r->freed)
        status = answer_keep(r, list);
    uv_freeaddrinfo(list);
    if (r->freed) {
        memory_free(r);
    } else {
        r->answered_at = uv_now(net->loop);
        if (status < 0 && r->count > 0)
            mg_log(MG_LOG_WARN, "%s: %s; keeping the last answer", r->host, uv_strerror(status));
        waits_answer(r, status);
    }
    mg_net_release(net);
}

static int
lookup_start(struct mg_resolver *r)
{
    static const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    int rc = uv_getaddrinfo(r->net->loop, &r->req, on_addrinfo, r->host, r->service, &hints);

    if (rc < 0)
        return rc;
    r->req.data = r;
    r->asking = true;
    mg_net_hold(r->net);
    return 0;
}

void
mg_resolver_ask(struct mg_resolver *r, struct mg_resolve_wait *wait)
{
    bool stale = r->count == 0 || uv_now(r->net->loop) - r->answered_at >= r->interval_ms;
    int rc = 0;

    wait->pprev = NULL;
    wait->next = NULL;
    if (stale && !r->asking)
        rc = lookup_start(r);
    if (r->count > 0 || rc < 0)
        wait->done(wait, r->addrs, r->count, rc);
    else
        wait_add(r, wait);
}

void
mg_resolver_free(struct mg_resolver *r)
{
    if (r == NULL)
        return;
    while (r->waits != NULL)
        mg_resolver_cancel(r->waits);
    if (!r->asking) {
        memory_free(r);
        return;
    }
    r->freed = true;
    uv_cancel((uv_req_t *)&r->req); /* only a hint; the callback comes either way */
}
