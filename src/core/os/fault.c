/* fault.c -- countdowns to a failing call and to the death of the process.

   SQLite and CPython's _testcapi.set_nomemory() test their error paths like this: a
   test arms a countdown, runs an operation, and repeats it with the next number until
   nothing fails any more.  So each call that can fail has failed once.

   Each countdown has three states:

     0        disarmed; a call costs one load and one branch beside a system call
     1        the next call fails, or the next death point kills
     n > 1    a call counts down to n - 1, and does not fail

   Invariants:

   1. Only a test arms a countdown, through the module's testing functions.
   2. A countdown belongs to the process; a forked child inherits where it stands.
   3. Counting is exact while one thread at a time makes calls.  Concurrent calls may
      skip a number, so that a test arms it where it knows which threads run. */

#define _GNU_SOURCE
#include "core/os/fault.h"

#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

/* --- Calls that fail ---------------------------------------------------------- */

static atomic_long fault_countdown;
static atomic_bool fault_persistent;
static atomic_bool fault_fired;

void
ph_fault_arm(long n, bool persistent)
{
    atomic_store(&fault_fired, false);
    atomic_store(&fault_persistent, persistent);
    atomic_store(&fault_countdown, n);
}

bool
ph_fault_fired(void)
{
    return atomic_load(&fault_fired);
}

static bool
count_fault_down(void)
{
    if (atomic_load(&fault_countdown) > 1) {
        atomic_fetch_sub(&fault_countdown, 1);
        return false;
    }
    if (!atomic_load(&fault_persistent)) {
        atomic_store(&fault_countdown, 0);
    }
    atomic_store(&fault_fired, true);
    return true;
}

bool
ph_fault(void)
{
    return atomic_load_explicit(&fault_countdown, memory_order_relaxed) != 0
           && count_fault_down();
}

/* --- Death points ------------------------------------------------------------- */

static atomic_long death_countdown;

void
ph_death_arm(long n)
{
    atomic_store(&death_countdown, n);
}

void
ph_death_point(void)
{
    if (atomic_load_explicit(&death_countdown, memory_order_relaxed) != 0
        && atomic_fetch_sub(&death_countdown, 1) == 1) {
        (void)kill(getpid(), SIGKILL);
    }
}
