/* thaw.h -- permanent objects in, fresh ordinary copies out. */

#ifndef PH_FREEZE_THAW_H
#define PH_FREEZE_THAW_H

#include "state/errors.h"

/* A copy of what mappings, tuples and frozensets hold, as dict, list and set;
   dict keys, set elements and atoms stay the permanent objects that they are.
   What was one object stays one.  NULL with an exception.  O(objects). */
PyObject *ph_thaw(const ph_exceptions *exceptions, PyObject *frozen);

#endif
