/* open_extents.h -- open extents: the extents that this process fills.

   An open extent belongs to one builder at a time, which writes there without a lock;
   between builds it waits in a list of the process. */

#ifndef PH_BLOCK_OPEN_EXTENTS_H
#define PH_BLOCK_OPEN_EXTENTS_H

#include "core/heap/heap.h"

#define PH_OPEN_EXTENT_LEAST 512    /* free bytes that are worth keeping */

/* An extent that this process owns, and how far it is used.  While it is idle
   pos == committed; while a block is built in it
   committed <= pos <= allocated <= end. */
typedef struct ph_open_extent {
    struct ph_open_extent *next;    /* in the list; or of the same block */
    uint32_t index;             /* of the extent */
    uint64_t end;               /* offset of the extent's end */
    uint64_t committed;         /* offset behind the last committed block */
    uint64_t pos;               /* offset behind the last object built */
    uint64_t allocated;         /* offset up to which memory is allocated */
} ph_open_extent;

/* Take one with at least `size` free bytes: an idle one, or an extent of a dead owner, or a
   reused one, or a new one of about `hint` bytes.  The caller owns it. */
ph_status ph_open_extent_take(uint64_t size, uint64_t hint, ph_open_extent **p_open);
/* Allocate memory for [pos, pos + size), and a little ahead. */
ph_status ph_open_extent_allocate(ph_open_extent *open, uint64_t size);
/* Give back the memory after pos, except for a little. */
void ph_open_extent_trim(ph_open_extent *open);

/* Put it back into the list, with ph_os_lock() held, after a commit; or without the bytes
   that were built there since the last one (give_back). */
void ph_open_extent_give(ph_open_extent *open);
void ph_open_extent_give_back(ph_open_extent *open);

/* Forget the parent's, in a forked child, with ph_os_lock() held.  Plain C. */
void ph_open_extents_after_fork(void);

#endif
