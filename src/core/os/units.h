/* units.h -- the sizes that the core counts memory in. */

#ifndef PH_OS_UNITS_H
#define PH_OS_UNITS_H

#include <stdint.h>

#define PH_PAGE 4096u               /* granularity of extents, in bytes */
#define PH_KIB ((uint64_t)1 << 10)
#define PH_MIB ((uint64_t)1 << 20)
#define PH_GIB ((uint64_t)1 << 30)

#endif
