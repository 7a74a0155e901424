/* release.h -- giving blocks back. */

#ifndef PH_BLOCK_RELEASE_H
#define PH_BLOCK_RELEASE_H

#include <stdbool.h>

#include "core/base/status.h"
#include "core/heap/segment.h"

/* Retire a block: nobody gets at it any more.  Does nothing if it is retired
   already.  Fails with PH_REFUSED when a live block refers to it. */
ph_status ph_retire(const ph_segment *home);
/* This process does not use a retired block any more, nor will it. */
ph_status ph_forget(const ph_segment *home);
/* Give back the memory of retired blocks that nobody can see.  O(1) if there are
   none, else O(processes). */
void ph_reclaim(void);
/* The same for heap.c, with ph_os_lock() held. */
void ph_reclaim_locked(void);
/* For heap.c, likewise: an extent with room for `size` bytes, all of whose blocks are
   gone, and which is ours and empty now.  False if there is none. */
bool ph_reuse_locked(uint64_t size, uint32_t *p_index);
/* How many blocks wait to be given back.  O(of them). */
uint64_t ph_retired_waiting(void);

/* For heap.c: in debug mode a touch of what was forgotten is reported. */
void ph_retire_init(void);

#endif
