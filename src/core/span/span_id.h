/* span_id.h -- names of spans, and how many there can be.

   An index is a place in the table of spans (span_table.h).  It is reused, with another
   generation: so an id never names a later span. */

#ifndef PH_SPAN_ID_H
#define PH_SPAN_ID_H

#include <stdint.h>

typedef enum {
    PH_SPAN_FREE, PH_SPAN_BUFFER, PH_SPAN_CHANNEL, PH_SPAN_MESSAGE,
} ph_span_kind;

/* Names a span, in messages too: all bytes of it are in the heap's shared tables. */
typedef struct {
    uint32_t index;
    uint32_t generation;
} ph_span_id;

#define PH_SPANS 16384u             /* this many at a time */
#define PH_MESSAGE_SPANS 512u       /* one message can hold this many */

#endif
