/* ring_stand_ins.c -- stands in for the heap, the journal and the spans.

   As simple as ring.c allows, so that ring.c can be tested alone. */

#define _GNU_SOURCE
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "core/span/journal.h"
#include "core/ring/ring.h"

static _Thread_local char words[256];

ph_status
ph_fail(ph_status status, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(words, sizeof(words), format, arguments);
    va_end(arguments);
    return status;
}

const char *
ph_error_text(void)
{
    return words;
}

void *
ph_malloc(size_t size)
{
    return malloc(size);
}

void
ph_free(void *p)
{
    free(p);
}

/* Called once for each lock that a dead owner left: drivers may count them. */
_Atomic uint64_t *ring_mended;

ph_status
ph_journal_mend(void)
{
    if (ring_mended != NULL) {
        atomic_fetch_add(ring_mended, 1);
    }
    return PH_OK;
}

void (*ph_span_empty_channel)(void *memory, void (*drop)(ph_span_id id));

/* Span 0 does not exist; the others always do. */
static ph_status
move_with(const ph_span_id *ids, uint32_t n, _Atomic uint64_t *position, uint64_t value)
{
    for (uint32_t i = 0; i < n; i++) {
        if (ids[i].index == 0) {
            return ph_fail(PH_BAD_HANDLE, "no such span");
        }
    }
    atomic_store_explicit(position, value, memory_order_release);
    return PH_OK;
}

ph_status
ph_spans_publish(const ph_span_id *ids, uint32_t n, _Atomic uint64_t *position,
                 uint64_t value)
{
    return move_with(ids, n, position, value);
}

ph_status
ph_spans_take(const ph_span_id *ids, uint32_t n, _Atomic uint64_t *position,
              uint64_t value)
{
    return move_with(ids, n, position, value);
}

#if defined(__SANITIZE_THREAD__)
/* ThreadSanitizer does not know this one: it would take the lock for free. */
int
pthread_mutex_clocklock(pthread_mutex_t *mutex, clockid_t clock,
                        const struct timespec *until)
{
    struct timespec now, real;
    clock_gettime(clock, &now);
    clock_gettime(CLOCK_REALTIME, &real);
    int64_t rest = (until->tv_sec - now.tv_sec) * 1000000000
                   + (until->tv_nsec - now.tv_nsec) + real.tv_nsec;
    if (rest < 0) {
        return pthread_mutex_timedlock(mutex, &(struct timespec){0});
    }
    real.tv_sec += rest / 1000000000;
    real.tv_nsec = rest % 1000000000;
    return pthread_mutex_timedlock(mutex, &real);
}
#endif
