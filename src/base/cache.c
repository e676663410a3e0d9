/*
 * A cache in shared memory: bytes under (owner, id), for all workers.
 *
 * Three tables of fixed slots, by size, in sets of WAYS. The happy path is: put claims a slot of
 * the set by compare-and-swap, writes, publishes; get copies a slot between two looks at its word.
 * Possible failure modes are: the writer dies or is stopped in the middle (the slot stays claimed, all
 * others are as usable as ever, and after LEASE_MS whoever wants that one takes it over), a stopped
 * writer goes on after that (its publishing fails; what it tore does not agree with its checksum and is
 * a miss), a slot changes under a reader (a miss).
 *
 * So there is no lock that a dead or stopped process could hold, and nobody ever waits. How many
 * entries an owner has is kept in a row for it: counted up before an entry shows and down after it has
 * gone, so that a death leaves it too high, never too low; the scan that follows puts it right.
 */
#include "base/base.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define WAYS        16u
#define TABLES      3
#define ID_WORDS    (MG_CACHE_ID_MAX / 8)
#define OWNERS      16384u
#define OWNER_WAYS  16u
#define LEASE_MS    1000u /* a slot is written in microseconds */
#define VICTIMS     64u
#define ABANDONED_S 600 /* so long after its end an entry goes that nobody has removed */

/* A slot's word: claimed, sequence (31 bits), then when claimed: by that millisecond; else: VALID. */
#define CLAIMED (1ull << 63)
#define VALID   1ull

/* One line of the processor's cache. Everything but the word is written under a claim. */
struct slot {
    _Atomic uint64_t word, owner, key, order, checksum, sizes; /* sizes: id_len << 32 | len */
    _Atomic int64_t expires;
    uint64_t unused;
};

struct owner {
    _Atomic uint64_t key; /* 0 = never used */
    _Atomic int64_t count;
    _Atomic int64_t events[MG_CACHE_EVENTS];
};

struct arena {
    _Atomic uint64_t order; /* of the youngest entry */
    _Atomic uint64_t oversize;
    uint64_t unused[6];
    struct owner owners[OWNERS];
    struct slot slots[]; /* of all tables; all their words follow */
};

struct table {
    struct slot *slots;
    _Atomic uint64_t *words;
    size_t sets, slot_words;
};

struct mg_cache {
    struct arena *arena;
    size_t size;
    struct table tables[TABLES];
};

/* The oldest entries of an owner, found by one scan; those that have gone meanwhile are skipped. */
struct victims {
    const struct mg_cache *cache;
    uint64_t owner;
    size_t count, next;
    struct victim {
        const struct table *table;
        size_t index;
        uint64_t order;
    } list[VICTIMS];
};

#ifdef MG_FAULTS
void (*mg_cache_writing)(void);
#define WRITING() (mg_cache_writing != NULL ? mg_cache_writing() : (void)0)
#else
#define WRITING() ((void)0)
#endif

/* ---- life ------------------------------------------------------------------------------------ */

/* A session without a certificate, with one, with an unusual one. */
static const size_t table_words[TABLES] = {512 / 8, 2048 / 8, 8192 / 8};
static const size_t shared_sets[TABLES] = {4096, 1024, 128}, private_sets[TABLES] = {2048, 256, 16};

static size_t
arena_size(const size_t sets[TABLES])
{
    size_t size = sizeof(struct arena);

    for (int t = 0; t < TABLES; t++)
        size += WAYS * sets[t] * (sizeof(struct slot) + 8 * table_words[t]);
    return size;
}

int
mg_cache_create(struct mg_err *err)
{
    return mg_shared_memory("moongate-sessions", arena_size(shared_sets), err);
}

static struct mg_cache *
cache_new(struct arena *arena, const size_t sets[TABLES], struct mg_err *err)
{
    struct mg_cache *cache = mg_calloc(1, sizeof(*cache));
    struct slot *slots = arena->slots;
    _Atomic uint64_t *words;

    if (cache == NULL) {
        munmap(arena, arena_size(sets));
        mg_err_setx(err, "session cache: out of memory");
        return NULL;
    }
    cache->arena = arena;
    cache->size = arena_size(sets);
    for (int t = 0; t < TABLES; t++) {
        cache->tables[t] = (struct table){slots, NULL, sets[t], table_words[t]};
        slots += WAYS * sets[t];
    }
    words = (_Atomic uint64_t *)(void *)slots;
    for (int t = 0; t < TABLES; t++) {
        cache->tables[t].words = words;
        words += WAYS * sets[t] * table_words[t];
    }
    return cache;
}

struct mg_cache *
mg_cache_map(int fd, struct mg_err *err)
{
    const size_t *sets = fd >= 0 ? shared_sets : private_sets;
    int flags = fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    struct arena *arena = mmap(NULL, arena_size(sets), PROT_READ | PROT_WRITE, flags, fd, 0);

    if (arena == MAP_FAILED) {
        mg_err_set(err, "session cache: mmap");
        return NULL;
    }
#ifdef MADV_DONTDUMP
    madvise(arena, arena_size(sets), MADV_DONTDUMP);
#endif
    return cache_new(arena, sets, err);
}

void
mg_cache_unmap(struct mg_cache *cache)
{
    if (cache == NULL)
        return;
    munmap(cache->arena, cache->size);
    mg_free(cache);
}

uint64_t
mg_cache_oversize(const struct mg_cache *cache)
{
    return atomic_load_explicit(&cache->arena->oversize, memory_order_relaxed);
}

/* ---- owners ---------------------------------------------------------------------------------- */

static uint64_t
mix(uint64_t h)
{
    h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9ull;
    h = (h ^ (h >> 27)) * 0x94d049bb133111ebull;
    return h ^ (h >> 31);
}

static struct owner *
owner_at(const struct mg_cache *cache, uint64_t owner, unsigned way)
{
    return &cache->arena->owners[(mix(owner) + way) % OWNERS];
}

static struct owner *
owner_find(const struct mg_cache *cache, uint64_t owner)
{
    for (unsigned i = 0; i < OWNER_WAYS; i++)
        if (atomic_load(&owner_at(cache, owner, i)->key) == owner)
            return owner_at(cache, owner, i);
    return NULL;
}

/* Makes the row its own, if nobody or, with `used`, an owner without entries has it. */
static bool
owner_settle(struct owner *row, uint64_t owner, bool used)
{
    uint64_t key = atomic_load(&row->key);
    int64_t count = atomic_load(&row->count);

    if (key == owner)
        return true; /* another process was faster */
    if ((key != 0 && (!used || count > 0)) ||
        !atomic_compare_exchange_strong(&row->key, &key, owner))
        return key == owner;
    if (key != 0) {
        atomic_compare_exchange_strong(&row->count, &count, 0);
        for (unsigned i = 0; i < MG_CACHE_EVENTS; i++)
            atomic_store(&row->events[i], 0);
    }
    return true;
}

/* Its row, made if need be; NULL: all that it could have are in use. */
static struct owner *
owner_need(const struct mg_cache *cache, uint64_t owner)
{
    struct owner *row = owner_find(cache, owner);

    for (unsigned i = 0; i < 2 * OWNER_WAYS && row == NULL; i++) {
        struct owner *at = owner_at(cache, owner, i % OWNER_WAYS);

        if (owner_settle(at, owner, i >= OWNER_WAYS))
            row = at;
    }
    return row;
}

static void
owner_count(const struct mg_cache *cache, uint64_t owner, int by)
{
    struct owner *row = by > 0 ? owner_need(cache, owner) : owner_find(cache, owner);

    if (row != NULL)
        atomic_fetch_add(&row->count, by);
}

void
mg_cache_events_add(struct mg_cache *cache, uint64_t owner, const int64_t by[MG_CACHE_EVENTS])
{
    struct owner *row = owner_need(cache, owner);

    for (unsigned i = 0; i < MG_CACHE_EVENTS && row != NULL; i++)
        if (by[i] != 0)
            atomic_fetch_add(&row->events[i], by[i]);
}

void
mg_cache_events_get(const struct mg_cache *cache, uint64_t owner, int64_t out[MG_CACHE_EVENTS])
{
    const struct owner *row = owner_find(cache, owner);

    for (unsigned i = 0; i < MG_CACHE_EVENTS; i++)
        out[i] = row != NULL ? atomic_load(&row->events[i]) : 0;
}

/* ---- a slot ---------------------------------------------------------------------------------- */

static uint32_t
now_ms(void)
{
    return (uint32_t)mg_now_ms();
}

static bool
is_valid(uint64_t word)
{
    return !(word & CLAIMED) && (word & VALID);
}

/* Claimed by one who has not been heard of since. */
static bool
is_orphan(uint64_t word)
{
    return (word & CLAIMED) && now_ms() - (uint32_t)word > LEASE_MS;
}

/* The claim, or 0: somebody else was faster, or has it. */
static uint64_t
slot_claim(struct slot *slot, uint64_t seen)
{
    uint64_t claim = CLAIMED | (((seen >> 32) + 1) & 0x7fffffff) << 32 | now_ms();

    if (((seen & CLAIMED) && !is_orphan(seen)) ||
        !atomic_compare_exchange_strong(&slot->word, &seen, claim))
        return 0;
    atomic_thread_fence(memory_order_release); /* readers see the claim before what we write */
    return claim;
}

/* false: the claim was taken over meanwhile. */
static bool
slot_publish(struct slot *slot, uint64_t claim, uint64_t state)
{
    uint64_t word = (claim & ~CLAIMED & ~0xffffffffull) | state;

    return atomic_compare_exchange_strong(&slot->word, &claim, word);
}

static _Atomic uint64_t *
slot_words(const struct table *table, const struct slot *slot)
{
    return table->words + (size_t)(slot - table->slots) * table->slot_words;
}

static uint64_t
checksum_add(uint64_t sum, uint64_t word)
{
    return mix(sum ^ word);
}

static uint64_t
checksum_of_header(const struct slot *slot)
{
    uint64_t sum = atomic_load_explicit(&slot->owner, memory_order_relaxed);

    sum = checksum_add(sum, atomic_load_explicit(&slot->key, memory_order_relaxed));
    sum = checksum_add(sum, atomic_load_explicit(&slot->order, memory_order_relaxed));
    sum = checksum_add(sum, atomic_load_explicit(&slot->sizes, memory_order_relaxed));
    return checksum_add(sum, (uint64_t)atomic_load_explicit(&slot->expires, memory_order_relaxed));
}

static uint64_t
words_write(_Atomic uint64_t *words, const unsigned char *data, size_t len, uint64_t sum)
{
    for (size_t at = 0; at < len; at += 8) {
        uint64_t word = 0;

        memcpy(&word, data + at, len - at < 8 ? len - at : 8);
        atomic_store_explicit(&words[at / 8], word, memory_order_relaxed);
        sum = checksum_add(sum, word);
        if (at == 64) /* an entry's data, not its id */
            WRITING();
    }
    return sum;
}

static uint64_t
words_read(const _Atomic uint64_t *words, unsigned char *data, size_t len, uint64_t sum)
{
    for (size_t at = 0; at < len; at += 8) {
        uint64_t word = atomic_load_explicit(&words[at / 8], memory_order_relaxed);

        memcpy(data + at, &word, len - at < 8 ? len - at : 8);
        sum = checksum_add(sum, word);
    }
    return sum;
}

static void
slot_wipe(const struct table *table, const struct slot *slot)
{
    _Atomic uint64_t *words = slot_words(table, slot);

    for (size_t i = 0; i < table->slot_words; i++)
        atomic_store_explicit(&words[i], 0, memory_order_relaxed);
}

/* What is there, whole; the slot may be claimed by us. false: it is torn. */
static bool
slot_copy(const struct table *table, const struct slot *slot, struct mg_cache_entry *out)
{
    const _Atomic uint64_t *words = slot_words(table, slot);
    uint64_t sizes = atomic_load_explicit(&slot->sizes, memory_order_relaxed);
    uint64_t sum = checksum_of_header(slot);

    out->owner = atomic_load_explicit(&slot->owner, memory_order_relaxed);
    out->order = atomic_load_explicit(&slot->order, memory_order_relaxed);
    out->expires = atomic_load_explicit(&slot->expires, memory_order_relaxed);
    out->id_len = sizes >> 32;
    out->len = (uint32_t)sizes;
    if (out->id_len > MG_CACHE_ID_MAX || out->len > 8 * (table->slot_words - ID_WORDS))
        return false;
    sum = words_read(words, out->id, MG_CACHE_ID_MAX, sum);
    sum = words_read(words + ID_WORDS, out->data, out->len, sum);
    return sum == atomic_load_explicit(&slot->checksum, memory_order_relaxed);
}

/*
 * Empties the slot whose word was `word`; *out (or NULL) is what was there. false: it has changed, or
 * was torn (it is empty then, too). An orphan is emptied without a look.
 */
static bool
slot_take(const struct mg_cache *cache, const struct table *table, struct slot *slot, uint64_t word,
          struct mg_cache_entry *out)
{
    uint64_t claim = slot_claim(slot, word), owner;
    bool whole = false;

    if (claim == 0)
        return false;
    owner = atomic_load_explicit(&slot->owner, memory_order_relaxed);
    if (is_valid(word))
        whole = out == NULL || slot_copy(table, slot, out);
    slot_wipe(table, slot);
    slot_publish(slot, claim, 0);
    if (is_valid(word))
        owner_count(cache, owner, -1);
    return whole;
}

/* ---- sets ------------------------------------------------------------------------------------ */

static uint64_t
key_of(uint64_t owner, const void *id, size_t id_len)
{
    return mix(mg_str_hash(id, id_len) ^ mix(owner + id_len));
}

static struct slot *
set_of(const struct table *table, uint64_t key)
{
    return table->slots + WAYS * (key % table->sets);
}

struct sought {
    uint64_t owner, key;
    uint64_t id[ID_WORDS];
    size_t id_len;
};

static bool
sought_init(struct sought *sought, uint64_t owner, const void *id, size_t id_len)
{
    memset(sought, 0, sizeof(*sought));
    if (id_len > MG_CACHE_ID_MAX)
        return false;
    *sought = (struct sought){owner, key_of(owner, id, id_len), {0}, id_len};
    memcpy(sought->id, id, id_len);
    return true;
}

/* Whether the slot has that entry; *word is the slot's then. */
static bool
slot_has(const struct table *table, const struct slot *slot, const struct sought *sought,
         uint64_t *word)
{
    const _Atomic uint64_t *words = slot_words(table, slot);
    bool same;

    if (atomic_load_explicit(&slot->key, memory_order_relaxed) != sought->key)
        return false;
    *word = atomic_load_explicit(&slot->word, memory_order_acquire);
    same = is_valid(*word) &&
           atomic_load_explicit(&slot->owner, memory_order_relaxed) == sought->owner &&
           atomic_load_explicit(&slot->sizes, memory_order_relaxed) >> 32 == sought->id_len;
    for (size_t i = 0; i < ID_WORDS && same; i++)
        same = atomic_load_explicit(&words[i], memory_order_relaxed) == sought->id[i];
    atomic_thread_fence(memory_order_acquire);
    return same && atomic_load_explicit(&slot->word, memory_order_relaxed) == *word;
}

/* A whole, unchanged copy. What is torn and claimed by nobody is emptied. */
static bool
slot_read(const struct mg_cache *cache, const struct table *table, struct slot *slot, uint64_t word,
          struct mg_cache_entry *out)
{
    bool whole = slot_copy(table, slot, out);

    atomic_thread_fence(memory_order_acquire);
    if (whole && atomic_load_explicit(&slot->word, memory_order_relaxed) == word)
        return true;
    mg_wipe(out, sizeof(*out));
    if (!whole)
        slot_take(cache, table, slot, word, NULL); /* unless it has changed */
    return false;
}

/* Where something that is sought may be. */
struct place {
    unsigned next; /* 0 at first: the place after this one, of all WAYS in all TABLES */
    const struct table *table;
    struct slot *slot;
    uint64_t word; /* what the slot's was when it was found */
};

static bool
place_next(const struct mg_cache *cache, const struct sought *sought, struct place *at)
{
    while (at->next < TABLES * WAYS) {
        at->table = &cache->tables[at->next / WAYS];
        at->slot = &set_of(at->table, sought->key)[at->next++ % WAYS];
        if (slot_has(at->table, at->slot, sought, &at->word))
            return true;
    }
    return false;
}

bool
mg_cache_get(const struct mg_cache *cache, uint64_t owner, const void *id, size_t id_len,
             struct mg_cache_entry *out)
{
    struct sought sought;
    struct place at = {0};

    if (!sought_init(&sought, owner, id, id_len))
        return false;
    while (place_next(cache, &sought, &at))
        if (slot_read(cache, at.table, at.slot, at.word, out))
            return true;
    return false;
}

bool
mg_cache_remove(struct mg_cache *cache, uint64_t owner, const void *id, size_t id_len)
{
    struct sought sought;
    struct place at = {0};
    bool found = false;

    if (!sought_init(&sought, owner, id, id_len))
        return false;
    while (place_next(cache, &sought, &at))
        found = slot_take(cache, at.table, at.slot, at.word, NULL) || found;
    return found;
}

/* ---- scans ----------------------------------------------------------------------------------- */

static bool
slot_is_of(const struct slot *slot, uint64_t word, uint64_t owner)
{
    return is_valid(word) && atomic_load_explicit(&slot->owner, memory_order_relaxed) == owner;
}

size_t
mg_cache_sweep(struct mg_cache *cache, uint64_t owner, int64_t before,
               void (*gone)(void *data, const struct mg_cache_entry *entry), void *data)
{
    struct mg_cache_entry *entry = gone != NULL ? mg_malloc(sizeof(*entry)) : NULL;
    size_t count = 0;

    for (int t = 0; t < TABLES; t++) {
        const struct table *table = &cache->tables[t];

        for (size_t i = 0; i < WAYS * table->sets; i++) {
            struct slot *slot = &table->slots[i];
            uint64_t word = atomic_load(&slot->word);
            int64_t expires = atomic_load_explicit(&slot->expires, memory_order_relaxed);

            if (!slot_is_of(slot, word, owner) || (before != 0 && expires >= before) ||
                !slot_take(cache, table, slot, word, entry))
                continue;
            count++;
            if (entry != NULL)
                gone(data, entry);
        }
    }
    mg_free_secret(entry, sizeof(*entry));
    return count;
}

void
mg_cache_tidy(struct mg_cache *cache)
{
    int64_t abandoned = (int64_t)time(NULL) - ABANDONED_S;

    if (atomic_load(&cache->arena->order) == 0)
        return; /* its pages need not come to be */
    for (int t = 0; t < TABLES; t++) {
        const struct table *table = &cache->tables[t];

        for (size_t i = 0; i < WAYS * table->sets; i++) {
            struct slot *slot = &table->slots[i];
            uint64_t word = atomic_load(&slot->word);

            if (is_orphan(word) || (is_valid(word) && atomic_load(&slot->expires) < abandoned))
                slot_take(cache, table, slot, word, NULL);
        }
    }
}

/* Keeps the oldest ones, in order. */
static void
victim_note(struct victims *victims, const struct table *table, size_t index, uint64_t order)
{
    size_t at = victims->count;

    if (at == VICTIMS && victims->list[at - 1].order < order)
        return;
    if (at == VICTIMS)
        at--;
    else
        victims->count++;
    for (; at > 0 && victims->list[at - 1].order > order; at--)
        victims->list[at] = victims->list[at - 1];
    victims->list[at] = (struct victim){table, index, order};
}

/* How many entries the owner has; victims (or NULL) are the oldest ones of them. */
static size_t
owner_scan(const struct mg_cache *cache, uint64_t owner, struct victims *victims)
{
    size_t count = 0;

    for (int t = 0; t < TABLES; t++) {
        const struct table *table = &cache->tables[t];

        for (size_t i = 0; i < WAYS * table->sets; i++) {
            const struct slot *slot = &table->slots[i];

            if (!slot_is_of(slot, atomic_load_explicit(&slot->word, memory_order_acquire), owner))
                continue;
            count++;
            if (victims != NULL)
                victim_note(victims, table, i, atomic_load(&slot->order));
        }
    }
    return count;
}

size_t
mg_cache_count(const struct mg_cache *cache, uint64_t owner)
{
    const struct owner *row = owner_find(cache, owner);

    return row != NULL && atomic_load(&row->count) <= 0 ? 0 : owner_scan(cache, owner, NULL);
}

/* ---- put ------------------------------------------------------------------------------------- */

struct putting {
    struct mg_cache *cache;
    const struct mg_cache_entry *entry;
    void (*gone)(void *data, const struct mg_cache_entry *entry);
    void *data;
};

static void
victim_take(const struct putting *put, const struct victim *victim)
{
    struct slot *slot = &victim->table->slots[victim->index];
    uint64_t word = atomic_load(&slot->word);
    struct mg_cache_entry *entry = mg_malloc(sizeof(*entry));

    if (is_valid(word) && atomic_load(&slot->order) == victim->order &&
        slot_take(put->cache, victim->table, slot, word, entry) && entry != NULL)
        put->gone(put->data, entry);
    mg_free_secret(entry, sizeof(*entry));
}

/* Makes room for one more of the owner, whose row counts it already. */
static void
owner_limit(const struct putting *put, size_t limit)
{
    static _Thread_local struct victims victims;
    uint64_t key = put->entry->owner;
    struct owner *row = owner_find(put->cache, key);

    while (row == NULL || atomic_load(&row->count) > (int64_t)limit) {
        if (victims.cache != put->cache || victims.owner != key || victims.next == victims.count) {
            int64_t before = row != NULL ? atomic_load(&row->count) : 0;
            size_t count;

            victims.count = victims.next = 0;
            victims.cache = put->cache;
            victims.owner = key;
            count = owner_scan(put->cache, key, &victims);
            /* If others count meanwhile, it is left for the next time. */
            if (row != NULL)
                atomic_compare_exchange_strong(&row->count, &before, (int64_t)count + 1);
            if (count < limit || victims.count == 0)
                return;
        }
        victim_take(put, &victims.list[victims.next++]);
        if (row == NULL) {
            victims.count = victims.next; /* without a row only a scan tells */
            if (owner_scan(put->cache, key, NULL) < limit)
                return;
        }
    }
}

/* A slot of the set: free, or of a dead writer, or with an entry that has ended, or the oldest one. */
static struct slot *
slot_choose(struct slot *set, uint64_t *word)
{
    int64_t now = (int64_t)time(NULL);
    uint64_t oldest = UINT64_MAX;
    struct slot *best = NULL;

    for (unsigned i = 0; i < WAYS && oldest > 0; i++) {
        uint64_t seen = atomic_load(&set[i].word), order;

        if ((seen & CLAIMED) && !is_orphan(seen))
            continue;
        order = atomic_load_explicit(&set[i].order, memory_order_relaxed);
        if (!is_valid(seen))
            order = 0;
        else if (atomic_load_explicit(&set[i].expires, memory_order_relaxed) < now)
            order = 1; /* the first entry has 2 */
        if (order < oldest) {
            oldest = order;
            best = &set[i];
            *word = seen;
        }
    }
    return best;
}

/* The claimed slot is ours: whoever was in it has to go. */
static void
slot_vacate(const struct putting *put, const struct table *table, struct slot *slot)
{
    uint64_t owner = atomic_load_explicit(&slot->owner, memory_order_relaxed);
    struct mg_cache_entry *entry = owner == put->entry->owner ? mg_malloc(sizeof(*entry)) : NULL;
    bool whole = entry != NULL && slot_copy(table, slot, entry);

    owner_count(put->cache, owner, -1);
    slot_wipe(table, slot);
    if (whole)
        put->gone(put->data, entry);
    mg_free_secret(entry, sizeof(*entry));
}

static bool
slot_write(const struct table *table, struct slot *slot, uint64_t claim,
           const struct mg_cache_entry *entry, uint64_t order)
{
    _Atomic uint64_t *words = slot_words(table, slot);
    unsigned char id[MG_CACHE_ID_MAX] = {0};
    uint64_t sum, word;

    memcpy(id, entry->id, entry->id_len);
    atomic_store_explicit(&slot->owner, entry->owner, memory_order_relaxed);
    atomic_store_explicit(&slot->key, key_of(entry->owner, entry->id, entry->id_len),
                          memory_order_relaxed);
    atomic_store_explicit(&slot->order, order, memory_order_relaxed);
    atomic_store_explicit(&slot->expires, entry->expires, memory_order_relaxed);
    atomic_store_explicit(&slot->sizes, (uint64_t)entry->id_len << 32 | entry->len,
                          memory_order_relaxed);
    sum = words_write(words, id, sizeof(id), checksum_of_header(slot));
    sum = words_write(words + ID_WORDS, entry->data, entry->len, sum);
    atomic_store_explicit(&slot->checksum, sum, memory_order_relaxed);
    if (slot_publish(slot, claim, VALID))
        return true;
    /* We slept too long. What we wrote must not stay where nobody would ever look. */
    word = atomic_load(&slot->word);
    claim = word & (CLAIMED | VALID) ? 0 : slot_claim(slot, word);
    if (claim != 0) {
        slot_wipe(table, slot);
        slot_publish(slot, claim, 0);
    }
    return false;
}

bool
mg_cache_put(struct mg_cache *cache, struct mg_cache_entry *entry, size_t limit,
             void (*gone)(void *data, const struct mg_cache_entry *entry), void *data)
{
    const struct putting put = {cache, entry, gone, data};
    const struct table *table = cache->tables;
    struct slot *set, *slot;
    uint64_t word, claim = 0;

    if (entry->len > MG_CACHE_DATA_MAX || entry->id_len > MG_CACHE_ID_MAX) {
        atomic_fetch_add(&cache->arena->oversize, 1);
        return false;
    }
    while (entry->len > 8 * (table->slot_words - ID_WORDS))
        table++;
    set = set_of(table, key_of(entry->owner, entry->id, entry->id_len));
    mg_cache_remove(cache, entry->owner, entry->id, entry->id_len);
    owner_count(cache, entry->owner, 1);
    if (limit > 0)
        owner_limit(&put, limit);
    for (unsigned tries = 0; claim == 0 && tries < WAYS; tries++) {
        slot = slot_choose(set, &word);
        if (slot == NULL)
            break;
        claim = slot_claim(slot, word);
    }
    entry->order = atomic_fetch_add(&cache->arena->order, 1) + 2;
    if (claim != 0 && is_valid(word))
        slot_vacate(&put, table, slot);
    if (claim != 0 && slot_write(table, slot, claim, entry, entry->order))
        return true;
    owner_count(cache, entry->owner, -1);
    return false;
}
