/* audit.c -- the audit of the heap: tests call it after all that they do to a heap.

   An extent has segments back to back, from its front to `filled`.  For each block:

   - each object that its root reaches has a frozen type and its original reference count,
     and points only to permanent or static objects;
   - the objects reached take up the block's payload, to the byte;
   - the other blocks that it points into are live, and on the list of blocks that it uses.

   Released blocks are stepped over.  Extents of spans have no blocks; the table of spans
   audits itself. */

#include "freeze/audit.h"

#include <stdarg.h>
#include <string.h>

#include "core/base/array.h"
#include "core/block/block_table.h"
#include "core/heap/extents.h"
#include "layout/inspect.h"
#include "layout/statics.h"
#include "state/memo.h"
#include "core/span/span_table.h"

typedef struct {
    const ph_segment *home;
    ph_memo seen;                   /* set of the objects and key tables of this block */
    ph_memo uses;                   /* set of the blocks that it may refer to */
    PyObject **todo;
    size_t todo_used, todo_size;
    uint64_t bytes;                 /* of the objects seen */
    Py_ssize_t blocks;
} checker;

static int
raise_wrong(const checker *ck, const void *where, const char *what)
{
    if (!PyErr_Occurred()) {
        PyErr_Format(PyExc_AssertionError,
                     "permaheap: %s at offset %llu (block at %llu)", what,
                     (unsigned long long)ph_offset_of(where),
                     ck->home ? (unsigned long long)ph_offset_of(ck->home) : 0ull);
    }
    return -1;
}

/* Is p inside a committed part of an extent? */
static bool
is_committed(const void *p)
{
    uint64_t offset = ph_offset_of(p);
    uint32_t n = atomic_load(&ph_heap.header->extents);
    for (uint32_t i = 0; i < n && i < PH_MAX_EXTENTS; i++) {
        const ph_extent *extent = &ph_heap.header->extent[i];
        uint64_t start = atomic_load(&extent->offset);
        if (start != 0 && offset - start < ph_extent_fill(extent)) {
            return true;
        }
    }
    return false;
}

static int
push_object(checker *ck, PyObject *obj)
{
    if (ph_grow(&ck->todo, ck->todo_used, &ck->todo_size, sizeof(PyObject *)) < 0) {
        PyErr_NoMemory();
        return -1;
    }
    ck->todo[ck->todo_used++] = obj;
    return 0;
}

/* Note an object or table of this block.  Returns 1 if it is new, 0 if not. */
static int
note_seen(checker *ck, const void *p)
{
    if (ph_memo_get(&ck->seen, p) != NULL) {
        return 0;
    }
    if (ph_memo_set(&ck->seen, p, p) != PH_OK) {
        PyErr_NoMemory();
        return -1;
    }
    return 1;
}

static int
check_foreign(checker *ck, PyObject *part)
{
    const ph_segment *home = ph_block_of(part);
    if (ph_block_table_state(home) != PH_LIVE) {
        return raise_wrong(ck, part, "a pointer into a released block");
    }
    if (ph_memo_get(&ck->uses, home) == NULL) {
        return raise_wrong(ck, part, "a pointer into a block that is not among its uses");
    }
    return 0;
}

static int
check_pointer(PyObject *part, void *arg)
{
    checker *ck = arg;
    if (!ph_heap_contains(part)) {
        return ph_is_static(part)
               ? 0 : raise_wrong(ck, part, "a pointer out of the heap, to what is not "
                                           "static,");
    }
    if (!is_committed(part)) {
        return raise_wrong(ck, part, "a pointer to what was not committed");
    }
    if (!ph_heap_is_mapped(ph_offset_of(part))) {
        return 0;
    }
    if (ph_block_of(part) != ck->home) {
        return check_foreign(ck, part);
    }
    int fresh = note_seen(ck, part);
    return fresh <= 0 ? fresh : push_object(ck, part);
}

static int
check_object(checker *ck, PyObject *obj)
{
    ph_object_info info;
    if (ph_inspect(obj, &info, check_pointer, ck) < 0) {
        return -1;
    }
    if (info.complaint != NULL) {
        return raise_wrong(ck, obj, info.complaint);
    }
    ck->bytes += info.size;
    if (info.shared == NULL) {
        return 0;
    }
    int fresh = note_seen(ck, info.shared);
    ck->bytes += fresh > 0 ? info.shared_size : 0;
    return fresh < 0 ? -1 : 0;
}

/* Load the list of blocks that a block uses, from the end of its last segment. */
static int
load_uses(checker *ck)
{
    const ph_segment *last = ck->home;
    while (last->next != 0) {
        last = ph_address_of(last->next);
    }
    const uint64_t *end = ph_address_of(ph_offset_of(last) + last->size);
    ph_memo_clear(&ck->uses);
    for (uint32_t i = 1; i <= ck->home->uses; i++) {
        const ph_segment *used = ph_address_of(*(end - i));
        if (!is_committed(used)
            || (ph_heap_is_mapped(ph_offset_of(used)) && ph_block_table_uses(used) == 0)) {
            return raise_wrong(ck, used, "a block that is used, but not counted,");
        }
        if (ph_memo_set(&ck->uses, used, used) != PH_OK) {
            PyErr_NoMemory();
            return -1;
        }
    }
    return 0;
}

static int
check_block(checker *ck)
{
    const ph_segment *home = ck->home;
    if (ph_block_table_state(home) != PH_LIVE) {
        return 0;
    }
    assert(ck->todo_used == 0);
    ck->bytes = 0;
    ph_memo_clear(&ck->seen);
    if (load_uses(ck) < 0) {
        return -1;
    }
    if (check_pointer(ph_address_of(home->root), ck) < 0) {
        return -1;
    }
    while (ck->todo_used > 0) {
        if (check_object(ck, ck->todo[--ck->todo_used]) < 0) {
            return -1;
        }
    }
    bool whole = home->flags & PH_BLOCK_LEFTOVER ? ck->bytes <= home->payload
                                                 : ck->bytes == home->payload;
    ck->blocks++;
    return whole ? 0 : raise_wrong(ck, home, "a block whose objects do not add up to "
                                       "its payload");
}

/* Have the addresses there been used again for something else? */
static bool
is_reused(const void *p)
{
    uint64_t offset = ph_offset_of(p);
    uint32_t n = atomic_load(&ph_heap.header->extents);
    for (uint32_t i = 0; i < n && i < PH_MAX_EXTENTS; i++) {
        const ph_extent *extent = &ph_heap.header->extent[i];
        if (offset - atomic_load(&extent->offset) < extent->size) {
            return atomic_load(&ph_heap.header->generation[i]) != 0;
        }
    }
    return false;
}

static int
check_segment(checker *ck, uint64_t offset, uint64_t end)
{
    const ph_segment *segment = ph_address_of(offset);
    ck->home = segment;
    if (segment->nonce == 0 || segment->size < sizeof(ph_segment)
        || segment->size % 8 != 0 || segment->size > end - offset) {
        return raise_wrong(ck, segment, "a damaged segment header");
    }
    if (ph_block_of(segment) != ph_address_of(segment->home)) {
        return raise_wrong(ck, segment, "a segment that the directory does not know");
    }
    if (segment->home != offset) {
        const ph_segment *home = ph_address_of(segment->home);
        return (is_committed(home) && home->nonce == segment->nonce)
               || is_reused(home)
               ? 0 : raise_wrong(ck, segment, "a segment without its block");
    }
    return check_block(ck);
}

/* Check an extent as far as this process has seen it: others may go on freezing. */
static int
check_extent(checker *ck, uint32_t index)
{
    uint64_t at = atomic_load(&ph_heap.header->extent[index].offset);
    uint64_t end = at + ph_extent_seen_filled(index);
    while (at != 0 && at < end) {
        if (check_segment(ck, at, end) < 0) {
            return -1;
        }
        at += ((const ph_segment *)ph_address_of(at))->size;
    }
    return 0;
}

static int
check_spans(void)
{
    uint64_t where = 0;
    const char *what = ph_runs_audit(&where);
    if (what != NULL) {
        PyErr_Format(PyExc_AssertionError, "permaheap: %s: span %llu", what,
                     (unsigned long long)where);
    }
    return what == NULL ? 0 : -1;
}

Py_ssize_t
ph_check(void)
{
    if (ph_heap_refresh_all() != PH_OK) {
        PyErr_SetString(PyExc_AssertionError, ph_error_text());
        return -1;
    }
    checker ck = {0};
    int result = check_spans();
    uint32_t n = atomic_load(&ph_heap.header->extents);
    for (uint32_t i = 0; i < n && i < PH_MAX_EXTENTS && result == 0; i++) {
        result = check_extent(&ck, i);
    }
    ph_memo_clear(&ck.seen);
    ph_memo_clear(&ck.uses);
    ph_free(ck.todo);
    return result < 0 ? -1 : ck.blocks;
}
