/* process_lock.c -- a mutex of the C library, and pthread_atfork(3).

   The process lock guards what the core keeps for the whole process: its view of the
   heap, its open extents, its place in the table of processes.  Record locks
   on the heap's file exclude other processes; this lock excludes the other threads.

   A thread that forks takes the lock before fork() and releases it after, in the parent
   and in the child:

       prepare:  ph_os_lock()
                    fork()
       parent:   ph_os_unlock()        child:  repair its own copy, ph_os_unlock()

   Invariants:

   1. The lock is never taken twice by one thread: it would wait for itself.
   2. The thread that unlocks is the one that locked.  In a child this is the only
      thread, a copy of the one that forked; so the mark below stays right.
   3. No fork happens while another thread changes what the lock guards.  A child never
      inherits a half-done change. */

#define _GNU_SOURCE
#include "core/os/process_lock.h"

#include <assert.h>
#include <pthread.h>

static pthread_mutex_t process_lock = PTHREAD_MUTEX_INITIALIZER;

#ifndef NDEBUG

static _Thread_local bool process_lock_is_mine;

bool
ph_os_is_locked(void)
{
    return process_lock_is_mine;
}

#endif

void
ph_os_lock(void)
{
    assert(!ph_os_is_locked());
    (void)pthread_mutex_lock(&process_lock);
#ifndef NDEBUG
    process_lock_is_mine = true;
#endif
}

void
ph_os_unlock(void)
{
    assert(ph_os_is_locked());
#ifndef NDEBUG
    process_lock_is_mine = false;
#endif
    (void)pthread_mutex_unlock(&process_lock);
}

int
ph_os_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void))
{
    return pthread_atfork(prepare, parent, child);
}
