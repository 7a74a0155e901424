/* parcel.c -- a Python value as one message of a channel, and back.

   There are three kinds of message, in this order of preference:

       object    a permanent object: its block, its offset and the tag of a handle;
                 24 bytes, whatever its size, and the same object arrives
       value     ordinary values in the format of message.c, with the Buffers,
                 Channels, Handles and Loans in them
       pickle    anything else, by pickle protocol 5: the number of out-of-band buffers,
                 the size of the pickle and of each buffer; then all of these,
                 each at a multiple of 16 bytes

   What is too large for the ring lies in a span of its own, in the same format: the
   message in the ring has the flag PH_IN_SPAN, the size of that body, and the body
   as its first span.  It is read where it lies.

   A parcel's memory is used again for the next one, unless it has become large.  One
   spare parcel for each interpreter will do: who finds it taken, by another thread
   that waits or by the code that pickling runs, makes another one.

   Nothing that arrives is trusted: offsets and sizes are checked, objects have their
   tag, and the spans of a message their kind. */

#include "parcel.h"

#include <string.h>

#include "buffer.h"
#include "grow.h"
#include "handle.h"

enum { PH_OBJECT = 1, PH_VALUE = 2, PH_PICKLE = 3, PH_IN_SPAN = 0x100 };

#define KEPT_MOST (1 * PH_MIB)      /* of memory that a spare may have */
#define ALIGNED 16u

static uint64_t
aligned(uint64_t size)
{
    return (size + ALIGNED - 1) & ~(uint64_t)(ALIGNED - 1);
}

static int
damaged(const ph_parcels *parcels, const char *what)
{
    return ph_message_damaged(parcels->travels, what);
}

/* --- Parcels and their memory -------------------------------------------------------- */

static ph_parcel *
parcel_take(ph_parcels *parcels)
{
    ph_parcel *parcel = parcels->spare;
    parcels->spare = NULL;
    if (parcel == NULL) {
        parcel = ph_calloc(1, sizeof(*parcel));
        if (parcel == NULL) {
            PyErr_NoMemory();
        }
    }
    return parcel;
}

static void
parcel_free(ph_parcel *parcel)
{
    if (parcel != NULL) {
        ph_writer_clear(&parcel->writer);
        ph_free(parcel->bytes);
        ph_free(parcel->spans);
        ph_free(parcel);
    }
}

void
ph_parcel_done(ph_parcels *parcels, ph_parcel *parcel)
{
    if (parcel->has_body) {
        ph_span_drop(parcel->body);
    }
    ph_writer_reset(&parcel->writer);
    parcel->has_body = parcel->pickled = false;
    if (parcels->spare == NULL && parcel->bytes_size <= KEPT_MOST
        && parcel->writer.size <= KEPT_MOST) {
        parcels->spare = parcel;
        return;
    }
    parcel_free(parcel);
}

ph_incoming *
ph_incoming_take(ph_parcels *parcels)
{
    ph_incoming *incoming = parcels->spare_incoming;
    parcels->spare_incoming = NULL;
    if (incoming == NULL) {
        incoming = ph_calloc(1, sizeof(*incoming));
        if (incoming == NULL) {
            PyErr_NoMemory();
        }
    }
    return incoming;
}

static void
incoming_free(ph_incoming *incoming)
{
    if (incoming != NULL) {
        ph_incoming_free(incoming);
        ph_free(incoming);
    }
}

void
ph_incoming_done(ph_parcels *parcels, ph_incoming *incoming)
{
    if (parcels->spare_incoming == NULL && incoming->memory_size <= KEPT_MOST) {
        parcels->spare_incoming = incoming;
        return;
    }
    incoming_free(incoming);
}

void
ph_parcels_clear(ph_parcels *parcels)
{
    Py_CLEAR(parcels->dumps);
    Py_CLEAR(parcels->loads);
    parcel_free(parcels->spare);
    parcels->spare = NULL;
    incoming_free(parcels->spare_incoming);
    parcels->spare_incoming = NULL;
}

/* --- Bodies -------------------------------------------------------------------------- */

static bool
fits(uint64_t size, uint32_t n_spans, uint64_t largest)
{
    return n_spans <= PH_MESSAGE_SPANS && size <= largest
           && n_spans * sizeof(ph_span_id) <= largest - size;
}

/* Let the message be a body of that size in a span, which is still to be written. */
static char *
body_new(ph_parcels *parcels, ph_parcel *parcel, uint32_t kind, uint64_t size,
         uint64_t largest)
{
    uint32_t n = parcel->writer.n_spans + 1;
    if (!fits(sizeof(uint64_t), n, largest)) {
        PyErr_Format(PyExc_ValueError, "send: one message cannot hold %lu buffers and "
                     "channels; send them in several", (unsigned long)(n - 1));
        return NULL;
    }
    while (parcel->spans_size < n) {
        if (ph_grow(&parcel->spans, parcel->spans_size, &parcel->spans_size,
                    sizeof(ph_span_id)) < 0) {
            ph_raise(parcels->exceptions);
            return NULL;
        }
    }
    if (ph_span_new(PH_SPAN_MESSAGE, size, false, &parcel->body) != PH_OK) {
        ph_raise(parcels->exceptions);
        return NULL;
    }
    parcel->has_body = true;
    parcel->spans[0] = parcel->body;
    for (uint32_t i = 1; i < n; i++) {
        parcel->spans[i] = parcel->writer.spans[i - 1];
    }
    parcel->words[0] = size;
    parcel->out = (ph_outgoing){
        .kind = kind | PH_IN_SPAN, .n_spans = n, .spans = parcel->spans,
        .bytes = parcel->words, .size = sizeof(uint64_t),
    };
    return ph_span_address(parcel->body);
}

uint64_t
ph_parcel_size(const ph_parcel *parcel)
{
    return parcel->has_body ? parcel->words[0] : parcel->out.size;
}

void
ph_parcel_sent(ph_parcel *parcel)
{
    PyObject *moved = parcel->writer.moved;
    for (Py_ssize_t i = 0; moved != NULL && i < PyList_GET_SIZE(moved); i++) {
        ph_buffer_consume(PyList_GET_ITEM(moved, i));
    }
}

/* --- Packing ------------------------------------------------------------------------- */

static int
pack_object(ph_parcels *parcels, PyObject *obj, ph_parcel *parcel)
{
    ph_handle handle;
    if (ph_handle_make(obj, &handle) != PH_OK) {
        return ph_raise(parcels->exceptions);
    }
    parcel->words[0] = handle.block;
    parcel->words[1] = handle.object;
    parcel->words[2] = handle.tag;
    parcel->out = (ph_outgoing){
        .kind = PH_OBJECT, .bytes = parcel->words, .size = sizeof(parcel->words),
    };
    return 0;
}

static int
pack_value(ph_parcels *parcels, ph_parcel *parcel, uint64_t largest)
{
    const ph_writer *writer = &parcel->writer;
    if (fits(writer->used, writer->n_spans, largest)) {
        parcel->out = (ph_outgoing){
            .kind = PH_VALUE, .n_spans = writer->n_spans, .spans = writer->spans,
            .bytes = writer->bytes, .size = writer->used,
        };
        return 0;
    }
    char *body = body_new(parcels, parcel, PH_VALUE, writer->used, largest);
    if (body == NULL) {
        return -1;
    }
    memcpy(body, writer->bytes, writer->used);
    return 0;
}

static int
import_pickle(ph_parcels *parcels)
{
    if (parcels->loads != NULL) {
        return 0;
    }
    PyObject *module = PyImport_ImportModule("pickle");
    if (module == NULL) {
        return -1;
    }
    Py_XSETREF(parcels->dumps, PyObject_GetAttrString(module, "dumps"));
    if (parcels->dumps != NULL) {
        Py_XSETREF(parcels->loads, PyObject_GetAttrString(module, "loads"));
    }
    Py_DECREF(module);
    return parcels->loads == NULL ? -1 : 0;
}

/* The pickle, and a list of its out-of-band buffers. */
static PyObject *
dumps(ph_parcels *parcels, PyObject *obj, PyObject *buffers)
{
    PyObject *append = PyObject_GetAttrString(buffers, "append");
    PyObject *args = Py_BuildValue("(Oi)", obj, 5);
    PyObject *kwargs = append ? Py_BuildValue("{s:O}", "buffer_callback", append)
                              : NULL;
    PyObject *pickle = NULL;
    if (args != NULL && kwargs != NULL) {
        pickle = PyObject_Call(parcels->dumps, args, kwargs);
    }
    Py_XDECREF(append);
    Py_XDECREF(args);
    Py_XDECREF(kwargs);
    if (pickle != NULL && !PyBytes_Check(pickle)) {     /* somebody has replaced it */
        PyErr_Format(PyExc_TypeError, "send: pickle.dumps returned %s, not bytes",
                     Py_TYPE(pickle)->tp_name);
        Py_CLEAR(pickle);
    }
    return pickle;
}

static const Py_buffer *
contiguous(PyObject *buffers, Py_ssize_t i)
{
    const Py_buffer *view = PyPickleBuffer_GetBuffer(PyList_GET_ITEM(buffers, i));
    if (view != NULL && !PyBuffer_IsContiguous(view, 'A')) {
        PyErr_SetString(PyExc_BufferError,
                        "send: a buffer that is not contiguous cannot travel");
        return NULL;
    }
    return view;
}

/* Bytes that pickle and buffers take together; -1 with an exception. */
static int64_t
pickle_size(PyObject *pickle, PyObject *buffers)
{
    Py_ssize_t n = PyList_GET_SIZE(buffers);
    uint64_t size = aligned((2 + (uint64_t)n) * sizeof(uint64_t));
    size += aligned((uint64_t)PyBytes_GET_SIZE(pickle));
    for (Py_ssize_t i = 0; i < n; i++) {
        const Py_buffer *view = contiguous(buffers, i);
        if (view == NULL) {
            return -1;
        }
        size += aligned((uint64_t)view->len);
    }
    return (int64_t)size;
}

static char *
put(char *to, const void *bytes, Py_ssize_t size)
{
    uint64_t end = aligned((uint64_t)size);
    memcpy(to, bytes, (size_t)size);
    memset(to + size, 0, end - (uint64_t)size);
    return to + end;
}

static void
put_pickle(char *to, PyObject *pickle, PyObject *buffers)
{
    Py_ssize_t n = PyList_GET_SIZE(buffers);
    uint64_t *words = (uint64_t *)to;
    words[0] = (uint64_t)n;
    words[1] = (uint64_t)PyBytes_GET_SIZE(pickle);
    if (n % 2 != 0) {
        words[2 + n] = 0;                       /* up to a multiple of 16 bytes */
    }
    to += aligned((2 + (uint64_t)n) * sizeof(uint64_t));
    to = put(to, PyBytes_AS_STRING(pickle), PyBytes_GET_SIZE(pickle));
    for (Py_ssize_t i = 0; i < n; i++) {
        const Py_buffer *view = PyPickleBuffer_GetBuffer(PyList_GET_ITEM(buffers, i));
        words[2 + i] = (uint64_t)view->len;
        to = put(to, view->buf, view->len);
    }
}

static char *
scratch(ph_parcels *parcels, ph_parcel *parcel, uint64_t size)
{
    while (parcel->bytes_size < size) {
        if (ph_grow(&parcel->bytes, parcel->bytes_size, &parcel->bytes_size, 1) < 0) {
            ph_raise(parcels->exceptions);
            return NULL;
        }
    }
    return parcel->bytes;
}

static int
put_somewhere(ph_parcels *parcels, ph_parcel *parcel, PyObject *pickle,
              PyObject *buffers, uint64_t largest)
{
    int64_t size = pickle_size(pickle, buffers);
    if (size < 0) {
        return -1;
    }
    char *to;
    if (fits((uint64_t)size, 0, largest)) {
        to = scratch(parcels, parcel, (uint64_t)size);
        parcel->out = (ph_outgoing){
            .kind = PH_PICKLE, .bytes = to, .size = (uint64_t)size,
        };
    }
    else {
        to = body_new(parcels, parcel, PH_PICKLE, (uint64_t)size, largest);
    }
    if (to == NULL) {
        return -1;
    }
    put_pickle(to, pickle, buffers);
    parcel->pickled = true;
    return 0;
}

static int
pack_pickle(ph_parcels *parcels, PyObject *obj, ph_parcel *parcel, uint64_t largest)
{
    int result = -1;
    PyObject *pickle = NULL;
    PyObject *buffers = PyList_New(0);
    if (buffers != NULL && import_pickle(parcels) == 0) {
        pickle = dumps(parcels, obj, buffers);
    }
    if (pickle != NULL) {
        result = put_somewhere(parcels, parcel, pickle, buffers, largest);
    }
    Py_XDECREF(pickle);
    Py_XDECREF(buffers);
    return result;
}

static int
pack(ph_parcels *parcels, PyObject *obj, bool may_pickle, uint64_t largest,
     ph_parcel *parcel)
{
    if (ph_heap_contains(obj)) {
        return pack_object(parcels, obj, parcel);
    }
    int result = ph_message_write(parcels->travels, obj, &parcel->writer);
    if (result == PH_WRITTEN) {
        return pack_value(parcels, parcel, largest);
    }
    if (result < 0) {
        return -1;
    }
    if (!may_pickle) {
        PyErr_Format(PyExc_TypeError, "send: this channel does not pickle, and in this "
                     "%s there is something that travels in no other way",
                     Py_TYPE(obj)->tp_name);
        return -1;
    }
    return pack_pickle(parcels, obj, parcel, largest);
}

ph_parcel *
ph_parcel_pack(ph_parcels *parcels, PyObject *obj, bool may_pickle, uint64_t largest)
{
    ph_parcel *parcel = parcel_take(parcels);
    if (parcel != NULL && pack(parcels, obj, may_pickle, largest, parcel) < 0) {
        ph_parcel_done(parcels, parcel);
        return NULL;
    }
    return parcel;
}

/* --- Opening ------------------------------------------------------------------------- */

static PyObject *
open_object(ph_parcels *parcels, ph_reader *reader)
{
    ph_handle handle;
    memcpy(handle.family, ph_heap.header->family, sizeof(handle.family));
    if (ph_read_word(reader, &handle.block) < 0
        || ph_read_word(reader, &handle.object) < 0
        || ph_read_word(reader, &handle.tag) < 0) {
        return NULL;
    }
    PyObject *obj;
    uint32_t flags;
    if (ph_handle_resolve(&handle, &obj, &flags) != PH_OK) {
        ph_raise(parcels->exceptions);
        return NULL;
    }
    if (flags & PH_BLOCK_DATETIME
        && ph_need_datetime(parcels->travels->has_datetime) < 0) {
        return NULL;
    }
    if (obj == NULL) {
        damaged(parcels, "it names no object");
    }
    return Py_XNewRef(obj);
}

/* The next piece of a pickled message, whose size it says itself. */
static const char *
next_piece(ph_parcels *parcels, ph_reader *reader, uint64_t size)
{
    const char *piece = reader->at;
    uint64_t left = (uint64_t)(reader->end - reader->at);
    if (size > left || aligned(size) > left) {
        damaged(parcels, "a part is larger than the whole");
        return NULL;
    }
    reader->at += aligned(size);
    return piece;
}

static PyObject *
read_buffers(ph_parcels *parcels, ph_reader *reader, const uint64_t *sizes, uint64_t n)
{
    PyObject *buffers = PyList_New(0);
    for (uint64_t i = 0; buffers != NULL && i < n; i++) {
        const char *piece = next_piece(parcels, reader, sizes[i]);
        PyObject *buffer = NULL;
        if (piece != NULL) {
            buffer = PyByteArray_FromStringAndSize(piece, (Py_ssize_t)sizes[i]);
        }
        if (buffer == NULL || PyList_Append(buffers, buffer) < 0) {
            Py_CLEAR(buffers);
        }
        Py_XDECREF(buffer);
    }
    return buffers;
}

static PyObject *
loads(ph_parcels *parcels, const char *bytes, uint64_t size, PyObject *buffers)
{
    PyObject *pickle = PyMemoryView_FromMemory((char *)bytes, (Py_ssize_t)size,
                                               PyBUF_READ);
    PyObject *args = pickle ? PyTuple_Pack(1, pickle) : NULL;
    PyObject *kwargs = Py_BuildValue("{s:O}", "buffers", buffers);
    PyObject *obj = NULL;
    if (args != NULL && kwargs != NULL) {
        obj = PyObject_Call(parcels->loads, args, kwargs);
    }
    Py_XDECREF(pickle);
    Py_XDECREF(args);
    Py_XDECREF(kwargs);
    return obj;
}

static PyObject *
open_pickle(ph_parcels *parcels, ph_reader *reader)
{
    uint64_t left = (uint64_t)(reader->end - reader->at) / sizeof(uint64_t);
    const uint64_t *words = (const uint64_t *)reader->at;
    if (left < 2 || words[0] > left - 2) {
        damaged(parcels, "it is too short");
        return NULL;
    }
    uint64_t n = words[0];
    uint64_t size = words[1];
    if (import_pickle(parcels) < 0
        || next_piece(parcels, reader, (2 + n) * sizeof(uint64_t)) == NULL) {
        return NULL;
    }
    const char *pickle = next_piece(parcels, reader, size);
    PyObject *buffers = pickle ? read_buffers(parcels, reader, words + 2, n) : NULL;
    PyObject *obj = buffers ? loads(parcels, pickle, size, buffers) : NULL;
    Py_XDECREF(buffers);
    return obj;
}

/* Read on in the span that holds the body. */
static int
enter_body(ph_parcels *parcels, ph_reader *reader, ph_span_id *body)
{
    uint64_t size;
    if (ph_read_word(reader, &size) < 0 || ph_read_span(reader, body) < 0) {
        return -1;
    }
    if (ph_span_hold(*body, PH_SPAN_MESSAGE) != PH_OK) {
        ph_span_drop(*body);
        return damaged(parcels, "it names something else than its body");
    }
    ph_span_drop(*body);
    if (size > ph_span_size(*body)) {
        ph_span_drop(*body);
        return damaged(parcels, "it is larger than its body");
    }
    reader->at = ph_span_address(*body);
    reader->end = reader->at + size;
    return 0;
}

static PyObject *
open_kind(ph_parcels *parcels, ph_reader *reader, uint32_t kind)
{
    switch (kind) {
    case PH_OBJECT:
        return open_object(parcels, reader);
    case PH_VALUE:
        return ph_message_read(parcels->travels, reader);
    case PH_PICKLE:
        return open_pickle(parcels, reader);
    default:
        damaged(parcels, "it is of no kind that travels");
        return NULL;
    }
}

PyObject *
ph_parcel_open(ph_parcels *parcels, const ph_incoming *incoming)
{
    ph_reader reader = {
        .travels = parcels->travels,
        .at = incoming->bytes, .end = incoming->bytes + incoming->size,
        .spans = incoming->spans, .n_spans = incoming->n_spans,
    };
    ph_span_id body;
    bool in_span = incoming->kind & PH_IN_SPAN;
    PyObject *obj = NULL;
    if (!in_span || enter_body(parcels, &reader, &body) == 0) {
        obj = open_kind(parcels, &reader, incoming->kind & ~(uint32_t)PH_IN_SPAN);
        if (in_span) {
            ph_span_drop(body);
        }
    }
    while (reader.next_span < reader.n_spans) {
        ph_span_drop(reader.spans[reader.next_span++]);
    }
    return obj;
}
