/* parcel.h -- a Python value as one message of a channel, and back. */

#ifndef PH_CHANNEL_PARCEL_H
#define PH_CHANNEL_PARCEL_H

#include "wire/wire.h"
#include "core/ring/ring.h"

/* Per interpreter. */
typedef struct ph_parcel ph_parcel;
typedef struct {
    const ph_exceptions *exceptions;
    const ph_travels *travels;
    ph_parcel *spare;               /* for the next one who sends, or NULL */
    ph_incoming *spare_incoming;    /* for the next one who receives, or NULL */
} ph_parcels;

void ph_parcels_clear(ph_parcels *parcels);

/* A value on its way into a ring. */
struct ph_parcel {
    ph_outgoing out;                /* points into what follows */
    ph_writer writer;               /* PH_PARCEL_VALUE */
    char *bytes;                    /* PH_PARCEL_PICKLE: scratch memory */
    size_t bytes_size;
    uint64_t words[3];              /* what goes into the ring for an object; for a
                                       body in a span its size */
    ph_span_id *spans;              /* when the body is in a span: that one, then those
                                       of the writer */
    size_t spans_size;
    ph_span_id body;
    bool has_body;                  /* we hold `body` */
    uint32_t held;                  /* so many of the writer's spans, too */
    bool pickled;
};

/* Pack a value for a ring in which `largest` bytes can travel.  NULL with an
   exception: TypeError when it would have to be pickled and must not, or whatever
   pickling raises.  O(what has to be copied). */
ph_parcel *ph_parcel_pack(ph_parcels *parcels, PyObject *obj, bool may_pickle,
                          uint64_t largest);
/* Bytes that travel, in the ring or in the body's span. */
uint64_t ph_parcel_size(const ph_parcel *parcel);
/* Before others may run while it waits: from now on the value may change, even end.
   Buffers are pinned anyway; this holds the channels.  Once for each parcel.  -1 with
   an exception. */
int ph_parcel_hold(ph_parcels *parcels, ph_parcel *parcel);
/* For one that may wait for long, among many: the same message in no more memory than
   it takes.  Steals the parcel.  NULL with an exception. */
ph_parcel *ph_parcel_slim(ph_parcels *parcels, ph_parcel *parcel);
/* It has been sent: what it moved is gone from here. */
void ph_parcel_sent(ph_parcel *parcel);
/* Give it back, sent or not. */
void ph_parcel_done(ph_parcels *parcels, ph_parcel *parcel);

/* Memory for a message that arrives; NULL with an exception. */
ph_incoming *ph_incoming_take(ph_parcels *parcels);
void ph_incoming_done(ph_parcels *parcels, ph_incoming *incoming);

/* The value of a message.  Its spans are no longer the caller's.  NULL with an
   exception: MessageError when it is damaged, HandleError when what it names is no
   longer there, or whatever unpickling raises. */
PyObject *ph_parcel_open(ph_parcels *parcels, const ph_incoming *incoming);

#endif
