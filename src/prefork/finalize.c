/* finalize.c -- which finalizers the end of the process owes, and in which order.

   An immortal object never drops its references.  So an object that only immortal ones
   hold would lose its finalizer, which plain teardown would have run.  The last step of
   the process runs it: see _immortalize.py.  Nothing else may run there.  A thread that
   still reads from a file, or a coroutine that it is in, holds the object by its frames;
   so did a thread of the parent, whose frames a forked child has lost, but whose
   references are still counted.

   - Counting.  From the references of each mortal object that the collector tracks, those
     are subtracted that immortal and other such objects hold, as the collector does.  A
     rest is held by a frame or by C.  That object is left alone, with all that it
     reaches.  (An object with a finalizer that was made immortal has no count, and
     counts as held by nobody.)
   - Order.  An object comes before those that it reaches, through any objects: plain
     teardown frees the outer one first.  Classes, modules and the globals of functions are
     not followed, for plain teardown frees no instance to free its class.  Of a cycle, the
     object comes first that the rest was made for: the outer one, or else the oldest.

   Nothing is written to any object.  The collector is off, and no Python code runs. */

#include "prefork/finalize.h"

#include "core/base/array.h"
#include "layout/immortal.h"
#include "state/memo.h"

typedef struct {
    PyObject *obj;
    Py_ssize_t rest;                /* references that are not accounted for */
    bool waits;                     /* its finalizer is wanted */
} tracked;

typedef struct {
    PyObject *obj;
    bool leave;                     /* all that it reaches is in the order */
} step;

typedef struct {
    PyObject *list;                 /* of those that wait; it is not an object like others */
    tracked *all;
    size_t used, size;
    ph_memo numbers;                /* object -> its number in all, from 1 */
    ph_memo held;                   /* by a frame or by C, or reached from such objects */
    PyObject **todo;                /* held, and not looked into yet */
    size_t todo_used, todo_size;
    ph_memo seen;                   /* objects in the order, or on the way */
    step *steps;
    size_t steps_used, steps_size;
    PyObject **order;               /* the innermost first */
    size_t order_used, order_size;
} ending;

static tracked *
find_tracked(const ending *e, PyObject *obj)
{
    uintptr_t number = (uintptr_t)ph_memo_get(&e->numbers, obj);
    return number != 0 ? &e->all[number - 1] : NULL;
}

/* Could plain teardown free an object on the way, when it frees one that refers to it? */
static bool
leads_on(PyObject *obj)
{
    return PyObject_IS_GC(obj) && !PyType_Check(obj) && !PyModule_Check(obj);
}

/* Visit the references of an object, without the globals of a function. */
static int
visit_owned_parts(PyObject *obj, visitproc visit, ending *e)
{
    if (!PyFunction_Check(obj)) {
        return Py_TYPE(obj)->tp_traverse(obj, visit, e);
    }
    PyFunctionObject *function = (PyFunctionObject *)obj;
    PyObject *parts[] = {
        function->func_closure, function->func_defaults, function->func_kwdefaults,
        function->func_dict,
    };
    for (size_t i = 0; i < Py_ARRAY_LENGTH(parts); i++) {
        if (parts[i] != NULL && visit(parts[i], e) < 0) {
            return -1;
        }
    }
    return 0;
}

/* --- Counting ----------------------------------------------------------------- */

static int
add_tracked(PyObject *obj, void *arg)
{
    ending *e = arg;
    if (obj == e->list) {
        return 0;
    }
    if (ph_grow(&e->all, e->used, &e->size, sizeof(tracked)) < 0) {
        return -1;
    }
    e->all[e->used++] = (tracked){
        .obj = obj,
        .rest = _Py_IsImmortal(obj) ? 0 : Py_REFCNT(obj),
    };
    return ph_memo_set(&e->numbers, obj, (void *)e->used) == PH_OK ? 0 : -1;
}

static int
subtract_reference(PyObject *obj, void *arg)
{
    tracked *found = find_tracked(arg, obj);
    if (found != NULL && !_Py_IsImmortal(obj)) {
        found->rest--;
    }
    return 0;
}

static int
subtract_references_of(PyObject *obj, void *arg)
{
    return Py_TYPE(obj)->tp_traverse(obj, subtract_reference, arg);
}

static int
count_references(ending *e, const ph_immortal_ring *immortals)
{
    if (ph_visit_tracked(add_tracked, e) < 0) {
        return -1;
    }
    for (size_t i = 0; i < e->used; i++) {
        subtract_references_of(e->all[i].obj, e);
    }
    subtract_references_of(e->list, e);
    ph_visit_immortals(immortals, subtract_references_of, e);
    return 0;
}

/* A visitproc: an object is held, and so is all that it reaches. */
static int
push_held(PyObject *obj, void *arg)
{
    ending *e = arg;
    if (!leads_on(obj) || ph_memo_get(&e->held, obj) != NULL) {
        return 0;
    }
    if (ph_memo_set(&e->held, obj, obj) != PH_OK
        || ph_grow(&e->todo, e->todo_used, &e->todo_size, sizeof(PyObject *)) < 0) {
        return -1;
    }
    e->todo[e->todo_used++] = obj;
    return 0;
}

/* Leave alone what a frame or C holds, and all that this reaches. */
static int
leave_held(ending *e)
{
    for (size_t i = 0; i < e->used; i++) {
        if (e->all[i].rest > 0 && push_held(e->all[i].obj, e) < 0) {
            return -1;
        }
    }
    while (e->todo_used > 0) {
        PyObject *obj = e->todo[--e->todo_used];
        if (visit_owned_parts(obj, push_held, e) != 0) {
            return -1;
        }
    }
    return 0;
}

/* --- Order -------------------------------------------------------------------- */

/* A visitproc: look into an object later, if plain teardown could free it by the way. */
static int
push_step(PyObject *obj, void *arg)
{
    ending *e = arg;
    if (!leads_on(obj) || ph_memo_get(&e->seen, obj) != NULL) {
        return 0;
    }
    if (ph_grow(&e->steps, e->steps_used, &e->steps_size, sizeof(step)) < 0) {
        return -1;
    }
    e->steps[e->steps_used++] = (step){.obj = obj};
    return 0;
}

static int
append_to_order(ending *e, PyObject *obj)
{
    const tracked *found = find_tracked(e, obj);
    if (found == NULL || !found->waits || ph_memo_get(&e->held, obj) != NULL) {
        return 0;
    }
    if (ph_grow(&e->order, e->order_used, &e->order_size, sizeof(PyObject *)) < 0) {
        return -1;
    }
    e->order[e->order_used++] = obj;
    return 0;
}

/* Put an object into the order, after all that it reaches. */
static int
put_in_order(ending *e, PyObject *root)
{
    if (push_step(root, e) < 0) {
        return -1;
    }
    while (e->steps_used > 0) {
        step *last = &e->steps[e->steps_used - 1];
        PyObject *obj = last->obj;
        if (last->leave) {
            e->steps_used--;
            if (append_to_order(e, obj) < 0) {
                return -1;
            }
        }
        else if (ph_memo_get(&e->seen, obj) != NULL) {
            e->steps_used--;
        }
        else {
            last->leave = true;
            if (ph_memo_set(&e->seen, obj, obj) != PH_OK
                || visit_owned_parts(obj, push_step, e) != 0) {
                return -1;
            }
        }
    }
    return 0;
}

static int
order_waiting(ending *e)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(e->list); i++) {
        tracked *found = find_tracked(e, PyList_GET_ITEM(e->list, i));
        if (found != NULL) {
            found->waits = true;
        }
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(e->list); i++) {     /* the oldest first */
        const tracked *found = find_tracked(e, PyList_GET_ITEM(e->list, i));
        if (found != NULL && put_in_order(e, found->obj) < 0) {
            return -1;
        }
    }
    return 0;
}

PyObject *
ph_owed_finalizers(const ph_interpreter *interp, PyObject *waiting)
{
    ending e = {.list = waiting};
    ph_memo_init(&e.numbers);
    ph_memo_init(&e.held);
    ph_memo_init(&e.seen);
    PyObject *result = NULL;
    if (count_references(&e, interp->immortals) == 0 && leave_held(&e) == 0
        && order_waiting(&e) == 0) {
        result = PyList_New((Py_ssize_t)e.order_used);
    }
    for (size_t i = 0; result != NULL && i < e.order_used; i++) {
        PyObject *outermost = e.order[e.order_used - 1 - i];
        PyList_SET_ITEM(result, (Py_ssize_t)i, Py_NewRef(outermost));
    }
    if (result == NULL && !PyErr_Occurred()) {
        ph_raise(&interp->exceptions);
    }
    ph_memo_clear(&e.numbers);
    ph_memo_clear(&e.held);
    ph_memo_clear(&e.seen);
    ph_free(e.all);
    ph_free(e.todo);
    ph_free(e.steps);
    ph_free(e.order);
    return result;
}
