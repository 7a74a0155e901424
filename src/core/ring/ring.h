/* ring.h -- the ring of a channel: messages of bytes, in shared memory, from many
   senders to many receivers. */

#ifndef PH_RING_H
#define PH_RING_H

#include "core/os/os.h"
#include "core/os/sync.h"
#include "core/span/spans.h"

/* Have spans.c know how to empty a channel (ph_span_empty_channel).  Before ph_heap_init();
   another call changes nothing. */
void ph_rings_init(void);

typedef struct ph_ring ph_ring;     /* at the start of a span of PH_SPAN_CHANNEL */

/* A message to send: it is copied.  The spans are the sender's, and the message holds them
   too while it waits. */
typedef struct {
    uint32_t kind;                  /* the channel's business: not looked at; < 2**16 */
    uint32_t n_spans;
    const ph_span_id *spans;
    const void *bytes;
    uint64_t size;                  /* <= ph_ring_largest() with n_spans counted */
    uint64_t out_of_line;           /* bytes elsewhere that exist for this message only:
                                       they count against the capacity, too */
} ph_outgoing;

/* A received message: owned by the receiver, also its holds on the spans.  Keep it for the
   next message, which reuses its memory. */
typedef struct {
    uint32_t kind;
    uint32_t n_spans;
    ph_span_id *spans;
    char *bytes;
    uint64_t size;
    void *memory;                   /* of spans and bytes; from ph_malloc() */
    uint64_t memory_size;
} ph_incoming;

#define PH_RING_MOST ((uint64_t)4 * PH_GIB)     /* bytes of messages in a ring */

/* Return the bytes of a span for a ring with room for `capacity` bytes of messages: these
   are rounded up to a power of two, 16 KiB at least. */
uint64_t ph_ring_span_size(uint64_t capacity);
ph_status ph_ring_init(ph_ring *ring, uint64_t capacity);

/* Return the bytes that message and spans may take together (8 for each span), half of the
   ring: a larger message travels in a span.  PH_MESSAGE_SPANS spans always fit. */
uint64_t ph_ring_largest(const ph_ring *ring);
uint64_t ph_ring_capacity(const ph_ring *ring);
uint64_t ph_ring_messages(const ph_ring *ring);         /* waiting now; about right */
bool ph_ring_is_closed(const ph_ring *ring);

/* Send, without waiting, except for a lock that is held for the time of a copy, and for
   that at most until `until`.  PH_FULL (also when the lock could not be had), PH_CLOSED;
   PH_NOMEM, PH_BAD_HANDLE. */
ph_status ph_ring_send(ph_ring *ring, const ph_outgoing *message, uint64_t until);
/* Receive, likewise.  PH_EMPTY; PH_CLOSED when it is empty and closed; PH_NOMEM, nothing
   taken; PH_BAD_HANDLE when a damaged message was thrown away. */
ph_status ph_ring_recv(ph_ring *ring, ph_incoming *message, uint64_t until);
void ph_incoming_free(ph_incoming *message);

/* Wait until there may be room for `size` bytes, and `out_of_line` more elsewhere; or a
   message to receive.  Then the caller tries again.  Spins for up to `spin` nanoseconds
   first, then sleeps: call it without the GIL.  PH_FULL or PH_EMPTY when the time is over.
   Returns PH_INTERRUPTED after a signal, and periodically: check signals and call again.
   A sender that stops waiting must call once more with a deadline in the past, to give up
   its claim on room. */
ph_status ph_ring_wait_room(ph_ring *ring, uint64_t size, uint64_t out_of_line,
                            uint64_t spin, uint64_t until);
ph_status ph_ring_wait_message(ph_ring *ring, uint64_t spin, uint64_t until);

/* Let no more messages in.  Wakes all waiting threads. */
void ph_ring_close(ph_ring *ring);

/* Watchers stand for threads that wait for several channels at once, or in an event loop.
   A watcher is a word that ph_ring_on_notify() understands (notify.c sets that, once per
   process).  When a message or room comes, or the ring is closed, each watcher is taken
   out, and ph_ring_on_notify() is called for it once.  False when there is no place for it:
   then the caller looks again periodically. */
typedef enum { PH_WATCH_MESSAGE, PH_WATCH_ROOM } ph_watch;
bool ph_ring_watch(ph_ring *ring, ph_watch what, uint64_t watcher);
void ph_ring_unwatch(ph_ring *ring, ph_watch what, uint64_t watcher);
extern void (*ph_ring_on_notify)(uint64_t watcher, uint64_t key);
/* Return whether the watcher's process has ended; NULL: it cannot be told. */
extern bool (*ph_ring_is_gone)(uint64_t watcher);
/* Return the key that stands for a ring and an event: the same word in all processes. */
uint64_t ph_ring_key(ph_ring *ring, ph_watch what);

#endif
