/* datetime.c -- the types of datetime, and the fields of their objects.

   All code that needs CPython's datetime.h for its C API (a capsule, which each
   interpreter imports by itself) is here.  The types and the functions in the capsule
   belong to the process, whichever interpreter has imported it. */

#include "layout/datetime.h"

#include <assert.h>

#include <datetime.h>

#include "core/family/family.h"
#include "core/heap/heap.h"

ph_datetime_types ph_datetime;

/* The functions.  Written once, by the first import. */
static PyDateTime_CAPI datetime_api;

/* --- Importing ---------------------------------------------------------------- */

/* Compare the address of a type with that of the whole family, or set it.  Where
   _datetime is a shared library, a process that loads it after having been forked has
   its types at addresses of its own. */
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

bool
ph_datetime_is_importable(void)
{
#if PH_DATETIME_IN_INTERPRETERS
    return true;
#else
    return !_PyInterpreterState_HasFeature(PyInterpreterState_Get(),
                                           Py_RTFLAGS_MULTI_INTERP_EXTENSIONS);
#endif
}

/* Explain why there is no capsule: on 3.12 an interpreter with its own GIL gets
   datetime without its C types. */
static int
raise_no_datetime(void)
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
        return raise_no_datetime();
    }
    if (check_landmark(api->DateType) < 0) {
        return -1;
    }
    if (datetime_api.DateType == NULL) {
        datetime_api = *api;
    }
    assert(datetime_api.DateType == api->DateType);
    assert(datetime_api.TimeType == api->TimeType);
    assert(datetime_api.DateTimeType == api->DateTimeType);
    assert(datetime_api.DeltaType == api->DeltaType);
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

/* --- Fields ------------------------------------------------------------------- */

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

/* --- Making objects ----------------------------------------------------------- */

PyObject *
ph_date_new(const int d[3])
{
    assert(ph_datetime.date != NULL);
    return datetime_api.Date_FromDate(d[0], d[1], d[2], ph_datetime.date);
}

PyObject *
ph_time_new(const int t[5], PyObject *zone)
{
    assert(ph_datetime.time != NULL);
    return datetime_api.Time_FromTimeAndFold(t[0], t[1], t[2], t[3], zone, t[4],
                                             ph_datetime.time);
}

PyObject *
ph_datetime_new(const int d[3], const int t[5], PyObject *zone)
{
    assert(ph_datetime.datetime != NULL);
    return datetime_api.DateTime_FromDateAndTimeAndFold(
        d[0], d[1], d[2], t[0], t[1], t[2], t[3], zone, t[4], ph_datetime.datetime);
}

PyObject *
ph_delta_new(const int d[3])
{
    assert(ph_datetime.delta != NULL);
    return datetime_api.Delta_FromDelta(d[0], d[1], d[2], 1, ph_datetime.delta);
}

PyObject *
ph_timezone_new(PyObject *offset, PyObject *name)
{
    assert(ph_datetime.timezone != NULL);
    return datetime_api.TimeZone_FromTimeZone(offset, name);
}
