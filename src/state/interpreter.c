/* interpreter.c -- making and clearing what permaheap keeps for one interpreter: see
   interpreter.h. */

#include "state/interpreter.h"

#include "layout/datetime.h"
#include "layout/immortal.h"

PyDoc_STRVAR(freeze_error_doc,
"An object, or a place in a graph of objects, that cannot be frozen.\n\n"
"path: the place, like data[\"users\"][3].profile");

PyDoc_STRVAR(handle_error_doc,
"A handle that is damaged, forged, or of another family of processes, or whose\n"
"block was released.");

PyDoc_STRVAR(message_error_doc,
"A message whose bytes are damaged.");

static int
add_error_classes(PyObject *module, ph_exceptions *exceptions)
{
    PyObject *no_path = Py_BuildValue("{s:s}", "path", "");     /* users' own */
    if (no_path == NULL) {
        return -1;
    }
    exceptions->freeze_error = PyErr_NewExceptionWithDoc(
        "permaheap.FreezeError", freeze_error_doc, PyExc_TypeError, no_path);
    Py_DECREF(no_path);
    exceptions->handle_error = PyErr_NewExceptionWithDoc(
        "permaheap.HandleError", handle_error_doc, PyExc_ValueError, NULL);
    exceptions->message_error = PyErr_NewExceptionWithDoc(
        "permaheap.MessageError", message_error_doc, PyExc_ValueError, NULL);
    if (PyModule_AddObjectRef(module, "FreezeError", exceptions->freeze_error) < 0
        || PyModule_AddObjectRef(module, "MessageError",
                                 exceptions->message_error) < 0) {
        return -1;
    }
    return PyModule_AddObjectRef(module, "HandleError", exceptions->handle_error);
}

static int
import_type(const char *module_name, const char *name, PyTypeObject **p_type)
{
    PyObject *module = PyImport_ImportModule(module_name);
    *p_type = module ? (PyTypeObject *)PyObject_GetAttrString(module, name) : NULL;
    Py_XDECREF(module);
    return *p_type == NULL ? -1 : 0;
}

/* Early, so that children find datetime where their parent has it.  On 3.12 datetime
   refuses to be imported in interpreters with their own GIL; they can do without. */
static int
try_datetime(ph_interpreter *interp)
{
    if (ph_need_datetime(&interp->has_datetime) == 0) {
        return 0;
    }
    if (!PyErr_ExceptionMatches(PyExc_ImportError)) {
        return -1;
    }
    PyErr_Clear();
    return 0;
}

PyObject *
ph_instance_new(PyTypeObject *type)
{
    if (type == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "permaheap: this interpreter has ended");
        return NULL;
    }
    return type->tp_alloc(type, 0);
}

int
ph_interpreter_init(PyObject *module)
{
    ph_interpreter *interp = ph_interpreter_of(module);
    interp->freeze_name = PyUnicode_InternFromString("__freeze__");
    interp->immortals = ph_ring_new();
    if (interp->immortals == NULL || interp->freeze_name == NULL || try_datetime(interp) < 0
        || add_error_classes(module, &interp->exceptions) < 0
        || import_type("collections", "OrderedDict", &interp->ordered_dict) < 0
        || import_type("collections", "Counter", &interp->counter) < 0
        || import_type("collections", "defaultdict", &interp->defaultdict) < 0
        || import_type("_thread", "LockType", &interp->lock) < 0
        || import_type("_thread", "RLock", &interp->rlock) < 0) {
        return -1;
    }
    return 0;
}

int
ph_interpreter_traverse(ph_interpreter *interp, visitproc visit, void *arg)
{
    Py_VISIT(interp->exceptions.freeze_error);
    Py_VISIT(interp->exceptions.handle_error);
    Py_VISIT(interp->exceptions.message_error);
    Py_VISIT(interp->ordered_dict);
    Py_VISIT(interp->counter);
    Py_VISIT(interp->defaultdict);
    Py_VISIT(interp->lock);
    Py_VISIT(interp->rlock);
    Py_VISIT(interp->handle_type);
    Py_VISIT(interp->buffer_type);
    return 0;
}

void
ph_interpreter_clear(ph_interpreter *interp)
{
    Py_CLEAR(interp->exceptions.freeze_error);
    Py_CLEAR(interp->exceptions.handle_error);
    Py_CLEAR(interp->exceptions.message_error);
    Py_CLEAR(interp->ordered_dict);
    Py_CLEAR(interp->counter);
    Py_CLEAR(interp->defaultdict);
    Py_CLEAR(interp->lock);
    Py_CLEAR(interp->rlock);
    Py_CLEAR(interp->freeze_name);
    Py_CLEAR(interp->handle_type);
    Py_CLEAR(interp->buffer_type);
}
