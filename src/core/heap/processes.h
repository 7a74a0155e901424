/* processes.h -- the processes of the family, and the blocks that each has forgotten.

   Call all of these with ph_os_lock() held. */

#ifndef PH_HEAP_PROCESSES_H
#define PH_HEAP_PROCESSES_H

#include "core/heap/heap.h"

#define PH_ROW_SIZE (PH_RETIRED * sizeof(uint32_t))
#define PH_ROWS_SIZE (PH_MEMBERS * PH_ROW_SIZE)
_Static_assert(PH_ROW_SIZE % PH_PAGE == 0, "rows are whole pages");

/* --- For family.c ------------------------------------------------------------- */

void ph_members_init(void);             /* in the process that makes the heap */
void ph_members_before_fork(void);
void ph_members_after_fork(void);       /* in the child: plain C, system calls */
void ph_members_born(void);             /* likewise: its parent no longer speaks for it */

/* --- For spans.c -------------------------------------------------------------- */

/* This process's slot, or PH_MEMBERS if it has none. */
uint32_t ph_member_slot(void);
/* Has it forked children that are not ready yet? */
bool ph_member_has_unborn(void);
/* The word that counts them: another word after each fork. */
uint64_t ph_member_unborn(void);
/* Discount those that will never come. */
void ph_member_settle(void);
/* Is slot `index` without a live process?  Which one was there last: 0 if none. */
bool ph_member_is_gone(uint32_t index, uint64_t *p_process);

/* --- For blocks and their release --------------------------------------------- */

/* From now on this process can see all blocks that have a number so far. */
void ph_member_looks(void);
/* Likewise, its own new block. */
void ph_member_makes(uint32_t number);

/* This process forgets the block that entry `index` of retired[] has with this stamp.  On
   failure nothing has changed. */
ph_status ph_member_let_go(uint32_t index, uint32_t stamp);

/* Free the slots of processes that have ended.  O(processes), and reads a small file for
   each. */
void ph_members_bury(void);
/* May a process still see the block of that number, which that entry has with that stamp?
   Certain only if `births` of the header is the same before ph_members_bury() and
   afterwards.  O(processes). */
bool ph_members_may_see(uint32_t number, uint32_t index, uint32_t stamp);

#endif
