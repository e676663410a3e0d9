/* Any bytes as the records of a snapshot; the header is made to fit, else little would get past it. */
#include "snapshot/snapshot.h"

#include <endian.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    uint64_t header[3] = {0, htole64(sizeof(header) + len), htole64(len > 0 ? data[0] : 0)};
    struct mg_snapshot *s = NULL;
    struct mg_span key, value;
    struct mg_err err;

    memcpy(header, "MGSNAP01", 8);
    if (len > 0 && write(fd, header, sizeof(header)) > 0 && write(fd, data + 1, len - 1) >= 0 &&
        (data[0] & 1 || ftruncate(fd, (off_t)(sizeof(header) + len)) == 0))
        s = mg_snapshot_open(fd, false, &err);
    for (int kind = 0; s != NULL && kind < 20; kind++) {
        size_t cursor = 0;

        while (mg_snapshot_next(s, (enum mg_record)kind, &cursor, &key, &value)) {
            unsigned char sum = 0;

            for (size_t i = 0; i < value.len; i++)
                sum ^= (unsigned char)value.data[i];
            if (!mg_snapshot_find(s, (enum mg_record)kind, key.data, key.len, &value) || sum > 255)
                __builtin_trap();
        }
    }
    mg_snapshot_close(s);
    close(fd);
    return 0;
}
