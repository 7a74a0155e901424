/* processes.c -- the processes of the family, and the released blocks that each has
   forgotten.

   The header has a slot for each live process of the family.  Each slot has a *row*: for
   each entry of the table of released blocks (release.c) the stamp of the block that the
   process has forgotten there.  A stamp is used once, so a cell written for an earlier
   block of that entry says nothing, and rows need no clearing.  A process is its pid and
   the time when it joined, in one word: a slot is taken, also from a dead process, by one
   compare and swap.

        free --enlist--> taken --row and holds written--> ready --it ends--> dead
          ^                                                                    |
          +--------reclaimed, or taken over by another process-----------------+

   Invariants:

   1. A process that can see a block has a slot and is not dead, or is counted: in the
      `unborn` of its parent's slot, or in `unlisted`.
   2. A child sees what its parent saw when it forked.  The parent raises its `unborn`
      before the fork, and the child lowers it when its own slot is ready (its row is
      written, and the spans that it inherits have its bit): so there is no moment when no
      slot speaks for the child.  A slot with unborn children sees everything, and is
      neither freed nor taken over, dead or not.
   3. A child has forgotten the blocks that its parent had when it forked.  It takes them
      from `row`, private memory as old as the fork; the row in the header may be newer.
   4. A process raises `seen` before it asks the block table whether a block is live.  A
      releaser marks the block table before it looks at `seen`.  So one of them notices
      the other.
   5. `births` is raised after a slot is ready and before `unborn` is lowered.  If it is
      unchanged after a look at all slots, no child that got its slot was missed.
   6. If it cannot be told, a process counts as alive: nothing is given back that it could
      see.  It counts as gone only if the kernel says so, or if it has fewer addresses
      than the heap (exec has replaced it).
   7. A process without a slot (there are more than PH_MEMBERS, or its pid belongs to
      another namespace) is unlisted for ever: from then on nothing is given back.
   8. `holds` is the number of spans that have the slot's bit (spans.c).  The bits may
      outlive their process: the next process in the slot clears them first of all.

   State: slots and rows belong to the family, the statics below to this process, under
   ph_os_lock(). */

#include "core/heap/processes.h"

#include <string.h>

#define NO_SLOT PH_MEMBERS
#define SETTLED_ONE ((uint64_t)1 << 32)     /* in ph_member.unborn */
#define COUNT_MASK (SETTLED_ONE - 1)
#define COMING_MOST 1024                    /* processes that may_come() compares */

static uint32_t slot = NO_SLOT;
static uint32_t row[PH_RETIRED];
static uint64_t seen;                       /* as in our slot */
static uint64_t settled;                    /* SETTLED_ONE times, at our last fork */
static int forked_by = -1;                  /* pid of the process that last forked
                                               here */
static uint32_t parent = NO_SLOT;           /* our parent's slot when it forked us */

static ph_member *
member_at(uint32_t index)
{
    return &ph_heap.header->member[index];
}

static _Atomic uint32_t *
row_at(uint32_t index)
{
    return ph_address_of(ph_heap.header->rows + index * PH_ROW_SIZE);
}

static bool
has_unborn(const ph_member *member)
{
    return (atomic_load(&member->unborn) & COUNT_MASK) != 0;
}

static bool
is_dead(const ph_member *member, uint64_t process)
{
    return !has_unborn(member) && !ph_os_process_may_have(process, ph_heap.size);
}

/* --- Registering -------------------------------------------------------------- */

/* Take a slot, a free one if possible: to tell that a process is dead takes system calls.
   Prefer one whose last owner holds no spans. */
static uint32_t
take_slot(uint64_t me)
{
    uint64_t from = atomic_load(&ph_heap.header->births);
    for (int any = 0; any < 2; any++) {
        for (uint32_t i = 0; i < PH_MEMBERS; i++) {
            uint32_t index = (uint32_t)(from + i) % PH_MEMBERS;
            ph_member *member = member_at(index);
            uint64_t process = atomic_load(&member->process);
            bool clean = process == 0 && atomic_load(&member->holds) == 0;
            if ((clean || (any && (process == 0 || is_dead(member, process))))
                && atomic_compare_exchange_strong(&member->process, &process, me)) {
                return index;
            }
        }
    }
    return NO_SLOT;
}

/* If there is no memory for our row, this process has forgotten nothing: a hole in the
   file reads as zeros. */
static void
write_row(void)
{
    uint64_t n = atomic_load(&ph_heap.header->retired_used);
    uint64_t offset = ph_heap.header->rows + slot * PH_ROW_SIZE;
    if (n == 0) {
        return;                         /* no row was ever written to */
    }
    if (ph_heap_allocate_table(offset, PH_ROW_SIZE) != PH_OK) {
        memset(row, 0, sizeof(row));
        atomic_store(&member_at(slot)->has_row, 0);
        ph_heap_punch(offset, PH_ROW_SIZE);
        return;
    }
    atomic_store(&member_at(slot)->has_row, 1);
    for (uint32_t i = 0; i < PH_RETIRED; i++) {
        atomic_store(row_at(slot) + i, row[i]);
    }
}

/* If getppid() is the pid that the parent recorded for itself, both are in one pid
   namespace.  This saves most children a read of /proc. */
static bool
is_in_namespace(int parent)
{
    return parent == ph_os_parent_pid()
           || ph_os_pid_namespace() == ph_heap.header->namespace;
}

/* Take a slot, or count as unlisted.  parent: the pid of a process with a slot, or -1. */
static void
enlist(int parent)
{
    ph_header *header = ph_heap.header;
    ph_os_process_begins();
    slot = NO_SLOT;
    if (is_in_namespace(parent)) {
        slot = take_slot(ph_os_process());
    }
    if (slot == NO_SLOT) {
        atomic_fetch_add(&header->unlisted, 1);
        return;
    }
    write_row();
    atomic_store(&member_at(slot)->seen, seen);
}

/* From here on this process speaks for itself: its row and its holds are there. */
static void
be_ready(void)
{
    if (slot != NO_SLOT) {
        atomic_store(&member_at(slot)->ready, ph_os_process());
        atomic_fetch_add(&ph_heap.header->births, 1);
    }
}

void
ph_members_init(void)
{
    ph_heap.header->namespace = ph_os_pid_namespace();
    enlist(-1);
    be_ready();
}

/* --- Around a fork ------------------------------------------------------------ */

void
ph_members_before_fork(void)
{
    if (slot != NO_SLOT) {
        uint64_t before = atomic_fetch_add(&member_at(slot)->unborn, 1);
        settled = before & ~COUNT_MASK;
        forked_by = ph_os_pid();
    }
}

/* Lower `unborn` of our parent, unless it has settled the matter without us. */
static void
be_born(ph_member *member)
{
    uint64_t unborn = atomic_load(&member->unborn);
    while ((unborn & COUNT_MASK) != 0 && (unborn & ~COUNT_MASK) == settled
           && !atomic_compare_exchange_weak(&member->unborn, &unborn, unborn - 1)) {
    }
}

void
ph_members_after_fork(void)
{
    parent = slot;
    enlist(parent == NO_SLOT ? -1 : forked_by);
    if (slot != NO_SLOT) {
        atomic_fetch_add(&member_at(slot)->unborn, SETTLED_ONE);    /* see settle_one() */
    }
}

void
ph_members_born(void)
{
    be_ready();
    if (parent != NO_SLOT) {
        be_born(member_at(parent));
    }
}

static bool
is_ready(uint64_t child)
{
    for (uint32_t i = 0; i < PH_MEMBERS; i++) {
        uint64_t process = atomic_load(&member_at(i)->ready);
        if (ph_os_may_be(process, child)
            && atomic_load(&member_at(i)->process) == process) {
            return true;
        }
    }
    return false;
}

/* Is there a process that may still become ready?  Looks at children of `parent`, or of
   any process (0). */
static bool
may_come(int parent)
{
    uint64_t process[COMING_MOST];
    int n = ph_os_processes(parent, ph_heap.size, process, COMING_MOST);
    if (n < 0 || n > COMING_MOST) {
        return true;
    }
    for (int i = 0; i < n; i++) {
        if (!is_ready(process[i])
            && ph_os_process_may_have(process[i], ph_heap.size)
            && ph_os_process_may_map(process[i], ph_heap.file)) {
            return true;
        }
    }
    return false;
}

/* Discount children that will never come: the fork failed, or the child was killed before
   its first instruction.  No fork of that process is under way (it is this one, and we
   have the lock; or it is dead), so that a child that will come exists already.  `unborn`
   was read before it was known which process has the slot: taking a slot changes the high
   half. */
static void
settle_one(ph_member *member, uint64_t unborn, int parent)
{
    if (!may_come(parent)) {
        (void)atomic_compare_exchange_strong(&member->unborn, &unborn,
                                             (unborn & ~COUNT_MASK) + SETTLED_ONE);
    }
}

static void
settle(void)
{
    if (slot == NO_SLOT) {
        return;
    }
    for (uint32_t i = 0; i < PH_MEMBERS; i++) {
        ph_member *member = member_at(i);
        uint64_t unborn = atomic_load(&member->unborn);
        uint64_t process = atomic_load(&member->process);
        if ((unborn & COUNT_MASK) == 0 || process == 0) {
            continue;
        }
        if (i == slot) {
            settle_one(member, unborn, ph_os_pid());
        }
        else if (!ph_os_process_may_have(process, ph_heap.size)) {
            settle_one(member, unborn, 0);
        }
    }
}

/* --- For spans.c -------------------------------------------------------------- */

uint32_t
ph_member_slot(void)
{
    return slot;
}

bool
ph_member_has_unborn(void)
{
    return slot != NO_SLOT && has_unborn(member_at(slot));
}

uint64_t
ph_member_unborn(void)
{
    return slot != NO_SLOT ? atomic_load(&member_at(slot)->unborn) : 0;
}

void
ph_member_settle(void)
{
    settle();
}

bool
ph_member_is_gone(uint32_t index, uint64_t *p_process)
{
    *p_process = atomic_load(&member_at(index)->process);
    return *p_process == 0 || (index != slot && is_dead(member_at(index), *p_process));
}

/* --- Seeing, and forgetting --------------------------------------------------- */

static void
see(uint64_t number)
{
    if (number > seen) {
        seen = number;
        if (slot != NO_SLOT) {
            atomic_store(&member_at(slot)->seen, seen);
        }
    }
}

void
ph_member_looks(void)
{
    see(atomic_load(&ph_heap.header->numbered));
}

void
ph_member_makes(uint32_t number)
{
    see((uint64_t)number + 1);
}

ph_status
ph_member_let_go(uint32_t index, uint32_t stamp)
{
    if (slot != NO_SLOT) {
        ph_status status = ph_heap_allocate_table(
            ph_heap.header->rows + slot * PH_ROW_SIZE, PH_ROW_SIZE);
        if (status != PH_OK) {
            return status;
        }
        atomic_store(&member_at(slot)->has_row, 1);
        atomic_store(row_at(slot) + index, stamp);
    }
    row[index] = stamp;
    return PH_OK;
}

void
ph_members_bury(void)
{
    settle();
    for (uint32_t i = 0; i < PH_MEMBERS; i++) {
        ph_member *member = member_at(i);
        uint64_t process = atomic_load(&member->process);
        if (process != 0 && i != slot && is_dead(member, process)) {
            (void)atomic_compare_exchange_strong(&member->process, &process, 0);
        }
    }
}

static bool
may_see(uint32_t i, uint32_t number, uint32_t index, uint32_t stamp)
{
    const ph_member *member = member_at(i);
    uint64_t process = atomic_load(&member->process);
    if (process == 0) {
        return false;
    }
    if (has_unborn(member) || atomic_load(&member->ready) != process) {
        return true;
    }
    return number < atomic_load(&member->seen)
           && (!atomic_load(&member->has_row)
               || atomic_load(row_at(i) + index) != stamp);
}

bool
ph_members_may_see(uint32_t number, uint32_t index, uint32_t stamp)
{
    if (atomic_load(&ph_heap.header->unlisted) != 0) {
        return true;
    }
    for (uint32_t i = 0; i < PH_MEMBERS; i++) {
        if (may_see(i, number, index, stamp)) {
            return true;
        }
    }
    return false;
}
