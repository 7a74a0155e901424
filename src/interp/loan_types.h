/* loan_types.h -- the objects Loan and Borrowed, and what an interpreter keeps for them. */

#ifndef PH_INTERP_LOAN_TYPES_H
#define PH_INTERP_LOAN_TYPES_H

#include "interp/loans.h"
#include "wire/wire.h"

/* Per interpreter: a part of the module's state, written with its GIL. */
typedef struct ph_lending {
    PyTypeObject *loan_type, *borrowed_type;
    PyObject *loan_error;           /* LoanError, a RuntimeError */
    const ph_wire_state *wire;
    ph_writer spare;                /* memory for the next call; zeroed while in use */
    ph_interp_record *here;         /* of this interpreter; kept */
} ph_lending;

/* A name of an entry, and a pointer to the entry if there is one. */
typedef struct {
    PyObject_HEAD
    ph_loan_name name;
    ph_lending *lending;            /* of this interpreter */
    ph_loan *loan;                  /* counted as a pointer and a name; NULL: none */
} Loan;

/* A proxy of an object of another interpreter. */
typedef struct {
    PyObject_HEAD
    ph_lending *lending;            /* of this interpreter */
    ph_loan *loan;                  /* counted as a pointer and a proxy; NULL: closed */
    bool writable;
    uint32_t buffers;               /* that exist, or are being made; 0 when closed */
} Borrowed;

/* Raise LoanError if a proxy was closed.  -1. */
static inline int
ph_borrowed_check(const Borrowed *self)
{
    if (self->loan == NULL) {
        PyErr_SetString(self->lending->loan_error, "permaheap: this proxy was closed; open "
                        "the loan again");
        return -1;
    }
    return 0;
}

#endif
