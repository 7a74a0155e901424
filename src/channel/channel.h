/* channel.h -- the Python type Channel. */

#ifndef PH_CHANNEL_H
#define PH_CHANNEL_H

#include "channel/parcel.h"

/* Per interpreter. */
typedef struct ph_channels {
    ph_parcels parcels;
    PyTypeObject *type;
    PyObject *full, *empty, *closed;    /* the exceptions */
    bool sent;                          /* since somebody last waited to receive */
} ph_channels;

/* Add Channel, Full, Empty, Closed and select to the module, and Channel to the types
   that travel.  The state lives as long as the module's. */
int ph_channels_add(PyObject *module);
int ph_channels_traverse(ph_channels *channels, visitproc visit, void *arg);
void ph_channels_clear(ph_channels *channels);

#endif
