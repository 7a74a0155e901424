/* prefork_bindings.h -- the functions of prefork/ for Python. */

#ifndef PH_PREFORK_PREFORK_BINDINGS_H
#define PH_PREFORK_PREFORK_BINDINGS_H

#include <Python.h>

/* Add _immortalize(), _with_finalizer(), _finalize(), _hide_interned() and _fill_holes() to
   the module.  -1 with an exception. */
int ph_prefork_add(PyObject *module);

#endif
