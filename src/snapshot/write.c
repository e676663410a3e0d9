/*
 * Writing a snapshot: records gather in memory, then leave as one file that nobody can change any
 * more.
 *
 * The happy path is: new, add (and has) as often as the run needs, seal. Possible failure modes
 * are: no memory, a snapshot that grows beyond MG_SNAPSHOT_MAX, no place for the file; all are
 * remembered and reported by seal. The bytes hold private keys and are wiped with the writer.
 */
#include "snapshot/internal.h"

#include <endian.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct slot {
    uint64_t hash;
    size_t offset; /* of the record in body; 0 = free, as the header stands there */
};

struct mg_snapshot_writer {
    struct mg_buf body; /* header (filled in by seal) and records */
    uint64_t count;
    struct slot *slots; /* open addressing; slot_count is a power of two, at most half full */
    size_t slot_count;
    bool failed, too_long;
};

static struct slot *
slot_find(const struct mg_snapshot_writer *w, uint64_t hash, uint32_t kind, const void *key,
          size_t key_len)
{
    size_t mask = w->slot_count - 1;
    for (size_t i = hash & mask;; i = (i + 1) & mask) {
        struct slot *slot = &w->slots[i];
        if (slot->offset == 0)
            return slot;
        uint32_t head[2];
        const char *record = w->body.data + slot->offset;
        memcpy(head, record, sizeof(head));
        if (slot->hash == hash && le32toh(head[0]) == kind && le32toh(head[1]) == key_len &&
            memcmp(record + MG_SNAPSHOT_RECORD, key, key_len) == 0)
            return slot;
    }
}

static bool
slots_grow(struct mg_snapshot_writer *w)
{
    if (w->count * 2 < w->slot_count)
        return true;
    size_t count = w->slot_count * 2;
    struct slot *slots = mg_calloc(count, sizeof(*slots));
    if (slots == NULL)
        return false;
    for (size_t i = 0; i < w->slot_count; i++) {
        if (w->slots[i].offset == 0)
            continue;
        size_t at = w->slots[i].hash & (count - 1);
        while (slots[at].offset != 0)
            at = (at + 1) & (count - 1);
        slots[at] = w->slots[i];
    }
    mg_free(w->slots);
    w->slots = slots;
    w->slot_count = count;
    return true;
}

struct mg_snapshot_writer *
mg_snapshot_writer_new(struct mg_err *err)
{
    static const char header[MG_SNAPSHOT_HEADER] = MG_SNAPSHOT_MAGIC;
    struct mg_snapshot_writer *w = mg_calloc(1, sizeof(*w));
    if (w == NULL)
        goto no_memory;
    w->slot_count = 64;
    w->slots = mg_calloc(w->slot_count, sizeof(*w->slots));
    mg_buf_add(&w->body, header, sizeof(header));
    if (w->slots != NULL && !w->body.failed)
        return w;
no_memory:
    mg_snapshot_writer_free(w);
    mg_err_setx(err, "snapshot: out of memory");
    return NULL;
}

void
mg_snapshot_writer_free(struct mg_snapshot_writer *w)
{
    if (w == NULL)
        return;
    mg_buf_free_secret(&w->body);
    mg_free(w->slots);
    mg_free(w);
}

void
mg_snapshot_writer_add(struct mg_snapshot_writer *w, enum mg_record kind, const void *key,
                       size_t key_len, const void *value, size_t value_len)
{
    static const char zeros[8] = {0};
    if (w->failed)
        return;
    size_t room = MG_SNAPSHOT_MAX - w->body.len;
    if (key_len > room || value_len > room || key_len + value_len + MG_SNAPSHOT_RECORD + 8 > room) {
        w->failed = w->too_long = true;
        return;
    }
    if (!slots_grow(w)) {
        w->failed = true;
        return;
    }
    size_t offset = w->body.len;
    uint32_t head[2] = {htole32(kind), htole32((uint32_t)key_len)};
    uint64_t length = htole64(value_len);
    mg_buf_add(&w->body, head, sizeof(head));
    mg_buf_add(&w->body, &length, sizeof(length));
    mg_buf_add(&w->body, key, key_len);
    mg_buf_add(&w->body, value, value_len);
    mg_buf_add(&w->body, zeros, mg_snapshot_padding(key_len + value_len));
    if (w->body.failed) {
        w->failed = true;
        return;
    }
    w->count++;
    uint64_t hash = mg_snapshot_hash(kind, key, key_len);
    struct slot *slot = slot_find(w, hash, kind, key, key_len);
    if (slot->offset == 0) /* the first of equal records is the one that is found */
        *slot = (struct slot){hash, offset};
}

bool
mg_snapshot_writer_has(const struct mg_snapshot_writer *w, enum mg_record kind, const void *key,
                       size_t key_len)
{
    if (w->failed)
        return false;
    return slot_find(w, mg_snapshot_hash(kind, key, key_len), kind, key, key_len)->offset != 0;
}

static int
file_create(struct mg_err *err)
{
#ifdef MG_HAVE_MEMFD
    int fd = memfd_create("moongate-snapshot", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        mg_err_set(err, "snapshot: memfd_create");
#else
    char path[] = "/tmp/moongate-snapshot-XXXXXX"; /* mkostemp makes it 0600 */
    int fd = mkostemp(path, O_CLOEXEC);
    if (fd < 0)
        mg_err_set(err, "snapshot: %s", path);
    else
        unlink(path);
#endif
    return fd;
}

static int
file_seal(int fd, struct mg_err *err)
{
#ifdef MG_HAVE_MEMFD
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) != 0) {
        mg_err_set(err, "snapshot: sealing");
        return -1;
    }
#else
    (void)fd;
    (void)err;
#endif
    return 0;
}

int
mg_snapshot_writer_seal(struct mg_snapshot_writer *w, struct mg_err *err)
{
    int fd = -1;
    if (w->failed) {
        mg_err_setx(err, w->too_long ? "snapshot: the files read exceed 1 GiB"
                                     : "snapshot: out of memory");
        goto fail;
    }
    uint64_t sizes[2] = {htole64(w->body.len), htole64(w->count)};
    memcpy(w->body.data + 8, sizes, sizeof(sizes));
    fd = file_create(err);
    if (fd < 0)
        goto fail;
    if (mg_fd_write_all(fd, w->body.data, w->body.len) != 0) {
        mg_err_set(err, "snapshot: writing %zu bytes", w->body.len);
        goto fail;
    }
    if (file_seal(fd, err) != 0)
        goto fail;
    mg_snapshot_writer_free(w);
    return fd;
fail:
    if (fd >= 0)
        close(fd);
    mg_snapshot_writer_free(w);
    return -1;
}
