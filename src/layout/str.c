/* str.c -- writing a permanent str.

   A compact str:

       ASCII       PyASCIIObject | characters | 0
       otherwise   PyCompactUnicodeObject | characters | 0 | UTF-8 | 0

   CPython makes the UTF-8 form on demand, and keeps it elsewhere.  Here it is made
   right away, behind the characters; a str with lone surrogates has none. */

#include "layout/internal.h"

#include <string.h>

#include "layout/head.h"

/* --- UTF-8 -------------------------------------------------------------------- */

static size_t
measure_char(Py_UCS4 c)
{
    return c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
}

/* Return the bytes of the UTF-8 form of a str, or -1 if it has none. */
static Py_ssize_t
measure_utf8(PyObject *str)
{
    int kind = PyUnicode_KIND(str);
    const void *data = PyUnicode_DATA(str);
    Py_ssize_t n = PyUnicode_GET_LENGTH(str), length = 0;
    for (Py_ssize_t i = 0; i < n; i++) {
        Py_UCS4 c = PyUnicode_READ(kind, data, i);
        if (Py_UNICODE_IS_SURROGATE(c)) {
            return -1;
        }
        length += (Py_ssize_t)measure_char(c);
    }
    return length;
}

static char *
write_utf8_char(char *p, Py_UCS4 c)
{
    static const unsigned char lead[] = {0, 0, 0xC0, 0xE0, 0xF0};
    size_t width = measure_char(c);
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

/* Write `size` bytes and a zero. */
static void
write_utf8(char *p, Py_ssize_t size, PyObject *str)
{
    const char *end = p + size;
    int kind = PyUnicode_KIND(str);
    const void *data = PyUnicode_DATA(str);
    Py_ssize_t n = PyUnicode_GET_LENGTH(str);
    for (Py_ssize_t i = 0; i < n; i++) {
        p = write_utf8_char(p, PyUnicode_READ(kind, data, i));
    }
    assert(p == end);
    (void)end;
    *p = '\0';
}

/* --- str ---------------------------------------------------------------------- */

/* Neither interned nor made by this interpreter.  Where a str can say the second
   (PH_STR_CAN_BE_STATIC), debug builds insist that it is also interned, for good. */
void
ph_set_str_state(PyASCIIObject *view)
{
    view->state.statically_allocated = PH_STR_CAN_BE_STATIC;
    view->state.interned = PH_DEBUG_WANTS_INTERNED ? SSTATE_INTERNED_IMMORTAL_STATIC
                                                   : SSTATE_NOT_INTERNED;
}

/* Return the bytes of a str up to the zero behind its characters. */
static size_t
measure_text(PyObject *str)
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
    size_t end = measure_text(str), size = end;
    Py_ssize_t utf8 = -1;
    if (!PyUnicode_IS_ASCII(str)) {
        utf8 = measure_utf8(str);
        size += (size_t)(utf8 + 1);
    }
    char *view;
    PyObject *obj = ph_new_object(block, &PyUnicode_Type, size, &view);
    if (obj == NULL) {
        return NULL;
    }
    memcpy(view + PH_REFCNT_SIZE, (char *)str + PH_REFCNT_SIZE, end - PH_REFCNT_SIZE);
    ph_set_str_state((PyASCIIObject *)view);
    if (!PyUnicode_IS_ASCII(str)) {
        PyCompactUnicodeObject *compact = (PyCompactUnicodeObject *)view;
        compact->utf8 = utf8 < 0 ? NULL : (char *)obj + end;
        compact->utf8_length = utf8 < 0 ? 0 : utf8;
        if (utf8 >= 0) {
            write_utf8(view + end, utf8, str);
        }
    }
    memset(view + size, 0, ph_align(size) - size);
    assert(ph_str_size(view) == ph_align(size));
    ph_block_count(block, PH_KIND_STR, size);
    return obj;
}

uint64_t
ph_str_room(PyObject *str)
{
    return PyUnicode_IS_ASCII(str) ? ph_align(measure_text(str)) : UINT64_MAX;
}

uint64_t
ph_str_size(const void *view)
{
    PyObject *str = (PyObject *)view;
    size_t size = measure_text(str);
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
