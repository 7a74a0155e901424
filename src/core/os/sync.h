/* sync.h -- waiting, waking and excluding each other, between threads,
   interpreters and processes that share memory.

   Everything here works on memory that all of them map at the same address, and
   survives that any of them is killed.  Conventions: as in os.h.  A point in time
   is in nanoseconds of CLOCK_MONOTONIC; PH_FOREVER never comes. */

#ifndef PH_OS_SYNC_H
#define PH_OS_SYNC_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define PH_FOREVER UINT64_MAX

uint64_t ph_os_now(void);

/* Sleep while *word == value, at most until that point in time.  0: somebody woke
   us, or the value was another; ETIMEDOUT; EINTR: a signal handler has run. */
int ph_os_wait(_Atomic uint32_t *word, uint32_t value, uint64_t until);
/* Wake all who sleep there. */
void ph_os_wake(_Atomic uint32_t *word);

/* A hint to the processor that this loop waits for another one; and whether there
   is another one for this process to wait for. */
void ph_os_relax(void);
bool ph_os_may_spin(void);

/* A lock that the kernel lets go of when its owner dies: the next owner is told
   so, and mends what is half done (pthread_mutexattr_setrobust(3)).  Not to be
   held while Python code runs.  Not recursive. */
typedef struct {
    _Alignas(64) unsigned char opaque[64];
} ph_mutex;

int ph_mutex_init(ph_mutex *mutex);
/* 0; EOWNERDEAD: locked as well, but the last owner died with it; ETIMEDOUT. */
int ph_mutex_lock(ph_mutex *mutex, uint64_t until);
/* EBUSY instead of waiting. */
int ph_mutex_try(ph_mutex *mutex);
void ph_mutex_unlock(ph_mutex *mutex);

#endif
