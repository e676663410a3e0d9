/* What --watch compares: enough of stat(2) to see every change of a file, its replacement included.
 */
#include "snapshot/snapshot.h"

#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>

static void
time_text(char *out, size_t cap, const struct timespec *time)
{
    snprintf(out, cap, "%lld.%09ld", (long long)time->tv_sec, time->tv_nsec);
}

void
mg_watch_identity(const struct stat *st, char out[MG_WATCH_IDENTITY])
{
    if (st == NULL) {
        snprintf(out, MG_WATCH_IDENTITY, "missing");
        return;
    }
    char changed[40], written[40];
    time_text(written, sizeof(written), &st->st_mtim);
    time_text(changed, sizeof(changed), &st->st_ctim);
    snprintf(out, MG_WATCH_IDENTITY, "%ju:%ju %jd %s %s", (uintmax_t)st->st_dev,
             (uintmax_t)st->st_ino, (intmax_t)st->st_size, written, changed);
}
