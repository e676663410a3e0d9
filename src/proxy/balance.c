/*
 * Which address of a backend a connection gets.
 *
 * The happy path is: of the addresses that are ready the balance picks one, and the connection is counted
 * in. Possible failure modes are: none is ready – then one that others were faster than of late, then (if there
 * is a name without an answer) the dial waits for its addresses, then the same with backup addresses, then one
 * that rests, never one that probes say is down; max_connections is reached (counted first and asked then, as
 * listeners do, so that of two workers that see the last room none or one takes it) – then the others in
 * its place; none is left.
 *
 * How many connections an address has is counted over all workers, and whose turn it is as well: each address has
 * a pass, the least one is picked and moves on by 1 / weight. Who could not be picked meanwhile, or is new, is put
 * where the picked one was, so that nobody catches up.
 *
 * A dial marks what has had its turn; whether an address may be picked is noted in the address itself, which is
 * for the time of one call.
 */
#include "proxy/internal.h"

#include <math.h>
#include <string.h>

const char *const mg_balance_names[] = {"random_two",  "round_robin", "least_connections",
                                        "source_hash", "first",       NULL};

static uint64_t
random_next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static unsigned
weight_of(const struct mg_backend_address *address)
{
    return address->entry->weight > 0 ? address->entry->weight : 1;
}

static int64_t
open_of(const struct mg_backend_address *address)
{
    return address->shared != NULL ? mg_shared_address_open(address->shared)
                                   : (int64_t)address->active;
}

static bool
may(const struct mg_backend_address *address)
{
    return address->turn == MG_TURN_MAY;
}

/* How busy a is beside b: < 0, 0, > 0. */
static int64_t
load_compare(const struct mg_backend_address *a, const struct mg_backend_address *b)
{
    return open_of(a) * weight_of(b) - open_of(b) * weight_of(a);
}

/* ---- the rules ------------------------------------------------------------------------------- */

static struct mg_backend_address *
first(const struct mg_backend *backend)
{
    size_t i = 0;

    while (!may(backend->addresses[i]))
        i++;
    return backend->addresses[i];
}

static uint64_t
weight_drawn(const struct mg_backend_address *address, const struct mg_backend_address *other)
{
    return may(address) && address != other ? weight_of(address) : 0;
}

/* By weight, but not `other`; NULL if that leaves none. */
static struct mg_backend_address *
drawn(const struct mg_backend *backend, const struct mg_backend_address *other, uint64_t *random)
{
    uint64_t total = 0, at;

    for (size_t i = 0; i < backend->address_count; i++)
        total += weight_drawn(backend->addresses[i], other);
    if (total == 0)
        return NULL;
    at = random_next(random) % total;
    for (size_t i = 0;; i++) {
        uint64_t weight = weight_drawn(backend->addresses[i], other);

        if (at < weight)
            return backend->addresses[i];
        at -= weight;
    }
}

/* Of two drawn at random the one with fewer connections: nearly as even as asking all of them. */
static struct mg_backend_address *
random_two(const struct mg_backend *backend, uint64_t *random)
{
    struct mg_backend_address *a = drawn(backend, NULL, random), *b = drawn(backend, a, random);

    return b != NULL && load_compare(b, a) < 0 ? b : a;
}

/* ---- turns ----------------------------------------------------------------------------------- */

#define STRIDE ((uint64_t)1 << 32) /* what a pass moves on by, divided by the weight */

/* Odd, because 0 is for new ones. */
#define PASS(at) ((at) | 1)

/* They go round. */
static bool
pass_before(uint64_t a, uint64_t b)
{
    return (int64_t)(a - b) < 0;
}

static uint64_t
stride_of(const struct mg_backend_address *address)
{
    return STRIDE / weight_of(address);
}

/* Whoever has the least; of equals who has it less often, so that turns are spread. NULL: all are new; *fresh:
 * some are. */
static struct mg_backend_address *
pass_least(const struct mg_backend *backend, uint64_t *least, bool *fresh)
{
    struct mg_backend_address *best = NULL;

    *fresh = false;
    for (size_t i = 0; i < backend->address_count; i++) {
        struct mg_backend_address *address = backend->addresses[i];
        uint64_t pass;

        if (!may(address))
            continue;
        pass = atomic_load(address->pass);
        *fresh = *fresh || pass == 0;
        if (pass == 0 ||
            (best != NULL && (pass_before(*least, pass) ||
                              (pass == *least && stride_of(address) <= stride_of(best)))))
            continue;
        best = address;
        *least = pass;
    }
    return best;
}

/* Each begins half a stride in, so that of those that begin together the light ones are not first. */
static void
pass_begin(const struct mg_backend *backend, uint64_t from)
{
    for (size_t i = 0; i < backend->address_count; i++) {
        struct mg_backend_address *address = backend->addresses[i];
        uint64_t none = 0;

        if (may(address))
            atomic_compare_exchange_strong(address->pass, &none,
                                           PASS(from + stride_of(address) / 2));
    }
}

static void
pass_lift(struct mg_backend_address *address, uint64_t to)
{
    uint64_t pass = atomic_load(address->pass);

    while (pass != 0 && pass_before(pass, to) &&
           !atomic_compare_exchange_weak(address->pass, &pass, to))
        continue;
}

/* Another worker may be faster: then it is somebody else's turn. */
static struct mg_backend_address *
pass_take(const struct mg_backend *backend)
{
    struct mg_backend_address *best;
    uint64_t least = 0;
    bool fresh;

    for (;;) {
        best = pass_least(backend, &least, &fresh);
        if (fresh)
            pass_begin(backend, least);
        else if (atomic_compare_exchange_strong(best->pass, &least, PASS(least + stride_of(best))))
            break;
    }
    for (size_t i = 0; i < backend->address_count; i++)
        if (backend->addresses[i]->turn == MG_TURN_OUT)
            pass_lift(backend->addresses[i], least);
    return best;
}

static struct mg_backend_address *
least_connections(const struct mg_backend *backend)
{
    struct mg_backend_address *best = first(backend);

    for (size_t i = 0; i < backend->address_count; i++)
        if (may(backend->addresses[i]) && load_compare(backend->addresses[i], best) < 0)
            best = backend->addresses[i];
    for (size_t i = 0; i < backend->address_count; i++) {
        struct mg_backend_address *address = backend->addresses[i];

        if (may(address) && address != best && load_compare(address, best) != 0)
            address->turn = MG_TURN_OUT;
    }
    return pass_take(backend); /* of those that are as busy as that one */
}

/*
 * Rendezvous: each address draws a number from the client's IP and its own text, the smallest wins. Who goes
 * takes nothing along but its own clients, and brings them back; with weights the draws are exponentially
 * distributed, so that each wins by its share.
 */
static double
source_draw(const char *address, const unsigned char ip[16])
{
    uint64_t key[2] = {0x6d6f6f6e67617465, mg_str_hash(address, strlen(address))};
    double chance =
        ((double)(mg_names_hash(key, (const char *)ip, 16) >> 11) + 0.5) / 9007199254740992.0;

    return -log(chance);
}

static struct mg_backend_address *
source_hash(const struct mg_backend *backend, const unsigned char ip[16])
{
    struct mg_backend_address *best = NULL;
    double lowest = 0;

    for (size_t i = 0; i < backend->address_count; i++) {
        struct mg_backend_address *address = backend->addresses[i];
        double draw;

        if (!may(address))
            continue;
        draw = source_draw(address->text, ip) / weight_of(address);
        if (best == NULL || draw < lowest) {
            best = address;
            lowest = draw;
        }
    }
    return best;
}

struct mg_backend_address *
mg_balance_pick(struct mg_backend *backend, const struct mg_addr *client, uint64_t *random)
{
    unsigned char ip[16];

    switch (backend->balance) {
    case MG_BALANCE_ROUND_ROBIN:
        return pass_take(backend);
    case MG_BALANCE_LEAST_CONNECTIONS:
        return least_connections(backend);
    case MG_BALANCE_FIRST:
        return first(backend);
    case MG_BALANCE_SOURCE_HASH:
        if (client != NULL && mg_addr_ip16(client, ip))
            return source_hash(backend, ip);
        break; /* a unix socket's clients are not all one */
    default:
        break;
    }
    return random_two(backend, random);
}

/* ---- counting -------------------------------------------------------------------------------- */

static bool
is_full(const struct mg_backend_address *address, int64_t more)
{
    int64_t most = address->entry->backend->max_connections;

    return most > 0 && open_of(address) + more > most;
}

static void
count_add(struct mg_backend_address *address, int by)
{
    address->active += (unsigned)by;
    if (address->shared != NULL)
        atomic_fetch_add(&address->shared->open[address->entry->backend->engine->options.worker],
                         by);
}

void
mg_balance_leave(struct mg_backend_address *address)
{
    count_add(address, -1);
    mg_backend_address_unref(address);
}

/* What others were faster to do, or to find out. */
enum entered { ENTERED, IS_FULL, IS_RESTING, IS_DOWN };

static enum entered
enter(struct mg_backend_address *address, struct mg_pick *pick)
{
    enum mg_fitness fitness = mg_health_fitness(address);
    bool trial;

    if (fitness == MG_FIT_DOWN)
        return IS_DOWN;
    count_add(address, 1);
    if (is_full(address, 0)) {
        count_add(address, -1);
        return IS_FULL;
    }
    trial = fitness == MG_FIT_TRIAL && mg_health_try(address);
    if (fitness != MG_FIT_READY && !trial && !pick->rests) {
        count_add(address, -1);
        return IS_RESTING;
    }
    mg_backend_address_ref(address);
    address->used++;
    pick->address = address;
    pick->trial = trial;
    return ENTERED;
}

/* ---- the next one ---------------------------------------------------------------------------- */

/* The order in which things are taken into account: what is not backup first, then ... */
enum {
    READY,
    OVERTAKEN,
    EXPECTED, /* of a name that is being looked up for the first time */
    BACKUP,   /* the same three */
    RESTS = 2 * BACKUP,
    UNANSWERED = RESTS + 2, /* the look-up of such a name has failed */
    RANKS = UNANSWERED + 2,
    NEVER = 2 * RANKS /* siblings have twice as many */
};

static unsigned
address_rank(const struct mg_session *s, const struct mg_backend_address *address)
{
    unsigned backup = address->entry->backup;

    switch (mg_health_fitness(address)) {
    case MG_FIT_DOWN:
        return NEVER;
    case MG_FIT_RESTS:
        return RESTS + backup;
    default:
        return (address->shunned_until > uv_now(s->engine->net.loop) ? OVERTAKEN : READY) +
               backup * BACKUP;
    }
}

static unsigned
entry_rank(const struct mg_backend_entry *entry)
{
    return entry->unanswered ? UNANSWERED + entry->backup : EXPECTED + entry->backup * BACKUP;
}

/* What is asked of addresses. */
struct question {
    struct mg_session *s;
    uint64_t mark;
    const struct mg_source *source;
    struct mg_pick *pick;
    bool siblings; /* it is instead of another one: of those that rest none comes in later */
    bool full, unreachable; /* there was one that is */
};

/* NEVER: not to be had, or had. */
static unsigned
rank_of(struct question *q, const struct mg_backend_address *address)
{
    unsigned rank;

    if (address->gone || address->mark == q->mark)
        return NEVER;
    rank = address_rank(q->s, address);
    if (rank == NEVER)
        return NEVER;
    if (!mg_source_reaches(q->source, &address->addr)) {
        q->unreachable = true;
        return NEVER;
    }
    if (is_full(address, 1)) {
        q->full = true;
        return NEVER;
    }
    return rank;
}

/* One of those with the lowest rank, `best`; `others` is what the others have had. false: somebody was faster,
 * that one has another rank. */
static bool
best_enter(struct question *q, unsigned best, enum mg_turn others)
{
    struct mg_backend *backend = q->s->backend;
    struct mg_backend_address *address;

    for (size_t i = 0; i < backend->address_count; i++) {
        address = backend->addresses[i];
        address->turn = address->rank == best      ? MG_TURN_MAY
                        : address->mark == q->mark ? MG_TURN_HAD
                                                   : others;
    }
    address = mg_balance_pick(backend, q->s->remote, &q->s->engine->random);
    switch (enter(address, q->pick)) {
    case ENTERED:
        return true;
    case IS_RESTING:
        address->rank = q->siblings ? NEVER : RESTS + address->entry->backup;
        break;
    case IS_FULL:
        q->full = true;
        address->rank = NEVER;
        break;
    case IS_DOWN:
        address->rank = NEVER;
        break;
    }
    return false;
}

static unsigned
rank_best(const struct mg_backend *backend)
{
    unsigned best = NEVER;

    for (size_t i = 0; i < backend->address_count; i++)
        if (backend->addresses[i]->rank < best)
            best = backend->addresses[i]->rank;
    return best;
}

/* The first of the best of the names without addresses, if that would be better than `best`. */
static struct mg_backend_entry *
entry_best(const struct question *q, unsigned best)
{
    struct mg_backend *backend = q->s->backend;
    struct mg_backend_entry *found = NULL;

    for (size_t i = 0; i < backend->entry_count; i++) {
        struct mg_backend_entry *entry = &backend->entries[i];

        if (entry->resolver == NULL || entry->address_count > 0 || entry->mark == q->mark ||
            entry_rank(entry) >= best)
            continue;
        found = entry;
        best = entry_rank(entry);
    }
    return found;
}

static void
reason_set(const struct question *q)
{
    if (q->full) {
        q->pick->reason = "up: all addresses full";
    } else if (q->unreachable) {
        q->pick->reason = "up: source not usable";
        q->pick->detail = "it is not of the address's family";
    } else {
        q->pick->reason = "up: all addresses down";
    }
}

enum mg_pick_kind
mg_balance_next(struct mg_session *s, uint64_t mark, const struct mg_source *source,
                struct mg_pick *pick)
{
    struct question q = {.s = s, .mark = mark, .source = source, .pick = pick};
    struct mg_backend *backend = s->backend;
    unsigned best;

    *pick = (struct mg_pick){0};
    for (size_t i = 0; i < backend->address_count; i++)
        backend->addresses[i]->rank = rank_of(&q, backend->addresses[i]);
    for (;;) {
        best = rank_best(backend);
        pick->entry = entry_best(&q, best);
        if (pick->entry != NULL)
            return MG_PICK_WAIT;
        if (best >= NEVER)
            break;
        pick->rests = best >= RESTS;
        if (best_enter(&q, best, MG_TURN_OUT))
            return MG_PICK_ADDRESS;
    }
    reason_set(&q);
    return MG_PICK_NONE;
}

/* The lower the better. */
static unsigned
sibling_rank(struct question *q, const struct mg_backend_address *address,
             const struct mg_backend_address *last, bool rests)
{
    unsigned rank = rank_of(q, address);

    if (rank == NEVER || (rank >= RESTS && !rests))
        return NEVER;
    return 2 * rank + (address->addr.u.sa.sa_family == last->addr.u.sa.sa_family);
}

bool
mg_balance_sibling(struct mg_session *s, uint64_t mark, const struct mg_source *source,
                   const struct mg_backend_address *last, bool rests, struct mg_pick *pick)
{
    struct question q = {.s = s, .mark = mark, .source = source, .pick = pick, .siblings = true};
    unsigned best;

    *pick = (struct mg_pick){.rests = rests};
    for (size_t i = 0; i < s->backend->address_count; i++)
        s->backend->addresses[i]->rank = NEVER;
    for (struct mg_backend_address *a = last->entry->addresses; a != NULL; a = a->next)
        a->rank = sibling_rank(&q, a, last, rests);
    while ((best = rank_best(s->backend)) < NEVER)
        if (best_enter(&q, best, MG_TURN_HAD)) /* they are not asked, so they lose no turn */
            return true;
    return false;
}
