/* handle.h -- handles: names of permanent objects and of spans that travel as bytes.

   A handle names one of three things:

        block >  PH_HANDLE_SPAN     an object in that block
        block == PH_HANDLE_SPAN     a span, read-only for ever
        block == 0                  an object that each interpreter has in its own memory,
                                    by a number; its meaning is the caller's */

#ifndef PH_FAMILY_HANDLE_H
#define PH_FAMILY_HANDLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/status.h"
#include "core/heap/segment.h"
#include "core/span/span_id.h"

/* The bytes of a handle: valid in one family, for ever. */
typedef struct {
    uint8_t family[16];             /* ph_header.family */
    uint64_t block;                 /* offset of the object's block; or as above */
    uint64_t object;                /* offset of the object; or its number; or
                                       generation << 32 | index of the span */
    uint64_t tag;                   /* of the block's nonce and the above */
} ph_handle;

#define PH_HANDLE_SIZE 40
#define PH_HANDLE_SPAN 1u           /* where no block can be */
_Static_assert(sizeof(ph_handle) == PH_HANDLE_SIZE, "a handle has no padding");

/* Return the tag of other names that are made of these words, under the family's key.
   After ph_heap_ready(). */
uint64_t ph_tag(const uint64_t *words, size_t n);
/* Fail with PH_BAD_HANDLE: this thing ("handle") comes from another family. */
ph_status ph_foreign(const char *thing);

/* --- Making, after ph_heap_ready().  O(1) ------------------------------------- */

/* Name a permanent object in the heap, unless its block was released. */
ph_status ph_handle_make(const void *obj, ph_handle *handle);
void ph_handle_of_number(uint32_t number, ph_handle *handle);
void ph_handle_of_span(ph_span_id id, ph_handle *handle);

/* --- Resolving.  O(1) --------------------------------------------------------- */

/* Find the object, and the flags of its block: NULL and 0 for a handle that is whole but
   names a number (handle->object) or a span. */
ph_status ph_handle_resolve(const ph_handle *handle, void **p_obj, uint32_t *p_flags);
bool ph_handle_is_number(const ph_handle *handle);
bool ph_handle_is_span(const ph_handle *handle);
/* Find the span, if the handle is whole: ph_span_hold() tells whether it is still there. */
ph_status ph_handle_span(const ph_handle *handle, ph_span_id *id);
/* Find the block whose root this handle names, also when it was released. */
ph_status ph_handle_block(const ph_handle *handle, const ph_segment **p_home);
/* Do the same for the root itself. */
ph_status ph_root_block(const void *root, const ph_segment **p_home);

#endif
