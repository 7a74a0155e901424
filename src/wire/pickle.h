/* pickle.h -- what only pickle can carry, and in it what need not be pickled. */

#ifndef PH_WIRE_PICKLE_H
#define PH_WIRE_PICKLE_H

#include "wire/wire.h"

/* Per interpreter. */
typedef struct ph_pickles {
    PyObject *module;               /* that has this as its state; borrowed */
    const ph_travels *travels;
    /* All owned; NULL: not asked for yet. */
    PyObject *pickler, *unpickler;  /* subclasses of pickle's: theirs have no attributes */
    PyObject *bytes_io, *loads;
} ph_pickles;

int ph_pickles_traverse(ph_pickles *pickles, visitproc visit, void *arg);
void ph_pickles_clear(ph_pickles *pickles);

/* Pickle an object, by protocol 5.  What ph_message_write() sends by reference is left
   out: the pickle has numbers for it, and the tuple of these references is the
   message in `references`, which has no bytes if there are none.  `buffers`: a list to
   which out-of-band buffers are added; or NULL.  A bytes object; NULL with whatever
   pickling raises.  O(the graph). */
PyObject *ph_pickle(ph_pickles *pickles, PyObject *obj, PyObject *buffers,
                    ph_writer *references);
/* The object again.  `buffers`: a list of the out-of-band buffers, or NULL.  NULL with
   MessageError for damaged references, or whatever unpickling raises. */
PyObject *ph_unpickle(ph_pickles *pickles, const char *bytes, size_t size,
                      PyObject *buffers, ph_reader *references);

#endif
