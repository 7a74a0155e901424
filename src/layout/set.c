/* set.c -- writing a permanent frozenset.

       | head | fill, used, mask, table, hash, small table, weak references |
       | table, if it is larger than the small one |
       | head of a weak reference | ... |

   The table is built as setobject.c would: by its probe sequence, never copied.

   A frozenset comes with a weak reference of its own at the head of its list.  Plain
   weakref.ref() finds it there, returns it, and writes nothing. */

#include "layout/internal.h"

#include <string.h>

#include "layout/head.h"

/* --- The table ---------------------------------------------------------------- */

/* Return the size of the smallest table that setobject.c would not call too full: less
   than 3/5. */
static size_t
count_set_slots(Py_ssize_t n)
{
    size_t slots = PySet_MINSIZE;
    while ((size_t)n * 5 >= (slots - 1) * 3) {
        slots *= 2;
    }
    assert((slots & (slots - 1)) == 0 && (size_t)n < slots);
    return slots;
}

/* Find the item by setobject.c's probe sequence: runs of LINEAR_PROBES slots.
   Returns 1 with *p_entry, where it is (*p_found) or would go; -1 with an exception. */
static int
find_set_slot(const ph_block *block, setentry *table, size_t mask, PyObject *key,
              Py_hash_t hash, setentry **p_entry, bool *p_found)
{
    enum { LINEAR_PROBES = 9, PERTURB_SHIFT = 5 };
    size_t perturb = (size_t)hash, i = perturb & mask;
    for (;;) {
        setentry *entry = &table[i];
        int probes = i + LINEAR_PROBES <= mask ? LINEAR_PROBES : 0;
        do {
            int equal = 0;
            if (entry->key != NULL && entry->hash == hash) {
                equal = ph_keys_equal(block, entry->key, key);
            }
            if (equal < 0) {
                return -1;
            }
            if (equal || entry->key == NULL) {
                *p_entry = entry;
                *p_found = equal;
                return 1;
            }
            entry++;
        } while (probes--);
        perturb >>= PERTURB_SHIFT;
        i = (i * 5 + 1 + perturb) & mask;
    }
}

/* Fill a new table.  -1 with *clash set, or after ph_fail(). */
static int
fill_set(const ph_block *block, setentry *table, size_t mask,
         PyObject *const *items, Py_ssize_t n, Py_uhash_t *p_acc, ph_clash *clash)
{
    for (Py_ssize_t i = 0; i < n; i++) {
        Py_hash_t hash = ph_hash(block, items[i]);
        setentry *entry;
        bool found = false;
        if (hash != -1
            && find_set_slot(block, table, mask, items[i], hash, &entry, &found) < 0) {
            return ph_compare_failed();
        }
        if (hash == -1 || found) {
            *clash = (ph_clash){.index = i, .unhashable = hash == -1};
            return -1;
        }
        assert(entry->key == NULL);
        *entry = (setentry){.key = items[i], .hash = hash};
        *p_acc ^= ph_hash_shuffle((Py_uhash_t)hash);
    }
    return 0;
}

/* --- The weak reference ------------------------------------------------------- */

/* The same for all weak references of the process. */
static vectorcallfunc weakref_vectorcall;

int
ph_set_init(void)
{
    PyObject *set = PySet_New(NULL);
    PyObject *ref = set ? PyWeakref_NewRef(set, NULL) : NULL;
    if (ref != NULL) {
        weakref_vectorcall = ((PyWeakReference *)ref)->vectorcall;
    }
    Py_XDECREF(ref);
    Py_XDECREF(set);
    return weakref_vectorcall == NULL ? -1 : 0;
}

static PyObject *
put_weakref(ph_block *block, PyObject *set, Py_hash_t hash)
{
    assert(weakref_vectorcall != NULL);
    PyWeakReference *view;
    PyObject *ref = ph_new_container(block, &_PyWeakref_RefType,
                                     sizeof(PyWeakReference), &view);
    if (ref != NULL) {
        memset((char *)view + sizeof(PyObject), 0,
               sizeof(PyWeakReference) - sizeof(PyObject));
        view->wr_object = set;
        view->hash = hash;
        view->vectorcall = weakref_vectorcall;
    }
    return ref;
}

/* --- frozenset ---------------------------------------------------------------- */

ph_room
ph_frozenset_room(Py_ssize_t n)
{
    size_t slots = count_set_slots(n);
    return ph_exact_room(sizeof(PySetObject) + PH_GC_HEAD
                   + (slots > PySet_MINSIZE ? slots * sizeof(setentry) : 0)
                   + sizeof(PyWeakReference) + PH_GC_HEAD);
}

PyObject *
ph_put_frozenset(ph_block *block, PyObject *const *items, Py_ssize_t n,
                 ph_clash *clash)
{
    uint64_t before = block->payload;
    clash->index = -1;
    PySetObject *view;
    PyObject *obj = ph_new_container(block, &PyFrozenSet_Type,
                                     sizeof(PySetObject), &view);
    if (obj == NULL) {
        return NULL;
    }
    memset((char *)view + sizeof(PyObject), 0,
           sizeof(PySetObject) - sizeof(PyObject));
    size_t slots = count_set_slots(n), bytes = slots * sizeof(setentry);
    setentry *table = ((PySetObject *)obj)->smalltable;
    if (slots > PySet_MINSIZE) {
        table = ph_block_alloc(block, bytes, bytes);
        if (table == NULL) {
            return NULL;
        }
        memset(ph_writable(block, table), 0, bytes);
    }
    Py_uhash_t acc = 0;
    if (fill_set(block, ph_writable(block, table), slots - 1, items, n, &acc,
                 clash) < 0) {
        return NULL;
    }
    view->fill = view->used = n;
    view->mask = (Py_ssize_t)slots - 1;
    view->table = table;
    view->hash = ph_hash_of_set(acc, n);
    view->weakreflist = put_weakref(block, obj, view->hash);
    ph_block_count(block, PH_KIND_FROZENSET, block->payload - before);
    return view->weakreflist == NULL ? NULL : obj;
}
