/* ring_damage.c -- flips each bit of a ring once, and expects the ring to go on.

   ring_damage

   A few messages wait, one of them around the end of the memory.  After each
   flip, receivers get the other messages, or errors, and then the next message that is sent.
   The bits of the locks are left alone: they are the C library's.  The ring lies at the end
   of its mapping, before a page that cannot be touched. */

#define _GNU_SOURCE
#include "core/ring/ring.c"

#include "ring_common.h"

#define CAPACITY SMALLEST
#define MESSAGES 4
#define START (3 * CAPACITY - 64)   /* so that the first message goes around the end */
#define LONGEST 600

static ph_ring *ring;
static uint64_t size;
static ph_span_id spans[3] = {{7, 1}, {8, 2}, {9, 3}};
static struct {
    uint64_t kept, lost, all_lost, refused;
} figures;

static void
make_ring(void)
{
    size = ph_ring_span_size(CAPACITY);
    uint64_t mapped = ph_page_up(size);
    char *memory = shared(mapped + PH_PAGE);
    if (mprotect(memory + mapped, PH_PAGE, PROT_NONE) != 0) {
        fail("mprotect");
    }
    ring = (ph_ring *)(memory + mapped - size);
}

static ph_outgoing
message_of(uint32_t i, char *bytes)
{
    memset(bytes, (int)i, LONGEST);
    return (ph_outgoing){.kind = i, .bytes = bytes, .size = i * 150,
                         .spans = spans, .n_spans = i};
}

/* Messages 0 to MESSAGES - 1 wait. */
static void
fill_ring(void)
{
    char bytes[LONGEST];
    if (ph_ring_init(ring, CAPACITY) != PH_OK) {
        fail("init");
    }
    atomic_store(&ring->senders.position, START);
    atomic_store(&ring->receivers.position, START);
    ring->senders.seen = ring->receivers.seen = START;
    for (uint32_t i = 0; i < MESSAGES; i++) {
        ph_outgoing message = message_of(i, bytes);
        if (ph_ring_send(ring, &message, 0) != PH_OK) {
            fail("send");
        }
    }
}

/* All that comes: a mask of the messages.  `all`: their bytes too are as they were. */
static uint32_t
empty_ring(ph_incoming *message, bool *broke)
{
    uint32_t got = 0;
    for (int i = 0; i < 100; i++) {
        ph_status status = ph_ring_recv(ring, message, 0);
        if (status == PH_EMPTY || status == PH_CLOSED) {
            return got;
        }
        if (status == PH_OK && message->kind >= 32) {
            fail("a damaged kind was not noticed");
        }
        if (status == PH_OK) {
            got |= 1u << message->kind;
        }
        else if (status == PH_BAD_HANDLE && ring->capacity == ~ring->check) {
            *broke = true;
        }
        else if (status == PH_BAD_HANDLE) {
            figures.refused++;
            return got;
        }
        else {
            fail("recv");
        }
    }
    fail("the ring never becomes empty");
    return 0;
}

static bool
is_of_a_lock(uint64_t offset)
{
    uint64_t locks[] = {offsetof(ph_ring, senders.mutex), offsetof(ph_ring, receivers.mutex)};
    return offset - locks[0] < sizeof(ph_mutex) || offset - locks[1] < sizeof(ph_mutex);
}

/* The next message must come, unless the ring says that it is beyond use. */
static void
go_on(ph_incoming *message)
{
    char bytes[LONGEST];
    ph_outgoing next = message_of(3, bytes);
    next.kind = 31;
    ph_status status = ph_ring_send(ring, &next, 0);
    (void)ph_ring_messages(ring);
    if (status == PH_BAD_HANDLE || status == PH_CLOSED) {
        return;
    }
    if (status != PH_OK || ph_ring_recv(ring, message, 0) != PH_OK || message->kind != 31
        || message->size != next.size || memcmp(message->bytes, bytes, next.size) != 0
        || memcmp(message->spans, spans, sizeof(spans)) != 0) {
        fail("the ring does not go on");
    }
}

static void
flip(uint64_t offset, int bit, ph_incoming *message)
{
    bool broke = false;
    fill_ring();
    ((unsigned char *)ring)[offset] ^= (unsigned char)(1u << bit);
    (void)ph_ring_wait_message(ring, 0, 0);
    (void)ph_ring_wait_room(ring, 100, 0, 0, 0);
    uint32_t got = empty_ring(message, &broke);
    figures.kept += got == (1u << MESSAGES) - 1;
    figures.lost += broke && got != 0;
    figures.all_lost += broke && got == 0;
    go_on(message);
}

/* In a frame: its message is lost, and no other.  With a wrong length those behind it may be
   lost too: all, or those up to one that it leads to by chance. */
static void
flip_frame(uint32_t which, uint64_t position, uint64_t bytes, ph_incoming *message)
{
    for (uint64_t i = 0; i < bytes * 8; i++) {
        bool broke = false;
        fill_ring();
        unsigned char *at_byte = place_of(ring, position + i / 8);
        *at_byte ^= (unsigned char)(1u << i % 8);
        uint32_t got = empty_ring(message, &broke);
        uint32_t before = (1u << which) - 1, all = (1u << MESSAGES) - 1;
        bool rest = got == (all & ~(1u << which));
        bool length = i / 8 - offsetof(ph_frame, size) < sizeof(uint32_t)
                      || i / 8 - offsetof(ph_frame, n_spans) < sizeof(uint16_t);
        bool lost_too = length && (got & before) == before && !(got >> which & 1);
        if (!broke || !(rest || lost_too)) {
            fprintf(stderr, "message %u, bit %llu: got %x\n", which,
                    (unsigned long long)i, got);
            fail("a damaged frame was not thrown away alone");
        }
        go_on(message);
    }
}

int
main(void)
{
    ph_incoming message = {0};
    make_ring();
    uint64_t position = START;
    for (uint32_t i = 0; i < MESSAGES; i++) {
        flip_frame(i, position, sizeof(ph_frame) + i * sizeof(ph_span_id), &message);
        position += record_size(i, i * 150);
    }
    for (uint64_t offset = 0; offset < size; offset++) {
        uint64_t in_memory = offset - offsetof(ph_ring, memory);
        bool free = offset >= offsetof(ph_ring, memory)
                    && in_memory >= 2048 && in_memory < CAPACITY - 64;
        for (int bit = 0; bit < 8 && !free && !is_of_a_lock(offset); bit++) {
            flip(offset, bit, &message);
        }
    }
    ph_incoming_free(&message);
    printf("%llu flips harmless or of contents, %llu lost some, %llu lost all, %llu made "
           "the ring useless\n", (unsigned long long)figures.kept,
           (unsigned long long)figures.lost, (unsigned long long)figures.all_lost,
           (unsigned long long)figures.refused);
    return 0;
}
