/* ring_model.c -- checks every state of a model of the protocol of ring.c.

   ring_model SCENARIO [VARIANT]

   Two senders, two receivers and a closer take the steps of ring.c, one access to shared
   memory each, in every order.  These are steps as well: a sleeper's time is over (or it wakes
   for no reason), a large record's claim expires, and any process gets SIGKILL, before any
   step.  The search is breadth first, so that a counterexample is a shortest one.

   Properties:

   - a receiver takes each published message whole, once, and in the order of its sender;
   - no message is published after a receiver was told that the ring is closed;
   - no process waits for a lock that is never released;
   - when only a timeout allows a step, no process sleeps although it could go on.  Only after
     a kill may one: then the timeout wakes it;
   - the number of messages that hold a span is right, also when a sender or receiver was
     killed in the middle of a transaction of the journal.

   The model leaves out watchers, damage and the memory's order: all accesses have one order
   here, and the real ring runs under ThreadSanitizer.

   VARIANT breaks the protocol in one place, to show that this is found: see `variants`.
   Exits with 0 when all holds, with 1 and the steps that lead there when not. */

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SENDERS 2
#define CLOSER 4                    /* after senders 0 and 1, receivers 2 and 3 */
#define PROCESSES 5
#define CELLS 4                     /* at most */

enum { OPEN, CLOSING, SEALED };
enum { FREE = 0, OF_THE_DEAD = 99 };            /* of a lock; else the owner + 1 */
enum { MESSAGES, ROOM };                        /* what one can wait for; also the end
                                                   that moves then: tail, head */

/* The next step of a process. */
#define STEPS(X)                                                                        \
    X(DONE) X(KILLED) X(LOCK) X(MEND) X(MENDED)                                         \
    X(LOAD_CLOSED) X(LOAD_WANTED) X(LOAD_HEAD) X(WRITE_1) X(WRITE_2)                    \
    X(STORE) X(JOURNAL_LOCK) X(JOURNAL_LOG) X(WRITE_COUNT) X(JOURNAL_STORE)             \
    X(JOURNAL_END) X(JOURNAL_UNLOCK) X(UNLOCK)                                          \
    X(TAKE_FLAG) X(CHANGE_EVENT) X(WAKE) X(WANT_NO_MORE) X(RETURN)                      \
    X(UNLOCK_AND_WAIT) X(WANT) X(WAIT_EVENT) X(WAIT_FLAG) X(WAIT_CLOSED) X(WAIT_HEAD)   \
    X(WAIT_TAIL) X(WAIT_WANTED) X(SLEEP) X(SLEEPING)                                    \
    X(LOAD_TAIL) X(READ_1) X(READ_2) X(EMPTY_CLOSED) X(SEAL_LOCK) X(SEAL_MEND)          \
    X(SEAL_MENDED) X(SEAL_TAIL) X(SEAL) X(SEAL_UNLOCK)                                  \
    X(CLOSE) X(CLOSE_FLAG)
#define NAME(name) name,
#define TEXT(name) #name,
enum { STEPS(NAME) N_STEPS };
static const char *const step_names[] = {STEPS(TEXT)};

typedef struct {
    uint8_t step;
    uint8_t done;                   /* messages that it sent */
    uint8_t changed;                /* the event has changed since it was loaded */
    uint8_t a, b;                   /* what it has loaded */
    uint8_t after;                  /* it looks after its sleep, not before */
    uint8_t announces;              /* MESSAGES or ROOM */
    uint8_t then;                   /* the step after announcing */
} process;

typedef struct {
    uint8_t position[2];            /* tail, head */
    uint8_t seen;                   /* head, by the senders */
    uint8_t lock[2], mend[2];       /* of senders, of receivers */
    uint8_t flag[2];
    uint8_t closed, wanted, expired;
    uint8_t journal_lock, logged, before, commits, value;   /* `commits`: which end */
    uint8_t count;                  /* of messages that hold the span */
    uint8_t kills;
    uint8_t told;                   /* a receiver was told that it is closed */
    uint8_t published[SENDERS], taken[SENDERS];
    uint8_t cell[CELLS];
    process process[PROCESSES];
    uint8_t unused[8 - (20 + 2 * SENDERS + CELLS + 8 * PROCESSES) % 8];
} state;

_Static_assert(sizeof(state) % 8 == 0, "a state is whole words: see hash_of()");

/* --- Scenarios -------------------------------------------------------------------- */

static const struct scenario {
    const char *name;
    uint8_t cells, size[SENDERS], messages[SENDERS], kills;
    bool spans;                     /* sender 0's messages hold a span */
    bool early;                     /* closed at any time, not after the senders */
    int receivers;
} scenarios[] = {
    {"plain", 1, {1, 1}, {1, 1}, 0, false, false, 2},
    {"more", 2, {1, 1}, {2, 1}, 0, false, false, 2},
    {"closed", 1, {1, 1}, {2, 0}, 0, false, true, 2},
    {"large", 2, {2, 1}, {1, 2}, 0, false, false, 1},
    {"large-more", 2, {2, 1}, {1, 2}, 0, false, false, 2},
    {"kill", 1, {1, 1}, {1, 1}, 1, false, false, 2},
    {"kill-closed", 1, {1, 1}, {1, 1}, 1, false, true, 1},
    {"kill-large", 2, {2, 1}, {1, 1}, 1, false, false, 2},
    {"kills", 1, {1, 1}, {1, 1}, 2, false, false, 2},
    {"spans", 2, {1, 1}, {1, 1}, 1, true, false, 2},
    {"spans-kills", 2, {1, 1}, {1, 1}, 2, true, false, 2},
};

static const char *const variants[] = {
    "flag-after-look",              /* a sleeper looks again, then sets its flag */
    "tail-before-bytes",
    "head-before-bytes",            /* a receiver stores head, then copies */
    "announce-before-store",
    "sleep-without-event",          /* sleeps though the event has changed */
    "never-sealed",                 /* closed and empty is enough for a receiver */
    "never-mended",                 /* the dead owner's transaction is left alone */
    "claim-dropped-silently",       /* a sender of a large record wakes nobody for it */
    "never-robust",                 /* the lock of a dead owner stays locked */
};
enum {
    FLAG_AFTER_LOOK, TAIL_BEFORE_BYTES, HEAD_BEFORE_BYTES, ANNOUNCE_BEFORE_STORE,
    SLEEP_WITHOUT_EVENT, NEVER_SEALED, NEVER_MENDED, CLAIM_DROPPED, NEVER_ROBUST,
    NO_VARIANT,
};

static struct scenario now;
static int variant = NO_VARIANT;
static const char *wrong;           /* what a step has violated */

static bool
is_sender(int who)
{
    return who < SENDERS;
}

static int
own_end(int who)
{
    return is_sender(who) ? MESSAGES : ROOM;
}

static int
waits_for(int who)
{
    return is_sender(who) ? ROOM : MESSAGES;
}

/* As others see it. */
static uint8_t
wanted_of(const state *s)
{
    return s->expired ? 0 : s->wanted;
}

static bool
holds_span(int sender)
{
    return now.spans && sender == 0;
}

static uint8_t
cell_of(int sender, int number, int part)
{
    return (uint8_t)(1 + sender * 64 + number * 4 + part);
}

static int sender_of(uint8_t cell) { return (cell - 1) / 64; }
static int part_of(uint8_t cell) { return (cell - 1) % 4; }

static uint8_t *
cell_at(state *s, int position)
{
    return &s->cell[position % now.cells];
}

static void
fail(const char *what)
{
    wrong = what;
}

/* --- Locks and the journal --------------------------------------------------------- */

/* Take a lock; return false if another process has it. */
static bool
take_lock(uint8_t *lock, int who, uint8_t *mend)
{
    if (*lock == OF_THE_DEAD && variant != NEVER_ROBUST) {
        *mend = variant != NEVER_MENDED;
    }
    else if (*lock != FREE) {
        return false;
    }
    *lock = (uint8_t)(who + 1);
    return true;
}

static void
recover(state *s)
{
    if (s->logged) {
        if (s->position[s->commits] < s->value) {
            s->count = s->before;
        }
        s->logged = 0;
    }
}

static bool
journal_begin(state *s, int who)
{
    if (s->journal_lock != FREE && s->journal_lock != OF_THE_DEAD) {
        return false;
    }
    recover(s);
    s->journal_lock = (uint8_t)(who + 1);
    return true;
}

/* --- Steps: sending and receiving --------------------------------------------------- */

static int
size_of_taken(const process *p)
{
    return now.size[sender_of(p->a)];
}

/* The moment of the store to tail: the message is there. */
static void
publish(state *s, int who)
{
    s->position[MESSAGES] += now.size[who];
    s->published[who]++;
    if (s->told) {
        fail("a message was published after a receiver was told that the ring is closed");
    }
}

/* Compare the copied bytes with the message; variants that copy later compare later. */
static void
check_taken(state *s, const process *p, int number)
{
    int sender = sender_of(p->a);
    bool whole = p->a == cell_of(sender, number, 0)
                 && (now.size[sender] == 1 || p->b == cell_of(sender, number, 1));
    if (!whole || number >= s->published[sender]) {
        fail("a receiver took what was not sent, or not in order, or twice");
    }
}

static void
take(state *s, process *p)
{
    int sender = sender_of(p->a);
    s->position[ROOM] += (uint8_t)size_of_taken(p);
    if (variant != HEAD_BEFORE_BYTES) {
        check_taken(s, p, s->taken[sender]);
    }
    s->taken[sender]++;
}

static void
announce(process *p, int what, int then)
{
    p->announces = (uint8_t)what;
    p->then = (uint8_t)then;
    p->step = TAKE_FLAG;
}

static void
after_bytes(process *p, int who, int span_of)
{
    p->step = holds_span(span_of) ? JOURNAL_LOCK : STORE;
    if (is_sender(who) && variant == ANNOUNCE_BEFORE_STORE) {
        announce(p, MESSAGES, STORE);
    }
}

static void
after_store(process *p, int who)
{
    p->step = UNLOCK;
    if (is_sender(who) && variant == TAIL_BEFORE_BYTES) {
        p->step = WRITE_1;
    }
    if (!is_sender(who) && variant == HEAD_BEFORE_BYTES) {
        p->step = READ_2;
    }
}

static void
load_head_as_sender(state *s, process *p, int who)
{
    int bytes = now.size[who] + (p->a > now.size[who] ? p->a : 0);
    if (s->position[MESSAGES] - s->seen + bytes > now.cells) {
        s->seen = s->position[ROOM];
    }
    bool fits = s->position[MESSAGES] - s->seen + bytes <= now.cells;
    p->a = 0;
    p->step = fits ? WRITE_1 : UNLOCK_AND_WAIT;
    if (fits && variant == TAIL_BEFORE_BYTES) {
        p->step = STORE;
    }
}

static void
write_cell(state *s, process *p, int who, int part)
{
    int position = s->position[MESSAGES] + part;
    int number = s->published[who];
    if (variant == TAIL_BEFORE_BYTES) {
        position -= now.size[who];
        number--;
    }
    *cell_at(s, position) = cell_of(who, number, part);
    if (part == 0 && now.size[who] == 2) {
        p->step = WRITE_2;
    }
    else if (variant == TAIL_BEFORE_BYTES) {
        p->step = UNLOCK;
    }
    else {
        after_bytes(p, who, who);
    }
}

static void
read_first(state *s, process *p, int who)
{
    p->a = *cell_at(s, s->position[ROOM]);
    if (p->a == 0 || part_of(p->a) != 0) {
        fail("a receiver found no message where one must be");
        return;
    }
    p->step = READ_2;
    if (size_of_taken(p) == 1 || variant == HEAD_BEFORE_BYTES) {
        after_bytes(p, who, sender_of(p->a));
    }
}

static void
read_second(state *s, process *p, int who)
{
    int sender = sender_of(p->a);
    if (variant != HEAD_BEFORE_BYTES) {
        p->b = *cell_at(s, s->position[ROOM] + 1);
        after_bytes(p, who, sender);
        return;
    }
    int start = s->position[ROOM] - now.size[sender];
    uint8_t first = *cell_at(s, start);
    p->b = now.size[sender] == 2 ? *cell_at(s, start + 1) : 0;
    if (first != p->a || (p->b != 0 && p->b != p->a + 1)) {
        fail("a receiver took what was not sent, or not in order, or twice");
    }
    p->step = UNLOCK;
}

static void
step_store(state *s, process *p, int who)
{
    if (is_sender(who)) {
        publish(s, who);
    }
    else {
        take(s, p);
    }
    after_store(p, who);
}

static void
clear_process(process *p, int step)
{
    uint8_t done = p->done;
    memset(p, 0, sizeof(*p));
    p->done = done;
    p->step = (uint8_t)step;
}

/* The operation is over: the next one. */
static void
step_return(process *p, int who)
{
    if (is_sender(who)) {
        p->done++;
    }
    bool last = is_sender(who) && p->done == now.messages[who];
    clear_process(p, last ? DONE : LOCK);
}

/* --- Steps: waiting and waking ------------------------------------------------------ */

static void
step_take_flag(state *s, process *p)
{
    bool sleepers = s->flag[p->announces];
    s->flag[p->announces] = 0;
    p->step = sleepers ? CHANGE_EVENT : p->then;
}

/* Tell each process that has loaded the event that it changed; ring.c has a number that grows. */
static void
step_change_event(state *s, process *p)
{
    for (int who = 0; who < CLOSER; who++) {
        process *other = &s->process[who];
        if (waits_for(who) == p->announces && other->step > WAIT_EVENT
            && other->step <= SLEEP && !other->after) {
            other->changed = 1;
        }
    }
    p->step = WAKE;
}

static void
wake_up(process *p)
{
    p->after = 1;
    p->changed = 0;
    p->step = WAIT_CLOSED;
}

static void
step_wake(state *s, process *p)
{
    for (int who = 0; who < CLOSER; who++) {
        process *other = &s->process[who];
        if (waits_for(who) == p->announces && other->step == SLEEPING) {
            wake_up(other);
        }
    }
    p->step = p->then;
}

static void
step_want_no_more(state *s, process *p, int who)
{
    p->step = RETURN;
    if (s->wanted != 0 && s->wanted <= now.size[who]) {
        s->wanted = s->expired = 0;
        if (variant != CLAIM_DROPPED) {
            announce(p, ROOM, RETURN);
        }
    }
}

/* It has looked; is it worth while to try again? */
static void
looked(process *p, bool over)
{
    if (over) {
        clear_process(p, LOCK);
        return;
    }
    p->a = p->b = 0;
    if (p->after) {
        clear_process(p, WANT);
    }
    else {
        p->step = variant == FLAG_AFTER_LOOK ? WAIT_FLAG : SLEEP;
    }
}

static bool
there_is_room(int who, int head, int tail, int wanted)
{
    int bytes = now.size[who] + (wanted > now.size[who] ? wanted : 0);
    return tail - head + bytes <= now.cells;
}

static void
step_sleep(process *p)
{
    bool changed = p->changed && variant != SLEEP_WITHOUT_EVENT;
    if (changed) {
        wake_up(p);
    }
    else {
        p->changed = 0;
        p->step = SLEEPING;
    }
}

static bool
step_wait(state *s, process *p, int who)
{
    switch (p->step) {
    case WANT:
        if (is_sender(who) && now.size[who] > 1 && wanted_of(s) <= now.size[who]) {
            s->wanted = now.size[who];
            s->expired = 0;
        }
        p->step = WAIT_EVENT;
        return true;
    case WAIT_EVENT:
        p->changed = 0;
        p->step = variant == FLAG_AFTER_LOOK ? WAIT_CLOSED : WAIT_FLAG;
        return true;
    case WAIT_FLAG:
        s->flag[waits_for(who)] = 1;
        p->step = variant == FLAG_AFTER_LOOK ? SLEEP : WAIT_CLOSED;
        return true;
    case WAIT_CLOSED:
        p->step = WAIT_HEAD;
        if (s->closed != OPEN) {
            looked(p, true);
        }
        return true;
    case WAIT_HEAD:
        p->a = s->position[ROOM];
        p->step = WAIT_TAIL;
        return true;
    case WAIT_TAIL:
        p->b = s->position[MESSAGES];
        p->step = WAIT_WANTED;
        if (!is_sender(who)) {
            looked(p, p->a != p->b);
        }
        return true;
    case WAIT_WANTED:
        looked(p, there_is_room(who, p->a, p->b, wanted_of(s)));
        return true;
    case SLEEP:
        step_sleep(p);
        return true;
    default:
        return false;               /* SLEEPING */
    }
}

/* --- Steps: all of them ------------------------------------------------------------- */

static bool
step_journal(state *s, process *p, int who)
{
    int end = own_end(who);
    int size = is_sender(who) ? now.size[who] : size_of_taken(p);
    switch (p->step) {
    case JOURNAL_LOCK:
        if (!journal_begin(s, who)) {
            return false;
        }
        p->step = JOURNAL_LOG;
        return true;
    case JOURNAL_LOG:
        s->logged = 1;
        s->before = s->count;
        s->commits = (uint8_t)end;
        s->value = (uint8_t)(s->position[end] + size);
        p->step = WRITE_COUNT;
        return true;
    case WRITE_COUNT:
        s->count += is_sender(who) ? 1 : -1;
        p->step = JOURNAL_STORE;
        return true;
    case JOURNAL_STORE:
        step_store(s, p, who);
        p->step = JOURNAL_END;
        return true;
    case JOURNAL_END:
        s->logged = s->before = s->value = s->commits = 0;
        p->step = JOURNAL_UNLOCK;
        return true;
    default:
        s->journal_lock = FREE;
        p->step = UNLOCK;
        return true;
    }
}

/* The senders' lock is taken by receivers too, to seal the ring. */
static bool
step_lock(state *s, process *p, int who)
{
    bool seals = p->step >= SEAL_LOCK;
    int end = seals ? MESSAGES : own_end(who);
    switch (p->step) {
    case LOCK:
    case SEAL_LOCK:
        if (!take_lock(&s->lock[end], who, &s->mend[end])) {
            return false;
        }
        p->step = is_sender(who) ? LOAD_CLOSED : seals ? SEAL_TAIL : LOAD_TAIL;
        if (s->mend[end]) {
            p->step = seals ? SEAL_MEND : MEND;
        }
        return true;
    case MEND:
    case SEAL_MEND:
        if (!journal_begin(s, who)) {
            return false;
        }
        p->step = seals ? SEAL_MENDED : MENDED;
        return true;
    default:                        /* MENDED, SEAL_MENDED */
        s->journal_lock = FREE;
        s->mend[end] = 0;
        p->step = is_sender(who) ? LOAD_CLOSED : seals ? SEAL_TAIL : LOAD_TAIL;
        return true;
    }
}

static bool
step_send(state *s, process *p, int who)
{
    switch (p->step) {
    case LOAD_CLOSED:
        p->step = LOAD_WANTED;
        if (s->closed != OPEN) {
            s->lock[MESSAGES] = FREE;
            clear_process(p, DONE);
        }
        return true;
    case LOAD_WANTED:
        p->a = wanted_of(s);
        p->step = LOAD_HEAD;
        return true;
    case LOAD_HEAD:
        load_head_as_sender(s, p, who);
        return true;
    default:                        /* WRITE_1, WRITE_2 */
        write_cell(s, p, who, p->step == WRITE_2);
        return true;
    }
}

static bool
step_recv(state *s, process *p, int who)
{
    switch (p->step) {
    case LOAD_TAIL:
        p->step = s->position[ROOM] == s->position[MESSAGES] ? EMPTY_CLOSED : READ_1;
        return true;
    case READ_1:
        read_first(s, p, who);
        return true;
    case READ_2:
        read_second(s, p, who);
        return true;
    case EMPTY_CLOSED:
        p->step = s->closed == CLOSING ? SEAL_LOCK : UNLOCK_AND_WAIT;
        if (s->closed == SEALED || (s->closed == CLOSING && variant == NEVER_SEALED)) {
            s->told = 1;
            s->lock[ROOM] = FREE;
            clear_process(p, DONE);
        }
        return true;
    case SEAL_TAIL:
        p->step = s->position[ROOM] == s->position[MESSAGES] ? SEAL : SEAL_UNLOCK;
        return true;
    case SEAL:
        s->closed = SEALED;
        p->step = SEAL_UNLOCK;
        return true;
    default:                        /* SEAL_UNLOCK */
        s->lock[MESSAGES] = FREE;
        p->step = s->closed == SEALED ? EMPTY_CLOSED : UNLOCK_AND_WAIT;
        return true;
    }
}

static bool
step_close(state *s, process *p)
{
    if (p->step == CLOSE) {
        for (int who = 0; who < SENDERS && !now.early; who++) {
            if (s->process[who].step > KILLED) {
                return false;
            }
        }
        s->closed = s->closed == OPEN ? CLOSING : s->closed;
        p->step = CLOSE_FLAG;
        return true;
    }
    int what = p->done++;           /* first for messages, then for room */
    s->flag[what] = 1;
    announce(p, what, what == MESSAGES ? CLOSE_FLAG : DONE);
    return true;
}

/* Take the one step that the process can take.  False when it cannot. */
static bool
take_step(state *s, int who)
{
    process *p = &s->process[who];
    int step = p->step;
    switch (step) {
    case DONE:
    case KILLED:
        return false;
    case STORE:
        step_store(s, p, who);
        return true;
    case UNLOCK:
        s->lock[own_end(who)] = FREE;
        announce(p, own_end(who), is_sender(who) ? WANT_NO_MORE : RETURN);
        if (is_sender(who) && variant == ANNOUNCE_BEFORE_STORE) {
            p->step = WANT_NO_MORE;
        }
        return true;
    case UNLOCK_AND_WAIT:
        s->lock[own_end(who)] = FREE;
        clear_process(p, WANT);
        return true;
    case TAKE_FLAG:
        step_take_flag(s, p);
        return true;
    case CHANGE_EVENT:
        step_change_event(s, p);
        return true;
    case WAKE:
        step_wake(s, p);
        return true;
    case WANT_NO_MORE:
        step_want_no_more(s, p, who);
        return true;
    case RETURN:
        step_return(p, who);
        return true;
    case LOCK: case MEND: case MENDED: case SEAL_LOCK: case SEAL_MEND: case SEAL_MENDED:
        return step_lock(s, p, who);
    }
    if (step == CLOSE || step == CLOSE_FLAG) {
        return step_close(s, p);
    }
    if (step >= LOAD_CLOSED && step <= WRITE_2) {
        return step_send(s, p, who);
    }
    if (step >= JOURNAL_LOCK && step <= JOURNAL_UNLOCK) {
        return step_journal(s, p, who);
    }
    return step >= WANT && step <= SLEEPING ? step_wait(s, p, who) : step_recv(s, p, who);
}

static void
kill_process(state *s, int who)
{
    uint8_t *locks[] = {&s->lock[0], &s->lock[1], &s->journal_lock};
    for (int i = 0; i < 3; i++) {
        if (*locks[i] == who + 1) {
            *locks[i] = OF_THE_DEAD;
        }
    }
    clear_process(&s->process[who], KILLED);
    s->process[who].done = 0;
    s->kills++;
}

/* --- Every state --------------------------------------------------------------------- */

static struct {
    state *states;
    uint32_t *from;                 /* the state before, */
    uint8_t *how;                   /* and the process that took the step; + 16 for its
                                       timeout, + 32 for its kill, 48: a claim expired */
    uint32_t *table;                /* of hashes: index + 1 */
    uint32_t n, room, mask;
} all;

static uint64_t
hash_of(const state *s)
{
    uint64_t words[sizeof(state) / 8], hash = 0;
    memcpy(words, s, sizeof(words));
    for (size_t i = 0; i < sizeof(state) / 8; i++) {
        hash = (hash ^ words[i]) * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 32;
    }
    return hash;
}

static void
grow(void)
{
    all.room = all.room ? 2 * all.room : 1 << 16;
    all.mask = 2 * all.room - 1;
    all.states = realloc(all.states, all.room * sizeof(state));
    all.from = realloc(all.from, all.room * sizeof(*all.from));
    all.how = realloc(all.how, all.room);
    free(all.table);
    all.table = calloc(2 * (size_t)all.room, sizeof(*all.table));
    if (!all.states || !all.from || !all.how || !all.table) {
        fprintf(stderr, "ring_model: out of memory\n");
        exit(2);
    }
    for (uint32_t i = 0; i < all.n; i++) {
        uint32_t at = (uint32_t)hash_of(&all.states[i]) & all.mask;
        while (all.table[at]) {
            at = (at + 1) & all.mask;
        }
        all.table[at] = i + 1;
    }
}

/* Exchange the receivers: they are alike, and one of two states that differ in that is enough. */
static void
exchange_receivers(state *s)
{
    process *p = &s->process[SENDERS];
    if (memcmp(&p[0], &p[1], sizeof(*p)) <= 0) {
        return;
    }
    process other = p[0];
    p[0] = p[1];
    p[1] = other;
    uint8_t *locks[] = {&s->lock[0], &s->lock[1], &s->journal_lock};
    for (int i = 0; i < 3; i++) {
        if (*locks[i] == SENDERS + 1 || *locks[i] == SENDERS + 2) {
            *locks[i] = (uint8_t)(2 * SENDERS + 3 - *locks[i]);
        }
    }
}

static void
add(state *s, uint32_t from, int how)
{
    exchange_receivers(s);
    if (all.n == all.room) {
        grow();
    }
    uint32_t at = (uint32_t)hash_of(s) & all.mask;
    for (; all.table[at]; at = (at + 1) & all.mask) {
        if (memcmp(&all.states[all.table[at] - 1], s, sizeof(*s)) == 0) {
            return;
        }
    }
    all.table[at] = all.n + 1;
    all.states[all.n] = *s;
    all.from[all.n] = from;
    all.how[all.n++] = (uint8_t)how;
}

/* Receivers may have changed places between two of the states. */
static void
print_way_to(uint32_t index, int how)
{
    if (index != 0) {
        print_way_to(all.from[index], all.how[index]);
    }
    static const char *const names[] = {"sender 0", "sender 1", "receiver 0", "receiver 1",
                                        "closer"};
    if (how == 48) {
        printf("  a claim expires\n");
    }
    else if (how < 48) {
        int who = how % 16;
        const char *kind = how >= 32 ? "killed before " : how >= 16 ? "timeout in " : "";
        printf("  %s: %s%s\n", names[who], kind,
               step_names[all.states[index].process[who].step]);
    }
}

static void
found(uint32_t index, int how, const char *what)
{
    printf("%s: %s:\n", now.name, what);
    print_way_to(index, how);
    exit(1);
}

/* Return what is wrong where only a timeout allows a step, or NULL. */
static const char *
what_is_wrong_at_rest(const state *s)
{
    for (int who = 0; who < CLOSER; who++) {
        int step = s->process[who].step;
        if (step > KILLED && step != SLEEPING) {
            return "somebody waits for a lock for ever";
        }
        bool over = is_sender(who)
                    ? there_is_room(who, s->position[ROOM], s->position[MESSAGES], 0)
                    : s->position[ROOM] != s->position[MESSAGES];
        if (step == SLEEPING && (over || s->closed != OPEN) && s->kills == 0) {
            return "somebody sleeps although what it waits for is there";
        }
    }
    for (int who = 0; who < SENDERS && s->closed == SEALED; who++) {
        if (s->taken[who] != s->published[who]) {
            return "a message was lost";
        }
    }
    state mended = *s;
    recover(&mended);
    if (now.spans && mended.count != s->published[0] - s->taken[0]) {
        return "the number of messages that hold the span is wrong";
    }
    return NULL;
}

static void
look_at(uint32_t index)
{
    state before = all.states[index];
    bool rests = true;
    for (int who = 0; who < PROCESSES; who++) {
        state s = before;
        if (take_step(&s, who)) {
            rests = false;
            if (wrong) {
                found(index, who, wrong);
            }
            add(&s, index, who);
        }
        s = before;
        if (s.process[who].step == SLEEPING) {
            wake_up(&s.process[who]);
            add(&s, index, 16 + who);
        }
        s = before;
        if (s.kills < now.kills && s.process[who].step > KILLED) {
            kill_process(&s, who);
            add(&s, index, 32 + who);
        }
    }
    if (before.wanted && !before.expired) {
        state s = before;
        s.expired = 1;
        add(&s, index, 48);
    }
    const char *what = rests ? what_is_wrong_at_rest(&before) : NULL;
    if (what) {
        found(index, 49, what);
    }
}

static void
look_at_all(void)
{
    state first;
    memset(&first, 0, sizeof(first));
    for (int who = 0; who < SENDERS + now.receivers; who++) {
        bool idle = is_sender(who) && now.messages[who] == 0;
        first.process[who].step = idle ? DONE : LOCK;
    }
    first.process[CLOSER].step = CLOSE;
    add(&first, 0, 49);
    for (uint32_t index = 0; index < all.n; index++) {
        look_at(index);
    }
    printf("%s: %u states, all is well\n", now.name, all.n);
}

int
main(int argc, char **argv)
{
    for (size_t i = 0; argc > 1 && i < sizeof(scenarios) / sizeof(*scenarios); i++) {
        if (strcmp(argv[1], scenarios[i].name) == 0) {
            now = scenarios[i];
        }
    }
    for (int i = 0; argc > 2 && i < NO_VARIANT; i++) {
        if (strcmp(argv[2], variants[i]) == 0) {
            variant = i;
        }
    }
    if (now.name == NULL || (argc > 2 && variant == NO_VARIANT)) {
        fprintf(stderr, "usage: ring_model SCENARIO [VARIANT]\n");
        return 2;
    }
    look_at_all();
    return 0;
}
