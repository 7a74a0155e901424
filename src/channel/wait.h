/* wait.h -- waiting for one channel, or for one of several. */

#ifndef PH_CHANNEL_WAIT_H
#define PH_CHANNEL_WAIT_H

#include "channel/channel_object.h"

/* One message to send, or the place for one to receive: exactly one of the two is set. */
typedef struct {
    const ph_outgoing *out;
    ph_incoming *in;
} ph_transfer;

/* Send or receive at once, keeping the GIL. */
ph_status ph_channel_try(ChannelObject *self, const ph_transfer *transfer);
/* Is this a status of ph_channel_try() or ph_channel_wait() that says "not yet"? */
bool ph_channel_must_wait(ph_status status);
/* Send or receive, waiting until that point in time (0: hardly at all), with the GIL
   released.  PH_FULL or PH_EMPTY when the time is over; PH_EXCEPTION: a signal handler
   has raised.  A sender that returns has no claim on room any more. */
ph_status ph_channel_wait(ChannelObject *self, const ph_transfer *transfer,
                          uint64_t until);
/* Wait until recv() would not wait for some channels of the tuple, or the time is over.
   Return a new list of these channels; NULL with an exception.  O(channels). */
PyObject *ph_channel_select(PyObject *tuple, uint64_t until);

#endif
