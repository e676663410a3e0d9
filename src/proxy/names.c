/*
 * ServerNames: which policy a client gets by the name it asks for.
 *
 * A hash table of names and wildcards, in C, so that a look-up is two probes however many names there
 * are: the name itself, then "*" and what follows its first label. Names come from the network, so the
 * hash is SipHash-2-4 under a key of its own for each table: nobody can choose names that collide.
 *
 * Filled while the script loads, read-only from then on.
 */
#include "proxy/internal.h"

#include <openssl/rand.h>
#include <string.h>

#define NAME_MAX_LEN 255
#define NO_TARGET    UINT32_MAX

struct slot {
    uint32_t name;   /* offset into text, + 1; 0 = empty */
    uint32_t target; /* index into targets */
};

struct mg_names {
    unsigned refs;
    uint64_t key[2];
    struct slot *slots; /* owned; a power of two, at most half full */
    size_t slot_count, name_count;
    struct mg_buf text; /* the names, in lower case, each with a NUL */
    struct mg_target *targets;
    size_t target_count, target_cap;
    uint32_t special[2]; /* by enum mg_names_special */
};

/* ---- hash ------------------------------------------------------------------------------------ */

static uint64_t
rotate(uint64_t value, int bits)
{
    return value << bits | value >> (64 - bits);
}

static void
sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[1] = rotate(v[1], 13) ^ v[0];
    v[0] = rotate(v[0], 32);
    v[2] += v[3];
    v[3] = rotate(v[3], 16) ^ v[2];
    v[0] += v[3];
    v[3] = rotate(v[3], 21) ^ v[0];
    v[2] += v[1];
    v[1] = rotate(v[1], 17) ^ v[2];
    v[2] = rotate(v[2], 32);
}

uint64_t
mg_names_hash(const uint64_t key[2], const char *data, size_t len)
{
    uint64_t v[4] = {key[0] ^ 0x736f6d6570736575, key[1] ^ 0x646f72616e646f6d,
                     key[0] ^ 0x6c7967656e657261, key[1] ^ 0x7465646279746573};
    uint64_t word = 0;

    for (size_t i = 0; i < len; i++) {
        word |= (uint64_t)(unsigned char)data[i] << 8 * (i % 8);
        if (i % 8 == 7) {
            v[3] ^= word;
            sip_round(v);
            sip_round(v);
            v[0] ^= word;
            word = 0;
        }
    }
    word |= (uint64_t)len << 56;
    v[3] ^= word;
    sip_round(v);
    sip_round(v);
    v[0] ^= word;
    v[2] ^= 0xff;
    for (int i = 0; i < 4; i++)
        sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* ---- life ------------------------------------------------------------------------------------ */

struct mg_names *
mg_names_new(void)
{
    struct mg_names *names = mg_calloc(1, sizeof(*names));

    if (names == NULL)
        return NULL;
    names->refs = 1;
    names->special[MG_NAMES_NONE] = names->special[MG_NAMES_DEFAULT] = NO_TARGET;
    names->slot_count = 16;
    names->slots = mg_calloc(names->slot_count, sizeof(*names->slots));
    if (names->slots != NULL &&
        RAND_bytes((unsigned char *)names->key, (int)sizeof(names->key)) == 1)
        return names;
    mg_names_unref(names);
    return NULL;
}

struct mg_names *
mg_names_ref(struct mg_names *names)
{
    names->refs++;
    return names;
}

void
mg_names_unref(struct mg_names *names)
{
    if (names == NULL || --names->refs > 0)
        return;
    for (size_t i = 0; i < names->target_count; i++)
        SSL_CTX_free(names->targets[i].tls);
    mg_free(names->targets);
    mg_free(names->slots);
    mg_buf_free(&names->text);
    mg_free(names);
}

/* ---- filling --------------------------------------------------------------------------------- */

/* The slot of a name in lower case, or the empty one where it would be. */
static struct slot *
slot_find(const struct mg_names *names, const char *name, size_t len)
{
    size_t at = mg_names_hash(names->key, name, len) & (names->slot_count - 1);

    for (;; at = (at + 1) & (names->slot_count - 1)) {
        struct slot *slot = &names->slots[at];
        const char *here;

        if (slot->name == 0)
            return slot;
        here = names->text.data + slot->name - 1;
        if (strncmp(here, name, len) == 0 && here[len] == '\0')
            return slot;
    }
}

static int
slots_grow(struct mg_names *names)
{
    struct slot *old = names->slots;
    size_t old_count = names->slot_count;

    names->slots = mg_calloc(2 * old_count, sizeof(*names->slots));
    if (names->slots == NULL) {
        names->slots = old;
        return -1;
    }
    names->slot_count = 2 * old_count;
    for (size_t i = 0; i < old_count; i++) {
        const char *name;

        if (old[i].name == 0)
            continue;
        name = names->text.data + old[i].name - 1;
        *slot_find(names, name, strlen(name)) = old[i];
    }
    mg_free(old);
    return 0;
}

int
mg_names_target(struct mg_names *names, const struct mg_target *target)
{
    if (names->target_count == names->target_cap) {
        size_t cap = names->target_cap > 0 ? 2 * names->target_cap : 8;
        struct mg_target *grown = mg_realloc(names->targets, cap * sizeof(*grown));

        if (grown == NULL)
            return -1;
        names->targets = grown;
        names->target_cap = cap;
    }
    if (target->tls != NULL)
        SSL_CTX_up_ref(target->tls);
    names->targets[names->target_count] = *target;
    return (int)names->target_count++;
}

/* Lower case, without the dot of a fully qualified name. 0: this is no name. */
static size_t
name_fold(const char *name, size_t len, char out[NAME_MAX_LEN + 1])
{
    if (len > 0 && name[len - 1] == '.')
        len--;
    if (len == 0 || len > NAME_MAX_LEN)
        return 0;
    for (size_t i = 0; i < len; i++)
        out[i] = mg_ascii_lower(name[i]);
    out[len] = '\0';
    return len;
}

int
mg_names_add(struct mg_names *names, const char *name, size_t len, int target, int *other)
{
    char folded[NAME_MAX_LEN + 1];
    struct slot *slot;

    *other = -1;
    len = name_fold(name, len, folded);
    if (len == 0 || names->text.len > UINT32_MAX / 2)
        return -1;
    if (2 * (names->name_count + 1) > names->slot_count && slots_grow(names) != 0)
        return -1;
    slot = slot_find(names, folded, len);
    if (slot->name != 0) {
        *other = (int)slot->target;
        return 0;
    }
    slot->name = (uint32_t)names->text.len + 1;
    slot->target = (uint32_t)target;
    mg_buf_add(&names->text, folded, len + 1);
    if (names->text.failed) {
        slot->name = 0;
        return -1;
    }
    names->name_count++;
    return 0;
}

void
mg_names_set(struct mg_names *names, enum mg_names_special which, int target)
{
    names->special[which] = (uint32_t)target;
}

/* ---- reading --------------------------------------------------------------------------------- */

static const struct mg_target *
special_find(const struct mg_names *names, enum mg_names_special which)
{
    uint32_t target = names->special[which];

    return target == NO_TARGET ? NULL : &names->targets[target];
}

static const struct slot *
wildcard_find(const struct mg_names *names, char *folded, size_t len)
{
    char *dot = memchr(folded, '.', len);
    const struct slot *slot;
    char before;

    if (dot == NULL || dot == folded)
        return NULL;
    before = dot[-1];
    dot[-1] = '*';
    slot = slot_find(names, dot - 1, len - (size_t)(dot - 1 - folded));
    dot[-1] = before;
    return slot->name != 0 ? slot : NULL;
}

const struct mg_target *
mg_names_find(const struct mg_names *names, const void *name, size_t len, const char **pattern)
{
    char folded[NAME_MAX_LEN + 1];
    const struct slot *slot;

    *pattern = name == NULL ? "none" : "default";
    if (name == NULL)
        return special_find(names, MG_NAMES_NONE);
    len = name_fold(name, len, folded);
    if (len == 0 || memchr(folded, '*', len) != NULL)
        return special_find(names, MG_NAMES_DEFAULT);
    slot = slot_find(names, folded, len);
    if (slot->name == 0)
        slot = wildcard_find(names, folded, len);
    if (slot == NULL)
        return special_find(names, MG_NAMES_DEFAULT);
    *pattern = names->text.data + slot->name - 1;
    return &names->targets[slot->target];
}

size_t
mg_names_count(const struct mg_names *names)
{
    return names->name_count;
}

size_t
mg_names_target_count(const struct mg_names *names)
{
    return names->target_count;
}

const struct mg_target *
mg_names_target_at(const struct mg_names *names, size_t index)
{
    return index < names->target_count ? &names->targets[index] : NULL;
}

const char *
mg_names_next(const struct mg_names *names, size_t *cursor, const struct mg_target **target)
{
    const char *name;

    if (*cursor >= names->text.len)
        return NULL;
    name = names->text.data + *cursor;
    *cursor += strlen(name) + 1;
    *target = &names->targets[slot_find(names, name, strlen(name))->target];
    return name;
}
