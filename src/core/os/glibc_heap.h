/* glibc_heap.h -- the free memory inside the heap of the C library, where that is glibc's.

   Conventions: os.h.  Only the arena of the main thread is meant.  With another C library
   these functions do nothing. */

#ifndef PH_OS_GLIBC_HEAP_H
#define PH_OS_GLIBC_HEAP_H

#include <stdint.h>

/* Free chunks that were taken: a list through their first words. */
typedef struct {
    void *first;
    uint64_t number, bytes;
} ph_free_chunks;

/* Give whole free pages back to the kernel. */
void ph_os_trim(void);
/* Take the small free chunks that lie between chunks in use, and add them to the list. */
void ph_os_take_free(ph_free_chunks *taken);
/* Free all chunks of the list; it is empty after. */
void ph_os_give_back(ph_free_chunks *taken);

#endif
