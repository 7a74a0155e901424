/* freeze_bindings.h -- freeze() and its kin for Python. */

#ifndef PH_FREEZE_FREEZE_BINDINGS_H
#define PH_FREEZE_FREEZE_BINDINGS_H

#include <Python.h>

/* Add freeze(), freeze_each(), freeze_pairs(), thaw() and is_frozen() to the module.  -1
   with an exception. */
int ph_freeze_add(PyObject *module);

#endif
