/*
 * Reading a snapshot: the whole file is checked before anything in it is believed.
 *
 * A sealed file is mapped. One that could still be changed or cut under our feet (a packed file, or
 * a platform without seals) is copied first, so that what was checked is what is used.
 */
#include "snapshot/internal.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct entry {
    uint32_t kind;
    struct mg_span key, value;
};

struct mg_snapshot {
    char *data;
    size_t len;
    bool mapped; /* else data is allocated */
    struct entry *entries;
    size_t count;
    uint32_t *slots; /* open addressing: index into entries + 1, 0 = free */
    size_t slot_count;
};

static bool
file_is_sealed(int fd)
{
#ifdef MG_HAVE_MEMFD
    const int all = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
    int seals = fcntl(fd, F_GET_SEALS);
    return seals >= 0 && (seals & all) == all;
#else
    (void)fd;
    return false;
#endif
}

/* Where there are no seals, an unlinked file that only its owner can open is as good as it gets. */
static bool
file_is_trusted(int fd, const struct stat *st)
{
#ifdef MG_HAVE_MEMFD
    (void)st;
    return file_is_sealed(fd);
#else
    (void)fd;
    return st->st_nlink == 0 && (st->st_mode & 077) == 0;
#endif
}

static int
copy_load(struct mg_snapshot *s, int fd, struct mg_err *err)
{
    s->data = mg_malloc(s->len);
    if (s->data == NULL) {
        mg_err_setx(err, "snapshot: out of memory");
        return -1;
    }
    size_t got = 0;
    while (got < s->len) {
        ssize_t n = pread(fd, s->data + got, s->len - got, (off_t)got);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            if (n < 0)
                mg_err_set(err, "snapshot: read");
            else
                mg_err_setx(err, "snapshot: the file became shorter while it was read");
            return -1;
        }
        got += (size_t)n;
    }
    return 0;
}

static int
file_load(struct mg_snapshot *s, int fd, bool require_seals, struct mg_err *err)
{
    struct stat st;
    if (fstat(fd, &st) != 0) {
        mg_err_set(err, "snapshot: stat");
        return -1;
    }
    if (!S_ISREG(st.st_mode) || st.st_size < (off_t)MG_SNAPSHOT_HEADER ||
        st.st_size > (off_t)MG_SNAPSHOT_MAX) {
        mg_err_setx(err, "snapshot: not a snapshot, or not whole");
        return -1;
    }
    if (require_seals && !file_is_trusted(fd, &st)) {
        mg_err_setx(err, "snapshot: it is not sealed");
        return -1;
    }
    s->len = (size_t)st.st_size;
    if (!file_is_sealed(fd))
        return copy_load(s, fd, err);
    void *map = mmap(NULL, s->len, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map == MAP_FAILED) {
        mg_err_set(err, "snapshot: mmap");
        return -1;
    }
    s->data = map;
    s->mapped = true;
    return 0;
}

/* Reads the record at *offset and moves past it; false if it does not fit into the file. */
static bool
record_read(const struct mg_snapshot *s, size_t *offset, struct entry *entry)
{
    size_t left = s->len - *offset;
    if (left < MG_SNAPSHOT_RECORD)
        return false;
    const char *at = s->data + *offset;
    uint32_t head[2];
    uint64_t length;
    memcpy(head, at, sizeof(head));
    memcpy(&length, at + sizeof(head), sizeof(length));
    size_t key_len = le32toh(head[1]);
    uint64_t value_len = le64toh(length);
    left -= MG_SNAPSHOT_RECORD;
    if (key_len > left || value_len > left - key_len)
        return false;
    size_t padding = mg_snapshot_padding(key_len + (size_t)value_len);
    if (padding > left - key_len - (size_t)value_len)
        return false;
    entry->kind = le32toh(head[0]);
    entry->key = (struct mg_span){at + MG_SNAPSHOT_RECORD, key_len};
    entry->value = (struct mg_span){entry->key.data + key_len, (size_t)value_len};
    *offset += MG_SNAPSHOT_RECORD + key_len + (size_t)value_len + padding;
    return true;
}

/* The slot that holds the record, or the free one where it would go. */
static uint32_t *
slot_find(const struct mg_snapshot *s, uint32_t kind, const void *key, size_t key_len)
{
    size_t mask = s->slot_count - 1;
    for (size_t i = mg_snapshot_hash(kind, key, key_len) & mask;; i = (i + 1) & mask) {
        if (s->slots[i] == 0)
            return &s->slots[i];
        const struct entry *entry = &s->entries[s->slots[i] - 1];
        if (entry->kind == kind && entry->key.len == key_len &&
            memcmp(entry->key.data, key, key_len) == 0)
            return &s->slots[i];
    }
}

static int
index_build(struct mg_snapshot *s, struct mg_err *err)
{
    uint64_t sizes[2];
    memcpy(sizes, s->data + 8, sizeof(sizes));
    uint64_t total = le64toh(sizes[0]), count = le64toh(sizes[1]);
    if (memcmp(s->data, MG_SNAPSHOT_MAGIC, 8) != 0 || total != s->len ||
        count > (s->len - MG_SNAPSHOT_HEADER) / MG_SNAPSHOT_RECORD)
        goto malformed;
    s->count = (size_t)count;
    s->slot_count = 16;
    while (s->slot_count < s->count * 2)
        s->slot_count *= 2;
    s->entries = mg_calloc(s->count, sizeof(*s->entries));
    s->slots = mg_calloc(s->slot_count, sizeof(*s->slots));
    if (s->entries == NULL || s->slots == NULL) {
        mg_err_setx(err, "snapshot: out of memory");
        return -1;
    }
    size_t offset = MG_SNAPSHOT_HEADER;
    for (size_t i = 0; i < s->count; i++) {
        struct entry *entry = &s->entries[i];
        if (!record_read(s, &offset, entry))
            goto malformed;
        uint32_t *slot = slot_find(s, entry->kind, entry->key.data, entry->key.len);
        if (*slot == 0)
            *slot = (uint32_t)i + 1;
    }
    if (offset == s->len)
        return 0;
malformed:
    mg_err_setx(err, "snapshot: not a snapshot, or not whole");
    return -1;
}

struct mg_snapshot *
mg_snapshot_open(int fd, bool require_seals, struct mg_err *err)
{
    struct mg_snapshot *s = mg_calloc(1, sizeof(*s));
    if (s == NULL) {
        mg_err_setx(err, "snapshot: out of memory");
        return NULL;
    }
    if (file_load(s, fd, require_seals, err) == 0 && index_build(s, err) == 0)
        return s;
    mg_snapshot_close(s);
    return NULL;
}

void
mg_snapshot_close(struct mg_snapshot *s)
{
    if (s == NULL)
        return;
    if (s->mapped)
        munmap(s->data, s->len);
    else if (s->data != NULL)
        mg_free_secret(s->data, s->len);
    mg_free(s->entries);
    mg_free(s->slots);
    mg_free(s);
}

bool
mg_snapshot_find(const struct mg_snapshot *s, enum mg_record kind, const void *key, size_t key_len,
                 struct mg_span *value)
{
    uint32_t index = *slot_find(s, kind, key, key_len);
    if (index == 0)
        return false;
    *value = s->entries[index - 1].value;
    return true;
}

bool
mg_snapshot_next(const struct mg_snapshot *s, enum mg_record kind, size_t *cursor,
                 struct mg_span *key, struct mg_span *value)
{
    while (*cursor < s->count) {
        const struct entry *entry = &s->entries[(*cursor)++];
        if (entry->kind == (uint32_t)kind) {
            *key = entry->key;
            *value = entry->value;
            return true;
        }
    }
    return false;
}
