/* freeze.h -- a graph of ordinary objects in, permanent objects out. */

#ifndef PH_FREEZE_FREEZE_H
#define PH_FREEZE_FREEZE_H

#include "state/interpreter.h"

/* Freeze obj.  Returns the frozen form, or NULL with an exception and the heap as it was.
   default_ may be NULL.  O(objects). */
PyObject *ph_freeze(ph_interpreter *interp, PyObject *obj, PyObject *default_);
/* Freeze the items of an iterable one by one, to a tuple. */
PyObject *ph_freeze_each(ph_interpreter *interp, PyObject *iterable,
                         PyObject *default_);
/* Freeze the (key, value) pairs of an iterable likewise, to a mapping. */
PyObject *ph_freeze_pairs(ph_interpreter *interp, PyObject *iterable,
                          PyObject *default_);

#endif
