/* lend.c -- live objects of one interpreter, lent to the others of its process.

   lend(obj) makes an *entry* in a table of the process: which interpreter (the owner)
   has the object, the one reference to it that the loan takes, and who holds it.  A
   Loan is a name of the entry, which may travel as bytes; Loan.open() gives a
   Borrowed, the proxy, whose reference count is the borrower's own.

   The rule of holding: the owner keeps the object while there is, in any interpreter
   of the process, a proxy of it, or a Loan that nobody has closed.  Loan.close() ends
   the loan for all: nobody opens it any more, and only open proxies still hold.  Bytes
   on their way hold nothing: whoever sends a Loan keeps it until it has arrived.

   Invariants:

   1. entry->object is touched only by a thread attached to the owner; others see the
      entry and count in it.  The last of those who hold takes the object out of the
      entry and drops the reference as a guest of the owner (guests.c).
   2. An owner that ends is closed to guests first; then it takes back all of its
      objects: entry->object is NULL from then on, which is what "over" means.
   3. A view of a lent object's buffer has a Py_buffer of its own, got and released by
      a guest of the owner.  If the owner ends first, the view stays valid: the buffer
      is never released, and the object, which it holds, never freed.  (CPython keeps
      the memory of an interpreter in which objects are left.)
   4. A result or an exception of call() is a copy: bytes in raw memory are all that
      passes between the two interpreters.

   Deadlock: see guests.c.  What is left are the user's own locks: a thread that holds
   a lock of A while it calls into B, where something calls into A and wants that lock
   in another thread, waits as any two threads would.  And an interpreter does not end
   while a guest runs in it.

   State: the table is of the process, under ph_hosts_lock(); types and errors are of
   the interpreter.  A forked child has none of its parent's loans: their names tell
   the process, by pid and start time. */

#include "lend.h"

#include <stddef.h>
#include <string.h>

#include "grow.h"
#include "handle.h"
#include "os.h"
#include "raise.h"

/* --- Entries ---------------------------------------------------------------------- */

#define TYPE_NAME_SIZE 64

typedef struct entry {
    struct entry *next;             /* in its bucket */
    ph_host *host;                  /* the owner; kept */
    uint64_t number;                /* in this process; never used again */
    PyObject *object;               /* a reference, of the owner's; NULL: over */
    uint32_t pointers;              /* to this entry: whoever has one counts itself */
    uint32_t loans, proxies;        /* of those, who hold the object */
    bool closed;                    /* loans do not hold it any more */
    char type_name[TYPE_NAME_SIZE];
} entry;

#define BUCKETS 1024                /* loans are few: objects, not values */

static struct {
    entry *buckets[BUCKETS];
    uint64_t last_number;
} table;

static entry **
bucket_of(uint64_t number)
{
    return &table.buckets[number % BUCKETS];
}

static entry *
find_entry(uint64_t number)
{
    entry *e = *bucket_of(number);
    while (e != NULL && e->number != number) {
        e = e->next;
    }
    return e;
}

/* Nobody points to it, and it has no object. */
static void
remove_entry(entry *e)
{
    entry **link = bucket_of(e->number);
    while (*link != e) {
        link = &(*link)->next;
    }
    *link = e->next;
    ph_host_drop(e->host);
    ph_free(e);
}

static void
remove_if_done(entry *e)
{
    if (e->pointers == 0 && e->object == NULL) {
        remove_entry(e);
    }
}

static bool
is_held(const entry *e)
{
    return e->proxies > 0 || (e->loans > 0 && !e->closed);
}

/* May it be opened?  With the lock. */
static bool
is_open(const entry *e)
{
    return e->object != NULL && !e->closed && ph_host_is_open(e->host);
}

/* The object as a reference of this thread's, which is in the owner; or NULL.  Without
   the lock, nobody takes it out of the entry meanwhile: they may, and then drop their
   reference in the owner, after us. */
static PyObject *
object_of(entry *e)
{
    ph_hosts_lock();
    PyObject *object = Py_XNewRef(e->object);
    ph_hosts_unlock();
    return object;
}

/* Drop the reference that was taken out of an entry, in the owner.  -1: there was no
   memory to go there. */
static int
give_back(ph_host *host, bool is_here, PyObject *object)
{
    ph_guest visit;
    if (!is_here && ph_guest_enter(&visit, host) < 0) {
        return -1;
    }
    Py_DECREF(object);
    if (!is_here) {
        ph_guest_leave(&visit);
    }
    return 0;
}

/* With the lock, which this lets go of: counts of the entry have gone down. */
static void
settle(entry *e)
{
    bool is_here = ph_host_is_here(e->host);
    if (e->object != NULL && !is_held(e) && (is_here || ph_host_admit(e->host))) {
        PyObject *object = e->object;
        e->object = NULL;
        e->pointers++;
        ph_hosts_unlock();
        int failed = give_back(e->host, is_here, object);
        ph_hosts_lock();
        e->pointers--;
        if (failed && ph_host_is_open(e->host)) {
            e->object = object;     /* for the owner's end */
        }
    }
    remove_if_done(e);
    ph_hosts_unlock();
}

static void
add_proxy(entry *e)
{
    e->pointers++;
    e->proxies++;
}

static void
drop_proxy(entry *e)
{
    ph_hosts_lock();
    e->pointers--;
    e->proxies--;
    settle(e);
}

static void
drop_loan(entry *e)
{
    ph_hosts_lock();
    e->pointers--;
    e->loans--;
    settle(e);
}

/* An entry that one Loan holds.  NULL with an exception. */
static entry *
entry_new(ph_lending *lending, PyObject *object)
{
    entry *e = ph_calloc(1, sizeof(*e));
    if (e == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    PyOS_snprintf(e->type_name, sizeof(e->type_name), "%s", Py_TYPE(object)->tp_name);
    e->pointers = e->loans = 1;
    ph_hosts_lock();
    bool is_open = ph_host_is_open(lending->host);
    if (is_open) {
        e->host = lending->host;
        ph_host_keep(e->host);
        e->object = Py_NewRef(object);
        e->number = ++table.last_number;
        e->next = *bucket_of(e->number);
        *bucket_of(e->number) = e;
    }
    ph_hosts_unlock();
    if (!is_open) {
        ph_free(e);
        PyErr_SetString(lending->loan_error, "permaheap: an interpreter that is ending "
                        "lends nothing");
        return NULL;
    }
    return e;
}

/* --- On their way -------------------------------------------------------------------- */

/* The entries whose names are in the result of a call: they are held until it has
   arrived, since nobody else may do so (a method that returns lend(...)). */
typedef struct {
    entry **entries;                /* each counted as a pointer and a proxy */
    size_t n, size;
} transit;

static _Thread_local transit *sending;      /* of the call whose result is written */

/* A name is being written.  -1 with an exception. */
static int
hold_in_transit(entry *e)
{
    if (sending == NULL || e == NULL) {
        return 0;
    }
    if (ph_grow(&sending->entries, sending->n, &sending->size, sizeof(entry *)) < 0) {
        PyErr_NoMemory();
        return -1;
    }
    ph_hosts_lock();
    add_proxy(e);
    ph_hosts_unlock();
    sending->entries[sending->n++] = e;
    return 0;
}

static void
transit_clear(transit *arrived)
{
    for (size_t i = 0; i < arrived->n; i++) {
        drop_proxy(arrived->entries[i]);
    }
    ph_free(arrived->entries);
}

/* --- Names ------------------------------------------------------------------------- */

/* The bytes of a loan. */
typedef struct {
    uint8_t family[16];             /* ph_header.family */
    uint64_t process;               /* ph_os_process() */
    int64_t owner;                  /* id of its interpreter */
    uint64_t number;                /* of the entry */
    uint64_t tag;                   /* of all that */
} loan_name;

#define LOAN_SIZE 48
_Static_assert(sizeof(loan_name) == LOAN_SIZE, "a name has no padding");

static uint64_t
tag_of(const loan_name *name)
{
    uint64_t words[LOAN_SIZE / 8];
    memcpy(words, name, LOAN_SIZE);
    return ph_tag(words, LOAN_SIZE / 8 - 1);
}

static void
name_of(const entry *e, loan_name *name)
{
    memcpy(name->family, ph_heap.header->family, sizeof(name->family));
    name->process = ph_os_process();
    name->owner = ph_host_id(e->host);
    name->number = e->number;
    name->tag = tag_of(name);
}

/* Why a name cannot be one of a loan of this process; or NULL. */
static const char *
why_not_ours(const loan_name *name)
{
    if (memcmp(name->family, ph_heap.header->family, sizeof(name->family)) != 0) {
        return "permaheap: this loan comes from another family of processes; an object "
               "can only be lent within its process";
    }
    if (name->tag != tag_of(name)) {
        return "permaheap: this loan is damaged or forged";
    }
    if (name->process != ph_os_process()) {
        return "permaheap: this loan comes from another process (a forked child is one, "
               "too); an object can only be lent within its process. Freeze it, or send "
               "it through a channel";
    }
    return NULL;
}

/* A new instance.  The types are gone when the interpreter's modules are. */
static void *
instance_new(PyTypeObject *type)
{
    if (type == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "permaheap: this interpreter has ended");
        return NULL;
    }
    return type->tp_alloc(type, 0);
}

/* --- Loan ---------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    loan_name name;
    ph_lending *lending;            /* of this interpreter */
    entry *e;                       /* counted as a pointer and a loan; NULL: none */
} Loan;

static PyObject *
loan_new(ph_lending *lending, const loan_name *name, entry *e)
{
    Loan *self = instance_new(lending->loan_type);
    if (self == NULL) {
        if (e != NULL) {
            drop_loan(e);
        }
        return NULL;
    }
    self->name = *name;
    self->lending = lending;
    self->e = e;
    return (PyObject *)self;
}

/* The Loan of an entry that the caller has counted for it. */
static PyObject *
loan_of(ph_lending *lending, entry *e)
{
    loan_name name;
    name_of(e, &name);
    return loan_new(lending, &name, e);
}

/* Any name gives a Loan; opening it says what is wrong with it. */
static PyObject *
loan_of_name(ph_lending *lending, const loan_name *name)
{
    entry *e = NULL;
    if (ph_heap_ready() == PH_OK && why_not_ours(name) == NULL) {
        ph_hosts_lock();
        e = find_entry(name->number);
        if (e != NULL) {
            e->pointers++;
            e->loans++;
        }
        ph_hosts_unlock();
    }
    return loan_new(lending, name, e);
}

static void
loan_dealloc(PyObject *op)
{
    Loan *self = (Loan *)op;
    PyTypeObject *type = Py_TYPE(op);
    if (self->e != NULL) {
        drop_loan(self->e);
    }
    type->tp_free(op);
    Py_DECREF(type);
}

/* LoanError, with what is wrong with a loan that cannot be opened.  NULL. */
static void *
cannot_open(const Loan *self)
{
    const char *why = why_not_ours(&self->name);
    if (why != NULL) {
        PyErr_SetString(self->lending->loan_error, why);
    }
    else if (self->e != NULL && self->e->closed) {
        PyErr_SetString(self->lending->loan_error, "permaheap: this loan was closed");
    }
    else {
        PyErr_Format(self->lending->loan_error, "permaheap: the loan is over: its owner, "
                     "interpreter %lld, has ended or taken it back",
                     (long long)self->name.owner);
    }
    return NULL;
}

/* Count one more proxy, if the loan can be opened; else LoanError. */
static entry *
borrow(Loan *self)
{
    entry *e = self->e;
    bool done = false;
    if (e != NULL && why_not_ours(&self->name) == NULL) {
        ph_hosts_lock();
        done = is_open(e);
        if (done) {
            add_proxy(e);
        }
        ph_hosts_unlock();
    }
    return done ? e : cannot_open(self);
}

static PyObject *borrowed_new(ph_lending *lending, entry *e, bool writable);

/* The object where it is at home, elsewhere the proxy that has been counted. */
static PyObject *
proxy_or_object(Loan *self, entry *e, bool writable)
{
    if (!ph_host_is_here(e->host)) {
        return borrowed_new(self->lending, e, writable);
    }
    PyObject *object = object_of(e);
    drop_proxy(e);
    return object ? object : cannot_open(self);
}

static PyObject *
open_loan(Loan *self, bool writable)
{
    entry *e = borrow(self);
    return e ? proxy_or_object(self, e, writable) : NULL;
}

PyDoc_STRVAR(loan_open_doc,
"open($self, /, *, writable=False)\n--\n\n"
"The object itself in the interpreter that lent it, a Borrowed elsewhere.\n\n"
"writable: may views of the proxy's buffer be written to?  Raises LoanError when\n"
"the loan is damaged, of another process, closed, or its owner has ended.  O(1).");

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
"End the loan, for all: nobody opens it from now on.  Proxies that are open keep\n"
"the object until they are gone.  Closing again does nothing.  O(1).");

static PyObject *
loan_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    Loan *self = (Loan *)op;
    if (self->e != NULL) {
        ph_hosts_lock();
        self->e->closed = true;
        settle(self->e);
    }
    Py_RETURN_NONE;
}

static PyObject *
loan_alive(PyObject *op, void *Py_UNUSED(closure))
{
    Loan *self = (Loan *)op;
    bool alive = false;
    if (self->e != NULL && why_not_ours(&self->name) == NULL) {
        ph_hosts_lock();
        alive = is_open(self->e);
        ph_hosts_unlock();
    }
    return PyBool_FromLong(alive);
}

static PyObject *
loan_bytes(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBytes_FromStringAndSize((const char *)&((Loan *)op)->name, LOAN_SIZE);
}

PyDoc_STRVAR(loan_from_bytes_doc,
"from_bytes($type, data, /)\n--\n\n"
"The loan whose bytes(loan) is data, a bytes-like object of 48 bytes.  Raises\n"
"ValueError for another length.");

static PyObject *
loan_from_bytes(PyObject *type, PyObject *data)
{
    PyObject *module = PyType_GetModule((PyTypeObject *)type);
    Py_buffer buffer;
    if (module == NULL || PyObject_GetBuffer(data, &buffer, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    PyObject *self = NULL;
    if (buffer.len != LOAN_SIZE) {
        PyErr_Format(PyExc_ValueError, "a loan has %d bytes, not %zd", LOAN_SIZE,
                     buffer.len);
    }
    else {
        loan_name name;
        memcpy(&name, buffer.buf, LOAN_SIZE);
        self = loan_of_name(ph_lending_of(module), &name);
    }
    PyBuffer_Release(&buffer);
    return self;
}

static PyObject *
loan_reduce(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    PyObject *from_bytes = PyObject_GetAttrString((PyObject *)Py_TYPE(op), "from_bytes");
    if (from_bytes == NULL || hold_in_transit(((Loan *)op)->e) < 0) {
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
    bool equal = memcmp(&((Loan *)op)->name, &((Loan *)other)->name, LOAN_SIZE) == 0;
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
                                self->e ? self->e->type_name : "an unknown object",
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
"bytes that may travel through any queue or pickle.");

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

/* --- Borrowed ------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    ph_lending *lending;            /* of this interpreter */
    entry *e;                       /* counted as a pointer and a proxy; NULL: closed */
    bool writable;
    uint32_t views;                 /* that export the buffer */
} Borrowed;

/* The proxy that the caller has counted. */
static PyObject *
borrowed_new(ph_lending *lending, entry *e, bool writable)
{
    Borrowed *self = instance_new(lending->borrowed_type);
    if (self == NULL) {
        drop_proxy(e);
        return NULL;
    }
    self->lending = lending;
    self->e = e;
    self->writable = writable;
    return (PyObject *)self;
}

static void
borrowed_dealloc(PyObject *op)
{
    Borrowed *self = (Borrowed *)op;
    PyTypeObject *type = Py_TYPE(op);
    if (self->e != NULL) {
        drop_proxy(self->e);
    }
    type->tp_free(op);
    Py_DECREF(type);
}

/* Become a guest of the owner.  -1 with an exception. */
static int
visit_owner(ph_lending *lending, entry *e, ph_guest *visit)
{
    ph_hosts_lock();
    bool admitted = e->object != NULL && ph_host_admit(e->host);
    ph_hosts_unlock();
    if (!admitted) {
        PyErr_Format(lending->loan_error, "permaheap: the owner of this %s, interpreter "
                     "%lld, has ended", e->type_name, (long long)ph_host_id(e->host));
        return -1;
    }
    if (ph_guest_enter(visit, e->host) < 0) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

PyDoc_STRVAR(borrowed_close_doc,
"close($self, /)\n--\n\n"
"Give the object back now, rather than when this proxy is collected.  Raises\n"
"BufferError while views of its buffer exist.  Closing again does nothing.  O(1).");

static PyObject *
borrowed_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    Borrowed *self = (Borrowed *)op;
    if (self->views > 0) {
        PyErr_Format(PyExc_BufferError, "close: %u views of this buffer exist; release "
                     "them first", (unsigned)self->views);
        return NULL;
    }
    entry *e = self->e;
    self->e = NULL;
    if (e != NULL) {
        drop_proxy(e);
    }
    Py_RETURN_NONE;
}

/* -1 with LoanError. */
static int
check_not_closed(Borrowed *self)
{
    if (self->e == NULL) {
        PyErr_SetString(self->lending->loan_error, "permaheap: this proxy was closed");
        return -1;
    }
    return 0;
}

static PyObject *
borrowed_alive(PyObject *op, void *Py_UNUSED(closure))
{
    Borrowed *self = (Borrowed *)op;
    bool alive = false;
    if (self->e != NULL) {
        ph_hosts_lock();
        alive = self->e->object != NULL && ph_host_is_open(self->e->host);
        ph_hosts_unlock();
    }
    return PyBool_FromLong(alive);
}

static PyObject *
borrowed_loan(PyObject *op, void *Py_UNUSED(closure))
{
    Borrowed *self = (Borrowed *)op;
    if (check_not_closed(self) < 0) {
        return NULL;
    }
    ph_hosts_lock();
    self->e->pointers++;
    self->e->loans++;
    ph_hosts_unlock();
    return loan_of(self->lending, self->e);
}

/* What arrives is the object itself at its owner's, and a proxy elsewhere. */
static PyObject *
borrowed_reduce(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    Borrowed *self = (Borrowed *)op;
    if (check_not_closed(self) < 0 || hold_in_transit(self->e) < 0) {
        return NULL;
    }
    loan_name name;
    name_of(self->e, &name);
    PyObject *from_bytes = PyObject_GetAttrString((PyObject *)Py_TYPE(op), "_from_bytes");
    return from_bytes ? Py_BuildValue("N(y#O)", from_bytes, &name, (Py_ssize_t)LOAN_SIZE,
                                      self->writable ? Py_True : Py_False)
                      : NULL;
}

/* Of a proxy's name; closed loans do as well, since the sender has it open. */
static PyObject *
borrowed_of_name(ph_lending *lending, const loan_name *name, bool writable)
{
    PyObject *loan = loan_of_name(lending, name);
    if (loan == NULL) {
        return NULL;
    }
    entry *e = ((Loan *)loan)->e;
    PyObject *result = NULL;
    ph_hosts_lock();
    bool is_held_elsewhere = e != NULL && e->object != NULL && e->proxies > 0;
    if (is_held_elsewhere) {
        add_proxy(e);
    }
    ph_hosts_unlock();
    if (!is_held_elsewhere) {
        result = open_loan((Loan *)loan, writable);
    }
    else {
        result = proxy_or_object((Loan *)loan, e, writable);
    }
    Py_DECREF(loan);
    return result;
}

static PyObject *
borrowed_from_bytes(PyObject *type, PyObject *args)
{
    PyObject *module = PyType_GetModule((PyTypeObject *)type);
    const char *bytes;
    Py_ssize_t size;
    int writable;
    if (module == NULL
        || !PyArg_ParseTuple(args, "y#p:_from_bytes", &bytes, &size, &writable)) {
        return NULL;
    }
    if (size != LOAN_SIZE) {
        PyErr_Format(PyExc_ValueError, "a loan has %d bytes, not %zd", LOAN_SIZE, size);
        return NULL;
    }
    loan_name name;
    memcpy(&name, bytes, LOAN_SIZE);
    return borrowed_of_name(ph_lending_of(module), &name, writable);
}

static PyObject *
borrowed_repr(PyObject *op)
{
    Borrowed *self = (Borrowed *)op;
    if (self->e == NULL) {
        return PyUnicode_FromString("<permaheap.Borrowed, closed>");
    }
    return PyUnicode_FromFormat("<permaheap.Borrowed of %s of interpreter %lld>",
                                self->e->type_name, (long long)ph_host_id(self->e->host));
}

/* --- Views of a lent buffer --------------------------------------------------------------- */

/* What view->internal points to. */
typedef struct {
    Py_buffer theirs;               /* got and released in the owner */
} view_state;

/* An exception of the owner's, which is set there: cleared, and its text copied. */
static void
take_text(char *text, size_t size)
{
    PyObject *raised = PyErr_GetRaisedException();
    PyObject *str = PyObject_Str(raised);
    const char *utf8 = str ? PyUnicode_AsUTF8(str) : NULL;
    PyOS_snprintf(text, size, "%s: %s", Py_TYPE(raised)->tp_name, utf8 ? utf8 : "?");
    PyErr_Clear();
    Py_XDECREF(str);
    Py_DECREF(raised);
}

/* In the owner: its Py_buffer.  -1 with a text. */
static int
get_theirs(entry *e, Py_buffer *theirs, int flags, char *text, size_t size)
{
    PyObject *object = object_of(e);
    if (object == NULL) {
        PyOS_snprintf(text, size, "the loan is over");
        return -1;
    }
    int result = PyObject_GetBuffer(object, theirs, flags);
    if (result < 0) {
        take_text(text, size);
    }
    Py_DECREF(object);
    return result;
}

static int
fill_view(Borrowed *self, Py_buffer *view, view_state *state, int flags)
{
    ph_guest visit;
    char text[256];
    if (visit_owner(self->lending, self->e, &visit) < 0) {
        return -1;
    }
    int result = get_theirs(self->e, &state->theirs, flags, text, sizeof(text));
    ph_guest_leave(&visit);
    if (result < 0) {
        PyErr_Format(PyExc_BufferError, "no view of this %s of interpreter %lld: %s",
                     self->e->type_name, (long long)ph_host_id(self->e->host), text);
        return -1;
    }
    *view = state->theirs;          /* shape and strides may point into `theirs` */
    view->internal = state;
    view->obj = Py_NewRef(self);
    view->readonly |= !self->writable;
    self->views++;
    return 0;
}

static int
borrowed_getbuffer(PyObject *op, Py_buffer *view, int flags)
{
    Borrowed *self = (Borrowed *)op;
    view->obj = NULL;
    if (check_not_closed(self) < 0) {
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
    int result = fill_view(self, view, state, flags);
    if (result < 0) {
        ph_free(state);
    }
    return result;
}

/* When the owner has ended, or there is no memory to go there, its buffer stays. */
static void
borrowed_releasebuffer(PyObject *op, Py_buffer *view)
{
    Borrowed *self = (Borrowed *)op;
    view_state *state = view->internal;
    ph_guest visit;
    ph_hosts_lock();
    bool admitted = ph_host_admit(self->e->host);
    ph_hosts_unlock();
    if (admitted && ph_guest_enter(&visit, self->e->host) == 0) {
        PyBuffer_Release(&state->theirs);
        ph_guest_leave(&visit);
    }
    self->views--;
    ph_free(state);
}

static PyMethodDef borrowed_methods[] = {
    {"close", borrowed_close, METH_NOARGS, borrowed_close_doc},
    {"_from_bytes", borrowed_from_bytes, METH_VARARGS | METH_CLASS, NULL},
    {"__reduce__", borrowed_reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef borrowed_getset[] = {
    {"alive", borrowed_alive, NULL, PyDoc_STR("Is the object still there?"), NULL},
    {"loan", borrowed_loan, NULL,
     PyDoc_STR("A Loan of the object, which gives the object itself to its owner."),
     NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(borrowed_doc,
"A proxy of an object of another interpreter, made by Loan.open().\n\n"
"It holds the object while it exists.  If the object exports a buffer, so does the\n"
"proxy, without a copy; call() runs methods of the object.");

static PyType_Slot borrowed_slots[] = {
    {Py_tp_doc, (void *)borrowed_doc},
    {Py_tp_dealloc, borrowed_dealloc},
    {Py_tp_methods, borrowed_methods},
    {Py_tp_getset, borrowed_getset},
    {Py_tp_repr, borrowed_repr},
    {Py_bf_getbuffer, borrowed_getbuffer},
    {Py_bf_releasebuffer, borrowed_releasebuffer},
    {0, NULL},
};

static PyType_Spec borrowed_spec = {
    .name = "permaheap.Borrowed",
    .basicsize = sizeof(Borrowed),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = borrowed_slots,
};

/* --- lend ------------------------------------------------------------------------------- */

PyDoc_STRVAR(lend_doc,
"lend($module, obj, /)\n--\n\n"
"Lend a live, ordinary object to other interpreters of this process: a Loan.\n\n"
"The object stays where it is, and is kept while there is a Loan that is not closed,\n"
"or a proxy of it.  Raises LoanError when this interpreter is ending.  O(1).\n\n"
"The idea is from the interpreters' mailing list: a proxy for each interpreter, with\n"
"a reference count of its own, whose last reference is dropped by the owner.");

static PyObject *
lend(PyObject *module, PyObject *object)
{
    ph_lending *lending = ph_lending_of(module);
    if (lending->host == NULL || ph_heap_ready() != PH_OK) {
        PyErr_SetString(PyExc_MemoryError, "permaheap: lend() needs the heap");
        return NULL;
    }
    entry *e = entry_new(lending, object);
    return e ? loan_of(lending, e) : NULL;
}

/* --- call --------------------------------------------------------------------------------- */

/* What passes between two interpreters. */
typedef enum { PH_PICKLE, PH_ERROR, PH_ERROR_TEXT } packet_kind;

typedef struct {
    packet_kind kind;
    char *bytes;                    /* ph_free() by whoever has the packet */
    size_t size;
} packet;

/* -1 without an exception: there is no memory. */
static int
fill_packet(packet *out, packet_kind kind, const char *bytes, size_t size)
{
    out->bytes = ph_malloc(size + 1);
    if (out->bytes == NULL) {
        return -1;
    }
    memcpy(out->bytes, bytes, size);
    out->size = size;
    out->kind = kind;
    return 0;
}

/* Call a function of permaheap._lend; steals `arg`, which may be NULL with an
   exception. */
static PyObject *
helper(const char *name, PyObject *arg)
{
    PyObject *module = arg ? PyImport_ImportModule("permaheap._lend") : NULL;
    PyObject *result = module ? PyObject_CallMethod(module, name, "(O)", arg) : NULL;
    Py_XDECREF(module);
    Py_XDECREF(arg);
    return result;
}

/* The bytes object that a helper returned, which is stolen, into a packet. */
static int
pack_bytes(packet *out, packet_kind kind, PyObject *bytes)
{
    char *data;
    Py_ssize_t size;
    if (bytes == NULL || PyBytes_AsStringAndSize(bytes, &data, &size) < 0) {
        Py_XDECREF(bytes);
        return -1;
    }
    int result = fill_packet(out, kind, data, (size_t)size);
    Py_DECREF(bytes);
    if (result < 0) {
        PyErr_NoMemory();
    }
    return result;
}

/* A value of this interpreter into a packet.  -1 with an exception. */
static int
pack(packet *out, PyObject *value)
{
    return pack_bytes(out, PH_PICKLE, helper("dumps", Py_NewRef(value)));
}

/* The exception that is set, which is cleared, into a packet.  It cannot fail: at last
   there is an empty text. */
static void
pack_error(packet *out)
{
    PyObject *raised = PyErr_GetRaisedException();
    if (pack_bytes(out, PH_ERROR, helper("dumps_error", Py_NewRef(raised))) < 0) {
        char text[256];
        take_text(text, sizeof(text));
        if (fill_packet(out, PH_ERROR_TEXT, text, strlen(text)) < 0) {
            *out = (packet){.kind = PH_ERROR_TEXT};
        }
    }
    Py_DECREF(raised);
}

static PyObject *
bytes_of(const packet *in)
{
    return PyBytes_FromStringAndSize(in->bytes, (Py_ssize_t)in->size);
}

static PyObject *
unpack(const packet *in)
{
    assert(in->kind == PH_PICKLE);
    return helper("loads", bytes_of(in));
}

/* In the owner: run a method as `request`, (name, arguments), says. */
static PyObject *
run_method(PyObject *object, PyObject *request)
{
    PyObject *name, *args;
    if (!PyArg_ParseTuple(request, "UO!:call", &name, &PyTuple_Type, &args)) {
        return NULL;
    }
    PyObject *method = PyObject_GetAttr(object, name);
    PyObject *result = method ? PyObject_CallObject(method, args) : NULL;
    Py_XDECREF(method);
    return result;
}

/* In the owner: a packet in, a packet out. */
static int
serve_packet(entry *e, const packet *in, packet *out)
{
    PyObject *object = object_of(e);
    if (object == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the loan is over");
        return -1;
    }
    PyObject *request = unpack(in);
    PyObject *result = request ? run_method(object, request) : NULL;
    int status = result ? pack(out, result) : -1;
    Py_XDECREF(result);
    Py_XDECREF(request);
    Py_DECREF(object);
    return status;
}

/* The same, in whatever is returned: the exception is a packet, too. */
static void
serve(entry *e, const packet *in, packet *out, transit *way)
{
    transit *outer = sending;
    sending = way;
    if (serve_packet(e, in, out) < 0) {
        pack_error(out);
    }
    sending = outer;
}

/* Back in the caller: raise what was raised there.  NULL. */
static PyObject *
raise_there(ph_lending *lending, entry *e, PyObject *name, const packet *answer)
{
    PyObject *place = PyUnicode_FromFormat(
        "in interpreter %lld, by %U() of %s", (long long)ph_host_id(e->host), name,
        e->type_name);
    PyObject *helpers = place ? PyImport_ImportModule("permaheap._lend") : NULL;
    PyObject *raised = NULL;
    if (helpers != NULL && answer->kind == PH_ERROR_TEXT) {
        PyErr_Format(lending->loan_error, "%U: %s", place,
                     answer->bytes ? answer->bytes : "MemoryError");
    }
    else if (helpers != NULL) {
        raised = PyObject_CallMethod(helpers, "loads_error", "NOO", bytes_of(answer),
                                     place, lending->loan_error);
    }
    if (raised != NULL) {
        PyErr_SetRaisedException(raised);
    }
    Py_XDECREF(helpers);
    Py_XDECREF(place);
    return NULL;
}

/* Serve it where the object is at home. */
static int
ask_owner(ph_lending *lending, entry *e, const packet *in, packet *out, transit *way)
{
    if (ph_host_is_here(e->host)) {
        serve(e, in, out, way);
        return 0;
    }
    ph_guest visit;
    if (visit_owner(lending, e, &visit) < 0) {
        return -1;
    }
    serve(e, in, out, way);
    ph_guest_leave(&visit);
    return 0;
}

static PyObject *
call_entry(ph_lending *lending, entry *e, PyObject *name, PyObject *args)
{
    packet question = {0}, answer = {0};
    transit way = {0};
    PyObject *result = NULL;
    PyObject *request = PyTuple_Pack(2, name, args);
    if (request != NULL && pack(&question, request) == 0
        && ask_owner(lending, e, &question, &answer, &way) == 0) {
        result = answer.kind == PH_PICKLE ? unpack(&answer)
                                          : raise_there(lending, e, name, &answer);
    }
    Py_XDECREF(request);
    ph_free(question.bytes);
    ph_free(answer.bytes);
    transit_clear(&way);
    return result;
}

/* The entry that a Loan or a proxy names, counted as a proxy; NULL with an exception. */
static entry *
entry_of_target(ph_lending *lending, PyObject *target)
{
    if (Py_TYPE(target) == lending->loan_type) {
        return borrow((Loan *)target);
    }
    if (Py_TYPE(target) != lending->borrowed_type) {
        PyErr_Format(PyExc_TypeError, "call: a Loan or a Borrowed is needed, not %s",
                     Py_TYPE(target)->tp_name);
        return NULL;
    }
    Borrowed *proxy = (Borrowed *)target;
    if (check_not_closed(proxy) < 0) {
        return NULL;
    }
    ph_hosts_lock();
    add_proxy(proxy->e);
    ph_hosts_unlock();
    return proxy->e;
}

PyDoc_STRVAR(call_doc,
"call($module, target, method, /, *args)\n--\n\n"
"Run a method of a lent object in its owner, and return a copy of the result.\n\n"
"target: a Loan or a Borrowed.  This thread goes there itself, so an idle owner\n"
"answers as well as a busy one, and calls may call back.  Arguments and result are\n"
"copied; a proxy arrives at the object's owner as the object.  An exception comes\n"
"back as its own type if that is built in or can be pickled, else as LoanError, with\n"
"a note that names the owner.  Raises LoanError when the loan is over.  O(size of\n"
"arguments and result).\n\n"
"The idea is the actor's of Hewitt (1973): objects that are only asked.");

static PyObject *
call(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    ph_lending *lending = ph_lending_of(module);
    if (nargs < 2 || !PyUnicode_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "call: needed are a Loan or a Borrowed, and the "
                        "name of a method");
        return NULL;
    }
    entry *e = entry_of_target(lending, args[0]);
    if (e == NULL) {
        return NULL;
    }
    PyObject *rest = PyTuple_New(nargs - 2);
    for (Py_ssize_t i = 2; rest != NULL && i < nargs; i++) {
        PyTuple_SET_ITEM(rest, i - 2, Py_NewRef(args[i]));
    }
    PyObject *result = rest ? call_entry(lending, e, args[1], rest) : NULL;
    Py_XDECREF(rest);
    drop_proxy(e);
    return result;
}

/* --- The end of an interpreter -------------------------------------------------------------- */

/* Take an object out of an entry of this host, or return NULL when none is left. */
static PyObject *
take_one(const ph_host *host, size_t bucket)
{
    PyObject *object = NULL;
    ph_hosts_lock();
    for (entry *e = table.buckets[bucket]; e != NULL && object == NULL; e = e->next) {
        if (e->host == host && e->object != NULL) {
            object = e->object;
            e->object = NULL;
            remove_if_done(e);
            break;
        }
    }
    ph_hosts_unlock();
    return object;
}

/* Registered with atexit: see guests.c. */
static PyObject *
end_lending(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    ph_host *host = ph_lending_of(module)->host;
    if (host != NULL) {
        ph_host_close(host);
        for (size_t bucket = 0; bucket < BUCKETS; bucket++) {
            PyObject *object;
            while ((object = take_one(host, bucket)) != NULL) {
                Py_DECREF(object);
            }
        }
    }
    Py_RETURN_NONE;
}

static PyMethodDef end_lending_def = {"_end_lending", end_lending, METH_NOARGS, NULL};

static int
at_exit(PyObject *module)
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

/* --- Module ----------------------------------------------------------------------------------- */

static PyMethodDef lend_methods[] = {
    {"lend", lend, METH_O, lend_doc},
    {"call", (PyCFunction)(void (*)(void))call, METH_FASTCALL, call_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(loan_error_doc,
"A loan that is damaged, of another process, or over; or an object whose owner has\n"
"ended.");

static PyTypeObject *
add_type(PyObject *module, PyType_Spec *spec)
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
    ph_lending *lending = ph_lending_of(module);
    lending->host = ph_host_here();
    if (lending->host == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    lending->loan_error = PyErr_NewExceptionWithDoc("permaheap.LoanError", loan_error_doc,
                                                    PyExc_RuntimeError, NULL);
    if (PyModule_AddObjectRef(module, "LoanError", lending->loan_error) < 0) {
        return -1;
    }
    lending->loan_type = add_type(module, &loan_spec);
    lending->borrowed_type = add_type(module, &borrowed_spec);
    if (lending->loan_type == NULL || lending->borrowed_type == NULL) {
        return -1;
    }
    return PyModule_AddFunctions(module, lend_methods) < 0 ? -1 : at_exit(module);
}

int
ph_lending_traverse(ph_lending *lending, visitproc visit, void *arg)
{
    Py_VISIT(lending->loan_type);
    Py_VISIT(lending->borrowed_type);
    Py_VISIT(lending->loan_error);
    Py_VISIT(lending->helpers);
    return 0;
}

void
ph_lending_clear(ph_lending *lending)
{
    Py_CLEAR(lending->loan_type);
    Py_CLEAR(lending->borrowed_type);
    Py_CLEAR(lending->loan_error);
    Py_CLEAR(lending->helpers);
    if (lending->host != NULL) {
        ph_hosts_lock();
        ph_host_drop(lending->host);
        ph_hosts_unlock();
        lending->host = NULL;
    }
}
