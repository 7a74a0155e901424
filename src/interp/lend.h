/* lend.h -- what Python sees of lending: lend() and the types Loan and Borrowed. */

#ifndef PH_INTERP_LEND_H
#define PH_INTERP_LEND_H

#include "interp/loan_types.h"

/* Add lend() and its types to the module, and let the end of this interpreter close it for
   the threads of others.  -1 with an exception. */
int ph_lend_add(PyObject *module);
int ph_lending_traverse(ph_lending *lending, visitproc visit, void *arg);
void ph_lending_clear(ph_lending *lending);

/* Count one more proxy of the object that a Loan or a Borrowed names.  NULL with an
   exception. */
ph_loan *ph_borrow(ph_lending *lending, PyObject *target);

#endif
