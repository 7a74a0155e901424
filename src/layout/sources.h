/* sources.h -- reading the parts of ordinary objects, before they are frozen, sent or
   thawed.  All objects that these functions return are borrowed. */

#ifndef PH_SOURCES_H
#define PH_SOURCES_H

#include "layout/version.h"

/* Store the PySet_GET_SIZE() items of a set. */
void ph_set_items(PyObject *set, PyObject **items);
/* Store the next item of a set, from *p_pos, which is 0 initially; false at the end. */
bool ph_set_next(PyObject *set, Py_ssize_t *p_pos, PyObject **p_item);
/* Return the mapping that a mappingproxy shows. */
PyObject *ph_proxy_target(PyObject *proxy);
/* Store start, stop, step of a slice; start, stop, step, length of a range; offset and
   name (or NULL) of a timezone. */
void ph_slice_parts(PyObject *slice, PyObject *parts[3]);
void ph_range_parts(PyObject *range, PyObject *parts[4]);
void ph_timezone_parts(PyObject *zone, PyObject *parts[2]);
/* Return the tzinfo of a time or datetime, or NULL. */
PyObject *ph_tzinfo_of(PyObject *obj);

/* Start to load the memory behind the head of a source that a step of the walk reads. */
static inline void
ph_prefetch_inside(PyObject *source)
{
    const char *inside;
    if (PyDict_CheckExact(source)) {
        inside = (const char *)((PyDictObject *)source)->ma_keys;
        __builtin_prefetch(inside + 64);
        __builtin_prefetch(inside + 128);
    }
    else if (PyList_CheckExact(source)) {
        inside = (const char *)((PyListObject *)source)->ob_item;
    }
    else {
        return;
    }
    __builtin_prefetch(inside);
}

#endif
