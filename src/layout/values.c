/* values.c -- taking ordinary values apart, and making them, where the public
   API of CPython cannot, or not in all versions: for messages. */

#include "layout/internal.h"

#include <datetime.h>
#include <stddef.h>

/* --- int ------------------------------------------------------------------------- */

size_t
ph_int_room(PyObject *obj)
{
    size_t digits = (size_t)_PyLong_DigitCount((PyLongObject *)obj);
    return digits * PyLong_SHIFT / 8 + 1;
}

int
ph_int_bytes(PyObject *obj, char *bytes, size_t size)
{
    PyLongObject *v = (PyLongObject *)obj;
#if PY_VERSION_HEX >= 0x030d0000
    return _PyLong_AsByteArray(v, (unsigned char *)bytes, size, 1, 1, 1);
#else
    return _PyLong_AsByteArray(v, (unsigned char *)bytes, size, 1, 1);
#endif
}

PyObject *
ph_int_from_bytes(const char *bytes, size_t size)
{
    return _PyLong_FromByteArray((const unsigned char *)bytes, size, 1, 1);
}

/* --- str ------------------------------------------------------------------------- */

#define SHORT 64                    /* characters */

/* Copy 4 or 8 bytes, and return them. */
static inline uint64_t
copy_word(char *to, const char *from, size_t size)
{
    uint64_t word = 0;
    memcpy(&word, from, size);
    memcpy(to, &word, size);
    return word;
}

/* Copy n bytes, some of them twice, and return an or of all. */
static inline uint64_t
copy_short(char *to, const char *from, size_t n)
{
    if (n < 4) {
        uint64_t all = 0;
        for (size_t i = 0; i < n; i++) {
            all |= (unsigned char)(to[i] = from[i]);
        }
        return all;
    }
    if (n < 8) {
        return copy_word(to, from, 4) | copy_word(to + n - 4, from + n - 4, 4);
    }
    uint64_t all = copy_word(to + n - 8, from + n - 8, 8);
    for (size_t i = 0; i < n - 8; i += 8) {
        all |= copy_word(to + i, from + i, 8);
    }
    return all;
}

/* A str in memory that has its text already. */
static PyObject *
ascii_of(PyASCIIObject *str, size_t n)
{
    str->length = (Py_ssize_t)n;
    str->hash = -1;
    memset(&str->state, 0, sizeof(str->state));
    str->state.kind = PyUnicode_1BYTE_KIND;
    str->state.compact = 1;
    str->state.ascii = 1;
    return PyObject_Init((PyObject *)str, &PyUnicode_Type);
}

/* Nearly all str are short and ASCII: these are made in one pass. */
PyObject *
ph_str_new(const char *bytes, size_t n)
{
    if (n > 1 && n <= SHORT) {      /* CPython keeps those of one character */
        PyASCIIObject *str = PyObject_Malloc(sizeof(*str) + n + 1);
        if (str == NULL) {
            return PyErr_NoMemory();
        }
        char *text = (char *)(str + 1);
        if ((copy_short(text, bytes, n) & 0x8080808080808080ull) == 0) {
            text[n] = 0;
            return ascii_of(str, n);
        }
        PyObject_Free(str);
    }
    return PyUnicode_FromKindAndData(PyUnicode_1BYTE_KIND, bytes, (Py_ssize_t)n);
}

/* --- Containers ------------------------------------------------------------------ */

bool
ph_set_next(PyObject *set, Py_ssize_t *p_pos, PyObject **p_item)
{
    PySetObject *so = (PySetObject *)set;
    while (*p_pos <= so->mask) {
        const setentry *entry = &so->table[(*p_pos)++];
        if (entry->key != NULL && entry->hash != -1) {      /* -1: dummy */
            *p_item = entry->key;
            return true;
        }
    }
    return false;
}

PyObject *
ph_dict_new(Py_ssize_t n)
{
    return n > 5 ? _PyDict_NewPresized(n) : PyDict_New();
}

_Static_assert(sizeof(ph_entry) == sizeof(PyDictUnicodeEntry)
               && offsetof(ph_entry, value) == offsetof(PyDictUnicodeEntry, me_value),
               "what an entry of a dict looks like");

const ph_entry *
ph_dict_entries(PyObject *dict)
{
    const PyDictObject *d = (PyDictObject *)dict;
    if (d->ma_values != NULL || !DK_IS_UNICODE(d->ma_keys)
        || d->ma_keys->dk_nentries != d->ma_used) {
        return NULL;
    }
    return (const ph_entry *)DK_UNICODE_ENTRIES(d->ma_keys);
}

PyObject *
ph_record_new(PyObject *shape)
{
    PyObject *record = PyDict_Copy(shape);
    if (record == NULL) {
        return NULL;
    }
    if (ph_dict_entries(record) == NULL) {
        Py_DECREF(record);
        PyErr_SetString(PyExc_SystemError, "permaheap: a dict of str is of an unknown "
                                           "layout in this version of Python");
        return NULL;
    }
    return record;
}

PyObject **
ph_record_values(PyObject *record)
{
    return &DK_UNICODE_ENTRIES(((PyDictObject *)record)->ma_keys)->me_value;
}

void
ph_record_holds(PyObject *record, PyObject *value)
{
    if (PyType_IS_GC(Py_TYPE(value)) && !PyObject_GC_IsTracked(record)) {
        PyObject_GC_Track(record);  /* before 3.14 a dict of atoms is not */
    }
}

bool
ph_is_frozendict(PyObject *obj)
{
#if PH_HAS_FROZENDICT
    return Py_IS_TYPE(obj, &PyFrozenDict_Type);
#else
    (void)obj;
    return false;
#endif
}

PyObject *
ph_frozendict_of(PyObject *dict)
{
#if PH_HAS_FROZENDICT
    return PyFrozenDict_New(dict);
#else
    (void)dict;
    PyErr_SetString(PyExc_TypeError, "this version of Python has no frozendict");
    return NULL;
#endif
}

/* --- datetime ---------------------------------------------------------------------- */

/* Its functions are those of the process, whichever interpreter they were got in. */
static PyDateTime_CAPI datetime_api;

void
ph_datetime_keep(const void *api)
{
    if (datetime_api.DateType == NULL) {
        datetime_api = *(const PyDateTime_CAPI *)api;
    }
}

void
ph_date_fields(PyObject *obj, int fields[3])
{
    fields[0] = PyDateTime_GET_YEAR(obj);
    fields[1] = PyDateTime_GET_MONTH(obj);
    fields[2] = PyDateTime_GET_DAY(obj);
}

void
ph_time_fields(PyObject *obj, int fields[5])
{
    if (Py_TYPE(obj) == ph_datetime.time) {
        fields[0] = PyDateTime_TIME_GET_HOUR(obj);
        fields[1] = PyDateTime_TIME_GET_MINUTE(obj);
        fields[2] = PyDateTime_TIME_GET_SECOND(obj);
        fields[3] = PyDateTime_TIME_GET_MICROSECOND(obj);
        fields[4] = PyDateTime_TIME_GET_FOLD(obj);
        return;
    }
    fields[0] = PyDateTime_DATE_GET_HOUR(obj);
    fields[1] = PyDateTime_DATE_GET_MINUTE(obj);
    fields[2] = PyDateTime_DATE_GET_SECOND(obj);
    fields[3] = PyDateTime_DATE_GET_MICROSECOND(obj);
    fields[4] = PyDateTime_DATE_GET_FOLD(obj);
}

void
ph_delta_fields(PyObject *obj, int fields[3])
{
    fields[0] = PyDateTime_DELTA_GET_DAYS(obj);
    fields[1] = PyDateTime_DELTA_GET_SECONDS(obj);
    fields[2] = PyDateTime_DELTA_GET_MICROSECONDS(obj);
}

PyObject *
ph_date_new(const int d[3])
{
    return datetime_api.Date_FromDate(d[0], d[1], d[2], ph_datetime.date);
}

PyObject *
ph_time_new(const int t[5], PyObject *zone)
{
    return datetime_api.Time_FromTimeAndFold(t[0], t[1], t[2], t[3], zone, t[4],
                                             ph_datetime.time);
}

PyObject *
ph_datetime_new(const int d[3], const int t[5], PyObject *zone)
{
    return datetime_api.DateTime_FromDateAndTimeAndFold(
        d[0], d[1], d[2], t[0], t[1], t[2], t[3], zone, t[4], ph_datetime.datetime);
}

PyObject *
ph_delta_new(const int d[3])
{
    return datetime_api.Delta_FromDelta(d[0], d[1], d[2], 1, ph_datetime.delta);
}

PyObject *
ph_timezone_new(PyObject *offset, PyObject *name)
{
    return datetime_api.TimeZone_FromTimeZone(offset, name);
}
