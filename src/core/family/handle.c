/* handle.c -- naming an object or a span, and finding it again.

   A handle carries the family's name, two offsets, and a tag: SipHash-2-4 of the block's
   nonce and the offsets, under a key in the family's header.

        | family (16) | block (8) | object (8) | tag (8) |

   Invariants:

   1. A forged, stale or damaged handle has a wrong tag except for one case in 2**64.
      This guards against accidents: a process of the family can read the key.
   2. Resolving reads one word outside of the header: the nonce, at an offset that the
      handle claims, and only if that is in an extent that is mapped here.
   3. A span is named by its index and generation: the generation does for it what the
      nonce does for a block.  Such a handle keeps nothing alive. */

#include "core/family/handle.h"

#include <assert.h>
#include <string.h>

#include "core/base/siphash.h"
#include "core/block/block_table.h"
#include "core/family/family.h"
#include "core/heap/extents.h"
#include "core/heap/heap.h"

uint64_t
ph_tag(const uint64_t *words, size_t n)
{
    assert(ph_heap.state == PH_OK);
    return ph_siphash(ph_heap.header->key, words, n);
}

/* --- Handles ------------------------------------------------------------------ */

static uint64_t
tag_of_handle(uint64_t nonce, const ph_handle *handle)
{
    uint64_t words[3] = {nonce, handle->block, handle->object};
    return ph_tag(words, 3);
}

static ph_status
fail_released(const ph_segment *home)
{
    return ph_fail(PH_BAD_HANDLE,
                   "permaheap: the block of this object was released (its root is "
                   "at offset %llu)", (unsigned long long)home->root);
}

ph_status
ph_handle_make(const void *obj, ph_handle *handle)
{
    const ph_segment *home = ph_block_of(obj);
    if (ph_block_table_state(home) != PH_LIVE) {
        return fail_released(home);
    }
    memcpy(handle->family, ph_heap.header->family, sizeof(handle->family));
    handle->block = ph_offset_of(home);
    assert(handle->block > PH_HANDLE_SPAN);     /* or it would name something else */
    handle->object = ph_offset_of(obj);
    handle->tag = tag_of_handle(home->nonce, handle);
    return PH_OK;
}

static void
make_without_nonce(uint64_t block, uint64_t object, ph_handle *handle)
{
    memcpy(handle->family, ph_heap.header->family, sizeof(handle->family));
    handle->block = block;
    handle->object = object;
    handle->tag = tag_of_handle(0, handle);
}

void
ph_handle_of_number(uint32_t number, ph_handle *handle)
{
    make_without_nonce(0, number, handle);
}

void
ph_handle_of_span(ph_span_id id, ph_handle *handle)
{
    assert(id.index > 0 && id.index < 2 * PH_SPANS);
    make_without_nonce(PH_HANDLE_SPAN, (uint64_t)id.generation << 32 | id.index, handle);
}

bool
ph_handle_is_number(const ph_handle *handle)
{
    return handle->block == 0;
}

bool
ph_handle_is_span(const ph_handle *handle)
{
    return handle->block == PH_HANDLE_SPAN;
}

/* --- Resolving ---------------------------------------------------------------- */

static ph_status
fail_bad_handle(void)
{
    return ph_fail(PH_BAD_HANDLE,
                   "permaheap: this handle is damaged, forged, or names "
                   "something that is no longer there");
}

ph_status
ph_foreign(const char *thing)
{
    return ph_fail(PH_BAD_HANDLE,
                   "permaheap: this %s comes from another family of "
                   "processes. A family is a process and what was forked from "
                   "it after it imported permaheap; spawned children are "
                   "outside, and so are those of a fork server (the default "
                   "since Python 3.14), which are a family with that server at "
                   "most. permaheap.family_context() starts children that are "
                   "inside", thing);
}

static bool
may_hold_a_block(uint64_t offset)
{
    return offset >= ph_heap.header->first && offset % 8 == 0
           && ph_heap_is_mapped(offset)
           && ph_heap_is_mapped(offset + sizeof(ph_segment));
}

static ph_status
check_family(const ph_handle *handle)
{
    ph_status status = ph_heap_ready();
    if (status == PH_OK && memcmp(handle->family, ph_heap.header->family, 16) != 0) {
        return ph_foreign("handle");
    }
    return status;
}

/* Check that the handle is whole: its block, or NULL if it names something else. */
static ph_status
find_block(const ph_handle *handle, const ph_segment **p_home)
{
    ph_status status = check_family(handle);
    if (status == PH_OK) {
        status = ph_heap_refresh();
    }
    if (status != PH_OK) {
        return status;
    }
    *p_home = NULL;
    if (ph_handle_is_number(handle) || ph_handle_is_span(handle)) {
        return handle->tag == tag_of_handle(0, handle) ? PH_OK : fail_bad_handle();
    }
    if (!may_hold_a_block(handle->block)) {
        return fail_bad_handle();
    }
    const ph_segment *home = ph_address_of(handle->block);
    if (handle->tag != tag_of_handle(home->nonce, handle)) {
        return fail_bad_handle();
    }
    assert(home->home == handle->block);        /* tags are made of home segments */
    *p_home = home;
    return PH_OK;
}

ph_status
ph_handle_resolve(const ph_handle *handle, void **p_obj, uint32_t *p_flags)
{
    const ph_segment *home;
    ph_status status = find_block(handle, &home);
    if (status != PH_OK) {
        return status;
    }
    *p_obj = NULL;
    *p_flags = 0;
    if (home == NULL) {
        return PH_OK;
    }
    if (ph_block_table_state(home) != PH_LIVE) {
        return fail_released(home);
    }
    *p_obj = ph_address_of(handle->object);
    *p_flags = home->flags;
    return PH_OK;
}

ph_status
ph_handle_span(const ph_handle *handle, ph_span_id *id)
{
    assert(ph_handle_is_span(handle));
    ph_status status = check_family(handle);
    if (status == PH_OK && handle->tag != tag_of_handle(0, handle)) {
        return fail_bad_handle();
    }
    id->index = (uint32_t)handle->object;
    id->generation = (uint32_t)(handle->object >> 32);
    return status;
}

/* --- Blocks ------------------------------------------------------------------- */

static ph_status
check_root(const ph_segment *home, uint64_t object)
{
    if (home == NULL) {
        return ph_fail(PH_REFUSED, "permaheap: this object belongs to the interpreter "
                                   "and to no block: there is nothing to release");
    }
    if (object != home->root) {
        return ph_fail(PH_REFUSED,
                       "permaheap: this is a part of a block. Only a whole block can "
                       "be released: give what freeze() returned, or a handle of "
                       "that (its root is at offset %llu)",
                       (unsigned long long)home->root);
    }
    return PH_OK;
}

ph_status
ph_handle_block(const ph_handle *handle, const ph_segment **p_home)
{
    ph_status status = find_block(handle, p_home);
    if (status == PH_OK && ph_handle_is_span(handle)) {
        return ph_fail(PH_REFUSED, "permaheap: this handle names a Buffer, which is "
                                   "given back by its own release(), where it is held");
    }
    return status == PH_OK ? check_root(*p_home, handle->object) : status;
}

ph_status
ph_root_block(const void *root, const ph_segment **p_home)
{
    ph_status status = ph_heap_refresh();
    if (status == PH_OK) {
        *p_home = ph_heap_contains(root) ? ph_block_of(root) : NULL;
        status = check_root(*p_home, ph_offset_of(root));
    }
    return status;
}
