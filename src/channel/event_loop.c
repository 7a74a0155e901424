/* event_loop.c -- Channels in event loops: what permaheap._aio is built from.

   The coroutines asend() and arecv() are Python code (permaheap/_aio.py).  It tries,
   asks the ring for a notification when nothing can be done yet, and tries again:

       _send_or_pack()   sends at once, or returns the packed message, a capsule
       _pack()           returns the packed message, without trying
       _send_packed()    tries to send that, as often as needed
       _watch()          asks for one datagram when room, or a message, comes
       _key()            the bytes of that datagram: which channel, and which of the two

   Invariants:

   1. A value is packed once, when the coroutine begins.  From then on the capsule owns
      the parcel, holds its spans and refers to the Channel.
   2. A capsule is sent at most once: its name changes from PACKED to SPENT when the
      parcel is given back.  Only PACKED ones have a parcel to free.

   State: none but the capsules, written with the GIL. */

#include "channel/event_loop.h"

#include "channel/transfer.h"
#include "channel/wait.h"
#include "core/family/family.h"
#include "core/ring/notify.h"

/* --- Coroutines --------------------------------------------------------------- */

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

const char ph_asend_doc[] = PyDoc_STR(
"asend($self, obj, /)\n--\n\n"
"A coroutine that sends an object.  The event loop goes on while there is no room, and\n"
"gets its turn once a millisecond while there is.\n\n"
"Like send(), without a timeout: use asyncio.timeout().  When it is cancelled, nothing\n"
"was sent.  The object is packed once, when the coroutine begins.");

PyObject *
ph_channel_asend(PyObject *self, PyObject *obj)
{
    PyObject *args[2] = {self, obj};
    return call_aio("send", args, 2);
}

const char ph_arecv_doc[] = PyDoc_STR(
"arecv($self, /)\n--\n\n"
"A coroutine that takes the next object.  The event loop goes on while there is none,\n"
"and gets its turn once a millisecond while there are some.\n\n"
"Like recv(), without a timeout: use asyncio.timeout().  When it is cancelled, nothing\n"
"was taken.");

PyObject *
ph_channel_arecv(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return call_aio("recv", &self, 1);
}

PyObject *
ph_channel_anext(PyObject *self)
{
    return call_aio("next_of", &self, 1);
}

/* --- Packed messages ---------------------------------------------------------- */

#define PACKED "permaheap: a packed message that waits for room"
#define SPENT "permaheap: a packed message that was sent, or cannot be"

static void
free_packed(PyObject *capsule)
{
    ChannelObject *self = PyCapsule_GetContext(capsule);
    if (PyCapsule_IsValid(capsule, PACKED)) {
        ph_parcel_done(&self->channels->parcels, PyCapsule_GetPointer(capsule, PACKED));
    }
    Py_DECREF(self);
}

/* Make a capsule of a parcel, which this steals. */
static PyObject *
wrap_packed(ChannelObject *self, ph_parcel *parcel)
{
    ph_parcels *parcels = &self->channels->parcels;
    if (ph_parcel_hold(parcels, parcel) < 0) {
        ph_parcel_done(parcels, parcel);
        return NULL;
    }
    parcel = ph_parcel_slim(parcels, parcel);
    PyObject *capsule = parcel ? PyCapsule_New(parcel, PACKED, free_packed) : NULL;
    if (capsule != NULL) {
        PyCapsule_SetContext(capsule, Py_NewRef(self));
    }
    else if (parcel != NULL) {
        ph_parcel_done(parcels, parcel);
    }
    return capsule;
}

const char ph_send_or_pack_doc[] = PyDoc_STR(
"_send_or_pack($self, obj, /)\n--\n\n"
"Like try_send(); but when there is no room, return the packed message, for\n"
"_send_packed().  While that exists, its Buffers are pinned.");

PyObject *
ph_channel_send_or_pack(PyObject *op, PyObject *obj)
{
    ChannelObject *self = ph_channel_of(op);
    ph_parcel *parcel = ph_channel_pack(self, obj);
    if (parcel == NULL) {
        return NULL;
    }
    ph_transfer transfer = {.out = &parcel->out};
    ph_status status = ph_channel_try(self, &transfer);
    return ph_channel_must_wait(status) ? wrap_packed(self, parcel)
                                        : ph_channel_end_send(self, parcel, status);
}

const char ph_pack_doc[] = PyDoc_STR(
"_pack($self, obj, /)\n--\n\n"
"Return the packed message, for _send_packed().");

PyObject *
ph_channel_pack_only(PyObject *op, PyObject *obj)
{
    ChannelObject *self = ph_channel_of(op);
    ph_parcel *parcel = ph_channel_pack(self, obj);
    return parcel ? wrap_packed(self, parcel) : NULL;
}

PyDoc_STRVAR(send_packed_doc,
"_send_packed($module, packed, /)\n--\n\n"
"Send a message that _send_or_pack() has packed.  False when there is still no room.");

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
    PyObject *none = ph_channel_end_send(self, parcel, status);
    Py_XDECREF(none);
    return none ? Py_NewRef(Py_True) : NULL;
}

/* --- Notifications ------------------------------------------------------------ */

static int
parse_watch(PyObject *args, const char *format, ph_watch *p_what, uint64_t *p_watcher)
{
    int room;
    unsigned int number;
    if (!PyArg_ParseTuple(args, format, &room, &number)) {
        return -1;
    }
    *p_what = room ? PH_WATCH_ROOM : PH_WATCH_MESSAGE;
    *p_watcher = ph_notify_watcher(number);
    return 0;
}

const char ph_key_doc[] = PyDoc_STR(
"_key($self, room, /)\n--\n\n"
"The bytes of the datagram that _watch() asks for.");

PyObject *
ph_channel_key(PyObject *self, PyObject *room)
{
    int wants_room = PyObject_IsTrue(room);
    if (wants_room < 0) {
        return NULL;
    }
    uint64_t key = ph_ring_key(ph_channel_of(self)->ring,
                               wants_room ? PH_WATCH_ROOM : PH_WATCH_MESSAGE);
    return PyBytes_FromStringAndSize((const char *)&key, sizeof(key));
}

const char ph_watch_doc[] = PyDoc_STR(
"_watch($self, room, number, /)\n--\n\n"
"Ask for one datagram to socket `number` of this process, when room, or else a message,\n"
"comes.  False when the channel has no place for this: look again periodically.");

PyObject *
ph_channel_watch(PyObject *self, PyObject *args)
{
    ph_watch what;
    uint64_t watcher;
    if (parse_watch(args, "pI:_watch", &what, &watcher) < 0) {
        return NULL;
    }
    return PyBool_FromLong(ph_ring_watch(ph_channel_of(self)->ring, what, watcher));
}

const char ph_unwatch_doc[] = PyDoc_STR(
"_unwatch($self, room, number, /)\n--\n\n"
"Undo _watch().");

PyObject *
ph_channel_unwatch(PyObject *self, PyObject *args)
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
"_notify_name($module, number, /)\n--\n\n"
"The abstract name of socket `number` of this process, which gets the datagrams.");

static PyObject *
core_notify_name(PyObject *module, PyObject *arg)
{
    unsigned long number = PyLong_AsUnsignedLong(arg);
    if (number == (unsigned long)-1 && PyErr_Occurred()) {
        return NULL;
    }
    if (ph_heap_ready() != PH_OK) {
        ph_channels *channels = ph_channels_in(module);
        ph_raise(channels->parcels.exceptions);
        return NULL;
    }
    char name[PH_NOTIFY_NAME + 1];
    name[0] = '\0';
    size_t size = ph_notify_name(ph_notify_watcher((uint32_t)number), name + 1);
    assert(size <= PH_NOTIFY_NAME);
    return PyBytes_FromStringAndSize(name, (Py_ssize_t)size + 1);
}

/* --- For channel.c ------------------------------------------------------------ */

static PyMethodDef event_loop_functions[] = {
    {"_send_packed", core_send_packed, METH_O, send_packed_doc},
    {"_notify_name", core_notify_name, METH_O, bell_name_doc},
    {NULL, NULL, 0, NULL},
};

int
ph_event_loop_add(PyObject *module)
{
    return PyModule_AddFunctions(module, event_loop_functions);
}
