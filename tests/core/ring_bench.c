/* ring_bench.c -- measures what a message of 40 bytes costs in ring.c alone.

   ring_bench [MESSAGES]

   Prints the nanoseconds of the best of some runs for each of these:

   - the lock alone;
   - a send and a receive by one thread, on an empty ring;
   - a message one way, from one thread or process to another;
   - a round trip of two processes, spinning and never spinning. */

#define _GNU_SOURCE
#include <pthread.h>
#include <sys/wait.h>

#include "ring_common.h"

#define SIZE 40
#define RUNS 10
#define SPIN 100000u                /* nanoseconds */

static ph_ring *there, *back;
static ph_mutex *mutex;
static uint64_t spin;

static void
send_all(ph_ring *ring, uint32_t n)
{
    char bytes[SIZE] = {0};
    ph_outgoing message = {.bytes = bytes, .size = SIZE};
    for (uint32_t i = 0; i < n; i++) {
        (void)send_to(ring, &message, spin);
    }
}

static void
recv_all(ph_ring *ring, uint32_t n)
{
    ph_incoming message = {0};
    for (uint32_t i = 0; i < n; i++) {
        if (recv_from(ring, &message, spin) != PH_OK) {
            fail("recv");
        }
    }
    ph_incoming_free(&message);
}

/* The machine may be busy: the best run says most about the code. */
static void
measure(const char *what, void (*act)(uint32_t n), uint32_t n)
{
    uint64_t best = UINT64_MAX;
    for (int run = 0; run < RUNS; run++) {
        uint64_t start = ph_os_now();
        act(n);
        uint64_t took = ph_os_now() - start;
        best = took < best ? took : best;
    }
    printf("%-40s %8.0f ns\n", what, (double)best / n);
    fflush(stdout);
}

static void
lock_alone(uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        (void)ph_mutex_try(mutex);
        ph_mutex_unlock(mutex);
    }
}

static void
both_alone(uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        send_all(there, 1);
        recv_all(there, 1);
    }
}

static void *
sender(void *n)
{
    send_all(there, (uint32_t)(uintptr_t)n);
    return NULL;
}

static void
one_way_threads(uint32_t n)
{
    pthread_t thread;
    pthread_create(&thread, NULL, sender, (void *)(uintptr_t)n);
    recv_all(there, n);
    pthread_join(thread, NULL);
}

static void
one_way_processes(uint32_t n)
{
    if (fork_worker() == 0) {
        send_all(there, n);
        _exit(0);
    }
    recv_all(there, n);
    wait(NULL);
}

static void
ping_pong(uint32_t n)
{
    if (fork_worker() == 0) {
        for (uint32_t i = 0; i < n; i++) {
            recv_all(there, 1);
            send_all(back, 1);
        }
        _exit(0);
    }
    for (uint32_t i = 0; i < n; i++) {
        send_all(there, 1);
        recv_all(back, 1);
    }
    wait(NULL);
}

int
main(int argc, char **argv)
{
    uint32_t n = argc > 1 ? (uint32_t)atoi(argv[1]) : 100000;
    there = new_ring(65536);
    back = new_ring(65536);
    mutex = shared(sizeof(*mutex));
    (void)ph_mutex_init(mutex);
    measure("lock and unlock", lock_alone, n);
    measure("send and receive, one thread", both_alone, n);
    spin = SPIN;
    measure("one way, threads", one_way_threads, n);
    measure("one way, processes", one_way_processes, n);
    measure("round trip, processes, spinning", ping_pong, n / 10 + 1);
    spin = 0;
    measure("round trip, processes, never spinning", ping_pong, n / 100 + 1);
    return 0;
}
