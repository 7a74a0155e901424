/* pickle.c -- objects that only pickle can carry, with references to those that are sent
   by name.

   An object of a user's type is pickled, with all that it leads to.  Pickle would copy or
   refuse the permanent objects, Buffers, Channels, Handles and loans in it.  So it leaves
   them out: pickle asks for a *persistent id* of each object, pickles the id in its place,
   and asks for the object of an id when it unpickles.  Here the id is an index into a tuple
   of *references*.  The tuple is sent beside the pickle, as an ordinary value (encode.c).

   Shared objects stay shared.  An object that is referred to twice is in the tuple twice;
   the memo of the message makes it one object at the receiver.

   Pickler and Unpickler are subclassed, so that their instances have attributes.

   The idea is from Python's documentation of pickle, "Persistence of External Objects". */

#include "wire/pickle.h"

#define PROTOCOL 5

static int
get_attribute(PyObject *module, const char *name, PyObject **p_attribute)
{
    PyObject *attribute = PyObject_GetAttrString(module, name);
    if (attribute == NULL) {
        return -1;
    }
    Py_XSETREF(*p_attribute, attribute);
    return 0;
}

static int
make_subclass(PyObject *module, const char *name, PyObject **p_type)
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

/* Import the classes.  `loads` is set last: if it is there, all are. */
static int
need_pickle(ph_pickles *pickles)
{
    if (pickles->loads != NULL) {
        assert(pickles->pickler != NULL && pickles->unpickler != NULL);
        assert(pickles->bytes_io != NULL);
        return 0;
    }
    PyObject *io = PyImport_ImportModule("io");
    PyObject *pickle = io ? PyImport_ImportModule("pickle") : NULL;
    int result = -1;
    if (pickle != NULL && get_attribute(io, "BytesIO", &pickles->bytes_io) == 0
        && make_subclass(pickle, "Pickler", &pickles->pickler) == 0
        && make_subclass(pickle, "Unpickler", &pickles->unpickler) == 0) {
        result = get_attribute(pickle, "loads", &pickles->loads);
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
    Py_CLEAR(pickles->loads);
    Py_CLEAR(pickles->pickler);
    Py_CLEAR(pickles->unpickler);
    Py_CLEAR(pickles->bytes_io);
}

/* --- Pickling ----------------------------------------------------------------- */

/* Return an object's index among the references, or None to pickle it.  Bound to (module
   permaheap._core, list of the references so far). */
static PyObject *
persistent_id(PyObject *bound, PyObject *obj)
{
    assert(PyTuple_GET_SIZE(bound) == 2 && PyList_Check(PyTuple_GET_ITEM(bound, 1)));
    const ph_pickles *pickles = ph_interpreter_of(PyTuple_GET_ITEM(bound, 0))->pickles;
    if (!ph_wire_type_named(pickles->wire, obj)) {
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
set_persistent_id(PyObject *pickler, PyObject *module, PyObject *references)
{
    PyObject *bound = PyTuple_Pack(2, module, references);
    PyObject *function = bound ? PyCFunction_New(&persistent_id_def, bound) : NULL;
    int result = function ? PyObject_SetAttrString(pickler, "persistent_id", function)
                          : -1;
    Py_XDECREF(function);
    Py_XDECREF(bound);
    return result;
}

/* Pass all arguments by position: 3.12.1 shares its parser's keywords between
   interpreters, and aborts at its end. */
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
dump_object(ph_pickles *pickles, PyObject *obj, PyObject *buffers, PyObject *references)
{
    PyObject *file = PyObject_CallNoArgs(pickles->bytes_io);
    PyObject *pickler = file ? new_pickler(pickles, file, buffers) : NULL;
    PyObject *none = NULL, *bytes = NULL;
    if (pickler != NULL && set_persistent_id(pickler, pickles->module, references) == 0) {
        none = PyObject_CallMethod(pickler, "dump", "(O)", obj);
    }
    if (none != NULL) {
        bytes = PyObject_CallMethod(file, "getvalue", NULL);
    }
    if (bytes != NULL && !PyBytes_Check(bytes)) {   /* a program has replaced BytesIO */
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
    int result = tuple ? ph_message_write(pickles->wire, tuple, references) : -1;
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
    PyObject *list = need_pickle(pickles) == 0 ? PyList_New(0) : NULL;
    PyObject *bytes = list ? dump_object(pickles, obj, buffers, list) : NULL;
    if (bytes != NULL && write_references(pickles, list, references) < 0) {
        Py_CLEAR(bytes);
    }
    Py_XDECREF(list);
    return bytes;
}

/* --- Unpickling --------------------------------------------------------------- */

/* Call with the bytes (a view, or a file of them), and the buffers if there are any. */
static PyObject *
call_with_buffers(PyObject *callable, PyObject *bytes, PyObject *buffers)
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
load_object(ph_pickles *pickles, PyObject *bytes, PyObject *buffers, PyObject *references)
{
    PyObject *file = PyObject_CallOneArg(pickles->bytes_io, bytes);
    PyObject *unpickler = file ? call_with_buffers(pickles->unpickler, file, buffers)
                               : NULL;
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
    PyObject *tuple = ph_message_read(pickles->wire, references);
    if (tuple != NULL && !PyTuple_CheckExact(tuple)) {
        Py_CLEAR(tuple);
        ph_message_damaged(pickles->wire, "what a pickle refers to is no tuple");
    }
    return tuple;
}

PyObject *
ph_unpickle(ph_pickles *pickles, const char *bytes, size_t size, PyObject *buffers,
            ph_reader *references)
{
    PyObject *tuple = need_pickle(pickles) == 0 ? read_references(pickles, references)
                                                : NULL;
    PyObject *view = tuple ? PyMemoryView_FromMemory((char *)bytes, (Py_ssize_t)size,
                                                     PyBUF_READ) : NULL;
    PyObject *obj = NULL;
    if (view != NULL) {
        obj = PyTuple_GET_SIZE(tuple) == 0          /* the quicker way */
              ? call_with_buffers(pickles->loads, view, buffers)
              : load_object(pickles, view, buffers, tuple);
    }
    Py_XDECREF(view);
    Py_XDECREF(tuple);
    return obj;
}
