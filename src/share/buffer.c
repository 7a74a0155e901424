/* buffer.c -- the type Buffer: shared memory with one owner, or many readers.

   A Buffer is a hold on a span (spans.h), and exports the span's memory through the buffer
   protocol.  Its states:

       writable    --move()-->        on the move --sent-->  released
       writable    --toreadonly()-->  read-only   --share()--> (handles)
       any of them --release()-->     released

   1. At most one Buffer of a process is writable for a span: the owner.  move() and a
      message hand the hold on, and release the Buffer that they take it from.  (A forked
      child inherits its parent's Buffers, as with any shared memory.)
   2. Read-only is for good.  A Buffer becomes read-only only if no writable view can exist:
      it has no exports, and neither another process nor a message holds the span.  All that
      is made from it is read-only: further Buffers, handles, messages.
   3. An exported Buffer keeps its hold: release() and move() refuse.  A view keeps the
      Buffer alive, and the Buffer the span.
   4. The Buffers of a message that waits to be sent are pinned: they can be neither
      released nor moved.  A pinned Buffer that is on the move is not exported.  Pins are
      capsules in ph_writer.moved, so they end with the writer, also after an error.

   A Buffer belongs to one interpreter, and all its fields are written with that
   interpreter's GIL held.  Only the span is shared. */

#include "share/buffer.h"

#include <stddef.h>
#include <string.h>

#include "core/family/family.h"
#include "state/view.h"

#define LARGE (256 * (Py_ssize_t)PH_KIB)    /* bytes that are copied without the GIL */
#define PIN "permaheap.Buffer in a message"
#define READONLY 1u                 /* flag of a Buffer in a message */

typedef struct {
    PyObject_HEAD
    char *address;                  /* NULL: released */
    Py_ssize_t size;                /* bytes */
    ph_span_id span;                /* held once, unless released */
    Py_ssize_t exports;             /* Py_buffers that are not released */
    Py_ssize_t pins;                /* messages with it that wait to be sent */
    bool readonly;                  /* for good */
    bool moving;                    /* the next message takes it */
    PyObject *weakrefs;
} BufferObject;

static BufferObject *
buffer_of(PyObject *op)
{
    return (BufferObject *)op;
}

/* --- States ------------------------------------------------------------------- */

static const ph_exceptions *
exceptions_of(PyTypeObject *type)
{
    return &ph_interpreter_of_type(type)->exceptions;
}

static int
check_not_released(BufferObject *self)
{
    if (self->address == NULL) {
        PyErr_SetString(PyExc_ValueError,
                        "operation forbidden on released Buffer object");
        return -1;
    }
    return 0;
}

/* Fail if an export or a message relies on this Buffer as it is. */
static int
check_idle(BufferObject *self, const char *what)
{
    if (self->exports > 0) {
        PyErr_Format(PyExc_BufferError, "%s: this Buffer has %zd exported view%s; "
                     "release those first (memoryview.release(), or del of arrays)",
                     what, self->exports, self->exports == 1 ? "" : "s");
        return -1;
    }
    if (self->pins > 0) {
        PyErr_Format(PyExc_BufferError, "%s: this Buffer is being sent by another "
                     "thread or task", what);
        return -1;
    }
    return 0;
}

/* Fail if another process could have a writable view (invariant 2). */
static int
check_alone(BufferObject *self)
{
    if (check_idle(self, "toreadonly") < 0) {
        return -1;
    }
    if (!ph_span_is_ours(self->span)) {
        (void)ph_spans_sweep();     /* a child that had it may have ended */
        if (!ph_span_is_ours(self->span)) {
            PyErr_SetString(PyExc_BufferError, "toreadonly: another process could "
                            "write to this Buffer, since it was forked while the "
                            "Buffer was there; release it there first, or copy it: "
                            "Buffer.of(buf)");
            return -1;
        }
    }
    return 0;
}

static void
drop_hold(BufferObject *self)
{
    if (self->address != NULL) {
        assert(self->exports == 0);             /* invariant 3 */
        self->address = NULL;
        ph_span_drop(self->span);
    }
}

/* Give a new Buffer the caller's hold on a span. */
static void
set_hold(BufferObject *self, ph_span_id id)
{
    assert(self->address == NULL);
    self->span = id;
    self->size = (Py_ssize_t)ph_span_size(id);
    self->address = ph_span_address(id);
    assert(self->address != NULL && self->size >= 0);
}

/* Make one more Buffer onto a span, with a hold of its own. */
static PyObject *
buffer_onto(PyTypeObject *type, ph_span_id id, bool readonly)
{
    BufferObject *self = buffer_of(ph_instance_new(type));
    if (self == NULL) {
        return NULL;
    }
    if (ph_span_hold(id, PH_SPAN_BUFFER) != PH_OK) {
        if (ph_error_status() == PH_BAD_HANDLE) {
            ph_fail(PH_BAD_HANDLE, "permaheap: this Buffer is gone: nobody holds it "
                    "any more. A handle does not keep it alive; hold a Buffer of it "
                    "for as long as others may want it");
        }
        ph_raise(exceptions_of(type));
        Py_DECREF(self);
        return NULL;
    }
    set_hold(self, id);
    self->readonly = readonly;
    return (PyObject *)self;
}

/* --- Making and ending -------------------------------------------------------- */

static ph_status
new_span(Py_ssize_t size, bool zeroed, ph_span_id *id)
{
    ph_status status;
    if (size < LARGE) {
        return ph_span_new(PH_SPAN_BUFFER, (uint64_t)size, zeroed, id);
    }
    Py_BEGIN_ALLOW_THREADS
    status = ph_span_new(PH_SPAN_BUFFER, (uint64_t)size, zeroed, id);
    Py_END_ALLOW_THREADS
    return status;
}

static PyObject *
buffer_make(PyTypeObject *type, Py_ssize_t size, bool zeroed)
{
    ph_span_id id;
    PyObject *self = type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    ph_status status = ph_heap_ready();
    if (status == PH_OK) {
        status = new_span(size, zeroed, &id);
    }
    if (status != PH_OK) {
        ph_raise(exceptions_of(type));
        Py_DECREF(self);
        return NULL;
    }
    set_hold(buffer_of(self), id);
    return self;
}

static PyObject *
buffer_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"nbytes", NULL};
    PyObject *number;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:Buffer", names, &number)) {
        return NULL;
    }
    if (!PyIndex_Check(number)) {
        PyErr_Format(PyExc_TypeError, "Buffer: nbytes must be an int, not %s; "
                     "Buffer.of() copies a bytes-like object",
                     Py_TYPE(number)->tp_name);
        return NULL;
    }
    Py_ssize_t size = PyNumber_AsSsize_t(number, PyExc_OverflowError);
    if (size == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (size < 0) {
        PyErr_Format(PyExc_ValueError, "Buffer: nbytes must not be negative: %zd",
                     size);
        return NULL;
    }
    return buffer_make(type, size, true);
}

/* Copy the bytes of `view` in C order, whatever their order in memory. */
static int
copy_view(char *to, Py_buffer *view)
{
    if (!PyBuffer_IsContiguous(view, 'C')) {
        return PyBuffer_ToContiguous(to, view, view->len, 'C');
    }
    if (view->len < LARGE) {
        memcpy(to, view->buf, (size_t)view->len);
        return 0;
    }
    Py_BEGIN_ALLOW_THREADS
    memcpy(to, view->buf, (size_t)view->len);
    Py_END_ALLOW_THREADS
    return 0;
}

PyDoc_STRVAR(of_doc,
"of($type, data, /)\n--\n\n"
"A Buffer with a copy of a bytes-like object.\n\n"
"Raises TypeError for another object and for an array of objects, whose bytes are\n"
"addresses; MemoryError when there is no memory.\n"
"O(bytes), without the GIL when they are many.");

static PyObject *
buffer_of_bytes(PyObject *type, PyObject *data)
{
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_FULL_RO) < 0) {
        return NULL;
    }
    if (ph_format_has_pointers(view.format)) {
        PyErr_Format(PyExc_TypeError, "Buffer.of: the items of this %s are Python objects, and "
                     "only their addresses could be copied; freeze() its tolist()",
                     Py_TYPE(data)->tp_name);
        PyBuffer_Release(&view);
        return NULL;
    }
    PyObject *self = buffer_make((PyTypeObject *)type, view.len, false);
    if (self != NULL && copy_view(buffer_of(self)->address, &view) < 0) {
        Py_CLEAR(self);
    }
    PyBuffer_Release(&view);
    return self;
}

static void
buffer_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    assert(buffer_of(op)->exports == 0 && buffer_of(op)->pins == 0);   /* 3, 4 */
    if (buffer_of(op)->weakrefs != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    drop_hold(buffer_of(op));
    type->tp_free(op);
    Py_DECREF(type);
}

PyDoc_STRVAR(release_doc,
"release($self, /)\n--\n\n"
"Give up the memory now: it is free when nobody else holds it.\n\n"
"Whatever is done with the Buffer later raises ValueError, but for release().\n"
"Raises BufferError while a view exports it.  O(1).");

static PyObject *
buffer_release(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    BufferObject *self = buffer_of(op);
    if (self->address != NULL) {
        if (check_idle(self, "release") < 0) {
            return NULL;
        }
        drop_hold(self);
    }
    Py_RETURN_NONE;
}

static PyObject *
buffer_enter(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return check_not_released(buffer_of(op)) < 0 ? NULL : Py_NewRef(op);
}

static PyObject *
buffer_exit(PyObject *op, PyObject *Py_UNUSED(args))
{
    return buffer_release(op, NULL);
}

/* --- Seeing the memory -------------------------------------------------------- */

static int
buffer_get(PyObject *op, Py_buffer *view, int flags)
{
    BufferObject *self = buffer_of(op);
    view->obj = NULL;
    if (check_not_released(self) < 0) {
        return -1;
    }
    if (self->moving && self->pins > 0) {
        PyErr_SetString(PyExc_BufferError,
                        "this Buffer is being sent by another thread or task");
        return -1;
    }
    if (PyBuffer_FillInfo(view, op, self->address, self->size, self->readonly,
                          flags) < 0) {
        return -1;
    }
    self->exports++;
    return 0;
}

static void
buffer_put(PyObject *op, Py_buffer *Py_UNUSED(view))
{
    assert(buffer_of(op)->exports > 0 && buffer_of(op)->address != NULL);
    buffer_of(op)->exports--;
}

static Py_ssize_t
buffer_length(PyObject *op)
{
    return check_not_released(buffer_of(op)) < 0 ? -1 : buffer_of(op)->size;
}

/* Indices and slices work as those of a memoryview. */
static PyObject *
buffer_subscript(PyObject *op, PyObject *key)
{
    PyObject *view = PyMemoryView_FromObject(op);
    PyObject *item = view ? PyObject_GetItem(view, key) : NULL;
    Py_XDECREF(view);
    return item;
}

static int
buffer_ass_subscript(PyObject *op, PyObject *key, PyObject *value)
{
    int result = -1;
    PyObject *view = PyMemoryView_FromObject(op);
    if (view != NULL) {
        result = value ? PyObject_SetItem(view, key, value)
                       : PyObject_DelItem(view, key);
        Py_DECREF(view);
    }
    return result;
}

static PyObject *
buffer_get_nbytes(PyObject *op, void *Py_UNUSED(closure))
{
    Py_ssize_t size = buffer_length(op);
    return size < 0 ? NULL : PyLong_FromSsize_t(size);
}

static PyObject *
buffer_get_readonly(PyObject *op, void *Py_UNUSED(closure))
{
    return check_not_released(buffer_of(op)) < 0 ? NULL
                                         : PyBool_FromLong(buffer_of(op)->readonly);
}

static PyObject *
buffer_get_released(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(buffer_of(op)->address == NULL);
}

static PyObject *
buffer_repr(PyObject *op)
{
    BufferObject *self = buffer_of(op);
    if (self->address == NULL) {
        return PyUnicode_FromString("<permaheap.Buffer, released>");
    }
    return PyUnicode_FromFormat("<permaheap.Buffer of %zd bytes, %s%s>", self->size,
                                self->readonly ? "read-only" : "writable",
                                self->moving ? ", on the move" : "");
}

PyDoc_STRVAR(toreadonly_doc,
"toreadonly($self, /)\n--\n\n"
"A read-only Buffer onto the same memory; this one becomes read-only as well.\n\n"
"It is so for good: nobody can have a writable view of this memory any more,\n"
"so that it may be shared by many.  Raises BufferError while a view exports a\n"
"writable Buffer, and while another process has it by fork.  O(1).");

static PyObject *
buffer_toreadonly(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    BufferObject *self = buffer_of(op);
    if (check_not_released(self) < 0 || (!self->readonly && check_alone(self) < 0)) {
        return NULL;
    }
    PyObject *other = buffer_onto(Py_TYPE(op), self->span, true);
    if (other != NULL) {
        assert(self->readonly || (self->exports == 0 && self->pins == 0));  /* 2 */
        self->readonly = true;
    }
    return other;
}

static PyObject *
buffer_reduce(PyObject *Py_UNUSED(op), PyObject *Py_UNUSED(ignored))
{
    PyErr_SetString(PyExc_TypeError, "a Buffer is not pickled or copied: pickle "
                    "share(buf.toreadonly()), send move(buf) through a "
                    "permaheap.Channel, or copy it: Buffer.of(buf)");
    return NULL;
}

/* --- Handing it on ------------------------------------------------------------ */

PyDoc_STRVAR(move_doc,
"move($module, buf, /)\n--\n\n"
"Take a Buffer's ownership, to hand it on: a new Buffer onto the same memory,\n"
"on the move; buf itself is released.\n\n"
"A Channel takes it over when the message was sent; if that fails it is still\n"
"yours.  Raises BufferError while a view exports buf, ValueError when it is\n"
"released, TypeError for what is no Buffer.  O(1), whatever its size.\n\n"
"The idea is from the actor languages: what is sent is no longer the sender's.");

static PyObject *
core_move(PyObject *module, PyObject *obj)
{
    PyTypeObject *type = ph_interpreter_of(module)->buffer_type;
    BufferObject *self = buffer_of(obj);
    if (Py_TYPE(obj) != type) {
        PyErr_Format(PyExc_TypeError, "move: a Buffer is needed, not %s",
                     Py_TYPE(obj)->tp_name);
        return NULL;
    }
    if (check_not_released(self) < 0 || check_idle(self, "move") < 0) {
        return NULL;
    }
    BufferObject *moved = buffer_of(type->tp_alloc(type, 0));
    if (moved != NULL) {
        assert(self->exports == 0 && self->pins == 0);      /* 3, 4 */
        moved->address = self->address;
        moved->size = self->size;
        moved->span = self->span;
        moved->readonly = self->readonly;
        moved->moving = true;
        self->address = NULL;       /* the hold goes with it */
    }
    return (PyObject *)moved;
}

int
ph_buffer_share(PyObject *buffer, ph_handle *handle)
{
    BufferObject *self = buffer_of(buffer);
    if (check_not_released(self) < 0) {
        return -1;
    }
    if (!self->readonly) {
        PyErr_SetString(PyExc_TypeError, "share: this Buffer is writable; share "
                        "buf.toreadonly(), or send move(buf) through a Channel");
        return -1;
    }
    ph_handle_of_span(self->span, handle);
    return 0;
}

PyObject *
ph_buffer_resolve(PyTypeObject *type, const ph_handle *handle)
{
    ph_span_id id;
    if (ph_handle_span(handle, &id) != PH_OK) {
        ph_raise(exceptions_of(type));
        return NULL;
    }
    return buffer_onto(type, id, true);
}

/* --- In messages -------------------------------------------------------------- */

static void
unpin_buffer(PyObject *pin)
{
    BufferObject *self = PyCapsule_GetPointer(pin, PIN);
    assert(self->pins > 0);
    self->pins--;
    Py_DECREF(self);
}

static int
pin_buffer(ph_writer *writer, BufferObject *self)
{
    assert(self->address != NULL && (!self->moving || self->pins == 0));
    if (writer->moved == NULL && (writer->moved = PyList_New(0)) == NULL) {
        return -1;
    }
    PyObject *pin = PyCapsule_New(self, PIN, unpin_buffer);
    if (pin == NULL) {
        return -1;
    }
    Py_INCREF(self);
    self->pins++;
    int result = PyList_Append(writer->moved, pin);
    Py_DECREF(pin);
    return result;
}

void
ph_buffer_consume(PyObject *pin)
{
    BufferObject *self = PyCapsule_GetPointer(pin, PIN);
    assert(self->pins > 0);
    if (self->moving) {
        assert(self->exports == 0);             /* invariant 4 */
        drop_hold(self);
    }
}

static int
buffer_write(ph_writer *writer, PyObject *op)
{
    BufferObject *self = buffer_of(op);
    if (check_not_released(self) < 0) {
        return -1;
    }
    if (!self->readonly && !self->moving) {
        PyErr_SetString(PyExc_TypeError, "a writable Buffer cannot be sent as it is: "
                        "send move(buf), or buf.toreadonly()");
        return -1;
    }
    if ((self->moving && check_idle(self, "send") < 0) || pin_buffer(writer, self) < 0
        || ph_write_word(writer, self->readonly ? READONLY : 0) < 0) {
        return -1;
    }
    return ph_write_span(writer, self->span);
}

/* Make a Buffer with a hold of its own, if the span is a Buffer's.  The message's hold is
   not needed afterwards. */
static PyObject *
buffer_read(const ph_wire_state *wire, ph_reader *reader)
{
    uint64_t flags;
    ph_span_id id;
    if (ph_read_word(reader, &flags) < 0 || ph_read_span(reader, &id) < 0) {
        return NULL;
    }
    PyObject *self = NULL;
    if ((flags & ~(uint64_t)READONLY) != 0) {
        ph_message_damaged(wire, "a Buffer of an unknown kind");
    }
    else {
        self = buffer_onto(wire->interp->buffer_type, id, flags & READONLY);
    }
    ph_span_drop(id);
    return self;
}

/* --- Type --------------------------------------------------------------------- */

static PyMethodDef buffer_methods[] = {
    {"of", buffer_of_bytes, METH_O | METH_CLASS, of_doc},
    {"toreadonly", buffer_toreadonly, METH_NOARGS, toreadonly_doc},
    {"release", buffer_release, METH_NOARGS, release_doc},
    {"__enter__", buffer_enter, METH_NOARGS, NULL},
    {"__exit__", buffer_exit, METH_VARARGS, NULL},
    {"__reduce__", buffer_reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef buffer_getset[] = {
    {"nbytes", buffer_get_nbytes, NULL, PyDoc_STR("Its size in bytes."), NULL},
    {"readonly", buffer_get_readonly, NULL,
     PyDoc_STR("Whether it is read-only, for good."), NULL},
    {"released", buffer_get_released, NULL,
     PyDoc_STR("Whether it was released, moved or sent."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef buffer_members[] = {
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(BufferObject, weakrefs),
     Py_READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(buffer_doc,
"Buffer(nbytes)\n--\n\n"
"Memory that the family shares: nbytes bytes, all zero.\n\n"
"It supports the buffer protocol: memoryview, numpy.frombuffer, readinto and\n"
"whatever else takes a writable bytes-like object work on it without a copy.\n"
"It has one owner: move() hands it on, toreadonly() makes it read-only for\n"
"many.  Its memory is free when the last Buffer or view of it, in any process\n"
"or interpreter, is gone.\n\n"
"Raises MemoryError when there is no memory, ValueError for a negative size.\n"
"O(nbytes), without the GIL when they are many.");

static PyType_Slot buffer_slots[] = {
    {Py_tp_doc, (void *)buffer_doc},
    {Py_tp_new, buffer_new},
    {Py_tp_dealloc, buffer_dealloc},
    {Py_tp_methods, buffer_methods},
    {Py_tp_getset, buffer_getset},
    {Py_tp_members, buffer_members},
    {Py_tp_repr, buffer_repr},
    {Py_bf_getbuffer, buffer_get},
    {Py_bf_releasebuffer, buffer_put},
    {Py_mp_length, buffer_length},
    {Py_mp_subscript, buffer_subscript},
    {Py_mp_ass_subscript, buffer_ass_subscript},
    {0, NULL},
};

static PyType_Spec buffer_spec = {
    .name = "permaheap.Buffer",
    .basicsize = sizeof(BufferObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = buffer_slots,
};

static PyMethodDef buffer_functions[] = {
    {"move", core_move, METH_O, move_doc},
    {NULL, NULL, 0, NULL},
};

int
ph_buffer_add(PyObject *module)
{
    ph_interpreter *interp = ph_interpreter_of(module);
    interp->buffer_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &buffer_spec,
                                                                   NULL);
    if (interp->buffer_type == NULL || PyModule_AddType(module, interp->buffer_type) < 0) {
        return -1;
    }
    ph_wire_add_type(interp->wire, (ph_wire_type){
        .type = interp->buffer_type, .write = buffer_write, .read = buffer_read,
    });
    return PyModule_AddFunctions(module, buffer_functions);
}
