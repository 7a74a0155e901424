/* layout.c -- objects in general, and the atoms: static objects, numbers,
   str, bytes, range, and the types of datetime.

   A frozen atom other than str is a copy of a real one, its reference count
   apart: an *image*.  Equal images are equal atoms of one type, bit for bit,
   which is what the deduplication in atoms.c goes by. */

#include "layout/internal.h"

#include <datetime.h>
#include <stddef.h>

#include "core/family/family.h"

/* Not in any header; rangeobject.c, and unchanged for many versions. */
typedef struct {
    PyObject_HEAD
    PyObject *start, *stop, *step, *length;
} range_object;

/* _datetimemodule.c */
typedef struct {
    PyObject_HEAD
    PyObject *offset;               /* timedelta */
    PyObject *name;                 /* str or NULL */
} timezone_object;

ph_datetime_types ph_datetime;
PyTypeObject *ph_mapping_type;

/* --- Static objects ---------------------------------------------------------- */

#if PY_VERSION_HEX >= 0x030d0000
#define SMALL_INT_LEAST (-_PY_NSMALLNEGINTS)
#define SMALL_INT_MOST (_PY_NSMALLPOSINTS - 1)
#else
#define SMALL_INT_LEAST (-5)
#define SMALL_INT_MOST 256
#endif
#define SMALL_INTS (SMALL_INT_MOST - SMALL_INT_LEAST + 1)

/* Numbers of the static objects: the singletons, then one-byte bytes, then
   one-character str of Latin-1, then the small ints. */
enum {
    EMPTY_TUPLE = 4, EMPTY_BYTES, EMPTY_STR, UTC,       /* of the singletons */
    SINGLETONS
};
enum { BYTES_AT = 16, CHARS_AT = BYTES_AT + 256,
       INTS_AT = CHARS_AT + 256, NUMBERS_END = INTS_AT + SMALL_INTS };

static PyObject *static_singletons[SINGLETONS];
static PyObject *static_bytes[256];
static PyObject *static_chars[256];
static PyObject *static_ints[SMALL_INTS];

/* The objects are process-wide, so that each interpreter stores the same. */
static int
look_up_statics(void)
{
    PyObject *singletons[SINGLETONS] = {
        Py_None, Py_True, Py_False, Py_Ellipsis,
        [EMPTY_TUPLE] = PyTuple_New(0),
        [EMPTY_BYTES] = PyBytes_FromStringAndSize(NULL, 0),
        [EMPTY_STR] = PyUnicode_New(0, 0),
    };
    memcpy(static_singletons, singletons, sizeof(singletons));
    for (int i = 0; i < 256; i++) {
        char c = (char)i;
        static_bytes[i] = PyBytes_FromStringAndSize(&c, 1);
        static_chars[i] = PyUnicode_FromOrdinal(i);
    }
    for (int i = 0; i < SMALL_INTS; i++) {
        static_ints[i] = PyLong_FromLong(SMALL_INT_LEAST + i);
    }
    for (uint32_t i = 0; i < NUMBERS_END; i++) {
        PyObject *obj = ph_static_at(i);
        if (obj != NULL && !_Py_IsImmortal(obj)) {
            PyErr_Format(PyExc_ImportError,
                         "permaheap: this interpreter's %R is not immortal", obj);
            return -1;
        }
    }
    return 0;
}

static PyObject *
static_int(PyObject *obj)
{
    int overflow;
    long value = PyLong_AsLongAndOverflow(obj, &overflow);
    if (overflow || value < SMALL_INT_LEAST || value > SMALL_INT_MOST) {
        return NULL;
    }
    return static_ints[value - SMALL_INT_LEAST];
}

static PyObject *
static_str(PyObject *obj)
{
    if (PyUnicode_GET_LENGTH(obj) == 0) {
        return static_singletons[EMPTY_STR];
    }
    if (PyUnicode_GET_LENGTH(obj) == 1 && PyUnicode_READ_CHAR(obj, 0) < 256) {
        return static_chars[PyUnicode_READ_CHAR(obj, 0)];
    }
    return NULL;
}

static PyObject *
static_byte(PyObject *obj)
{
    if (PyBytes_GET_SIZE(obj) == 0) {
        return static_singletons[EMPTY_BYTES];
    }
    return PyBytes_GET_SIZE(obj) == 1
           ? static_bytes[(unsigned char)PyBytes_AS_STRING(obj)[0]] : NULL;
}

PyObject *
ph_static_of(PyObject *obj)
{
    PyTypeObject *type = Py_TYPE(obj);
    if (type == &PyUnicode_Type) {
        return static_str(obj);
    }
    if (type == &PyLong_Type) {
        return static_int(obj);
    }
    if (type == &PyBytes_Type) {
        return static_byte(obj);
    }
    if (type == &PyTuple_Type) {
        return PyTuple_GET_SIZE(obj) == 0 ? static_singletons[EMPTY_TUPLE]
                                         : NULL;
    }
    if (obj == Py_None || obj == Py_True || obj == Py_False
        || obj == Py_Ellipsis || obj == ph_datetime.utc) {
        return obj;
    }
    return NULL;
}

bool
ph_is_static(PyObject *obj)
{
    return ph_static_of(obj) == obj;
}

PyObject *
ph_static_at(uint32_t number)
{
    if (number < SINGLETONS) {
        return number == UTC ? ph_datetime.utc : static_singletons[number];
    }
    if (number >= BYTES_AT && number < CHARS_AT) {
        return static_bytes[number - BYTES_AT];
    }
    if (number >= CHARS_AT && number < INTS_AT) {
        return static_chars[number - CHARS_AT];
    }
    if (number >= INTS_AT && number < NUMBERS_END) {
        return static_ints[number - INTS_AT];
    }
    return NULL;
}

uint32_t
ph_static_number(PyObject *obj)
{
    for (uint32_t i = 0; i < SINGLETONS; i++) {
        if (ph_static_at(i) == obj) {
            return i;
        }
    }
    if (PyBytes_CheckExact(obj)) {
        return BYTES_AT + (unsigned char)PyBytes_AS_STRING(obj)[0];
    }
    if (PyUnicode_CheckExact(obj)) {
        return CHARS_AT + PyUnicode_READ_CHAR(obj, 0);
    }
    assert(PyLong_CheckExact(obj));
    return INTS_AT + (uint32_t)(PyLong_AsLong(obj) - SMALL_INT_LEAST);
}

PyObject *
ph_static_empty_tuple(void)
{
    return static_singletons[EMPTY_TUPLE];
}

/* --- Set-up ------------------------------------------------------------------- */

static int
check_sizes(void)
{
    static const struct {
        PyTypeObject *type;
        size_t basic, item;
    } expected[] = {
        {&PyFloat_Type, sizeof(PyFloatObject), 0},
        {&PyComplex_Type, sizeof(PyComplexObject), 0},
        {&PyLong_Type, offsetof(PyLongObject, long_value.ob_digit), sizeof(digit)},
        {&PyBytes_Type, offsetof(PyBytesObject, ob_sval) + 1, 1},
        {&PyUnicode_Type, sizeof(PyUnicodeObject), 0},
        {&PyTuple_Type, offsetof(PyTupleObject, ob_item), sizeof(PyObject *)},
        {&PyDict_Type, sizeof(PyDictObject), 0},
        {&PyFrozenSet_Type, sizeof(PySetObject), 0},
        {&PySlice_Type, sizeof(PySliceObject), 0},
        {&PyRange_Type, sizeof(range_object), 0},
        {&PyDictProxy_Type, sizeof(ph_proxy_object), 0},
        {&_PyWeakref_RefType, sizeof(PyWeakReference), 0},
#if PH_HAS_FROZENDICT
        {&PyFrozenDict_Type, sizeof(PyFrozenDictObject), 0},
#endif
    };
    for (size_t i = 0; i < Py_ARRAY_LENGTH(expected); i++) {
        PyTypeObject *type = expected[i].type;
        if ((size_t)type->tp_basicsize != expected[i].basic
            || (size_t)type->tp_itemsize != expected[i].item) {
            PyErr_Format(PyExc_ImportError,
                         "permaheap was built for another CPython: a %s takes "
                         "%zd bytes here, %zu there; install it again with "
                         "this interpreter", type->tp_name, type->tp_basicsize,
                         expected[i].basic);
            return -1;
        }
    }
    return 0;
}

/* Debug builds assert more about str (see ph_set_str_state()). */
static int
check_build(void)
{
#ifdef Py_DEBUG
    bool built_for_debug = true;
#else
    bool built_for_debug = false;
#endif
    bool is_debug = PySys_GetObject("gettotalrefcount") != NULL;
    if (is_debug != built_for_debug) {
        PyErr_Format(PyExc_ImportError,
                     "permaheap was built for a %s build of CPython, and this is "
                     "the other kind; install it again with this interpreter",
                     built_for_debug ? "debug" : "release");
        return -1;
    }
    return 0;
}

int
ph_layout_init(void)
{
#if PH_HAS_FROZENDICT
    ph_mapping_type = &PyFrozenDict_Type;
#else
    ph_mapping_type = &PyDictProxy_Type;
#endif
    if (check_build() < 0 || check_sizes() < 0) {
        return -1;
    }
    return look_up_statics() < 0 ? -1 : ph_layout_init_containers();
}

/* Where _datetime is a shared library, a process that loads it after having
   been forked has its types at addresses of its own. */
static int
check_landmark(const PyTypeObject *date)
{
    if (ph_heap_ready() != PH_OK) {
        return 0;                   /* nothing is frozen, or can be */
    }
    uint64_t expected = 0, ours = (uint64_t)(uintptr_t)date;
    _Atomic uint64_t *landmark = &ph_heap.header->landmark;
    if (!atomic_compare_exchange_strong(landmark, &expected, ours)
        && expected != ours) {
        PyErr_SetString(PyExc_ImportError,
                        "permaheap: this process has loaded datetime at another "
                        "address than its family; import permaheap or datetime "
                        "before forking");
        return -1;
    }
    return 0;
}

/* On 3.12 an interpreter with its own GIL gets datetime without its C types. */
static int
no_datetime(void)
{
    if (PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_SetString(PyExc_ImportError,
                        "permaheap: datetime has no C types in this interpreter; "
                        "on Python 3.12 what holds datetimes cannot be used in "
                        "sub-interpreters");
    }
    return -1;
}

int
ph_datetime_import(void)
{
    PyDateTime_CAPI *api = PyCapsule_Import(PyDateTime_CAPSULE_NAME, 0);
    if (api == NULL) {
        return no_datetime();
    }
    if (check_landmark(api->DateType) < 0) {
        return -1;
    }
    ph_datetime_keep(api);
    ph_datetime.date = api->DateType;
    ph_datetime.time = api->TimeType;
    ph_datetime.datetime = api->DateTimeType;
    ph_datetime.delta = api->DeltaType;
    ph_datetime.timezone = Py_TYPE(api->TimeZone_UTC);
    if (PH_DATETIME_IN_INTERPRETERS) {
        ph_datetime.utc = api->TimeZone_UTC;
    }
    return 0;
}

int
ph_need_datetime(bool *p_has)
{
    if (!*p_has && ph_datetime_import() < 0) {
        return -1;
    }
    *p_has = true;
    return 0;
}

/* --- Objects in general --------------------------------------------------------- */

static void
write_head(PyObject *view, PyTypeObject *type)
{
    uint64_t word = PH_REFCNT_WORD;
    memcpy(view, &word, sizeof(word));
    view->ob_type = type;
}

PyObject *
ph_new_object(ph_block *block, PyTypeObject *type, size_t size, void *p_view)
{
    PyObject *obj = ph_block_alloc(block, size, size);
    if (obj != NULL) {
        PyObject *view = ph_writable(block, obj);
        write_head(view, type);
        *(PyObject **)p_view = view;
    }
    return obj;
}

PyObject *
ph_new_container(ph_block *block, PyTypeObject *type, size_t size, void *p_view)
{
    size += PH_GC_HEAD;
    char *head = ph_block_alloc(block, size, size);
    if (head == NULL) {
        return NULL;
    }
    memset(ph_writable(block, head), 0, PH_GC_HEAD);
    PyObject *obj = (PyObject *)(head + PH_GC_HEAD);
    PyObject *view = ph_writable(block, obj);
    write_head(view, type);
    *(PyObject **)p_view = view;
    return obj;
}

/* --- Hashes ----------------------------------------------------------------------- */

/* A NaN hashes by its address, which must be the final one. */
static Py_hash_t
hash_complex(PyObject *final, const PyComplexObject *view)
{
    Py_uhash_t real = (Py_uhash_t)_Py_HashDouble(final, view->cval.real);
    Py_uhash_t imag = (Py_uhash_t)_Py_HashDouble(final, view->cval.imag);
    Py_uhash_t hash = real + _PyHASH_IMAG * imag;
    return hash == (Py_uhash_t)-1 ? -2 : (Py_hash_t)hash;
}

static Py_hash_t
hash_range(const ph_block *block, const range_object *view)
{
    long length = ph_heap_contains(view->length) ? LONG_MAX
                                                 : PyLong_AsLong(view->length);
    PyObject *parts[3] = {view->length, Py_None, Py_None};
    if (length > 0) {
        parts[1] = view->start;
        if (length > 1) {
            parts[2] = view->step;
        }
    }
    return ph_hash_of_tuple(block, parts, 3);
}

/* sliceobject.c hashes like tuple, without mixing in the length. */
static Py_hash_t
hash_slice(const ph_block *block, const PySliceObject *view)
{
    PyObject *parts[3] = {view->start, view->stop, view->step};
    Py_uhash_t acc;
    if (!ph_hash_mix_items(block, parts, 3, &acc)) {
        return -1;
    }
    return acc == (Py_uhash_t)-1 ? 1546275796 : (Py_hash_t)acc;
}

static Py_hash_t
hash_tuple(const ph_block *block, PyTupleObject *view)
{
#if PH_TUPLE_HAS_HASH
    (void)block;
    return view->ob_hash;
#else
    return ph_hash_of_tuple(block, view->ob_item, Py_SIZE(view));
#endif
}

Py_hash_t
ph_hash(const ph_block *block, PyObject *frozen)
{
    if (!ph_heap_contains(frozen)) {
        return PyObject_Hash(frozen);           /* static: always hashable */
    }
    PyObject *view = (PyObject *)ph_block_view(block, frozen);
    PyTypeObject *type = Py_TYPE(view);
    if (type == &PyUnicode_Type) {
        return ((PyASCIIObject *)view)->hash;
    }
    if (type == &PyFloat_Type) {
        return _Py_HashDouble(frozen, ((PyFloatObject *)view)->ob_fval);
    }
    if (type == &PyComplex_Type) {
        return hash_complex(frozen, (PyComplexObject *)view);
    }
    if (type == &PyTuple_Type) {
        return hash_tuple(block, (PyTupleObject *)view);
    }
    if (type == &PyFrozenSet_Type) {
        return ((PySetObject *)view)->hash;
    }
#if PH_HAS_FROZENDICT
    if (type == &PyFrozenDict_Type) {
        return ((PyFrozenDictObject *)view)->ma_hash;
    }
#endif
    if (type == &PyDictProxy_Type) {
        return -1;
    }
    if (type == &PySlice_Type) {
        return hash_slice(block, (PySliceObject *)view);
    }
    if (type == &PyRange_Type) {
        return hash_range(block, (range_object *)view);
    }
    if (type == ph_datetime.timezone) {
        return ph_hash(block, ((timezone_object *)view)->offset);
    }
    return PyObject_Hash(view);                 /* int, bytes; cached: date ... */
}

/* --- Reading sources ------------------------------------------------------------------ */

PyObject *
ph_proxy_target(PyObject *proxy)
{
    return ((ph_proxy_object *)proxy)->mapping;
}

void
ph_slice_parts(PyObject *slice, PyObject *parts[3])
{
    PySliceObject *s = (PySliceObject *)slice;
    parts[0] = s->start;
    parts[1] = s->stop;
    parts[2] = s->step;
}

void
ph_timezone_parts(PyObject *zone, PyObject *parts[2])
{
    parts[0] = ((timezone_object *)zone)->offset;
    parts[1] = ((timezone_object *)zone)->name;
}

void
ph_range_parts(PyObject *range, PyObject *parts[4])
{
    memcpy(parts, &((range_object *)range)->start, 4 * sizeof(PyObject *));
}

PyObject *
ph_tzinfo_of(PyObject *obj)
{
    if (!_PyDateTime_HAS_TZINFO(obj)) {
        return NULL;
    }
    return Py_TYPE(obj) == ph_datetime.time
           ? ((PyDateTime_Time *)obj)->tzinfo : ((PyDateTime_DateTime *)obj)->tzinfo;
}

/* --- Images ----------------------------------------------------------------------------- */

#define HEAD_WORD offsetof(PyObject, ob_type)   /* the bytes an image leaves out */

static void
image_in_place(ph_image *image, PyObject *obj, size_t size, ph_kind kind)
{
    image->bytes = (const char *)obj + HEAD_WORD;
    image->size = size - HEAD_WORD;
    image->kind = kind;
}

/* Begin an image of our own with the bytes of a template. */
static void *
image_in_copy(ph_image *image, const void *template, size_t used, size_t size,
              ph_kind kind)
{
    assert(size <= sizeof(image->copy) && used <= size);
    memset(image->copy, 0, sizeof(image->copy));
    memcpy(image->copy, template, used);
    image->bytes = image->copy + HEAD_WORD;
    image->size = size - HEAD_WORD;
    image->kind = kind;
    return image->copy;
}

static size_t
int_size(PyObject *obj)
{
    PyLongObject *v = (PyLongObject *)obj;
    size_t digits = (size_t)_PyLong_DigitCount(v);
    return offsetof(PyLongObject, long_value.ob_digit) + digits * sizeof(digit);
}

static int
image_of_datetime(PyObject *obj, ph_image *image)
{
    PyTypeObject *type = Py_TYPE(obj);
    if (PyObject_Hash(obj) == -1) {             /* fills the cache */
        return -1;
    }
    if (type == ph_datetime.date) {
        image_in_place(image, obj, offsetof(PyDateTime_Date, data)
                       + _PyDateTime_DATE_DATASIZE, PH_KIND_DATE);
    }
    else if (type == ph_datetime.delta) {
        image_in_place(image, obj, offsetof(PyDateTime_Delta, microseconds)
                       + sizeof(int), PH_KIND_TIMEDELTA);
    }
    else if (type == ph_datetime.time) {
        size_t size = offsetof(PyDateTime_Time, fold) + 1;
        image_in_copy(image, obj, size, size, PH_KIND_TIME);
    }
    else {
        size_t size = offsetof(PyDateTime_DateTime, fold) + 1;
        image_in_copy(image, obj, size, size, PH_KIND_DATETIME);
    }
    return 0;
}

int
ph_image_of(PyObject *obj, ph_image *image)
{
    PyTypeObject *type = Py_TYPE(obj);
    if (type == &PyLong_Type) {
        image_in_place(image, obj, int_size(obj), PH_KIND_INT);
    }
    else if (type == &PyFloat_Type) {
        image_in_place(image, obj, sizeof(PyFloatObject), PH_KIND_FLOAT);
    }
    else if (type == &PyComplex_Type) {
        image_in_place(image, obj, sizeof(PyComplexObject), PH_KIND_COMPLEX);
    }
    else if (type == &PyBytes_Type) {
        (void)PyObject_Hash(obj);               /* fills the cache */
        image_in_place(image, obj, offsetof(PyBytesObject, ob_sval)
                       + (size_t)PyBytes_GET_SIZE(obj) + 1, PH_KIND_BYTES);
    }
    else {
        return image_of_datetime(obj, image);
    }
    return 0;
}

void
ph_image_of_range(PyObject *const parts[4], ph_image *image)
{
    range_object range = {.ob_base = {.ob_type = &PyRange_Type}};
    memcpy(&range.start, parts, 4 * sizeof(PyObject *));
    image_in_copy(image, &range, sizeof(range), sizeof(range), PH_KIND_RANGE);
}

void
ph_image_of_timezone(PyObject *const parts[2], ph_image *image)
{
    timezone_object zone = {.ob_base = {.ob_type = ph_datetime.timezone}};
    zone.offset = parts[0];
    zone.name = parts[1];
    image_in_copy(image, &zone, sizeof(zone), sizeof(zone), PH_KIND_TIMEZONE);
}

int
ph_image_of_aware(PyObject *obj, PyObject *tzinfo, ph_image *image)
{
    if (PyObject_Hash(obj) == -1) {             /* fills the cache */
        return -1;
    }
    if (Py_TYPE(obj) == ph_datetime.time) {
        PyDateTime_Time *copy = image_in_copy(
            image, obj, offsetof(PyDateTime_Time, fold) + 1,
            sizeof(PyDateTime_Time), PH_KIND_TIME);
        copy->tzinfo = tzinfo;
    }
    else {
        PyDateTime_DateTime *copy = image_in_copy(
            image, obj, offsetof(PyDateTime_DateTime, fold) + 1,
            sizeof(PyDateTime_DateTime), PH_KIND_DATETIME);
        copy->tzinfo = tzinfo;
    }
    return 0;
}

PyObject *
ph_put_image(ph_block *block, const ph_image *image)
{
    size_t size = HEAD_WORD + image->size;
    PyTypeObject *type;
    memcpy(&type, image->bytes, sizeof(type));
    char *view;
    PyObject *obj = ph_new_object(block, type, size, &view);
    if (obj != NULL) {
        memcpy(view + HEAD_WORD, image->bytes, image->size);
        memset(view + size, 0, ph_align(size) - size);
        ph_block_count(block, image->kind, size);
    }
    return obj;
}

bool
ph_image_equal(const void *view, const ph_image *image)
{
    return memcmp((const char *)view + HEAD_WORD, image->bytes, image->size) == 0;
}

/* --- str ---------------------------------------------------------------------------------- */

/* What a compact str looks like:

       ASCII       PyASCIIObject | characters | 0
       otherwise   PyCompactUnicodeObject | characters | 0 | UTF-8 | 0

   where the UTF-8 form, which CPython makes on demand and keeps elsewhere, is
   made right away; a str with lone surrogates has none. */

static size_t
utf8_width(Py_UCS4 c)
{
    return c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
}

/* Bytes of the UTF-8 form of a str, or -1 if it has none. */
static Py_ssize_t
utf8_length(PyObject *str)
{
    int kind = PyUnicode_KIND(str);
    const void *data = PyUnicode_DATA(str);
    Py_ssize_t n = PyUnicode_GET_LENGTH(str), length = 0;
    for (Py_ssize_t i = 0; i < n; i++) {
        Py_UCS4 c = PyUnicode_READ(kind, data, i);
        if (Py_UNICODE_IS_SURROGATE(c)) {
            return -1;
        }
        length += (Py_ssize_t)utf8_width(c);
    }
    return length;
}

static char *
utf8_write_char(char *p, Py_UCS4 c)
{
    static const unsigned char lead[] = {0, 0, 0xC0, 0xE0, 0xF0};
    size_t width = utf8_width(c);
    if (width == 1) {
        *p = (char)c;
        return p + 1;
    }
    for (size_t i = width - 1; i > 0; i--) {
        p[i] = (char)(0x80 | (c & 0x3F));
        c >>= 6;
    }
    *p = (char)(lead[width] | c);
    return p + width;
}

static void
utf8_write(char *p, PyObject *str)
{
    int kind = PyUnicode_KIND(str);
    const void *data = PyUnicode_DATA(str);
    Py_ssize_t n = PyUnicode_GET_LENGTH(str);
    for (Py_ssize_t i = 0; i < n; i++) {
        p = utf8_write_char(p, PyUnicode_READ(kind, data, i));
    }
    *p = '\0';
}

/* Neither interned nor of this interpreter's making.  From 3.13 on that state
   is called statically allocated; debug builds of these versions insist that
   such a str is also interned, for good. */
void
ph_set_str_state(PyASCIIObject *view)
{
#if PY_VERSION_HEX >= 0x030d0000
    view->state.statically_allocated = 1;
#ifdef Py_DEBUG
    view->state.interned = SSTATE_INTERNED_IMMORTAL_STATIC;
#else
    view->state.interned = SSTATE_NOT_INTERNED;
#endif
#else
    view->state.statically_allocated = 0;
    view->state.interned = SSTATE_NOT_INTERNED;
#endif
}

static size_t
str_characters_end(PyObject *str)
{
    size_t front = PyUnicode_IS_ASCII(str) ? sizeof(PyASCIIObject)
                                           : sizeof(PyCompactUnicodeObject);
    return front + ((size_t)PyUnicode_GET_LENGTH(str) + 1)
                   * (size_t)PyUnicode_KIND(str);
}

PyObject *
ph_put_str(ph_block *block, PyObject *str)
{
    assert(PyUnicode_IS_COMPACT(str));
    (void)ph_str_hash(str);
    size_t end = str_characters_end(str), size = end;
    Py_ssize_t utf8 = -1;
    if (!PyUnicode_IS_ASCII(str)) {
        utf8 = utf8_length(str);
        size += (size_t)(utf8 + 1);
    }
    char *view;
    PyObject *obj = ph_new_object(block, &PyUnicode_Type, size, &view);
    if (obj == NULL) {
        return NULL;
    }
    memcpy(view + HEAD_WORD, (char *)str + HEAD_WORD, end - HEAD_WORD);
    ph_set_str_state((PyASCIIObject *)view);
    if (!PyUnicode_IS_ASCII(str)) {
        PyCompactUnicodeObject *compact = (PyCompactUnicodeObject *)view;
        compact->utf8 = utf8 < 0 ? NULL : (char *)obj + end;
        compact->utf8_length = utf8 < 0 ? 0 : utf8;
        if (utf8 >= 0) {
            utf8_write(view + end, str);
        }
    }
    memset(view + size, 0, ph_align(size) - size);
    ph_block_count(block, PH_KIND_STR, size);
    return obj;
}

uint64_t
ph_str_room(PyObject *str)
{
    return PyUnicode_IS_ASCII(str) ? ph_align(str_characters_end(str)) : UINT64_MAX;
}

uint64_t
ph_str_size(const void *view)
{
    PyObject *str = (PyObject *)view;
    size_t size = str_characters_end(str);
    if (!PyUnicode_IS_ASCII(str)) {
        const PyCompactUnicodeObject *compact = view;
        size += compact->utf8 == NULL ? 0 : (size_t)compact->utf8_length + 1;
    }
    return ph_align(size);
}

bool
ph_str_equal(const void *view, PyObject *str)
{
    PyObject *other = (PyObject *)view;
    return Py_TYPE(other) == &PyUnicode_Type
           && PyUnicode_GET_LENGTH(other) == PyUnicode_GET_LENGTH(str)
           && PyUnicode_KIND(other) == PyUnicode_KIND(str)
           && memcmp(PyUnicode_DATA(other), PyUnicode_DATA(str),
                     (size_t)PyUnicode_GET_LENGTH(str)
                     * (size_t)PyUnicode_KIND(str)) == 0;
}

/* --- For audit.c --------------------------------------------------------------------------- */

static int
visit_parts(PyObject *const *parts, Py_ssize_t n, ph_visit visit, void *arg)
{
    for (Py_ssize_t i = 0; i < n; i++) {
        int result = parts[i] == NULL ? 0 : visit(parts[i], arg);
        if (result != 0) {
            return result;
        }
    }
    return 0;
}

static int
dissect_container(PyObject *obj, ph_anatomy *anatomy, ph_visit visit, void *arg)
{
    PyTypeObject *type = Py_TYPE(obj);
    anatomy->front = PH_GC_HEAD;
    if (((uint64_t *)obj)[-1] != 0 || ((uint64_t *)obj)[-2] != 0) {
        anatomy->complaint = "an object that the cyclic collector tracks";
    }
    if (type == &PyTuple_Type) {
        PyTupleObject *tuple = (PyTupleObject *)obj;
        anatomy->size = PH_GC_HEAD + offsetof(PyTupleObject, ob_item)
                        + (size_t)Py_SIZE(tuple) * sizeof(PyObject *);
        return visit_parts(tuple->ob_item, Py_SIZE(tuple), visit, arg);
    }
    if (type == &PyFrozenSet_Type) {
        return ph_dissect_frozenset(obj, anatomy, visit, arg);
    }
    anatomy->size = PH_GC_HEAD + (size_t)type->tp_basicsize;
    if (type == &PySlice_Type) {
        return visit_parts(&((PySliceObject *)obj)->start, 3, visit, arg);
    }
    if (type == &PyDictProxy_Type) {
        return visit(((ph_proxy_object *)obj)->mapping, arg);
    }
    if (type == &_PyWeakref_RefType) {
        return visit(((PyWeakReference *)obj)->wr_object, arg);
    }
    return ph_dissect_dict(obj, anatomy, visit, arg);
}

static int
dissect_atom(PyObject *obj, ph_anatomy *anatomy, ph_visit visit, void *arg)
{
    PyTypeObject *type = Py_TYPE(obj);
    if (type == &PyUnicode_Type) {
        anatomy->size = ph_str_size(obj);
        return 0;
    }
    if (type == &PyRange_Type) {
        anatomy->size = sizeof(range_object);
        return visit_parts(&((range_object *)obj)->start, 4, visit, arg);
    }
    if (type == ph_datetime.timezone) {
        anatomy->size = sizeof(timezone_object);
        return visit_parts(&((timezone_object *)obj)->offset, 2, visit, arg);
    }
    ph_image image;
    PyObject *tzinfo = type == ph_datetime.time || type == ph_datetime.datetime
                       ? ph_tzinfo_of(obj) : NULL;
    if (tzinfo != NULL) {
        anatomy->size = type == ph_datetime.time ? sizeof(PyDateTime_Time)
                                                 : sizeof(PyDateTime_DateTime);
        return visit(tzinfo, arg);
    }
    if (ph_image_of(obj, &image) < 0) {
        return -1;
    }
    anatomy->size = HEAD_WORD + image.size;
    return 0;
}

/* The types whose objects the heap may hold. */
static bool
is_container_type(PyTypeObject *type)
{
    return type == &PyTuple_Type || type == &PyFrozenSet_Type
           || type == &PySlice_Type || type == &PyDictProxy_Type
           || type == &PyDict_Type || type == &_PyWeakref_RefType
           || type == ph_mapping_type;
}

static bool
is_atom_type(PyTypeObject *type)
{
    return type == &PyUnicode_Type || type == &PyLong_Type
           || type == &PyFloat_Type || type == &PyComplex_Type
           || type == &PyBytes_Type || type == &PyRange_Type
           || (type != NULL
               && (type == ph_datetime.date || type == ph_datetime.time
                   || type == ph_datetime.datetime || type == ph_datetime.delta
                   || type == ph_datetime.timezone));
}

int
ph_dissect(PyObject *obj, ph_anatomy *anatomy, ph_visit visit, void *arg)
{
    memset(anatomy, 0, sizeof(*anatomy));
    PyTypeObject *type = Py_TYPE(obj);
    uint64_t word;
    memcpy(&word, obj, sizeof(word));
    if (word != PH_REFCNT_WORD) {
        anatomy->complaint = "a reference count that has drifted";
    }
    int result = 0;
    if (is_container_type(type)) {
        result = dissect_container(obj, anatomy, visit, arg);
    }
    else if (is_atom_type(type)) {
        result = dissect_atom(obj, anatomy, visit, arg);
    }
    else {
        anatomy->complaint = "an object of a type that is never frozen";
    }
    anatomy->size = ph_align(anatomy->size);
    return result;
}
