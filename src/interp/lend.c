/* lend.c -- lend() and the types Loan and Borrowed: loans.c as Python sees it.

   A Loan is a name: 48 bytes that can be sent through any queue.  Loan.open() returns the
   object itself in its owner, and elsewhere a Borrowed: a proxy whose reference count is
   the borrower's own.  Neither refers to a Python object of another interpreter.

   A proxy forwards no attributes: if it looked like an object of this interpreter, it
   would hide the cost of each use, and that other interpreters change the object.  It has
   a buffer (borrowed_buffer.c), and call() runs methods of the object (call.c).

   Invariants:

   1. A Loan with an entry is counted there as a name, and a Borrowed that is not closed as
      a proxy, from its making to its deallocation or closing.
   2. Any bytes of the right length make a Loan.  Opening it says what is wrong with it.
   3. Reading a message runs no Python code, unless the last other holder of the object
      drops it at that very moment.

   State: the types and LoanError are per interpreter, in its module's state. */

#include "interp/lend.h"

#include <stddef.h>
#include <string.h>

#include "core/family/family.h"
#include "interp/borrowed_buffer.h"

/* --- Loan --------------------------------------------------------------------- */

static PyObject *
make_loan(ph_lending *lending, const ph_loan_name *name, ph_loan *loan)
{
    Loan *self = (Loan *)ph_instance_new(lending->loan_type);
    if (self == NULL) {
        if (loan != NULL) {
            ph_loan_drop_name(loan);
        }
        return NULL;
    }
    self->name = *name;
    self->lending = lending;
    self->loan = loan;
    return (PyObject *)self;
}

/* Make the Loan of an entry, in which the caller has counted it. */
static PyObject *
make_loan_of(ph_lending *lending, ph_loan *loan)
{
    ph_loan_name name;
    ph_loan_name_of(loan, &name);
    return make_loan(lending, &name, loan);
}

/* Make the Loan of a name, with its entry if there is one. */
static PyObject *
find_loan_by_name(ph_lending *lending, const ph_loan_name *name)
{
    ph_loan *loan = NULL;
    if (ph_heap_ready() == PH_OK && ph_loan_why_not_ours(name) == NULL) {
        ph_interps_lock();
        loan = ph_loan_find(name->number);
        if (loan != NULL) {
            ph_loan_add_name(loan);
        }
        ph_interps_unlock();
    }
    return make_loan(lending, name, loan);
}

static void
loan_dealloc(PyObject *op)
{
    Loan *self = (Loan *)op;
    PyTypeObject *type = Py_TYPE(op);
    if (self->loan != NULL) {
        ph_loan_drop_name(self->loan);
    }
    type->tp_free(op);
    Py_DECREF(type);
}

/* Raise LoanError: why a loan cannot be opened.  NULL. */
static void *
raise_cannot_open(const Loan *self)
{
    const char *why = ph_loan_why_not_ours(&self->name);
    if (why != NULL) {
        PyErr_SetString(self->lending->loan_error, why);
    }
    else if (self->loan != NULL && self->loan->closed) {
        PyErr_SetString(self->lending->loan_error, "permaheap: this loan was closed; lend "
                        "the object again");
    }
    else {
        PyErr_Format(self->lending->loan_error, "permaheap: this loan is over, since its "
                     "owner, interpreter %lld, has ended, or no Loan or Borrowed held the "
                     "object any more; keep one of them until this one is opened",
                     (long long)self->name.owner);
    }
    return NULL;
}

/* Count one more proxy, if the loan can be opened.  NULL with LoanError. */
static ph_loan *
borrow_loan(Loan *self)
{
    ph_loan *loan = self->loan;
    bool done = false;
    if (loan != NULL && ph_loan_why_not_ours(&self->name) == NULL) {
        ph_interps_lock();
        done = ph_loan_is_open(loan);
        if (done) {
            ph_loan_add_proxy(loan);
        }
        ph_interps_unlock();
    }
    return done ? loan : raise_cannot_open(self);
}

/* Make the proxy that the caller has counted. */
static PyObject *
make_borrowed(ph_lending *lending, ph_loan *loan, bool writable)
{
    Borrowed *self = (Borrowed *)ph_instance_new(lending->borrowed_type);
    if (self == NULL) {
        ph_loan_drop_proxy(loan);
        return NULL;
    }
    self->lending = lending;
    self->loan = loan;
    self->writable = writable;
    return (PyObject *)self;
}

/* Return the object in its owner, elsewhere the proxy that the caller has counted. */
static PyObject *
open_borrowed(Loan *self, ph_loan *loan, bool writable)
{
    if (!ph_interp_is_here(loan->owner)) {
        return make_borrowed(self->lending, loan, writable);
    }
    PyObject *object = ph_loan_object(loan);
    ph_loan_drop_proxy(loan);
    return object ? object : raise_cannot_open(self);
}

static PyObject *
open_loan(Loan *self, bool writable)
{
    ph_loan *loan = borrow_loan(self);
    return loan ? open_borrowed(self, loan, writable) : NULL;
}

PyDoc_STRVAR(loan_open_doc,
"open($self, /, *, writable=False)\n--\n\n"
"Return the object itself in the interpreter that lent it, a Borrowed elsewhere.\n\n"
"writable: may the proxy's buffer be written to?  Raises LoanError when the loan is\n"
"damaged, of another process, or closed, or its owner has ended.  O(1).");

static PyObject *
loan_open(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"writable", NULL};
    int writable = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$p:open", names, &writable)) {
        return NULL;
    }
    return open_loan((Loan *)op, writable);
}

PyDoc_STRVAR(loan_close_doc,
"close($self, /)\n--\n\n"
"End the loan for all interpreters: it cannot be opened any more.  Open proxies keep\n"
"the object until they are gone.  Closing again does nothing.  O(1).");

static PyObject *
loan_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    Loan *self = (Loan *)op;
    if (self->loan != NULL) {
        ph_loan_close(self->loan);
    }
    Py_RETURN_NONE;
}

static PyObject *
loan_alive(PyObject *op, void *Py_UNUSED(closure))
{
    Loan *self = (Loan *)op;
    bool alive = false;
    if (self->loan != NULL && ph_loan_why_not_ours(&self->name) == NULL) {
        ph_interps_lock();
        alive = ph_loan_is_open(self->loan);
        ph_interps_unlock();
    }
    return PyBool_FromLong(alive);
}

static PyObject *
loan_bytes(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBytes_FromStringAndSize((const char *)&((Loan *)op)->name, PH_LOAN_SIZE);
}

static int
parse_loan_bytes(const Py_buffer *buffer, ph_loan_name *name)
{
    if (buffer->len != PH_LOAN_SIZE) {
        PyErr_Format(PyExc_ValueError, "a loan has %d bytes, not %zd; pass those of "
                     "bytes(loan)", PH_LOAN_SIZE, buffer->len);
        return -1;
    }
    memcpy(name, buffer->buf, PH_LOAN_SIZE);
    return 0;
}

PyDoc_STRVAR(loan_from_bytes_doc,
"from_bytes($type, data, /)\n--\n\n"
"Return the loan whose bytes(loan) is data, a bytes-like object of 48 bytes.  Raises\n"
"ValueError for another length.");

static PyObject *
loan_from_bytes(PyObject *type, PyObject *data)
{
    PyObject *module = PyType_GetModule((PyTypeObject *)type);
    Py_buffer buffer;
    if (module == NULL || PyObject_GetBuffer(data, &buffer, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    ph_loan_name name;
    int status = parse_loan_bytes(&buffer, &name);
    PyBuffer_Release(&buffer);
    return status < 0 ? NULL : find_loan_by_name(ph_interpreter_of(module)->lending, &name);
}

static PyObject *
loan_reduce(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    PyObject *from_bytes = PyObject_GetAttrString((PyObject *)Py_TYPE(op), "from_bytes");
    if (from_bytes == NULL || ph_loan_send(((Loan *)op)->loan) < 0) {
        Py_XDECREF(from_bytes);
        return NULL;
    }
    return Py_BuildValue("N(N)", from_bytes, loan_bytes(op, NULL));
}

static PyObject *
loan_richcompare(PyObject *op, PyObject *other, int kind)
{
    if ((kind != Py_EQ && kind != Py_NE) || Py_TYPE(other) != Py_TYPE(op)) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    bool equal = memcmp(&((Loan *)op)->name, &((Loan *)other)->name, PH_LOAN_SIZE) == 0;
    return PyBool_FromLong(equal == (kind == Py_EQ));
}

static Py_hash_t
loan_hash(PyObject *op)
{
    Py_hash_t hash = (Py_hash_t)((Loan *)op)->name.tag;
    return hash == -1 ? -2 : hash;
}

static PyObject *
loan_repr(PyObject *op)
{
    const Loan *self = (const Loan *)op;
    return PyUnicode_FromFormat("<permaheap.Loan %llu of %s by interpreter %lld>",
                                (unsigned long long)self->name.number,
                                self->loan ? self->loan->type_name : "an unknown object",
                                (long long)self->name.owner);
}

static PyMethodDef loan_methods[] = {
    {"open", (PyCFunction)(void (*)(void))loan_open, METH_VARARGS | METH_KEYWORDS,
     loan_open_doc},
    {"close", loan_close, METH_NOARGS, loan_close_doc},
    {"from_bytes", loan_from_bytes, METH_O | METH_CLASS, loan_from_bytes_doc},
    {"__bytes__", loan_bytes, METH_NOARGS, PyDoc_STR("The 48 bytes of the loan.")},
    {"__reduce__", loan_reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef loan_getset[] = {
    {"alive", loan_alive, NULL, PyDoc_STR("Can it be opened?"), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(loan_doc,
"The name of an object that lend() lends to other interpreters of this process: 48\n"
"bytes that can be sent through any queue, or pickled.");

static PyType_Slot loan_slots[] = {
    {Py_tp_doc, (void *)loan_doc},
    {Py_tp_dealloc, loan_dealloc},
    {Py_tp_methods, loan_methods},
    {Py_tp_getset, loan_getset},
    {Py_tp_richcompare, loan_richcompare},
    {Py_tp_hash, loan_hash},
    {Py_tp_repr, loan_repr},
    {0, NULL},
};

static PyType_Spec loan_spec = {
    .name = "permaheap.Loan",
    .basicsize = sizeof(Loan),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = loan_slots,
};

/* --- Borrowed ----------------------------------------------------------------- */

static void
borrowed_dealloc(PyObject *op)
{
    Borrowed *self = (Borrowed *)op;
    assert(self->buffers == 0);     /* each of them refers to this object */
    PyTypeObject *type = Py_TYPE(op);
    if (self->loan != NULL) {
        ph_loan_drop_proxy(self->loan);
    }
    type->tp_free(op);
    Py_DECREF(type);
}

PyDoc_STRVAR(borrowed_close_doc,
"close($self, /)\n--\n\n"
"Give the object back now, rather than when this proxy is collected.  Raises\n"
"BufferError while its buffer is in use.  Closing again does nothing.  O(1).");

static PyObject *
borrowed_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    Borrowed *self = (Borrowed *)op;
    if (self->buffers > 0) {
        PyErr_Format(PyExc_BufferError, "close: the buffer of this proxy is in use, by %u "
                     "memoryviews or other users; release them first",
                     (unsigned)self->buffers);
        return NULL;
    }
    ph_loan *loan = self->loan;
    self->loan = NULL;
    if (loan != NULL) {
        ph_loan_drop_proxy(loan);
    }
    Py_RETURN_NONE;
}

static PyObject *
borrowed_alive(PyObject *op, void *Py_UNUSED(closure))
{
    Borrowed *self = (Borrowed *)op;
    bool alive = false;
    if (self->loan != NULL) {
        ph_interps_lock();
        alive = self->loan->object != NULL && ph_interp_is_open(self->loan->owner);
        ph_interps_unlock();
    }
    return PyBool_FromLong(alive);
}

static PyObject *
borrowed_loan(PyObject *op, void *Py_UNUSED(closure))
{
    Borrowed *self = (Borrowed *)op;
    if (ph_borrowed_check(self) < 0) {
        return NULL;
    }
    ph_interps_lock();
    ph_loan_add_name(self->loan);
    ph_interps_unlock();
    return make_loan_of(self->lending, self->loan);
}

/* The object itself arrives at its owner, and a proxy elsewhere. */
static PyObject *
borrowed_reduce(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    Borrowed *self = (Borrowed *)op;
    if (ph_borrowed_check(self) < 0 || ph_loan_send(self->loan) < 0) {
        return NULL;
    }
    ph_loan_name name;
    ph_loan_name_of(self->loan, &name);
    return Py_BuildValue(
        "N(NO)", PyObject_GetAttrString((PyObject *)Py_TYPE(op), "_from_bytes"),
        PyBytes_FromStringAndSize((const char *)&name, PH_LOAN_SIZE),
        self->writable ? Py_True : Py_False);
}

/* Open the loan that a proxy names; a closed one as well, while the sender's proxy is
   open. */
static PyObject *
borrow_by_name(ph_lending *lending, const ph_loan_name *name, bool writable)
{
    Loan *self = (Loan *)find_loan_by_name(lending, name);
    if (self == NULL) {
        return NULL;
    }
    ph_loan *loan = self->loan;
    ph_interps_lock();
    bool is_held = loan != NULL && loan->object != NULL && loan->proxies > 0;
    if (is_held) {
        ph_loan_add_proxy(loan);
    }
    ph_interps_unlock();
    PyObject *result = is_held ? open_borrowed(self, loan, writable)
                               : open_loan(self, writable);
    Py_DECREF(self);
    return result;
}

static PyObject *
borrowed_from_bytes(PyObject *type, PyObject *args)
{
    PyObject *module = PyType_GetModule((PyTypeObject *)type);
    Py_buffer buffer;
    int writable;
    if (module == NULL
        || !PyArg_ParseTuple(args, "y*p:_from_bytes", &buffer, &writable)) {
        return NULL;
    }
    ph_loan_name name;
    int status = parse_loan_bytes(&buffer, &name);
    PyBuffer_Release(&buffer);
    ph_lending *lending = ph_interpreter_of(module)->lending;
    return status < 0 ? NULL : borrow_by_name(lending, &name, writable);
}

static PyObject *
borrowed_repr(PyObject *op)
{
    Borrowed *self = (Borrowed *)op;
    if (self->loan == NULL) {
        return PyUnicode_FromString("<permaheap.Borrowed, closed>");
    }
    return PyUnicode_FromFormat("<permaheap.Borrowed of %s of interpreter %lld>",
                                self->loan->type_name,
                                (long long)ph_interp_id(self->loan->owner));
}

static PyMethodDef borrowed_methods[] = {
    {"close", borrowed_close, METH_NOARGS, borrowed_close_doc},
    {"_from_bytes", borrowed_from_bytes, METH_VARARGS | METH_CLASS, NULL},
    {"__reduce__", borrowed_reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef borrowed_getset[] = {
    {"alive", borrowed_alive, NULL, PyDoc_STR("Does its owner still have the object?"),
     NULL},
    {"loan", borrowed_loan, NULL,
     PyDoc_STR("A Loan of the object, which gives the object itself to its owner."),
     NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(borrowed_doc,
"A proxy of an object of another interpreter, made by Loan.open().\n\n"
"The proxy holds the object while it exists.  If the object exports a buffer, so does\n"
"the proxy, without a copy.  call() runs methods of the object.");

static PyType_Slot borrowed_slots[] = {
    {Py_tp_doc, (void *)borrowed_doc},
    {Py_tp_dealloc, borrowed_dealloc},
    {Py_tp_methods, borrowed_methods},
    {Py_tp_getset, borrowed_getset},
    {Py_tp_repr, borrowed_repr},
    {Py_bf_getbuffer, ph_borrowed_getbuffer},
    {Py_bf_releasebuffer, ph_borrowed_releasebuffer},
    {0, NULL},
};

static PyType_Spec borrowed_spec = {
    .name = "permaheap.Borrowed",
    .basicsize = sizeof(Borrowed),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = borrowed_slots,
};

ph_loan *
ph_borrow(ph_lending *lending, PyObject *target)
{
    if (Py_TYPE(target) == lending->loan_type) {
        return borrow_loan((Loan *)target);
    }
    if (Py_TYPE(target) != lending->borrowed_type) {
        PyErr_Format(PyExc_TypeError, "call: a Loan or a Borrowed is needed, not %s",
                     Py_TYPE(target)->tp_name);
        return NULL;
    }
    Borrowed *proxy = (Borrowed *)target;
    if (ph_borrowed_check(proxy) < 0) {
        return NULL;
    }
    ph_interps_lock();
    ph_loan_add_proxy(proxy->loan);
    ph_interps_unlock();
    return proxy->loan;
}

/* --- In a message ------------------------------------------------------------- */

static int
loan_write(ph_writer *writer, PyObject *op)
{
    Loan *self = (Loan *)op;
    return ph_loan_send(self->loan) < 0 ? -1
                                        : ph_write_bytes(writer, &self->name, PH_LOAN_SIZE);
}

static PyObject *
loan_read(const ph_wire_state *wire, ph_reader *reader)
{
    const void *bytes;
    ph_loan_name name;
    if (ph_read_bytes(reader, &bytes, PH_LOAN_SIZE) < 0) {
        return NULL;
    }
    memcpy(&name, bytes, PH_LOAN_SIZE);
    return find_loan_by_name(wire->interp->lending, &name);
}

static int
borrowed_write(ph_writer *writer, PyObject *op)
{
    Borrowed *self = (Borrowed *)op;
    if (ph_borrowed_check(self) < 0 || ph_loan_send(self->loan) < 0) {
        return -1;
    }
    ph_loan_name name;
    ph_loan_name_of(self->loan, &name);
    return ph_write_word(writer, self->writable) < 0
           ? -1 : ph_write_bytes(writer, &name, PH_LOAN_SIZE);
}

static PyObject *
borrowed_read(const ph_wire_state *wire, ph_reader *reader)
{
    const void *bytes;
    uint64_t writable;
    ph_loan_name name;
    if (ph_read_word(reader, &writable) < 0
        || ph_read_bytes(reader, &bytes, PH_LOAN_SIZE) < 0) {
        return NULL;
    }
    memcpy(&name, bytes, PH_LOAN_SIZE);
    return borrow_by_name(wire->interp->lending, &name, writable != 0);
}

/* --- lend --------------------------------------------------------------------- */

PyDoc_STRVAR(lend_doc,
"lend($module, obj, /)\n--\n\n"
"Lend a live, ordinary object to other interpreters of this process: a Loan.\n\n"
"The object stays where it is.  It is kept while there is a Loan of it that is not\n"
"closed, or a proxy.  Raises LoanError when this interpreter is ending.  O(1).\n\n"
"The idea is from the interpreters' mailing list: a proxy for each interpreter, with\n"
"a reference count of its own, whose last reference is dropped by the owner.");

static PyObject *
core_lend(PyObject *module, PyObject *object)
{
    ph_lending *lending = ph_interpreter_of(module)->lending;
    if (lending->here == NULL || ph_heap_ready() != PH_OK) {
        PyErr_Format(PyExc_MemoryError, "permaheap: nothing can be lent without the heap: "
                     "%s", lending->here ? ph_error_text() : "this interpreter has ended");
        return NULL;
    }
    if (ph_interp_prepare(lending->here) < 0) {
        return PyErr_NoMemory();
    }
    ph_loan *loan = ph_loan_new(lending->here, object, lending->loan_error);
    return loan ? make_loan_of(lending, loan) : NULL;
}

/* --- The end of an interpreter ------------------------------------------------ */

/* Close this interpreter and take back its loans; called by atexit: see attach.c. */
static PyObject *
end_lending(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    ph_interp_record *here = ph_interpreter_of(module)->lending->here;
    if (here != NULL) {
        ph_interp_close(here);
        ph_loans_end(here);
    }
    Py_RETURN_NONE;
}

static PyMethodDef end_lending_def = {"_end_lending", end_lending, METH_NOARGS, NULL};

static int
register_end(PyObject *module)
{
    PyObject *function = PyCFunction_New(&end_lending_def, module);
    PyObject *atexit = function ? PyImport_ImportModule("atexit") : NULL;
    PyObject *result = NULL;
    if (atexit != NULL) {
        result = PyObject_CallMethod(atexit, "register", "(O)", function);
    }
    Py_XDECREF(function);
    Py_XDECREF(atexit);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

/* --- Module ------------------------------------------------------------------- */

static PyMethodDef lend_methods[] = {
    {"lend", core_lend, METH_O, lend_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(loan_error_doc,
"A loan is damaged, of another process, closed or over, or the object's owner has\n"
"ended.");

static PyTypeObject *
add_lending_type(PyObject *module, PyType_Spec *spec)
{
    PyTypeObject *type = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    if (type != NULL && PyModule_AddType(module, type) < 0) {
        Py_CLEAR(type);
    }
    return type;
}

int
ph_lend_add(PyObject *module)
{
    ph_interpreter *interp = ph_interpreter_of(module);
    ph_lending *lending = interp->lending;
    lending->wire = interp->wire;
    lending->here = ph_interp_here();
    if (lending->here == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    lending->loan_error = PyErr_NewExceptionWithDoc("permaheap.LoanError", loan_error_doc,
                                                    PyExc_RuntimeError, NULL);
    if (PyModule_AddObjectRef(module, "LoanError", lending->loan_error) < 0) {
        return -1;
    }
    lending->loan_type = add_lending_type(module, &loan_spec);
    lending->borrowed_type = add_lending_type(module, &borrowed_spec);
    if (lending->loan_type == NULL || lending->borrowed_type == NULL) {
        return -1;
    }
    ph_wire_add_type(interp->wire, (ph_wire_type){
        .type = lending->loan_type, .write = loan_write, .read = loan_read,
    });
    ph_wire_add_type(interp->wire, (ph_wire_type){
        .type = lending->borrowed_type, .write = borrowed_write, .read = borrowed_read,
        .unwraps = true,
    });
    return PyModule_AddFunctions(module, lend_methods) < 0 ? -1 : register_end(module);
}

int
ph_lending_traverse(ph_lending *lending, visitproc visit, void *arg)
{
    Py_VISIT(lending->loan_type);
    Py_VISIT(lending->borrowed_type);
    Py_VISIT(lending->loan_error);
    return 0;
}

void
ph_lending_clear(ph_lending *lending)
{
    Py_CLEAR(lending->loan_type);
    Py_CLEAR(lending->borrowed_type);
    Py_CLEAR(lending->loan_error);
    ph_writer_clear(&lending->spare);
    if (lending->here != NULL) {
        ph_interps_lock();
        ph_interp_drop(lending->here);
        ph_interps_unlock();
        lending->here = NULL;
    }
}

