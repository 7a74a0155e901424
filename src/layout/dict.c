/* dict.c -- writing a permanent mapping, and measuring the tables of ordinary dicts.

   A dict's table of keys (dictobject.c draws it) is built again from the frozen keys,
   never copied, so that nothing depends on the history of the source.  It is one of

       combined   | header | index | entries with key and value |
       split      | header | index | entries with key |   shared by a shape
                  | values | order |                      one for each dict

   - A combined table takes only the entries in use.  But PyDict_Copy() copies a table
     over its whole capacity, so all of that must be readable (`reach`).
   - A combined table has the reference count 1; a split one that of immortal tables.
   - A mapping is one dict object: a frozendict, or (before 3.15) a dict behind a
     mappingproxy. */

#include "layout/internal.h"

#include <string.h>

#include "layout/head.h"
#include "layout/sources.h"

/* --- Tables of keys ----------------------------------------------------------- */

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

/* Plan the smallest table for n entries. */
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
measure_table(const table_plan *plan, Py_ssize_t n)
{
    return plan->entries_at + (size_t)n * plan->entry;
}

static size_t
measure_full_table(const table_plan *plan)
{
    return measure_table(plan, (Py_ssize_t)USABLE((size_t)1 << plan->log2_size));
}

static Py_ssize_t
get_index(const keys_table *table, size_t slot)
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
set_index(keys_table *table, size_t slot, Py_ssize_t entry)
{
    void *index = table->dk_indices;
    switch (table->dk_log2_index_bytes - table->dk_log2_size) {
    case 0: ((int8_t *)index)[slot] = (int8_t)entry; break;
    case 1: ((int16_t *)index)[slot] = (int16_t)entry; break;
    case 2: ((int32_t *)index)[slot] = (int32_t)entry; break;
    default: ((int64_t *)index)[slot] = entry; break;
    }
}

static Py_hash_t
hash_entry(const ph_block *block, const keys_table *table, Py_ssize_t i)
{
    return table->dk_kind == DICT_KEYS_GENERAL
           ? ((PyDictKeyEntry *)ph_keys_entry(table, i))->me_hash
           : ph_hash(block, ph_keys_key(table, i));
}

/* Append an entry that has slot `slot` of the index. */
static void
append_entry(keys_table *table, size_t slot, PyObject *key, Py_hash_t hash,
             PyObject *value)
{
    assert(table->dk_nentries < (Py_ssize_t)USABLE((size_t)1 << table->dk_log2_size));
    assert(get_index(table, slot) == -1);
    Py_ssize_t i = table->dk_nentries++;
    set_index(table, slot, i);
    if (table->dk_kind == DICT_KEYS_GENERAL) {
        *(PyDictKeyEntry *)ph_keys_entry(table, i) =
            (PyDictKeyEntry){.me_hash = hash, .me_key = key, .me_value = value};
    }
    else {
        *(PyDictUnicodeEntry *)ph_keys_entry(table, i) =
            (PyDictUnicodeEntry){.me_key = key, .me_value = value};
    }
}

/* Find the key by dictobject.c's probe sequence.  Returns its entry; or -1 with the
   empty slot where the sequence ends; or -2 with an exception. */
static Py_ssize_t
find_entry(const ph_block *block, const keys_table *table, PyObject *key,
           Py_hash_t hash, size_t *p_slot)
{
    size_t mask = ((size_t)1 << table->dk_log2_size) - 1;
    size_t perturb = (size_t)hash, slot = perturb & mask;
    Py_ssize_t entry;
    while ((entry = get_index(table, slot)) >= 0) {
        if (hash_entry(block, table, entry) == hash) {
            int equal = ph_keys_equal(block, ph_keys_key(table, entry), key);
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
allocate_table(ph_block *block, const table_plan *plan, Py_ssize_t n, size_t reach,
               keys_table **p_view)
{
    keys_table *table = ph_block_alloc(block, measure_table(plan, n), reach);
    if (table == NULL) {
        return NULL;
    }
    assert(reach >= measure_table(plan, n));
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

/* Fill a new table.  -1 with *clash set, or after ph_fail(). */
static int
fill_table(const ph_block *block, keys_table *view, PyObject *const *keys,
           PyObject *const *values, Py_ssize_t n, ph_key_policy policy,
           ph_clash *clash)
{
    for (Py_ssize_t i = 0; i < n; i++) {
        size_t slot;
        if (n - i > PH_AHEAD) {
            ph_prefetch(block, keys[i + PH_AHEAD]);
        }
        Py_hash_t hash = ph_hash(block, keys[i]);
        Py_ssize_t entry = -1;
        if (hash != -1) {
            entry = find_entry(block, view, keys[i], hash, &slot);
        }
        if (hash == -1 || (entry >= 0 && policy == PH_EQUAL_KEYS_CLASH)) {
            *clash = (ph_clash){.index = i, .unhashable = hash == -1};
            return -1;
        }
        if (entry == -2) {
            return ph_compare_failed();
        }
        if (entry >= 0) {
            *ph_keys_value(view, entry) = values[i];
        }
        else {
            append_entry(view, slot, keys[i], hash, values ? values[i] : NULL);
        }
    }
    return 0;
}

/* --- Tables of ordinary dicts ------------------------------------------------- */

/* Py_EMPTY_KEYS is static in dictobject.c: every empty dict points to it, and its
   reference count is the one that marks tables as immortal.  Written once. */
static keys_table *empty_keys;

int
ph_dict_init(void)
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
    assert(empty_keys != NULL && empty_keys->dk_nentries == 0);
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

/* --- Values that lie apart from keys ------------------------------------------ */

/* A split dict's values, and the order in which they were inserted.  In a frozen dict
   that is always the order of the keys.

       3.12    | padding, order (backwards), size, prefix size | values |
       3.13+   | capacity, size, embedded, valid | values | order, padding | */

#if PH_HAS_INLINE_VALUES

size_t
ph_values_size(Py_ssize_t n)
{
    return offsetof(PyDictValues, values) + (size_t)n * sizeof(PyObject *)
           + ph_align((uint64_t)n);
}

size_t
ph_values_memory(const PyDictValues *values, const void **p_start)
{
    *p_start = values;
    return values->embedded ? 0 : ph_values_size(values->capacity);
}

/* Write values through a view.  Returns what the dict is to point to. */
static void *
write_values(char *view, char *final, PyObject *const *values, Py_ssize_t n)
{
    assert(n > 0 && n <= PH_SHAPE_MOST);
    PyDictValues *v = (PyDictValues *)view;
    memset(view, 0, ph_values_size(n));
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

static size_t
measure_order(Py_ssize_t n)
{
    return ph_align((uint64_t)n + 2);
}

size_t
ph_values_size(Py_ssize_t n)
{
    return measure_order(n) + (size_t)n * sizeof(PyObject *);
}

size_t
ph_values_memory(const PyDictValues *values, const void **p_start)
{
    const uint8_t *bytes = (const uint8_t *)values;
    size_t front = bytes[-1];
    *p_start = bytes - front;
    return front + (front - 2) * sizeof(PyObject *);
}

static void *
write_values(char *view, char *final, PyObject *const *values, Py_ssize_t n)
{
    assert(n > 0 && n <= PH_SHAPE_MOST);
    size_t front = measure_order(n);
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

/* --- Mappings ----------------------------------------------------------------- */

#if PH_HAS_FROZENDICT
#define DICT_SIZE sizeof(PyFrozenDictObject)
#define DICT_TYPE (&PyFrozenDict_Type)
#define PROXY_SIZE 0
PyTypeObject *const ph_mapping_type = &PyFrozenDict_Type;
#else
#define DICT_SIZE sizeof(PyDictObject)
#define DICT_TYPE (&PyDict_Type)
#define PROXY_SIZE (sizeof(ph_proxy_object) + PH_GC_HEAD)
PyTypeObject *const ph_mapping_type = &PyDictProxy_Type;
#endif

/* Bytes of a mapping in front of its table or values. */
#define MAPPING_FRONT ph_align(PROXY_SIZE + DICT_SIZE + PH_GC_HEAD)

PyObject *
ph_mapping_dict(PyObject *mapping)
{
    return PH_HAS_FROZENDICT ? mapping : ph_proxy_target(mapping);
}

/* Make room for the dict object of a mapping; *p_view is where to write it. */
static PyObject *
put_dict_object(ph_block *block, PyDictObject **p_view)
{
    PyObject *dict = ph_new_container(block, DICT_TYPE, DICT_SIZE, p_view);
    if (dict != NULL) {
        memset((char *)*p_view + sizeof(PyObject), 0, DICT_SIZE - sizeof(PyObject));
    }
    return dict;
}

/* Write the front of a mapping: a mappingproxy where there is no frozendict, then the
   dict object, as above. */
static PyObject *
put_mapping_front(ph_block *block, PyDictObject **p_view)
{
#if PH_HAS_FROZENDICT
    return put_dict_object(block, p_view);
#else
    ph_proxy_object *proxy;
    PyObject *mapping = ph_new_container(block, &PyDictProxy_Type,
                                         sizeof(ph_proxy_object), &proxy);
    if (mapping == NULL) {
        return NULL;
    }
    proxy->mapping = put_dict_object(block, p_view);
    return proxy->mapping == NULL ? NULL : mapping;
#endif
}

#if PH_HAS_FROZENDICT
static PyObject *
get_mapping_value(const keys_table *view, PyObject *const *values, Py_ssize_t i)
{
    return values ? values[i] : *ph_keys_value(view, i);
}

/* Hash a frozendict, as the frozenset of its items: those of a table of keys, seen
   through its view, with the values there or beside it. */
static Py_hash_t
hash_mapping(const ph_block *block, const keys_table *view,
             PyObject *const *values, Py_ssize_t n)
{
    Py_uhash_t acc = 0;
    for (Py_ssize_t i = 0; i < n; i++) {
        if (n - i > PH_AHEAD) {
            ph_prefetch(block, ph_keys_key(view, i + PH_AHEAD));
            ph_prefetch(block, get_mapping_value(view, values, i + PH_AHEAD));
        }
        PyObject *item[2] = {ph_keys_key(view, i), get_mapping_value(view, values, i)};
        Py_hash_t hash = ph_hash_of_tuple(block, item, 2);
        if (hash == -1) {
            return -1;
        }
        acc ^= ph_hash_shuffle((Py_uhash_t)hash);
    }
    return ph_hash_of_set(acc, n);
}
#endif

/* Write what the dict object knows of its table (seen at table_view) and, if that is
   shared, of its values. */
static void
write_dict(const ph_block *block, PyDictObject *view, const keys_table *table,
           const keys_table *table_view, void *at, PyObject *const *values,
           Py_ssize_t n)
{
    assert(table_view->dk_nentries == n);
    view->ma_used = n;
    view->ma_keys = (keys_table *)table;
    view->ma_values = at;
#if PH_HAS_FROZENDICT
    ((PyFrozenDictObject *)view)->ma_hash = hash_mapping(block, table_view, values, n);
#else
    (void)block, (void)table_view, (void)values;
#endif
}

static bool
has_only_str(const ph_block *block, PyObject *const *keys, Py_ssize_t n)
{
    for (Py_ssize_t i = 0; i < n; i++) {
        const PyObject *view = ph_block_view(block, keys[i]);
        if (Py_TYPE(view) != &PyUnicode_Type) {
            return false;
        }
    }
    return true;
}

static table_plan
plan_mapping(Py_ssize_t n, bool only_str)
{
    return plan_table(n, only_str ? DICT_KEYS_UNICODE : DICT_KEYS_GENERAL);
}

ph_room
ph_mapping_room(Py_ssize_t n, bool only_str)
{
    if (n == 0) {
        return ph_exact_room(MAPPING_FRONT);
    }
    table_plan plan = plan_mapping(n, only_str);
    return (ph_room){.size = MAPPING_FRONT + measure_table(&plan, n),
                     .reach = MAPPING_FRONT + measure_full_table(&plan)};
}

/* Write the table of a mapping that is not empty.  -1 with *clash set, or after
   ph_fail(). */
static int
put_table(ph_block *block, PyDictObject *dict, PyObject *const *keys,
          PyObject *const *values, Py_ssize_t n, ph_key_policy policy,
          ph_clash *clash)
{
    table_plan plan = plan_mapping(n, has_only_str(block, keys, n));
    keys_table *view;
    keys_table *table = allocate_table(block, &plan, n, measure_full_table(&plan),
                                       &view);
    if (table == NULL) {
        return -1;
    }
    if (fill_table(block, view, keys, values, n, policy, clash) < 0) {
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

/* --- Shapes ------------------------------------------------------------------- */

ph_shape_keys *
ph_put_shape(ph_block *block, PyObject *const *keys, Py_ssize_t n)
{
    assert(n > 0 && n <= PH_SHAPE_MOST);
    table_plan plan = plan_table(n, DICT_KEYS_SPLIT);
    keys_table *view;
    size_t size = measure_table(&plan, n);
    keys_table *table = allocate_table(block, &plan, n, size, &view);
    if (table != NULL) {
        ph_clash clash;
        (void)fill_table(block, view, keys, NULL, n, PH_EQUAL_KEYS_CLASH, &clash);
        assert(view->dk_nentries == n);         /* distinct str cannot clash */
        view->dk_refcnt = ph_immortal_keys_refcnt();
        ph_block_count(block, PH_KIND_KEYS, size);
    }
    return (ph_shape_keys *)table;
}

ph_room
ph_shaped_room(Py_ssize_t n)
{
    return ph_exact_room(MAPPING_FRONT + ph_values_size(n));
}

PyObject *
ph_put_shaped_mapping(ph_block *block, const ph_shape_keys *shape,
                      PyObject *const *values, Py_ssize_t n)
{
    uint64_t before = block->payload;
    size_t size = ph_values_size(n);
    PyDictObject *dict;
    PyObject *obj = put_mapping_front(block, &dict);
    char *room = obj ? ph_block_alloc(block, size, size) : NULL;
    if (room == NULL) {
        return NULL;
    }
    void *at = write_values(ph_writable(block, room), room, values, n);
    const keys_table *table = (const keys_table *)shape;
    const keys_table *table_view = ph_block_view(block, table);
    assert(table_view->dk_kind == DICT_KEYS_SPLIT);
    write_dict(block, dict, table, table_view, at, values, n);
    ph_block_count(block, PH_KIND_MAPPING, block->payload - before);
    return obj;
}

uint64_t
ph_shape_saving(Py_ssize_t n)
{
    table_plan combined = plan_table(n, DICT_KEYS_UNICODE);
    uint64_t own = ph_align(measure_table(&combined, n)), values = ph_values_size(n);
    return own > values ? own - values : 0;
}
