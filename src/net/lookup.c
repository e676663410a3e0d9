/*
 * Asks the system for a name's addresses: getaddrinfo, on threads of our own.
 *
 * getaddrinfo, because it answers what `getent ahosts` answers – hosts file, search list, mDNS, a local
 * resolver: whatever nsswitch.conf says – and its order is that of RFC 6724. Threads of our own, because
 * one look-up may take as long as resolv.conf lets it (10 s for each server that is silent) and nothing
 * can cancel it: in libuv's pool two of them would hold up all others, the end of the loop too. Here
 * who is no longer interested goes away (mg_lookup_abandon); the thread then frees what it found, and the
 * process may end without it.
 *
 * The happy path is: start queues the question and makes sure of a thread; the thread asks, puts the answer
 * into `done` and wakes the loop; done() is called there. Threads end when there is nothing to ask.
 * Possible failure modes are: no thread can be made and there is none (start fails); servers that do not
 * answer – threads that have waited for STUCK_MS do not count, so that there are others for the next names,
 * up to THREADS_MAX, and names whose last look-up was slow get no more than THREADS_SLOW; the loop ends first
 * (what is queued is dropped, what is under way is abandoned).
 */
#include "net/internal.h"

#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#define THREADS      16 /* that have begun of late */
#define THREADS_MAX  64
#define THREADS_SLOW 8
#define STUCK_MS     1000
#define RECORDS_MAX  1024 /* of an answer; what is behind is not looked at */

enum progress { QUEUED, UNDER_WAY, ANSWERED };

/* Belongs to whoever holds the lock. */
struct mg_lookups {
    pthread_mutex_t lock;
    struct mg_lookup *prompt, **prompt_end; /* queues */
    struct mg_lookup *slow, **slow_end;
    struct mg_lookup *done, *under_way;
    unsigned threads, threads_slow; /* running; of them, with a slow one */
    unsigned refs;                  /* threads, and the loop's */
    uv_async_t *async;              /* owned by the loop's side */
    struct mg_net *net;             /* likewise */
};

static void
lookup_free(struct mg_lookup *l)
{
    mg_free(l->addrs);
    mg_free(l);
}

static void
queue_free(struct mg_lookup *l)
{
    while (l != NULL) {
        struct mg_lookup *next = l->next;

        lookup_free(l);
        l = next;
    }
}

/* With the lock, which it gives back. */
static void
pool_unref(struct mg_lookups *pool)
{
    bool last = --pool->refs == 0;

    pthread_mutex_unlock(&pool->lock);
    if (!last)
        return;
    pthread_mutex_destroy(&pool->lock);
    mg_free(pool);
}

/* ---- in a thread ----------------------------------------------------------------------------- */

static int
addr_compare(const void *a, const void *b)
{
    const struct mg_addr *x = a, *y = b;

    return x->len != y->len ? (x->len < y->len ? -1 : 1) : memcmp(&x->u, &y->u, x->len);
}

/* Where there are more than MG_RESOLVE_MAX they are in an order that is the same each time. */
static int
answer_keep(struct mg_lookup *l, const struct addrinfo *list)
{
    size_t count = 0;

    for (const struct addrinfo *ai = list; ai != NULL && count < RECORDS_MAX; ai = ai->ai_next)
        count += ai->ai_addrlen <= sizeof(l->addrs[0].u);
    l->addrs = count > 0 ? mg_calloc(count, sizeof(*l->addrs)) : NULL;
    if (l->addrs == NULL)
        return count > 0 ? UV_ENOMEM : UV_EAI_NODATA;
    for (; l->count < count; list = list->ai_next) {
        if (list->ai_addrlen > sizeof(l->addrs[0].u))
            continue;
        l->addrs[l->count].len = list->ai_addrlen;
        memcpy(&l->addrs[l->count++].u, list->ai_addr, list->ai_addrlen);
    }
    if (l->count > MG_RESOLVE_MAX)
        qsort(l->addrs, l->count, sizeof(*l->addrs), addr_compare);
    return 0;
}

/* libuv's code for getaddrinfo's. */
static int
error_translate(int error)
{
    switch (error) {
    case EAI_AGAIN:
        return UV_EAI_AGAIN;
    case EAI_FAIL:
        return UV_EAI_FAIL;
    case EAI_MEMORY:
        return UV_EAI_MEMORY;
#ifdef EAI_NODATA
    case EAI_NODATA:
        return UV_EAI_NODATA;
#endif
    case EAI_SYSTEM: /* no descriptor for a socket or a file, most of all */
        return UV_EAI_AGAIN;
    default:
        return UV_EAI_NONAME;
    }
}

static void
ask(struct mg_lookup *l)
{
    static const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct addrinfo *list = NULL;
    int error = getaddrinfo(l->host, NULL, &hints, &list);

    l->status = error != 0 ? error_translate(error) : answer_keep(l, list);
    l->took_ms = (mg_now_ns() - l->began_ns) / 1000000u;
    if (error == 0)
        freeaddrinfo(list);
}

/* The next one to ask, with the lock. */
static struct mg_lookup *
queue_take(struct mg_lookups *pool)
{
    bool slow = pool->prompt == NULL;
    struct mg_lookup **head = slow ? &pool->slow : &pool->prompt, *l = *head;

    if (l == NULL || (slow && pool->threads_slow >= THREADS_SLOW))
        return NULL;
    *head = l->next;
    if (*head == NULL)
        *(slow ? &pool->slow_end : &pool->prompt_end) = head;
    pool->threads_slow += slow;
    l->progress = UNDER_WAY;
    l->began_ns = mg_now_ns();
    l->next = pool->under_way;
    pool->under_way = l;
    return l;
}

static void
under_way_remove(struct mg_lookups *pool, const struct mg_lookup *l)
{
    struct mg_lookup **at = &pool->under_way;

    while (*at != l)
        at = &(*at)->next;
    *at = l->next;
}

static void *
thread_run(void *data)
{
    struct mg_lookups *pool = data;
    struct mg_lookup *l;

    pthread_mutex_lock(&pool->lock);
    while ((l = queue_take(pool)) != NULL) {
        pthread_mutex_unlock(&pool->lock);
        ask(l);
        pthread_mutex_lock(&pool->lock);
        pool->threads_slow -= l->slow;
        under_way_remove(pool, l);
        l->progress = ANSWERED;
        if (l->abandoned) {
            lookup_free(l);
            continue;
        }
        l->next = pool->done;
        pool->done = l;
        uv_async_send(pool->async); /* somebody waits for it, so the loop is there */
    }
    pool->threads--;
    pool_unref(pool);
    return NULL;
}

/* ---- on the loop ----------------------------------------------------------------------------- */

static void
on_done(uv_async_t *async)
{
    struct mg_lookups *pool = async->data;
    struct mg_lookup *list;

    pthread_mutex_lock(&pool->lock);
    list = pool->done;
    pool->done = NULL;
    pthread_mutex_unlock(&pool->lock);
    while (list != NULL) {
        struct mg_lookup *l = list;

        list = l->next;
        if (!l->abandoned)
            l->done(l);
        lookup_free(l);
    }
}

static struct mg_lookups *
pool_get(struct mg_net *net)
{
    struct mg_lookups *pool = net->lookups;

    if (pool != NULL)
        return pool;
    pool = mg_calloc(1, sizeof(*pool));
    if (pool == NULL)
        return NULL;
    pool->async = mg_malloc(sizeof(*pool->async));
    if (pool->async == NULL || uv_async_init(net->loop, pool->async, on_done) != 0) {
        mg_free(pool->async);
        mg_free(pool);
        return NULL;
    }
    pthread_mutex_init(&pool->lock, NULL);
    pool->async->data = pool;
    pool->prompt_end = &pool->prompt;
    pool->slow_end = &pool->slow;
    pool->net = net;
    pool->refs = 1;
    net->lookups = pool;
    mg_net_hold(net);
    return pool;
}

/* With the lock. Signals are for the loop's thread. */
static int
thread_start(struct mg_lookups *pool)
{
    pthread_attr_t attr;
    pthread_t thread;
    sigset_t all, before;
    int error;

    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    error = pthread_create(&thread, &attr, thread_run, pool);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    if (error != 0)
        return -error;
    pool->threads++;
    pool->refs++;
    return 0;
}

/* With the lock. Whether one more may be asked beside those under way. */
static bool
thread_wanted(const struct mg_lookups *pool)
{
    uint64_t now = mg_now_ns();
    unsigned stuck = 0;

    for (const struct mg_lookup *l = pool->under_way; l != NULL; l = l->next)
        stuck += now - l->began_ns >= STUCK_MS * 1000000ull;
    return pool->threads - stuck < THREADS && pool->threads < THREADS_MAX;
}

struct mg_lookup *
mg_lookup_start(struct mg_net *net, const char *host, bool slow,
                void (*done)(struct mg_lookup *lookup), void *data)
{
    struct mg_lookups *pool = pool_get(net);
    size_t len = strlen(host) + 1;
    struct mg_lookup *l = pool != NULL ? mg_calloc(1, sizeof(*l) + len) : NULL;
    struct mg_lookup ***end;

    if (l == NULL)
        return NULL;
    memcpy(l->host, host, len);
    l->pool = pool;
    l->slow = slow;
    l->done = done;
    l->data = data;
    pthread_mutex_lock(&pool->lock);
    if (thread_wanted(pool) && thread_start(pool) != 0 && pool->threads == 0) {
        pthread_mutex_unlock(&pool->lock);
        lookup_free(l);
        return NULL;
    }
    end = slow ? &pool->slow_end : &pool->prompt_end;
    **end = l;
    *end = &l->next;
    pthread_mutex_unlock(&pool->lock);
    return l;
}

bool
mg_lookups_help(struct mg_net *net)
{
    struct mg_lookups *pool = net->lookups;
    bool queued;

    if (pool == NULL)
        return false;
    pthread_mutex_lock(&pool->lock);
    for (const struct mg_lookup *l = pool->prompt; l != NULL && thread_wanted(pool); l = l->next)
        if (thread_start(pool) != 0)
            break;
    queued = pool->prompt != NULL;
    pthread_mutex_unlock(&pool->lock);
    return queued;
}

/* What is queued is taken out; its thread, if it was to have one, ends for want of work. */
static bool
queue_remove(struct mg_lookups *pool, struct mg_lookup *l)
{
    struct mg_lookup **head = l->slow ? &pool->slow : &pool->prompt;
    struct mg_lookup ***end = l->slow ? &pool->slow_end : &pool->prompt_end;

    if (l->progress != QUEUED)
        return false;
    while (*head != l)
        head = &(*head)->next;
    *head = l->next;
    if (*head == NULL)
        *end = head;
    return true;
}

void
mg_lookup_abandon(struct mg_lookup *l)
{
    struct mg_lookups *pool;
    bool mine;

    if (l == NULL)
        return;
    pool = l->pool;
    pthread_mutex_lock(&pool->lock);
    l->abandoned = true;
    mine = queue_remove(pool, l);
    pthread_mutex_unlock(&pool->lock); /* otherwise it goes with its thread, or in on_done */
    if (mine)
        lookup_free(l);
}

static void
on_async_close(uv_handle_t *handle)
{
    struct mg_lookups *pool = handle->data;
    struct mg_net *net = pool->net;

    mg_free(pool->async);
    pthread_mutex_lock(&pool->lock);
    queue_free(pool->done);
    pool_unref(pool);
    mg_net_release(net);
}

void
mg_lookups_close(struct mg_net *net)
{
    struct mg_lookups *pool = net->lookups;

    if (pool == NULL)
        return;
    net->lookups = NULL;
    uv_close((uv_handle_t *)pool->async, on_async_close);
}
