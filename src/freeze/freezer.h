/* freezer.h -- the state of one freeze: freeze.c walks the graph with it, and path.c says
   where the walk is.

   The stack of items has the items of all open containers, each container's after those of
   its parent.  An item is a source object until the walk has been there, and its frozen
   form afterwards:

       frames   root      users         user 3
       items    | f s s s | f f f s s s | f f s s |     f: frozen, s: source

   The first source of each frame is the item in work: the container of the next frame.

   References to sources are borrowed until Python code may run.  From then on the frames at
   the bottom own theirs (frames_owned): see own_references() in freeze.c. */

#ifndef PH_FREEZE_FREEZER_H
#define PH_FREEZE_FREEZER_H

#include "freeze/atoms.h"
#include "state/memo.h"
#include "state/errors.h"
#include "freeze/shapes.h"

/* The kinds of container, by the items that they have on the stack. */
typedef enum {
    PH_FRAME_TUPLE,                 /* list, tuple: the items */
    PH_FRAME_SET,                   /* set, frozenset: the items */
    PH_FRAME_MAPPING,               /* the keys, then the values */
    PH_FRAME_SHAPED,                /* the values; the keys are the shape's */
    PH_FRAME_SLICE,                 /* start, stop, step */
    PH_FRAME_TIMEZONE,              /* offset and, if it has one, name */
    PH_FRAME_AWARE,                 /* the tzinfo of a time or datetime */
    PH_FRAME_CONVERTED,             /* the result of __freeze__ or default */
} ph_frame_kind;

/* A container whose items are being frozen. */
typedef struct {
    PyObject *source;               /* borrowed, unless `owned` */
    ph_shape *shape;                /* PH_FRAME_SHAPED */
    ph_room room;                   /* where it will be written; .size == 0: at the end
                                       of the block */
    size_t base;                    /* index of its first item on the stack */
    Py_ssize_t n;                   /* items */
    Py_ssize_t next;                /* the item in work; those before are frozen */
    uint8_t kind;                   /* ph_frame_kind */
    bool owned;                     /* it owns its source, and its items from `next` on */
    bool remembered;                /* has an entry in the memo */
    bool str_keys;                  /* PH_FRAME_MAPPING: all keys are str */
    bool attributes;                /* a mapping that stands for an object: paths call its
                                       keys attributes */
} ph_frame;

/* Where a root is in the result of freeze_each() and freeze_pairs(). */
typedef enum { PH_ROOT_ONLY, PH_ROOT_ITEM, PH_ROOT_KEY, PH_ROOT_VALUE } ph_root_kind;

typedef struct {
    ph_block block;
    bool begun;                     /* the block has been begun, and not ended */
    bool memo_all;                  /* also remember containers with one reference */
    const ph_exceptions *exceptions;
    PyObject *default_;             /* borrowed; NULL: none */
    ph_atoms atoms;
    ph_memo memo;
    ph_shapes shapes;
    PyObject **items;               /* the stack of items */
    size_t items_used, items_size;
    ph_frame *frames;               /* from the root to where the walk is */
    size_t frames_used, frames_size;
    size_t frames_owned;            /* the number at the bottom that are `owned` */
    uint64_t steps;                 /* for a periodic look at signals */
    ph_root_kind root_kind;
    Py_ssize_t root_index;          /* PH_ROOT_ITEM; else of the pair */
    PyObject *root_key;             /* PH_ROOT_VALUE: the frozen key */
} ph_freezer;

/* --- path.c ------------------------------------------------------------------- */

/* Raise FreezeError for the place where the freezer is.  Returns -1. */
int ph_raise_at(ph_freezer *freezer, const char *format, ...);
/* Likewise, with the name of an object's type as the first argument of the format (%U). */
int ph_raise_type_at(ph_freezer *freezer, const char *format, PyObject *obj,
                     const char *more);
/* Add the place to the exception that the user's code has raised.  Returns -1. */
int ph_note_place(ph_freezer *freezer);
/* Name the place that the first `frames` frames lead to; NULL with an exception. */
PyObject *ph_path_of(ph_freezer *freezer, size_t frames);

#endif
