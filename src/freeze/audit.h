/* audit.h -- the heap's audit. */

#ifndef PH_FREEZE_AUDIT_H
#define PH_FREEZE_AUDIT_H

#include "layout/version.h"

/* Walk every committed block of every extent: headers, sizes, pointers, types,
   reference counts.  The number of blocks, or -1 with an AssertionError that
   names what is wrong and where.  O(objects). */
Py_ssize_t ph_check(void);

#endif
