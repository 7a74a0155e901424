/* cow_bindings.h -- the functions of cow/ for Python. */

#ifndef PH_COW_COW_BINDINGS_H
#define PH_COW_COW_BINDINGS_H

#include <Python.h>

/* Add _object_map(), _layout(), _record_faults(), _take_faults() and _trace_begin() to
   the module.  -1 with an exception. */
int ph_cow_add(PyObject *module);

#endif
