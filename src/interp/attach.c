/* attach.c -- being a guest in another interpreter of this process.

   An interpreter's objects may only be touched by a thread that is attached to it.  A
   thread of another interpreter gets there as a *guest* of the *host*: it detaches
   from its own thread state, attaches one of the host, runs, and goes back.  Nobody
   of the host has to be there to serve it: an idle host works as well as a busy one.

   Invariants:

   1. A thread holds at most one GIL at a time, and waits for a GIL (or for guests to
      leave) holding none, and not the lock of this file.  So whoever has a GIL waits
      for no other one, and no cycle of waiting for GILs can arise: A calling into B
      calling into A is a thread that takes turns, however many do so at once.
   2. A thread has at most one thread state of ours per interpreter: if it left the
      host on its way here, it goes on with the state that it left there (as if the
      host had called itself: recursion depth, context and thread-locals are the same),
      and else with a fresh one, that ends with the visit.
   3. A host counts its guests from before they ask for its GIL until after they have
      deleted their thread state.  Once closed it admits nobody.  It is closed in its
      atexit functions, which wait for guests, detached: after them CPython aborts an
      interpreter that has other thread states ("not the last thread"), and ends or
      hangs, for good, threads that ask for its GIL.
   4. The main interpreter closes all: once the process finalizes, CPython stops any
      thread that asks for any GIL.

   An exception that is set in a suspended thread state stays with it (a proxy may be
   deallocated while one is set).

   Of the host's state a guest sees what a new thread would: threading.local and
   contextvars are empty, threading.current_thread() is a dummy for it or, in a thread
   that the host knows, that thread.  Signals are handled by the main thread when it is
   back in the main interpreter.

   Why one mechanism: 3.15 has interpreter guards that do the same as 3. and 4.; what
   works on 3.12 works there, too, and behaves the same.  Pending calls (3.12's other
   way into an interpreter) are a bounded queue that an idle interpreter does not look
   at, and in a sub-interpreter of 3.12 nobody may ever.

   What this relies on: nobody clears the interpreter's atexit functions
   (atexit._clear()) and ends it all the same while others hold what it has lent.

   State: per process, under `lock`; the chain of visits belongs to its thread.
   Children by fork: only the main interpreter is left there.  CPython deallocates the
   objects of the others with no thread state attached (and mostly dies of it). */

#include "interp/attach.h"

#include "core/heap/heap.h"
#include "core/os/os.h"
#include "core/os/sync.h"
#include "layout/thread.h"

struct ph_host {
    ph_host *next;
    PyInterpreterState *interp;
    int64_t id;                     /* of the interpreter: never used again */
    uint32_t guests;                /* admitted, and not gone again */
    uint32_t keepers;               /* those who hold a pointer */
    bool main;
    bool closed;
    uint64_t doorkeeper;            /* id of a thread state, or 0; only used in the host */
};

static struct {
    ph_mutex lock;
    bool ready;                     /* by ph_os_lock() */
    bool ending;                    /* the main interpreter is closed */
    ph_host *first;
    uint32_t waiting;               /* for guests to leave */
    _Atomic uint32_t departures;    /* changes when one left while some wait */
} hosts;

static _Thread_local ph_guest *innermost;

#define LOOK_AGAIN 200000000u       /* nanoseconds: a signal may come just before we sleep */

/* --- The lock ------------------------------------------------------------------- */

/* Threads of one process only: its owner cannot die without us. */
void
ph_hosts_lock(void)
{
    (void)ph_mutex_lock(&hosts.lock, PH_FOREVER);
}

void
ph_hosts_unlock(void)
{
    ph_mutex_unlock(&hosts.lock);
}

/* How many of the guests, of one host or (NULL) of all, are visits of this thread. */
static uint32_t
own_visits(const ph_host *host)
{
    uint32_t n = 0;
    for (const ph_guest *visit = innermost; visit != NULL; visit = visit->outer) {
        n += host == NULL || visit->host == host;
    }
    return n;
}

/* Other threads are gone, and CPython deletes all other interpreters. */
static void
after_fork_child(void)
{
    (void)ph_mutex_init(&hosts.lock);
    hosts.waiting = 0;
    for (ph_host *host = hosts.first; host != NULL; host = host->next) {
        host->guests = own_visits(host);
        host->closed = host->closed || !host->main;
    }
}

static ph_status
make_ready(void)
{
    ph_os_lock();
    int err = 0;
    if (!hosts.ready) {
        err = ph_mutex_init(&hosts.lock);
        if (err == 0) {
            err = ph_os_atfork(ph_hosts_lock, ph_hosts_unlock, after_fork_child);
        }
        hosts.ready = err == 0;
    }
    ph_os_unlock();
    return err ? ph_fail(PH_NOMEM, "permaheap: out of memory") : PH_OK;
}

/* --- Hosts ------------------------------------------------------------------------ */

static ph_host *
find(int64_t id)
{
    ph_host *host = hosts.first;
    while (host != NULL && host->id != id) {
        host = host->next;
    }
    return host;
}

static ph_host *
host_new(PyInterpreterState *interp)
{
    ph_host *host = ph_calloc(1, sizeof(*host));
    if (host == NULL) {
        (void)ph_fail(PH_NOMEM, "permaheap: out of memory");
        return NULL;
    }
    host->interp = interp;
    host->id = PyInterpreterState_GetID(interp);
    host->main = interp == PyInterpreterState_Main();
    host->next = hosts.first;
    hosts.first = host;
    return host;
}

ph_host *
ph_host_here(void)
{
    if (make_ready() != PH_OK) {
        return NULL;
    }
    PyInterpreterState *interp = PyInterpreterState_Get();
    ph_hosts_lock();
    ph_host *host = find(PyInterpreterState_GetID(interp));
    if (host == NULL) {
        host = host_new(interp);
    }
    if (host != NULL) {
        host->keepers++;
    }
    ph_hosts_unlock();
    return host;
}

void
ph_host_keep(ph_host *host)
{
    host->keepers++;
}

void
ph_host_drop(ph_host *host)
{
    if (--host->keepers > 0) {
        return;
    }
    ph_host **link = &hosts.first;
    while (*link != host) {
        link = &(*link)->next;
    }
    *link = host->next;
    ph_free(host);
}

bool
ph_host_is_here(const ph_host *host)
{
    return host->id == PyInterpreterState_GetID(PyInterpreterState_Get());
}

bool
ph_host_is_open(const ph_host *host)
{
    return !host->closed && !hosts.ending;
}

int64_t
ph_host_id(const ph_host *host)
{
    return host->id;
}

bool
ph_host_admit(ph_host *host)
{
    if (!ph_host_is_open(host)) {
        return false;
    }
    host->guests++;
    return true;
}

/* The doorkeeper is a thread state that nobody ever uses: with it the interpreter is
   never without one between two guests (PH_FIRST_STATE_RACES).  From the first loan on,
   so that who lends nothing ends as ever. */
int
ph_host_open(ph_host *host)
{
    if (PH_FIRST_STATE_RACES && !host->main && !host->closed
        && host->doorkeeper == 0) {
        PyThreadState *doorkeeper = PyThreadState_New(host->interp);
        if (doorkeeper == NULL) {
            return -1;
        }
        host->doorkeeper = PyThreadState_GetID(doorkeeper);
    }
    return 0;
}

/* It may be gone: when the process ends, CPython deletes "the" thread state of each
   interpreter that is left, before it ends that.  Its memory may be another one then,
   but ids are never used again. */
static void
dismiss_doorkeeper(ph_host *host)
{
    PyThreadState *tstate = host->doorkeeper ? PyInterpreterState_ThreadHead(host->interp)
                                             : NULL;
    while (tstate != NULL && PyThreadState_GetID(tstate) != host->doorkeeper) {
        tstate = PyThreadState_Next(tstate);
    }
    if (tstate != NULL) {
        PyThreadState_Clear(tstate);
        PyThreadState_Delete(tstate);
    }
    host->doorkeeper = 0;
}

static void
depart(ph_host *host)
{
    ph_hosts_lock();
    host->guests--;
    bool wake = hosts.waiting > 0;
    if (wake) {
        hosts.departures++;
    }
    ph_hosts_unlock();
    if (wake) {
        ph_os_wake(&hosts.departures);
    }
}

/* Guests that may leave while this thread waits for it. */
static uint32_t
others_in(const ph_host *host)
{
    uint32_t n = 0;
    for (const ph_host *each = hosts.first; each != NULL; each = each->next) {
        if (host == NULL || each == host) {
            n += each->guests;
        }
    }
    return n - own_visits(host);
}

/* The handlers of signals may be what lets a guest go. */
static void
handle_signals(PyThreadState *tstate)
{
    PyEval_RestoreThread(tstate);
    if (PyErr_CheckSignals() < 0) {
        PyErr_WriteUnraisable(NULL);
    }
    (void)PyEval_SaveThread();
}

void
ph_host_close(ph_host *host)
{
    PyThreadState *tstate = PyEval_SaveThread();
    ph_hosts_lock();
    host->closed = true;
    hosts.ending = hosts.ending || host->main;
    while (others_in(host->main ? NULL : host) > 0) {
        uint32_t seen = hosts.departures;
        hosts.waiting++;
        ph_hosts_unlock();
        (void)ph_os_wait(&hosts.departures, seen, ph_os_now() + LOOK_AGAIN);
        handle_signals(tstate);
        ph_hosts_lock();
        hosts.waiting--;
    }
    ph_hosts_unlock();
    PyEval_RestoreThread(tstate);
    dismiss_doorkeeper(host);
}

/* --- Visits ------------------------------------------------------------------------- */

/* The thread state that this thread has left in the host, or NULL. */
static PyThreadState *
suspended_in(const ph_host *host)
{
    const ph_guest *visit = innermost;
    while (visit != NULL
           && PyThreadState_GetInterpreter(visit->from) != host->interp) {
        visit = visit->outer;
    }
    return visit ? visit->from : NULL;
}

uint32_t
ph_guest_depth(void)
{
    return innermost ? innermost->depth : 0;
}

int
ph_guest_enter(ph_guest *visit, ph_host *host)
{
    PyThreadState *inside = suspended_in(host);
    visit->made = inside == NULL;
    if (inside == NULL) {
        inside = PyThreadState_New(host->interp);
        if (inside == NULL) {
            depart(host);
            return -1;
        }
    }
    visit->host = host;
    visit->from = PyEval_SaveThread();
    visit->outer = innermost;
    visit->depth = ph_guest_depth() + 1;
    innermost = visit;
    ph_attach(inside);
    visit->exception = PyErr_GetRaisedException();
    return 0;
}

void
ph_guest_leave(ph_guest *visit)
{
    assert(!PyErr_Occurred() && innermost == visit);
    PyErr_SetRaisedException(visit->exception);
    if (visit->made) {
        PyThreadState_Clear(PyThreadState_Get());   /* may run Python code */
        PyThreadState_DeleteCurrent();
    }
    else {
        (void)PyEval_SaveThread();
    }
    innermost = visit->outer;
    depart(visit->host);
    ph_attach(visit->from);
}

void
ph_guest_text(char *text, size_t size)
{
    PyObject *raised = PyErr_GetRaisedException();
    PyObject *str = PyObject_Str(raised);
    const char *utf8 = str ? PyUnicode_AsUTF8(str) : NULL;
    PyOS_snprintf(text, size, "%s: %s", Py_TYPE(raised)->tp_name, utf8 ? utf8 : "?");
    PyErr_Clear();
    Py_XDECREF(str);
    Py_DECREF(raised);
}
