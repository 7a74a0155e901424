/* inspect.h -- the parts and the size of a permanent object, for the audit. */

#ifndef PH_INSPECT_H
#define PH_INSPECT_H

#include "layout/version.h"

#include <stdint.h>

typedef struct {
    uint64_t size;                  /* bytes in the block, the GC head included */
    uint64_t front;                 /* bytes of that in front of the object */
    const void *shared;             /* table of shared keys, or NULL */
    uint64_t shared_size;           /* its bytes */
    const char *complaint;          /* what is wrong with it, or NULL */
} ph_object_info;

typedef int (*ph_visitor)(PyObject *part, void *arg);
/* Visit all objects that a permanent one points to.  Returns 0, or the first result of
   visit that is not 0. */
int ph_inspect(PyObject *obj, ph_object_info *info, ph_visitor visit, void *arg);

#endif
