/* c_api.c -- the API for extensions in C: the capsule of include/permaheap.h.

   Its functions have no module: they find the state of the calling interpreter through
   sys.modules, so that one capsule serves all interpreters. */

#include "module/c_api.h"

#include "freeze/freeze.h"
#include "permaheap.h"
#include "share/handle_type.h"

/* Return the state of the calling interpreter; NULL with an exception. */
static ph_interpreter *
current_interpreter(void)
{
    PyObject *module = PyImport_ImportModule("permaheap._core");
    ph_interpreter *interp = module ? ph_interpreter_of(module) : NULL;
    Py_XDECREF(module);             /* sys.modules keeps it */
    return interp;
}

static PyObject *
api_freeze(PyObject *obj, PyObject *default_)
{
    ph_interpreter *interp = current_interpreter();
    return interp ? ph_freeze(interp, obj, default_) : NULL;
}

static PyObject *
api_share(PyObject *obj)
{
    ph_interpreter *interp = current_interpreter();
    return interp ? ph_share(interp, obj) : NULL;
}

static PyObject *
api_resolve(PyObject *handle)
{
    ph_interpreter *interp = current_interpreter();
    if (interp == NULL) {
        return NULL;
    }
    if (Py_TYPE(handle) != interp->handle_type) {
        PyErr_Format(PyExc_TypeError, "a permaheap.Handle is needed, not %s",
                     Py_TYPE(handle)->tp_name);
        return NULL;
    }
    return ph_resolve(interp, ph_handle_of(handle));
}

static const permaheap_api c_api = {
    .version = PERMAHEAP_API_VERSION,
    .freeze = api_freeze,
    .is_frozen = ph_is_permanent,
    .share = api_share,
    .resolve = api_resolve,
};

int
ph_c_api_add(PyObject *module)
{
    PyObject *capsule = PyCapsule_New((void *)&c_api, PERMAHEAP_CAPSULE, NULL);
    int result = PyModule_AddObjectRef(module, "_C_API", capsule);
    Py_XDECREF(capsule);
    return result;
}
