/* processes.c -- the processes of the family, and the released blocks that each has
   forgotten.

   The header has a slot for each live process of the family.  Each slot has *acks*: for
   each entry of the table of released blocks (release.c) the stamp of the block that the
   process has forgotten there.  A stamp is used once, so a cell written for an earlier
   block of that entry says nothing, and acks need no clearing.  A process is its pid and
   the time when it joined, in one word: a slot is taken, also from a dead process, by one
   compare and swap.

        free --take_place-> taken --acks and holds there-->  ready --it ends--> dead
          ^                                                                    |
          +--------reclaimed, or taken over by another process-----------------+

   Invariants:

   1. A process that can see a block has a slot and is not dead, or is counted: in the
      `pending_forks` of its parent's slot, or in `unlisted`.
   2. A child sees what its parent saw when it forked.  The parent raises its
      `pending_forks` before the fork.  The child lowers it when its own slot is ready: its
      acks are written, and the spans that it inherits have its bit.  So there is no moment
      when no slot speaks for the child.  A slot with pending forks sees everything, and is
      neither freed nor taken over, dead or not.
   3. A child has forgotten the blocks that its parent had when it forked.  It takes them
      from `own_acks`, private memory as old as the fork; the acks in the header may be
      newer.
   4. A process raises `seen` before it asks the block table whether a block is live.  A
      releaser marks the block table before it looks at `seen`.  So one of them notices
      the other.
   5. `joins` is raised after a slot is ready and before `pending_forks` is lowered.  If it
      is unchanged after a look at all slots, no child that got its slot was missed.
   6. If it cannot be told, a process counts as alive: nothing is given back that it could
      see.  It counts as gone only if the kernel says so, or if it has fewer addresses
      than the heap (exec has replaced it).
   7. A process without a slot (there are more than PH_PROCESSES, or its pid belongs to
      another namespace) is unlisted for ever: from then on nothing is given back.
   8. `holds` is the number of spans that have the slot's bit (spans.c).  The bits may
      outlive their process: the next process in the slot clears them first of all.

   State: slots and acks belong to the family, the statics below to this process, under
   ph_os_lock(). */

#include "core/heap/processes.h"

#include <assert.h>
#include <string.h>

#define NO_SLOT PH_PROCESSES
#define EXPIRED_ONE ((uint64_t)1 << 32)     /* in ph_process.pending_forks */
#define COUNT_MASK (EXPIRED_ONE - 1)
#define COMING_MOST 1024                    /* processes that child_may_come() compares */

static uint32_t slot = NO_SLOT;
static uint32_t own_acks[PH_PENDING_RELEASES];
static uint64_t seen;                       /* as in our slot */
static uint64_t expired;                    /* EXPIRED_ONE times, at our last fork */
static int forked_by = -1;                  /* pid of the process that last forked
                                               here */
static uint32_t parent = NO_SLOT;           /* our parent's slot when it forked us */

static ph_process *
process_at(uint32_t index)
{
    assert(index < PH_PROCESSES);
    return &ph_heap.header->process[index];
}

static _Atomic uint32_t *
acks_at(uint32_t index)
{
    return ph_address_of(ph_heap.header->acks + index * PH_ACKS_SIZE);
}

static bool
has_pending_forks(const ph_process *entry)
{
    return (atomic_load(&entry->pending_forks) & COUNT_MASK) != 0;
}

static bool
process_is_dead(const ph_process *entry, uint64_t process)
{
    return !has_pending_forks(entry) && !ph_os_process_may_have(process, ph_heap.size);
}

/* --- Registering -------------------------------------------------------------- */

/* Take a slot, a free one if possible: to tell that a process is dead takes system calls.
   Prefer one whose last owner holds no spans. */
static uint32_t
take_slot(uint64_t me)
{
    uint64_t from = atomic_load(&ph_heap.header->joins);
    for (int any = 0; any < 2; any++) {
        for (uint32_t i = 0; i < PH_PROCESSES; i++) {
            uint32_t index = (uint32_t)(from + i) % PH_PROCESSES;
            ph_process *entry = process_at(index);
            uint64_t process = atomic_load(&entry->id);
            bool clean = process == 0 && atomic_load(&entry->holds) == 0;
            if ((clean || (any && (process == 0 || process_is_dead(entry, process))))
                && atomic_compare_exchange_strong(&entry->id, &process, me)) {
                return index;
            }
        }
    }
    return NO_SLOT;
}

/* If there is no memory for our acks, this process has forgotten nothing: a hole in the
   file reads as zeros. */
static void
write_acks(void)
{
    uint64_t n = atomic_load(&ph_heap.header->pending_used);
    uint64_t offset = ph_heap.header->acks + slot * PH_ACKS_SIZE;
    if (n == 0) {
        return;                         /* no acks were ever written to */
    }
    if (ph_heap_allocate_table(offset, PH_ACKS_SIZE) != PH_OK) {
        memset(own_acks, 0, sizeof(own_acks));
        atomic_store(&process_at(slot)->has_acks, 0);
        ph_heap_punch(offset, PH_ACKS_SIZE);
        return;
    }
    atomic_store(&process_at(slot)->has_acks, 1);
    for (uint32_t i = 0; i < PH_PENDING_RELEASES; i++) {
        atomic_store(acks_at(slot) + i, own_acks[i]);
    }
}

/* If getppid() is the pid that the parent recorded for itself, both are in one pid
   namespace.  This saves most children a read of /proc. */
static bool
is_in_our_namespace(int parent)
{
    return parent == ph_os_parent_pid()
           || ph_os_pid_namespace() == ph_heap.header->namespace;
}

/* Take a slot, or count as unlisted.  parent: the pid of a process with a slot, or -1. */
static void
take_place(int parent)
{
    ph_header *header = ph_heap.header;
    ph_os_process_begins();
    slot = NO_SLOT;
    if (is_in_our_namespace(parent)) {
        slot = take_slot(ph_os_process());
    }
    if (slot == NO_SLOT) {
        atomic_fetch_add(&header->unlisted, 1);
        return;
    }
    write_acks();
    atomic_store(&process_at(slot)->seen, seen);
}

/* From here on this process speaks for itself: its acks and its holds are there. */
static void
become_ready(void)
{
    if (slot != NO_SLOT) {
        assert(atomic_load(&process_at(slot)->id) == ph_os_process());
        atomic_store(&process_at(slot)->ready, ph_os_process());
        atomic_fetch_add(&ph_heap.header->joins, 1);
    }
}

void
ph_processes_init(void)
{
    assert(ph_os_is_locked());
    assert(atomic_load(&ph_heap.header->joins) == 0);   /* it is the first of the family */
    ph_heap.header->namespace = ph_os_pid_namespace();
    take_place(-1);
    become_ready();
}

/* --- Around a fork ------------------------------------------------------------ */

void
ph_processes_before_fork(void)
{
    assert(ph_os_is_locked());
    if (slot != NO_SLOT) {
        uint64_t before = atomic_fetch_add(&process_at(slot)->pending_forks, 1);
        assert((before & COUNT_MASK) != COUNT_MASK);    /* or it looks like an expiry */
        assert(atomic_load(&process_at(slot)->id) == ph_os_process());  /* not taken over */
        expired = before & ~COUNT_MASK;
        forked_by = ph_os_pid();
    }
}

/* Lower `pending_forks` of our parent, unless it has settled the matter without us. */
static void
end_pending_fork(ph_process *entry)
{
    uint64_t pending_forks = atomic_load(&entry->pending_forks);
    while ((pending_forks & COUNT_MASK) != 0 && (pending_forks & ~COUNT_MASK) == expired
           && !atomic_compare_exchange_weak(&entry->pending_forks, &pending_forks,
                                            pending_forks - 1)) {
    }
}

void
ph_processes_after_fork(void)
{
    assert(ph_os_is_locked());
    parent = slot;
    take_place(parent == NO_SLOT ? -1 : forked_by);
    if (slot != NO_SLOT) {
        atomic_fetch_add(&process_at(slot)->pending_forks, EXPIRED_ONE);
    }
}

void
ph_processes_join(void)
{
    become_ready();
    if (parent != NO_SLOT) {
        assert(parent != slot);         /* it has a pending fork: ours (invariant 2) */
        end_pending_fork(process_at(parent));
    }
}

static bool
child_is_ready(uint64_t child)
{
    for (uint32_t i = 0; i < PH_PROCESSES; i++) {
        uint64_t process = atomic_load(&process_at(i)->ready);
        if (ph_os_may_be(process, child)
            && atomic_load(&process_at(i)->id) == process) {
            return true;
        }
    }
    return false;
}

/* Return whether a process may still become ready, among the children of `parent`, or of
   any process (0). */
static bool
child_may_come(int parent)
{
    uint64_t process[COMING_MOST];
    int n = ph_os_processes(parent, ph_heap.size, process, COMING_MOST);
    if (n < 0 || n > COMING_MOST) {
        return true;
    }
    for (int i = 0; i < n; i++) {
        if (!child_is_ready(process[i])
            && ph_os_process_may_have(process[i], ph_heap.size)
            && ph_os_process_may_map(process[i], ph_heap.file)) {
            return true;
        }
    }
    return false;
}

/* Expire the forks of children that will never come: the fork failed, or the child was
   killed before its first instruction.  No fork of that process is under way (it is this
   one, and we have the lock; or it is dead), so that a child that will come exists
   already.  `pending_forks` was read before it was known which process has the slot:
   taking a slot changes the high half. */
static void
expire_forks_of(ph_process *entry, uint64_t pending_forks, int parent)
{
    if (!child_may_come(parent)) {
        (void)atomic_compare_exchange_strong(&entry->pending_forks, &pending_forks,
                                             (pending_forks & ~COUNT_MASK) + EXPIRED_ONE);
    }
}

static void
expire_all_forks(void)
{
    assert(ph_os_is_locked());          /* then no fork of ours is under way */
    if (slot == NO_SLOT) {
        return;
    }
    for (uint32_t i = 0; i < PH_PROCESSES; i++) {
        ph_process *entry = process_at(i);
        uint64_t pending_forks = atomic_load(&entry->pending_forks);
        uint64_t process = atomic_load(&entry->id);
        if ((pending_forks & COUNT_MASK) == 0 || process == 0) {
            continue;
        }
        if (i == slot) {
            expire_forks_of(entry, pending_forks, ph_os_pid());
        }
        else if (!ph_os_process_may_have(process, ph_heap.size)) {
            expire_forks_of(entry, pending_forks, 0);
        }
    }
}

/* --- For spans.c -------------------------------------------------------------- */

uint32_t
ph_process_slot(void)
{
    return slot;
}

bool
ph_process_has_pending_forks(void)
{
    return slot != NO_SLOT && has_pending_forks(process_at(slot));
}

uint64_t
ph_process_pending_forks(void)
{
    return slot != NO_SLOT ? atomic_load(&process_at(slot)->pending_forks) : 0;
}

void
ph_processes_expire_forks(void)
{
    expire_all_forks();
}

bool
ph_process_is_gone(uint32_t index, uint64_t *p_process)
{
    *p_process = atomic_load(&process_at(index)->id);
    return *p_process == 0
           || (index != slot && process_is_dead(process_at(index), *p_process));
}

/* --- Seeing, and forgetting --------------------------------------------------- */

static void
raise_seen(uint64_t number)
{
    assert(ph_os_is_locked());
    assert(number <= atomic_load(&ph_heap.header->numbered));
    assert(slot == NO_SLOT || atomic_load(&process_at(slot)->seen) == seen);
    if (number > seen) {
        seen = number;
        if (slot != NO_SLOT) {
            atomic_store(&process_at(slot)->seen, seen);
        }
    }
}

void
ph_process_has_seen_all(void)
{
    raise_seen(atomic_load(&ph_heap.header->numbered));
}

void
ph_process_has_seen(uint32_t number)
{
    raise_seen((uint64_t)number + 1);
}

ph_status
ph_process_acknowledge(uint32_t index, uint32_t stamp)
{
    assert(ph_os_is_locked());
    assert(index < PH_PENDING_RELEASES);
    assert(stamp != 0);                 /* 0 stands for an entry never acknowledged */
    if (slot != NO_SLOT) {
        ph_status status = ph_heap_allocate_table(
            ph_heap.header->acks + slot * PH_ACKS_SIZE, PH_ACKS_SIZE);
        if (status != PH_OK) {
            return status;
        }
        atomic_store(&process_at(slot)->has_acks, 1);
        atomic_store(acks_at(slot) + index, stamp);
    }
    own_acks[index] = stamp;
    return PH_OK;
}

void
ph_processes_reap(void)
{
    expire_all_forks();
    for (uint32_t i = 0; i < PH_PROCESSES; i++) {
        ph_process *entry = process_at(i);
        uint64_t process = atomic_load(&entry->id);
        if (process != 0 && i != slot && process_is_dead(entry, process)) {
            (void)atomic_compare_exchange_strong(&entry->id, &process, 0);
        }
    }
}

static bool
slot_may_see(uint32_t i, uint32_t number, uint32_t index, uint32_t stamp)
{
    const ph_process *entry = process_at(i);
    uint64_t process = atomic_load(&entry->id);
    if (process == 0) {
        return false;
    }
    if (has_pending_forks(entry) || atomic_load(&entry->ready) != process) {
        return true;
    }
    return number < atomic_load(&entry->seen)
           && (!atomic_load(&entry->has_acks)
               || atomic_load(acks_at(i) + index) != stamp);
}

bool
ph_processes_may_see(uint32_t number, uint32_t index, uint32_t stamp)
{
    assert(ph_os_is_locked());
    assert(index < PH_PENDING_RELEASES);
    if (atomic_load(&ph_heap.header->unlisted) != 0) {
        return true;
    }
    for (uint32_t i = 0; i < PH_PROCESSES; i++) {
        if (slot_may_see(i, number, index, stamp)) {
            return true;
        }
    }
    return false;
}
