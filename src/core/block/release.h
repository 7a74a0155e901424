/* release.h -- releasing blocks, and giving their memory back. */

#ifndef PH_BLOCK_RELEASE_H
#define PH_BLOCK_RELEASE_H

#include <stdbool.h>

#include "core/base/status.h"
#include "core/heap/segment.h"

/* Release a block: no handle leads to it any more.  Does nothing if it is released
   already.  Fails with PH_REFUSED when a live block refers to it. */
ph_status ph_release(const ph_segment *home);
/* Note that this process does not use a released block any more, nor will it. */
ph_status ph_forget(const ph_segment *home);
/* Give back the memory of released blocks that no process can see.  O(1) if there are
   none, else O(processes). */
void ph_reclaim(void);
/* Count the blocks that wait to be given back.  O(of them). */
uint64_t ph_releases_pending(void);

/* --- For open_extents.c, with ph_os_lock() held ------------------------------- */

/* Do the same as ph_reclaim(). */
void ph_reclaim_locked(void);
/* Find an extent with room for `size` bytes, all of whose blocks are gone, and make it
   ours and empty.  False if there is none. */
bool ph_reuse_locked(uint64_t size, uint32_t *p_index);

/* Have each touch of a forgotten block reported, in debug mode.  For family.c. */
void ph_release_init(void);

#endif
