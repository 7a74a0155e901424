/* family.c -- making the heap, and carrying it over each fork.

   A family is the process that makes the heap, and all processes that are forked from
   it, or from its children.  The heap is made once, by the first import, and again for
   as long as that fails: a limit may have been raised since.

        range, file, header and tables, hooks around fork ---> ph_heap.state == PH_OK,
                                                               for ever

   A fork holds the process lock, so that a child inherits no half-made change.  In the
   child, before anything else runs there, these follow in this order:

        open extents, nonces     what the parent's builders own stays the parent's
        process table            the child has a slot, which is not ready yet
        spans                    it holds the spans that its parent held
        process table            it is ready: the parent no longer speaks for it

   Invariants:

   1. The order above: a slot is ready when what the child holds is noted (invariants 1
      and 2 of processes.c).
   2. All of that is plain C and system calls: no Python, since another thread of the
      parent may have held any of its locks (invariant 7 of heap.c).
   3. ph_heap.state becomes PH_OK once, when all the rest of ph_heap is set, and stays
      so.  Below this file nothing makes the heap: callers of blocks, spans and handles
      ask ph_heap_ready() first. */

#include "core/family/family.h"

#include <assert.h>
#include <errno.h>

#include "core/block/block.h"
#include "core/block/open_extents.h"
#include "core/block/release.h"
#include "core/heap/processes.h"
#include "core/span/journal.h"
#include "core/span/span_table.h"
#include "core/span/spans.h"

#define RESERVE_LEAST (32 * PH_MIB)
#define ADDRESS_SHARE 4             /* of RLIMIT_AS: the rest is the program's */
#define BLOCK_TABLE_SHARE 16        /* of the addresses; blocks have 88 bytes or more,
                                       their word in the block table has 4 */

/* --- The header --------------------------------------------------------------- */

/* Reserve range and window together: as large as RLIMIT_FSIZE allows, and a quarter of
   RLIMIT_AS at most. */
static int
reserve_addresses(uint64_t *p_size, char **p_base)
{
    uint64_t file = ph_os_file_size_limit();
    uint64_t addresses = ph_os_address_limit() / ADDRESS_SHARE;
    int err = file < RESERVE_LEAST ? EFBIG : ENOMEM;
    for (uint64_t size = PH_RESERVE_MOST; size >= RESERVE_LEAST; size /= 2) {
        if (size > file || 2 * size > addresses) {
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
write_header(ph_header *header, uint64_t size)
{
    uint64_t words = size / BLOCK_TABLE_SHARE / sizeof(uint32_t);
    header->magic = PH_MAGIC;
    header->size = size;
    header->directory = ph_page_up(sizeof(ph_header));
    header->block_table = header->directory
                          + ph_page_up(size / PH_PAGE * sizeof(uint64_t));
    header->block_table_words = words < UINT32_MAX ? words : UINT32_MAX;
    header->acks = header->block_table + ph_page_up(words * sizeof(uint32_t));
    header->journal = header->acks + PH_ALL_ACKS_SIZE;
    header->spans = header->journal + ph_page_up(sizeof(ph_journal));
    header->first = ph_unit_up(header->spans + PH_SPANS_TABLE_SIZE);
    assert(header->first < size);
    assert(ph_is_whole_pages(header->acks, PH_ALL_ACKS_SIZE));      /* ph_heap_punch() */
    assert(ph_is_whole_pages(header->spans, PH_SPANS_TABLE_SIZE));  /* ph_runs_ready() */
    atomic_store(&header->claimed, header->first);
}

/* Map header and tables over the front of the range.  Only touched pages of the tables
   take memory.  Directory and block table, the large ones, have no access yet: extents.c and
   block_table.c permit it as far as they are used. */
static ph_status
map_header(char *base, uint64_t size, int fd)
{
    uint64_t least = ph_page_up(sizeof(ph_header));
    int err = ph_os_allocate(fd, 0, least);
    if (err == 0) {
        err = ph_os_map(base, least, fd, 0, PH_MAP_SHARED);
    }
    if (err) {
        return ph_system_failure("map the heap's header", least, err);
    }
    ph_header *header = (ph_header *)base;
    write_header(header, size);
    err = ph_os_map(base, header->first, fd, 0, PH_MAP_SHARED);
    if (err == 0) {
        err = ph_os_allocate(fd, header->journal, header->spans - header->journal
                                                  + PH_SPANS_HEAD_SIZE);
    }
    if (err == 0) {
        err = ph_os_permit(base + header->directory, header->acks - header->directory, false);
    }
    if (err == 0) {
        err = ph_mutex_init(&((ph_journal *)(base + header->journal))->mutex);
    }
    return err ? ph_system_failure("map the heap's tables", header->first, err)
               : PH_OK;
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

/* --- Around a fork ------------------------------------------------------------ */

static void
prepare_fork(void)
{
    ph_os_lock();
    assert(ph_heap.state == PH_OK);     /* hooks are set when nothing can fail any more */
    ph_processes_before_fork();
}

static void
follow_fork_in_parent(void)
{
    ph_os_unlock();
}

/* Keep invariants 1 and 2. */
static void
follow_fork_in_child(void)
{
    assert(ph_os_is_locked());          /* prepare_fork() took it */
    ph_heap.window = 0;             /* MADV_DONTFORK: it is not there */
    atomic_fetch_add(&ph_heap.forks, 1);
    ph_open_extents_after_fork();
    ph_blocks_after_fork();
    ph_processes_after_fork();
    ph_spans_after_fork();
    ph_processes_join();
    ph_os_unlock();
}

/* --- Creation ----------------------------------------------------------------- */

static int
fill_header(ph_header *header)
{
    int err = ph_os_random(header->family, sizeof(header->family));
    return err ? err : ph_os_random(header->key, sizeof(header->key));
}

static ph_status
create_heap(void)
{
    assert(ph_os_is_locked());
    assert(ph_span_empty_channel != NULL);      /* ph_rings_init() came first */
    char *base = NULL;
    uint64_t size = 0;
    int fd = -1;
    int err = reserve_addresses(&size, &base);
    if (err) {
        return ph_system_failure("reserve addresses for the heap (ulimit -v or -f?)",
                                 RESERVE_LEAST, err);
    }
    ph_status status = PH_SYSTEM;
    err = ph_os_memfd(size, &fd, &ph_heap.file);
    if (err) {
        status = ph_system_failure("create the heap's file with memfd_create", size, err);
        goto fail;
    }
    status = map_header(base, size, fd);
    if (status != PH_OK) {
        goto fail;
    }
    err = fill_header((ph_header *)base);
    if (err == 0) {
        err = ph_os_dontfork(base + size, size);
    }
    if (err == 0) {
        err = ph_os_atfork(prepare_fork, follow_fork_in_parent, follow_fork_in_child);
    }
    if (err) {
        status = ph_system_failure("set up the heap", size, err);
        goto fail;
    }
    choose_mapping();
    ph_heap.base = base;
    ph_heap.size = size;
    ph_heap.fd = fd;
    ph_heap.header = (ph_header *)base;
    ph_heap.window = (ptrdiff_t)size;
    ph_processes_init();
    ph_release_init();
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
        ph_heap.state = create_heap();
    }
    ph_os_unlock();
    (void)ph_heap_memory_left();    /* an answer to go by, should descriptors run out */
}

ph_status
ph_heap_ready(void)
{
    if (ph_heap.state != PH_OK) {
        ph_heap_init();             /* perhaps the limit has been raised */
    }
    return ph_heap.state;
}
