/* holes.c -- taking the free memory of a process that is about to fork.

   What a process has freed lies between what it still uses, on pages that its
   children will share.  Whoever is to fork takes all of it, so that what is
   allocated from then on, in children too, comes from untouched pages.

   - What is taken stays taken, or each call would copy the pages of the children
     that are there.  Only new holes are filled by a later call.
   - It must not grow without bound: objects that lived between the holes die,
     and then it is the filling that keeps their memory.  So when as much again
     has been taken as a full round took, all is given back and taken anew:
     what nothing else lives in is free then.  A process that forks again and
     again keeps at most twice what one full round needs, and GROWTH. */

#include "prefork/holes.h"

#include "core/os/os.h"

#define GROWTH PH_MIB               /* below it, giving back is not worth while */

static bool
has_grown(const ph_filling *filling)
{
    uint64_t bytes = filling->pools.bytes + filling->heap.bytes;
    return bytes > 2 * filling->full_round + GROWTH;
}

void
ph_empty(ph_filling *filling)
{
    ph_give_back_memory(&filling->pools);
    ph_os_give_back(&filling->heap);
}

/* The heap of the C library first: the allocator's arenas are not in it. */
const char *
ph_fill(ph_filling *filling, bool pools, bool heap)
{
    bool first = filling->pools.bytes + filling->heap.bytes == 0;
    const char *problem = NULL;
    if (has_grown(filling)) {
        ph_empty(filling);
        first = true;
    }
    if (heap) {
        ph_os_trim();
        ph_os_take_free(&filling->heap);
    }
    if (pools) {
        problem = ph_take_free_memory(&filling->pools);
    }
    if (first) {
        filling->full_round = filling->pools.bytes + filling->heap.bytes;
    }
    return problem;
}
