/* spans.c -- the holders of a span, and giving it back when it has none.

   Processes and messages *hold* a span.  Its descriptor (span_table.h) has a bit for each
   process of the family (its slot in processes.c) and a count for messages.  A process
   counts for itself how often it holds the span, in all its interpreters: it sets its bit
   with the first hold, and clears it with the last.

                 ph_span_new            last hold gone             freed
        free run ----------> unbacked, live ----------> trash ----------> free run
                              then backed                  (warm, or cold again)

   The process that drops the last hold frees the span, mostly in one transaction.  Longer
   work (a channel's messages hold spans, pages are given back) is done outside of the
   lock: the span is *trash* then, with the bit of the one process that cleans it up.

   Invariants:

   1. Shared words are changed in transactions of the journal, except for `backed`: the only
      holder of a span writes that when all its pages have memory (and are zeros, if asked
      for).  A span that was never backed is given back, not kept.
   2. The bit of a process is set while it holds the span, and longer: a process with
      pending forks clears no bits, since its children inherit its holds at the fork
      (invariant 2 of processes.c).  Only the process itself sets its bit.  The process
      clears it, or another one when it is dead, or the next process in the slot.
   3. A child sets its own bits before its parent stops to speak for it.
   4. `holds` of a process is the number of its bits.
   5. A channel's memory does not change once it is trash.  The holds of its messages are
      dropped in the order in which ph_span_empty_channel() names them; `emptied` counts
      them, in the same transactions.  So a process that begins again knows where to go on.
   6. Slow calls are made outside of the locks: memory for a span is allocated when the span
      is ours already.  A forked child forgets the spans that other threads of its parent
      were making just then.
   7. If a process that cleans up trash dies, its bit is a dead process's, and the process
      that clears it cleans up.
   8. Free memory is kept for the next span, up to `keep_most` bytes in all: KEEP_MOST, or
      an eighth of the memory available to the first process that asked.  More is given
      back at once; all of it, when a process finds no memory.
   9. A cold run is a hole of the file, so that its next span begins with zeros.  Memory is
      given back through the mapping, since the program may have closed the descriptor.
      If the kernel does not take it, the span stays trash until the next sweep.

   State: the table belongs to the family, the statics below to this process, under
   ph_os_lock() except for those that say otherwise. */

#include "core/span/spans.h"

#include <assert.h>
#include <string.h>

#include "core/heap/extents.h"
#include "core/heap/processes.h"
#include "core/span/span_table.h"

#define KEEP_MOST (256 * PH_MIB)
#define GROW_BY (64 * PH_MIB)
#define SWEEP_EVERY (16 * PH_MIB)   /* bytes of new memory that this process asks for; */
#define SWEEP_SHARE (64 * PH_KIB)   /* a span counts as this many even if it needs none */
#define AWAIT_MOST 10000000u        /* nanoseconds; and at a time */
#define AWAIT_STEP 50000u
#define BIT_WORDS (PH_PROCESSES / 64)
#define NOTHING UINT32_MAX          /* end of the list of trash */

static _Atomic uint32_t holds[PH_RUNS];     /* how often we hold each; of a span that
                                               we hold also read without the lock */
static uint32_t held[PH_RUNS];              /* those that we hold, in no order, */
static uint32_t held_ones;                  /* how many, */
static uint32_t place[PH_RUNS];             /* and where each is among them */
static uint32_t next_trash[PH_RUNS];        /* spans that we must clean up: a list */
static _Atomic uint32_t first_trash = NOTHING;
static uint32_t first_put_off = NOTHING;    /* and of those that wait for the next sweep */
static uint64_t making[PH_RUNS / 64];       /* bits: being made, outside of the lock */
static uint32_t making_ones;                /* how many of them */
static uint64_t late[PH_RUNS / 64];         /* bits: dropped, but see invariant 2 */
static _Atomic uint32_t late_ones;
static _Atomic uint64_t since_sweep;        /* bytes: see SWEEP_EVERY; without a lock */

void (*ph_span_empty_channel)(void *memory, void (*drop)(ph_span_id id));

/* The channel that this thread empties, and how many of its holds were dropped before. */
static _Thread_local uint64_t emptying, to_skip;

static void
set_bit(uint64_t *bits, uint64_t index, bool value)
{
    uint64_t bit = (uint64_t)1 << index % 64;
    bits[index / 64] = value ? bits[index / 64] | bit : bits[index / 64] & ~bit;
}

static bool
has_bit(const uint64_t *bits, uint64_t index)
{
    return bits[index / 64] >> index % 64 & 1;
}

static ph_process *
process_slot(uint32_t slot)
{
    assert(slot < PH_PROCESSES);
    return &ph_heap.header->process[slot];
}

static bool
has_holder(const ph_span_run *run, uint32_t slot)
{
    return run->holders[slot / 64] >> slot % 64 & 1;
}

static void
count_hold(uint64_t index)
{
    assert(ph_os_is_locked());
    assert(has_holder(ph_run_at(index), ph_process_slot()));    /* invariant 2 */
    if (has_bit(late, index)) {
        set_bit(late, index, false);
        late_ones--;
    }
    if (holds[index]++ == 0) {
        place[index] = held_ones;
        held[held_ones++] = (uint32_t)index;
    }
}

static void
forget_holds(uint64_t index)
{
    assert(ph_os_is_locked());
    assert(holds[index] > 0 && held[place[index]] == index);
    holds[index] = 0;
    uint32_t last = held[--held_ones];
    held[place[index]] = last;
    place[last] = place[index];
}

/* --- Inside of transactions: holds -------------------------------------------- */

static void
set_holder(ph_span_run *run, uint32_t slot, bool value)
{
    assert(!value || slot == ph_process_slot());    /* invariant 2 */
    if (has_holder(run, slot) != value) {
        _Atomic uint64_t *word = &run->holders[slot / 64];
        _Atomic uint64_t *count = &process_slot(slot)->holds;
        assert(value || *count > 0);                /* invariant 4 */
        ph_run_put(word, *word ^ (uint64_t)1 << slot % 64);
        ph_run_put(count, value ? *count + 1 : *count - 1);
    }
}

static bool
has_any_holder(const ph_span_run *run)
{
    uint64_t any = run->messages;
    for (uint32_t i = 0; i < BIT_WORDS; i++) {
        any |= run->holders[i];
    }
    return any != 0;
}

static void
count_live(const ph_span_run *run, bool more)
{
    ph_spans_head *head = ph_spans_table();
    uint64_t bytes = run->pages * PH_PAGE;
    assert(ph_run_state_of(run) == PH_RUN_LIVE);
    assert(more || (head->live > 0 && head->bytes >= bytes));
    ph_run_put(&head->live, more ? head->live + 1 : head->live - 1);
    ph_run_put(&head->bytes, more ? head->bytes + bytes : head->bytes - bytes);
}

static bool
may_keep(const ph_span_run *run)
{
    const ph_spans_head *head = ph_spans_table();
    return run->backed && head->kept + run->pages * PH_PAGE <= head->keep_most;
}

/* Set our bit: this process cleans it up after the transaction. */
static void
make_trash(uint64_t index, uint32_t generation, ph_span_kind kind)
{
    ph_span_run *run = ph_run_at(index);
    assert(!has_any_holder(run));                   /* one process cleans it up */
    ph_run_set_state(run, generation, kind, PH_RUN_TRASH);
    set_holder(run, ph_process_slot(), true);
    next_trash[index] = first_trash;
    first_trash = (uint32_t)index;
}

/* Free it, or have it freed, if it has no holder any more. */
static uint64_t
free_if_unheld(uint64_t index)
{
    ph_span_run *run = ph_run_at(index);
    ph_run_state state = ph_run_state_of(run);
    assert(ph_journal_is_open());
    if (has_any_holder(run) || (state != PH_RUN_LIVE && state != PH_RUN_TRASH)) {
        return 0;
    }
    uint64_t bytes = run->pages * PH_PAGE;
    ph_span_kind kind = ph_run_kind_of(run);
    uint32_t generation = ph_run_generation_of(run);
    if (state == PH_RUN_LIVE) {
        count_live(run, false);
        generation++;
    }
    if (kind == PH_SPAN_CHANNEL || !may_keep(run)) {
        make_trash(index, generation, kind);
    }
    else {
        ph_run_set_state(run, generation, PH_SPAN_FREE, PH_RUN_NONE);
        ph_runs_free(index, true);
    }
    return bytes;
}

/* Return the live span of that name, of any kind except PH_SPAN_FREE; 0 if there is none.
   Reads only the table, whatever the name is. */
static uint64_t
find_live(ph_span_id id)
{
    if (id.index == 0 || id.index >= PH_RUNS
        || id.index > atomic_load(&ph_spans_table()->used)) {
        return 0;
    }
    const ph_span_run *run = ph_run_at(id.index);
    return ph_run_state_of(run) == PH_RUN_LIVE
           && ph_run_generation_of(run) == id.generation ? id.index : 0;
}

/* --- Cleaning up -------------------------------------------------------------- */

/* Drop one hold of a message: ph_span_empty_channel() calls this for each of them. */
static void
drop_for_message(ph_span_id id)
{
    if (to_skip > 0) {
        to_skip--;
        return;
    }
    if (ph_journal_begin() != PH_OK) {
        return;
    }
    assert(ph_run_state_of(ph_run_at(emptying)) == PH_RUN_TRASH);       /* invariant 5 */
    _Atomic uint64_t *emptied = &ph_run_at(emptying)->emptied;
    uint64_t index = find_live(id);
    ph_run_put(emptied, *emptied + 1);
    if (index != 0 && ph_run_at(index)->messages > 0) {
        ph_run_put(&ph_run_at(index)->messages, ph_run_at(index)->messages - 1);
        (void)free_if_unheld(index);
    }
    ph_journal_commit();
}

static uint64_t
pop_trash(void)
{
    uint64_t index = 0;
    ph_os_lock();
    if (first_trash != NOTHING) {
        index = first_trash;
        if (ph_heap_map_spans(ph_run_at(index)->offset) == PH_OK) {
            first_trash = next_trash[index];
        }
        else {
            index = 0;                      /* another time */
        }
    }
    ph_os_unlock();
    return index;
}

static bool
free_trash(uint64_t index, bool warm)
{
    ph_span_run *run = ph_run_at(index);
    if (ph_journal_begin() != PH_OK) {
        return true;
    }
    bool done = !warm || may_keep(run);
    if (done) {
        set_holder(run, ph_process_slot(), false);
        ph_runs_free(index, warm);
    }
    ph_journal_commit();
    return done;
}

/* Leave trash for the next sweep: its memory could not be given back. */
static void
put_off(uint64_t index)
{
    ph_os_lock();
    next_trash[index] = first_put_off;
    first_put_off = (uint32_t)index;
    ph_os_unlock();
}

static void
take_up_put_off(void)
{
    ph_os_lock();
    while (first_put_off != NOTHING) {
        uint32_t index = first_put_off;
        first_put_off = next_trash[index];
        next_trash[index] = first_trash;
        first_trash = index;
    }
    ph_os_unlock();
}

static void
clean_up_one(uint64_t index)
{
    ph_span_run *run = ph_run_at(index);
    bool backed = atomic_load(&run->backed);
    assert(ph_run_state_of(run) == PH_RUN_TRASH);
    assert(has_holder(run, ph_process_slot()));     /* invariant 7 */
    if (backed && ph_run_kind_of(run) == PH_SPAN_CHANNEL) {
        emptying = index;
        to_skip = run->emptied;
        ph_span_empty_channel(ph_address_of(run->offset), drop_for_message);
        ph_death_point();
    }
    if (backed && free_trash(index, true)) {
        return;
    }
    bool had_memory = backed || ph_run_kind_of(run) == PH_SPAN_FREE;
    atomic_store(&run->backed, 0);
    ph_death_point();
    if (!ph_heap_punch_spans(run->offset, run->pages * PH_PAGE)) {
        put_off(index);
        return;
    }
    if (had_memory) {
        ph_heap_count_given_back(run->pages * PH_PAGE);
    }
    ph_death_point();
    (void)free_trash(index, false);
}

static void
clean_up(void)
{
    while (atomic_load_explicit(&first_trash, memory_order_relaxed) != NOTHING) {
        uint64_t index = pop_trash();
        if (index == 0) {
            break;
        }
        clean_up_one(index);
    }
}

/* Clear a bit of ours, now, or later if a child may be on its way that inherits it. */
static uint64_t
clear_our_bit(uint64_t index)
{
    assert(holds[index] == 0);
    bool wait = ph_process_has_pending_forks();
    if (wait != has_bit(late, index)) {
        set_bit(late, index, wait);
        late_ones = wait ? late_ones + 1 : late_ones - 1;
    }
    if (wait) {
        return 0;
    }
    set_holder(ph_run_at(index), ph_process_slot(), false);
    return free_if_unheld(index);
}

/* Clear the bits of spans that were dropped while forks were pending. */
static uint64_t
clear_late_bits(void)
{
    uint64_t bytes = 0;
    for (uint64_t i = 0; i < PH_RUNS && late_ones > 0
                         && !ph_process_has_pending_forks(); i++) {
        if (has_bit(late, i) && ph_journal_begin() == PH_OK) {
            if (has_bit(late, i)) {         /* not yet by another thread */
                bytes += clear_our_bit(i);
            }
            ph_journal_commit();
        }
    }
    return bytes;
}

/* A span dropped right after a fork may still be inherited by a child that is not ready
   yet.  Wait for it briefly, so that it can become the only holder; wait only once for a
   child that never comes. */
static void
await_children(void)
{
    static _Atomic uint32_t never;              /* no thread wakes us */
    static _Atomic uint64_t gave_up;
    uint64_t pending_forks = ph_process_pending_forks(), now = ph_os_now();
    uint64_t until = now + AWAIT_MOST;
    if (pending_forks == atomic_load(&gave_up)) {
        return;
    }
    for (; ph_process_has_pending_forks() && now < until; now = ph_os_now()) {
        (void)ph_os_wait(&never, 0, now + AWAIT_STEP);
    }
    atomic_store(&gave_up, ph_process_has_pending_forks() ? ph_process_pending_forks() : 0);
}

static void
tidy_up(void)
{
    if (late_ones > 0) {
        await_children();
        (void)clear_late_bits();
    }
    clean_up();
}

uint64_t
ph_spans_give_back(void)
{
    uint64_t bytes = 0, index = 0;
    do {
        if (ph_process_slot() == PH_PROCESSES || ph_spans_table()->kept == 0
            || ph_journal_begin() != PH_OK) {
            break;
        }
        index = ph_runs_take_warm();
        if (index != 0) {
            ph_span_run *run = ph_run_at(index);
            bytes += run->pages * PH_PAGE;
            ph_run_put(&run->backed, 0);
            make_trash(index, ph_run_generation_of(run), PH_SPAN_FREE);
        }
        ph_journal_commit();
        clean_up();
    } while (index != 0);
    return bytes;
}

/* --- Sweeping ----------------------------------------------------------------- */

/* Slots of processes that are gone and hold something: a bit for each, and the process. */
typedef struct {
    uint64_t bits[BIT_WORDS];
    uint64_t process[PH_PROCESSES];
    bool any;
} gone_processes;

static void
find_gone(gone_processes *gone)
{
    memset(gone->bits, 0, sizeof(gone->bits));
    gone->any = false;
    for (uint32_t i = 0; i < PH_PROCESSES; i++) {
        if (atomic_load(&process_slot(i)->holds) != 0
            && ph_process_is_gone(i, &gone->process[i])) {
            set_bit(gone->bits, i, true);
            gone->any = true;
        }
    }
}

static bool
has_gone_holder(const ph_span_run *run, const gone_processes *gone)
{
    uint64_t any = 0;
    for (uint32_t i = 0; i < BIT_WORDS; i++) {
        any |= run->holders[i] & gone->bits[i];
    }
    return any != 0;
}

/* All of them are cleared in one transaction, which also frees the span: the journal has
   room for a count of each process, and for each word of bits. */
_Static_assert(PH_PROCESSES + BIT_WORDS + 256 <= PH_JOURNAL_MOST,
               "all holders may be gone");

/* Clear these holders inside of a transaction.  A process that has taken over such a slot
   since clears its bits itself. */
static uint64_t
clear_gone_holders(uint64_t index, const gone_processes *gone)
{
    ph_span_run *run = ph_run_at(index);
    for (uint32_t i = 0; i < BIT_WORDS; i++) {
        uint64_t kept = run->holders[i];
        for (uint64_t bits = kept & gone->bits[i]; bits != 0; bits &= bits - 1) {
            uint32_t slot = 64 * i + (uint32_t)__builtin_ctzll(bits);
            ph_process *entry = process_slot(slot);
            assert(slot != ph_process_slot() && entry->holds > 0);
            if (atomic_load(&entry->id) == gone->process[slot]) {
                kept &= ~((uint64_t)1 << slot % 64);
                ph_run_put(&entry->holds, entry->holds - 1);
            }
        }
        ph_run_put(&run->holders[i], kept);
    }
    return free_if_unheld(index);
}

uint64_t
ph_spans_sweep(void)
{
    if (ph_heap.state != PH_OK || ph_process_slot() == PH_PROCESSES) {
        return 0;
    }
    atomic_store(&since_sweep, 0);
    ph_os_lock();
    ph_processes_expire_forks();
    ph_os_unlock();
    uint64_t bytes = clear_late_bits();
    gone_processes gone;
    find_gone(&gone);
    uint64_t used = gone.any ? atomic_load(&ph_spans_table()->used) : 0;
    for (uint64_t i = 1; i <= used; i++) {
        if (has_gone_holder(ph_run_at(i), &gone) && ph_journal_begin() == PH_OK) {
            bytes += clear_gone_holders(i, &gone);
            ph_journal_commit();
        }
    }
    take_up_put_off();
    clean_up();
    return bytes;
}

/* --- New spans ---------------------------------------------------------------- */

static ph_status
no_slot(void)
{
    return ph_fail(PH_REFUSED,
                   "permaheap: this process has no place in the table of its family's "
                   "processes (there are more than %u, or it is in another pid "
                   "namespace): it can use neither buffers nor channels", PH_PROCESSES);
}

static ph_status
check_ready(void)
{
    if (ph_heap.state != PH_OK) {
        return ph_heap.state;
    }
    if (ph_process_slot() == PH_PROCESSES) {
        return no_slot();
    }
    ph_spans_head *head = ph_spans_table();
    if (atomic_load(&head->keep_most) == 0) {
        uint64_t most = ph_heap_memory_left() / 8;
        atomic_store(&head->keep_most, most < KEEP_MOST ? most + 1 : KEEP_MOST);
    }
    return PH_OK;
}

/* Return how large a new extent is best: twice the span, but no more than half of what is
   left.  Each extent that a growing span leaves behind is at most half of the next one.  So
   all of them together have less than four times the addresses of the largest span. */
static uint64_t
hint_for(uint64_t bytes)
{
    uint64_t hint = ph_heap.size / 64 < GROW_BY ? ph_heap.size / 64 : GROW_BY;
    uint64_t claimed = atomic_load(&ph_heap.header->claimed);
    uint64_t left = claimed < ph_heap.size ? ph_heap.size - claimed : 0;
    uint64_t twice = 2 * bytes < left / 2 ? 2 * bytes : left / 2;
    return twice > hint ? twice : hint;
}

/* Take a run of `pages` pages, out of the extents that are there, or out of a new one.  On
   the first try a new one is refused while memory is kept: a warm run and a cold one beside
   it may be large enough when they are united. */
static ph_status
take_run(uint64_t pages, bool first_try, uint64_t *p_index, bool *p_warm)
{
    ph_status status = PH_OK;
    *p_index = ph_runs_take(pages, p_warm);
    if (*p_index == 0 && first_try && ph_spans_table()->kept != 0) {
        return ph_fail(PH_NOMEM, "permaheap: no room beside memory that is kept");
    }
    if (*p_index == 0) {
        uint64_t bytes = pages * PH_PAGE;
        uint32_t extent;
        status = ph_extent_claim_spans(bytes, hint_for(bytes), &extent);
        if (status == PH_OK) {
            const ph_extent *e = &ph_heap.header->extent[extent];
            status = ph_runs_add(e->offset, e->size);
        }
        if (status == PH_OK) {
            *p_index = ph_runs_take(pages, p_warm);
            assert(*p_index != 0);          /* the new run is the first of its list */
        }
    }
    if (status == PH_OK) {
        status = ph_heap_map_spans(ph_run_at(*p_index)->offset);
    }
    return status;
}

/* Make a live span, inside of a transaction.  It is not backed yet, unless its memory will
   do as it is. */
static ph_status
begin_span(ph_span_kind kind, uint64_t size, bool zeroed, bool first_try,
           uint64_t *p_index, bool *p_warm)
{
    if (ph_spans_table()->live >= PH_SPANS) {
        return ph_fail(PH_NOMEM, "permaheap: %u buffers, channels and large messages "
                                 "are in use in this family: drop some", PH_SPANS);
    }
    uint64_t pages = size > PH_PAGE ? ph_page_up(size) / PH_PAGE : 1;
    ph_status status = take_run(pages, first_try, p_index, p_warm);
    if (status != PH_OK) {
        return status;
    }
    ph_span_run *run = ph_run_at(*p_index);
    assert(run->pages >= pages && !has_any_holder(run));
    ph_run_set_state(run, ph_run_generation_of(run), kind, PH_RUN_LIVE);
    ph_run_put(&run->size, size);
    ph_run_put(&run->messages, 0);
    ph_run_put(&run->emptied, 0);
    ph_run_put(&run->backed, *p_warm && !zeroed);
    set_holder(run, ph_process_slot(), true);
    count_live(run, true);
    return PH_OK;
}

/* Begin a transaction that has descriptors for a new span.  Their memory is allocated outside
   of the lock, where another process may take them: then once more. */
static ph_status
begin_with_descriptors(void)
{
    for (;;) {
        ph_status status = ph_runs_make_ready();
        if (status == PH_OK) {
            status = ph_journal_begin();
        }
        if (status != PH_OK || ph_runs_are_ready()) {
            return status;
        }
        ph_journal_undo();
    }
}

static ph_status
claim_span(ph_span_kind kind, uint64_t size, bool zeroed, bool first_try,
           uint64_t *p_index, bool *p_warm)
{
    ph_status status = begin_with_descriptors();
    if (status != PH_OK) {
        return status;
    }
    status = begin_span(kind, size, zeroed, first_try, p_index, p_warm);
    if (status != PH_OK) {
        ph_journal_undo();
        return status;
    }
    count_hold(*p_index);
    set_bit(making, *p_index, true);
    making_ones++;
    ph_journal_commit();
    return PH_OK;
}

/* Give the span its memory.  Outside of the lock: it is ours, and no other process knows
   of it. */
static ph_status
back_span(uint64_t index, bool zeroed, bool warm)
{
    ph_span_run *run = ph_run_at(index);
    uint64_t bytes = run->pages * PH_PAGE;
    assert(!ph_os_is_locked());                     /* invariant 6 */
    assert(has_holder(run, ph_process_slot()));
    if (!warm) {
        ph_status status = ph_heap_allocate_spans(run->offset, bytes);
        if (status != PH_OK) {
            return status;
        }
    }
    else if (zeroed) {
        memset(ph_address_of(run->offset), 0, bytes);
    }
    ph_death_point();
    atomic_store(&run->backed, 1);
    ph_death_point();
    return PH_OK;
}

static ph_span_id
span_id_of(uint64_t index)
{
    return (ph_span_id){(uint32_t)index, ph_run_generation_of(ph_run_at(index))};
}

static ph_status
try_new(ph_span_kind kind, uint64_t size, bool zeroed, bool first_try, ph_span_id *id)
{
    uint64_t index = 0;
    bool warm = false;
    ph_status status = claim_span(kind, size, zeroed, first_try, &index, &warm);
    if (status != PH_OK) {
        return status;
    }
    *id = span_id_of(index);
    atomic_fetch_add(&since_sweep, SWEEP_SHARE + (warm ? 0 : size));
    status = back_span(index, zeroed, warm);
    ph_os_lock();
    set_bit(making, index, false);
    making_ones--;
    ph_os_unlock();
    if (status != PH_OK) {
        ph_span_drop(*id);
    }
    return status;
}

ph_status
ph_span_new(ph_span_kind kind, uint64_t size, bool zeroed, ph_span_id *id)
{
    ph_status status = check_ready();
    if (status != PH_OK) {
        return status;
    }
    if (size > ph_heap.size) {
        return ph_fail(PH_NOMEM, "permaheap: %llu bytes are more than the heap has "
                                 "reserved (%llu)", (unsigned long long)size,
                       (unsigned long long)ph_heap.size);
    }
    zeroed = zeroed || kind == PH_SPAN_CHANNEL;     /* a ring, or surely none */
    tidy_up();
    if (atomic_load_explicit(&since_sweep, memory_order_relaxed) >= SWEEP_EVERY) {
        (void)ph_spans_sweep();
    }
    status = try_new(kind, size, zeroed, true, id);
    if (status == PH_NOMEM) {
        (void)ph_spans_sweep();
        (void)ph_spans_give_back();
        status = try_new(kind, size, zeroed, false, id);
    }
    return status;
}

/* --- Holding and dropping ----------------------------------------------------- */

static ph_status
bad_id(void)
{
    return ph_fail(PH_BAD_HANDLE, "permaheap: this names no buffer or channel that is "
                                  "there (any more)");
}

/* Set our bit, inside of a transaction.  The caller counts the hold in holds[], when
   nothing can fail any more. */
static ph_status
set_our_bit(uint64_t index)
{
    ph_span_run *run = ph_run_at(index);
    ph_status status = ph_heap_map_spans(run->offset);
    if (status == PH_OK) {
        set_holder(run, ph_process_slot(), true);
    }
    return status;
}

/* Count one hold more, or one fewer, of a span that we hold anyway: no shared word
   changes. */
static bool
hold_again(ph_span_id id, ph_span_kind kind)
{
    ph_os_lock();
    uint64_t index = find_live(id);
    bool ours = index != 0 && holds[index] > 0
                && ph_run_kind_of(ph_run_at(index)) == kind;
    holds[index] += ours;
    ph_os_unlock();
    return ours;
}

static bool
drop_one_of_many(ph_span_id id)
{
    ph_os_lock();
    uint64_t index = find_live(id);
    bool many = index != 0 && holds[index] > 1;
    holds[index] -= many;
    ph_os_unlock();
    return many;
}

ph_status
ph_span_hold(ph_span_id id, ph_span_kind kind)
{
    ph_status status = check_ready();
    if (status == PH_OK && hold_again(id, kind)) {
        return PH_OK;
    }
    if (status == PH_OK) {
        status = ph_journal_begin();
    }
    if (status != PH_OK) {
        return status;
    }
    uint64_t index = find_live(id);
    status = index != 0 && ph_run_kind_of(ph_run_at(index)) == kind ? set_our_bit(index)
                                                                    : bad_id();
    if (status != PH_OK) {
        ph_journal_undo();
        return status;
    }
    count_hold(index);
    ph_journal_commit();
    return PH_OK;
}

ph_status
ph_span_hold_named(ph_span_id id)
{
    ph_status status = ph_span_hold(id, PH_SPAN_BUFFER);
    return status == PH_OK ? PH_OK : ph_span_hold(id, PH_SPAN_CHANNEL);
}

/* Skip spans that are not backed: their memory is not ready to be looked at. */
void *
ph_spans_next(ph_span_kind kind, uint32_t *p_index, ph_span_id *id, uint64_t *p_size)
{
    assert(ph_journal_is_open());
    uint64_t used = atomic_load(&ph_spans_table()->used);
    while (++*p_index <= used) {
        const ph_span_run *run = ph_run_at(*p_index);
        if (ph_run_state_of(run) == PH_RUN_LIVE && ph_run_kind_of(run) == kind
            && atomic_load(&run->backed) && ph_heap_map_spans(run->offset) == PH_OK) {
            *id = span_id_of(*p_index);
            *p_size = run->size;
            return ph_address_of(run->offset);
        }
    }
    return NULL;
}

void
ph_span_drop(ph_span_id id)
{
    if (ph_heap.state != PH_OK || ph_process_slot() == PH_PROCESSES
        || drop_one_of_many(id) || ph_journal_begin() != PH_OK) {
        return;
    }
    uint64_t index = find_live(id);
    if (index != 0 && holds[index] > 1) {
        holds[index]--;                         /* another thread came between */
    }
    else if (index != 0 && holds[index] == 1) {
        forget_holds(index);
        (void)clear_our_bit(index);
    }
    ph_journal_commit();
    tidy_up();
}

/* Return the descriptor of a span that we hold: it does not change. */
static const ph_span_run *
held_run(ph_span_id id)
{
    uint64_t index = ph_heap.state == PH_OK ? find_live(id) : 0;
    return index != 0 && holds[index] > 0 ? ph_run_at(index) : NULL;
}

void *
ph_span_address(ph_span_id id)
{
    const ph_span_run *run = held_run(id);
    return run == NULL ? NULL : ph_address_of(run->offset);
}

uint64_t
ph_span_size(ph_span_id id)
{
    const ph_span_run *run = held_run(id);
    return run == NULL ? 0 : run->size;
}

bool
ph_span_is_ours(ph_span_id id)
{
    if (ph_heap.state != PH_OK || ph_process_slot() == PH_PROCESSES
        || ph_journal_begin() != PH_OK) {
        return false;
    }
    const ph_span_run *run = held_run(id);
    bool ours = run != NULL && run->messages == 0 && !ph_process_has_pending_forks();
    for (uint32_t i = 0; ours && i < BIT_WORDS; i++) {
        uint32_t slot = ph_process_slot();
        ours = run->holders[i] == (i == slot / 64 ? (uint64_t)1 << slot % 64 : 0);
    }
    ph_journal_commit();
    return ours;
}

/* --- Messages ----------------------------------------------------------------- */

static ph_status
begin_message(uint32_t n)
{
    if (n > PH_MESSAGE_SPANS) {
        return ph_fail(PH_NOMEM, "permaheap: one message can hold %u buffers and "
                                 "channels, not %u", PH_MESSAGE_SPANS, n);
    }
    ph_status status = check_ready();
    return status == PH_OK ? ph_journal_begin() : status;
}

ph_status
ph_spans_publish(const ph_span_id *ids, uint32_t n, _Atomic uint64_t *position,
                 uint64_t value)
{
    ph_status status = begin_message(n);
    if (status != PH_OK) {
        return status;
    }
    for (uint32_t i = 0; i < n; i++) {
        uint64_t index = find_live(ids[i]);
        if (index == 0 || holds[index] == 0) {
            ph_journal_undo();
            return bad_id();
        }
        ph_run_put(&ph_run_at(index)->messages, ph_run_at(index)->messages + 1);
    }
    ph_journal_commit_with(position, value);
    return PH_OK;
}

static ph_status
take_message_hold(ph_span_id id)
{
    uint64_t index = find_live(id);
    if (index == 0 || ph_run_at(index)->messages == 0) {
        return bad_id();
    }
    ph_run_put(&ph_run_at(index)->messages, ph_run_at(index)->messages - 1);
    return set_our_bit(index);
}

ph_status
ph_spans_take(const ph_span_id *ids, uint32_t n, _Atomic uint64_t *position,
              uint64_t value)
{
    ph_status status = begin_message(n);
    if (status != PH_OK) {
        return status;
    }
    for (uint32_t i = 0; i < n && status == PH_OK; i++) {
        status = take_message_hold(ids[i]);
    }
    if (status != PH_OK) {
        ph_journal_undo();
        return status;
    }
    for (uint32_t i = 0; i < n; i++) {
        count_hold(ids[i].index);
    }
    ph_journal_commit_with(position, value);
    return PH_OK;
}

/* --- A forked child ----------------------------------------------------------- */

static void
forget_what_is_the_parents(void)
{
    first_trash = first_put_off = NOTHING;
    if (late_ones > 0) {
        memset(late, 0, sizeof(late));
        late_ones = 0;
    }
    for (uint64_t i = 0; i < PH_RUNS && making_ones > 0; i++) {
        if (has_bit(making, i)) {
            set_bit(making, i, false);
            making_ones--;
            forget_holds(i);
        }
    }
}

/* Clear the bits of our slot: it was a dead process's.  `holds` is read under the lock,
   since another process may be clearing them in a transaction that is undone. */
static void
clear_stale_bits(uint32_t slot)
{
    if (ph_journal_begin_locked() != PH_OK) {
        return;
    }
    bool stale = process_slot(slot)->holds != 0;
    ph_journal_commit_locked();
    if (!stale) {
        return;
    }
    uint64_t used = atomic_load(&ph_spans_table()->used);
    for (uint64_t i = 1; i <= used; i++) {
        ph_span_run *run = ph_run_at(i);
        if (has_holder(run, slot) && ph_journal_begin_locked() == PH_OK) {
            set_holder(run, slot, false);
            (void)free_if_unheld(i);
            ph_journal_commit_locked();
        }
    }
}

/* Hold what our parent held.  Without a slot we cannot count, and hold it for ever. */
void
ph_spans_after_fork(void)
{
    uint32_t slot = ph_process_slot();
    assert(ph_os_is_locked());
    assert(slot == PH_PROCESSES                     /* the parent speaks for us */
           || atomic_load(&process_slot(slot)->ready) != ph_os_process());
    forget_what_is_the_parents();
    if (slot != PH_PROCESSES && atomic_load(&ph_spans_table()->used) != 0) {
        clear_stale_bits(slot);
    }
    for (uint32_t i = 0; i < held_ones && ph_journal_begin_locked() == PH_OK; i++) {
        ph_span_run *run = ph_run_at(held[i]);
        if (slot == PH_PROCESSES) {
            ph_run_put(&run->messages, run->messages + 1);
        }
        else {
            set_holder(run, slot, true);
        }
        ph_journal_commit_locked();
    }
}

ph_spans_figures
ph_spans_count(void)
{
    if (ph_heap.state != PH_OK) {
        return (ph_spans_figures){0};
    }
    const ph_spans_head *head = ph_spans_table();
    return (ph_spans_figures){head->bytes, head->live, head->kept};
}
