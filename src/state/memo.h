/* memo.h -- a map from addresses to one word each, for a walk over objects.

   Freeze and thaw map a container to its copy; the audit keeps the set of what it has
   seen; the profiler's map gives each type a number; immortalize() notes why an object was
   left.  A key is any address but NULL; a value is any pointer, or number cast to one, but
   NULL.  The memo looks at neither.

   It is an open-addressing table with linear probing, at most half full.  Nothing is ever
   removed but by ph_memo_clear().  A memo belongs to one walk, and to one thread.

   A *strong* memo has objects as its keys and owns references to them, so that none is
   freed and its address used again while Python code runs.  Values are always borrowed. */

#ifndef PH_STATE_MEMO_H
#define PH_STATE_MEMO_H

#include "core/heap/heap.h"
#include "layout/version.h"

typedef struct {
    const void *key;                /* NULL: the slot is empty */
    const void *value;
} ph_memo_slot;

typedef struct {
    ph_memo_slot *slots;            /* NULL: there are none yet */
    uint64_t mask;                  /* number of slots - 1, a power of two - 1 */
    uint64_t used;
    bool strong;                    /* it owns references to its keys */
} ph_memo;

void ph_memo_init(ph_memo *memo);
void ph_memo_clear(ph_memo *memo);
/* From now on own the keys, which are objects, also those that it has already. */
void ph_memo_make_strong(ph_memo *memo);
/* The value of a key, or NULL. */
void *ph_memo_get(const ph_memo *memo, const void *key);
/* Go through all entries, in no order: *p_i is initially 0.  False at the end. */
bool ph_memo_next(const ph_memo *memo, uint64_t *p_i, ph_memo_slot *p_entry);
/* Start to load the slot that ph_memo_get() will look at. */
void ph_memo_prefetch(const ph_memo *memo, const void *key);
/* Set or replace.  Replacing cannot fail; else PH_NOMEM, and the memo is as it was. */
ph_status ph_memo_set(ph_memo *memo, const void *key, const void *value);

#endif
