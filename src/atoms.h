/* atoms.h -- equal atoms once: the table of what a block already holds. */

#ifndef PH_ATOMS_H
#define PH_ATOMS_H

#include "layout.h"

typedef struct {
    uint64_t hash;
    PyObject *frozen;               /* NULL: the slot is empty */
} ph_atom_slot;

/* Open addressing, linear probing, at most half full. */
typedef struct {
    ph_atom_slot *slots;
    uint64_t mask;                  /* number of slots - 1 */
    uint64_t used;
} ph_atoms;

void ph_atoms_init(ph_atoms *atoms);
void ph_atoms_clear(ph_atoms *atoms);

/* The frozen form of an atom, from the table or newly put into the block;
   NULL after ph_fail(), or with PH_EXCEPTION reported that way. */
PyObject *ph_atoms_str(ph_atoms *atoms, ph_block *block, PyObject *str);
PyObject *ph_atoms_image(ph_atoms *atoms, ph_block *block, const ph_image *image);

#endif
