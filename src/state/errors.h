/* errors.h -- the one place where the core's errors become Python exceptions.

   The core reports an error by ph_fail(): a status and a text, kept for the thread.
   ph_raise() turns the last one into the exception of that status. */

#ifndef PH_STATE_ERRORS_H
#define PH_STATE_ERRORS_H

#include "core/heap/heap.h"
#include "layout/version.h"

/* The exception classes of one interpreter, made by interpreter.c.  Owned. */
typedef struct {
    PyObject *freeze_error;         /* FreezeError, a TypeError */
    PyObject *handle_error;         /* HandleError, a ValueError */
    PyObject *message_error;        /* MessageError, a ValueError */
} ph_exceptions;

/* Raise the error of this thread's last ph_fail().  PH_EXCEPTION: an exception is set
   already, and stays.  Returns -1. */
int ph_raise(const ph_exceptions *exceptions);
/* Raise the OSError for an errno: "cannot `what`".  Returns NULL. */
PyObject *ph_raise_os(int err, const char *what);
/* Name a type for a message, with its module, but without "builtins": a str.  Runs no Python
   code.  NULL with an exception. */
PyObject *ph_type_name(PyTypeObject *type);

#endif
