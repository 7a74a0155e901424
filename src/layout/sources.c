/* sources.c -- reading the parts of ordinary objects, where CPython's API cannot or
   would make new objects. */

#include "layout/sources.h"

#include <string.h>

#include <datetime.h>

#include "layout/datetime.h"
#include "layout/internal.h"

bool
ph_set_next(PyObject *set, Py_ssize_t *p_pos, PyObject **p_item)
{
    PySetObject *so = (PySetObject *)set;
    while (*p_pos <= so->mask) {
        const setentry *entry = &so->table[(*p_pos)++];
        if (entry->key != NULL && entry->hash != -1) {      /* -1: dummy */
            *p_item = entry->key;
            return true;
        }
    }
    return false;
}

void
ph_set_items(PyObject *set, PyObject **items)
{
    Py_ssize_t pos = 0;
    while (ph_set_next(set, &pos, items)) {
        items++;
    }
}

PyObject *
ph_proxy_target(PyObject *proxy)
{
    assert(Py_IS_TYPE(proxy, &PyDictProxy_Type));
    return ((ph_proxy_object *)proxy)->mapping;
}

void
ph_slice_parts(PyObject *slice, PyObject *parts[3])
{
    PySliceObject *s = (PySliceObject *)slice;
    parts[0] = s->start;
    parts[1] = s->stop;
    parts[2] = s->step;
}

void
ph_range_parts(PyObject *range, PyObject *parts[4])
{
    memcpy(parts, &((ph_range_object *)range)->start, 4 * sizeof(PyObject *));
}

void
ph_timezone_parts(PyObject *zone, PyObject *parts[2])
{
    parts[0] = ((ph_timezone_object *)zone)->offset;
    parts[1] = ((ph_timezone_object *)zone)->name;
}

PyObject *
ph_tzinfo_of(PyObject *obj)
{
    if (!_PyDateTime_HAS_TZINFO(obj)) {
        return NULL;
    }
    return Py_TYPE(obj) == ph_datetime.time
           ? ((PyDateTime_Time *)obj)->tzinfo : ((PyDateTime_DateTime *)obj)->tzinfo;
}
