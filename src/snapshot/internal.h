/* The layout that writer and reader agree on; see snapshot.h. */
#ifndef MG_SNAPSHOT_INTERNAL_H
#define MG_SNAPSHOT_INTERNAL_H

#include "snapshot/snapshot.h"

#define MG_SNAPSHOT_MAGIC  "MGSNAP01"
#define MG_SNAPSHOT_HEADER 24u /* magic, u64 total length, u64 record count */
#define MG_SNAPSHOT_RECORD 16u /* u32 kind, u32 key length, u64 value length */
#define MG_SNAPSHOT_MAX    ((size_t)1 << 30)

/* What is left between `len` and the next multiple of 8. */
static inline size_t
mg_snapshot_padding(size_t len)
{
    return (8 - len % 8) % 8;
}

/* The hash under which a record of that kind and key is found. */
static inline uint64_t
mg_snapshot_hash(uint32_t kind, const void *key, size_t key_len)
{
    return mg_str_hash(key, key_len) * 31 + kind;
}

#endif
