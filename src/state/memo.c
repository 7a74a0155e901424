/* memo.c -- a map from addresses to one word each: see memo.h. */

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
    /* Dropping a key may run Python code: let it find an empty memo. */
    ph_memo old = *memo;
    ph_memo_init(memo);
    for (uint64_t i = 0; old.strong && old.slots && i <= old.mask; i++) {
        Py_XDECREF((PyObject *)old.slots[i].key);
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
        Py_XINCREF((PyObject *)memo->slots[i].key);
    }
}

/* Return the slot where the probe for a key starts. */
static uint64_t
first_memo_slot(const void *key, uint64_t mask)
{
    uint64_t i = ((uint64_t)(uintptr_t)key >> 4) * 0x9e3779b97f4a7c15ull;
    return (i >> 20) & mask;
}

/* Find the slot that has a key, or the one where it would be put. */
static ph_memo_slot *
find_memo_slot(ph_memo_slot *slots, uint64_t mask, const void *key)
{
    assert(key != NULL);
    for (uint64_t i = first_memo_slot(key, mask);; i = (i + 1) & mask) {
        if (slots[i].key == key || slots[i].key == NULL) {
            return &slots[i];
        }
    }
}

static ph_status
grow_memo(ph_memo *memo)
{
    uint64_t size = memo->slots ? 2 * (memo->mask + 1) : SLOTS_LEAST;
    ph_memo_slot *slots = ph_table_new(size * sizeof(ph_memo_slot));
    if (slots == NULL) {
        return ph_fail(PH_NOMEM, "permaheap: out of memory");
    }
    for (uint64_t i = 0; memo->slots && i <= memo->mask; i++) {
        if (memo->slots[i].key != NULL) {
            *find_memo_slot(slots, size - 1, memo->slots[i].key) = memo->slots[i];
        }
    }
    ph_table_free(memo->slots, (memo->mask + 1) * sizeof(ph_memo_slot));
    memo->slots = slots;
    memo->mask = size - 1;
    assert((memo->mask & size) == 0 && 2 * memo->used <= size);
    return PH_OK;
}

void *
ph_memo_get(const ph_memo *memo, const void *key)
{
    if (memo->slots == NULL) {
        return NULL;
    }
    return (void *)find_memo_slot(memo->slots, memo->mask, key)->value;
}

bool
ph_memo_next(const ph_memo *memo, uint64_t *p_i, ph_memo_slot *p_entry)
{
    while (memo->slots != NULL && *p_i <= memo->mask) {
        *p_entry = memo->slots[(*p_i)++];
        if (p_entry->key != NULL) {
            return true;
        }
    }
    return false;
}

void
ph_memo_prefetch(const ph_memo *memo, const void *key)
{
    if (memo->slots != NULL) {
        __builtin_prefetch(&memo->slots[first_memo_slot(key, memo->mask)]);
    }
}

ph_status
ph_memo_set(ph_memo *memo, const void *key, const void *value)
{
    assert(key != NULL && value != NULL);
    ph_memo_slot *slot = NULL;
    if (memo->slots != NULL) {
        slot = find_memo_slot(memo->slots, memo->mask, key);
    }
    if (slot == NULL || slot->key == NULL) {
        if (slot == NULL || 2 * (memo->used + 1) > memo->mask + 1) {
            ph_status status = grow_memo(memo);
            if (status != PH_OK) {
                return status;
            }
            slot = find_memo_slot(memo->slots, memo->mask, key);
        }
        slot->key = key;
        if (memo->strong) {
            Py_INCREF((PyObject *)key);
        }
        memo->used++;
        assert(2 * memo->used <= memo->mask + 1);
    }
    slot->value = value;
    return PH_OK;
}
