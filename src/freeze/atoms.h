/* atoms.h -- the table of a block's atoms, by which equal ones are stored once. */

#ifndef PH_FREEZE_ATOMS_H
#define PH_FREEZE_ATOMS_H

#include "layout/frozen.h"

/* Open addressing, linear probing, at most half full.  A slot is 0, or it has the top half
   of the atom's hash in its upper half and the atom's number, from 1 on, in the lower.  So
   a slot itself tells almost all misses, and growing reads nothing else. */
typedef struct {
    uint64_t *slots;
    int log2_size;                  /* of slots; 0: there are none yet */
    PyObject **atoms;               /* final addresses, by number - 1 */
    uint64_t used, room;            /* of atoms */
    ph_room shelf;                  /* for short strings */
} ph_atoms;

void ph_atoms_init(ph_atoms *atoms);
void ph_atoms_clear(ph_atoms *atoms);

/* Return the frozen form of an atom, from the table or newly put into the block; NULL after
   ph_fail(). */
PyObject *ph_atoms_str(ph_atoms *atoms, ph_block *block, PyObject *str);
PyObject *ph_atoms_scalar(ph_atoms *atoms, ph_block *block, const ph_scalar *scalar);

/* Start to load the slot that ph_atoms_str() will look at. */
void ph_atoms_prefetch(const ph_atoms *atoms, PyObject *obj);

#endif
