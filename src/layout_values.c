/* layout_values.c -- taking ordinary values apart, and making them, where the public
   API of CPython cannot, or not in all versions: for messages. */

#include "layout_internal.h"

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

void
ph_record_set(PyObject *record, Py_ssize_t i, PyObject *value)
{
    PyDictUnicodeEntry *entry =
        &DK_UNICODE_ENTRIES(((PyDictObject *)record)->ma_keys)[i];
    assert(entry->me_value == Py_None);
    entry->me_value = value;        /* None is immortal */
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
