/* borrowed_buffer.c -- the buffer of a lent object, as its proxy exports it.

   Each buffer of a proxy has a Py_buffer of the object itself behind it ("theirs"), which
   this thread gets and releases in the owner.  No byte is copied, and the object knows
   that it is exported: a bytearray does not change its size then.  Buffers are read-only
   unless the loan was opened with writable=True.  Nothing orders the writes of two
   interpreters to one byte: use a lock, or call().

   Invariants:

   1. A proxy with buffers is not closed: `buffers` counts them from before the owner is
      asked until after `theirs` is released.
   2. If the owner ends first, its buffers stay valid: they are never released, so their
      objects are never freed.  CPython keeps the memory of an interpreter in which objects
      are left.

   Who writes: `buffers`, a thread that holds the borrower's GIL. */

#include "interp/borrowed_buffer.h"

#include "core/os/os.h"
#include "layout/thread.h"
#include "state/view.h"

/* view->internal points to it. */
typedef struct {
    Py_buffer theirs;               /* got and released in the owner */
} borrowed_buffer;

/* Get the object's Py_buffer, in the owner.  -1 with a text. */
static int
get_theirs(ph_loan *loan, Py_buffer *theirs, int flags, char *text, size_t size)
{
    PyObject *object = ph_loan_object(loan);
    if (object == NULL) {
        PyOS_snprintf(text, size, "the loan is over");
        return -1;
    }
    int result = PyObject_GetBuffer(object, theirs, flags);
    if (result < 0) {
        ph_take_error_text(text, size);
    }
    else if (ph_format_has_pointers(theirs->format)) {
        PyOS_snprintf(text, size, "its items are Python objects, which stay in their "
                      "interpreter");
        PyBuffer_Release(theirs);
        result = -1;
    }
    Py_DECREF(object);
    return result;
}

static int
fill_borrowed_buffer(Borrowed *self, Py_buffer *view, borrowed_buffer *buffer, int flags)
{
    ph_loan *loan = self->loan;
    ph_attachment attachment;
    char text[256];
    if (ph_loan_enter(loan, &attachment, self->lending->loan_error) < 0) {
        return -1;
    }
    int result = get_theirs(loan, &buffer->theirs, flags, text, sizeof(text));
    ph_interp_detach(&attachment);
    if (result < 0) {
        PyErr_Format(PyExc_BufferError, "there is no buffer of this %s of interpreter "
                     "%lld: %s", loan->type_name, (long long)ph_interp_id(loan->owner),
                     text);
        return -1;
    }
    *view = buffer->theirs;         /* shape and strides may point into `theirs` */
    view->internal = buffer;
    view->obj = Py_NewRef(self);
    view->readonly |= !self->writable;
    return 0;
}

int
ph_borrowed_getbuffer(PyObject *op, Py_buffer *view, int flags)
{
    Borrowed *self = (Borrowed *)op;
    view->obj = NULL;
    if (ph_borrowed_check(self) < 0) {
        return -1;
    }
    if ((flags & PyBUF_WRITABLE) && !self->writable) {
        PyErr_SetString(PyExc_BufferError, "this proxy is read-only: open the loan with "
                        "open(writable=True)");
        return -1;
    }
    borrowed_buffer *buffer = ph_malloc(sizeof(*buffer));
    if (buffer == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    self->buffers++;                /* from here on no thread can close the proxy */
    int result = fill_borrowed_buffer(self, view, buffer, flags);
    if (result < 0) {
        self->buffers--;
        ph_free(buffer);
    }
    return result;
}

/* When the owner has ended, or there is no memory to attach to it, its buffer stays. */
void
ph_borrowed_releasebuffer(PyObject *op, Py_buffer *view)
{
    Borrowed *self = (Borrowed *)op;
    assert(self->buffers > 0 && self->loan != NULL);
    borrowed_buffer *buffer = view->internal;
    ph_attachment attachment;
    ph_interps_lock();
    bool guarded = ph_is_attached() && ph_interp_guard(self->loan->owner);
    ph_interps_unlock();
    if (guarded && ph_interp_attach(&attachment, self->loan->owner) == 0) {
        PyBuffer_Release(&buffer->theirs);
        ph_interp_detach(&attachment);
    }
    self->buffers--;
    ph_free(buffer);
}
