/* segment.c -- finding the block that an address belongs to.

   The page directory has for each page the segment that holds the page's first byte.
   From there the segments follow each other, so that their sizes lead to the one that
   is looked for.  A header stays as long as its extent has a block that is not gone
   (release.c): so the walk never meets memory that was given back. */

#include "core/heap/segment.h"

#include <assert.h>

#include "core/heap/heap.h"

const ph_segment *
ph_block_of(const void *p)
{
    assert(ph_heap_contains(p));
    uint64_t offset = ph_offset_of(p);
    uint64_t page = ph_page_down(offset);
    uint64_t at = *ph_directory_entry(page);
    const ph_segment *segment = ph_address_of(at);
    assert(at <= page);
    while (offset - at >= segment->size) {
        assert(segment->size >= sizeof(ph_segment));    /* or the walk would not end */
        at += segment->size;
        segment = ph_address_of(at);
    }
    return ph_address_of(segment->home);
}
