/* attach.h -- being a guest in another interpreter of this process. */

#ifndef PH_INTERP_ATTACH_H
#define PH_INTERP_ATTACH_H

#include "layout/version.h"

/* An interpreter that takes guests; valid while somebody keeps it. */
typedef struct ph_host ph_host;

/* The lock of all hosts, and of the loans in loans.c.  Nothing waits while it is held,
   and nothing of Python runs. */
void ph_hosts_lock(void);
void ph_hosts_unlock(void);

/* The running interpreter as a host, made at the first call; kept.  NULL after
   ph_fail().  After ph_heap_init(). */
ph_host *ph_host_here(void);
/* Get ready for guests; in the host.  -1: there is no memory. */
int ph_host_open(ph_host *host);
/* Let nobody in any more, and wait until those inside have left.  Of the main
   interpreter: all guests of the process, wherever they are.  In the host. */
void ph_host_close(ph_host *host);

/* With the lock held: */
void ph_host_keep(ph_host *host);
void ph_host_drop(ph_host *host);
bool ph_host_is_here(const ph_host *host);      /* in the running interpreter? */
bool ph_host_is_open(const ph_host *host);
int64_t ph_host_id(const ph_host *host);        /* of the interpreter; also without */
/* Announce a guest, which ph_guest_enter() must follow.  False: it is closed. */
bool ph_host_admit(ph_host *host);

/* One stay of this thread in a host.  On the C stack. */
typedef struct ph_guest {
    struct ph_guest *outer;         /* the visit that this one was begun in */
    ph_host *host;
    PyThreadState *from;            /* suspended: where the thread came from */
    PyObject *exception;            /* that was set in the state we are using */
    uint32_t depth;                 /* of how many visits it is the innermost */
    bool made;                      /* its thread state was made for it */
} ph_guest;

/* How many visits this thread is in, one within the other. */
uint32_t ph_guest_depth(void);
/* Go there, having been admitted, and without the lock.  -1: there is no memory, and
   the admission is used up.  Any exception here stays here. */
int ph_guest_enter(ph_guest *visit, ph_host *host);
/* Go back.  No exception may be set. */
void ph_guest_leave(ph_guest *visit);
/* Clear the exception that is set, and copy its text: to be taken home. */
void ph_guest_text(char *text, size_t size);

#endif
