/* shapes.h -- which mappings have the same str keys in the same order.

   A shape that is met a second time gets a table of keys.  That mapping and all further
   ones of the shape share it.  The first mapping keeps a table of its own, since most
   shapes are met once only.

   Rows of keys are compared by address: frozen keys are unique in their block, and a row
   of source keys is remembered as an alias of its shape.  All of this belongs to one
   freeze. */

#ifndef PH_FREEZE_SHAPES_H
#define PH_FREEZE_SHAPES_H

#include "layout/frozen.h"

typedef struct ph_shape {
    struct ph_shape *next;          /* all shapes of the block */
    ph_shape_keys *table;           /* NULL: met once so far */
    Py_ssize_t n;                   /* 1 to PH_SHAPE_MOST */
    PyObject *keys[];               /* frozen */
} ph_shape;

/* An entry: from a row of keys to its shape. */
typedef struct {
    uint64_t hash;
    ph_shape *shape;                /* NULL: the slot is empty */
    PyObject **sources;             /* the row, owned; NULL: shape->keys */
} ph_shape_slot;

typedef struct {
    ph_shape *all;                  /* the list of them */
    ph_shape_slot *slots;           /* open addressing, at most half full */
    uint64_t mask, used;
    uint64_t aliases;               /* entries that have a row of source keys */
} ph_shapes;

void ph_shapes_init(ph_shapes *shapes);
void ph_shapes_clear(ph_shapes *shapes);

/* Find the shape of a row of keys, frozen or not; NULL if there is none. */
ph_shape *ph_shapes_find(const ph_shapes *shapes, PyObject *const *row, Py_ssize_t n);
/* Add the shape of a row of frozen keys; NULL after ph_fail(). */
ph_shape *ph_shapes_add(ph_shapes *shapes, PyObject *const *keys, Py_ssize_t n);
/* Remember that a row of source keys has this shape, if there is memory for it. */
void ph_shapes_add_alias(ph_shapes *shapes, ph_shape *shape, PyObject *const *row);
/* Return the shape's table, made by the first call; NULL after ph_fail(). */
ph_shape_keys *ph_shape_table(ph_shape *shape, ph_block *block);

#endif
