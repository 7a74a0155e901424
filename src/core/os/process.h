/* process.h -- which processes there are, and which of them is which.

   Conventions: os.h. */

#ifndef PH_OS_PROCESS_H
#define PH_OS_PROCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/os/memory.h"

int ph_os_pid(void);
/* Return the parent's pid; 0 if it is in another namespace. */
int ph_os_parent_pid(void);
bool ph_os_pid_exists(int pid);
/* Return the namespace that this process's pid belongs to; 0 if that cannot be told. */
uint64_t ph_os_pid_namespace(void);

/* --- Process words ------------------------------------------------------------ */

/* A process word tells a process from others that had its pid before.  It is never 0. */

/* Note that the heap begins in this process, now: in the creator, and in each child right
   after fork.  Does not read /proc, which would cost a child as much as all the rest of
   the fork. */
void ph_os_process_begins(void);
/* Return this process's word. */
uint64_t ph_os_process(void);
/* Return whether the word `process`, which a process noted for itself, may be of the same
   process as `child`, a word found by ph_os_processes(). */
bool ph_os_may_be(uint64_t process, uint64_t child);
/* Return whether that process may still have `size` bytes of addresses.  False only if
   it has surely ended, or has fewer: exec() starts with few. */
bool ph_os_process_may_have(uint64_t process, uint64_t size);
/* Return whether that process may have the file mapped.  False only if it surely has
   not. */
bool ph_os_process_may_map(uint64_t process, ph_file_id file);
/* Find the children of `parent`, or all processes (0), that may have `size` bytes of
   addresses, without zombies.  Writes up to `most` of their words, and returns how many
   there are: -1 if that cannot be told. */
int ph_os_processes(int parent, uint64_t size, uint64_t *found, int most);

/* --- SIGSEGV ------------------------------------------------------------------ */

/* Have `report` called with the address on each SIGSEGV, before the action that was set
   until now.  Once per process. */
int ph_os_on_segv(void (*report)(const void *address));
/* Write to stderr.  May be called in a signal handler. */
void ph_os_say(const char *text, size_t size);

#endif
