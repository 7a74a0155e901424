/* span_table.h -- the family's table of spans: descriptors of runs, and lists of free
   ones.

   For spans.c, and for family.c, which makes room for it. */

#ifndef PH_SPAN_SPAN_TABLE_H
#define PH_SPAN_SPAN_TABLE_H

#include <assert.h>

#include "core/span/journal.h"
#include "core/span/span_id.h"

#define PH_RUNS (2 * PH_SPANS)      /* descriptors: live spans, and free runs between */
#define PH_CLASSES 256u             /* of free runs, by size */

/* The run that a descriptor stands for. */
typedef enum {
    PH_RUN_NONE,                    /* no run: it is vacant */
    PH_RUN_COLD,                    /* a free run without memory */
    PH_RUN_WARM,                    /* a free run with memory */
    PH_RUN_LIVE,                    /* a span */
    PH_RUN_TRASH,                   /* was a span, or a warm run: the one process that
                                       has its bit in `holders` frees it */
} ph_run_state;

/* A run of pages, free or not.  256 bytes.  Transactions of the journal change these
   words, except for `backed`.  Links are indices; 0: none. */
typedef struct {
    _Atomic uint64_t state;         /* generation << 32 | ph_span_kind << 8 | state */
    _Atomic uint64_t offset;        /* bytes, of whole pages */
    _Atomic uint64_t pages;
    _Atomic uint64_t size;          /* bytes asked for */
    _Atomic uint64_t before, after; /* neighbours in the extent, by address */
    _Atomic uint64_t previous, next;        /* in the list of its class; next: in that
                                               of the vacant ones */
    _Atomic uint64_t messages;      /* holds of messages */
    _Atomic uint64_t emptied;       /* of a dead channel: holds of its messages that
                                       have been dropped */
    _Atomic uint64_t backed;        /* all its pages have memory, zeroed if so asked:
                                       written by its only holder */
    uint64_t unused[5];
    _Atomic uint64_t holders[PH_PROCESSES / 64];      /* a bit for each slot */
} ph_span_run;

/* The table's head.  The descriptors follow, on pages of their own. */
typedef struct {
    _Atomic uint64_t used;          /* descriptors that were ever used: from 1 on */
    _Atomic uint64_t vacant;        /* the first of those that stand for no run */
    _Atomic uint64_t ready;         /* descriptors that have memory; only grows; not in
                                       the journal */
    _Atomic uint64_t keep_most;     /* bytes that may be kept; 0: not asked for yet */
    _Atomic uint64_t live;          /* spans */
    _Atomic uint64_t bytes;         /* of their pages */
    _Atomic uint64_t kept;          /* bytes of free runs with memory */
    _Atomic uint64_t first[2][PH_CLASSES];          /* free runs: cold, warm */
    _Atomic uint64_t filled[2][PH_CLASSES / 64];    /* bits of classes with any */
} ph_spans_head;

#define PH_SPANS_HEAD_SIZE ((sizeof(ph_spans_head) + PH_PAGE - 1) / PH_PAGE * PH_PAGE)
#define PH_SPANS_TABLE_SIZE (PH_SPANS_HEAD_SIZE + PH_RUNS * sizeof(ph_span_run))
_Static_assert(sizeof(ph_span_run) == 256 && PH_PAGE % sizeof(ph_span_run) == 0,
               "whole pages");

static inline ph_spans_head *
ph_spans_table(void)
{
    return ph_address_of(ph_heap.header->spans);
}

static inline ph_span_run *
ph_run_at(uint64_t index)
{
    assert(index < PH_RUNS);
    char *first = ph_heap.base + ph_heap.header->spans + PH_SPANS_HEAD_SIZE;
    return (ph_span_run *)first + index;
}

static inline ph_run_state
ph_run_state_of(const ph_span_run *run)
{
    return (ph_run_state)(atomic_load(&run->state) & 0xff);
}

static inline ph_span_kind
ph_run_kind_of(const ph_span_run *run)
{
    return (ph_span_kind)(atomic_load(&run->state) >> 8 & 0xff);
}

static inline uint32_t
ph_run_generation_of(const ph_span_run *run)
{
    return (uint32_t)(atomic_load(&run->state) >> 32);
}

/* --- Inside of a transaction of the journal ----------------------------------- */

/* Call ph_journal_write(), unless the word has the value. */
void ph_run_put(_Atomic uint64_t *word, uint64_t value);
void ph_run_set_state(ph_span_run *run, uint32_t generation, ph_span_kind kind,
                      ph_run_state state);

/* Return whether there are descriptors for what this transaction may take.  Only here is
   the answer exact: other processes take them, too. */
bool ph_runs_are_ready(void);
/* Take a run of `pages` pages, or a few more, out of the free ones: its index, and whether
   it is warm.  0 if there is none.  O(1). */
uint64_t ph_runs_take(uint64_t pages, bool *p_warm);
/* Take the first warm run; 0 if there is none. */
uint64_t ph_runs_take_warm(void);
/* Make a run free, united with its free neighbours.  O(1). */
void ph_runs_free(uint64_t index, bool warm);
/* Add a new extent, all of it free.  PH_NOMEM. */
ph_status ph_runs_add(uint64_t offset, uint64_t size);

/* --- Outside of one ----------------------------------------------------------- */

/* Allocate memory for as many descriptors as a transaction may take. */
ph_status ph_runs_make_ready(void);
/* Return what is wrong with the table, and where (a descriptor), or NULL.  Takes the
   locks.  O(descriptors). */
const char *ph_runs_audit(uint64_t *p_where);

#endif
