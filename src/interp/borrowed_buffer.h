/* borrowed_buffer.h -- the buffer of a lent object, as its proxy exports it. */

#ifndef PH_INTERP_BORROWED_BUFFER_H
#define PH_INTERP_BORROWED_BUFFER_H

#include "interp/loan_types.h"

/* For the slots of the type Borrowed. */
int ph_borrowed_getbuffer(PyObject *self, Py_buffer *view, int flags);
void ph_borrowed_releasebuffer(PyObject *self, Py_buffer *view);

#endif
