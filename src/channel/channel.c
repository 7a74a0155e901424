/* channel.c -- the Python type Channel: values from many senders to many receivers.

   A channel is a span of the family with a ring (ring.c) and, at its end, what else
   belongs to all who have the channel:

       ph_ring ... | ph_channel_shared: name, figures for stats()

   A Channel object is one interpreter's way to it.  Each object holds the span once;
   forked children inherit the holds, pickles do not hold, a Channel in a message does.
   Whether it may pickle, and how long it spins, belongs to the object and travels with
   it.

   Sending packs the value (parcel.c), and transfers the message when there is room
   (wait.c).  Receiving is the same the other way round.  What was taken out of
   the ring is turned into a value or an exception: it is never put back. */

#include "channel/channel.h"

#include <string.h>

#include "core/family/family.h"
#include "core/ring/notify.h"
#include "channel/channel_object.h"

#define CAPACITY (256 * PH_KIB)         /* bytes, unless asked for */
#define SPIN 50000u                     /* nanoseconds, unless asked for */
#define SECOND 1e9                      /* nanoseconds */

static ph_channels *
channels_in(PyObject *module)
{
    return ph_interpreter_of(module)->channels;
}

/* --- Making -------------------------------------------------------------------------- */

/* Seconds as nanoseconds; -1 with an exception. */
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

/* The point in time when a timeout is over; 0: at once. */
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
parse_capacity(PyObject *obj, ph_channel_wish *wish)
{
    wish->capacity = CAPACITY;
    wish->capacity_given = obj != NULL && obj != Py_None;
    if (!wish->capacity_given) {
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
    wish->capacity = (uint64_t)capacity;
    return 0;
}

static int
parse_name(PyObject *obj, ph_channel_wish *wish)
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
    wish->name = PyUnicode_AsUTF8AndSize(obj, &size);
    if (wish->name == NULL) {
        return -1;
    }
    if (size == 0 || size > (Py_ssize_t)PH_CHANNEL_NAME_MOST) {
        PyErr_Format(PyExc_ValueError, "name must have from 1 to %u bytes of UTF-8, "
                     "not %zd", PH_CHANNEL_NAME_MOST, size);
        return -1;
    }
    wish->name_size = (size_t)size;
    return 0;
}

static PyObject *
channel_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"capacity", "name", "pickle", "spin", NULL};
    PyObject *capacity = NULL, *name = Py_None, *spin = Py_None;
    ph_channel_wish wish = {.spin = SPIN};
    int may_pickle = 1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O$OpO:Channel", names, &capacity,
                                     &name, &may_pickle, &spin)
        || parse_capacity(capacity, &wish) < 0 || parse_name(name, &wish) < 0
        || (spin != Py_None
            && parse_seconds(spin, "spin", PH_CHANNEL_SPIN_MOST / SECOND, &wish.spin) < 0)) {
        return NULL;
    }
    ph_channels *channels = ph_channels_of(type);
    ph_span_id id;
    if (ph_heap_ready() != PH_OK || ph_channel_find_or_make(&wish, &id) != PH_OK) {
        ph_raise(channels->parcels.exceptions);
        return NULL;
    }
    uint64_t has = ph_ring_capacity(ph_span_address(id));
    if (wish.capacity_given
        && ph_ring_span_size(has) != ph_ring_span_size(wish.capacity)) {
        PyErr_Format(PyExc_ValueError, "the channel %R has a capacity of %llu bytes, not "
                     "%llu; leave it out to take the channel as it is", name,
                     (unsigned long long)has, (unsigned long long)wish.capacity);
        ph_span_drop(id);
        return NULL;
    }
    return ph_channel_wrap(channels, id, may_pickle, wish.spin);
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

/* --- Exceptions ---------------------------------------------------------------------- */

PyDoc_STRVAR(full_doc, "There was no room in a channel in time.");

/* queue.Full is Python code, and its module imports threading.  That is not for every
   program, and must not be imported by the thread that happens to run an interpreter
   first: 3.12 then waits for ever when another one ends the interpreter.  So the class
   is made when it is needed.  Borrowed; NULL with an exception. */
static PyObject *
full_class(ph_channels *channels)
{
    if (channels->full == NULL) {
        PyObject *queue = PyImport_ImportModule("queue");
        PyObject *base = queue ? PyObject_GetAttrString(queue, "Full") : NULL;
        PyObject *full = base ? PyErr_NewExceptionWithDoc("permaheap.Full", full_doc,
                                                          base, NULL) : NULL;
        Py_XDECREF(base);
        Py_XDECREF(queue);
        if (channels->full == NULL) {
            channels->full = full;
        }
        else {
            Py_XDECREF(full);       /* another thread was quicker */
        }
    }
    return channels->full;
}

static int
raise_status(ChannelObject *self, ph_status status)
{
    ph_channels *channels = self->channels;
    switch (status) {
    case PH_FULL:
        if (full_class(channels) != NULL) {
            PyErr_SetString(channels->full, "the channel is full");
        }
        return -1;
    case PH_EMPTY:
        PyErr_SetString(channels->empty, "the channel is empty");
        return -1;
    case PH_CLOSED:
        PyErr_SetString(channels->closed, "the channel is closed");
        return -1;
    default:
        return ph_raise(channels->parcels.exceptions);
    }
}

/* --- Sending and receiving ----------------------------------------------------------- */

static void
count_sent(ph_channel_shared *shared, const ph_parcel *parcel)
{
    atomic_fetch_add_explicit(&shared->sent, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&shared->bytes, ph_parcel_size(parcel),
                              memory_order_relaxed);
    if (parcel->pickled) {
        atomic_fetch_add_explicit(&shared->pickled, 1, memory_order_relaxed);
    }
    if (parcel->has_body) {
        atomic_fetch_add_explicit(&shared->large, 1, memory_order_relaxed);
    }
}

static ph_parcel *
pack_for(ChannelObject *self, PyObject *obj)
{
    if (ph_ring_is_closed(self->ring)) {
        raise_status(self, PH_CLOSED);
        return NULL;
    }
    return ph_parcel_pack(&self->channels->parcels, obj, self->may_pickle,
                          ph_ring_largest(self->ring));
}

/* The parcel was sent, or will not be: give it back.  None, or NULL with an
   exception. */
static PyObject *
end_send(ChannelObject *self, ph_parcel *parcel, ph_status status)
{
    if (status == PH_OK) {
        self->channels->sent = true;
        count_sent(self->shared, parcel);
        ph_parcel_sent(parcel);
    }
    ph_parcel_done(&self->channels->parcels, parcel);
    if (status != PH_OK) {
        if (status != PH_EXCEPTION) {
            raise_status(self, status);
        }
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
send_until(ChannelObject *self, PyObject *obj, uint64_t until)
{
    ph_parcel *parcel = pack_for(self, obj);
    if (parcel == NULL) {
        return NULL;
    }
    ph_transfer transfer = {.out = &parcel->out};
    ph_status status = ph_channel_try(self, &transfer);
    if (ph_channel_must_wait(status)) {
        status = PH_EXCEPTION;
        if (ph_parcel_hold(&self->channels->parcels, parcel) == 0) {
            status = ph_channel_wait(self, &transfer, until);
        }
    }
    return end_send(self, parcel, status);
}

/* NULL with *p_status == PH_CLOSED, PH_EMPTY or PH_EXCEPTION; only that one is set. */
static PyObject *
recv_until(ChannelObject *self, uint64_t until, ph_status *p_status)
{
    ph_parcels *parcels = &self->channels->parcels;
    ph_incoming *incoming = ph_incoming_take(parcels);
    *p_status = PH_EXCEPTION;
    if (incoming == NULL) {
        return NULL;
    }
    ph_transfer transfer = {.in = incoming};
    *p_status = ph_channel_try(self, &transfer);
    if (ph_channel_must_wait(*p_status)) {
        *p_status = ph_channel_wait(self, &transfer, until);
    }
    PyObject *obj = NULL;
    if (*p_status == PH_OK) {
        atomic_fetch_add_explicit(&self->shared->received, 1, memory_order_relaxed);
        obj = ph_parcel_open(parcels, incoming);
        *p_status = obj == NULL ? PH_EXCEPTION : PH_OK;
    }
    ph_incoming_done(parcels, incoming);
    if (obj == NULL && *p_status != PH_EMPTY && *p_status != PH_CLOSED) {
        if (*p_status == PH_BAD_HANDLE) {       /* the ring's word for it */
            PyErr_SetString(parcels->exceptions->message_error, ph_error_text());
        }
        else if (*p_status != PH_EXCEPTION) {
            raise_status(self, *p_status);
        }
        *p_status = PH_EXCEPTION;
    }
    return obj;
}

/* The value of the only keyword there may be; -1 with an exception. */
static int
timeout_of(const char *method, PyObject *const *values, PyObject *kwnames,
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
"Send an object, waiting for room if need be.\n\n"
"timeout: seconds to wait; None: for ever; 0: not at all.\n\n"
"A permanent object travels by reference, and the same object arrives.  A Buffer\n"
"in move() travels by reference, and is gone from here when this returns.  Ordinary\n"
"values are copied; anything else is pickled, unless the channel was made with\n"
"pickle=False.  A message may be larger than the channel's capacity.\n\n"
"Raises Full when the time is over, Closed when the channel is closed; TypeError\n"
"for what does not travel, or whatever pickling raises.  Then nothing was sent, and\n"
"a moved Buffer is still the sender's.  O(size of what is copied).\n\n"
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
    if (timeout_of("send", args + nargs, kwnames, &timeout) < 0
        || parse_timeout(timeout, &until) < 0) {
        return NULL;
    }
    return send_until(ph_channel_of(self), args[0], until);
}

PyDoc_STRVAR(try_send_doc,
"try_send($self, obj, /)\n--\n\n"
"send(obj, timeout=0): raises Full at once when there is no room.");

static PyObject *
channel_try_send(PyObject *self, PyObject *obj)
{
    return send_until(ph_channel_of(self), obj, 0);
}

static PyObject *
recv_or_raise(PyObject *self, uint64_t until)
{
    ph_status status;
    PyObject *obj = recv_until(ph_channel_of(self), until, &status);
    if (obj == NULL && status != PH_EXCEPTION) {
        raise_status(ph_channel_of(self), status);
    }
    return obj;
}

PyDoc_STRVAR(recv_doc,
"recv($self, /, timeout=None)\n--\n\n"
"Take the next object, waiting for one if need be.\n\n"
"timeout: seconds to wait; None: for ever; 0: not at all.\n\n"
"Raises Empty when the time is over; Closed when the channel is closed and empty;\n"
"MessageError for a message that was damaged, HandleError for a permanent object\n"
"that was released meanwhile, or whatever unpickling raises: that message is then\n"
"lost.  O(size of what is copied).");

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
    if (timeout_of("recv", args + nargs, kwnames, &timeout) < 0
        || parse_timeout(timeout, &until) < 0) {
        return NULL;
    }
    return recv_or_raise(self, until);
}

PyDoc_STRVAR(try_recv_doc,
"try_recv($self, /)\n--\n\n"
"recv(timeout=0): raises Empty at once when nothing waits.");

static PyObject *
channel_try_recv(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return recv_or_raise(self, 0);
}

static PyObject *
channel_next(PyObject *self)
{
    ph_status status;
    PyObject *obj = recv_until(ph_channel_of(self), PH_FOREVER, &status);
    if (obj == NULL && status != PH_EXCEPTION && status != PH_CLOSED) {
        raise_status(ph_channel_of(self), status);
    }
    return obj;
}

/* --- Closing, looking ---------------------------------------------------------------- */

PyDoc_STRVAR(close_doc,
"close($self, /)\n--\n\n"
"No more messages, from anybody: send() raises Closed, and so does recv() once what\n"
"waits has been taken.  Wakes all who wait.  Closing again does nothing.  O(1).");

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

/* An empty channel is a channel. */
static int
channel_bool(PyObject *Py_UNUSED(self))
{
    return 1;
}

static PyObject *
number_of(_Atomic uint64_t *counter)
{
    return PyLong_FromUnsignedLongLong(atomic_load(counter));
}

PyDoc_STRVAR(channel_stats_doc,
"stats($self, /)\n--\n\n"
"A dict of the channel's figures, of all senders and receivers since it was made:\n"
"sent and received (messages), bytes (that were copied into it), pickled (messages\n"
"that had to be), large (messages that did not fit into the ring and travelled\n"
"in memory of their own).  A process that is killed may be missing by one.  O(1).");

static PyObject *
channel_stats(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    ph_channel_shared *shared = ph_channel_of(self)->shared;
    return Py_BuildValue("{s:N,s:N,s:N,s:N,s:N}", "sent", number_of(&shared->sent),
                         "received", number_of(&shared->received), "bytes",
                         number_of(&shared->bytes), "pickled",
                         number_of(&shared->pickled), "large",
                         number_of(&shared->large));
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
is_same(const ChannelObject *a, const ChannelObject *b)
{
    return a->id.index == b->id.index && a->id.generation == b->id.generation;
}

static PyObject *
channel_richcompare(PyObject *self, PyObject *other, int op)
{
    if ((op != Py_EQ && op != Py_NE) || Py_TYPE(other) != Py_TYPE(self)) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    bool equal = is_same(ph_channel_of(self), ph_channel_of(other));
    return PyBool_FromLong(equal == (op == Py_EQ));
}

static Py_hash_t
channel_hash(PyObject *self)
{
    ph_span_id id = ph_channel_of(self)->id;
    return (Py_hash_t)((uint64_t)id.generation << 20 ^ id.index);
}

/* --- Several at once ----------------------------------------------------------------- */

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
        PyErr_SetString(PyExc_ValueError, "select: without channels there is nothing to "
                        "wait for");
        return -1;
    }
    return 0;
}

PyDoc_STRVAR(select_doc,
"select($module, /, channels, timeout=None)\n--\n\n"
"Wait until there is something to receive from at least one of several channels.\n\n"
"channels: an iterable of Channels.  timeout: seconds to wait; None: for ever; 0: not\n"
"at all.  Returns a list of the channels from which recv() would not wait, those that\n"
"are closed among them, in the order given; an empty list when the time is over.\n"
"Another receiver may be quicker: use try_recv() then.\n\n"
"Raises TypeError for what is no Channel, ValueError for no channels at all.\n"
"O(channels).  The idea is from select(2).");

/* The channels of an iterable, not yet checked.  One Channel is an iterable, too: of what
   it receives, which nobody wants to lose. */
static PyObject *
listed(ph_channels *channels, PyObject *iterable)
{
    if (Py_TYPE(iterable) == channels->type) {
        PyErr_SetString(PyExc_TypeError, "select: an iterable of Channels is needed, not a "
                        "Channel itself");
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
    ph_channels *channels = channels_in(module);
    PyObject *tuple = listed(channels, iterable);
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

/* --- Event loops: what permaheap._aio asks for --------------------------------------- */

static PyObject *
call_aio(const char *function, PyObject *const *args, size_t n)
{
    PyObject *aio = PyImport_ImportModule("permaheap._aio");
    PyObject *callable = aio ? PyObject_GetAttrString(aio, function) : NULL;
    PyObject *result = callable ? PyObject_Vectorcall(callable, args, n, NULL) : NULL;
    Py_XDECREF(callable);
    Py_XDECREF(aio);
    return result;
}

PyDoc_STRVAR(asend_doc,
"asend($self, obj, /)\n--\n\n"
"A coroutine that sends an object, while the event loop goes on when there is no\n"
"room.  As send(), whose time asyncio.timeout() limits; cancelled, nothing was sent.\n"
"The object is packed once, when the coroutine begins.");

static PyObject *
channel_asend(PyObject *self, PyObject *obj)
{
    PyObject *args[2] = {self, obj};
    return call_aio("send", args, 2);
}

PyDoc_STRVAR(arecv_doc,
"arecv($self, /)\n--\n\n"
"A coroutine that takes the next object, while the event loop goes on when nothing\n"
"waits.  As recv(), whose time asyncio.timeout() limits; cancelled, nothing was taken.");

static PyObject *
channel_arecv(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return call_aio("recv", &self, 1);
}

static PyObject *
channel_anext(PyObject *self)
{
    return call_aio("next_of", &self, 1);
}

#define PACKED "permaheap: a message that waits for room"
#define SPENT "permaheap: a message that waits no more"

static void
packed_free(PyObject *capsule)
{
    ChannelObject *self = PyCapsule_GetContext(capsule);
    if (PyCapsule_IsValid(capsule, PACKED)) {
        ph_parcel_done(&self->channels->parcels, PyCapsule_GetPointer(capsule, PACKED));
    }
    Py_DECREF(self);
}

/* A parcel, which this steals, as an object. */
static PyObject *
packed_of(ChannelObject *self, ph_parcel *parcel)
{
    ph_parcels *parcels = &self->channels->parcels;
    if (ph_parcel_hold(parcels, parcel) < 0) {
        ph_parcel_done(parcels, parcel);
        return NULL;
    }
    parcel = ph_parcel_slim(parcels, parcel);
    PyObject *capsule = parcel ? PyCapsule_New(parcel, PACKED, packed_free) : NULL;
    if (capsule != NULL) {
        PyCapsule_SetContext(capsule, Py_NewRef(self));
    }
    else if (parcel != NULL) {
        ph_parcel_done(parcels, parcel);
    }
    return capsule;
}

PyDoc_STRVAR(send_or_pack_doc,
"_send_or_pack($self, obj, /)\n--\n\n"
"As try_send(), but when there is no room return what is to be sent, packed, for\n"
"_send_packed().  While that object is there Buffers in it are pinned.");

static PyObject *
channel_send_or_pack(PyObject *op, PyObject *obj)
{
    ChannelObject *self = ph_channel_of(op);
    ph_parcel *parcel = pack_for(self, obj);
    if (parcel == NULL) {
        return NULL;
    }
    ph_transfer transfer = {.out = &parcel->out};
    ph_status status = ph_channel_try(self, &transfer);
    return ph_channel_must_wait(status) ? packed_of(self, parcel)
                                        : end_send(self, parcel, status);
}

PyDoc_STRVAR(send_packed_doc,
"_send_packed($module, packed, /)\n--\n\n"
"Send what _send_or_pack() has packed, once.  False when there is still no room.");

static PyObject *
core_send_packed(PyObject *Py_UNUSED(module), PyObject *capsule)
{
    ph_parcel *parcel = PyCapsule_GetPointer(capsule, PACKED);
    if (parcel == NULL) {
        return NULL;
    }
    ChannelObject *self = PyCapsule_GetContext(capsule);
    ph_transfer transfer = {.out = &parcel->out};
    ph_status status = ph_channel_try(self, &transfer);
    if (ph_channel_must_wait(status)) {
        status = ph_channel_wait(self, &transfer, 0);
    }
    if (ph_channel_must_wait(status)) {
        Py_RETURN_FALSE;
    }
    PyCapsule_SetName(capsule, SPENT);
    PyObject *none = end_send(self, parcel, status);
    Py_XDECREF(none);
    return none ? Py_NewRef(Py_True) : NULL;
}

static int
parse_watch(PyObject *args, const char *format, ph_watch *p_what, uint64_t *p_watcher)
{
    int room;
    unsigned int number;
    if (!PyArg_ParseTuple(args, format, &room, &number)) {
        return -1;
    }
    *p_what = room ? PH_WATCH_ROOM : PH_WATCH_MESSAGE;
    *p_watcher = ph_bell_watcher(number);
    return 0;
}

PyDoc_STRVAR(key_doc,
"_key($self, room, /)\n--\n\n"
"The bytes that a bell which _watch() has asked for gets.");

static PyObject *
channel_key(PyObject *self, PyObject *room)
{
    int wants_room = PyObject_IsTrue(room);
    if (wants_room < 0) {
        return NULL;
    }
    uint64_t key = ph_ring_key(ph_channel_of(self)->ring,
                               wants_room ? PH_WATCH_ROOM : PH_WATCH_MESSAGE);
    return PyBytes_FromStringAndSize((const char *)&key, sizeof(key));
}

PyDoc_STRVAR(watch_doc,
"_watch($self, room, number, /)\n--\n\n"
"Let bell `number` of this process ring once, when room, or else a message, comes.\n"
"False when so many wait that nobody will ring: look again now and then.");

static PyObject *
channel_watch(PyObject *self, PyObject *args)
{
    ph_watch what;
    uint64_t watcher;
    if (parse_watch(args, "pI:_watch", &what, &watcher) < 0) {
        return NULL;
    }
    return PyBool_FromLong(ph_ring_watch(ph_channel_of(self)->ring, what, watcher));
}

PyDoc_STRVAR(unwatch_doc,
"_unwatch($self, room, number, /)\n--\n\n"
"Undo _watch().");

static PyObject *
channel_unwatch(PyObject *self, PyObject *args)
{
    ph_watch what;
    uint64_t watcher;
    if (parse_watch(args, "pI:_unwatch", &what, &watcher) < 0) {
        return NULL;
    }
    ph_ring_unwatch(ph_channel_of(self)->ring, what, watcher);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(bell_name_doc,
"_bell_name($module, number, /)\n--\n\n"
"The abstract name of the socket that bell `number` of this process rings at.");

static PyObject *
core_bell_name(PyObject *module, PyObject *arg)
{
    unsigned long number = PyLong_AsUnsignedLong(arg);
    if (number == (unsigned long)-1 && PyErr_Occurred()) {
        return NULL;
    }
    if (ph_heap_ready() != PH_OK) {
        ph_channels *channels = channels_in(module);
        ph_raise(channels->parcels.exceptions);
        return NULL;
    }
    char name[PH_BELL_NAME + 1];
    name[0] = '\0';
    size_t size = ph_bell_name(ph_bell_watcher((uint32_t)number), name + 1);
    return PyBytes_FromStringAndSize(name, (Py_ssize_t)size + 1);
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

/* --- The type ------------------------------------------------------------------------ */

static PyMethodDef channel_methods[] = {
    {"send", (PyCFunction)(void (*)(void))channel_send, METH_FASTCALL | METH_KEYWORDS,
     send_doc},
    {"recv", (PyCFunction)(void (*)(void))channel_recv, METH_FASTCALL | METH_KEYWORDS,
     recv_doc},
    {"try_send", channel_try_send, METH_O, try_send_doc},
    {"try_recv", channel_try_recv, METH_NOARGS, try_recv_doc},
    {"asend", channel_asend, METH_O, asend_doc},
    {"arecv", channel_arecv, METH_NOARGS, arecv_doc},
    {"close", channel_close, METH_NOARGS, close_doc},
    {"stats", channel_stats, METH_NOARGS, channel_stats_doc},
    {"_send_or_pack", channel_send_or_pack, METH_O, send_or_pack_doc},
    {"_key", channel_key, METH_O, key_doc},
    {"_watch", channel_watch, METH_VARARGS, watch_doc},
    {"_unwatch", channel_unwatch, METH_VARARGS, unwatch_doc},
    {"_ring", channel_ring, METH_NOARGS, ring_doc},
    {"_from_bytes", ph_channel_from_bytes, METH_O | METH_CLASS, NULL},
    {"__reduce__", ph_channel_reduce, METH_NOARGS, NULL},
    {"__enter__", channel_enter, METH_NOARGS, NULL},
    {"__exit__", channel_exit, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef channel_getset[] = {
    {"closed", channel_closed, NULL, PyDoc_STR("Has anybody closed it?"), NULL},
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
"senders, many receivers, what one sends arrives in that order.\n\n"
"capacity: bytes of messages that may wait, rounded up to a power of two and at least\n"
"16 KiB; a message may be larger.  name: all of the family who give the same one get\n"
"the same channel, as long as somebody holds it.  pickle: may send() pickle what\n"
"travels in no other way?  spin: seconds to wait actively before sleeping; None: 50\n"
"microseconds, as long as it is worth it; 0: never.\n\n"
"Children inherit channels; anybody else in the family unpickles them, or receives\n"
"them through another channel.  Iterating receives until the channel is closed and\n"
"empty.  len() is the number of messages that wait.  A with statement closes it.\n\n"
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
    {Py_am_anext, channel_anext},
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

/* --- For module.c -------------------------------------------------------------------- */

PyDoc_STRVAR(empty_doc, "Nothing came through a channel in time.");
PyDoc_STRVAR(closed_doc, "The channel is closed; and empty, for who receives.");

static int
add_exception(PyObject *module, const char *name, const char *doc, PyObject *base,
              PyObject **p_exception)
{
    *p_exception = base ? PyErr_NewExceptionWithDoc(name, doc, base, NULL) : NULL;
    return PyModule_AddObjectRef(module, strchr(name, '.') + 1, *p_exception);
}

static int
add_exceptions(PyObject *module, ph_channels *channels)
{
    PyObject *queue = PyImport_ImportModule("_queue");      /* the base is built in */
    PyObject *empty = queue ? PyObject_GetAttrString(queue, "Empty") : NULL;
    int result = -1;
    if (empty != NULL
        && add_exception(module, "permaheap.Empty", empty_doc, empty,
                         &channels->empty) == 0
        && add_exception(module, "permaheap.Closed", closed_doc, PyExc_Exception,
                         &channels->closed) == 0) {
        result = 0;
    }
    Py_XDECREF(empty);
    Py_XDECREF(queue);
    return result;
}

/* For the module's attribute Full (PEP 562). */
static PyObject *
core_getattr(PyObject *module, PyObject *name)
{
    if (PyUnicode_CompareWithASCIIString(name, "Full") != 0) {
        PyErr_Format(PyExc_AttributeError, "module 'permaheap._core' has no attribute "
                     "%R", name);
        return NULL;
    }
    return Py_XNewRef(full_class(channels_in(module)));
}

static PyMethodDef functions[] = {
    {"select", (PyCFunction)(void (*)(void))core_select, METH_VARARGS | METH_KEYWORDS,
     select_doc},
    {"_send_packed", core_send_packed, METH_O, send_packed_doc},
    {"_bell_name", core_bell_name, METH_O, bell_name_doc},
    {"__getattr__", core_getattr, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

int
ph_channels_add(PyObject *module)
{
    ph_interpreter *interp = ph_interpreter_of(module);
    ph_channels *channels = interp->channels;
    channels->parcels.exceptions = &interp->exceptions;
    channels->parcels.travels = interp->wire;
    ph_bells_init();
    channels->type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &channel_spec,
                                                              NULL);
    if (channels->type == NULL || PyModule_AddType(module, channels->type) < 0
        || PyModule_AddFunctions(module, functions) < 0
        || add_exceptions(module, channels) < 0) {
        return -1;
    }
    ph_travels_add(interp->wire, (ph_traveller){
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
