/* stats.h -- the figures of the heap for Python. */

#ifndef PH_MODULE_STATS_H
#define PH_MODULE_STATS_H

#include <Python.h>

/* Add stats() to the module.  -1 with an exception. */
int ph_stats_add(PyObject *module);

#endif
