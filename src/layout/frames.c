/* frames.c -- where Python's own stack is: the frames of functions, which the
   interpreter keeps in chunks of memory that look like any other. */

#include "layout/frames.h"

#include <assert.h>

size_t
ph_frame_ranges(uintptr_t ranges[][2], size_t most)
{
    PyThreadState *tstate = PyThreadState_GetUnchecked();
    size_t n = 0;
    if (tstate == NULL) {
        return 0;                   /* a thread that Python does not know */
    }
    for (_PyStackChunk *chunk = tstate->datastack_chunk; chunk != NULL && n < most;
         chunk = chunk->previous) {
        ranges[n][0] = (uintptr_t)chunk;
        ranges[n][1] = (uintptr_t)chunk + chunk->size;
        assert(ranges[n][0] < ranges[n][1]);
        n++;
    }
    return n;
}
