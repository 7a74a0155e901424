/* statics.c -- static objects: None, small ints, the empty tuple, and the like.

   Numbers:  0 singletons | 16 bytes of one byte | str of one character of Latin-1
             | small ints

   The tables are filled at import.  The objects are the process's, so that each
   interpreter stores the same ones again. */

#include "layout/statics.h"

#include <assert.h>
#include <string.h>

#include "core/heap/heap.h"
#include "internal/pycore_long.h"
#include "layout/datetime.h"
#include "layout/internal.h"

#define SMALL_INT_LEAST (-_PY_NSMALLNEGINTS)
#define SMALL_INT_MOST (_PY_NSMALLPOSINTS - 1)
#define SMALL_INTS (SMALL_INT_MOST - SMALL_INT_LEAST + 1)

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

/* --- Set-up ------------------------------------------------------------------- */

static int
check_immortality(PyObject *obj)
{
    if (obj != NULL && !_Py_IsImmortal(obj)) {
        PyErr_Format(PyExc_ImportError,
                     "permaheap: this interpreter's %R is not immortal", obj);
        return -1;
    }
    return 0;
}

int
ph_statics_init(void)
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
        if (check_immortality(ph_static_at(i)) < 0) {
            return -1;
        }
    }
    return 0;
}

/* --- From an object ----------------------------------------------------------- */

static PyObject *
find_static_int(PyObject *obj)
{
    int overflow;
    long value = PyLong_AsLongAndOverflow(obj, &overflow);
    if (overflow || value < SMALL_INT_LEAST || value > SMALL_INT_MOST) {
        return NULL;
    }
    return static_ints[value - SMALL_INT_LEAST];
}

static PyObject *
find_static_str(PyObject *obj)
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
find_static_bytes(PyObject *obj)
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
        return find_static_str(obj);
    }
    if (type == &PyLong_Type) {
        return find_static_int(obj);
    }
    if (type == &PyBytes_Type) {
        return find_static_bytes(obj);
    }
    if (type == &PyTuple_Type) {
        return PyTuple_GET_SIZE(obj) == 0 ? static_singletons[EMPTY_TUPLE]
                                         : NULL;
    }
    if (obj == Py_None || obj == Py_True || obj == Py_False
        || obj == Py_Ellipsis || obj == ph_datetime.utc) {
        assert(_Py_IsImmortal(obj));
        return obj;
    }
    return NULL;
}

bool
ph_is_static(PyObject *obj)
{
    return ph_static_of(obj) == obj;
}

int
ph_is_permanent(PyObject *obj)
{
    return ph_heap_contains(obj) || ph_is_static(obj);
}

PyObject *
ph_static_empty_tuple(void)
{
    assert(static_singletons[EMPTY_TUPLE] != NULL);
    return static_singletons[EMPTY_TUPLE];
}

/* --- Numbers ------------------------------------------------------------------ */

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
    assert(ph_is_static(obj));
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
