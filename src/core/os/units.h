/* units.h -- the sizes that the core counts memory in. */

#ifndef PH_OS_UNITS_H
#define PH_OS_UNITS_H

#include <stdbool.h>
#include <stdint.h>

#define PH_PAGE 4096u               /* granularity of extents, in bytes */
#define PH_KIB ((uint64_t)1 << 10)
#define PH_MIB ((uint64_t)1 << 20)
#define PH_GIB ((uint64_t)1 << 30)

/* Return whether [start, start + size) is a number of whole pages, at least one, whose
   end does not overflow.  For asserts about addresses and about offsets in a file. */
static inline bool
ph_is_whole_pages(uint64_t start, uint64_t size)
{
    return start % PH_PAGE == 0 && size % PH_PAGE == 0 && size > 0
           && start <= UINT64_MAX - size;
}

#endif
