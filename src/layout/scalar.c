/* scalar.c -- the atoms other than str: numbers, bytes, range, and objects of datetime.

   A frozen atom other than str is a copy of a real one, apart from its reference count:
   an *image* is the bytes from the type on, with the hash filled in.  Atoms with equal
   images are equal, bit for bit, and of one type: atoms.c deduplicates by this. */

#include "layout/internal.h"

#include <string.h>

#include <datetime.h>

#include "internal/pycore_long.h"
#include "layout/datetime.h"
#include "layout/head.h"

/* --- Describing an atom --------------------------------------------------- */

/* Describe the first `size` bytes of an object where it is. */
static void
point_image(ph_image *image, PyObject *obj, size_t size, ph_kind kind)
{
    assert(size > sizeof(PyObject));
    image->bytes = (const char *)obj + PH_REFCNT_SIZE;
    image->size = size - PH_REFCNT_SIZE;
    image->kind = kind;
}

/* Describe a copy of the first `used` bytes of a template, followed by zeroes. */
static void *
copy_image(ph_image *image, const void *template, size_t used, size_t size,
           ph_kind kind)
{
    assert(size <= sizeof(image->copy) && used <= size);
    memset(image->copy, 0, sizeof(image->copy));
    memcpy(image->copy, template, used);
    image->bytes = image->copy + PH_REFCNT_SIZE;
    image->size = size - PH_REFCNT_SIZE;
    image->kind = kind;
    return image->copy;
}

static size_t
measure_int(PyObject *obj)
{
    PyLongObject *v = (PyLongObject *)obj;
    size_t digits = (size_t)_PyLong_DigitCount(v);
    return offsetof(PyLongObject, long_value.ob_digit) + digits * sizeof(digit);
}

static int
describe_datetime(PyObject *obj, ph_image *image)
{
    PyTypeObject *type = Py_TYPE(obj);
    if (PyObject_Hash(obj) == -1) {             /* fills the cache */
        return -1;
    }
    if (type == ph_datetime.date) {
        point_image(image, obj, offsetof(PyDateTime_Date, data)
                    + _PyDateTime_DATE_DATASIZE, PH_KIND_DATE);
    }
    else if (type == ph_datetime.delta) {
        point_image(image, obj, offsetof(PyDateTime_Delta, microseconds)
                    + sizeof(int), PH_KIND_TIMEDELTA);
    }
    else if (type == ph_datetime.time) {
        size_t size = offsetof(PyDateTime_Time, fold) + 1;
        copy_image(image, obj, size, size, PH_KIND_TIME);
    }
    else {
        assert(type == ph_datetime.datetime);
        size_t size = offsetof(PyDateTime_DateTime, fold) + 1;
        copy_image(image, obj, size, size, PH_KIND_DATETIME);
    }
    return 0;
}

int
ph_image_of(PyObject *obj, ph_image *image)
{
    PyTypeObject *type = Py_TYPE(obj);
    if (type == &PyLong_Type) {
        point_image(image, obj, measure_int(obj), PH_KIND_INT);
    }
    else if (type == &PyFloat_Type) {
        point_image(image, obj, sizeof(PyFloatObject), PH_KIND_FLOAT);
    }
    else if (type == &PyComplex_Type) {
        point_image(image, obj, sizeof(PyComplexObject), PH_KIND_COMPLEX);
    }
    else if (type == &PyBytes_Type) {
        (void)PyObject_Hash(obj);               /* fills the cache */
        point_image(image, obj, offsetof(PyBytesObject, ob_sval)
                    + (size_t)PyBytes_GET_SIZE(obj) + 1, PH_KIND_BYTES);
    }
    else {
        return describe_datetime(obj, image);
    }
    return 0;
}

void
ph_image_of_range(PyObject *const parts[4], ph_image *image)
{
    ph_range_object range = {.ob_base = {.ob_type = &PyRange_Type}};
    memcpy(&range.start, parts, 4 * sizeof(PyObject *));
    copy_image(image, &range, sizeof(range), sizeof(range), PH_KIND_RANGE);
}

void
ph_image_of_timezone(PyObject *const parts[2], ph_image *image)
{
    assert(ph_datetime.timezone != NULL);
    ph_timezone_object zone = {.ob_base = {.ob_type = ph_datetime.timezone}};
    zone.offset = parts[0];
    zone.name = parts[1];
    copy_image(image, &zone, sizeof(zone), sizeof(zone), PH_KIND_TIMEZONE);
}

int
ph_image_of_aware(PyObject *obj, PyObject *tzinfo, ph_image *image)
{
    if (PyObject_Hash(obj) == -1) {             /* fills the cache */
        return -1;
    }
    if (Py_TYPE(obj) == ph_datetime.time) {
        PyDateTime_Time *copy = copy_image(
            image, obj, offsetof(PyDateTime_Time, fold) + 1,
            sizeof(PyDateTime_Time), PH_KIND_TIME);
        copy->tzinfo = tzinfo;
    }
    else {
        assert(Py_TYPE(obj) == ph_datetime.datetime);
        PyDateTime_DateTime *copy = copy_image(
            image, obj, offsetof(PyDateTime_DateTime, fold) + 1,
            sizeof(PyDateTime_DateTime), PH_KIND_DATETIME);
        copy->tzinfo = tzinfo;
    }
    return 0;
}

/* --- Writing it ----------------------------------------------------------- */

PyObject *
ph_put_image(ph_block *block, const ph_image *image)
{
    size_t size = PH_REFCNT_SIZE + image->size;
    PyTypeObject *type;
    memcpy(&type, image->bytes, sizeof(type));
    char *view;
    PyObject *obj = ph_new_object(block, type, size, &view);
    if (obj != NULL) {
        memcpy(view + PH_REFCNT_SIZE, image->bytes, image->size);
        memset(view + size, 0, ph_align(size) - size);
        ph_block_count(block, image->kind, size);
    }
    return obj;
}

bool
ph_image_equal(const void *view, const ph_image *image)
{
    return memcmp((const char *)view + PH_REFCNT_SIZE, image->bytes, image->size) == 0;
}
