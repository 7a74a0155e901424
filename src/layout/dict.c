/* dict.c -- tuple, slice, mapping and frozenset.

   Mappings.  A dict's table of keys (dictobject.c draws it) is built anew
   from the frozen keys, never copied, so that nothing depends on the source's
   history.  It is one of

       combined   | header | index | entries with key and value |
       split      | header | index | entries with key |   shared by a shape
                  | values | order |                      one for each dict

   A combined table takes just the entries in use; but PyDict_Copy() copies
   tables over their whole capacity, so that this must be readable (`reach`).

   frozensets come with a weak reference of their own at the head of their
   list: plain weakref.ref() finds it there and writes nothing. */

#include "layout/internal.h"

#include <stddef.h>

/* Frozen items lie in the order in which they were met, each with what it holds
   behind it: too far apart for the processor to guess the next.  Loops over
   many of them start to load one this many turns before they read it. */
#define AHEAD 8

static inline void
prefetch(const ph_block *block, PyObject *frozen)
{
    __builtin_prefetch(ph_block_view(block, frozen));
}

/* --- Tuple and slice ------------------------------------------------------------ */

/* What caches no hash (slice; tuple before 3.14) is hashed again and again, by
   recursion: not deeper than this. */
#define HASH_DEPTH_MOST 1000
static _Thread_local int hash_depth __attribute__((tls_model("initial-exec")));

bool
ph_hash_mix_items(const ph_block *block, PyObject *const *items, Py_ssize_t n,
                  Py_uhash_t *p_acc)
{
    Py_uhash_t acc = PH_XXPRIME_5;
    Py_hash_t lane = hash_depth < HASH_DEPTH_MOST ? 0 : -1;
    hash_depth++;
    for (Py_ssize_t i = 0; i < n && lane != -1; i++) {
        if (n - i > AHEAD) {
            prefetch(block, items[i + AHEAD]);
        }
        lane = ph_hash(block, items[i]);
        acc = ph_hash_mix(acc, (Py_uhash_t)lane);
    }
    hash_depth--;
    *p_acc = acc;
    return lane != -1;
}

Py_hash_t
ph_hash_of_tuple(const ph_block *block, PyObject *const *items, Py_ssize_t n)
{
    Py_uhash_t acc;
    if (!ph_hash_mix_items(block, items, n, &acc)) {
        return -1;
    }
    acc += (Py_uhash_t)n ^ (PH_XXPRIME_5 ^ 3527539UL);
    return acc == (Py_uhash_t)-1 ? 1546275796 : (Py_hash_t)acc;
}

static size_t
tuple_size(Py_ssize_t n)
{
    return offsetof(PyTupleObject, ob_item) + (size_t)n * sizeof(PyObject *);
}

static ph_room
room_of(uint64_t size)
{
    return (ph_room){.size = size, .reach = size};
}

ph_room
ph_tuple_room(Py_ssize_t n)
{
    return room_of(tuple_size(n) + PH_GC_HEAD);
}

PyObject *
ph_put_tuple(ph_block *block, PyObject *const *items, Py_ssize_t n)
{
    size_t size = tuple_size(n);
    PyTupleObject *view;
    PyObject *obj = ph_new_container(block, &PyTuple_Type, size, &view);
    if (obj == NULL) {
        return NULL;
    }
    view->ob_base.ob_size = n;
    memcpy(view->ob_item, items, (size_t)n * sizeof(PyObject *));
#if PH_TUPLE_HAS_HASH
    view->ob_hash = ph_hash_of_tuple(block, items, n);
#endif
    ph_block_count(block, PH_KIND_TUPLE, size + PH_GC_HEAD);
    return obj;
}

PyObject *
ph_put_slice(ph_block *block, PyObject *const parts[3])
{
    PySliceObject *view;
    PyObject *obj = ph_new_container(block, &PySlice_Type, sizeof(PySliceObject),
                                     &view);
    if (obj != NULL) {
        view->start = parts[0];
        view->stop = parts[1];
        view->step = parts[2];
        ph_block_count(block, PH_KIND_SLICE, sizeof(PySliceObject) + PH_GC_HEAD);
    }
    return obj;
}

/* --- Keys: hashing and comparing ---------------------------------------------------- */

/* Are two frozen keys equal?  They are read at their final addresses: see to
   it that these show what was built.  -1 with an exception. */
static int
keys_equal(const ph_block *block, PyObject *a, PyObject *b)
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

static int
compare_failed(void)
{
    ph_fail(PH_EXCEPTION, "comparing keys raised an exception");
    return -1;
}

static bool
all_str(const ph_block *block, PyObject *const *keys, Py_ssize_t n)
{
    for (Py_ssize_t i = 0; i < n; i++) {
        const PyObject *view = ph_block_view(block, keys[i]);
        if (Py_TYPE(view) != &PyUnicode_Type) {
            return false;
        }
    }
    return true;
}

/* --- Tables of keys -------------------------------------------------------------------- */

typedef struct _dictkeysobject keys_table;

/* The size and shape of a table: all that the entries do not say. */
typedef struct {
    uint8_t log2_size;              /* of the index, in slots */
    uint8_t log2_bytes;             /* of the index */
    DictKeysKind kind;
    size_t entry;                   /* bytes per entry */
    size_t entries_at;              /* bytes in front of the entries */
} table_plan;

#define USABLE(slots) (((slots) << 1) / 3)      /* USABLE_FRACTION */

static table_plan
plan_table(Py_ssize_t n, DictKeysKind kind)
{
    uint8_t log2 = 3;
    while (USABLE((size_t)1 << log2) < (size_t)n) {
        log2++;
    }
    table_plan plan = {.log2_size = log2, .kind = kind};
    plan.log2_bytes = log2 < 8 ? log2 : log2 < 16 ? log2 + 1
                      : log2 < 32 ? log2 + 2 : log2 + 3;
    plan.entry = kind == DICT_KEYS_GENERAL ? sizeof(PyDictKeyEntry)
                                           : sizeof(PyDictUnicodeEntry);
    plan.entries_at = offsetof(keys_table, dk_indices)
                      + ((size_t)1 << plan.log2_bytes);
    return plan;
}

static size_t
table_size(const table_plan *plan, Py_ssize_t n)
{
    return plan->entries_at + (size_t)n * plan->entry;
}

static size_t
table_capacity(const table_plan *plan)
{
    return table_size(plan, (Py_ssize_t)USABLE((size_t)1 << plan->log2_size));
}

static Py_ssize_t
index_get(const keys_table *table, size_t slot)
{
    const void *index = table->dk_indices;
    switch (table->dk_log2_index_bytes - table->dk_log2_size) {
    case 0: return ((const int8_t *)index)[slot];
    case 1: return ((const int16_t *)index)[slot];
    case 2: return ((const int32_t *)index)[slot];
    default: return ((const int64_t *)index)[slot];
    }
}

static void
index_set(keys_table *table, size_t slot, Py_ssize_t entry)
{
    void *index = table->dk_indices;
    switch (table->dk_log2_index_bytes - table->dk_log2_size) {
    case 0: ((int8_t *)index)[slot] = (int8_t)entry; break;
    case 1: ((int16_t *)index)[slot] = (int16_t)entry; break;
    case 2: ((int32_t *)index)[slot] = (int32_t)entry; break;
    default: ((int64_t *)index)[slot] = entry; break;
    }
}

static void *
entry_at(const keys_table *table, Py_ssize_t i)
{
    char *entries = (char *)table->dk_indices
                    + ((size_t)1 << table->dk_log2_index_bytes);
    size_t size = table->dk_kind == DICT_KEYS_GENERAL
                  ? sizeof(PyDictKeyEntry) : sizeof(PyDictUnicodeEntry);
    return entries + (size_t)i * size;
}

static PyObject *
entry_key(const keys_table *table, Py_ssize_t i)
{
    return table->dk_kind == DICT_KEYS_GENERAL
           ? ((PyDictKeyEntry *)entry_at(table, i))->me_key
           : ((PyDictUnicodeEntry *)entry_at(table, i))->me_key;
}

static Py_hash_t
entry_hash(const ph_block *block, const keys_table *table, Py_ssize_t i)
{
    return table->dk_kind == DICT_KEYS_GENERAL
           ? ((PyDictKeyEntry *)entry_at(table, i))->me_hash
           : ph_hash(block, entry_key(table, i));
}

static PyObject **
entry_value(const keys_table *table, Py_ssize_t i)
{
    return table->dk_kind == DICT_KEYS_GENERAL
           ? &((PyDictKeyEntry *)entry_at(table, i))->me_value
           : &((PyDictUnicodeEntry *)entry_at(table, i))->me_value;
}

/* Append an entry that has slot `slot` of the index. */
static void
table_append(keys_table *table, size_t slot, PyObject *key, Py_hash_t hash,
             PyObject *value)
{
    Py_ssize_t i = table->dk_nentries++;
    index_set(table, slot, i);
    if (table->dk_kind == DICT_KEYS_GENERAL) {
        *(PyDictKeyEntry *)entry_at(table, i) =
            (PyDictKeyEntry){.me_hash = hash, .me_key = key, .me_value = value};
    }
    else {
        *(PyDictUnicodeEntry *)entry_at(table, i) =
            (PyDictUnicodeEntry){.me_key = key, .me_value = value};
    }
}

/* Find the key by dictobject.c's probe sequence: its entry, or else -1 and the
   empty slot where the sequence ends; -2 with an exception. */
static Py_ssize_t
table_find(const ph_block *block, const keys_table *table, PyObject *key,
           Py_hash_t hash, size_t *p_slot)
{
    size_t mask = ((size_t)1 << table->dk_log2_size) - 1;
    size_t perturb = (size_t)hash, slot = perturb & mask;
    Py_ssize_t entry;
    while ((entry = index_get(table, slot)) >= 0) {
        if (entry_hash(block, table, entry) == hash) {
            int equal = keys_equal(block, entry_key(table, entry), key);
            if (equal != 0) {
                return equal < 0 ? -2 : entry;
            }
        }
        perturb >>= 5;
        slot = (slot * 5 + perturb + 1) & mask;
    }
    *p_slot = slot;
    return -1;
}

static keys_table *
table_new(ph_block *block, const table_plan *plan, Py_ssize_t n, size_t reach,
          keys_table **p_view)
{
    keys_table *table = ph_block_alloc(block, table_size(plan, n), reach);
    if (table == NULL) {
        return NULL;
    }
    keys_table *view = ph_writable(block, table);
    memset(view, 0, offsetof(keys_table, dk_indices));
    view->dk_refcnt = 1;
    view->dk_log2_size = plan->log2_size;
    view->dk_log2_index_bytes = plan->log2_bytes;
    view->dk_kind = (uint8_t)plan->kind;
    memset(view->dk_indices, 0xff, (size_t)1 << plan->log2_bytes);  /* DKIX_EMPTY */
    *p_view = view;
    return table;
}

/* Fill a new table.  -1 with *clash set, or with an exception. */
static int
table_fill(const ph_block *block, keys_table *view, PyObject *const *keys,
           PyObject *const *values, Py_ssize_t n, ph_key_policy policy,
           ph_clash *clash)
{
    for (Py_ssize_t i = 0; i < n; i++) {
        size_t slot;
        if (n - i > AHEAD) {
            prefetch(block, keys[i + AHEAD]);
        }
        Py_hash_t hash = ph_hash(block, keys[i]);
        Py_ssize_t entry = -1;
        if (hash != -1) {
            entry = table_find(block, view, keys[i], hash, &slot);
        }
        if (hash == -1 || (entry >= 0 && policy == PH_EQUAL_KEYS_CLASH)) {
            *clash = (ph_clash){.index = i, .unhashable = hash == -1};
            return -1;
        }
        if (entry == -2) {
            return compare_failed();
        }
        if (entry >= 0) {
            *entry_value(view, entry) = values[i];
        }
        else {
            table_append(view, slot, keys[i], hash, values ? values[i] : NULL);
        }
    }
    return 0;
}

/* --- Mappings ----------------------------------------------------------------------------- */

/* Py_EMPTY_KEYS is static in dictobject.c; every empty dict points to it, and
   its reference count is the one that marks tables as immortal. */
static keys_table *empty_keys;

static int
look_up_empty_keys(void)
{
    if (empty_keys == NULL) {
        PyObject *empty = PyDict_New();
        if (empty == NULL) {
            return -1;
        }
        empty_keys = ((PyDictObject *)empty)->ma_keys;
        Py_DECREF(empty);
    }
    return 0;
}

Py_ssize_t
ph_immortal_keys_refcnt(void)
{
    return empty_keys->dk_refcnt;
}

size_t
ph_keys_size(const keys_table *keys)
{
    if (keys == empty_keys) {
        return 0;
    }
    size_t entry = keys->dk_kind == DICT_KEYS_GENERAL ? sizeof(PyDictKeyEntry)
                                                      : sizeof(PyDictUnicodeEntry);
    return offsetof(keys_table, dk_indices)
           + ((size_t)1 << keys->dk_log2_index_bytes)
           + USABLE((size_t)1 << keys->dk_log2_size) * entry;
}

bool
ph_is_static_keys(const void *keys)
{
    return keys == empty_keys;
}

#if PH_HAS_FROZENDICT
static PyObject *
mapping_value(const keys_table *view, PyObject *const *values, Py_ssize_t i)
{
    return values ? values[i] : *entry_value(view, i);
}

/* hash(frozendict) is that of the frozenset of its items: those of a table of
   keys, seen through its view, with the values there or beside it. */
static Py_hash_t
mapping_hash(const ph_block *block, const keys_table *view,
             PyObject *const *values, Py_ssize_t n)
{
    Py_uhash_t acc = 0;
    for (Py_ssize_t i = 0; i < n; i++) {
        if (n - i > AHEAD) {
            prefetch(block, entry_key(view, i + AHEAD));
            prefetch(block, mapping_value(view, values, i + AHEAD));
        }
        PyObject *item[2] = {entry_key(view, i), mapping_value(view, values, i)};
        Py_hash_t hash = ph_hash_of_tuple(block, item, 2);
        if (hash == -1) {
            return -1;
        }
        acc ^= ph_hash_shuffle((Py_uhash_t)hash);
    }
    return ph_hash_of_set(acc, n);
}
#endif

#if PH_HAS_FROZENDICT
#define DICT_SIZE sizeof(PyFrozenDictObject)
#define DICT_TYPE (&PyFrozenDict_Type)
#define PROXY_SIZE 0
#else
#define DICT_SIZE sizeof(PyDictObject)
#define DICT_TYPE (&PyDict_Type)
#define PROXY_SIZE (sizeof(ph_proxy_object) + PH_GC_HEAD)
#endif

/* What a mapping takes in front of its table or values. */
#define MAPPING_FRONT ph_align(PROXY_SIZE + DICT_SIZE + PH_GC_HEAD)

/* The front of a mapping: the dict object, behind a mappingproxy where there is
   no frozendict.  *p_view is where the dict is to be written. */
static PyObject *
put_mapping_front(ph_block *block, PyDictObject **p_view)
{
#if !PH_HAS_FROZENDICT
    ph_proxy_object *proxy;
    PyObject *mapping = ph_new_container(block, &PyDictProxy_Type,
                                         sizeof(ph_proxy_object), &proxy);
    if (mapping == NULL) {
        return NULL;
    }
#endif
    PyObject *dict = ph_new_container(block, DICT_TYPE, DICT_SIZE, p_view);
    if (dict == NULL) {
        return NULL;
    }
    memset((char *)*p_view + sizeof(PyObject), 0, DICT_SIZE - sizeof(PyObject));
#if PH_HAS_FROZENDICT
    return dict;
#else
    proxy->mapping = dict;
    return mapping;
#endif
}

/* Write what the dict knows of its table (seen at table_view) and, if that is
   shared, of its values. */
static void
write_dict(const ph_block *block, PyDictObject *view, const keys_table *table,
           const keys_table *table_view, void *at, PyObject *const *values,
           Py_ssize_t n)
{
    view->ma_used = n;
    view->ma_keys = (keys_table *)table;
    view->ma_values = at;
#if PH_HAS_FROZENDICT
    ((PyFrozenDictObject *)view)->ma_hash = mapping_hash(block, table_view, values, n);
#else
    (void)block, (void)table_view, (void)values;
#endif
}

static table_plan
plan_mapping(Py_ssize_t n, bool all_str)
{
    return plan_table(n, all_str ? DICT_KEYS_UNICODE : DICT_KEYS_GENERAL);
}

ph_room
ph_mapping_room(Py_ssize_t n, bool all_str)
{
    if (n == 0) {
        return room_of(MAPPING_FRONT);
    }
    table_plan plan = plan_mapping(n, all_str);
    return (ph_room){.size = MAPPING_FRONT + table_size(&plan, n),
                     .reach = MAPPING_FRONT + table_capacity(&plan)};
}

/* The table of a mapping that is not empty; -1 with *clash set, or with an
   exception. */
static int
put_table(ph_block *block, PyDictObject *dict, PyObject *const *keys,
          PyObject *const *values, Py_ssize_t n, ph_key_policy policy,
          ph_clash *clash)
{
    table_plan plan = plan_mapping(n, all_str(block, keys, n));
    keys_table *view;
    keys_table *table = table_new(block, &plan, n, table_capacity(&plan), &view);
    if (table == NULL) {
        return -1;
    }
    if (table_fill(block, view, keys, values, n, policy, clash) < 0) {
        return -1;
    }
    if (view->dk_nentries < n) {
        block->flags |= PH_BLOCK_LEFTOVER;
    }
    write_dict(block, dict, table, view, NULL, NULL, view->dk_nentries);
    return 0;
}

PyObject *
ph_put_mapping(ph_block *block, PyObject *const *keys, PyObject *const *values,
               Py_ssize_t n, ph_key_policy policy, ph_clash *clash)
{
    uint64_t before = block->payload;
    clash->index = -1;
    PyDictObject *dict;
    PyObject *obj = put_mapping_front(block, &dict);
    if (obj == NULL) {
        return NULL;
    }
    if (n == 0) {
        write_dict(block, dict, empty_keys, empty_keys, NULL, NULL, 0);
    }
    else if (put_table(block, dict, keys, values, n, policy, clash) < 0) {
        return NULL;
    }
    ph_block_count(block, PH_KIND_MAPPING, block->payload - before);
    return obj;
}

/* --- Shapes ------------------------------------------------------------------------------- */

ph_shape_keys *
ph_put_shape(ph_block *block, PyObject *const *keys, Py_ssize_t n)
{
    assert(n > 0 && n <= PH_SHAPE_MOST);
    table_plan plan = plan_table(n, DICT_KEYS_SPLIT);
    keys_table *view;
    size_t size = table_size(&plan, n);
    keys_table *table = table_new(block, &plan, n, size, &view);
    if (table != NULL) {
        ph_clash clash;
        (void)table_fill(block, view, keys, NULL, n, PH_EQUAL_KEYS_CLASH, &clash);
        view->dk_refcnt = empty_keys->dk_refcnt;
        ph_block_count(block, PH_KIND_KEYS, size);
    }
    return (ph_shape_keys *)table;
}

/* A split dict's values, and the order in which they were inserted: always
   that of the keys.

       3.12    | padding, order (backwards), size, prefix size | values |
       3.13+   | capacity, size, embedded, valid | values | order, padding | */

#if PY_VERSION_HEX >= 0x030d0000
static size_t
values_size(Py_ssize_t n)
{
    return offsetof(PyDictValues, values) + (size_t)n * sizeof(PyObject *)
           + ph_align((uint64_t)n);
}

static void *
write_values(char *view, char *final, PyObject *const *values, Py_ssize_t n)
{
    PyDictValues *v = (PyDictValues *)view;
    memset(view, 0, values_size(n));
    v->capacity = v->size = (uint8_t)n;
    v->embedded = 0;
    v->valid = 1;
    memcpy(v->values, values, (size_t)n * sizeof(PyObject *));
    uint8_t *order = (uint8_t *)&v->values[n];
    for (Py_ssize_t i = 0; i < n; i++) {
        order[i] = (uint8_t)i;
    }
    return final;
}

#else
static uint64_t
values_front(Py_ssize_t n)
{
    return ph_align((uint64_t)n + 2);
}

static size_t
values_size(Py_ssize_t n)
{
    return values_front(n) + (size_t)n * sizeof(PyObject *);
}

static void *
write_values(char *view, char *final, PyObject *const *values, Py_ssize_t n)
{
    size_t front = values_front(n);
    memset(view, 0, front);
    uint8_t *at = (uint8_t *)view + front;
    at[-1] = (uint8_t)front;
    at[-2] = (uint8_t)n;
    for (Py_ssize_t i = 0; i < n; i++) {
        at[-3 - i] = (uint8_t)i;
    }
    memcpy(at, values, (size_t)n * sizeof(PyObject *));
    return final + front;
}
#endif

ph_room
ph_shaped_room(Py_ssize_t n)
{
    return room_of(MAPPING_FRONT + values_size(n));
}

PyObject *
ph_put_shaped_mapping(ph_block *block, const ph_shape_keys *shape,
                      PyObject *const *values, Py_ssize_t n)
{
    uint64_t before = block->payload;
    size_t size = values_size(n);
    PyDictObject *dict;
    PyObject *obj = put_mapping_front(block, &dict);
    char *room = obj ? ph_block_alloc(block, size, size) : NULL;
    if (room == NULL) {
        return NULL;
    }
    void *at = write_values(ph_writable(block, room), room, values, n);
    const keys_table *table = (const keys_table *)shape;
    write_dict(block, dict, table, ph_block_view(block, table), at, values, n);
    ph_block_count(block, PH_KIND_MAPPING, block->payload - before);
    return obj;
}

uint64_t
ph_shape_saving(Py_ssize_t n)
{
    table_plan combined = plan_table(n, DICT_KEYS_UNICODE);
    uint64_t own = ph_align(table_size(&combined, n)), values = values_size(n);
    return own > values ? own - values : 0;
}

/* --- frozenset ------------------------------------------------------------------------------- */

void
ph_set_items(PyObject *set, PyObject **items)
{
    PySetObject *so = (PySetObject *)set;
    for (Py_ssize_t i = 0; i <= so->mask; i++) {
        const setentry *entry = &so->table[i];
        if (entry->key != NULL && entry->hash != -1) {      /* -1: dummy */
            *items++ = entry->key;
        }
    }
}

/* The smallest table that setobject.c would not call too full: less than 3/5. */
static size_t
set_slots(Py_ssize_t n)
{
    size_t slots = PySet_MINSIZE;
    while ((size_t)n * 5 >= (slots - 1) * 3) {
        slots *= 2;
    }
    return slots;
}

/* Find the item by setobject.c's probe sequence: runs of LINEAR_PROBES slots.
   1 and *p_entry where it is or would go, with *p_found; -1 with an exception. */
static int
set_find(const ph_block *block, setentry *table, size_t mask, PyObject *key,
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
                equal = keys_equal(block, entry->key, key);
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

static int
set_fill(const ph_block *block, setentry *table, size_t mask,
         PyObject *const *items, Py_ssize_t n, Py_uhash_t *p_acc, ph_clash *clash)
{
    for (Py_ssize_t i = 0; i < n; i++) {
        Py_hash_t hash = ph_hash(block, items[i]);
        setentry *entry;
        bool found = false;
        if (hash != -1
            && set_find(block, table, mask, items[i], hash, &entry, &found) < 0) {
            return compare_failed();
        }
        if (hash == -1 || found) {
            *clash = (ph_clash){.index = i, .unhashable = hash == -1};
            return -1;
        }
        *entry = (setentry){.key = items[i], .hash = hash};
        *p_acc ^= ph_hash_shuffle((Py_uhash_t)hash);
    }
    return 0;
}

static vectorcallfunc weakref_vectorcall;

static int
look_up_weakref(void)
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

ph_room
ph_frozenset_room(Py_ssize_t n)
{
    size_t slots = set_slots(n);
    return room_of(sizeof(PySetObject) + PH_GC_HEAD
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
    size_t slots = set_slots(n), bytes = slots * sizeof(setentry);
    setentry *table = ((PySetObject *)obj)->smalltable;
    if (slots > PySet_MINSIZE) {
        table = ph_block_alloc(block, bytes, bytes);
        if (table == NULL) {
            return NULL;
        }
        memset(ph_writable(block, table), 0, bytes);
    }
    Py_uhash_t acc = 0;
    if (set_fill(block, ph_writable(block, table), slots - 1, items, n, &acc,
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

/* --- Set-up ------------------------------------------------------------------------------------ */

int
ph_layout_init_containers(void)
{
    if (look_up_empty_keys() < 0 || look_up_weakref() < 0) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_ImportError,
                            "permaheap: cannot look up what dict and weakref share");
        }
        return -1;
    }
    return 0;
}

/* --- Reading frozen objects --------------------------------------------------------------------- */

PyObject *
ph_mapping_dict(PyObject *mapping)
{
#if PH_HAS_FROZENDICT
    return mapping;
#else
    return ph_proxy_target(mapping);
#endif
}

static int
dissect_values(const PyDictObject *dict, ph_anatomy *anatomy, ph_visit visit,
               void *arg)
{
    const keys_table *table = dict->ma_keys;
    anatomy->shared = table;
    anatomy->shared_size = ph_align((size_t)((char *)entry_at(table, dict->ma_used)
                                             - (char *)table));
    anatomy->size += values_size(dict->ma_used);
    if (table->dk_kind != DICT_KEYS_SPLIT || table->dk_nentries != dict->ma_used) {
        anatomy->complaint = "a split dict over the wrong table";
        return 0;
    }
    for (Py_ssize_t i = 0; i < dict->ma_used; i++) {
        int result = visit(entry_key(table, i), arg);
        if (result == 0) {
            result = visit(dict->ma_values->values[i], arg);
        }
        if (result != 0) {
            return result;
        }
    }
    return 0;
}

static int
dissect_table(const PyDictObject *dict, ph_anatomy *anatomy, ph_visit visit,
              void *arg)
{
    const keys_table *table = dict->ma_keys;
    if (ph_is_static_keys(table)) {
        return 0;
    }
    Py_ssize_t n = table->dk_nentries;
    anatomy->size += ph_align((size_t)((char *)entry_at(table, n) - (char *)table));
    if (table->dk_refcnt != 1 || n != dict->ma_used) {
        anatomy->complaint = "a dict whose table has changed";
        return 0;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        int result = visit(entry_key(table, i), arg);
        if (result == 0) {
            result = visit(*entry_value(table, i), arg);
        }
        if (result != 0) {
            return result;
        }
    }
    return 0;
}

int
ph_dissect_dict(PyObject *obj, ph_anatomy *anatomy, ph_visit visit, void *arg)
{
    PyDictObject *dict = (PyDictObject *)obj;
    return dict->ma_values != NULL ? dissect_values(dict, anatomy, visit, arg)
                                   : dissect_table(dict, anatomy, visit, arg);
}

int
ph_dissect_frozenset(PyObject *obj, ph_anatomy *anatomy, ph_visit visit, void *arg)
{
    PySetObject *set = (PySetObject *)obj;
    anatomy->size = sizeof(PySetObject) + PH_GC_HEAD;
    size_t slots = (size_t)set->mask + 1;
    if (slots > PySet_MINSIZE) {
        anatomy->size += slots * sizeof(setentry);
    }
    for (size_t i = 0; i < slots; i++) {
        PyObject *key = set->table[i].key;
        int result = key == NULL ? 0 : visit(key, arg);
        if (result != 0) {
            return result;
        }
    }
    return visit(set->weakreflist, arg);
}
