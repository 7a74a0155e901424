/* datetime.h -- the types of datetime, and the fields of their objects.

   datetime is not imported before something needs it.  Its types must be at one
   address in the whole family, because permanent objects point to them. */

#ifndef PH_DATETIME_H
#define PH_DATETIME_H

#include "layout/version.h"

/* All NULL until this process has imported datetime; never changed after that. */
typedef struct {
    PyTypeObject *date, *time, *datetime, *delta, *timezone;
    PyObject *utc;                  /* NULL where it is not static (3.12) */
} ph_datetime_types;
extern ph_datetime_types ph_datetime;

/* Can this interpreter import datetime with its C types? */
bool ph_datetime_is_importable(void);
/* Import datetime into this interpreter and fill ph_datetime.  -1 with an exception,
   also if the rest of the family has the types at other addresses. */
int ph_datetime_import(void);
/* Do the same unless *p_has says that this interpreter has imported it, and set that. */
int ph_need_datetime(bool *p_has);

/* Read fields: year, month, day; hour, minute, second, microsecond, fold (of a time or
   a datetime); days, seconds, microseconds. */
void ph_date_fields(PyObject *obj, int fields[3]);
void ph_time_fields(PyObject *obj, int fields[5]);
void ph_delta_fields(PyObject *obj, int fields[3]);

/* Make an object of such fields.  They are checked, except those of a timedelta, which must
   be in range.  datetime must have been imported.
   `zone` can be None, `name` can be NULL.  NULL with an exception. */
PyObject *ph_date_new(const int date[3]);
PyObject *ph_time_new(const int time[5], PyObject *zone);
PyObject *ph_datetime_new(const int date[3], const int time[5], PyObject *zone);
PyObject *ph_delta_new(const int delta[3]);
PyObject *ph_timezone_new(PyObject *offset, PyObject *name);

#endif
