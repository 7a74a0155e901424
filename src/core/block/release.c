/* release.c -- giving a block's memory back once no process can see it.

   ph_release() releases a block: from then on no handle leads to it.  Processes that had it
   may go on reading it, until they end or call ph_forget().  When all of them have, the
   pages that only this block uses are punched out of the heap's file.

        live --ph_release--> released, waits in pending[] --reclaim--> gone
             block table,     an entry with a stamp        punch, block table,
             take back uses                                free the entry

   Of each segment the whole pages behind its header are punched; of a block of less than
   two pages nothing is given back.

        page     |        |        |        |        |
        segment     H oooooooooooooooooooooo H' o     H: header, o: objects
        punched           |////////|////////|

   Invariants:

   1. A block is released by one compare and swap of its word in the block table, and only
      without uses (block_table.c): no live block refers to it.
   2. Memory is punched only if the block is released and no process can see it: each has
      ended, has forgotten the block's stamp, was forked by one that had, or has never
      looked for blocks as new as this one (processes.c).
   3. A process punches, and reuses extents, only while it holds the record lock on the
      first byte of the file, and ph_os_lock(); the kernel drops the lock of a dead one.
      No process waits for it: one that does not get the lock leaves the work to others.
   4. A process killed at any point leaves a block that is released and not in pending[],
      or in it twice, or punched and not gone.  All of that is harmless: releasing again
      enters it again, and punching twice is punching once.
   5. A header stays as long as its extent has a block that is not gone: ph_block_of()
      walks over it, and a handle of the block still says that it was released.
   6. Punched addresses are reused only when all blocks of an extent are gone, and no
      process builds there.  Then the extent begins again, in a new generation (invariant
      8 of heap.c).  So a segment may outlive the home of its block: it is gone if another
      nonce stands there.
   7. No thread reclaims in the background.  The next call of ph_release(), ph_forget() or
      ph_reclaim() does, or the next builder that needs an extent.

   State: pending[] belongs to the family. */

#include "core/block/release.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "core/block/block_table.h"
#include "core/heap/extents.h"
#include "core/heap/processes.h"

#define RECLAIM_BYTE 0              /* of the file: invariant 3 */
#define CLAIMED 1                   /* ph_pending_release.block: being written */
#define ATTEMPTS 3                  /* to look at all slots while no process joins */
#define USES_AT_ONCE 64

/* PERMAHEAP_DEBUG, and the handler is set: ph_forget() takes the pages away instead of
   dropping this process's copies, and one line before the SIGSEGV of a later touch tells
   which block it was. */
static bool debug;

/* --- A block's parts, as the file has them ------------------------------------ */

static ph_status
read_segment(uint64_t offset, ph_segment *segment)
{
    return ph_heap_read(offset, segment, sizeof(*segment));
}

typedef ph_status (*range_visitor)(uint64_t start, uint64_t size);

/* Visit the whole pages behind each segment's header.  *p_bytes is the size of the block,
   *p_visited that of these pages.  A visitor that fails ends the walk. */
static ph_status
visit_pages(uint64_t home, range_visitor visit, uint64_t *p_bytes,
            uint64_t *p_visited)
{
    ph_segment segment;
    uint64_t bytes = 0, visited = 0;
    ph_status status = PH_OK;
    for (uint64_t at = home; at != 0 && status == PH_OK; at = segment.next) {
        status = read_segment(at, &segment);
        if (status != PH_OK) {
            break;
        }
        uint64_t start = ph_page_up(at + sizeof(ph_segment));
        uint64_t end = ph_page_down(at + segment.size);
        bytes += segment.size;
        if (end > start) {
            visited += end - start;
            status = visit(start, end - start);
        }
    }
    *p_bytes = bytes;
    *p_visited = visited;
    return status;
}

static ph_status
last_segment(uint64_t home, uint64_t *p_at, ph_segment *segment)
{
    ph_status status = PH_OK;
    for (uint64_t at = home; at != 0 && status == PH_OK; at = segment->next) {
        *p_at = at;
        status = read_segment(at, segment);
    }
    return status;
}

typedef bool (*use_visitor)(uint64_t used, void *arg);      /* false: enough */

/* Visit the blocks that this one refers to. */
static ph_status
visit_uses(const ph_segment *home, use_visitor visit, void *arg)
{
    uint64_t at = 0, uses[USES_AT_ONCE];
    ph_segment last;
    ph_status status = last_segment(ph_offset_of(home), &at, &last);
    uint64_t left = home->uses, pos = at + last.size - left * sizeof(uint64_t);
    while (status == PH_OK && left > 0) {
        uint64_t n = left < USES_AT_ONCE ? left : USES_AT_ONCE;
        status = ph_heap_read(pos, uses, n * sizeof(uint64_t));
        for (uint64_t i = 0; status == PH_OK && i < n; i++) {
            if (!visit(uses[i], arg)) {
                return PH_OK;
            }
        }
        pos += n * sizeof(uint64_t);
        left -= n;
    }
    return status;
}

/* --- The blocks that refer to a block ----------------------------------------- */

typedef struct {
    uint64_t wanted;                /* offset of a home segment */
    bool found;
} search;

static bool
is_wanted_use(uint64_t used, void *arg)
{
    search *s = arg;
    s->found = used == s->wanted;
    return !s->found;
}

/* Find a live block that refers to `home`, or NULL.  Another process may reuse an extent
   while we look at it: bytes that are no segment end the walk there.  O(blocks). */
static const ph_segment *
find_user(const ph_segment *home)
{
    search s = {.wanted = ph_offset_of(home)};
    uint32_t n = atomic_load(&ph_heap.header->extents);
    for (uint32_t i = 0; i < n && i < PH_MAX_EXTENTS; i++) {
        uint64_t at = atomic_load(&ph_heap.header->extent[i].offset);
        uint64_t end = at + ph_extent_seen_filled(i);
        while (at != 0 && at < end) {
            const ph_segment *segment = ph_address_of(at);
            if (segment->size < sizeof(ph_segment)) {
                break;
            }
            if (segment->home == at && segment->uses != 0
                && ph_block_table_state(segment) == PH_LIVE
                && visit_uses(segment, is_wanted_use, &s) == PH_OK && s.found) {
                return segment;
            }
            at += segment->size;
        }
    }
    return NULL;
}

static ph_status
fail_in_use(const ph_segment *home)
{
    const ph_segment *user = find_user(home);
    if (user == NULL) {
        return ph_fail(PH_REFUSED,
                       "permaheap: cannot release this block: a block that refers to "
                       "it is being frozen; try again. If this persists, the process "
                       "freezing it was killed, and this block can no longer be "
                       "released");
    }
    return ph_fail(PH_REFUSED,
                   "permaheap: cannot release this block: %u other(s) refer to "
                   "objects in it. Release these first: one has its root at offset "
                   "%llu", ph_block_table_uses(home), (unsigned long long)user->root);
}

/* --- The table ---------------------------------------------------------------- */

static uint32_t
entries_used(void)
{
    uint64_t n = atomic_load(&ph_heap.header->pending_used);
    return n < PH_PENDING_RELEASES ? (uint32_t)n : PH_PENDING_RELEASES;
}

static ph_pending_release *
pending_at(uint32_t index)
{
    assert(index < PH_PENDING_RELEASES);
    return &ph_heap.header->pending[index];
}

/* Compare the nonce too: an entry made twice may have outlived its block. */
static bool
has_entry(const ph_segment *home)
{
    for (uint32_t i = 0; i < entries_used(); i++) {
        if (atomic_load(&pending_at(i)->block) == ph_offset_of(home)
            && atomic_load(&pending_at(i)->nonce) == home->nonce) {
            return true;
        }
    }
    return false;
}

static uint64_t
new_stamp(void)
{
    uint64_t stamp;
    do {
        stamp = atomic_fetch_add(&ph_heap.header->stamps, 1) + 1;
    } while ((uint32_t)stamp == 0);     /* an acknowledgement that was never written */
    return stamp;
}

static bool
enter_block(const ph_segment *home)
{
    for (uint32_t i = 0; i < PH_PENDING_RELEASES; i++) {
        uint64_t none = 0;
        if (!atomic_compare_exchange_strong(&pending_at(i)->block, &none, CLAIMED)) {
            continue;
        }
        uint64_t used = atomic_load(&ph_heap.header->pending_used);
        while (used < i + 1
               && !atomic_compare_exchange_weak(&ph_heap.header->pending_used,
                                                &used, i + 1)) {
        }
        atomic_store(&pending_at(i)->stamp, new_stamp());
        atomic_store(&pending_at(i)->nonce, home->nonce);
        atomic_store(&pending_at(i)->number, home->number);
        atomic_store(&pending_at(i)->block, ph_offset_of(home));
        return true;
    }
    return false;
}

uint64_t
ph_releases_pending(void)
{
    uint64_t waiting = 0;
    for (uint32_t i = 0; i < entries_used(); i++) {
        waiting += atomic_load(&pending_at(i)->block) > CLAIMED;
    }
    return waiting;
}

/* --- Releasing ---------------------------------------------------------------- */

static bool
take_back_use(uint64_t used, void *arg)
{
    ph_segment home;
    if (read_segment(used, &home) == PH_OK) {
        ph_block_table_drop_use(&home);
    }
    return true;
}

static ph_status
visit_nothing(uint64_t start, uint64_t size)
{
    return PH_OK;
}

static ph_status
fail_too_many(void)
{
    return ph_fail(PH_REFUSED,
                   "permaheap: %u released blocks wait for processes that could "
                   "still see them: let these forget() or end first", PH_PENDING_RELEASES);
}

static ph_status
release_locked(const ph_segment *home)
{
    uint64_t offset = ph_offset_of(home), bytes, pages;
    assert(home->home == offset);               /* its header speaks for the block */
    ph_status status = visit_pages(offset, visit_nothing, &bytes, &pages);
    if (status != PH_OK) {
        return status;
    }
    bool ours = ph_block_table_release(home);
    ph_block_state state = ph_block_table_state(home);
    if (state == PH_LIVE) {
        return fail_in_use(home);
    }
    if (state == PH_RELEASED && !has_entry(home) && !enter_block(home)) {
        if (ours) {
            ph_block_table_take_back(home);
        }
        return fail_too_many();
    }
    if (ours) {
        atomic_fetch_add(&ph_heap.header->released, bytes);
        atomic_fetch_add(&ph_heap.header->released_blocks, 1);
        atomic_fetch_sub(&ph_heap.header->blocks, 1);
        status = visit_uses(home, take_back_use, NULL);
    }
    return status;
}

ph_status
ph_release(const ph_segment *home)
{
    ph_status status = ph_heap_refresh_all();
    ph_os_lock();
    if (status == PH_OK) {
        status = ph_heap_check_file();
    }
    if (status == PH_OK) {
        ph_reclaim_locked();            /* perhaps that makes room */
        status = release_locked(home);
        ph_reclaim_locked();
    }
    ph_os_unlock();
    return status;
}

/* --- Forgetting --------------------------------------------------------------- */

static ph_status
drop_pages(uint64_t start, uint64_t size)
{
    if (debug) {
        ph_os_unmap(ph_address_of(start), size);
    }
    else {
        ph_os_forget(ph_address_of(start), size);
    }
    return PH_OK;
}

static ph_status
forget_stamps(uint64_t home)
{
    for (uint32_t i = 0; i < entries_used(); i++) {
        ph_pending_release *entry = pending_at(i);
        if (atomic_load(&entry->block) != home) {
            continue;
        }
        uint32_t stamp = (uint32_t)atomic_load(&entry->stamp);
        if (atomic_load(&entry->block) != home) {
            continue;                   /* the stamp may be another block's */
        }
        ph_status status = ph_process_acknowledge(i, stamp);
        if (status != PH_OK) {
            return status;
        }
    }
    return PH_OK;
}

ph_status
ph_forget(const ph_segment *home)
{
    uint64_t bytes, pages;
    assert(home->home == ph_offset_of(home));
    if (ph_block_table_state(home) == PH_LIVE) {
        return ph_fail(PH_REFUSED, "permaheap: this block was not released; "
                                   "release() it first, in any process of the family");
    }
    ph_os_lock();
    ph_status status = ph_heap_check_file();
    if (status == PH_OK) {
        status = forget_stamps(ph_offset_of(home));
    }
    if (status == PH_OK) {
        status = visit_pages(ph_offset_of(home), drop_pages, &bytes, &pages);
        ph_reclaim_locked();
    }
    ph_os_unlock();
    return status;
}

/* --- Giving back -------------------------------------------------------------- */

/* Return whether no process can see the entry's block. */
static bool
is_due(uint32_t index)
{
    uint64_t home = atomic_load(&pending_at(index)->block);
    uint32_t stamp = (uint32_t)atomic_load(&pending_at(index)->stamp);
    uint32_t number = (uint32_t)atomic_load(&pending_at(index)->number);
    return home > CLAIMED && !ph_processes_may_see(number, index, stamp);
}

/* Find the entries that are due: one bit for each.  False if a process joined in the
   meantime, which could have been missed. */
static bool
find_due(uint64_t *due)
{
    uint64_t joins = atomic_load(&ph_heap.header->joins);
    ph_processes_reap();
    for (uint32_t i = 0; i < entries_used(); i++) {
        due[i / 64] |= (uint64_t)is_due(i) << i % 64;
    }
    return atomic_load(&ph_heap.header->joins) == joins;
}

static uint32_t
extent_of(uint64_t offset)
{
    uint32_t i = 0;
    for (; i < PH_MAX_EXTENTS; i++) {
        const ph_extent *extent = &ph_heap.header->extent[i];
        if (offset - atomic_load(&extent->offset) < extent->size) {
            break;
        }
    }
    return i;
}

/* Count the block in `gone` of its extents. */
static void
count_gone(uint64_t home)
{
    ph_segment segment;
    for (uint64_t at = home; at != 0; at = segment.next) {
        uint32_t index = extent_of(at);
        if (index == PH_MAX_EXTENTS || read_segment(at, &segment) != PH_OK) {
            return;
        }
        atomic_fetch_add(&ph_heap.header->extent[index].gone, segment.size);
    }
}

static ph_status
punch_pages(uint64_t start, uint64_t size)
{
    return ph_heap_punch(start, size) ? PH_OK
           : ph_fail(PH_SYSTEM, "permaheap: cannot give back the memory of a block");
}

/* Punch the entry's block, or leave the entry for another time if that fails.  This process
   need not have mapped it. */
static void
give_back_entry(ph_pending_release *entry)
{
    uint64_t home = atomic_load(&entry->block), bytes, pages;
    assert(home > CLAIMED);                     /* only we free entries: invariant 3 */
    ph_segment segment;
    if (read_segment(home, &segment) != PH_OK) {
        return;
    }
    if (segment.nonce == atomic_load(&entry->nonce)
        && ph_block_table_state(&segment) == PH_RELEASED) {
        if (visit_pages(home, punch_pages, &bytes, &pages) != PH_OK) {
            return;
        }
        ph_block_table_set_gone(&segment);
        count_gone(home);
        atomic_fetch_add(&ph_heap.header->returned, pages);
    }
    atomic_store(&entry->block, 0);
}

static void
reclaim_due(void)
{
    uint64_t due[PH_PENDING_RELEASES / 64];
    bool sure = false;
    for (int i = 0; i < ATTEMPTS && !sure; i++) {
        memset(due, 0, sizeof(due));
        sure = find_due(due);
    }
    for (uint32_t i = 0; sure && i < entries_used(); i++) {
        if (due[i / 64] >> i % 64 & 1) {
            give_back_entry(pending_at(i));
        }
    }
}

void
ph_reclaim_locked(void)
{
    assert(ph_os_is_locked());                  /* invariant 3 */
    if (ph_releases_pending() == 0 || atomic_load(&ph_heap.header->unlisted) != 0
        || !ph_os_is_file(ph_heap.fd, ph_heap.file)
        || ph_os_lock_byte(ph_heap.fd, RECLAIM_BYTE) != 0) {
        return;
    }
    reclaim_due();
    ph_os_unlock_byte(ph_heap.fd, RECLAIM_BYTE);
}

void
ph_reclaim(void)
{
    ph_os_lock();
    ph_reclaim_locked();
    ph_os_unlock();
}

/* --- Reusing an extent -------------------------------------------------------- */

static bool
segment_is_gone(const ph_segment *segment)
{
    ph_segment home;
    return read_segment(segment->home, &home) == PH_OK
           && (home.nonce != segment->nonce || ph_block_table_state(&home) == PH_GONE);
}

/* Look at each segment: `gone` may be wrong after a process was killed. */
static bool
blocks_are_gone(const ph_extent *extent)
{
    uint64_t at = atomic_load(&extent->offset);
    uint64_t end = at + ph_extent_fill(extent);
    ph_segment segment;
    for (; at < end; at += segment.size) {
        if (read_segment(at, &segment) != PH_OK || segment.size == 0
            || !segment_is_gone(&segment)) {
            return false;
        }
    }
    return true;
}

static bool
may_be_reused(const ph_extent *extent, uint64_t size)
{
    uint64_t filled = atomic_load(&extent->filled);
    return filled > 0 && atomic_load(&extent->gone) == filled
           && extent->size >= size && extent->kind == PH_EXTENT_PERMANENT;
}

static bool
reuse_extent(uint64_t size, uint32_t *p_index)
{
    uint32_t n = atomic_load(&ph_heap.header->extents);
    for (uint32_t i = 0; i < n && i < PH_MAX_EXTENTS; i++) {
        const ph_extent *extent = &ph_heap.header->extent[i];
        if (!may_be_reused(extent, size) || !ph_extent_take(i)) {
            continue;
        }
        if (blocks_are_gone(extent) && ph_extent_reset(i) == PH_OK) {
            *p_index = i;
            return true;
        }
        ph_extent_leave(i);
    }
    return false;
}

bool
ph_reuse_locked(uint64_t size, uint32_t *p_index)
{
    assert(ph_os_is_locked());
    if (ph_os_lock_byte(ph_heap.fd, RECLAIM_BYTE) != 0) {
        return false;
    }
    bool found = reuse_extent(size, p_index);
    ph_os_unlock_byte(ph_heap.fd, RECLAIM_BYTE);
    return found;
}

/* --- Debug mode --------------------------------------------------------------- */

/* Say, before a SIGSEGV, that it was a page of a released block.  Reads shared memory, and
   headers, which stay. */
static void
report_touch(const void *address)
{
    uint64_t offset = ph_offset_of(address);
    if (!ph_heap_contains(address) || !ph_heap_is_mapped(offset)) {
        return;
    }
    const ph_segment *home = ph_block_of(address);
    char text[200];
    if (home->home == ph_offset_of(home) && ph_block_table_state(home) != PH_LIVE) {
        int n = snprintf(text, sizeof(text),
                         "permaheap: process %d touches offset %llu of the heap, in "
                         "the block with its root at offset %llu, which was released\n",
                         ph_os_pid(), (unsigned long long)offset,
                         (unsigned long long)home->root);
        ph_os_say(text, (size_t)n);
    }
}

void
ph_release_init(void)
{
    debug = ph_os_env_flag("PERMAHEAP_DEBUG") && ph_os_on_segv(report_touch) == 0;
}
