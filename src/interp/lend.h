/* lend.h -- what Python sees of lending: the types Loan and Borrowed, lend(), call(). */

#ifndef PH_INTERP_LEND_H
#define PH_INTERP_LEND_H

#include "interp/loans.h"
#include "wire/wire.h"

/* What one interpreter needs for it: a part of the module's state. */
typedef struct ph_lending {
    PyTypeObject *loan_type, *borrowed_type;
    PyObject *loan_error;           /* LoanError, a RuntimeError */
    const ph_travels *travels;
    ph_writer spare;                /* memory for the next call; zeroed while in use */
    ph_host *host;                  /* this interpreter; kept */
} ph_lending;

/* Add lend() and its types, and close this interpreter to guests when it ends. */
int ph_lend_add(PyObject *module);
int ph_lending_traverse(ph_lending *lending, visitproc visit, void *arg);
void ph_lending_clear(ph_lending *lending);
/* Add call(). */
int ph_call_add(PyObject *module);

/* A name, with a count in the entry if there is one. */
typedef struct {
    PyObject_HEAD
    ph_loan_name name;
    ph_lending *lending;            /* of this interpreter */
    ph_loan *loan;                  /* counted as a pointer and a loan; NULL: none */
} Loan;

/* A proxy. */
typedef struct {
    PyObject_HEAD
    ph_lending *lending;            /* of this interpreter */
    ph_loan *loan;                  /* counted as a pointer and a proxy; NULL: closed */
    bool writable;
    uint32_t views;                 /* that exist, or are being made */
} Borrowed;

/* Count one more proxy of what a Loan or a Borrowed names; NULL with an exception. */
ph_loan *ph_borrow(ph_lending *lending, PyObject *target);
/* The buffer of a Borrowed (borrowed_buffer.c). */
int ph_borrowed_getbuffer(PyObject *self, Py_buffer *view, int flags);
void ph_borrowed_releasebuffer(PyObject *self, Py_buffer *view);

#endif
