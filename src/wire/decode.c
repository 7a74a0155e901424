/* decode.c -- a value on its way in, from the bytes of format.h.  They are not trusted.

   The walk is depth first, over a stack with one frame for each open container.  Most
   containers have plain items only (numbers, text and the like): these are read in one go,
   without a frame.

   No Python code runs during the walk, so no code sees a container before it is whole.
   (Hashing and comparing keys runs the code of built-in types only: invariant 4.)  There is
   one exception: the first datetime or Counter of an interpreter imports its module of the
   standard library.

   Invariants:

   1. When a container is opened, all open containers together wait for no more items than
      bytes are left, since each item takes at least one byte.  So a false count cannot
      allocate more than a few words for each byte of the message.
   2. The memo owns its objects.  An entry is NULL until its object is made.  A list, dict,
      set or tuple is in its entry while it is open.
   3. A back reference to an open tuple is allowed only from inside a list, dict or set that
      is inside the tuple.  No object that leads to an open tuple is hashed.
   4. Nothing that holds an object of a user's type, through containers that hash their items,
      becomes a key or element.  encode.c has such messages pickled. */

#include "wire/format.h"

#include <string.h>

#include "core/base/array.h"
#include "core/family/family.h"
#include "core/family/handle.h"
#include "layout/datetime.h"
#include "layout/frozen.h"
#include "layout/sizes.h"
#include "layout/statics.h"
#include "layout/values.h"

#define LARGE 65536                 /* bytes of a message for which the collector waits */
#define DAYS_MOST 999999999         /* of a timedelta, in either direction */
#define FRAMES_AT_HAND 16           /* without allocating memory */
#define MEMO_AT_HAND 32

/* The functions below return one of these. */
enum { FAILED = -1, MADE = 0, OPENED = 1 };

#define NOT_REMEMBERED UINT32_MAX

/* An open container. */
typedef struct {
    PyObject *made;                 /* owned: the container; or its parts, in a tuple for
                                       a slice and a proxy, a dict for a frozendict */
    PyObject *key;                  /* owned: waits for its value; or NULL */
    PyObject **slot;                /* of the next item; NULL: items are hashed */
    size_t next, n;                 /* items; a key and a value are two */
    uint32_t index;                 /* in the memo, or NOT_REMEMBERED */
    uint32_t last_mutable;          /* number of the last frame up to this one that
                                       may hold itself */
    uint8_t tag;
    uint8_t stride;                 /* from slot to slot */
    uint8_t depth;                  /* of the items so far: ph_depth_over() */
    bool unwraps;                   /* hashing one of them may run a user's code */
} read_frame;

typedef struct {
    PyObject *obj;                  /* owned, or NULL */
    uint32_t open;                  /* number of its frame from 1 on; 0: it is whole */
    uint8_t depth;
    bool unwraps;
} read_memo;

typedef struct {
    const ph_wire_state *wire;
    ph_reader *reader;              /* its `at` is current only during read_wire_type() */
    const char *at, *end;
    size_t next_block;              /* of ballast: due when fewer bytes are left */
    uint64_t owed;                  /* items that open containers wait for */
    read_frame *frames;
    size_t frames_used, frames_size;
    read_memo *memo;
    size_t memo_used, memo_size;
    PyObject **shapes;              /* owned: dicts of keys with None */
    size_t shapes_used, shapes_size;
    uint8_t depth;                  /* of the object made last */
    bool unwraps;                   /* hashing that may run a user's code: invariant 4 */
    bool blameless;                 /* the error is that of a type in the table */
    read_frame frames_at_hand[FRAMES_AT_HAND];
    read_memo memo_at_hand[MEMO_AT_HAND];
} reading;

/* --- Errors ------------------------------------------------------------------- */

int
ph_message_damaged(const ph_wire_state *wire, const char *what)
{
    PyErr_Format(wire->interp->exceptions.message_error,
                 "permaheap: this message is damaged: %s", what);
    return -1;
}

static int
raise_damaged(const reading *r, const char *what)
{
    return ph_message_damaged(r->wire, what);
}

/* Turn an error of a constructor into a MessageError: the message was wrong.  Other errors
   stay. */
static void
blame_message(const reading *r)
{
    if (r->blameless || PyErr_ExceptionMatches(r->wire->interp->exceptions.handle_error)
        || PyErr_ExceptionMatches(r->wire->interp->exceptions.message_error)
        || !(PyErr_ExceptionMatches(PyExc_TypeError)
             || PyErr_ExceptionMatches(PyExc_ValueError)
             || PyErr_ExceptionMatches(PyExc_OverflowError)
             || PyErr_ExceptionMatches(PyExc_RecursionError))) {
        return;
    }
    PyObject *cause = PyErr_GetRaisedException();
    PyErr_Format(r->wire->interp->exceptions.message_error,
                 "permaheap: this message is damaged: %S", cause);
    Py_DECREF(cause);
}

/* --- Bytes -------------------------------------------------------------------- */

static inline size_t
bytes_left(const reading *r)
{
    assert(r->at <= r->end);
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
    return raise_damaged(r, "a number does not end");
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

/* Take the next `size` bytes; NULL if there are fewer. */
static inline const char *
take_bytes(reading *r, size_t size)
{
    if (size > bytes_left(r)) {
        raise_damaged(r, "it ends too early");
        return NULL;
    }
    const char *bytes = r->at;
    r->at += size;
    return bytes;
}

int
ph_read_bytes(ph_reader *reader, const void **p_bytes, size_t size)
{
    assert(reader->at <= reader->end);
    if (size > (size_t)(reader->end - reader->at)) {
        return ph_message_damaged(reader->wire, "it ends too early");
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
    assert(reader->next_span <= reader->n_spans);
    if (reader->next_span == reader->n_spans) {
        return ph_message_damaged(reader->wire, "it lacks a span");
    }
    *id = reader->spans[reader->next_span++];
    return 0;
}

/* Read a count, and take the items that follow, of `each` bytes; NULL if some are
   missing. */
static inline const char *
take_counted(reading *r, size_t each, size_t *p_n)
{
    uint64_t n;
    if (read_varint(r, &n) < 0) {
        return NULL;
    }
    if (n > bytes_left(r) / each) {
        raise_damaged(r, "it ends too early");
        return NULL;
    }
    *p_n = (size_t)n;
    return take_bytes(r, (size_t)n * each);
}

static inline read_frame *
innermost_read_frame(const reading *r)
{
    assert(r->frames_used > 0);
    return &r->frames[r->frames_used - 1];
}

/* --- Memo --------------------------------------------------------------------- */

/* Make room for one more item in an array that begins at hand. */
static int
grow_from_hand(void *p_items, const void *at_hand, size_t used, size_t *p_size, size_t item)
{
    void *items = *(void **)p_items;
    assert(used == *p_size);
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

/* Make the memo's entry of the next object that may be met again. */
static int
reserve_index(reading *r, uint32_t *p_index)
{
    if (r->memo_used == r->memo_size
        && grow_from_hand(&r->memo, r->memo_at_hand, r->memo_used, &r->memo_size,
                sizeof(read_memo)) < 0) {
        return FAILED;
    }
    if (r->memo_used == NOT_REMEMBERED) {
        return raise_damaged(r, "it has too many objects");
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
        return raise_damaged(r, "it refers to what is not there");
    }
    const read_memo *entry = &r->memo[index];
    r->depth = entry->depth;
    r->unwraps = entry->unwraps;
    assert(entry->open <= r->frames_used);      /* invariant 2 */
    if (entry->open && !ph_tag_is_mutable(r->frames[entry->open - 1].tag)) {
        if (innermost_read_frame(r)->last_mutable < entry->open) {
            return raise_damaged(r, "a tuple holds itself");
        }
        r->depth = PH_NEVER_HASHED;
    }
    *p_obj = Py_NewRef(entry->obj);
    return MADE;
}

/* --- Atoms -------------------------------------------------------------------- */

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
    const char *bytes = take_bytes(r, sizeof(value));
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
    const char *bytes = take_bytes(r, sizeof(value));
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
    assert(n >= 1 && n <= KEY_MOST);
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

/* Read a key, a str of 1-byte characters.  Keys of earlier messages are kept and used
   again: the same names come again and again, and to make and hash a str takes longer than
   to find it. */
static PyObject *
read_key(reading *r)
{
    size_t n;
    const char *bytes = take_counted(r, 1, &n);
    if (bytes == NULL) {
        return NULL;
    }
    PyObject **kept = n < 2 || n > KEY_MOST ? NULL
                      : &r->wire->kept->keys[place_of_key(bytes, n)];
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

/* Read a str with characters of 2 or 4 bytes, which are copied to aligned memory. */
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
        raise_damaged(r, "it has a character that there is not");
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

/* Is it a number, a str or the like, which holds no other value? */
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
    return ph_need_datetime(&r->wire->interp->has_datetime);
}

static PyObject *
read_permanent(reading *r)
{
    ph_handle handle;
    const size_t rest = sizeof(handle) - offsetof(ph_handle, block);
    const char *bytes = take_bytes(r, rest);
    if (bytes == NULL) {
        return NULL;
    }
    if (ph_heap_ready() != PH_OK) {
        ph_raise(&r->wire->interp->exceptions);
        return NULL;
    }
    memcpy(handle.family, ph_heap.header->family, sizeof(handle.family));
    memcpy(&handle.block, bytes, rest);
    void *obj;
    uint32_t flags;
    if (ph_handle_resolve(&handle, &obj, &flags) != PH_OK) {
        ph_raise(&r->wire->interp->exceptions);
        return NULL;
    }
    if ((flags & PH_BLOCK_DATETIME) && need_datetime(r) < 0) {
        return NULL;
    }
    if (obj == NULL) {
        raise_damaged(r, "it names no object");
        return NULL;
    }
    return Py_NewRef(obj);
}

static PyObject *
read_wire_type(reading *r)
{
    uint64_t number;
    if (read_varint(r, &number) < 0) {
        return NULL;
    }
    if (number >= r->wire->n) {
        raise_damaged(r, "it has an object of a type that there is not");
        return NULL;
    }
    r->reader->at = r->at;
    PyObject *obj = r->wire->types[number].read(r->wire, r->reader);
    assert(r->reader->at >= r->at && r->reader->at <= r->end);
    assert((obj == NULL) == (PyErr_Occurred() != NULL));
    r->at = r->reader->at;
    r->blameless = obj == NULL;
    r->unwraps = r->wire->types[number].unwraps;
    return obj;
}

/* --- datetime, range ---------------------------------------------------------- */

static PyObject *read_atom(reading *r, uint8_t tag);

/* Read a value that must be an atom, not a container. */
static PyObject *
read_inner(reading *r)
{
    const char *tag = take_bytes(r, 1);
    if (tag == NULL) {
        return NULL;
    }
    PyObject *obj = NULL;
    uint32_t index = NOT_REMEMBERED;
    if ((uint8_t)*tag == PH_TAG_REFERENCE) {
        return read_reference(r, &obj) < 0 ? NULL : obj;
    }
    if (((uint8_t)*tag & PH_REMEMBER) && reserve_index(r, &index) < 0) {
        return NULL;
    }
    obj = read_atom(r, (uint8_t)*tag & (uint8_t)~PH_REMEMBER);
    if (obj != NULL && index != NOT_REMEMBERED) {
        assert(r->memo[index].obj == NULL);     /* invariant 2 */
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
        raise_damaged(r, "a range is not of ints");
    }
    for (i = 0; i < 3; i++) {
        Py_XDECREF(parts[i]);
    }
    return range;
}

static int
read_fields(reading *r, int *fields, size_t n)
{
    const char *bytes = take_bytes(r, n * sizeof(*fields));
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
        raise_damaged(r, "a tzinfo is no timezone");
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

/* Read the fields of a timedelta.  The constructor would carry what is too large over to the
   next field, and overflow: so all must be in the ranges of a timedelta that exists. */
static int
read_delta_fields(reading *r, int fields[3])
{
    if (read_fields(r, fields, 3) < 0) {
        return FAILED;
    }
    bool valid = fields[0] >= -DAYS_MOST && fields[0] <= DAYS_MOST
                 && fields[1] >= 0 && fields[1] < 24 * 60 * 60
                 && fields[2] >= 0 && fields[2] < 1000 * 1000;
    return valid ? 0 : raise_damaged(r, "a timedelta has a number out of range");
}

static PyObject *
read_timezone(reading *r)
{
    int fields[3];
    if (read_delta_fields(r, fields) < 0) {
        return NULL;
    }
    PyObject *name = read_inner(r), *zone = NULL;
    PyObject *offset = name ? ph_delta_new(fields) : NULL;
    if (offset != NULL && name != Py_None && !PyUnicode_CheckExact(name)) {
        raise_damaged(r, "the name of a timezone is no str");
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
    assert(ph_datetime.date != NULL && ph_datetime.timezone != NULL);
    switch (tag) {
    case PH_TAG_DATE:
        return read_fields(r, fields, 3) < 0 ? NULL : ph_date_new(fields);
    case PH_TAG_DELTA:
        return read_delta_fields(r, fields) < 0 ? NULL : ph_delta_new(fields);
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
    case PH_TAG_WIRE_TYPE: return read_wire_type(r);
    default:
        raise_damaged(r, "it has a value of a kind that there is not, or not there");
        return NULL;
    }
}

/* --- Ballast ------------------------------------------------------------------------

   CPython gives an arena (1 MiB) back to the system once it is empty.  An interpreter that
   receives values and drops each may map and clear the same memory again and again, which
   takes as long as all the rest.  So a few blocks stay allocated among the objects of the
   last values, and keep their arenas: 6 MiB at most, since a byte of a message becomes
   about three.  A short message gets one block, at another place each time, so that sooner
   or later one block is where a new arena begins. */

#define SHORTEST 2048               /* bytes of a message that gets a block, */
#define FOR_A_BLOCK 32768           /* and another one for each of these */

static void
first_ballast(reading *r)
{
    size_t size = bytes_left(r);
    size_t part = size < FOR_A_BLOCK ? r->wire->kept->ballast_turn % 8 : 0;
    r->next_block = size < SHORTEST ? 0 : size - size / 8 * part;
}

/* Allocate a block beside an object that has just been made, in place of the oldest. */
static Py_NO_INLINE void
add_ballast(reading *r, PyObject *made)
{
    ph_wire_kept *kept = r->wire->kept;
    void **block = &kept->ballast[kept->ballast_turn++ % PH_BALLAST];
    PyObject_Free(*block);
    *block = PyObject_Malloc(ph_front_size(Py_TYPE(made)) + ph_body_size(made));
    r->next_block = bytes_left(r) < FOR_A_BLOCK ? 0 : bytes_left(r) - FOR_A_BLOCK;
}

/* --- Containers --------------------------------------------------------------- */

static PyObject *
new_defaultdict(reading *r, uint8_t factory)
{
    PyObject *made = ph_message_factory(factory);
    if (made == NULL) {
        raise_damaged(r, "it has a defaultdict of an unknown kind");
        return NULL;
    }
    return PyObject_CallOneArg((PyObject *)r->wire->interp->defaultdict, made);
}

/* Without __init__, which is Python code. */
static PyObject *
new_counter(const reading *r)
{
    PyTypeObject *counter = ph_need_counter(r->wire->interp);
    return counter ? counter->tp_new(counter, ph_static_empty_tuple(), NULL) : NULL;
}

/* Make an empty container, or the one that has its parts. */
static PyObject *
new_container(reading *r, uint8_t tag, uint8_t factory, size_t n)
{
    switch (tag) {
    case PH_TAG_LIST: return PyList_New((Py_ssize_t)n);
    case PH_TAG_TUPLE: case PH_TAG_SLICE: case PH_TAG_PROXY:
        return PyTuple_New((Py_ssize_t)n);
    case PH_TAG_SET: return PySet_New(NULL);
    case PH_TAG_FROZENSET: return PyFrozenSet_New(NULL);
    case PH_TAG_ORDERED_DICT: return PyODict_New();
    case PH_TAG_COUNTER: return new_counter(r);
    case PH_TAG_DEFAULTDICT: return new_defaultdict(r, factory);
    default: return ph_dict_new((Py_ssize_t)n / 2);
    }
}

/* Read how many items a container announces; invariant 1. */
static int
read_count(reading *r, uint8_t tag, size_t *p_n)
{
    uint64_t n = tag == PH_TAG_SLICE ? 3 : 1;
    if (tag != PH_TAG_SLICE && tag != PH_TAG_PROXY && read_varint(r, &n) < 0) {
        return FAILED;
    }
    uint64_t items = ph_tag_is_mapping(tag) ? 2 * n : n;
    if (n > bytes_left(r) || r->owed + items > bytes_left(r)) {
        return raise_damaged(r, "it ends too early");
    }
    r->owed += items;
    assert(r->owed <= bytes_left(r));
    *p_n = (size_t)items;
    return 0;
}

/* Return where the items of a container go, if they go there in order, and how far they
   are apart; else NULL. */
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

/* Return the length of the str that comes next, if it is short and has one-byte characters;
   else -1. */
static inline Py_ssize_t
length_of_short_str(const char *at, const char *end)
{
    bool is_short = end - at > 1 && (uint8_t)at[0] == PH_TAG_STR_1
                    && (uint8_t)at[1] < 0x80 && end - at - 2 >= (uint8_t)at[1];
    return is_short ? (uint8_t)at[1] : -1;
}

/* Read up to n plain items that come next into slots.  Returns their number, or -1. */
static inline Py_ssize_t
read_plain_items(reading *r, PyObject **slot, size_t stride, size_t n)
{
    size_t i = 0;
    for (; i < n && r->at < r->end && is_plain((uint8_t)*r->at); i++) {
        PyObject *obj;
        const char *at = r->at;
        Py_ssize_t length = length_of_short_str(at, r->end);
        if (length >= 0) {          /* the usual case, so this shortcut is worth while */
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
    assert(r->owed >= i);
    r->owed -= i;
    return (Py_ssize_t)i;
}

/* Push a frame for an empty container of n items; takes the reference. */
static int
push_read_frame(reading *r, PyObject *made, uint8_t tag, size_t n, uint32_t index)
{
    if (r->frames_used == r->frames_size
        && grow_from_hand(&r->frames, r->frames_at_hand, r->frames_used, &r->frames_size,
                sizeof(read_frame)) < 0) {
        Py_DECREF(made);
        return FAILED;
    }
    uint32_t number = (uint32_t)r->frames_used + 1;
    uint32_t last = r->frames_used ? innermost_read_frame(r)->last_mutable : 0;
    read_frame *frame = &r->frames[r->frames_used++];
    *frame = (read_frame){
        .made = made, .n = n, .index = index, .tag = tag,
        .last_mutable = ph_tag_is_mutable(tag) ? number : last,
    };
    frame->slot = slots_of(made, tag, &frame->stride);
    if (index != NOT_REMEMBERED && (ph_tag_is_mutable(tag) || tag == PH_TAG_TUPLE)) {
        assert(r->memo[index].obj == NULL);     /* invariant 2 */
        r->memo[index] = (read_memo){.obj = Py_NewRef(made), .open = number};
    }
    return OPENED;
}

/* Read a container without a frame if all of its items are plain; else push its frame.
   Takes the reference. */
static int
begin_container(reading *r, PyObject *made, uint8_t tag, size_t n, uint32_t index,
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
        r->unwraps = false;
        if (bytes_left(r) < r->next_block) {
            add_ballast(r, made);
        }
        if (index != NOT_REMEMBERED) {
            assert(r->memo[index].obj == NULL);     /* invariant 2 */
            r->memo[index] = (read_memo){.obj = Py_NewRef(made), .depth = r->depth};
        }
        *p_obj = made;
        return MADE;
    }
    int result = push_read_frame(r, made, tag, n, index);
    if (result == OPENED && slots != NULL) {
        read_frame *frame = innermost_read_frame(r);
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
        const char *byte = take_bytes(r, 1);
        if (byte == NULL) {
            return FAILED;
        }
        factory = (uint8_t)*byte;
    }
    if (read_count(r, tag, &n) < 0) {
        return FAILED;
    }
    PyObject *made = new_container(r, tag, factory, n);
    return made ? begin_container(r, made, tag, n, index, p_obj) : FAILED;
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
                     : raise_damaged(r, "a key of a record is no str");
        Py_DECREF(key);
        if (result < 0) {
            return FAILED;
        }
    }
    return (size_t)PyDict_GET_SIZE(shape) == n ? 0 : raise_damaged(r, "it has a key twice");
}

/* Read a new shape, which becomes the last one. */
static int
read_shape(reading *r)
{
    uint64_t n;
    if (read_varint(r, &n) < 0) {
        return FAILED;
    }
    if (n == 0 || n > PH_SHAPE_MOST) {
        return raise_damaged(r, "a record has too many keys");
    }
    if (ph_grow(&r->shapes, r->shapes_used, &r->shapes_size, sizeof(PyObject *)) < 0) {
        PyErr_NoMemory();
        return FAILED;
    }
    PyObject *shape = PyDict_New();     /* its table is for str keys, unlike a sized one */
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
        return raise_damaged(r, "a record is of no shape that there is");
    }
    PyObject *shape = r->shapes[number];
    size_t n = (size_t)PyDict_GET_SIZE(shape);
    assert(n >= 1 && n <= PH_SHAPE_MOST);
    if (r->owed + n > bytes_left(r)) {
        return raise_damaged(r, "it ends too early");
    }
    r->owed += n;
    assert(r->owed <= bytes_left(r));
    PyObject *made = ph_record_new(shape);
    return made ? begin_container(r, made, PH_TAG_RECORD, n, index, p_obj) : FAILED;
}

static inline bool
is_container(uint8_t tag)
{
    return tag >= PH_TAG_TUPLE && tag <= PH_TAG_PROXY;
}

/* Does the innermost container wait for a key? */
static inline bool
waits_for_key(const reading *r)
{
    if (r->frames_used == 0) {
        return false;
    }
    const read_frame *frame = innermost_read_frame(r);
    return ph_tag_is_mapping(frame->tag) && frame->key == NULL;
}

/* Read an atom, or open a container. */
static int
read_value(reading *r, PyObject **p_obj)
{
    const char *byte = take_bytes(r, 1);
    if (byte == NULL) {
        return FAILED;
    }
    uint32_t index = NOT_REMEMBERED;
    uint8_t tag = (uint8_t)*byte;
    if (tag == PH_TAG_REFERENCE) {
        return read_reference(r, p_obj);
    }
    if (tag & PH_REMEMBER) {
        if (reserve_index(r, &index) < 0) {
            return FAILED;
        }
        tag &= (uint8_t)~PH_REMEMBER;
    }
    if (is_container(tag)) {
        return tag == PH_TAG_SHAPE || tag == PH_TAG_RECORD
               ? open_record(r, tag, index, p_obj)
               : open_container(r, tag, index, p_obj);
    }
    r->unwraps = false;
    *p_obj = tag == PH_TAG_STR_1 && waits_for_key(r) ? read_key(r) : read_atom(r, tag);
    if (*p_obj == NULL) {
        return FAILED;
    }
    r->depth = 0;                   /* also if an inner value has set it */
    if (index != NOT_REMEMBERED) {
        assert(r->memo[index].obj == NULL);     /* invariant 2 */
        r->memo[index].obj = Py_NewRef(*p_obj);
        r->memo[index].unwraps = r->unwraps;
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

/* Give a mapping a key, which then waits, or the value of that key.  Takes the
   reference. */
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
put_item(read_frame *frame, PyObject *obj)
{
    assert(frame->next < frame->n);
    *frame->slot = obj;
    frame->slot += frame->stride;
    frame->next++;
}

static int
give_hashed(reading *r, read_frame *frame, PyObject *obj)
{
    bool mapping = ph_tag_is_mapping(frame->tag);
    assert(frame->next < frame->n);
    bool hashed = !(mapping && frame->key != NULL);
    frame->next++;
    if (hashed && (r->depth > PH_HASHED_DEPTH_MOST || r->unwraps)) {
        Py_DECREF(obj);
        return raise_damaged(r, r->unwraps ? "a key is an object that was lent"
                                           : "a key is nested too deep");
    }
    if (mapping) {
        return give_mapping(frame, obj);
    }
    int result = PySet_Add(frame->made, obj);
    Py_DECREF(obj);
    return result;
}

/* Give the object made last to the innermost container.  Takes the reference. */
static int
give_item(reading *r, PyObject *obj)
{
    read_frame *frame = innermost_read_frame(r);
    if (r->depth > frame->depth) {
        frame->depth = r->depth;
    }
    frame->unwraps |= r->unwraps;
    if (frame->slot == NULL) {
        return give_hashed(r, frame, obj);
    }
    put_item(frame, obj);
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
    assert(frame->next <= frame->n);
    return MADE;
}

/* Read the items of the innermost container.  OPENED: another one has been opened in it. */
static int
fill_container(reading *r)
{
    read_frame *frame = innermost_read_frame(r);
    int result = MADE;
    while (result == MADE && frame->next < frame->n) {
        PyObject *obj;
        if (frame->slot != NULL && (result = fill_plain(r, frame)) < 0) {
            return FAILED;
        }
        if (frame->next == frame->n) {
            return MADE;
        }
        assert(r->owed > 0);
        r->owed--;
        result = read_value(r, &obj);
        if (result == MADE) {
            result = give_item(r, obj);
        }
    }
    return result;
}

static PyObject *
make_proxy(reading *r, PyObject *parts)
{
    PyObject *dict = PyTuple_GET_ITEM(parts, 0);
    if (!PyDict_CheckExact(dict)) {
        raise_damaged(r, "a mappingproxy shows no dict");
        return NULL;
    }
    return PyDictProxy_New(dict);
}

/* Make the container of a frame, all of whose items are there. */
static PyObject *
make_container(reading *r, const read_frame *frame)
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
        return raise_damaged(r, "it has a key twice");
    }
    if (ph_tag_is_recursive(frame->tag)
        && ph_depth_over(frame->tag, frame->depth) > PH_FREED_DEPTH_MOST) {
        return raise_damaged(r, "it is nested too deep");
    }
    return 0;
}

/* Close the innermost container: all of its items are there. */
static int
close_container(reading *r, PyObject **p_obj)
{
    read_frame *frame = innermost_read_frame(r);
    assert(frame->next == frame->n && frame->key == NULL);
    if (check_whole(r, frame) < 0 || (*p_obj = make_container(r, frame)) == NULL) {
        return FAILED;
    }
    r->depth = frame->n == 0 ? 0 : ph_depth_over(frame->tag, frame->depth);
    r->unwraps = frame->unwraps && ph_tag_hashes_items(frame->tag);
    Py_DECREF(frame->made);
    if (frame->index != NOT_REMEMBERED) {
        read_memo *entry = &r->memo[frame->index];
        assert(entry->open == 0 || entry->open == r->frames_used);
        if (entry->obj == NULL) {
            entry->obj = Py_NewRef(*p_obj);
        }
        entry->open = 0;
        entry->depth = r->depth;
        entry->unwraps = r->unwraps;
    }
    r->frames_used--;
    return MADE;
}

static PyObject *
read_graph(reading *r)
{
    PyObject *obj = NULL;
    int result = read_value(r, &obj);
    while (result != FAILED && r->frames_used > 0) {
        result = fill_container(r);
        if (result == MADE) {
            result = close_container(r, &obj);
        }
        if (result == MADE && r->frames_used > 0) {
            result = give_item(r, obj);
        }
    }
    assert(result == FAILED || r->owed == 0);
    if (result != FAILED && r->at != r->end) {
        Py_DECREF(obj);
        result = raise_damaged(r, "something follows its end");
    }
    return result == FAILED ? NULL : obj;
}

static void
drop_reading(reading *r)
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

void
ph_wire_kept_clear(ph_wire_kept *kept)
{
    for (size_t i = 0; i < PH_KEYS_KEPT; i++) {
        Py_CLEAR(kept->keys[i]);
    }
    for (size_t i = 0; i < PH_BALLAST; i++) {
        PyObject_Free(kept->ballast[i]);
        kept->ballast[i] = NULL;
    }
}

PyObject *
ph_message_read(const ph_wire_state *wire, ph_reader *reader)
{
    reading r;                      /* the arrays at hand stay uninitialized */
    memset(&r, 0, offsetof(reading, frames_at_hand));
    reader->wire = wire;
    r.wire = wire;
    r.reader = reader;
    r.at = reader->at;
    r.end = reader->end;
    r.frames = r.frames_at_hand;
    r.frames_size = FRAMES_AT_HAND;
    r.memo = r.memo_at_hand;
    r.memo_size = MEMO_AT_HAND;
    first_ballast(&r);
    /* None of this is garbage yet, and no user code runs: the collector would look through a
       large value several times, and find nothing. */
    int collected = bytes_left(&r) > LARGE ? PyGC_Disable() : 0;
    PyObject *obj = read_graph(&r);
    if (collected) {
        PyGC_Enable();
    }
    if (obj == NULL) {
        blame_message(&r);
        PyObject *error = PyErr_GetRaisedException();
        assert(error != NULL);
        drop_reading(&r);
        PyErr_SetRaisedException(error);
        return NULL;
    }
    drop_reading(&r);
    return obj;
}
