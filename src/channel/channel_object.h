/* channel_object.h -- a Channel object, and what each interpreter keeps for its Channels.

   A channel is a span of the family: a ring (ring.c) at its start, and at its end what
   else belongs to all that have the channel:

       ph_ring ... | ph_channel_shared: name, figures for stats()

   A Channel object is one interpreter's way to it. */

#ifndef PH_CHANNEL_CHANNEL_OBJECT_H
#define PH_CHANNEL_CHANNEL_OBJECT_H

#include "channel/parcel.h"
#include "state/interpreter.h"

#define PH_CHANNEL_NAME_MOST 255u       /* bytes of UTF-8 */
#define PH_CHANNEL_SPIN_MOST 1000000000u    /* nanoseconds */

/* Per interpreter; written with its GIL. */
typedef struct ph_channels {
    ph_parcels parcels;
    PyTypeObject *type;
    PyObject *full, *empty, *closed;    /* the exceptions; `full` is made when needed */
    bool sent;                          /* since a thread last waited to receive */
} ph_channels;

/* In the family's shared memory.  Each part has cache lines of its own: the first is
   written by senders, the second by receivers, the third only until the channel is
   listed. */
typedef struct {
    _Alignas(128) _Atomic uint64_t sent;    /* processors fetch lines in pairs */
    _Atomic uint64_t bytes, pickled, large;
    _Alignas(128) _Atomic uint64_t received;
    _Alignas(128) _Atomic uint32_t listed;
    uint32_t name_size;                 /* bytes; 0: none */
    char name[PH_CHANNEL_NAME_MOST + 1];
} ph_channel_shared;

/* Written with the GIL.  `ring` and `shared` point into the span `id`, which the object
   holds once. */
typedef struct {
    PyObject_HEAD
    ph_channels *channels;
    ph_span_id id;
    ph_ring *ring;
    ph_channel_shared *shared;
    uint64_t spin;                      /* nanoseconds, <= PH_CHANNEL_SPIN_MOST; 0: never */
    bool may_pickle;
    uint8_t wasted_spins;               /* in a row; see wait.c */
    PyObject *weak;                     /* list of the weak references */
} ChannelObject;

static inline ChannelObject *
ph_channel_of(PyObject *self)
{
    return (ChannelObject *)self;
}

static inline ph_channels *
ph_channels_of(PyTypeObject *type)
{
    return ph_interpreter_of_type(type)->channels;
}

static inline ph_channels *
ph_channels_in(PyObject *module)
{
    return ph_interpreter_of(module)->channels;
}

#endif
