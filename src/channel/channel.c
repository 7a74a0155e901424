/* channel.c -- the Python type Channel: its arguments, methods and slots; and select().

   A Channel carries values from many senders to many receivers: threads, interpreters
   and processes of the family.  The values of one sender arrive in the order sent.

       channel.c         the type: parses arguments, formats answers
       event_loop.c      its methods for asyncio
       transfer.c        sends and receives one value
       registry.c        makes a channel, finds it by its name, pickles it
       wait.c            waits for one channel, or for one of several
       parcel.c          a value as a message, and back

   Invariants:

   1. A Channel object holds its span exactly once, from channel_new() or
      ph_channel_wrap() to its deallocation; so `ring` and `shared` are always mapped.
   2. Forked children inherit the holds.  A pickle does not hold the channel, a message
      with a Channel in it does.
   3. Whether it may pickle, and how long it spins, belongs to the object and is
      sent with it.  All else belongs to the channel and is the same for all.

   State: ph_channels, per interpreter, in the module's state. */

#include "channel/channel.h"

#include <string.h>

#include "channel/event_loop.h"
#include "channel/registry.h"
#include "channel/transfer.h"
#include "channel/wait.h"
#include "core/family/family.h"
#include "core/ring/notify.h"

#define CAPACITY (256 * PH_KIB)         /* bytes, unless asked for */
#define SPIN 50000u                     /* nanoseconds, unless asked for */
#define SECOND 1e9                      /* nanoseconds */

/* --- Making ------------------------------------------------------------------- */

/* Convert seconds to nanoseconds, `most` seconds at most.  -1 with an exception. */
static int
parse_seconds(PyObject *obj, const char *name, double most, uint64_t *p_ns)
{
    double seconds = PyFloat_AsDouble(obj);
    if (seconds == -1.0 && PyErr_Occurred()) {
        if (PyErr_ExceptionMatches(PyExc_TypeError)) {
            PyErr_Format(PyExc_TypeError, "%s must be a number of seconds or None, not %s",
                         name, Py_TYPE(obj)->tp_name);
        }
        return -1;
    }
    if (!(seconds >= 0.0)) {
        PyErr_Format(PyExc_ValueError, "%s must not be negative, but it is %R", name,
                     obj);
        return -1;
    }
    *p_ns = (uint64_t)((seconds < most ? seconds : most) * SECOND);
    return 0;
}

/* Convert a timeout to the point in time when it is over; 0: at once.  -1 with an
   exception. */
static int
parse_timeout(PyObject *obj, uint64_t *p_until)
{
    *p_until = PH_FOREVER;
    if (obj == NULL || obj == Py_None) {
        return 0;
    }
    uint64_t ns;
    if (parse_seconds(obj, "timeout", 1e9, &ns) < 0) {
        return -1;
    }
    *p_until = ns == 0 ? 0 : ph_os_now() + ns;
    return 0;
}

static int
parse_capacity(PyObject *obj, ph_channel_options *options)
{
    options->capacity = CAPACITY;
    options->capacity_given = obj != NULL && obj != Py_None;
    if (!options->capacity_given) {
        return 0;
    }
    if (!PyIndex_Check(obj)) {
        PyErr_Format(PyExc_TypeError, "capacity must be an int, the bytes that may wait, "
                     "not %s", Py_TYPE(obj)->tp_name);
        return -1;
    }
    Py_ssize_t capacity = PyNumber_AsSsize_t(obj, NULL);
    if (capacity == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (capacity < 1 || (uint64_t)capacity > PH_RING_MOST) {
        PyErr_Format(PyExc_ValueError, "capacity must be from 1 to %llu bytes, not %R",
                     (unsigned long long)PH_RING_MOST, obj);
        return -1;
    }
    options->capacity = (uint64_t)capacity;
    return 0;
}

static int
parse_name(PyObject *obj, ph_channel_options *options)
{
    if (obj == Py_None) {
        return 0;
    }
    if (!PyUnicode_Check(obj)) {
        PyErr_Format(PyExc_TypeError, "name must be str or None, not %s",
                     Py_TYPE(obj)->tp_name);
        return -1;
    }
    Py_ssize_t size;
    options->name = PyUnicode_AsUTF8AndSize(obj, &size);
    if (options->name == NULL) {
        return -1;
    }
    if (size == 0 || size > (Py_ssize_t)PH_CHANNEL_NAME_MOST) {
        PyErr_Format(PyExc_ValueError, "name must have from 1 to %u bytes of UTF-8, "
                     "not %zd", PH_CHANNEL_NAME_MOST, size);
        return -1;
    }
    options->name_size = (size_t)size;
    return 0;
}

static PyObject *
channel_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"capacity", "name", "pickle", "spin", NULL};
    PyObject *capacity = NULL, *name = Py_None, *spin = Py_None;
    ph_channel_options options = {0};
    uint64_t spin_ns = SPIN;
    int may_pickle = 1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O$OpO:Channel", names, &capacity,
                                     &name, &may_pickle, &spin)
        || parse_capacity(capacity, &options) < 0 || parse_name(name, &options) < 0
        || (spin != Py_None
            && parse_seconds(spin, "spin", PH_CHANNEL_SPIN_MOST / SECOND, &spin_ns) < 0)) {
        return NULL;
    }
    ph_channels *channels = ph_channels_of(type);
    ph_span_id id;
    if (ph_channel_prepare_full(channels) < 0) {
        return NULL;
    }
    if (ph_heap_ready() != PH_OK || ph_channel_find_or_make(&options, &id) != PH_OK) {
        ph_raise(channels->parcels.exceptions);
        return NULL;
    }
    uint64_t has = ph_ring_capacity(ph_span_address(id));
    if (options.capacity_given
        && ph_ring_span_size(has) != ph_ring_span_size(options.capacity)) {
        PyErr_Format(PyExc_ValueError, "the channel %R has a capacity of %llu bytes, not "
                     "%llu; leave the capacity out to use the channel as it is", name,
                     (unsigned long long)has, (unsigned long long)options.capacity);
        ph_span_drop(id);
        return NULL;
    }
    return ph_channel_wrap(channels, id, may_pickle, spin_ns);
}

static PyObject *
channel_from_bytes(PyObject *type, PyObject *data)
{
    return ph_channel_prepare_full(ph_channels_of((PyTypeObject *)type)) < 0
           ? NULL : ph_channel_from_bytes(type, data);
}

static void
channel_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    if (ph_channel_of(self)->weak != NULL) {
        PyObject_ClearWeakRefs(self);
    }
    if (ph_channel_of(self)->ring != NULL) {
        ph_span_drop(ph_channel_of(self)->id);
    }
    type->tp_free(self);
    Py_DECREF(type);
}

/* --- Sending and receiving ---------------------------------------------------- */

/* Get the value of `timeout`, the only keyword that a method may be given.  -1 with an
   exception. */
static int
parse_timeout_keyword(const char *method, PyObject *const *values, PyObject *kwnames,
                      PyObject **p_timeout)
{
    for (Py_ssize_t i = 0; kwnames != NULL && i < PyTuple_GET_SIZE(kwnames); i++) {
        PyObject *keyword = PyTuple_GET_ITEM(kwnames, i);
        if (PyUnicode_CompareWithASCIIString(keyword, "timeout") != 0
            || *p_timeout != NULL) {
            PyErr_Format(PyExc_TypeError, "%s() got an unexpected argument %R", method,
                         keyword);
            return -1;
        }
        *p_timeout = values[i];
    }
    return 0;
}

PyDoc_STRVAR(send_doc,
"send($self, obj, /, *, timeout=None)\n--\n\n"
"Send an object, waiting for room if there is none.\n\n"
"timeout: seconds to wait; None: for ever; 0: not at all.\n\n"
"A permanent object is passed by reference, and the same object arrives.  So is a\n"
"Buffer in move(), which the sender no longer has when this returns.  Ordinary values\n"
"are copied.  Anything else is pickled, unless the channel was made with pickle=False.\n"
"A message may be larger than the channel's capacity.\n\n"
"Raises Full when the time is over, Closed when the channel is closed, TypeError for\n"
"an object that cannot be sent, or the exception that pickling raises.  Then nothing\n"
"was sent, and a moved Buffer is still the sender's.  O(bytes that are copied).\n\n"
"The idea is from Hoare, Communicating Sequential Processes (1978).");

static PyObject *
channel_send(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *timeout = NULL;
    uint64_t until;
    if (nargs != 1) {
        PyErr_Format(PyExc_TypeError, "send() takes exactly one positional argument "
                     "(%zd given)", nargs);
        return NULL;
    }
    if (parse_timeout_keyword("send", args + nargs, kwnames, &timeout) < 0
        || parse_timeout(timeout, &until) < 0) {
        return NULL;
    }
    return ph_channel_send(ph_channel_of(self), args[0], until);
}

PyDoc_STRVAR(try_send_doc,
"try_send($self, obj, /)\n--\n\n"
"send(obj, timeout=0): raises Full at once when there is no room.");

static PyObject *
channel_try_send(PyObject *self, PyObject *obj)
{
    return ph_channel_send(ph_channel_of(self), obj, 0);
}

static PyObject *
receive_or_raise(PyObject *self, uint64_t until)
{
    ph_status status;
    PyObject *obj = ph_channel_recv(ph_channel_of(self), until, &status);
    if (obj == NULL && status != PH_EXCEPTION) {
        ph_channel_raise(ph_channel_of(self), status);
    }
    return obj;
}

PyDoc_STRVAR(recv_doc,
"recv($self, /, timeout=None)\n--\n\n"
"Take the next object, waiting for one if there is none.\n\n"
"timeout: seconds to wait; None: for ever; 0: not at all.\n\n"
"Raises Empty when the time is over, and Closed when the channel is closed and empty.\n"
"Raises MessageError for a damaged message, HandleError for a permanent object that\n"
"was released before it arrived, or the exception that unpickling raises: that message\n"
"is lost.  O(bytes that are copied).");

static PyObject *
channel_recv(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *timeout = nargs > 0 ? args[0] : NULL;
    uint64_t until;
    if (nargs > 1) {
        PyErr_Format(PyExc_TypeError, "recv() takes at most one argument (%zd given)",
                     nargs);
        return NULL;
    }
    if (parse_timeout_keyword("recv", args + nargs, kwnames, &timeout) < 0
        || parse_timeout(timeout, &until) < 0) {
        return NULL;
    }
    return receive_or_raise(self, until);
}

PyDoc_STRVAR(try_recv_doc,
"try_recv($self, /)\n--\n\n"
"recv(timeout=0): raises Empty at once when no message waits.");

static PyObject *
channel_try_recv(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return receive_or_raise(self, 0);
}

static PyObject *
channel_next(PyObject *self)
{
    ph_status status;
    PyObject *obj = ph_channel_recv(ph_channel_of(self), PH_FOREVER, &status);
    if (obj == NULL && status != PH_EXCEPTION && status != PH_CLOSED) {
        ph_channel_raise(ph_channel_of(self), status);
    }
    return obj;
}

/* --- Closing, inspecting ------------------------------------------------------ */

PyDoc_STRVAR(close_doc,
"close($self, /)\n--\n\n"
"Allow no more messages, for all senders: send() raises Closed.  recv() raises it once\n"
"all waiting messages have been taken.  Wakes all threads that wait for this channel.\n"
"Closing again does nothing.  O(1).");

static PyObject *
channel_close(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    ph_ring_close(ph_channel_of(self)->ring);
    Py_RETURN_NONE;
}

static PyObject *
channel_exit(PyObject *self, PyObject *Py_UNUSED(args))
{
    return channel_close(self, NULL);
}

static PyObject *
channel_enter(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return Py_NewRef(self);
}

static Py_ssize_t
channel_len(PyObject *self)
{
    return (Py_ssize_t)ph_ring_messages(ph_channel_of(self)->ring);
}

/* Without this slot an empty channel would be false, as its len() is 0. */
static int
channel_bool(PyObject *Py_UNUSED(self))
{
    return 1;
}

static PyObject *
read_counter(_Atomic uint64_t *counter)
{
    return PyLong_FromUnsignedLongLong(atomic_load(counter));
}

PyDoc_STRVAR(channel_stats_doc,
"stats($self, /)\n--\n\n"
"A dict of figures about the channel, for all senders and receivers since it was made:\n"
"sent and received (messages), bytes (copied into it), pickled (messages that had to\n"
"be), large (messages that did not fit into the ring and were sent in memory of their\n"
"own).  The last message of a killed process may be missing.  O(1).");

static PyObject *
channel_stats(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    ph_channel_shared *shared = ph_channel_of(self)->shared;
    return Py_BuildValue("{s:N,s:N,s:N,s:N,s:N}", "sent", read_counter(&shared->sent),
                         "received", read_counter(&shared->received), "bytes",
                         read_counter(&shared->bytes), "pickled",
                         read_counter(&shared->pickled), "large",
                         read_counter(&shared->large));
}

static PyObject *
channel_closed(PyObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(ph_ring_is_closed(ph_channel_of(self)->ring));
}

static PyObject *
channel_capacity(PyObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(ph_ring_capacity(ph_channel_of(self)->ring));
}

static PyObject *
channel_name(PyObject *self, void *Py_UNUSED(closure))
{
    const ph_channel_shared *shared = ph_channel_of(self)->shared;
    uint32_t size = shared->name_size;
    if (size == 0 || size > PH_CHANNEL_NAME_MOST) {     /* none, or damaged */
        Py_RETURN_NONE;
    }
    return PyUnicode_FromStringAndSize(shared->name, (Py_ssize_t)size);
}

static PyObject *
channel_repr(PyObject *self)
{
    ChannelObject *channel = ph_channel_of(self);
    const char *state = ph_ring_is_closed(channel->ring) ? "closed, " : "";
    unsigned long waiting = (unsigned long)ph_ring_messages(channel->ring);
    PyObject *name = channel_name(self, NULL);
    if (name == NULL) {
        return NULL;
    }
    PyObject *text = PyUnicode_FromFormat("<permaheap.Channel %u name=%R, %s%lu "
                                          "waiting>", channel->id.index, name, state,
                                          waiting);
    Py_DECREF(name);
    return text;
}

static bool
is_same_channel(const ChannelObject *a, const ChannelObject *b)
{
    return a->id.index == b->id.index && a->id.generation == b->id.generation;
}

static PyObject *
channel_richcompare(PyObject *self, PyObject *other, int op)
{
    if ((op != Py_EQ && op != Py_NE) || Py_TYPE(other) != Py_TYPE(self)) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    bool equal = is_same_channel(ph_channel_of(self), ph_channel_of(other));
    return PyBool_FromLong(equal == (op == Py_EQ));
}

static Py_hash_t
channel_hash(PyObject *self)
{
    ph_span_id id = ph_channel_of(self)->id;
    return (Py_hash_t)((uint64_t)id.generation << 20 ^ id.index);
}

/* --- select() ----------------------------------------------------------------- */

static int
check_channels(ph_channels *channels, PyObject *tuple)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tuple); i++) {
        PyObject *item = PyTuple_GET_ITEM(tuple, i);
        if (Py_TYPE(item) != channels->type) {
            PyErr_Format(PyExc_TypeError, "select: a Channel is needed, not %s",
                         Py_TYPE(item)->tp_name);
            return -1;
        }
    }
    if (PyTuple_GET_SIZE(tuple) == 0) {
        PyErr_SetString(PyExc_ValueError, "select: there is nothing to wait for, since no "
                        "channels were given; pass at least one");
        return -1;
    }
    return 0;
}

PyDoc_STRVAR(select_doc,
"select($module, /, channels, timeout=None)\n--\n\n"
"Wait until there is something to receive from at least one of several channels.\n\n"
"channels: an iterable of Channels.  timeout: seconds to wait; None: for ever; 0: not\n"
"at all.  Returns a list of the channels from which recv() would not wait, in the order\n"
"given; closed channels are among them.  The list is empty when the time is over.  If\n"
"there are other receivers, use try_recv(): they may be quicker.\n\n"
"Raises TypeError for an item that is not a Channel, ValueError for an empty iterable.\n"
"O(channels).  The idea is from select(2).");

/* Return a tuple of the items of an iterable, not yet checked.  A Channel is an iterable
   of the objects that it receives: they would be lost. */
static PyObject *
collect_channels(ph_channels *channels, PyObject *iterable)
{
    if (Py_TYPE(iterable) == channels->type) {
        PyErr_SetString(PyExc_TypeError, "select: an iterable of Channels is needed, not a "
                        "Channel itself; pass [channel]");
        return NULL;
    }
    return PySequence_Tuple(iterable);
}

static PyObject *
core_select(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"channels", "timeout", NULL};
    PyObject *iterable, *timeout = NULL;
    uint64_t until;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O:select", names, &iterable,
                                     &timeout)
        || parse_timeout(timeout, &until) < 0) {
        return NULL;
    }
    ph_channels *channels = ph_channels_in(module);
    PyObject *tuple = collect_channels(channels, iterable);
    if (tuple == NULL) {
        return NULL;
    }
    PyObject *ready = NULL;
    if (check_channels(channels, tuple) == 0) {
        ready = ph_channel_select(tuple, until);
    }
    Py_DECREF(tuple);
    return ready;
}

PyDoc_STRVAR(ring_doc,
"_ring($self, /)\n--\n\n"
"For tests: a writable view of the channel's memory.");

static PyObject *
channel_ring(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    ChannelObject *channel = ph_channel_of(self);
    return PyMemoryView_FromMemory((char *)channel->ring,
                                   (Py_ssize_t)ph_span_size(channel->id), PyBUF_WRITE);
}

/* --- The type ----------------------------------------------------------------- */

static PyMethodDef channel_methods[] = {
    {"send", (PyCFunction)(void (*)(void))channel_send, METH_FASTCALL | METH_KEYWORDS,
     send_doc},
    {"recv", (PyCFunction)(void (*)(void))channel_recv, METH_FASTCALL | METH_KEYWORDS,
     recv_doc},
    {"try_send", channel_try_send, METH_O, try_send_doc},
    {"try_recv", channel_try_recv, METH_NOARGS, try_recv_doc},
    {"close", channel_close, METH_NOARGS, close_doc},
    {"stats", channel_stats, METH_NOARGS, channel_stats_doc},
    PH_EVENT_LOOP_METHODS,
    {"_ring", channel_ring, METH_NOARGS, ring_doc},
    {"_from_bytes", channel_from_bytes, METH_O | METH_CLASS, NULL},
    {"__reduce__", ph_channel_reduce, METH_NOARGS, NULL},
    {"__enter__", channel_enter, METH_NOARGS, NULL},
    {"__exit__", channel_exit, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef channel_getset[] = {
    {"closed", channel_closed, NULL, PyDoc_STR("Has any user closed it?"), NULL},
    {"capacity", channel_capacity, NULL, PyDoc_STR("Bytes of the ring."), NULL},
    {"name", channel_name, NULL, PyDoc_STR("The name, or None."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef channel_members[] = {
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(ChannelObject, weak), Py_READONLY,
     NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(channel_doc,
"Channel(capacity=262144, *, name=None, pickle=True, spin=None)\n--\n\n"
"A queue of objects between threads, interpreters and processes of the family: many\n"
"senders, many receivers.  The objects of one sender arrive in the order sent.\n\n"
"capacity: bytes of messages that may wait, rounded up to a power of two and at least\n"
"16 KiB; a message may be larger.  name: everywhere in the family the same name gives\n"
"the same channel, while any process holds it.  pickle: may send() pickle objects that\n"
"can be sent in no other way?  spin: seconds to wait actively before sleeping; None: 50\n"
"microseconds, while that is worth it; 0: never.\n\n"
"Forked children inherit channels.  Other processes of the family unpickle them, or\n"
"receive them through another channel.  Iterating receives until the channel is closed\n"
"and empty.  len() is the number of messages that wait.  A with statement closes the\n"
"channel at its end.\n\n"
"Raises ValueError when the channel of that name has another capacity; MemoryError.\n"
"O(capacity).");

static PyType_Slot channel_slots[] = {
    {Py_tp_doc, (void *)channel_doc},
    {Py_tp_new, channel_new},
    {Py_tp_dealloc, channel_dealloc},
    {Py_tp_methods, channel_methods},
    {Py_tp_getset, channel_getset},
    {Py_tp_members, channel_members},
    {Py_tp_richcompare, channel_richcompare},
    {Py_tp_hash, channel_hash},
    {Py_tp_repr, channel_repr},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, channel_next},
    {Py_am_aiter, PyObject_SelfIter},
    {Py_am_anext, ph_channel_anext},
    {Py_sq_length, channel_len},
    {Py_nb_bool, channel_bool},
    {0, NULL},
};

static PyType_Spec channel_spec = {
    .name = "permaheap.Channel",
    .basicsize = sizeof(ChannelObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = channel_slots,
};

/* --- For module.c ------------------------------------------------------------- */

PyDoc_STRVAR(empty_doc, "No object came through a channel in time.");
PyDoc_STRVAR(closed_doc, "The channel is closed; for a receiver, it is also empty.");

static int
add_channel_exception(PyObject *module, const char *name, const char *doc, PyObject *base,
                      PyObject **p_exception)
{
    *p_exception = base ? PyErr_NewExceptionWithDoc(name, doc, base, NULL) : NULL;
    return PyModule_AddObjectRef(module, strchr(name, '.') + 1, *p_exception);
}

static int
add_channel_exceptions(PyObject *module, ph_channels *channels)
{
    PyObject *queue = PyImport_ImportModule("_queue");      /* the base is built in */
    PyObject *empty = queue ? PyObject_GetAttrString(queue, "Empty") : NULL;
    int result = -1;
    if (empty != NULL
        && add_channel_exception(module, "permaheap.Empty", empty_doc, empty,
                                 &channels->empty) == 0
        && add_channel_exception(module, "permaheap.Closed", closed_doc, PyExc_Exception,
                                 &channels->closed) == 0) {
        result = 0;
    }
    Py_XDECREF(empty);
    Py_XDECREF(queue);
    return result;
}

/* Make the module's attribute Full when it is asked for (PEP 562). */
static PyObject *
core_getattr(PyObject *module, PyObject *name)
{
    if (PyUnicode_CompareWithASCIIString(name, "Full") != 0) {
        PyErr_Format(PyExc_AttributeError, "module 'permaheap._core' has no attribute "
                     "%R", name);
        return NULL;
    }
    return Py_XNewRef(ph_channel_full_class(ph_channels_in(module)));
}

static PyMethodDef channel_functions[] = {
    {"select", (PyCFunction)(void (*)(void))core_select, METH_VARARGS | METH_KEYWORDS,
     select_doc},
    {"__getattr__", core_getattr, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

int
ph_channels_add(PyObject *module)
{
    ph_interpreter *interp = ph_interpreter_of(module);
    ph_channels *channels = interp->channels;
    channels->parcels.exceptions = &interp->exceptions;
    channels->parcels.wire = interp->wire;
    ph_notify_init();
    channels->type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &channel_spec,
                                                              NULL);
    if (channels->type == NULL || PyModule_AddType(module, channels->type) < 0
        || PyModule_AddFunctions(module, channel_functions) < 0
        || ph_event_loop_add(module) < 0
        || add_channel_exceptions(module, channels) < 0) {
        return -1;
    }
    ph_wire_add_type(interp->wire, (ph_wire_type){
        .type = channels->type, .write = ph_channel_write, .read = ph_channel_read,
    });
    return 0;
}

int
ph_channels_traverse(ph_channels *channels, visitproc visit, void *arg)
{
    Py_VISIT(channels->type);
    Py_VISIT(channels->full);
    Py_VISIT(channels->empty);
    Py_VISIT(channels->closed);
    return 0;
}

void
ph_channels_clear(ph_channels *channels)
{
    Py_CLEAR(channels->type);
    Py_CLEAR(channels->full);
    Py_CLEAR(channels->empty);
    Py_CLEAR(channels->closed);
    ph_parcels_clear(&channels->parcels);
}
