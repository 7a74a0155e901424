/* atoms.c -- equal atoms of one type are stored once per block.

   Equality is bit for bit and by type, so that 1, 1.0 and True stay apart,
   0.0 and -0.0 too, and each NaN is what it was.  The table holds the final
   addresses of what was frozen; they are read through the block's view.  It
   belongs to one freeze and dies with it. */

#include "atoms.h"

#include <string.h>

#define SLOTS_LEAST 64

void
ph_atoms_init(ph_atoms *atoms)
{
    memset(atoms, 0, sizeof(*atoms));
}

void
ph_atoms_clear(ph_atoms *atoms)
{
    ph_free(atoms->slots);
    ph_atoms_init(atoms);
}

static void
insert(ph_atom_slot *slots, uint64_t mask, ph_atom_slot slot)
{
    uint64_t i = slot.hash & mask;
    while (slots[i].frozen != NULL) {
        i = (i + 1) & mask;
    }
    slots[i] = slot;
}

static ph_status
grow(ph_atoms *atoms)
{
    uint64_t size = atoms->slots ? 2 * (atoms->mask + 1) : SLOTS_LEAST;
    ph_atom_slot *slots = ph_calloc(size, sizeof(ph_atom_slot));
    if (slots == NULL) {
        return ph_fail(PH_NOMEM, "permaheap: out of memory");
    }
    for (uint64_t i = 0; atoms->slots && i <= atoms->mask; i++) {
        if (atoms->slots[i].frozen != NULL) {
            insert(slots, size - 1, atoms->slots[i]);
        }
    }
    ph_free(atoms->slots);
    atoms->slots = slots;
    atoms->mask = size - 1;
    return PH_OK;
}

static ph_status
make_room(ph_atoms *atoms)
{
    if (atoms->slots != NULL && 2 * (atoms->used + 1) <= atoms->mask + 1) {
        return PH_OK;
    }
    return grow(atoms);
}

static PyObject *
remember(ph_atoms *atoms, uint64_t hash, PyObject *frozen)
{
    if (frozen != NULL) {
        insert(atoms->slots, atoms->mask, (ph_atom_slot){hash, frozen});
        atoms->used++;
    }
    return frozen;
}

/* Python's hashes of numbers are close together; spread them. */
static uint64_t
spread(uint64_t hash)
{
    hash *= 0x9e3779b97f4a7c15ull;
    return hash ^ (hash >> 32);
}

static uint64_t
hash_image(const ph_image *image)
{
    uint64_t hash = image->size, word;
    const char *p = image->bytes;
    size_t left = image->size;
    for (; left >= sizeof(word); left -= sizeof(word), p += sizeof(word)) {
        memcpy(&word, p, sizeof(word));
        hash = (hash ^ word) * 0x9e3779b97f4a7c15ull;
        hash ^= hash >> 29;
    }
    word = 0;
    memcpy(&word, p, left);
    return spread(hash ^ word);
}

PyObject *
ph_atoms_str(ph_atoms *atoms, ph_block *block, PyObject *str)
{
    if (make_room(atoms) != PH_OK) {
        return NULL;
    }
    uint64_t hash = spread((uint64_t)PyObject_Hash(str));
    for (uint64_t i = hash & atoms->mask;; i = (i + 1) & atoms->mask) {
        ph_atom_slot *slot = &atoms->slots[i];
        if (slot->frozen == NULL) {
            break;
        }
        if (slot->hash != hash) {
            continue;
        }
        const void *view = ph_block_view(block, slot->frozen);
        if (ph_str_equal(view, str)) {
            block->saved += ph_str_size(view);
            return slot->frozen;
        }
    }
    return remember(atoms, hash, ph_put_str(block, str));
}

PyObject *
ph_atoms_image(ph_atoms *atoms, ph_block *block, const ph_image *image)
{
    if (make_room(atoms) != PH_OK) {
        return NULL;
    }
    uint64_t hash = hash_image(image);
    for (uint64_t i = hash & atoms->mask;; i = (i + 1) & atoms->mask) {
        ph_atom_slot *slot = &atoms->slots[i];
        if (slot->frozen == NULL) {
            break;
        }
        if (slot->hash == hash
            && ph_image_equal(ph_block_view(block, slot->frozen), image)) {
            block->saved += ph_align(image->size + sizeof(uint64_t));
            return slot->frozen;
        }
    }
    return remember(atoms, hash, ph_put_image(block, image));
}
