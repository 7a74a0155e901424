/* memo.h -- what became of each container: a map from the address of a source
   object to its copy, for freeze (to the frozen object) and thaw (the other
   way round).

   An entry whose copy is PH_IN_PROGRESS is a container on the way from the
   root to where we are: to meet it again is a cycle. */

#ifndef PH_STATE_MEMO_H
#define PH_STATE_MEMO_H

#include "core/heap/heap.h"
#include "layout/version.h"

typedef struct {
    PyObject *source;               /* NULL: the slot is empty */
    PyObject *copy;
} ph_memo_slot;

/* Open addressing, linear probing, at most half full. */
typedef struct {
    ph_memo_slot *slots;
    uint64_t mask;
    uint64_t used;
    bool strong;                    /* it owns references to its sources, so
                                       that none is freed and its address used
                                       again while Python code runs */
} ph_memo;

#define PH_IN_PROGRESS ((PyObject *)(uintptr_t)1)

void ph_memo_init(ph_memo *memo);
void ph_memo_clear(ph_memo *memo);
/* From now on own the sources, also those that it has already. */
void ph_memo_make_strong(ph_memo *memo);
/* The copy, PH_IN_PROGRESS, or NULL. */
PyObject *ph_memo_get(const ph_memo *memo, PyObject *source);
/* Start to load the slot that ph_memo_get() will look at. */
void ph_memo_prefetch(const ph_memo *memo, PyObject *source);
/* Set or replace.  Replacing cannot fail. */
ph_status ph_memo_set(ph_memo *memo, PyObject *source, PyObject *copy);

#endif
