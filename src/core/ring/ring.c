/* ring.c -- a ring of messages, from many senders to many receivers, any of which may be
   killed at any instruction.

   Two positions, in bytes, only grow: senders write behind `tail`, receivers read from
   `head`.  A byte's place is its position modulo the capacity, a power of two.  Each end
   has a robust lock: one sender and one receiver work at a time, without waiting for each
   other.

        head                                 tail
     ---|--record--|----record----|--record--|........free.........|---
        receivers copy out, then             senders copy in, then
        store head                           store tail

   A record is a frame of 16 bytes, the ids of its spans, its bytes, and padding to 16.

   Invariants:

   1. A message exists from the store to `tail` until the store to `head`.  Each is one
      store, the last thing done under the lock: there is nothing to mend before it.
   2. No process writes the bytes between head and tail; the owner of the senders' lock
      writes the others.
   3. With spans, that store commits a transaction of the journal, which looks at the
      position to learn how far a killed owner came.  So the heir of a dead owner's lock
      has the journal look before it moves the position: `mend` is set until then.
   4. A thread that waits for an end sets SLEEPERS in its `waiting`, looks again, and sleeps
      while `event` is unchanged.  A process that moves the end clears the flag; if it was
      set, it changes `event` and wakes all.  Read-modify-write lets one see the other.
   5. No thread sleeps longer than SLICE: a process killed before its wake-up wakes none.
   6. WATCHERS says that there are watchers.  It is cleared after they were notified, and
      then they are searched once more.  A process killed there loses at most one of them.
      Its own watchers stay: when the table is full, new ones take their places.
   7. No sender publishes once `closed` is SEALED.  Closing only sets CLOSING.  A receiver
      that finds the ring empty seals it with the senders' lock held: a sender that had
      not seen CLOSING is done then.  Lock order: receivers, senders, the journal.
   8. Memory elsewhere that waits with messages is bounded by the capacity as well.  One
      such message is always let in, and any one when the count may be off.
   9. Anything read here may be damaged.  A check word guards a frame, its spans' ids and
      its position; sizes are tested before use.  The spans of a damaged record stay held.
  10. A sender that waits with a large record says so in `wanted`, until a point in time,
      and smaller ones leave that much free: the locks are not FIFO, and it would starve. */

#include "core/ring/ring.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "core/span/journal.h"

#define SLICE 200000000u            /* nanoseconds that one sleeps at a time */
#define ALIGNMENT 16u               /* of records: a frame is never cut in two */
#define SMALLEST 16384u             /* bytes: half of it has room for the most spans */
#define N_WATCHERS 64u
#define LOOK_AT 4                   /* watchers at a time, whether they are gone */
#define LINES 128                   /* processors fetch lines of 64 bytes in pairs */
#define TRIES 32                    /* at a lock, before one sleeps for it */
#define PAGE 4096u                  /* bytes out of line are counted in these */

/* Tests set these two, to show that each is needed. */
#ifndef PH_RING_LARGE_SHARE
#define PH_RING_LARGE_SHARE 16      /* of the capacity: larger records make others wait */
#endif
#ifndef PH_RING_PUBLISH
#define PH_RING_PUBLISH memory_order_release    /* of the store that moves a position */
#endif

enum { SLEEPERS = 1, WATCHERS = 2 };            /* in ph_end.waiting */
enum { OPEN, CLOSING, SEALED };                 /* ph_ring.closed */

typedef struct {
    _Alignas(ALIGNMENT) uint32_t size;          /* bytes of the message */
    uint16_t kind;
    uint16_t n_spans;
    uint32_t out_of_line;                       /* pages elsewhere */
    uint32_t check;                             /* of all this and its position */
} ph_frame;
_Static_assert(sizeof(ph_frame) == ALIGNMENT, "no frame crosses the end of the ring");
_Static_assert(SMALLEST / 2 - sizeof(ph_frame) >= PH_MESSAGE_SPANS * sizeof(ph_span_id),
               "the most spans always fit");
_Static_assert((SMALLEST & (SMALLEST - 1)) == 0 && (PH_RING_MOST & (PH_RING_MOST - 1)) == 0,
               "capacities are powers of two");

/* One end of the ring.  Words that different sides write are on different lines. */
typedef struct {
    _Alignas(LINES) ph_mutex mutex;
    /* Written and read by the owner of the lock. */
    _Alignas(64) uint64_t seen;                 /* the other end, when last looked at */
    _Atomic uint64_t messages;                  /* that passed here; about right */
    _Atomic uint64_t out_of_line;               /* their pages elsewhere; about right */
    _Atomic uint32_t mend;                      /* an owner died (invariant 3) */
    /* Written by the owner, read by the other end. */
    _Alignas(LINES) _Atomic uint64_t position;
    /* For threads that wait for the position to grow. */
    _Alignas(LINES) _Atomic uint32_t waiting;
    _Atomic uint32_t event;                     /* the futex: changes at each wake-up */
    _Atomic uint64_t watcher[N_WATCHERS];       /* 0: free */
} ph_end;

struct ph_ring {
    uint64_t capacity;              /* bytes, a power of two; never changes */
    uint64_t check;                 /* ~capacity */
    _Atomic uint32_t closed;
    _Atomic uint32_t recount;       /* `messages` and `out_of_line` may be off: set right
                                       when empty */
    _Atomic uint64_t wanted;        /* bytes of a large record that waits; 0: none */
    _Atomic uint64_t wanted_until;  /* point in time: from then it does not count */
    ph_end senders;                 /* its position is the tail */
    ph_end receivers;               /* its position is the head */
    _Alignas(LINES) unsigned char memory[];
};

void (*ph_ring_on_notify)(uint64_t watcher, uint64_t key);
bool (*ph_ring_is_gone)(uint64_t watcher);

/* --- Sizes -------------------------------------------------------------------- */

static uint64_t
round_capacity(uint64_t capacity)
{
    uint64_t size = SMALLEST;
    while (size < capacity && size < PH_RING_MOST) {
        size *= 2;
    }
    return size;
}

uint64_t
ph_ring_span_size(uint64_t capacity)
{
    return sizeof(ph_ring) + round_capacity(capacity);
}

uint64_t
ph_ring_capacity(const ph_ring *ring)
{
    return ring->capacity;
}

/* Return half of the ring: sender and receiver can work at the same time, and no sender
   has to wait for an empty ring. */
uint64_t
ph_ring_largest(const ph_ring *ring)
{
    return ring->capacity / 2 - sizeof(ph_frame);
}

static uint64_t
record_size(uint64_t n_spans, uint64_t size)
{
    uint64_t all = sizeof(ph_frame) + n_spans * sizeof(ph_span_id) + size;
    return (all + ALIGNMENT - 1) & ~(uint64_t)(ALIGNMENT - 1);
}

static uint64_t
tail_of(const ph_ring *ring)
{
    return atomic_load_explicit(&ring->senders.position, memory_order_acquire);
}

static uint64_t
head_of(const ph_ring *ring)
{
    return atomic_load_explicit(&ring->receivers.position, memory_order_acquire);
}

/* Correct the count by the positions: at least 1 if they differ, at most as many as would
   fit. */
uint64_t
ph_ring_messages(const ph_ring *ring)
{
    uint64_t received = atomic_load_explicit(&ring->receivers.messages,
                                             memory_order_relaxed);
    uint64_t sent = atomic_load_explicit(&ring->senders.messages, memory_order_relaxed);
    uint64_t head = head_of(ring);
    uint64_t most = (tail_of(ring) - head) / sizeof(ph_frame);
    uint64_t n = sent - received;
    return n > most ? most : n == 0 && most > 0 ? 1 : n;
}

bool
ph_ring_is_closed(const ph_ring *ring)
{
    return atomic_load_explicit(&ring->closed, memory_order_acquire) != OPEN;
}

static bool
is_sound(const ph_ring *ring)
{
    return ring->capacity == ~ring->check;
}

static ph_status
fail_unsound(void)
{
    return ph_fail(PH_BAD_HANDLE, "permaheap: the memory of a channel is damaged");
}

ph_status
ph_ring_init(ph_ring *ring, uint64_t capacity)
{
    if (capacity > PH_RING_MOST) {
        return ph_fail(PH_NOMEM, "permaheap: a channel has room for %llu bytes at most",
                       (unsigned long long)PH_RING_MOST);
    }
    assert((uintptr_t)ring % LINES == 0);
    memset(ring, 0, sizeof(*ring));
    ring->capacity = round_capacity(capacity);
    ring->check = ~ring->capacity;
    int err = ph_mutex_init(&ring->senders.mutex);
    if (err == 0) {
        err = ph_mutex_init(&ring->receivers.mutex);
    }
    if (err) {
        return ph_fail(PH_SYSTEM, "permaheap: cannot make a lock: %s", strerror(err));
    }
    return PH_OK;
}

/* --- Bytes -------------------------------------------------------------------- */

static void *
place_of(ph_ring *ring, uint64_t position)
{
    return ring->memory + (position & (ring->capacity - 1));
}

static uint64_t
before_the_end(const ph_ring *ring, uint64_t position)
{
    return ring->capacity - (position & (ring->capacity - 1));
}

static void
copy_into(ph_ring *ring, uint64_t position, const void *from, uint64_t size)
{
    uint64_t first = before_the_end(ring, position);
    if (size <= first) {
        memcpy(place_of(ring, position), from, size);
        return;
    }
    memcpy(place_of(ring, position), from, first);
    memcpy(ring->memory, (const char *)from + first, size - first);
}

static void
copy_from(ph_ring *ring, uint64_t position, void *to, uint64_t size)
{
    uint64_t first = before_the_end(ring, position);
    if (size <= first) {
        memcpy(to, place_of(ring, position), size);
        return;
    }
    memcpy(to, place_of(ring, position), first);
    memcpy((char *)to + first, ring->memory, size - first);
}

/* --- Frames ------------------------------------------------------------------- */

/* Each step can be undone, so that no single change is lost on the way. */
static uint64_t
mix_word(uint64_t mix, uint64_t word)
{
    mix = (mix ^ word) * 0x9e3779b97f4a7c15u;
    return mix ^ mix >> 32;
}

static uint32_t
count_pages(uint64_t bytes)
{
    assert(bytes / PAGE < UINT32_MAX);
    return (uint32_t)((bytes + PAGE - 1) / PAGE);
}

static uint64_t
start_of_check(uint64_t position, const ph_frame *frame)
{
    uint64_t mix = mix_word(position, (uint64_t)frame->kind << 32 | frame->size);
    return mix_word(mix, (uint64_t)frame->n_spans << 32 | frame->out_of_line);
}

static uint64_t
mix_span(uint64_t mix, ph_span_id id)
{
    return mix_word(mix, (uint64_t)id.generation << 32 | id.index);
}

static void
write_record(ph_ring *ring, uint64_t position, const ph_outgoing *message)
{
    assert(position % ALIGNMENT == 0);          /* has_room() has looked */
    assert(message->size <= UINT32_MAX && message->n_spans <= PH_MESSAGE_SPANS);
    assert(message->kind <= UINT16_MAX);
    ph_frame frame = {.size = (uint32_t)message->size, .kind = (uint16_t)message->kind,
                      .n_spans = (uint16_t)message->n_spans,
                      .out_of_line = count_pages(message->out_of_line)};
    uint64_t mix = start_of_check(position, &frame);
    uint64_t next = position + sizeof(frame);
    for (uint32_t i = 0; i < message->n_spans; i++) {
        mix = mix_span(mix, message->spans[i]);
    }
    frame.check = (uint32_t)mix;
    memcpy(place_of(ring, position), &frame, sizeof(frame));
    if (message->n_spans > 0) {
        uint64_t size = message->n_spans * sizeof(ph_span_id);
        copy_into(ring, next, message->spans, size);
        next += size;
    }
    if (message->size > 0) {
        copy_into(ring, next, message->bytes, message->size);
    }
}

/* Return whether this can be a record that fits before the tail. */
static bool
is_believable(const ph_frame *frame, uint64_t room)
{
    return frame->n_spans <= PH_MESSAGE_SPANS
           && record_size(frame->n_spans, frame->size) <= room;
}

/* Copy the frame at that position.  False when it, or a span's id, is damaged. */
static bool
read_frame(ph_ring *ring, uint64_t position, uint64_t tail, ph_frame *frame)
{
    memcpy(frame, place_of(ring, position), sizeof(*frame));
    if (!is_believable(frame, tail - position)) {
        return false;
    }
    uint64_t mix = start_of_check(position, frame);
    uint64_t next = position + sizeof(*frame);
    for (uint32_t i = 0; i < frame->n_spans; i++) {
        ph_span_id id;
        memcpy(&id, place_of(ring, next), sizeof(id));
        mix = mix_span(mix, id);
        next += sizeof(id);
    }
    return (uint32_t)mix == frame->check;
}

/* --- Locks -------------------------------------------------------------------- */

/* Try again a few times, then sleep: a lock is held for the time of a copy only, so that
   trying is quicker. */
static int
lock_busy(ph_mutex *mutex, uint64_t until)
{
    int tries = ph_os_may_spin() ? TRIES : 0;
    for (int i = 0; i < tries; i++) {
        ph_os_relax();
        ph_os_relax();
        int err = ph_mutex_try(mutex);
        if (err != EBUSY) {
            return err;
        }
    }
    if (until == 0) {
        return ETIMEDOUT;
    }
    /* Its owner may be stopped: the caller comes back, and has seen to signals. */
    uint64_t slice = ph_os_now() + SLICE;
    return ph_mutex_lock(mutex, until < slice ? until : slice);
}

/* Have the journal find out how far the dead owner came (invariant 3). */
static ph_status
mend_end(ph_ring *ring, ph_end *end)
{
    atomic_store_explicit(&ring->recount, 1, memory_order_relaxed);
    ph_status status = ph_journal_mend();
    if (status == PH_OK) {
        atomic_store_explicit(&end->mend, 0, memory_order_relaxed);
    }
    return status;
}

/* Take an end's lock; `busy` when it could not be had in time. */
static ph_status
lock_end(ph_ring *ring, ph_end *end, uint64_t until, ph_status busy)
{
    assert(!ph_os_is_locked());         /* the journal takes that one later */
    int err = ph_mutex_try(&end->mutex);
    if (err == EBUSY) {
        err = lock_busy(&end->mutex, until);
    }
    if (err == ETIMEDOUT) {
        return busy;
    }
    if (err == EOWNERDEAD) {
        atomic_store_explicit(&end->mend, 1, memory_order_relaxed);
    }
    else if (err) {
        return ph_fail(PH_SYSTEM, "permaheap: cannot lock a channel: %s", strerror(err));
    }
    if (atomic_load_explicit(&end->mend, memory_order_relaxed)) {
        ph_status status = mend_end(ring, end);
        if (status != PH_OK) {
            ph_mutex_unlock(&end->mutex);
            return status;
        }
    }
    return PH_OK;
}

/* --- Waking ------------------------------------------------------------------- */

static void
notify_watchers(ph_end *end)
{
    for (uint32_t i = 0; i < N_WATCHERS; i++) {
        if (atomic_load_explicit(&end->watcher[i], memory_order_relaxed) == 0) {
            continue;
        }
        uint64_t watcher = atomic_exchange(&end->watcher[i], 0);
        if (watcher != 0 && ph_ring_on_notify != NULL) {
            ph_ring_on_notify(watcher, (uintptr_t)end);
        }
    }
}

static void
wake_sleepers(ph_end *end)
{
    atomic_fetch_add(&end->event, 1);
    ph_os_wake(&end->event);
}

/* Wake sleepers and notify watchers: the position has grown (invariants 4 and 6). */
static void
announce_move(ph_end *end)
{
    uint32_t waiting = atomic_fetch_and(&end->waiting, ~(uint32_t)SLEEPERS);
    ph_death_point();
    if (waiting & SLEEPERS) {
        wake_sleepers(end);
    }
    if (waiting & WATCHERS) {
        notify_watchers(end);
        atomic_fetch_and(&end->waiting, ~(uint32_t)WATCHERS);
        notify_watchers(end);
    }
}

static ph_end *
end_of(ph_ring *ring, ph_watch what)
{
    return what == PH_WATCH_MESSAGE ? &ring->senders : &ring->receivers;
}

/* An address will do: a span is at the same address in the whole family. */
uint64_t
ph_ring_key(ph_ring *ring, ph_watch what)
{
    return (uintptr_t)end_of(ring, what);
}

/* Put the watcher in the place of one whose process has ended.  To ask costs system calls:
   so a few of them each time, in turn. */
static bool
replace_gone_watcher(ph_end *end, uint64_t watcher)
{
    static _Atomic uint32_t turn;
    for (int n = 0; n < LOOK_AT && ph_ring_is_gone != NULL; n++) {
        uint32_t i = atomic_fetch_add(&turn, 1) % N_WATCHERS;
        uint64_t other = atomic_load(&end->watcher[i]);
        if ((other == 0 || ph_ring_is_gone(other))
            && atomic_compare_exchange_strong(&end->watcher[i], &other, watcher)) {
            return true;
        }
    }
    return false;
}

static bool
place_watcher(ph_end *end, uint64_t watcher)
{
    for (uint32_t i = 0; i < N_WATCHERS; i++) {
        uint64_t free = 0;
        if (atomic_compare_exchange_strong(&end->watcher[i], &free, watcher)) {
            return true;
        }
    }
    return replace_gone_watcher(end, watcher);
}

bool
ph_ring_watch(ph_ring *ring, ph_watch what, uint64_t watcher)
{
    assert(watcher != 0);               /* 0 stands for a free place */
    ph_end *end = end_of(ring, what);
    bool placed = place_watcher(end, watcher);
    if (placed) {
        atomic_fetch_or(&end->waiting, WATCHERS);
    }
    return placed;
}

void
ph_ring_unwatch(ph_ring *ring, ph_watch what, uint64_t watcher)
{
    ph_end *end = end_of(ring, what);
    for (uint32_t i = 0; i < N_WATCHERS; i++) {
        uint64_t found = watcher;
        (void)atomic_compare_exchange_strong(&end->watcher[i], &found, 0);
    }
}

void
ph_ring_close(ph_ring *ring)
{
    uint32_t open = OPEN;
    (void)atomic_compare_exchange_strong(&ring->closed, &open, CLOSING);
    ph_end *ends[] = {&ring->senders, &ring->receivers};
    for (int i = 0; i < 2; i++) {
        atomic_fetch_or(&ends[i]->waiting, SLEEPERS | WATCHERS);
        announce_move(ends[i]);
    }
}

/* --- Sending ------------------------------------------------------------------ */

/* Return the bytes that a record of this size must leave free, for a larger one that
   waits (invariant 10). */
static uint64_t
left_for_others(ph_ring *ring, uint64_t record)
{
    uint64_t wanted = atomic_load_explicit(&ring->wanted, memory_order_relaxed);
    if (wanted <= record
        || ph_os_now() >= atomic_load_explicit(&ring->wanted_until,
                                               memory_order_relaxed)) {
        return 0;
    }
    return wanted;
}

/* Return whether this many bytes are free.  Nothing fits between impossible positions: a
   receiver sets them right. */
static bool
record_fits(const ph_ring *ring, uint64_t head, uint64_t tail, uint64_t bytes)
{
    uint64_t used = tail - head;
    return used <= ring->capacity && bytes <= ring->capacity - used
           && (head | tail) % ALIGNMENT == 0;
}

/* Return whether a record fits.  With the senders' lock held.  Looks at the head only when
   the ring seems full. */
static bool
has_room(ph_ring *ring, uint64_t tail, uint64_t record)
{
    uint64_t bytes = record + left_for_others(ring, record);
    if (record_fits(ring, ring->senders.seen, tail, bytes)) {
        return true;
    }
    ring->senders.seen = head_of(ring);
    return record_fits(ring, ring->senders.seen, tail, bytes);
}

/* Return whether one more message with memory elsewhere may wait (invariant 8). */
static bool
has_room_out_of_line(const ph_ring *ring)
{
    uint64_t received = atomic_load_explicit(&ring->receivers.out_of_line,
                                             memory_order_relaxed);
    uint64_t sent = atomic_load_explicit(&ring->senders.out_of_line, memory_order_relaxed);
    return (int64_t)(sent - received) < (int64_t)(ring->capacity / PAGE)
           || atomic_load_explicit(&ring->recount, memory_order_relaxed)
           || head_of(ring) == tail_of(ring);
}

/* Store the position: the message is sent, or received.  With spans the journal has stored
   it already, and this changes nothing. */
static void
move_end(ph_end *end, uint64_t position, uint32_t out_of_line)
{
    uint64_t n = atomic_load_explicit(&end->messages, memory_order_relaxed);
    atomic_store_explicit(&end->messages, n + 1, memory_order_relaxed);
    if (out_of_line > 0) {
        n = atomic_load_explicit(&end->out_of_line, memory_order_relaxed);
        atomic_store_explicit(&end->out_of_line, n + out_of_line, memory_order_relaxed);
    }
    ph_death_point();
    atomic_store_explicit(&end->position, position, PH_RING_PUBLISH);
    ph_death_point();
}

static ph_status
send_locked(ph_ring *ring, const ph_outgoing *message, uint64_t record)
{
    ph_end *end = &ring->senders;
    if (ph_ring_is_closed(ring)) {
        return PH_CLOSED;
    }
    uint64_t tail = atomic_load_explicit(&end->position, memory_order_relaxed);
    if (!has_room(ring, tail, record)
        || (message->out_of_line > 0 && !has_room_out_of_line(ring))) {
        return PH_FULL;
    }
    write_record(ring, tail, message);
    ph_death_point();
    if (message->n_spans > 0) {
        ph_status status = ph_spans_publish(message->spans, message->n_spans,
                                            &end->position, tail + record);
        if (status != PH_OK) {
            return status;
        }
    }
    move_end(end, tail + record, count_pages(message->out_of_line));
    return PH_OK;
}

/* Give up the claim on room of a record of this size. */
static void
give_up_claim(ph_ring *ring, uint64_t record)
{
    uint64_t wanted = atomic_load_explicit(&ring->wanted, memory_order_relaxed);
    if (wanted != 0 && wanted <= record
        && atomic_compare_exchange_strong(&ring->wanted, &wanted, 0)) {
        announce_move(&ring->receivers);
    }
}

ph_status
ph_ring_send(ph_ring *ring, const ph_outgoing *message, uint64_t until)
{
    if (!is_sound(ring)) {
        return fail_unsound();
    }
    uint64_t most = ph_ring_largest(ring);
    if (message->n_spans > PH_MESSAGE_SPANS || message->size > most
        || message->size + message->n_spans * sizeof(ph_span_id) > most) {
        return ph_fail(PH_REFUSED, "permaheap: a message of %llu bytes and %u spans does "
                       "not fit into the ring of a channel",
                       (unsigned long long)message->size, (unsigned)message->n_spans);
    }
    uint64_t record = record_size(message->n_spans, message->size);
    ph_status status = lock_end(ring, &ring->senders, until, PH_FULL);
    if (status != PH_OK) {
        return status;
    }
    status = send_locked(ring, message, record);
    ph_mutex_unlock(&ring->senders.mutex);
    if (status == PH_OK) {
        announce_move(&ring->senders);
        give_up_claim(ring, record);
    }
    return status;
}

/* --- Receiving ---------------------------------------------------------------- */

/* Begin again at a position that was never used: the positions are impossible. */
static ph_status
throw_all_away(ph_ring *ring, uint64_t until)
{
    ph_status status = lock_end(ring, &ring->senders, until, PH_EMPTY);
    if (status != PH_OK) {
        return status;
    }
    uint64_t head = head_of(ring), tail = tail_of(ring);
    uint64_t later = ((head > tail ? head : tail) | (ALIGNMENT - 1)) + 1;
    atomic_store_explicit(&ring->receivers.position, later, memory_order_release);
    atomic_store_explicit(&ring->senders.position, later, memory_order_release);
    ring->senders.seen = ring->receivers.seen = later;
    atomic_store_explicit(&ring->recount, 1, memory_order_relaxed);
    ph_mutex_unlock(&ring->senders.mutex);
    return ph_fail(PH_BAD_HANDLE, "permaheap: the memory of a channel is damaged: all "
                   "its messages were thrown away");
}

/* Throw away one record if its length leads to another one, or to the tail; else all of
   them. */
static ph_status
throw_away(ph_ring *ring, uint64_t head, uint64_t tail, const ph_frame *frame)
{
    uint64_t next = tail;
    bool believable = is_believable(frame, tail - head);
    if (believable) {
        ph_frame other;
        next = head + record_size(frame->n_spans, frame->size);
        believable = next == tail || read_frame(ring, next, tail, &other);
    }
    move_end(&ring->receivers, believable ? next : tail, 0);
    atomic_store_explicit(&ring->recount, 1, memory_order_relaxed);
    if (believable) {
        return ph_fail(PH_BAD_HANDLE, "permaheap: a message in a channel was damaged, and "
                       "was thrown away");
    }
    return ph_fail(PH_BAD_HANDLE, "permaheap: a message in a channel was damaged, and was "
                   "thrown away with all that waited behind it");
}

/* Return that there is no message.  If the ring is closed, make sure that none comes. */
static ph_status
find_nothing(ph_ring *ring, uint64_t head, uint64_t until)
{
    bool recount = atomic_load_explicit(&ring->recount, memory_order_relaxed);
    uint32_t closed = atomic_load_explicit(&ring->closed, memory_order_acquire);
    if (!recount && closed != CLOSING) {
        return closed == SEALED ? PH_CLOSED : PH_EMPTY;
    }
    ph_status status = lock_end(ring, &ring->senders, until, PH_EMPTY);
    if (status != PH_OK) {
        return status;
    }
    if (tail_of(ring) == head) {
        ph_end *ends[] = {&ring->senders, &ring->receivers};
        for (int i = 0; i < 2; i++) {
            atomic_store_explicit(&ends[i]->messages, 0, memory_order_relaxed);
            atomic_store_explicit(&ends[i]->out_of_line, 0, memory_order_relaxed);
        }
        atomic_store_explicit(&ring->recount, 0, memory_order_relaxed);
        if (closed == CLOSING) {
            atomic_store_explicit(&ring->closed, SEALED, memory_order_release);
            status = PH_CLOSED;
        }
    }
    ph_mutex_unlock(&ring->senders.mutex);
    return status == PH_CLOSED ? PH_CLOSED : PH_EMPTY;
}

/* Provide memory for the spans and bytes of a message. */
static ph_status
provide_memory(ph_incoming *message, uint64_t size)
{
    assert((message->memory == NULL) == (message->memory_size == 0));
    if (size > message->memory_size || message->memory == NULL) {
        uint64_t rounded_up = (size | 255) + 1;
        void *memory = ph_malloc(rounded_up);
        if (memory == NULL) {
            return ph_fail(PH_NOMEM, "permaheap: out of memory");
        }
        ph_free(message->memory);
        message->memory = memory;
        message->memory_size = rounded_up;
    }
    return PH_OK;
}

void
ph_incoming_free(ph_incoming *message)
{
    ph_free(message->memory);
    memset(message, 0, sizeof(*message));
}

static ph_status
take_record(ph_ring *ring, uint64_t head, uint64_t tail, ph_incoming *message)
{
    ph_frame frame;
    if (!read_frame(ring, head, tail, &frame)) {
        return throw_away(ring, head, tail, &frame);
    }
    uint64_t of_spans = frame.n_spans * sizeof(ph_span_id);
    ph_status status = provide_memory(message, of_spans + frame.size);
    if (status != PH_OK) {
        return status;
    }
    message->spans = message->memory;
    message->bytes = (char *)message->memory + of_spans;
    message->kind = frame.kind;
    message->n_spans = 0;
    message->size = frame.size;
    copy_from(ring, head + sizeof(frame), message->memory, of_spans + frame.size);
    uint64_t next = head + record_size(frame.n_spans, frame.size);
    if (frame.n_spans > 0) {
        status = ph_spans_take(message->spans, frame.n_spans,
                               &ring->receivers.position, next);
        if (status == PH_BAD_HANDLE) {
            return throw_away(ring, head, tail, &frame);
        }
        if (status != PH_OK) {
            return status;
        }
        message->n_spans = frame.n_spans;
    }
    move_end(&ring->receivers, next, frame.out_of_line);
    return PH_OK;
}

static ph_status
recv_locked(ph_ring *ring, ph_incoming *message, uint64_t until)
{
    ph_end *end = &ring->receivers;
    uint64_t head = atomic_load_explicit(&end->position, memory_order_relaxed);
    if (end->seen - head - 1 >= ring->capacity) {       /* empty, or not believable */
        end->seen = tail_of(ring);
    }
    uint64_t used = end->seen - head;
    if (used == 0) {
        return find_nothing(ring, head, until);
    }
    if (used > ring->capacity || head % ALIGNMENT || used % ALIGNMENT) {
        return throw_all_away(ring, until);
    }
    return take_record(ring, head, end->seen, message);
}

ph_status
ph_ring_recv(ph_ring *ring, ph_incoming *message, uint64_t until)
{
    if (!is_sound(ring)) {
        return fail_unsound();
    }
    ph_status status = lock_end(ring, &ring->receivers, until, PH_EMPTY);
    if (status != PH_OK) {
        return status;
    }
    status = recv_locked(ring, message, until);
    ph_mutex_unlock(&ring->receivers.mutex);
    if (status == PH_OK || status == PH_BAD_HANDLE) {
        announce_move(&ring->receivers);
    }
    return status;
}

/* --- Waiting ------------------------------------------------------------------ */

typedef struct {
    ph_ring *ring;
    ph_end *end;                    /* that has to move */
    uint64_t record;                /* bytes that need room; 0: wait for a message */
    bool out_of_line;               /* it has memory elsewhere */
} ph_wait;

/* Return whether it is worthwhile to try again. */
static bool
wait_is_over(const ph_wait *wait)
{
    ph_ring *ring = wait->ring;
    if (ph_ring_is_closed(ring) || !is_sound(ring)) {
        return true;
    }
    uint64_t head = head_of(ring), tail = tail_of(ring);
    if (wait->record == 0) {
        return head != tail;
    }
    uint64_t bytes = wait->record + left_for_others(ring, wait->record);
    return record_fits(ring, head, tail, bytes)
           && (!wait->out_of_line || has_room_out_of_line(ring));
}

static bool
spin_until_over(const ph_wait *wait, uint64_t spin, uint64_t until)
{
    if (spin == 0 || !ph_os_may_spin()) {
        return wait_is_over(wait);
    }
    uint64_t end = ph_os_now() + spin;
    end = end < until ? end : until;
    do {
        for (int i = 0; i < 16; i++) {
            if (wait_is_over(wait)) {
                return true;
            }
            ph_os_relax();
        }
    } while (ph_os_now() < end);
    return false;
}

/* Have smaller records leave room for this one, while it waits. */
static void
claim_room(ph_ring *ring, uint64_t record, uint64_t now)
{
    uint64_t wanted = atomic_load_explicit(&ring->wanted, memory_order_relaxed);
    uint64_t until = atomic_load_explicit(&ring->wanted_until, memory_order_relaxed);
    if (record >= ring->capacity / PH_RING_LARGE_SHARE
        && (wanted <= record || now >= until)) {
        atomic_store_explicit(&ring->wanted_until, now + 2 * (uint64_t)SLICE,
                              memory_order_relaxed);
        atomic_store_explicit(&ring->wanted, record, memory_order_relaxed);
    }
}

/* Return PH_OK when the wait is over, PH_EMPTY when the time is.  PH_INTERRUPTED for a
   signal, and after a SLICE: a signal may come just before this thread sleeps, or to
   another one. */
static ph_status
sleep_until_over(const ph_wait *wait, uint64_t until)
{
    uint64_t now = ph_os_now();
    uint64_t slice = now + SLICE;
    for (; now < until && now < slice; now = ph_os_now()) {
        if (wait->record > 0) {
            claim_room(wait->ring, wait->record, now);
        }
        uint32_t event = atomic_load(&wait->end->event);
        atomic_fetch_or(&wait->end->waiting, SLEEPERS);
        if (wait_is_over(wait)) {
            return PH_OK;
        }
        int err = ph_os_wait(&wait->end->event, event, until < slice ? until : slice);
        if (wait_is_over(wait)) {
            return PH_OK;
        }
        if (err == EINTR) {
            return PH_INTERRUPTED;
        }
    }
    return now < until ? PH_INTERRUPTED : PH_EMPTY;
}

static ph_status
wait_until_over(const ph_wait *wait, uint64_t spin, uint64_t until)
{
    assert(!ph_os_is_locked());         /* or no thread of the process could fork */
    return spin_until_over(wait, spin, until) ? PH_OK : sleep_until_over(wait, until);
}

ph_status
ph_ring_wait_room(ph_ring *ring, uint64_t size, uint64_t out_of_line, uint64_t spin,
                  uint64_t until)
{
    ph_wait wait = {ring, &ring->receivers, record_size(0, size), out_of_line > 0};
    ph_status status = wait_until_over(&wait, spin, until);
    if (status == PH_EMPTY) {
        give_up_claim(ring, wait.record);
        status = PH_FULL;
    }
    return status;
}

ph_status
ph_ring_wait_message(ph_ring *ring, uint64_t spin, uint64_t until)
{
    ph_wait wait = {ring, &ring->senders, 0, false};
    return wait_until_over(&wait, spin, until);
}

/* --- The end ------------------------------------------------------------------ */

/* Call `drop` for each span that each message holds.  For spans.c, when no process holds
   the channel any more.  Takes no lock, since a process may have died with one; and only
   reads, since the caller may be killed, and another one begin again. */
static void
drop_spans_of_all(void *memory, void (*drop)(ph_span_id id))
{
    assert(!ph_os_is_locked());         /* `drop` takes it */
    ph_ring *ring = memory;
    uint64_t head = head_of(ring), tail = tail_of(ring);
    ph_frame frame;
    if (!is_sound(ring) || tail - head > ring->capacity || head % ALIGNMENT) {
        return;
    }
    while (head != tail && read_frame(ring, head, tail, &frame)) {
        uint64_t next = head + sizeof(frame);
        for (uint32_t i = 0; i < frame.n_spans; i++) {
            ph_span_id id;
            memcpy(&id, place_of(ring, next), sizeof(id));
            drop(id);
            next += sizeof(id);
        }
        head += record_size(frame.n_spans, frame.size);
    }
}

void
ph_rings_init(void)
{
    ph_span_empty_channel = drop_spans_of_all;
}
