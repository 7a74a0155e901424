/* processes.h -- the processes of the family, and what each has let go of. */

#ifndef PH_HEAP_PROCESSES_H
#define PH_HEAP_PROCESSES_H

#include "core/heap/heap.h"

#define PH_ROW_SIZE (PH_RETIRED * sizeof(uint32_t))
#define PH_ROWS_SIZE (PH_MEMBERS * PH_ROW_SIZE)
_Static_assert(PH_ROW_SIZE % PH_PAGE == 0, "rows are whole pages");

/* All of these with ph_os_lock() held. */

/* For heap.c: the heap's creator becomes the first member; around a fork. */
void ph_members_init(void);
void ph_members_before_fork(void);
void ph_members_after_fork(void);       /* in the child: plain C, system calls */
void ph_members_born(void);             /* its parent no longer speaks for it */

/* For spans.c: our slot, or PH_MEMBERS if we have none; whether we have forked
   children that have not said yet that they are there (the word that counts them, which
   is another one after a fork), and to look for ones that will never come; whether nobody lives in slot `index`, and who did not (0: it is free). */
uint32_t ph_member_slot(void);
bool ph_member_has_unborn(void);
uint64_t ph_member_unborn(void);
void ph_member_settle(void);
bool ph_member_is_gone(uint32_t index, uint64_t *p_process);

/* This process can see all blocks that have a number so far, from now on. */
void ph_member_looks(void);
/* Likewise, of its own block. */
void ph_member_makes(uint32_t number);

/* This process lets go of what entry `index` of retired[] has with this stamp.
   On failure nothing has changed. */
ph_status ph_member_let_go(uint32_t index, uint32_t stamp);

/* Take note of who has ended.  O(members), with a small file read for each. */
void ph_members_bury(void);
/* May somebody still see the block of that number, which that entry has with that
   stamp?  Sure when `births` of the header is the same before ph_members_bury()
   and after.  O(members). */
bool ph_members_may_see(uint32_t number, uint32_t index, uint32_t stamp);

#endif
