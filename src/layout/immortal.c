/* immortal.c -- making an ordinary object immortal where it is.

   - The object gets the reference count of PEP 683's immortals.  So does the table of
     keys on which a class counts the dicts of its instances.
   - The hash of a str or bytes is filled, because most readers ask for it.
   - The collector's lists lose the object, but it stays tracked, in a ring of all
     immortal containers.  The end of the process looks at their references there.
     A collector that meets an immortal object in one of its lists takes it out.  From
     3.14 on it does so as untracked, which dict's assertions do not allow.  And an
     object that leaves the permanent generation would write to its neighbours there.

   Nothing moves, and the object stays as mutable as it was.  It is never freed: there
   is no way back. */

#include "layout/immortal.h"

#include <string.h>

#include "internal/pycore_unicodeobject.h"
#include "layout/datetime.h"
#include "layout/head.h"
#include "layout/internal.h"
#include "layout/sources.h"

/* Make an interned str stay interned for good. */
static void
intern_for_good(PyObject *str)
{
#if PH_HAS_INTERN_IMMORTAL
    PyObject *interned = Py_NewRef(str);
    _PyUnicode_InternImmortal(PyInterpreterState_Get(), &interned);
    Py_DECREF(interned);
#else
    ((PyASCIIObject *)str)->state.interned = SSTATE_INTERNED_IMMORTAL;
#endif
}

/* Prepare a str.  One that is not interned must still pass the debug build's check of
   its consistency. */
static void
settle_str(PyObject *str)
{
    (void)ph_str_hash(str);
    unsigned int interned = PyUnicode_CHECK_INTERNED(str);
    if (interned == SSTATE_INTERNED_MORTAL) {
        intern_for_good(str);
    }
    else if (PH_DEBUG_WANTS_INTERNED && interned == SSTATE_NOT_INTERNED) {
        ph_set_str_state((PyASCIIObject *)str);
    }
}

/* Prepare an instance of a subclass.  It is never interned; debug builds let it be
   immortal if it is static. */
static void
settle_str_subclass(PyObject *str)
{
    if (PH_DEBUG_WANTS_INTERNED) {
        ((PyASCIIObject *)str)->state.statically_allocated = 1;
    }
}

/* Make a split table of keys immortal: instances of its class are counted there. */
static void
settle_keys(PyDictKeysObject *keys)
{
    if (keys != NULL && keys->dk_kind == DICT_KEYS_SPLIT) {
        keys->dk_refcnt = ph_immortal_keys_refcnt();
    }
}

/* Move an object from the collector's lists to a ring.  One that has a finalizer stays where
   gc.get_objects() finds it at the end of the process: see _immortalize.py. */
static void
leave_collector(PyObject *obj, ph_immortal_ring *ring)
{
    if (PyObject_IS_GC(obj) && PyObject_GC_IsTracked(obj)
        && Py_TYPE(obj)->tp_finalize == NULL) {
        PyObject_GC_UnTrack(obj);
        PyGC_Head *gc = _Py_AS_GC(obj), *last = (PyGC_Head *)(ring->prev & ~(uintptr_t)3);
        gc->_gc_next = (uintptr_t)ring;
        gc->_gc_prev |= (uintptr_t)last;    /* beside the flag that is left there */
        last->_gc_next = (uintptr_t)gc;
        ring->prev = (uintptr_t)gc;
        assert(PyObject_GC_IsTracked(obj));
    }
}

void
ph_immortalize_object(PyObject *obj, ph_immortal_ring *ring)
{
    if (PyUnicode_CheckExact(obj)) {
        settle_str(obj);
    }
    else if (PyUnicode_Check(obj)) {
        settle_str_subclass(obj);
    }
    else if (PyBytes_CheckExact(obj)) {
        (void)PyObject_Hash(obj);
    }
    else if (PyDict_Check(obj)) {
        settle_keys(((PyDictObject *)obj)->ma_keys);
    }
    else if (PyType_HasFeature(Py_TYPE(obj), Py_TPFLAGS_TYPE_SUBCLASS)
             && PyType_HasFeature((PyTypeObject *)obj, Py_TPFLAGS_HEAPTYPE)) {
        settle_keys(((PyHeapTypeObject *)obj)->ht_cached_keys);
    }
    leave_collector(obj, ring);
    ph_make_immortal(obj);
}

/* --- The references of an object ---------------------------------------------- */

static int
visit_code(PyCodeObject *code, visitproc visit, void *arg)
{
    PyObject *parts[] = {
        code->co_consts, code->co_names, code->co_exceptiontable,
        code->co_localsplusnames, code->co_localspluskinds, code->co_filename,
        code->co_name, code->co_qualname, code->co_linetable,
    };
    return ph_visit_parts(parts, Py_ARRAY_LENGTH(parts), visit, arg);
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

/* Visit the references of an object that has no tp_traverse, or one that leaves some
   out. */
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
        return ph_visit_parts(parts, 4, visit, arg);
    }
    if (type == ph_datetime.timezone) {
        ph_timezone_parts(obj, parts);
        return ph_visit_parts(parts, 2, visit, arg);
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

/* --- Objects to leave alone --------------------------------------------------- */

/* Debug builds must treat an immortal str as interned (ph_set_str_state()); and to fill
   a class's slot they look for its interned name, by identity. */
const char *
ph_why_not_immortal(PyObject *obj)
{
    if (PH_DEBUG_WANTS_INTERNED && PyUnicode_CheckExact(obj)
        && PyUnicode_CHECK_INTERNED(obj) == SSTATE_NOT_INTERNED
        && PyUnicode_IS_ASCII(obj)
        && strncmp((const char *)PyUnicode_1BYTE_DATA(obj), "__", 2) == 0) {
        return "may be the name of a slot, and is not interned (debug build)";
    }
    return NULL;
}

/* Return the list of weak references to an object; NULL where its type has none. */
static PyWeakReference *
get_weak_references(PyObject *obj)
{
    if (PyType_Check(obj) || !PyType_SUPPORTS_WEAKREFS(Py_TYPE(obj))) {
        return NULL;                /* classes hardly ever die */
    }
    Py_ssize_t offset = Py_TYPE(obj)->tp_weaklistoffset;
    return *(PyWeakReference **)((char *)obj + offset);
}

/* Does a capsule run C code of its maker when it ends? */
static bool
has_destructor(PyObject *capsule)
{
    bool found = PyCapsule_GetDestructor(capsule) != NULL;
    PyErr_Clear();                  /* a capsule without a pointer is not valid */
    return found;
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
    if (PyCapsule_CheckExact(obj) && has_destructor(obj)) {
        return "is a capsule with a destructor";
    }
    PyWeakReference *ref = get_weak_references(obj);
    for (; ref != NULL; ref = ref->wr_next) {
        if (ref->wr_callback != NULL) {
            return "has a weak reference with a callback";
        }
    }
    return NULL;
}
