/* transfer.h -- sending and receiving one value: what all methods of Channel share. */

#ifndef PH_CHANNEL_TRANSFER_H
#define PH_CHANNEL_TRANSFER_H

#include "channel/channel_object.h"

/* Return the class Full, made at the first call.  Borrowed; NULL with an exception. */
PyObject *ph_channel_full_class(ph_channels *channels);
/* Make it, in the main interpreter: before a Channel is made.  Runs Python code.  -1 with an
   exception. */
int ph_channel_prepare_full(ph_channels *channels);
/* Raise the exception of a status.  -1. */
int ph_channel_raise(ChannelObject *self, ph_status status);

/* Pack a value for this channel.  NULL with an exception, Closed among them. */
ph_parcel *ph_channel_pack(ChannelObject *self, PyObject *obj);
/* Give the parcel back, whether it was sent (PH_OK) or not.  None; NULL with the
   exception of the status. */
PyObject *ph_channel_end_send(ChannelObject *self, ph_parcel *parcel, ph_status status);

/* Send, waiting until that point in time; 0: not at all.  None, or NULL with an
   exception. */
PyObject *ph_channel_send(ChannelObject *self, PyObject *obj, uint64_t until);
/* Receive, waiting until that point in time; 0: not at all.  NULL with *p_status ==
   PH_CLOSED or PH_EMPTY, when no exception is set, or with PH_EXCEPTION, when one is. */
PyObject *ph_channel_recv(ChannelObject *self, uint64_t until, ph_status *p_status);

#endif
