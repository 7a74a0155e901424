/* encode.c -- a value on its way out, as the bytes of format.h.

   The walk is depth first, over a stack of its own with one frame for each open container.
   No Python code runs and the GIL is held, so nothing changes during the walk, and borrowed
   references are enough.

   The memo knows each object that has more than one reference, in an open-addressing table
   that is at most half full.  A slot of an earlier message counts as free.  So a new
   message begins with an empty memo at no cost.

   Records are dicts with the same str objects as keys, in the same order.  The second
   record of a shape defines the shape in the message; later ones are values only.  A small
   cache, indexed by first key and length, has the last shapes that were met. */

#include "wire/format.h"

#include <string.h>

#include "core/base/array.h"
#include "core/family/handle.h"
#include "layout/datetime.h"
#include "layout/frozen.h"
#include "layout/sources.h"
#include "layout/values.h"

#define SLOTS_LEAST 64u
#define SLOTS_KEPT 16384u           /* a larger memo is given back after the message, */
#define FRAMES_KEPT 4096u           /* and so is a larger stack */
#define BYTES_LEAST 256u

/* The functions below also return these, beside PH_WRITTEN and PH_NOT_OURS. */
enum { FAILED = -1, FRESH = 2 };

typedef struct ph_write_slot {
    PyObject *source;               /* borrowed */
    uint32_t epoch;                 /* of the message that it belongs to */
    uint32_t index;
    uint32_t open;                  /* number of its frame from 1 on; 0: complete */
    uint8_t depth;                  /* see ph_depth_over() */
    bool unwraps;                   /* hashing it may run a user's code: see decode.c */
} ph_write_slot;

/* An open container. */
typedef struct ph_write_frame {
    PyObject *source;               /* borrowed */
    PyObject *keys;                 /* owned: of an OrderedDict, in order; or NULL */
    const ph_entry *entries;        /* of a record */
    PyObject *value;                /* of a mapping: its key is written; borrowed */
    Py_ssize_t pos;                 /* of the next item */
    uint32_t last_mutable;          /* number of the last frame up to this one that
                                       may hold itself */
    uint8_t tag;
    uint8_t depth;                  /* of the items so far */
    bool unwraps;                   /* hashing one of them may run a user's code */
    bool remembered;
    bool hashing;                   /* the item in work is hashed there */
} ph_write_frame;

#define SHAPES_CACHED 16u
#define UNDEFINED UINT32_MAX

/* The keys of a dict that was met in this message. */
typedef struct ph_write_shape {
    uint32_t epoch;                 /* as for slots */
    uint32_t number;                /* in the message; UNDEFINED: met only once */
    Py_ssize_t n;
    PyObject *keys[PH_SHAPE_MOST];  /* borrowed */
} ph_write_shape;

typedef struct {
    const ph_wire_state *wire;
    ph_writer *writer;
    uint32_t remembered;            /* objects so far */
} writing;

static int write_value(writing *w, PyObject *obj);

/* --- Bytes -------------------------------------------------------------------- */

static int
grow_message(ph_writer *writer, size_t more)
{
    size_t size = writer->used + more;
    size = size < BYTES_LEAST ? BYTES_LEAST : size + size / 2;
    char *bytes = ph_realloc(writer->bytes, size);
    if (bytes == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    writer->bytes = bytes;
    writer->size = size;
    return 0;
}

/* Return room for `more` bytes at the end, which the caller then uses; or NULL. */
static inline char *
reserve_bytes(ph_writer *writer, size_t more)
{
    if (more > writer->size - writer->used && grow_message(writer, more) < 0) {
        return NULL;
    }
    return writer->bytes + writer->used;
}

static inline char *
put_varint(char *p, uint64_t value)
{
    while (value >= 0x80) {
        *p++ = (char)(value | 0x80);
        value >>= 7;
    }
    *p++ = (char)value;
    return p;
}

static inline void
set_used(ph_writer *writer, const char *p)
{
    assert(p >= writer->bytes && (size_t)(p - writer->bytes) <= writer->size);
    writer->used = (size_t)(p - writer->bytes);
}

int
ph_write_bytes(ph_writer *writer, const void *bytes, size_t size)
{
    char *p = reserve_bytes(writer, size);
    if (p == NULL) {
        return -1;
    }
    memcpy(p, bytes, size);
    writer->used += size;
    return 0;
}

int
ph_write_word(ph_writer *writer, uint64_t word)
{
    return ph_write_bytes(writer, &word, sizeof(word));
}

int
ph_write_span(ph_writer *writer, ph_span_id id)
{
    size_t size = writer->spans_size;
    if (ph_grow(&writer->spans, writer->n_spans, &size, sizeof(ph_span_id)) < 0) {
        PyErr_NoMemory();
        return -1;
    }
    writer->spans_size = (uint32_t)size;
    writer->spans[writer->n_spans++] = id;
    return 0;
}

static int
write_tag(ph_writer *writer, int tag)
{
    assert(ph_is_tag(tag));
    char *p = reserve_bytes(writer, 1);
    if (p == NULL) {
        return FAILED;
    }
    *p = (char)tag;
    writer->used++;
    return PH_WRITTEN;
}

/* Write a tag, a number, and `size` bytes. */
static int
write_counted(ph_writer *writer, int tag, uint64_t n, const void *bytes, size_t size)
{
    assert(ph_is_tag(tag));
    char *p = reserve_bytes(writer, 1 + PH_VARINT_MOST + size);
    if (p == NULL) {
        return FAILED;
    }
    *p++ = (char)tag;
    p = put_varint(p, n);
    if (size > 0) {
        memcpy(p, bytes, size);
    }
    set_used(writer, p + size);
    return PH_WRITTEN;
}

/* --- Memo --------------------------------------------------------------------- */

static ph_write_slot *
find_write_slot(const ph_writer *writer, PyObject *source)
{
    size_t mask = writer->slots_mask;
    assert(writer->slots != NULL && (mask & (mask + 1)) == 0);
    uint64_t hash = ((uint64_t)(uintptr_t)source >> 4) * 0x9e3779b97f4a7c15ull;
    for (size_t i = (hash >> 32) & mask;; i = (i + 1) & mask) {
        ph_write_slot *slot = &writer->slots[i];
        if (slot->epoch != writer->epoch || slot->source == source) {
            return slot;
        }
    }
}

static int
grow_write_slots(ph_writer *writer)
{
    ph_write_slot *old = writer->slots;
    size_t old_size = old ? writer->slots_mask + 1 : 0;
    size_t size = old ? 2 * old_size : SLOTS_LEAST;
    ph_write_slot *slots = ph_calloc(size, sizeof(ph_write_slot));
    if (slots == NULL) {
        PyErr_NoMemory();
        return FAILED;
    }
    writer->slots = slots;
    writer->slots_mask = size - 1;
    for (size_t i = 0; i < old_size; i++) {
        if (old[i].epoch == writer->epoch) {
            *find_write_slot(writer, old[i].source) = old[i];
        }
    }
    ph_free(old);
    return PH_WRITTEN;
}

static ph_write_frame *
innermost_frame(const ph_writer *writer)
{
    assert(writer->frames_used > 0);
    return &writer->frames[writer->frames_used - 1];
}

/* Note of the item in work of the innermost container how deep it is, and whether hashing it
   may run a user's code. */
static int
note_item(ph_writer *writer, uint8_t depth, bool unwraps)
{
    if (writer->frames_used == 0 || (depth == 0 && !unwraps)) {
        return PH_WRITTEN;
    }
    ph_write_frame *frame = innermost_frame(writer);
    if (depth > frame->depth) {
        frame->depth = depth;
    }
    frame->unwraps |= unwraps;
    return frame->hashing && (depth > PH_HASHED_DEPTH_MOST || unwraps) ? PH_NOT_OURS
                                                                       : PH_WRITTEN;
}

/* A back reference to an open container is allowed only if the reader has already created
   that container. */
static int
write_reference(ph_writer *writer, const ph_write_slot *slot)
{
    uint8_t depth = slot->depth;
    if (slot->open) {
        assert(slot->open <= writer->frames_used);
        const ph_write_frame *frame = &writer->frames[slot->open - 1];
        if (!ph_tag_is_mutable(frame->tag)) {
            if (frame->tag != PH_TAG_TUPLE
                || innermost_frame(writer)->last_mutable < slot->open) {
                return PH_NOT_OURS;
            }
            depth = PH_NEVER_HASHED;
        }
    }
    int result = note_item(writer, depth, slot->unwraps);
    return result == PH_WRITTEN
           ? write_counted(writer, PH_TAG_REFERENCE, slot->index, NULL, 0) : result;
}

/* Write a back reference to an object that was written before.  Otherwise return FRESH and
   the tag to write, which has PH_REMEMBER if the object may be met again. */
static inline int
refer_or_remember(writing *w, PyObject *obj, int tag, int *p_tag)
{
    *p_tag = tag;
    if (Py_REFCNT(obj) == 1) {
        return FRESH;
    }
    ph_writer *writer = w->writer;
    if (2 * (writer->slots_used + 1) > writer->slots_mask
        && grow_write_slots(writer) < 0) {
        return FAILED;
    }
    ph_write_slot *slot = find_write_slot(writer, obj);
    if (slot->epoch == writer->epoch) {
        return write_reference(writer, slot);
    }
    *slot = (ph_write_slot){.source = obj, .epoch = writer->epoch,
                            .index = w->remembered++};
    writer->slots_used++;
    assert(2 * writer->slots_used <= writer->slots_mask + 1);
    *p_tag |= PH_REMEMBER;
    return w->remembered == UINT32_MAX ? PH_NOT_OURS : FRESH;
}

/* --- Atoms -------------------------------------------------------------------- */

static int
write_large_int(writing *w, PyObject *obj)
{
    size_t size = ph_int_room(obj);
    char *p = reserve_bytes(w->writer, 1 + PH_VARINT_MOST + size);
    if (p == NULL) {
        return FAILED;
    }
    *p++ = PH_TAG_LARGE_INT;
    p = put_varint(p, size);
    set_used(w->writer, p + size);
    return ph_int_bytes(obj, p, size);
}

static int
write_int(writing *w, PyObject *obj)
{
    long long value;
    if (PyUnstable_Long_IsCompact((PyLongObject *)obj)) {
        value = PyUnstable_Long_CompactValue((PyLongObject *)obj);
    }
    else {
        int overflow;
        value = PyLong_AsLongLongAndOverflow(obj, &overflow);
        if (overflow) {
            return write_large_int(w, obj);
        }
    }
    uint64_t zigzag = ((uint64_t)value << 1) ^ (uint64_t)(value >> 63);
    return write_counted(w->writer, PH_TAG_INT, zigzag, NULL, 0);
}

static int
write_plain(writing *w, int tag, const void *bytes, size_t size)
{
    assert(ph_is_tag(tag));
    char *p = reserve_bytes(w->writer, 1 + size);
    if (p == NULL) {
        return FAILED;
    }
    *p = (char)tag;
    memcpy(p + 1, bytes, size);
    w->writer->used += 1 + size;
    return PH_WRITTEN;
}

static int
write_float(writing *w, PyObject *obj)
{
    double value = PyFloat_AS_DOUBLE(obj);
    return write_plain(w, PH_TAG_FLOAT, &value, sizeof(value));
}

static int
write_complex(writing *w, PyObject *obj)
{
    Py_complex value = PyComplex_AsCComplex(obj);
    return write_plain(w, PH_TAG_COMPLEX, &value, sizeof(value));
}

static int
write_str(writing *w, PyObject *obj)
{
    int kind = PyUnicode_KIND(obj), result = FRESH;
    int tag = kind == 1 ? PH_TAG_STR_1 : kind == 2 ? PH_TAG_STR_2 : PH_TAG_STR_4;
    Py_ssize_t n = PyUnicode_GET_LENGTH(obj);
    if (n > 1 || kind > 1) {        /* shorter ones are static */
        result = refer_or_remember(w, obj, tag, &tag);
    }
    return result != FRESH ? result
           : write_counted(w->writer, tag, (uint64_t)n, PyUnicode_DATA(obj),
                           (size_t)n * (size_t)kind);
}

static int
write_buffer(writing *w, PyObject *obj, int tag, const char *bytes, Py_ssize_t n)
{
    int result = refer_or_remember(w, obj, tag, &tag);
    return result != FRESH ? result
           : write_counted(w->writer, tag, (uint64_t)n, bytes, (size_t)n);
}

static int
write_permanent(writing *w, PyObject *obj)
{
    int tag, result = refer_or_remember(w, obj, PH_TAG_PERMANENT, &tag);
    if (result != FRESH) {
        return result;
    }
    ph_handle handle;
    if (ph_handle_make(obj, &handle) != PH_OK) {
        return ph_raise(&w->wire->interp->exceptions);
    }
    return write_plain(w, tag, &handle.block,
                       sizeof(handle) - offsetof(ph_handle, block));
}

/* --- datetime ----------------------------------------------------------------- */

static int
write_fields(writing *w, int tag, const int *fields, int n)
{
    return write_plain(w, tag, fields, (size_t)n * sizeof(*fields));
}

static int
write_timezone(writing *w, PyObject *obj, int tag)
{
    PyObject *parts[2];
    int fields[3];
    ph_timezone_parts(obj, parts);
    ph_delta_fields(parts[0], fields);
    int result = write_fields(w, tag, fields, 3);
    return result != PH_WRITTEN ? result
           : write_value(w, parts[1] ? parts[1] : Py_None);
}

static int
write_clock(writing *w, PyObject *obj, int tag)
{
    int fields[8], n = 0;
    if ((tag & ~PH_REMEMBER) == PH_TAG_DATETIME) {
        ph_date_fields(obj, fields);
        n = 3;
    }
    ph_time_fields(obj, fields + n);
    PyObject *zone = ph_tzinfo_of(obj);
    if (zone == NULL || zone == Py_None) {
        return write_fields(w, tag, fields, n + 5);
    }
    if (Py_TYPE(zone) != ph_datetime.timezone) {
        return PH_NOT_OURS;
    }
    int result = write_fields(w, tag + 1, fields, n + 5);   /* PH_TAG_AWARE_... */
    return result != PH_WRITTEN ? result : write_value(w, zone);
}

static int
tag_of_datetime(PyTypeObject *type)
{
    return type == ph_datetime.datetime ? PH_TAG_DATETIME
           : type == ph_datetime.date ? PH_TAG_DATE
           : type == ph_datetime.time ? PH_TAG_TIME
           : type == ph_datetime.delta ? PH_TAG_DELTA
           : type == ph_datetime.timezone ? PH_TAG_TIMEZONE : -1;
}

static int
write_datetime(writing *w, PyObject *obj, int plain)
{
    int fields[3], tag, result = refer_or_remember(w, obj, plain, &tag);
    if (result != FRESH) {
        return result;
    }
    switch (plain) {
    case PH_TAG_DATE:
        ph_date_fields(obj, fields);
        return write_fields(w, tag, fields, 3);
    case PH_TAG_DELTA:
        ph_delta_fields(obj, fields);
        return write_fields(w, tag, fields, 3);
    case PH_TAG_TIMEZONE:
        return write_timezone(w, obj, tag);
    default:
        return write_clock(w, obj, tag);
    }
}

/* --- Containers --------------------------------------------------------------- */

static int
push_write_frame(ph_writer *writer, PyObject *obj, int tag, PyObject *keys)
{
    assert((keys != NULL) == ((tag & ~PH_REMEMBER) == PH_TAG_ORDERED_DICT));
    if (ph_grow(&writer->frames, writer->frames_used, &writer->frames_size,
                sizeof(ph_write_frame)) < 0) {
        Py_XDECREF(keys);
        PyErr_NoMemory();
        return FAILED;
    }
    uint8_t plain = (uint8_t)(tag & ~PH_REMEMBER);
    uint32_t number = (uint32_t)writer->frames_used + 1;
    uint32_t last = writer->frames_used ? innermost_frame(writer)->last_mutable : 0;
    writer->frames[writer->frames_used++] = (ph_write_frame){
        .source = obj, .keys = keys, .tag = plain,
        .remembered = (tag & PH_REMEMBER) != 0,
        .last_mutable = ph_tag_is_mutable(plain) ? number : last,
        .hashing = plain == PH_TAG_SET || plain == PH_TAG_FROZENSET,
    };
    if (tag & PH_REMEMBER) {
        ph_write_slot *slot = find_write_slot(writer, obj);
        assert(slot->epoch == writer->epoch && slot->open == 0);
        slot->open = number;
    }
    return PH_WRITTEN;
}

static int
open_counted(writing *w, PyObject *obj, int tag, Py_ssize_t n)
{
    int result = refer_or_remember(w, obj, tag, &tag);
    if (result != FRESH) {
        return result;
    }
    result = write_counted(w->writer, tag, (uint64_t)n, NULL, 0);
    return result != PH_WRITTEN || (n == 0 && !(tag & PH_REMEMBER)) ? result
           : push_write_frame(w->writer, obj, tag, NULL);
}

/* Open a container with a fixed number of items. */
static int
open_fixed(writing *w, PyObject *obj, int tag)
{
    int result = refer_or_remember(w, obj, tag, &tag);
    if (result != FRESH) {
        return result;
    }
    result = write_tag(w->writer, tag);
    return result != PH_WRITTEN ? result : push_write_frame(w->writer, obj, tag, NULL);
}

static bool
has_shape(const ph_writer *writer, const ph_write_shape *shape,
          const ph_entry *entries, Py_ssize_t n)
{
    if (shape->epoch != writer->epoch || shape->n != n) {
        return false;
    }
    Py_ssize_t i = 0;
    while (i < n && shape->keys[i] == entries[i].key) {
        i++;
    }
    return i == n;
}

static void
note_shape(const ph_writer *writer, ph_write_shape *shape, const ph_entry *entries,
           Py_ssize_t n)
{
    shape->epoch = writer->epoch;
    shape->number = UNDEFINED;
    shape->n = n;
    for (Py_ssize_t i = 0; i < n; i++) {
        shape->keys[i] = entries[i].key;
    }
}

/* Find the shape of a dict with these 1 to PH_SHAPE_MOST items.  If it was not met before,
   note it; *p_shape is NULL then.  FAILED with MemoryError. */
static int
find_shape(ph_writer *writer, const ph_entry *entries, Py_ssize_t n,
           ph_write_shape **p_shape)
{
    assert(n >= 1 && n <= PH_SHAPE_MOST);
    *p_shape = NULL;
    if (writer->shapes == NULL) {
        writer->shapes = ph_calloc(SHAPES_CACHED, sizeof(ph_write_shape));
        if (writer->shapes == NULL) {
            PyErr_NoMemory();
            return FAILED;
        }
    }
    uintptr_t first = (uintptr_t)entries[0].key;
    size_t hash = (first >> 4) + (first >> 9) + (size_t)n;
    ph_write_shape *shape = &writer->shapes[hash % SHAPES_CACHED];
    if (has_shape(writer, shape, entries, n)) {
        *p_shape = shape;
    }
    else {
        note_shape(writer, shape, entries, n);
    }
    return PH_WRITTEN;
}

/* Write the number of keys and the keys, which follow the tag of a shape. */
static int
write_keys(writing *w, ph_write_shape *shape)
{
    ph_writer *writer = w->writer;
    char *p = reserve_bytes(writer, PH_VARINT_MOST);
    if (p == NULL) {
        return FAILED;
    }
    set_used(writer, put_varint(p, (uint64_t)shape->n));
    assert(shape->number == UNDEFINED);
    shape->number = writer->n_shapes++;
    int result = PH_WRITTEN;
    for (Py_ssize_t i = 0; i < shape->n && result == PH_WRITTEN; i++) {
        result = write_value(w, shape->keys[i]);
    }
    return result;
}

static int
begin_record(writing *w, PyObject *obj, ph_write_shape *shape, const ph_entry *entries)
{
    bool first = shape->number == UNDEFINED;
    int tag, result = refer_or_remember(w, obj, first ? PH_TAG_SHAPE : PH_TAG_RECORD, &tag);
    if (result != FRESH) {
        return result;
    }
    if (first) {
        result = write_tag(w->writer, tag);
        result = result == PH_WRITTEN ? write_keys(w, shape) : result;
    }
    else {
        assert(shape->number < w->writer->n_shapes);
        result = write_counted(w->writer, tag, shape->number, NULL, 0);
    }
    tag = PH_TAG_RECORD | (tag & PH_REMEMBER);
    if (result == PH_WRITTEN) {
        result = push_write_frame(w->writer, obj, tag, NULL);
    }
    if (result == PH_WRITTEN) {
        innermost_frame(w->writer)->entries = entries;
    }
    return result;
}

static int
open_dict(writing *w, PyObject *obj)
{
    Py_ssize_t n = PyDict_GET_SIZE(obj);
    const ph_entry *entries = ph_dict_entries(obj);
    if (n > 0 && n <= PH_SHAPE_MOST && entries != NULL) {
        ph_write_shape *shape;
        if (find_shape(w->writer, entries, n, &shape) < 0) {
            return FAILED;
        }
        if (shape != NULL) {
            return begin_record(w, obj, shape, entries);
        }
    }
    return open_counted(w, obj, PH_TAG_DICT, n);
}

static int
write_range(writing *w, PyObject *obj)
{
    PyObject *parts[4];
    int tag, result = refer_or_remember(w, obj, PH_TAG_RANGE, &tag);
    if (result != FRESH) {
        return result;
    }
    ph_range_parts(obj, parts);
    result = write_tag(w->writer, tag);
    for (int i = 0; i < 3 && result == PH_WRITTEN; i++) {
        result = write_int(w, parts[i]);
    }
    return result;
}

/* Does an object have attributes of its own, which the format cannot carry? */
static bool
has_attributes(PyObject *obj)
{
    PyObject **p_dict = _PyObject_GetDictPtr(obj);
    return p_dict != NULL && *p_dict != NULL && PyDict_GET_SIZE(*p_dict) > 0;
}

static int
open_counter(writing *w, PyObject *obj)
{
    return has_attributes(obj) ? PH_NOT_OURS
           : open_counted(w, obj, PH_TAG_COUNTER, PyDict_GET_SIZE(obj));
}

/* Does hashing a key run no Python code?  Only its iterator knows the order of an
   OrderedDict, and that hashes the keys. */
static bool
is_simple_key(PyObject *key)
{
    PyTypeObject *type = Py_TYPE(key);
    return type == &PyUnicode_Type || type == &PyLong_Type || type == &PyBytes_Type
           || type == &PyFloat_Type || type == &PyBool_Type || key == Py_None;
}

static int
list_of_keys(PyObject *obj, PyObject **p_keys)
{
    PyObject *key, *value;
    Py_ssize_t pos = 0;
    while (PyDict_Next(obj, &pos, &key, &value)) {
        if (!is_simple_key(key)) {
            return PH_NOT_OURS;
        }
    }
    *p_keys = PySequence_List(obj);
    return *p_keys == NULL ? FAILED : PH_WRITTEN;
}

static int
open_ordered_dict(writing *w, PyObject *obj)
{
    if (has_attributes(obj)) {
        return PH_NOT_OURS;
    }
    int tag, result = refer_or_remember(w, obj, PH_TAG_ORDERED_DICT, &tag);
    if (result != FRESH) {
        return result;
    }
    PyObject *keys = NULL;
    result = list_of_keys(obj, &keys);
    if (result != PH_WRITTEN) {
        return result;
    }
    result = write_counted(w->writer, tag, (uint64_t)PyList_GET_SIZE(keys), NULL, 0);
    if (result != PH_WRITTEN) {
        Py_DECREF(keys);
        return result;
    }
    return push_write_frame(w->writer, obj, tag, keys);
}

PyObject *
ph_message_factory(uint8_t number)
{
    PyObject *factories[] = {
        Py_None, (PyObject *)&PyLong_Type, (PyObject *)&PyFloat_Type,
        (PyObject *)&PyComplex_Type, (PyObject *)&PyBool_Type,
        (PyObject *)&PyUnicode_Type, (PyObject *)&PyBytes_Type,
        (PyObject *)&PyByteArray_Type, (PyObject *)&PyTuple_Type,
        (PyObject *)&PyList_Type, (PyObject *)&PyDict_Type, (PyObject *)&PySet_Type,
        (PyObject *)&PyFrozenSet_Type, (PyObject *)&PyBaseObject_Type,
    };
    return number < Py_ARRAY_LENGTH(factories) ? factories[number] : NULL;
}

static int
number_of_factory(PyObject *obj, uint8_t *p_number)
{
    PyObject *factory = PyObject_GetAttrString(obj, "default_factory"), *known;
    if (factory == NULL) {
        return FAILED;
    }
    *p_number = 0;
    while ((known = ph_message_factory(*p_number)) != NULL && known != factory) {
        ++*p_number;
    }
    Py_DECREF(factory);             /* the defaultdict has it as well */
    return known == NULL ? PH_NOT_OURS : PH_WRITTEN;
}

static int
open_defaultdict(writing *w, PyObject *obj)
{
    uint8_t number;
    int tag, result = number_of_factory(obj, &number);
    if (result != PH_WRITTEN) {
        return result;
    }
    result = refer_or_remember(w, obj, PH_TAG_DEFAULTDICT, &tag);
    if (result != FRESH) {
        return result;
    }
    char *p = reserve_bytes(w->writer, 2 + PH_VARINT_MOST);
    if (p == NULL) {
        return FAILED;
    }
    *p++ = (char)tag;
    *p++ = (char)number;
    set_used(w->writer, put_varint(p, (uint64_t)PyDict_GET_SIZE(obj)));
    return push_write_frame(w->writer, obj, tag, NULL);
}

/* --- Any value ---------------------------------------------------------------- */

/* Return the number of an object's type in the table; wire->n if it has none. */
static uint32_t
number_of_wire_type(const ph_wire_state *wire, PyObject *obj)
{
    uint32_t i = 0;
    while (i < wire->n && wire->types[i].type != Py_TYPE(obj)) {
        i++;
    }
    return i;
}

void
ph_wire_add_type(ph_wire_state *wire, ph_wire_type wire_type)
{
    assert(wire->n < PH_WIRE_TYPES);
    assert(wire_type.type != NULL && wire_type.write != NULL && wire_type.read != NULL);
    wire->types[wire->n++] = wire_type;
}

bool
ph_wire_type_named(const ph_wire_state *wire, PyObject *obj)
{
    return ph_heap_contains(obj) || number_of_wire_type(wire, obj) < wire->n;
}

static int
write_wire_type(writing *w, PyObject *obj)
{
    const ph_wire_state *wire = w->wire;
    uint32_t i = number_of_wire_type(wire, obj);
    if (i == wire->n) {
        w->writer->refused = Py_TYPE(obj);
        return PH_NOT_OURS;
    }
    int tag, result = refer_or_remember(w, obj, PH_TAG_WIRE_TYPE, &tag);
    if (result != FRESH) {
        return result;
    }
    bool unwraps = wire->types[i].unwraps;
    if (unwraps && (tag & PH_REMEMBER)) {
        find_write_slot(w->writer, obj)->unwraps = true;
    }
    result = note_item(w->writer, 0, unwraps);
    if (result == PH_WRITTEN) {
        result = write_counted(w->writer, tag, i, NULL, 0);
    }
    return result != PH_WRITTEN ? result : wire->types[i].write(w->writer, obj);
}

static int
write_singleton(writing *w, PyObject *obj)
{
    return obj == Py_None ? write_tag(w->writer, PH_TAG_NONE)
           : obj == Py_True ? write_tag(w->writer, PH_TAG_TRUE)
           : obj == Py_False ? write_tag(w->writer, PH_TAG_FALSE)
           : obj == Py_Ellipsis ? write_tag(w->writer, PH_TAG_ELLIPSIS)
           : PH_NOT_OURS;
}

static int
write_rare(writing *w, PyObject *obj)
{
    PyTypeObject *type = Py_TYPE(obj);
    ph_interpreter *interp = w->wire->interp;
    int tag = tag_of_datetime(type);
    if (tag >= 0) {
        return write_datetime(w, obj, tag);
    }
    if (type == &PyByteArray_Type) {
        return write_buffer(w, obj, PH_TAG_BYTEARRAY, PyByteArray_AS_STRING(obj),
                            PyByteArray_GET_SIZE(obj));
    }
    if (type == &PyComplex_Type) {
        return write_complex(w, obj);
    }
    if (type == &PyRange_Type) {
        return write_range(w, obj);
    }
    if (type == &PySlice_Type) {
        return open_fixed(w, obj, PH_TAG_SLICE);
    }
    if (type == &PyDictProxy_Type && PyDict_CheckExact(ph_proxy_target(obj))) {
        return open_fixed(w, obj, PH_TAG_PROXY);
    }
    if (ph_is_frozendict(obj)) {
        return open_counted(w, obj, PH_TAG_FROZENDICT, PyDict_GET_SIZE(obj));
    }
    if (type == interp->ordered_dict) {
        return open_ordered_dict(w, obj);
    }
    if (type == interp->defaultdict) {
        return open_defaultdict(w, obj);
    }
    int counter = ph_is_counter(interp, type);
    if (counter != 0) {
        return counter < 0 ? FAILED : open_counter(w, obj);
    }
    return write_wire_type(w, obj);
}

/* Write an atom, or open a container. */
static int
write_value(writing *w, PyObject *obj)
{
    PyTypeObject *type = Py_TYPE(obj);
    if (ph_heap_contains(obj)) {
        return write_permanent(w, obj);
    }
    if (type == &PyUnicode_Type) {
        return write_str(w, obj);
    }
    if (type == &PyLong_Type) {
        return write_int(w, obj);
    }
    if (type == &PyFloat_Type) {
        return write_float(w, obj);
    }
    if (type == &PyDict_Type) {
        return open_dict(w, obj);
    }
    if (type == &PyList_Type) {
        return open_counted(w, obj, PH_TAG_LIST, PyList_GET_SIZE(obj));
    }
    if (type == &PyTuple_Type) {
        return open_counted(w, obj, PH_TAG_TUPLE, PyTuple_GET_SIZE(obj));
    }
    if (type == &PyBytes_Type) {
        return write_buffer(w, obj, PH_TAG_BYTES, PyBytes_AS_STRING(obj),
                            PyBytes_GET_SIZE(obj));
    }
    if (type == &PySet_Type) {
        return open_counted(w, obj, PH_TAG_SET, PySet_GET_SIZE(obj));
    }
    if (type == &PyFrozenSet_Type) {
        return open_counted(w, obj, PH_TAG_FROZENSET, PySet_GET_SIZE(obj));
    }
    int result = write_singleton(w, obj);
    return result == PH_NOT_OURS ? write_rare(w, obj) : result;
}

/* --- The walk ----------------------------------------------------------------- */

static PyObject *
next_part(PyObject *const *items, Py_ssize_t n, Py_ssize_t *p_pos)
{
    return *p_pos < n ? items[(*p_pos)++] : NULL;
}

/* Return the next key or value of a mapping, borrowed; NULL at the end. */
static PyObject *
next_in_mapping(ph_write_frame *frame)
{
    PyObject *key, *value = frame->value;
    frame->hashing = value == NULL;
    if (value != NULL) {
        frame->value = NULL;
        return value;
    }
    if (frame->keys == NULL) {
        return PyDict_Next(frame->source, &frame->pos, &key, &frame->value) ? key : NULL;
    }
    if (frame->pos == PyList_GET_SIZE(frame->keys)) {
        return NULL;
    }
    key = PyList_GET_ITEM(frame->keys, frame->pos++);
    frame->value = PyDict_GetItemWithError(frame->source, key);
    return frame->value ? key : NULL;
}

/* Return the next item of an open container, borrowed; NULL at the end. */
static PyObject *
next_to_write(ph_write_frame *frame)
{
    PyObject *source = frame->source, *item, *parts[3];
    assert((frame->entries != NULL) == (frame->tag == PH_TAG_RECORD));
    switch (frame->tag) {
    case PH_TAG_LIST:
        return frame->pos < PyList_GET_SIZE(source)
               ? PyList_GET_ITEM(source, frame->pos++) : NULL;
    case PH_TAG_TUPLE:
        return frame->pos < PyTuple_GET_SIZE(source)
               ? PyTuple_GET_ITEM(source, frame->pos++) : NULL;
    case PH_TAG_RECORD:
        return frame->pos < PyDict_GET_SIZE(source)
               ? frame->entries[frame->pos++].value : NULL;
    case PH_TAG_SET:
    case PH_TAG_FROZENSET:
        return ph_set_next(source, &frame->pos, &item) ? item : NULL;
    case PH_TAG_SLICE:
        ph_slice_parts(source, parts);
        return next_part(parts, 3, &frame->pos);
    case PH_TAG_PROXY:
        item = ph_proxy_target(source);
        return next_part(&item, 1, &frame->pos);
    default:
        return next_in_mapping(frame);
    }
}

/* Close the innermost container: all of its items are written. */
static int
close_write_frame(ph_writer *writer)
{
    ph_write_frame frame = *innermost_frame(writer);
    assert(frame.value == NULL);    /* else a key without its value */
    uint8_t depth = ph_depth_over(frame.tag, frame.depth);
    bool unwraps = frame.unwraps && ph_tag_hashes_items(frame.tag);
    writer->frames_used--;
    if (frame.keys != NULL) {
        Py_DECREF(frame.keys);
        if (PyErr_Occurred()) {     /* a key is no longer there */
            return FAILED;
        }
    }
    if (frame.remembered) {
        ph_write_slot *slot = find_write_slot(writer, frame.source);
        assert(slot->open == writer->frames_used + 1);
        slot->open = 0;
        slot->depth = depth;
        slot->unwraps = unwraps;
    }
    if (ph_tag_is_recursive(frame.tag) && depth > PH_FREED_DEPTH_MOST) {
        return PH_NOT_OURS;
    }
    return note_item(writer, depth, unwraps);
}

static int
write_graph(writing *w, PyObject *root)
{
    ph_writer *writer = w->writer;
    int result = write_value(w, root);
    while (result == PH_WRITTEN && writer->frames_used > 0) {
        PyObject *item = next_to_write(innermost_frame(writer));
        result = item != NULL ? write_value(w, item) : close_write_frame(writer);
    }
    return result;
}

/* --- Writers ------------------------------------------------------------------ */

static void
drop_frames(ph_writer *writer)
{
    while (writer->frames_used > 0) {
        Py_XDECREF(writer->frames[--writer->frames_used].keys);
    }
}

static void
free_write_memo(ph_writer *writer)
{
    ph_free(writer->slots);
    ph_free(writer->shapes);
    writer->slots = NULL;
    writer->shapes = NULL;
    writer->slots_mask = 0;
    writer->epoch = 0;
}

void
ph_writer_reset(ph_writer *writer)
{
    drop_frames(writer);
    writer->used = 0;
    writer->n_spans = 0;
    Py_CLEAR(writer->moved);
    if (writer->slots_mask >= SLOTS_KEPT) {
        free_write_memo(writer);
    }
    if (writer->frames_size > FRAMES_KEPT) {
        ph_free(writer->frames);
        writer->frames = NULL;
        writer->frames_size = 0;
    }
}

/* Begin with an empty memo: at no cost, except once in 2**32 messages. */
static void
begin_write_memo(ph_writer *writer)
{
    if (writer->epoch == UINT32_MAX) {
        free_write_memo(writer);
    }
    writer->slots_used = 0;
    writer->n_shapes = 0;
    writer->epoch++;                /* that of an unused slot is 0 */
    assert(writer->epoch != 0);
}

int
ph_message_write(const ph_wire_state *wire, PyObject *obj, ph_writer *writer)
{
    writing w = {.wire = wire, .writer = writer};
    ph_writer_reset(writer);
    writer->refused = NULL;
    begin_write_memo(writer);
    int result = write_graph(&w, obj);
    if (result != PH_WRITTEN) {
        ph_writer_reset(writer);
        assert(writer->used == 0 && writer->n_spans == 0 && writer->moved == NULL);
    }
    assert(writer->frames_used == 0);
    assert((result == FAILED) == (PyErr_Occurred() != NULL));
    return result;
}

void
ph_writer_clear(ph_writer *writer)
{
    ph_writer_reset(writer);
    ph_free(writer->bytes);
    ph_free(writer->spans);
    free_write_memo(writer);
    ph_free(writer->frames);
    memset(writer, 0, sizeof(*writer));
}
