/* sync.c -- futex(2), and the robust mutexes of the C library.

   All of this works on memory that each process maps at the same address.  Processes may
   be killed at any instruction, also while they sleep or hold a lock.

   Invariants:

   1. A wait compares and falls asleep in one step: the kernel looks at the word again
      before the thread sleeps.  A thread that changes the word, then wakes, is not missed.
   2. A futex is not private, and a mutex is shared and robust: other processes use both.
   3. The kernel releases the mutexes of a thread that dies (pthread_mutexattr_setrobust(3)).
      The next owner gets EOWNERDEAD, which this file marks as consistent at once.  If that
      owner dies too before it has mended all, the one after it is told the same. */

#define _GNU_SOURCE
#include "core/os/sync.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "core/os/fault.h"

#define SECOND 1000000000u

_Static_assert(sizeof(pthread_mutex_t) <= sizeof(ph_mutex), "a ph_mutex holds it");

uint64_t
ph_os_now(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * SECOND + (uint64_t)now.tv_nsec;
}

static struct timespec
make_timespec(uint64_t point)
{
    return (struct timespec){.tv_sec = (time_t)(point / SECOND),
                             .tv_nsec = (long)(point % SECOND)};
}

/* Use FUTEX_WAIT_BITSET, which takes a point in time; FUTEX_WAIT takes a duration. */
int
ph_os_wait(_Atomic uint32_t *word, uint32_t value, uint64_t until)
{
    assert((uintptr_t)word % sizeof(*word) == 0);       /* or futex(2) fails */
    struct timespec point = make_timespec(until);
    long result = syscall(SYS_futex, word, FUTEX_WAIT_BITSET, value,
                          until == PH_FOREVER ? NULL : &point, NULL,
                          FUTEX_BITSET_MATCH_ANY);
    return result == 0 || errno == EAGAIN ? 0 : errno;
}

void
ph_os_wake(_Atomic uint32_t *word)
{
    assert((uintptr_t)word % sizeof(*word) == 0);
    (void)syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

void
ph_os_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

/* Ask the kernel once: the affinity of a running process rarely changes. */
bool
ph_os_may_spin(void)
{
    static _Atomic int processors;  /* 0: not asked yet */
    int n = atomic_load_explicit(&processors, memory_order_relaxed);
    if (n == 0) {
        cpu_set_t set;
        n = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 2;
        atomic_store_explicit(&processors, n, memory_order_relaxed);
    }
    return n > 1;
}

/* --- Locks -------------------------------------------------------------------- */

static pthread_mutex_t *
get_pthread_mutex(ph_mutex *mutex)
{
    assert((uintptr_t)mutex % _Alignof(ph_mutex) == 0); /* mapped memory need not be */
    return (pthread_mutex_t *)mutex->opaque;
}

int
ph_mutex_init(ph_mutex *mutex)
{
    pthread_mutexattr_t attributes;
    int err = ph_fault() ? ENOMEM : pthread_mutexattr_init(&attributes);
    if (err) {
        return err;
    }
    err = pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    if (err == 0) {
        err = pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    }
    if (err == 0) {
        err = pthread_mutex_init(get_pthread_mutex(mutex), &attributes);
    }
    (void)pthread_mutexattr_destroy(&attributes);
    return err;
}

/* Make a lock that a dead owner left usable again: invariant 3. */
static int
mark_consistent(ph_mutex *mutex, int err)
{
    if (err == EOWNERDEAD) {
        (void)pthread_mutex_consistent(get_pthread_mutex(mutex));
    }
    return err;
}

int
ph_mutex_lock(ph_mutex *mutex, uint64_t until)
{
    if (until == PH_FOREVER) {
        return mark_consistent(mutex, pthread_mutex_lock(get_pthread_mutex(mutex)));
    }
    struct timespec point = make_timespec(until);
    return mark_consistent(mutex, pthread_mutex_clocklock(get_pthread_mutex(mutex),
                                                          CLOCK_MONOTONIC, &point));
}

int
ph_mutex_try(ph_mutex *mutex)
{
    return mark_consistent(mutex, pthread_mutex_trylock(get_pthread_mutex(mutex)));
}

void
ph_mutex_unlock(ph_mutex *mutex)
{
    (void)pthread_mutex_unlock(get_pthread_mutex(mutex));
}
