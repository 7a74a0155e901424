/* sync.h -- waiting, waking and locking in memory that processes share.

   Conventions: os.h.  A point in time is in nanoseconds of CLOCK_MONOTONIC; PH_FOREVER
   never comes. */

#ifndef PH_OS_SYNC_H
#define PH_OS_SYNC_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define PH_FOREVER UINT64_MAX

uint64_t ph_os_now(void);

/* --- Waiting ------------------------------------------------------------------ */

/* Sleep while *word == value, at most until that point in time.  Returns 0 if the thread
   was woken or the value is another one, ETIMEDOUT, or EINTR after a signal handler. */
int ph_os_wait(_Atomic uint32_t *word, uint32_t value, uint64_t until);
/* Wake all threads that sleep there. */
void ph_os_wake(_Atomic uint32_t *word);

/* Tell the processor that this loop waits for another processor. */
void ph_os_relax(void);
/* Return whether this process may use more than one processor.  If not, a loop that waits
   keeps the other side from running. */
bool ph_os_may_spin(void);

/* --- Locks -------------------------------------------------------------------- */

/* A lock that the kernel releases if its owner dies.  The next owner is told so, and
   mends what is half done.  Not recursive.  Do not run Python code while holding it. */
typedef struct {
    _Alignas(64) unsigned char opaque[64];
} ph_mutex;

/* Make a lock in shared memory, before any other process can see it. [fault] */
int ph_mutex_init(ph_mutex *mutex);
/* Lock, or give up at that point in time: ETIMEDOUT.  With EOWNERDEAD the caller has the
   lock too, but its last owner died with it. */
int ph_mutex_lock(ph_mutex *mutex, uint64_t until);
/* Lock without waiting: EBUSY if another thread holds the lock. */
int ph_mutex_try(ph_mutex *mutex);
void ph_mutex_unlock(ph_mutex *mutex);

#endif
