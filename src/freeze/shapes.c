/* shapes.c -- which mappings have the same str keys in the same order: see shapes.h. */

#include "freeze/shapes.h"

#include <string.h>

#define SLOTS_LEAST 64
#define ALIASES_MOST 4096           /* rows of source keys: they own references */

void
ph_shapes_init(ph_shapes *shapes)
{
    memset(shapes, 0, sizeof(*shapes));
}

static void
free_row(PyObject **row, Py_ssize_t n)
{
    for (Py_ssize_t i = 0; row != NULL && i < n; i++) {
        Py_DECREF(row[i]);          /* exact str: runs no code */
    }
    ph_free(row);
}

void
ph_shapes_clear(ph_shapes *shapes)
{
    for (uint64_t i = 0; shapes->slots && i <= shapes->mask; i++) {
        if (shapes->slots[i].shape != NULL) {
            free_row(shapes->slots[i].sources, shapes->slots[i].shape->n);
        }
    }
    ph_free(shapes->slots);
    while (shapes->all != NULL) {
        ph_shape *shape = shapes->all;
        shapes->all = shape->next;
        ph_free(shape);
    }
    ph_shapes_init(shapes);
}

static uint64_t
hash_row(PyObject *const *row, Py_ssize_t n)
{
    uint64_t hash = (uint64_t)n;
    for (Py_ssize_t i = 0; i < n; i++) {
        hash = (hash ^ ((uint64_t)(uintptr_t)row[i] >> 3)) * 0x9e3779b97f4a7c15ull;
        hash ^= hash >> 32;
    }
    return hash;
}

static PyObject *const *
slot_row(const ph_shape_slot *slot)
{
    return slot->sources ? slot->sources : slot->shape->keys;
}

ph_shape *
ph_shapes_find(const ph_shapes *shapes, PyObject *const *row, Py_ssize_t n)
{
    assert(n >= 1 && n <= PH_SHAPE_MOST);
    if (shapes->slots == NULL) {
        return NULL;
    }
    uint64_t hash = hash_row(row, n);
    for (uint64_t i = hash & shapes->mask;; i = (i + 1) & shapes->mask) {
        const ph_shape_slot *slot = &shapes->slots[i];
        if (slot->shape == NULL) {
            return NULL;
        }
        if (slot->hash == hash && slot->shape->n == n
            && memcmp(slot_row(slot), row, (size_t)n * sizeof(*row)) == 0) {
            return slot->shape;
        }
    }
}

static void
insert_shape(ph_shape_slot *slots, uint64_t mask, ph_shape_slot slot)
{
    assert(slot.shape != NULL && (mask & (mask + 1)) == 0);
    uint64_t i = slot.hash & mask;
    while (slots[i].shape != NULL) {
        i = (i + 1) & mask;
    }
    slots[i] = slot;
}

static ph_status
make_room_for_shape(ph_shapes *shapes)
{
    if (shapes->slots != NULL && 2 * (shapes->used + 1) <= shapes->mask + 1) {
        return PH_OK;
    }
    uint64_t size = shapes->slots ? 2 * (shapes->mask + 1) : SLOTS_LEAST;
    ph_shape_slot *slots = ph_calloc(size, sizeof(ph_shape_slot));
    if (slots == NULL) {
        return ph_fail(PH_NOMEM, "permaheap: out of memory");
    }
    for (uint64_t i = 0; shapes->slots && i <= shapes->mask; i++) {
        if (shapes->slots[i].shape != NULL) {
            insert_shape(slots, size - 1, shapes->slots[i]);
        }
    }
    ph_free(shapes->slots);
    shapes->slots = slots;
    shapes->mask = size - 1;
    return PH_OK;
}

ph_shape *
ph_shapes_add(ph_shapes *shapes, PyObject *const *keys, Py_ssize_t n)
{
    assert(n >= 1 && n <= PH_SHAPE_MOST);
    if (make_room_for_shape(shapes) != PH_OK) {
        return NULL;
    }
    ph_shape *shape = ph_malloc(sizeof(ph_shape) + (size_t)n * sizeof(PyObject *));
    if (shape == NULL) {
        ph_fail(PH_NOMEM, "permaheap: out of memory");
        return NULL;
    }
    shape->table = NULL;
    shape->n = n;
    memcpy(shape->keys, keys, (size_t)n * sizeof(PyObject *));
    shape->next = shapes->all;
    shapes->all = shape;
    insert_shape(shapes->slots, shapes->mask,
                 (ph_shape_slot){.hash = hash_row(keys, n), .shape = shape});
    shapes->used++;
    assert(2 * shapes->used <= shapes->mask + 1);
    return shape;
}

void
ph_shapes_add_alias(ph_shapes *shapes, ph_shape *shape, PyObject *const *row)
{
    if (shapes->aliases >= ALIASES_MOST || make_room_for_shape(shapes) != PH_OK) {
        return;
    }
    size_t size = (size_t)shape->n * sizeof(PyObject *);
    PyObject **sources = ph_malloc(size);
    if (sources == NULL) {
        return;
    }
    for (Py_ssize_t i = 0; i < shape->n; i++) {
        sources[i] = Py_NewRef(row[i]);
    }
    insert_shape(shapes->slots, shapes->mask,
                 (ph_shape_slot){hash_row(row, shape->n), shape, sources});
    shapes->used++;
    shapes->aliases++;
    assert(2 * shapes->used <= shapes->mask + 1 && shapes->aliases <= ALIASES_MOST);
}

ph_shape_keys *
ph_shape_table(ph_shape *shape, ph_block *block)
{
    if (shape->table == NULL) {
        shape->table = ph_put_shape(block, shape->keys, shape->n);
    }
    return shape->table;
}
