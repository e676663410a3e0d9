/*
 * When the process may not have all the memory it wants: RLIMIT_AS, RLIMIT_DATA (ulimit -v, -d).
 *
 * Whoever is connected needs memory at moments at which to be refused is to be cut off. So where there is such a
 * limit nobody is accepted unless there is enough left for those who are: what the kernel would still give, or what
 * lies free in the heap. Without a limit nothing is looked for: then the kernel does not say no, it ends somebody.
 * To see what the kernel would give takes that much for some microseconds, which are within SPARE; to see what lies
 * free in the heap goes through all that does, so it is done once in a millisecond at most.
 */
#include "net/internal.h"

#ifdef MG_HAVE_MALLINFO2
#include <malloc.h>
#endif
#include <sys/mman.h>
#include <sys/resource.h>

#define SPARE (12u * 1024u * 1024u) /* for those who are connected, and a thread with its stack */
#define EACH  (96u * 1024u)         /* for each that has not come through yet */

static bool is_limited; /* as of the last look */

void
mg_memory_look(void)
{
    struct rlimit space, data;

    is_limited = (getrlimit(RLIMIT_AS, &space) == 0 && space.rlim_cur != RLIM_INFINITY) ||
                 (getrlimit(RLIMIT_DATA, &data) == 0 && data.rlim_cur != RLIM_INFINITY);
}

static bool
kernel_has(size_t size)
{
    void *room = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (room != MAP_FAILED)
        munmap(room, size);
    return room != MAP_FAILED;
}

/* Twice as much of it, because it is in pieces. */
static bool
heap_has(size_t size)
{
#ifdef MG_HAVE_MALLINFO2
    return mallinfo2().fordblks / 2 >= size;
#else
    (void)size;
    return false;
#endif
}

bool
mg_memory_is_short(struct mg_net *net)
{
    size_t size = SPARE + net->wanted * EACH;
    uint64_t now = uv_now(net->loop);

    if (!is_limited)
        return false;
    if (net->memory_looked_at == 0 || now != net->memory_looked_at)
        net->memory_short = !kernel_has(size) && !heap_has(size);
    net->memory_looked_at = now;
    return net->memory_short;
}
