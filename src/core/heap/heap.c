/* heap.c -- the permanent heap's address range, header and extents.

   Vocabulary.  The *heap* is a range of addresses, reserved once with
   PROT_NONE and backed by one memfd, both inherited by fork.  It starts with
   the *header* and its tables (the *page directory*; the *ledger* of block_table.c,
   the *rows* of processes.c; journal and table of spans), mapped MAP_SHARED; the rest
   is cut into *extents*, claimed from the front, of permanent blocks, or of spans
   (spans.c): these everybody maps MAP_SHARED, writable, whatever the mode, nobody owns
   them, and `filled` stays 0.  A *builder* writes through the
   *window*: a second range of the same size, at a constant distance, that no
   forked child inherits.

        base                                                     base + size
        | header | tables    | extent | extent | ... | not claimed yet      |
          MAP_SHARED           MAP_PRIVATE (or read-only)   PROT_NONE

        base + window: the same file, MAP_SHARED, only in the builder,
                       only where it builds; MADV_DONTFORK

   Invariants (cited by number here and in block.c):

   1. The range of addresses is the same in the whole family, and no part of
      it is ever free for another mmap: pieces are replaced by MAP_FIXED.
   2. A committed byte never changes, until its block has been released and
      nobody can see it any more (release.c); a segment's header never does.
      Whoever has mapped it reads it from the file, or from a page that it
      copied itself by a stray write.
   3. Only an extent's owner writes to it, only at or behind `filled`, only
      through its window.  An owner is a live process that holds the record
      lock on the extent's first byte; the kernel drops the lock when the
      owner dies, and whoever gets it then (and finds the pid gone) owns the
      extent's rest.  Nobody waits for such a lock.
   4. `extents`, `claimed` and `published` only grow, by atomic additions: a
      process that is killed between two of them loses addresses, no memory.
   5. A block is committed by one atomic store of the `filled` of the extent
      that holds its header.  Extents that it spilled into say so before
      (spill_*), so that an heir can tell what they hold.
   6. A reader that finds `published` changed maps the new extents, and brings
      each page up to date that had been only partly filled when it last
      looked: a page that it has copied by a stray write does not see later
      blocks arrive.  What it wrote there stays (an interned str must).
   7. Nothing here runs Python code; the process lock is held for a few
      system calls at most, also by fork (so that a child never inherits a
      half-made mapping).
   8. An extent whose blocks are all gone may be used anew, in a new generation.
      Whoever has it mapped maps it again when it notices: a page that it copied
      by a stray write would stay as it is for ever.

   State: the header belongs to the family, `ph_heap` and `seen_*` to
   this process.  Both outlive every interpreter. */

#include "core/heap/heap.h"

#include <errno.h>
#include <string.h>

#include "core/block/block.h"
#include "core/span/journal.h"
#include "core/heap/processes.h"
#include "core/block/release.h"
#include "core/span/span_table.h"

#define RESERVE_MOST (1024 * PH_GIB)
#define RESERVE_LEAST (64 * PH_MIB)
#define EXTENT_LEAST (8 * PH_MIB)   /* addresses, not memory: they cost nothing */
#define EXTENT_MOST (4 * PH_GIB)
#define NO_OWNER 0                  /* given up by the holder of its lock */
#define LEDGER_SHARE 16             /* of the addresses; blocks have 88 bytes or
                                       more, their word in the ledger has 4 */

ph_heap_process ph_heap = {.fd = -1, .state = PH_SYSTEM};

/* Bytes that may be allocated before the limits are looked at again. */
#define ALLOWANCE_MOST (4 * PH_MIB)
static uint64_t allowance;          /* under ph_os_lock() */

/* Bytes that are left for others: a process that finds its container full to
   the last page is killed when it next touches one of its own. */
#define MARGIN(size) (8 * PH_MIB + (size) / 16)

/* What we have seen of each extent: mapped when not NOT_MAPPED, then bytes
   filled at our last refresh. */
#define NOT_MAPPED 0
#define MAPPED_MARK 1               /* added to the bytes, so that 0 is free */
static uint64_t seen_filled[PH_MAX_EXTENTS];

/* Of which generation what we have mapped is. */
static uint32_t seen_generation[PH_MAX_EXTENTS];

/* One bit for each unit of the heap: part of an extent that we have mapped; of
   permanent blocks, or of spans. */
#define UNITS (RESERVE_MOST / PH_EXTENT_UNIT)
static _Atomic uint64_t mapped_units[UNITS / 64];
static _Atomic uint64_t mapped_span_units[UNITS / 64];

const char *const ph_kind_names[PH_KINDS] = {
    "int", "float", "complex", "str", "bytes", "tuple", "mapping", "frozenset",
    "range", "slice", "date", "time", "datetime", "timedelta", "timezone",
    "shared keys",
};

static ph_status
system_failure(const char *what, uint64_t size, int err)
{
    return ph_fail(err == ENOMEM || err == ENOSPC ? PH_NOMEM : PH_SYSTEM,
                   "permaheap: cannot %s (%llu bytes): %s", what,
                   (unsigned long long)size, strerror(err));
}

/* --- Creation -------------------------------------------------------------- */

static uint64_t
unit_up(uint64_t n)
{
    return (n + PH_EXTENT_UNIT - 1) & ~(PH_EXTENT_UNIT - 1);
}

/* Reserve range and window together, of the largest size that RLIMIT_AS and
   RLIMIT_FSIZE allow. */
static int
reserve(uint64_t *p_size, char **p_base)
{
    uint64_t limit = ph_os_file_size_limit();
    int err = EFBIG;
    for (uint64_t size = RESERVE_MOST; size >= RESERVE_LEAST; size /= 2) {
        if (size > limit) {
            continue;
        }
        void *base;
        err = ph_os_reserve(2 * size, &base);
        if (err == 0) {
            *p_size = size;
            *p_base = base;
            return 0;
        }
    }
    return err;
}

static void
header_init(ph_header *header, uint64_t size)
{
    uint64_t words = size / LEDGER_SHARE / sizeof(uint32_t);
    header->magic = PH_MAGIC;
    header->size = size;
    header->directory = ph_page_up(sizeof(ph_header));
    header->ledger = header->directory
                     + ph_page_up(size / PH_PAGE * sizeof(uint64_t));
    header->ledger_words = words < UINT32_MAX ? words : UINT32_MAX;
    header->rows = header->ledger + ph_page_up(words * sizeof(uint32_t));
    header->journal = header->rows + PH_ROWS_SIZE;
    header->spans = header->journal + ph_page_up(sizeof(ph_journal));
    header->first = unit_up(header->spans + PH_SPANS_TABLE_SIZE);
    atomic_store(&header->claimed, header->first);
}

static void
choose_mapping(void)
{
    if (ph_os_env_flag("PERMAHEAP_SEAL")) {
        ph_heap.mapping = PH_MAP_READONLY;
        ph_heap.mapping_reason = "sealed: PERMAHEAP_SEAL is set";
    }
    else if (ph_os_strict_overcommit()) {
        ph_heap.mapping = PH_MAP_READONLY;
        ph_heap.mapping_reason = "read-only: vm.overcommit_memory is 2, which "
                                 "charges private writable mappings in full";
    }
    else {
        ph_heap.mapping = PH_MAP_PRIVATE;
        ph_heap.mapping_reason = "private";
    }
}

/* The header is a shared mapping over the front of the range: the header and
   its tables, of which only touched pages take memory. */
static ph_status
map_header(char *base, uint64_t size, int fd)
{
    uint64_t least = ph_page_up(sizeof(ph_header));
    int err = ph_os_allocate(fd, 0, least);
    if (err == 0) {
        err = ph_os_map(base, least, fd, 0, PH_MAP_SHARED);
    }
    if (err) {
        return system_failure("map the heap's header", least, err);
    }
    ph_header *header = (ph_header *)base;
    header_init(header, size);
    err = ph_os_map(base, header->first, fd, 0, PH_MAP_SHARED);
    if (err == 0) {
        err = ph_os_allocate(fd, header->journal, header->spans - header->journal
                                                  + PH_SPANS_HEAD_SIZE);
    }
    if (err == 0) {
        err = ph_mutex_init(&((ph_journal *)(base + header->journal))->mutex);
    }
    return err ? system_failure("map the heap's tables", header->first, err)
               : PH_OK;
}

static void
before_fork(void)
{
    ph_os_lock();
    ph_members_before_fork();
}

static void
after_fork_parent(void)
{
    ph_os_unlock();
}

/* Runs between fork() and anything else in the child: plain C only. */
static void
after_fork_child(void)
{
    ph_heap.window = 0;             /* MADV_DONTFORK: it is not there */
    atomic_fetch_add(&ph_heap.forks, 1);
    ph_blocks_after_fork();
    ph_members_after_fork();
    ph_spans_after_fork();
    ph_members_born();
    ph_os_unlock();
}

static ph_status
create(void)
{
    char *base = NULL;
    uint64_t size = 0;
    int fd = -1;
    int err = reserve(&size, &base);
    if (err) {
        return system_failure("reserve addresses for the heap (ulimit -v or "
                              "-f?)", RESERVE_LEAST, err);
    }
    ph_status status = PH_SYSTEM;
    err = ph_os_memfd(size, &fd, &ph_heap.file);
    if (err) {
        status = system_failure("create the heap's file with memfd_create",
                                size, err);
        goto fail;
    }
    status = map_header(base, size, fd);
    if (status != PH_OK) {
        goto fail;
    }
    ph_header *header = (ph_header *)base;
    err = ph_os_random(header->family, sizeof(header->family));
    if (err == 0) {
        err = ph_os_random(header->key, sizeof(header->key));
    }
    if (err == 0) {
        err = ph_os_dontfork(base + size, size);
    }
    if (err == 0) {
        err = ph_os_atfork(before_fork, after_fork_parent, after_fork_child);
    }
    if (err) {
        status = system_failure("set up the heap", size, err);
        goto fail;
    }
    choose_mapping();
    ph_heap.base = base;
    ph_heap.size = size;
    ph_heap.fd = fd;
    ph_heap.header = header;
    ph_heap.window = (ptrdiff_t)size;
    ph_members_init();
    ph_retire_init();
    return PH_OK;
fail:
    if (fd >= 0) {
        ph_os_close(fd);
    }
    ph_os_release(base, 2 * size);
    return status;
}

void
ph_heap_init(void)
{
    ph_os_lock();
    if (ph_heap.state != PH_OK) {
        ph_heap.state = create();
    }
    ph_os_unlock();
}

ph_status
ph_heap_ready(void)
{
    if (ph_heap.state != PH_OK) {
        ph_heap_init();             /* perhaps the limit has been raised */
    }
    return ph_heap.state;
}

/* --- Mapping extents -------------------------------------------------------- */

/* Someone may have closed our descriptor (a daemon closes all it finds) and
   opened something else under the same number. */
ph_status
ph_heap_check_file(void)
{
    if (ph_os_is_file(ph_heap.fd, ph_heap.file)) {
        return PH_OK;
    }
    return ph_fail(PH_SYSTEM,
                   "permaheap: file descriptor %d, which holds the heap, was "
                   "closed by this program; leave it open (os.closerange, "
                   "daemonize)", ph_heap.fd);
}

static bool
is_current(uint32_t index)
{
    return seen_generation[index]
           == atomic_load(&ph_heap.header->generation[index]);
}

/* Also anew, when it is of another generation (invariant 8). */
static ph_status
map_extent(uint32_t index)
{
    if (seen_filled[index] != NOT_MAPPED && is_current(index)) {
        return PH_OK;
    }
    uint32_t generation = atomic_load(&ph_heap.header->generation[index]);
    ph_extent *extent = &ph_heap.header->extent[index];
    uint64_t offset = atomic_load(&extent->offset);
    if (offset == 0) {
        return PH_OK;               /* being claimed, or the claimer died */
    }
    ph_status status = ph_heap_check_file();
    if (status != PH_OK) {
        return status;
    }
    bool spans = extent->kind == PH_EXTENT_SPANS;
    int err = ph_os_map(ph_address_of(offset), extent->size, ph_heap.fd, offset,
                        spans ? PH_MAP_SHARED : ph_heap.mapping);
    if (err) {
        return system_failure("map an extent", extent->size, err);
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

/* Invariant 6.  Pages filled before we last looked are whole, pages behind
   have held no object that we could have written to. */
static ph_status
update_partly_seen_page(uint32_t index)
{
    ph_extent *extent = &ph_heap.header->extent[index];
    uint64_t filled = atomic_load(&extent->filled);
    uint64_t seen = seen_filled[index] - MAPPED_MARK;
    if (seen_filled[index] == NOT_MAPPED || filled <= seen || !is_current(index)) {
        return PH_OK;
    }
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
            return system_failure("read the heap's file", end - seen, err);
        }
        ph_show_bytes(ph_address_of(offset), fresh, end - seen);
    }
    seen_filled[index] = MAPPED_MARK + filled;
    return PH_OK;
}

void
ph_show_bytes(void *at, const void *bytes, uint64_t size)
{
    if (memcmp(at, bytes, size) != 0) {
        memcpy(at, bytes, size);        /* into a copy of ours: else no difference */
    }
}

static ph_status
refresh(void)
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
    ph_member_looks();
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
    ph_status status = refresh();
    ph_os_unlock();
    return status;
}

void
ph_extent_seen(uint32_t index)
{
    seen_filled[index] =
        MAPPED_MARK + atomic_load(&ph_heap.header->extent[index].filled);
}

/* --- Claiming extents -------------------------------------------------------- */

static ph_status
window_ready(void)
{
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
        return system_failure("reserve a window to write through",
                              ph_heap.size, err);
    }
    ph_heap.window = (char *)window - ph_heap.base;
    return PH_OK;
}

static ph_status
open_window(ph_extent *extent)
{
    uint64_t offset = atomic_load(&extent->offset);
    char *addr = (char *)ph_address_of(offset) + ph_heap.window;
    int err = ph_os_map(addr, extent->size, ph_heap.fd, offset, PH_MAP_SHARED);
    if (err == 0) {
        err = ph_os_dontfork(addr, extent->size);
        if (err) {
            ph_os_unmap(addr, extent->size);
        }
    }
    return err ? system_failure("map an extent to write to", extent->size, err)
               : PH_OK;
}

/* Take `size` addresses, or as many as are left if that is at least `least`. */
static uint64_t
claim_addresses(uint64_t least, uint64_t *p_size)
{
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
    uint64_t size = hint < EXTENT_LEAST ? EXTENT_LEAST : unit_up(hint);
    size = size > EXTENT_MOST ? EXTENT_MOST : size;
    least = unit_up(least);
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
ph_extent_claim_spans(uint64_t least, uint64_t hint, uint32_t *p_index)
{
    ph_status status = claim_extent(PH_EXTENT_SPANS, least, hint, p_index);
    if (status == PH_OK) {
        atomic_fetch_add(&ph_heap.header->published, 1);
        status = map_extent(*p_index);
    }
    return status;
}

static uint64_t
nonce_in_file(uint64_t segment)
{
    uint64_t nonce = 0;
    (void)ph_os_pread(ph_heap.fd, &nonce, sizeof(nonce),
                      segment + offsetof(ph_segment, nonce));
    return nonce;
}

/* How far an extent is filled (invariant 5): `filled`, unless a
   block that spilled into it was committed and its builder killed before it
   could note so.  Committed bytes never change, so that the nonce of a
   committed segment is conclusive. */
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

/* Invariant 3. */
bool
ph_extent_take(uint32_t index)
{
    ph_extent *extent = &ph_heap.header->extent[index];
    uint64_t offset = atomic_load(&extent->offset);
    int32_t owner = atomic_load(&extent->owner);
    return (owner == NO_OWNER || !ph_os_pid_exists(owner))
           && ph_os_lock_byte(ph_heap.fd, offset) == 0
           && atomic_compare_exchange_strong(&extent->owner, &owner, ph_os_pid());
}

void
ph_extent_leave(uint32_t index)
{
    ph_extent *extent = &ph_heap.header->extent[index];
    atomic_store(&extent->owner, NO_OWNER);
    ph_os_unlock_byte(ph_heap.fd, atomic_load(&extent->offset));
}

/* Killed in between, we leave an extent that is of a new generation, or empty. */
ph_status
ph_extent_reset(uint32_t index)
{
    ph_extent *extent = &ph_heap.header->extent[index];
    uint64_t filled = atomic_load(&extent->filled);
    atomic_fetch_add(&ph_heap.header->generation[index], 1);
    atomic_store(&extent->spill_block, 0);
    atomic_store(&extent->filled, 0);
    atomic_store(&extent->gone, 0);
    atomic_fetch_add(&ph_heap.header->reused, filled);
    ph_heap_punch(atomic_load(&extent->offset), extent->size);
    return map_extent(index);
}

/* On success what was half built is gone: its pages are free for us, and take no
   memory until we build there. */
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
    atomic_store(&extent->filled, filled);
    atomic_store(&extent->spill_block, 0);
    uint64_t whole = ph_page_up(filled);
    if (whole < extent->size) {
        ph_heap_punch(offset + whole, extent->size - whole);
    }
    if (extent->size - filled < size) {
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

ph_status
ph_extent_acquire(uint64_t size, uint64_t hint, uint32_t *p_index)
{
    ph_status status = ph_heap_check_file();
    if (status == PH_OK) {
        status = window_ready();
    }
    ph_reclaim_locked();            /* memory is about to be needed */
    ph_blocks_leave_gone();
    if (status == PH_OK && !find_inheritance(size, p_index)
        && !ph_reuse_locked(size, p_index)) {
        status = claim_extent(PH_EXTENT_PERMANENT, size, hint, p_index);
    }
    if (status != PH_OK) {
        return status;
    }
    ph_extent *extent = &ph_heap.header->extent[*p_index];
    status = update_partly_seen_page(*p_index);
    if (status == PH_OK) {
        status = map_extent(*p_index);
    }
    if (status == PH_OK) {
        status = open_window(extent);
    }
    if (status != PH_OK) {
        ph_extent_leave(*p_index);                  /* to be had again */
    }
    return status;
}

/* Compare with what is left to this process.  Asking the kernel means to read
   a dozen small files: once for each ALLOWANCE_MOST bytes, or for half of what
   is left if that is less. */
static ph_status
check_limits(uint64_t size)
{
    ph_os_lock();
    ph_status status = PH_OK;
    if (size > allowance) {
        uint64_t available = ph_os_memory_available();
        available -= MARGIN(size) < available ? MARGIN(size) : available;
        allowance = available / 2 < ALLOWANCE_MOST ? available / 2 : ALLOWANCE_MOST;
        if (available < size) {
            status = ph_fail(PH_NOMEM,
                             "permaheap: %llu bytes more do not fit: %llu are "
                             "left to this process (memory cgroup or machine)",
                             (unsigned long long)size,
                             (unsigned long long)available);
        }
    }
    allowance -= size < allowance ? size : allowance;
    ph_os_unlock();
    return status;
}

ph_status
ph_heap_allocate_table(uint64_t offset, uint64_t size)
{
    ph_status status = ph_heap_check_file();
    if (status != PH_OK) {
        return status;
    }
    int err = ph_os_allocate(ph_heap.fd, offset, size);
    return err ? system_failure("allocate memory for the heap's tables", size, err)
               : PH_OK;
}

ph_status
ph_heap_read(uint64_t offset, void *buf, uint64_t size)
{
    int err = ph_os_pread(ph_heap.fd, buf, size, offset);
    return err ? system_failure("read the heap's file", size, err) : PH_OK;
}

static ph_status
check_limits_and_file(uint64_t size)
{
    ph_status status = check_limits(size);
    if (status == PH_NOMEM && ph_spans_sweep() + ph_spans_give_back() > 0) {
        status = check_limits(size);
    }
    return status == PH_OK ? ph_heap_check_file() : status;
}

static ph_status
allocate(uint64_t offset, uint64_t size)
{
    int err = ph_os_allocate(ph_heap.fd, offset, size);
    return err ? system_failure("allocate memory for the heap", size, err) : PH_OK;
}

ph_status
ph_heap_allocate(uint64_t offset, uint64_t size)
{
    ph_status status = check_limits_and_file(size);
    uint64_t entry = ph_page_down(ph_offset_of(ph_directory_entry(offset)));
    uint64_t end = ph_offset_of(ph_directory_entry(offset + size)) + 8;
    if (status == PH_OK) {
        status = allocate(entry, ph_page_up(end) - entry);
    }
    return status == PH_OK ? allocate(offset, size) : status;
}

ph_status
ph_heap_allocate_spans(uint64_t offset, uint64_t size)
{
    ph_status status = check_limits_and_file(size);
    return status == PH_OK ? allocate(offset, size) : status;
}

void
ph_heap_punch(uint64_t offset, uint64_t size)
{
    if (ph_os_is_file(ph_heap.fd, ph_heap.file)) {
        ph_os_punch(ph_heap.fd, offset, size);
    }
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
