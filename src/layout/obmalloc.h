/* obmalloc.h -- the free memory inside CPython's object allocator. */

#ifndef PH_OBMALLOC_H
#define PH_OBMALLOC_H

#include "layout/version.h"

#include <stdint.h>

/* The blocks that are out of circulation, and how many free pools were released to the
   kernel so far.  Zero initially. */
typedef struct {
    void *blocks;                   /* head of a list through the blocks */
    uint64_t blocks_number, bytes, pools_number;
} ph_hole;

/* Take all free memory on pages with objects that the allocator would give out
   before untouched memory.  Returns NULL, or why it cannot be done. */
const char *ph_take_free_memory(ph_hole *taken);
/* Give back all of it. */
void ph_give_back_memory(ph_hole *taken);

#endif
