/* finalize.h -- which finalizers the end of the process owes, and in which order. */

#ifndef PH_PREFORK_FINALIZE_H
#define PH_PREFORK_FINALIZE_H

#include "state/interpreter.h"

/* List, of the objects of a list that wait for their finalizers, those that only immortal
   objects and other such objects hold: an outer object before those that it reaches.  The
   collector must be off, and have nothing set aside (gc.unfreeze).
   A new list, or NULL with MemoryError.
   O(objects that the collector tracks + containers that are immortal). */
PyObject *ph_owed_finalizers(const ph_interpreter *interp, PyObject *waiting);

#endif
