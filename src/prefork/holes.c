/* holes.c -- filling the holes in the memory of a process that is about to fork.

   A hole is free memory between objects in use, on a page that children will share.  A
   process that is about to fork fills all holes: it allocates their memory and leaves it
   unused.  So later allocations, in children too, come from untouched pages.

   - Holes that are filled stay filled: to free them would copy the pages of existing
     children.  A later call fills new holes only.
   - The memory of filled holes must not grow without bound: objects between the holes die,
     and then only the filled holes keep their pages.  So when twice as much is filled as a
     full round filled, all of it is freed and a new full round begins.  Pages with nothing
     else on them are free then.  A process that forks again and again keeps at most twice
     the memory of one full round, and GROWTH. */

#include "prefork/holes.h"

#include "core/os/os.h"

#define GROWTH PH_MIB               /* too little to be worth freeing */

static uint64_t
bytes_filled(const ph_holes *holes)
{
    return holes->pools.bytes + holes->heap.bytes;
}

void
ph_free_holes(ph_holes *holes)
{
    ph_free_pool_holes(&holes->pools);
    ph_os_give_back(&holes->heap);
}

/* Fills the heap of the C library first: the allocator's arenas are not in it. */
const char *
ph_fill_holes(ph_holes *holes, bool pools, bool heap)
{
    bool full_round = bytes_filled(holes) == 0;
    const char *problem = NULL;
    if (bytes_filled(holes) > 2 * holes->full_round + GROWTH) {
        ph_free_holes(holes);
        full_round = true;
    }
    if (heap) {
        ph_os_trim();
        ph_os_take_free(&holes->heap);
    }
    if (pools) {
        problem = ph_fill_pool_holes(&holes->pools);
    }
    if (full_round) {
        holes->full_round = bytes_filled(holes);
    }
    return problem;
}
