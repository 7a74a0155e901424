/* freeze.h -- a graph of ordinary objects in, permanent objects out. */

#ifndef PH_FREEZE_FREEZE_H
#define PH_FREEZE_FREEZE_H

#include "state/interpreter.h"

/* The frozen form of obj, or NULL with an exception and the heap as it was.
   O(objects).  default_ may be NULL. */
PyObject *ph_freeze(const ph_interpreter *interp, PyObject *obj, PyObject *default_);
/* A frozen tuple of the items of an iterable, frozen one by one. */
PyObject *ph_freeze_each(const ph_interpreter *interp, PyObject *iterable,
                         PyObject *default_);
/* A frozen mapping of the (key, value) pairs of an iterable, likewise. */
PyObject *ph_freeze_pairs(const ph_interpreter *interp, PyObject *iterable,
                          PyObject *default_);

#endif
