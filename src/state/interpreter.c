/* interpreter.c -- making and clearing what permaheap keeps for one interpreter: see
   interpreter.h. */

#include "state/interpreter.h"

#include "layout/datetime.h"
#include "layout/immortal.h"
#include "layout/values.h"

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

/* Early, so that children find datetime where their parent has it.  On 3.12 interpreters
   with their own GIL cannot have it, and can do without. */
static int
try_datetime(ph_interpreter *interp)
{
    if (!ph_datetime_is_importable() || ph_need_datetime(&interp->has_datetime) == 0) {
        return 0;
    }
    if (!PyErr_ExceptionMatches(PyExc_ImportError)) {
        return -1;
    }
    PyErr_Clear();
    return 0;
}

static PyObject *
raise_ended(void)
{
    PyErr_SetString(PyExc_RuntimeError, "permaheap: this interpreter has ended");
    return NULL;
}

/* --- Counter ------------------------------------------------------------------ */

/* Look a name up in a dict.  Sets *p_found, borrowed, or NULL.  -1 with MemoryError. */
static int
find_name(PyObject *dict, const char *name, PyObject **p_found)
{
    assert(PyDict_Check(dict));
    PyObject *str = PyUnicode_InternFromString(name);
    *p_found = str ? ph_dict_find_str(dict, str) : NULL;
    Py_XDECREF(str);
    return str ? 0 : -1;
}

/* Keep a class as Counter.  It must be a dict: a program can put anything in its place. */
static void
keep_counter(ph_interpreter *interp, PyObject *found)
{
    if (interp->counter == NULL && PyType_Check(found)
        && PyType_HasFeature((PyTypeObject *)found, Py_TPFLAGS_DICT_SUBCLASS)) {
        interp->counter = (PyTypeObject *)Py_NewRef(found);
    }
}

/* Set interp->counter if collections is imported. */
static int
find_counter(ph_interpreter *interp)
{
    PyObject *module, *counter;
    if (find_name(interp->modules, "collections", &module) < 0) {
        return -1;
    }
    if (module == NULL || !PyModule_Check(module)) {
        return 0;
    }
    if (find_name(PyModule_GetDict(module), "Counter", &counter) < 0) {
        return -1;
    }
    if (counter != NULL) {
        keep_counter(interp, counter);
    }
    return 0;
}

int
ph_is_counter(ph_interpreter *interp, PyTypeObject *type)
{
    if (!PyType_HasFeature(type, Py_TPFLAGS_DICT_SUBCLASS)) {
        return 0;
    }
    if (interp->counter == NULL && interp->modules != NULL && find_counter(interp) < 0) {
        return -1;
    }
    return type == interp->counter;
}

PyTypeObject *
ph_need_counter(ph_interpreter *interp)
{
    PyTypeObject *found = NULL;
    if (interp->counter != NULL) {
        return interp->counter;
    }
    if (interp->modules == NULL) {
        (void)raise_ended();
        return NULL;
    }
    if (import_type("collections", "Counter", &found) < 0) {
        return NULL;
    }
    keep_counter(interp, (PyObject *)found);
    Py_DECREF(found);
    if (interp->counter == NULL) {
        PyErr_SetString(PyExc_ImportError, "permaheap: collections.Counter is not a "
                                           "subclass of dict in this interpreter");
    }
    return interp->counter;
}

/* --- Making and clearing ------------------------------------------------------ */

PyObject *
ph_instance_new(PyTypeObject *type)
{
    return type ? type->tp_alloc(type, 0) : raise_ended();
}

int
ph_interpreter_init(PyObject *module)
{
    ph_interpreter *interp = ph_interpreter_of(module);
    assert(interp->modules == NULL && interp->counter == NULL);     /* once a module */
    interp->freeze_name = PyUnicode_InternFromString("__freeze__");
    interp->modules = Py_NewRef(PyImport_GetModuleDict());
    interp->immortals = ph_immortal_ring_new();
    if (interp->immortals == NULL || interp->freeze_name == NULL || try_datetime(interp) < 0
        || add_error_classes(module, &interp->exceptions) < 0
        || import_type("_collections", "OrderedDict", &interp->ordered_dict) < 0
        || import_type("_collections", "defaultdict", &interp->defaultdict) < 0
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
    Py_VISIT(interp->defaultdict);
    Py_VISIT(interp->counter);
    Py_VISIT(interp->modules);
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
    Py_CLEAR(interp->defaultdict);
    Py_CLEAR(interp->counter);
    Py_CLEAR(interp->modules);
    Py_CLEAR(interp->lock);
    Py_CLEAR(interp->rlock);
    Py_CLEAR(interp->freeze_name);
    Py_CLEAR(interp->handle_type);
    Py_CLEAR(interp->buffer_type);
}
