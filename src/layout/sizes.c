/* sizes.c -- how far an ordinary object reaches in memory: what lies in
   front of it, its own bytes, and the tables that it has elsewhere. */

#include "layout/internal.h"

#include <stddef.h>

#include "internal/pycore_object.h"

size_t
ph_front_size(PyTypeObject *type)
{
    size_t front = PyType_IS_GC(type) ? PH_GC_HEAD : 0;
    if (PyType_HasFeature(type, Py_TPFLAGS_PREHEADER)) {
        front += 2 * sizeof(PyObject *);        /* attributes, weak references */
    }
    return front;
}

/* The values of an instance's attributes, behind it (3.13+). */
static size_t
inline_values_size(PyTypeObject *type)
{
#if PY_VERSION_HEX >= 0x030d0000
    if (PyType_HasFeature(type, Py_TPFLAGS_INLINE_VALUES)) {
        return _PyInlineValuesSize(type);
    }
#endif
    return 0;
}

size_t
ph_body_size(PyObject *obj)
{
    PyTypeObject *type = Py_TYPE(obj);
    size_t size = (size_t)type->tp_basicsize;
    if (PyUnicode_Check(obj)) {
        return PyUnicode_IS_COMPACT(obj) ? (size_t)ph_str_size(obj) : size;
    }
    if (PyLong_Check(obj)) {
        return size + (size_t)_PyLong_DigitCount((PyLongObject *)obj) * sizeof(digit);
    }
    if (type->tp_itemsize != 0) {
        size += (size_t)Py_ABS(Py_SIZE(obj)) * (size_t)type->tp_itemsize;
    }
    return size + inline_values_size(type);
}

/* --- Tables -------------------------------------------------------------------------- */

static void
keys_table_of(const PyDictKeysObject *keys, ph_visit_table visit, void *arg)
{
    if (keys != NULL && !ph_is_static_keys(keys)) {
        visit(PH_TABLE_KEYS, keys, ph_keys_size(keys), arg);
    }
}

/* An array of values that a dict or an instance has elsewhere. */
static void
values_table_of(const PyDictValues *values, ph_visit_table visit, void *arg)
{
#if PY_VERSION_HEX >= 0x030d0000
    if (!values->embedded) {
        size_t n = values->capacity;
        visit(PH_TABLE_VALUES, values,
              offsetof(PyDictValues, values) + n * sizeof(PyObject *)
              + _Py_SIZE_ROUND_UP(n, sizeof(PyObject *)), arg);
    }
#else
    /* In front of the values: their order, and the size of that. */
    const uint8_t *bytes = (const uint8_t *)values;
    size_t front = bytes[-1];
    visit(PH_TABLE_VALUES, bytes - front,
          front + (front - 2) * sizeof(PyObject *), arg);
#endif
}

static void
tables_of_dict(const PyDictObject *dict, ph_visit_table visit, void *arg)
{
    keys_table_of(dict->ma_keys, visit, arg);
    if (dict->ma_values != NULL) {
        values_table_of(dict->ma_values, visit, arg);
    }
}

/* 3.12: the values of an instance that has no dict (yet). */
static void
tables_of_instance(PyObject *obj, ph_visit_table visit, void *arg)
{
#if PY_VERSION_HEX < 0x030d0000
    if (PyType_HasFeature(Py_TYPE(obj), Py_TPFLAGS_MANAGED_DICT)) {
        PyDictOrValues attributes = *_PyObject_DictOrValuesPointer(obj);
        if (_PyDictOrValues_IsValues(attributes)
            && _PyDictOrValues_GetValues(attributes) != NULL) {
            values_table_of(_PyDictOrValues_GetValues(attributes), visit, arg);
        }
    }
#else
    (void)obj, (void)visit, (void)arg;
#endif
}

static void
tables_of_str(PyObject *obj, ph_visit_table visit, void *arg)
{
    if (!PyUnicode_IS_COMPACT_ASCII(obj)) {
        const PyCompactUnicodeObject *str = (PyCompactUnicodeObject *)obj;
        if (str->utf8 != NULL) {
            visit(PH_TABLE_TEXT, str->utf8, (size_t)str->utf8_length + 1, arg);
        }
    }
    if (!PyUnicode_IS_COMPACT(obj) && PyUnicode_GET_LENGTH(obj) > 0) {
        visit(PH_TABLE_TEXT, PyUnicode_DATA(obj),
              ((size_t)PyUnicode_GET_LENGTH(obj) + 1) * PyUnicode_KIND(obj), arg);
    }
}

void
ph_tables_of(PyObject *obj, ph_visit_table visit, void *arg)
{
    if (PyUnicode_Check(obj)) {
        tables_of_str(obj, visit, arg);
    }
    else if (PyDict_Check(obj)) {
        tables_of_dict((PyDictObject *)obj, visit, arg);
    }
    else if (PyList_Check(obj)) {
        const PyListObject *list = (PyListObject *)obj;
        if (list->ob_item != NULL) {
            visit(PH_TABLE_ITEMS, list->ob_item,
                  (size_t)list->allocated * sizeof(PyObject *), arg);
        }
    }
    else if (PyAnySet_Check(obj)) {
        const PySetObject *set = (PySetObject *)obj;
        if (set->table != set->smalltable) {
            visit(PH_TABLE_SET, set->table,
                  ((size_t)set->mask + 1) * sizeof(setentry), arg);
        }
    }
    else if (PyType_Check(obj) && PyType_HasFeature((PyTypeObject *)obj,
                                                    Py_TPFLAGS_HEAPTYPE)) {
        keys_table_of(((PyHeapTypeObject *)obj)->ht_cached_keys, visit, arg);
    }
    tables_of_instance(obj, visit, arg);
}

/* A ph_visit_table. */
static void
add_size(ph_table table, const void *address, size_t size, void *arg)
{
    *(size_t *)arg += size;
}

size_t
ph_size_in_place(PyObject *obj)
{
    size_t size = ph_front_size(Py_TYPE(obj)) + ph_body_size(obj);
    ph_tables_of(obj, add_size, &size);
    return size;
}
