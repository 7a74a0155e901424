/* ring_kills.c -- kills senders and receivers at random instants, many times.

   ring_kills ROUNDS [SEED]

   Four processes send and four receive.  In each round one of them, sometimes several,
   gets SIGKILL, and another takes its place.  Every EPOCH rounds the senders stop, the ring
   must run empty, and the notes are compared:

   - each message for which ph_ring_send() returned was noted, or a killed receiver had it in
     its hands; a message that was being sent when its sender was killed may be sent or not;
   - no message was noted twice.

   A receiver notes a message in shared memory before it does anything else.  A killed
   receiver may have copied a message out and stored `head`, without the time to note it.
   Its hands are shared memory too, so they tell which message that can be.  A killed
   receiver excuses the loss of that one message, not of another. */

#define _GNU_SOURCE
#include <stddef.h>
#include <sys/wait.h>

#include "ring_common.h"

#define WORKERS 8                   /* the first half sends */
#define EPOCH 25                    /* rounds */
#define LIVES 512                   /* of workers in an epoch */
#define MESSAGES (1u << 20)         /* that one can send in an epoch */
#define CAPACITY 16384
#define LARGEST 6000
#define TOO_LONG 20000000000u       /* nanoseconds for the ring to run empty */

typedef struct {
    uint32_t life, number;
} note;

typedef struct {
    _Atomic uint32_t done;          /* numbers below this one were sent */
    _Atomic uint32_t receiving;     /* what is in its hands is not noted yet */
    bool killed, is_sender;
    char hands[LARGEST + 256];
    _Atomic uint32_t noted[MESSAGES / 32];      /* of a sender's messages */
} life;

enum { RUN, STOP, EMPTY };          /* senders stop; receivers say when it is empty */

static struct {
    ph_ring *ring;
    _Atomic uint32_t phase, epoch;
    _Atomic uint64_t mended;
    struct {
        pid_t pid;
        _Atomic uint32_t life;
        _Atomic uint32_t stopped;   /* in that epoch */
    } worker[WORKERS];
    uint32_t lives;                 /* in this epoch */
    life life[LIVES];
} *all;

extern _Atomic uint64_t *ring_mended;

static void
stop_until_next(uint32_t who, uint32_t epoch)
{
    atomic_store(&all->worker[who].stopped, epoch);
    while (atomic_load(&all->epoch) == epoch) {
        (void)ph_os_wait(&all->epoch, epoch, ph_os_now() + 200000000u);
    }
}

static void
work_as_sender(uint32_t who, uint32_t seed)
{
    char bytes[LARGEST];
    memset(bytes, (int)seed, sizeof(bytes));
    for (;;) {
        uint32_t epoch = atomic_load(&all->epoch);
        uint32_t mine = atomic_load(&all->worker[who].life);
        for (uint32_t number = 0; atomic_load(&all->phase) == RUN; number++) {
            uint32_t large = random_below(&seed, 8) == 0 ? LARGEST - sizeof(note) : 100;
            note head = {mine, number};
            memcpy(bytes, &head, sizeof(head));
            ph_outgoing message = {.bytes = bytes,
                                   .size = sizeof(head) + random_below(&seed, large)};
            if (number == MESSAGES) {
                break;
            }
            send_to(all->ring, &message, random_below(&seed, 2) * 5000);
            atomic_store(&all->life[mine].done, number + 1);
        }
        stop_until_next(who, epoch);
    }
}

static void
take_note(const ph_incoming *message)
{
    note head;
    memcpy(&head, message->bytes, sizeof(head));
    if (message->size < sizeof(head) || head.life >= LIVES || head.number >= MESSAGES) {
        fail("a message that nobody sent");
    }
    uint32_t bit = 1u << head.number % 32;
    if (atomic_fetch_or(&all->life[head.life].noted[head.number / 32], bit) & bit) {
        fail("a message that came twice");
    }
}

static void
work_as_receiver(uint32_t who, uint32_t seed)
{
    for (;;) {
        uint32_t epoch = atomic_load(&all->epoch);
        life *mine = &all->life[atomic_load(&all->worker[who].life)];
        ph_incoming message = {.memory = mine->hands, .memory_size = sizeof(mine->hands)};
        for (;;) {
            bool last = atomic_load(&all->phase) == EMPTY;
            atomic_store(&mine->receiving, 1);
            ph_status status = ph_ring_recv(all->ring, &message, PH_FOREVER);
            if (status == PH_OK) {
                take_note(&message);
            }
            atomic_store(&mine->receiving, 0);
            if (status == PH_EMPTY) {
                if (last) {
                    break;
                }
                (void)ph_ring_wait_message(all->ring, random_below(&seed, 2) * 5000,
                                           ph_os_now() + 20000000u);
            }
            else if (status != PH_OK) {
                fail("recv");
            }
        }
        stop_until_next(who, epoch);
    }
}

/* A new worker, with a life of its own. */
static void
be_born(uint32_t who, uint32_t seed)
{
    if (all->lives == LIVES) {
        fail("too many lives");
    }
    uint32_t mine = all->lives++;
    all->life[mine].is_sender = who < WORKERS / 2;
    atomic_store(&all->worker[who].life, mine);
    atomic_store(&all->worker[who].stopped, 0);
    pid_t pid = fork_worker();
    if (pid == 0) {
        (who < WORKERS / 2 ? work_as_sender : work_as_receiver)(who, seed | 1);
        _exit(0);
    }
    all->worker[who].pid = pid;
}

static void
kill_one(uint32_t who)
{
    int status;
    kill(all->worker[who].pid, SIGKILL);
    if (waitpid(all->worker[who].pid, &status, 0) < 0 || !WIFSIGNALED(status)) {
        fail("a worker has failed");
    }
    all->life[atomic_load(&all->worker[who].life)].killed = true;
}

/* Kill one process, sometimes several before the first of them is replaced. */
static void
one_round(uint32_t *seed)
{
    uint32_t n = random_below(seed, 16) ? 1 : 1 + random_below(seed, WORKERS);
    uint32_t first = random_below(seed, WORKERS);
    usleep(random_below(seed, 4) ? random_below(seed, 300) : 0);
    for (uint32_t i = 0; i < n; i++) {
        kill_one((first + i) % WORKERS);
    }
    for (uint32_t i = 0; i < n; i++) {
        be_born((first + i) % WORKERS, *seed + i);
    }
}

static void
wait_until_stopped(uint32_t first, uint32_t end)
{
    uint64_t until = ph_os_now() + TOO_LONG;
    for (uint32_t who = first; who < end; who++) {
        while (atomic_load(&all->worker[who].stopped) != atomic_load(&all->epoch)) {
            int status;
            if (waitpid(all->worker[who].pid, &status, WNOHANG) != 0) {
                fail("a worker has failed");
            }
            if (ph_os_now() > until) {
                fail(who < WORKERS / 2 ? "a sender hangs" : "a receiver hangs");
            }
            usleep(100);
        }
    }
}

static bool
is_noted(note head)
{
    return atomic_load(&all->life[head.life].noted[head.number / 32])
           >> head.number % 32 & 1;
}

/* One killed receiver, one message. */
static bool
was_taken(note head)
{
    for (uint32_t i = 0; i < all->lives; i++) {
        life *other = &all->life[i];
        if (!other->is_sender && other->killed && atomic_load(&other->receiving)
            && memcmp(other->hands, &head, sizeof(head)) == 0) {
            atomic_store(&other->receiving, 0);
            return true;
        }
    }
    return false;
}

static uint64_t
compare_the_books(uint64_t *taken)
{
    uint64_t sent = 0;
    for (uint32_t i = 0; i < all->lives; i++) {
        uint32_t done = all->life[i].is_sender ? atomic_load(&all->life[i].done) : 0;
        for (uint32_t number = 0; number < done; number++) {
            note head = {i, number};
            if (!is_noted(head)) {
                if (!was_taken(head)) {
                    fail("a message was lost");
                }
                ++*taken;
            }
        }
        for (uint32_t number = done + 1; number < MESSAGES && number < done + 64; number++) {
            if (is_noted((note){i, number})) {
                fail("a message came that was not sent");
            }
        }
        sent += done;
    }
    if (ph_ring_messages(all->ring) != 0) {
        fail("there are messages in an empty ring");
    }
    return sent;
}

static void
begin_next_epoch(void)
{
    for (uint32_t i = 0; i < all->lives; i++) {
        uint32_t done = atomic_load(&all->life[i].done);
        memset(&all->life[i], 0, offsetof(life, noted) + (done / 32 + 2) * 4);
    }
    all->lives = WORKERS;
    for (uint32_t who = 0; who < WORKERS; who++) {
        atomic_store(&all->worker[who].life, who);
        all->life[who].is_sender = who < WORKERS / 2;
    }
    atomic_store(&all->phase, RUN);
    atomic_fetch_add(&all->epoch, 1);
    ph_os_wake(&all->epoch);
}

int
main(int argc, char **argv)
{
    uint32_t rounds = argc > 1 ? (uint32_t)atoi(argv[1]) : 1000;
    uint32_t seed = argc > 2 ? (uint32_t)atoi(argv[2]) : 12345;
    uint64_t sent = 0, taken = 0;
    all = shared(sizeof(*all));
    all->ring = new_ring(CAPACITY);
    ring_mended = &all->mended;
    atomic_store(&all->epoch, 1);
    for (uint32_t who = 0; who < WORKERS; who++) {
        be_born(who, seed + who);
    }
    for (uint32_t round = 1; round <= rounds; round++) {
        one_round(&seed);
        if (round % EPOCH == 0 || round == rounds) {
            atomic_store(&all->phase, STOP);
            one_round(&seed);                       /* while they stop, too */
            wait_until_stopped(0, WORKERS / 2);
            atomic_store(&all->phase, EMPTY);
            one_round(&seed);
            wait_until_stopped(0, WORKERS);
            sent += compare_the_books(&taken);
            begin_next_epoch();
        }
    }
    for (uint32_t who = 0; who < WORKERS; who++) {
        kill_one(who);
    }
    printf("%u rounds, %llu messages, %llu taken by the dead, %llu locks of the dead\n",
           rounds, (unsigned long long)sent, (unsigned long long)taken,
           (unsigned long long)atomic_load(&all->mended));
    return 0;
}
