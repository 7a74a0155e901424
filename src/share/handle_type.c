/* handle_type.c -- the type Handle, and share(), which makes one.

   A Handle is the 40 bytes of a ph_handle as a Python object: it names a permanent
   object, a static one, or the span of a read-only Buffer, and keeps none of them alive.
   It is constant once it is made.

   The core knows only names of what is in the heap.  Static objects have numbers of
   layout/, and those of module datetime exist only in interpreters that have imported it:
   both cases are told apart here. */

#include "share/handle_type.h"

#include <string.h>

#include "core/family/family.h"
#include "layout/datetime.h"
#include "layout/statics.h"
#include "share/buffer.h"

typedef struct {
    PyObject_HEAD
    ph_handle handle;
} HandleObject;

const ph_handle *
ph_handle_of(PyObject *self)
{
    return &((HandleObject *)self)->handle;
}

static PyObject *
handle_new(PyTypeObject *type, const ph_handle *handle)
{
    PyObject *self = ph_instance_new(type);
    if (self != NULL) {
        ((HandleObject *)self)->handle = *handle;
    }
    return self;
}

static void
handle_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

/* Return the static object of a number.  timezone.utc is static once datetime was
   imported. */
static PyObject *
resolve_static(ph_interpreter *interp, uint32_t number)
{
    PyObject *obj = ph_static_at(number);
    if (obj == NULL) {
        if (ph_need_datetime(&interp->has_datetime) < 0) {
            return NULL;
        }
        obj = ph_static_at(number);
    }
    if (obj == NULL) {
        PyErr_SetString(interp->exceptions.handle_error,
                        "permaheap: this handle names no static object");
    }
    return Py_XNewRef(obj);
}

PyObject *
ph_resolve(ph_interpreter *interp, const ph_handle *handle)
{
    void *obj;
    uint32_t flags;
    if (ph_handle_is_span(handle)) {
        return ph_buffer_resolve(interp->buffer_type, handle);
    }
    if (ph_handle_resolve(handle, &obj, &flags) != PH_OK) {
        ph_raise(&interp->exceptions);
        return NULL;
    }
    if (ph_handle_is_number(handle)) {
        return resolve_static(interp, (uint32_t)handle->object);
    }
    if ((flags & PH_BLOCK_DATETIME) && ph_need_datetime(&interp->has_datetime) < 0) {
        return NULL;
    }
    assert(obj != NULL);
    return Py_NewRef((PyObject *)obj);
}

PyDoc_STRVAR(handle_get_doc,
"get($self, /)\n--\n\n"
"The object that this handle names: the same one, in any process or\n"
"interpreter of the family; for the handle of a Buffer, a read-only Buffer onto\n"
"the same memory.  Raises HandleError when the handle is damaged or of another family,\n"
"or when its block was released or the Buffer is gone.  O(1), whatever the\n"
"object's size.");

static PyObject *
handle_get(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return ph_resolve(ph_interpreter_of_type(Py_TYPE(self)), ph_handle_of(self));
}

static PyObject *
handle_bytes(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyBytes_FromStringAndSize((const char *)ph_handle_of(self), PH_HANDLE_SIZE);
}

PyDoc_STRVAR(handle_from_bytes_doc,
"from_bytes($type, data, /)\n--\n\n"
"The handle whose bytes(handle) is data, a bytes-like object of 40 bytes.\n"
"Raises ValueError for another length.");

static PyObject *
handle_from_bytes(PyObject *type, PyObject *data)
{
    Py_buffer buffer;
    if (PyObject_GetBuffer(data, &buffer, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    PyObject *self = NULL;
    if (buffer.len != PH_HANDLE_SIZE) {
        PyErr_Format(PyExc_ValueError, "a handle has %d bytes, not %zd",
                     PH_HANDLE_SIZE, buffer.len);
    }
    else {
        ph_handle handle;
        memcpy(&handle, buffer.buf, PH_HANDLE_SIZE);
        self = handle_new((PyTypeObject *)type, &handle);
    }
    PyBuffer_Release(&buffer);
    return self;
}

static PyObject *
handle_reduce(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *from_bytes = PyObject_GetAttrString((PyObject *)Py_TYPE(self),
                                                  "from_bytes");
    if (from_bytes == NULL) {
        return NULL;
    }
    return Py_BuildValue("N(N)", from_bytes, handle_bytes(self, NULL));
}

static PyObject *
handle_richcompare(PyObject *self, PyObject *other, int op)
{
    if ((op != Py_EQ && op != Py_NE) || Py_TYPE(other) != Py_TYPE(self)) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    bool equal = memcmp(ph_handle_of(self), ph_handle_of(other), PH_HANDLE_SIZE) == 0;
    return PyBool_FromLong(equal == (op == Py_EQ));
}

static Py_hash_t
handle_hash(PyObject *self)
{
    Py_hash_t hash = (Py_hash_t)ph_handle_of(self)->tag;
    return hash == -1 ? -2 : hash;
}

static PyObject *
handle_repr(PyObject *self)
{
    const ph_handle *handle = ph_handle_of(self);
    const char *what = ph_handle_is_span(handle) ? "Buffer" : "offset";
    uint64_t number = ph_handle_is_span(handle) ? (uint32_t)handle->object
                                                : handle->object;
    return PyUnicode_FromFormat("<permaheap.Handle of %s %llu in family "
                                "%02x%02x%02x%02x>", what,
                                (unsigned long long)number,
                                handle->family[0], handle->family[1],
                                handle->family[2], handle->family[3]);
}

/* A Handle is sent as its bytes. */
static int
handle_write(ph_writer *writer, PyObject *obj)
{
    return ph_write_bytes(writer, ph_handle_of(obj), PH_HANDLE_SIZE);
}

static PyObject *
handle_read(const ph_wire_state *wire, ph_reader *reader)
{
    const void *bytes;
    ph_handle handle;
    if (ph_read_bytes(reader, &bytes, PH_HANDLE_SIZE) < 0) {
        return NULL;
    }
    memcpy(&handle, bytes, PH_HANDLE_SIZE);
    return handle_new(wire->interp->handle_type, &handle);
}

static PyMethodDef handle_methods[] = {
    {"get", handle_get, METH_NOARGS, handle_get_doc},
    {"from_bytes", handle_from_bytes, METH_O | METH_CLASS, handle_from_bytes_doc},
    {"__bytes__", handle_bytes, METH_NOARGS, PyDoc_STR("The 40 bytes of the handle.")},
    {"__reduce__", handle_reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(handle_doc,
"The name of a permanent object or a read-only Buffer, made by share(): 40 bytes\n"
"that can pass through any queue, pipe, file or pickle.");

static PyType_Slot handle_slots[] = {
    {Py_tp_doc, (void *)handle_doc},
    {Py_tp_dealloc, handle_dealloc},
    {Py_tp_methods, handle_methods},
    {Py_tp_richcompare, handle_richcompare},
    {Py_tp_hash, handle_hash},
    {Py_tp_repr, handle_repr},
    {0, NULL},
};

static PyType_Spec handle_spec = {
    .name = "permaheap.Handle",
    .basicsize = sizeof(HandleObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = handle_slots,
};

PyDoc_STRVAR(share_doc,
"share($module, frozen, /)\n--\n\n"
"A Handle that names a permanent object, not only the root of a freeze, or a\n"
"read-only Buffer, which it does not keep alive.\n\n"
"Raises TypeError for an object that is not permanent and for a writable Buffer;\n"
"HandleError for an object of a block that was released, ValueError for a\n"
"released Buffer.  O(1).");

PyObject *
ph_share(const ph_interpreter *interp, PyObject *obj)
{
    ph_handle handle;
    if (Py_TYPE(obj) == interp->buffer_type) {
        return ph_buffer_share(obj, &handle) < 0
                   ? NULL : handle_new(interp->handle_type, &handle);
    }
    if (!ph_is_permanent(obj)) {
        PyErr_Format(PyExc_TypeError,
                     "share: this %s is not a permanent object; freeze() it first",
                     Py_TYPE(obj)->tp_name);
        return NULL;
    }
    if (ph_heap_ready() != PH_OK) {
        ph_raise(&interp->exceptions);
        return NULL;
    }
    if (!ph_heap_contains(obj)) {
        ph_handle_of_number(ph_static_number(obj), &handle);
    }
    else if (ph_handle_make(obj, &handle) != PH_OK) {
        ph_raise(&interp->exceptions);
        return NULL;
    }
    return handle_new(interp->handle_type, &handle);
}

static PyObject *
core_share(PyObject *module, PyObject *obj)
{
    return ph_share(ph_interpreter_of(module), obj);
}

static PyMethodDef handle_functions[] = {
    {"share", core_share, METH_O, share_doc},
    {NULL, NULL, 0, NULL},
};

int
ph_handle_add(PyObject *module)
{
    ph_interpreter *interp = ph_interpreter_of(module);
    interp->handle_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &handle_spec,
                                                                   NULL);
    if (interp->handle_type == NULL || PyModule_AddType(module, interp->handle_type) < 0) {
        return -1;
    }
    ph_wire_add_type(interp->wire, (ph_wire_type){
        .type = interp->handle_type, .write = handle_write, .read = handle_read,
    });
    return PyModule_AddFunctions(module, handle_functions);
}
