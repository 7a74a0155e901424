/* call.c -- running a method of a lent object in its owner: an actor in one line.

   Two interpreters never see each other's objects: a *packet*, bytes in raw memory, is
   all that passes between them.  The caller packs (method, arguments), and a dict of
   keyword arguments when there are any, goes to the owner as a guest, unpacks, calls,
   packs the result or the exception, goes back and unpacks.  In the owner itself the
   same happens without the way: what a method gets and returns is a copy, wherever it
   is called.

   What is packed are ordinary values (encode.c), permanent objects by reference,
   Buffers, Channels, and else what pickle can copy (pickle.c).  Loans and proxies go by
   name; a name in a result is held until it has arrived (a method that returns
   lend(...) has nobody else to hold that).

   Deadlock: none that waits for an interpreter, see attach.c.  What is left are the
   user's own locks: a thread that holds a lock of A while it calls into B, where
   another thread that wants that lock is waited for, waits for ever, as in any program
   of two threads.  And an interpreter does not end while a guest runs in it. */

#include "interp/lend.h"

#include <string.h>

#include "share/buffer.h"
#include "core/os/os.h"
#include "wire/pickle.h"

/* What passes between two interpreters. */
typedef enum { PH_MESSAGE, PH_PICKLE, PH_ERROR, PH_ERROR_TEXT } packet_kind;

typedef struct {
    packet_kind kind;
    char *bytes;
    size_t size;
    size_t pickle;                  /* of a pickle: so many at the end; before it is the
                                       message of its references */
    ph_span_id *spans;              /* of Buffers and Channels, held */
    uint32_t n_spans, next_span;    /* those before `next_span` have new holders */
    bool arrived;                   /* it was unpacked */
} packet;

static void
packet_clear(packet *old)
{
    while (old->next_span < old->n_spans) {
        ph_span_drop(old->spans[old->next_span++]);
    }
    ph_free(old->spans);
    ph_free(old->bytes);
}

/* -1 without an exception: there is no memory. */
static int
fill_packet(packet *out, packet_kind kind, const char *bytes, size_t size)
{
    out->bytes = ph_malloc(size + 1);
    if (out->bytes == NULL) {
        return -1;
    }
    memcpy(out->bytes, bytes, size);
    out->bytes[size] = '\0';
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

/* What the writer has becomes the packet's. */
static int
take_message(ph_lending *lending, packet *out, packet_kind kind, ph_writer *writer)
{
    out->kind = kind;
    out->bytes = writer->bytes;
    out->size = writer->used;
    writer->bytes = NULL;
    writer->used = writer->size = 0;
    if (writer->n_spans == 0) {
        return 0;
    }
    out->spans = ph_calloc(writer->n_spans, sizeof(ph_span_id));
    if (out->spans == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    while (out->n_spans < writer->n_spans) {
        out->spans[out->n_spans] = writer->spans[out->n_spans];
        if (ph_span_hold_named(out->spans[out->n_spans]) != PH_OK) {
            return ph_raise(&lending->travels->interp->exceptions);
        }
        out->n_spans++;
    }
    return 0;
}

/* What pickle makes of it, behind the message of its references. */
static int
pack_pickle(ph_lending *lending, packet *out, PyObject *value, ph_writer *writer)
{
    PyObject *pickle = ph_pickle(lending->travels->interp->pickles, value, NULL, writer);
    if (pickle == NULL) {
        return -1;
    }
    out->pickle = (size_t)PyBytes_GET_SIZE(pickle);
    int result = ph_write_bytes(writer, PyBytes_AS_STRING(pickle), out->pickle);
    Py_DECREF(pickle);
    return result;
}

/* A value of this interpreter into a packet.  -1 with an exception.  *p_moved: a list
   of the Buffers that it moves, or NULL. */
static int
pack(ph_lending *lending, packet *out, PyObject *value, PyObject **p_moved)
{
    ph_writer writer = lending->spare;      /* pickling may call as well */
    lending->spare = (ph_writer){0};
    int status = ph_message_write(lending->travels, value, &writer);
    packet_kind kind = status == PH_NOT_OURS ? PH_PICKLE : PH_MESSAGE;
    if (status == PH_NOT_OURS) {
        status = pack_pickle(lending, out, value, &writer);
    }
    if (status == PH_WRITTEN) {
        *p_moved = Py_XNewRef(writer.moved);
        status = take_message(lending, out, kind, &writer);
    }
    ph_writer_reset(&writer);
    ph_writer_clear(&lending->spare);
    lending->spare = writer;
    return status;
}

/* The packet has arrived: what it moved is gone from here.  Steals the list. */
static void
consume(PyObject *moved, bool arrived)
{
    for (Py_ssize_t i = 0; moved != NULL && arrived && i < PyList_GET_SIZE(moved); i++) {
        ph_buffer_consume(PyList_GET_ITEM(moved, i));
    }
    Py_XDECREF(moved);
}

/* The exception that is set, which is cleared, into a packet.  It cannot fail: at last
   there is an empty text. */
static void
pack_error(packet *out)
{
    PyObject *raised = PyErr_GetRaisedException();
    if (pack_bytes(out, PH_ERROR, helper("dumps_error", Py_NewRef(raised))) < 0) {
        char text[256];
        ph_guest_text(text, sizeof(text));
        if (fill_packet(out, PH_ERROR_TEXT, text, strlen(text)) < 0) {
            *out = (packet){.kind = PH_ERROR_TEXT};
        }
    }
    Py_DECREF(raised);
}

static PyObject *
unpack(ph_lending *lending, packet *in)
{
    const char *end = in->bytes + in->size - in->pickle;
    ph_reader reader = {
        .at = in->bytes, .end = end, .spans = in->spans, .n_spans = in->n_spans,
    };
    PyObject *value = in->kind == PH_PICKLE
                      ? ph_unpickle(lending->travels->interp->pickles, end, in->pickle, NULL, &reader)
                      : ph_message_read(lending->travels, &reader);
    in->next_span = reader.next_span;
    in->arrived = value != NULL;
    return value;
}

/* In the owner: run a method as `request` says, which request_of() has made. */
static PyObject *
run_method(PyObject *object, PyObject *request)
{
    PyObject *name, *args, *kwargs = NULL;
    if (!PyArg_UnpackTuple(request, "call", 2, 3, &name, &args, &kwargs)) {
        return NULL;
    }
    PyObject *method = PyObject_GetAttr(object, name);
    PyObject *result = method ? PyObject_Call(method, args, kwargs) : NULL;
    Py_XDECREF(method);
    return result;
}

/* In the owner: a packet in, a packet out. */
static int
serve_packet(ph_loan *loan, packet *in, packet *out)
{
    PyObject *core = PyImport_ImportModule("permaheap._core");  /* the owner's */
    PyObject *object = core ? ph_loan_object(loan) : NULL;
    if (object == NULL) {
        Py_XDECREF(core);
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_RuntimeError, "the loan is over");
        }
        return -1;
    }
    ph_lending *lending = ph_interpreter_of(core)->lending;
    PyObject *moved = NULL;
    PyObject *request = unpack(lending, in);
    PyObject *result = request ? run_method(object, request) : NULL;
    int status = result ? pack(lending, out, result, &moved) : -1;
    consume(moved, status == 0);
    Py_XDECREF(result);
    Py_XDECREF(request);
    Py_DECREF(object);
    Py_DECREF(core);
    return status;
}

/* The same, in whatever is returned: the exception is a packet, too. */
static void
serve(ph_loan *loan, packet *in, packet *out, ph_transit *way)
{
    ph_transit *outer = ph_transit_begin(way);
    if (serve_packet(loan, in, out) < 0) {
        packet_clear(out);
        *out = (packet){0};
        pack_error(out);
    }
    (void)ph_transit_begin(outer);
}

static PyObject *
bytes_of(const packet *in)
{
    return PyBytes_FromStringAndSize(in->bytes, (Py_ssize_t)in->size);
}

/* Back in the caller: raise what was raised there.  NULL. */
static PyObject *
raise_there(ph_lending *lending, ph_loan *loan, PyObject *name, const packet *answer)
{
    PyObject *place = PyUnicode_FromFormat(
        "in interpreter %lld, by %U() of %s", (long long)ph_host_id(loan->host), name,
        loan->type_name);
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
ask_owner(ph_lending *lending, ph_loan *loan, packet *in, packet *out,
          ph_transit *way)
{
    if (ph_host_is_here(loan->host)) {
        serve(loan, in, out, way);
        return 0;
    }
    ph_guest visit;
    if (ph_loan_visit(loan, &visit, lending->loan_error) < 0) {
        return -1;
    }
    serve(loan, in, out, way);
    ph_guest_leave(&visit);
    return 0;
}

static PyObject *
call_entry(ph_lending *lending, ph_loan *loan, PyObject *name, PyObject *request)
{
    packet question = {0}, answer = {0};
    ph_transit way = {0};
    PyObject *result = NULL, *moved = NULL;
    if (pack(lending, &question, request, &moved) == 0
        && ask_owner(lending, loan, &question, &answer, &way) == 0) {
        result = answer.kind <= PH_PICKLE ? unpack(lending, &answer)
                                          : raise_there(lending, loan, name, &answer);
    }
    consume(moved, question.arrived);
    packet_clear(&question);
    packet_clear(&answer);
    ph_transit_clear(&way);
    return result;
}

PyDoc_STRVAR(call_doc,
"call($module, target, method, /, *args, **kwargs)\n--\n\n"
"Run a method of a lent object in its owner, and return a copy of the result.\n\n"
"target: a Loan or a Borrowed.  This thread goes there itself, so an idle owner\n"
"answers as well as a busy one, and calls may call back.  Arguments and result are\n"
"copied; a proxy arrives at the object's owner as the object.  An exception comes\n"
"back as its own type if that is built in or can be pickled, else as LoanError, with\n"
"a note that names the owner.  Raises LoanError when the loan is over.  O(size of\n"
"arguments and result).\n\n"
"The idea is the actor's of Hewitt (1973): objects that are only asked.");

static PyObject *
positional(PyObject *const *args, Py_ssize_t n)
{
    PyObject *tuple = PyTuple_New(n);
    for (Py_ssize_t i = 0; tuple != NULL && i < n; i++) {
        PyTuple_SET_ITEM(tuple, i, Py_NewRef(args[i]));
    }
    return tuple;
}

static PyObject *
keywords(PyObject *const *values, PyObject *names)
{
    PyObject *dict = PyDict_New();
    for (Py_ssize_t i = 0; dict != NULL && i < PyTuple_GET_SIZE(names); i++) {
        if (PyDict_SetItem(dict, PyTuple_GET_ITEM(names, i), values[i]) < 0) {
            Py_CLEAR(dict);
        }
    }
    return dict;
}

/* What run_method() is to do: (name, tuple of arguments), and a dict of the keyword
   arguments if there are any.  `names`: of these, which come last in `args`; or NULL. */
static PyObject *
request_of(PyObject *method, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
    PyObject *first = positional(args, n);
    PyObject *request = NULL;
    if (first != NULL && (names == NULL || PyTuple_GET_SIZE(names) == 0)) {
        request = PyTuple_Pack(2, method, first);
    }
    else if (first != NULL) {
        PyObject *last = keywords(args + n, names);
        request = last ? PyTuple_Pack(3, method, first, last) : NULL;
        Py_XDECREF(last);
    }
    Py_XDECREF(first);
    return request;
}

static PyObject *
call(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *names)
{
    ph_lending *lending = ph_interpreter_of(module)->lending;
    if (nargs < 2 || !PyUnicode_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "call: needed are a Loan or a Borrowed, and the "
                        "name of a method");
        return NULL;
    }
    ph_loan *loan = ph_borrow(lending, args[0]);
    if (loan == NULL) {
        return NULL;
    }
    PyObject *request = request_of(args[1], args + 2, nargs - 2, names);
    PyObject *result = request ? call_entry(lending, loan, args[1], request) : NULL;
    Py_XDECREF(request);
    ph_loan_drop_proxy(loan);
    return result;
}

static PyMethodDef call_methods[] = {
    {"call", (PyCFunction)(void (*)(void))call, METH_FASTCALL | METH_KEYWORDS, call_doc},
    {NULL, NULL, 0, NULL},
};

int
ph_call_add(PyObject *module)
{
    return PyModule_AddFunctions(module, call_methods);
}
