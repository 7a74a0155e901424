/* atoms.c -- equal atoms of one type are stored once per block.

   Equality is bit for bit and by type, so that 1, 1.0 and True stay apart,
   0.0 and -0.0 too, and each NaN is what it was.  The table holds the final
   addresses of what was frozen; they are read through the block's view.  It
   belongs to one freeze and dies with it.

   Most of the time of a large freeze is spent waiting for this table, which
   explains its slots of one word (see atoms.h), and the prefetching.

   Other atoms lie behind the container that brought them first, but short
   strings of large blocks share a *shelf*, room of their own: they repeat most,
   far from where they were met first, and so packed they stay in the
   processor's caches for whoever reads on. */

#include "freeze/atoms.h"

#include <string.h>

#define LOG2_LEAST 6
#define LOG2_MOST 33                /* numbers of atoms have 32 bits */

#define SHORT_MOST 56               /* bytes of a str that goes on the shelf */
#define SHELF_PART 32               /* of the payload: what may stay unused */
#define SHELF_LEAST (2 * PH_KIB)
#define SHELF_MOST (64 * PH_KIB)

void
ph_atoms_init(ph_atoms *atoms)
{
    memset(atoms, 0, sizeof(*atoms));
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

/* Where the probe for a slot's value or hash starts: by its top bits, so that
   a table is read and written in order while it grows. */
static uint64_t
start_of(uint64_t hash, int log2_size)
{
    return hash >> (64 - log2_size);
}

static void
insert(uint64_t *slots, int log2_size, uint64_t slot)
{
    uint64_t mask = ((uint64_t)1 << log2_size) - 1;
    uint64_t i = start_of(slot, log2_size);
    while (slots[i] != 0) {
        i = (i + 1) & mask;
    }
    slots[i] = slot;
}

static ph_status
out_of_memory(void)
{
    return ph_fail(PH_NOMEM, "permaheap: out of memory");
}

static ph_status
grow_slots(ph_atoms *atoms)
{
    int log2_size = atoms->slots ? atoms->log2_size + 1 : LOG2_LEAST;
    if (log2_size > LOG2_MOST) {
        return ph_fail(PH_NOMEM, "permaheap: more than 2**32 atoms in a block");
    }
    uint64_t *slots = ph_table_new(table_bytes(log2_size));
    if (slots == NULL) {
        return out_of_memory();
    }
    for (uint64_t i = 0; atoms->slots && i >> atoms->log2_size == 0; i++) {
        if (atoms->slots[i] != 0) {
            insert(slots, log2_size, atoms->slots[i]);
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
        return out_of_memory();
    }
    atoms->atoms = grown;
    atoms->room = room;
    return PH_OK;
}

static ph_status
make_room(ph_atoms *atoms)
{
    ph_status status = PH_OK;
    if (atoms->used == atoms->room) {
        status = grow_atoms(atoms);
    }
    if (status == PH_OK
        && (atoms->slots == NULL || atoms->used + 1 > (uint64_t)1 << (atoms->log2_size - 1))) {
        status = grow_slots(atoms);
    }
    return status;
}

static PyObject *
remember(ph_atoms *atoms, uint64_t hash, PyObject *frozen)
{
    if (frozen != NULL) {
        atoms->atoms[atoms->used++] = frozen;
        insert(atoms->slots, atoms->log2_size,
               (hash & ~(uint64_t)UINT32_MAX) | atoms->used);
    }
    return frozen;
}

/* The next atom whose hash begins like this one, from slot *p_i on; NULL when
   there is none. */
static PyObject *
next_match(const ph_atoms *atoms, uint64_t hash, uint64_t *p_i)
{
    uint64_t mask = ((uint64_t)1 << atoms->log2_size) - 1;
    for (uint64_t i = *p_i;; i = (i + 1) & mask) {
        uint64_t slot = atoms->slots[i];
        if (slot == 0) {
            return NULL;
        }
        if ((slot ^ hash) >> 32 == 0) {
            *p_i = (i + 1) & mask;
            return atoms->atoms[(uint32_t)slot - 1];
        }
    }
}

/* Python's hashes of numbers are close together; spread them to the top. */
static uint64_t
spread(uint64_t hash)
{
    hash ^= hash >> 32;
    return hash * 0x9e3779b97f4a7c15ull;
}

static uint64_t
hash_image(const ph_image *image)
{
    uint64_t hash = image->size, word;
    const char *p = image->bytes;
    size_t left = image->size;
    for (; left >= sizeof(word); left -= sizeof(word), p += sizeof(word)) {
        memcpy(&word, p, sizeof(word));
        hash = spread(hash ^ word);
    }
    word = 0;
    memcpy(&word, p, left);
    return spread(hash ^ word);
}

void
ph_atoms_prefetch(const ph_atoms *atoms, PyObject *obj)
{
    uint64_t hash;
    ph_image image;
    if (atoms->slots == NULL) {
        return;
    }
    if (PyUnicode_CheckExact(obj)) {
        hash = spread((uint64_t)ph_str_hash(obj));
    }
    else if ((PyFloat_CheckExact(obj) || PyLong_CheckExact(obj))
             && ph_image_of(obj, &image) == 0) {
        hash = hash_image(&image);
    }
    else {
        return;
    }
    __builtin_prefetch(&atoms->slots[start_of(hash, atoms->log2_size)]);
}

/* Make sure that there are `size` bytes on the shelf, if this block has one. */
static bool
has_shelf(ph_atoms *atoms, ph_block *block, uint64_t size)
{
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
    if (size > SHORT_MOST || !has_shelf(atoms, block, size)) {
        return ph_put_str(block, str);
    }
    ph_room *shelf = &atoms->shelf;
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
    if (make_room(atoms) != PH_OK) {
        return NULL;
    }
    uint64_t hash = spread((uint64_t)ph_str_hash(str));
    uint64_t i = start_of(hash, atoms->log2_size);
    PyObject *frozen;
    while ((frozen = next_match(atoms, hash, &i)) != NULL) {
        const void *view = ph_block_view(block, frozen);
        if (ph_str_equal(view, str)) {
            block->saved += ph_str_size(view);
            return frozen;
        }
    }
    return remember(atoms, hash, put_str(atoms, block, str));
}

PyObject *
ph_atoms_image(ph_atoms *atoms, ph_block *block, const ph_image *image)
{
    if (make_room(atoms) != PH_OK) {
        return NULL;
    }
    uint64_t hash = hash_image(image);
    uint64_t i = start_of(hash, atoms->log2_size);
    PyObject *frozen;
    while ((frozen = next_match(atoms, hash, &i)) != NULL) {
        if (ph_image_equal(ph_block_view(block, frozen), image)) {
            block->saved += ph_align(image->size + sizeof(uint64_t));
            return frozen;
        }
    }
    return remember(atoms, hash, ph_put_image(block, image));
}
