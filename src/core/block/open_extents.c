/* open_extents.c -- acquiring extents to build in, and the memory that builds need.

   Open extents that no build uses wait in a list.  A build takes one out.
   So nested and concurrent builds (user code that freezes inside of a freeze, other
   threads, other interpreters) never share one.  They need no lock while they write:

       idle  --take-->  building  --give-->       idle, filled further
                            |
                            +------give_back-->   idle, filled as before

   If no idle one has room, the process acquires an extent.  It tries in this order: to
   inherit one from a dead owner, to reuse one whose blocks are all gone, to claim a new
   one.  Before that it reclaims released blocks, and gives up its own idle ones whose
   blocks are all gone: that is memory and addresses for the same need.

   Invariants:

   1. An open extent is in the list, or belongs to one builder.
   2. Its extent is owned by this process (invariant 3 of heap.c), and is open: mapped
      for reading, and for writing through the window.
   3. The pages up to `allocated` have memory: writing there cannot fail.

   State: the list belongs to the process, under ph_os_lock(). */

#include "core/block/open_extents.h"

#include <assert.h>

#include "core/block/release.h"
#include "core/heap/extents.h"
#include "core/span/spans.h"

#define CHUNK_LEAST (64 * PH_KIB)   /* memory is allocated ahead in chunks */
#define CHUNK_MOST (8 * PH_MIB)
#define KEEP_ALLOCATED CHUNK_LEAST  /* that an open extent may keep ahead of itself */

static ph_open_extent *idle;        /* invariant 1 */

void
ph_open_extents_after_fork(void)
{
    assert(ph_os_is_locked());
    assert(ph_heap.window == 0);        /* nothing can be built in the parent's any more */
    while (idle != NULL) {
        ph_open_extent *open = idle;
        idle = open->next;
        ph_free(open);
    }
}

/* --- Acquiring extents -------------------------------------------------------- */

/* Give up idle ones whose blocks are all gone, so that their extents can be reused. */
static void
leave_gone_extents(void)
{
    for (ph_open_extent **p = &idle, *open; (open = *p) != NULL;) {
        const ph_extent *extent = &ph_heap.header->extent[open->index];
        uint64_t filled = atomic_load(&extent->filled);
        if (filled == 0 || atomic_load(&extent->gone) != filled) {
            p = &open->next;
            continue;
        }
        *p = open->next;
        ph_extent_leave(open->index);
        ph_free(open);
    }
}

/* Take over an extent whose owner is dead, or gave it up.  Then anything half built
   there is gone: its pages are ours, and take no memory until we build there. */
static bool
inherit_extent(uint32_t index, uint64_t size)
{
    ph_extent *extent = &ph_heap.header->extent[index];
    uint64_t offset = atomic_load(&extent->offset);
    if (offset == 0 || extent->kind != PH_EXTENT_PERMANENT
        || extent->size - atomic_load(&extent->filled) < size
        || !ph_extent_take(index)) {
        return false;
    }
    uint64_t filled = ph_extent_fill(extent);
    assert(filled >= atomic_load(&extent->filled) && filled <= extent->size);
    atomic_store(&extent->filled, filled);
    atomic_store(&extent->spill_block, 0);
    uint64_t whole = ph_page_up(filled);
    bool empty = whole >= extent->size
                 || ph_heap_punch(offset + whole, extent->size - whole);
    if (!empty || extent->size - filled < size) {
        ph_extent_leave(index);
        return false;
    }
    return true;
}

static bool
find_inheritance(uint64_t size, uint32_t *p_index)
{
    uint32_t n = atomic_load(&ph_heap.header->extents);
    for (uint32_t i = 0; i < n && i < PH_MAX_EXTENTS; i++) {
        if (inherit_extent(i, size)) {
            *p_index = i;
            return true;
        }
    }
    return false;
}

/* Own an extent with at least `size` free bytes, mapped for reading and writing. */
static ph_status
acquire_extent(uint64_t size, uint64_t hint, uint32_t *p_index)
{
    ph_status status = ph_heap_check_file();
    if (status == PH_OK) {
        status = ph_window_ready();
    }
    ph_reclaim_locked();            /* memory is about to be needed */
    leave_gone_extents();
    if (status == PH_OK && !find_inheritance(size, p_index)
        && !ph_reuse_locked(size, p_index)) {
        status = ph_extent_claim(size, hint, p_index);
    }
    if (status != PH_OK) {
        return status;
    }
    status = ph_extent_open(*p_index);
    if (status != PH_OK) {
        ph_extent_leave(*p_index);                  /* to be had again */
    }
    return status;
}

/* --- Taking and giving -------------------------------------------------------- */

static ph_open_extent *
take_idle_extent(uint64_t size)
{
    for (ph_open_extent **p = &idle; *p != NULL; p = &(*p)->next) {
        ph_open_extent *open = *p;
        assert(open->pos == open->committed);       /* it is idle */
        if (open->end - open->pos >= size) {
            *p = open->next;
            return open;
        }
    }
    return NULL;
}

static ph_status
open_new_extent(uint64_t size, uint64_t hint, ph_open_extent **p_open)
{
    ph_open_extent *open = ph_malloc(sizeof(ph_open_extent));
    if (open == NULL) {
        return ph_fail(PH_NOMEM, "permaheap: out of memory");
    }
    ph_status status = acquire_extent(size, hint, &open->index);
    if (status != PH_OK) {
        ph_free(open);
        return status;
    }
    ph_extent *extent = &ph_heap.header->extent[open->index];
    uint64_t offset = atomic_load(&extent->offset);
    assert(atomic_load(&extent->owner) == ph_os_pid());     /* invariant 2 */
    open->end = offset + extent->size;
    open->committed = open->pos = offset + atomic_load(&extent->filled);
    open->allocated = ph_page_down(open->pos);
    assert(open->end - open->pos >= size);
    *p_open = open;
    return PH_OK;
}

ph_status
ph_open_extent_take(uint64_t size, uint64_t hint, ph_open_extent **p_open)
{
    ph_os_lock();
    ph_status status = PH_OK;
    *p_open = take_idle_extent(size);
    if (*p_open == NULL) {
        status = open_new_extent(size, hint, p_open);
    }
    ph_os_unlock();
    return status;
}

void
ph_open_extent_trim(ph_open_extent *open)
{
    uint64_t whole = ph_page_up(open->pos);
    if (open->allocated > whole + KEEP_ALLOCATED
        && ph_heap_punch(whole, open->allocated - whole)) {
        open->allocated = whole;
    }
}

void
ph_open_extent_give(ph_open_extent *open)
{
    assert(ph_os_is_locked());
    assert(open->pos == open->committed);
    if (open->end - open->pos < PH_OPEN_EXTENT_LEAST) {
        ph_extent_leave(open->index);
        ph_free(open);
        return;
    }
    open->next = idle;
    idle = open;
}

void
ph_open_extent_give_back(ph_open_extent *open)
{
    open->pos = open->committed;
    ph_open_extent_trim(open);
    ph_open_extent_give(open);
}

/* --- Memory ------------------------------------------------------------------- */

/* Allocate.  If there is no memory, the family may still keep some for new spans. */
static ph_status
allocate_memory(uint64_t offset, uint64_t size)
{
    ph_status status = ph_heap_allocate(offset, size);
    if (status == PH_NOMEM && ph_spans_sweep() + ph_spans_give_back() > 0) {
        status = ph_heap_allocate(offset, size);
    }
    return status;
}

/* Chunks grow with what the extent already has, so that small extents stay small. */
ph_status
ph_open_extent_allocate(ph_open_extent *open, uint64_t size)
{
    uint64_t need = open->pos + size;
    assert(open->committed <= open->pos && need <= open->end);
    assert(open->allocated >= ph_page_down(open->pos) && open->allocated <= open->end);
    if (need <= open->allocated) {
        return PH_OK;
    }
    uint64_t start = atomic_load(&ph_heap.header->extent[open->index].offset);
    uint64_t chunk = (open->allocated - start) / 8;
    chunk = chunk < CHUNK_LEAST ? CHUNK_LEAST : chunk;
    chunk = chunk > CHUNK_MOST ? CHUNK_MOST : chunk;
    uint64_t target = open->allocated + chunk;
    target = target < need ? need : target;
    target = ph_page_up(target);
    target = target > open->end ? open->end : target;
    ph_status status = allocate_memory(open->allocated, target - open->allocated);
    if (status == PH_NOMEM && target > ph_page_up(need)) {
        target = ph_page_up(need);          /* no memory to go ahead with */
        status = allocate_memory(open->allocated, target - open->allocated);
    }
    if (status == PH_OK) {
        ph_os_populate_write((char *)ph_address_of(open->allocated)
                             + ph_heap.window, target - open->allocated);
        open->allocated = target;
    }
    return status;
}
