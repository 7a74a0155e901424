/* transfer.c -- sending and receiving one value: what all methods of Channel share.

   Sending packs the value (parcel.c) and puts the message into the ring, waiting for
   room if it must (wait.c).  Receiving takes a message out of the ring, waiting for one
   if it must, and makes a value of it.

   Invariants:

   1. A value is packed once.  When send() raises, nothing was sent, and a moved Buffer
      is still the sender's.
   2. A message that was taken out of the ring becomes a value or an exception.  It is
      never put back.
   3. The figures for stats() are changed after the ring was: a process that is killed
      in between is missing by one.

   Who writes: ph_channels and its spare parcels, a thread that holds the GIL; the
   figures, any process of the family, atomically. */

#include "channel/transfer.h"

#include "channel/wait.h"

/* --- Exceptions --------------------------------------------------------------- */

PyDoc_STRVAR(full_doc, "There was no room in a channel in time.");

/* queue.Full is Python code, and its module imports threading.  Not every program wants
   that, so the import of permaheap does not.  But a signal handler that comes in the middle
   of the import finds half a module.  So the main interpreter, where signal handlers run,
   makes the class before its first Channel.

   Other interpreters make it when it is needed: the thread that happens to run one first
   must not import threading, since 3.12 then waits for ever when another thread ends the
   interpreter. */
PyObject *
ph_channel_full_class(ph_channels *channels)
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

int
ph_channel_prepare_full(ph_channels *channels)
{
    bool here = PyInterpreterState_Get() == PyInterpreterState_Main();
    return here && ph_channel_full_class(channels) == NULL ? -1 : 0;
}

int
ph_channel_raise(ChannelObject *self, ph_status status)
{
    ph_channels *channels = self->channels;
    assert(status != PH_OK && status != PH_EXCEPTION);
    switch (status) {
    case PH_FULL:
        if (ph_channel_full_class(channels) != NULL) {
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

/* --- Sending ------------------------------------------------------------------ */

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

ph_parcel *
ph_channel_pack(ChannelObject *self, PyObject *obj)
{
    if (ph_ring_is_closed(self->ring)) {
        ph_channel_raise(self, PH_CLOSED);
        return NULL;
    }
    return ph_parcel_pack(&self->channels->parcels, obj, self->may_pickle,
                          ph_ring_largest(self->ring));
}

PyObject *
ph_channel_end_send(ChannelObject *self, ph_parcel *parcel, ph_status status)
{
    assert((status == PH_EXCEPTION) == (PyErr_Occurred() != NULL));
    if (status == PH_OK) {
        self->channels->sent = true;
        count_sent(self->shared, parcel);
        ph_parcel_sent(parcel);
    }
    ph_parcel_done(&self->channels->parcels, parcel);
    if (status != PH_OK) {
        if (status != PH_EXCEPTION) {
            ph_channel_raise(self, status);
        }
        return NULL;
    }
    Py_RETURN_NONE;
}

PyObject *
ph_channel_send(ChannelObject *self, PyObject *obj, uint64_t until)
{
    ph_parcel *parcel = ph_channel_pack(self, obj);
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
    return ph_channel_end_send(self, parcel, status);
}

/* --- Receiving ---------------------------------------------------------------- */

/* Transfer one message into `incoming`, and make a value of it. */
static PyObject *
receive_value(ChannelObject *self, ph_incoming *incoming, uint64_t until,
              ph_status *p_status)
{
    ph_transfer transfer = {.in = incoming};
    *p_status = ph_channel_try(self, &transfer);
    if (ph_channel_must_wait(*p_status)) {
        *p_status = ph_channel_wait(self, &transfer, until);
    }
    if (*p_status != PH_OK) {
        return NULL;
    }
    atomic_fetch_add_explicit(&self->shared->received, 1, memory_order_relaxed);
    PyObject *obj = ph_parcel_open(&self->channels->parcels, incoming);
    *p_status = obj == NULL ? PH_EXCEPTION : PH_OK;
    return obj;
}

PyObject *
ph_channel_recv(ChannelObject *self, uint64_t until, ph_status *p_status)
{
    ph_parcels *parcels = &self->channels->parcels;
    ph_incoming *incoming = ph_incoming_take(parcels);
    *p_status = PH_EXCEPTION;
    if (incoming == NULL) {
        return NULL;
    }
    PyObject *obj = receive_value(self, incoming, until, p_status);
    ph_incoming_done(parcels, incoming);
    if (obj == NULL && *p_status != PH_EMPTY && *p_status != PH_CLOSED) {
        if (*p_status == PH_BAD_HANDLE) {   /* the ring's status for a damaged message */
            PyErr_SetString(parcels->exceptions->message_error, ph_error_text());
        }
        else if (*p_status != PH_EXCEPTION) {
            ph_channel_raise(self, *p_status);
        }
        *p_status = PH_EXCEPTION;
    }
    assert((*p_status == PH_EXCEPTION) == (PyErr_Occurred() != NULL));
    return obj;
}
