/* handle.c -- naming a permanent object or a buffer, and finding it again.

   A handle carries the family's name, two offsets, and a tag: SipHash-2-4
   (Aumasson and Bernstein, 2012) of the block's nonce and the offsets, under a
   key in the family's header.  A forged, stale or damaged handle has a wrong
   tag but for one case in 2**64.  This guards against accidents: a member of
   the family can read the key.

   Resolving reads one word outside of the header: the nonce, at an offset that
   the handle claims, if it is in an extent that is mapped here.

   A buffer is named by its span's index and generation, where others have an
   offset; the generation does what the nonce does.  Such a handle keeps nothing
   alive. */

#include "share/handle.h"

#include <string.h>

#include "core/block/block_table.h"
#include "layout/statics.h"

/* --- SipHash-2-4 of a few words ---------------------------------------------- */

static uint64_t
rotate(uint64_t x, int bits)
{
    return (x << bits) | (x >> (64 - bits));
}

static void
sip_round(uint64_t v[4])
{
    v[0] += v[1]; v[1] = rotate(v[1], 13); v[1] ^= v[0]; v[0] = rotate(v[0], 32);
    v[2] += v[3]; v[3] = rotate(v[3], 16); v[3] ^= v[2];
    v[0] += v[3]; v[3] = rotate(v[3], 21); v[3] ^= v[0];
    v[2] += v[1]; v[1] = rotate(v[1], 17); v[1] ^= v[2]; v[2] = rotate(v[2], 32);
}

static void
sip_word(uint64_t v[4], uint64_t word)
{
    v[3] ^= word;
    sip_round(v);
    sip_round(v);
    v[0] ^= word;
}

static uint64_t
sip_hash(const uint64_t key[2], const uint64_t *words, size_t n)
{
    uint64_t v[4] = {
        key[0] ^ 0x736f6d6570736575ull, key[1] ^ 0x646f72616e646f6dull,
        key[0] ^ 0x6c7967656e657261ull, key[1] ^ 0x7465646279746573ull,
    };
    for (size_t i = 0; i < n; i++) {
        sip_word(v, words[i]);
    }
    sip_word(v, (uint64_t)(8 * n) << 56);
    v[2] ^= 0xff;
    for (int i = 0; i < 4; i++) {
        sip_round(v);
    }
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

uint64_t
ph_tag(const uint64_t *words, size_t n)
{
    return sip_hash(ph_heap.header->key, words, n);
}

/* --- Handles ------------------------------------------------------------------- */

static uint64_t
tag_of(uint64_t nonce, const ph_handle *handle)
{
    uint64_t words[3] = {nonce, handle->block, handle->object};
    return ph_tag(words, 3);
}

static ph_status
released(const ph_segment *home)
{
    return ph_fail(PH_BAD_HANDLE,
                   "permaheap: the block of this object was released (its root is "
                   "at offset %llu)", (unsigned long long)home->root);
}

ph_status
ph_handle_make(PyObject *obj, ph_handle *handle)
{
    uint64_t nonce = 0;
    memcpy(handle->family, ph_heap.header->family, sizeof(handle->family));
    if (ph_heap_contains(obj)) {
        const ph_segment *home = ph_block_of(obj);
        if (ph_ledger_state(home) != PH_LIVE) {
            return released(home);
        }
        handle->block = ph_offset_of(home);
        handle->object = ph_offset_of(obj);
        nonce = home->nonce;
    }
    else {
        handle->block = 0;
        handle->object = ph_static_number(obj);
    }
    handle->tag = tag_of(nonce, handle);
    return PH_OK;
}

static ph_status
bad_handle(void)
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

/* Of a handle that is whole: the block, or NULL if the object is in none. */
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
    if (handle->block == 0 || ph_handle_is_span(handle)) {
        return handle->tag == tag_of(0, handle) ? PH_OK : bad_handle();
    }
    if (!may_hold_a_block(handle->block)) {
        return bad_handle();
    }
    const ph_segment *home = ph_address_of(handle->block);
    if (handle->tag != tag_of(home->nonce, handle)) {
        return bad_handle();
    }
    *p_home = home;
    return PH_OK;
}

ph_status
ph_handle_resolve(const ph_handle *handle, PyObject **p_obj, uint32_t *p_flags)
{
    const ph_segment *home;
    ph_status status = find_block(handle, &home);
    if (status != PH_OK) {
        return status;
    }
    if (home == NULL) {
        *p_obj = ph_static_at((uint32_t)handle->object);
        *p_flags = *p_obj == NULL ? PH_BLOCK_DATETIME : 0;
        return PH_OK;
    }
    if (ph_ledger_state(home) != PH_LIVE) {
        return released(home);
    }
    *p_obj = ph_address_of(handle->object);
    *p_flags = home->flags;
    return PH_OK;
}

/* --- Spans ----------------------------------------------------------------------- */

void
ph_handle_of_span(ph_span_id id, ph_handle *handle)
{
    memcpy(handle->family, ph_heap.header->family, sizeof(handle->family));
    handle->block = PH_HANDLE_SPAN;
    handle->object = (uint64_t)id.generation << 32 | id.index;
    handle->tag = tag_of(0, handle);
}

bool
ph_handle_is_span(const ph_handle *handle)
{
    return handle->block == PH_HANDLE_SPAN;
}

ph_status
ph_handle_span(const ph_handle *handle, ph_span_id *id)
{
    ph_status status = check_family(handle);
    if (status == PH_OK && handle->tag != tag_of(0, handle)) {
        return bad_handle();
    }
    id->index = (uint32_t)handle->object;
    id->generation = (uint32_t)(handle->object >> 32);
    return status;
}

/* --- Blocks ---------------------------------------------------------------------- */

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
ph_root_block(PyObject *root, const ph_segment **p_home)
{
    ph_status status = ph_heap_refresh();
    if (status == PH_OK) {
        *p_home = ph_heap_contains(root) ? ph_block_of(root) : NULL;
        status = check_root(*p_home, ph_offset_of(root));
    }
    return status;
}
