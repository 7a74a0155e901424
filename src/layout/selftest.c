/* selftest.c -- does this interpreter lay out objects as the writers in layout/ do?

   For each kind a real object is made.  The very functions that freeze uses forge its
   twin in scratch memory.  The interpreter's own API must find the two alike: equal, of
   one hash and repr, each key found.  This runs when the module is imported: a
   difference is an ImportError, not corrupted memory. */

#include "layout/init.h"

#include <assert.h>

#include "layout/frozen.h"
#include "layout/sources.h"
#include "layout/values.h"

#define SCRATCH (64 * PH_KIB)       /* bytes; the objects below take a tenth */
#define ITEMS_MOST 64               /* of a container below */

typedef PyObject *(*forge)(ph_block *block, PyObject *real);

static PyObject *
forge_scalar(ph_block *block, PyObject *real)
{
    ph_scalar scalar;
    return ph_scalar_of(real, &scalar) < 0 ? NULL : ph_put_scalar(block, &scalar);
}

static PyObject *
forge_range(ph_block *block, PyObject *real)
{
    PyObject *parts[4];
    ph_scalar scalar;
    ph_range_parts(real, parts);
    ph_scalar_of_range(parts, &scalar);
    return ph_put_scalar(block, &scalar);
}

static PyObject *
forge_tuple(ph_block *block, PyObject *real)
{
    return ph_put_tuple(block, &PyTuple_GET_ITEM(real, 0), PyTuple_GET_SIZE(real));
}

static PyObject *
forge_slice(ph_block *block, PyObject *real)
{
    PyObject *parts[3];
    ph_slice_parts(real, parts);
    return ph_put_slice(block, parts);
}

static PyObject *
forge_frozenset(ph_block *block, PyObject *real)
{
    PyObject *items[ITEMS_MOST];
    ph_clash clash;
    ph_set_items(real, items);
    return ph_put_frozenset(block, items, PySet_GET_SIZE(real), &clash);
}

static Py_ssize_t
get_dict_items(PyObject *dict, PyObject **keys, PyObject **values)
{
    Py_ssize_t n = 0, pos = 0;
    while (PyDict_Next(dict, &pos, &keys[n], &values[n])) {
        n++;
    }
    return n;
}

static PyObject *
forge_mapping(ph_block *block, PyObject *real)
{
    PyObject *keys[ITEMS_MOST], *values[ITEMS_MOST];
    ph_clash clash;
    Py_ssize_t n = get_dict_items(real, keys, values);
    return ph_put_mapping(block, keys, values, n, PH_EQUAL_KEYS_CLASH, &clash);
}

static PyObject *
forge_shaped(ph_block *block, PyObject *real)
{
    PyObject *keys[ITEMS_MOST], *values[ITEMS_MOST];
    Py_ssize_t n = get_dict_items(real, keys, values);
    ph_shape_keys *shape = ph_put_shape(block, keys, n);
    return shape ? ph_put_shaped_mapping(block, shape, values, n) : NULL;
}

static const struct {
    const char *expression;         /* of the real object */
    forge forge;
} cases[] = {
    {"'plain ASCII'", ph_put_str},
    {"'caf\\xe9'", ph_put_str},
    {"'\\u20ac \\u0416'", ph_put_str},
    {"'\\U0001f600 smile'", ph_put_str},
    {"'\\ud800'", ph_put_str},
    {"-70000", forge_scalar},
    {"1 << 200", forge_scalar},
    {"2.5", forge_scalar},
    {"1.5 - 2j", forge_scalar},
    {"b'some bytes'", forge_scalar},
    {"range(3, 1000, 7)", forge_range},
    {"(1, 'two', None, 4.0)", forge_tuple},
    {"slice(1, None, 'x')", forge_slice},
    {"frozenset()", forge_frozenset},
    {"frozenset((1, 'two', 3.5, ()))", forge_frozenset},
    {"frozenset(range(1, 1 << 40, 1 << 35))", forge_frozenset},
    {"{}", forge_mapping},
    {"{'b': 1, 'a': (), 'c': 'x'}", forge_mapping},
    {"{1: 'a', None: 2, 'x': 3, (1, 2): 4}", forge_mapping},
    {"{str(i): i for i in range(50)}", forge_mapping},
    {"{'one': 1}", forge_shaped},
    {"{str(i): i for i in range(30)}", forge_shaped},
};

/* Return the object that a forged one must be like.  The real twin of a mapping is a
   dict; a frozendict of it, where there is one, says what the hash should be. */
static PyObject *
make_real_twin(PyObject *real)
{
    bool hashable = PyDict_CheckExact(real) && ph_mapping_type != &PyDictProxy_Type;
    return hashable ? ph_frozendict_of(real) : Py_NewRef(real);
}

static bool
have_same_hash(PyObject *real, PyObject *forged)
{
    Py_hash_t a = PyObject_Hash(real), b = PyObject_Hash(forged);
    PyErr_Clear();                  /* neither has one: dict, mappingproxy */
    return a == b;
}

static int
have_same_repr(PyObject *real, PyObject *forged)
{
    PyObject *a = PyObject_Repr(real), *b = PyObject_Repr(forged);
    int same = a && b ? PyUnicode_Compare(a, b) == 0 : -1;
    Py_XDECREF(a);
    Py_XDECREF(b);
    return same;
}

static bool
finds_all_keys(PyObject *real, PyObject *forged)
{
    Py_ssize_t pos = 0;
    PyObject *key, *value;
    while (PyDict_Next(real, &pos, &key, &value)) {
        PyObject *found = PyObject_GetItem(forged, key);
        Py_XDECREF(found);
        if (found != value) {
            return false;
        }
    }
    return true;
}

/* 1: alike; 0: not; -1 with an exception. */
static int
compare_twins(PyObject *real, PyObject *forged)
{
    if (PyDict_Check(real) && !finds_all_keys(real, forged)) {
        return 0;
    }
    PyObject *twin = make_real_twin(real);
    if (twin == NULL) {
        return -1;
    }
    PyObject *inner = PyDict_Check(twin) ? ph_mapping_dict(forged) : forged;
    int result = PyObject_RichCompareBool(inner, twin, Py_EQ);
    if (result > 0) {
        result = have_same_hash(twin, forged);
    }
    if (result > 0) {
        /* The order of a set is that of its table: ours may be smaller. */
        result = PyAnySet_Check(real) || have_same_repr(twin, inner);
    }
    Py_DECREF(twin);
    return result;
}

static int
check_case(size_t i, PyObject *globals, char *scratch)
{
    PyObject *real = PyRun_String(cases[i].expression, Py_eval_input, globals,
                                  globals);
    if (real == NULL) {
        return -1;
    }
    ph_block block = {.pos = scratch, .limit = scratch + SCRATCH};
    PyObject *forged = cases[i].forge(&block, real);
    assert(block.pos <= block.limit);
    int result = forged == NULL ? 0 : compare_twins(real, forged);
    Py_DECREF(real);
    if (result == 0 || (result < 0 && !PyErr_Occurred())) {
        PyErr_Format(PyExc_ImportError,
                     "permaheap: this CPython (%s) lays out %s in a way that "
                     "permaheap does not know; please report it",
                     Py_GetVersion(), cases[i].expression);
        result = -1;
    }
    return result < 0 ? -1 : 0;
}

int
ph_layout_selftest(void)
{
    char *scratch = ph_malloc(SCRATCH);
    PyObject *globals = PyDict_New();
    int result = -1;
    if (scratch == NULL || globals == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    if (PyDict_SetItemString(globals, "__builtins__", PyEval_GetBuiltins()) < 0) {
        goto done;
    }
    for (size_t i = 0; i < Py_ARRAY_LENGTH(cases); i++) {
        result = check_case(i, globals, scratch);
        if (result < 0) {
            break;
        }
    }
done:
    Py_XDECREF(globals);
    ph_free(scratch);
    return result;
}
