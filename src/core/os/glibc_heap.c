/* glibc_heap.c -- takes free chunks out of glibc's heap by asking for them.

   The main arena of glibc is one stretch of memory:

       start                                                       sbrk(0)
       | used | free | used | free | used | ... | top: all free          |
                 ^              ^
                 in bins, and in the thread's cache

   malloc() takes a free chunk if one fits, which writes to an old page; only then does it
   cut new memory from the top.  So ask for chunks, from large to small sizes, and keep
   each that lies before the top.  This needs nothing but malloc() and free().

   Invariants:

   1. The list has small chunks only.  Large ones, whose inner pages have been trimmed,
      are held until the small ones are found, and then freed.
   2. The first chunk of each size that was cut from the top goes back to it.  One so small
      that the thread's cache would keep it stays in the list.
   3. With another allocator, or in a thread that has another arena, the first answer lies
      elsewhere, and nothing is taken.

   The caller takes and gives back from one thread at a time (the GIL). */

#define _GNU_SOURCE                 /* sbrk */
#include "core/os/glibc_heap.h"

#include <assert.h>
#include <stdlib.h>

#ifdef __GLIBC__

#include <malloc.h>
#include <unistd.h>

/* Sizes of requests, in bytes. */
#define LARGEST ((size_t)64 << 10)
#define SMALLEST ((size_t)24)       /* the smallest chunk; sizes are 16 apart */
#define KEPT_MOST ((size_t)4096)    /* larger chunks are only held for a while */
#define SMALL_MOST ((size_t)2048)   /* up to here every size is asked for ... */
#define LOG2_STEPS 3                /* ... above, 2**3 sizes in each power of two */
#define CACHED_MOST ((size_t)1032)  /* up to here the thread's cache keeps chunks */

void
ph_os_trim(void)
{
    malloc_trim(0);
}

static void *
find_start_of_top(void)
{
    struct mallinfo2 info = mallinfo2();
    return (char *)sbrk(0) - info.keepcost;
}

static size_t
choose_next_size(size_t size)
{
    size_t less = size > SMALL_MOST ? size / (1 << LOG2_STEPS) : 16;
    return size - (less & ~(size_t)15);
}

static void
add_chunk(ph_free_chunks *taken, void **chunk)
{
    *chunk = taken->first;
    taken->first = chunk;
    taken->number++;
    taken->bytes += malloc_usable_size(chunk);
}

/* Take the free chunks that requests of one size are met from. */
static void
take_chunks_of_size(ph_free_chunks *taken, size_t size, const void *top)
{
    void **chunk;                   /* its first word links the list */
    while ((chunk = malloc(size)) != NULL && (void *)chunk < top) {
        add_chunk(taken, chunk);
    }
    if (chunk != NULL && size <= CACHED_MOST && (char *)chunk < (char *)sbrk(0)) {
        add_chunk(taken, chunk);
    }
    else {
        free(chunk);
    }
}

void
ph_os_give_back(ph_free_chunks *taken)
{
    void *next;
    for (void **chunk = taken->first; chunk != NULL; chunk = next) {
        next = *chunk;
        free(chunk);
    }
    *taken = (ph_free_chunks){0};
}

void
ph_os_take_free(ph_free_chunks *taken)
{
    assert(taken != NULL);
    const void *top = find_start_of_top();
    ph_free_chunks large = {0};
    for (size_t size = LARGEST | 8; size >= SMALLEST; size = choose_next_size(size)) {
        take_chunks_of_size(size > KEPT_MOST ? &large : taken, size, top);
    }
    ph_os_give_back(&large);
}

#else

void
ph_os_trim(void)
{
}

void
ph_os_take_free(ph_free_chunks *taken)
{
    (void)taken;
}

void
ph_os_give_back(ph_free_chunks *taken)
{
    (void)taken;
}

#endif
