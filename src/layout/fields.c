/* fields.c -- a table of where things are: the small-object allocator's pools, the head
   of a type, and the meaning of a write to a field of an object.

   It is a table because the copy-on-write profiler reads another process's memory with
   it.  The offsets are those of the interpreter that permaheap was built for, so that
   process must run the same one. */

#include "layout/fields.h"

#include <stddef.h>

#include <datetime.h>

#include "internal/pycore_dict.h"
#include "internal/pycore_obmalloc.h"
#include "layout/head.h"

/* The meaning of a write to bytes [start, end) of an object: a cause in the words of
   permaheap.cow.Cause. */
typedef struct {
    const char *type, *field, *cause;
    size_t start, end;
} field_meaning;

#define FIELD(type, object, field, cause)                                       \
    {type, #field, cause, offsetof(object, field),                              \
     offsetof(object, field) + sizeof(((object *)NULL)->field)}

#define HASH "hash cache"
#define INLINE "inline cache of code"
#define CHANGED "object changed"

static const field_meaning meanings[] = {
    FIELD("str", PyASCIIObject, hash, HASH),
    FIELD("str", PyASCIIObject, state, "interning"),
    FIELD("str", PyCompactUnicodeObject, utf8, HASH),
    FIELD("str", PyCompactUnicodeObject, utf8_length, HASH),
    /* ob_shash, the use of which is deprecated */
    {"bytes", "ob_shash", HASH, sizeof(PyVarObject),
     sizeof(PyVarObject) + sizeof(Py_hash_t)},
#if PH_TUPLE_HAS_HASH
    FIELD("tuple", PyTupleObject, ob_hash, HASH),
#endif
    FIELD("frozenset", PySetObject, hash, HASH),
#if PH_HAS_FROZENDICT
    FIELD("frozendict", PyFrozenDictObject, ma_hash, HASH),
#endif
    FIELD("datetime.date", PyDateTime_Date, hashcode, HASH),
    FIELD("datetime.datetime", PyDateTime_DateTime, hashcode, HASH),
    FIELD("datetime.time", PyDateTime_Time, hashcode, HASH),
    FIELD("datetime.timedelta", PyDateTime_Delta, hashcode, HASH),
    FIELD("code", PyCodeObject, co_version, INLINE),
    {"code", "co_code_adaptive", INLINE, offsetof(PyCodeObject, co_code_adaptive),
     SIZE_MAX / 2},
    FIELD("function", PyFunctionObject, func_version, INLINE),
    FIELD("function", PyFunctionObject, vectorcall, INLINE),
    FIELD("type", PyTypeObject, tp_version_tag, INLINE),
    FIELD("type", PyTypeObject, tp_flags, INLINE),
#if PH_TYPE_COUNTS_VERSIONS
    FIELD("type", PyTypeObject, tp_versions_used, INLINE),
#endif
    FIELD("type", PyHeapTypeObject, _spec_cache, INLINE),
    FIELD("type", PyTypeObject, tp_subclasses, CHANGED),
    FIELD("type", PyTypeObject, tp_weaklist, CHANGED),
    FIELD("dict", PyDictObject, ma_used, CHANGED),
#if PH_DICT_HAS_WATCHER_TAG
    FIELD("dict", PyDictObject, _ma_watcher_tag, INLINE),
#else   /* deprecated */
    {"dict", "ma_version_tag", CHANGED,
     offsetof(PyDictObject, ma_used) + sizeof(Py_ssize_t),
     offsetof(PyDictObject, ma_keys)},
#endif
    FIELD("dict", PyDictObject, ma_keys, CHANGED),
    FIELD("dict", PyDictObject, ma_values, CHANGED),
    {"list", "ob_size", CHANGED, offsetof(PyVarObject, ob_size), sizeof(PyVarObject)},
    FIELD("list", PyListObject, ob_item, CHANGED),
    FIELD("list", PyListObject, allocated, CHANGED),
    FIELD("set", PySetObject, fill, CHANGED),
    FIELD("set", PySetObject, used, CHANGED),
    FIELD("set", PySetObject, table, CHANGED),
    FIELD("set", PySetObject, finger, CHANGED),
    FIELD("cell", PyCellObject, ob_ref, CHANGED),
};

/* List (type, field, cause, start, end) of each. */
static PyObject *
list_meanings(void)
{
    PyObject *list = PyList_New(0);
    for (size_t i = 0; list != NULL && i < Py_ARRAY_LENGTH(meanings); i++) {
        const field_meaning *m = &meanings[i];
        assert(m->start < m->end);
        PyObject *item = Py_BuildValue("sssnn", m->type, m->field, m->cause,
                                       (Py_ssize_t)m->start, (Py_ssize_t)m->end);
        if (item == NULL || PyList_Append(list, item) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(item);
    }
    return list;
}

PyObject *
ph_layout_table(void)
{
    return Py_BuildValue(
        "{sn sn sn sn sn sn sn sn sn sn sn sn sn sn sn sN}",
        "version", (Py_ssize_t)PH_BUILT_FOR,
        "pool_size", (Py_ssize_t)POOL_SIZE,
        "pool_head", (Py_ssize_t)POOL_OVERHEAD,
        "pool_szidx", (Py_ssize_t)offsetof(struct pool_header, szidx),
        "pool_free", (Py_ssize_t)offsetof(struct pool_header, freeblock),
        "alignment", (Py_ssize_t)ALIGNMENT,
        "size_classes", (Py_ssize_t)NB_SMALL_SIZE_CLASSES,
        "gc_head", (Py_ssize_t)PH_GC_HEAD,
        "pre_head", (Py_ssize_t)(2 * sizeof(PyObject *)),
        "pre_flags", (Py_ssize_t)Py_TPFLAGS_PREHEADER,
        "tp_name", (Py_ssize_t)offsetof(PyTypeObject, tp_name),
        "tp_basicsize", (Py_ssize_t)offsetof(PyTypeObject, tp_basicsize),
        "tp_flags", (Py_ssize_t)offsetof(PyTypeObject, tp_flags),
        "dk_refcnt", (Py_ssize_t)offsetof(PyDictKeysObject, dk_refcnt),
        "dk_version", (Py_ssize_t)offsetof(PyDictKeysObject, dk_version),
        "meanings", list_meanings());
}
