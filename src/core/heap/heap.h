/* heap.h -- the heap as this process sees it: one range of addresses, backed by one
   file that forks inherit.

   Knows nothing of Python.  heap.c explains the design; family.c makes the heap,
   extents.c divides its addresses, block.c builds in them; everything else reads. */

#ifndef PH_HEAP_H
#define PH_HEAP_H

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/base/status.h"
#include "core/heap/header.h"
#include "core/os/os.h"

/* Written under ph_os_lock(), except for what says otherwise. */
typedef struct {
    char *base;                 /* the range; the same in the whole family */
    uint64_t size;              /* bytes */
    int fd;                     /* the file, and what it must be */
    ph_file_id file;
    ph_header *header;          /* == base */
    ph_map_kind mapping;        /* of permanent extents: private or read-only */
    const char *mapping_reason; /* for stats() */
    ptrdiff_t window;           /* add to an address to write there; 0: this
                                   process has reserved no window yet */
    _Atomic uint64_t seen;      /* header->published at the last refresh */
    _Atomic uint64_t forks;     /* forks between the creator and this process */
    ph_status state;            /* PH_OK, or why there is no heap (family.c) */
} ph_heap_process;

extern ph_heap_process ph_heap;

/* --- Addresses ---------------------------------------------------------------- */

static inline uint64_t
ph_page_down(uint64_t n)
{
    return n & ~(uint64_t)(PH_PAGE - 1);
}

static inline uint64_t
ph_page_up(uint64_t n)
{
    return ph_page_down(n + PH_PAGE - 1);
}

static inline uint64_t
ph_unit_up(uint64_t n)
{
    return (n + PH_EXTENT_UNIT - 1) & ~(PH_EXTENT_UNIT - 1);
}

static inline bool
ph_heap_contains(const void *p)
{
    return (uint64_t)((const char *)p - ph_heap.base) < ph_heap.size;
}

static inline uint64_t
ph_offset_of(const void *p)
{
    return (uint64_t)((const char *)p - ph_heap.base);
}

static inline void *
ph_address_of(uint64_t offset)
{
    return ph_heap.base + offset;
}

/* The directory has for each page of the heap the offset of the segment
   (segment.h) that holds the page's first byte. */
static inline uint64_t *
ph_directory_entry(uint64_t offset)
{
    assert(offset <= ph_heap.size);
    return (uint64_t *)(ph_heap.base + ph_heap.header->directory)
           + offset / PH_PAGE;
}

/* --- The file ----------------------------------------------------------------- */

/* Check that the descriptor is still our file. */
ph_status ph_heap_check_file(void);

/* Read from the file, also where this process has pages of its own. */
ph_status ph_heap_read(uint64_t offset, void *buf, uint64_t size);

/* Have final addresses show these bytes, which the file holds there, also on a page
   that this process has copied. */
void ph_show_bytes(void *at, const void *bytes, uint64_t size);

/* Fail because a system call did: "permaheap: cannot <what> (<size> bytes): ...". */
ph_status ph_system_failure(const char *what, uint64_t size, int err);

/* --- Its memory --------------------------------------------------------------- */

/* Return how many bytes this process can still use; the last answer if it has no free
   descriptor. */
uint64_t ph_heap_memory_left(void);

/* Allocate memory for [offset, offset + size), inside one extent, which has none yet, and
   for its part of the directory, if the process's limits allow for it.  PH_NOMEM if not:
   the caller may ask the spans for memory that they keep, and call again. */
ph_status ph_heap_allocate(uint64_t offset, uint64_t size);

/* Do the same without a part of the directory: for an extent of spans. */
ph_status ph_heap_allocate_spans(uint64_t offset, uint64_t size);

/* Allocate memory for a part of the header's tables, so that writing there cannot fail. */
ph_status ph_heap_allocate_table(uint64_t offset, uint64_t size);

/* Give memory back that nothing committed uses.  False if the kernel did not take it, or
   the program has closed the heap's descriptor: then the bytes are still there. */
bool ph_heap_punch(uint64_t offset, uint64_t size);
/* Do the same for an extent of spans that this process has mapped: needs no descriptor. */
bool ph_heap_punch_spans(uint64_t offset, uint64_t size);
/* Count memory as free that such a punch gave back: see ph_heap_memory_left(). */
void ph_heap_count_given_back(uint64_t size);

#endif
