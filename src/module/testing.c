/* testing.c -- the hooks through which tests see and disturb the core: _core._testing.

   They are part of each build, so that tests run against what is installed; nothing else
   uses them.  _testing is a class that serves as a namespace: its class methods find the
   interpreter's state as those of any type of the module do. */

#include "module/testing.h"

#include <stddef.h>

#include "core/family/family.h"
#include "freeze/audit.h"
#include "module/testing_spans.h"
#include "wire/wire.h"

/* --- Messages ----------------------------------------------------------------- */

PyDoc_STRVAR(pack_doc,
"pack($type, /, *values)\n--\n\n"
"The bytes of the last value as a channel sends them, after the others have been\n"
"written in the same memory.  Raises TypeError for what channels pickle.");

static PyObject *
testing_pack(PyObject *type, PyObject *const *values, Py_ssize_t n)
{
    const ph_wire_state *wire = ph_interpreter_of_type((PyTypeObject *)type)->wire;
    ph_writer writer = {.used = 0};
    PyObject *bytes = NULL;
    int result = PH_NOT_OURS;
    for (Py_ssize_t i = 0; i < n && result >= 0; i++) {
        result = ph_message_write(wire, values[i], &writer);
    }
    if (result == PH_NOT_OURS) {
        PyErr_Format(PyExc_TypeError, "pack: this %s is, or holds, what channels "
                     "pickle", n > 0 ? Py_TYPE(values[n - 1])->tp_name : "nothing");
    }
    else if (result == PH_WRITTEN) {
        bytes = PyBytes_FromStringAndSize(writer.bytes, (Py_ssize_t)writer.used);
    }
    ph_writer_clear(&writer);
    return bytes;
}

PyDoc_STRVAR(unpack_doc,
"unpack($type, message, /)\n--\n\n"
"The value that pack() has made bytes of.  Raises MessageError.");

static PyObject *
testing_unpack(PyObject *type, PyObject *message)
{
    Py_buffer buffer;
    if (PyObject_GetBuffer(message, &buffer, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    const ph_wire_state *wire = ph_interpreter_of_type((PyTypeObject *)type)->wire;
    const char *bytes = buffer.buf;
    ph_reader reader = {.at = bytes, .end = bytes + buffer.len};
    PyObject *obj = ph_message_read(wire, &reader);
    PyBuffer_Release(&buffer);
    return obj;
}

/* --- The heap ----------------------------------------------------------------- */

PyDoc_STRVAR(check_doc,
"check($type, /)\n--\n\n"
"Audit the heap: walk all blocks and return their number, or raise\n"
"AssertionError with what is wrong and where.  O(number of objects).");

static PyObject *
testing_check(PyObject *type, PyObject *Py_UNUSED(ignored))
{
    if (ph_heap_ready() != PH_OK) {
        ph_raise(&ph_interpreter_of_type((PyTypeObject *)type)->exceptions);
        return NULL;
    }
    Py_ssize_t blocks = ph_check();
    return blocks < 0 ? NULL : PyLong_FromSsize_t(blocks);
}

PyDoc_STRVAR(fault_doc,
"fault($type, n=None, /, persistent=False)\n--\n\n"
"Let the n-th system call or allocation of the core from now on fail, and if\n"
"persistent all later ones; 0 disarms.  Returns whether one has failed since it\n"
"was armed.");

static PyObject *
testing_fault(PyObject *Py_UNUSED(type), PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"", "persistent", NULL};
    PyObject *n = Py_None;
    int persistent = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|Op:fault", names, &n,
                                     &persistent)) {
        return NULL;
    }
    if (n != Py_None) {
        long count = PyLong_AsLong(n);
        if (count == -1 && PyErr_Occurred()) {
            return NULL;
        }
        ph_fault_arm(count, persistent);
    }
    return PyBool_FromLong(ph_fault_fired());
}

PyDoc_STRVAR(death_doc,
"death($type, n, /)\n--\n\n"
"Kill this process at the n-th death point from now on; 0 disarms.");

static PyObject *
testing_death(PyObject *Py_UNUSED(type), PyObject *arg)
{
    long n = PyLong_AsLong(arg);
    if (n == -1 && PyErr_Occurred()) {
        return NULL;
    }
    ph_death_arm(n);
    Py_RETURN_NONE;
}

/* --- Structs in shared memory ------------------------------------------------- */

/* Where a field of a struct is, for tests that read the heap's file. */
typedef struct {
    const char *name;
    size_t offset, size, count;     /* bytes, bytes of one item, items */
} struct_field;

#define ITEM(type, field) (((type *)NULL)->field)
#define FIELD(type, field) {#field, offsetof(type, field), sizeof(ITEM(type, field)), 1}
#define ARRAY(type, field)                                                          \
    {#field, offsetof(type, field), sizeof(ITEM(type, field)[0]),                   \
     Py_ARRAY_LENGTH(ITEM(type, field))}

/* Add a field when a test needs it. */
static const struct_field header_fields[] = {
    FIELD(ph_header, journal),
    FIELD(ph_header, spans),
    FIELD(ph_header, claimed),
    FIELD(ph_header, extents),
    ARRAY(ph_header, extent),
    ARRAY(ph_header, process),
    {NULL, 0, 0, 0},
};

static const struct_field extent_fields[] = {
    FIELD(ph_extent, offset),
    FIELD(ph_extent, size),
    FIELD(ph_extent, filled),
    FIELD(ph_extent, owner),
    {NULL, 0, 0, 0},
};

/* Make a dict of a struct's fields. */
static PyObject *
describe_struct(const struct_field *field)
{
    PyObject *fields = PyDict_New();
    for (; fields != NULL && field->name != NULL; field++) {
        PyObject *place = Py_BuildValue("(nnn)", (Py_ssize_t)field->offset,
                                        (Py_ssize_t)field->size,
                                        (Py_ssize_t)field->count);
        if (place == NULL || PyDict_SetItemString(fields, field->name, place) < 0) {
            Py_CLEAR(fields);
        }
        Py_XDECREF(place);
    }
    return fields;
}

PyDoc_STRVAR(structs_doc,
"structs($type, /)\n--\n\n"
"The layout of structs in shared memory: by the struct's name and the field's\n"
"name, (offset, size of an item, number of items).");

static PyObject *
testing_structs(PyObject *Py_UNUSED(type), PyObject *Py_UNUSED(ignored))
{
    return Py_BuildValue("{s:N, s:N}", "ph_header", describe_struct(header_fields),
                         "ph_extent", describe_struct(extent_fields));
}

/* --- The namespace ------------------------------------------------------------ */

static PyMethodDef testing_methods[] = {
    {"pack", (PyCFunction)(void (*)(void))testing_pack, METH_FASTCALL | METH_CLASS,
     pack_doc},
    {"unpack", testing_unpack, METH_O | METH_CLASS, unpack_doc},
    {"check", testing_check, METH_NOARGS | METH_CLASS, check_doc},
    {"fault", (PyCFunction)(void (*)(void))testing_fault,
     METH_VARARGS | METH_KEYWORDS | METH_CLASS, fault_doc},
    {"death", testing_death, METH_O | METH_CLASS, death_doc},
    {"structs", testing_structs, METH_NOARGS | METH_CLASS, structs_doc},
    {"span_new", ph_testing_span_new, METH_VARARGS | METH_CLASS, NULL},
    {"span_hold", ph_testing_span_hold, METH_VARARGS | METH_CLASS, NULL},
    {"span_drop", ph_testing_span_drop, METH_O | METH_CLASS, NULL},
    {"span_view", ph_testing_span_view, METH_O | METH_CLASS, NULL},
    {"span_message", ph_testing_span_message, METH_VARARGS | METH_CLASS, NULL},
    {"span_send", ph_testing_span_send, METH_VARARGS | METH_CLASS, NULL},
    {"span_sweep", ph_testing_span_sweep, METH_O | METH_CLASS, NULL},
    {"span_times", ph_testing_span_times, METH_VARARGS | METH_CLASS, NULL},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(testing_doc,
"Hooks for the tests of permaheap.  They may change without notice.");

static PyType_Slot testing_slots[] = {
    {Py_tp_doc, (void *)testing_doc},
    {Py_tp_methods, testing_methods},
    {0, NULL},
};

static PyType_Spec testing_spec = {
    .name = "permaheap._core._testing",
    .basicsize = sizeof(PyObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = testing_slots,
};

int
ph_testing_add(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &testing_spec, NULL);
    int result = type ? PyModule_AddType(module, (PyTypeObject *)type) : -1;
    Py_XDECREF(type);
    return result;
}
