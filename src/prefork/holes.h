/* holes.h -- filling the holes in the memory of a process that is about to fork. */

#ifndef PH_PREFORK_HOLES_H
#define PH_PREFORK_HOLES_H

#include "core/os/os.h"
#include "layout/obmalloc.h"

/* The holes that an interpreter has filled.  Zeroed initially. */
typedef struct ph_holes {
    ph_pool_holes pools;            /* of the allocator of objects */
    ph_free_chunks heap;            /* of the C library */
    uint64_t full_round;            /* bytes that the last full round filled */
} ph_holes;

/* Fill the holes of the allocator of objects, of the C library's heap, or of both.  Returns
   NULL, or why those of the allocator cannot be filled.  O(holes). */
const char *ph_fill_holes(ph_holes *holes, bool pools, bool heap);
/* Free the memory of all holes that are filled. */
void ph_free_holes(ph_holes *holes);

#endif
