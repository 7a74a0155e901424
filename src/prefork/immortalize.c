/* immortalize.c -- walking a graph of ordinary objects and making each immortal in place.

   An immortal object counts as visited, so the walk needs no table of where it has been:
   an object that was immortal before is treated as done, with all that it holds.  (Roots
   are always walked again.)

   No Python code runs during the walk, and nothing is freed: references are borrowed.  Only
   the report, which allocates, owns the objects that it names. */

#include "prefork/immortalize.h"

#include <string.h>

#include "core/base/array.h"
#include "layout/immortal.h"
#include "layout/sizes.h"
#include "state/memo.h"

typedef struct {
    PyTypeObject *type;
    const char *why_mortal;         /* why all of its objects are left; NULL: they are not */
    uint64_t objects, bytes;
} type_count;

typedef struct {
    const ph_interpreter *interp;
    bool strict, warm;
    PyObject **todo;                /* met, and not looked into yet */
    size_t todo_used, todo_size;
    PyObject **code;                /* to be warmed once its constants are immortal */
    size_t code_used, code_size;
    ph_memo numbers;                /* type that was met -> its number in counts, from 1 */
    type_count *counts;
    size_t counts_used, counts_size;
    PyTypeObject *harmless;         /* the last type that holds_foreign_end() passed */
    ph_memo left;                   /* object left mortal -> why, a const char * */
} walker;

static bool
is_lock(const walker *w, const PyTypeObject *type)
{
    return type == w->interp->lock || type == w->interp->rlock;
}

static type_count *
count_of(walker *w, PyTypeObject *type)
{
    uintptr_t number = (uintptr_t)ph_memo_get(&w->numbers, type);
    if (number == 0) {
        if (ph_grow(&w->counts, w->counts_used, &w->counts_size,
                    sizeof(type_count)) < 0) {
            return NULL;
        }
        number = ++w->counts_used;
        if (ph_memo_set(&w->numbers, type, (void *)number) != PH_OK) {
            w->counts_used--;
            return NULL;
        }
        w->counts[number - 1] = (type_count){
            .type = type,
            .why_mortal = w->strict && !is_lock(w, type) ? ph_why_type_mortal(type) : NULL,
        };
    }
    assert(number <= w->counts_used);
    return &w->counts[number - 1];
}

static int
push_todo(walker *w, PyObject *obj)
{
    if (ph_grow(&w->todo, w->todo_used, &w->todo_size, sizeof(PyObject *)) < 0) {
        return -1;
    }
    w->todo[w->todo_used++] = obj;
    return 0;
}

static int
remember_code(walker *w, PyObject *code)
{
    if (ph_grow(&w->code, w->code_used, &w->code_size, sizeof(PyObject *)) < 0) {
        return -1;
    }
    w->code[w->code_used++] = code;
    return 0;
}

/* Say why an object must be left mortal, in words that follow its name; or NULL. */
static const char *
why_mortal(const walker *w, const type_count *count, PyObject *obj)
{
    const char *why = ph_why_not_immortal(obj);
    if (why != NULL || !w->strict) {
        return why;
    }
    if (is_lock(w, Py_TYPE(obj))) {
        return "is a lock";
    }
    why = ph_why_mortal(obj);
    return why != NULL ? why : count->why_mortal;
}

/* A visitproc: return 1 if the end of an item gives back what is not its own, or -1. */
static int
check_item(PyObject *item, void *arg)
{
    walker *w = arg;
    PyTypeObject *type = Py_TYPE(item);
    if (type == w->harmless) {
        return 0;
    }
    const type_count *count = count_of(w, type);
    if (count == NULL) {
        return -1;
    }
    if (count->why_mortal == NULL) {
        w->harmless = type;
    }
    return count->why_mortal != NULL;
}

/* Is an object a plain container of such items?  Then its own end is theirs: the program
   drops the list, and means what is in it.  (So is a bound method: the __exit__ that waits
   for the end of a block.)  1, 0, or -1 without memory. */
static int
holds_foreign_end(walker *w, PyObject *obj)
{
    bool plain = PyList_CheckExact(obj) || PyTuple_CheckExact(obj) || PyAnySet_CheckExact(obj)
                 || PyMethod_Check(obj);
    return plain && w->strict ? Py_TYPE(obj)->tp_traverse(obj, check_item, w) : 0;
}

/* Leave a container mortal, once, but not its other items. */
static int
leave_container(walker *w, PyObject *obj)
{
    if (ph_memo_get(&w->left, obj) != NULL) {
        return 0;
    }
    const char *why = "holds what gives back what is not its own";
    return ph_memo_set(&w->left, obj, why) == PH_OK ? push_todo(w, obj) : -1;
}

/* A visitproc: make an object that is met immortal, unless it must stay mortal. */
static int
immortalize_met(PyObject *obj, void *arg)
{
    walker *w = arg;
    if (_Py_IsImmortal(obj)) {
        return 0;
    }
    type_count *count = count_of(w, Py_TYPE(obj));
    if (count == NULL) {
        return -1;
    }
    const char *why = why_mortal(w, count, obj);
    if (why != NULL) {
        return ph_memo_set(&w->left, obj, why) == PH_OK ? 0 : -1;
    }
    int holds = holds_foreign_end(w, obj);
    if (holds != 0) {
        return holds < 0 ? -1 : leave_container(w, obj);
    }
    if (push_todo(w, obj) < 0) {
        return -1;
    }
    count = count_of(w, Py_TYPE(obj));      /* it may have moved */
    count->objects++;
    count->bytes += ph_size_in_place(obj);
    ph_immortalize_object(obj, w->interp->immortals);
    assert(_Py_IsImmortal(obj));    /* the walk does not come here again */
    return 0;
}

static int
immortalize_from(walker *w, PyObject *root)
{
    assert(w->todo_used == 0);
    if (immortalize_met(root, w) < 0) {
        return -1;
    }
    if (w->todo_used == 0 && _Py_IsImmortal(root) && push_todo(w, root) < 0) {
        return -1;
    }
    while (w->todo_used > 0) {
        PyObject *obj = w->todo[--w->todo_used];
        /* or a container that leave_container() has left, and not its other items */
        assert(_Py_IsImmortal(obj) || ph_memo_get(&w->left, obj) != NULL);
        if (ph_visit_referents(obj, immortalize_met, w) != 0) {
            return -1;
        }
        if (w->warm && PyCode_Check(obj) && remember_code(w, obj) < 0) {
            return -1;
        }
    }
    return 0;
}

/* --- The report --------------------------------------------------------------- */

/* Add n to dict[key]; takes over the reference to key. */
static int
add_to_count(PyObject *dict, PyObject *key, uint64_t n)
{
    PyObject *before = key ? PyDict_GetItemWithError(dict, key) : NULL;
    PyObject *sum = NULL;
    if (key != NULL && (before != NULL || !PyErr_Occurred())) {
        sum = PyLong_FromUnsignedLongLong(
            n + (before ? PyLong_AsUnsignedLongLong(before) : 0));
    }
    int result = sum != NULL ? PyDict_SetItem(dict, key, sum) : -1;
    Py_XDECREF(sum);
    Py_XDECREF(key);
    return result;
}

static int
report_immortal(const walker *w, PyObject *objects, PyObject *bytes)
{
    for (size_t i = 0; i < w->counts_used; i++) {
        const type_count *count = &w->counts[i];
        const char *name = count->type->tp_name;
        if (count->objects == 0) {
            continue;               /* all were left */
        }
        if (add_to_count(objects, PyUnicode_FromString(name), count->objects) < 0
            || add_to_count(bytes, PyUnicode_FromString(name), count->bytes) < 0) {
            return -1;
        }
    }
    return 0;
}

static int
report_left(const walker *w, PyObject *left)
{
    ph_memo_slot entry;
    for (uint64_t i = 0; ph_memo_next(&w->left, &i, &entry);) {
        const PyObject *obj = entry.key;
        const char *why = entry.value;
        if (add_to_count(left, Py_BuildValue("ss", Py_TYPE(obj)->tp_name, why), 1) < 0) {
            return -1;
        }
    }
    return 0;
}

static PyObject *
make_report(const walker *w)
{
    PyObject *objects = PyDict_New(), *bytes = PyDict_New(), *left = PyDict_New();
    PyObject *result = NULL;
    if (objects != NULL && bytes != NULL && left != NULL
        && report_immortal(w, objects, bytes) == 0 && report_left(w, left) == 0) {
        result = PyTuple_Pack(3, objects, bytes, left);
    }
    Py_XDECREF(objects);
    Py_XDECREF(bytes);
    Py_XDECREF(left);
    return result;
}

PyObject *
ph_immortalize(const ph_interpreter *interp, PyObject *roots, bool strict, bool warm)
{
    walker w = {.interp = interp, .strict = strict, .warm = warm};
    ph_memo_init(&w.numbers);
    ph_memo_init(&w.left);
    int result = 0;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(roots) && result == 0; i++) {
        result = immortalize_from(&w, PyList_GET_ITEM(roots, i));
    }
    for (size_t i = 0; i < w.code_used; i++) {
        ph_warm_code((PyCodeObject *)w.code[i]);
    }
    ph_memo_make_strong(&w.left);   /* the report allocates: the collector may run */
    PyObject *counts = result == 0 ? make_report(&w) : NULL;
    if (result < 0) {
        ph_raise(&interp->exceptions);
    }
    ph_memo_clear(&w.numbers);
    ph_memo_clear(&w.left);
    ph_free(w.todo);
    ph_free(w.code);
    ph_free(w.counts);
    return counts;
}

/* --- At exit ------------------------------------------------------------------ */

/* A visitproc: collect, borrowed, an object whose finalizer has not run. */
static int
collect_waiting(PyObject *obj, void *arg)
{
    walker *w = arg;
    bool waits = Py_TYPE(obj)->tp_finalize != NULL && PyObject_IS_GC(obj)
                 && !PyObject_GC_IsFinalized(obj);
    return waits ? push_todo(w, obj) : 0;
}

PyObject *
ph_with_finalizer(const ph_interpreter *interp)
{
    walker w = {.interp = interp};
    PyObject *found = NULL;
    int result = ph_visit_tracked(collect_waiting, &w);
    if (result == 0) {
        found = PyList_New((Py_ssize_t)w.todo_used);    /* the collector is off */
    }
    for (size_t i = 0; found && i < w.todo_used; i++) {
        PyList_SET_ITEM(found, (Py_ssize_t)i, Py_NewRef(w.todo[i]));
    }
    if (result != 0 && !PyErr_Occurred()) {
        ph_raise(&interp->exceptions);
    }
    ph_free(w.todo);
    return found;
}
