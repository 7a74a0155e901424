/* raise.c -- see raise.h. */

#include "raise.h"

int
ph_raise(const ph_exceptions *exceptions)
{
    ph_status status = ph_error_status();
    if (status == PH_EXCEPTION) {
        assert(PyErr_Occurred());
        return -1;
    }
    assert(!PyErr_Occurred());
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
