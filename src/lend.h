/* lend.h -- lending live objects to other interpreters of this process. */

#ifndef PH_LEND_H
#define PH_LEND_H

#include "guests.h"

/* What one interpreter needs for it: a part of the module's state. */
typedef struct {
    PyTypeObject *loan_type, *borrowed_type;
    PyObject *loan_error;           /* LoanError, a RuntimeError */
    PyObject *helpers;              /* the module permaheap._lend, once it is needed */
    ph_host *host;                  /* this interpreter; kept */
} ph_lending;

/* The part of a module's state; by module.c. */
ph_lending *ph_lending_of(PyObject *module);

/* Add lend(), call() and their types, and close this interpreter to guests when it
   ends. */
int ph_lend_add(PyObject *module);
int ph_lending_traverse(ph_lending *lending, visitproc visit, void *arg);
void ph_lending_clear(ph_lending *lending);

#endif
