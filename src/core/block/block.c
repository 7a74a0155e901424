/* block.c -- building blocks in extents, and finding them again.

   A *run* is an extent of ours with the position up to which it is filled.
   Runs that no build uses wait in a list; a build takes one out, so that
   nested and concurrent builds (user code that freezes inside of a freeze,
   other threads, other interpreters) never share one and need no lock while
   they write:

       idle  --begin-->  building  --commit-->  idle, filled further
                             |
                             +------abort---->  idle, filled as before

   When the run is full the build goes on in another (it *spills*); the last
   one is `block->run`, the home run the end of its list.

   Fields valid in each state: idle runs have pos == committed; building runs
   have committed <= pos <= allocated <= end.  Only commit moves `committed`
   (with the shared `filled`, invariant 5 of heap.c).

   The list belongs to the process and is guarded by ph_os_lock().

   Which other blocks this one refers to is gathered while it is built, and
   written behind its objects when it is sealed.  Sealing pins them in the ledger:
   so none of them can have been released when this block is committed. */

#include "core/block/block.h"

#include <assert.h>
#include <string.h>

#include "core/block/block_table.h"

#define CHUNK_LEAST (64 * PH_KIB)   /* memory is allocated ahead in chunks */
#define CHUNK_MOST (8 * PH_MIB)
#define RUN_LEAST 512               /* free bytes that are worth keeping */
#define KEEP_ALLOCATED CHUNK_LEAST  /* that a run may keep ahead of itself */

static ph_run *idle_runs;           /* of this process; under ph_os_lock() */
static uint64_t nonce_seed, nonce_count;    /* likewise */

void
ph_blocks_after_fork(void)
{
    while (idle_runs != NULL) {
        ph_run *run = idle_runs;
        idle_runs = run->next;
        ph_free(run);
    }
    nonce_seed = 0;
}

/* --- Runs ------------------------------------------------------------------ */

static ph_run *
idle_run_take(uint64_t size)
{
    for (ph_run **p = &idle_runs; *p != NULL; p = &(*p)->next) {
        ph_run *run = *p;
        if (run->end - run->pos >= size) {
            *p = run->next;
            return run;
        }
    }
    return NULL;
}

static void
idle_run_give(ph_run *run)
{
    if (run->end - run->pos < RUN_LEAST) {
        ph_extent_leave(run->extent);
        ph_free(run);
        return;
    }
    run->next = idle_runs;
    idle_runs = run;
}

void
ph_blocks_leave_gone(void)
{
    for (ph_run **p = &idle_runs, *run; (run = *p) != NULL;) {
        const ph_extent *extent = &ph_heap.header->extent[run->extent];
        uint64_t filled = atomic_load(&extent->filled);
        if (filled == 0 || atomic_load(&extent->gone) != filled) {
            p = &run->next;
            continue;
        }
        *p = run->next;
        ph_extent_leave(run->extent);
        ph_free(run);
    }
}

static ph_status
run_new(uint64_t size, uint64_t hint, ph_run **p_run)
{
    ph_run *run = ph_malloc(sizeof(ph_run));
    if (run == NULL) {
        return ph_fail(PH_NOMEM, "permaheap: out of memory");
    }
    ph_status status = ph_extent_acquire(size, hint, &run->extent);
    if (status != PH_OK) {
        ph_free(run);
        return status;
    }
    ph_extent *extent = &ph_heap.header->extent[run->extent];
    uint64_t offset = atomic_load(&extent->offset);
    run->end = offset + extent->size;
    run->committed = run->pos = offset + atomic_load(&extent->filled);
    run->allocated = ph_page_down(run->pos);
    *p_run = run;
    return PH_OK;
}

static ph_status
run_take(uint64_t size, uint64_t hint, ph_run **p_run)
{
    ph_os_lock();
    ph_status status = PH_OK;
    *p_run = idle_run_take(size);
    if (*p_run == NULL) {
        status = run_new(size, hint, p_run);
    }
    ph_os_unlock();
    return status;
}

/* Make sure that [run->pos, run->pos + size) has memory.  Chunks grow with
   what the extent already has, so that small extents stay small. */
static ph_status
run_allocate(ph_run *run, uint64_t size)
{
    uint64_t need = run->pos + size;
    if (need <= run->allocated) {
        return PH_OK;
    }
    uint64_t start = atomic_load(&ph_heap.header->extent[run->extent].offset);
    uint64_t chunk = (run->allocated - start) / 8;
    chunk = chunk < CHUNK_LEAST ? CHUNK_LEAST : chunk;
    chunk = chunk > CHUNK_MOST ? CHUNK_MOST : chunk;
    uint64_t target = run->allocated + chunk;
    target = target < need ? need : target;
    target = ph_page_up(target);
    target = target > run->end ? run->end : target;
    ph_status status = ph_heap_allocate(run->allocated, target - run->allocated);
    if (status == PH_NOMEM && target > ph_page_up(need)) {
        target = ph_page_up(need);          /* no memory to go ahead with */
        status = ph_heap_allocate(run->allocated, target - run->allocated);
    }
    if (status == PH_OK) {
        ph_os_populate_write((char *)ph_address_of(run->allocated)
                             + ph_heap.window, target - run->allocated);
        run->allocated = target;
    }
    return status;
}

/* --- Building -------------------------------------------------------------- */

/* Put the header of a new segment at the front of `run`, which becomes the
   current run.  The caller has seen to the memory. */
static void
segment_begin(ph_block *block, ph_run *run)
{
    uint64_t offset = run->pos;
    if (block->segments++ == 0) {
        block->home = offset;
    }
    block->pos = ph_address_of(offset);
    ph_segment *segment = ph_writable(block, block->pos);
    *segment = (ph_segment){.nonce = block->nonce, .home = block->home};
    block->pos += sizeof(ph_segment);
    block->limit = ph_address_of(run->allocated);
    run->next = block->run;
    block->run = run;
}

static void
segment_end(ph_block *block)
{
    ph_run *run = block->run;
    ph_segment *segment = ph_writable(block, ph_address_of(run->pos));
    segment->size = (uint64_t)(block->pos - (char *)ph_address_of(run->pos));
    run->pos += segment->size;
}

static ph_status
new_nonce(uint64_t *p_nonce)
{
    ph_os_lock();
    int err = 0;
    if (nonce_seed == 0) {
        err = ph_os_random(&nonce_seed, sizeof(nonce_seed));
    }
    /* splitmix64: distinct for each count, and unlike its neighbours. */
    uint64_t z = nonce_seed + ++nonce_count * 0x9e3779b97f4a7c15ull;
    ph_os_unlock();
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    *p_nonce = (z ^ (z >> 31)) | 1;         /* 0 means none */
    return err ? ph_fail(PH_SYSTEM, "permaheap: no random numbers") : PH_OK;
}

/* Give back the memory behind run->pos, but for a little. */
static void
run_trim(ph_run *run)
{
    uint64_t whole = ph_page_up(run->pos);
    if (run->allocated > whole + KEEP_ALLOCATED) {
        ph_heap_punch(whole, run->allocated - whole);
        run->allocated = whole;
    }
}

static void
run_give_back(ph_run *run)
{
    run->pos = run->committed;
    run_trim(run);
    idle_run_give(run);
}

ph_status
ph_block_begin(ph_block *block)
{
    memset(block, 0, sizeof(*block));
    ph_status status = ph_heap_ready();
    if (status == PH_OK) {
        status = new_nonce(&block->nonce);
    }
    ph_run *run = NULL;
    if (status == PH_OK) {
        block->forks = atomic_load(&ph_heap.forks);
        status = run_take(RUN_LEAST, 0, &run);
    }
    if (status != PH_OK) {
        return status;
    }
    block->window = ph_heap.window;
    status = run_allocate(run, sizeof(ph_segment));
    if (status != PH_OK) {
        ph_os_lock();
        run_give_back(run);
        ph_os_unlock();
        return status;
    }
    segment_begin(block, run);
    return PH_OK;
}

/* Go on in another run.  Its size follows the block's, so that a block of any
   size has few segments. */
static ph_status
spill(ph_block *block, uint64_t size)
{
    uint64_t need = sizeof(ph_segment) + size;
    ph_run *run;
    ph_status status = run_take(need, 2 * block->payload, &run);
    if (status != PH_OK) {
        return status;
    }
    status = run_allocate(run, need);
    if (status != PH_OK) {
        ph_os_lock();
        run_give_back(run);
        ph_os_unlock();
        return status;
    }
    ph_segment *segment = ph_writable(block, ph_address_of(block->run->pos));
    segment->next = run->pos;
    segment_end(block);
    segment_begin(block, run);
    return PH_OK;
}

ph_status
ph_block_grow(ph_block *block, uint64_t size)
{
    ph_run *run = block->run;
    assert(block->limit == (char *)ph_address_of(run->allocated));  /* no room */
    uint64_t built = (uint64_t)(block->pos - (char *)ph_address_of(run->pos));
    size += 8;                              /* what ph_block_alloc() asks for */
    if (run->end - run->pos < built + size) {
        return spill(block, size);
    }
    ph_status status = run_allocate(run, built + size);
    block->limit = ph_address_of(run->allocated);
    return status;
}

/* --- What it refers to -------------------------------------------------------- */

static uint64_t *
use_slot(const ph_block *block, uint64_t offset)
{
    uint64_t mask = block->uses_size - 1;
    uint64_t i = offset / 8 * 0x9e3779b97f4a7c15ull >> 32;
    while (block->uses[i & mask] != 0 && block->uses[i & mask] != offset) {
        i++;
    }
    return &block->uses[i & mask];
}

static ph_status
grow_uses(ph_block *block)
{
    uint32_t old_size = block->uses_size;
    uint64_t *old = block->uses;
    uint32_t size = old_size ? 2 * old_size : 16;
    uint64_t *uses = ph_calloc(size, sizeof(uint64_t));
    if (uses == NULL) {
        return ph_fail(PH_NOMEM, "permaheap: out of memory");
    }
    block->uses = uses;
    block->uses_size = size;
    for (uint32_t i = 0; i < old_size; i++) {
        if (old[i] != 0) {
            *use_slot(block, old[i]) = old[i];
        }
    }
    ph_free(old);
    return PH_OK;
}

ph_status
ph_block_use(ph_block *block, const ph_segment *home)
{
    uint64_t offset = ph_offset_of(home);
    if (offset == block->last_use) {
        return PH_OK;
    }
    if (ph_ledger_state(home) != PH_LIVE) {
        return ph_fail(PH_REFUSED, "permaheap: a block that was released");
    }
    if (2 * (block->uses_used + 1) > block->uses_size
        && grow_uses(block) != PH_OK) {
        return PH_NOMEM;
    }
    uint64_t *slot = use_slot(block, offset);
    block->uses_used += *slot == 0;
    *slot = offset;
    block->last_use = offset;
    return PH_OK;
}

/* Write the list, and put it into order on the way: back to back. */
static ph_status
write_uses(ph_block *block)
{
    uint64_t size = block->uses_used * sizeof(uint64_t);
    if (size == 0) {
        return PH_OK;
    }
    uint64_t *at = ph_block_alloc(block, size, size);
    if (at == NULL) {
        return ph_error_status();
    }
    block->payload -= size;             /* it is no object */
    at = ph_writable(block, at);
    for (uint32_t i = 0; i < block->uses_size; i++) {
        if (block->uses[i] != 0) {
            *at++ = block->uses[i];
        }
    }
    return PH_OK;
}

/* Pin all of them, or none. */
static ph_status
pin_uses(const ph_block *block)
{
    ph_status status = PH_OK;
    uint32_t i = 0;
    for (; i < block->uses_size && status == PH_OK; i++) {
        if (block->uses[i] != 0) {
            status = ph_ledger_pin(ph_address_of(block->uses[i]));
        }
    }
    for (i--; status != PH_OK && i > 0; i--) {
        if (block->uses[i - 1] != 0) {
            ph_ledger_unpin(ph_address_of(block->uses[i - 1]));
        }
    }
    return status;
}

ph_status
ph_block_seal(ph_block *block)
{
    ph_status status = write_uses(block);
    if (status == PH_OK) {
        status = ph_ledger_number(&block->number);
    }
    if (status == PH_OK) {
        status = pin_uses(block);
    }
    return status;
}

/* --- Commit and abort ------------------------------------------------------- */

static void
write_directory(const ph_run *run, uint64_t segment)
{
    uint64_t page = ph_page_up(segment);
    for (; page < run->pos; page += PH_PAGE) {
        *ph_directory_entry(page) = segment;
    }
}

static void
announce_spill(const ph_block *block, const ph_run *run)
{
    ph_extent *extent = &ph_heap.header->extent[run->extent];
    extent->spill_nonce = block->nonce;
    extent->spill_filled = run->pos - atomic_load(&extent->offset);
    atomic_store(&extent->spill_block, block->home);
}

static void
set_filled(ph_run *run)
{
    ph_extent *extent = &ph_heap.header->extent[run->extent];
    atomic_store(&extent->filled, run->pos - atomic_load(&extent->offset));
    atomic_store(&extent->spill_block, 0);
}

/* A page that we copied by a stray write while it was partly filled does not
   show what we have built there since (invariant 6).  `end` is the offset
   behind what has been built. */
static void
show_first_page(const ph_block *block, uint64_t segment, uint64_t end)
{
    uint64_t page_end = ph_page_down(segment) + PH_PAGE;
    char *final = ph_address_of(segment);
    ph_show_bytes(final, final + block->window,
                  (end < page_end ? end : page_end) - segment);
}

void
ph_block_show(const ph_block *block)
{
    for (const ph_run *run = block->run; run != NULL; run = run->next) {
        uint64_t end = run == block->run ? run->allocated : run->pos;
        show_first_page(block, run->committed, end);
    }
}

static void
publish_counts(const ph_block *block)
{
    ph_header *header = ph_heap.header;
    for (int kind = 0; kind < PH_KINDS; kind++) {
        if (block->objects_of[kind] != 0) {
            atomic_fetch_add(&header->objects_of[kind], block->objects_of[kind]);
            atomic_fetch_add(&header->bytes_of[kind], block->bytes_of[kind]);
        }
    }
    atomic_fetch_add(&header->blocks, 1);
    if (block->saved != 0) {
        atomic_fetch_add(&header->saved, block->saved);
    }
}

/* Under the lock: tell the family, and note that we know already. */
static void
publish(void)
{
    uint64_t before = atomic_fetch_add(&ph_heap.header->published, 1);
    if (atomic_load(&ph_heap.seen) == before) {
        atomic_store(&ph_heap.seen, before + 1);
    }
}

/* Map what we have written for reading, too: a page that only a child maps
   would be accounted to that child alone. */
static void
populate(const ph_run *run)
{
    uint64_t start = ph_page_down(run->committed);
    if (run->pos - start >= CHUNK_LEAST) {
        uint64_t end = ph_page_up(run->pos);
        ph_os_populate_read(ph_address_of(start), end - start);
    }
}

/* The window shows the same pages once more: do not count them twice. */
static void
forget_window(const ph_block *block, const ph_run *run)
{
    uint64_t start = ph_page_up(run->committed), end = ph_page_down(run->pos);
    ph_os_forget((char *)ph_address_of(start) + block->window, end - start);
}

void
ph_block_commit(ph_block *block, void *root)
{
    assert(!ph_block_is_foreign(block));
    segment_end(block);
    ph_segment *home = ph_writable(block, ph_address_of(block->home));
    home->root = ph_offset_of(root);
    home->payload = block->payload;
    home->flags = block->flags;
    home->segments = block->segments;
    home->number = block->number;
    home->uses = block->uses_used;
    ph_run *home_run = NULL;
    for (ph_run *run = block->run; run != NULL; run = run->next) {
        write_directory(run, run->committed);
        if (run->next != NULL) {
            announce_spill(block, run);
        }
        home_run = run;
    }
    set_filled(home_run);                   /* the commit */
    publish_counts(block);
    ph_os_lock();
    for (ph_run *run = block->run, *next; run != NULL; run = next) {
        next = run->next;
        set_filled(run);
        show_first_page(block, run->committed, run->pos);
        ph_extent_seen(run->extent);
        populate(run);
        if (run->pos - run->committed >= PH_MIB) {
            run_trim(run);          /* small blocks soon use what is ahead */
            forget_window(block, run);
        }
        run->committed = run->pos;
        idle_run_give(run);
    }
    publish();
    ph_os_unlock();
    block->run = NULL;
    ph_free(block->uses);
}

void
ph_block_abort(ph_block *block)
{
    bool foreign = ph_block_is_foreign(block);
    ph_os_lock();
    for (ph_run *run = block->run, *next; run != NULL; run = next) {
        next = run->next;
        if (foreign) {
            ph_free(run);
        }
        else {
            run_give_back(run);
        }
    }
    ph_os_unlock();
    block->run = NULL;
    ph_free(block->uses);
}

/* --- Finding ----------------------------------------------------------------- */

const ph_segment *
ph_block_of(const void *p)
{
    uint64_t offset = ph_offset_of(p);
    uint64_t page = ph_page_down(offset);
    uint64_t at = *ph_directory_entry(page);
    const ph_segment *segment = ph_address_of(at);
    while (offset - at >= segment->size) {
        at += segment->size;
        segment = ph_address_of(at);
    }
    return ph_address_of(segment->home);
}
