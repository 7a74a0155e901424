/* pickle.h -- objects that only pickle can carry, with references to those that are sent
   by name. */

#ifndef PH_WIRE_PICKLE_H
#define PH_WIRE_PICKLE_H

#include "wire/wire.h"

/* The part of an interpreter's state.  Its classes are asked for by the first object that
   is pickled, since few programs pickle any. */
typedef struct ph_pickles {
    PyObject *module;               /* permaheap._core, whose state this is; borrowed */
    const ph_wire_state *wire;
    /* All owned; NULL: not asked for yet. */
    PyObject *pickler, *unpickler;  /* subclasses of pickle's: theirs have no attributes */
    PyObject *bytes_io, *loads;
} ph_pickles;

int ph_pickles_traverse(ph_pickles *pickles, visitproc visit, void *arg);
void ph_pickles_clear(ph_pickles *pickles);

/* Pickle an object, by protocol 5.  Objects that are sent by name are left out: the pickle
   has a number for each, and the message in `references` is the tuple of them, without
   bytes if it would be empty.  `buffers`: a list to which out-of-band buffers are added, or
   NULL.  Returns a bytes object; NULL with the exception that pickling raised.  O(the
   graph). */
PyObject *ph_pickle(ph_pickles *pickles, PyObject *obj, PyObject *buffers,
                    ph_writer *references);
/* Unpickle the object.  `buffers`: a list of the out-of-band buffers, or NULL.  NULL with
   MessageError for damaged references, or with the exception that unpickling raised. */
PyObject *ph_unpickle(ph_pickles *pickles, const char *bytes, size_t size,
                      PyObject *buffers, ph_reader *references);

#endif
