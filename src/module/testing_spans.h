/* testing_spans.h -- what the tests of spans ask for, from Python. */

#ifndef PH_MODULE_TESTING_SPANS_H
#define PH_MODULE_TESTING_SPANS_H

#include <Python.h>

int ph_testing_spans_add(PyObject *module);

#endif
