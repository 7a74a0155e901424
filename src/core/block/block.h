/* block.h -- building a block: what one freeze writes.

   segment.h says what a block is made of, block.c how it is built. */

#ifndef PH_BLOCK_H
#define PH_BLOCK_H

#include <assert.h>

#include "core/block/open_extents.h"
#include "core/heap/heap.h"
#include "core/heap/segment.h"

/* A block being built: owned by one call of freeze, in one thread. */
typedef struct {
    char *pos;              /* where the next object goes */
    char *limit;            /* end of allocated memory in the current extent */
    ptrdiff_t window;       /* write to address p at p + window */
    ph_open_extent *open;   /* current; linked to the earlier ones, home last */
    uint64_t home;          /* offset of the home segment */
    uint64_t nonce;
    uint64_t forks;         /* ph_heap.forks when begun: else we are a child */
    uint64_t payload;       /* bytes of objects so far */
    uint64_t saved;         /* bytes that sharing has saved so far */
    uint32_t flags;
    uint32_t segments;
    uint32_t number;        /* in the block table; from ph_block_seal() on */
    uint32_t uses_used, uses_size;  /* entries; a power of two, or 0 */
    uint64_t *uses;         /* hash table of the offsets of other blocks; 0: free */
    uint64_t last_use;      /* the one noted last */
    uint64_t objects_of[PH_KINDS];
    uint64_t bytes_of[PH_KINDS];
} ph_block;

/* Begin a block, after ph_heap_ready().  On failure there is nothing to abort. */
ph_status ph_block_begin(ph_block *block);
/* Make the block whole: the last step that can fail.  Then commit or abort it. */
ph_status ph_block_seal(ph_block *block);
/* Publish: from here on `root` is permanent.  Cannot fail.  Ends the block. */
void ph_block_commit(ph_block *block, void *root);
/* Give everything back; the heap's `used` is what it was.  Ends the block.
   In a child forked since ph_block_begin() it forgets the parent's block. */
void ph_block_abort(ph_block *block);

/* Return whether this process was forked since the block was begun.  Then it must not
   write to it: the window is the parent's. */
static inline bool
ph_block_is_foreign(const ph_block *block)
{
    return block->forks != atomic_load(&ph_heap.forks);
}

/* Note that this block refers to a committed one, which must not be released from
   ph_block_seal() on.  Fails with PH_REFUSED when it was already. */
ph_status ph_block_use(ph_block *block, const ph_segment *home);

/* Make room for `size` bytes: the slow path of ph_block_alloc(). */
ph_status ph_block_grow(ph_block *block, uint64_t size);

static inline uint64_t
ph_align(uint64_t size)
{
    return (size + 7) & ~(uint64_t)7;
}

/* Take room for `size` bytes, 8-aligned and not zeroed, at the final address.  All of
   `reach` >= size bytes from there stay readable for ever.  Returns NULL after
   ph_fail(). */
static inline void *
ph_block_alloc(ph_block *block, uint64_t size, uint64_t reach)
{
    assert(size > 0 && size <= reach);
    if (reach + 7 > (uint64_t)(block->limit - block->pos)
        && ph_block_grow(block, ph_align(reach)) != PH_OK) {
        return NULL;
    }
    char *p = block->pos;
    block->pos += ph_align(size);
    block->payload += ph_align(size);
    return p;
}

/* A container's place in the block.  It is taken before the items are frozen, so that
   reading goes upwards in memory, and written when they are. */
typedef struct {
    char *at;
    uint64_t size;          /* bytes that the container may take */
    uint64_t reach;         /* bytes that stay readable; >= size */
} ph_room;

/* Take room->size bytes: 0, or -1 after ph_fail().  They do not count as payload until
   they are written. */
static inline int
ph_room_take(ph_block *block, ph_room *room)
{
    room->at = ph_block_alloc(block, room->size, room->reach);
    if (room->at == NULL) {
        return -1;
    }
    block->payload -= ph_align(room->size);
    return 0;
}

/* From enter to leave, ph_block_alloc() takes from this room. */
typedef struct {
    char *pos, *limit;
} ph_room_saved;

static inline ph_room_saved
ph_room_enter(ph_block *block, const ph_room *room)
{
    assert(room->at != NULL);               /* it was taken */
    ph_room_saved saved = {block->pos, block->limit};
    block->pos = room->at;
    block->limit = room->at + room->reach + 7;
    return saved;
}

static inline void
ph_room_leave(ph_block *block, ph_room_saved saved)
{
    assert(block->pos <= block->limit);
    block->pos = saved.pos;
    block->limit = saved.limit;
}

static inline void
ph_block_count(ph_block *block, ph_kind kind, uint64_t size)
{
    assert(kind < PH_KINDS);
    block->objects_of[kind]++;
    block->bytes_of[kind] += ph_align(size);
}

/* Return the address to write at, for bytes that will be read at p.  The layout's self-test
   writes without a window, into memory of its own. */
static inline void *
ph_writable(const ph_block *block, const void *p)
{
    assert(block->window == 0 || !ph_block_is_foreign(block));  /* invariant 3 of block.c */
    return (char *)p + block->window;
}

/* Return the address to read at, for the bytes of p.  A page that the block shares with
   older ones may have been copied by a stray write, and then shows nothing new at p itself
   (invariant 6 of heap.c).  For permanent objects of other blocks that is p. */
static inline const void *
ph_block_view(const ph_block *block, const void *p)
{
    uint64_t offset = ph_offset_of(p);
    for (const ph_open_extent *open = block->open; open != NULL; open = open->next) {
        if (offset - open->committed < open->end - open->committed) {
            return (const char *)p + block->window;
        }
    }
    return p;
}

/* Make the block's first pages show at their final addresses the bytes built so far,
   for code that must read them there. */
void ph_block_show(const ph_block *block);

/* Have a forked child use other nonces.  With ph_os_lock() held. */
void ph_blocks_after_fork(void);

#endif
