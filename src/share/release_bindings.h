/* release_bindings.h -- release(), forget() and reclaim() for Python. */

#ifndef PH_SHARE_RELEASE_BINDINGS_H
#define PH_SHARE_RELEASE_BINDINGS_H

#include <Python.h>

/* Add release(), forget() and reclaim() to the module.  -1 with an exception. */
int ph_release_add(PyObject *module);

#endif
