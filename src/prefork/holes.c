/* holes.c -- taking the free memory of a process that is about to fork.

   Memory that a process has freed lies in holes between objects in use, on pages that its
   children will share.  A process that is about to fork takes all holes.  So later
   allocations, in children too, come from untouched pages.

   - Holes that are taken stay taken: to give them back would copy the pages of existing
     children.  A later call takes new holes only.
   - Taken memory must not grow without bound: objects between the holes die, and then only
     the taken holes keep their memory.  So when twice as much is taken as a full round took,
     all of it is given back and a new full round begins.  Pages with nothing else on them
     are free then.  A process that forks again and again keeps at most twice the memory of
     one full round, and GROWTH. */

#include "prefork/holes.h"

#include "core/os/os.h"

#define GROWTH PH_MIB               /* too little to be worth giving back */

static bool
has_grown(const ph_holes *filling)
{
    uint64_t bytes = filling->pools.bytes + filling->heap.bytes;
    return bytes > 2 * filling->full_round + GROWTH;
}

void
ph_empty(ph_holes *filling)
{
    ph_give_back_memory(&filling->pools);
    ph_os_give_back(&filling->heap);
}

/* Takes the heap of the C library first: the allocator's arenas are not in it. */
const char *
ph_fill_holes(ph_holes *filling, bool pools, bool heap)
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
