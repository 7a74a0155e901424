/* shapes.h -- which mappings have the same str keys in the same order.

   A shape that has been met twice gets a table of keys that all further
   mappings of the shape share; the first mapping keeps its own, since most
   shapes of some data are met once. */

#ifndef PH_FREEZE_SHAPES_H
#define PH_FREEZE_SHAPES_H

#include "layout/frozen.h"

typedef struct ph_shape {
    struct ph_shape *next;          /* all shapes of the block */
    ph_shape_keys *table;           /* NULL: met once so far */
    Py_ssize_t n;                   /* 1 to PH_SHAPE_MOST */
    PyObject *keys[];               /* frozen */
} ph_shape;

/* From a row of n keys, compared by address, to its shape. */
typedef struct {
    uint64_t hash;
    ph_shape *shape;                /* NULL: the slot is empty */
    PyObject **sources;             /* the row, owned; NULL: shape->keys */
} ph_shape_slot;

/* Rows of frozen keys find their shape; rows of source keys do, too, without
   the keys being frozen first. */
typedef struct {
    ph_shape *all;
    ph_shape_slot *slots;
    uint64_t mask, used;
    uint64_t aliases;               /* rows of source keys remembered */
} ph_shapes;

void ph_shapes_init(ph_shapes *shapes);
void ph_shapes_clear(ph_shapes *shapes);

/* The shape of a row of keys, frozen or not, or NULL. */
ph_shape *ph_shapes_find(const ph_shapes *shapes, PyObject *const *row, Py_ssize_t n);
/* A new shape of frozen keys; NULL after ph_fail(). */
ph_shape *ph_shapes_add(ph_shapes *shapes, PyObject *const *keys, Py_ssize_t n);
/* Remember that a row of source keys has this shape; best effort. */
void ph_shapes_add_alias(ph_shapes *shapes, ph_shape *shape, PyObject *const *row);
/* The shape's table, made when first asked for; NULL after ph_fail(). */
ph_shape_keys *ph_shape_table(ph_shape *shape, ph_block *block);

#endif
