/* module.c -- the Python bindings: arguments, module state, type Handle, the C
   API's capsule.  No logic of the heap.

   State: per interpreter in module_state; whatever the process or the family
   shares belongs to the core. */

#include "share/buffer.h"
#include "channel/channel.h"
#include "freeze/audit.h"
#include "freeze/freeze.h"
#include "share/handle.h"
#include "prefork/immortalize.h"
#include "interp/lend.h"
#include "wire/wire.h"
#include "cow/object_map.h"
#include "core/os/page_faults.h"
#include "wire/pickle.h"
#include "prefork/holes.h"
#include "core/block/release.h"
#include "core/span/spans.h"
#include "module/testing_spans.h"
#include "freeze/thaw.h"
#include "cow/trace.h"

#include <string.h>

#include "permaheap.h"

#include "layout/datetime.h"
#include "layout/fields.h"
#include "layout/immortal.h"
#include "layout/init.h"
#include "layout/statics.h"

typedef struct {
    ph_interpreter interp;          /* first, with the exceptions first in it: types
                                       in other files reach them by the module */
    ph_travels travels;
    PyTypeObject *handle_type, *buffer_type;
    bool has_datetime;              /* imported in this interpreter */
    PyObject *keys[PH_KEYS_KEPT];   /* of messages */
    ph_ballast ballast;             /* likewise */
    ph_filling filling;
    ph_pickles pickles;
    ph_channels channels;
    ph_lending lending;
} module_state;

static struct PyModuleDef core_module;

static module_state *
state_of(PyObject *module)
{
    return PyModule_GetState(module);
}

ph_lending *
ph_lending_of(PyObject *module)
{
    return &state_of(module)->lending;
}

ph_pickles *
ph_pickles_of(PyObject *module)
{
    return &state_of(module)->pickles;
}

/* --- freeze, thaw, is_frozen ------------------------------------------------------- */

PyDoc_STRVAR(freeze_doc,
"freeze($module, obj, /, *, default=None)\n--\n\n"
"Copy a graph of objects into the permanent heap and return the copy.\n\n"
"The copy is made of plain built-in types: tuple for list, frozenset for set,\n"
"bytes for bytearray, a read-only mapping for dict.  Equal atoms are stored\n"
"once; what was one container stays one, what was two stays two.  What is\n"
"permanent already is kept by reference.\n\n"
"Of any other object its __freeze__() is frozen, or else default(obj).\n\n"
"Raises FreezeError (a TypeError with the place as .path) for a cycle, for an\n"
"object of another type, and for keys that will not do once they are frozen;\n"
"MemoryError when the heap or the memory is full; whatever __freeze__() or\n"
"default() raise, with a note that names the place.  Then nothing is left in\n"
"the heap.  O(number of objects).\n\n"
"The idea is from the discussion of PEP 683: immortal objects in pages of\n"
"their own, so that reading never writes and copy-on-write never copies.");

static int
parse_default(const char *name, PyObject *const *args, Py_ssize_t nargs,
              PyObject *kwnames, PyObject **p_default)
{
    if (nargs != 1) {
        PyErr_Format(PyExc_TypeError, "%s() takes exactly one positional "
                     "argument (%zd given)", name, nargs);
        return -1;
    }
    *p_default = NULL;
    for (Py_ssize_t i = 0; kwnames != NULL && i < PyTuple_GET_SIZE(kwnames); i++) {
        PyObject *keyword = PyTuple_GET_ITEM(kwnames, i);
        if (PyUnicode_CompareWithASCIIString(keyword, "default") != 0) {
            PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword "
                         "argument %R", name, keyword);
            return -1;
        }
        *p_default = args[nargs + i] == Py_None ? NULL : args[nargs + i];
    }
    if (*p_default != NULL && !PyCallable_Check(*p_default)) {
        PyErr_Format(PyExc_TypeError, "%s(): default must be callable or None, "
                     "not %s", name, Py_TYPE(*p_default)->tp_name);
        return -1;
    }
    return 0;
}

static PyObject *
core_freeze(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
            PyObject *kwnames)
{
    PyObject *default_;
    if (parse_default("freeze", args, nargs, kwnames, &default_) < 0) {
        return NULL;
    }
    return ph_freeze(&state_of(module)->interp, args[0], default_);
}

PyDoc_STRVAR(freeze_each_doc,
"freeze_each($module, iterable, /, *, default=None)\n--\n\n"
"Freeze the items of an iterable one by one, and return a tuple of them.\n\n"
"Like freeze(list(iterable)), but holding only one item of ordinary objects at\n"
"a time: 10 GB from a database cursor need 10 GB.  Atoms and dict shapes are\n"
"shared across all items; a container that two items refer to is frozen\n"
"twice.  Raises what freeze() raises.  O(number of objects).");

static PyObject *
core_freeze_each(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                 PyObject *kwnames)
{
    PyObject *default_;
    if (parse_default("freeze_each", args, nargs, kwnames, &default_) < 0) {
        return NULL;
    }
    return ph_freeze_each(&state_of(module)->interp, args[0], default_);
}

PyDoc_STRVAR(freeze_pairs_doc,
"freeze_pairs($module, pairs, /, *, default=None)\n--\n\n"
"Freeze (key, value) pairs one by one, and return a frozen mapping of them.\n\n"
"Like freeze(dict(pairs)), also in that the last value of equal keys wins, but\n"
"holding only one pair of ordinary objects at a time, as freeze_each() does.\n"
"Raises what freeze() raises, and TypeError for an item that is no pair.\n"
"O(number of objects).");

static PyObject *
core_freeze_pairs(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                  PyObject *kwnames)
{
    PyObject *default_;
    if (parse_default("freeze_pairs", args, nargs, kwnames, &default_) < 0) {
        return NULL;
    }
    return ph_freeze_pairs(&state_of(module)->interp, args[0], default_);
}

PyDoc_STRVAR(thaw_doc,
"thaw($module, frozen, /)\n--\n\n"
"Copy a permanent object out of the heap, into fresh ordinary containers.\n\n"
"Mappings become dict, tuples list, frozensets set; dict keys, set elements\n"
"and atoms stay what they are.  What was one container stays one.\n"
"freeze(thaw(f)) == f.  Raises TypeError for what is not permanent.\n"
"O(number of objects).");

static PyObject *
core_thaw(PyObject *module, PyObject *frozen)
{
    return ph_thaw(&state_of(module)->interp.exceptions, frozen);
}

PyDoc_STRVAR(is_frozen_doc,
"is_frozen($module, obj, /)\n--\n\n"
"Is this object permanent?\n\n"
"True for all that freeze() and Handle.get() return and what that holds; also\n"
"for objects that are static in the interpreter: None, small ints, the empty\n"
"tuple and the like.  O(1).");

static PyObject *
core_is_frozen(PyObject *Py_UNUSED(module), PyObject *obj)
{
    return PyBool_FromLong(ph_is_permanent(obj));
}

/* --- Handle -------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    ph_handle handle;
} HandleObject;

static const ph_handle *
handle_of(PyObject *self)
{
    return &((HandleObject *)self)->handle;
}

static PyObject *
handle_new(PyTypeObject *type, const ph_handle *handle)
{
    PyObject *self = type->tp_alloc(type, 0);
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

/* Early, so that children find datetime where we have it.  On 3.12 it refuses
   to be imported in interpreters with their own GIL; they can do without. */
static int
try_datetime(module_state *state)
{
    if (ph_need_datetime(&state->has_datetime) == 0) {
        return 0;
    }
    if (!PyErr_ExceptionMatches(PyExc_ImportError)) {
        return -1;
    }
    PyErr_Clear();
    return 0;
}

static PyObject *
resolve(module_state *state, const ph_handle *handle)
{
    PyObject *obj;
    uint32_t flags;
    if (ph_handle_is_span(handle)) {
        return ph_buffer_resolve(state->buffer_type, handle);
    }
    if (ph_handle_resolve(handle, &obj, &flags) != PH_OK) {
        ph_raise(&state->interp.exceptions);
        return NULL;
    }
    if (flags & PH_BLOCK_DATETIME) {
        if (ph_need_datetime(&state->has_datetime) < 0) {
            return NULL;
        }
        if (obj == NULL) {          /* timezone.utc, static once imported */
            obj = ph_static_at((uint32_t)handle->object);
        }
    }
    if (obj == NULL) {
        PyErr_SetString(state->interp.exceptions.handle_error,
                        "permaheap: this handle names no static object");
        return NULL;
    }
    return Py_NewRef(obj);
}

PyDoc_STRVAR(handle_get_doc,
"get($self, /)\n--\n\n"
"The object that this handle names: the same one, in any process or\n"
"interpreter of the family; for a Buffer's, a read-only Buffer onto the same\n"
"memory.  Raises HandleError when the handle is damaged or of another family,\n"
"or when its block was released or the Buffer is gone.  O(1), whatever the\n"
"object's size.");

static PyObject *
handle_get(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return resolve(PyType_GetModuleState(Py_TYPE(self)), handle_of(self));
}

static PyObject *
handle_bytes(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyBytes_FromStringAndSize((const char *)handle_of(self), PH_HANDLE_SIZE);
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
    bool equal = memcmp(handle_of(self), handle_of(other), PH_HANDLE_SIZE) == 0;
    return PyBool_FromLong(equal == (op == Py_EQ));
}

static Py_hash_t
handle_hash(PyObject *self)
{
    Py_hash_t hash = (Py_hash_t)handle_of(self)->tag;
    return hash == -1 ? -2 : hash;
}

static PyObject *
handle_repr(PyObject *self)
{
    const ph_handle *handle = handle_of(self);
    const char *what = ph_handle_is_span(handle) ? "Buffer" : "offset";
    uint64_t number = ph_handle_is_span(handle) ? (uint32_t)handle->object
                                                : handle->object;
    return PyUnicode_FromFormat("<permaheap.Handle of %s %llu in family "
                                "%02x%02x%02x%02x>", what,
                                (unsigned long long)number,
                                handle->family[0], handle->family[1],
                                handle->family[2], handle->family[3]);
}

/* In a message: its bytes. */
static int
handle_write(ph_writer *writer, PyObject *obj)
{
    return ph_write_bytes(writer, handle_of(obj), PH_HANDLE_SIZE);
}

static PyObject *
handle_read(const ph_travels *travels, ph_reader *reader)
{
    const void *bytes;
    ph_handle handle;
    if (ph_read_bytes(reader, &bytes, PH_HANDLE_SIZE) < 0) {
        return NULL;
    }
    memcpy(&handle, bytes, PH_HANDLE_SIZE);
    const module_state *state = (const module_state *)
        ((const char *)travels - offsetof(module_state, travels));
    return handle_new(state->handle_type, &handle);
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
"that may travel through any queue, pipe, file or pickle.");

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
"Raises TypeError for what is not permanent and for a writable Buffer;\n"
"HandleError for an object of a block that was released, ValueError for a\n"
"released Buffer.  O(1).");

static PyObject *
share(module_state *state, PyObject *obj)
{
    ph_handle handle;
    if (Py_TYPE(obj) == state->buffer_type) {
        return ph_buffer_share(obj, &handle) < 0
                   ? NULL : handle_new(state->handle_type, &handle);
    }
    if (!ph_is_permanent(obj)) {
        PyErr_Format(PyExc_TypeError,
                     "share: this %s is not a permanent object; freeze() it first",
                     Py_TYPE(obj)->tp_name);
        return NULL;
    }
    if (ph_heap_ready() != PH_OK) {
        ph_raise(&state->interp.exceptions);
        return NULL;
    }
    if (ph_handle_make(obj, &handle) != PH_OK) {
        ph_raise(&state->interp.exceptions);
        return NULL;
    }
    return handle_new(state->handle_type, &handle);
}

static PyObject *
core_share(PyObject *module, PyObject *obj)
{
    return share(state_of(module), obj);
}

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
    return ph_buffer_move(state_of(module)->buffer_type, obj);
}

/* --- Giving back -------------------------------------------------------------------------- */

PyDoc_STRVAR(release_doc,
"release($module, frozen, /)\n--\n\n"
"Retire a block: from now on get() of its handles fails in the whole family.\n\n"
"frozen: what freeze() returned, or a handle of that.  Its memory is given back\n"
"when each process that could see it has ended or called forget().  Releasing\n"
"again does nothing.\n\n"
"Raises RuntimeError when other blocks refer to objects in this one, and for a\n"
"part of a block; TypeError for what is not permanent; HandleError for a handle\n"
"that is damaged, of another family, or of a block whose addresses are used\n"
"again.  O(segments of the block + blocks that it refers to + processes of the\n"
"family).");

PyDoc_STRVAR(forget_doc,
"forget($module, handle, /)\n--\n\n"
"Promise that this process holds nothing of a released block any more.\n\n"
"handle: of what freeze() returned.  An object that is held after this, by any\n"
"interpreter of the process, is the caller's error: its memory may be gone at\n"
"any time.  PERMAHEAP_DEBUG=1 shows such errors.  Children that are forked later\n"
"have forgotten as well.  Forgetting again does nothing.\n\n"
"Raises RuntimeError when the block was not released, or for a part of a block;\n"
"TypeError for what is no handle; HandleError for a handle that is damaged, of\n"
"another family, or of a block whose addresses are used again.  O(segments of the\n"
"block + processes of the family).");

PyDoc_STRVAR(reclaim_doc,
"reclaim($module, /)\n--\n\n"
"Give back the memory of released blocks that no process can see any more, and\n"
"return how many blocks still wait.  Likewise the buffers, channels and messages\n"
"that only processes held which have ended.\n\n"
"release(), forget(), stats() and a freeze that needs much memory do so as well;\n"
"call it when a process has ended.  O(1) when nothing waits, else O(processes of\n"
"the family).");

static PyObject *
core_release(PyObject *module, PyObject *arg)
{
    module_state *state = state_of(module);
    const ph_segment *home = NULL;
    bool is_handle = Py_TYPE(arg) == state->handle_type;
    if (!is_handle && !ph_is_permanent(arg)) {
        PyErr_Format(PyExc_TypeError, "release: a Handle or a permanent object is "
                     "needed, not %s", Py_TYPE(arg)->tp_name);
        return NULL;
    }
    ph_status status = ph_heap_ready();
    if (status == PH_OK) {
        status = is_handle ? ph_handle_block(handle_of(arg), &home)
                           : ph_root_block(arg, &home);
    }
    if (status != PH_OK || ph_retire(home) != PH_OK) {
        ph_raise(&state->interp.exceptions);
        return NULL;
    }
    Py_RETURN_NONE;
}

/* A handle only: whoever gave the object itself would hold it. */
static PyObject *
core_forget(PyObject *module, PyObject *arg)
{
    module_state *state = state_of(module);
    const ph_segment *home = NULL;
    if (Py_TYPE(arg) != state->handle_type) {
        PyErr_Format(PyExc_TypeError, "forget: a Handle is needed, not %s",
                     Py_TYPE(arg)->tp_name);
        return NULL;
    }
    if (ph_handle_block(handle_of(arg), &home) != PH_OK || ph_forget(home) != PH_OK) {
        ph_raise(&state->interp.exceptions);
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
core_reclaim(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    if (ph_heap_ready() != PH_OK) {
        ph_raise(&state_of(module)->interp.exceptions);
        return NULL;
    }
    ph_reclaim();
    (void)ph_spans_sweep();
    return PyLong_FromUnsignedLongLong(ph_retired_waiting());
}

/* --- In place ----------------------------------------------------------------------------- */

PyDoc_STRVAR(immortalize_doc,
"_immortalize($module, roots, strict, warm, /)\n--\n\n"
"Make all that the items of a list reach immortal where it is; if strict,\n"
"except what must be able to die; if warm, prepare code for its first run.\n"
"Returns (objects, bytes, left): counts and\n"
"bytes by type name, and how many objects were left, by (type name, why).\n"
"Raises MemoryError; what was made immortal by then stays so.\n"
"O(number of objects).");

static PyObject *
core_immortalize(PyObject *module, PyObject *args)
{
    PyObject *roots;
    int strict, warm;
    if (!PyArg_ParseTuple(args, "O!pp:_immortalize", &PyList_Type, &roots, &strict,
                          &warm)) {
        return NULL;
    }
    return ph_immortalize(&state_of(module)->interp, roots, strict, warm);
}

PyDoc_STRVAR(with_finalizer_doc,
"_with_finalizer($module, /)\n--\n\n"
"A list of the objects that have a finalizer which has not run yet, of those\n"
"that the collector tracks and has not set aside.  It must be off.\n"
"O(number of objects).");

static PyObject *
core_with_finalizer(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    return ph_with_finalizer(&state_of(module)->interp);
}

PyDoc_STRVAR(finalize_doc,
"_finalize($module, obj, /)\n--\n\n"
"Run an object's finalizer, once in its life.  What it raises is reported as\n"
"an unraisable exception, as ever.");

static PyObject *
core_finalize(PyObject *Py_UNUSED(module), PyObject *obj)
{
    PyObject_CallFinalizer(obj);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(hide_interned_doc,
"_hide_interned($module, /)\n--\n\n"
"Hide the table of interned strings from the end of the interpreter.");

static PyObject *
core_hide_interned(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    return ph_hide_interned() < 0 ? NULL : Py_NewRef(Py_None);
}

PyDoc_STRVAR(fill_doc,
"_fill($module, pools, heap, /)\n--\n\n"
"Take the free memory of the allocator of objects, of the C library's heap, or\n"
"of both.  Returns (blocks, bytes, pools, chunks, bytes, problem): what is taken\n"
"now of the one, with the free pools released so far, and of the other; and\n"
"None, or why the allocator's free memory cannot be taken.  O(what is taken).");

static PyObject *
core_fill(PyObject *module, PyObject *args)
{
    ph_filling *filling = &state_of(module)->filling;
    int pools, heap;
    if (!PyArg_ParseTuple(args, "pp:_fill", &pools, &heap)) {
        return NULL;
    }
    const char *problem = ph_fill(filling, pools, heap);
    return Py_BuildValue("KKKKKz",
                         (unsigned long long)filling->pools.blocks_number,
                         (unsigned long long)filling->pools.bytes,
                         (unsigned long long)filling->pools.pools_number,
                         (unsigned long long)filling->heap.number,
                         (unsigned long long)filling->heap.bytes, problem);
}

/* --- The trace of first writes --------------------------------------------------------------- */

PyDoc_STRVAR(record_faults_doc,
"_record_faults($module, cpu, kernel, /)\n--\n\n"
"A file descriptor whose mapping is a ring of the page faults, on one\n"
"processor, of this thread and all that it starts; if kernel, those of system\n"
"calls as well.  Raises OSError.");

static PyObject *
core_record_faults(PyObject *Py_UNUSED(module), PyObject *args)
{
    int cpu, kernel, fd, err;
    if (!PyArg_ParseTuple(args, "ip:_record_faults", &cpu, &kernel)) {
        return NULL;
    }
    err = ph_os_record_faults(cpu, kernel, &fd);
    return err ? ph_raise_os(err, "record page faults") : PyLong_FromLong(fd);
}

PyDoc_STRVAR(take_faults_doc,
"_take_faults($module, ring, /)\n--\n\n"
"Take what is in a ring (its mapping): (bytes of ph_first_write, how many were\n"
"lost).");

static PyObject *
core_take_faults(PyObject *Py_UNUSED(module), PyObject *ring)
{
    Py_buffer buffer;
    if (PyObject_GetBuffer(ring, &buffer, PyBUF_WRITABLE) < 0) {
        return NULL;
    }
    size_t most = (size_t)buffer.len / 48;      /* what fits into it, about */
    PyObject *bytes = PyBytes_FromStringAndSize(
        NULL, (Py_ssize_t)(most * sizeof(ph_first_write)));
    uint64_t lost = 0;
    if (bytes != NULL) {
        size_t n = ph_os_take_faults(buffer.buf, (size_t)buffer.len,
                                     (ph_first_write *)PyBytes_AS_STRING(bytes),
                                     most, &lost);
        (void)_PyBytes_Resize(&bytes, (Py_ssize_t)(n * sizeof(ph_first_write)));
    }
    PyBuffer_Release(&buffer);
    return bytes ? Py_BuildValue("NK", bytes, (unsigned long long)lost) : NULL;
}

PyDoc_STRVAR(trace_begin_doc,
"_trace_begin($module, fd, /)\n--\n\n"
"Let children say in this file where they begin; see trace.c.  Raises OSError.");

static PyObject *
core_trace_begin(PyObject *Py_UNUSED(module), PyObject *number)
{
    int fd = (int)PyLong_AsLong(number);
    if (fd == -1 && PyErr_Occurred()) {
        return NULL;
    }
    int err = ph_trace_begin(fd);
    return err ? ph_raise_os(err, "begin the trace") : Py_NewRef(Py_None);
}

/* --- Messages, for tests ------------------------------------------------------------------ */

PyDoc_STRVAR(pack_doc,
"_pack($module, /, *values)\n--\n\n"
"The bytes that the last value travels as through a channel, after the others have\n"
"been written in the same memory.  Raises TypeError for what channels pickle.");

static PyObject *
core_pack(PyObject *module, PyObject *const *values, Py_ssize_t n)
{
    ph_writer writer = {.used = 0};
    PyObject *bytes = NULL;
    int result = PH_NOT_OURS;
    for (Py_ssize_t i = 0; i < n && result >= 0; i++) {
        result = ph_message_write(&state_of(module)->travels, values[i], &writer);
    }
    if (result == PH_NOT_OURS) {
        PyErr_Format(PyExc_TypeError, "_pack: this %s is, or holds, what channels "
                     "pickle", n > 0 ? Py_TYPE(values[n - 1])->tp_name : "nothing");
    }
    else if (result == PH_WRITTEN) {
        bytes = PyBytes_FromStringAndSize(writer.bytes, (Py_ssize_t)writer.used);
    }
    ph_writer_clear(&writer);
    return bytes;
}

PyDoc_STRVAR(unpack_doc,
"_unpack($module, message, /)\n--\n\n"
"The value that _pack() has made bytes of.  Raises MessageError.");

static PyObject *
core_unpack(PyObject *module, PyObject *message)
{
    Py_buffer buffer;
    if (PyObject_GetBuffer(message, &buffer, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    const char *bytes = buffer.buf;
    ph_reader reader = {.at = bytes, .end = bytes + buffer.len};
    PyObject *obj = ph_message_read(&state_of(module)->travels, &reader);
    PyBuffer_Release(&buffer);
    return obj;
}

/* --- stats, and what tests ask for ------------------------------------------------------- */

static PyObject *
counts_of(const _Atomic uint64_t *counts)
{
    PyObject *dict = PyDict_New();
    for (int kind = 0; dict != NULL && kind < PH_KINDS; kind++) {
        uint64_t count = atomic_load(&counts[kind]);
        if (count == 0) {
            continue;
        }
        PyObject *number = PyLong_FromUnsignedLongLong(count);
        if (number == NULL
            || PyDict_SetItemString(dict, ph_kind_names[kind], number) < 0) {
            Py_CLEAR(dict);
        }
        Py_XDECREF(number);
    }
    return dict;
}

static PyObject *
hex_of(const uint8_t *bytes, size_t n)
{
    char text[64];
    for (size_t i = 0; i < n; i++) {
        PyOS_snprintf(text + 2 * i, 3, "%02x", bytes[i]);
    }
    return PyUnicode_FromString(text);
}

PyDoc_STRVAR(stats_doc,
"stats($module, /)\n--\n\n"
"A dict of the heap's figures, of the whole family: see permaheap.Stats.");

static PyObject *
core_stats(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    if (ph_heap_ready() != PH_OK) {
        ph_raise(&state_of(module)->interp.exceptions);
        return NULL;
    }
    ph_reclaim();
    ph_header *header = ph_heap.header;
    ph_spans_figures spans = ph_spans_count();
    return Py_BuildValue(
        "{s:K, s:K, s:K, s:s, s:N, s:N, s:N, s:K, s:K, s:K, s:K, s:K, s:K, s:K,"
        " s:K, s:K, s:K}",
        "reserved", (unsigned long long)header->size,
        "used", (unsigned long long)ph_heap_used(),
        "blocks", (unsigned long long)atomic_load(&header->blocks),
        "mapping", ph_heap.mapping_reason,
        "family", hex_of(header->family, sizeof(header->family)),
        "objects", counts_of(header->objects_of),
        "bytes", counts_of(header->bytes_of),
        "saved", (unsigned long long)atomic_load(&header->saved),
        "released", (unsigned long long)atomic_load(&header->released),
        "released_blocks",
        (unsigned long long)atomic_load(&header->released_blocks),
        "waiting", (unsigned long long)ph_retired_waiting(),
        "reused", (unsigned long long)atomic_load(&header->reused),
        "returned", (unsigned long long)atomic_load(&header->returned),
        "unlisted", (unsigned long long)atomic_load(&header->unlisted),
        "spans", (unsigned long long)spans.spans,
        "span_bytes", (unsigned long long)spans.bytes,
        "span_kept", (unsigned long long)spans.kept);
}

PyDoc_STRVAR(object_map_doc,
"_object_map($module, roots, /)\n--\n\n"
"Write a map of all objects that the items of a list reach into an anonymous\n"
"file, and return its descriptor.  Raises MemoryError or OSError.\n"
"O(objects reached).");

static PyObject *
core_object_map(PyObject *module, PyObject *roots)
{
    if (!PyList_Check(roots)) {
        PyErr_SetString(PyExc_TypeError, "_object_map(): a list is needed");
        return NULL;
    }
    int fd = ph_object_map(&state_of(module)->interp.exceptions, roots);
    return fd < 0 ? NULL : PyLong_FromLong(fd);
}

PyDoc_STRVAR(layout_doc,
"_layout($module, /)\n--\n\n"
"Sizes and offsets in the memory of an interpreter like this one, and what a\n"
"write to a field of an object means; for the copy-on-write profiler.");

static PyObject *
core_layout(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    return ph_layout_table();
}

PyDoc_STRVAR(check_doc,
"_check($module, /)\n--\n\n"
"Audit the heap: walk all blocks and return their number, or raise\n"
"AssertionError with what is wrong and where.  O(number of objects).");

static PyObject *
core_check(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    if (ph_heap_ready() != PH_OK) {
        ph_raise(&state_of(module)->interp.exceptions);
        return NULL;
    }
    Py_ssize_t blocks = ph_check();
    return blocks < 0 ? NULL : PyLong_FromSsize_t(blocks);
}

PyDoc_STRVAR(fault_doc,
"_fault($module, n=None, /, persistent=False)\n--\n\n"
"For tests: let the n-th system call or allocation of the core from now on\n"
"fail, and if persistent all later ones; 0 disarms.  Without arguments: has\n"
"one failed since?");

static PyObject *
core_fault(PyObject *Py_UNUSED(module), PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"", "persistent", NULL};
    PyObject *n = Py_None;
    int persistent = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|Op:_fault", names, &n,
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

static PyMethodDef core_methods[] = {
    {"freeze", (PyCFunction)(void (*)(void))core_freeze,
     METH_FASTCALL | METH_KEYWORDS, freeze_doc},
    {"freeze_each", (PyCFunction)(void (*)(void))core_freeze_each,
     METH_FASTCALL | METH_KEYWORDS, freeze_each_doc},
    {"freeze_pairs", (PyCFunction)(void (*)(void))core_freeze_pairs,
     METH_FASTCALL | METH_KEYWORDS, freeze_pairs_doc},
    {"thaw", core_thaw, METH_O, thaw_doc},
    {"is_frozen", core_is_frozen, METH_O, is_frozen_doc},
    {"share", core_share, METH_O, share_doc},
    {"move", core_move, METH_O, move_doc},
    {"release", core_release, METH_O, release_doc},
    {"forget", core_forget, METH_O, forget_doc},
    {"reclaim", core_reclaim, METH_NOARGS, reclaim_doc},
    {"stats", core_stats, METH_NOARGS, stats_doc},
    {"_immortalize", core_immortalize, METH_VARARGS, immortalize_doc},
    {"_with_finalizer", core_with_finalizer, METH_NOARGS, with_finalizer_doc},
    {"_finalize", core_finalize, METH_O, finalize_doc},
    {"_hide_interned", core_hide_interned, METH_NOARGS, hide_interned_doc},
    {"_fill", core_fill, METH_VARARGS, fill_doc},
    {"_object_map", core_object_map, METH_O, object_map_doc},
    {"_layout", core_layout, METH_NOARGS, layout_doc},
    {"_record_faults", core_record_faults, METH_VARARGS, record_faults_doc},
    {"_take_faults", core_take_faults, METH_O, take_faults_doc},
    {"_trace_begin", core_trace_begin, METH_O, trace_begin_doc},
    {"_pack", (PyCFunction)(void (*)(void))core_pack, METH_FASTCALL, pack_doc},
    {"_unpack", core_unpack, METH_O, unpack_doc},
    {"_check", core_check, METH_NOARGS, check_doc},
    {"_fault", (PyCFunction)(void (*)(void))core_fault,
     METH_VARARGS | METH_KEYWORDS, fault_doc},
    {NULL, NULL, 0, NULL},
};

/* --- C API ------------------------------------------------------------------------------------ */

/* The state of the calling interpreter; NULL with an exception. */
static module_state *
current_state(void)
{
    PyObject *module = PyImport_ImportModule("permaheap._core");
    module_state *state = module ? PyModule_GetState(module) : NULL;
    Py_XDECREF(module);             /* sys.modules keeps it */
    return state;
}

static PyObject *
api_freeze(PyObject *obj, PyObject *default_)
{
    module_state *state = current_state();
    return state ? ph_freeze(&state->interp, obj, default_) : NULL;
}

static PyObject *
api_share(PyObject *obj)
{
    module_state *state = current_state();
    return state ? share(state, obj) : NULL;
}

static PyObject *
api_resolve(PyObject *handle)
{
    module_state *state = current_state();
    if (state == NULL) {
        return NULL;
    }
    if (Py_TYPE(handle) != state->handle_type) {
        PyErr_Format(PyExc_TypeError, "a permaheap.Handle is needed, not %s",
                     Py_TYPE(handle)->tp_name);
        return NULL;
    }
    return resolve(state, handle_of(handle));
}

static const permaheap_api c_api = {
    .version = PERMAHEAP_API_VERSION,
    .freeze = api_freeze,
    .is_frozen = ph_is_permanent,
    .share = api_share,
    .resolve = api_resolve,
};

/* --- Module ------------------------------------------------------------------------------------ */

PyDoc_STRVAR(freeze_error_doc,
"An object, or a place in a graph of objects, that cannot be frozen.\n\n"
"path: the place, like data[\"users\"][3].profile");

PyDoc_STRVAR(handle_error_doc,
"A handle that is damaged, forged, or of another family of processes, or whose\n"
"block was released.");

PyDoc_STRVAR(message_error_doc,
"A message whose bytes are damaged.");

static int
add_exceptions(PyObject *module, ph_exceptions *exceptions)
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

static int
add_capsule(PyObject *module)
{
    PyObject *capsule = PyCapsule_New((void *)&c_api, PERMAHEAP_CAPSULE, NULL);
    int result = PyModule_AddObjectRef(module, "_C_API", capsule);
    Py_XDECREF(capsule);
    return result;
}

/* A heap that cannot be made now is no reason not to import: the first use
   tries again and says why. */
static int
core_exec(PyObject *module)
{
    module_state *state = state_of(module);
    ph_interpreter *interp = &state->interp;
    if (ph_layout_init() < 0 || ph_layout_selftest() < 0) {
        return -1;
    }
    ph_heap_init();
    state->travels = (ph_travels){.exceptions = &interp->exceptions, .interp = interp,
                                  .has_datetime = &state->has_datetime,
                                  .keys = state->keys, .ballast = &state->ballast,
                                  .pickles = &state->pickles};
    state->pickles = (ph_pickles){.module = module, .travels = &state->travels};
    interp->freeze_name = PyUnicode_InternFromString("__freeze__");
    if (interp->freeze_name == NULL || try_datetime(state) < 0
        || add_exceptions(module, &interp->exceptions) < 0
        || import_type("collections", "OrderedDict", &interp->ordered_dict) < 0
        || import_type("collections", "Counter", &interp->counter) < 0
        || import_type("collections", "defaultdict", &interp->defaultdict) < 0
        || import_type("_thread", "LockType", &interp->lock) < 0
        || import_type("_thread", "RLock", &interp->rlock) < 0) {
        return -1;
    }
    state->handle_type = (PyTypeObject *)PyType_FromModuleAndSpec(
        module, &handle_spec, NULL);
    if (state->handle_type == NULL
        || PyModule_AddType(module, state->handle_type) < 0
        || ph_testing_spans_add(module) < 0) {
        return -1;
    }
    state->travels.traveller[state->travels.n++] = (ph_traveller){
        .type = state->handle_type, .write = handle_write, .read = handle_read,
    };
    if (ph_buffer_add(module, &state->travels, &state->buffer_type) < 0
        || ph_channels_add(module, &state->channels, &interp->exceptions,
                           &state->travels) < 0
        || ph_lend_add(module, &state->travels) < 0 || ph_call_add(module) < 0) {
        return -1;
    }
    return add_capsule(module);
}

static int
core_traverse(PyObject *module, visitproc visit, void *arg)
{
    module_state *state = state_of(module);
    Py_VISIT(state->interp.exceptions.freeze_error);
    Py_VISIT(state->interp.exceptions.handle_error);
    Py_VISIT(state->interp.exceptions.message_error);
    Py_VISIT(state->interp.ordered_dict);
    Py_VISIT(state->interp.counter);
    Py_VISIT(state->interp.defaultdict);
    Py_VISIT(state->interp.lock);
    Py_VISIT(state->interp.rlock);
    Py_VISIT(state->handle_type);
    Py_VISIT(state->buffer_type);
    int result = ph_pickles_traverse(&state->pickles, visit, arg);
    result = result != 0 ? result : ph_channels_traverse(&state->channels, visit, arg);
    return result != 0 ? result : ph_lending_traverse(&state->lending, visit, arg);
}

static int
core_clear(PyObject *module)
{
    module_state *state = state_of(module);
    Py_CLEAR(state->interp.exceptions.freeze_error);
    Py_CLEAR(state->interp.exceptions.handle_error);
    Py_CLEAR(state->interp.exceptions.message_error);
    Py_CLEAR(state->interp.ordered_dict);
    Py_CLEAR(state->interp.counter);
    Py_CLEAR(state->interp.defaultdict);
    Py_CLEAR(state->interp.lock);
    Py_CLEAR(state->interp.rlock);
    Py_CLEAR(state->interp.freeze_name);
    for (size_t i = 0; i < PH_KEYS_KEPT; i++) {
        Py_CLEAR(state->keys[i]);
    }
    for (size_t i = 0; i < PH_BALLAST; i++) {
        PyObject_Free(state->ballast.block[i]);
        state->ballast.block[i] = NULL;
    }
    Py_CLEAR(state->handle_type);
    Py_CLEAR(state->buffer_type);
    ph_pickles_clear(&state->pickles);
    ph_channels_clear(&state->channels);
    ph_lending_clear(&state->lending);
    return 0;
}

static void
core_free(void *module)
{
    if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
        ph_empty(&state_of(module)->filling);   /* the process outlives it */
    }
    core_clear(module);
}

static PyModuleDef_Slot core_slots[] = {
    {Py_mod_exec, core_exec},
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
    {0, NULL},
};

static struct PyModuleDef core_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "permaheap._core",
    .m_doc = PyDoc_STR("The core of permaheap, in C."),
    .m_size = sizeof(module_state),
    .m_methods = core_methods,
    .m_slots = core_slots,
    .m_traverse = core_traverse,
    .m_clear = core_clear,
    .m_free = core_free,
};

PyMODINIT_FUNC
PyInit__core(void)
{
    return PyModuleDef_Init(&core_module);
}
