/* immortalize.h -- ordinary objects made immortal where they are. */

#ifndef PH_PREFORK_IMMORTALIZE_H
#define PH_PREFORK_IMMORTALIZE_H

#include "state/interpreter.h"

/* Make all objects that the items of `roots`, a list, reach immortal; if `strict`, except
   objects that must be able to die; if `warm`, prepare code for its first run.  Returns
   (objects, bytes, left): counts and bytes by type name, and how many were left mortal, by
   (type name, reason).  NULL with MemoryError; objects that are immortal by then stay so.
   O(objects reached). */
PyObject *ph_immortalize(const ph_interpreter *interp, PyObject *roots, bool strict,
                         bool warm);

/* List the objects that the collector tracks, and has not set aside, whose finalizer has
   not run yet.  The collector must be off.  A new list, or NULL with MemoryError.  Only the
   objects in the list are written to.  O(objects). */
PyObject *ph_with_finalizer(const ph_interpreter *interp);

#endif
