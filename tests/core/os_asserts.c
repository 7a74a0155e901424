/* os_asserts.c -- breaks each precondition of core/os in a child, which must abort.

   The same calls with sound arguments come first, in the process itself.  Prints how many
   preconditions were broken. */

#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/os/datagram.h"
#include "core/os/os.h"
#include "core/os/page_faults.h"
#include "core/os/sync.h"

#define SIZE (4 * PH_PAGE)

static char *place;                 /* reserved addresses */
static int fd;
static ph_file_id file;
static union {
    ph_mutex mutex;
    _Atomic uint32_t word;
    char bytes[2 * sizeof(ph_mutex)];
} shared;

static void
check(bool sound, const char *what)
{
    if (!sound) {
        printf("%s: %s\n", what, strerror(errno));
        exit(1);
    }
}

static void
report(const void *address)
{
    (void)address;
}

static void
use_soundly(void)
{
    void *addr;
    check(ph_os_reserve(SIZE, &addr) == 0, "reserve");
    place = addr;
    check(ph_os_memfd(SIZE, &fd, &file) == 0, "memfd");
    check(ph_os_allocate(fd, 0, SIZE) == 0, "allocate");
    check(ph_os_map(place, PH_PAGE, fd, PH_PAGE, PH_MAP_SHARED) == 0, "map");
    ph_os_forget(place, PH_PAGE);
    ph_os_unmap(place, PH_PAGE);
    ph_os_punch(fd, PH_PAGE, PH_PAGE);
    ph_os_lock();
    check(ph_os_lock_byte(fd, 0) == 0, "lock a byte");
    ph_os_unlock_byte(fd, 0);
    ph_os_unlock();
    ph_table_free(ph_table_new(64), 64);
    ph_table_free(ph_table_new(4 * PH_MIB), 4 * PH_MIB);
    check(ph_os_pid_exists(ph_os_pid()), "this process exists");
    check(ph_mutex_init(&shared.mutex) == 0, "make a mutex");
    check(ph_mutex_lock(&shared.mutex, PH_FOREVER) == 0, "lock a mutex");
    ph_mutex_unlock(&shared.mutex);
}

/* A child of a thread that holds the process lock holds it too. */
static void
fork_with_lock(void)
{
    ph_os_lock();
    pid_t child = fork();
    if (child == 0) {
        bool held = ph_os_is_locked();
        ph_os_process_begins();
        ph_os_unlock();
        _exit(held && !ph_os_is_locked() && ph_os_process() != 0 ? 0 : 1);
    }
    ph_os_unlock();
    int status;
    check(waitpid(child, &status, 0) == child && status == 0, "fork with the lock");
}

static void
break_precondition(int number)
{
    void *addr;
    ph_first_write out;
    uint64_t lost = 0;
    static char ring[4 * PH_PAGE], bytes[300];
    switch (number) {
    case 0: (void)ph_os_reserve(1, &addr); break;
    case 1: (void)ph_os_reserve(SIZE, NULL); break;
    case 2: (void)ph_os_map(place + 1, PH_PAGE, fd, 0, PH_MAP_SHARED); break;
    case 3: (void)ph_os_map(place, PH_PAGE, fd, 8, PH_MAP_SHARED); break;
    case 4: (void)ph_os_map(place, 100, fd, 0, PH_MAP_SHARED); break;
    case 5: ph_os_unmap(place + 1, PH_PAGE); break;
    case 6: ph_os_forget(place, PH_PAGE - 1); break;
    case 7: ph_os_punch(fd, PH_PAGE, 100); break;
    case 8: (void)ph_os_allocate(fd, 0, 0); break;
    case 9: (void)ph_os_lock_byte(fd, 0); break;
    case 10: ph_os_unlock_byte(fd, 0); break;
    case 11: ph_os_lock(); ph_os_lock(); break;
    case 12: ph_os_unlock(); break;
    case 13: ph_os_process_begins(); break;
    case 14: (void)ph_os_process(); break;
    case 15: (void)ph_os_pid_exists(0); break;
    case 16: (void)ph_os_process_may_have(1, SIZE); break;
    case 17: (void)ph_os_on_segv(report); (void)ph_os_on_segv(report); break;
    case 18: (void)ph_table_new(24); break;
    case 19: (void)ph_os_random(bytes, sizeof(bytes)); break;
    case 20: (void)ph_mutex_init((ph_mutex *)(void *)(shared.bytes + 8)); break;
    case 21: ph_os_wake((_Atomic uint32_t *)(void *)(shared.bytes + 1)); break;
    case 22: (void)ph_os_take_faults(ring, sizeof(ring), &out, 1, &lost); break;
    case 23: (void)ph_os_notify(bytes, PH_NOTIFY_NAME + 1, 0); break;
    default: printf("%d preconditions\n", number); exit(0);
    }
}

int
main(void)
{
    struct rlimit none = {0, 0};
    check(setrlimit(RLIMIT_CORE, &none) == 0, "no core dumps");
    use_soundly();
    fork_with_lock();
    for (int number = 0;; number++) {
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            break_precondition(number);
            _exit(2);               /* nothing noticed */
        }
        int status;
        check(waitpid(child, &status, 0) == child, "wait");
        if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
            return 0;               /* there are no more */
        }
        if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT) {
            printf("precondition %d: status %d\n", number, status);
            return 1;
        }
    }
}
