/* immortal.c -- making an ordinary object immortal where it is.

   To pin an object is to give it the reference count of PEP 683's immortals,
   and the same to the table of keys on which a class counts its instances'
   dicts; and to fill the hash of a str or bytes, which most readers ask for.
   Nothing moves, and the object stays as mutable as it was.

   The collector's lists lose it: it stays tracked, in a ring of its own.  A
   collector that meets an immortal object in one of its lists takes it out, from
   3.14 on for untracked, which dict's assertions do not allow; and who leaves the
   permanent generation would write to its neighbours there.

   A pinned object is never freed.  There is no way back. */

#include "layout/internal.h"

#include <string.h>

/* In the word of the reference count. */
static void
pin_head(PyObject *obj)
{
#if PY_VERSION_HEX >= 0x030e0000
    obj->ob_refcnt = _Py_IMMORTAL_INITIAL_REFCNT;
    obj->ob_flags |= _Py_IMMORTAL_FLAGS;
#else
    obj->ob_refcnt = (Py_ssize_t)PH_REFCNT_WORD;
#endif
}

/* An interned str stays interned, now for good.  What is not must not become a
   puzzle for debug builds: see ph_set_str_state(). */
static void
pin_str(PyObject *str)
{
    (void)ph_str_hash(str);
#if PY_VERSION_HEX >= 0x030d0000
    if (PyUnicode_CHECK_INTERNED(str) == SSTATE_INTERNED_MORTAL) {
        PyObject *interned = Py_NewRef(str);
        _PyUnicode_InternImmortal(PyInterpreterState_Get(), &interned);
        Py_DECREF(interned);
    }
#ifdef Py_DEBUG
    else if (PyUnicode_CHECK_INTERNED(str) == SSTATE_NOT_INTERNED) {
        ph_set_str_state((PyASCIIObject *)str);
    }
#endif
#else
    PyASCIIObject *ascii = (PyASCIIObject *)str;
    if (ascii->state.interned == SSTATE_INTERNED_MORTAL) {
        ascii->state.interned = SSTATE_INTERNED_IMMORTAL;
    }
#endif
}

/* An instance of a subclass is never interned; debug builds let it be immortal if it
   is static. */
static void
pin_str_subclass(PyObject *str)
{
#if defined(Py_DEBUG) && PY_VERSION_HEX >= 0x030d0000
    ((PyASCIIObject *)str)->state.statically_allocated = 1;
#else
    (void)str;
#endif
}

/* The attributes of instances are counted on their class's table of keys. */
static void
pin_keys(PyDictKeysObject *keys)
{
    if (keys != NULL && keys->dk_kind == DICT_KEYS_SPLIT) {
        keys->dk_refcnt = ph_immortal_keys_refcnt();
    }
}

/* What has a finalizer stays where gc.get_objects() finds it, at the end of the
   process: see _immortalize.py. */
static void
leave_collector(PyObject *obj)
{
    if (PyObject_IS_GC(obj) && PyObject_GC_IsTracked(obj)
        && Py_TYPE(obj)->tp_finalize == NULL) {
        PyObject_GC_UnTrack(obj);
        PyGC_Head *gc = _Py_AS_GC(obj);
        gc->_gc_next = (uintptr_t)gc;
        gc->_gc_prev |= (uintptr_t)gc;      /* beside the flag that is left there */
    }
}

void
ph_pin(PyObject *obj)
{
    if (PyUnicode_CheckExact(obj)) {
        pin_str(obj);
    }
    else if (PyUnicode_Check(obj)) {
        pin_str_subclass(obj);
    }
    else if (PyBytes_CheckExact(obj)) {
        (void)PyObject_Hash(obj);
    }
    else if (PyDict_Check(obj)) {
        pin_keys(((PyDictObject *)obj)->ma_keys);
    }
    else if (PyType_HasFeature(Py_TYPE(obj), Py_TPFLAGS_TYPE_SUBCLASS)
             && PyType_HasFeature((PyTypeObject *)obj, Py_TPFLAGS_HEAPTYPE)) {
        pin_keys(((PyHeapTypeObject *)obj)->ht_cached_keys);
    }
    leave_collector(obj);
    pin_head(obj);
}

/* --- What an object refers to ------------------------------------------------------------ */

static int
visit_all(PyObject *const *parts, size_t n, visitproc visit, void *arg)
{
    for (size_t i = 0; i < n; i++) {
        Py_VISIT(parts[i]);
    }
    return 0;
}

static int
visit_code(PyCodeObject *code, visitproc visit, void *arg)
{
    PyObject *parts[] = {
        code->co_consts, code->co_names, code->co_exceptiontable,
        code->co_localsplusnames, code->co_localspluskinds, code->co_filename,
        code->co_name, code->co_qualname, code->co_linetable,
    };
    return visit_all(parts, Py_ARRAY_LENGTH(parts), visit, arg);
}

static int
visit_keys(PyDictObject *dict, visitproc visit, void *arg)
{
    PyObject *key;
    for (Py_ssize_t i = 0; PyDict_Next((PyObject *)dict, &i, &key, NULL);) {
        Py_VISIT(key);
    }
    return 0;
}

/* What has references but no tp_traverse, or one that leaves some out. */
static int
visit_hidden(PyObject *obj, visitproc visit, void *arg)
{
    PyTypeObject *type = Py_TYPE(obj);
    PyObject *parts[4];
    if (type == &PyCode_Type) {
        return visit_code((PyCodeObject *)obj, visit, arg);
    }
    if (type == &PyRange_Type) {
        ph_range_parts(obj, parts);
        return visit_all(parts, 4, visit, arg);
    }
    if (type == ph_datetime.timezone) {
        ph_timezone_parts(obj, parts);
        return visit_all(parts, 2, visit, arg);
    }
    if (PyDict_Check(obj)) {            /* its tp_traverse leaves out keys of type str */
        return visit_keys((PyDictObject *)obj, visit, arg);
    }
    if (type == ph_datetime.datetime || type == ph_datetime.time) {
        Py_VISIT(ph_tzinfo_of(obj));
    }
    else if (PyType_Check(obj) && PyType_HasFeature((PyTypeObject *)obj,
                                                    Py_TPFLAGS_HEAPTYPE)) {
        Py_VISIT(((PyHeapTypeObject *)obj)->ht_name);
        Py_VISIT(((PyHeapTypeObject *)obj)->ht_qualname);
        Py_VISIT(((PyHeapTypeObject *)obj)->ht_slots);
    }
    return 0;
}

int
ph_visit_referents(PyObject *obj, visitproc visit, void *arg)
{
    PyTypeObject *type = Py_TYPE(obj);
    Py_VISIT(type);
    if (PyObject_IS_GC(obj) && type->tp_traverse != NULL) {
        int result = type->tp_traverse(obj, visit, arg);
        if (result != 0) {
            return result;
        }
    }
    return visit_hidden(obj, visit, arg);
}

/* --- What to leave alone --------------------------------------------------------------------- */

/* Debug builds of 3.13+ must take what is pinned for interned (ph_set_str_state()),
   and to fill a class's slot they look for its interned name, by identity. */
const char *
ph_why_not_pinned(PyObject *obj)
{
#if defined(Py_DEBUG) && PY_VERSION_HEX >= 0x030d0000
    if (PyUnicode_CheckExact(obj)
        && PyUnicode_CHECK_INTERNED(obj) == SSTATE_NOT_INTERNED
        && PyUnicode_IS_ASCII(obj)
        && strncmp((const char *)PyUnicode_1BYTE_DATA(obj), "__", 2) == 0) {
        return "may be the name of a slot, and is not interned (debug build)";
    }
#else
    (void)obj;
#endif
    return NULL;
}

/* The list of weak references to an object; NULL where its type has none. */
static PyWeakReference *
weak_references(PyObject *obj)
{
    if (PyType_Check(obj) || !PyType_SUPPORTS_WEAKREFS(Py_TYPE(obj))) {
        return NULL;                /* classes hardly ever die */
    }
    Py_ssize_t offset = Py_TYPE(obj)->tp_weaklistoffset;
    return *(PyWeakReference **)((char *)obj + offset);
}

const char *
ph_why_mortal(PyObject *obj)
{
    PyTypeObject *type = Py_TYPE(obj);
    if (type->tp_finalize != NULL || type->tp_del != NULL) {
        return "has a finalizer";
    }
    if (type == &PyFrame_Type) {
        return "is a frame";
    }
    PyWeakReference *ref = weak_references(obj);
    for (; ref != NULL; ref = ref->wr_next) {
        if (ref->wr_callback != NULL) {
            return "has a weak reference with a callback";
        }
    }
    return NULL;
}
