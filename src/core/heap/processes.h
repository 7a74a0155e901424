/* processes.h -- the processes of the family, and the blocks that each has forgotten.

   Call all of these with ph_os_lock() held, except for those that say otherwise. */

#ifndef PH_HEAP_PROCESSES_H
#define PH_HEAP_PROCESSES_H

#include "core/heap/heap.h"

#define PH_ACKS_SIZE (PH_PENDING_RELEASES * sizeof(uint32_t))
#define PH_ALL_ACKS_SIZE (PH_PROCESSES * PH_ACKS_SIZE)
_Static_assert(PH_ACKS_SIZE % PH_PAGE == 0, "acks are whole pages");

/* --- For family.c ------------------------------------------------------------- */

void ph_processes_init(void);             /* in the process that makes the heap */
void ph_processes_before_fork(void);
void ph_processes_after_fork(void);       /* in the child: plain C, system calls */
void ph_processes_join(void);             /* likewise: its parent no longer speaks for it */

/* --- For spans.c and notify.c: also without the lock -------------------------- */

/* Return this process's slot, or PH_PROCESSES if it has none. */
uint32_t ph_process_slot(void);
/* Return whether it has forks whose child is not ready yet. */
bool ph_process_has_pending_forks(void);
/* Return the word that counts them: another word after each fork. */
uint64_t ph_process_pending_forks(void);
/* Expire those whose child will never come.  With ph_os_lock() held. */
void ph_processes_expire_forks(void);
/* Return whether slot `index` is without a live process.  *p_process is the one that was
   there last: 0 if none. */
bool ph_process_is_gone(uint32_t index, uint64_t *p_process);

/* --- For blocks and their release --------------------------------------------- */

/* Note that this process can see all blocks that have a number so far. */
void ph_process_has_seen_all(void);
/* Note the same for its own new block. */
void ph_process_has_seen(uint32_t number);

/* Forget, in this process, the block that entry `index` of pending[] has with this stamp.
   On failure nothing has changed. */
ph_status ph_process_acknowledge(uint32_t index, uint32_t stamp);

/* Free the slots of processes that have ended.  O(processes), and reads a small file for
   each. */
void ph_processes_reap(void);
/* Return whether a process may still see the block of that number, which that entry has
   with that stamp.  Certain only if `joins` of the header is the same before
   ph_processes_reap() and afterwards.  O(processes). */
bool ph_processes_may_see(uint32_t number, uint32_t index, uint32_t stamp);

#endif
