/* errors.c -- the one place where the core's errors become Python exceptions. */

#include "state/errors.h"

#include <string.h>

int
ph_raise(const ph_exceptions *exceptions)
{
    ph_status status = ph_error_status();
    if (status == PH_EXCEPTION) {
        assert(PyErr_Occurred());
        return -1;
    }
    assert(status != PH_OK && !PyErr_Occurred());
    PyObject *type = PyExc_OSError;
    switch (status) {
    case PH_NOMEM:
        type = PyExc_MemoryError;
        break;
    case PH_FORKED:
    case PH_REFUSED:
        type = PyExc_RuntimeError;
        break;
    case PH_BAD_HANDLE:
        type = exceptions->handle_error;
        break;
    default:
        break;
    }
    PyErr_SetString(type, ph_error_text());
    return -1;
}

PyObject *
ph_raise_os(int err, const char *what)
{
    assert(err != 0 && !PyErr_Occurred());
    PyObject *args = PyUnicode_FromFormat("permaheap: cannot %s: %s", what,
                                          strerror(err));
    args = args ? Py_BuildValue("iN", err, args) : NULL;
    if (args != NULL) {
        PyErr_SetObject(PyExc_OSError, args);       /* or the subclass for this errno */
        Py_DECREF(args);
    }
    return NULL;
}

/* A class made by Python code has its names apart; tp_name of the others has all. */
PyObject *
ph_type_name(PyTypeObject *type)
{
    if (!PyType_HasFeature(type, Py_TPFLAGS_HEAPTYPE)) {
        return PyUnicode_FromString(type->tp_name);
    }
    PyObject *dict = PyType_GetDict(type), *qualname = PyType_GetQualName(type);
    PyObject *module = dict ? PyDict_GetItemString(dict, "__module__") : NULL;
    PyObject *name = NULL;
    if (qualname != NULL && module != NULL && PyUnicode_CheckExact(module)
        && PyUnicode_CompareWithASCIIString(module, "builtins") != 0) {
        name = PyUnicode_FromFormat("%U.%U", module, qualname);
    }
    else if (qualname != NULL) {
        name = Py_NewRef(qualname);
    }
    Py_XDECREF(qualname);
    Py_XDECREF(dict);
    return name;
}
