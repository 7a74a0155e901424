/* registry.h -- how a Channel is made, found by its name, and passed on. */

#ifndef PH_CHANNEL_REGISTRY_H
#define PH_CHANNEL_REGISTRY_H

#include "channel/channel_object.h"

/* The arguments of Channel() that the channel itself depends on. */
typedef struct {
    uint64_t capacity;                  /* bytes */
    bool capacity_given;
    const char *name;                   /* NULL: none */
    size_t name_size;
} ph_channel_options;

/* Return a new channel, or the one of that name; held once for the caller. */
ph_status ph_channel_find_or_make(const ph_channel_options *options, ph_span_id *id);
/* Make a Channel for a span that the caller holds.  The hold becomes the object's, or is
   dropped.  NULL with an exception. */
PyObject *ph_channel_wrap(ph_channels *channels, ph_span_id id, bool may_pickle,
                          uint64_t spin);

/* For pickle: __reduce__, and the class method that it names. */
PyObject *ph_channel_reduce(PyObject *self, PyObject *ignored);
PyObject *ph_channel_from_bytes(PyObject *type, PyObject *data);
/* For messages: the entry of the table of wire types. */
int ph_channel_write(ph_writer *writer, PyObject *obj);
PyObject *ph_channel_read(const ph_wire_state *wire, ph_reader *reader);

#endif
