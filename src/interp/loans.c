/* loans.c -- which objects are lent, by which interpreter, and how often they are held: a
   table of the process.

   A loan is an *entry* of the table: which interpreter (the owner) has the object, the
   one reference to it that the loan takes, and counts of its holders.

   The rule of holding: the owner keeps the object while there is, in any interpreter of
   the process, a proxy of it, or a Loan that has not been closed.  Closing ends the loan
   for all: it cannot be opened any more, and only open proxies still hold the object.
   Bytes on their way hold nothing: the sender of a Loan must keep it until it has
   arrived.  Only the result of a call is held for its sender (ph_transit).

   Invariants:

   1. Only a thread attached to the owner touches the object; others see the entry and
      count in it.  The thread that drops the last hold takes the object out of the entry,
      attaches to the owner (attach.c), and drops the reference there.
   2. An owner that ends is closed first; then it takes back all of its objects.  An entry
      without an object is over, for good.
   3. An entry lives while a pointer to it is counted, or it has an object.
      pointers >= names + proxies.

   State: the table is of the process, under ph_interps_lock().  A forked child has none
   of its parent's loans: their names contain the process, by pid and time of start. */

#include "interp/loans.h"

#include <string.h>

#include "core/base/array.h"
#include "core/family/handle.h"
#include "core/heap/heap.h"
#include "core/os/os.h"
#include "layout/thread.h"

/* --- Entries ------------------------------------------------------------------ */

#define BUCKETS 1024                /* loans are few: they are of objects, not of values */

static struct {
    ph_loan *buckets[BUCKETS];
    uint64_t last_number;
} table;

static ph_loan **
find_bucket(uint64_t number)
{
    return &table.buckets[number % BUCKETS];
}

ph_loan *
ph_loan_find(uint64_t number)
{
    ph_loan *loan = *find_bucket(number);
    while (loan != NULL && loan->number != number) {
        loan = loan->next;
    }
    return loan;
}

static void
remove_entry(ph_loan *loan)
{
    assert(loan->pointers == 0 && loan->object == NULL);
    ph_loan **link = find_bucket(loan->number);
    while (*link != loan) {
        link = &(*link)->next;
    }
    *link = loan->next;
    ph_interp_drop(loan->owner);
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
is_loan_held(const ph_loan *loan)
{
    return loan->proxies > 0 || (loan->names > 0 && !loan->closed);
}

bool
ph_loan_is_open(const ph_loan *loan)
{
    return loan->object != NULL && !loan->closed && ph_interp_is_open(loan->owner);
}

/* If another thread takes the object out of the entry now, it drops that reference in the
   owner, to which we are attached: after us. */
PyObject *
ph_loan_object(ph_loan *loan)
{
    assert(ph_interp_is_here(loan->owner));
    ph_interps_lock();
    PyObject *object = Py_XNewRef(loan->object);
    ph_interps_unlock();
    return object;
}

/* Drop the reference that was taken out of an entry, in the owner.  -1: there is no
   memory to attach there. */
static int
drop_in_owner(ph_interp_record *owner, bool is_here, PyObject *object)
{
    ph_attachment attachment;
    if (!is_here && ph_interp_attach(&attachment, owner) < 0) {
        return -1;
    }
    assert(ph_interp_is_here(owner));
    Py_DECREF(object);
    if (!is_here) {
        ph_interp_detach(&attachment);
    }
    return 0;
}

/* Release the object if nothing holds it any more, after counts of the entry have gone
   down.  With the lock held; unlocks it. */
static void
release_if_unheld(ph_loan *loan)
{
    assert(loan->pointers >= loan->names + loan->proxies);
    bool can_go = ph_is_attached();
    bool is_here = can_go && ph_interp_is_here(loan->owner);
    if (loan->object != NULL && !is_loan_held(loan) && can_go
        && (is_here || ph_interp_guard(loan->owner))) {
        PyObject *object = loan->object;
        loan->object = NULL;
        loan->pointers++;
        ph_interps_unlock();
        int failed = drop_in_owner(loan->owner, is_here, object);
        ph_interps_lock();
        loan->pointers--;
        if (failed && ph_interp_is_open(loan->owner)) {
            loan->object = object;  /* the owner's end takes it back */
        }
    }
    remove_if_done(loan);
    ph_interps_unlock();
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
    loan->names++;
}

void
ph_loan_drop_proxy(ph_loan *loan)
{
    ph_interps_lock();
    assert(loan->pointers > 0 && loan->proxies > 0);
    loan->pointers--;
    loan->proxies--;
    release_if_unheld(loan);
}

void
ph_loan_drop_name(ph_loan *loan)
{
    ph_interps_lock();
    assert(loan->pointers > 0 && loan->names > 0);
    loan->pointers--;
    loan->names--;
    release_if_unheld(loan);
}

/* The caller has a pointer to the entry, so that stays. */
void
ph_loan_close(ph_loan *loan)
{
    ph_interps_lock();
    loan->closed = true;
    release_if_unheld(loan);
}

static void
add_entry(ph_loan *loan, ph_interp_record *owner, PyObject *object)
{
    loan->owner = owner;
    ph_interp_keep(owner);
    loan->object = Py_NewRef(object);
    loan->number = ++table.last_number;
    ph_loan **bucket = find_bucket(loan->number);
    loan->next = *bucket;
    *bucket = loan;
}

ph_loan *
ph_loan_new(ph_interp_record *owner, PyObject *object, PyObject *loan_error)
{
    ph_loan *loan = ph_calloc(1, sizeof(*loan));
    if (loan == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    PyOS_snprintf(loan->type_name, sizeof(loan->type_name), "%s",
                  Py_TYPE(object)->tp_name);
    ph_loan_add_name(loan);
    assert(ph_interp_is_here(owner));
    ph_interps_lock();
    bool is_open = ph_interp_is_open(owner);
    if (is_open) {
        add_entry(loan, owner, object);
    }
    ph_interps_unlock();
    if (!is_open) {
        ph_free(loan);
        PyErr_SetString(loan_error, "permaheap: this object cannot be lent, since its "
                        "interpreter is ending; lend it before its atexit functions run");
        return NULL;
    }
    return loan;
}

/* Take an object of this owner out of its entry.  NULL when none is left in the bucket. */
static PyObject *
take_object(const ph_interp_record *owner, size_t bucket)
{
    PyObject *object = NULL;
    ph_interps_lock();
    ph_loan *loan = table.buckets[bucket];
    while (loan != NULL && (loan->owner != owner || loan->object == NULL)) {
        loan = loan->next;
    }
    if (loan != NULL) {
        object = loan->object;
        loan->object = NULL;
        remove_if_done(loan);
    }
    ph_interps_unlock();
    return object;
}

void
ph_loans_end(const ph_interp_record *owner)
{
    assert(ph_interp_is_here(owner));
    for (size_t bucket = 0; bucket < BUCKETS; bucket++) {
        PyObject *object;
        while ((object = take_object(owner, bucket)) != NULL) {
            Py_DECREF(object);
        }
    }
}

/* Each interpreter limits only the recursion in itself, but they share one C stack. */
#define MOST_ATTACHMENTS 1000

int
ph_loan_enter(ph_loan *loan, ph_attachment *attachment, PyObject *loan_error)
{
    if (ph_attachment_depth() >= MOST_ATTACHMENTS) {
        PyErr_Format(PyExc_RecursionError, "permaheap: %d calls from interpreter to "
                     "interpreter are nested, which is the most; return from some first",
                     MOST_ATTACHMENTS);
        return -1;
    }
    ph_interps_lock();
    bool guarded = loan->object != NULL && ph_interp_guard(loan->owner);
    ph_interps_unlock();
    if (!guarded) {
        PyErr_Format(loan_error, "permaheap: this loan is over, since the owner of the %s, "
                     "interpreter %lld, has ended", loan->type_name,
                     (long long)ph_interp_id(loan->owner));
        return -1;
    }
    if (ph_interp_attach(attachment, loan->owner) < 0) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

/* --- In transit --------------------------------------------------------------- */

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
    ph_interps_lock();
    ph_loan_add_proxy(loan);
    ph_interps_unlock();
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

/* --- Names -------------------------------------------------------------------- */

static uint64_t
compute_loan_tag(const ph_loan_name *name)
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
    name->owner = ph_interp_id(loan->owner);
    name->number = loan->number;
    name->tag = compute_loan_tag(name);
}

const char *
ph_loan_why_not_ours(const ph_loan_name *name)
{
    if (memcmp(name->family, ph_heap.header->family, sizeof(name->family)) != 0) {
        return "permaheap: this loan comes from another family of processes, and an object "
               "can only be lent within its process; freeze it, or send a copy";
    }
    if (name->tag != compute_loan_tag(name)) {
        return "permaheap: these bytes of a loan are damaged or forged; pass the bytes of "
               "a Loan unchanged";
    }
    if (name->process != ph_os_process()) {
        return "permaheap: this loan comes from another process (a forked child is one, "
               "too), and an object can only be lent within its process; freeze it, or "
               "send it through a channel";
    }
    return NULL;
}
