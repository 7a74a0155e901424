/* handle.h -- names of permanent objects and of buffers that travel as bytes. */

#ifndef PH_SHARE_HANDLE_H
#define PH_SHARE_HANDLE_H

#include "core/block/block.h"
#include "core/span/spans.h"
#include "layout/version.h"

/* The bytes of a handle: valid in one family, for ever. */
typedef struct {
    uint8_t family[16];             /* ph_header.family */
    uint64_t block;                 /* offset of the object's block; 0: static;
                                       PH_HANDLE_SPAN: a Buffer's span */
    uint64_t object;                /* offset of the object; or its number; or
                                       generation << 32 | index of the span */
    uint64_t tag;                   /* of the block's nonce and the above */
} ph_handle;

#define PH_HANDLE_SIZE 40
#define PH_HANDLE_SPAN 1u           /* where no block can be */
_Static_assert(sizeof(ph_handle) == PH_HANDLE_SIZE, "a handle has no padding");

/* The tag of other names that are made of these words, under the family's key.  After
   ph_heap_ready(). */
uint64_t ph_tag(const uint64_t *words, size_t n);
/* Fail with PH_BAD_HANDLE: this thing ("handle") comes from another family. */
ph_status ph_foreign(const char *thing);

/* Name a permanent or static object, unless its block was released.  O(1). */
ph_status ph_handle_make(PyObject *obj, ph_handle *handle);
/* Name a span that is read-only for good; and is it such a name?  Then the span, if
   the handle is whole: whether it is still there, ph_span_hold() tells.  O(1). */
void ph_handle_of_span(ph_span_id id, ph_handle *handle);
bool ph_handle_is_span(const ph_handle *handle);
ph_status ph_handle_span(const ph_handle *handle, ph_span_id *id);
/* The object, and the flags of its block.  O(1). */
ph_status ph_handle_resolve(const ph_handle *handle, PyObject **p_obj,
                            uint32_t *p_flags);
/* The block whose root this handle names, also when it was released.  O(1). */
ph_status ph_handle_block(const ph_handle *handle, const ph_segment **p_home);
/* The same for the root itself. */
ph_status ph_root_block(PyObject *root, const ph_segment **p_home);

#endif
