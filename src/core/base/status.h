/* status.h -- what a core function returns: done, or what went wrong.

   A status says which kind of failure it is; the words for it, for a person, are
   kept for each thread until its next failure. */

#ifndef PH_BASE_STATUS_H
#define PH_BASE_STATUS_H

typedef enum {
    PH_OK = 0,
    PH_EXCEPTION = -1,      /* a Python exception is set */
    PH_NOMEM = -2,          /* memory, or the reservation, is used up */
    PH_SYSTEM = -3,         /* a system call failed */
    PH_FORKED = -4,         /* forked in the middle of building */
    PH_BAD_HANDLE = -5,     /* not a handle of this family, or of a released
                               block */
    PH_REFUSED = -6,        /* not now: the words say what comes first */
    /* Of channels, and without words, since they are no failures. */
    PH_EMPTY = -7,          /* nothing to receive (yet) */
    PH_FULL = -8,           /* no room to send (yet) */
    PH_CLOSED = -9,         /* no message will come, or can be sent, any more */
    PH_INTERRUPTED = -10,   /* a signal came while waiting */
} ph_status;

/* Note a failure of this thread, and return its status: return ph_fail(...). */
ph_status ph_fail(ph_status status, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Return the thread's last failure, and the words for it. */
ph_status ph_error_status(void);
const char *ph_error_text(void);

#endif
