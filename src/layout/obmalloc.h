/* obmalloc.h -- the holes in the memory of CPython's object allocator. */

#ifndef PH_OBMALLOC_H
#define PH_OBMALLOC_H

#include "layout/version.h"

#include <stdint.h>

/* The blocks that are filled, and how many free pools were released to the kernel so far.
   Zeroed initially. */
typedef struct {
    void *blocks;                   /* head of a list through the blocks */
    uint64_t blocks_number, bytes, pools_number;
} ph_pool_holes;

/* Fill all holes on pages with objects: the memory that the allocator would give out
   before untouched memory.  Returns NULL, or why it cannot be done. */
const char *ph_fill_pool_holes(ph_pool_holes *holes);
/* Free the blocks that are filled. */
void ph_free_pool_holes(ph_pool_holes *holes);

#endif
