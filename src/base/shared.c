/* Counters that the supervisor and all workers share: one mapping, atomics only. */
#include "base/base.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
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
mg_shared_create(struct mg_err *err)
{
#ifdef MG_HAVE_MEMFD
    int fd = memfd_create("moongate-counters", MFD_CLOEXEC | MFD_ALLOW_SEALING);
#else
    char path[] = "/tmp/moongate-counters-XXXXXX";
    int fd = mkostemp(path, O_CLOEXEC);
    if (fd >= 0)
        unlink(path);
#endif
    if (fd < 0) {
        mg_err_set(err, "shared counters");
        return -1;
    }
    if (ftruncate(fd, sizeof(struct mg_shared)) != 0 || mg_shared_fix_size(fd) != 0) {
        mg_err_set(err, "shared counters: %zu bytes", sizeof(struct mg_shared));
        close(fd);
        return -1;
    }
    return fd;
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

struct mg_shared_listener *
mg_shared_listener(struct mg_shared *shared, const char *name)
{
    uint64_t hash = mg_str_hash(name, strlen(name));
    if (hash == 0)
        hash = 1; /* 0 marks a free slot */
    for (size_t i = 0; i < MG_SHARED_LISTENERS; i++) {
        struct mg_shared_listener *slot = &shared->listener[(hash + i) % MG_SHARED_LISTENERS];
        uint64_t found = 0;
        if (atomic_compare_exchange_strong(&slot->name_hash, &found, hash) || found == hash)
            return slot;
    }
    return NULL;
}

void
mg_shared_forget(struct mg_shared *shared, unsigned index)
{
    for (size_t i = 0; i < MG_SHARED_LISTENERS; i++) {
        struct mg_shared_listener *slot = &shared->listener[i];
        int32_t counted = atomic_exchange(&slot->row[index], 0);
        if (counted != 0)
            atomic_fetch_sub(&slot->total, counted);
    }
}
