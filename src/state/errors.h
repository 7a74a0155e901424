/* errors.h -- the one place where the core's error codes become Python
   exceptions, and the errors that name a place in the data. */

#ifndef PH_STATE_ERRORS_H
#define PH_STATE_ERRORS_H

#include "core/heap/heap.h"
#include "layout/version.h"

/* The exception classes, made by module.c for each interpreter. */
typedef struct {
    PyObject *freeze_error;         /* FreezeError, a TypeError */
    PyObject *handle_error;         /* HandleError, a ValueError */
    PyObject *message_error;        /* MessageError, a ValueError */
} ph_exceptions;

/* Raise what this thread's last ph_fail() said.  Returns -1. */
int ph_raise(const ph_exceptions *exceptions);
/* Raise the OSError for an errno, which kept us from doing something; NULL. */
PyObject *ph_raise_os(int err, const char *what);

#endif
