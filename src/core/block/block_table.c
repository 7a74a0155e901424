/* block_table.c -- one word for each block: is it released, and how many blocks refer to
   it?

   Blocks never change, so this is kept beside them, in the block table behind the page
   directory.  A block's place in it is its number, which it gets when it is whole, just
   before it is committed.

        bit 31    released: no handle leads to it any more
        bit 30    gone: its memory has been given back
        bits 0-29 uses: committed blocks that are not released and have a pointer into
                  this one

   Invariants:

   1. All changes are made by compare and swap.  A block is released only without uses, and
      uses are added only while it is live.  So a committed block never points into a
      released one.
   2. Before it commits, a builder adds a use to each block that its own block refers to
      (block.c).  release.c takes these uses back when that block is released.  A
      process killed in between leaves a use too many: that block can then not be
      released.  There is never one too few.
   3. 2**30 - 1 uses stay for ever.

   4. A process has access to the words up to the highest that it has used, and a bit
      beyond.  The rest would be filled with memory by mlockall().

   State: the table belongs to the family, the statics to this process. */

#include "core/block/block_table.h"

#include <assert.h>

#include "core/heap/heap.h"
#include "core/heap/processes.h"

#define RELEASED ((uint32_t)1 << 31)
#define GONE ((uint32_t)1 << 30)
#define USES (GONE - 1)

#define WORDS_PER_PAGE (PH_PAGE / sizeof(uint32_t))

#define OPEN_AT_ONCE ((uint64_t)1 << 18)    /* words */

static uint64_t pages_ready;    /* of the table: they have memory; under ph_os_lock() */
static _Atomic uint64_t words_open;     /* this process has access to that many */

/* Permit access up to the word of that number, and to many more.  Cannot fail: the border
   between two mappings moves.  Threads may do so at the same time. */
static void
open_words(uint64_t number)
{
    uint64_t table = ph_heap.header->block_table;
    uint64_t all = ph_heap.header->acks - table;
    uint64_t size = (number / OPEN_AT_ONCE + 1) * OPEN_AT_ONCE * sizeof(uint32_t);
    size = size < all ? size : all;
    if (ph_os_permit(ph_address_of(table), size, true) == 0) {
        uint64_t words = size / sizeof(uint32_t), before = atomic_load(&words_open);
        while (before < words
               && !atomic_compare_exchange_weak(&words_open, &before, words)) {
        }
    }
}

static _Atomic uint32_t *
word_of(const ph_segment *home)
{
    assert(home->number < ph_heap.header->block_table_words);
    if (home->number >= atomic_load_explicit(&words_open, memory_order_relaxed)) {
        open_words(home->number);
    }
    _Atomic uint32_t *words = ph_address_of(ph_heap.header->block_table);
    return words + home->number;
}

ph_status
ph_block_table_add(uint32_t *p_number)
{
    uint64_t number = atomic_fetch_add(&ph_heap.header->numbered, 1);
    if (number >= ph_heap.header->block_table_words) {
        return ph_fail(PH_NOMEM, "permaheap: the heap is full: it has had %llu blocks",
                       (unsigned long long)number);
    }
    uint64_t page = number / WORDS_PER_PAGE;
    ph_status status = PH_OK;
    ph_os_lock();
    if (page >= pages_ready) {
        status = ph_heap_allocate_table(ph_heap.header->block_table + page * PH_PAGE,
                                        PH_PAGE);
        pages_ready = status == PH_OK ? page + 1 : pages_ready;
    }
    ph_process_has_seen((uint32_t)number);
    ph_os_unlock();
    *p_number = (uint32_t)number;
    return status;
}

ph_block_state
ph_block_table_state(const ph_segment *home)
{
    uint32_t word = atomic_load(word_of(home));
    return word & GONE ? PH_GONE : word & RELEASED ? PH_RELEASED : PH_LIVE;
}

uint32_t
ph_block_table_uses(const ph_segment *home)
{
    return atomic_load(word_of(home)) & USES;
}

ph_status
ph_block_table_add_use(const ph_segment *home)
{
    _Atomic uint32_t *p = word_of(home);
    uint32_t word = atomic_load(p);
    do {
        if (word & RELEASED) {
            return ph_fail(PH_REFUSED, "permaheap: this refers to a block that was "
                                       "released; freeze a copy: thaw() it first");
        }
    } while (!atomic_compare_exchange_weak(p, &word, word + ((word & USES) != USES)));
    return PH_OK;
}

void
ph_block_table_drop_use(const ph_segment *home)
{
    _Atomic uint32_t *p = word_of(home);
    uint32_t word = atomic_load(p);
    while ((word & USES) != 0 && (word & USES) != USES
           && !atomic_compare_exchange_weak(p, &word, word - 1)) {
    }
}

bool
ph_block_table_release(const ph_segment *home)
{
    uint32_t live = 0;
    return atomic_compare_exchange_strong(word_of(home), &live, RELEASED);
}

void
ph_block_table_take_back(const ph_segment *home)
{
    atomic_store(word_of(home), 0);
}

void
ph_block_table_set_gone(const ph_segment *home)
{
    assert(ph_block_table_state(home) == PH_RELEASED);
    assert(ph_block_table_uses(home) == 0);     /* invariant 1 */
    atomic_fetch_or(word_of(home), GONE);
}
