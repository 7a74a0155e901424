/* ring_common.h -- what the drivers of the ring share. */

#ifndef RING_COMMON_H
#define RING_COMMON_H

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "core/ring/ring.h"

static inline void
fail(const char *what)
{
    fprintf(stderr, "%s (%s)\n", what, ph_error_text());
    _exit(1);
}

static inline void *
shared(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                        -1, 0);
    if (memory == MAP_FAILED) {
        fail("mmap");
    }
    return memory;
}

static inline ph_ring *
new_ring(uint64_t capacity)
{
    ph_ring *ring = shared(ph_ring_span_size(capacity));
    if (ph_ring_init(ring, capacity) != PH_OK) {
        fail("init");
    }
    return ring;
}

static inline uint32_t
random_below(uint32_t *state, uint32_t limit)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state % limit;
}

/* A child that does not outlive us: or it would keep our pipes open. */
static inline pid_t
fork_worker(void)
{
    pid_t pid = fork();
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    }
    return pid;
}

/* As a caller of ring.c is meant to do it.  PH_OK, or PH_CLOSED. */
static inline ph_status
send_to(ph_ring *ring, const ph_outgoing *message, uint64_t spin)
{
    for (;;) {
        ph_status status = ph_ring_send(ring, message, PH_FOREVER);
        if (status == PH_OK || status == PH_CLOSED) {
            return status;
        }
        if (status != PH_FULL) {
            fail("send");
        }
        status = ph_ring_wait_room(ring, message->size, message->out_of_line, spin, PH_FOREVER);
        if (status != PH_OK && status != PH_INTERRUPTED) {
            fail("wait_room");
        }
    }
}

/* PH_OK, PH_CLOSED, or what is wrong. */
static inline ph_status
recv_from(ph_ring *ring, ph_incoming *message, uint64_t spin)
{
    for (;;) {
        ph_status status = ph_ring_recv(ring, message, PH_FOREVER);
        if (status != PH_EMPTY) {
            return status;
        }
        status = ph_ring_wait_message(ring, spin, PH_FOREVER);
        if (status != PH_OK && status != PH_INTERRUPTED) {
            fail("wait_message");
        }
    }
}

#endif
