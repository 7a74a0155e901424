/* internal.h -- what the files of layout/ share with each other: structs that no header
   of CPython has, and functions that only layout/ calls.

   The sections are in the order of the files in meson.build. */

#ifndef PH_LAYOUT_INTERNAL_H
#define PH_LAYOUT_INTERNAL_H

#include "layout/frozen.h"

#include <assert.h>

#include "internal/pycore_dict.h"

/* --- Structs ------------------------------------------------------------------ */

/* rangeobject.c; unchanged for many versions. */
typedef struct {
    PyObject_HEAD
    PyObject *start, *stop, *step, *length;
} ph_range_object;

/* _datetimemodule.c */
typedef struct {
    PyObject_HEAD
    PyObject *offset;               /* timedelta */
    PyObject *name;                 /* str or NULL */
} ph_timezone_object;

/* descrobject.c */
typedef struct {
    PyObject_HEAD
    PyObject *mapping;
} ph_proxy_object;

/* Call visit(part, arg) for each part that is not NULL; stop at the first result that
   is not 0, and return that. */
static inline int
ph_visit_parts(PyObject *const *parts, Py_ssize_t n, visitproc visit, void *arg)
{
    for (Py_ssize_t i = 0; i < n; i++) {
        Py_VISIT(parts[i]);
    }
    return 0;
}

/* --- object.c ----------------------------------------------------------------- */

/* Make room for an object of `size` bytes and write its head; *p_view is where to
   write the rest.  NULL after ph_fail(). */
PyObject *ph_new_object(ph_block *block, PyTypeObject *type, size_t size,
                        void *p_view);
/* Do the same for a container, which has the collector's words in front. */
PyObject *ph_new_container(ph_block *block, PyTypeObject *type, size_t size,
                           void *p_view);

/* A room of which all bytes are used. */
static inline ph_room
ph_exact_room(uint64_t size)
{
    return (ph_room){.size = size, .reach = size};
}

/* Frozen items lie in the order in which they were met, each with its contents behind
   it: too far apart for the processor to guess the next.  Loops over many items start
   to load one this many turns before they read it. */
#define PH_AHEAD 8

static inline void
ph_prefetch(const ph_block *block, PyObject *frozen)
{
    __builtin_prefetch(ph_block_view(block, frozen));
}

/* --- statics.c ---------------------------------------------------------------- */

/* Look up the static objects.  Once per interpreter; -1 with an exception. */
int ph_statics_init(void);

/* --- hash.c ------------------------------------------------------------------- */

/* Return the hash of a tuple of frozen items, or -1 if one of them has none. */
Py_hash_t ph_hash_of_tuple(const ph_block *block, PyObject *const *items,
                           Py_ssize_t n);

/* A frozenset's hash: that of each item, shuffled, by exclusive or; then the
   number of items, and a last stir (setobject.c). */
static inline Py_uhash_t
ph_hash_shuffle(Py_uhash_t hash)
{
    return ((hash ^ 89869747UL) ^ (hash << 16)) * 3644798167UL;
}

static inline Py_hash_t
ph_hash_of_set(Py_uhash_t acc, Py_ssize_t n)
{
    acc ^= ((Py_uhash_t)n + 1) * 1927868237UL;
    acc ^= (acc >> 11) ^ (acc >> 25);
    acc = acc * 69069U + 907133923UL;
    return acc == (Py_uhash_t)-1 ? 590923713L : (Py_hash_t)acc;
}

/* Are two frozen keys equal?  They are read at their final addresses, which show then
   what was built so far.  -1 with an exception. */
int ph_keys_equal(const ph_block *block, PyObject *a, PyObject *b);
/* Report that ph_keys_equal() raised; return -1. */
int ph_compare_failed(void);

/* --- str.c -------------------------------------------------------------------- */

/* Mark a str that is immortal and not interned. */
void ph_set_str_state(PyASCIIObject *view);

/* --- dict.c ------------------------------------------------------------------- */

/* Look up what all dicts share.  Once per process; -1 with an exception. */
int ph_dict_init(void);
/* Is this the table of keys of an empty dict? */
bool ph_is_static_keys(const void *keys);
/* The reference count that marks a dict's table of keys as immortal. */
Py_ssize_t ph_immortal_keys_refcnt(void);
/* Bytes of a dict's table of keys, also of an ordinary one. */
size_t ph_keys_size(const PyDictKeysObject *keys);
/* Bytes of the n values of a frozen split dict. */
size_t ph_values_size(Py_ssize_t n);
/* Where the memory of an ordinary dict's values begins, and its bytes; 0 if they lie
   inside their instance. */
size_t ph_values_memory(const PyDictValues *values, const void **p_start);

/* The entry with this number in a table of keys, and its fields. */
static inline void *
ph_keys_entry(const PyDictKeysObject *table, Py_ssize_t i)
{
    char *entries = (char *)table->dk_indices
                    + ((size_t)1 << table->dk_log2_index_bytes);
    size_t size = table->dk_kind == DICT_KEYS_GENERAL
                  ? sizeof(PyDictKeyEntry) : sizeof(PyDictUnicodeEntry);
    return entries + (size_t)i * size;
}

static inline PyObject *
ph_keys_key(const PyDictKeysObject *table, Py_ssize_t i)
{
    return table->dk_kind == DICT_KEYS_GENERAL
           ? ((PyDictKeyEntry *)ph_keys_entry(table, i))->me_key
           : ((PyDictUnicodeEntry *)ph_keys_entry(table, i))->me_key;
}

static inline PyObject **
ph_keys_value(const PyDictKeysObject *table, Py_ssize_t i)
{
    return table->dk_kind == DICT_KEYS_GENERAL
           ? &((PyDictKeyEntry *)ph_keys_entry(table, i))->me_value
           : &((PyDictUnicodeEntry *)ph_keys_entry(table, i))->me_value;
}

/* --- set.c -------------------------------------------------------------------- */

/* Look up what all weak references share.  Once per process; -1 with an exception. */
int ph_set_init(void);

#endif
