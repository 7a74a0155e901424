/* thaw.c -- the walk of freeze.c the other way round: depth first, over stacks of its own,
   children before parents.

   Permanent objects have no cycles and do not change, so borrowed references to them are
   enough.  The stack of items owns the copies that are not in their container yet.  The
   memo borrows its copies, since each lives as long as the copy of the root. */

#include "freeze/thaw.h"

#include <string.h>

#include "core/base/array.h"
#include "layout/frozen.h"
#include "layout/statics.h"
#include "state/memo.h"

#define SIGNALS_EVERY 65536

typedef struct {
    PyObject *source;               /* tuple, or frozen mapping */
    size_t base;                    /* index of its first copied item on the stack */
    Py_ssize_t n;                   /* items */
    Py_ssize_t next;                /* the item in work */
    Py_ssize_t pos;                 /* of PyDict_Next() */
} thaw_frame;

typedef struct {
    const ph_exceptions *exceptions;
    ph_memo memo;
    PyObject **items;
    size_t items_used, items_size;
    thaw_frame *frames;
    size_t frames_used, frames_size;
    uint64_t steps;
} thawer;

static int
raise_thaw_no_memory(thawer *th)
{
    (void)ph_no_memory();
    return ph_raise(th->exceptions);
}

static int
push_item(thawer *th, PyObject *item)
{
    assert(item != NULL);
    if (th->items_used == th->items_size) {
        size_t size = th->items_size ? 2 * th->items_size : 64;
        PyObject **items = ph_realloc(th->items, size * sizeof(PyObject *));
        if (items == NULL) {
            Py_DECREF(item);
            return raise_thaw_no_memory(th);
        }
        th->items = items;
        th->items_size = size;
    }
    th->items[th->items_used++] = item;
    return 0;
}

static int
push_thaw_frame(thawer *th, PyObject *source, Py_ssize_t n)
{
    if (th->frames_used == th->frames_size) {
        size_t size = th->frames_size ? 2 * th->frames_size : 32;
        thaw_frame *frames = ph_realloc(th->frames, size * sizeof(thaw_frame));
        if (frames == NULL) {
            return raise_thaw_no_memory(th);
        }
        th->frames = frames;
        th->frames_size = size;
    }
    th->frames[th->frames_used++] =
        (thaw_frame){.source = source, .base = th->items_used, .n = n};
    return 0;
}

static bool
is_mapping(PyObject *obj)
{
    return Py_TYPE(obj) == ph_mapping_type && ph_heap_contains(obj);
}

static int
remember_copy(thawer *th, PyObject *source, PyObject *copy)
{
    if (!ph_heap_contains(source)) {
        return 0;                   /* the empty tuple: each place gets its own list */
    }
    if (ph_memo_set(&th->memo, source, copy) != PH_OK) {
        return ph_raise(th->exceptions);
    }
    return 0;
}

/* Copy an object to the stack of items, or push a frame for it. */
static int
thaw_object(thawer *th, PyObject *obj)
{
    if (++th->steps % SIGNALS_EVERY == 0 && PyErr_CheckSignals() < 0) {
        return -1;
    }
    bool mapping = is_mapping(obj);
    if (!mapping && !PyTuple_CheckExact(obj) && !PyFrozenSet_CheckExact(obj)) {
        return push_item(th, Py_NewRef(obj));
    }
    PyObject *copy = ph_memo_get(&th->memo, obj);
    if (copy != NULL) {
        return push_item(th, Py_NewRef(copy));
    }
    if (PyFrozenSet_CheckExact(obj)) {
        copy = PySet_New(obj);
        if (copy == NULL || remember_copy(th, obj, copy) < 0) {
            Py_XDECREF(copy);
            return -1;
        }
        return push_item(th, copy);
    }
    return push_thaw_frame(th, obj, mapping ? PyDict_GET_SIZE(ph_mapping_dict(obj))
                                       : PyTuple_GET_SIZE(obj));
}

static PyObject *
next_to_thaw(thaw_frame *frame)
{
    assert(frame->next < frame->n);
    if (PyTuple_CheckExact(frame->source)) {
        return PyTuple_GET_ITEM(frame->source, frame->next++);
    }
    PyObject *key, *value = NULL;
    (void)PyDict_Next(ph_mapping_dict(frame->source), &frame->pos, &key, &value);
    assert(value != NULL);
    frame->next++;
    return value;
}

static PyObject *
make_list(PyObject **items, Py_ssize_t n)
{
    PyObject *list = PyList_New(n);
    for (Py_ssize_t i = 0; list != NULL && i < n; i++) {
        PyList_SET_ITEM(list, i, Py_NewRef(items[i]));
    }
    return list;
}

static PyObject *
make_dict(PyObject *frozen, PyObject **items)
{
    PyObject *dict = PyDict_New(), *key, *value;
    Py_ssize_t pos = 0;
    while (dict != NULL && PyDict_Next(frozen, &pos, &key, &value)) {
        if (PyDict_SetItem(dict, key, *items++) < 0) {
            Py_CLEAR(dict);
        }
    }
    return dict;
}

static void
drop_items(thawer *th, size_t base)
{
    while (th->items_used > base) {
        Py_DECREF(th->items[--th->items_used]);
    }
}

/* Make the container of the top frame, all of whose items are copied. */
static int
finish_copy(thawer *th)
{
    assert(th->frames_used > 0);
    thaw_frame frame = th->frames[--th->frames_used];
    PyObject **items = th->items + frame.base;
    assert(th->items_used == frame.base + (size_t)frame.n);
    PyObject *copy = PyTuple_CheckExact(frame.source)
                     ? make_list(items, frame.n)
                     : make_dict(ph_mapping_dict(frame.source), items);
    if (copy == NULL) {
        return -1;
    }
    drop_items(th, frame.base);
    if (remember_copy(th, frame.source, copy) < 0) {
        Py_DECREF(copy);
        return -1;
    }
    return push_item(th, copy);
}

static int
thaw_graph(thawer *th, PyObject *root)
{
    int result = thaw_object(th, root);
    while (result == 0 && th->frames_used > 0) {
        thaw_frame *frame = &th->frames[th->frames_used - 1];
        result = frame->next < frame->n ? thaw_object(th, next_to_thaw(frame))
                                        : finish_copy(th);
    }
    return result;
}

PyObject *
ph_thaw(const ph_exceptions *exceptions, PyObject *frozen)
{
    if (!ph_heap_contains(frozen) && !ph_is_static(frozen)) {
        PyErr_Format(PyExc_TypeError,
                     "thaw: this %s is not a permanent object; pass what "
                     "freeze() or Handle.get() returned", Py_TYPE(frozen)->tp_name);
        return NULL;
    }
    thawer th = {.exceptions = exceptions};
    ph_memo_init(&th.memo);
    PyObject *copy = NULL;
    if (thaw_graph(&th, frozen) == 0) {
        copy = th.items[--th.items_used];
        assert(th.items_used == 0 && th.frames_used == 0);
    }
    drop_items(&th, 0);
    ph_memo_clear(&th.memo);
    ph_free(th.items);
    ph_free(th.frames);
    return copy;
}
