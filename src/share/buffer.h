/* buffer.h -- the type Buffer: shared memory with one owner, or many readers. */

#ifndef PH_SHARE_BUFFER_H
#define PH_SHARE_BUFFER_H

#include "core/family/handle.h"
#include "wire/wire.h"

/* Make the type for this interpreter, add it to the module, whose state begins with
   its ph_exceptions, and enter it among what travels in messages.  *p_type is owned
   by the caller.  0, or -1 with an exception. */
int ph_buffer_add(PyObject *module, ph_travels *travels, PyTypeObject **p_type);

/* move(obj) and share(obj); `type` is the interpreter's.  O(1). */
PyObject *ph_buffer_move(PyTypeObject *type, PyObject *obj);
int ph_buffer_share(PyObject *buffer, ph_handle *handle);
/* A read-only Buffer onto the span that a handle names. */
PyObject *ph_buffer_resolve(PyTypeObject *type, const ph_handle *handle);

/* A message was sent, and this is an entry of its ph_writer.moved: a Buffer that was
   on the move is released here.  Whose entry dies without this is still its owner's. */
void ph_buffer_consume(PyObject *entry);

#endif
