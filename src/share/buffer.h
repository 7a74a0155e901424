/* buffer.h -- the type Buffer: shared memory with one owner, or many readers. */

#ifndef PH_SHARE_BUFFER_H
#define PH_SHARE_BUFFER_H

#include "core/family/handle.h"
#include "wire/wire.h"

/* Add Buffer and move() to the module, and Buffer to the wire types.
   0, or -1 with an exception. */
int ph_buffer_add(PyObject *module);

/* Name a Buffer's span, for share().  0, or -1 with an exception.  O(1). */
int ph_buffer_share(PyObject *buffer, ph_handle *handle);
/* Make a read-only Buffer onto the span that a handle names.  NULL with an exception. */
PyObject *ph_buffer_resolve(PyTypeObject *type, const ph_handle *handle);

/* Release the Buffer of an entry of ph_writer.moved here if it is on the move: its message
   was sent.  A Buffer whose entry dies without this call stays with its owner. */
void ph_buffer_consume(PyObject *entry);

#endif
