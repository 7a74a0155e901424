/* testing.h -- the hooks for tests. */

#ifndef PH_MODULE_TESTING_H
#define PH_MODULE_TESTING_H

#include <Python.h>

/* Add the hooks to the module, as the attribute _testing.  -1 with an exception. */
int ph_testing_add(PyObject *module);

#endif
