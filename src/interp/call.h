/* call.h -- call(): running a method of a lent object in its owner. */

#ifndef PH_INTERP_CALL_H
#define PH_INTERP_CALL_H

#include "interp/lend.h"

/* Add call() to the module.  -1 with an exception. */
int ph_call_add(PyObject *module);

#endif
