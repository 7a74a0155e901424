/* glibc_heap.c -- the free memory inside the heap of the C library.

   glibc's main arena is one stretch of memory that ends with the `top` chunk,
   from which new memory is cut; free chunks lie before it, in bins and in the
   thread's cache.  A request is met from these first, a write to old pages.
   Taking them needs nothing but malloc(): ask for chunks, from large to small,
   as long as the answer lies before the top.  Small ones are kept.  Large ones, whose
   inner pages have been trimmed, are only held until the small ones are found.  The
   first chunk that was cut from the top goes back to it, but for one so small that
   the thread's cache would keep it: that is taken as well.

   With another allocator, or in a thread that has another arena, the first
   answer lies elsewhere, and nothing is taken.  With another C library there is
   nothing here at all. */

#define _GNU_SOURCE                 /* sbrk */

#include "core/os/os.h"

#include <stdlib.h>

#ifdef __GLIBC__

#include <malloc.h>
#include <unistd.h>

#define LARGEST ((size_t)64 << 10)  /* of a request, in bytes */
#define SMALLEST ((size_t)24)       /* the least chunk; sizes are 16 apart */
#define STEPS 3                     /* of large sizes in each power of two */
#define KEPT ((size_t)4096)         /* up to here chunks are kept */
#define SMALL ((size_t)2048)        /* from here on every size is asked for */
#define CACHED ((size_t)1032)       /* from here on the thread's cache keeps them */

void
ph_os_trim(void)
{
    malloc_trim(0);
}

static void *
start_of_top(void)
{
    struct mallinfo2 info = mallinfo2();
    return (char *)sbrk(0) - info.keepcost;
}

static size_t
next_size(size_t size)
{
    size_t less = size > SMALL ? size / (1 << STEPS) : 16;
    return size - (less & ~(size_t)15);
}

static void
take(ph_free_chunks *taken, void **chunk)
{
    *chunk = taken->first;
    taken->first = chunk;
    taken->number++;
    taken->bytes += malloc_usable_size(chunk);
}

/* Take free chunks for requests of one size, large ones into a list of their own. */
static void
take_size(ph_free_chunks *taken, size_t size, const void *top)
{
    void **chunk;                   /* also the next one's address, in its first word */
    while ((chunk = malloc(size)) != NULL && (void *)chunk < top) {
        take(taken, chunk);
    }
    if (chunk != NULL && size <= CACHED && (char *)chunk < (char *)sbrk(0)) {
        take(taken, chunk);
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
    const void *top = start_of_top();
    ph_free_chunks large = {0};
    for (size_t size = LARGEST | 8; size >= SMALLEST; size = next_size(size)) {
        take_size(size > KEPT ? &large : taken, size, top);
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
