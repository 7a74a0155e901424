/* consumer.c -- a tiny extension that uses permaheap through its C API, as
   include/permaheap.h recommends. */

#include <Python.h>

#include "permaheap.h"

typedef struct {
    const permaheap_api *permaheap;
} consumer_state;

static const permaheap_api *
api_of(PyObject *module)
{
    return ((consumer_state *)PyModule_GetState(module))->permaheap;
}

static PyObject *
consumer_version(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLong(api_of(module)->version);
}

static PyObject *
consumer_freeze(PyObject *module, PyObject *args)
{
    PyObject *obj, *default_ = NULL;
    if (!PyArg_ParseTuple(args, "O|O", &obj, &default_)) {
        return NULL;
    }
    return api_of(module)->freeze(obj, default_);
}

static PyObject *
consumer_is_frozen(PyObject *module, PyObject *obj)
{
    return PyLong_FromLong(api_of(module)->is_frozen(obj));
}

static PyObject *
consumer_share(PyObject *module, PyObject *obj)
{
    return api_of(module)->share(obj);
}

static PyObject *
consumer_resolve(PyObject *module, PyObject *handle)
{
    return api_of(module)->resolve(handle);
}

static PyMethodDef consumer_methods[] = {
    {"version", consumer_version, METH_NOARGS, NULL},
    {"freeze", consumer_freeze, METH_VARARGS, NULL},
    {"is_frozen", consumer_is_frozen, METH_O, NULL},
    {"share", consumer_share, METH_O, NULL},
    {"resolve", consumer_resolve, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static int
consumer_exec(PyObject *module)
{
    consumer_state *state = PyModule_GetState(module);
    state->permaheap = permaheap_import();
    return state->permaheap == NULL ? -1 : 0;
}

static PyModuleDef_Slot consumer_slots[] = {
    {Py_mod_exec, consumer_exec},
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
    {0, NULL},
};

static struct PyModuleDef consumer_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "consumer",
    .m_size = sizeof(consumer_state),
    .m_methods = consumer_methods,
    .m_slots = consumer_slots,
};

PyMODINIT_FUNC
PyInit_consumer(void)
{
    return PyModuleDef_Init(&consumer_module);
}
