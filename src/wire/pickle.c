/* pickle.c -- what only pickle can carry, and in it what need not be pickled.

   Objects of users' types are for pickle, which takes all that they lead to.  Permanent
   objects, Buffers, Channels, Handles and loans in them would be copied by that, or
   refused.  So pickle is told to leave them out: it asks for a *persistent id* of each
   object, which is pickled in its place, and asks for the object of an id when it
   unpickles.  The id is a number in a tuple of *references*, which is an ordinary value
   that travels beside the pickle (encode.c).

   pickle's own memo, and the one of the message, keep shared objects shared: an
   object that is referred to twice is in the tuple twice, and is one there.

   The classes are pickle's, asked for when the first object needs them, since few
   programs do; and subclassed, so that an object of them has attributes.

   The idea is that of Python's documentation of pickle, "Persistence of External
   Objects". */

#include "wire/pickle.h"

#define PROTOCOL 5

static int
get(PyObject *module, const char *name, PyObject **p_attribute)
{
    PyObject *attribute = PyObject_GetAttrString(module, name);
    if (attribute == NULL) {
        return -1;
    }
    Py_XSETREF(*p_attribute, attribute);
    return 0;
}

static int
subclass(PyObject *module, const char *name, PyObject **p_type)
{
    PyObject *base = PyObject_GetAttrString(module, name);
    PyObject *type = base ? PyObject_CallFunction((PyObject *)&PyType_Type, "s(O){}",
                                                  name, base) : NULL;
    Py_XDECREF(base);
    if (type == NULL) {
        return -1;
    }
    Py_XSETREF(*p_type, type);
    return 0;
}

/* `loads` is set last, and says that all are there. */
static int
need(ph_pickles *pickles)
{
    if (pickles->loads != NULL) {
        return 0;
    }
    PyObject *io = PyImport_ImportModule("io");
    PyObject *pickle = io ? PyImport_ImportModule("pickle") : NULL;
    int result = -1;
    if (pickle != NULL && get(io, "BytesIO", &pickles->bytes_io) == 0
        && subclass(pickle, "Pickler", &pickles->pickler) == 0
        && subclass(pickle, "Unpickler", &pickles->unpickler) == 0) {
        result = get(pickle, "loads", &pickles->loads);
    }
    Py_XDECREF(io);
    Py_XDECREF(pickle);
    return result;
}

int
ph_pickles_traverse(ph_pickles *pickles, visitproc visit, void *arg)
{
    Py_VISIT(pickles->pickler);
    Py_VISIT(pickles->unpickler);
    Py_VISIT(pickles->bytes_io);
    Py_VISIT(pickles->loads);
    return 0;
}

void
ph_pickles_clear(ph_pickles *pickles)
{
    Py_CLEAR(pickles->pickler);
    Py_CLEAR(pickles->unpickler);
    Py_CLEAR(pickles->bytes_io);
    Py_CLEAR(pickles->loads);
}

/* --- There ----------------------------------------------------------------------- */

/* A bound function: of (our module, list of the references so far). */
static PyObject *
persistent_id(PyObject *bound, PyObject *obj)
{
    const ph_pickles *pickles = ph_interpreter_of(PyTuple_GET_ITEM(bound, 0))->pickles;
    if (!ph_travels_by_name(pickles->travels, obj)) {
        Py_RETURN_NONE;
    }
    PyObject *references = PyTuple_GET_ITEM(bound, 1);
    if (PyList_Append(references, obj) < 0) {
        return NULL;
    }
    return PyLong_FromSsize_t(PyList_GET_SIZE(references) - 1);
}

static PyMethodDef persistent_id_def = {"persistent_id", persistent_id, METH_O, NULL};

static int
set_function(PyObject *pickler, PyObject *module, PyObject *references)
{
    PyObject *bound = PyTuple_Pack(2, module, references);
    PyObject *function = bound ? PyCFunction_New(&persistent_id_def, bound) : NULL;
    int result = function ? PyObject_SetAttrString(pickler, "persistent_id", function)
                          : -1;
    Py_XDECREF(function);
    Py_XDECREF(bound);
    return result;
}

/* All by position: 3.12.1 shares what it knows of the keywords between interpreters, and
   aborts at its end. */
static PyObject *
new_pickler(ph_pickles *pickles, PyObject *file, PyObject *buffers)
{
    if (buffers == NULL) {
        return PyObject_CallFunction(pickles->pickler, "Oi", file, PROTOCOL);
    }
    PyObject *append = PyObject_GetAttrString(buffers, "append");
    PyObject *pickler = append ? PyObject_CallFunction(pickles->pickler, "OiOO", file,
                                                       PROTOCOL, Py_False, append)
                               : NULL;
    Py_XDECREF(append);
    return pickler;
}

static PyObject *
dump(ph_pickles *pickles, PyObject *obj, PyObject *buffers, PyObject *references)
{
    PyObject *file = PyObject_CallNoArgs(pickles->bytes_io);
    PyObject *pickler = file ? new_pickler(pickles, file, buffers) : NULL;
    PyObject *none = NULL, *bytes = NULL;
    if (pickler != NULL && set_function(pickler, pickles->module, references) == 0) {
        none = PyObject_CallMethod(pickler, "dump", "(O)", obj);
    }
    if (none != NULL) {
        bytes = PyObject_CallMethod(file, "getvalue", NULL);
    }
    if (bytes != NULL && !PyBytes_Check(bytes)) {   /* somebody has replaced BytesIO */
        PyErr_Format(PyExc_TypeError, "pickling gave %s, not bytes",
                     Py_TYPE(bytes)->tp_name);
        Py_CLEAR(bytes);
    }
    Py_XDECREF(none);
    Py_XDECREF(pickler);
    Py_XDECREF(file);
    return bytes;
}

static int
write_references(ph_pickles *pickles, PyObject *list, ph_writer *references)
{
    if (PyList_GET_SIZE(list) == 0) {
        return 0;
    }
    PyObject *tuple = PyList_AsTuple(list);
    int result = tuple ? ph_message_write(pickles->travels, tuple, references) : -1;
    Py_XDECREF(tuple);
    if (result == PH_NOT_OURS) {
        PyErr_SetString(PyExc_ValueError, "too many objects for one message");
        result = -1;
    }
    return result;
}

PyObject *
ph_pickle(ph_pickles *pickles, PyObject *obj, PyObject *buffers, ph_writer *references)
{
    PyObject *list = need(pickles) == 0 ? PyList_New(0) : NULL;
    PyObject *bytes = list ? dump(pickles, obj, buffers, list) : NULL;
    if (bytes != NULL && write_references(pickles, list, references) < 0) {
        Py_CLEAR(bytes);
    }
    Py_XDECREF(list);
    return bytes;
}

/* --- And back -------------------------------------------------------------------- */

/* Call with a view of the bytes, and the buffers. */
static PyObject *
with_buffers(PyObject *callable, PyObject *bytes, PyObject *buffers)
{
    if (buffers == NULL || PyList_GET_SIZE(buffers) == 0) {
        return PyObject_CallOneArg(callable, bytes);
    }
    PyObject *args = PyTuple_Pack(1, bytes);
    PyObject *kwargs = Py_BuildValue("{s:O}", "buffers", buffers);
    PyObject *result = args && kwargs ? PyObject_Call(callable, args, kwargs) : NULL;
    Py_XDECREF(args);
    Py_XDECREF(kwargs);
    return result;
}

static PyObject *
load(ph_pickles *pickles, PyObject *bytes, PyObject *buffers, PyObject *references)
{
    PyObject *file = PyObject_CallOneArg(pickles->bytes_io, bytes);
    PyObject *unpickler = file ? with_buffers(pickles->unpickler, file, buffers) : NULL;
    PyObject *item = unpickler ? PyObject_GetAttrString(references, "__getitem__") : NULL;
    PyObject *obj = NULL;
    if (item != NULL && PyObject_SetAttrString(unpickler, "persistent_load", item) == 0) {
        obj = PyObject_CallMethod(unpickler, "load", NULL);
    }
    Py_XDECREF(item);
    Py_XDECREF(unpickler);
    Py_XDECREF(file);
    return obj;
}

static PyObject *
read_references(ph_pickles *pickles, ph_reader *references)
{
    if (references->at == references->end) {
        return PyTuple_New(0);
    }
    PyObject *tuple = ph_message_read(pickles->travels, references);
    if (tuple != NULL && !PyTuple_CheckExact(tuple)) {
        Py_CLEAR(tuple);
        ph_message_damaged(pickles->travels, "what a pickle refers to is no tuple");
    }
    return tuple;
}

PyObject *
ph_unpickle(ph_pickles *pickles, const char *bytes, size_t size, PyObject *buffers,
            ph_reader *references)
{
    PyObject *tuple = need(pickles) == 0 ? read_references(pickles, references) : NULL;
    PyObject *view = tuple ? PyMemoryView_FromMemory((char *)bytes, (Py_ssize_t)size,
                                                     PyBUF_READ) : NULL;
    PyObject *obj = NULL;
    if (view != NULL) {
        obj = PyTuple_GET_SIZE(tuple) == 0          /* then it goes more quickly */
              ? with_buffers(pickles->loads, view, buffers)
              : load(pickles, view, buffers, tuple);
    }
    Py_XDECREF(view);
    Py_XDECREF(tuple);
    return obj;
}
