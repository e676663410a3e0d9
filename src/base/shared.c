/* Counters that the supervisor and all workers share: one mapping, atomics only. */
#include "base/base.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

int
mg_shared_fix_size(int fd)
{
#ifdef MG_HAVE_MEMFD
    return fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
#else
    (void)fd;
    return 0;
#endif
}

int
mg_shared_memory(const char *name, size_t size, struct mg_err *err)
{
#ifdef MG_HAVE_MEMFD
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
#else
    char path[] = "/tmp/moongate-shared-XXXXXX";
    int fd = mkostemp(path, O_CLOEXEC);
    if (fd >= 0)
        unlink(path);
#endif
    if (fd < 0) {
        mg_err_set(err, "%s", name);
        return -1;
    }
    if (ftruncate(fd, (off_t)size) != 0 || mg_shared_fix_size(fd) != 0) {
        mg_err_set(err, "%s: %zu bytes", name, size);
        close(fd);
        return -1;
    }
    return fd;
}

int
mg_shared_create(struct mg_err *err)
{
    return mg_shared_memory("moongate-counters", sizeof(struct mg_shared), err);
}

struct mg_shared *
mg_shared_map(int fd, struct mg_err *err)
{
    void *map = mmap(NULL, sizeof(struct mg_shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) {
        mg_err_set(err, "shared counters: mmap");
        return NULL;
    }
    return map;
}

void
mg_shared_unmap(struct mg_shared *shared)
{
    munmap(shared, sizeof(*shared));
}

/* ---- the tables of names: of listeners ---------------------------------------------------------------------- */

/* The holder needs microseconds, unless it was killed: then the supervisor gives the lock back. Or it does not
 * get on, and who waits for it here does not either. */
#define LOCK_PAUSE_NS    100000
#define LOCK_TRIES_BRIEF 10   /* a millisecond */
#define LOCK_TRIES_LONG  2000 /* a fifth of a second */

static bool
lock_take(struct mg_shared *shared, unsigned index, int tries)
{
    const struct timespec pause = {.tv_nsec = LOCK_PAUSE_NS};

    for (int i = 0; i < tries; i++) {
        uint32_t holder = 0;

        if (atomic_compare_exchange_strong(&shared->lock, &holder, index + 1))
            return true;
        nanosleep(&pause, NULL);
    }
    return false;
}

static int64_t
row_sum(const _Atomic int32_t row[MG_SHARED_WORKERS])
{
    int64_t sum = 0;

    for (size_t i = 0; i < MG_SHARED_WORKERS; i++)
        sum += atomic_load(&row[i]);
    return sum;
}

/* Its own slot if it has one, else the first that nobody holds. */
static struct mg_shared_listener *
slot_find(struct mg_shared *shared, uint64_t hash)
{
    struct mg_shared_listener *unused = NULL;

    for (size_t i = 0; i < MG_SHARED_LISTENERS; i++) {
        struct mg_shared_listener *slot = &shared->listener[(hash + i) % MG_SHARED_LISTENERS];
        uint64_t found = atomic_load(&slot->name_hash);

        if (found == hash)
            return slot;
        if (unused == NULL && (found == 0 || row_sum(slot->users) == 0))
            unused = slot;
        if (found == 0)
            break; /* no name was ever put behind it: slots do not become free again */
    }
    return unused;
}

static void
told_forget(struct mg_shared_told *told)
{
    uint32_t gone = MG_TELLER_GONE;

    atomic_store(&told->hit_at, 0);
    atomic_store(&told->next_at, 0);
    atomic_store(&told->count, 0);
    atomic_store(&told->since, 0);
    atomic_compare_exchange_strong(&told->teller, &gone, 0);
}

struct mg_shared_listener *
mg_shared_listener_hold(struct mg_shared *shared, const char *name, unsigned index, bool *busy)
{
    uint64_t hash = mg_str_hash(name, strlen(name));
    struct mg_shared_listener *slot;

    if (hash == 0)
        hash = 1;
    *busy = !lock_take(shared, index, LOCK_TRIES_LONG);
    if (*busy)
        return NULL;
    slot = slot_find(shared, hash);
    if (slot != NULL) {
        for (size_t i = 0; i < MG_SHARED_LIMITS && atomic_load(&slot->name_hash) != hash; i++)
            told_forget(&slot->told[i]);
        atomic_store(&slot->name_hash, hash);
        atomic_fetch_add(&slot->users[index], 1);
    }
    atomic_store(&shared->lock, 0);
    return slot;
}

void
mg_shared_listener_release(struct mg_shared_listener *slot, unsigned index)
{
    atomic_fetch_sub(&slot->users[index], 1);
}

int64_t
mg_shared_listener_open(const struct mg_shared_listener *slot)
{
    return row_sum(slot->open);
}

/* ---- addresses of backends -------------------------------------------------------------------- */

static int64_t
rows_sum(const struct mg_shared_address *slot, const _Atomic int32_t row[MG_SHARED_WORKERS])
{
    uint32_t rows = atomic_load(&slot->rows);
    int64_t sum = 0;

    for (uint32_t i = 0; i < rows && i < MG_SHARED_WORKERS; i++)
        sum += atomic_load(&row[i]);
    return sum;
}

/* Not `downs`, which others remember. */
static void
address_forget(struct mg_shared_address *slot)
{
    atomic_store(&slot->failures, 0);
    atomic_store(&slot->rests, 0);
    atomic_store(&slot->rest_until, 0);
    atomic_store(&slot->down, 0);
    atomic_store(&slot->passed, 0);
    atomic_store(&slot->missed, 0);
    atomic_store(&slot->pass, 0);
    atomic_store(&slot->since, 0);
    mg_shared_address_blame(slot, "");
}

/* Its own place if it has one, else the first that nobody holds; MG_SHARED_ADDRESSES: there is none. */
static size_t
address_find(const struct mg_shared *shared, uint64_t hash)
{
    size_t unused = MG_SHARED_ADDRESSES;

    for (size_t i = 0; i < MG_SHARED_ADDRESSES; i++) {
        size_t at = (hash + i) % MG_SHARED_ADDRESSES;
        uint64_t found = atomic_load(&shared->address_hash[at]);
        const struct mg_shared_address *slot = &shared->address[at];

        if (found == hash)
            return at;
        if (unused == MG_SHARED_ADDRESSES && (found == 0 || rows_sum(slot, slot->users) == 0))
            unused = at;
        if (found == 0)
            break;
    }
    return unused;
}

static uint64_t
address_hash(const char *backend, const char *address)
{
    uint64_t hash = mg_str_hash(backend, strlen(backend)) * 0x9e3779b97f4a7c15u ^
                    mg_str_hash(address, strlen(address));

    return hash != 0 ? hash : 1;
}

struct mg_shared_address *
mg_shared_address_hold(struct mg_shared *shared, const char *backend, const char *address,
                       unsigned index, bool *busy)
{
    uint64_t hash = address_hash(backend, address);
    struct mg_shared_address *slot = NULL;
    size_t at;

    *busy = !lock_take(shared, index, LOCK_TRIES_BRIEF);
    if (*busy)
        return NULL;
    at = address_find(shared, hash);
    if (at < MG_SHARED_ADDRESSES) {
        slot = &shared->address[at];
        if (atomic_load(&shared->address_hash[at]) != hash) {
            address_forget(slot);
            told_forget(&slot->told);
            told_forget(&slot->told_ports);
        }
        atomic_store(&shared->address_hash[at], hash);
        if (atomic_load(&slot->rows) <= index)
            atomic_store(&slot->rows, index + 1);
        atomic_fetch_add(&slot->users[index], 1);
    }
    atomic_store(&shared->lock, 0);
    return slot;
}

void
mg_shared_address_release(struct mg_shared_address *slot, unsigned index)
{
    atomic_fetch_sub(&slot->users[index], 1);
    if (rows_sum(slot, slot->users) == 0)
        address_forget(slot);
}

int64_t
mg_shared_address_open(const struct mg_shared_address *slot)
{
    return rows_sum(slot, slot->open);
}

void
mg_shared_address_blame(struct mg_shared_address *slot, const char *why)
{
    char text[MG_SHARED_WHY] = "";

    mg_str_copy(text, sizeof(text), why);
    for (size_t i = 0; i < MG_ARRAY_LEN(slot->why); i++) {
        uint64_t word;

        memcpy(&word, text + i * sizeof(word), sizeof(word));
        atomic_store(&slot->why[i], word);
    }
}

void
mg_shared_address_why(const struct mg_shared_address *slot, char out[MG_SHARED_WHY])
{
    for (size_t i = 0; i < MG_ARRAY_LEN(slot->why); i++) {
        uint64_t word = atomic_load(&slot->why[i]);

        memcpy(out + i * sizeof(word), &word, sizeof(word));
    }
    out[MG_SHARED_WHY - 1] = '\0';
}

int64_t
mg_shared_address_portless(const struct mg_shared_address *slot)
{
    return rows_sum(slot, slot->portless);
}

/* ---- a worker that died ---------------------------------------------------------------------- */

void
mg_shared_untell(struct mg_shared *shared, struct mg_shared_told *told, unsigned index)
{
    uint32_t teller = index + 1;

    if (atomic_compare_exchange_strong(&told->teller, &teller, MG_TELLER_GONE))
        atomic_fetch_add(&shared->tellers_gone, 1);
}

void
mg_shared_forget(struct mg_shared *shared, unsigned index)
{
    uint32_t holder = index + 1;

    for (size_t i = 0; i < MG_SHARED_LISTENERS; i++) {
        struct mg_shared_listener *slot = &shared->listener[i];

        if (atomic_load(&slot->name_hash) == 0)
            continue; /* its pages need not come to be */
        atomic_store(&slot->open[index], 0);
        atomic_store(&slot->users[index], 0);
        for (size_t t = 0; t < MG_SHARED_LIMITS; t++)
            mg_shared_untell(shared, &slot->told[t], index);
    }
    mg_limits_forget(shared, index);
    mg_metrics_forget(shared, index, "session: worker died");
    for (size_t i = 0; i < MG_SHARED_ADDRESSES; i++) {
        struct mg_shared_address *slot = &shared->address[i];
        uint32_t prober = index + 1;

        if (atomic_load(&shared->address_hash[i]) == 0)
            continue;
        atomic_store(&slot->open[index], 0);
        atomic_store(&slot->portless[index], 0);
        atomic_store(&slot->users[index], 0);
        atomic_compare_exchange_strong(&slot->prober, &prober, 0);
        mg_shared_untell(shared, &slot->told, index);
        mg_shared_untell(shared, &slot->told_ports, index);
    }
    atomic_compare_exchange_strong(&shared->lock, &holder, 0);
}
