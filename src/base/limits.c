/*
 * What is counted per client over all workers: open connections, and the rate of what comes.
 *
 * Keys are numbers that whoever asks has made with the secret below, so that nobody outside can choose
 * where in a table he is. A key is looked for in a WINDOW of neighbouring rows. Nothing waits, nothing
 * is kept twice, and a process may be killed anywhere: the tables stay true, or err by one for a moment.
 *
 * Connections: every worker has a table of its own, which it alone writes; the sum over all tables counts. So the
 * supervisor takes back what a dead worker had by clearing its table. Whoever finds its window full –
 * tens of thousands of different clients are connected to this worker then – is not counted.
 *
 * Rates: a token bucket is one number, the time at which it is full again; what costs a token moves it on by
 * one interval, and whoever would move it further than the bucket is deep gets none. All workers share one table. A row
 * whose time has come is as good as an empty one. If there is none, the one that is full soonest gives way, so that
 * a client who owes much is not driven out by others who owe little: to get rid of one row an attacker
 * has to spend more tokens on each of WINDOW rows whose place he cannot choose, all of them taken from the listener's bucket,
 * too.
 */
#include "base/base.h"

#include <string.h>
#include <sys/random.h>

#define WINDOW 32

/* ---- the secret ------------------------------------------------------------------------------ */

static uint64_t
secret_part(_Atomic uint64_t *part)
{
    uint64_t none = 0, drawn = atomic_load(part);

    if (drawn != 0)
        return drawn;
    if (getentropy(&drawn, sizeof(drawn)) != 0)
        drawn = mg_now_ns(); /* a kernel without it */
    drawn |= 1;
    return atomic_compare_exchange_strong(part, &none, drawn) ? drawn : none;
}

void
mg_limits_secret(struct mg_shared *shared, uint64_t out[2])
{
    out[0] = secret_part(&shared->limits.secret[0]);
    out[1] = secret_part(&shared->limits.secret[1]);
}

/* ---- clients --------------------------------------------------------------------------------- */

bool
mg_limits_client(const struct mg_addr *addr, unsigned char out[MG_LIMITS_CLIENT])
{
    struct in6_addr ip;

    memset(out, 0, MG_LIMITS_CLIENT);
    if (!mg_addr_ip16(addr, ip.s6_addr))
        return false;
    if (IN6_IS_ADDR_V4MAPPED(&ip)) {
        memcpy(out + 1, ip.s6_addr + 12, 4);
    } else {
        out[0] = 1;
        memcpy(out + 1, ip.s6_addr, 8);
    }
    return true;
}

/* ---- connections ----------------------------------------------------------------------------- */

static size_t
count_place(uint64_t key, size_t i)
{
    return (size_t)((key + i) % MG_LIMITS_COUNTS);
}

/* The row of that key, else of nobody, else -1. Only its worker may ask. */
static int32_t
count_find(struct mg_limits_count *table, uint64_t key)
{
    int32_t unused = -1;

    for (size_t i = 0; i < WINDOW; i++) {
        size_t place = count_place(key, i);

        if (atomic_load(&table[place].count) == 0)
            unused = unused < 0 ? (int32_t)place : unused;
        else if (atomic_load(&table[place].key) == key)
            return (int32_t)place;
    }
    return unused;
}

/* Of any worker. A row that changes hands meanwhile is not counted. */
static uint32_t
count_of(const struct mg_limits_count *table, uint64_t key)
{
    for (size_t i = 0; i < WINDOW; i++) {
        const struct mg_limits_count *row = &table[count_place(key, i)];
        uint32_t count;

        if (atomic_load(&row->key) != key)
            continue;
        count = atomic_load(&row->count);
        if (count > 0 && atomic_load(&row->key) == key)
            return count;
    }
    return 0;
}

static uint64_t
count_sum(const struct mg_limits *limits, uint64_t key)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < MG_SHARED_WORKERS; i++)
        if (atomic_load(&limits->used[i]) != 0)
            sum += count_of(limits->counts[i], key);
    return sum;
}

/* `used` is more than 0 before the first row is and after the last one was. */
static void
count_add(struct mg_limits *limits, unsigned worker, int32_t place, uint64_t key)
{
    struct mg_limits_count *row = &limits->counts[worker][place];

    atomic_fetch_add(&limits->used[worker], 1);
    if (atomic_load(&row->count) == 0)
        atomic_store(&row->key, key);
    atomic_fetch_add(&row->count, 1);
}

int32_t
mg_limits_enter(struct mg_shared *shared, unsigned worker, uint64_t key, uint64_t most)
{
    struct mg_limits *limits = &shared->limits;
    int32_t place = count_find(limits->counts[worker], key);

    if (place < 0)
        return MG_LIMITS_UNCOUNTED;
    /* Counts first and asks then. Two who do so at once may both stand back from one free place: then
     * each tries again. */
    for (int tries = 0; tries < 16; tries++) {
        count_add(limits, worker, place, key);
        if (count_sum(limits, key) <= most)
            return place;
        mg_limits_leave(shared, worker, place);
        if (count_sum(limits, key) >= most)
            return MG_LIMITS_REFUSED;
    }
    return MG_LIMITS_REFUSED;
}

void
mg_limits_leave(struct mg_shared *shared, unsigned worker, int32_t place)
{
    atomic_fetch_sub(&shared->limits.counts[worker][place].count, 1);
    atomic_fetch_sub(&shared->limits.used[worker], 1);
}

void
mg_limits_forget(struct mg_shared *shared, unsigned worker)
{
    struct mg_limits *limits = &shared->limits;

    if (atomic_load(&limits->used[worker]) == 0)
        return; /* its pages need not come to be */
    for (size_t i = 0; i < MG_LIMITS_COUNTS; i++)
        if (atomic_load(&limits->counts[worker][i].count) != 0)
            atomic_store(&limits->counts[worker][i].count, 0);
    atomic_store(&limits->used[worker], 0);
}

/* ---- rates ----------------------------------------------------------------------------------- */

bool
mg_bucket_take(_Atomic uint64_t *full_at, const struct mg_rate *rate, uint64_t now)
{
    uint64_t seen = atomic_load(full_at), latest = now + rate->depth_ns, next;

    if (seen > latest && /* the rate was another one when that was written */
        atomic_compare_exchange_strong(full_at, &seen, latest))
        seen = latest;
    do {
        next = (seen > now ? seen : now) + rate->interval_ns;
        if (next > latest)
            return false;
    } while (!atomic_compare_exchange_weak(full_at, &seen, next));
    return true;
}

void
mg_bucket_give_back(_Atomic uint64_t *full_at, const struct mg_rate *rate)
{
    atomic_fetch_sub(full_at, rate->interval_ns);
}

_Atomic uint64_t *
mg_limits_bucket(struct mg_shared *shared, uint64_t key)
{
    struct mg_limits_rate *rates = shared->limits.rates, *soonest = NULL;
    uint64_t least = UINT64_MAX, owner;

    for (size_t i = 0; i < WINDOW; i++) {
        struct mg_limits_rate *row = &rates[(key + i) % MG_LIMITS_RATES];
        uint64_t full_at = atomic_load(&row->full_at);

        if (atomic_load(&row->key) == key)
            return &row->full_at;
        if (full_at < least) {
            least = full_at;
            soonest = row;
        }
    }
    owner = atomic_load(&soonest->key);
    if (atomic_compare_exchange_strong(&soonest->key, &owner, key))
        atomic_store(&soonest->full_at, 0);
    return &soonest->full_at; /* else somebody was faster, and they share it */
}

void
mg_rate_set(struct mg_rate *rate, double per_second, double burst)
{
    rate->interval_ns = (uint64_t)(1e9 / per_second);
    rate->depth_ns = (uint64_t)(1e9 / per_second * burst);
}
