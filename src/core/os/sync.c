/* sync.c -- sync.h for Linux: futex(2), and the robust mutexes of the C
   library. */

#define _GNU_SOURCE
#include "core/os/sync.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "core/os/os.h"

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
timespec_of(uint64_t point)
{
    return (struct timespec){.tv_sec = (time_t)(point / SECOND),
                             .tv_nsec = (long)(point % SECOND)};
}

/* FUTEX_WAIT_BITSET, since its timeout is a point in time.  Not FUTEX_PRIVATE: other
   processes wait there as well. */
int
ph_os_wait(_Atomic uint32_t *word, uint32_t value, uint64_t until)
{
    struct timespec point = timespec_of(until);
    long result = syscall(SYS_futex, word, FUTEX_WAIT_BITSET, value,
                          until == PH_FOREVER ? NULL : &point, NULL,
                          FUTEX_BITSET_MATCH_ANY);
    return result == 0 || errno == EAGAIN ? 0 : errno;
}

void
ph_os_wake(_Atomic uint32_t *word)
{
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

/* Asked once: who changes the affinity of a running process rarely means this. */
bool
ph_os_may_spin(void)
{
    static _Atomic int processors;          /* 0: not asked yet */
    int n = atomic_load_explicit(&processors, memory_order_relaxed);
    if (n == 0) {
        cpu_set_t set;
        n = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 2;
        atomic_store_explicit(&processors, n, memory_order_relaxed);
    }
    return n > 1;
}

/* --- Locks ---------------------------------------------------------------------- */

static pthread_mutex_t *
inside(ph_mutex *mutex)
{
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
        err = pthread_mutex_init(inside(mutex), &attributes);
    }
    (void)pthread_mutexattr_destroy(&attributes);
    return err;
}

/* The caller mends what the lock guards; if it dies as well, the next owner is told
   again, and begins the mending anew. */
static int
locked(ph_mutex *mutex, int err)
{
    if (err == EOWNERDEAD) {
        (void)pthread_mutex_consistent(inside(mutex));
    }
    return err;
}

int
ph_mutex_lock(ph_mutex *mutex, uint64_t until)
{
    if (until == PH_FOREVER) {
        return locked(mutex, pthread_mutex_lock(inside(mutex)));
    }
    struct timespec point = timespec_of(until);
    return locked(mutex, pthread_mutex_clocklock(inside(mutex), CLOCK_MONOTONIC,
                                                 &point));
}

int
ph_mutex_try(ph_mutex *mutex)
{
    return locked(mutex, pthread_mutex_trylock(inside(mutex)));
}

void
ph_mutex_unlock(ph_mutex *mutex)
{
    (void)pthread_mutex_unlock(inside(mutex));
}
