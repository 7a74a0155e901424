/* segment.h -- a segment: one piece of a block, inside one extent.

   A block is one or more segments, each headed by a ph_segment.  Behind the header
   come objects, back to back, 8-aligned.  The first segment is the block's *home*:
   its header speaks for the whole block.

        home segment                       next segment (another extent)
        | header | objects ...      |      | header | objects ... | used blocks |
              next ------------------------^ */

#ifndef PH_HEAP_SEGMENT_H
#define PH_HEAP_SEGMENT_H

#include <stdint.h>

#define PH_BLOCK_DATETIME 1u    /* holds, or refers to, datetime objects */
#define PH_BLOCK_LEFTOVER 2u    /* holds objects that the root does not reach */

/* In front of each segment; written by the builder, then never again. */
typedef struct {
    uint64_t nonce;         /* random; the same in all segments of a block */
    uint64_t home;          /* offset of the block's first segment */
    uint64_t size;          /* bytes, this header included; multiple of 8 */
    uint64_t root;          /* home: offset of the root object; else 0 */
    uint64_t payload;       /* home: bytes of objects in all segments; else 0 */
    uint32_t flags;         /* home: PH_BLOCK_*; else 0 */
    uint32_t segments;      /* home: how many segments; else 0 */
    uint64_t next;          /* offset of the block's next segment; 0: the last */
    uint32_t number;        /* home: place in the block table; else 0 */
    uint32_t uses;          /* home: how many other blocks this one refers to;
                               their offsets are at the end of the last segment */
} ph_segment;

/* Return the home segment of the block that holds the permanent address p.  O(1): a
   walk inside of one page. */
const ph_segment *ph_block_of(const void *p);

#endif
