/* holes.h -- taking the free memory of a process that is about to fork. */

#ifndef PH_PREFORK_HOLES_H
#define PH_PREFORK_HOLES_H

#include "core/os/os.h"
#include "layout/obmalloc.h"

/* The memory that an interpreter has taken.  Zeroed initially. */
typedef struct ph_holes {
    ph_hole pools;                 /* of the allocator of objects */
    ph_free_chunks heap;            /* of the C library */
    uint64_t full_round;            /* bytes that the last full round took */
} ph_holes;

/* Take the free memory of the allocator of objects, of the C library's heap, or of both.
   Returns NULL, or why that of the allocator cannot be taken.  O(memory taken). */
const char *ph_fill_holes(ph_holes *filling, bool pools, bool heap);
/* Give back all of it. */
void ph_empty(ph_holes *filling);

#endif
