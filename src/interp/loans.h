/* loans.h -- which objects are lent, by whom, and who holds them. */

#ifndef PH_INTERP_LOANS_H
#define PH_INTERP_LOANS_H

#include "interp/attach.h"

/* One object that is lent.  All under ph_hosts_lock(), except what never changes. */
typedef struct ph_loan {
    struct ph_loan *next;           /* in its bucket */
    ph_host *host;                  /* the owner; kept; never changes */
    uint64_t number;                /* in this process; never used again */
    PyObject *object;               /* a reference, of the owner's; NULL: over */
    uint32_t pointers;              /* to this entry: whoever has one counts itself */
    uint32_t loans, proxies;        /* of those, who hold the object */
    bool closed;                    /* loans do not hold it any more */
    char type_name[64];             /* of the object; never changes */
} ph_loan;

/* An entry that one Loan holds.  NULL with an exception: MemoryError, or this one. */
ph_loan *ph_loan_new(ph_host *host, PyObject *object, PyObject *loan_error);

/* With the lock held: */
ph_loan *ph_loan_find(uint64_t number);
bool ph_loan_is_open(const ph_loan *loan);      /* may it be opened? */
void ph_loan_add_proxy(ph_loan *loan);
void ph_loan_add_name(ph_loan *loan);

/* Without it.  These may run Python code, here or in the owner. */
void ph_loan_drop_proxy(ph_loan *loan);
void ph_loan_drop_name(ph_loan *loan);
void ph_loan_close(ph_loan *loan);
/* Take back all that this host has lent, which is the running interpreter. */
void ph_loans_end(const ph_host *host);

/* In the owner: the object, as a new reference; NULL without an exception: over. */
PyObject *ph_loan_object(ph_loan *loan);
/* Become a guest of the owner.  -1 with an exception: MemoryError, RecursionError, or
   this one. */
int ph_loan_visit(ph_loan *loan, ph_guest *visit, PyObject *loan_error);

/* What is sent: see call.c. */
typedef struct {
    ph_loan **loans;                /* each counted as a pointer and a proxy */
    size_t n, size;
} ph_transit;

/* From now on, what this thread sends is held by that (or nothing: NULL).  Returns what
   held it before. */
ph_transit *ph_transit_begin(ph_transit *transit);
/* A name is being sent.  -1 with MemoryError. */
int ph_loan_send(ph_loan *loan);
/* All has arrived. */
void ph_transit_clear(ph_transit *transit);

/* The bytes of a loan. */
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
/* Why a name cannot be one of a loan of this process; or NULL. */
const char *ph_loan_why_not_ours(const ph_loan_name *name);

#endif
