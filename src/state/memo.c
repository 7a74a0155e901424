/* memo.c -- see memo.h. */

#include "state/memo.h"

#include <string.h>

#define SLOTS_LEAST 64

void
ph_memo_init(ph_memo *memo)
{
    memset(memo, 0, sizeof(*memo));
}

void
ph_memo_clear(ph_memo *memo)
{
    /* Dropping a source may run Python code: let it find an empty memo. */
    ph_memo old = *memo;
    ph_memo_init(memo);
    for (uint64_t i = 0; old.strong && old.slots && i <= old.mask; i++) {
        Py_XDECREF(old.slots[i].source);
    }
    ph_table_free(old.slots, (old.mask + 1) * sizeof(ph_memo_slot));
}

void
ph_memo_make_strong(ph_memo *memo)
{
    if (memo->strong) {
        return;
    }
    memo->strong = true;
    for (uint64_t i = 0; memo->slots && i <= memo->mask; i++) {
        Py_XINCREF(memo->slots[i].source);
    }
}

/* Where the probe for a source starts. */
static uint64_t
start_of(PyObject *source, uint64_t mask)
{
    uint64_t i = ((uint64_t)(uintptr_t)source >> 4) * 0x9e3779b97f4a7c15ull;
    return (i >> 20) & mask;
}

static ph_memo_slot *
find(ph_memo_slot *slots, uint64_t mask, PyObject *source)
{
    for (uint64_t i = start_of(source, mask);; i = (i + 1) & mask) {
        if (slots[i].source == source || slots[i].source == NULL) {
            return &slots[i];
        }
    }
}

static ph_status
grow(ph_memo *memo)
{
    uint64_t size = memo->slots ? 2 * (memo->mask + 1) : SLOTS_LEAST;
    ph_memo_slot *slots = ph_table_new(size * sizeof(ph_memo_slot));
    if (slots == NULL) {
        return ph_fail(PH_NOMEM, "permaheap: out of memory");
    }
    for (uint64_t i = 0; memo->slots && i <= memo->mask; i++) {
        if (memo->slots[i].source != NULL) {
            *find(slots, size - 1, memo->slots[i].source) = memo->slots[i];
        }
    }
    ph_table_free(memo->slots, (memo->mask + 1) * sizeof(ph_memo_slot));
    memo->slots = slots;
    memo->mask = size - 1;
    return PH_OK;
}

PyObject *
ph_memo_get(const ph_memo *memo, PyObject *source)
{
    if (memo->slots == NULL) {
        return NULL;
    }
    return find(memo->slots, memo->mask, source)->copy;
}

void
ph_memo_prefetch(const ph_memo *memo, PyObject *source)
{
    if (memo->slots != NULL) {
        __builtin_prefetch(&memo->slots[start_of(source, memo->mask)]);
    }
}

ph_status
ph_memo_set(ph_memo *memo, PyObject *source, PyObject *copy)
{
    ph_memo_slot *slot = NULL;
    if (memo->slots != NULL) {
        slot = find(memo->slots, memo->mask, source);
    }
    if (slot == NULL || slot->source == NULL) {
        if (slot == NULL || 2 * (memo->used + 1) > memo->mask + 1) {
            ph_status status = grow(memo);
            if (status != PH_OK) {
                return status;
            }
            slot = find(memo->slots, memo->mask, source);
        }
        slot->source = memo->strong ? Py_NewRef(source) : source;
        memo->used++;
    }
    slot->copy = copy;
    return PH_OK;
}
