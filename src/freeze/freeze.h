/* freeze.h -- a graph of ordinary objects in, permanent objects out. */

#ifndef PH_FREEZE_H
#define PH_FREEZE_H

#include "state/errors.h"

/* What freeze must know of one interpreter: its exception classes, and the
   classes of module collections. */
typedef struct {
    ph_exceptions exceptions;
    PyTypeObject *ordered_dict, *counter, *defaultdict;
    PyObject *freeze_name;          /* "__freeze__", interned */
    PyTypeObject *lock, *rlock;     /* of _thread */
    struct ph_channels *channels;   /* for channel.c; in the module's state */
} ph_interpreter;

/* The frozen form of obj, or NULL with an exception and the heap as it was.
   O(objects).  default_ may be NULL. */
PyObject *ph_freeze(const ph_interpreter *interp, PyObject *obj, PyObject *default_);
/* A frozen tuple of the items of an iterable, frozen one by one. */
PyObject *ph_freeze_each(const ph_interpreter *interp, PyObject *iterable,
                         PyObject *default_);
/* A frozen mapping of the (key, value) pairs of an iterable, likewise. */
PyObject *ph_freeze_pairs(const ph_interpreter *interp, PyObject *iterable,
                          PyObject *default_);

#endif
