/* wait.c -- waiting for one channel, or for one of several.

   A transfer is tried at once, with the GIL and without a wait.  While the ring is full
   (or empty) the thread releases the GIL, waits, and tries again.

   A waiting thread spins before it sleeps: that pays if the other side runs at the same
   time on another processor.  Each object counts the waits in which spinning found
   nothing; after some in a row it stops spinning, and tries again periodically.

   A thread that waits for several channels leaves a watcher in each of the rings, looks
   at all of them once more, and sleeps on its process's word (notify.c).

   Invariants:

   1. No thread waits while it holds the GIL.
   2. A watcher is registered before the channels are looked at for the last time, and
      taken out after the sleep: no message is missed.  If a ring has no place for it,
      the thread looks again after a short sleep.
   3. A sender that stops waiting gives up its claim on room in the ring.

   Who writes: `wasted_spins` and `sent`, a thread that holds the GIL. */

#include "channel/wait.h"

#include "core/ring/notify.h"
#include "layout/thread.h"

#define MILLISECOND 1000000u            /* nanoseconds */
#define LOCK_WAIT (100 * MILLISECOND)   /* for the ring's lock; then look at signals */

/* --- One channel -------------------------------------------------------------- */

/* After WASTED_MOST spins in a row that found nothing, do not spin; `wasted_spins` then
   counts the waits without spinning, and at SPIN_AGAIN it is tried once more. */
#define WASTED_MOST 4
#define SPIN_AGAIN 32

/* Return that point in time, or the one `ns` nanoseconds from now if that is sooner. */
static uint64_t
get_sooner(uint64_t until, uint64_t ns)
{
    uint64_t point = ph_os_now() + ns;
    return point < until ? point : until;
}

/* Return for how long to spin before the next sleep; in nanoseconds. */
static uint64_t
choose_spin(ChannelObject *self)
{
    assert(self->wasted_spins <= SPIN_AGAIN);
    if (self->spin == 0 || !ph_os_may_spin()) {
        return 0;
    }
    if (self->wasted_spins >= WASTED_MOST && self->wasted_spins < SPIN_AGAIN) {
        self->wasted_spins++;
        return 0;
    }
    return self->spin;
}

/* Learn from a wait that took that long, after spinning for at most `spin`. */
static void
note_spin(ChannelObject *self, uint64_t spin, uint64_t took)
{
    if (spin != 0) {
        if (took < spin) {
            self->wasted_spins = 0;
        }
        else if (self->wasted_spins >= SPIN_AGAIN) {
            self->wasted_spins = WASTED_MOST;
        }
        else {
            self->wasted_spins++;
        }
    }
}

static ph_status
try_transfer(ChannelObject *self, const ph_transfer *transfer, uint64_t until)
{
    assert((transfer->out != NULL) != (transfer->in != NULL));
    if (transfer->out != NULL) {
        return ph_ring_send(self->ring, transfer->out, until);
    }
    return ph_ring_recv(self->ring, transfer->in, until);
}

/* A sender that fills the ring as fast as the other side empties it would look at the
   other side's position for each message, which slows both down.  So while it spins it
   waits for a little more room than it needs; afterwards for just that. */
#define MORE_ROOM 64                    /* this part of the ring: 1/64 */

static ph_status
wait_transfer(ChannelObject *self, const ph_transfer *transfer, uint64_t spin,
              uint64_t until)
{
    assert(until == 0 || !ph_is_attached());
    if (transfer->out == NULL) {
        return ph_ring_wait_message(self->ring, spin, until);
    }
    const ph_outgoing *out = transfer->out;
    uint64_t size = out->size + out->n_spans * sizeof(ph_span_id);
    uint64_t more = ph_ring_capacity(self->ring) / MORE_ROOM;
    if (spin != 0 && size < more) {
        ph_status status = ph_ring_wait_room(self->ring, size + more, out->out_of_line,
                                             spin, get_sooner(until, spin));
        if (status != PH_FULL) {
            return status;
        }
        spin = 0;
    }
    return ph_ring_wait_room(self->ring, size, out->out_of_line, spin, until);
}

/* A receiver that is faster than the senders would wait for each message, and both sides
   would fetch the same cache lines from each other each time.  So a thread that has only
   received since its last wait lets messages gather for some microseconds.  A thread that
   has sent may be waiting for an answer, and takes it at once. */
#define GATHERING 2000                  /* nanoseconds */

static uint64_t
choose_least_wait(ChannelObject *self, const ph_transfer *transfer, uint64_t spin)
{
    if (transfer->out != NULL || spin < GATHERING) {
        return 0;
    }
    bool had_sent = self->channels->sent;
    self->channels->sent = false;
    return had_sent ? 0 : GATHERING;
}

/* Spin; return the time at the end. */
static uint64_t
spin_until(uint64_t until)
{
    uint64_t now = ph_os_now();
    for (; now < until; now = ph_os_now()) {
        ph_os_relax();
    }
    return now;
}

/* Wait, and try again, without the GIL.  PH_INTERRUPTED: look at the time and at
   signals. */
static ph_status
wait_and_try(ChannelObject *self, const ph_transfer *transfer, uint64_t spin,
             uint64_t until)
{
    uint64_t took = 0, least = choose_least_wait(self, transfer, spin);
    ph_status status;
    Py_BEGIN_ALLOW_THREADS
    uint64_t start = spin ? ph_os_now() : 0;
    status = wait_transfer(self, transfer, spin, until);
    took = spin ? spin_until(start + least < until ? start + least : until) - start : 0;
    if (status == PH_OK) {
        status = try_transfer(self, transfer, get_sooner(until, LOCK_WAIT));
    }
    Py_END_ALLOW_THREADS
    note_spin(self, spin, took);
    return status;
}

/* Try without the GIL.  The only wait is for the ring's lock, which is held for the time of
   a copy, unless its owner was stopped. */
static ph_status
try_without_gil(ChannelObject *self, const ph_transfer *transfer)
{
    ph_status status;
    Py_BEGIN_ALLOW_THREADS
    status = try_transfer(self, transfer, ph_os_now() + 20 * MILLISECOND);
    Py_END_ALLOW_THREADS
    return status;
}

ph_status
ph_channel_try(ChannelObject *self, const ph_transfer *transfer)
{
    return try_transfer(self, transfer, 0);
}

bool
ph_channel_must_wait(ph_status status)
{
    return status == PH_FULL || status == PH_EMPTY || status == PH_INTERRUPTED;
}

/* Stop waiting: a sender gives up its claim on room.  Return the final status. */
static ph_status
give_up_claim(ChannelObject *self, const ph_transfer *transfer, ph_status status)
{
    if (transfer->out == NULL) {
        return status == PH_INTERRUPTED ? PH_EMPTY : status;
    }
    (void)wait_transfer(self, transfer, 0, 0);
    return status == PH_INTERRUPTED ? PH_FULL : status;
}

ph_status
ph_channel_wait(ChannelObject *self, const ph_transfer *transfer, uint64_t until)
{
    if (until == 0) {
        return try_without_gil(self, transfer);
    }
    ph_status status = PH_FULL;
    do {
        uint64_t spin = status == PH_INTERRUPTED ? 0 : choose_spin(self);
        status = wait_and_try(self, transfer, spin, until);
        if (ph_channel_must_wait(status) && PyErr_CheckSignals() < 0) {
            return give_up_claim(self, transfer, PH_EXCEPTION);
        }
    } while (ph_channel_must_wait(status)
             && (until == PH_FOREVER || ph_os_now() < until));
    return ph_channel_must_wait(status) ? give_up_claim(self, transfer, status) : status;
}

/* --- Several channels --------------------------------------------------------- */

/* How long to sleep at a time, when all rings have our watcher, or not. */
#define ALL_WATCHED (200 * MILLISECOND)
#define NOT_ALL_WATCHED (10 * MILLISECOND)

/* Would recv() return or raise at once? */
static bool
is_channel_ready(PyObject *channel)
{
    ph_ring *ring = ph_channel_of(channel)->ring;
    return ph_ring_messages(ring) > 0 || ph_ring_is_closed(ring);
}

static PyObject *
list_ready(PyObject *tuple)
{
    PyObject *ready = PyList_New(0);
    for (Py_ssize_t i = 0; ready != NULL && i < PyTuple_GET_SIZE(tuple); i++) {
        PyObject *channel = PyTuple_GET_ITEM(tuple, i);
        if (is_channel_ready(channel) && PyList_Append(ready, channel) < 0) {
            Py_CLEAR(ready);
        }
    }
    return ready;
}

static bool
is_any_ready(PyObject *tuple)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tuple); i++) {
        if (is_channel_ready(PyTuple_GET_ITEM(tuple, i))) {
            return true;
        }
    }
    return false;
}

/* Sleep until a channel of the tuple may be ready, without the GIL.  EINTR: a signal
   handler has run. */
static int
sleep_watching(PyObject *tuple, uint64_t until)
{
    assert(!ph_is_attached());
    static _Atomic uint32_t never_woken;    /* when this process has no word of its own */
    _Atomic uint32_t *word = &never_woken;
    uint64_t watcher = 0;
    bool all = ph_notify_word(&word, &watcher);
    uint32_t before = atomic_load(word);
    Py_ssize_t n = PyTuple_GET_SIZE(tuple);
    Py_ssize_t watched = 0;
    int err = 0;
    for (; watcher != 0 && watched < n; watched++) {
        ph_ring *ring = ph_channel_of(PyTuple_GET_ITEM(tuple, watched))->ring;
        all &= ph_ring_watch(ring, PH_WATCH_MESSAGE, watcher);
    }
    if (!is_any_ready(tuple)) {
        err = ph_os_wait(word, before,
                         get_sooner(until, all ? ALL_WATCHED : NOT_ALL_WATCHED));
    }
    for (Py_ssize_t i = 0; i < watched; i++) {
        ph_ring *ring = ph_channel_of(PyTuple_GET_ITEM(tuple, i))->ring;
        ph_ring_unwatch(ring, PH_WATCH_MESSAGE, watcher);
    }
    return err;
}

PyObject *
ph_channel_select(PyObject *tuple, uint64_t until)
{
    assert(PyTuple_GET_SIZE(tuple) > 0);
    for (;;) {
        if (until == 0 || is_any_ready(tuple)) {
            return list_ready(tuple);
        }
        Py_BEGIN_ALLOW_THREADS
        (void)sleep_watching(tuple, until);
        Py_END_ALLOW_THREADS
        if (PyErr_CheckSignals() < 0) {
            return NULL;
        }
        if (until != PH_FOREVER && ph_os_now() >= until) {
            until = 0;
        }
    }
}
