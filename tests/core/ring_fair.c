/* ring_fair.c -- checks that a large message does not starve behind small ones.

   One thread plays all processes.  The sender of small messages is always the first to see
   room.  So the large message, which needs nearly half of the ring, finds that much room only
   if it has a claim on it.  Prints how many messages were received before the large one was
   sent, and how many small ones were sent in the same time; both end at MOST.

   The sender of the large message waits once, for the 200 ms after which a waiting sender
   looks again; its claim lasts twice as long. */

#define _GNU_SOURCE
#include "ring_common.h"

#define CAPACITY 16384
#define SMALL_SIZE 100
#define LARGE_SIZE 8000
#define SOME 5                          /* small messages that there is room for */
#define MOST 1000

static char bytes[LARGE_SIZE];
static const ph_outgoing small_message = {.bytes = bytes, .size = SMALL_SIZE};
static const ph_outgoing large_message = {.bytes = bytes, .size = LARGE_SIZE};

/* Is there room? */
static bool
try_send(ph_ring *ring, const ph_outgoing *message)
{
    ph_status status = ph_ring_send(ring, message, 0);
    if (status != PH_OK && status != PH_FULL) {
        fail("send");
    }
    return status == PH_OK;
}

static void
receive(ph_ring *ring)
{
    ph_incoming message = {0};
    if (ph_ring_recv(ring, &message, 0) != PH_OK) {
        fail("recv");
    }
    ph_incoming_free(&message);
}

static void
fill(ph_ring *ring)
{
    while (try_send(ring, &small_message)) {
    }
    for (int i = 0; i < SOME; i++) {
        receive(ring);
    }
}

int
main(void)
{
    ph_ring *ring = new_ring(CAPACITY);
    uint32_t received = 0, passed = 0;
    fill(ring);
    ph_status status = ph_ring_wait_room(ring, LARGE_SIZE, 0, 0, PH_FOREVER);
    if (status != PH_INTERRUPTED) {
        fail("there is room, or nobody comes back from waiting for it");
    }
    while (received < MOST && !try_send(ring, &large_message)) {
        receive(ring);
        received++;
        while (try_send(ring, &small_message)) {
            passed++;
        }
    }
    receive(ring);
    if (!try_send(ring, &small_message)) {
        fail("the claim outlives the large message");
    }
    printf("%u received before the large one was sent, %u sent in the meantime\n", received, passed);
    return 0;
}
