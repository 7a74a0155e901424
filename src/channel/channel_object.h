/* channel_object.h -- a Channel object, for the files that make up the type. */

#ifndef PH_CHANNEL_CHANNEL_OBJECT_H
#define PH_CHANNEL_CHANNEL_OBJECT_H

#include "channel/channel.h"
#include "state/interpreter.h"

#define PH_CHANNEL_NAME_MOST 255u       /* bytes of UTF-8 */
#define PH_CHANNEL_SPIN_MOST 1000000000u    /* nanoseconds */

/* At the end of the channel's span, in the family's shared memory: what its senders
   write, its receivers, and nobody once it is listed. */
typedef struct {
    _Alignas(128) _Atomic uint64_t sent;    /* processors fetch lines in pairs */
    _Atomic uint64_t bytes, pickled, large;
    _Alignas(128) _Atomic uint64_t received;
    _Alignas(128) _Atomic uint32_t listed;
    uint32_t name_size;                 /* bytes; 0: none */
    char name[PH_CHANNEL_NAME_MOST + 1];
} ph_channel_shared;

/* Written with the GIL. */
typedef struct {
    PyObject_HEAD
    ph_channels *channels;
    ph_span_id id;                      /* held once */
    ph_ring *ring;
    ph_channel_shared *shared;
    uint64_t spin;                      /* nanoseconds, PH_CHANNEL_SPIN_MOST at most; 0: never */
    bool may_pickle;
    uint8_t in_vain;                    /* waits in which spinning was for nothing */
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

/* --- registry.c ----------------------------------------------------------------- */

/* What is asked for when a Channel is made. */
typedef struct {
    uint64_t capacity;                  /* bytes */
    bool capacity_given;
    const char *name;                   /* NULL: none */
    size_t name_size;
    bool may_pickle;
    uint64_t spin;                      /* nanoseconds */
} ph_channel_wish;

/* A new channel, or the one of that name; held. */
ph_status ph_channel_find_or_make(const ph_channel_wish *wish, ph_span_id *id);
/* A Channel for a span that the caller holds; the hold becomes the object's, or is
   dropped. */
PyObject *ph_channel_wrap(ph_channels *channels, ph_span_id id, bool may_pickle,
                          uint64_t spin);
/* For pickle: __reduce__ and what that names; for messages: a traveller. */
PyObject *ph_channel_reduce(PyObject *self, PyObject *ignored);
PyObject *ph_channel_from_bytes(PyObject *type, PyObject *data);
int ph_channel_write(ph_writer *writer, PyObject *obj);
PyObject *ph_channel_read(const ph_travels *travels, ph_reader *reader);

/* --- wait.c ------------------------------------------------------------------ */

/* A message that goes, or one that comes. */
typedef struct {
    const ph_outgoing *out;
    ph_incoming *in;
} ph_transfer;

/* Send or receive at once, and keep the GIL.  When that gives one of the statuses for
   which one has to wait: wait until that point in time; 0: hardly at all.  Others have
   the GIL while this waits.  PH_EXCEPTION: a signal handler has raised. */
ph_status ph_channel_try(ChannelObject *self, const ph_transfer *transfer);
bool ph_channel_must_wait(ph_status status);
ph_status ph_channel_wait(ChannelObject *self, const ph_transfer *transfer,
                          uint64_t until);
/* Those channels of a tuple from which recv() would not wait, once there are any or
   the time is over.  A new list; NULL with an exception. */
PyObject *ph_channel_select(PyObject *tuple, uint64_t until);

#endif
