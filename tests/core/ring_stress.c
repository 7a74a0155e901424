/* ring_stress.c -- runs senders and receivers on one ring, as threads or processes.

   ring_stress threads|processes SENDERS RECEIVERS MESSAGES CAPACITY LARGEST SPIN [CLOSE]

   Each sender sends MESSAGES messages of random sizes up to LARGEST; each must arrive
   exactly once, whole, and after those that its sender sent before.  They spin for
   SPIN nanoseconds before they sleep.  The receiver of message CLOSE of sender 0 closes the
   ring; then each message that its sender was told is sent must arrive.  Prints nanoseconds
   for each message.

   No sleeper wakes by itself here: ph_os_wait() is wrapped.  A lost wake-up hangs. */

#define _GNU_SOURCE
#include <pthread.h>
#include <sys/wait.h>

#include "ring_common.h"

#define MOST 64                     /* senders, and receivers */

typedef struct {
    uint32_t sender, number;
    uint64_t size;                  /* of all; what follows is a pattern */
} note;

static struct {
    uint32_t senders, receivers, messages, close_at;
    _Atomic uint32_t sent[MOST];
    uint64_t capacity, largest, spin;
    ph_ring *ring;
    _Atomic unsigned char *seen;    /* [sender * messages + number] */
    _Atomic uint32_t senders_left;
} *run;

int __real_ph_os_wait(_Atomic uint32_t *word, uint32_t value, uint64_t until);

int
__wrap_ph_os_wait(_Atomic uint32_t *word, uint32_t value, uint64_t until)
{
    (void)until;
    return __real_ph_os_wait(word, value, PH_FOREVER);
}

static unsigned char
pattern(uint32_t sender, uint32_t number, uint64_t i)
{
    return (unsigned char)(sender * 31 + number * 7 + i);
}

static void
work_as_sender(uint32_t sender)
{
    uint32_t state = 77 + sender;
    unsigned char *bytes = malloc(run->largest + 1);
    for (uint32_t number = 0; number < run->messages; number++) {
        uint64_t extra = random_below(&state, (uint32_t)(run->largest - sizeof(note) + 1));
        if (random_below(&state, 4)) {
            extra %= 64;
        }
        note head = {sender, number, sizeof(note) + extra};
        if (head.size > run->largest) {
            head.size = run->largest;
        }
        memcpy(bytes, &head, sizeof(head));
        for (uint64_t i = sizeof(head); i < head.size; i++) {
            bytes[i] = pattern(sender, number, i);
        }
        ph_outgoing message = {.kind = sender, .bytes = bytes, .size = head.size};
        if (send_to(run->ring, &message, run->spin) == PH_CLOSED) {
            break;
        }
        atomic_store(&run->sent[sender], number + 1);
    }
    free(bytes);
    if (atomic_fetch_sub(&run->senders_left, 1) == 1) {
        ph_ring_close(run->ring);
    }
}

static void
check_message(const ph_incoming *message, int64_t *last)
{
    note head;
    if (message->size < sizeof(head)) {
        fail("a short message");
    }
    memcpy(&head, message->bytes, sizeof(head));
    if (head.sender >= run->senders || head.number >= run->messages
        || head.size != message->size || message->kind != head.sender) {
        fail("a message that nobody sent");
    }
    for (uint64_t i = sizeof(head); i < head.size; i++) {
        if ((unsigned char)message->bytes[i] != pattern(head.sender, head.number, i)) {
            fail("a message with other bytes");
        }
    }
    if ((int64_t)head.number <= last[head.sender]) {
        fail("a message that came too late");
    }
    last[head.sender] = head.number;
    if (head.sender == 0 && head.number == run->close_at) {
        ph_ring_close(run->ring);
    }
    uint64_t index = (uint64_t)head.sender * run->messages + head.number;
    if (atomic_fetch_add(&run->seen[index], 1) != 0) {
        fail("a message that came twice");
    }
}

static void
work_as_receiver(void)
{
    ph_incoming message = {0};
    int64_t last[MOST];
    memset(last, -1, sizeof(last));
    ph_status status;
    while ((status = recv_from(run->ring, &message, run->spin)) == PH_OK) {
        check_message(&message, last);
    }
    if (status != PH_CLOSED) {
        fail("recv");
    }
    ph_incoming_free(&message);
}

static void *
worker(void *argument)
{
    uint32_t who = (uint32_t)(uintptr_t)argument;
    if (who < run->senders) {
        work_as_sender(who);
    }
    else {
        work_as_receiver();
    }
    return NULL;
}

static void
run_threads(uint32_t n)
{
    pthread_t threads[2 * MOST];
    for (uint32_t i = 0; i < n; i++) {
        pthread_create(&threads[i], NULL, worker, (void *)(uintptr_t)i);
    }
    for (uint32_t i = 0; i < n; i++) {
        pthread_join(threads[i], NULL);
    }
}

static void
run_processes(uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        if (fork_worker() == 0) {
            worker((void *)(uintptr_t)i);
            _exit(0);
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        int status;
        if (wait(&status) < 0 || status != 0) {
            fail("a worker has failed");
        }
    }
}

int
main(int argc, char **argv)
{
    run = shared(sizeof(*run));
    if (argc < 8) {
        fail("usage: threads|processes SENDERS RECEIVERS MESSAGES CAPACITY LARGEST SPIN "
             "[CLOSE]");
    }
    run->close_at = argc > 8 ? (uint32_t)atoi(argv[8]) : UINT32_MAX;
    run->senders = (uint32_t)atoi(argv[2]);
    run->receivers = (uint32_t)atoi(argv[3]);
    run->messages = (uint32_t)atoi(argv[4]);
    run->capacity = (uint64_t)atoll(argv[5]);
    run->largest = (uint64_t)atoll(argv[6]);
    run->spin = (uint64_t)atoll(argv[7]);
    uint64_t all = (uint64_t)run->senders * run->messages;
    run->seen = shared(all);
    run->ring = new_ring(run->capacity);
    atomic_store(&run->senders_left, run->senders);
    uint64_t start = ph_os_now();
    uint32_t n = run->senders + run->receivers;
    (strcmp(argv[1], "threads") == 0 ? run_threads : run_processes)(n);
    uint64_t took = ph_os_now() - start;
    for (uint64_t i = 0; i < all; i++) {
        bool sent = i % run->messages < atomic_load(&run->sent[i / run->messages]);
        if (atomic_load(&run->seen[i]) != sent) {
            fail(sent ? "a message that did not come" : "a message that was not sent");
        }
    }
    if (ph_ring_messages(run->ring) != 0) {
        fail("the count of messages is not 0");
    }
    printf("%.0f ns\n", (double)took / (double)all);
    return 0;
}
