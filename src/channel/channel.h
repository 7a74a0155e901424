/* channel.h -- the Python type Channel and select(), for the module. */

#ifndef PH_CHANNEL_H
#define PH_CHANNEL_H

#include "channel/channel_object.h"

/* Add Channel, Full, Empty, Closed and select to the module, and Channel to the types
   that travel.  -1 with an exception. */
int ph_channels_add(PyObject *module);
int ph_channels_traverse(ph_channels *channels, visitproc visit, void *arg);
void ph_channels_clear(ph_channels *channels);

#endif
