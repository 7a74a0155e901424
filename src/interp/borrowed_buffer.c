/* borrowed_buffer.c -- the buffer of a lent object, as its proxy exports it.

   Each view of a proxy has a Py_buffer of its own, which a guest of the owner gets
   from the object and releases: no byte is copied, and the object knows that it is
   exported (a bytearray does not change its size meanwhile).  The view is read-only
   unless the loan was opened with writable=True.  Nothing orders the writes of two
   interpreters to one byte: who needs that uses a lock, or call().

   If the owner ends first, its views stay valid: their buffers are never released, and
   so their objects never freed.  CPython keeps the memory of an interpreter in which
   objects are left. */

#include "interp/lend.h"

#include "core/os/os.h"
#include "layout/thread.h"

/* What view->internal points to. */
typedef struct {
    Py_buffer theirs;               /* got and released in the owner */
} view_state;

/* In the owner: its Py_buffer.  -1 with a text. */
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
        ph_guest_text(text, size);
    }
    Py_DECREF(object);
    return result;
}

static int
fill_view(Borrowed *self, Py_buffer *view, view_state *state, int flags)
{
    ph_loan *loan = self->loan;
    ph_guest visit;
    char text[256];
    if (ph_loan_visit(loan, &visit, self->lending->loan_error) < 0) {
        return -1;
    }
    int result = get_theirs(loan, &state->theirs, flags, text, sizeof(text));
    ph_guest_leave(&visit);
    if (result < 0) {
        PyErr_Format(PyExc_BufferError, "no view of this %s of interpreter %lld: %s",
                     loan->type_name, (long long)ph_host_id(loan->host), text);
        return -1;
    }
    *view = state->theirs;          /* shape and strides may point into `theirs` */
    view->internal = state;
    view->obj = Py_NewRef(self);
    view->readonly |= !self->writable;
    return 0;
}

int
ph_borrowed_getbuffer(PyObject *op, Py_buffer *view, int flags)
{
    Borrowed *self = (Borrowed *)op;
    view->obj = NULL;
    if (self->loan == NULL) {
        PyErr_SetString(self->lending->loan_error, "permaheap: this proxy was closed");
        return -1;
    }
    if ((flags & PyBUF_WRITABLE) && !self->writable) {
        PyErr_SetString(PyExc_BufferError, "this proxy is read-only: open the loan with "
                        "open(writable=True)");
        return -1;
    }
    view_state *state = ph_malloc(sizeof(*state));
    if (state == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    self->views++;                  /* other threads cannot close it meanwhile */
    int result = fill_view(self, view, state, flags);
    if (result < 0) {
        self->views--;
        ph_free(state);
    }
    return result;
}

/* When the owner has ended, or there is no memory to go there, its buffer stays. */
void
ph_borrowed_releasebuffer(PyObject *op, Py_buffer *view)
{
    Borrowed *self = (Borrowed *)op;
    view_state *state = view->internal;
    ph_guest visit;
    ph_hosts_lock();
    bool admitted = ph_is_attached() && ph_host_admit(self->loan->host);
    ph_hosts_unlock();
    if (admitted && ph_guest_enter(&visit, self->loan->host) == 0) {
        PyBuffer_Release(&state->theirs);
        ph_guest_leave(&visit);
    }
    self->views--;
    ph_free(state);
}
