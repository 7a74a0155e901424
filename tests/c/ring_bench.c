/* ring_bench.c -- what a message of 40 bytes costs in ring.c alone.

   ring_bench [MESSAGES]

   Prints nanoseconds: of the lock alone; of a send and of a receive by one thread, on an empty
   ring; for each message one way, from one thread or process to another; of a round trip of
   two processes, spinning and never spinning. */

#define _GNU_SOURCE
#include <pthread.h>
#include <sys/wait.h>

#include "ring_common.h"

#define SIZE 40
#define SPIN 100000u                /* nanoseconds */

static uint32_t messages = 500000;
static ph_ring *there, *back;
static uint64_t spin;

static void
send_all(ph_ring *ring, uint32_t n)
{
    char bytes[SIZE] = {0};
    ph_outgoing message = {.bytes = bytes, .size = SIZE};
    for (uint32_t i = 0; i < n; i++) {
        send_to(ring, &message, spin);
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

static void *
sender(void *unused)
{
    (void)unused;
    send_all(there, messages);
    return NULL;
}

static void
echo(uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        recv_all(there, 1);
        send_all(back, 1);
    }
}

static void
report(const char *what, uint64_t start, uint64_t n)
{
    printf("%-40s %8.0f ns\n", what, (double)(ph_os_now() - start) / (double)n);
    fflush(stdout);
}

static void
alone(void)
{
    ph_mutex *mutex = shared(sizeof(*mutex));
    (void)ph_mutex_init(mutex);
    uint64_t start = ph_os_now();
    for (uint32_t i = 0; i < messages; i++) {
        (void)ph_mutex_try(mutex);
        ph_mutex_unlock(mutex);
    }
    report("lock and unlock", start, messages);
    start = ph_os_now();
    for (uint32_t i = 0; i < messages; i++) {
        send_all(there, 1);
        recv_all(there, 1);
    }
    report("send and receive, one thread", start, messages);
}

static void
one_way(void)
{
    pthread_t thread;
    uint64_t start = ph_os_now();
    pthread_create(&thread, NULL, sender, NULL);
    recv_all(there, messages);
    pthread_join(thread, NULL);
    report("one way, threads", start, messages);
    start = ph_os_now();
    if (fork() == 0) {
        send_all(there, messages);
        _exit(0);
    }
    recv_all(there, messages);
    wait(NULL);
    report("one way, processes", start, messages);
}

static void
ping_pong(const char *what, uint32_t n)
{
    uint64_t start = ph_os_now();
    if (fork() == 0) {
        echo(n);
        _exit(0);
    }
    for (uint32_t i = 0; i < n; i++) {
        send_all(there, 1);
        recv_all(back, 1);
    }
    wait(NULL);
    report(what, start, n);
}

int
main(int argc, char **argv)
{
    messages = argc > 1 ? (uint32_t)atoi(argv[1]) : messages;
    there = new_ring(65536);
    back = new_ring(65536);
    alone();
    spin = SPIN;
    one_way();
    ping_pong("round trip, processes, spinning", messages / 10 + 1);
    spin = 0;
    ping_pong("round trip, processes, never spinning", messages / 100 + 1);
    return 0;
}
