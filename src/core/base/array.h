/* array.h -- an array that grows: room for one more item. */

#ifndef PH_BASE_ARRAY_H
#define PH_BASE_ARRAY_H

#include <assert.h>

#include "core/base/status.h"
#include "core/os/os.h"

static inline int
ph_no_memory(void)
{
    ph_fail(PH_NOMEM, "permaheap: out of memory");
    return -1;
}

/* Make room for one more item in an array that uses `used` of its *p_size items.
   *p_items is a pointer to items of `item` bytes, NULL initially; the owner passes it
   to ph_free().  -1 after ph_fail(): the array is as it was.  O(1), amortized. */
static inline int
ph_grow(void *p_items, size_t used, size_t *p_size, size_t item)
{
    assert(used <= *p_size);
    assert((*(void **)p_items == NULL) == (*p_size == 0));      /* NULL initially */
    if (used < *p_size) {
        return 0;
    }
    size_t size = *p_size ? 2 * *p_size : 256;
    void *grown = ph_realloc(*(void **)p_items, size * item);
    if (grown == NULL) {
        return ph_no_memory();
    }
    *(void **)p_items = grown;
    *p_size = size;
    return 0;
}

#endif
