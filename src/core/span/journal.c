/* journal.c -- changes to the family's shared tables that are made as a whole, or not at
   all.

   Any process of the family changes the tables of spans (spans.c), word by word, and may
   be killed between any two instructions.  So a change of many words is a *transaction*:
   before a word is written, its old value is noted in the journal, in shared memory.  One
   store, which empties the journal, makes the change.  If its process is killed before
   that, the next one that takes the lock finds the journal not empty, and undoes it.  This
   is an undo log, as the rollback journal of SQLite's pager.c, with words for pages.

        entry[0]  entry[1]  ...  entry[used - 1]     the rest is meaningless
        offset, before                               used == 0: nothing to undo

   Invariants:

   1. Words of the tables are written with ph_journal_write() only, by the owner of
      `mutex` only: a robust lock, which the kernel takes from a dead owner.
   2. An entry is whole before `used` counts it, and `used` counts it before its word is
      written.
   3. The owner of the lock owns ph_os_lock() too, so that no fork happens inside of a
      transaction of this process: a child never inherits half of one.
   4. Undoing goes from the last entry to the first, so that a word that was written twice
      gets back its initial value.  It leaves `used` alone until all is done: a process
      killed in the middle leaves the same work to the next one.
   5. With `commit_at`, the word there decides: the change is made if that word has the
      value, and `used` is only emptied afterwards.  `commit_at` is 0 whenever `used` is 0
      and the lock is free or its owner is alive.

   State: the journal belongs to the family; the mark for asserts to the thread. */

#include "core/span/journal.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "core/heap/extents.h"

#ifndef NDEBUG

static _Thread_local bool transaction_is_open;

bool
ph_journal_is_open(void)
{
    return transaction_is_open;
}

#endif

static void
note_transaction(bool open)
{
#ifndef NDEBUG
    transaction_is_open = open;
#endif
}

static ph_journal *
the_journal(void)
{
    return ph_address_of(ph_heap.header->journal);
}

/* --- Undoing ------------------------------------------------------------------ */

/* Find out whether the word that commits has reached its value.  It is in a channel that
   this process may never have had, so it is mapped first. */
static ph_status
find_commit(const ph_journal *j, bool *p_committed)
{
    uint64_t at = atomic_load(&j->commit_at);
    ph_status status = at != 0 ? ph_heap_map_spans(at) : PH_OK;
    *p_committed = at != 0 && status == PH_OK
                   && atomic_load((_Atomic uint64_t *)ph_address_of(at))
                          >= atomic_load(&j->commit_value);
    return status;
}

static void
undo_entries(ph_journal *j, bool committed)
{
    assert(atomic_load(&j->used) <= PH_JOURNAL_MOST);
    if (!committed) {
        for (uint32_t i = atomic_load(&j->used); i-- > 0;) {
            assert(j->entry[i].offset < ph_heap.header->first);     /* in the tables */
            _Atomic uint64_t *word = ph_address_of(j->entry[i].offset);
            atomic_store(word, j->entry[i].before);
            ph_death_point();
        }
    }
    atomic_store(&j->used, 0);
    ph_death_point();
    atomic_store(&j->commit_at, 0);
}

/* --- Transactions ------------------------------------------------------------- */

ph_status
ph_journal_begin_locked(void)
{
    assert(ph_os_is_locked());          /* invariant 3 */
    assert(!ph_journal_is_open());      /* the lock is not recursive */
    ph_journal *j = the_journal();
    int err = ph_mutex_lock(&j->mutex, PH_FOREVER);
    if (err != 0 && err != EOWNERDEAD) {
        return ph_fail(PH_SYSTEM, "permaheap: cannot take the family's lock: %s",
                       strerror(err));
    }
    if (atomic_load(&j->used) == 0 && atomic_load(&j->commit_at) == 0) {
        note_transaction(true);
        return PH_OK;
    }
    bool committed;
    ph_status status = find_commit(j, &committed);
    if (status != PH_OK) {
        ph_mutex_unlock(&j->mutex);         /* the next one finds the same work */
        return status;
    }
    undo_entries(j, committed);
    note_transaction(true);
    return PH_OK;
}

/* Only these stores are ordered: the entry, `used`, the word. */
void
ph_journal_write(_Atomic uint64_t *word, uint64_t value)
{
    assert(ph_journal_is_open());       /* invariant 1 */
    assert(ph_offset_of((const void *)word) < ph_heap.header->first);
    ph_journal *j = the_journal();
    uint32_t n = atomic_load_explicit(&j->used, memory_order_relaxed);
    assert(n < PH_JOURNAL_MOST);
    j->entry[n].offset = ph_offset_of((const void *)word);
    j->entry[n].before = atomic_load_explicit(word, memory_order_relaxed);
    ph_death_point();
    atomic_store_explicit(&j->used, n + 1, memory_order_release);
    ph_death_point();
    atomic_store_explicit(word, value, memory_order_release);
    ph_death_point();
}

void
ph_journal_commit_locked(void)
{
    assert(ph_journal_is_open() && ph_os_is_locked());
    ph_journal *j = the_journal();
    assert(atomic_load(&j->commit_at) == 0);        /* invariant 5 */
    atomic_store_explicit(&j->used, 0, memory_order_release);
    ph_death_point();
    note_transaction(false);
    ph_mutex_unlock(&j->mutex);
}

ph_status
ph_journal_begin(void)
{
    ph_os_lock();
    ph_status status = ph_journal_begin_locked();
    if (status != PH_OK) {
        ph_os_unlock();
    }
    return status;
}

void
ph_journal_commit(void)
{
    ph_journal_commit_locked();
    ph_os_unlock();
}

void
ph_journal_commit_with(_Atomic uint64_t *word, uint64_t value)
{
    assert(ph_journal_is_open());
    assert(ph_heap_contains((const void *)word));   /* the next owner finds it there */
    ph_journal *j = the_journal();
    atomic_store(&j->commit_value, value);
    ph_death_point();
    atomic_store(&j->commit_at, ph_offset_of((const void *)word));
    ph_death_point();
    atomic_store(word, value);
    ph_death_point();
    atomic_store(&j->used, 0);
    ph_death_point();
    atomic_store(&j->commit_at, 0);
    ph_journal_commit();
}

void
ph_journal_undo(void)
{
    assert(ph_journal_is_open());
    ph_journal *j = the_journal();
    undo_entries(j, false);
    note_transaction(false);
    ph_mutex_unlock(&j->mutex);
    ph_os_unlock();
}

ph_status
ph_journal_mend(void)
{
    ph_status status = ph_journal_begin();
    if (status == PH_OK) {
        ph_journal_commit();
    }
    return status;
}
