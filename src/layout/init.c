/* init.c -- setting up layout/ when the module is imported.

   First is this interpreter compared with the headers that permaheap was compiled with:
   sizes of objects, release or debug build.  Then each file looks up its static data.
   A difference is an ImportError, not corrupted memory. */

#include "layout/init.h"

#include "internal/pycore_long.h"
#include "layout/internal.h"

static int
check_sizes(void)
{
    static const struct {
        PyTypeObject *type;
        size_t basic, item;
    } expected[] = {
        {&PyFloat_Type, sizeof(PyFloatObject), 0},
        {&PyComplex_Type, sizeof(PyComplexObject), 0},
        {&PyLong_Type, offsetof(PyLongObject, long_value.ob_digit), sizeof(digit)},
        {&PyBytes_Type, offsetof(PyBytesObject, ob_sval) + 1, 1},
        {&PyUnicode_Type, sizeof(PyUnicodeObject), 0},
        {&PyTuple_Type, offsetof(PyTupleObject, ob_item), sizeof(PyObject *)},
        {&PyDict_Type, sizeof(PyDictObject), 0},
        {&PyFrozenSet_Type, sizeof(PySetObject), 0},
        {&PySlice_Type, sizeof(PySliceObject), 0},
        {&PyRange_Type, sizeof(ph_range_object), 0},
        {&PyDictProxy_Type, sizeof(ph_proxy_object), 0},
        {&_PyWeakref_RefType, sizeof(PyWeakReference), 0},
#if PH_HAS_FROZENDICT
        {&PyFrozenDict_Type, sizeof(PyFrozenDictObject), 0},
#endif
    };
    for (size_t i = 0; i < Py_ARRAY_LENGTH(expected); i++) {
        PyTypeObject *type = expected[i].type;
        if ((size_t)type->tp_basicsize != expected[i].basic
            || (size_t)type->tp_itemsize != expected[i].item) {
            PyErr_Format(PyExc_ImportError,
                         "permaheap was built for another CPython: a %s takes "
                         "%zd bytes here, %zu there; install it again with "
                         "this interpreter", type->tp_name, type->tp_basicsize,
                         expected[i].basic);
            return -1;
        }
    }
    return 0;
}

/* Debug builds assert more about str (see ph_set_str_state()). */
static int
check_build(void)
{
    bool is_debug = PySys_GetObject("gettotalrefcount") != NULL;
    if (is_debug != PH_DEBUG_BUILD) {
        PyErr_Format(PyExc_ImportError,
                     "permaheap was built for a %s build of CPython, and this is "
                     "the other kind; install it again with this interpreter",
                     PH_DEBUG_BUILD ? "debug" : "release");
        return -1;
    }
    return 0;
}

static int
init_containers(void)
{
    if (ph_dict_init() < 0 || ph_set_init() < 0) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_ImportError,
                            "permaheap: cannot look up what dict and weakref share");
        }
        return -1;
    }
    return 0;
}

int
ph_layout_init(void)
{
    if (check_build() < 0 || check_sizes() < 0) {
        return -1;
    }
    return ph_statics_init() < 0 ? -1 : init_containers();
}
