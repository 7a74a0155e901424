/* span_table.c -- cutting extents into spans, and uniting the pieces again.

   Each extent of spans is cut into *runs* of whole pages without gaps: live spans, and
   free runs.  A run's *descriptor* is in a table of its own, so that the users of a span
   cannot harm it.  Descriptors of one extent are linked by address.  Those of free
   runs are also in one of 256 lists, one for each size class (8 classes to a power of two).
   A bit for each list says whether it is empty.

        extent      | live |  free, warm  | live | free, cold |
        by address  d1 <--> d2 <--------> d3 <--> d4
        by class             ^-- list of its class        ^-- list of its class

   So a run that is large enough is found in O(1), and one that becomes free is united with
   its neighbours in O(1): the good fit of TLSF (Masmano, Ripoll, Crespo and Real, 2004),
   with the descriptors out of line.  A free run is *warm* when all its pages have memory,
   else *cold*: none has.  Warm ones are taken first.

   Invariants:

   1. All words are changed inside of transactions of the journal.
   2. Neighbours by address are never both free and warm, nor both free and cold.
   3. There are PH_RUNS descriptors for at most PH_SPANS live spans, so that there is nearly
      always one for the rest of a run that is cut; if not, the run is not cut.
   4. A descriptor's generation grows when the span that it described ends.  It stays when
      the descriptor is vacant.

   State: all of it belongs to the family. */

#include "core/span/span_table.h"

#include <assert.h>
#include <string.h>

#define LOOK_AT 16                  /* runs of the class just below, for one that fits */
#define AT_ONCE 4                   /* descriptors that a transaction may take */

void
ph_run_put(_Atomic uint64_t *word, uint64_t value)
{
    assert(ph_journal_is_open());       /* invariant 1, also when nothing changes */
    if (atomic_load_explicit(word, memory_order_relaxed) != value) {
        ph_journal_write(word, value);
    }
}

void
ph_run_set_state(ph_span_run *run, uint32_t generation, ph_span_kind kind,
                 ph_run_state state)
{
    assert(state == PH_RUN_TRASH || (kind != PH_SPAN_FREE) == (state == PH_RUN_LIVE));
    assert(generation == ph_run_generation_of(run)              /* invariant 4 */
           || (generation == ph_run_generation_of(run) + 1
               && ph_run_state_of(run) == PH_RUN_LIVE));
    ph_run_put(&run->state, (uint64_t)generation << 32 | (uint64_t)kind << 8 | state);
}

/* --- Classes ------------------------------------------------------------------ */

/* Return the class: one for each size below 16 pages, then 8 to a power of two. */
static uint32_t
class_of(uint64_t pages)
{
    assert(pages > 0);
    if (pages < 8) {
        return (uint32_t)pages;
    }
    uint32_t log = 63 - (uint32_t)__builtin_clzll(pages);
    return (log - 2) * 8 + (uint32_t)(pages >> (log - 3) & 7);
}

/* Return the first class all of whose runs have `pages` pages. */
static uint32_t
class_above(uint64_t pages)
{
    if (pages < 8) {
        return (uint32_t)pages;
    }
    uint32_t log = 63 - (uint32_t)__builtin_clzll(pages);
    return class_of(pages + ((uint64_t)1 << (log - 3)) - 1);
}

static void
add_to_list(uint64_t index, bool warm)
{
    ph_spans_head *head = ph_spans_table();
    ph_span_run *run = ph_run_at(index);
    uint32_t c = class_of(run->pages);
    uint64_t first = head->first[warm][c];
    assert(c < PH_CLASSES);
    assert(ph_run_state_of(run) == (warm ? PH_RUN_WARM : PH_RUN_COLD));
    ph_run_put(&run->previous, 0);
    ph_run_put(&run->next, first);
    if (first != 0) {
        ph_run_put(&ph_run_at(first)->previous, index);
    }
    ph_run_put(&head->first[warm][c], index);
    ph_run_put(&head->filled[warm][c / 64],
               head->filled[warm][c / 64] | (uint64_t)1 << c % 64);
}

static void
take_from_list(uint64_t index, bool warm)
{
    ph_spans_head *head = ph_spans_table();
    ph_span_run *run = ph_run_at(index);
    uint32_t c = class_of(run->pages);
    assert(ph_run_state_of(run) == (warm ? PH_RUN_WARM : PH_RUN_COLD));
    assert(run->previous != 0 || head->first[warm][c] == index);
    if (run->next != 0) {
        ph_run_put(&ph_run_at(run->next)->previous, run->previous);
    }
    if (run->previous != 0) {
        ph_run_put(&ph_run_at(run->previous)->next, run->next);
        return;
    }
    ph_run_put(&head->first[warm][c], run->next);
    if (run->next == 0) {
        ph_run_put(&head->filled[warm][c / 64],
                   head->filled[warm][c / 64] & ~((uint64_t)1 << c % 64));
    }
}

/* Return the first class from `c` on that is not empty; PH_CLASSES if all are. */
static uint32_t
next_class(bool warm, uint32_t c)
{
    const ph_spans_head *head = ph_spans_table();
    for (; c < PH_CLASSES; c = (c / 64 + 1) * 64) {
        uint64_t bits = head->filled[warm][c / 64] >> c % 64;
        if (bits != 0) {
            return c + (uint32_t)__builtin_ctzll(bits);
        }
    }
    return PH_CLASSES;
}

/* Return the best fit among a few of its own class; else any one of the next class. */
static uint64_t
find_run(uint64_t pages, bool warm)
{
    const ph_spans_head *head = ph_spans_table();
    uint64_t best = 0, i = head->first[warm][class_of(pages)];
    for (int n = 0; i != 0 && n < LOOK_AT; n++, i = ph_run_at(i)->next) {
        uint64_t here = ph_run_at(i)->pages;
        if (here >= pages && (best == 0 || here < ph_run_at(best)->pages)) {
            best = i;
        }
    }
    if (best != 0) {
        return best;
    }
    uint32_t c = next_class(warm, class_above(pages));
    return c < PH_CLASSES ? head->first[warm][c] : 0;
}

/* --- Descriptors -------------------------------------------------------------- */

bool
ph_runs_are_ready(void)
{
    const ph_spans_head *head = ph_spans_table();
    uint64_t ready = atomic_load(&head->ready);
    return ready >= PH_RUNS || atomic_load(&head->used) + AT_ONCE < ready;
}

ph_status
ph_runs_make_ready(void)
{
    assert(!ph_journal_is_open());      /* it allocates, which is slow */
    ph_spans_head *head = ph_spans_table();
    uint64_t ready = atomic_load(&head->ready);
    if (ph_runs_are_ready()) {
        return PH_OK;
    }
    uint64_t offset = ph_offset_of(ph_run_at(ready));
    ph_status status = ph_heap_allocate_table(offset, PH_PAGE);
    if (status == PH_OK) {
        (void)atomic_compare_exchange_strong(&head->ready, &ready,
                                             ready + PH_PAGE / sizeof(ph_span_run));
    }
    return status;
}

/* Take a vacant descriptor; 0 if there is none.  Descriptor 0 stands for none. */
static uint64_t
occupy_descriptor(void)
{
    ph_spans_head *head = ph_spans_table();
    uint64_t index = head->vacant;
    if (index != 0) {
        assert(ph_run_state_of(ph_run_at(index)) == PH_RUN_NONE);
        ph_run_put(&head->vacant, ph_run_at(index)->next);
        return index;
    }
    index = head->used + 1;
    if (index >= atomic_load(&head->ready)) {
        return 0;
    }
    ph_run_put(&head->used, index);
    return index;
}

static void
vacate_descriptor(uint64_t index)
{
    ph_spans_head *head = ph_spans_table();
    ph_span_run *run = ph_run_at(index);
    assert(ph_run_state_of(run) != PH_RUN_LIVE);    /* its generation has grown */
    ph_run_set_state(run, ph_run_generation_of(run), PH_SPAN_FREE, PH_RUN_NONE);
    ph_run_put(&run->next, head->vacant);
    ph_run_put(&head->vacant, index);
}

/* --- Runs --------------------------------------------------------------------- */

static void
set_run_free(uint64_t index, bool warm)
{
    ph_span_run *run = ph_run_at(index);
    ph_run_set_state(run, ph_run_generation_of(run), PH_SPAN_FREE,
                     warm ? PH_RUN_WARM : PH_RUN_COLD);
    add_to_list(index, warm);
}

/* Keep `pages` pages of the run, and let the rest stay free. */
static void
cut_run(uint64_t index, uint64_t pages, bool warm)
{
    ph_span_run *run = ph_run_at(index);
    assert(pages > 0 && run->pages >= pages);
    uint64_t rest = run->pages > pages ? occupy_descriptor() : 0;
    if (rest == 0) {
        return;
    }
    ph_span_run *remainder = ph_run_at(rest);
    ph_run_put(&remainder->offset, run->offset + pages * PH_PAGE);
    ph_run_put(&remainder->pages, run->pages - pages);
    ph_run_put(&remainder->before, index);
    ph_run_put(&remainder->after, run->after);
    if (run->after != 0) {
        ph_run_put(&ph_run_at(run->after)->before, rest);
    }
    ph_run_put(&run->after, rest);
    ph_run_put(&run->pages, pages);
    set_run_free(rest, warm);
}

static void
count_kept(uint64_t pages, bool more)
{
    ph_spans_head *head = ph_spans_table();
    uint64_t bytes = pages * PH_PAGE;
    assert(more || head->kept >= bytes);
    ph_run_put(&head->kept, more ? head->kept + bytes : head->kept - bytes);
}

uint64_t
ph_runs_take(uint64_t pages, bool *p_warm)
{
    uint64_t index = find_run(pages, true);
    *p_warm = index != 0;
    if (index == 0) {
        index = find_run(pages, false);
    }
    if (index == 0) {
        return 0;
    }
    take_from_list(index, *p_warm);
    cut_run(index, pages, *p_warm);
    if (*p_warm) {
        count_kept(ph_run_at(index)->pages, false);
    }
    return index;
}

uint64_t
ph_runs_take_warm(void)
{
    uint32_t c = next_class(true, 0);
    if (c == PH_CLASSES) {
        return 0;
    }
    uint64_t index = ph_spans_table()->first[true][c];
    take_from_list(index, true);
    count_kept(ph_run_at(index)->pages, false);
    return index;
}

/* Unite two neighbours; the second one's descriptor becomes vacant. */
static void
unite_runs(uint64_t first, uint64_t second)
{
    ph_span_run *a = ph_run_at(first), *b = ph_run_at(second);
    assert(a->after == second && b->before == first);
    assert(a->offset + a->pages * PH_PAGE == b->offset);        /* without a gap */
    ph_run_put(&a->pages, a->pages + b->pages);
    ph_run_put(&a->after, b->after);
    if (b->after != 0) {
        ph_run_put(&ph_run_at(b->after)->before, first);
    }
    vacate_descriptor(second);
}

void
ph_runs_free(uint64_t index, bool warm)
{
    ph_run_state state = warm ? PH_RUN_WARM : PH_RUN_COLD;
    assert(ph_run_state_of(ph_run_at(index)) == PH_RUN_NONE     /* a live one ended */
           || ph_run_state_of(ph_run_at(index)) == PH_RUN_TRASH);
    assert(warm == (atomic_load(&ph_run_at(index)->backed) != 0));
    if (warm) {
        count_kept(ph_run_at(index)->pages, true);
    }
    uint64_t before = ph_run_at(index)->before, after = ph_run_at(index)->after;
    if (after != 0 && ph_run_state_of(ph_run_at(after)) == state) {
        take_from_list(after, warm);
        unite_runs(index, after);
    }
    if (before != 0 && ph_run_state_of(ph_run_at(before)) == state) {
        take_from_list(before, warm);
        unite_runs(before, index);
        index = before;
    }
    set_run_free(index, warm);
}

ph_status
ph_runs_add(uint64_t offset, uint64_t size)
{
    assert(offset % PH_EXTENT_UNIT == 0 && size % PH_EXTENT_UNIT == 0);
    uint64_t index = occupy_descriptor();
    if (index == 0) {
        return ph_fail(PH_NOMEM, "permaheap: too many pieces of shared memory: %u; "
                                 "drop some buffers or channels", PH_RUNS);
    }
    ph_span_run *run = ph_run_at(index);
    ph_run_put(&run->offset, offset);
    ph_run_put(&run->pages, size / PH_PAGE);
    ph_run_put(&run->before, 0);
    ph_run_put(&run->after, 0);
    set_run_free(index, false);
    return PH_OK;
}

/* --- The audit ---------------------------------------------------------------- */

typedef struct {
    uint64_t live, bytes, kept, listed[2], holds[PH_PROCESSES];
    uint64_t where;
} audit;

static bool
is_free_state(ph_run_state state)
{
    return state == PH_RUN_WARM || state == PH_RUN_COLD;
}

static const char *
audit_neighbours(const ph_span_run *run, uint64_t index)
{
    ph_run_state state = ph_run_state_of(run);
    const ph_span_run *after = run->after ? ph_run_at(run->after) : NULL;
    if (after != NULL && (after->before != index
                          || after->offset != run->offset + run->pages * PH_PAGE)) {
        return "a span that does not touch its neighbour";
    }
    if (run->before != 0 && ph_run_at(run->before)->after != index) {
        return "a span whose neighbour does not know it";
    }
    return after != NULL && is_free_state(state) && ph_run_state_of(after) == state
           ? "two free neighbours" : NULL;
}

static uint64_t
count_holders(audit *a, const ph_span_run *run)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < PH_PROCESSES / 64; i++) {
        for (uint64_t bits = run->holders[i]; bits != 0; bits &= bits - 1, n++) {
            a->holds[64 * i + (uint32_t)__builtin_ctzll(bits)]++;
        }
    }
    return n;
}

static const char *
audit_run(audit *a, uint64_t index)
{
    const ph_span_run *run = ph_run_at(index);
    ph_run_state state = ph_run_state_of(run);
    uint64_t bits = count_holders(a, run);
    if (state == PH_RUN_NONE) {
        return bits == 0 ? NULL : "a holder of nothing";
    }
    if (is_free_state(state)) {
        a->kept += state == PH_RUN_WARM ? run->pages * PH_PAGE : 0;
        a->listed[state == PH_RUN_WARM]++;
    }
    if (state == PH_RUN_LIVE) {
        a->live++;
        a->bytes += run->pages * PH_PAGE;
    }
    bool held = bits != 0 || (state == PH_RUN_LIVE && run->messages != 0);
    if (is_free_state(state) == held) {
        return "a free span with a holder, or a live one without";
    }
    return run->pages == 0 || run->offset % PH_PAGE != 0
           || (state == PH_RUN_LIVE && run->size > run->pages * PH_PAGE)
           ? "an impossible size" : audit_neighbours(run, index);
}

static const char *
audit_list(audit *a, bool warm, uint32_t c)
{
    const ph_spans_head *head = ph_spans_table();
    uint64_t previous = 0, i = head->first[warm][c];
    if ((i != 0) != (head->filled[warm][c / 64] >> c % 64 & 1)) {
        return "a list of free runs that is not what its bit says";
    }
    for (; i != 0; previous = i, i = ph_run_at(i)->next) {
        const ph_span_run *run = ph_run_at(i);
        a->where = i;
        if (ph_run_state_of(run) != (warm ? PH_RUN_WARM : PH_RUN_COLD)
            || run->previous != previous || class_of(run->pages) != c) {
            return "a free run in a wrong list";
        }
        a->listed[warm]--;
    }
    return NULL;
}

static const char *
audit_table(audit *a)
{
    const ph_spans_head *head = ph_spans_table();
    const char *wrong = NULL;
    for (uint64_t i = 1; i <= head->used && wrong == NULL; i++) {
        a->where = i;
        wrong = audit_run(a, i);
    }
    for (uint32_t c = 0; c < 2 * PH_CLASSES && wrong == NULL; c++) {
        wrong = audit_list(a, c / PH_CLASSES, c % PH_CLASSES);
    }
    for (uint32_t i = 0; i < PH_PROCESSES && wrong == NULL; i++) {
        wrong = a->holds[i] == ph_heap.header->process[i].holds
                ? NULL : "a process whose holds do not add up";
    }
    if (wrong == NULL && (a->listed[0] != 0 || a->listed[1] != 0)) {
        wrong = "a free run in no list";
    }
    if (wrong == NULL && (a->live != head->live || a->bytes != head->bytes
                          || a->kept != head->kept)) {
        wrong = "figures that do not add up";
    }
    return wrong;
}

const char *
ph_runs_audit(uint64_t *p_where)
{
    static audit a;                 /* under ph_os_lock(), which the journal takes */
    if (ph_journal_begin() != PH_OK) {
        return "the journal's lock";
    }
    memset(&a, 0, sizeof(a));
    const char *wrong = audit_table(&a);
    *p_where = a.where;
    ph_journal_commit();
    return wrong;
}
