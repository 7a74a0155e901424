/* tuple.c -- writing a permanent tuple or slice. */

#include "layout/internal.h"

#include <string.h>

#include "layout/head.h"

static size_t
measure_tuple(Py_ssize_t n)
{
    assert(n >= 0);
    return offsetof(PyTupleObject, ob_item) + (size_t)n * sizeof(PyObject *);
}

ph_room
ph_tuple_room(Py_ssize_t n)
{
    return ph_exact_room(measure_tuple(n) + PH_GC_HEAD);
}

PyObject *
ph_put_tuple(ph_block *block, PyObject *const *items, Py_ssize_t n)
{
    size_t size = measure_tuple(n);
    PyTupleObject *view;
    PyObject *obj = ph_new_container(block, &PyTuple_Type, size, &view);
    if (obj == NULL) {
        return NULL;
    }
    view->ob_base.ob_size = n;
    memcpy(view->ob_item, items, (size_t)n * sizeof(PyObject *));
#if PH_TUPLE_HAS_HASH
    view->ob_hash = ph_hash_of_tuple(block, items, n);
#endif
    ph_block_count(block, PH_KIND_TUPLE, size + PH_GC_HEAD);
    return obj;
}

PyObject *
ph_put_slice(ph_block *block, PyObject *const parts[3])
{
    PySliceObject *view;
    PyObject *obj = ph_new_container(block, &PySlice_Type, sizeof(PySliceObject),
                                     &view);
    if (obj != NULL) {
        view->start = parts[0];
        view->stop = parts[1];
        view->step = parts[2];
        ph_block_count(block, PH_KIND_SLICE, sizeof(PySliceObject) + PH_GC_HEAD);
    }
    return obj;
}
