/* attach.c -- attaching a thread to another interpreter of this process.

   Only a thread that is attached to an interpreter may touch its objects.  A thread of
   another interpreter gets there by itself: it detaches from its own thread state,
   attaches one of the other interpreter, runs, and goes back.  No thread of the other
   interpreter has to serve it, so an idle one works as well as a busy one.

       guard -> attach (wait for the GIL) -> run -> detach -> drop the guard

   Invariants:

   1. A thread holds at most one GIL at a time.  While it waits for a GIL, or for other
      threads to detach, it holds none, and not the lock of this file.  So waiting for
      GILs has no cycles: A calling into B calling into A is one thread that takes turns.
   2. A thread has at most one thread state of ours per interpreter.  If it left the
      interpreter on its way here, it continues with the thread state that it left there;
      otherwise with a new one, which ends with the attachment.
   3. Guards are counted from before a thread asks for the GIL until its thread state is
      deleted.  A closed interpreter gives no new guards.  It is closed by its atexit
      functions, which wait, detached, until no other thread has a guard: after them
      CPython aborts an interpreter that has other thread states, and ends or hangs
      threads that ask for its GIL.
   4. Closing the main interpreter closes all: once the process finalizes, CPython stops
      any thread that asks for any GIL.
   5. An exception that is set in a suspended thread state stays with it (a proxy may be
      deallocated while one is set).

   Signals are handled by the main thread when it is back in the main interpreter.
   3.15's interpreter guards do the same as 3 and 4; this one mechanism serves all
   versions.  It relies on atexit: no code may clear an interpreter's atexit functions
   (atexit._clear()) and end it while others hold objects that it has lent.

   State: per process, under `interps.lock`; the chain of attachments belongs to its
   thread.  A forked child has only the main interpreter; the others count as closed, and
   CPython deallocates their objects with no thread state attached. */

#include "interp/attach.h"

#include "core/heap/heap.h"
#include "core/os/os.h"
#include "core/os/sync.h"
#include "layout/thread.h"

struct ph_interp_record {
    ph_interp_record *next;
    PyInterpreterState *interp;
    int64_t id;                     /* of the interpreter: never used again */
    uint32_t guards;                /* of threads that are attached, or about to be */
    uint32_t references;            /* pointers to this record that are kept */
    bool main;
    bool closed;
    uint64_t placeholder;           /* id of a thread state, or 0; used in the
                                       interpreter */
};

static struct {
    ph_mutex lock;
    bool ready;                     /* by ph_os_lock() */
    bool ending;                    /* the main interpreter is closed */
    ph_interp_record *first;
    uint32_t waiting;               /* threads that wait for others to detach */
    _Atomic uint32_t detached;      /* changes when one detaches while some wait */
} interps;

static _Thread_local ph_attachment *innermost;

/* Nanoseconds: a signal may arrive just before a thread sleeps. */
#define LOOK_AGAIN 200000000u

/* --- The lock ----------------------------------------------------------------- */

/* Only threads of one process use it: its owner cannot die alone. */
void
ph_interps_lock(void)
{
    (void)ph_mutex_lock(&interps.lock, PH_FOREVER);
}

void
ph_interps_unlock(void)
{
    ph_mutex_unlock(&interps.lock);
}

/* Count the guards of one interpreter, or (NULL) of all, that are this thread's. */
static uint32_t
count_own_guards(const ph_interp_record *record)
{
    uint32_t n = 0;
    for (const ph_attachment *each = innermost; each != NULL; each = each->outer) {
        n += record == NULL || each->record == record;
    }
    return n;
}

/* Other threads are gone, and CPython deletes all other interpreters. */
static void
reset_interps_in_child(void)
{
    (void)ph_mutex_init(&interps.lock);
    interps.waiting = 0;
    for (ph_interp_record *each = interps.first; each != NULL; each = each->next) {
        each->guards = count_own_guards(each);
        each->closed = each->closed || !each->main;
    }
}

static ph_status
init_interps(void)
{
    ph_os_lock();
    int err = 0;
    if (!interps.ready) {
        err = ph_mutex_init(&interps.lock);
        if (err == 0) {
            err = ph_os_atfork(ph_interps_lock, ph_interps_unlock, reset_interps_in_child);
        }
        interps.ready = err == 0;
    }
    ph_os_unlock();
    return err ? ph_fail(PH_NOMEM, "permaheap: out of memory") : PH_OK;
}

/* --- Records ------------------------------------------------------------------ */

static ph_interp_record *
find_record(int64_t id)
{
    ph_interp_record *record = interps.first;
    while (record != NULL && record->id != id) {
        record = record->next;
    }
    return record;
}

static ph_interp_record *
make_record(PyInterpreterState *interp)
{
    ph_interp_record *record = ph_calloc(1, sizeof(*record));
    if (record == NULL) {
        (void)ph_fail(PH_NOMEM, "permaheap: out of memory");
        return NULL;
    }
    record->interp = interp;
    record->id = PyInterpreterState_GetID(interp);
    record->main = interp == PyInterpreterState_Main();
    record->next = interps.first;
    interps.first = record;
    return record;
}

ph_interp_record *
ph_interp_here(void)
{
    if (init_interps() != PH_OK) {
        return NULL;
    }
    PyInterpreterState *interp = PyInterpreterState_Get();
    ph_interps_lock();
    ph_interp_record *record = find_record(PyInterpreterState_GetID(interp));
    if (record == NULL) {
        record = make_record(interp);
    }
    if (record != NULL) {
        record->references++;
    }
    ph_interps_unlock();
    return record;
}

void
ph_interp_keep(ph_interp_record *record)
{
    assert(record->references > 0);
    record->references++;
}

void
ph_interp_drop(ph_interp_record *record)
{
    assert(record->references > 0);
    if (--record->references > 0) {
        return;
    }
    assert(record->guards == 0);
    ph_interp_record **link = &interps.first;
    while (*link != record) {
        link = &(*link)->next;
    }
    *link = record->next;
    ph_free(record);
}

bool
ph_interp_is_here(const ph_interp_record *record)
{
    return record->id == PyInterpreterState_GetID(PyInterpreterState_Get());
}

bool
ph_interp_is_open(const ph_interp_record *record)
{
    return !record->closed && !interps.ending;
}

int64_t
ph_interp_id(const ph_interp_record *record)
{
    return record->id;
}

/* --- Guards ------------------------------------------------------------------- */

bool
ph_interp_guard(ph_interp_record *record)
{
    if (!ph_interp_is_open(record)) {
        return false;
    }
    record->guards++;
    return true;
}

static void
drop_guard(ph_interp_record *record)
{
    ph_interps_lock();
    assert(record->guards > 0);
    record->guards--;
    bool wake = interps.waiting > 0;
    if (wake) {
        interps.detached++;
    }
    ph_interps_unlock();
    if (wake) {
        ph_os_wake(&interps.detached);
    }
}

/* Count the guards of other threads, of one interpreter or (NULL) of all. */
static uint32_t
count_other_guards(const ph_interp_record *record)
{
    uint32_t n = 0, own = count_own_guards(record);
    for (const ph_interp_record *each = interps.first; each != NULL; each = each->next) {
        if (record == NULL || each == record) {
            n += each->guards;
        }
    }
    assert(n >= own);
    return n - own;
}

/* --- Placeholders ------------------------------------------------------------- */

/* The placeholder is a thread state that is never attached: with it the interpreter is
   never without one between two attachments (PH_FIRST_STATE_RACES).  It is made for the
   first loan, so that an interpreter that lends nothing ends as usual. */
int
ph_interp_prepare(ph_interp_record *record)
{
    assert(ph_interp_is_here(record));
    if (PH_FIRST_STATE_RACES && !record->main && !record->closed
        && record->placeholder == 0) {
        PyThreadState *placeholder = PyThreadState_New(record->interp);
        if (placeholder == NULL) {
            return -1;
        }
        record->placeholder = PyThreadState_GetID(placeholder);
    }
    return 0;
}

/* It may be gone: when the process ends, CPython deletes "the" thread state of each
   interpreter that is left before it ends that interpreter.  Its memory may be that of
   another thread state then, but ids are never used again. */
static void
delete_placeholder(ph_interp_record *record)
{
    PyThreadState *tstate = record->placeholder
                            ? PyInterpreterState_ThreadHead(record->interp) : NULL;
    while (tstate != NULL && PyThreadState_GetID(tstate) != record->placeholder) {
        tstate = PyThreadState_Next(tstate);
    }
    if (tstate != NULL) {
        PyThreadState_Clear(tstate);
        PyThreadState_Delete(tstate);
    }
    record->placeholder = 0;
}

/* --- Closing ------------------------------------------------------------------ */

/* Run the handlers of signals: one of them may be what lets another thread detach. */
static void
run_signal_handlers(PyThreadState *tstate)
{
    PyEval_RestoreThread(tstate);
    if (PyErr_CheckSignals() < 0) {
        PyErr_WriteUnraisable(NULL);
    }
    (void)PyEval_SaveThread();
}

void
ph_interp_close(ph_interp_record *record)
{
    assert(ph_interp_is_here(record));
    PyThreadState *tstate = PyEval_SaveThread();
    ph_interps_lock();
    record->closed = true;
    interps.ending = interps.ending || record->main;
    while (count_other_guards(record->main ? NULL : record) > 0) {
        uint32_t seen = interps.detached;
        interps.waiting++;
        ph_interps_unlock();
        (void)ph_os_wait(&interps.detached, seen, ph_os_now() + LOOK_AGAIN);
        run_signal_handlers(tstate);
        ph_interps_lock();
        interps.waiting--;
    }
    ph_interps_unlock();
    PyEval_RestoreThread(tstate);
    delete_placeholder(record);
}

/* --- Attachments -------------------------------------------------------------- */

/* Return the thread state that this thread has left in the interpreter, or NULL. */
static PyThreadState *
find_suspended(const ph_interp_record *record)
{
    const ph_attachment *each = innermost;
    while (each != NULL && PyThreadState_GetInterpreter(each->from) != record->interp) {
        each = each->outer;
    }
    return each ? each->from : NULL;
}

uint32_t
ph_attachment_depth(void)
{
    return innermost ? innermost->depth : 0;
}

int
ph_interp_attach(ph_attachment *attachment, ph_interp_record *record)
{
    assert(ph_is_attached() && record->guards > 0);
    PyThreadState *inside = find_suspended(record);
    attachment->made = inside == NULL;
    if (inside == NULL) {
        inside = PyThreadState_New(record->interp);
        if (inside == NULL) {
            drop_guard(record);
            return -1;
        }
    }
    attachment->record = record;
    attachment->from = PyEval_SaveThread();
    attachment->outer = innermost;
    attachment->depth = ph_attachment_depth() + 1;
    innermost = attachment;
    assert(!ph_is_attached());
    ph_attach(inside);
    attachment->exception = PyErr_GetRaisedException();
    assert(ph_interp_is_here(record));
    return 0;
}

void
ph_interp_detach(ph_attachment *attachment)
{
    assert(!PyErr_Occurred() && innermost == attachment);
    assert(ph_interp_is_here(attachment->record));
    PyErr_SetRaisedException(attachment->exception);
    if (attachment->made) {
        PyThreadState_Clear(PyThreadState_Get());   /* may run Python code */
        PyThreadState_DeleteCurrent();
    }
    else {
        (void)PyEval_SaveThread();
    }
    innermost = attachment->outer;
    drop_guard(attachment->record);
    ph_attach(attachment->from);
}

void
ph_take_error_text(char *text, size_t size)
{
    PyObject *raised = PyErr_GetRaisedException();
    assert(raised != NULL);
    PyObject *str = PyObject_Str(raised);
    const char *utf8 = str ? PyUnicode_AsUTF8(str) : NULL;
    PyOS_snprintf(text, size, "%s: %s", Py_TYPE(raised)->tp_name, utf8 ? utf8 : "?");
    PyErr_Clear();
    Py_XDECREF(str);
    Py_DECREF(raised);
}
