/* event_loop.h -- methods of Channel for event loops: asend(), arecv(), `async for`. */

#ifndef PH_CHANNEL_EVENT_LOOP_H
#define PH_CHANNEL_EVENT_LOOP_H

#include "channel/channel_object.h"

PyObject *ph_channel_asend(PyObject *self, PyObject *obj);
PyObject *ph_channel_arecv(PyObject *self, PyObject *ignored);
PyObject *ph_channel_anext(PyObject *self);             /* the slot Py_am_anext */
PyObject *ph_channel_send_or_pack(PyObject *self, PyObject *obj);
PyObject *ph_channel_pack_only(PyObject *self, PyObject *obj);
PyObject *ph_channel_key(PyObject *self, PyObject *room);
PyObject *ph_channel_watch(PyObject *self, PyObject *args);
PyObject *ph_channel_unwatch(PyObject *self, PyObject *args);

extern const char ph_asend_doc[], ph_arecv_doc[], ph_send_or_pack_doc[], ph_pack_doc[],
                  ph_key_doc[], ph_watch_doc[], ph_unwatch_doc[];

/* Their entries in the type's table of methods. */
#define PH_EVENT_LOOP_METHODS \
    {"asend", ph_channel_asend, METH_O, ph_asend_doc}, \
    {"arecv", ph_channel_arecv, METH_NOARGS, ph_arecv_doc}, \
    {"_send_or_pack", ph_channel_send_or_pack, METH_O, ph_send_or_pack_doc}, \
    {"_pack", ph_channel_pack_only, METH_O, ph_pack_doc}, \
    {"_key", ph_channel_key, METH_O, ph_key_doc}, \
    {"_watch", ph_channel_watch, METH_VARARGS, ph_watch_doc}, \
    {"_unwatch", ph_channel_unwatch, METH_VARARGS, ph_unwatch_doc}

/* Add the functions that permaheap._aio needs.  -1 with an exception. */
int ph_event_loop_add(PyObject *module);

#endif
