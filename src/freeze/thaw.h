/* thaw.h -- permanent objects in, fresh ordinary copies out. */

#ifndef PH_FREEZE_THAW_H
#define PH_FREEZE_THAW_H

#include "state/errors.h"

/* Copy mappings to dict, tuples to list and frozensets to set, all the way down.  Dict
   keys, set elements and atoms stay the permanent objects that they are, and a shared
   container stays shared.  NULL with an exception.  O(objects). */
PyObject *ph_thaw(const ph_exceptions *exceptions, PyObject *frozen);

#endif
