/* extents.c -- extents: the pieces of the heap that processes claim, map and fill.

   An extent holds permanent blocks, or spans.  One of permanent blocks has one owner at
   a time, which fills it from the front.  One of spans has none: the whole family maps
   it MAP_SHARED, writable, whatever the mode of the heap, and its `filled` stays 0.

        extent of permanent blocks              `filled`           `size`
        | segment | segment | ... | segment |      | built, or free  |
          committed: mapped and readable             the owner's

        claimed --filled--> full --all blocks gone--> reset, in a new generation
           ^                                              |
           +---------- owned again, from the front -------+

   The invariants 1, 3, 4, 5, 6 and 8 of heap.c are kept here.  All changes of what this
   process has mapped are made under ph_os_lock(); extent tables of the header are
   written as header.h says.

   State: the statics belong to this process, under ph_os_lock(); the bits of mapped
   units are also read without it. */

#include "core/heap/extents.h"

#include <assert.h>
#include <stddef.h>

#include "core/heap/processes.h"
#include "core/heap/segment.h"

#define EXTENT_LEAST (8 * PH_MIB)   /* addresses, not memory: they cost nothing */
#define EXTENT_MOST (4 * PH_GIB)
#define NO_OWNER 0                  /* given up by the holder of its lock */

/* A word for each extent: NOT_MAPPED, or the bytes that were filled at our last
   refresh, plus MAPPED_MARK. */
#define NOT_MAPPED 0
#define MAPPED_MARK 1               /* added to the bytes, so that 0 is free */
static uint64_t seen_filled[PH_MAX_EXTENTS];

/* The generation that each of our mappings is of. */
static uint32_t seen_generation[PH_MAX_EXTENTS];

static uint64_t directory_end;      /* offset: the directory has access up to there */

/* One bit for each unit of the heap: part of an extent that we have mapped; of
   permanent blocks, or of spans. */
#define UNITS (PH_RESERVE_MOST / PH_EXTENT_UNIT)
static _Atomic uint64_t mapped_units[UNITS / 64];
static _Atomic uint64_t mapped_span_units[UNITS / 64];

/* --- Mapping ------------------------------------------------------------------ */

static bool
is_current_generation(uint32_t index)
{
    return seen_generation[index]
           == atomic_load(&ph_heap.header->generation[index]);
}

/* Permit access to the directory, up to the entries of an extent.  They are in use as soon
   as it is mapped. */
static ph_status
open_directory(uint64_t end_of_extent)
{
    uint64_t from = ph_heap.header->directory;
    uint64_t end = ph_page_up(ph_offset_of(ph_directory_entry(end_of_extent)) + 8);
    if (end <= directory_end) {
        return PH_OK;
    }
    int err = ph_os_permit(ph_address_of(from), end - from, true);
    if (err) {
        return ph_system_failure("open the page directory", end - from, err);
    }
    directory_end = end;
    return PH_OK;
}

/* Map it, again if it is of another generation (invariant 8 of heap.c). */
static ph_status
map_extent(uint32_t index)
{
    assert(ph_os_is_locked());
    assert(index < PH_MAX_EXTENTS);
    if (seen_filled[index] != NOT_MAPPED && is_current_generation(index)) {
        return PH_OK;
    }
    uint32_t generation = atomic_load(&ph_heap.header->generation[index]);
    ph_extent *extent = &ph_heap.header->extent[index];
    uint64_t offset = atomic_load(&extent->offset);
    if (offset == 0) {
        return PH_OK;               /* being claimed, or the claimer died */
    }
    assert(offset >= ph_heap.header->first && extent->size <= ph_heap.size - offset);
    assert(offset % PH_EXTENT_UNIT == 0 && extent->size % PH_EXTENT_UNIT == 0);
    ph_status status = ph_heap_check_file();
    if (status != PH_OK) {
        return status;
    }
    bool spans = extent->kind == PH_EXTENT_SPANS;
    assert(!spans || atomic_load(&extent->filled) == 0);        /* it stays 0 */
    status = spans ? PH_OK : open_directory(offset + extent->size);
    if (status != PH_OK) {
        return status;
    }
    int err = ph_os_map(ph_address_of(offset), extent->size, ph_heap.fd, offset,
                        spans ? PH_MAP_SHARED : ph_heap.mapping);
    if (err) {
        return ph_system_failure("map an extent", extent->size, err);
    }
    seen_filled[index] = MAPPED_MARK + atomic_load(&extent->filled);
    seen_generation[index] = generation;
    _Atomic uint64_t *units = spans ? mapped_span_units : mapped_units;
    for (uint64_t at = offset; at < offset + extent->size; at += PH_EXTENT_UNIT) {
        uint64_t unit = at / PH_EXTENT_UNIT;
        atomic_fetch_or(&units[unit / 64], (uint64_t)1 << unit % 64);
    }
    return PH_OK;
}

static bool
has_unit(_Atomic uint64_t *units, uint64_t offset)
{
    uint64_t unit = offset / PH_EXTENT_UNIT;
    return offset < ph_heap.size && atomic_load(&units[unit / 64]) >> unit % 64 & 1;
}

bool
ph_heap_is_mapped(uint64_t offset)
{
    return has_unit(mapped_units, offset);
}

ph_status
ph_heap_map_spans(uint64_t offset)
{
    assert(ph_os_is_locked());
    uint32_t n = atomic_load(&ph_heap.header->extents);
    ph_status status = PH_OK;
    for (uint32_t i = 0; i < n && i < PH_MAX_EXTENTS && status == PH_OK
                         && !has_unit(mapped_span_units, offset); i++) {
        if (ph_heap.header->extent[i].kind == PH_EXTENT_SPANS) {
            status = map_extent(i);
        }
    }
    return status;
}

uint64_t
ph_extent_seen_filled(uint32_t index)
{
    return seen_filled[index] == NOT_MAPPED ? 0 : seen_filled[index] - MAPPED_MARK;
}

/* --- Refreshing --------------------------------------------------------------- */

/* Keep invariant 6 of heap.c.  Pages filled before we last looked are whole; later pages
   have held no object that we could have written to. */
static ph_status
update_partly_seen_page(uint32_t index)
{
    ph_extent *extent = &ph_heap.header->extent[index];
    uint64_t filled = atomic_load(&extent->filled);
    uint64_t seen = seen_filled[index] - MAPPED_MARK;
    if (seen_filled[index] == NOT_MAPPED || filled <= seen
        || !is_current_generation(index)) {
        return PH_OK;
    }
    assert(filled <= extent->size);
    uint64_t end = ph_page_up(seen) < filled ? ph_page_up(seen) : filled;
    if (end > seen) {
        char fresh[PH_PAGE];
        uint64_t offset = atomic_load(&extent->offset) + seen;
        ph_status status = ph_heap_check_file();
        if (status != PH_OK) {
            return status;
        }
        int err = ph_os_pread(ph_heap.fd, fresh, end - seen, offset);
        if (err) {
            return ph_system_failure("read the heap's file", end - seen, err);
        }
        ph_show_bytes(ph_address_of(offset), fresh, end - seen);
    }
    seen_filled[index] = MAPPED_MARK + filled;
    return PH_OK;
}

static ph_status
refresh_locked(void)
{
    uint64_t published = atomic_load(&ph_heap.header->published);
    uint32_t n = atomic_load(&ph_heap.header->extents);
    for (uint32_t i = 0; i < n && i < PH_MAX_EXTENTS; i++) {
        ph_status status = update_partly_seen_page(i);
        if (status == PH_OK) {
            status = map_extent(i);
        }
        if (status != PH_OK) {
            return status;
        }
    }
    ph_process_has_seen_all();
    atomic_store(&ph_heap.seen, published);
    return PH_OK;
}

ph_status
ph_heap_refresh(void)
{
    if (atomic_load(&ph_heap.header->published) == atomic_load(&ph_heap.seen)) {
        return PH_OK;
    }
    return ph_heap_refresh_all();
}

ph_status
ph_heap_refresh_all(void)
{
    ph_os_lock();
    ph_status status = refresh_locked();
    ph_os_unlock();
    return status;
}

void
ph_extent_seen(uint32_t index)
{
    assert(seen_filled[index] != NOT_MAPPED && is_current_generation(index));
    seen_filled[index] =
        MAPPED_MARK + atomic_load(&ph_heap.header->extent[index].filled);
}

/* --- The window --------------------------------------------------------------- */

ph_status
ph_window_ready(void)
{
    assert(ph_os_is_locked());
    if (ph_heap.window != 0) {
        return PH_OK;
    }
    void *window;
    int err = ph_os_reserve(ph_heap.size, &window);
    if (err == 0) {
        err = ph_os_dontfork(window, ph_heap.size);
        if (err) {
            ph_os_release(window, ph_heap.size);
        }
    }
    if (err) {
        return ph_system_failure("reserve a window to write through",
                              ph_heap.size, err);
    }
    ph_heap.window = (char *)window - ph_heap.base;
    return PH_OK;
}

static ph_status
open_window(ph_extent *extent)
{
    assert(ph_heap.window != 0);
    assert(atomic_load(&extent->owner) == ph_os_pid());         /* invariant 3 of heap.c */
    uint64_t offset = atomic_load(&extent->offset);
    char *addr = (char *)ph_address_of(offset) + ph_heap.window;
    int err = ph_os_map(addr, extent->size, ph_heap.fd, offset, PH_MAP_SHARED);
    if (err == 0) {
        err = ph_os_dontfork(addr, extent->size);
        if (err) {
            ph_os_unmap(addr, extent->size);
        }
    }
    return err ? ph_system_failure("map an extent to write to", extent->size, err)
               : PH_OK;
}

ph_status
ph_extent_open(uint32_t index)
{
    ph_status status = update_partly_seen_page(index);
    if (status == PH_OK) {
        status = map_extent(index);
    }
    return status == PH_OK ? open_window(&ph_heap.header->extent[index]) : status;
}

/* --- Claiming ----------------------------------------------------------------- */

/* Claim *p_size addresses, or as many as are left if that is at least `least`: their
   offset, or 0. */
static uint64_t
claim_addresses(uint64_t least, uint64_t *p_size)
{
    assert(least > 0 && least <= *p_size);          /* with 0 a full heap would do */
    assert(least % PH_EXTENT_UNIT == 0 && *p_size % PH_EXTENT_UNIT == 0);
    ph_header *header = ph_heap.header;
    uint64_t claimed = atomic_load(&header->claimed), size;
    do {
        uint64_t left = header->size - claimed;
        size = *p_size < left ? *p_size : left;
        if (size < least) {
            return 0;
        }
    } while (!atomic_compare_exchange_weak(&header->claimed, &claimed,
                                           claimed + size));
    *p_size = size;
    return claimed;
}

static ph_status
heap_full(uint64_t size)
{
    return ph_fail(PH_NOMEM,
                   "permaheap: the heap is full: no room for %llu bytes more in "
                   "%llu reserved (extents: %u of %u)",
                   (unsigned long long)size,
                   (unsigned long long)ph_heap.size,
                   atomic_load(&ph_heap.header->extents), PH_MAX_EXTENTS);
}

static ph_status
claim_extent(ph_extent_kind kind, uint64_t least, uint64_t hint, uint32_t *p_index)
{
    assert(ph_os_is_locked());
    uint64_t size = hint < EXTENT_LEAST ? EXTENT_LEAST : ph_unit_up(hint);
    if (kind == PH_EXTENT_PERMANENT && size > EXTENT_MOST) {
        size = EXTENT_MOST;
    }
    least = ph_unit_up(least);
    size = size < least ? least : size;
    if (atomic_load(&ph_heap.header->extents) >= PH_MAX_EXTENTS) {
        return heap_full(least);
    }
    uint64_t offset = claim_addresses(least, &size);
    if (offset == 0) {
        return heap_full(least);
    }
    uint32_t index = atomic_fetch_add(&ph_heap.header->extents, 1);
    if (index >= PH_MAX_EXTENTS) {
        return heap_full(least);
    }
    ph_extent *extent = &ph_heap.header->extent[index];
    assert(atomic_load(&extent->offset) == 0);      /* set once (invariant 4 of heap.c) */
    if (kind == PH_EXTENT_PERMANENT) {
        (void)ph_os_lock_byte(ph_heap.fd, offset);
        atomic_store(&extent->owner, ph_os_pid());
    }
    extent->size = size;
    extent->kind = kind;
    atomic_store(&extent->offset, offset);
    *p_index = index;
    return PH_OK;
}

ph_status
ph_extent_claim(uint64_t least, uint64_t hint, uint32_t *p_index)
{
    return claim_extent(PH_EXTENT_PERMANENT, least, hint, p_index);
}

ph_status
ph_extent_claim_spans(uint64_t least, uint64_t hint, uint32_t *p_index)
{
    ph_status status = claim_extent(PH_EXTENT_SPANS, least, hint, p_index);
    if (status == PH_OK) {
        atomic_fetch_add(&ph_heap.header->published, 1);
        status = map_extent(*p_index);
    }
    return status;
}

/* --- How far it is filled ----------------------------------------------------- */

static uint64_t
nonce_in_file(uint64_t segment)
{
    uint64_t nonce = 0;
    (void)ph_os_pread(ph_heap.fd, &nonce, sizeof(nonce),
                      segment + offsetof(ph_segment, nonce));
    return nonce;
}

/* Return `filled`, unless a block that spilled into the extent was committed and its
   builder was killed before it could note so (invariant 5 of heap.c).  Committed bytes
   never change, so that the nonce of a committed segment is conclusive. */
uint64_t
ph_extent_fill(const ph_extent *extent)
{
    uint64_t block = atomic_load(&extent->spill_block);
    uint64_t filled = atomic_load(&extent->filled);
    if (block == 0 || extent->spill_filled <= filled) {
        return filled;
    }
    uint32_t n = atomic_load(&ph_heap.header->extents);
    for (uint32_t i = 0; i < n && i < PH_MAX_EXTENTS; i++) {
        ph_extent *home = &ph_heap.header->extent[i];
        uint64_t start = atomic_load(&home->offset);
        if (block - start < home->size) {
            return block - start < atomic_load(&home->filled)
                   && nonce_in_file(block) == extent->spill_nonce
                   ? extent->spill_filled : filled;
        }
    }
    return filled;
}

uint64_t
ph_heap_used(void)
{
    uint64_t used = 0;
    uint32_t n = atomic_load(&ph_heap.header->extents);
    for (uint32_t i = 0; i < n && i < PH_MAX_EXTENTS; i++) {
        used += atomic_load(&ph_heap.header->extent[i].filled);
    }
    uint64_t released = atomic_load(&ph_heap.header->released)
                        - atomic_load(&ph_heap.header->reused);
    return used - (released < used ? released : used);
}

/* --- Owning ------------------------------------------------------------------- */

/* Keep invariant 3 of heap.c. */
bool
ph_extent_take(uint32_t index)
{
    ph_extent *extent = &ph_heap.header->extent[index];
    uint64_t offset = atomic_load(&extent->offset);
    assert(offset != 0 && extent->kind == PH_EXTENT_PERMANENT);     /* can have an owner */
    int32_t owner = atomic_load(&extent->owner);
    return (owner == NO_OWNER || !ph_os_pid_exists(owner))
           && ph_os_lock_byte(ph_heap.fd, offset) == 0
           && atomic_compare_exchange_strong(&extent->owner, &owner, ph_os_pid());
}

void
ph_extent_leave(uint32_t index)
{
    ph_extent *extent = &ph_heap.header->extent[index];
    assert(atomic_load(&extent->owner) == ph_os_pid());
    atomic_store(&extent->owner, NO_OWNER);
    ph_os_unlock_byte(ph_heap.fd, atomic_load(&extent->offset));
}

/* Order the stores so that a process killed in between leaves an extent that is of a new
   generation, or empty. */
ph_status
ph_extent_reset(uint32_t index)
{
    ph_extent *extent = &ph_heap.header->extent[index];
    uint64_t filled = atomic_load(&extent->filled);
    assert(atomic_load(&extent->owner) == ph_os_pid());
    assert(filled > 0);                             /* else there is nothing to reuse */
    atomic_fetch_add(&ph_heap.header->generation[index], 1);
    atomic_store(&extent->spill_block, 0);
    atomic_store(&extent->filled, 0);
    atomic_store(&extent->gone, 0);
    atomic_fetch_add(&ph_heap.header->reused, filled);
    if (!ph_heap_punch(atomic_load(&extent->offset), extent->size)) {
        return ph_fail(PH_SYSTEM, "permaheap: cannot give back the memory of an extent");
    }
    return map_extent(index);
}
