/* frames.c -- where Python's own stack is: the frames of functions, which
   the interpreter keeps in chunks of memory that look like any other. */

#include "layout/layout.h"

size_t
ph_frame_ranges(uintptr_t ranges[][2], size_t most)
{
#if PY_VERSION_HEX >= 0x030d0000
    PyThreadState *tstate = PyThreadState_GetUnchecked();
#else
    PyThreadState *tstate = _PyThreadState_UncheckedGet();
#endif
    size_t n = 0;
    if (tstate == NULL) {
        return 0;                   /* a thread that Python does not know */
    }
    for (_PyStackChunk *chunk = tstate->datastack_chunk; chunk != NULL && n < most;
         chunk = chunk->previous) {
        ranges[n][0] = (uintptr_t)chunk;
        ranges[n][1] = (uintptr_t)chunk + chunk->size;
        n++;
    }
    return n;
}
