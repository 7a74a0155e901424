/* freezer.h -- the state of one freeze, shared by freeze.c (which walks the
   graph) and path.c (which says where it is). */

#ifndef PH_FREEZE_FREEZER_H
#define PH_FREEZE_FREEZER_H

#include "freeze/atoms.h"
#include "state/memo.h"
#include "state/errors.h"
#include "freeze/shapes.h"

/* A container whose items are being frozen.  Its items lie on the freezer's
   stack of items, where each source is replaced by its frozen form. */
typedef enum {
    PH_FRAME_TUPLE,                 /* list, tuple: the items */
    PH_FRAME_SET,                   /* set, frozenset: the items */
    PH_FRAME_MAPPING,               /* the keys, then the values */
    PH_FRAME_SHAPED,                /* the values; the keys are the shape's */
    PH_FRAME_SLICE,                 /* start, stop, step */
    PH_FRAME_TIMEZONE,              /* offset and, if it has one, name */
    PH_FRAME_AWARE,                 /* the tzinfo of a time or datetime */
    PH_FRAME_CONVERTED,             /* what __freeze__ or default returned */
} ph_frame_kind;

typedef struct {
    PyObject *source;               /* borrowed; owned if pinned */
    ph_shape *shape;                /* PH_FRAME_SHAPED */
    ph_room room;                   /* where it will be written; .size == 0: at
                                       the end of the block */
    size_t base;                    /* of its items on the stack */
    Py_ssize_t n;                   /* items */
    Py_ssize_t next;                /* the item in work; those before are frozen */
    uint8_t kind;                   /* ph_frame_kind */
    bool pinned;                    /* owns its source, and items from next on */
    bool remembered;                /* has an entry in the memo */
    bool str_keys;                  /* PH_FRAME_MAPPING: all keys are str */
    bool attributes;                /* mapping that stands for an object: its
                                       keys are called attributes in paths */
} ph_frame;

/* Where the items of freeze_each and freeze_pairs are in their result. */
typedef enum { PH_ROOT_ONLY, PH_ROOT_ITEM, PH_ROOT_KEY, PH_ROOT_VALUE } ph_root_kind;

typedef struct {
    ph_block block;
    bool begun;                     /* the block has been begun, and not ended */
    bool memo_all;                  /* remember containers of one reference, too */
    const ph_exceptions *exceptions;
    PyObject *default_;             /* borrowed; NULL: none */
    ph_atoms atoms;
    ph_memo memo;
    ph_shapes shapes;
    PyObject **items;               /* the stack of items */
    size_t items_used, items_size;
    ph_frame *frames;               /* the way from the root to where we are */
    size_t frames_used, frames_size;
    size_t frames_pinned;           /* so many at the bottom are pinned */
    uint64_t visits;                /* for a look at signals now and then */
    ph_root_kind root_kind;
    Py_ssize_t root_index;          /* PH_ROOT_ITEM; else of the pair */
    PyObject *root_key;             /* PH_ROOT_VALUE: the frozen key */
} ph_freezer;

/* path.c: raise FreezeError for the place where the freezer is.  -1. */
int ph_raise_at(ph_freezer *freezer, const char *format, ...);
/* Add the place to the exception that the user's code has raised.  -1. */
int ph_note_place(ph_freezer *freezer);
/* The place where an open container is; NULL with an exception. */
PyObject *ph_path_of(ph_freezer *freezer, size_t frames);

#endif
