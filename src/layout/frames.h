/* frames.h -- where Python's own stack is, for the trace of page faults. */

#ifndef PH_FRAMES_H
#define PH_FRAMES_H

#include "layout/version.h"

#include <stdint.h>

/* Store where the frames of the running thread are: [start, end) of up to `most` pieces
   of memory.  Returns their number.  Calls nothing that allocates. */
size_t ph_frame_ranges(uintptr_t ranges[][2], size_t most);

#endif
