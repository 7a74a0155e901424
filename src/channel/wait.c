/* wait.c -- waiting for a channel, or for one of several.

   First without the GIL let go and without a wait; then, while the ring is full (or
   empty), without the GIL: wait, and try again.

   Spinning pays if who is waited for runs at the same time on another processor.  Each
   object keeps count of how often it was in vain lately, and stops when it is; now and
   then it tries again.

   Who waits for several channels leaves a watcher in each of the rings, looks at all of
   them once more, and sleeps at its process's bell (notify.c). */

#include "channel/channel_object.h"

#include "core/ring/notify.h"

#define MILLISECOND 1000000u            /* nanoseconds */
#define PATIENCE (100 * MILLISECOND)    /* so long a lock is waited for, then come back */

/* --- One channel --------------------------------------------------------------------- */

#define VAIN_MOST 4                     /* so often in a row, then spin no more, */
#define VAIN_AGAIN 32                   /* but after so many waits try again */

/* The sooner of that point in time and so many nanoseconds from now. */
static uint64_t
sooner(uint64_t until, uint64_t ns)
{
    uint64_t point = ph_os_now() + ns;
    return point < until ? point : until;
}

static uint64_t
spin_for(ChannelObject *self)
{
    if (self->spin == 0 || !ph_os_may_spin()) {
        return 0;
    }
    if (self->in_vain >= VAIN_MOST && self->in_vain < VAIN_AGAIN) {
        self->in_vain++;
        return 0;
    }
    return self->spin;
}

static void
learn(ChannelObject *self, uint64_t spin, uint64_t took)
{
    if (spin != 0) {
        if (took < spin) {
            self->in_vain = 0;
        }
        else if (self->in_vain >= VAIN_AGAIN) {
            self->in_vain = VAIN_MOST;
        }
        else {
            self->in_vain++;
        }
    }
}

static ph_status
try_transfer(ChannelObject *self, const ph_transfer *transfer, uint64_t until)
{
    if (transfer->out != NULL) {
        return ph_ring_send(self->ring, transfer->out, until);
    }
    return ph_ring_recv(self->ring, transfer->in, until);
}

/* Who sends into a full ring as fast as the other side receives would look at the
   other side's position for each message, which slows both down.  While it spins it
   waits for a little more room; then for what it needs. */
#define SOME_ROOM 64                    /* this part of the ring */

static ph_status
wait_transfer(ChannelObject *self, const ph_transfer *transfer, uint64_t spin,
              uint64_t until)
{
    if (transfer->out == NULL) {
        return ph_ring_wait_message(self->ring, spin, until);
    }
    const ph_outgoing *out = transfer->out;
    uint64_t size = out->size + out->n_spans * sizeof(ph_span_id);
    uint64_t more = ph_ring_capacity(self->ring) / SOME_ROOM;
    if (spin != 0 && size < more) {
        ph_status status = ph_ring_wait_room(self->ring, size + more, out->behind, spin,
                                             sooner(until, spin));
        if (status != PH_FULL) {
            return status;
        }
        spin = 0;
    }
    return ph_ring_wait_room(self->ring, size, out->behind, spin, until);
}

/* Who receives faster than others send would wait for each message, and both would
   fetch the same lines of memory from each other for each.  So who has only received
   since the last time waits for some microseconds at least, in which messages gather.
   Who has sent may wait for an answer, and takes it at once. */
#define GATHERING 2000                  /* nanoseconds */

static uint64_t
least_wait(ChannelObject *self, const ph_transfer *transfer, uint64_t spin)
{
    if (transfer->out != NULL || spin < GATHERING) {
        return 0;
    }
    bool had_sent = self->channels->sent;
    self->channels->sent = false;
    return had_sent ? 0 : GATHERING;
}

/* Returns when it is over. */
static uint64_t
spin_until(uint64_t until)
{
    uint64_t now = ph_os_now();
    for (; now < until; now = ph_os_now()) {
        ph_os_relax();
    }
    return now;
}

/* Wait, and try again, without the GIL.  PH_INTERRUPTED: look whether the time is
   over, and at signals. */
static ph_status
wait_and_try(ChannelObject *self, const ph_transfer *transfer, uint64_t spin,
             uint64_t until)
{
    uint64_t took = 0, least = least_wait(self, transfer, spin);
    ph_status status;
    Py_BEGIN_ALLOW_THREADS
    uint64_t start = spin ? ph_os_now() : 0;
    status = wait_transfer(self, transfer, spin, until);
    took = spin ? spin_until(start + least < until ? start + least : until) - start : 0;
    if (status == PH_OK) {
        status = try_transfer(self, transfer, sooner(until, PATIENCE));
    }
    Py_END_ALLOW_THREADS
    learn(self, spin, took);
    return status;
}

/* Without waiting, but for a lock that is held for the time of a copy, unless whoever
   has it was stopped. */
static ph_status
try_now(ChannelObject *self, const ph_transfer *transfer)
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

/* Who has waited for room, and does not any more, has no claim on it. */
static ph_status
give_up(ChannelObject *self, const ph_transfer *transfer, ph_status status)
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
        return try_now(self, transfer);
    }
    ph_status status = PH_FULL;
    do {
        uint64_t spin = status == PH_INTERRUPTED ? 0 : spin_for(self);
        status = wait_and_try(self, transfer, spin, until);
        if (ph_channel_must_wait(status) && PyErr_CheckSignals() < 0) {
            return give_up(self, transfer, PH_EXCEPTION);
        }
    } while (ph_channel_must_wait(status)
             && (until == PH_FOREVER || ph_os_now() < until));
    return ph_channel_must_wait(status) ? give_up(self, transfer, status) : status;
}

/* --- Several at once ----------------------------------------------------------------- */

/* So many nanoseconds we sleep at a time, when all rings have our watcher, or not. */
#define ALL_WATCHED (200 * MILLISECOND)
#define NOT_ALL_WATCHED (10 * MILLISECOND)

/* Would recv() return or raise at once? */
static bool
is_ready(PyObject *channel)
{
    ph_ring *ring = ph_channel_of(channel)->ring;
    return ph_ring_messages(ring) > 0 || ph_ring_is_closed(ring);
}

static PyObject *
ready_of(PyObject *tuple)
{
    PyObject *ready = PyList_New(0);
    for (Py_ssize_t i = 0; ready != NULL && i < PyTuple_GET_SIZE(tuple); i++) {
        PyObject *channel = PyTuple_GET_ITEM(tuple, i);
        if (is_ready(channel) && PyList_Append(ready, channel) < 0) {
            Py_CLEAR(ready);
        }
    }
    return ready;
}

static bool
is_any_ready(PyObject *tuple)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tuple); i++) {
        if (is_ready(PyTuple_GET_ITEM(tuple, i))) {
            return true;
        }
    }
    return false;
}

/* Sleep until one of them may be ready, without the GIL; EINTR. */
static int
sleep_for(PyObject *tuple, uint64_t until)
{
    static _Atomic uint32_t nobody;     /* wakes us, when we have no bell */
    _Atomic uint32_t *word = &nobody;
    uint64_t watcher = 0;
    bool all = ph_bell_word(&word, &watcher);
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
                         sooner(until, all ? ALL_WATCHED : NOT_ALL_WATCHED));
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
    for (;;) {
        if (until == 0 || is_any_ready(tuple)) {
            return ready_of(tuple);
        }
        Py_BEGIN_ALLOW_THREADS
        (void)sleep_for(tuple, until);
        Py_END_ALLOW_THREADS
        if (PyErr_CheckSignals() < 0) {
            return NULL;
        }
        if (until != PH_FOREVER && ph_os_now() >= until) {
            until = 0;
        }
    }
}
