/* process_lock.h -- one lock for all threads of a process, and hooks around fork().

   Conventions: os.h. */

#ifndef PH_OS_PROCESS_LOCK_H
#define PH_OS_PROCESS_LOCK_H

#include <stdbool.h>

/* Lock and unlock.  Not recursive.  Do not run Python code while holding the lock. */
void ph_os_lock(void);
void ph_os_unlock(void);
/* Return whether the calling thread holds the lock.  Only for asserts: release builds do
   not define it. */
bool ph_os_is_locked(void);

/* Have these called before and after each fork() of any thread.  Each may be NULL. */
int ph_os_atfork(void (*prepare)(void), void (*parent)(void),
                 void (*child)(void));

#endif
