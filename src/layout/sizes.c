/* sizes.c -- how far an ordinary object reaches in memory.

        | front | body |     tables: keys, values, items, text ...

   The front is in front of its address, the body behind it; the tables lie elsewhere. */

#include "layout/sizes.h"

#include "internal/pycore_long.h"
#include "internal/pycore_object.h"
#include "layout/head.h"
#include "layout/internal.h"

size_t
ph_front_size(PyTypeObject *type)
{
    size_t front = PyType_IS_GC(type) ? PH_GC_HEAD : 0;
    if (PyType_HasFeature(type, Py_TPFLAGS_PREHEADER)) {
        front += 2 * sizeof(PyObject *);        /* attributes, weak references */
    }
    return front;
}

/* Return the bytes of the values of an instance's attributes, behind its fields. */
static size_t
measure_inline_values(PyTypeObject *type)
{
#if PH_HAS_INLINE_VALUES
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
    return size + measure_inline_values(type);
}

/* --- Tables ------------------------------------------------------------------- */

static void
visit_keys_table(const PyDictKeysObject *keys, ph_table_visitor visit, void *arg)
{
    if (keys != NULL && !ph_is_static_keys(keys)) {
        visit(PH_TABLE_KEYS, keys, ph_keys_size(keys), arg);
    }
}

/* Visit an array of values, unless it is inside its instance. */
static void
visit_values_table(const PyDictValues *values, ph_table_visitor visit, void *arg)
{
    const void *start;
    size_t size = ph_values_memory(values, &start);
    if (size > 0) {
        visit(PH_TABLE_VALUES, start, size, arg);
    }
}

static void
visit_dict_tables(const PyDictObject *dict, ph_table_visitor visit, void *arg)
{
    visit_keys_table(dict->ma_keys, visit, arg);
    if (dict->ma_values != NULL) {
        visit_values_table(dict->ma_values, visit, arg);
    }
}

/* Visit the values of an instance that has no dict (yet), where these lie elsewhere. */
static void
visit_instance_tables(PyObject *obj, ph_table_visitor visit, void *arg)
{
#if !PH_HAS_INLINE_VALUES
    if (PyType_HasFeature(Py_TYPE(obj), Py_TPFLAGS_MANAGED_DICT)) {
        PyDictOrValues attributes = *_PyObject_DictOrValuesPointer(obj);
        if (_PyDictOrValues_IsValues(attributes)
            && _PyDictOrValues_GetValues(attributes) != NULL) {
            visit_values_table(_PyDictOrValues_GetValues(attributes), visit, arg);
        }
    }
#else
    (void)obj, (void)visit, (void)arg;
#endif
}

static void
visit_str_tables(PyObject *obj, ph_table_visitor visit, void *arg)
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
ph_tables_of(PyObject *obj, ph_table_visitor visit, void *arg)
{
    if (PyUnicode_Check(obj)) {
        visit_str_tables(obj, visit, arg);
    }
    else if (PyDict_Check(obj)) {
        visit_dict_tables((PyDictObject *)obj, visit, arg);
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
        visit_keys_table(((PyHeapTypeObject *)obj)->ht_cached_keys, visit, arg);
    }
    visit_instance_tables(obj, visit, arg);
}

/* Is a ph_table_visitor. */
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
