/* block.c -- building a block: what one freeze writes.

   A block is built at its final addresses, in an extent that this process owns
   (open_extents.c), and written through the window.  Other processes do not see it
   before it is committed.

        begin --> objects --> seal ------------> commit: one store of `filled`
                    |  ^       the list of used     (invariant 5 of heap.c)
                    |  |       blocks, a number,
                    v  |       and uses
                    spill: go on in another open extent
        abort, at any time: all of it is given back

   The open extents of a block are linked: `block->open` is the current one, that of the
   home segment is the end of the list.

   Invariants:

   1. Only commit moves `committed` of an open extent, with the shared `filled`.
   2. The blocks that this one refers to are gathered while it is built, and written
      behind its objects when it is sealed.  Sealing counts the use of each of them in
      the block table: so none of them can have been released when this block is
      committed.
   3. In a child forked since the block was begun, nothing of it is written: the window
      is the parent's.

   State: the nonces belong to the process, under ph_os_lock(); a block to the thread
   that builds it. */

#include "core/block/block.h"

#include <assert.h>
#include <string.h>

#include "core/block/block_table.h"
#include "core/heap/extents.h"

#define POPULATE_LEAST (64 * PH_KIB)

static uint64_t nonce_seed, nonce_count;    /* under ph_os_lock() */

void
ph_blocks_after_fork(void)
{
    assert(ph_os_is_locked());
    nonce_seed = 0;
}

/* --- Building ----------------------------------------------------------------- */

/* Put the header of a new segment at the front of `open`, which becomes the current
   one.  The caller has seen to its memory. */
static void
segment_begin(ph_block *block, ph_open_extent *open)
{
    uint64_t offset = open->pos;
    assert(offset % 8 == 0 && offset == open->committed);
    assert(offset + sizeof(ph_segment) <= open->allocated);
    if (block->segments++ == 0) {
        block->home = offset;
    }
    block->pos = ph_address_of(offset);
    ph_segment *segment = ph_writable(block, block->pos);
    *segment = (ph_segment){.nonce = block->nonce, .home = block->home};
    block->pos += sizeof(ph_segment);
    block->limit = ph_address_of(open->allocated);
    open->next = block->open;
    block->open = open;
}

static void
segment_end(ph_block *block)
{
    ph_open_extent *open = block->open;
    ph_segment *segment = ph_writable(block, ph_address_of(open->pos));
    segment->size = (uint64_t)(block->pos - (char *)ph_address_of(open->pos));
    open->pos += segment->size;
    assert(segment->size % 8 == 0 && open->pos <= open->allocated);
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

/* Take an open extent with room for `size` bytes, of which `need` have memory. */
static ph_status
take_open_extent(uint64_t size, uint64_t hint, uint64_t need, ph_open_extent **p_open)
{
    ph_status status = ph_open_extent_take(size, hint, p_open);
    if (status != PH_OK) {
        return status;
    }
    status = ph_open_extent_allocate(*p_open, need);
    if (status != PH_OK) {
        ph_os_lock();
        ph_open_extent_give_back(*p_open);
        ph_os_unlock();
    }
    return status;
}

ph_status
ph_block_begin(ph_block *block)
{
    memset(block, 0, sizeof(*block));
    if (ph_heap.state != PH_OK) {
        return ph_heap.state;
    }
    ph_status status = new_nonce(&block->nonce);
    if (status != PH_OK) {
        return status;
    }
    ph_open_extent *open;
    block->forks = atomic_load(&ph_heap.forks);
    status = take_open_extent(PH_OPEN_EXTENT_LEAST, 0, sizeof(ph_segment), &open);
    if (status == PH_OK) {
        block->window = ph_heap.window;
        segment_begin(block, open);
    }
    return status;
}

/* Go on in another open extent.  Its size follows the block's, so that a block of any
   size has few segments. */
static ph_status
spill_over(ph_block *block, uint64_t size)
{
    uint64_t need = sizeof(ph_segment) + size;
    ph_open_extent *open;
    ph_status status = take_open_extent(need, 2 * block->payload, need, &open);
    if (status != PH_OK) {
        return status;
    }
    ph_segment *segment = ph_writable(block, ph_address_of(block->open->pos));
    segment->next = open->pos;
    segment_end(block);
    segment_begin(block, open);
    return PH_OK;
}

ph_status
ph_block_grow(ph_block *block, uint64_t size)
{
    ph_open_extent *open = block->open;
    assert(block->limit == (char *)ph_address_of(open->allocated));  /* no room */
    uint64_t built = (uint64_t)(block->pos - (char *)ph_address_of(open->pos));
    size += 8;                              /* what ph_block_alloc() asks for */
    if (open->end - open->pos < built + size) {
        return spill_over(block, size);
    }
    ph_status status = ph_open_extent_allocate(open, built + size);
    block->limit = ph_address_of(open->allocated);
    return status;
}

/* --- The blocks that it refers to --------------------------------------------- */

static uint64_t *
use_slot(const ph_block *block, uint64_t offset)
{
    assert(block->uses_used < block->uses_size);        /* or the search would not end */
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
    assert(home->home == offset);
    assert(offset != block->home);              /* it is another one, and committed */
    if (ph_block_table_state(home) != PH_LIVE) {
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

/* Write the hash table as a list: its entries, back to back. */
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

/* Count the use of all of them, or of none. */
static ph_status
count_uses(const ph_block *block)
{
    ph_status status = PH_OK;
    uint32_t i = 0;
    for (; i < block->uses_size && status == PH_OK; i++) {
        if (block->uses[i] != 0) {
            status = ph_block_table_add_use(ph_address_of(block->uses[i]));
        }
    }
    for (i--; status != PH_OK && i > 0; i--) {
        if (block->uses[i - 1] != 0) {
            ph_block_table_drop_use(ph_address_of(block->uses[i - 1]));
        }
    }
    return status;
}

ph_status
ph_block_seal(ph_block *block)
{
    assert(!ph_block_is_foreign(block));        /* invariant 3 */
    ph_status status = write_uses(block);
    if (status == PH_OK) {
        status = ph_block_table_add(&block->number);
    }
    if (status == PH_OK) {
        status = count_uses(block);
    }
    return status;
}

/* --- Commit and abort --------------------------------------------------------- */

static void
write_directory(const ph_open_extent *open, uint64_t segment)
{
    uint64_t page = ph_page_up(segment);
    for (; page < open->pos; page += PH_PAGE) {
        *ph_directory_entry(page) = segment;
    }
}

static void
announce_spill(const ph_block *block, const ph_open_extent *open)
{
    ph_extent *extent = &ph_heap.header->extent[open->index];
    extent->spill_nonce = block->nonce;
    extent->spill_filled = open->pos - atomic_load(&extent->offset);
    atomic_store(&extent->spill_block, block->home);
}

static void
set_filled(ph_open_extent *open)
{
    ph_extent *extent = &ph_heap.header->extent[open->index];
    assert(atomic_load(&extent->owner) == ph_os_pid());     /* invariant 3 of heap.c */
    assert(open->pos - atomic_load(&extent->offset) >= atomic_load(&extent->filled));
    assert(open->pos <= open->end);
    atomic_store(&extent->filled, open->pos - atomic_load(&extent->offset));
    atomic_store(&extent->spill_block, 0);
}

/* Show what we have built on a page that was partly filled before: if we copied it by
   a stray write, it does not show that by itself (invariant 6 of heap.c).  `end` is the
   offset behind the last byte built. */
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
    for (const ph_open_extent *open = block->open; open != NULL; open = open->next) {
        uint64_t end = open == block->open ? open->allocated : open->pos;
        show_first_page(block, open->committed, end);
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

/* Tell the family, and note that we know already. */
static void
publish_commit(void)
{
    assert(ph_os_is_locked());
    uint64_t before = atomic_fetch_add(&ph_heap.header->published, 1);
    if (atomic_load(&ph_heap.seen) == before) {
        atomic_store(&ph_heap.seen, before + 1);
    }
}

/* Map what we have written for reading, too: a page that only a child maps would be
   charged to that child alone. */
static void
populate_pages(const ph_open_extent *open)
{
    uint64_t start = ph_page_down(open->committed);
    if (open->pos - start >= POPULATE_LEAST) {
        uint64_t end = ph_page_up(open->pos);
        ph_os_populate_read(ph_address_of(start), end - start);
    }
}

/* Take the pages out of the window, which shows them a second time: or they would be
   counted twice. */
static void
forget_window(const ph_block *block, const ph_open_extent *open)
{
    uint64_t start = ph_page_up(open->committed), end = ph_page_down(open->pos);
    ph_os_forget((char *)ph_address_of(start) + block->window, end - start);
}

static void
write_home(const ph_block *block, const void *root)
{
    ph_segment *home = ph_writable(block, ph_address_of(block->home));
    home->root = ph_offset_of(root);
    home->payload = block->payload;
    home->flags = block->flags;
    home->segments = block->segments;
    home->number = block->number;
    home->uses = block->uses_used;
}

/* Write all that makes the block whole except for `filled` of its home's extent, which
   is returned. */
static ph_open_extent *
prepare_commit(const ph_block *block)
{
    ph_open_extent *open = block->open;
    for (;; open = open->next) {
        write_directory(open, open->committed);
        if (open->next == NULL) {
            return open;
        }
        announce_spill(block, open);
    }
}

/* End our work in an extent after the commit, with ph_os_lock() held. */
static void
close_open_extent(const ph_block *block, ph_open_extent *open)
{
    set_filled(open);
    show_first_page(block, open->committed, open->pos);
    ph_extent_seen(open->index);
    populate_pages(open);
    if (open->pos - open->committed >= PH_MIB) {
        ph_open_extent_trim(open);      /* small blocks soon use what is ahead */
        forget_window(block, open);
    }
    open->committed = open->pos;
    ph_open_extent_give(open);
}

void
ph_block_commit(ph_block *block, void *root)
{
    assert(!ph_block_is_foreign(block));
    assert(ph_heap_contains(root));             /* at its final address */
    segment_end(block);
    write_home(block, root);
    set_filled(prepare_commit(block));      /* the commit */
    publish_counts(block);
    ph_os_lock();
    for (ph_open_extent *open = block->open, *next; open != NULL; open = next) {
        next = open->next;
        close_open_extent(block, open);
    }
    publish_commit();
    ph_os_unlock();
    block->open = NULL;
    ph_free(block->uses);
}

void
ph_block_abort(ph_block *block)
{
    bool foreign = ph_block_is_foreign(block);
    ph_os_lock();
    for (ph_open_extent *open = block->open, *next; open != NULL; open = next) {
        next = open->next;
        if (foreign) {
            ph_free(open);
        }
        else {
            ph_open_extent_give_back(open);
        }
    }
    ph_os_unlock();
    block->open = NULL;
    ph_free(block->uses);
}
