/* ring_steps.c -- kills a process at each instruction of a send, a receive and a close.

   ring_steps [STRIDE [FIRST]]

   Uses the real heap, spans and journal.  A child is traced, taken one instruction at a time
   to the n-th of the operation, and killed there, for each n (or each STRIDE-th from FIRST on).

   After that the others must be able to go on.  The messages that waited arrive, once and in
   order.  A message that the child sent or took is there as a whole or not at all.  After a
   sweep of the dead, only this process holds the span that the messages held.

   Exits with 77 when tracing is not allowed. */

#define _GNU_SOURCE
#include <sched.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#include "core/family/family.h"
#include "ring_common.h"

#define CAPACITY 16384
#define LAST 9                      /* the message that follows: without a span, so that
                                       nothing but the lock leads to the journal, and
                                       longer, so that tail passes where it was to be */
#define NOBODY 1                    /* a watcher that means nothing */

static ph_ring *ring;
static ph_span_id channel, span;
static ph_incoming incoming;

typedef struct {
    const char *name;
    void (*act)(void);              /* in the child */
    uint32_t waiting;               /* messages 1 to `waiting` are there before */
    uint32_t sends;                 /* 1: then message waiting + 1 may be there, too */
    uint32_t takes;                 /* 1: or message 1 may be gone */
    bool closes;
} operation;

static bool with_span;

static uint32_t
spans_of(uint32_t kind)
{
    return with_span && kind != LAST;
}

static void
send_one(uint32_t kind)
{
    ph_outgoing message = {.kind = kind, .spans = &span, .n_spans = spans_of(kind),
                           .bytes = "a message, padded to be longer than any other one",
                           .size = kind == LAST ? 50 : 9};
    (void)send_to(ring, &message, 0);
}

static void
send_third(void)
{
    send_one(3);
}

static void
recv_first(void)
{
    (void)recv_from(ring, &incoming, 0);
}

static void
close_it(void)
{
    ph_ring_close(ring);
}

static const operation operations[] = {
    {"send", send_third, 2, 1, 0, false},
    {"recv", recv_first, 2, 0, 1, false},
    {"close", close_it, 2, 0, 0, true},
};

static void
prepare(const operation *op)
{
    if (ph_ring_init(ring, CAPACITY) != PH_OK) {
        fail("init");
    }
    for (uint32_t kind = 1; kind <= op->waiting; kind++) {
        send_one(kind);
    }
    /* Leave a waiter to wake, and a watcher to ring for. */
    (void)ph_ring_wait_room(ring, 8000, 0, 0, 0);
    (void)ph_ring_watch(ring, PH_WATCH_MESSAGE, NOBODY);
    (void)ph_ring_watch(ring, PH_WATCH_ROOM, NOBODY);
}

static void
check_after(const operation *op)
{
    uint32_t next = 1, last = op->waiting;
    bool closed = ph_ring_is_closed(ring);
    if (!closed) {
        send_one(LAST);
    }
    for (;;) {
        ph_status status = ph_ring_recv(ring, &incoming, PH_FOREVER);
        if (status == (closed ? PH_CLOSED : PH_EMPTY)) {
            break;
        }
        if (status != PH_OK || memcmp(incoming.bytes, "a message", 9) != 0
            || incoming.n_spans != spans_of(incoming.kind)) {
            fail("a message is damaged");
        }
        for (uint32_t i = 0; i < incoming.n_spans; i++) {
            ph_span_drop(incoming.spans[i]);
        }
        bool first_is_gone = op->takes && next == 1 && incoming.kind == 2;
        next += first_is_gone;
        if (incoming.kind == next && next <= last + op->sends) {
            next++;
        }
        else if (incoming.kind == LAST && next > last) {
            next = LAST + 1;
        }
        else {
            fail("a message came that must not");
        }
    }
    if (closed ? next != last + 1 || !op->closes : next != LAST + 1) {
        fail("a message did not come");
    }
    if (ph_ring_messages(ring) != 0) {
        fail("there are messages in an empty ring");
    }
    (void)ph_spans_sweep();
    if (!ph_span_is_ours(span) || !ph_span_is_ours(channel)) {
        fail("somebody dead, or a message, still holds a span");
    }
}

static pid_t
start_traced(void (*act)(void))
{
    pid_t pid = fork_worker();
    if (pid == 0) {
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0) {
            _exit(77);
        }
        raise(SIGSTOP);
        act();
        _exit(0);
    }
    int status;
    if (waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status)) {
        exit(77);
    }
    return pid;
}

/* False when the operation was over before the n-th instruction. */
static bool
kill_at(const operation *op, uint32_t n)
{
    int status;
    pid_t pid = start_traced(op->act);
    for (uint32_t i = 0; i < n; i++) {
        if (ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) != 0
            || waitpid(pid, &status, 0) != pid) {
            fail("ptrace");
        }
        if (WIFEXITED(status)) {
            return false;
        }
    }
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    return true;
}

int
main(int argc, char **argv)
{
    uint32_t stride = argc > 1 ? (uint32_t)atoi(argv[1]) : 1;
    uint32_t first = argc > 2 ? (uint32_t)atoi(argv[2]) : 0;
    cpu_set_t one;                  /* processor: there is no waiting for another one */
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    (void)sched_setaffinity(0, sizeof(one), &one);
    ph_rings_init();
    ph_heap_init();
    if (ph_span_new(PH_SPAN_CHANNEL, ph_ring_span_size(CAPACITY), true, &channel) != PH_OK
        || ph_span_new(PH_SPAN_BUFFER, 100, true, &span) != PH_OK) {
        fail("spans");
    }
    ring = ph_span_address(channel);
    for (size_t i = 0; i < 2 * sizeof(operations) / sizeof(*operations); i++) {
        const operation *op = &operations[i / 2];
        with_span = i % 2;
        uint32_t n = first;
        bool more = true;
        for (; more; n += stride) {
            prepare(op);
            more = kill_at(op, n);
            check_after(op);
        }
        printf("%s%s: %u instructions\n", op->name, with_span ? " with a span" : "", n);
        fflush(stdout);
    }
    return 0;
}
