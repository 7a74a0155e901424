/* immortalize.h -- ordinary objects made immortal where they are. */

#ifndef PH_IMMORTALIZE_H
#define PH_IMMORTALIZE_H

#include "freeze.h"

/* Pin all that the items of `roots`, a list, reach; if `strict`, except what
   must be able to die.  Returns (objects, bytes, left): counts and bytes by
   type name, and how many were left mortal by (type name, reason).  NULL with
   MemoryError; what has been pinned by then stays so.  O(objects reached). */
PyObject *ph_immortalize(const ph_interpreter *interp, PyObject *roots, bool strict);

/* Those items of a list that have a finalizer which has not run yet; a new
   list, or NULL with MemoryError.  O(n). */
PyObject *ph_with_finalizer(PyObject *objects);

#endif
