/* testing_spans.h -- the hooks of _core._testing by which tests handle single spans. */

#ifndef PH_MODULE_TESTING_SPANS_H
#define PH_MODULE_TESTING_SPANS_H

#include <Python.h>

/* Make a span: (size, zeroed, kind) -> its name. */
PyObject *ph_testing_span_new(PyObject *type, PyObject *args);
/* Hold a span: (name, kind); and drop a hold. */
PyObject *ph_testing_span_hold(PyObject *type, PyObject *args);
PyObject *ph_testing_span_drop(PyObject *type, PyObject *name);
/* Look at a span: (address, size, is it ours alone); None if this process does not hold
   it. */
PyObject *ph_testing_span_view(PyObject *type, PyObject *name);
/* Publish, or take, a message that holds spans: (take, names, address of the position's
   word, its new value). */
PyObject *ph_testing_span_message(PyObject *type, PyObject *args);
/* Send a message that holds a span: (channel, name).  Makes the ring if there is none. */
PyObject *ph_testing_span_send(PyObject *type, PyObject *args);
/* Sweep, and if asked to give memory back: (give_back) -> bytes. */
PyObject *ph_testing_span_sweep(PyObject *type, PyObject *give_back);
/* Measure: (size, rounds) -> nanoseconds of new and drop; of publish, take and drop. */
PyObject *ph_testing_span_times(PyObject *type, PyObject *args);

#endif
