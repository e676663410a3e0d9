/*
 * The ring of recent ClientHellos: what a new policy is tried with before it serves.
 *
 * The loop adds and confirms; at a reload the thread that builds walks along, one copy at a time, so that
 * the loop never waits for more than that. Messages lie one after the other in a region that is
 * allocated once; the oldest give way, by number or for room. Nothing of this ever leaves the process.
 */
#include "tls/tls.h"

#include <pthread.h>
#include <string.h>

#define ROOM_PER_HELLO 2048u /* on average; today's browsers send less */

struct entry {
    size_t offset;
    uint16_t len;
    bool confirmed;        /* its handshake came through */
    bool fails;            /* it would fail under the policy in force, as a replay has shown */
    uint64_t listener;     /* hash of the name */
    uint64_t fails_before; /* the generation under which it failed last in a replay */
};

struct mg_ring {
    pthread_mutex_t lock; /* of everything below */
    struct entry *entries;
    unsigned char *room;
    size_t capacity, size; /* of the two */
    size_t count;          /* entries in use */
    uint64_t next;         /* number of the next hello; the entry is number % capacity */
    size_t head;           /* where in `room` it goes */
    uint64_t skipped;      /* too long, since the start */
};

struct mg_ring *
mg_ring_new(void)
{
    struct mg_ring *ring = mg_calloc(1, sizeof(*ring));

    if (ring == NULL)
        return NULL;
    pthread_mutex_init(&ring->lock, NULL);
    ring->next = 1;
    return ring;
}

void
mg_ring_free(struct mg_ring *ring)
{
    if (ring == NULL)
        return;
    pthread_mutex_destroy(&ring->lock);
    mg_free(ring->entries);
    mg_free(ring->room);
    mg_free(ring);
}

/* The oldest one. */
static struct entry *
oldest(const struct mg_ring *ring)
{
    return &ring->entries[(ring->next - ring->count) % ring->capacity];
}

/* Lays the message down, the oldest giving way. It is known to fit into an empty ring. */
static struct entry *
entry_lay(struct mg_ring *ring, const void *hello, size_t len)
{
    struct entry *e;

    if (ring->size - ring->head < len) {
        while (ring->count > 0 && oldest(ring)->offset >= ring->head)
            ring->count--;
        ring->head = 0;
    }
    while (ring->count > 0 &&
           (ring->count == ring->capacity ||
            (oldest(ring)->offset < ring->head + len && oldest(ring)->offset >= ring->head)))
        ring->count--;
    e = &ring->entries[ring->next % ring->capacity];
    *e = (struct entry){.offset = ring->head, .len = (uint16_t)len};
    memcpy(ring->room + ring->head, hello, len);
    ring->head += len;
    ring->count++;
    ring->next++;
    return e;
}

/* Moves what fits, the newest of them, in order; numbers stay. */
static void
entries_move(const struct mg_ring *from, struct mg_ring *to)
{
    size_t count = from->count < to->capacity ? from->count : to->capacity;

    for (uint64_t n = from->next - count; n < from->next; n++) {
        const struct entry *old = &from->entries[n % from->capacity];
        size_t offset;
        struct entry *e;

        to->next = n;
        e = entry_lay(to, from->room + old->offset, old->len);
        offset = e->offset;
        *e = *old;
        e->offset = offset;
    }
}

int
mg_ring_resize(struct mg_ring *ring, size_t count)
{
    struct mg_ring grown = {.capacity = count, .next = ring->next};

    if (count == ring->capacity)
        return 0;
    if (count > 0) {
        grown.size = count * ROOM_PER_HELLO + MG_RING_HELLO_MAX;
        grown.entries = mg_calloc(count, sizeof(*grown.entries));
        grown.room = mg_malloc(grown.size);
    }
    if (count > 0 && (grown.entries == NULL || grown.room == NULL)) {
        mg_free(grown.entries);
        mg_free(grown.room);
        return -1;
    }
    pthread_mutex_lock(&ring->lock);
    if (count > 0)
        entries_move(ring, &grown);
    mg_free(ring->entries);
    mg_free(ring->room);
    ring->entries = grown.entries;
    ring->room = grown.room;
    ring->capacity = count;
    ring->size = grown.size;
    ring->count = grown.count;
    ring->head = grown.head;
    pthread_mutex_unlock(&ring->lock);
    return 0;
}

uint64_t
mg_ring_add(struct mg_ring *ring, uint64_t listener, const void *hello, size_t len)
{
    uint64_t number = 0;

    pthread_mutex_lock(&ring->lock);
    if (len > MG_RING_HELLO_MAX) {
        ring->skipped++;
    } else if (ring->capacity > 0) {
        number = ring->next;
        entry_lay(ring, hello, len)->listener = listener;
    }
    pthread_mutex_unlock(&ring->lock);
    return number;
}

/* NULL: it has given way. */
static struct entry *
entry_find(struct mg_ring *ring, uint64_t number)
{
    if (number >= ring->next || number < ring->next - ring->count)
        return NULL;
    return &ring->entries[number % ring->capacity];
}

void
mg_ring_confirm(struct mg_ring *ring, uint64_t number)
{
    struct entry *e;

    pthread_mutex_lock(&ring->lock);
    e = entry_find(ring, number);
    if (e != NULL)
        e->confirmed = true;
    pthread_mutex_unlock(&ring->lock);
}

bool
mg_ring_next(struct mg_ring *ring, uint64_t *number, struct mg_ring_hello *out)
{
    bool found;

    pthread_mutex_lock(&ring->lock);
    if (*number < ring->next - ring->count)
        *number = ring->next - ring->count;
    found = *number < ring->next;
    if (found) {
        const struct entry *e = &ring->entries[*number % ring->capacity];

        *out = (struct mg_ring_hello){
            .number = *number,
            .listener = e->listener,
            .accepted = e->confirmed && !e->fails,
            .len = e->len,
        };
        memcpy(out->data, ring->room + e->offset, e->len);
        ++*number;
    }
    pthread_mutex_unlock(&ring->lock);
    return found;
}

void
mg_ring_refuse(struct mg_ring *ring, uint64_t number, uint64_t generation)
{
    struct entry *e;

    pthread_mutex_lock(&ring->lock);
    e = entry_find(ring, number);
    if (e != NULL)
        e->fails_before = generation;
    pthread_mutex_unlock(&ring->lock);
}

void
mg_ring_adopt(struct mg_ring *ring, uint64_t generation)
{
    pthread_mutex_lock(&ring->lock);
    for (uint64_t n = ring->next - ring->count; n < ring->next; n++) {
        struct entry *e = &ring->entries[n % ring->capacity];

        e->fails = e->fails_before == generation;
    }
    pthread_mutex_unlock(&ring->lock);
}

void
mg_ring_counts(struct mg_ring *ring, struct mg_ring_counts *out)
{
    pthread_mutex_lock(&ring->lock);
    *out = (struct mg_ring_counts){
        .capacity = ring->capacity, .held = ring->count, .skipped = ring->skipped};
    pthread_mutex_unlock(&ring->lock);
}
