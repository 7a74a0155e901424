/* ring_fair.c -- does a large message starve behind small ones?

   ring_fair LARGE

   Two threads send small messages without end, one sends LARGE large ones, which need nearly half
   of the ring; one receives.  Prints how many small ones were received between two
   large ones: the mean, and the most. */

#define _GNU_SOURCE
#include <pthread.h>

#include "ring_common.h"

#define CAPACITY 16384
#define SMALL_SIZE 100
#define LARGE_SIZE 8000

enum { SMALL, LARGE_ONE };

static ph_ring *ring;
static uint32_t larges;

static void *
send_small(void *unused)
{
    char bytes[SMALL_SIZE] = {0};
    ph_outgoing message = {.kind = SMALL, .bytes = bytes, .size = sizeof(bytes)};
    while (send_to(ring, &message, 0) == PH_OK) {
    }
    return unused;
}

static void *
send_large(void *unused)
{
    static char bytes[LARGE_SIZE];
    ph_outgoing message = {.kind = LARGE_ONE, .bytes = bytes, .size = sizeof(bytes)};
    for (uint32_t i = 0; i < larges; i++) {
        (void)send_to(ring, &message, 0);
    }
    return unused;
}

int
main(int argc, char **argv)
{
    pthread_t threads[3];
    ph_incoming message = {0};
    larges = argc > 1 ? (uint32_t)atoi(argv[1]) : 1000;
    ring = new_ring(CAPACITY);
    pthread_create(&threads[0], NULL, send_small, NULL);
    pthread_create(&threads[1], NULL, send_small, NULL);
    pthread_create(&threads[2], NULL, send_large, NULL);
    uint64_t all = 0, most = 0, between = 0;
    for (uint32_t got = 0; got < larges;) {
        if (recv_from(ring, &message, 0) != PH_OK) {
            fail("recv");
        }
        between++;
        if (message.kind == LARGE_ONE) {
            all += between - 1;
            most = between - 1 > most ? between - 1 : most;
            between = 0;
            got++;
        }
    }
    ph_ring_close(ring);
    while (recv_from(ring, &message, 0) == PH_OK) {
    }
    for (int i = 0; i < 3; i++) {
        pthread_join(threads[i], NULL);
    }
    ph_incoming_free(&message);
    printf("small messages between two large ones: %llu, at most %llu\n",
           (unsigned long long)(all / larges), (unsigned long long)most);
    return 0;
}
