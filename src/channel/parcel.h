/* parcel.h -- a Python value as one message of a channel, and back. */

#ifndef PH_CHANNEL_PARCEL_H
#define PH_CHANNEL_PARCEL_H

#include "wire/wire.h"
#include "core/ring/ring.h"

/* Per interpreter; written with its GIL. */
typedef struct ph_parcel ph_parcel;
typedef struct {
    const ph_exceptions *exceptions;
    const ph_wire_state *wire;
    ph_parcel *spare;               /* memory for the next value to be sent, or NULL */
    ph_incoming *spare_incoming;    /* memory for the next one to be received, or NULL */
} ph_parcels;

void ph_parcels_clear(ph_parcels *parcels);

/* A value on its way into a ring. */
struct ph_parcel {
    ph_outgoing out;                /* points into the fields that follow */
    ph_writer writer;               /* of a value; of a pickle's references */
    char *bytes;                    /* of a pickle: scratch memory */
    size_t bytes_size;
    uint64_t words[3];              /* of an object, the message; of a body in a span, its
                                       size */
    ph_span_id *spans;              /* of a body in a span: that one, then the writer's */
    size_t spans_size;
    ph_span_id body;
    bool has_body;                  /* the parcel holds `body` */
    uint32_t held;                  /* this many of the writer's spans are held as well */
    bool pickled;
};

/* Pack a value for a ring that takes messages of up to `largest` bytes.  NULL with an
   exception: TypeError when it would have to be pickled and must not, or the one that
   pickling raises.  O(bytes that are copied). */
ph_parcel *ph_parcel_pack(ph_parcels *parcels, PyObject *obj, bool may_pickle,
                          uint64_t largest);
/* Return the size of the message, in the ring or in the body's span. */
uint64_t ph_parcel_size(const ph_parcel *parcel);
/* Make the parcel independent of its value, before other threads may run while it waits:
   hold the channels in it (its Buffers are pinned already).  Once for each parcel.  -1
   with an exception. */
int ph_parcel_hold(ph_parcels *parcels, ph_parcel *parcel);
/* Move the message of a parcel that may wait for long into one with no more memory than
   the message takes.  Steals the parcel.  NULL with an exception. */
ph_parcel *ph_parcel_slim(ph_parcels *parcels, ph_parcel *parcel);
/* Take from this interpreter what the parcel moved, once it has been sent. */
void ph_parcel_sent(ph_parcel *parcel);
/* Give a parcel back, whether it was sent or not. */
void ph_parcel_done(ph_parcels *parcels, ph_parcel *parcel);

/* Take memory for a message that arrives; give it back.  NULL with an exception. */
ph_incoming *ph_incoming_take(ph_parcels *parcels);
void ph_incoming_done(ph_parcels *parcels, ph_incoming *incoming);

/* Make the value of a message.  Its spans are no longer the caller's.  NULL with an
   exception: MessageError when it is damaged, HandleError when an object that it names
   does not exist any more, or the one that unpickling raises. */
PyObject *ph_parcel_open(ph_parcels *parcels, const ph_incoming *incoming);

#endif
