/*
 * Which address of a backend a connection gets.
 *
 * The happy path is: of the addresses that are ready the balance picks one, and the connection is counted
 * in. Possible failure modes are: none is ready – then a backup address, then one that rests, never one that
 * probes say is down; max_connections is reached (counted first and asked then, as listeners do, so that
 * of two workers that see the last room none or one takes it) – then the others in its place; none is left.
 *
 * How many connections an address has is counted over all workers. Whose turn it is (round_robin) is each
 * worker's own: all of them are even, so their sum is.
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
    return address->weight > 0 ? address->weight : 1;
}

static int64_t
open_of(const struct mg_backend_address *address)
{
    return address->shared != NULL ? mg_shared_address_open(address->shared)
                                   : (int64_t)address->active;
}

/* How busy a is beside b: < 0, 0, > 0. */
static int64_t
load_compare(const struct mg_backend_address *a, const struct mg_backend_address *b)
{
    return open_of(a) * weight_of(b) - open_of(b) * weight_of(a);
}

/* ---- the rules ------------------------------------------------------------------------------- */

static size_t
first(const struct mg_backend *backend, const bool *may)
{
    size_t i = 0;

    while (i + 1 < backend->address_count && !may[i])
        i++;
    return i;
}

/* By weight, but not `other`; backend->address_count if that leaves none. */
static size_t
drawn(const struct mg_backend *backend, const bool *may, size_t other, uint64_t *random)
{
    uint64_t total = 0, at;
    size_t i = 0;

    for (size_t n = 0; n < backend->address_count; n++)
        total += may[n] && n != other ? weight_of(&backend->addresses[n]) : 0;
    if (total == 0)
        return backend->address_count;
    at = random_next(random) % total;
    for (;; i++) {
        uint64_t weight = may[i] && i != other ? weight_of(&backend->addresses[i]) : 0;

        if (at < weight)
            return i;
        at -= weight;
    }
}

/* Of two drawn at random the one with fewer connections: nearly as even as asking all of them. */
static size_t
random_two(const struct mg_backend *backend, const bool *may, uint64_t *random)
{
    size_t none = backend->address_count, a = drawn(backend, may, none, random);
    size_t b = drawn(backend, may, a, random);

    return b != none && load_compare(&backend->addresses[b], &backend->addresses[a]) < 0 ? b : a;
}

/*
 * nginx's smooth weighting: whoever may be picked has waited by its weight, who waited longest is picked and
 * has waited that much less. With `like` only those that are as busy as that one.
 */
static size_t
in_turn(struct mg_backend *backend, const bool *may, const struct mg_backend_address *like)
{
    size_t best = backend->address_count;
    int64_t total = 0;

    for (size_t i = 0; i < backend->address_count; i++) {
        struct mg_backend_address *address = &backend->addresses[i];

        if (!may[i] || (like != NULL && address != like && load_compare(address, like) != 0))
            continue;
        address->turn += weight_of(address);
        total += weight_of(address);
        if (best == backend->address_count || address->turn > backend->addresses[best].turn)
            best = i;
    }
    backend->addresses[best].turn -= total;
    return best;
}

static size_t
least_connections(struct mg_backend *backend, const bool *may)
{
    size_t best = first(backend, may);

    for (size_t i = best + 1; i < backend->address_count; i++)
        if (may[i] && load_compare(&backend->addresses[i], &backend->addresses[best]) < 0)
            best = i;
    return in_turn(backend, may, &backend->addresses[best]);
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

static size_t
source_hash(const struct mg_backend *backend, const bool *may, const unsigned char ip[16])
{
    size_t best = backend->address_count;
    double lowest = 0;

    for (size_t i = 0; i < backend->address_count; i++) {
        const struct mg_backend_address *address = &backend->addresses[i];
        double draw;

        if (!may[i])
            continue;
        draw = source_draw(address->text, ip) / weight_of(address);
        if (best == backend->address_count || draw < lowest) {
            best = i;
            lowest = draw;
        }
    }
    return best;
}

size_t
mg_balance_pick(struct mg_backend *backend, const bool *may, const struct mg_addr *client,
                uint64_t *random)
{
    unsigned char ip[16];

    switch (backend->balance) {
    case MG_BALANCE_ROUND_ROBIN:
        return in_turn(backend, may, NULL);
    case MG_BALANCE_LEAST_CONNECTIONS:
        return least_connections(backend, may);
    case MG_BALANCE_FIRST:
        return first(backend, may);
    case MG_BALANCE_SOURCE_HASH:
        if (client != NULL && mg_addr_ip16(client, ip))
            return source_hash(backend, may, ip);
        break; /* a unix socket's clients are not all one */
    default:
        break;
    }
    return random_two(backend, may, random);
}

unsigned
mg_balance_record(struct mg_session *s, const struct mg_addr *addrs, size_t count)
{
    unsigned char ip[16];
    unsigned best = 0;
    double lowest = 0;

    if (s->backend->balance == MG_BALANCE_FIRST)
        return 0;
    if (s->backend->balance != MG_BALANCE_SOURCE_HASH || !mg_addr_ip16(s->remote, ip))
        return s->address->next++;
    for (unsigned i = 0; i < count; i++) {
        char text[MG_ADDR_TEXT];
        double draw = source_draw(mg_addr_text(&addrs[i], text), ip);

        if (i == 0 || draw < lowest) {
            best = i;
            lowest = draw;
        }
    }
    return best;
}

/* ---- counting -------------------------------------------------------------------------------- */

static bool
is_full(const struct mg_backend *backend, const struct mg_backend_address *address, int64_t more)
{
    return backend->max_connections > 0 && open_of(address) + more > backend->max_connections;
}

static void
count_add(struct mg_backend_address *address, int by)
{
    address->active += (unsigned)by;
    if (address->shared != NULL)
        atomic_fetch_add(&address->shared->open[address->worker], by);
}

void
mg_balance_leave(struct mg_session *s)
{
    if (s->address != NULL)
        count_add(s->address, -1);
    s->address = NULL;
    s->trial = false;
}

/* false: others were faster. */
static bool
enter(struct mg_session *s, struct mg_backend_address *address, enum mg_fitness fitness)
{
    count_add(address, 1);
    if (is_full(s->backend, address, 0) ||
        (fitness == MG_FIT_TRIAL && !mg_health_try(s->backend, address))) {
        count_add(address, -1);
        return false;
    }
    s->address = address;
    s->trial = fitness == MG_FIT_TRIAL;
    s->downs = address->shared != NULL ? atomic_load(&address->shared->downs) : 0;
    address->used++;
    return true;
}

/* ---- the next one ---------------------------------------------------------------------------- */

/* The order in which addresses are taken into account; RANKS: never. */
enum { RANKS = 4 };

static unsigned
rank_of(const struct mg_backend_address *address, enum mg_fitness fitness)
{
    if (fitness == MG_FIT_DOWN)
        return RANKS;
    return (fitness == MG_FIT_RESTS ? 2u : 0u) + (address->backup ? 1u : 0u);
}

static bool
rank_next(struct mg_session *s, const bool *tried, bool *may, unsigned rank, size_t *entry,
          bool *full)
{
    struct mg_backend *backend = s->backend;
    size_t left = 0;

    for (size_t i = 0; i < backend->address_count; i++) {
        const struct mg_backend_address *address = &backend->addresses[i];

        may[i] = !tried[i] && rank_of(address, mg_health_fitness(backend, address)) == rank;
        if (may[i] && is_full(backend, address, 1)) {
            may[i] = false;
            *full = true;
        }
        left += may[i];
    }
    for (; left > 0; left--) {
        size_t i = mg_balance_pick(backend, may, s->remote, &s->engine->random);
        struct mg_backend_address *address = &backend->addresses[i];

        if (enter(s, address, mg_health_fitness(backend, address))) {
            *entry = i;
            return true;
        }
        may[i] = false;
        *full = *full || backend->max_connections > 0;
    }
    return false;
}

bool
mg_balance_next(struct mg_session *s, const bool *tried, bool *room, size_t *entry,
                const char **reason)
{
    bool full = false;

    for (unsigned rank = 0; rank < RANKS; rank++)
        if (rank_next(s, tried, room, rank, entry, &full))
            return true;
    *reason = full ? "up: all addresses full" : "up: all addresses down";
    return false;
}
