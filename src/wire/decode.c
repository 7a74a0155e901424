/* decode.c -- a value on its way in.  Nothing in the bytes is trusted.

   The walk is depth first, over a stack of frames: one for each container that is
   open.  A container of plain items (numbers, text and the like), as most are, is
   read in one go and never gets a frame.

   No Python code runs meanwhile, so that nobody sees a container before it is whole.
   (Hashing and comparing keys runs the code of built-in types only.)

   Invariants:

   1. When a container is opened, the items that it and all open ones still wait for
      are no more than the bytes left, since each takes a byte at least.  So no count
      makes us allocate more than a few words for each byte of the message.
   2. The memo owns what it has.  An entry is NULL until its object is made; that of
      a list, dict, set or tuple is there while it is open.
   3. A tuple that is open is referred to only from inside of a list, dict or set
      inside of it, and nothing that leads to it is hashed. */

#include "wire/format.h"

#include <string.h>

#include "core/base/array.h"
#include "layout/datetime.h"
#include "layout/frozen.h"
#include "layout/sizes.h"
#include "layout/statics.h"
#include "layout/values.h"
#include "share/handle.h"

#define LARGE 65536                 /* bytes from which on the collector waits */
#define FRAMES_AT_HAND 16           /* so many take no memory */
#define MEMO_AT_HAND 32

/* What the functions below return. */
enum { FAILED = -1, MADE = 0, OPENED = 1 };

#define NOT_REMEMBERED UINT32_MAX

/* An open container. */
typedef struct {
    PyObject *made;                 /* owned: itself; or what it will be made of, a
                                       tuple for a slice and a proxy, a dict for a
                                       frozendict */
    PyObject *key;                  /* owned: waits for its value; or NULL */
    PyObject **slot;                /* of the next item; NULL: they are hashed */
    size_t next, n;                 /* items; a key and a value are two */
    uint32_t index;                 /* in the memo, or NOT_REMEMBERED */
    uint32_t last_mutable;          /* number of the last frame up to this one that
                                       may hold itself */
    uint8_t tag;
    uint8_t stride;                 /* from slot to slot */
    uint8_t depth;                  /* of the items so far: ph_depth_over() */
} read_frame;

typedef struct {
    PyObject *obj;                  /* owned, or NULL */
    uint32_t open;                  /* number of its frame from 1 on; 0: it is whole */
    uint8_t depth;
} read_memo;

typedef struct {
    const ph_travels *travels;
    ph_reader *reader;              /* is where we are only for travellers */
    const char *at, *end;
    size_t next_block;              /* of ballast: due when less than this is left */
    uint64_t owed;                  /* items that open containers wait for */
    read_frame *frames;
    size_t frames_used, frames_size;
    read_memo *memo;
    size_t memo_used, memo_size;
    PyObject **shapes;              /* owned: dicts of keys with None */
    size_t shapes_used, shapes_size;
    uint8_t depth;                  /* of the object made last */
    bool blameless;                 /* the error is of a traveller */
    read_frame frames_at_hand[FRAMES_AT_HAND];
    read_memo memo_at_hand[MEMO_AT_HAND];
} reading;

/* --- Errors ------------------------------------------------------------------------- */

int
ph_message_damaged(const ph_travels *travels, const char *what)
{
    PyErr_Format(travels->exceptions->message_error,
                 "permaheap: this message is damaged: %s", what);
    return -1;
}

static int
damaged(const reading *r, const char *what)
{
    return ph_message_damaged(r->travels, what);
}

/* What a constructor has complained about was wrong in the message; other errors are
   as they are. */
static void
blame_message(const reading *r)
{
    if (r->blameless || PyErr_ExceptionMatches(r->travels->exceptions->handle_error)
        || PyErr_ExceptionMatches(r->travels->exceptions->message_error)
        || !(PyErr_ExceptionMatches(PyExc_TypeError)
             || PyErr_ExceptionMatches(PyExc_ValueError)
             || PyErr_ExceptionMatches(PyExc_OverflowError)
             || PyErr_ExceptionMatches(PyExc_RecursionError))) {
        return;
    }
    PyObject *cause = PyErr_GetRaisedException();
    PyErr_Format(r->travels->exceptions->message_error,
                 "permaheap: this message is damaged: %S", cause);
    Py_DECREF(cause);
}

/* --- Bytes --------------------------------------------------------------------------- */

static inline size_t
left(const reading *r)
{
    return (size_t)(r->end - r->at);
}

static Py_NO_INLINE int
read_long_varint(reading *r, uint64_t *p_value)
{
    uint64_t value = 0;
    for (int shift = 0; shift < 64 && r->at < r->end; shift += 7) {
        uint64_t byte = (unsigned char)*r->at++;
        value |= (byte & 0x7f) << shift;
        if (byte < 0x80) {
            *p_value = value;
            return 0;
        }
    }
    return damaged(r, "a number does not end");
}

static inline int
read_varint(reading *r, uint64_t *p_value)
{
    if (r->at < r->end && (unsigned char)*r->at < 0x80) {
        *p_value = (unsigned char)*r->at++;
        return 0;
    }
    return read_long_varint(r, p_value);
}

/* `size` bytes of it, or NULL. */
static inline const char *
take(reading *r, size_t size)
{
    if (size > left(r)) {
        damaged(r, "it ends too early");
        return NULL;
    }
    const char *bytes = r->at;
    r->at += size;
    return bytes;
}

int
ph_read_bytes(ph_reader *reader, const void **p_bytes, size_t size)
{
    if (size > (size_t)(reader->end - reader->at)) {
        return ph_message_damaged(reader->travels, "it ends too early");
    }
    *p_bytes = reader->at;
    reader->at += size;
    return 0;
}

int
ph_read_word(ph_reader *reader, uint64_t *word)
{
    const void *bytes;
    if (ph_read_bytes(reader, &bytes, sizeof(*word)) < 0) {
        return -1;
    }
    memcpy(word, bytes, sizeof(*word));
    return 0;
}

int
ph_read_span(ph_reader *reader, ph_span_id *id)
{
    if (reader->next_span == reader->n_spans) {
        return ph_message_damaged(reader->travels, "it lacks a span");
    }
    *id = reader->spans[reader->next_span++];
    return 0;
}

/* The length of what follows, of so many bytes for each; it is there. */
static inline const char *
take_counted(reading *r, size_t each, size_t *p_n)
{
    uint64_t n;
    if (read_varint(r, &n) < 0) {
        return NULL;
    }
    if (n > left(r) / each) {
        damaged(r, "it ends too early");
        return NULL;
    }
    *p_n = (size_t)n;
    return take(r, (size_t)n * each);
}

/* --- Memo ---------------------------------------------------------------------------- */

/* Make room for one more item in an array that begins at hand. */
static int
grow(void *p_items, const void *at_hand, size_t used, size_t *p_size, size_t item)
{
    void *items = *(void **)p_items;
    void *grown = items == at_hand ? ph_malloc(2 * *p_size * item)
                                   : ph_realloc(items, 2 * *p_size * item);
    if (grown == NULL) {
        PyErr_NoMemory();
        return FAILED;
    }
    if (items == at_hand) {
        memcpy(grown, items, used * item);
    }
    *(void **)p_items = grown;
    *p_size *= 2;
    return 0;
}

/* The next number of a remembered object. */
static int
remember(reading *r, uint32_t *p_index)
{
    if (r->memo_used == r->memo_size
        && grow(&r->memo, r->memo_at_hand, r->memo_used, &r->memo_size,
                sizeof(read_memo)) < 0) {
        return FAILED;
    }
    if (r->memo_used == NOT_REMEMBERED) {
        return damaged(r, "it has too many objects");
    }
    *p_index = (uint32_t)r->memo_used;
    r->memo[r->memo_used++] = (read_memo){.obj = NULL};
    return 0;
}

static int
read_reference(reading *r, PyObject **p_obj)
{
    uint64_t index;
    if (read_varint(r, &index) < 0) {
        return FAILED;
    }
    if (index >= r->memo_used || r->memo[index].obj == NULL) {
        return damaged(r, "it refers to what is not there");
    }
    const read_memo *entry = &r->memo[index];
    r->depth = entry->depth;
    if (entry->open && !ph_tag_is_mutable(r->frames[entry->open - 1].tag)) {
        if (r->frames[r->frames_used - 1].last_mutable < entry->open) {
            return damaged(r, "a tuple holds itself");
        }
        r->depth = PH_NEVER_HASHED;
    }
    *p_obj = Py_NewRef(entry->obj);
    return MADE;
}

/* --- Atoms ------------------------------------------------------------------------------- */

static PyObject *
read_int(reading *r)
{
    uint64_t zigzag;
    if (read_varint(r, &zigzag) < 0) {
        return NULL;
    }
    return PyLong_FromLongLong((long long)(zigzag >> 1) ^ -(long long)(zigzag & 1));
}

static PyObject *
read_large_int(reading *r)
{
    size_t n;
    const char *bytes = take_counted(r, 1, &n);
    return bytes ? ph_int_from_bytes(bytes, n) : NULL;
}

static PyObject *
read_float(reading *r)
{
    double value;
    const char *bytes = take(r, sizeof(value));
    if (bytes == NULL) {
        return NULL;
    }
    memcpy(&value, bytes, sizeof(value));
    return PyFloat_FromDouble(value);
}

static PyObject *
read_complex(reading *r)
{
    Py_complex value;
    const char *bytes = take(r, sizeof(value));
    if (bytes == NULL) {
        return NULL;
    }
    memcpy(&value, bytes, sizeof(value));
    return PyComplex_FromCComplex(value);
}

static PyObject *
read_str_1(reading *r)
{
    size_t n;
    const char *bytes = take_counted(r, 1, &n);
    return bytes ? ph_str_new(bytes, n) : NULL;
}

#define KEY_MOST 32u                /* bytes of a key that is kept */

/* Where a key of 1 to KEY_MOST bytes is kept. */
static size_t
place_of_key(const char *bytes, size_t n)
{
    uint64_t first = 0, last = 0;
    if (n < 8) {
        for (size_t i = 0; i < n; i++) {
            first = first << 8 | (unsigned char)bytes[i];
        }
    }
    else {
        memcpy(&first, bytes, 8);
        memcpy(&last, bytes + n - 8, 8);
    }
    uint64_t hash = (first ^ (last << 1 | last >> 63) ^ n) * 0x9e3779b97f4a7c15ull;
    return (hash >> 32) % PH_KEYS_KEPT;
}

/* A str of 1-byte characters that is a key: the one of an earlier message, if it is
   kept. */
static PyObject *
read_key(reading *r)
{
    size_t n;
    const char *bytes = take_counted(r, 1, &n);
    if (bytes == NULL) {
        return NULL;
    }
    PyObject **kept = n < 2 || n > KEY_MOST ? NULL
                      : &r->travels->keys[place_of_key(bytes, n)];
    if (kept != NULL && *kept != NULL && (size_t)PyUnicode_GET_LENGTH(*kept) == n
        && memcmp(PyUnicode_1BYTE_DATA(*kept), bytes, n) == 0) {
        return Py_NewRef(*kept);
    }
    PyObject *key = ph_str_new(bytes, n);
    if (key != NULL && kept != NULL) {
        Py_XSETREF(*kept, Py_NewRef(key));
    }
    return key;
}

/* Characters of 2 or 4 bytes, copied to where they are aligned. */
static PyObject *
read_wide_str(reading *r, int kind)
{
    size_t n;
    const char *bytes = take_counted(r, (size_t)kind, &n);
    void *aligned = bytes ? ph_malloc(n * (size_t)kind + 1) : NULL;
    if (aligned == NULL) {
        return bytes ? PyErr_NoMemory() : NULL;
    }
    memcpy(aligned, bytes, n * (size_t)kind);
    bool valid = true;
    for (size_t i = 0; kind == 4 && i < n; i++) {
        valid &= ((const Py_UCS4 *)aligned)[i] <= 0x10ffff;
    }
    PyObject *str = NULL;
    if (valid) {
        str = PyUnicode_FromKindAndData(kind, aligned, (Py_ssize_t)n);
    }
    else {
        damaged(r, "it has a character that there is not");
    }
    ph_free(aligned);
    return str;
}

static PyObject *
read_bytes(reading *r)
{
    size_t n;
    const char *bytes = take_counted(r, 1, &n);
    return bytes ? PyBytes_FromStringAndSize(bytes, (Py_ssize_t)n) : NULL;
}

static PyObject *
read_bytearray(reading *r)
{
    size_t n;
    const char *bytes = take_counted(r, 1, &n);
    return bytes ? PyByteArray_FromStringAndSize(bytes, (Py_ssize_t)n) : NULL;
}

/* A number, a str or the like, of its own: most of what there is. */
static inline bool
is_plain(uint8_t tag)
{
    return tag <= PH_TAG_BYTEARRAY;
}

static PyObject *
read_plain(reading *r, uint8_t tag)
{
    switch (tag) {
    case PH_TAG_NONE: return Py_NewRef(Py_None);
    case PH_TAG_TRUE: return Py_NewRef(Py_True);
    case PH_TAG_FALSE: return Py_NewRef(Py_False);
    case PH_TAG_ELLIPSIS: return Py_NewRef(Py_Ellipsis);
    case PH_TAG_INT: return read_int(r);
    case PH_TAG_LARGE_INT: return read_large_int(r);
    case PH_TAG_FLOAT: return read_float(r);
    case PH_TAG_COMPLEX: return read_complex(r);
    case PH_TAG_STR_1: return read_str_1(r);
    case PH_TAG_STR_2: return read_wide_str(r, 2);
    case PH_TAG_STR_4: return read_wide_str(r, 4);
    case PH_TAG_BYTES: return read_bytes(r);
    default: return read_bytearray(r);
    }
}

static int
need_datetime(const reading *r)
{
    return ph_need_datetime(r->travels->has_datetime);
}

static PyObject *
read_permanent(reading *r)
{
    ph_handle handle;
    const size_t rest = sizeof(handle) - offsetof(ph_handle, block);
    const char *bytes = take(r, rest);
    if (bytes == NULL) {
        return NULL;
    }
    if (ph_heap_ready() != PH_OK) {
        ph_raise(r->travels->exceptions);
        return NULL;
    }
    memcpy(handle.family, ph_heap.header->family, sizeof(handle.family));
    memcpy(&handle.block, bytes, rest);
    PyObject *obj;
    uint32_t flags;
    if (ph_handle_resolve(&handle, &obj, &flags) != PH_OK) {
        ph_raise(r->travels->exceptions);
        return NULL;
    }
    if ((flags & PH_BLOCK_DATETIME) && need_datetime(r) < 0) {
        return NULL;
    }
    if (obj == NULL) {
        damaged(r, "it names no object");
        return NULL;
    }
    return Py_NewRef(obj);
}

static PyObject *
read_traveller(reading *r)
{
    uint64_t number;
    if (read_varint(r, &number) < 0) {
        return NULL;
    }
    if (number >= r->travels->n) {
        damaged(r, "it has an object of a type that there is not");
        return NULL;
    }
    r->reader->at = r->at;
    PyObject *obj = r->travels->traveller[number].read(r->travels, r->reader);
    r->at = r->reader->at;
    r->blameless = obj == NULL;
    return obj;
}

/* --- datetime, range ------------------------------------------------------------------------ */

static PyObject *read_atom(reading *r, uint8_t tag);

/* A value that is an atom: not a container. */
static PyObject *
read_inner(reading *r)
{
    const char *tag = take(r, 1);
    if (tag == NULL) {
        return NULL;
    }
    PyObject *obj = NULL;
    uint32_t index = NOT_REMEMBERED;
    if ((uint8_t)*tag == PH_TAG_REFERENCE) {
        return read_reference(r, &obj) < 0 ? NULL : obj;
    }
    if (((uint8_t)*tag & PH_REMEMBER) && remember(r, &index) < 0) {
        return NULL;
    }
    obj = read_atom(r, (uint8_t)*tag & (uint8_t)~PH_REMEMBER);
    if (obj != NULL && index != NOT_REMEMBERED) {
        r->memo[index].obj = Py_NewRef(obj);
    }
    return obj;
}

static PyObject *
read_range(reading *r)
{
    PyObject *parts[3] = {NULL, NULL, NULL}, *range = NULL;
    int i = 0;
    while (i < 3 && (parts[i] = read_inner(r)) != NULL
           && PyLong_CheckExact(parts[i])) {
        i++;
    }
    if (i == 3) {
        range = PyObject_Vectorcall((PyObject *)&PyRange_Type, parts, 3, NULL);
    }
    else if (parts[i] != NULL) {
        damaged(r, "a range is not of ints");
    }
    for (i = 0; i < 3; i++) {
        Py_XDECREF(parts[i]);
    }
    return range;
}

static int
read_fields(reading *r, int *fields, size_t n)
{
    const char *bytes = take(r, n * sizeof(*fields));
    if (bytes == NULL) {
        return FAILED;
    }
    memcpy(fields, bytes, n * sizeof(*fields));
    return 0;
}

static PyObject *
read_zone(reading *r)
{
    PyObject *zone = read_inner(r);
    if (zone != NULL && Py_TYPE(zone) != ph_datetime.timezone) {
        Py_CLEAR(zone);
        damaged(r, "a tzinfo is no timezone");
    }
    return zone;
}

static PyObject *
read_clock(reading *r, bool with_date, bool aware)
{
    int fields[8], n_date = with_date ? 3 : 0;
    if (read_fields(r, fields, (size_t)n_date + 5) < 0) {
        return NULL;
    }
    PyObject *zone = aware ? read_zone(r) : Py_NewRef(Py_None);
    if (zone == NULL) {
        return NULL;
    }
    PyObject *obj = with_date ? ph_datetime_new(fields, fields + 3, zone)
                              : ph_time_new(fields, zone);
    Py_DECREF(zone);
    return obj;
}

static PyObject *
read_timezone(reading *r)
{
    int fields[3];
    if (read_fields(r, fields, 3) < 0) {
        return NULL;
    }
    PyObject *name = read_inner(r), *zone = NULL;
    PyObject *offset = name ? ph_delta_new(fields) : NULL;
    if (offset != NULL && name != Py_None && !PyUnicode_CheckExact(name)) {
        damaged(r, "the name of a timezone is no str");
    }
    else if (offset != NULL) {
        zone = ph_timezone_new(offset, name == Py_None ? NULL : name);
    }
    Py_XDECREF(offset);
    Py_XDECREF(name);
    return zone;
}

static PyObject *
read_datetime(reading *r, uint8_t tag)
{
    int fields[3];
    if (need_datetime(r) < 0) {
        return NULL;
    }
    switch (tag) {
    case PH_TAG_DATE:
        return read_fields(r, fields, 3) < 0 ? NULL : ph_date_new(fields);
    case PH_TAG_DELTA:
        return read_fields(r, fields, 3) < 0 ? NULL : ph_delta_new(fields);
    case PH_TAG_TIMEZONE:
        return read_timezone(r);
    default:
        return read_clock(r, tag >= PH_TAG_DATETIME,
                          tag == PH_TAG_AWARE_TIME || tag == PH_TAG_AWARE_DATETIME);
    }
}

static PyObject *
read_atom(reading *r, uint8_t tag)
{
    if (is_plain(tag)) {
        return read_plain(r, tag);
    }
    switch (tag) {
    case PH_TAG_RANGE: return read_range(r);
    case PH_TAG_DATE: case PH_TAG_TIME: case PH_TAG_AWARE_TIME: case PH_TAG_DATETIME:
    case PH_TAG_AWARE_DATETIME: case PH_TAG_DELTA: case PH_TAG_TIMEZONE:
        return read_datetime(r, tag);
    case PH_TAG_PERMANENT: return read_permanent(r);
    case PH_TAG_TRAVELLER: return read_traveller(r);
    default:
        damaged(r, "it has a value of a kind that there is not, or not there");
        return NULL;
    }
}

/* --- Ballast ------------------------------------------------------------------------

   CPython gives an arena (1 MiB) back to the system once nothing is left in it.  Who
   receives one value after the other, and drops each, may have the same memory mapped
   and cleared again and again, which takes as long as all the rest.  So a few blocks
   stay allocated among the objects of the last values, and with them their arenas: some
   6 MiB at most, since a byte of a message becomes about three.  A short message gets
   one block, at another place each time, so that sooner or later one is where a new
   arena begins. */

#define SHORTEST 2048               /* bytes of a message that gets a block */
#define FOR_A_BLOCK 32768           /* and for each so many another one */

static void
first_ballast(reading *r)
{
    size_t size = left(r);
    size_t part = size < FOR_A_BLOCK ? r->travels->ballast->turn % 8 : 0;
    r->next_block = size < SHORTEST ? 0 : size - size / 8 * part;
}

/* A block beside an object that has just been made. */
static Py_NO_INLINE void
add_ballast(reading *r, PyObject *made)
{
    ph_ballast *ballast = r->travels->ballast;
    void **block = &ballast->block[ballast->turn++ % PH_BALLAST];
    PyObject_Free(*block);
    *block = PyObject_Malloc(ph_front_size(Py_TYPE(made)) + ph_body_size(made));
    r->next_block = left(r) < FOR_A_BLOCK ? 0 : left(r) - FOR_A_BLOCK;
}

/* --- Containers --------------------------------------------------------------------------------- */

static PyObject *
new_defaultdict(reading *r, uint8_t factory)
{
    PyObject *made = ph_message_factory(factory);
    if (made == NULL) {
        damaged(r, "it has a defaultdict of an unknown kind");
        return NULL;
    }
    return PyObject_CallOneArg((PyObject *)r->travels->interp->defaultdict, made);
}

/* An empty container, or what it will be made of. */
static PyObject *
new_container(reading *r, uint8_t tag, uint8_t factory, size_t n)
{
    PyTypeObject *counter = r->travels->interp->counter;
    switch (tag) {
    case PH_TAG_LIST: return PyList_New((Py_ssize_t)n);
    case PH_TAG_TUPLE: case PH_TAG_SLICE: case PH_TAG_PROXY:
        return PyTuple_New((Py_ssize_t)n);
    case PH_TAG_SET: return PySet_New(NULL);
    case PH_TAG_FROZENSET: return PyFrozenSet_New(NULL);
    case PH_TAG_ORDERED_DICT: return PyODict_New();
    case PH_TAG_COUNTER:            /* without __init__, which is Python code */
        return counter->tp_new(counter, ph_static_empty_tuple(), NULL);
    case PH_TAG_DEFAULTDICT: return new_defaultdict(r, factory);
    default: return ph_dict_new((Py_ssize_t)n / 2);
    }
}

/* How many items it announces; invariant 1. */
static int
read_count(reading *r, uint8_t tag, size_t *p_n)
{
    uint64_t n = tag == PH_TAG_SLICE ? 3 : 1;
    if (tag != PH_TAG_SLICE && tag != PH_TAG_PROXY && read_varint(r, &n) < 0) {
        return FAILED;
    }
    uint64_t items = ph_tag_is_mapping(tag) ? 2 * n : n;
    if (n > left(r) || r->owed + items > left(r)) {
        return damaged(r, "it ends too early");
    }
    r->owed += items;
    *p_n = (size_t)items;
    return 0;
}

/* Where the items of a container go if only their order tells, and how far they are
   from each other; or NULL. */
static inline PyObject **
slots_of(PyObject *made, uint8_t tag, uint8_t *p_stride)
{
    *p_stride = 1;
    switch (tag) {
    case PH_TAG_LIST:
        return ((PyListObject *)made)->ob_item;
    case PH_TAG_TUPLE: case PH_TAG_SLICE: case PH_TAG_PROXY:
        return ((PyTupleObject *)made)->ob_item;
    case PH_TAG_RECORD:
        *p_stride = sizeof(ph_entry) / sizeof(PyObject *);
        return ph_record_values(made);
    default:
        return NULL;
    }
}

/* How long is the str with one-byte characters that comes next, if it is a short one?
   Or -1. */
static inline Py_ssize_t
short_str(const char *at, const char *end)
{
    bool is_short = end - at > 1 && (uint8_t)at[0] == PH_TAG_STR_1
                    && (uint8_t)at[1] < 0x80 && end - at - 2 >= (uint8_t)at[1];
    return is_short ? (uint8_t)at[1] : -1;
}

/* Read up to n plain items that come next into slots.  Returns how many, or -1. */
static inline Py_ssize_t
read_plain_items(reading *r, PyObject **slot, size_t stride, size_t n)
{
    size_t i = 0;
    for (; i < n && r->at < r->end && is_plain((uint8_t)*r->at); i++) {
        PyObject *obj;
        const char *at = r->at;
        Py_ssize_t length = short_str(at, r->end);
        if (length >= 0) {          /* most are, so this shortcut tells */
            r->at = at + 2 + length;
            obj = ph_str_new(at + 2, (size_t)length);
        }
        else {
            r->at++;
            obj = read_plain(r, (uint8_t)*at);
        }
        if (obj == NULL) {
            return FAILED;
        }
        *slot = obj;
        slot += stride;
    }
    r->owed -= i;
    return (Py_ssize_t)i;
}

/* An empty container of n items has been made; takes the reference. */
static int
push_frame(reading *r, PyObject *made, uint8_t tag, size_t n, uint32_t index)
{
    if (r->frames_used == r->frames_size
        && grow(&r->frames, r->frames_at_hand, r->frames_used, &r->frames_size,
                sizeof(read_frame)) < 0) {
        Py_DECREF(made);
        return FAILED;
    }
    uint32_t number = (uint32_t)r->frames_used + 1;
    uint32_t last = r->frames_used ? r->frames[r->frames_used - 1].last_mutable : 0;
    read_frame *frame = &r->frames[r->frames_used++];
    *frame = (read_frame){
        .made = made, .n = n, .index = index, .tag = tag,
        .last_mutable = ph_tag_is_mutable(tag) ? number : last,
    };
    frame->slot = slots_of(made, tag, &frame->stride);
    if (index != NOT_REMEMBERED && (ph_tag_is_mutable(tag) || tag == PH_TAG_TUPLE)) {
        r->memo[index] = (read_memo){.obj = Py_NewRef(made), .open = number};
    }
    return OPENED;
}

/* As push_frame(); but if its items are all plain, it is read as a whole. */
static int
begin(reading *r, PyObject *made, uint8_t tag, size_t n, uint32_t index,
      PyObject **p_obj)
{
    uint8_t stride;
    PyObject **slots = slots_of(made, tag, &stride);
    Py_ssize_t done = 0;
    if (slots != NULL && (done = read_plain_items(r, slots, stride, n)) < 0) {
        Py_DECREF(made);
        return FAILED;
    }
    if ((size_t)done == n && (tag == PH_TAG_LIST || tag == PH_TAG_RECORD
                              || tag == PH_TAG_TUPLE)) {
        r->depth = n > 0 && tag == PH_TAG_TUPLE;
        if (left(r) < r->next_block) {
            add_ballast(r, made);
        }
        if (index != NOT_REMEMBERED) {
            r->memo[index] = (read_memo){.obj = Py_NewRef(made), .depth = r->depth};
        }
        *p_obj = made;
        return MADE;
    }
    int result = push_frame(r, made, tag, n, index);
    if (result == OPENED && slots != NULL) {
        read_frame *frame = &r->frames[r->frames_used - 1];
        frame->next = (size_t)done;
        frame->slot += done * stride;
    }
    return result;
}

static int
open_container(reading *r, uint8_t tag, uint32_t index, PyObject **p_obj)
{
    size_t n;
    uint8_t factory = 0;
    if (tag == PH_TAG_DEFAULTDICT) {
        const char *byte = take(r, 1);
        if (byte == NULL) {
            return FAILED;
        }
        factory = (uint8_t)*byte;
    }
    if (read_count(r, tag, &n) < 0) {
        return FAILED;
    }
    PyObject *made = new_container(r, tag, factory, n);
    return made ? begin(r, made, tag, n, index, p_obj) : FAILED;
}

static int
read_keys(reading *r, PyObject *shape, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        PyObject *key = read_inner(r);
        if (key == NULL) {
            return FAILED;
        }
        int result = PyUnicode_CheckExact(key)
                     ? PyDict_SetItem(shape, key, Py_None)
                     : damaged(r, "a key of a record is no str");
        Py_DECREF(key);
        if (result < 0) {
            return FAILED;
        }
    }
    return (size_t)PyDict_GET_SIZE(shape) == n ? 0 : damaged(r, "it has a key twice");
}

/* A new shape becomes the last one. */
static int
read_shape(reading *r)
{
    uint64_t n;
    if (read_varint(r, &n) < 0) {
        return FAILED;
    }
    if (n == 0 || n > PH_SHAPE_MOST) {
        return damaged(r, "a record has too many keys");
    }
    if (ph_grow(&r->shapes, r->shapes_used, &r->shapes_size, sizeof(PyObject *)) < 0) {
        PyErr_NoMemory();
        return FAILED;
    }
    PyObject *shape = PyDict_New();     /* of str: one made for so many would not be */
    if (shape == NULL || read_keys(r, shape, (size_t)n) < 0) {
        Py_XDECREF(shape);
        return FAILED;
    }
    r->shapes[r->shapes_used++] = shape;
    return 0;
}

static int
open_record(reading *r, uint8_t tag, uint32_t index, PyObject **p_obj)
{
    uint64_t number = r->shapes_used;
    if (tag == PH_TAG_SHAPE ? read_shape(r) < 0 : read_varint(r, &number) < 0) {
        return FAILED;
    }
    if (number >= r->shapes_used) {
        return damaged(r, "a record is of no shape that there is");
    }
    PyObject *shape = r->shapes[number];
    size_t n = (size_t)PyDict_GET_SIZE(shape);
    if (r->owed + n > left(r)) {
        return damaged(r, "it ends too early");
    }
    r->owed += n;
    PyObject *made = ph_record_new(shape);
    return made ? begin(r, made, PH_TAG_RECORD, n, index, p_obj) : FAILED;
}

static inline bool
is_container(uint8_t tag)
{
    return tag >= PH_TAG_TUPLE && tag <= PH_TAG_PROXY;
}

/* Is a key what comes next? */
static inline bool
waits_for_key(const reading *r)
{
    if (r->frames_used == 0) {
        return false;
    }
    const read_frame *frame = &r->frames[r->frames_used - 1];
    return ph_tag_is_mapping(frame->tag) && frame->key == NULL;
}

/* An atom, or a container that has been opened. */
static int
read_value(reading *r, PyObject **p_obj)
{
    const char *byte = take(r, 1);
    if (byte == NULL) {
        return FAILED;
    }
    uint32_t index = NOT_REMEMBERED;
    uint8_t tag = (uint8_t)*byte;
    if (tag == PH_TAG_REFERENCE) {
        return read_reference(r, p_obj);
    }
    if (tag & PH_REMEMBER) {
        if (remember(r, &index) < 0) {
            return FAILED;
        }
        tag &= (uint8_t)~PH_REMEMBER;
    }
    if (is_container(tag)) {
        return tag == PH_TAG_SHAPE || tag == PH_TAG_RECORD
               ? open_record(r, tag, index, p_obj)
               : open_container(r, tag, index, p_obj);
    }
    *p_obj = tag == PH_TAG_STR_1 && waits_for_key(r) ? read_key(r) : read_atom(r, tag);
    if (*p_obj == NULL) {
        return FAILED;
    }
    r->depth = 0;                   /* whatever was read inside of it */
    if (index != NOT_REMEMBERED) {
        r->memo[index].obj = Py_NewRef(*p_obj);
    }
    return MADE;
}

static int
set_value(const read_frame *frame, PyObject *key, PyObject *value)
{
    return frame->tag == PH_TAG_ORDERED_DICT
           ? PyODict_SetItem(frame->made, key, value)
           : PyDict_SetItem(frame->made, key, value);
}

/* A key, which waits, or its value. */
static int
give_mapping(read_frame *frame, PyObject *obj)
{
    if (frame->key == NULL) {
        frame->key = obj;
        return 0;
    }
    int result = set_value(frame, frame->key, obj);
    Py_CLEAR(frame->key);
    Py_DECREF(obj);
    return result;
}

static inline void
put(read_frame *frame, PyObject *obj)
{
    *frame->slot = obj;
    frame->slot += frame->stride;
    frame->next++;
}

static int
give_hashed(reading *r, read_frame *frame, PyObject *obj)
{
    bool mapping = ph_tag_is_mapping(frame->tag);
    frame->next++;
    if (r->depth > PH_HASHED_DEPTH_MOST && !(mapping && frame->key != NULL)) {
        Py_DECREF(obj);
        return damaged(r, "a key is nested too deep");
    }
    if (mapping) {
        return give_mapping(frame, obj);
    }
    int result = PySet_Add(frame->made, obj);
    Py_DECREF(obj);
    return result;
}

/* Give the object made last to the open container.  Takes the reference. */
static int
give(reading *r, PyObject *obj)
{
    read_frame *frame = &r->frames[r->frames_used - 1];
    if (r->depth > frame->depth) {
        frame->depth = r->depth;
    }
    if (frame->slot == NULL) {
        return give_hashed(r, frame, obj);
    }
    put(frame, obj);
    if (frame->tag == PH_TAG_RECORD) {
        ph_record_holds(frame->made, obj);
    }
    return MADE;
}

static int
fill_plain(reading *r, read_frame *frame)
{
    Py_ssize_t n = read_plain_items(r, frame->slot, frame->stride,
                                    frame->n - frame->next);
    if (n < 0) {
        return FAILED;
    }
    frame->next += (size_t)n;
    frame->slot += n * frame->stride;
    return MADE;
}

/* Read what the open container holds.  OPENED: another one has been opened in it. */
static int
fill(reading *r)
{
    read_frame *frame = &r->frames[r->frames_used - 1];
    int result = MADE;
    while (result == MADE && frame->next < frame->n) {
        PyObject *obj;
        if (frame->slot != NULL && (result = fill_plain(r, frame)) < 0) {
            return FAILED;
        }
        if (frame->next == frame->n) {
            return MADE;
        }
        r->owed--;
        result = read_value(r, &obj);
        if (result == MADE) {
            result = give(r, obj);
        }
    }
    return result;
}

static PyObject *
make_proxy(reading *r, PyObject *parts)
{
    PyObject *dict = PyTuple_GET_ITEM(parts, 0);
    if (!PyDict_CheckExact(dict)) {
        damaged(r, "a mappingproxy shows no dict");
        return NULL;
    }
    return PyDictProxy_New(dict);
}

/* The container of a frame all of whose items are there. */
static PyObject *
make(reading *r, const read_frame *frame)
{
    PyObject *made = frame->made;
    switch (frame->tag) {
    case PH_TAG_SLICE:
        return PySlice_New(PyTuple_GET_ITEM(made, 0), PyTuple_GET_ITEM(made, 1),
                           PyTuple_GET_ITEM(made, 2));
    case PH_TAG_PROXY:
        return make_proxy(r, made);
    case PH_TAG_FROZENDICT:
        return ph_frozendict_of(made);
    default:
        return Py_NewRef(made);
    }
}

static int
check_whole(const reading *r, const read_frame *frame)
{
    size_t n = frame->n;
    if (ph_tag_is_mapping(frame->tag)) {
        n = 2 * (size_t)PyDict_GET_SIZE(frame->made);
    }
    else if (frame->tag == PH_TAG_SET || frame->tag == PH_TAG_FROZENSET) {
        n = (size_t)PySet_GET_SIZE(frame->made);
    }
    if (n != frame->n) {
        return damaged(r, "it has a key twice");
    }
    if (ph_tag_is_recursive(frame->tag)
        && ph_depth_over(frame->tag, frame->depth) > PH_FREED_DEPTH_MOST) {
        return damaged(r, "it is nested too deep");
    }
    return 0;
}

/* A container has all its items. */
static int
close_container(reading *r, PyObject **p_obj)
{
    read_frame *frame = &r->frames[r->frames_used - 1];
    if (check_whole(r, frame) < 0 || (*p_obj = make(r, frame)) == NULL) {
        return FAILED;
    }
    r->depth = frame->n == 0 ? 0 : ph_depth_over(frame->tag, frame->depth);
    Py_DECREF(frame->made);
    if (frame->index != NOT_REMEMBERED) {
        read_memo *entry = &r->memo[frame->index];
        if (entry->obj == NULL) {
            entry->obj = Py_NewRef(*p_obj);
        }
        entry->open = 0;
        entry->depth = r->depth;
    }
    r->frames_used--;
    return MADE;
}

static PyObject *
walk(reading *r)
{
    PyObject *obj = NULL;
    int result = read_value(r, &obj);
    while (result != FAILED && r->frames_used > 0) {
        result = fill(r);
        if (result == MADE) {
            result = close_container(r, &obj);
        }
        if (result == MADE && r->frames_used > 0) {
            result = give(r, obj);
        }
    }
    if (result != FAILED && r->at != r->end) {
        Py_DECREF(obj);
        result = damaged(r, "something follows its end");
    }
    return result == FAILED ? NULL : obj;
}

static void
drop_all(reading *r)
{
    while (r->frames_used > 0) {
        const read_frame *frame = &r->frames[--r->frames_used];
        Py_DECREF(frame->made);
        Py_XDECREF(frame->key);
    }
    for (size_t i = 0; i < r->memo_used; i++) {
        Py_XDECREF(r->memo[i].obj);
    }
    while (r->shapes_used > 0) {
        Py_DECREF(r->shapes[--r->shapes_used]);
    }
    ph_free(r->shapes);
    if (r->frames != r->frames_at_hand) {
        ph_free(r->frames);
    }
    if (r->memo != r->memo_at_hand) {
        ph_free(r->memo);
    }
}

PyObject *
ph_message_read(const ph_travels *travels, ph_reader *reader)
{
    reading r;                      /* what is at hand is not set */
    memset(&r, 0, offsetof(reading, frames_at_hand));
    reader->travels = travels;
    r.travels = travels;
    r.reader = reader;
    r.at = reader->at;
    r.end = reader->end;
    r.frames = r.frames_at_hand;
    r.frames_size = FRAMES_AT_HAND;
    r.memo = r.memo_at_hand;
    r.memo_size = MEMO_AT_HAND;
    first_ballast(&r);
    /* Nothing of this is garbage yet, and no code of users runs: through a large value
       the collector would look several times for nothing. */
    int collected = left(&r) > LARGE ? PyGC_Disable() : 0;
    PyObject *obj = walk(&r);
    if (collected) {
        PyGC_Enable();
    }
    if (obj == NULL) {
        blame_message(&r);
        PyObject *error = PyErr_GetRaisedException();
        drop_all(&r);
        PyErr_SetRaisedException(error);
        return NULL;
    }
    drop_all(&r);
    return obj;
}
