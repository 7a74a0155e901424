/* journal.h -- changes to the family's shared tables that are made as a whole or not at
   all, also when the process that makes them is killed. */

#ifndef PH_SPAN_JOURNAL_H
#define PH_SPAN_JOURNAL_H

#include "core/heap/heap.h"
#include "core/os/sync.h"

#define PH_JOURNAL_MOST 2048u

/* In the family's shared memory.  Written by the owner of the lock only. */
typedef struct {
    ph_mutex mutex;
    _Atomic uint32_t used;          /* entries to be undone; 0: nothing is half done */
    _Atomic uint64_t commit_at;     /* offset of the word that commits; 0: `used` does */
    _Atomic uint64_t commit_value;  /* committed when the word there is >= this one */
    struct {
        uint64_t offset;            /* of a word of 8 bytes in the heap */
        uint64_t before;            /* what it held */
    } entry[PH_JOURNAL_MOST];
} ph_journal;

/* Take the process's lock (so that no fork is under way), then the family's, and undo a
   change that a killed process has left half done. */
ph_status ph_journal_begin(void);
/* Note the word's old value, then write it. */
void ph_journal_write(_Atomic uint64_t *word, uint64_t value);
/* Make the change of all words written since ph_journal_begin(), and unlock. */
void ph_journal_commit(void);
/* Make the same change at the moment when *word, which only grows, gets that value: a
   process that sees the value sees the whole change.  Only the owner of a robust lock
   writes to such a word.  An owner that is told that the one before it died calls
   ph_journal_mend() before it writes there; else a change that was not made would count
   as made. */
void ph_journal_commit_with(_Atomic uint64_t *word, uint64_t value);
/* Undo the change, and unlock. */
void ph_journal_undo(void);
/* Undo a change that a killed process has left half done. */
ph_status ph_journal_mend(void);
/* Return whether the calling thread is inside of a transaction.  Only for asserts: release
   builds do not define it. */
bool ph_journal_is_open(void);

/* --- With ph_os_lock() held: for longer work, and for a forked child ---------- */

ph_status ph_journal_begin_locked(void);
void ph_journal_commit_locked(void);

#endif
