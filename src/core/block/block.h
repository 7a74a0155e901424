/* block.h -- building a block: what one freeze writes.

   A block is one or more *segments*, each inside one extent and headed by a
   ph_segment; behind the header come objects, back to back, 8-aligned.  The
   first segment is the block's *home*.  block.c says how it is built. */

#ifndef PH_BLOCK_H
#define PH_BLOCK_H

#include "core/heap/heap.h"

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
    uint32_t number;        /* home: place in the ledger; else 0 */
    uint32_t uses;          /* home: how many other blocks this one refers to;
                               their offsets are at the end of the last segment */
} ph_segment;

/* An extent that this process owns, and how far it is used. */
typedef struct ph_run {
    struct ph_run *next;
    uint32_t extent;        /* index */
    uint64_t end;           /* offset of the extent's end */
    uint64_t committed;     /* offset behind the last committed block */
    uint64_t pos;           /* offset behind the last object built */
    uint64_t allocated;     /* offset up to which memory is allocated */
} ph_run;

/* A block being built: owned by one call of freeze, in one thread. */
typedef struct {
    char *pos;              /* where the next object goes */
    char *limit;            /* end of allocated memory in the current run */
    ptrdiff_t window;       /* write to address p at p + window */
    ph_run *run;            /* current; linked to the earlier ones, home last */
    uint64_t home;          /* offset of the home segment */
    uint64_t nonce;
    uint64_t forks;         /* ph_heap.forks when begun: else we are a child */
    uint64_t payload;       /* bytes of objects so far */
    uint64_t saved;         /* bytes that sharing has saved so far */
    uint32_t flags;
    uint32_t segments;
    uint32_t number;        /* in the ledger; from ph_block_seal() on */
    uint32_t uses_used, uses_size;  /* entries; a power of two, or 0 */
    uint64_t *uses;         /* hash table of the offsets of other blocks; 0: free */
    uint64_t last_use;      /* the one noted last */
    uint64_t objects_of[PH_KINDS];
    uint64_t bytes_of[PH_KINDS];
} ph_block;

/* Begin a block.  On failure there is nothing to abort. */
ph_status ph_block_begin(ph_block *block);
/* The last step that can fail: the block is whole.  Commit or abort it. */
ph_status ph_block_seal(ph_block *block);
/* Publish: from here on `root` is permanent.  Cannot fail.  Ends the block. */
void ph_block_commit(ph_block *block, void *root);
/* Give everything back; the heap's `used` is what it was.  Ends the block.
   In a child forked since ph_block_begin() it forgets the parent's block. */
void ph_block_abort(ph_block *block);

/* Has this process been forked off since the block was begun?  Then it must
   not be written to: the window is the parent's. */
static inline bool
ph_block_is_foreign(const ph_block *block)
{
    return block->forks != atomic_load(&ph_heap.forks);
}

/* This block refers to one that is committed: note it, which must not be released
   then.  Fails with PH_REFUSED when it is already. */
ph_status ph_block_use(ph_block *block, const ph_segment *home);

/* Slow path of ph_block_alloc(). */
ph_status ph_block_grow(ph_block *block, uint64_t size);

static inline uint64_t
ph_align(uint64_t size)
{
    return (size + 7) & ~(uint64_t)7;
}

/* Room for `size` bytes, 8-aligned and not zeroed, at the final address; all
   of `reach` >= size bytes from there stay readable for ever.  Returns NULL
   after ph_fail(). */
static inline void *
ph_block_alloc(ph_block *block, uint64_t size, uint64_t reach)
{
    if (reach + 7 > (uint64_t)(block->limit - block->pos)
        && ph_block_grow(block, ph_align(reach)) != PH_OK) {
        return NULL;
    }
    char *p = block->pos;
    block->pos += ph_align(size);
    block->payload += ph_align(size);
    return p;
}

/* A container's place in the block, taken before its items are frozen, so that
   reading goes upwards in memory; written when they are. */
typedef struct {
    char *at;
    uint64_t size;          /* bytes that the container may take */
    uint64_t reach;         /* bytes that stay readable; >= size */
} ph_room;

/* Take room->size bytes; 0, or after ph_fail() -1.  They do not count as
   payload until they are written. */
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
    ph_room_saved saved = {block->pos, block->limit};
    block->pos = room->at;
    block->limit = room->at + room->reach + 7;
    return saved;
}

static inline void
ph_room_leave(ph_block *block, ph_room_saved saved)
{
    block->pos = saved.pos;
    block->limit = saved.limit;
}

static inline void
ph_block_count(ph_block *block, ph_kind kind, uint64_t size)
{
    block->objects_of[kind]++;
    block->bytes_of[kind] += ph_align(size);
}

/* Where to write what will be read at p. */
static inline void *
ph_writable(const ph_block *block, const void *p)
{
    return (char *)p + block->window;
}

/* Where to read what is at p: a page that the block shares with older ones may
   have been copied by a stray write, and then shows nothing new at p itself
   (invariant 6 of heap.c).  For permanent objects of other blocks that is p. */
static inline const void *
ph_block_view(const ph_block *block, const void *p)
{
    uint64_t offset = ph_offset_of(p);
    for (const ph_run *run = block->run; run != NULL; run = run->next) {
        if (offset - run->committed < run->end - run->committed) {
            return (const char *)p + block->window;
        }
    }
    return p;
}

/* Make the block's first pages show at their final addresses what has been
   built, for what must read it there. */
void ph_block_show(const ph_block *block);

/* The home segment of the block that holds the permanent address p: O(1),
   a walk inside one page. */
const ph_segment *ph_block_of(const void *p);

/* For heap.c: forget the parent's runs; plain C, lock held. */
void ph_blocks_after_fork(void);
/* For heap.c, lock held: give up idle runs in extents whose blocks are all gone, so
   that these can be used anew. */
void ph_blocks_leave_gone(void);

#endif
