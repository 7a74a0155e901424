/* c_api.h -- the API for extensions in C. */

#ifndef PH_MODULE_C_API_H
#define PH_MODULE_C_API_H

#include <Python.h>

/* Add the capsule of include/permaheap.h to the module, as _C_API.  -1 with an
   exception. */
int ph_c_api_add(PyObject *module);

#endif
