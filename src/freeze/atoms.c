/* atoms.c -- storing equal atoms of one type once per block.

   Atoms are equal if their types and all their bits are.  So 1, 1.0 and True stay apart, as
   do 0.0 and -0.0, and each NaN keeps its bits.  The table has the final addresses of the
   frozen atoms, which are read through the block's view.  It belongs to one freeze.

   A large freeze spends most of its time waiting for this table: hence its slots of one
   word (atoms.h), and the prefetching.

   An atom lies after the container that brought it first.  Short strings of large blocks
   share a *shelf* instead, space of their own: they repeat most often, far from their first
   place.  Packed together, they stay in the caches of the processors that read them. */

#include "freeze/atoms.h"

#include <string.h>

#define LOG2_LEAST 6
#define LOG2_MOST 33                /* numbers of atoms have 32 bits */

#define SHORT_MOST 56               /* bytes of a str that goes on the shelf */
#define SHELF_PART 32               /* 1/32 of the payload may stay unused */
#define SHELF_LEAST (2 * PH_KIB)
#define SHELF_MOST (64 * PH_KIB)

void
ph_atoms_init(ph_atoms *atoms)
{
    memset(atoms, 0, sizeof(*atoms));
}

static uint64_t
slots_of(const ph_atoms *atoms)
{
    return atoms->slots ? (uint64_t)1 << atoms->log2_size : 0;
}

static size_t
table_bytes(int log2_size)
{
    return sizeof(uint64_t) << log2_size;
}

void
ph_atoms_clear(ph_atoms *atoms)
{
    ph_table_free(atoms->slots, table_bytes(atoms->log2_size));
    ph_free(atoms->atoms);
    ph_atoms_init(atoms);
}

/* Return the slot where the probe for a hash, or for a slot's value, starts: by the top
   bits, so that a table is read and written in order while it grows. */
static uint64_t
first_atom_slot(uint64_t hash, int log2_size)
{
    assert(log2_size >= LOG2_LEAST && log2_size <= LOG2_MOST);
    return hash >> (64 - log2_size);
}

static void
insert_atom(uint64_t *slots, int log2_size, uint64_t slot)
{
    assert(slot != 0);
    uint64_t mask = ((uint64_t)1 << log2_size) - 1;
    uint64_t i = first_atom_slot(slot, log2_size);
    while (slots[i] != 0) {
        i = (i + 1) & mask;
    }
    slots[i] = slot;
}

static ph_status
fail_for_memory(void)
{
    return ph_fail(PH_NOMEM, "permaheap: out of memory");
}

static ph_status
grow_atom_slots(ph_atoms *atoms)
{
    int log2_size = atoms->slots ? atoms->log2_size + 1 : LOG2_LEAST;
    if (log2_size > LOG2_MOST) {
        return ph_fail(PH_NOMEM, "permaheap: more than 2**32 atoms in a block");
    }
    uint64_t *slots = ph_table_new(table_bytes(log2_size));
    if (slots == NULL) {
        return fail_for_memory();
    }
    for (uint64_t i = 0; atoms->slots && i >> atoms->log2_size == 0; i++) {
        if (atoms->slots[i] != 0) {
            insert_atom(slots, log2_size, atoms->slots[i]);
        }
    }
    ph_table_free(atoms->slots, table_bytes(atoms->log2_size));
    atoms->slots = slots;
    atoms->log2_size = log2_size;
    return PH_OK;
}

static ph_status
grow_atoms(ph_atoms *atoms)
{
    uint64_t room = atoms->room ? 2 * atoms->room : (uint64_t)1 << LOG2_LEAST;
    PyObject **grown = ph_realloc(atoms->atoms, room * sizeof(PyObject *));
    if (grown == NULL) {
        return fail_for_memory();
    }
    atoms->atoms = grown;
    atoms->room = room;
    return PH_OK;
}

static ph_status
make_room_for_atom(ph_atoms *atoms)
{
    ph_status status = PH_OK;
    if (atoms->used == atoms->room) {
        status = grow_atoms(atoms);
    }
    if (status == PH_OK && 2 * (atoms->used + 1) > slots_of(atoms)) {
        status = grow_atom_slots(atoms);
    }
    return status;
}

static PyObject *
remember_atom(ph_atoms *atoms, uint64_t hash, PyObject *frozen)
{
    if (frozen != NULL) {
        assert(atoms->used < atoms->room && 2 * (atoms->used + 1) <= slots_of(atoms));
        atoms->atoms[atoms->used++] = frozen;
        insert_atom(atoms->slots, atoms->log2_size,
                    (hash & ~(uint64_t)UINT32_MAX) | atoms->used);
    }
    return frozen;
}

/* Return the next atom whose hash begins like this one, from slot *p_i on; NULL if there is
   none. */
static PyObject *
next_match(const ph_atoms *atoms, uint64_t hash, uint64_t *p_i)
{
    uint64_t mask = ((uint64_t)1 << atoms->log2_size) - 1;
    assert(atoms->slots != NULL && *p_i <= mask);
    for (uint64_t i = *p_i;; i = (i + 1) & mask) {
        uint64_t slot = atoms->slots[i];
        if (slot == 0) {
            return NULL;
        }
        if ((slot ^ hash) >> 32 == 0) {
            assert((uint32_t)slot - 1 < atoms->used);
            *p_i = (i + 1) & mask;
            return atoms->atoms[(uint32_t)slot - 1];
        }
    }
}

/* Spread a hash to the top bits: Python's hashes of numbers are close together. */
static uint64_t
spread_hash(uint64_t hash)
{
    hash ^= hash >> 32;
    return hash * 0x9e3779b97f4a7c15ull;
}

static uint64_t
hash_scalar(const ph_scalar *scalar)
{
    assert(scalar->size >= sizeof(PyTypeObject *));
    uint64_t hash = scalar->size, word;
    const char *p = scalar->bytes;
    size_t left = scalar->size;
    for (; left >= sizeof(word); left -= sizeof(word), p += sizeof(word)) {
        memcpy(&word, p, sizeof(word));
        hash = spread_hash(hash ^ word);
    }
    word = 0;
    memcpy(&word, p, left);
    return spread_hash(hash ^ word);
}

void
ph_atoms_prefetch(const ph_atoms *atoms, PyObject *obj)
{
    uint64_t hash;
    ph_scalar scalar;
    if (atoms->slots == NULL) {
        return;
    }
    if (PyUnicode_CheckExact(obj)) {
        hash = spread_hash((uint64_t)ph_str_hash(obj));
    }
    else if ((PyFloat_CheckExact(obj) || PyLong_CheckExact(obj))
             && ph_scalar_of(obj, &scalar) == 0) {
        hash = hash_scalar(&scalar);
    }
    else {
        return;
    }
    __builtin_prefetch(&atoms->slots[first_atom_slot(hash, atoms->log2_size)]);
}

/* Provide `size` bytes on the shelf.  False if this block is too small for one. */
static bool
ensure_shelf(ph_atoms *atoms, ph_block *block, uint64_t size)
{
    assert(size <= SHORT_MOST);
    if (size <= atoms->shelf.size) {
        return true;
    }
    uint64_t shelf = ph_align(block->payload / SHELF_PART);
    shelf = shelf > SHELF_MOST ? SHELF_MOST : shelf;
    ph_room room = {.size = shelf, .reach = shelf};
    if (shelf < SHELF_LEAST || ph_room_take(block, &room) < 0) {
        return false;
    }
    atoms->shelf = room;
    return true;
}

static PyObject *
put_str(ph_atoms *atoms, ph_block *block, PyObject *str)
{
    uint64_t size = ph_str_room(str);
    if (size > SHORT_MOST || !ensure_shelf(atoms, block, size)) {
        return ph_put_str(block, str);
    }
    ph_room *shelf = &atoms->shelf;
    assert(size <= shelf->size && shelf->size <= shelf->reach);
    ph_room_saved saved = ph_room_enter(block, shelf);
    PyObject *frozen = ph_put_str(block, str);
    ph_room_leave(block, saved);
    shelf->at += size;
    shelf->size -= size;
    shelf->reach -= size;
    return frozen;
}

PyObject *
ph_atoms_str(ph_atoms *atoms, ph_block *block, PyObject *str)
{
    if (make_room_for_atom(atoms) != PH_OK) {
        return NULL;
    }
    uint64_t hash = spread_hash((uint64_t)ph_str_hash(str));
    uint64_t i = first_atom_slot(hash, atoms->log2_size);
    PyObject *frozen;
    while ((frozen = next_match(atoms, hash, &i)) != NULL) {
        const void *view = ph_block_view(block, frozen);
        if (ph_str_equal(view, str)) {
            block->saved += ph_str_size(view);
            return frozen;
        }
    }
    return remember_atom(atoms, hash, put_str(atoms, block, str));
}

PyObject *
ph_atoms_scalar(ph_atoms *atoms, ph_block *block, const ph_scalar *scalar)
{
    if (make_room_for_atom(atoms) != PH_OK) {
        return NULL;
    }
    uint64_t hash = hash_scalar(scalar);
    uint64_t i = first_atom_slot(hash, atoms->log2_size);
    PyObject *frozen;
    while ((frozen = next_match(atoms, hash, &i)) != NULL) {
        if (ph_scalar_equal(ph_block_view(block, frozen), scalar)) {
            block->saved += ph_align(scalar->size + sizeof(uint64_t));
            return frozen;
        }
    }
    return remember_atom(atoms, hash, ph_put_scalar(block, scalar));
}
