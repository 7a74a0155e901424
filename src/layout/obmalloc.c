/* obmalloc.c -- the holes in the memory of CPython's object allocator.

   obmalloc cuts arenas (1 MiB) into pools (16 KiB), and pools into blocks of one size.
   A forked worker's first allocations come from pools that its parent has used: a write
   to a shared page.  So the parent fills all such holes.  Then the worker's first
   allocation of each size opens a pool that no process has touched.

   - Free blocks of partly used pools are filled by asking for them, until the
     allocator has no such pool of that size left.  The tail of a pool that was
     never given out is not touched: all of it is declared to be given out.
   - The pages of free pools, except for the one with the pool's header, go back to
     the kernel.  The allocator starts such a pool from scratch when it uses it again.

   The filled blocks are on a list, and can be freed.  An interpreter may have an
   allocator state of its own, and its address differs even between patch releases.  It
   is found from a pool: the pools of a size are on a ring whose head lies in the state.
   The GIL guards everything here. */

#include "layout/obmalloc.h"

#include <assert.h>
#include <string.h>

#include "core/os/os.h"
#include "internal/pycore_obmalloc.h"
#include "internal/pycore_pymem.h"

#ifdef WITH_PYMALLOC

#define SIZES ((unsigned)NB_SMALL_SIZE_CLASSES)
#define BLOCKS_OF_LARGEST \
    ((POOL_SIZE - POOL_OVERHEAD) / SMALL_REQUEST_THRESHOLD)

/* The private struct of the debug hooks (obmalloc.c). */
typedef struct {
    char api_id;
    PyMemAllocatorEx alloc;
} debug_hooks;

/* Find the allocator itself, behind the hooks of debug mode.  Returns false if objects
   come from another one, or if it has other hooks (tracemalloc). */
static bool
find_allocator(PyMemAllocatorEx *allocator)
{
    const char *name = _PyMem_GetCurrentAllocatorName();
    if (name == NULL || strncmp(name, "pymalloc", 8) != 0) {
        return false;
    }
    PyMem_GetAllocator(PYMEM_DOMAIN_OBJ, allocator);
    if (strcmp(name, "pymalloc_debug") == 0) {
        *allocator = ((const debug_hooks *)allocator->ctx)->alloc;
    }
    return true;
}

/* Return the stand-in for a pool at the head of the ring of pools of a size. */
static poolp
get_ring(struct _obmalloc_state *state, unsigned size)
{
    return (poolp)((char *)&state->pools.used[2 * size]
                   - offsetof(struct pool_header, nextpool));
}

/* Return the state whose ring this pool is on; NULL if it is on none. */
static struct _obmalloc_state *
find_state_around(poolp pool)
{
    if (pool->freeblock == NULL) {
        return NULL;                /* full: on no ring */
    }
    poolp head = pool->nextpool;
    while (head != pool && ((uintptr_t)head & POOL_SIZE_MASK) == 0) {
        head = head->nextpool;
    }
    if (head == pool || pool->szidx >= SIZES) {
        return NULL;
    }
    return (struct _obmalloc_state *)((char *)head
               + offsetof(struct pool_header, nextpool)
               - offsetof(struct _obmalloc_state, pools.used[2 * pool->szidx]));
}

/* Does the state know the arena of this pool? */
static bool
knows_arena(const struct _obmalloc_state *state, poolp pool)
{
    const struct _obmalloc_mgmt *mgmt = &state->mgmt;
    return pool->arenaindex < mgmt->maxarenas
           && (uintptr_t)pool - mgmt->arenas[pool->arenaindex].address < ARENA_SIZE;
}

static struct _obmalloc_state *
find_allocator_state(const PyMemAllocatorEx *allocator)
{
    struct _obmalloc_state *state = NULL;
    void *blocks[BLOCKS_OF_LARGEST];
    size_t n = 0;
    while (state == NULL && n < BLOCKS_OF_LARGEST) {
        void *block = allocator->malloc(allocator->ctx, SMALL_REQUEST_THRESHOLD);
        if (block == NULL) {
            break;
        }
        state = find_state_around(POOL_ADDR(block));
        if (state != NULL && !knows_arena(state, POOL_ADDR(block))) {
            state = NULL;
        }
        blocks[n++] = block;
    }
    while (n > 0) {
        allocator->free(allocator->ctx, blocks[--n]);
    }
    return state;
}

/* --- Blocks ------------------------------------------------------------------- */

/* Written into each block that is filled. */
typedef struct filled_block {
    struct filled_block *next;
    size_t tail;                    /* blocks behind it that never were given out */
} filled_block;

static size_t
get_block_size(unsigned size)
{
    return ((size_t)size + 1) * ALIGNMENT;
}

static void
note_filled(filled_block *block, size_t tail, unsigned size, ph_pool_holes *holes)
{
    assert(get_block_size(size) >= sizeof(*block));
    *block = (filled_block){holes->blocks, tail};
    holes->blocks = block;
    holes->blocks_number += 1 + tail;
    holes->bytes += (1 + tail) * get_block_size(size);
}

/* Is only one block free of those that ever were given out, apart from a tail? */
static bool
has_only_tail(poolp pool)
{
    return *(pymem_block **)pool->freeblock == NULL
           && pool->nextoffset <= pool->maxnextoffset;
}

/* Declare a pool full: its last free block and the tail behind it are filled. */
static void
fill_tail(poolp pool, ph_pool_holes *holes)
{
    assert(has_only_tail(pool));
    filled_block *last = (filled_block *)pool->freeblock;
    size_t untouched = pool->maxnextoffset - pool->nextoffset;
    size_t tail = untouched / get_block_size(pool->szidx) + 1;
    pool->ref.count += 1 + (unsigned)tail;
    pool->freeblock = NULL;
    pool->nextoffset = pool->maxnextoffset + 1;
    pool->nextpool->prevpool = pool->prevpool;
    pool->prevpool->nextpool = pool->nextpool;
    note_filled(last, tail, pool->szidx, holes);
}

static int
fill_blocks(const PyMemAllocatorEx *allocator, struct _obmalloc_state *state,
            unsigned size, ph_pool_holes *holes)
{
    poolp ring = get_ring(state, size);
    while (ring->nextpool != ring) {
        if (has_only_tail(ring->nextpool)) {
            fill_tail(ring->nextpool, holes);
            continue;
        }
        filled_block *block = allocator->malloc(allocator->ctx, get_block_size(size));
        if (block == NULL) {
            return -1;
        }
        note_filled(block, 0, size, holes);
    }
    return 0;
}

/* Free a block and its tail.  A pool's tail was filled at most once, since nothing of it
   was left. */
static void
free_block(const PyMemAllocatorEx *allocator, filled_block *block)
{
    if (block->tail > 0) {
        poolp pool = POOL_ADDR(block);
        size_t offset = (size_t)((char *)block - (char *)pool);
        assert(pool->ref.count > block->tail);
        pool->ref.count -= (unsigned)block->tail;
        pool->nextoffset = (unsigned)(offset + get_block_size(pool->szidx));
    }
    allocator->free(allocator->ctx, block);
}

/* --- Pools -------------------------------------------------------------------- */

/* Release the pages of a free pool.  Its own list of free blocks lies there and must not
   be used again, so the pool is marked as one that never was in use. */
static void
release_pool(poolp pool, ph_pool_holes *holes)
{
    if (pool->szidx == DUMMY_SIZE_IDX) {
        return;                     /* released before, and not used since */
    }
    pool->szidx = DUMMY_SIZE_IDX;
    ph_os_forget((char *)pool + PH_PAGE, POOL_SIZE - PH_PAGE);
    holes->pools_number++;
}

static void
release_pools(struct _obmalloc_mgmt *mgmt, ph_pool_holes *holes)
{
    for (unsigned i = 0; i < mgmt->maxarenas; i++) {
        const struct arena_object *arena = &mgmt->arenas[i];
        if (arena->address != 0) {
            for (poolp pool = arena->freepools; pool != NULL; pool = pool->nextpool) {
                release_pool(pool, holes);
            }
        }
    }
}

/* --- Both --------------------------------------------------------------------- */

const char *
ph_fill_pool_holes(ph_pool_holes *holes)
{
    PyMemAllocatorEx allocator;
    if (!find_allocator(&allocator)) {
        return "objects come from another allocator than pymalloc";
    }
    struct _obmalloc_state *state = find_allocator_state(&allocator);
    if (state == NULL) {
        return "the state of pymalloc is not where it should be";
    }
    for (unsigned size = 0; size < SIZES; size++) {
        if (fill_blocks(&allocator, state, size, holes) < 0) {
            return "out of memory";
        }
    }
    release_pools(&state->mgmt, holes);
    return NULL;
}

void
ph_free_pool_holes(ph_pool_holes *holes)
{
    PyMemAllocatorEx allocator;
    if (!find_allocator(&allocator)) {
        return;
    }
    for (filled_block *each = holes->blocks, *next; each != NULL; each = next) {
        next = each->next;
        free_block(&allocator, each);
    }
    *holes = (ph_pool_holes){.pools_number = holes->pools_number};
}

#else /* built without it */

const char *
ph_fill_pool_holes(ph_pool_holes *Py_UNUSED(holes))
{
    return "this Python is built without pymalloc";
}

void
ph_free_pool_holes(ph_pool_holes *Py_UNUSED(holes))
{
}

#endif
