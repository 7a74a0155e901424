/* frozen.h -- permanent objects: how each kind is written into a block.

   Every ph_put_*() writes one object, from parts that are frozen already.  It fills each
   cache that CPython fills on reading the object (hash, UTF-8 form, first weak
   reference), since a reader of a read-only page cannot.  It returns the object's final
   address, or NULL after ph_fail().  Until the block is shown, the object is read
   through the block's view of that address. */

#ifndef PH_FROZEN_H
#define PH_FROZEN_H

#include "layout/version.h"

#include "core/block/block.h"

/* --- Hashes (hash.c) ---------------------------------------------------------- */

/* Return the hash of a frozen object, or -1 if it has none.  Sets no exception. */
Py_hash_t ph_hash(const ph_block *block, PyObject *frozen);

/* --- Numbers, bytes, range, datetime (scalar.c) ------------------------------- */

/* The bytes that make up an atom, from its type on (the word before is the
   reference count).  They lie in the atom itself, its hash filled in, or in
   `copy`. */
typedef struct {
    const char *bytes;
    size_t size;
    ph_kind kind;
    _Alignas(8) char copy[64];
} ph_scalar;

/* Describe an int, float, complex, bytes, date, timedelta, or a naive time or datetime.
   -1 with an exception. */
int ph_scalar_of(PyObject *obj, ph_scalar *scalar);
/* Describe an object that has parts: pass these frozen. */
void ph_scalar_of_range(PyObject *const parts[4], ph_scalar *scalar);
void ph_scalar_of_timezone(PyObject *const parts[2], ph_scalar *scalar);
int ph_scalar_of_aware(PyObject *obj, PyObject *tzinfo, ph_scalar *scalar);
PyObject *ph_put_scalar(ph_block *block, const ph_scalar *scalar);
/* Is the frozen object at this view made of these bytes? */
bool ph_scalar_equal(const void *view, const ph_scalar *scalar);

/* --- str (str.c) -------------------------------------------------------------- */

/* Return hash(str); fill it in if need be. */
static inline Py_hash_t
ph_str_hash(PyObject *str)
{
    Py_hash_t hash = ((PyASCIIObject *)str)->hash;
    return hash != -1 ? hash : PyObject_Hash(str);
}

PyObject *ph_put_str(ph_block *block, PyObject *str);
/* Return how many bytes an ASCII str will take; UINT64_MAX for other str, whose UTF-8
   form is not measured yet. */
uint64_t ph_str_room(PyObject *str);
/* Return how many bytes ph_put_str() took for this str. */
uint64_t ph_str_size(const void *view);
/* Are two str equal?  One of them is at a view. */
bool ph_str_equal(const void *view, PyObject *str);

/* --- tuple and slice (tuple.c) ------------------------------------------------ */

/* The ph_*_room() say how much a container takes, before its items are known. */
ph_room ph_tuple_room(Py_ssize_t n);
PyObject *ph_put_tuple(ph_block *block, PyObject *const *items, Py_ssize_t n);
PyObject *ph_put_slice(ph_block *block, PyObject *const parts[3]);

/* --- Mappings and frozensets (dict.c, set.c) ---------------------------------- */

/* The type of frozen mappings, and the dict inside one of them. */
extern PyTypeObject *const ph_mapping_type;
PyObject *ph_mapping_dict(PyObject *mapping);

/* The key that will not do, and why. */
typedef struct {
    Py_ssize_t index;               /* of the key or item; -1: nothing */
    bool unhashable;                /* else equal to an earlier one */
} ph_clash;

typedef enum { PH_EQUAL_KEYS_CLASH, PH_LAST_VALUE_WINS } ph_key_policy;

/* These return NULL with clash->index >= 0 when the keys will not do, or with -1 after
   ph_fail() (PH_EXCEPTION: a comparison raised). */
ph_room ph_mapping_room(Py_ssize_t n, bool only_str);
PyObject *ph_put_mapping(ph_block *block, PyObject *const *keys,
                         PyObject *const *values, Py_ssize_t n,
                         ph_key_policy policy, ph_clash *clash);
ph_room ph_frozenset_room(Py_ssize_t n);
PyObject *ph_put_frozenset(ph_block *block, PyObject *const *items, Py_ssize_t n,
                           ph_clash *clash);

/* --- Shapes: tables of keys that mappings share (dict.c) ---------------------- */

/* Dicts with up to this many str keys can share their table of keys
   (SHARED_KEYS_MAX_SIZE in dictobject.c). */
#define PH_SHAPE_MOST 30

/* Can mappings share tables?  Not where copies of them write to the tables, unless
   each process has pages of its own for that. */
static inline bool
ph_shapes_usable(void)
{
    return PH_COPIES_LEAVE_SHARED_KEYS || ph_heap.mapping == PH_MAP_PRIVATE;
}

/* A table of 1 to PH_SHAPE_MOST distinct str keys, to be shared by mappings
   that have them in this order; and such a mapping. */
typedef struct ph_shape_keys ph_shape_keys;
ph_shape_keys *ph_put_shape(ph_block *block, PyObject *const *keys, Py_ssize_t n);
ph_room ph_shaped_room(Py_ssize_t n);
PyObject *ph_put_shaped_mapping(ph_block *block, const ph_shape_keys *shape,
                                PyObject *const *values, Py_ssize_t n);
/* Return how many bytes of key tables one more mapping of a shape saves. */
uint64_t ph_shape_saving(Py_ssize_t n);

#endif
