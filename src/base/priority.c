#include "base/base.h"

#include <unistd.h>

/*
 * A thirtieth of what the others get where there is not enough for all: enough to come to an end on a machine
 * that is always busy, and so little that who wakes up after a short piece of work still has the better claim.
 * With a third (5) a loop that did 3 ms of work in one go had to wait behind its own helper, until the next
 * tick.
 */
#define NICE 15

void
mg_priority_lower(void)
{
#ifdef MG_HAVE_THREAD_NICE
    (void)!nice(NICE); /* as it was, if not */
#endif
}
