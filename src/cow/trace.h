/* trace.h -- children that record the state of their memory at the fork: see trace.c. */

#ifndef PH_COW_TRACE_H
#define PH_COW_TRACE_H

#include "core/os/os.h"

#define PH_TRACE_MAGIC UINT64_C(0x3145434152544850)     /* "PHTRACE1" */
#define PH_TRACE_CHILDREN 512u
#define PH_TRACE_CHILDREN_AT PH_PAGE                    /* offsets in the file */
#define PH_TRACE_MAPS_AT (8 * PH_PAGE)
#define PH_TRACE_MAPS_SIZE ((uint64_t)256 << 10)        /* of one child, in bytes */
#define PH_TRACE_GAPS_AT ((uint64_t)192 << 10)          /* in that: after the text */
#define PH_TRACE_WRITES_AT                                                      \
    (PH_TRACE_MAPS_AT + PH_TRACE_CHILDREN * PH_TRACE_MAPS_SIZE)

/* The first page of the file.  The recorder writes all but `children` and
   `magic`; both sides map it. */
typedef struct {
    uint64_t magic;
    uint32_t parent;                /* pid */
    uint32_t recorder;              /* pid, 0: not yet ready */
    uint32_t sees_kernel;           /* writes of system calls are recorded as well */
    _Atomic uint32_t children;      /* forks so far, also those without a slot */
    uint64_t writes;                /* number of records at PH_TRACE_WRITES_AT */
    uint64_t lost;                  /* records for which there was no room */
    uint64_t asked, answered;       /* rounds: a reader waits for its own */
} ph_trace_header;

/* The record of one child.  Written by the child alone, `state` last. */
typedef struct {
    uint32_t pid;
    _Atomic uint32_t state;         /* 0 empty, 1 complete, 2 maps are missing */
    uint64_t text_size;             /* bytes of text at its place */
    uint64_t gaps;                  /* number of ph_gap at PH_TRACE_GAPS_AT there */
} ph_trace_child;

/* Let the children of this process record themselves in the file, from now on.  Returns an
   errno.  With the GIL held. */
int ph_trace_begin(int fd);

#endif
