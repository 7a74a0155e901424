/* extents.h -- extents: mapping them, claiming them, and seeing how far they are filled.

   Reading needs ph_heap_refresh() and no lock; what builders do is further below. */

#ifndef PH_HEAP_EXTENTS_H
#define PH_HEAP_EXTENTS_H

#include "core/heap/heap.h"

/* Map what the family has published since the last call.  O(1) when there is
   nothing new, else O(extents). */
ph_status ph_heap_refresh(void);
/* Do the same, also for blocks that are committed but not published yet. */
ph_status ph_heap_refresh_all(void);
/* Return the bytes in committed blocks of the whole family, without released ones.
   O(extents). */
uint64_t ph_heap_used(void);
/* Return whether this process can read the offset, in an extent of permanent blocks.
   O(1). */
bool ph_heap_is_mapped(uint64_t offset);
/* Return how far an extent is filled, in bytes, also when its owner was killed before it
   could note so. */
uint64_t ph_extent_fill(const ph_extent *extent);
/* Return how far extent `index` was filled at the last refresh, in bytes. */
uint64_t ph_extent_seen_filled(uint32_t index);

/* --- All below with ph_os_lock() held ----------------------------------------- */

/* Reserve this process's window, unless it has one. */
ph_status ph_window_ready(void);

/* Claim a new extent of permanent blocks, owned by this process: at least `least`
   bytes, or `hint` if there are as many. */
ph_status ph_extent_claim(uint64_t least, uint64_t hint, uint32_t *p_index);
/* Map an extent of ours, for reading and for writing through the window. */
ph_status ph_extent_open(uint32_t index);
/* Make an extent ours, if it has no owner; and give it up. */
bool ph_extent_take(uint32_t index);
void ph_extent_leave(uint32_t index);
/* Reuse an extent of ours, all of whose blocks are gone. */
ph_status ph_extent_reset(uint32_t index);
/* Note, after a commit of our own, that `filled` of extent `index` has grown. */
void ph_extent_seen(uint32_t index);

/* Claim a new extent of spans, and map it: at least `least` bytes, or `hint` if there
   are as many. */
ph_status ph_extent_claim_spans(uint64_t least, uint64_t hint, uint32_t *p_index);
/* Have the extent of spans mapped that has this offset.  O(1) if it is, else
   O(extents). */
ph_status ph_heap_map_spans(uint64_t offset);

#endif
