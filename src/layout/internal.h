/* internal.h -- what layout.c and dict.c share: the head
   of a permanent object, and hashing of parts. */

#ifndef PH_LAYOUT_INTERNAL_H
#define PH_LAYOUT_INTERNAL_H

#include "layout/layout.h"

#include <string.h>

#include "internal/pycore_dict.h"
#include "internal/pycore_gc.h"
#include "internal/pycore_long.h"
#include "internal/pycore_unicodeobject.h"

/* The first word of a permanent object.  On 3.12 and 3.13 only 0xFFFFFFFF in
   the low half makes Py_INCREF() write nothing; the high half keeps the 64-bit
   counts of old stable-ABI extensions about 2**62 away from zero.  From 3.14
   on the word also carries the flags that the interpreter's borrowed
   references test. */
#if PY_VERSION_HEX >= 0x030e0000
#define PH_REFCNT_WORD ((uint64_t)_Py_STATIC_IMMORTAL_INITIAL_REFCNT)
#else
#define PH_REFCNT_WORD ((uint64_t)0x3FFFFFFFFFFFFFFF)
#endif

/* Does a tuple cache its hash? */
#define PH_TUPLE_HAS_HASH (PY_VERSION_HEX >= 0x030e0000)

#define PH_GC_HEAD sizeof(PyGC_Head)    /* in front of containers; zeroed */

/* Not in any header: descrobject.c. */
typedef struct {
    PyObject_HEAD
    PyObject *mapping;
} ph_proxy_object;

/* Room for an object of `size` bytes, with its reference count and type
   written; *p_view is where to write the rest.  NULL after ph_fail(). */
PyObject *ph_new_object(ph_block *block, PyTypeObject *type, size_t size,
                        void *p_view);
/* The same with a zeroed GC header in front.  `kind` counts. */
PyObject *ph_new_container(ph_block *block, PyTypeObject *type, size_t size,
                           void *p_view);

/* Mark a str that is immortal and not interned. */
void ph_set_str_state(PyASCIIObject *view);

/* The hash of a tuple of frozen items, or -1 if one of them has none. */
Py_hash_t ph_hash_of_tuple(const ph_block *block, PyObject *const *items,
                           Py_ssize_t n);

/* Mix the hashes of n items, as tuple and slice do; false if one of them has
   none, or is nested too deep. */
bool ph_hash_mix_items(const ph_block *block, PyObject *const *items, Py_ssize_t n,
                       Py_uhash_t *p_acc);

/* One round of the xxHash that tuple and slice mix their items with. */
#define PH_XXPRIME_1 ((Py_uhash_t)11400714785074694791ULL)
#define PH_XXPRIME_2 ((Py_uhash_t)14029467366897019727ULL)
#define PH_XXPRIME_5 ((Py_uhash_t)2870177450012600261ULL)

static inline Py_uhash_t
ph_hash_mix(Py_uhash_t acc, Py_uhash_t lane)
{
    acc += lane * PH_XXPRIME_2;
    acc = (acc << 31) | (acc >> 33);
    return acc * PH_XXPRIME_1;
}

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

/* values.c: keep a copy of datetime's PyDateTime_CAPI. */
void ph_datetime_keep(const void *api);

/* dict.c */
int ph_layout_init_containers(void);
/* The reference count that marks a dict's table of keys as immortal. */
Py_ssize_t ph_immortal_keys_refcnt(void);
/* Bytes of a dict's table of keys, also of an ordinary one. */
size_t ph_keys_size(const PyDictKeysObject *keys);
int ph_dissect_dict(PyObject *obj, ph_anatomy *anatomy, ph_visit visit, void *arg);
int ph_dissect_frozenset(PyObject *obj, ph_anatomy *anatomy, ph_visit visit,
                         void *arg);

#endif
