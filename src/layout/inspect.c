/* inspect.c -- the parts and the size of a permanent object, for the audit.

   This file reads what the writers (scalar.c, str.c, tuple.c, dict.c, set.c) have
   written, at its final address.  An object that is not as they write it gets a
   complaint: something has written to the heap. */

#include "layout/inspect.h"

#include <string.h>

#include <datetime.h>

#include "layout/datetime.h"
#include "layout/head.h"
#include "layout/internal.h"
#include "layout/sources.h"

/* --- Mappings and frozensets -------------------------------------------------- */

static size_t
measure_entries(const PyDictKeysObject *table, Py_ssize_t n)
{
    return ph_align((size_t)((char *)ph_keys_entry(table, n) - (char *)table));
}

static int
visit_pair(PyObject *key, PyObject *value, ph_visitor visit, void *arg)
{
    int result = visit(key, arg);
    return result != 0 ? result : visit(value, arg);
}

static int
inspect_split_dict(const PyDictObject *dict, ph_object_info *info, ph_visitor visit,
                   void *arg)
{
    const PyDictKeysObject *table = dict->ma_keys;
    info->shared = table;
    info->shared_size = measure_entries(table, dict->ma_used);
    info->size += ph_values_size(dict->ma_used);
    if (table->dk_kind != DICT_KEYS_SPLIT || table->dk_nentries != dict->ma_used) {
        info->complaint = "a split dict over the wrong table";
        return 0;
    }
    for (Py_ssize_t i = 0; i < dict->ma_used; i++) {
        int result = visit_pair(ph_keys_key(table, i), dict->ma_values->values[i],
                                visit, arg);
        if (result != 0) {
            return result;
        }
    }
    return 0;
}

static int
inspect_combined_dict(const PyDictObject *dict, ph_object_info *info, ph_visitor visit,
                      void *arg)
{
    const PyDictKeysObject *table = dict->ma_keys;
    if (ph_is_static_keys(table)) {
        return 0;
    }
    Py_ssize_t n = table->dk_nentries;
    info->size += measure_entries(table, n);
    if (table->dk_refcnt != 1 || n != dict->ma_used) {
        info->complaint = "a dict whose table has changed";
        return 0;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        int result = visit_pair(ph_keys_key(table, i), *ph_keys_value(table, i), visit,
                                arg);
        if (result != 0) {
            return result;
        }
    }
    return 0;
}

static int
inspect_dict(const PyDictObject *dict, ph_object_info *info, ph_visitor visit, void *arg)
{
    return dict->ma_values != NULL
           ? inspect_split_dict(dict, info, visit, arg)
           : inspect_combined_dict(dict, info, visit, arg);
}

static int
inspect_frozenset(const PySetObject *set, ph_object_info *info, ph_visitor visit,
                  void *arg)
{
    info->size = sizeof(PySetObject) + PH_GC_HEAD;
    size_t slots = (size_t)set->mask + 1;
    if (slots > PySet_MINSIZE) {
        info->size += slots * sizeof(setentry);
    }
    for (size_t i = 0; i < slots; i++) {
        Py_VISIT(set->table[i].key);
    }
    return visit(set->weakreflist, arg);
}

/* --- All kinds ---------------------------------------------------------------- */

static int
inspect_container(PyObject *obj, ph_object_info *info, ph_visitor visit, void *arg)
{
    PyTypeObject *type = Py_TYPE(obj);
    info->front = PH_GC_HEAD;
    if (!ph_has_empty_gc_head(obj)) {
        info->complaint = "an object that the cyclic collector tracks";
    }
    if (type == &PyTuple_Type) {
        PyTupleObject *tuple = (PyTupleObject *)obj;
        info->size = PH_GC_HEAD + offsetof(PyTupleObject, ob_item)
                        + (size_t)Py_SIZE(tuple) * sizeof(PyObject *);
        return ph_visit_parts(tuple->ob_item, Py_SIZE(tuple), visit, arg);
    }
    if (type == &PyFrozenSet_Type) {
        return inspect_frozenset((PySetObject *)obj, info, visit, arg);
    }
    info->size = PH_GC_HEAD + (size_t)type->tp_basicsize;
    if (type == &PySlice_Type) {
        return ph_visit_parts(&((PySliceObject *)obj)->start, 3, visit, arg);
    }
    if (type == &PyDictProxy_Type) {
        return visit(((ph_proxy_object *)obj)->mapping, arg);
    }
    if (type == &_PyWeakref_RefType) {
        return visit(((PyWeakReference *)obj)->wr_object, arg);
    }
    return inspect_dict((PyDictObject *)obj, info, visit, arg);
}

static int
inspect_atom(PyObject *obj, ph_object_info *info, ph_visitor visit, void *arg)
{
    PyTypeObject *type = Py_TYPE(obj);
    if (type == &PyUnicode_Type) {
        info->size = ph_str_size(obj);
        return 0;
    }
    if (type == &PyRange_Type) {
        info->size = sizeof(ph_range_object);
        return ph_visit_parts(&((ph_range_object *)obj)->start, 4, visit, arg);
    }
    if (type == ph_datetime.timezone) {
        info->size = sizeof(ph_timezone_object);
        return ph_visit_parts(&((ph_timezone_object *)obj)->offset, 2, visit, arg);
    }
    ph_scalar scalar;
    PyObject *tzinfo = type == ph_datetime.time || type == ph_datetime.datetime
                       ? ph_tzinfo_of(obj) : NULL;
    if (tzinfo != NULL) {
        info->size = type == ph_datetime.time ? sizeof(PyDateTime_Time)
                                                 : sizeof(PyDateTime_DateTime);
        return visit(tzinfo, arg);
    }
    if (ph_scalar_of(obj, &scalar) < 0) {
        return -1;
    }
    info->size = PH_REFCNT_SIZE + scalar.size;
    return 0;
}

/* The types whose objects the heap may hold: containers, and atoms. */
static bool
is_container_type(PyTypeObject *type)
{
    return type == &PyTuple_Type || type == &PyFrozenSet_Type
           || type == &PySlice_Type || type == &PyDictProxy_Type
           || type == &PyDict_Type || type == &_PyWeakref_RefType
           || type == ph_mapping_type;
}

static bool
is_atom_type(PyTypeObject *type)
{
    return type == &PyUnicode_Type || type == &PyLong_Type
           || type == &PyFloat_Type || type == &PyComplex_Type
           || type == &PyBytes_Type || type == &PyRange_Type
           || (type != NULL
               && (type == ph_datetime.date || type == ph_datetime.time
                   || type == ph_datetime.datetime || type == ph_datetime.delta
                   || type == ph_datetime.timezone));
}

int
ph_inspect(PyObject *obj, ph_object_info *info, ph_visitor visit, void *arg)
{
    memset(info, 0, sizeof(*info));
    PyTypeObject *type = Py_TYPE(obj);
    if (!ph_has_permanent_count(obj)) {
        info->complaint = "a reference count that has drifted";
    }
    int result = 0;
    if (is_container_type(type)) {
        result = inspect_container(obj, info, visit, arg);
    }
    else if (is_atom_type(type)) {
        result = inspect_atom(obj, info, visit, arg);
    }
    else {
        info->complaint = "an object of a type that is never frozen";
    }
    info->size = ph_align(info->size);
    return result;
}
