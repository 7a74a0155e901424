/* fault.h -- failures and deaths that a test asks for.

   Conventions: os.h.  The functions marked [fault] in the headers of this folder call
   ph_fault() first, and fail as the kernel or the C library could if it returns true. */

#ifndef PH_OS_FAULT_H
#define PH_OS_FAULT_H

#include <stdbool.h>

/* Arm: the n-th [fault] call from now on fails, and all later ones if persistent.
   n = 0 disarms. */
void ph_fault_arm(long n, bool persistent);
/* Return whether a call has failed since the last ph_fault_arm(). */
bool ph_fault_fired(void);
/* Return whether this call must fail.  Only for the files of this folder. */
bool ph_fault(void);

/* Arm: the n-th death point from now on kills this process.  n = 0 disarms. */
void ph_death_arm(long n);
/* Mark a place between two steps of a change: the change must be whole in the end even if
   the process is killed here. */
void ph_death_point(void);

#endif
