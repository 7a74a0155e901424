/* thread.h -- attaching a thread to an interpreter, and asking whether it is.

   A thread that is attached holds the GIL of its interpreter and may use objects.
   Objects of interpreters that a forked child has lost are deallocated by threads
   that are not attached. */

#ifndef PH_THREAD_H
#define PH_THREAD_H

#include "layout/version.h"

#include <assert.h>

/* Is this thread attached to an interpreter? */
static inline bool
ph_is_attached(void)
{
    return PyThreadState_GetUnchecked() != NULL;
}

/* Do what PyEval_RestoreThread() does, also for a thread state that is being cleared:
   what its threading.local objects held may run Python code, and so go to other
   interpreters.  Debug builds of CPython do not attach such a thread state after
   another one was attached. */
static inline void
ph_attach(PyThreadState *tstate)
{
    assert(!ph_is_attached());
    unsigned int finalizing = tstate->_status.finalizing;
    tstate->_status.finalizing = 0;
    PyEval_RestoreThread(tstate);
    tstate->_status.finalizing = finalizing & 1;
}

#endif
