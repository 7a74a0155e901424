/* handle_type.h -- the type Handle, and share(), which makes one. */

#ifndef PH_SHARE_HANDLE_TYPE_H
#define PH_SHARE_HANDLE_TYPE_H

#include "core/family/handle.h"
#include "wire/wire.h"

/* The name that a Handle holds. */
const ph_handle *ph_handle_of(PyObject *self);
/* share(obj) and handle.get().  NULL with an exception.  O(1). */
PyObject *ph_share(const ph_interpreter *interp, PyObject *obj);
PyObject *ph_resolve(ph_interpreter *interp, const ph_handle *handle);

/* Add Handle and share() to the module, and Handle to the wire types.
   0, or -1 with an exception. */
int ph_handle_add(PyObject *module);

#endif
