/* values.c -- taking ordinary values apart and making them, mainly for messages: where
   the public API of CPython cannot, or cannot in all versions, or is slower. */

#include "layout/values.h"

#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "internal/pycore_dict.h"
#include "internal/pycore_long.h"

/* --- int ---------------------------------------------------------------------- */

size_t
ph_int_room(PyObject *obj)
{
    size_t digits = (size_t)_PyLong_DigitCount((PyLongObject *)obj);
    return digits * PyLong_SHIFT / 8 + 1;
}

int
ph_int_bytes(PyObject *obj, char *bytes, size_t size)
{
    return ph_long_as_bytes(obj, bytes, size);
}

PyObject *
ph_int_from_bytes(const char *bytes, size_t size)
{
    return _PyLong_FromByteArray((const unsigned char *)bytes, size, 1, 1);
}

/* --- str ---------------------------------------------------------------------- */

#define SHORT_MOST 64               /* characters */

/* Copy 4 or 8 bytes, and return them. */
static inline uint64_t
copy_word(char *to, const char *from, size_t size)
{
    assert(size == 4 || size == 8);
    uint64_t word = 0;
    memcpy(&word, from, size);
    memcpy(to, &word, size);
    return word;
}

/* Copy n bytes, some of them twice, and return the bitwise or of all. */
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

/* Make a str of memory that has its text already. */
static PyObject *
init_ascii(PyASCIIObject *str, size_t n)
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
    if (n > 1 && n <= SHORT_MOST) {      /* CPython keeps those of one character */
        PyASCIIObject *str = PyObject_Malloc(sizeof(*str) + n + 1);
        if (str == NULL) {
            return PyErr_NoMemory();
        }
        char *text = (char *)(str + 1);
        if ((copy_short(text, bytes, n) & 0x8080808080808080ull) == 0) {
            text[n] = 0;
            return init_ascii(str, n);
        }
        PyObject_Free(str);
    }
    return PyUnicode_FromKindAndData(PyUnicode_1BYTE_KIND, bytes, (Py_ssize_t)n);
}

/* --- Containers --------------------------------------------------------------- */

PyObject *
ph_dict_new(Py_ssize_t n)
{
    return n > 5 ? _PyDict_NewPresized(n) : PyDict_New();
}

_Static_assert(sizeof(ph_entry) == sizeof(PyDictUnicodeEntry)
               && offsetof(ph_entry, value) == offsetof(PyDictUnicodeEntry, me_value),
               "ph_entry is an entry of a dict");

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
ph_dict_find_str(PyObject *dict, PyObject *str)
{
    assert(PyUnicode_CheckExact(str));
    if (DK_IS_UNICODE(((PyDictObject *)dict)->ma_keys)) {
        return PyDict_GetItemWithError(dict, str);
    }
    PyObject *key, *value;
    Py_ssize_t pos = 0;
    while (PyDict_Next(dict, &pos, &key, &value)) {
        if (PyUnicode_CheckExact(key) && PyUnicode_Compare(key, str) == 0) {
            return value;
        }
    }
    return NULL;
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
    assert(ph_dict_entries(record) != NULL);
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
