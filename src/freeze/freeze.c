/* freeze.c -- walking a graph of ordinary objects and writing its frozen copy.

   The walk is depth first, over stacks of its own (freezer.h), so that only memory limits
   the depth.  A container becomes a *frame*.  First room for the container is taken in the
   block.  Its items are copied to the stack of items, and each is replaced there by its
   frozen form.  When all are frozen, the container is written from them into its room, and
   takes its place among its parent's items.

   Invariants:

   1. A source is not looked at again once its items have been copied: user code that runs
      later may change it.
   2. Between two points where Python code may run, borrowed references are enough.  Before
      each such point own_references() makes them owned: the frames' sources, the items that
      are not frozen yet, and the memo's keys.
   3. A container with one reference has one place in the graph and needs no entry in the
      memo.  It gets one where user code can hand it over a second time: on the way from the
      root (cycles), and anywhere once default= is given or a __freeze__ was called.
   4. Python code sees nothing of the block before it is committed, except comparisons of
      built-in keys.
   5. A child that user code forks does not touch the block: it is the parent's.
   6. On failure the block is aborted, and nothing was published. */

#include "freeze/freeze.h"

#include <string.h>

#include "core/base/array.h"
#include "layout/datetime.h"
#include "layout/frozen.h"
#include "layout/sources.h"
#include "layout/statics.h"
#include "core/block/block_table.h"
#include "core/family/family.h"
#include "freeze/freezer.h"

#define SIGNALS_EVERY 65536         /* steps between two looks at signals */
#define CONVERSIONS_MOST 100        /* default(default(...)) in a row */
#define CONVERSIONS_TEXT "100"

#define RETURNED_ITSELF "default= returned the same object, of type %U; return one that can " \
                        "be frozen, or raise TypeError"

/* In the memo, of a container on the way from the root to where the walk is: to meet it
   again is a cycle. */
#define IN_PROGRESS ((PyObject *)(uintptr_t)1)

/* The result of one step of the walk: of freeze_object() and what it calls. */
typedef enum {
    FAILED = -1,                    /* an exception is set */
    DONE = 0,                       /* the frozen form is known */
    PUSHED = 1,                     /* a frame has been pushed for it */
} step_result;

static int
raise_core_error(ph_freezer *fz)
{
    return ph_raise(fz->exceptions);
}

static int
raise_no_memory(ph_freezer *fz)
{
    (void)ph_no_memory();
    return raise_core_error(fz);
}

static int
memo_set(ph_freezer *fz, PyObject *source, PyObject *copy)
{
    return ph_memo_set(&fz->memo, source, copy) == PH_OK ? 0 : raise_core_error(fz);
}

/* --- Stacks ------------------------------------------------------------------- */

static int
reserve_items(ph_freezer *fz, size_t n)
{
    size_t need = fz->items_used + n;
    if (need <= fz->items_size) {
        return 0;
    }
    size_t size = 2 * fz->items_size > need ? 2 * fz->items_size : need + 64;
    PyObject **items = ph_realloc(fz->items, size * sizeof(PyObject *));
    if (items == NULL) {
        return raise_no_memory(fz);
    }
    fz->items = items;
    fz->items_size = size;
    return 0;
}

static int
reserve_frame(ph_freezer *fz)
{
    if (fz->frames_used < fz->frames_size) {
        return 0;
    }
    size_t size = fz->frames_size ? 2 * fz->frames_size : 32;
    ph_frame *frames = ph_realloc(fz->frames, size * sizeof(ph_frame));
    if (frames == NULL) {
        return raise_no_memory(fz);
    }
    fz->frames = frames;
    fz->frames_size = size;
    return 0;
}

static ph_frame *
top_frame(ph_freezer *fz)
{
    assert(fz->frames_used > 0);
    return &fz->frames[fz->frames_used - 1];
}

/* Has this container one place in the graph?  (The dict of a mappingproxy may have other
   places.) */
static bool
is_single(const ph_freezer *fz, PyObject *source)
{
    return !fz->memo_all && Py_REFCNT(source) == 1
           && Py_TYPE(source) != &PyDictProxy_Type;
}

/* Start to load an item, and the slots of the tables that it will be looked up in: both
   lie anywhere in memory.  For the first two items of a frame this is done when the frame
   is pushed, for the others two steps before. */
static void
prefetch_item(const ph_freezer *fz, PyObject *item)
{
    ph_atoms_prefetch(&fz->atoms, item);
    ph_memo_prefetch(&fz->memo, item);
    ph_prefetch_inside(item);
}

static PyObject *
next_to_freeze(const ph_freezer *fz, const ph_frame *frame)
{
    assert(frame->next < frame->n);
    PyObject *const *item = fz->items + frame->base + (size_t)frame->next;
    Py_ssize_t left = frame->n - frame->next;
    if (left > 4) {
        __builtin_prefetch(item[4]);
    }
    if (left > 2) {
        prefetch_item(fz, item[2]);
    }
    return *item;
}

/* Take room for a frame's container. */
static int
take_room(ph_freezer *fz, ph_frame *frame)
{
    switch ((ph_frame_kind)frame->kind) {
    case PH_FRAME_TUPLE:
        frame->room = ph_tuple_room(frame->n);
        break;
    case PH_FRAME_SET:
        frame->room = ph_frozenset_room(frame->n);
        break;
    case PH_FRAME_MAPPING:
        frame->room = ph_mapping_room(frame->n / 2, frame->str_keys);
        break;
    case PH_FRAME_SHAPED:
        frame->room = ph_shaped_room(frame->n);
        break;
    default:
        return 0;
    }
    return ph_room_take(&fz->block, &frame->room) < 0 ? raise_core_error(fz) : 0;
}

/* Prepare for the items of a frame that has been pushed. */
static int
enter_frame(ph_freezer *fz)
{
    ph_frame *frame = top_frame(fz);
    for (Py_ssize_t i = 0; i < frame->n && i < 2; i++) {
        prefetch_item(fz, fz->items[frame->base + (size_t)i]);
    }
    return take_room(fz, frame);
}

/* Push a frame for the n items that the caller has put after the last used one.  If
   `owned`, the frame takes over the caller's references to them. */
static step_result
push_freeze_frame(ph_freezer *fz, ph_frame_kind kind, PyObject *source, Py_ssize_t n,
           bool owned)
{
    assert(n >= 0 && fz->items_used + (size_t)n <= fz->items_size);
    bool remember = !is_single(fz, source);
    bool converted = fz->frames_used > 0
                     && top_frame(fz)->kind == PH_FRAME_CONVERTED;
    if (reserve_frame(fz) < 0
        || (remember && memo_set(fz, source, IN_PROGRESS) < 0)) {
        for (Py_ssize_t i = 0; owned && i < n; i++) {
            Py_DECREF(fz->items[fz->items_used + (size_t)i]);
        }
        return FAILED;
    }
    fz->frames[fz->frames_used++] = (ph_frame){
        .source = owned ? Py_NewRef(source) : source,
        .base = fz->items_used, .n = n, .kind = (uint8_t)kind, .owned = owned,
        .remembered = remember, .attributes = converted,
    };
    fz->items_used += (size_t)n;
    if (owned) {
        assert(fz->frames_owned + 1 == fz->frames_used);    /* invariant 2 */
        fz->frames_owned = fz->frames_used;
    }
    return PUSHED;
}

/* Drop a frame, with the references that it still owns.  May run finalizers. */
static void
pop_frame(ph_freezer *fz)
{
    ph_frame frame = *top_frame(fz);
    fz->frames_used--;
    fz->items_used = frame.base;
    assert(frame.owned == (fz->frames_owned > fz->frames_used));
    if (fz->frames_owned > fz->frames_used) {
        fz->frames_owned = fz->frames_used;
    }
    if (frame.owned) {
        for (Py_ssize_t i = frame.next; i < frame.n; i++) {
            Py_DECREF(fz->items[frame.base + (size_t)i]);
        }
        Py_DECREF(frame.source);
    }
}

/* --- Running Python code ------------------------------------------------------ */

static int
own_frame(ph_freezer *fz, ph_frame *frame)
{
    assert(!frame->owned);
    if (!frame->remembered) {
        if (memo_set(fz, frame->source, IN_PROGRESS) < 0) {
            return -1;
        }
        frame->remembered = true;
    }
    Py_INCREF(frame->source);
    for (Py_ssize_t i = frame->next; i < frame->n; i++) {
        Py_INCREF(fz->items[frame->base + (size_t)i]);
    }
    frame->owned = true;
    return 0;
}

/* Own all references that are borrowed (invariant 2).  To be called before anything that
   can run Python code. */
static int
own_references(ph_freezer *fz)
{
    ph_memo_make_strong(&fz->memo);
    while (fz->frames_owned < fz->frames_used) {
        if (own_frame(fz, &fz->frames[fz->frames_owned]) < 0) {
            return -1;
        }
        fz->frames_owned++;
    }
    assert(fz->frames_owned == fz->frames_used && fz->memo.strong);
    return 0;
}

/* Fail in a child that was forked by the code (invariant 5).  To be called after it. */
static int
check_fork(ph_freezer *fz)
{
    if (!fz->begun || !ph_block_is_foreign(&fz->block)) {
        return 0;
    }
    PyErr_Clear();
    ph_fail(PH_FORKED, "permaheap: this process was forked in the middle of a "
                       "freeze; the freeze goes on in the parent only");
    return raise_core_error(fz);
}

/* Replace the item in work by its frozen form, and go on to the next.  Dropping the source
   may run a finalizer. */
static int
store_frozen(ph_freezer *fz, PyObject *frozen)
{
    ph_frame *frame = top_frame(fz);
    assert(frozen != NULL && frame->next < frame->n);
    PyObject **item = &fz->items[frame->base + (size_t)frame->next++];
    PyObject *source = *item;
    *item = frozen;
    if (!frame->owned) {
        return 0;
    }
    Py_DECREF(source);
    return check_fork(fz);
}

static int
look_at_signals(ph_freezer *fz)
{
    if (++fz->steps % SIGNALS_EVERY != 0) {
        return 0;
    }
    if (own_references(fz) < 0) {
        return -1;
    }
    int result = PyErr_CheckSignals();
    return check_fork(fz) < 0 ? -1 : result;
}

/* --- Objects that are permanent already --------------------------------------- */

static int
raise_released(ph_freezer *fz)
{
    return ph_raise_at(fz, "an object of a block that was released; thaw() it, and "
                       "freeze the copy");
}

/* Keep a permanent object by reference: its block must stay. */
static int
refer_to_permanent(ph_freezer *fz, PyObject *permanent)
{
    assert(ph_heap_contains(permanent));
    const ph_segment *home = ph_block_of(permanent);
    fz->block.flags |= home->flags & PH_BLOCK_DATETIME;
    ph_status status = ph_block_use(&fz->block, home);
    if (status == PH_REFUSED) {
        return raise_released(fz);
    }
    return status == PH_OK ? 0 : raise_core_error(fz);
}

/* --- Atoms -------------------------------------------------------------------- */

static step_result
return_frozen(ph_freezer *fz, PyObject *frozen, PyObject **p_frozen)
{
    if (frozen == NULL) {
        return raise_core_error(fz);
    }
    *p_frozen = frozen;
    return DONE;
}

static step_result
freeze_str(ph_freezer *fz, PyObject *str, PyObject **p_frozen)
{
    if (PyUnicode_GET_LENGTH(str) <= 1) {
        *p_frozen = ph_static_of(str);
        if (*p_frozen != NULL) {
            return DONE;
        }
    }
    PyObject *frozen = ph_atoms_str(&fz->atoms, &fz->block, str);
    return return_frozen(fz, frozen, p_frozen);
}

static step_result
freeze_scalar(ph_freezer *fz, const ph_scalar *scalar, PyObject **p_frozen)
{
    PyObject *frozen = ph_atoms_scalar(&fz->atoms, &fz->block, scalar);
    return return_frozen(fz, frozen, p_frozen);
}

static step_result
freeze_atom(ph_freezer *fz, PyObject *atom, PyObject **p_frozen)
{
    *p_frozen = ph_static_of(atom);
    if (*p_frozen != NULL) {
        return DONE;
    }
    ph_scalar scalar;
    if (ph_scalar_of(atom, &scalar) < 0) {
        return FAILED;
    }
    return freeze_scalar(fz, &scalar, p_frozen);
}

static step_result
freeze_bytearray(ph_freezer *fz, PyObject *array, PyObject **p_frozen)
{
    PyObject *bytes = PyBytes_FromStringAndSize(PyByteArray_AS_STRING(array),
                                                PyByteArray_GET_SIZE(array));
    if (bytes == NULL) {
        return FAILED;
    }
    step_result result = freeze_atom(fz, bytes, p_frozen);
    Py_DECREF(bytes);
    return result;
}

static step_result
freeze_range(ph_freezer *fz, PyObject *range, PyObject **p_frozen)
{
    PyObject *sources[4], *parts[4];
    ph_range_parts(range, sources);
    for (int i = 0; i < 4; i++) {
        if (freeze_atom(fz, sources[i], &parts[i]) < 0) {
            return FAILED;
        }
    }
    ph_scalar scalar;
    ph_scalar_of_range(parts, &scalar);
    return freeze_scalar(fz, &scalar, p_frozen);
}

/* --- Containers --------------------------------------------------------------- */

static step_result
push_items(ph_freezer *fz, ph_frame_kind kind, PyObject *source,
           PyObject *const *items, Py_ssize_t n)
{
    if (reserve_items(fz, (size_t)n) < 0) {
        return FAILED;
    }
    if (n > 0) {
        memcpy(fz->items + fz->items_used, items, (size_t)n * sizeof(PyObject *));
    }
    return push_freeze_frame(fz, kind, source, n, false);
}

static step_result
freeze_sequence(ph_freezer *fz, PyObject *source, PyObject **p_frozen)
{
    Py_ssize_t n = PySequence_Fast_GET_SIZE(source);
    if (n == 0) {
        *p_frozen = ph_static_empty_tuple();
        return DONE;
    }
    return push_items(fz, PH_FRAME_TUPLE, source, PySequence_Fast_ITEMS(source), n);
}

static step_result
push_set(ph_freezer *fz, PyObject *set)
{
    Py_ssize_t n = PySet_GET_SIZE(set);
    if (reserve_items(fz, (size_t)n) < 0) {
        return FAILED;
    }
    ph_set_items(set, fz->items + fz->items_used);
    return push_freeze_frame(fz, PH_FRAME_SET, set, n, false);
}

/* Copy a dict's keys, then its values, after the last used item.  Returns whether all keys
   are str. */
static bool
copy_dict(ph_freezer *fz, PyObject *dict, Py_ssize_t n)
{
    assert(fz->items_used + 2 * (size_t)n <= fz->items_size);
    PyObject **keys = fz->items + fz->items_used, **values = keys + n;
    PyObject *key, *value;
    Py_ssize_t pos = 0, i = 0;
    bool all_str = true;
    while (i < n && PyDict_Next(dict, &pos, &key, &value)) {
        all_str = all_str && PyUnicode_CheckExact(key);
        __builtin_prefetch(value);
        keys[i] = key;
        values[i++] = value;
    }
    assert(i == n);
    return all_str;
}

/* Freeze the n str keys after the last used item, and find their shape.  If it is new,
   *p_shape is NULL. */
static int
freeze_keys(ph_freezer *fz, PyObject **keys, Py_ssize_t n, ph_shape **p_shape)
{
    PyObject *row[PH_SHAPE_MOST];
    assert(n >= 1 && n <= PH_SHAPE_MOST);
    memcpy(row, keys, (size_t)n * sizeof(PyObject *));
    for (Py_ssize_t i = 0; i < n; i++) {
        if (ph_heap_contains(row[i])) {
            if (refer_to_permanent(fz, row[i]) < 0) {        /* permanent: by reference */
                return -1;
            }
            continue;
        }
        if (freeze_str(fz, row[i], &keys[i]) < 0) {
            return -1;
        }
    }
    ph_shape *shape = ph_shapes_find(&fz->shapes, keys, n);
    *p_shape = shape;
    if (shape == NULL) {
        shape = ph_shapes_add(&fz->shapes, keys, n);
        if (shape == NULL) {
            return raise_core_error(fz);
        }
    }
    ph_shapes_add_alias(&fz->shapes, shape, row);
    return 0;
}

static step_result
push_shaped(ph_freezer *fz, PyObject *source, ph_shape *shape)
{
    PyObject **keys = fz->items + fz->items_used;
    assert(fz->items_used + 2 * (size_t)shape->n <= fz->items_size);
    memmove(keys, keys + shape->n, (size_t)shape->n * sizeof(PyObject *));
    step_result result = push_freeze_frame(fz, PH_FRAME_SHAPED, source, shape->n, false);
    if (result == PUSHED) {
        top_frame(fz)->shape = shape;
    }
    return result;
}

/* Push a frame for a mapping with the contents of a dict.  The source is the dict itself,
   or a mappingproxy of it. */
static step_result
push_dict(ph_freezer *fz, PyObject *source, PyObject *dict)
{
    Py_ssize_t n = PyDict_GET_SIZE(dict);
    if (reserve_items(fz, 2 * (size_t)n) < 0) {
        return FAILED;
    }
    bool all_str = copy_dict(fz, dict, n);
    if (!all_str || n == 0 || n > PH_SHAPE_MOST || !ph_shapes_usable()) {
        step_result result = push_freeze_frame(fz, PH_FRAME_MAPPING, source, 2 * n, false);
        if (result == PUSHED) {
            top_frame(fz)->str_keys = all_str;
        }
        return result;
    }
    PyObject **keys = fz->items + fz->items_used;
    ph_shape *shape = ph_shapes_find(&fz->shapes, keys, n);
    if (shape == NULL && freeze_keys(fz, keys, n, &shape) < 0) {
        return FAILED;
    }
    if (shape != NULL) {
        return push_shaped(fz, source, shape);
    }
    step_result result = push_freeze_frame(fz, PH_FRAME_MAPPING, source, 2 * n, false);
    if (result == PUSHED) {
        top_frame(fz)->next = n;                /* the keys are frozen */
        top_frame(fz)->str_keys = true;
    }
    return result;
}

/* Push a frame for a mapping with pairs that the code of the source has returned, in their
   order.  Takes over `pairs`, a list, or NULL if the code has failed. */
static step_result
push_pairs(ph_freezer *fz, PyObject *source, PyObject *pairs)
{
    assert(fz->frames_owned == fz->frames_used);    /* invariant 2: code has run */
    if (pairs == NULL) {
        return check_fork(fz) < 0 ? FAILED : ph_note_place(fz);
    }
    Py_ssize_t n = PyList_GET_SIZE(pairs);
    step_result result = FAILED;
    if (check_fork(fz) < 0 || reserve_items(fz, 2 * (size_t)n) < 0) {
        goto done;
    }
    PyObject **keys = fz->items + fz->items_used;
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *pair = PyList_GET_ITEM(pairs, i);
        if (!PyTuple_CheckExact(pair) || PyTuple_GET_SIZE(pair) != 2) {
            ph_raise_at(fz, "its items() are not pairs");
            goto done;
        }
        keys[i] = PyTuple_GET_ITEM(pair, 0);
        keys[n + i] = PyTuple_GET_ITEM(pair, 1);
    }
    for (Py_ssize_t i = 0; i < 2 * n; i++) {
        Py_INCREF(keys[i]);
    }
    result = push_freeze_frame(fz, PH_FRAME_MAPPING, source, 2 * n, true);
done:
    Py_DECREF(pairs);
    return result;
}

static step_result
push_mapping(ph_freezer *fz, PyObject *source, PyObject *mapping)
{
    return own_references(fz) < 0 ? FAILED
                         : push_pairs(fz, source, PyMapping_Items(mapping));
}

/* Can the items of this exact type be read as those of a dict?  1 or 0; -1 with an
   exception. */
static int
is_plain_dict(ph_interpreter *interp, PyTypeObject *type)
{
    if (type == &PyDict_Type || type == interp->defaultdict
        || (type == ph_mapping_type && type != &PyDictProxy_Type)) {
        return 1;
    }
    return ph_is_counter(interp, type);
}

static step_result
push_proxy(ph_freezer *fz, ph_interpreter *interp, PyObject *proxy)
{
    PyObject *target = ph_proxy_target(proxy);
    int plain = is_plain_dict(interp, Py_TYPE(target));
    if (plain < 0) {
        return FAILED;
    }
    return plain ? push_dict(fz, proxy, target) : push_mapping(fz, proxy, target);
}

/* --- Objects of module datetime ----------------------------------------------- */

static bool
is_datetime(PyTypeObject *type)
{
    return type == ph_datetime.date || type == ph_datetime.delta
           || type == ph_datetime.time || type == ph_datetime.datetime
           || type == ph_datetime.timezone;
}

static step_result
freeze_datetime(ph_freezer *fz, PyObject *obj, PyObject **p_frozen)
{
    fz->block.flags |= PH_BLOCK_DATETIME;
    PyTypeObject *type = Py_TYPE(obj);
    if (type == ph_datetime.timezone) {
        *p_frozen = ph_static_of(obj);
        if (*p_frozen != NULL) {
            return DONE;
        }
        PyObject *parts[2];
        ph_timezone_parts(obj, parts);
        return push_items(fz, PH_FRAME_TIMEZONE, obj, parts, parts[1] ? 2 : 1);
    }
    if (type == ph_datetime.time || type == ph_datetime.datetime) {
        PyObject *tzinfo = ph_tzinfo_of(obj);
        if (tzinfo != NULL) {
            return push_items(fz, PH_FRAME_AWARE, obj, &tzinfo, 1);
        }
    }
    return freeze_atom(fz, obj, p_frozen);
}

/* Does the clock show the same moment with its new tzinfo?  Only a clock that knows its
   offset shows one.  -1 with an exception. */
static int
is_same_moment(PyObject *source, PyObject *twin)
{
    PyObject *before = PyObject_CallMethod(source, "utcoffset", NULL);
    PyObject *after = before ? PyObject_CallMethod(twin, "utcoffset", NULL) : NULL;
    int result = -1;
    if (after != NULL) {
        result = before == Py_None ? 1 : PyObject_RichCompareBool(before, after, Py_EQ);
    }
    Py_XDECREF(before);
    Py_XDECREF(after);
    return result;
}

/* Make the bytes of a time or datetime whose tzinfo was converted, and which has another
   hash with the new one.  Runs Python code. */
static int
make_aware_scalar(ph_freezer *fz, PyObject *source, PyObject *zone, ph_scalar *scalar)
{
    PyObject *kwargs = Py_BuildValue("{sO}", "tzinfo", zone);
    PyObject *replace = PyObject_GetAttrString(source, "replace");
    PyObject *args = PyTuple_New(0);
    PyObject *twin = NULL;
    if (kwargs != NULL && replace != NULL && args != NULL) {
        twin = PyObject_Call(replace, args, kwargs);
    }
    int result = -1, same = twin ? is_same_moment(source, twin) : -1;
    if (check_fork(fz) < 0) {
        same = -1;
    }
    if (same == 0) {
        ph_raise_type_at(fz, "its tzinfo became one of another offset, so this %U would be "
                         "another moment; convert it as a whole, as builtin_default does",
                         source, NULL);
    }
    else if (same > 0) {
        result = ph_scalar_of_aware(twin, zone, scalar);
    }
    Py_XDECREF(twin);
    Py_XDECREF(args);
    Py_XDECREF(replace);
    Py_XDECREF(kwargs);
    return result;
}

static step_result
finish_aware(ph_freezer *fz, PyObject *source, PyObject *zone, PyObject **p_frozen)
{
    const PyObject *view = ph_block_view(&fz->block, zone);
    if (Py_TYPE(view) != ph_datetime.timezone) {
        return ph_raise_type_at(fz, "its tzinfo became an object of type %U; only "
                                "datetime.timezone can be frozen", (PyObject *)view, NULL);
    }
    ph_scalar scalar;
    int result;
    if (Py_TYPE(ph_tzinfo_of(source)) == ph_datetime.timezone) {
        result = ph_scalar_of_aware(source, zone, &scalar);
    }
    else {
        ph_block_show(&fz->block);
        result = own_references(fz) < 0 ? -1 : make_aware_scalar(fz, source, zone,
                                                                     &scalar);
    }
    return result < 0 ? FAILED : freeze_scalar(fz, &scalar, p_frozen);
}

static step_result
finish_timezone(ph_freezer *fz, PyObject *const *items, Py_ssize_t n,
                PyObject **p_frozen)
{
    assert(n == 1 || n == 2);
    PyObject *parts[2] = {items[0], n > 1 ? items[1] : NULL};
    const PyObject *offset = ph_block_view(&fz->block, parts[0]);
    const PyObject *name = parts[1] ? ph_block_view(&fz->block, parts[1]) : NULL;
    if (Py_TYPE(offset) != ph_datetime.delta
        || (name != NULL && Py_TYPE(name) != &PyUnicode_Type)) {
        return ph_raise_at(fz, "a timezone's offset must be a timedelta and "
                           "its name a str, also when frozen");
    }
    ph_scalar scalar;
    ph_scalar_of_timezone(parts, &scalar);
    return freeze_scalar(fz, &scalar, p_frozen);
}

/* --- Objects of other types --------------------------------------------------- */

static int
check_conversions(ph_freezer *fz, PyObject *obj)
{
    size_t row = 0;
    while (row < fz->frames_used
           && fz->frames[fz->frames_used - 1 - row].kind == PH_FRAME_CONVERTED) {
        row++;
    }
    if (row < CONVERSIONS_MOST) {
        return 0;
    }
    return ph_raise_type_at(fz, "default= and __freeze__() have returned " CONVERSIONS_TEXT
                            " objects in a row that cannot be frozen either, the last of "
                            "type %U", obj, NULL);
}

/* Find how the object's class says that it freezes; NULL: not at all.  __freeze__ = None
   says so, too.  An attribute of the instance does not count.  Borrowed. */
static PyObject *
find_freeze(const ph_interpreter *interp, PyObject *obj)
{
    PyObject *method = _PyType_Lookup(Py_TYPE(obj), interp->freeze_name);
    return method != Py_None ? method : NULL;
}

/* Call what find_freeze() has found, bound to the object as its type says.  Runs Python
   code. */
static PyObject *
call_freeze(PyObject *method, PyObject *obj)
{
    descrgetfunc bind = Py_TYPE(method)->tp_descr_get;
    Py_INCREF(method);
    PyObject *bound = bind ? bind(method, obj, (PyObject *)Py_TYPE(obj)) : Py_NewRef(method);
    PyObject *result = bound ? PyObject_CallNoArgs(bound) : NULL;
    Py_XDECREF(bound);
    Py_DECREF(method);
    return result;
}

/* Would builtin_default() convert this object?  Runs Python code. */
static bool
is_convertible(PyObject *obj)
{
    PyObject *module = PyImport_ImportModule("permaheap._defaults");
    PyObject *converted = NULL;
    if (module != NULL) {
        converted = PyObject_CallMethod(module, "builtin_default", "O", obj);
    }
    PyErr_Clear();                  /* the caller raises an error of its own */
    Py_XDECREF(converted);
    Py_XDECREF(module);
    return converted != NULL;
}

/* Raise FreezeError for an object that nothing converts. */
static step_result
raise_not_converted(ph_freezer *fz, PyObject *obj)
{
    bool zone = fz->frames_used > 0 && top_frame(fz)->kind == PH_FRAME_AWARE;
    if (own_references(fz) < 0) {
        return FAILED;
    }
    bool hint = is_convertible(zone ? top_frame(fz)->source : obj);
    if (check_fork(fz) < 0) {
        return FAILED;
    }
    return ph_raise_type_at(fz, "cannot freeze an object of type %U: it has no __freeze__(), "
                            "and default= was not given%s", obj,
                            !hint ? "" : zone ? "; default=permaheap.builtin_default freezes "
                                                "its owner with the same offset"
                                              : "; default=permaheap.builtin_default "
                                                "converts it");
}

/* Push a frame for what code has returned in place of an object; takes the reference. */
static step_result
push_result(ph_freezer *fz, PyObject *obj, PyObject *result, const char *same)
{
    if (result == obj) {
        Py_DECREF(result);
        return ph_raise_type_at(fz, same, obj, NULL);
    }
    if (reserve_items(fz, 1) < 0) {
        Py_DECREF(result);
        return FAILED;
    }
    fz->items[fz->items_used] = result;
    return push_freeze_frame(fz, PH_FRAME_CONVERTED, obj, 1, true);
}

static step_result
push_converted(ph_freezer *fz, const ph_interpreter *interp, PyObject *obj)
{
    PyObject *method = find_freeze(interp, obj);
    if (method == NULL && fz->default_ == NULL) {
        return raise_not_converted(fz, obj);
    }
    if (check_conversions(fz, obj) < 0 || own_references(fz) < 0) {
        return FAILED;
    }
    fz->memo_all = true;
    PyObject *result = method ? call_freeze(method, obj)
                              : PyObject_CallOneArg(fz->default_, obj);
    if (check_fork(fz) < 0) {
        Py_XDECREF(result);
        return FAILED;
    }
    if (result == NULL) {
        return ph_note_place(fz);
    }
    return push_result(fz, obj, result,
                       method ? "__freeze__() of type %U returned the same object; return "
                                "one that can be frozen"
                              : RETURNED_ITSELF);
}

/* Is it a time or datetime that only default= can help, since its tzinfo is no timezone and
   has no __freeze__()? */
static bool
needs_default(const ph_freezer *fz, const ph_interpreter *interp, PyObject *obj)
{
    PyTypeObject *type = Py_TYPE(obj);
    if (fz->default_ == NULL
        || (type != ph_datetime.time && type != ph_datetime.datetime)) {
        return false;
    }
    PyObject *tzinfo = ph_tzinfo_of(obj);
    return tzinfo != NULL && Py_TYPE(tzinfo) != ph_datetime.timezone
           && find_freeze(interp, tzinfo) == NULL;
}

/* Push a frame for the timezone that default= has returned for an aware object; takes the
   reference. */
static step_result
push_timezone(ph_freezer *fz, PyObject *obj, PyObject *zone)
{
    if (reserve_items(fz, 1) < 0) {
        Py_DECREF(zone);
        return FAILED;
    }
    fz->items[fz->items_used] = zone;
    return push_freeze_frame(fz, PH_FRAME_AWARE, obj, 1, true);
}

/* Ask default= for a time or datetime as a whole: a zone alone has no offset.  A timezone as
   the answer becomes its tzinfo.  A default= that refuses by a TypeError is asked for the
   tzinfo instead. */
static step_result
push_aware(ph_freezer *fz, PyObject *obj)
{
    if (check_conversions(fz, obj) < 0 || own_references(fz) < 0) {
        return FAILED;
    }
    fz->memo_all = true;
    PyObject *result = PyObject_CallOneArg(fz->default_, obj);
    if (check_fork(fz) < 0) {
        Py_XDECREF(result);
        return FAILED;
    }
    if (result != NULL) {
        return Py_TYPE(result) == ph_datetime.timezone
               ? push_timezone(fz, obj, result)
               : push_result(fz, obj, result, RETURNED_ITSELF);
    }
    if (!PyErr_ExceptionMatches(PyExc_TypeError)
        || PyErr_ExceptionMatches(fz->exceptions->freeze_error)) {
        return ph_note_place(fz);
    }
    PyErr_Clear();
    PyObject *tzinfo = ph_tzinfo_of(obj);
    return push_items(fz, PH_FRAME_AWARE, obj, &tzinfo, 1);
}

/* --- The walk ----------------------------------------------------------------- */

static step_result
raise_cycle(ph_freezer *fz, PyObject *source)
{
    size_t i = 0;
    while (i < fz->frames_used && fz->frames[i].source != source) {
        i++;
    }
    assert(i < fz->frames_used);    /* invariant 3: IN_PROGRESS is on the way */
    PyObject *where = ph_path_of(fz, i), *name = ph_type_name(Py_TYPE(source));
    if (where != NULL && name != NULL) {
        ph_raise_at(fz, "a cycle: this is %U again, the %U that it is in", where, name);
    }
    Py_XDECREF(where);
    Py_XDECREF(name);
    return FAILED;
}

/* Freeze, or push a frame for, a container or an object that is converted. */
static step_result
freeze_container(ph_freezer *fz, ph_interpreter *interp, PyObject *obj,
                PyObject **p_frozen)
{
    PyTypeObject *type = Py_TYPE(obj);
    if (fz->memo.used > 0 && !is_single(fz, obj)) {
        PyObject *copy = ph_memo_get(&fz->memo, obj);
        if (copy == IN_PROGRESS) {
            return raise_cycle(fz, obj);
        }
        if (copy != NULL) {
            *p_frozen = copy;
            return DONE;
        }
    }
    if (type == &PyList_Type || type == &PyTuple_Type) {
        return freeze_sequence(fz, obj, p_frozen);
    }
    int plain = is_plain_dict(interp, type);
    if (plain != 0) {
        return plain < 0 ? FAILED : push_dict(fz, obj, obj);
    }
    if (type == &PySet_Type || type == &PyFrozenSet_Type) {
        return push_set(fz, obj);
    }
    if (type == &PyDictProxy_Type) {
        return push_proxy(fz, interp, obj);
    }
    if (type == interp->ordered_dict) {
        return push_mapping(fz, obj, obj);
    }
    if (type == &PySlice_Type) {
        PyObject *parts[3];
        ph_slice_parts(obj, parts);
        return push_items(fz, PH_FRAME_SLICE, obj, parts, 3);
    }
    if (needs_default(fz, interp, obj)) {
        return push_aware(fz, obj);
    }
    if (is_datetime(type)) {
        return freeze_datetime(fz, obj, p_frozen);
    }
    return push_converted(fz, interp, obj);
}

/* Take one step: freeze an object, or push a frame for it. */
static step_result
freeze_object(ph_freezer *fz, ph_interpreter *interp, PyObject *obj,
      PyObject **p_frozen)
{
    if (look_at_signals(fz) < 0) {
        return FAILED;
    }
    if (ph_heap_contains(obj)) {
        *p_frozen = obj;
        return refer_to_permanent(fz, obj) < 0 ? FAILED : DONE;
    }
    PyTypeObject *type = Py_TYPE(obj);
    if (type == &PyUnicode_Type) {
        return freeze_str(fz, obj, p_frozen);
    }
    if (type == &PyLong_Type || type == &PyFloat_Type || type == &PyBytes_Type
        || type == &PyComplex_Type) {
        return freeze_atom(fz, obj, p_frozen);
    }
    if (obj == Py_None || type == &PyBool_Type || obj == Py_Ellipsis) {
        *p_frozen = obj;
        return DONE;
    }
    if (type == &PyByteArray_Type) {
        return freeze_bytearray(fz, obj, p_frozen);
    }
    if (type == &PyRange_Type) {
        return freeze_range(fz, obj, p_frozen);
    }
    return freeze_container(fz, interp, obj, p_frozen);
}

/* Raise FreezeError for a key or element that clashes; else the core's error. */
static step_result
keys_failed(ph_freezer *fz, const ph_clash *clash)
{
    if (clash->index < 0) {
        return raise_core_error(fz);
    }
    ph_frame *frame = top_frame(fz);
    Py_ssize_t next = frame->next;
    frame->next = clash->index;
    int result = ph_raise_at(
        fz, clash->unhashable ? "this key is not hashable, or too deep to be "
                                "hashed, once it is frozen"
                              : "this key becomes equal to another one by being "
                                "frozen");
    frame->next = next;
    return result;
}

/* Write a container into its room, which has been entered; NULL if that fails. */
static PyObject *
write_container(ph_freezer *fz, const ph_frame *frame, const ph_shape_keys *table,
                ph_clash *clash)
{
    PyObject *const *items = fz->items + frame->base;
    Py_ssize_t n = frame->n;
    switch ((ph_frame_kind)frame->kind) {
    case PH_FRAME_TUPLE:
        return ph_put_tuple(&fz->block, items, n);
    case PH_FRAME_SET:
        return ph_put_frozenset(&fz->block, items, n, clash);
    case PH_FRAME_MAPPING:
        return ph_put_mapping(&fz->block, items, items + n / 2, n / 2,
                              PH_EQUAL_KEYS_CLASH, clash);
    case PH_FRAME_SHAPED:
        return ph_put_shaped_mapping(&fz->block, table, items, n);
    default:
        Py_UNREACHABLE();
    }
}

static step_result
finish_container(ph_freezer *fz, PyObject **p_frozen)
{
    const ph_frame *frame = top_frame(fz);
    const ph_shape_keys *table = NULL;
    assert(frame->kind != PH_FRAME_MAPPING || frame->n % 2 == 0);
    if (frame->kind == PH_FRAME_SHAPED) {
        assert(frame->shape != NULL && frame->shape->n == frame->n);
        table = ph_shape_table(frame->shape, &fz->block);
        if (table == NULL) {
            return raise_core_error(fz);
        }
        fz->block.saved += ph_shape_saving(frame->n);
    }
    ph_clash clash = {.index = -1};
    ph_room_saved saved = ph_room_enter(&fz->block, &frame->room);
    *p_frozen = write_container(fz, frame, table, &clash);
    ph_room_leave(&fz->block, saved);
    return *p_frozen != NULL ? DONE : keys_failed(fz, &clash);
}

/* Write the container of the top frame, all of whose items are frozen. */
static step_result
finish_frame(ph_freezer *fz, PyObject **p_frozen)
{
    const ph_frame *frame = top_frame(fz);
    PyObject *const *items = fz->items + frame->base;
    assert(frame->next == frame->n);
    switch ((ph_frame_kind)frame->kind) {
    case PH_FRAME_SLICE:
        return return_frozen(fz, ph_put_slice(&fz->block, items), p_frozen);
    case PH_FRAME_TIMEZONE:
        return finish_timezone(fz, items, frame->n, p_frozen);
    case PH_FRAME_AWARE:
        return finish_aware(fz, frame->source, items[0], p_frozen);
    case PH_FRAME_CONVERTED:
        assert(frame->n == 1);
        *p_frozen = items[0];
        return DONE;
    default:
        return finish_container(fz, p_frozen);
    }
}

/* Remember the container of the top frame, which is written, and drop the frame. */
static int
leave_frame(ph_freezer *fz, PyObject *frozen)
{
    const ph_frame *frame = top_frame(fz);
    assert(frozen != NULL);
    if (frame->remembered && memo_set(fz, frame->source, frozen) < 0) {
        return -1;
    }
    pop_frame(fz);
    return check_fork(fz);
}

/* Freeze one graph.  On failure the frames are left for freezer_clear(). */
static PyObject *
freeze_graph(ph_freezer *fz, ph_interpreter *interp, PyObject *root)
{
    assert(fz->frames_used == 0 && fz->frames_owned == 0);
    PyObject *frozen = NULL;
    step_result result = freeze_object(fz, interp, root, &frozen);
    while (result != FAILED) {
        if (result == DONE && fz->frames_used == 0) {
            assert(frozen != NULL);
            return frozen;
        }
        if ((result == DONE ? store_frozen(fz, frozen) : enter_frame(fz)) < 0) {
            return NULL;
        }
        const ph_frame *frame = top_frame(fz);
        if (frame->next < frame->n) {
            result = freeze_object(fz, interp, next_to_freeze(fz, frame), &frozen);
        }
        else {
            result = finish_frame(fz, &frozen);
            if (result == DONE && leave_frame(fz, frozen) < 0) {
                return NULL;
            }
        }
    }
    return NULL;
}

/* --- One freeze --------------------------------------------------------------- */

static int
freezer_init(ph_freezer *fz, const ph_interpreter *interp, PyObject *default_)
{
    memset(fz, 0, sizeof(*fz));
    fz->exceptions = &interp->exceptions;
    fz->default_ = default_;
    fz->memo_all = default_ != NULL;
    ph_atoms_init(&fz->atoms);
    ph_memo_init(&fz->memo);
    ph_shapes_init(&fz->shapes);
    if (ph_heap_ready() != PH_OK || ph_block_begin(&fz->block) != PH_OK) {
        return raise_core_error(fz);
    }
    fz->begun = true;
    return 0;
}

/* Give back everything, whatever the state.  Keeps a set exception. */
static void
freezer_clear(ph_freezer *fz)
{
    PyObject *error = PyErr_GetRaisedException();
    if (fz->begun) {
        ph_block_abort(&fz->block);
        fz->begun = false;
    }
    while (fz->frames_used > 0) {
        pop_frame(fz);
    }
    ph_memo_clear(&fz->memo);
    ph_shapes_clear(&fz->shapes);
    ph_atoms_clear(&fz->atoms);
    ph_free(fz->items);
    ph_free(fz->frames);
    PyErr_SetRaisedException(error);
}

/* Publish the block, and end the freeze.  The result counts as a new reference: permanent
   objects need no counting. */
static PyObject *
freezer_commit(ph_freezer *fz, PyObject *frozen)
{
    assert(frozen == NULL || fz->frames_used == 0);
    if (frozen != NULL && check_fork(fz) < 0) {
        frozen = NULL;
    }
    if (frozen != NULL && fz->block.payload > 0
        && ph_block_seal(&fz->block) != PH_OK) {
        raise_core_error(fz);
        frozen = NULL;
    }
    if (frozen != NULL && fz->block.payload > 0) {
        ph_block_commit(&fz->block, frozen);
        fz->begun = false;
    }
    freezer_clear(fz);              /* gives an empty block back */
    assert(!fz->begun && (frozen == NULL) == (PyErr_Occurred() != NULL));
    return frozen;
}

/* A permanent object is its own frozen form, until its block is released. */
static PyObject *
freeze_permanent(const ph_interpreter *interp, PyObject *obj)
{
    assert(ph_heap_contains(obj));
    if (ph_block_table_state(ph_block_of(obj)) == PH_LIVE) {
        return Py_NewRef(obj);
    }
    ph_freezer fz = {.exceptions = &interp->exceptions};
    raise_released(&fz);
    return NULL;
}

PyObject *
ph_freeze(ph_interpreter *interp, PyObject *obj, PyObject *default_)
{
    if (ph_heap_contains(obj)) {
        return freeze_permanent(interp, obj);
    }
    PyObject *frozen = ph_static_of(obj);
    if (frozen != NULL) {
        return Py_NewRef(frozen);
    }
    ph_freezer fz;
    if (freezer_init(&fz, interp, default_) < 0) {
        return NULL;
    }
    return freezer_commit(&fz, freeze_graph(&fz, interp, obj));
}

/* --- Item by item ------------------------------------------------------------- */

/* Freeze one graph, and gather its root at the bottom of the stack of items. */
static int
gather_object(ph_freezer *fz, ph_interpreter *interp, PyObject *obj)
{
    PyObject *frozen = freeze_graph(fz, interp, obj);
    if (frozen == NULL || reserve_items(fz, 1) < 0) {
        return -1;
    }
    fz->items[fz->items_used++] = frozen;
    ph_memo_clear(&fz->memo);       /* it would keep the item alive */
    return check_fork(fz);
}

static int
gather_pair(ph_freezer *fz, ph_interpreter *interp, PyObject *pair)
{
    PyObject *fast = PySequence_Fast(pair, "");
    if (check_fork(fz) < 0
        || (fast == NULL && !PyErr_ExceptionMatches(PyExc_TypeError))) {
        Py_XDECREF(fast);
        return -1;                  /* with the iterator's exception */
    }
    if (fast == NULL || PySequence_Fast_GET_SIZE(fast) != 2) {
        PyErr_Clear();
        PyErr_Format(PyExc_TypeError,
                     "freeze_pairs: item %zd is a %s, not a (key, value) pair",
                     fz->root_index, Py_TYPE(pair)->tp_name);
        Py_XDECREF(fast);
        return -1;
    }
    PyObject *key = Py_NewRef(PySequence_Fast_GET_ITEM(fast, 0));
    PyObject *value = Py_NewRef(PySequence_Fast_GET_ITEM(fast, 1));
    Py_DECREF(fast);
    fz->root_kind = PH_ROOT_KEY;
    int result = gather_object(fz, interp, key);
    if (result == 0) {
        assert(fz->items_used % 2 == 1);
        fz->root_kind = PH_ROOT_VALUE;
        fz->root_key = fz->items[fz->items_used - 1];
        result = gather_object(fz, interp, value);
    }
    Py_DECREF(key);
    Py_DECREF(value);
    return result;
}

typedef int (*gather_item)(ph_freezer *fz, ph_interpreter *interp,
                           PyObject *item);

static int
gather_all(ph_freezer *fz, ph_interpreter *interp, PyObject *iterable,
           gather_item gather_one)
{
    PyObject *iterator = PyObject_GetIter(iterable);
    if (iterator == NULL) {
        return -1;
    }
    int result = 0;
    PyObject *item;
    while (result == 0 && (item = PyIter_Next(iterator)) != NULL) {
        result = check_fork(fz) < 0 ? -1 : gather_one(fz, interp, item);
        Py_DECREF(item);
        fz->root_index++;
    }
    if (PyErr_Occurred()) {
        result = -1;
    }
    Py_DECREF(iterator);
    return check_fork(fz) < 0 ? -1 : result;
}

PyObject *
ph_freeze_each(ph_interpreter *interp, PyObject *iterable, PyObject *default_)
{
    ph_freezer fz;
    if (freezer_init(&fz, interp, default_) < 0) {
        return NULL;
    }
    fz.root_kind = PH_ROOT_ITEM;
    PyObject *frozen = NULL;
    if (gather_all(&fz, interp, iterable, gather_object) == 0) {
        frozen = fz.items_used == 0
                 ? ph_static_empty_tuple()
                 : ph_put_tuple(&fz.block, fz.items, (Py_ssize_t)fz.items_used);
        if (frozen == NULL) {
            raise_core_error(&fz);
        }
    }
    return freezer_commit(&fz, frozen);
}

/* Copy the gathered items, key, value, key, value ..., to all keys, then all values. */
static int
part_pairs(ph_freezer *fz, PyObject ***p_parted)
{
    assert(fz->items_used % 2 == 0);
    size_t n = fz->items_used / 2;
    PyObject **parted = ph_malloc((2 * n + 1) * sizeof(PyObject *));
    if (parted == NULL) {
        return raise_no_memory(fz);
    }
    for (size_t i = 0; i < n; i++) {
        parted[i] = fz->items[2 * i];
        parted[n + i] = fz->items[2 * i + 1];
    }
    *p_parted = parted;
    return 0;
}

static PyObject *
put_pairs(ph_freezer *fz)
{
    PyObject **parted = NULL;
    if (part_pairs(fz, &parted) < 0) {
        return NULL;
    }
    Py_ssize_t n = (Py_ssize_t)fz->items_used / 2;
    ph_clash clash;
    PyObject *frozen = ph_put_mapping(&fz->block, parted, parted + n, n,
                                      PH_LAST_VALUE_WINS, &clash);
    if (frozen == NULL && clash.index >= 0) {
        fz->root_kind = PH_ROOT_KEY;
        fz->root_index = clash.index;
        ph_raise_at(fz, "this key is not hashable, or too deep to be hashed, "
                        "once it is frozen");
    }
    else if (frozen == NULL) {
        raise_core_error(fz);
    }
    ph_free(parted);
    return frozen;
}

/* Return the pairs to iterate over: as for dict(), the items of what has keys(). */
static PyObject *
pairs_of(PyObject *obj)
{
    if (PyObject_HasAttrString(obj, "keys")) {
        return PyObject_CallMethod(obj, "items", NULL);
    }
    return Py_NewRef(obj);
}

PyObject *
ph_freeze_pairs(ph_interpreter *interp, PyObject *iterable,
                PyObject *default_)
{
    ph_freezer fz;
    PyObject *pairs = pairs_of(iterable);
    if (pairs == NULL) {
        return NULL;
    }
    if (freezer_init(&fz, interp, default_) < 0) {
        Py_DECREF(pairs);
        return NULL;
    }
    PyObject *frozen = NULL;
    if (gather_all(&fz, interp, pairs, gather_pair) == 0) {
        frozen = put_pairs(&fz);
    }
    Py_DECREF(pairs);
    return freezer_commit(&fz, frozen);
}
