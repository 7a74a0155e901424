/* spans.h -- spans: shared memory of the family that is given back.

   A span is a run of whole pages that every process of the family maps for reading and
   writing (extents of kind PH_EXTENT_SPANS, MAP_SHARED).  Buffers, channels and large
   messages live in them.  Processes hold a span (each counts for itself how often), and
   messages that wait in a channel; without a holder its memory is reused.
   ph_spans_sweep() gives back the holds of killed processes.

   Call ph_heap_ready() first. */

#ifndef PH_SPAN_SPANS_H
#define PH_SPAN_SPANS_H

#include <stdatomic.h>
#include <stdbool.h>

#include "core/base/status.h"
#include "core/span/span_id.h"

/* Make a span of at least `size` bytes, held once by this process.  Its memory is
   allocated (no SIGBUS later), and zeroed if asked for.  PH_NOMEM when there is no
   memory or no room.  O(log) and, when zeroed or fresh, O(size). */
ph_status ph_span_new(ph_span_kind kind, uint64_t size, bool zeroed, ph_span_id *id);
/* Hold a span that a process of the family named, once more in this process.
   PH_BAD_HANDLE when there is no such span of that kind (any more). */
ph_status ph_span_hold(ph_span_id id, ph_span_kind kind);
/* Do the same for a span that a value names: a Buffer's, or a Channel's. */
ph_status ph_span_hold_named(ph_span_id id);
/* Drop one hold.  The last one in the family frees the span; then the messages of a
   channel drop their holds too.  Cannot fail. */
void ph_span_drop(ph_span_id id);

/* Find the next live span of that kind after *p_index (initially 0), for a walk over all
   of them inside of a transaction of the journal.  Returns its address, where it stays
   until ph_journal_commit(); NULL when there is none. */
void *ph_spans_next(ph_span_kind kind, uint32_t *p_index, ph_span_id *id,
                    uint64_t *p_size);

/* Return the address, or the size asked for, of a span that this process holds; else NULL
   or 0. */
void *ph_span_address(ph_span_id id);
uint64_t ph_span_size(ph_span_id id);
/* Return whether this process is its only holder: no other process, and no message. */
bool ph_span_is_ours(ph_span_id id);

/* Publish a message that holds these spans, by storing `value` in *position, a word of
   shared memory that only grows.  This process holds the spans; `n` may be 0, and one span
   may stand there twice.  Take a message out again, so that this process holds the spans,
   once for each entry.  Both are done as a whole or not at all, also when the process is
   killed.  For ring.c.  Does nothing and fails: with PH_BAD_HANDLE when an id is of no live
   span (a damaged message), with PH_NOMEM for more than PH_MESSAGE_SPANS. */
ph_status ph_spans_publish(const ph_span_id *ids, uint32_t n,
                           _Atomic uint64_t *position, uint64_t value);
ph_status ph_spans_take(const ph_span_id *ids, uint32_t n,
                        _Atomic uint64_t *position, uint64_t value);

/* Call `drop` for each span that each message in this channel's memory holds, in an order
   that is always the same.  Set once per process, by ph_rings_init(), before the heap is
   made: a forked child may give back a channel as its first act. */
extern void (*ph_span_empty_channel)(void *memory, void (*drop)(ph_span_id id));

/* Give back the holds of dead processes, and spans that waited for it.  Returns the bytes
   that became free.  O(spans + processes). */
uint64_t ph_spans_sweep(void);

/* Give back the memory that is kept for new spans.  Returns how many bytes. */
uint64_t ph_spans_give_back(void);

/* For stats(): bytes of the family's live spans, how many, and bytes of memory kept
   for new ones. */
typedef struct {
    uint64_t bytes, spans, kept;
} ph_spans_figures;
ph_spans_figures ph_spans_count(void);

/* Hold, in a forked child, the spans that its parent held.  Called with ph_os_lock() held,
   between ph_processes_after_fork() and ph_processes_join().  Plain C. */
void ph_spans_after_fork(void);

#endif
