#include "base/base.h"

#include <unistd.h>

/* A third of what the others get where there is not enough for all: too little to be in their way, and
 * enough to come to an end on a machine that is always busy. */
#define NICE 5

void
mg_priority_lower(void)
{
#ifdef MG_HAVE_THREAD_NICE
    (void)!nice(NICE); /* as it was, if not */
#endif
}
