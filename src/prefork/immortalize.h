/* immortalize.h -- ordinary objects made immortal where they are. */

#ifndef PH_PREFORK_IMMORTALIZE_H
#define PH_PREFORK_IMMORTALIZE_H

#include "state/interpreter.h"

/* Pin all that the items of `roots`, a list, reach; if `strict`, except what
   must be able to die; if `warm`, prepare code for its first run.  Returns (objects, bytes, left): counts and bytes by
   type name, and how many were left mortal by (type name, reason).  NULL with
   MemoryError; what has been pinned by then stays so.  O(objects reached). */
PyObject *ph_immortalize(const ph_interpreter *interp, PyObject *roots, bool strict,
                         bool warm);

/* Those objects that the collector tracks, and has not set aside, which have a
   finalizer that has not run yet; the collector must be off.  A new list, or NULL
   with MemoryError.  O(objects); only what it returns is written to. */
PyObject *ph_with_finalizer(const ph_interpreter *interp);

#endif
