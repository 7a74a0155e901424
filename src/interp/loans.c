/* loans.c -- which objects are lent, by whom, and who holds them: a table of the
   process.

   A loan is an *entry* of the table: which interpreter (the owner) has the object, the
   one reference to it that the loan takes, and counts of who holds it.

   The rule of holding: the owner keeps the object while there is, in any interpreter
   of the process, a proxy of it, or a Loan that nobody has closed.  Closing ends the
   loan for all: nobody opens it any more, and only open proxies still hold.  Bytes on
   their way hold nothing: whoever sends a Loan keeps it until it has arrived.  Only
   the result of a call is held for its sender.

   Invariants:

   1. The object is touched only by a thread attached to the owner; others see the
      entry and count in it.  The last of those who hold takes the object out of the
      entry and drops the reference as a guest of the owner (attach.c).
   2. An owner that ends is closed to guests first; then it takes back all of its
      objects.  An entry without an object is over, for good.
   3. An entry lives while somebody points to it, or it has an object.

   State: the table is of the process, under ph_hosts_lock().  A forked child has none
   of its parent's loans: their names tell the process, by pid and when it was listed. */

#include "interp/loans.h"

#include <string.h>

#include "core/base/array.h"
#include "layout/thread.h"
#include "share/handle.h"
#include "core/os/os.h"

/* --- Entries ---------------------------------------------------------------------- */

#define BUCKETS 1024                /* loans are few: objects, not values */

static struct {
    ph_loan *buckets[BUCKETS];
    uint64_t last_number;
} table;

static ph_loan **
bucket_of(uint64_t number)
{
    return &table.buckets[number % BUCKETS];
}

ph_loan *
ph_loan_find(uint64_t number)
{
    ph_loan *loan = *bucket_of(number);
    while (loan != NULL && loan->number != number) {
        loan = loan->next;
    }
    return loan;
}

/* Nobody points to it, and it has no object. */
static void
remove_entry(ph_loan *loan)
{
    ph_loan **link = bucket_of(loan->number);
    while (*link != loan) {
        link = &(*link)->next;
    }
    *link = loan->next;
    ph_host_drop(loan->host);
    ph_free(loan);
}

static void
remove_if_done(ph_loan *loan)
{
    if (loan->pointers == 0 && loan->object == NULL) {
        remove_entry(loan);
    }
}

static bool
is_held(const ph_loan *loan)
{
    return loan->proxies > 0 || (loan->loans > 0 && !loan->closed);
}

bool
ph_loan_is_open(const ph_loan *loan)
{
    return loan->object != NULL && !loan->closed && ph_host_is_open(loan->host);
}

/* Whoever takes it out of the entry meanwhile drops that reference in the owner, which
   we are in: after us. */
PyObject *
ph_loan_object(ph_loan *loan)
{
    ph_hosts_lock();
    PyObject *object = Py_XNewRef(loan->object);
    ph_hosts_unlock();
    return object;
}

/* Drop the reference that was taken out of an entry, in the owner.  -1: there was no
   memory to go there. */
static int
give_back(ph_host *host, bool is_here, PyObject *object)
{
    ph_guest visit;
    if (!is_here && ph_guest_enter(&visit, host) < 0) {
        return -1;
    }
    Py_DECREF(object);
    if (!is_here) {
        ph_guest_leave(&visit);
    }
    return 0;
}

/* With the lock, which this lets go of: counts of the entry have gone down. */
static void
settle(ph_loan *loan)
{
    bool can_go = ph_is_attached();
    bool is_here = can_go && ph_host_is_here(loan->host);
    if (loan->object != NULL && !is_held(loan) && can_go
        && (is_here || ph_host_admit(loan->host))) {
        PyObject *object = loan->object;
        loan->object = NULL;
        loan->pointers++;
        ph_hosts_unlock();
        int failed = give_back(loan->host, is_here, object);
        ph_hosts_lock();
        loan->pointers--;
        if (failed && ph_host_is_open(loan->host)) {
            loan->object = object;  /* for the owner's end */
        }
    }
    remove_if_done(loan);
    ph_hosts_unlock();
}

void
ph_loan_add_proxy(ph_loan *loan)
{
    loan->pointers++;
    loan->proxies++;
}

void
ph_loan_add_name(ph_loan *loan)
{
    loan->pointers++;
    loan->loans++;
}

void
ph_loan_drop_proxy(ph_loan *loan)
{
    ph_hosts_lock();
    loan->pointers--;
    loan->proxies--;
    settle(loan);
}

void
ph_loan_drop_name(ph_loan *loan)
{
    ph_hosts_lock();
    loan->pointers--;
    loan->loans--;
    settle(loan);
}

/* The entry stays: whoever calls this has a pointer. */
void
ph_loan_close(ph_loan *loan)
{
    ph_hosts_lock();
    loan->closed = true;
    settle(loan);
}

static void
enter(ph_loan *loan, ph_host *host, PyObject *object)
{
    loan->host = host;
    ph_host_keep(host);
    loan->object = Py_NewRef(object);
    loan->number = ++table.last_number;
    ph_loan **bucket = bucket_of(loan->number);
    loan->next = *bucket;
    *bucket = loan;
}

ph_loan *
ph_loan_new(ph_host *host, PyObject *object, PyObject *loan_error)
{
    ph_loan *loan = ph_calloc(1, sizeof(*loan));
    if (loan == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    PyOS_snprintf(loan->type_name, sizeof(loan->type_name), "%s",
                  Py_TYPE(object)->tp_name);
    ph_loan_add_name(loan);
    ph_hosts_lock();
    bool is_open = ph_host_is_open(host);
    if (is_open) {
        enter(loan, host, object);
    }
    ph_hosts_unlock();
    if (!is_open) {
        ph_free(loan);
        PyErr_SetString(loan_error, "permaheap: an interpreter that is ending lends "
                        "nothing");
        return NULL;
    }
    return loan;
}

/* Take an object out of an entry of this host, or return NULL when none is left. */
static PyObject *
take_one(const ph_host *host, size_t bucket)
{
    PyObject *object = NULL;
    ph_hosts_lock();
    ph_loan *loan = table.buckets[bucket];
    while (loan != NULL && (loan->host != host || loan->object == NULL)) {
        loan = loan->next;
    }
    if (loan != NULL) {
        object = loan->object;
        loan->object = NULL;
        remove_if_done(loan);
    }
    ph_hosts_unlock();
    return object;
}

void
ph_loans_end(const ph_host *host)
{
    for (size_t bucket = 0; bucket < BUCKETS; bucket++) {
        PyObject *object;
        while ((object = take_one(host, bucket)) != NULL) {
            Py_DECREF(object);
        }
    }
}

/* Each interpreter limits only the recursion in itself, but they share one C stack. */
#define MOST_VISITS 1000

int
ph_loan_visit(ph_loan *loan, ph_guest *visit, PyObject *loan_error)
{
    if (ph_guest_depth() >= MOST_VISITS) {
        PyErr_SetString(PyExc_RecursionError, "permaheap: calls from interpreter to "
                        "interpreter are nested too deeply");
        return -1;
    }
    ph_hosts_lock();
    bool admitted = loan->object != NULL && ph_host_admit(loan->host);
    ph_hosts_unlock();
    if (!admitted) {
        PyErr_Format(loan_error, "permaheap: the owner of this %s, interpreter "
                     "%lld, has ended", loan->type_name,
                     (long long)ph_host_id(loan->host));
        return -1;
    }
    if (ph_guest_enter(visit, loan->host) < 0) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

/* --- On their way -------------------------------------------------------------------- */

static _Thread_local ph_transit *sending;

ph_transit *
ph_transit_begin(ph_transit *transit)
{
    ph_transit *before = sending;
    sending = transit;
    return before;
}

int
ph_loan_send(ph_loan *loan)
{
    if (sending == NULL || loan == NULL) {
        return 0;
    }
    if (ph_grow(&sending->loans, sending->n, &sending->size,
                sizeof(ph_loan *)) < 0) {
        PyErr_NoMemory();
        return -1;
    }
    ph_hosts_lock();
    ph_loan_add_proxy(loan);
    ph_hosts_unlock();
    sending->loans[sending->n++] = loan;
    return 0;
}

void
ph_transit_clear(ph_transit *arrived)
{
    for (size_t i = 0; i < arrived->n; i++) {
        ph_loan_drop_proxy(arrived->loans[i]);
    }
    ph_free(arrived->loans);
}

/* --- Names ------------------------------------------------------------------------- */

static uint64_t
tag_of(const ph_loan_name *name)
{
    uint64_t words[PH_LOAN_SIZE / 8];
    memcpy(words, name, PH_LOAN_SIZE);
    return ph_tag(words, PH_LOAN_SIZE / 8 - 1);
}

void
ph_loan_name_of(const ph_loan *loan, ph_loan_name *name)
{
    memcpy(name->family, ph_heap.header->family, sizeof(name->family));
    name->process = ph_os_process();
    name->owner = ph_host_id(loan->host);
    name->number = loan->number;
    name->tag = tag_of(name);
}

const char *
ph_loan_why_not_ours(const ph_loan_name *name)
{
    if (memcmp(name->family, ph_heap.header->family, sizeof(name->family)) != 0) {
        return "permaheap: this loan comes from another family of processes; an object "
               "can only be lent within its process";
    }
    if (name->tag != tag_of(name)) {
        return "permaheap: this loan is damaged or forged";
    }
    if (name->process != ph_os_process()) {
        return "permaheap: this loan comes from another process (a forked child is one, "
               "too); an object can only be lent within its process. Freeze it, or send "
               "it through a channel";
    }
    return NULL;
}
