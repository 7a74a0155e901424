/* hash.c -- the hash of a frozen object, and whether two keys are equal.

   An object is hashed while its block is being built: it is read through its view, and
   its parts have hashes already or are hashed by recursion.  The result is what hash()
   returns for the object at its final address.

   A slice caches no hash, nor does a tuple before 3.14: these are hashed again each
   time, with a bound on the depth of the recursion. */

#include "layout/internal.h"

#include "layout/datetime.h"

/* --- Items -------------------------------------------------------------------- */

#define HASH_DEPTH_MOST 1000
static _Thread_local int hash_depth __attribute__((tls_model("initial-exec")));

/* The xxHash that tuple and slice mix their items with. */
#define XXPRIME_1 ((Py_uhash_t)11400714785074694791ULL)
#define XXPRIME_2 ((Py_uhash_t)14029467366897019727ULL)
#define XXPRIME_5 ((Py_uhash_t)2870177450012600261ULL)

/* Do one round of it. */
static inline Py_uhash_t
mix_lane(Py_uhash_t acc, Py_uhash_t lane)
{
    acc += lane * XXPRIME_2;
    acc = (acc << 31) | (acc >> 33);
    return acc * XXPRIME_1;
}

/* Mix the hashes of n items, as tuple and slice do; false if one of them has
   none, or is nested too deep. */
static bool
mix_items(const ph_block *block, PyObject *const *items, Py_ssize_t n,
          Py_uhash_t *p_acc)
{
    Py_uhash_t acc = XXPRIME_5;
    assert(hash_depth >= 0 && hash_depth <= HASH_DEPTH_MOST);
    Py_hash_t lane = hash_depth < HASH_DEPTH_MOST ? 0 : -1;
    hash_depth++;
    for (Py_ssize_t i = 0; i < n && lane != -1; i++) {
        if (n - i > PH_AHEAD) {
            ph_prefetch(block, items[i + PH_AHEAD]);
        }
        lane = ph_hash(block, items[i]);
        acc = mix_lane(acc, (Py_uhash_t)lane);
    }
    hash_depth--;
    *p_acc = acc;
    return lane != -1;
}

Py_hash_t
ph_hash_of_tuple(const ph_block *block, PyObject *const *items, Py_ssize_t n)
{
    Py_uhash_t acc;
    if (!mix_items(block, items, n, &acc)) {
        return -1;
    }
    acc += (Py_uhash_t)n ^ (XXPRIME_5 ^ 3527539UL);
    return acc == (Py_uhash_t)-1 ? 1546275796 : (Py_hash_t)acc;
}

/* --- Kinds -------------------------------------------------------------------- */

/* A NaN hashes by its address, which must be the final one. */
static Py_hash_t
hash_complex(PyObject *final, const PyComplexObject *view)
{
    Py_uhash_t real = (Py_uhash_t)_Py_HashDouble(final, view->cval.real);
    Py_uhash_t imag = (Py_uhash_t)_Py_HashDouble(final, view->cval.imag);
    Py_uhash_t hash = real + _PyHASH_IMAG * imag;
    return hash == (Py_uhash_t)-1 ? -2 : (Py_hash_t)hash;
}

static Py_hash_t
hash_range(const ph_block *block, const ph_range_object *view)
{
    long length = ph_heap_contains(view->length) ? LONG_MAX
                                                 : PyLong_AsLong(view->length);
    PyObject *parts[3] = {view->length, Py_None, Py_None};
    if (length > 0) {
        parts[1] = view->start;
        if (length > 1) {
            parts[2] = view->step;
        }
    }
    return ph_hash_of_tuple(block, parts, 3);
}

/* sliceobject.c hashes like tuple, without mixing in the length. */
static Py_hash_t
hash_slice(const ph_block *block, const PySliceObject *view)
{
    PyObject *parts[3] = {view->start, view->stop, view->step};
    Py_uhash_t acc;
    if (!mix_items(block, parts, 3, &acc)) {
        return -1;
    }
    return acc == (Py_uhash_t)-1 ? 1546275796 : (Py_hash_t)acc;
}

static Py_hash_t
hash_tuple(const ph_block *block, PyTupleObject *view)
{
#if PH_TUPLE_HAS_HASH
    (void)block;
    return view->ob_hash;
#else
    return ph_hash_of_tuple(block, view->ob_item, Py_SIZE(view));
#endif
}

Py_hash_t
ph_hash(const ph_block *block, PyObject *frozen)
{
    if (!ph_heap_contains(frozen)) {
        return PyObject_Hash(frozen);           /* static: always hashable */
    }
    PyObject *view = (PyObject *)ph_block_view(block, frozen);
    PyTypeObject *type = Py_TYPE(view);
    if (type == &PyUnicode_Type) {
        assert(((PyASCIIObject *)view)->hash != -1);
        return ((PyASCIIObject *)view)->hash;
    }
    if (type == &PyFloat_Type) {
        return _Py_HashDouble(frozen, ((PyFloatObject *)view)->ob_fval);
    }
    if (type == &PyComplex_Type) {
        return hash_complex(frozen, (PyComplexObject *)view);
    }
    if (type == &PyTuple_Type) {
        return hash_tuple(block, (PyTupleObject *)view);
    }
    if (type == &PyFrozenSet_Type) {
        return ((PySetObject *)view)->hash;
    }
#if PH_HAS_FROZENDICT
    if (type == &PyFrozenDict_Type) {
        return ((PyFrozenDictObject *)view)->ma_hash;
    }
#endif
    if (type == &PyDictProxy_Type) {
        return -1;
    }
    if (type == &PySlice_Type) {
        return hash_slice(block, (PySliceObject *)view);
    }
    if (type == &PyRange_Type) {
        return hash_range(block, (ph_range_object *)view);
    }
    if (type == ph_datetime.timezone) {
        return ph_hash(block, ((ph_timezone_object *)view)->offset);
    }
    return PyObject_Hash(view);                 /* int, bytes; cached: date ... */
}

/* --- Comparing keys ----------------------------------------------------------- */

int
ph_keys_equal(const ph_block *block, PyObject *a, PyObject *b)
{
    if (a == b) {
        return 1;
    }
    const PyObject *view_a = ph_block_view(block, a);
    const PyObject *view_b = ph_block_view(block, b);
    if ((Py_TYPE(view_a) == &PyBytes_Type) != (Py_TYPE(view_b) == &PyBytes_Type)) {
        return 0;                   /* and `python -b` does not warn */
    }
    ph_block_show(block);
    return PyObject_RichCompareBool(a, b, Py_EQ);
}

int
ph_compare_failed(void)
{
    ph_fail(PH_EXCEPTION, "comparing keys raised an exception");
    return -1;
}
