/* layout.h -- the only place that knows how CPython lays out objects.

   layout.c has what all kinds share and the atoms, dict.c the
   tuple, the mapping and the frozenset, selftest.c compares what they
   write with real objects when the module is imported.

   A new version of CPython: add it to PH_SUPPORTED below, compare the structs
   named in layout*.c with its headers, adapt the few #if in these files, and
   let the self-test and a debug build judge.

   All ph_put_*() functions write one object into a block, from parts that are
   frozen already.  They fill every cache that CPython fills on reading (hash,
   UTF-8 form, first weak reference), since a reader of a read-only page cannot.
   They return the object's final address, or NULL after ph_fail(). */

#ifndef PH_LAYOUT_H
#define PH_LAYOUT_H

#ifndef Py_BUILD_CORE
#define Py_BUILD_CORE 1             /* for the headers under internal/ */
#endif
#include <Python.h>

#include "core/block/block.h"

#if PY_VERSION_HEX < 0x030c0000 || PY_VERSION_HEX >= 0x03100000
#error "permaheap supports CPython 3.12 to 3.15"
#endif
#ifdef Py_GIL_DISABLED
#error "permaheap does not support free-threaded builds of CPython yet"
#endif
#if !defined(__linux__) || SIZEOF_VOID_P != 8
#error "permaheap supports 64-bit Linux"
#endif

/* Does a frozen dict become the built-in frozendict (PEP 814), or a
   mappingproxy over a dict? */
#define PH_HAS_FROZENDICT (PY_VERSION_HEX >= 0x030f0000)
/* Are the types of datetime usable in interpreters with their own GIL? */
#define PH_DATETIME_IN_INTERPRETERS (PY_VERSION_HEX >= 0x030d0000)

/* On 3.12 inserting into an ordinary copy of a split dict resets the version in
   the table of keys that both share: a write into the heap. */
static inline bool
ph_shapes_usable(void)
{
    return PY_VERSION_HEX >= 0x030d0000 || ph_heap.mapping == PH_MAP_PRIVATE;
}

/* An interpreter without thread states gets its first one back while CPython is still
   about to delete that: 3.13.0 aborts then ("thread state already initialized"). */
#define PH_FIRST_STATE_RACES (PY_VERSION_HEX >> 16 == 0x030d)

/* Is this thread attached to an interpreter?  Objects of interpreters that a forked
   child has lost are deallocated without. */
static inline bool
ph_is_attached(void)
{
#if PY_VERSION_HEX >= 0x030d0000
    return PyThreadState_GetUnchecked() != NULL;
#else
    return _PyThreadState_UncheckedGet() != NULL;
#endif
}

/* PyEval_RestoreThread(), also for a thread state that is being cleared: what its
   threading.local objects held may run Python code, and so go to other interpreters.
   Debug builds of CPython do not attach such a one after another was attached. */
static inline void
ph_attach(PyThreadState *tstate)
{
    unsigned int finalizing = tstate->_status.finalizing;
    tstate->_status.finalizing = 0;
    PyEval_RestoreThread(tstate);
    tstate->_status.finalizing = finalizing & 1;
}

/* dicts with up to so many str keys can share their table of keys
   (SHARED_KEYS_MAX_SIZE of CPython's dictobject.c). */
#define PH_SHAPE_MOST 30

/* --- Set-up ---------------------------------------------------------------- */

/* Look up what is static in this process.  Once per interpreter; -1 with an
   exception when the interpreter is not what this file believes. */
int ph_layout_init(void);
/* Forge an object of each kind, and compare it with a real one. */
int ph_layout_selftest(void);

/* The types of datetime, NULL until it has been imported: by the process that
   makes the heap, so that they are at the same address in the whole family.
   -1 with an exception. */
typedef struct {
    PyTypeObject *date, *time, *datetime, *delta, *timezone;
    PyObject *utc;                  /* NULL where it is not static (3.12) */
} ph_datetime_types;
extern ph_datetime_types ph_datetime;
int ph_datetime_import(void);
/* Objects of these types work in the interpreters that have imported datetime: see
   to it that this one has, where it says so.  -1 with an exception. */
int ph_need_datetime(bool *p_has);

/* The type of frozen mappings. */
extern PyTypeObject *ph_mapping_type;

/* --- Static objects: the only ones outside of the heap that a permanent
   object may point to, being at the same address in the whole family. ------- */

/* The static object that stands for obj, or NULL. */
PyObject *ph_static_of(PyObject *obj);
bool ph_is_static(PyObject *obj);
/* The empty tuple. */
PyObject *ph_static_empty_tuple(void);
/* A number for each static object, and back (NULL: no such number). */
uint32_t ph_static_number(PyObject *obj);
PyObject *ph_static_at(uint32_t number);
bool ph_is_static_keys(const void *keys);       /* of an empty dict */

/* --- Reading sources -------------------------------------------------------- */

/* The items of a set, n of them by PySet_GET_SIZE(); borrowed. */
void ph_set_items(PyObject *set, PyObject **items);
/* What a mappingproxy shows; borrowed. */
PyObject *ph_proxy_target(PyObject *proxy);
/* start, stop, step of a slice, or offset and name (or NULL) of a timezone;
   borrowed. */
void ph_slice_parts(PyObject *slice, PyObject *parts[3]);
void ph_timezone_parts(PyObject *zone, PyObject *parts[2]);
/* start, stop, step, length. */
void ph_range_parts(PyObject *range, PyObject *parts[4]);
/* The tzinfo of a time or datetime, or NULL. */
PyObject *ph_tzinfo_of(PyObject *obj);

/* Start to load what visiting a source will read behind its head. */
static inline void
ph_prefetch_inside(PyObject *source)
{
    const char *inside;
    if (PyDict_CheckExact(source)) {
        inside = (const char *)((PyDictObject *)source)->ma_keys;
        __builtin_prefetch(inside + 64);
        __builtin_prefetch(inside + 128);
    }
    else if (PyList_CheckExact(source)) {
        inside = (const char *)((PyListObject *)source)->ob_item;
    }
    else {
        return;
    }
    __builtin_prefetch(inside);
}

/* --- Atoms ------------------------------------------------------------------ */

/* The bytes that make up an atom, from its type on (the word before is the
   reference count).  They lie in the atom itself, its hash filled in, or in
   `copy`. */
typedef struct {
    const char *bytes;
    size_t size;
    ph_kind kind;
    _Alignas(8) char copy[64];
} ph_image;

/* int, float, complex, bytes; date, timedelta; naive time and datetime. */
int ph_image_of(PyObject *obj, ph_image *image);
/* The same for what has parts: pass them frozen. */
void ph_image_of_range(PyObject *const parts[4], ph_image *image);
void ph_image_of_timezone(PyObject *const parts[2], ph_image *image);
int ph_image_of_aware(PyObject *obj, PyObject *tzinfo, ph_image *image);
PyObject *ph_put_image(ph_block *block, const ph_image *image);
/* Is the frozen object at this view made of these bytes? */
bool ph_image_equal(const void *view, const ph_image *image);

/* hash(str), filled in if need be. */
static inline Py_hash_t
ph_str_hash(PyObject *str)
{
    Py_hash_t hash = ((PyASCIIObject *)str)->hash;
    return hash != -1 ? hash : PyObject_Hash(str);
}

PyObject *ph_put_str(ph_block *block, PyObject *str);
/* Bytes that it will take for an ASCII str; UINT64_MAX for others, whose UTF-8
   is not measured yet. */
uint64_t ph_str_room(PyObject *str);
/* Bytes that ph_put_str() took for this str. */
uint64_t ph_str_size(const void *view);
/* Are two str equal?  One of them is at a view. */
bool ph_str_equal(const void *view, PyObject *str);

/* The hash of a frozen object, or -1 if it has none.  No exception. */
Py_hash_t ph_hash(const ph_block *block, PyObject *frozen);

/* --- Room for containers: how much each takes, before its items are known ---- */

ph_room ph_tuple_room(Py_ssize_t n);
ph_room ph_frozenset_room(Py_ssize_t n);
ph_room ph_mapping_room(Py_ssize_t n, bool all_str);
ph_room ph_shaped_room(Py_ssize_t n);

/* --- Containers -------------------------------------------------------------- */

/* What is wrong with a key. */
typedef struct {
    Py_ssize_t index;               /* of the key or item; -1: nothing */
    bool unhashable;                /* else equal to an earlier one */
} ph_clash;

typedef enum { PH_EQUAL_KEYS_CLASH, PH_LAST_VALUE_WINS } ph_key_policy;

PyObject *ph_put_tuple(ph_block *block, PyObject *const *items, Py_ssize_t n);
PyObject *ph_put_slice(ph_block *block, PyObject *const parts[3]);
/* NULL with clash->index >= 0 when the keys will not do, or with -1 after
   ph_fail() (PH_EXCEPTION: comparing raised). */
PyObject *ph_put_frozenset(ph_block *block, PyObject *const *items, Py_ssize_t n,
                           ph_clash *clash);
PyObject *ph_put_mapping(ph_block *block, PyObject *const *keys,
                         PyObject *const *values, Py_ssize_t n,
                         ph_key_policy policy, ph_clash *clash);

/* A table of 1 to PH_SHAPE_MOST distinct str keys, to be shared by mappings
   that have them in this order; and such a mapping. */
typedef struct ph_shape_keys ph_shape_keys;
ph_shape_keys *ph_put_shape(ph_block *block, PyObject *const *keys, Py_ssize_t n);
PyObject *ph_put_shaped_mapping(ph_block *block, const ph_shape_keys *shape,
                                PyObject *const *values, Py_ssize_t n);
/* Bytes of key tables that one more mapping of a shape does without. */
uint64_t ph_shape_saving(Py_ssize_t n);

/* --- Reading frozen objects, for thaw.c and audit.c ----------------------------- */

/* The dict inside a frozen mapping. */
PyObject *ph_mapping_dict(PyObject *mapping);

/* What audit.c asks of each permanent object: its parts and its size. */
typedef struct {
    uint64_t size;                  /* bytes in the block, GC header included */
    uint64_t front;                 /* bytes of that in front of the object */
    const void *shared;             /* table of shared keys, or NULL */
    uint64_t shared_size;           /* its bytes */
    const char *complaint;          /* what is wrong with it, or NULL */
} ph_anatomy;

typedef int (*ph_visit)(PyObject *part, void *arg);
/* Visit all objects that a permanent one points to; 0, or what visit returns
   if that is not 0. */
int ph_dissect(PyObject *obj, ph_anatomy *anatomy, ph_visit visit, void *arg);

/* --- In place (immortal.c) -------------------------------------------------- */

/* Make an ordinary object immortal where it is, for good, fill the hash of a str or
   bytes, and take it out of the collector's lists. */
void ph_pin(PyObject *obj);
/* Call visit(part, arg) for all that an object refers to, its type included, as
   tp_traverse does; also where there is none. */
int ph_visit_referents(PyObject *obj, visitproc visit, void *arg);
/* Why an object should be able to die, in words that follow its name; or NULL. */
const char *ph_why_mortal(PyObject *obj);
/* Why an object cannot be pinned at all, in such words; or NULL. */
const char *ph_why_not_pinned(PyObject *obj);
/* Call visit(obj, arg) for all that the collector tracks and has not set aside
   (gc.freeze), without counting references.  visit must not run Python code or
   track anything.  Returns what it returns if not 0; -1 with MemoryError. */
int ph_visit_tracked(visitproc visit, void *arg);
/* Write into code what running it would write and which does not depend on what
   it works on; after its constants have been pinned (warm_code.c). */
void ph_warm_code(PyCodeObject *code);
/* Hide the immortal interned strings from the end of the process, which would make
   each of them mortal again (interned.c).  -1 with MemoryError. */
int ph_hide_interned(void);

/* --- The allocator's free memory (obmalloc.c) ------------------------------ */

/* What was taken out of circulation, and how many free pools were released to the
   kernel so far.  Zero at first. */
typedef struct {
    void *blocks;                   /* head of a list through the blocks */
    uint64_t blocks_number, bytes, pools_number;
} ph_taken;
/* Take all free memory on pages with objects that the allocator would give out
   before untouched memory.  Returns NULL, or why it cannot be done. */
const char *ph_take_free_memory(ph_taken *taken);
/* Give back all of it. */
void ph_give_back_memory(ph_taken *taken);

/* --- Ordinary values, for messages (values.c) ------------------------------ */

/* Bytes that hold an int in two's complement, least byte first; write these; and
   back. */
size_t ph_int_room(PyObject *obj);
int ph_int_bytes(PyObject *obj, char *bytes, size_t size);
PyObject *ph_int_from_bytes(const char *bytes, size_t size);
/* A str of n characters of Latin-1. */
PyObject *ph_str_new(const char *bytes, size_t n);
/* The next item of a set, borrowed, from *p_pos, which is 0 at first; or false. */
bool ph_set_next(PyObject *set, Py_ssize_t *p_pos, PyObject **p_item);
/* A dict with room for n items. */
PyObject *ph_dict_new(Py_ssize_t n);
/* The items of a dict if it keeps them like this, all keys being str; or NULL. */
typedef struct {
    PyObject *key, *value;
} ph_entry;
const ph_entry *ph_dict_entries(PyObject *dict);
/* A copy of a dict of str keys whose values are None, into which nothing was ever
   inserted twice; the first of its values, which are as far from each other as in
   ph_entry, each to be replaced at most once; and say so, if the new one may be a
   container. */
PyObject *ph_record_new(PyObject *shape);
PyObject **ph_record_values(PyObject *record);
void ph_record_holds(PyObject *record, PyObject *value);
bool ph_is_frozendict(PyObject *obj);
PyObject *ph_frozendict_of(PyObject *dict);
/* Of datetime's types: year, month, day; hour, minute, second, microsecond, fold;
   days, seconds, microseconds.  The makers check these, and want datetime imported;
   `zone` and `name` may be None and NULL. */
void ph_date_fields(PyObject *obj, int fields[3]);
void ph_time_fields(PyObject *obj, int fields[5]);
void ph_delta_fields(PyObject *obj, int fields[3]);
PyObject *ph_date_new(const int date[3]);
PyObject *ph_time_new(const int time[5], PyObject *zone);
PyObject *ph_datetime_new(const int date[3], const int time[5], PyObject *zone);
PyObject *ph_delta_new(const int delta[3]);
PyObject *ph_timezone_new(PyObject *offset, PyObject *name);

/* --- Where an object's memory is (sizes.c) ------------------------------ */

/* Bytes in front of the instances of a type. */
size_t ph_front_size(PyTypeObject *type);
/* Bytes of an ordinary object from its address on, without its tables. */
size_t ph_body_size(PyObject *obj);

typedef enum {
    PH_TABLE_NONE,                  /* an object */
    PH_TABLE_KEYS, PH_TABLE_VALUES, PH_TABLE_ITEMS, PH_TABLE_SET, PH_TABLE_TEXT,
} ph_table;

/* Visit the tables that an ordinary object has elsewhere; their sizes are in
   bytes. */
typedef void (*ph_visit_table)(ph_table table, const void *address, size_t size,
                               void *arg);
void ph_tables_of(PyObject *obj, ph_visit_table visit, void *arg);
/* Bytes that an ordinary object takes, with its tables. */
size_t ph_size_in_place(PyObject *obj);

/* --- For the profiler (fields.c) ---------------------------------------- */

/* A new dict: sizes and offsets in this interpreter's pools, types and objects,
   and what a write to a field means.  NULL with an exception. */
PyObject *ph_layout_table(void);

/* --- For the profiler (fields.c) ---------------------------------------- */

/* A new dict: sizes and offsets in this interpreter's pools, types and objects,
   and what a write to a field means.  NULL with an exception. */
PyObject *ph_layout_table(void);

/* --- For the trace (frames.c) --------------------------------------------- */

/* Where the frames of the running thread are: [start, end) of up to `most` pieces
   of memory; returns their number.  Calls nothing that allocates. */
size_t ph_frame_ranges(uintptr_t ranges[][2], size_t most);

#endif
