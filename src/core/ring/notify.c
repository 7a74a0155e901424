/* notify.c -- waking threads that wait for several channels at once, or in an event loop.

   A ring knows its watchers as words of 64 bits, of two kinds:

       0 | tag (12) | serial (19) | slot + 1
                                    a process's word in the shared table grows, and all
                                    threads that sleep there wake: select().  The tag tells
                                    the process from the next one in its slot.  The serial
                                    number lets a thread take out its own watcher only
       1 | pid (31) | number (32)   a datagram to the abstract AF_UNIX socket of that
                                    name, one for each event loop.  It carries the ring's
                                    key, so that only the waiter for that ring looks

   Invariants:

   1. A notification says "look again", and no more; nothing depends on its arrival.
      Abstract names belong to a network namespace, and notifications do not reach from one
      into another: waiters look again by themselves periodically.
   2. A watcher whose process has ended is gone: rings give its place to others.  A few may
      be missed, by tags that are the same by chance, or pids that are used again.
   3. Both kinds do no harm when the watcher's process is gone: the word belongs to the
      table for ever, and the kernel refuses a name that no socket has.

   State: the words belong to the family (ph_process.notify). */

#include "core/ring/notify.h"

#include <assert.h>
#include <stdio.h>

#include "core/heap/processes.h"

#define SOCKET ((uint64_t)1 << 63)
#define PID_SHIFT 32
#define SERIAL_MASK 0x7ffffu
#define SERIAL_BITS 19
#define TAG_MASK 0xfffu

static uint64_t
tag_of(uint64_t process)
{
    return (process * 0x9e3779b97f4a7c15u) >> 52 & TAG_MASK;
}

bool
ph_notify_word(_Atomic uint32_t **p_word, uint64_t *p_watcher)
{
    static _Atomic uint32_t serial;
    uint32_t next = atomic_fetch_add(&serial, 1);
    uint32_t slot = ph_process_slot();
    if (slot >= PH_PROCESSES) {
        return false;
    }
    *p_word = &ph_heap.header->process[slot].notify;
    uint64_t tag = tag_of(atomic_load(&ph_heap.header->process[slot].id));
    *p_watcher = (tag << SERIAL_BITS | (next & SERIAL_MASK)) << 32 | (slot + 1);
    return true;
}

uint64_t
ph_notify_watcher(uint32_t number)
{
    return SOCKET | (uint64_t)(uint32_t)ph_os_pid() << PID_SHIFT | number;
}

size_t
ph_notify_name(uint64_t watcher, char name[PH_NOTIFY_NAME])
{
    assert(watcher & SOCKET);
    const uint8_t *family = ph_heap.header->family;
    int used = snprintf(name, PH_NOTIFY_NAME, "permaheap/");
    for (int i = 0; i < 16; i++) {
        used += snprintf(name + used, 3, "%02x", family[i]);
    }
    used += snprintf(name + used, PH_NOTIFY_NAME - (size_t)used, "/%u.%u",
                     (unsigned int)((watcher & ~SOCKET) >> PID_SHIFT),
                     (unsigned int)watcher);
    assert(used < PH_NOTIFY_NAME);      /* not cut off */
    return (size_t)used;
}

static void
notify_watcher(uint64_t watcher, uint64_t key)
{
    if (watcher & SOCKET) {
        char name[PH_NOTIFY_NAME];
        (void)ph_os_notify(name, ph_notify_name(watcher, name), key);
    }
    else if ((uint32_t)watcher - 1 < PH_PROCESSES) {
        _Atomic uint32_t *word = &ph_heap.header->process[(uint32_t)watcher - 1].notify;
        atomic_fetch_add(word, 1);
        ph_os_wake(word);
    }
}

static bool
watcher_is_gone(uint64_t watcher)
{
    if (watcher & SOCKET) {
        int pid = (int)((watcher & ~SOCKET) >> PID_SHIFT);
        return pid == 0 || !ph_os_pid_exists(pid);
    }
    uint32_t slot = (uint32_t)watcher - 1;
    if (slot >= PH_PROCESSES) {
        return true;
    }
    uint64_t process;
    ph_os_lock();
    bool gone = ph_process_is_gone(slot, &process);
    ph_os_unlock();
    return gone || tag_of(process) != watcher >> (32 + SERIAL_BITS);
}

void
ph_notify_init(void)
{
    ph_ring_is_gone = watcher_is_gone;
    ph_ring_on_notify = notify_watcher;
}
