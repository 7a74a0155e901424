/* object_map.c -- the map of objects that a parent leaves for the profiler.

   The file, whose name is map_name, has a header and five arrays, in this order:

       start   uint64   first byte of an object, with what lies in front of it,
                        or of a table that an object has elsewhere; ascending
       size    uint32   in units of 8 bytes
       what    uint32   bits 0-23 number of the object's type (or the owner's),
                        24-27 a ph_table (0: an object), 31 immortal
       front   uint32   for each type: bytes in front of its instances
       names            of the types, each ending with a zero byte

   The map is a photograph: it does not follow objects that come and go later.

   The walk notes each object that it meets in a bitmap of the addresses: one bit for each
   8 bytes, in pieces of 16 KiB for 1 MiB of addresses.  So no object is written to, and the
   objects come out in the order of their addresses without sorting.  Only the tables, which
   are far fewer, are sorted. */

#include "cow/object_map.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/array.h"
#include "layout/immortal.h"
#include "layout/sizes.h"
#include "state/memo.h"

#define PIECE_BITS 20
#define PIECE_WORDS (((size_t)1 << PIECE_BITS) / 8 / 64)
#define IMMORTAL (UINT32_C(1) << 31)
#define TABLE_SHIFT 24

static const char map_name[] = "permaheap-objects";

typedef struct {
    uint64_t magic;                 /* MAP_MAGIC */
    uint64_t entries, types;
    uint64_t names_size;            /* bytes */
} map_header;

#define MAP_MAGIC UINT64_C(0x3150414d4a424f50)       /* "POBJMAP1" */

typedef struct {
    uintptr_t number;               /* address >> PIECE_BITS; 0: free slot */
    uint64_t *bits;
} piece;

typedef struct {
    uint64_t start;
    uint32_t size, what;
} entry;

typedef struct {
    piece *pieces;                  /* open addressing, at most half full */
    size_t pieces_used, pieces_mask;
    PyObject **todo;
    size_t todo_used, todo_size;
    size_t objects;
    ph_memo numbers;                /* type -> its number, from 1 */
    PyTypeObject **types;
    size_t types_used, types_size;
    entry *tables;
    size_t tables_used, tables_size;
    entry *entries;                 /* objects, in the order of their addresses */
    uint32_t owner;                 /* `what` of the object whose tables are met */
    bool failed;                    /* no memory for a table */
} mapper;

/* --- The bitmap --------------------------------------------------------------- */

static piece *
find_piece(const mapper *m, uintptr_t number)
{
    assert(number != 0 && (m->pieces_mask & (m->pieces_mask + 1)) == 0);
    size_t i = (number * UINT64_C(0x9E3779B97F4A7C15)) >> 32;
    for (;; i++) {
        piece *p = &m->pieces[i & m->pieces_mask];
        if (p->number == number || p->number == 0) {
            return p;
        }
    }
}

static int
grow_pieces(mapper *m)
{
    piece *old = m->pieces;
    size_t old_size = old ? m->pieces_mask + 1 : 0;
    size_t size = old ? 2 * old_size : 256;
    m->pieces = ph_calloc(size, sizeof(piece));
    if (m->pieces == NULL) {
        m->pieces = old;
        return ph_no_memory();
    }
    m->pieces_mask = size - 1;
    for (size_t i = 0; i < old_size; i++) {
        if (old[i].number != 0) {
            *find_piece(m, old[i].number) = old[i];
        }
    }
    ph_free(old);
    return 0;
}

static piece *
get_piece(mapper *m, uintptr_t number)
{
    piece *p = find_piece(m, number);
    if (p->number == 0) {
        if (2 * m->pieces_used > m->pieces_mask) {
            if (grow_pieces(m) < 0) {
                return NULL;
            }
            p = find_piece(m, number);
        }
        p->bits = ph_calloc(PIECE_WORDS, sizeof(uint64_t));
        if (p->bits == NULL) {
            (void)ph_no_memory();
            return NULL;
        }
        p->number = number;
        m->pieces_used++;
        assert(2 * m->pieces_used <= m->pieces_mask + 1);
    }
    return p;
}

/* --- The walk ----------------------------------------------------------------- */

/* A visitproc: note an object that is met for the first time. */
static int
note_met(PyObject *obj, void *arg)
{
    mapper *m = arg;
    uintptr_t address = (uintptr_t)obj;
    assert(address % 8 == 0);       /* one bit for each 8 bytes */
    piece *p = get_piece(m, address >> PIECE_BITS);
    if (p == NULL) {
        return -1;
    }
    size_t bit = (address & (((uintptr_t)1 << PIECE_BITS) - 1)) / 8;
    uint64_t mask = UINT64_C(1) << (bit % 64);
    if (p->bits[bit / 64] & mask) {
        return 0;
    }
    if (ph_grow(&m->todo, m->todo_used, &m->todo_size, sizeof(PyObject *)) < 0) {
        return -1;
    }
    p->bits[bit / 64] |= mask;
    m->objects++;
    __builtin_prefetch(&obj->ob_type);
    m->todo[m->todo_used++] = obj;
    return 0;
}

static int
meet_reachable(mapper *m, PyObject *roots)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(roots); i++) {
        if (note_met(PyList_GET_ITEM(roots, i), m) < 0) {
            return -1;
        }
        while (m->todo_used > 0) {
            if (ph_visit_referents(m->todo[--m->todo_used], note_met, m) != 0) {
                return -1;
            }
        }
    }
    return 0;
}

/* --- Entries ------------------------------------------------------------------ */

static int
type_number(mapper *m, PyTypeObject *type, uint32_t *p_number)
{
    uintptr_t number = (uintptr_t)ph_memo_get(&m->numbers, type);
    if (number == 0) {
        if (ph_grow(&m->types, m->types_used, &m->types_size, sizeof(type)) < 0) {
            return -1;
        }
        number = m->types_used + 1;
        if (ph_memo_set(&m->numbers, type, (void *)number) != PH_OK) {
            return -1;
        }
        m->types[m->types_used++] = type;
    }
    assert(number <= m->types_used);
    *p_number = (uint32_t)number - 1;
    return 0;
}

static uint32_t
units_of(size_t size)
{
    size_t n = (size + 7) / 8;
    return n < UINT32_MAX ? (uint32_t)n : UINT32_MAX;
}

/* A ph_table_visitor. */
static void
note_table(ph_table table, const void *address, size_t size, void *arg)
{
    mapper *m = arg;
    assert(table > 0 && table < 16);    /* bits 24-27; 0: an object */
    if (m->failed || size == 0
        || ph_grow(&m->tables, m->tables_used, &m->tables_size, sizeof(entry)) < 0) {
        m->failed = m->failed || size != 0;
        return;
    }
    m->tables[m->tables_used++] = (entry){
        .start = (uintptr_t)address, .size = units_of(size),
        .what = m->owner | ((uint32_t)table << TABLE_SHIFT),
    };
}

static int
note_object(mapper *m, PyObject *obj, entry *e)
{
    PyTypeObject *type = Py_TYPE(obj);
    size_t front = ph_front_size(type);
    if (type_number(m, type, &e->what) < 0) {
        return -1;
    }
    if (_Py_IsImmortal(obj)) {
        e->what |= IMMORTAL;
    }
    e->start = (uintptr_t)obj - front;
    e->size = units_of(front + ph_body_size(obj));
    m->owner = e->what;
    ph_tables_of(obj, note_table, m);
    return m->failed ? -1 : 0;
}

static int
compare_pieces(const void *a, const void *b)
{
    uintptr_t x = ((const piece *)a)->number, y = ((const piece *)b)->number;
    return (x > y) - (x < y);
}

static int
compare_entries(const void *a, const void *b)
{
    uint64_t x = ((const entry *)a)->start, y = ((const entry *)b)->start;
    return (x > y) - (x < y);
}

/* Note all objects, in the order of their addresses.  It sorts the pieces, so no object can
   be met afterwards. */
static int
note_objects(mapper *m)
{
    m->entries = ph_malloc((m->objects + 1) * sizeof(entry));
    if (m->entries == NULL) {
        return ph_no_memory();
    }
    entry *next = m->entries;
    qsort(m->pieces, m->pieces_mask + 1, sizeof(piece), compare_pieces);
    for (size_t i = 0; i <= m->pieces_mask; i++) {
        const piece *p = &m->pieces[i];
        for (size_t word = 0; p->number != 0 && word < PIECE_WORDS; word++) {
            for (uint64_t bits = p->bits[word]; bits != 0; bits &= bits - 1) {
                size_t bit = word * 64 + (size_t)__builtin_ctzll(bits);
                uintptr_t address = (p->number << PIECE_BITS) + bit * 8;
                if (note_object(m, (PyObject *)address, next++) < 0) {
                    return -1;
                }
            }
        }
    }
    assert(next == m->entries + m->objects);
    return 0;
}

/* Sort the tables; one that several objects share counts once. */
static void
sort_tables(mapper *m)
{
    if (m->tables_used == 0) {
        return;
    }
    qsort(m->tables, m->tables_used, sizeof(entry), compare_entries);
    size_t used = 1;
    for (size_t i = 1; i < m->tables_used; i++) {
        if (m->tables[i].start != m->tables[used - 1].start) {
            m->tables[used++] = m->tables[i];
        }
    }
    m->tables_used = used;
}

/* --- The file ----------------------------------------------------------------- */

static uint64_t
names_size(const mapper *m)
{
    uint64_t size = 0;
    for (size_t i = 0; i < m->types_used; i++) {
        size += strlen(m->types[i]->tp_name) + 1;
    }
    return size;
}

static void
put_types(const mapper *m, uint32_t *fronts, char *names)
{
    for (size_t i = 0; i < m->types_used; i++) {
        fronts[i] = (uint32_t)ph_front_size(m->types[i]);
        size_t size = strlen(m->types[i]->tp_name) + 1;
        memcpy(names, m->types[i]->tp_name, size);
        names += size;
    }
}

/* Merge objects and tables into the file's arrays. */
static void
put_entries(const mapper *m, size_t n, uint64_t *starts, uint32_t *sizes,
            uint32_t *whats)
{
    const entry *object = m->entries, *objects_end = object + m->objects;
    const entry *table = m->tables, *tables_end = table + m->tables_used;
    for (size_t i = 0; i < n; i++) {
        bool take_table = object == objects_end
                          || (table != tables_end && table->start < object->start);
        const entry *e = take_table ? table++ : object++;
        starts[i] = e->start;
        sizes[i] = e->size;
        whats[i] = e->what;
    }
    assert(object == objects_end && table == tables_end);
}

static int
write_map(const mapper *m, int *p_fd)
{
    size_t n = m->objects + m->tables_used;
    map_header header = {
        .magic = MAP_MAGIC, .entries = n, .types = m->types_used,
        .names_size = names_size(m),
    };
    size_t size = sizeof(header) + n * 16 + m->types_used * 4 + header.names_size;
    char *file = ph_malloc(size);
    if (file == NULL) {
        return ph_no_memory();
    }
    memcpy(file, &header, sizeof(header));
    uint64_t *starts = (uint64_t *)(file + sizeof(header));
    uint32_t *sizes = (uint32_t *)(starts + n), *whats = sizes + n;
    uint32_t *fronts = whats + n;
    put_entries(m, n, starts, sizes, whats);
    put_types(m, fronts, (char *)(fronts + m->types_used));
    int err = ph_os_memfd_of(map_name, file, size, p_fd);
    ph_free(file);
    if (err != 0) {
        ph_fail(PH_SYSTEM, "permaheap: cannot write the map of objects: %s",
                strerror(err));
        return -1;
    }
    return 0;
}

static void
mapper_clear(mapper *m)
{
    for (size_t i = 0; m->pieces != NULL && i <= m->pieces_mask; i++) {
        ph_free(m->pieces[i].bits);
    }
    ph_memo_clear(&m->numbers);
    ph_free(m->pieces);
    ph_free(m->todo);
    ph_free(m->types);
    ph_free(m->tables);
    ph_free(m->entries);
}

int
ph_object_map(const ph_exceptions *exceptions, PyObject *roots)
{
    mapper m = {0};
    int fd = -1;
    ph_memo_init(&m.numbers);
    if (grow_pieces(&m) == 0 && meet_reachable(&m, roots) == 0 && note_objects(&m) == 0) {
        sort_tables(&m);
        (void)write_map(&m, &fd);
    }
    if (fd < 0) {
        ph_raise(exceptions);
    }
    mapper_clear(&m);
    return fd;
}
