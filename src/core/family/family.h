/* family.h -- making the heap, once for a family of processes. */

#ifndef PH_FAMILY_H
#define PH_FAMILY_H

#include "core/heap/heap.h"

/* Make the heap, once per process; later calls do nothing.  On failure ph_heap.state is
   not PH_OK.  ph_rings_init() comes first: a forked child may give back a channel as
   its first act. */
void ph_heap_init(void);
/* Return PH_OK if there is a heap; else try to make it, and return why there is none, with
   words in ph_error_text().  Callers of blocks, spans and handles ask this first. */
ph_status ph_heap_ready(void);

#endif
