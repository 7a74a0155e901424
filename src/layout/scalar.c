/* scalar.c -- the atoms other than str: numbers, bytes, range, and objects of datetime.

   A frozen atom other than str is a copy of a real one, apart from its reference count:
   a *scalar* is the bytes from the type on, with the hash filled in.  Atoms with equal
   scalars are equal, bit for bit, and of one type: atoms.c deduplicates by this. */

#include "layout/internal.h"

#include <string.h>

#include <datetime.h>

#include "internal/pycore_long.h"
#include "layout/datetime.h"
#include "layout/head.h"

/* --- Describing an atom ------------------------------------------------------- */

/* Describe the first `size` bytes of an object where it is. */
static void
point_scalar(ph_scalar *scalar, PyObject *obj, size_t size, ph_kind kind)
{
    assert(size > sizeof(PyObject));
    scalar->bytes = (const char *)obj + PH_REFCNT_SIZE;
    scalar->size = size - PH_REFCNT_SIZE;
    scalar->kind = kind;
}

/* Describe a copy of the first `used` bytes of a template, followed by zeroes. */
static void *
copy_scalar(ph_scalar *scalar, const void *template, size_t used, size_t size,
           ph_kind kind)
{
    assert(size <= sizeof(scalar->copy) && used <= size);
    memset(scalar->copy, 0, sizeof(scalar->copy));
    memcpy(scalar->copy, template, used);
    scalar->bytes = scalar->copy + PH_REFCNT_SIZE;
    scalar->size = size - PH_REFCNT_SIZE;
    scalar->kind = kind;
    return scalar->copy;
}

static size_t
measure_int(PyObject *obj)
{
    PyLongObject *v = (PyLongObject *)obj;
    size_t digits = (size_t)_PyLong_DigitCount(v);
    return offsetof(PyLongObject, long_value.ob_digit) + digits * sizeof(digit);
}

static int
describe_datetime(PyObject *obj, ph_scalar *scalar)
{
    PyTypeObject *type = Py_TYPE(obj);
    if (PyObject_Hash(obj) == -1) {             /* fills the cache */
        return -1;
    }
    if (type == ph_datetime.date) {
        point_scalar(scalar, obj, offsetof(PyDateTime_Date, data)
                    + _PyDateTime_DATE_DATASIZE, PH_KIND_DATE);
    }
    else if (type == ph_datetime.delta) {
        point_scalar(scalar, obj, offsetof(PyDateTime_Delta, microseconds)
                    + sizeof(int), PH_KIND_TIMEDELTA);
    }
    else if (type == ph_datetime.time) {
        size_t size = offsetof(PyDateTime_Time, fold) + 1;
        copy_scalar(scalar, obj, size, size, PH_KIND_TIME);
    }
    else {
        assert(type == ph_datetime.datetime);
        size_t size = offsetof(PyDateTime_DateTime, fold) + 1;
        copy_scalar(scalar, obj, size, size, PH_KIND_DATETIME);
    }
    return 0;
}

int
ph_scalar_of(PyObject *obj, ph_scalar *scalar)
{
    PyTypeObject *type = Py_TYPE(obj);
    if (type == &PyLong_Type) {
        point_scalar(scalar, obj, measure_int(obj), PH_KIND_INT);
    }
    else if (type == &PyFloat_Type) {
        point_scalar(scalar, obj, sizeof(PyFloatObject), PH_KIND_FLOAT);
    }
    else if (type == &PyComplex_Type) {
        point_scalar(scalar, obj, sizeof(PyComplexObject), PH_KIND_COMPLEX);
    }
    else if (type == &PyBytes_Type) {
        (void)PyObject_Hash(obj);               /* fills the cache */
        point_scalar(scalar, obj, offsetof(PyBytesObject, ob_sval)
                    + (size_t)PyBytes_GET_SIZE(obj) + 1, PH_KIND_BYTES);
    }
    else {
        return describe_datetime(obj, scalar);
    }
    return 0;
}

void
ph_scalar_of_range(PyObject *const parts[4], ph_scalar *scalar)
{
    ph_range_object range = {.ob_base = {.ob_type = &PyRange_Type}};
    memcpy(&range.start, parts, 4 * sizeof(PyObject *));
    copy_scalar(scalar, &range, sizeof(range), sizeof(range), PH_KIND_RANGE);
}

void
ph_scalar_of_timezone(PyObject *const parts[2], ph_scalar *scalar)
{
    assert(ph_datetime.timezone != NULL);
    ph_timezone_object zone = {.ob_base = {.ob_type = ph_datetime.timezone}};
    zone.offset = parts[0];
    zone.name = parts[1];
    copy_scalar(scalar, &zone, sizeof(zone), sizeof(zone), PH_KIND_TIMEZONE);
}

int
ph_scalar_of_aware(PyObject *obj, PyObject *tzinfo, ph_scalar *scalar)
{
    if (PyObject_Hash(obj) == -1) {             /* fills the cache */
        return -1;
    }
    if (Py_TYPE(obj) == ph_datetime.time) {
        PyDateTime_Time *copy = copy_scalar(
            scalar, obj, offsetof(PyDateTime_Time, fold) + 1,
            sizeof(PyDateTime_Time), PH_KIND_TIME);
        copy->tzinfo = tzinfo;
    }
    else {
        assert(Py_TYPE(obj) == ph_datetime.datetime);
        PyDateTime_DateTime *copy = copy_scalar(
            scalar, obj, offsetof(PyDateTime_DateTime, fold) + 1,
            sizeof(PyDateTime_DateTime), PH_KIND_DATETIME);
        copy->tzinfo = tzinfo;
    }
    return 0;
}

/* --- Writing it --------------------------------------------------------------- */

PyObject *
ph_put_scalar(ph_block *block, const ph_scalar *scalar)
{
    size_t size = PH_REFCNT_SIZE + scalar->size;
    PyTypeObject *type;
    memcpy(&type, scalar->bytes, sizeof(type));
    char *view;
    PyObject *obj = ph_new_object(block, type, size, &view);
    if (obj != NULL) {
        memcpy(view + PH_REFCNT_SIZE, scalar->bytes, scalar->size);
        memset(view + size, 0, ph_align(size) - size);
        ph_block_count(block, scalar->kind, size);
    }
    return obj;
}

bool
ph_scalar_equal(const void *view, const ph_scalar *scalar)
{
    return memcmp((const char *)view + PH_REFCNT_SIZE, scalar->bytes, scalar->size) == 0;
}
