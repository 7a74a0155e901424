/* heap.c -- the heap: one range of addresses, its file, and the limits of its memory.

   The *heap* is a range of addresses, reserved once with PROT_NONE and backed by one
   memfd; forks inherit both.  It starts with the *header* (header.h) and its tables,
   mapped MAP_SHARED.  The rest is cut into *extents* (extents.c), of permanent blocks or
   of spans.  A *builder*, a process that freezes, writes blocks through its *window*: a
   second range of the same size, at a constant distance, that no forked child inherits.

        base                                                     base + size
        | header | tables    | extent | extent | ... | not claimed yet      |
          MAP_SHARED           MAP_PRIVATE (or read-only)   PROT_NONE

        base + window: the same file, MAP_SHARED, where the builder builds

   Invariants, cited elsewhere as those of heap.c (kept by the file in parentheses):

   1. The range is the same in the whole family, and no part of it is ever free for another
      mmap: pieces are replaced by MAP_FIXED (extents.c).
   2. A committed byte never changes, until its block has been released and no process can
      see it (release.c); a segment's header never does.  A process reads it from the file,
      or from a page that it copied itself by a stray write.
   3. Only an extent's owner writes to it, only at or behind `filled`, only through its
      window (block.c).  An owner is a live process that holds the record lock on the
      extent's first byte.  The kernel drops a dead owner's lock; the process that gets it
      then owns the rest (extents.c).  No process waits for such a lock.
   4. `extents`, `claimed` and `published` only grow, by atomic additions: a process killed
      between two of them loses addresses, no memory (extents.c).
   5. A block is committed by one store of the `filled` of its home's extent (block.c).  The
      extents that it spilled into announce it before, for their heirs (extents.c).
   6. A reader that finds `published` changed maps the new extents, and updates each page
      that was partly filled when it last looked: a copy made by a stray write does not
      show later blocks.  Its own writes there stay (an interned str must) (extents.c).
   7. The core runs no Python code.  The process lock is held for a few system calls at
      most, also by fork: a child never inherits a half-made mapping (family.c).
   8. An extent whose blocks are all gone may be reused, in a new generation (release.c).
      Then a process maps it again: its copied pages would never change (extents.c).

   State: the header belongs to the family, `ph_heap` to this process. */

#include "core/heap/heap.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

ph_heap_process ph_heap = {.fd = -1, .state = PH_SYSTEM};

/* Bytes that may be allocated before the limits are looked at again. */
#define ALLOWANCE_MOST (4 * PH_MIB)
static uint64_t allowance;          /* under ph_os_lock() */

/* The last answer about the memory left, corrected by what this process has allocated and
   given back since.  It counts while there is no free descriptor to ask with. */
static uint64_t last_available = UINT64_MAX;    /* under ph_os_lock() */

/* Bytes that are left for others: a process that finds its container full to
   the last page is killed when it next touches one of its own. */
#define MARGIN(size) (8 * PH_MIB + (size) / 16)

/* --- The file ----------------------------------------------------------------- */

ph_status
ph_system_failure(const char *what, uint64_t size, int err)
{
    assert(err > 0);                    /* an errno value */
    return ph_fail(err == ENOMEM || err == ENOSPC ? PH_NOMEM : PH_SYSTEM,
                   "permaheap: cannot %s (%llu bytes): %s", what,
                   (unsigned long long)size, strerror(err));
}

/* The program may have closed our descriptor (a daemon closes all it finds) and opened
   something else under the same number. */
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

ph_status
ph_heap_read(uint64_t offset, void *buf, uint64_t size)
{
    int err = ph_os_pread(ph_heap.fd, buf, size, offset);
    return err ? ph_system_failure("read the heap's file", size, err) : PH_OK;
}

void
ph_show_bytes(void *at, const void *bytes, uint64_t size)
{
    assert(ph_heap_contains(at));       /* not in the window */
    if (memcmp(at, bytes, size) != 0) {
        memcpy(at, bytes, size);        /* into a copy of ours: else no difference */
    }
}

/* --- Its memory --------------------------------------------------------------- */

static uint64_t
ask_for_memory_left(void)
{
    uint64_t available;
    if (ph_os_memory_available(&available) == 0) {
        last_available = available;
    }
    return last_available;
}

uint64_t
ph_heap_memory_left(void)
{
    ph_os_lock();
    uint64_t left = ask_for_memory_left();
    ph_os_unlock();
    return left;
}

/* Compare with what is left to this process.  Asking the kernel means reading a dozen
   small files: once for each ALLOWANCE_MOST bytes, or for half of what is left if that
   is less. */
static ph_status
check_limits(uint64_t size)
{
    ph_os_lock();
    ph_status status = PH_OK;
    if (size > allowance) {
        uint64_t available = ask_for_memory_left();
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
    if (status == PH_OK) {
        last_available -= size < last_available ? size : last_available;
    }
    ph_os_unlock();
    return status;
}

static ph_status
check_limits_and_file(uint64_t size)
{
    ph_status status = check_limits(size);
    return status == PH_OK ? ph_heap_check_file() : status;
}

static ph_status
allocate_range(uint64_t offset, uint64_t size)
{
    assert(offset + size <= atomic_load(&ph_heap.header->claimed));
    int err = ph_os_allocate(ph_heap.fd, offset, size);
    return err ? ph_system_failure("allocate memory for the heap", size, err) : PH_OK;
}

ph_status
ph_heap_allocate(uint64_t offset, uint64_t size)
{
    assert(offset >= ph_heap.header->first);
    ph_status status = check_limits_and_file(size);
    uint64_t entry = ph_page_down(ph_offset_of(ph_directory_entry(offset)));
    uint64_t end = ph_offset_of(ph_directory_entry(offset + size)) + 8;
    if (status == PH_OK) {
        status = allocate_range(entry, ph_page_up(end) - entry);
    }
    if (status == PH_OK) {
        status = allocate_range(offset, size);
        if (status != PH_OK) {
            (void)ph_heap_punch(offset, size);      /* a part may have memory */
        }
    }
    return status;
}

ph_status
ph_heap_allocate_spans(uint64_t offset, uint64_t size)
{
    assert(offset >= ph_heap.header->first);
    ph_status status = check_limits_and_file(size);
    return status == PH_OK ? allocate_range(offset, size) : status;
}

ph_status
ph_heap_allocate_table(uint64_t offset, uint64_t size)
{
    assert(offset + size <= ph_heap.header->first);
    ph_status status = ph_heap_check_file();
    if (status != PH_OK) {
        return status;
    }
    int err = ph_os_allocate(ph_heap.fd, offset, size);
    return err ? ph_system_failure("allocate memory for the heap's tables", size, err)
               : PH_OK;
}

bool
ph_heap_punch(uint64_t offset, uint64_t size)
{
    assert(offset >= ph_heap.header->acks);     /* all before them stays */
    assert(offset + size <= atomic_load(&ph_heap.header->claimed));
    return ph_os_is_file(ph_heap.fd, ph_heap.file)
           && ph_os_punch(ph_heap.fd, offset, size) == 0;
}

bool
ph_heap_punch_spans(uint64_t offset, uint64_t size)
{
    return ph_os_punch_mapped(ph_address_of(offset), size) == 0
           || ph_heap_punch(offset, size);
}

void
ph_heap_count_given_back(uint64_t size)
{
    ph_os_lock();
    last_available += size < UINT64_MAX - last_available ? size : 0;
    ph_os_unlock();
}
