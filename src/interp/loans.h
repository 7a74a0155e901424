/* loans.h -- which objects are lent, by which interpreter, and how often they are held. */

#ifndef PH_INTERP_LOANS_H
#define PH_INTERP_LOANS_H

#include "interp/attach.h"

/* One object that is lent.  All under ph_interps_lock(), except fields that never
   change. */
typedef struct ph_loan {
    struct ph_loan *next;           /* in its bucket */
    ph_interp_record *owner;        /* kept; never changes */
    uint64_t number;                /* in this process; never used again */
    PyObject *object;               /* a reference, of the owner's; NULL: over */
    uint32_t pointers;              /* to this entry: each of its users counts itself */
    uint32_t names, proxies;        /* of these pointers, those that hold the object: of
                                       Loans, and of proxies */
    bool closed;                    /* names do not hold it any more */
    char type_name[64];             /* of the object; never changes */
} ph_loan;

/* Make an entry for an object of the running interpreter, held by one name.  NULL with an
   exception: MemoryError, or a `loan_error`. */
ph_loan *ph_loan_new(ph_interp_record *owner, PyObject *object, PyObject *loan_error);

/* With the lock held: */
ph_loan *ph_loan_find(uint64_t number);
bool ph_loan_is_open(const ph_loan *loan);      /* may it be opened? */
void ph_loan_add_proxy(ph_loan *loan);
void ph_loan_add_name(ph_loan *loan);

/* Without it.  These may run Python code, here or in the owner. */
void ph_loan_drop_proxy(ph_loan *loan);
void ph_loan_drop_name(ph_loan *loan);
void ph_loan_close(ph_loan *loan);
/* Take back all objects that the running interpreter, which is closed, has lent. */
void ph_loans_end(const ph_interp_record *owner);

/* Return the object as a new reference; in the owner.  NULL without an exception: the
   loan is over. */
PyObject *ph_loan_object(ph_loan *loan);
/* Attach this thread to the owner; ph_interp_detach() must follow.  -1 with an exception:
   MemoryError, RecursionError, or a `loan_error`. */
int ph_loan_enter(ph_loan *loan, ph_attachment *attachment, PyObject *loan_error);

/* The loans named in the result of a call, held until that has arrived: see call.c. */
typedef struct {
    ph_loan **loans;                /* each counted as a pointer and a proxy */
    size_t n, size;
} ph_transit;

/* Let `transit` hold the loans that this thread sends from now on; NULL: none.  Return
   the one before. */
ph_transit *ph_transit_begin(ph_transit *transit);
/* Note that a name is being sent.  -1 with MemoryError. */
int ph_loan_send(ph_loan *loan);
/* Drop all holds, once all has arrived. */
void ph_transit_clear(ph_transit *transit);

/* The bytes of a Loan. */
typedef struct {
    uint8_t family[16];             /* ph_header.family */
    uint64_t process;               /* ph_os_process() */
    int64_t owner;                  /* id of its interpreter */
    uint64_t number;                /* of the entry */
    uint64_t tag;                   /* of all that, under the family's key */
} ph_loan_name;

#define PH_LOAN_SIZE 48
_Static_assert(sizeof(ph_loan_name) == PH_LOAN_SIZE, "a name has no padding");

/* After ph_heap_ready(): */
void ph_loan_name_of(const ph_loan *loan, ph_loan_name *name);
/* Return why a name cannot be that of a loan of this process; or NULL. */
const char *ph_loan_why_not_ours(const ph_loan_name *name);

#endif
