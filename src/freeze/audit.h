/* audit.h -- the audit of the heap, for tests. */

#ifndef PH_FREEZE_AUDIT_H
#define PH_FREEZE_AUDIT_H

#include "layout/layout.h"

/* Check every committed block of every extent: headers, sizes, pointers, types, reference
   counts.  Returns the number of blocks, or -1 with an AssertionError that says what is
   wrong and where.  O(objects). */
Py_ssize_t ph_check(void);

#endif
