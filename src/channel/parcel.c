/* parcel.c -- a Python value as one message of a channel, and back.

   There are three kinds of message, in this order of preference:

       object    a permanent object: its block, its offset and the tag of a handle;
                 24 bytes, whatever its size, and the same object arrives
       value     ordinary values in the format of encode.c, with the Buffers,
                 Channels, Handles and Loans in them
       pickle    anything else, by pickle protocol 5 (pickle.c): the number of
                 out-of-band buffers, the sizes of the pickle, of the references and of
                 each buffer; then all of these, each at a multiple of 16 bytes; the
                 references are a tuple in the format of a value, and 0 bytes if empty

   A message that is too large for the ring lies in a span of its own, in the same
   format.  The message in the ring then has the flag PARCEL_IN_SPAN, the size of that
   body, and the body as its first span.  The body is read where it lies.

   Invariants:

   1. A parcel that waits does not need its value any more: bytes are copied, Buffers
      pinned, and the channels held (ph_parcel_hold).
   2. A parcel holds its body, and the first `held` of its writer's spans, until
      ph_parcel_done().  Once the message is in the ring, it has holds of its own.
   3. Nothing that arrives is trusted: offsets and sizes are checked, objects have their
      tag, and the spans of a message their kind.  Each hold that the message had has a
      new owner, or is dropped, by the end of ph_parcel_open().

   A parcel's memory is reused for the next one, unless it has become large.  Each
   interpreter has one spare parcel, and one for receiving; they are taken and given back
   with the GIL.  If the spare is taken, by another thread that waits or by code that
   pickling runs, a new one is made. */

#include "channel/parcel.h"

#include <stdarg.h>
#include <string.h>

#include "layout/datetime.h"
#include "share/buffer.h"
#include "core/base/array.h"
#include "core/family/handle.h"
#include "wire/pickle.h"

/* The kind of a message, in the ring. */
enum { PARCEL_OBJECT = 1, PARCEL_VALUE = 2, PARCEL_PICKLE = 3, PARCEL_IN_SPAN = 0x100 };

#define KEPT_MOST (1 * PH_MIB)      /* bytes of memory that a spare may have */
#define ALIGNED 16u

static uint64_t
round_up_part(uint64_t size)
{
    return (size + ALIGNED - 1) & ~(uint64_t)(ALIGNED - 1);
}

static int
raise_damaged_parcel(const ph_parcels *parcels, const char *what)
{
    return ph_message_damaged(parcels->wire, what);
}

/* --- Parcels and their memory ------------------------------------------------- */

static ph_parcel *
take_parcel(ph_parcels *parcels)
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
free_parcel(ph_parcel *parcel)
{
    if (parcel != NULL) {
        ph_writer_clear(&parcel->writer);
        ph_free(parcel->bytes);
        ph_free(parcel->spans);
        ph_free(parcel);
    }
}

/* Return span `i` of the writer.  In the message they come after the body's. */
static ph_span_id
get_writer_span(const ph_parcel *parcel, uint32_t i)
{
    assert(parcel->has_body + i < parcel->out.n_spans);
    return parcel->out.spans[parcel->has_body + i];
}

void
ph_parcel_done(ph_parcels *parcels, ph_parcel *parcel)
{
    assert(parcel != parcels->spare);
    while (parcel->held > 0) {
        ph_span_drop(get_writer_span(parcel, --parcel->held));
    }
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
    free_parcel(parcel);
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
free_incoming(ph_incoming *incoming)
{
    if (incoming != NULL) {
        ph_incoming_free(incoming);
        ph_free(incoming);
    }
}

void
ph_incoming_done(ph_parcels *parcels, ph_incoming *incoming)
{
    assert(incoming != parcels->spare_incoming);
    if (parcels->spare_incoming == NULL && incoming->memory_size <= KEPT_MOST) {
        parcels->spare_incoming = incoming;
        return;
    }
    free_incoming(incoming);
}

void
ph_parcels_clear(ph_parcels *parcels)
{
    free_parcel(parcels->spare);
    parcels->spare = NULL;
    free_incoming(parcels->spare_incoming);
    parcels->spare_incoming = NULL;
}

/* --- Bodies ------------------------------------------------------------------- */

static bool
fits_in_ring(uint64_t size, uint32_t n_spans, uint64_t largest)
{
    return n_spans <= PH_MESSAGE_SPANS && size <= largest
           && n_spans * sizeof(ph_span_id) <= largest - size;
}

/* Make a span for a body of that size, and the message that names it.  Return where the
   caller must write the body. */
static char *
make_body(ph_parcels *parcels, ph_parcel *parcel, uint32_t kind, uint64_t size,
          uint64_t largest)
{
    uint32_t n = parcel->writer.n_spans + 1;
    if (!fits_in_ring(sizeof(uint64_t), n, largest)) {
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
    assert(!parcel->has_body);
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
        .kind = kind | PARCEL_IN_SPAN, .n_spans = n, .spans = parcel->spans,
        .bytes = parcel->words, .size = sizeof(uint64_t), .out_of_line = size,
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

/* --- Waiting ------------------------------------------------------------------ */

int
ph_parcel_hold(ph_parcels *parcels, ph_parcel *parcel)
{
    uint32_t n = parcel->out.n_spans - parcel->has_body;
    assert(parcel->held == 0);
    while (parcel->held < n) {
        if (ph_span_hold_named(get_writer_span(parcel, parcel->held)) != PH_OK) {
            return ph_raise(parcels->exceptions);
        }
        parcel->held++;
    }
    return 0;
}

/* Move the message to another parcel, with the spans held and the Buffers pinned for it. */
static void
move_message(ph_parcel *from, ph_parcel *to)
{
    to->out = from->out;
    to->words[0] = from->words[0];
    to->body = from->body;
    to->has_body = from->has_body;
    to->held = from->held;
    to->pickled = from->pickled;
    to->writer.moved = from->writer.moved;
    from->has_body = false;
    from->held = 0;
    from->writer.moved = NULL;
}

ph_parcel *
ph_parcel_slim(ph_parcels *parcels, ph_parcel *parcel)
{
    uint64_t spans_size = parcel->out.n_spans * sizeof(ph_span_id);
    uint64_t size = spans_size + parcel->out.size;
    ph_parcel *slim = ph_calloc(1, sizeof(*slim));
    if (slim == NULL || (slim->bytes = ph_malloc(size)) == NULL) {
        ph_free(slim);
        ph_parcel_done(parcels, parcel);
        PyErr_NoMemory();
        return NULL;
    }
    slim->bytes_size = size;
    if (spans_size > 0) {
        memcpy(slim->bytes, parcel->out.spans, spans_size);
    }
    memcpy(slim->bytes + spans_size, parcel->out.bytes, parcel->out.size);
    move_message(parcel, slim);
    slim->out.spans = (const ph_span_id *)slim->bytes;
    slim->out.bytes = slim->bytes + spans_size;
    ph_parcel_done(parcels, parcel);
    return slim;
}

/* --- Packing ------------------------------------------------------------------ */

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
        .kind = PARCEL_OBJECT, .bytes = parcel->words, .size = sizeof(parcel->words),
    };
    return 0;
}

static int
pack_value(ph_parcels *parcels, ph_parcel *parcel, uint64_t largest)
{
    const ph_writer *writer = &parcel->writer;
    if (fits_in_ring(writer->used, writer->n_spans, largest)) {
        parcel->out = (ph_outgoing){
            .kind = PARCEL_VALUE, .n_spans = writer->n_spans, .spans = writer->spans,
            .bytes = writer->bytes, .size = writer->used,
        };
        return 0;
    }
    char *body = make_body(parcels, parcel, PARCEL_VALUE, writer->used, largest);
    if (body == NULL) {
        return -1;
    }
    memcpy(body, writer->bytes, writer->used);
    return 0;
}

/* Add a note to the exception that is set: what pickle was needed for. */
static void
add_pickle_note(const char *format, ...)
{
    PyObject *error = PyErr_GetRaisedException();
    va_list args;
    va_start(args, format);
    PyObject *text = PyUnicode_FromFormatV(format, args);
    va_end(args);
    if (text != NULL) {
        Py_XDECREF(PyObject_CallMethod(error, "add_note", "O", text));
    }
    PyErr_Clear();                              /* the first exception counts */
    Py_XDECREF(text);
    PyErr_SetRaisedException(error);
}

static const Py_buffer *
get_contiguous(PyObject *buffers, Py_ssize_t i)
{
    const Py_buffer *view = PyPickleBuffer_GetBuffer(PyList_GET_ITEM(buffers, i));
    if (view != NULL && !PyBuffer_IsContiguous(view, 'A')) {
        PyErr_SetString(PyExc_BufferError,
                        "send: a buffer that is not contiguous cannot be sent; "
                        "send a contiguous copy of it");
        return NULL;
    }
    return view;
}

#define WORDS 3                     /* before the sizes of the buffers */

/* The parts of a pickled value. */
typedef struct {
    PyObject *pickle;               /* a bytes object */
    PyObject *buffers;              /* a list of PickleBuffers */
    const ph_writer *references;
} pickled_parts;

/* Return the bytes that these parts take together.  -1 with an exception. */
static int64_t
compute_parts_size(const pickled_parts *parts)
{
    Py_ssize_t n = PyList_GET_SIZE(parts->buffers);
    uint64_t size = round_up_part((WORDS + (uint64_t)n) * sizeof(uint64_t));
    size += round_up_part((uint64_t)PyBytes_GET_SIZE(parts->pickle));
    size += round_up_part(parts->references->used);
    for (Py_ssize_t i = 0; i < n; i++) {
        const Py_buffer *view = get_contiguous(parts->buffers, i);
        if (view == NULL) {
            return -1;
        }
        size += round_up_part((uint64_t)view->len);
    }
    return (int64_t)size;
}

/* Copy bytes, and zeros up to a multiple of ALIGNED.  Return the place behind them. */
static char *
put_padded(char *to, const void *bytes, uint64_t size)
{
    uint64_t end = round_up_part(size);
    if (size > 0) {
        memcpy(to, bytes, size);
    }
    memset(to + size, 0, end - size);
    return to + end;
}

static void
put_parts(char *to, const pickled_parts *parts)
{
    Py_ssize_t n = PyList_GET_SIZE(parts->buffers);
    uint64_t *words = (uint64_t *)to;
    uint64_t size = (uint64_t)PyBytes_GET_SIZE(parts->pickle);
    words[0] = (uint64_t)n;
    words[1] = size;
    words[2] = parts->references->used;
    if ((WORDS + n) % 2 != 0) {
        words[WORDS + n] = 0;                   /* up to a multiple of 16 bytes */
    }
    to += round_up_part((WORDS + (uint64_t)n) * sizeof(uint64_t));
    to = put_padded(to, PyBytes_AS_STRING(parts->pickle), size);
    to = put_padded(to, parts->references->bytes, parts->references->used);
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *buffer = PyList_GET_ITEM(parts->buffers, i);
        const Py_buffer *view = PyPickleBuffer_GetBuffer(buffer);
        words[WORDS + i] = (uint64_t)view->len;
        to = put_padded(to, view->buf, (uint64_t)view->len);
    }
}

/* Return scratch memory of at least that size.  NULL with an exception. */
static char *
grow_scratch(ph_parcels *parcels, ph_parcel *parcel, uint64_t size)
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
pack_parts(ph_parcels *parcels, ph_parcel *parcel, const pickled_parts *parts,
           uint64_t largest)
{
    int64_t size = compute_parts_size(parts);
    if (size < 0) {
        return -1;
    }
    char *to;
    if (fits_in_ring((uint64_t)size, parcel->writer.n_spans, largest)) {
        to = grow_scratch(parcels, parcel, (uint64_t)size);
        parcel->out = (ph_outgoing){
            .kind = PARCEL_PICKLE, .bytes = to, .size = (uint64_t)size,
            .n_spans = parcel->writer.n_spans, .spans = parcel->writer.spans,
        };
    }
    else {
        to = make_body(parcels, parcel, PARCEL_PICKLE, (uint64_t)size, largest);
    }
    if (to == NULL) {
        return -1;
    }
    put_parts(to, parts);
    parcel->pickled = true;
    return 0;
}

static int
pack_pickled(ph_parcels *parcels, PyObject *obj, ph_parcel *parcel, uint64_t largest)
{
    int result = -1;
    PyObject *pickle = NULL, *buffers = PyList_New(0);
    if (buffers != NULL) {
        pickle = ph_pickle(parcels->wire->interp->pickles, obj, buffers, &parcel->writer);
        if (pickle == NULL) {
            add_pickle_note("send pickled this %s, since it is or holds an object that can "
                            "be sent in no other way", Py_TYPE(obj)->tp_name);
        }
    }
    if (pickle != NULL) {
        pickled_parts parts = {pickle, buffers, &parcel->writer};
        result = pack_parts(parcels, parcel, &parts, largest);
    }
    Py_XDECREF(pickle);
    Py_XDECREF(buffers);
    return result;
}

/* Raise TypeError: this object, or one of that type inside it, would have to be pickled.
   -1. */
static int
refuse_to_pickle(PyObject *obj, PyTypeObject *type)
{
    PyObject *outer = ph_type_name(Py_TYPE(obj)), *inner = NULL;
    if (type == NULL) {
        inner = PyUnicode_FromString("something");
    }
    else if ((inner = ph_type_name(type)) != NULL) {
        Py_SETREF(inner, PyUnicode_FromFormat("a %U", inner));
    }
    if (outer != NULL && inner != NULL && type == Py_TYPE(obj)) {
        PyErr_Format(PyExc_TypeError, "send: this channel does not pickle, and %U travels in "
                     "no other way", inner);
    }
    else if (outer != NULL && inner != NULL) {
        PyErr_Format(PyExc_TypeError, "send: this channel does not pickle, and in this %U "
                     "there is %U, which travels in no other way", outer, inner);
    }
    Py_XDECREF(outer);
    Py_XDECREF(inner);
    return -1;
}

static int
pack_by_kind(ph_parcels *parcels, PyObject *obj, bool may_pickle, uint64_t largest,
             ph_parcel *parcel)
{
    if (ph_heap_contains(obj)) {
        return pack_object(parcels, obj, parcel);
    }
    int result = ph_message_write(parcels->wire, obj, &parcel->writer);
    if (result == PH_WRITTEN) {
        return pack_value(parcels, parcel, largest);
    }
    if (result < 0) {
        return -1;
    }
    if (!may_pickle) {
        return refuse_to_pickle(obj, parcel->writer.refused);
    }
    return pack_pickled(parcels, obj, parcel, largest);
}

ph_parcel *
ph_parcel_pack(ph_parcels *parcels, PyObject *obj, bool may_pickle, uint64_t largest)
{
    ph_parcel *parcel = take_parcel(parcels);
    if (parcel != NULL && pack_by_kind(parcels, obj, may_pickle, largest, parcel) < 0) {
        ph_parcel_done(parcels, parcel);
        return NULL;
    }
    return parcel;
}

/* --- Opening ------------------------------------------------------------------ */

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
    void *obj;
    uint32_t flags;
    if (ph_handle_resolve(&handle, &obj, &flags) != PH_OK) {
        ph_raise(parcels->exceptions);
        return NULL;
    }
    if (flags & PH_BLOCK_DATETIME
        && ph_need_datetime(&parcels->wire->interp->has_datetime) < 0) {
        return NULL;
    }
    if (obj == NULL) {
        raise_damaged_parcel(parcels, "it names no object");
    }
    return Py_XNewRef(obj);
}

/* Return the next piece of a pickled message, whose size the message itself states.  NULL
   with MessageError. */
static const char *
read_piece(ph_parcels *parcels, ph_reader *reader, uint64_t size)
{
    const char *piece = reader->at;
    uint64_t left = (uint64_t)(reader->end - reader->at);
    if (size > left || round_up_part(size) > left) {
        raise_damaged_parcel(parcels, "a part is larger than the message");
        return NULL;
    }
    reader->at += round_up_part(size);
    return piece;
}

static PyObject *
read_buffers(ph_parcels *parcels, ph_reader *reader, const uint64_t *sizes, uint64_t n)
{
    PyObject *buffers = PyList_New(0);
    for (uint64_t i = 0; buffers != NULL && i < n; i++) {
        const char *piece = read_piece(parcels, reader, sizes[i]);
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
open_pickle(ph_parcels *parcels, ph_reader *reader)
{
    uint64_t left = (uint64_t)(reader->end - reader->at) / sizeof(uint64_t);
    const uint64_t *words = (const uint64_t *)reader->at;
    if (left < WORDS || words[0] > left - WORDS) {
        raise_damaged_parcel(parcels, "it is too short");
        return NULL;
    }
    uint64_t n = words[0], size = words[1], of_references = words[2];
    const char *pickle = NULL, *at = NULL;
    if (read_piece(parcels, reader, (WORDS + n) * sizeof(uint64_t)) != NULL
        && (pickle = read_piece(parcels, reader, size)) != NULL) {
        at = read_piece(parcels, reader, of_references);
    }
    PyObject *buffers = at ? read_buffers(parcels, reader, words + WORDS, n) : NULL;
    if (buffers == NULL) {
        return NULL;
    }
    ph_reader references = *reader;
    references.at = at;
    references.end = at + of_references;
    PyObject *obj = ph_unpickle(parcels->wire->interp->pickles, pickle, size, buffers,
                                &references);
    reader->next_span = references.next_span;
    if (obj == NULL) {
        add_pickle_note("while recv unpickled a message, which is lost");
    }
    Py_DECREF(buffers);
    return obj;
}

/* Continue reading in the span that holds the body.  The hold on it becomes the
   caller's. */
static int
enter_body(ph_parcels *parcels, ph_reader *reader, ph_span_id *body)
{
    uint64_t size;
    if (ph_read_word(reader, &size) < 0 || ph_read_span(reader, body) < 0) {
        return -1;
    }
    if (ph_span_hold(*body, PH_SPAN_MESSAGE) != PH_OK) {
        ph_span_drop(*body);
        return raise_damaged_parcel(parcels, "its body is not a span of a message");
    }
    ph_span_drop(*body);
    if (size > ph_span_size(*body)) {
        ph_span_drop(*body);
        return raise_damaged_parcel(parcels, "it is larger than its body");
    }
    reader->at = ph_span_address(*body);
    reader->end = reader->at + size;
    return 0;
}

static PyObject *
open_kind(ph_parcels *parcels, ph_reader *reader, uint32_t kind)
{
    switch (kind) {
    case PARCEL_OBJECT:
        return open_object(parcels, reader);
    case PARCEL_VALUE:
        return ph_message_read(parcels->wire, reader);
    case PARCEL_PICKLE:
        return open_pickle(parcels, reader);
    default:
        raise_damaged_parcel(parcels, "its kind is unknown");
        return NULL;
    }
}

PyObject *
ph_parcel_open(ph_parcels *parcels, const ph_incoming *incoming)
{
    ph_reader reader = {
        .wire = parcels->wire,
        .at = incoming->bytes, .end = incoming->bytes + incoming->size,
        .spans = incoming->spans, .n_spans = incoming->n_spans,
    };
    ph_span_id body;
    bool in_span = incoming->kind & PARCEL_IN_SPAN;
    PyObject *obj = NULL;
    if (!in_span || enter_body(parcels, &reader, &body) == 0) {
        obj = open_kind(parcels, &reader, incoming->kind & ~(uint32_t)PARCEL_IN_SPAN);
        if (in_span) {
            ph_span_drop(body);
        }
    }
    assert(reader.next_span <= reader.n_spans);
    while (reader.next_span < reader.n_spans) {
        ph_span_drop(reader.spans[reader.next_span++]);
    }
    return obj;
}
