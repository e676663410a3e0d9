/*
 * When the process may not have all the memory it wants: RLIMIT_AS, RLIMIT_DATA (ulimit -v, -d).
 *
 * Whoever is connected needs memory at moments at which to be refused is to be cut off. So where there is such a
 * limit nobody is accepted unless there is enough left for those who are: what the kernel would still give, or what
 * lies free in the heap. Without a limit nothing is looked for: then the kernel does not say no, it ends somebody.
 * To see what lies free in the heap goes through all that does, so it is done once in a millisecond at most.
 */
#include "net/internal.h"

#ifdef MG_HAVE_MALLINFO2
#include <malloc.h>
#endif
#include <fcntl.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#define SPARE (12u * 1024u * 1024u) /* for those who are connected, and a thread with its stack */
#define EACH  (96u * 1024u)         /* for each that has not come through yet */

#define LIMITS_MS 10

static uint64_t space_max = UINT64_MAX, data_max = UINT64_MAX; /* as of the last look */
static int statm = -1; /* once there is a limit; never closed */

static uint64_t
limit_of(int resource)
{
    struct rlimit limit;

    return getrlimit(resource, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY
               ? (uint64_t)limit.rlim_cur
               : UINT64_MAX;
}

/* They may be changed from outside (prlimit). */
static void
limits_look(void)
{
    space_max = limit_of(RLIMIT_AS);
    data_max = limit_of(RLIMIT_DATA);
    if ((space_max != UINT64_MAX || data_max != UINT64_MAX) && statm < 0)
        statm = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
}

static uint64_t
left_of(uint64_t most, uint64_t used)
{
    return most == UINT64_MAX ? most : most > used ? most - used : 0;
}

/* UINT64_MAX where that is not told. */
static uint64_t
kernel_has(void)
{
    unsigned long long space, data, page = (unsigned long long)sysconf(_SC_PAGESIZE);
    char text[128];
    ssize_t len = statm >= 0 ? pread(statm, text, sizeof(text) - 1, 0) : -1;
    uint64_t room, other;

    text[len > 0 ? len : 0] = '\0';
    if (sscanf(text, "%llu %*u %*u %*u %*u %llu", &space, &data) != 2)
        return UINT64_MAX;
    room = left_of(space_max, space * page);
    other = left_of(data_max, data * page);
    return room < other ? room : other;
}

/* Half of it, because it is in pieces. */
static uint64_t
heap_has(void)
{
#ifdef MG_HAVE_MALLINFO2
    return mallinfo2().fordblks / 2;
#else
    return 0;
#endif
}

bool
mg_memory_is_short(struct mg_net *net)
{
    uint64_t size = SPARE + (uint64_t)net->wanted * EACH, now = uv_now(net->loop), kernel;

    if (net->limits_looked_at == 0 || now - net->limits_looked_at >= LIMITS_MS) {
        limits_look();
        net->limits_looked_at = now;
    }
    if (space_max == UINT64_MAX && data_max == UINT64_MAX)
        return false;
    if (net->memory_looked_at == 0 || now != net->memory_looked_at) {
        kernel = kernel_has();
        net->memory_short = kernel < size && kernel + heap_has() < size;
        net->memory_looked_at = now;
    }
    return net->memory_short;
}
