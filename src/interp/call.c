/* call.c -- running a method of a lent object in its owner: an actor in one line.

   Two interpreters never see each other's objects: only a *packet*, bytes in raw memory,
   passes between them.

       caller                                     owner
       pack (method, arguments[, keywords])
       attach to the owner                  ->    unpack, call the method
       unpack                               <-    pack the result, or the exception

   In the owner itself the same happens without attaching: a method gets and returns
   copies, wherever it is called.

   A packet has ordinary values (encode.c), permanent objects by reference, Buffers,
   Channels, and otherwise what pickle can copy (pickle.c).  Loans and proxies are sent by
   name.  A name in a result is held until it has arrived: a method that returns lend(...)
   has no other holder of it.

   Invariants:

   1. A packet holds its spans until clear_packet(); unpacking passes those before
      `next_span` on to the objects that it makes.
   2. A moved Buffer is gone from the sender only if its packet has arrived.
   3. An exception of the owner never stays set there: it is packed, at last as text.

   Deadlock: there is none that waits for an interpreter, see attach.c.  The user's own
   locks remain.  Suppose that a thread holds a lock of A while it calls into B, and a
   thread of B waits for that lock: they can deadlock, as in any program of two threads.
   An interpreter does not end while threads of others are attached to it. */

#include "interp/call.h"

#include <string.h>

#include "share/buffer.h"
#include "core/os/os.h"
#include "wire/pickle.h"

typedef enum {
    CALL_VALUE,                     /* in the wire format */
    CALL_PICKLE,                    /* the same for its references, then a pickle */
    CALL_ERROR,                     /* an exception, by permaheap._lend */
    CALL_ERROR_TEXT,                /* the text of one, when there was no memory for more */
} call_kind;

typedef struct {
    call_kind kind;
    char *bytes;
    size_t size;
    size_t pickle_size;             /* of CALL_PICKLE: this many of them, at the end */
    ph_span_id *spans;              /* of Buffers and Channels, held */
    uint32_t n_spans, next_span;    /* those before `next_span` have new holders */
    bool arrived;                   /* it was unpacked */
} call_packet;

static void
clear_packet(call_packet *old)
{
    assert(old->next_span <= old->n_spans);
    while (old->next_span < old->n_spans) {
        ph_span_drop(old->spans[old->next_span++]);
    }
    ph_free(old->spans);
    ph_free(old->bytes);
}

/* Copy bytes into an empty packet.  -1 without an exception: there is no memory. */
static int
copy_to_packet(call_packet *out, call_kind kind, const char *bytes, size_t size)
{
    assert(out->bytes == NULL);
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
call_lend_helper(const char *name, PyObject *arg)
{
    PyObject *module = arg ? PyImport_ImportModule("permaheap._lend") : NULL;
    PyObject *result = module ? PyObject_CallMethod(module, name, "(O)", arg) : NULL;
    Py_XDECREF(module);
    Py_XDECREF(arg);
    return result;
}

/* Copy a bytes object, which this steals, into a packet.  -1 with an exception, which is
   set already if there is no object. */
static int
pack_bytes_object(call_packet *out, call_kind kind, PyObject *bytes)
{
    char *data;
    Py_ssize_t size;
    if (bytes == NULL || PyBytes_AsStringAndSize(bytes, &data, &size) < 0) {
        Py_XDECREF(bytes);
        return -1;
    }
    int result = copy_to_packet(out, kind, data, (size_t)size);
    Py_DECREF(bytes);
    if (result < 0) {
        PyErr_NoMemory();
    }
    return result;
}

/* Move the bytes that were written to a packet, which holds their spans as well.  -1 with
   an exception. */
static int
take_written(ph_lending *lending, call_packet *out, call_kind kind, ph_writer *writer)
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
            return ph_raise(&lending->wire->interp->exceptions);
        }
        out->n_spans++;
    }
    return 0;
}

/* Write the pickle of a value, behind the message of its references.  -1 with an
   exception. */
static int
write_pickle(ph_lending *lending, call_packet *out, PyObject *value, ph_writer *writer)
{
    PyObject *pickle = ph_pickle(lending->wire->interp->pickles, value, NULL, writer);
    if (pickle == NULL) {
        return -1;
    }
    out->pickle_size = (size_t)PyBytes_GET_SIZE(pickle);
    int result = ph_write_bytes(writer, PyBytes_AS_STRING(pickle), out->pickle_size);
    Py_DECREF(pickle);
    return result;
}

/* Pack a value of this interpreter.  *p_moved: a new list of the Buffers that it moves, or
   NULL.  -1 with an exception. */
static int
pack_call_value(ph_lending *lending, call_packet *out, PyObject *value, PyObject **p_moved)
{
    ph_writer writer = lending->spare;      /* pickling may come here, too */
    lending->spare = (ph_writer){0};
    int status = ph_message_write(lending->wire, value, &writer);
    call_kind kind = status == PH_NOT_OURS ? CALL_PICKLE : CALL_VALUE;
    if (status == PH_NOT_OURS) {
        status = write_pickle(lending, out, value, &writer);
    }
    if (status == PH_WRITTEN) {
        *p_moved = Py_XNewRef(writer.moved);
        status = take_written(lending, out, kind, &writer);
    }
    ph_writer_reset(&writer);
    ph_writer_clear(&lending->spare);
    lending->spare = writer;
    return status;
}

/* Take from this interpreter what a packet moved, if it has arrived.  Steals the list. */
static void
consume_moved(PyObject *moved, bool arrived)
{
    for (Py_ssize_t i = 0; moved != NULL && arrived && i < PyList_GET_SIZE(moved); i++) {
        ph_buffer_consume(PyList_GET_ITEM(moved, i));
    }
    Py_XDECREF(moved);
}

/* Pack the exception that is set, and clear it.  This cannot fail: at last the text is
   empty. */
static void
pack_raised(call_packet *out)
{
    PyObject *raised = PyErr_GetRaisedException();
    PyObject *dumped = call_lend_helper("dumps_error", Py_NewRef(raised));
    if (pack_bytes_object(out, CALL_ERROR, dumped) < 0) {
        char text[256];
        ph_take_error_text(text, sizeof(text));
        if (copy_to_packet(out, CALL_ERROR_TEXT, text, strlen(text)) < 0) {
            *out = (call_packet){.kind = CALL_ERROR_TEXT};
        }
    }
    Py_DECREF(raised);
}

/* Make the value of a packet.  NULL with an exception. */
static PyObject *
unpack_call_value(ph_lending *lending, call_packet *in)
{
    const char *end = in->bytes + in->size - in->pickle_size;
    ph_reader reader = {
        .at = in->bytes, .end = end, .spans = in->spans, .n_spans = in->n_spans,
    };
    PyObject *value = in->kind == CALL_PICKLE
                      ? ph_unpickle(lending->wire->interp->pickles, end,
                                    in->pickle_size, NULL, &reader)
                      : ph_message_read(lending->wire, &reader);
    in->next_span = reader.next_span;
    in->arrived = value != NULL;
    return value;
}

/* Run a method of the object as `request` says (see make_request()); in the owner. */
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

/* Unpack a request, run it, and pack the result; in the owner.  -1 with an exception. */
static int
serve_packet(ph_loan *loan, call_packet *in, call_packet *out)
{
    assert(ph_interp_is_here(loan->owner));
    PyObject *core = PyImport_ImportModule("permaheap._core");  /* the owner's */
    PyObject *object = core ? ph_loan_object(loan) : NULL;
    if (object == NULL) {
        Py_XDECREF(core);
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_RuntimeError, "the loan is over, since its owner is "
                            "ending");
        }
        return -1;
    }
    ph_lending *lending = ph_interpreter_of(core)->lending;
    PyObject *moved = NULL;
    PyObject *request = unpack_call_value(lending, in);
    PyObject *result = request ? run_method(object, request) : NULL;
    int status = result ? pack_call_value(lending, out, result, &moved) : -1;
    consume_moved(moved, status == 0);
    Py_XDECREF(result);
    Py_XDECREF(request);
    Py_DECREF(object);
    Py_DECREF(core);
    return status;
}

/* Likewise, but pack an exception as well.  `way` holds the loans in the answer. */
static void
serve_call(ph_loan *loan, call_packet *in, call_packet *out, ph_transit *way)
{
    ph_transit *outer = ph_transit_begin(way);
    if (serve_packet(loan, in, out) < 0) {
        clear_packet(out);
        *out = (call_packet){0};
        pack_raised(out);
    }
    (void)ph_transit_begin(outer);
    assert(!PyErr_Occurred());
}

static PyObject *
copy_packet_bytes(const call_packet *in)
{
    return PyBytes_FromStringAndSize(in->bytes, (Py_ssize_t)in->size);
}

/* Raise in the caller the exception that was raised in the owner.  NULL. */
static PyObject *
raise_from_answer(ph_lending *lending, ph_loan *loan, PyObject *name,
                  const call_packet *answer)
{
    PyObject *place = PyUnicode_FromFormat(
        "in interpreter %lld, by %U() of %s", (long long)ph_interp_id(loan->owner), name,
        loan->type_name);
    PyObject *helpers = place ? PyImport_ImportModule("permaheap._lend") : NULL;
    PyObject *raised = NULL;
    if (helpers != NULL && answer->kind == CALL_ERROR_TEXT) {
        PyErr_Format(lending->loan_error, "%U: %s", place,
                     answer->bytes ? answer->bytes : "MemoryError");
    }
    else if (helpers != NULL) {
        raised = PyObject_CallMethod(helpers, "loads_error", "NOO",
                                     copy_packet_bytes(answer), place,
                                     lending->loan_error);
    }
    if (raised != NULL) {
        PyErr_SetRaisedException(raised);
    }
    Py_XDECREF(helpers);
    Py_XDECREF(place);
    return NULL;
}

/* Serve a call in the owner, to which this thread attaches if it is not there.  -1 with
   an exception. */
static int
serve_in_owner(ph_lending *lending, ph_loan *loan, call_packet *in, call_packet *out,
               ph_transit *way)
{
    if (ph_interp_is_here(loan->owner)) {
        serve_call(loan, in, out, way);
        return 0;
    }
    ph_attachment attachment;
    if (ph_loan_enter(loan, &attachment, lending->loan_error) < 0) {
        return -1;
    }
    serve_call(loan, in, out, way);
    ph_interp_detach(&attachment);
    return 0;
}

static PyObject *
call_in_owner(ph_lending *lending, ph_loan *loan, PyObject *name, PyObject *request)
{
    call_packet question = {0}, answer = {0};
    ph_transit way = {0};
    PyObject *result = NULL, *moved = NULL;
    if (pack_call_value(lending, &question, request, &moved) == 0
        && serve_in_owner(lending, loan, &question, &answer, &way) == 0) {
        result = answer.kind <= CALL_PICKLE
                 ? unpack_call_value(lending, &answer)
                 : raise_from_answer(lending, loan, name, &answer);
    }
    consume_moved(moved, question.arrived);
    clear_packet(&question);
    clear_packet(&answer);
    ph_transit_clear(&way);
    return result;
}

PyDoc_STRVAR(call_doc,
"call($module, target, method, /, *args, **kwargs)\n--\n\n"
"Run a method of a lent object in its owner, and return a copy of the result.\n\n"
"target: a Loan or a Borrowed.  This thread attaches to the owner itself, so an idle\n"
"owner answers as well as a busy one, and calls may call back.  Arguments and result\n"
"are copied; a proxy arrives at the object's owner as the object.  An exception comes\n"
"back as its own type if that is built in or can be pickled, else as LoanError, with a\n"
"note that names the owner.  Raises LoanError when the loan is over.  O(size of\n"
"arguments and result).\n\n"
"The idea is the actor model of Hewitt (1973): objects that are only sent messages.");

static PyObject *
collect_positional(PyObject *const *args, Py_ssize_t n)
{
    PyObject *tuple = PyTuple_New(n);
    for (Py_ssize_t i = 0; tuple != NULL && i < n; i++) {
        PyTuple_SET_ITEM(tuple, i, Py_NewRef(args[i]));
    }
    return tuple;
}

static PyObject *
collect_keywords(PyObject *const *values, PyObject *names)
{
    PyObject *dict = PyDict_New();
    for (Py_ssize_t i = 0; dict != NULL && i < PyTuple_GET_SIZE(names); i++) {
        if (PyDict_SetItem(dict, PyTuple_GET_ITEM(names, i), values[i]) < 0) {
            Py_CLEAR(dict);
        }
    }
    return dict;
}

/* Make the request for run_method(): (name, tuple of arguments), and a dict of the keyword
   arguments if there are any.  `names`: of these, whose values come last in `args`; or
   NULL. */
static PyObject *
make_request(PyObject *method, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
    PyObject *first = collect_positional(args, n);
    PyObject *request = NULL;
    if (first != NULL && (names == NULL || PyTuple_GET_SIZE(names) == 0)) {
        request = PyTuple_Pack(2, method, first);
    }
    else if (first != NULL) {
        PyObject *last = collect_keywords(args + n, names);
        request = last ? PyTuple_Pack(3, method, first, last) : NULL;
        Py_XDECREF(last);
    }
    Py_XDECREF(first);
    return request;
}

static PyObject *
core_call(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *names)
{
    ph_lending *lending = ph_interpreter_of(module)->lending;
    if (nargs < 2 || !PyUnicode_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "call: needed are a Loan or a Borrowed, and the "
                        "name of a method; pass call(loan, \"method\", ...)");
        return NULL;
    }
    ph_loan *loan = ph_borrow(lending, args[0]);
    if (loan == NULL) {
        return NULL;
    }
    PyObject *request = make_request(args[1], args + 2, nargs - 2, names);
    PyObject *result = request ? call_in_owner(lending, loan, args[1], request) : NULL;
    Py_XDECREF(request);
    ph_loan_drop_proxy(loan);
    return result;
}

static PyMethodDef call_methods[] = {
    {"call", (PyCFunction)(void (*)(void))core_call, METH_FASTCALL | METH_KEYWORDS,
     call_doc},
    {NULL, NULL, 0, NULL},
};

int
ph_call_add(PyObject *module)
{
    return PyModule_AddFunctions(module, call_methods);
}
