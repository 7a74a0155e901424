/* process.c -- pids, /proc/PID/stat and maps, the words that name processes, SIGSEGV.

   A pid alone names nothing for long: the kernel reuses it.  So a process is named by a
   word of its pid and a time, in clock ticks since the boot:

       63            40 39                                   0
      |      pid       |  time (300 years fit, then it wraps)  |

   Two kinds of time are used:

     noted    when the heap began in the process: what it says of itself
     started  when the kernel started it, as /proc tells others

   A process starts before the heap begins in it, by fork or otherwise.  So a word with
   a noted time may be of a process that /proc shows with the same pid and a started time
   that is not later.  If it is later, another process has the pid now.

   Invariants:

   1. this_process is written only by ph_os_process_begins(), with the process lock held:
      once by the creator of the heap, and by each child in its fork handler.
   2. An answer errs towards "may": where /proc is hidden or cannot be read, a process
      counts as alive, with all its addresses.  No memory is given back too early.
   3. A child's fork handler may call all of this but ph_os_process_may_map() and
      ph_os_processes(), which allocate memory.

   Fields and states: proc_pid_stat(5), proc_pid_maps(5). */

#define _GNU_SOURCE
#include "core/os/process.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "core/os/process_lock.h"
#include "core/os/procfs.h"

/* --- Pids --------------------------------------------------------------------- */

int
ph_os_pid(void)
{
    return (int)getpid();
}

int
ph_os_parent_pid(void)
{
    return getppid();
}

bool
ph_os_pid_exists(int pid)
{
    assert(pid > 0);                /* others mean groups of processes */
    return kill((pid_t)pid, 0) == 0 || errno != ESRCH;
}

uint64_t
ph_os_pid_namespace(void)
{
    struct stat st;
    return stat("/proc/self/ns/pid", &st) == 0 ? st.st_ino : 0;
}

/* --- /proc/PID/stat ----------------------------------------------------------- */

/* The fields of proc_pid_stat(5) that are used here. */
typedef struct {
    char state;
    int parent, threads;
    uint64_t started;               /* in clock ticks since the boot */
    uint64_t addresses;             /* bytes */
} process_stat;

/* Parse what follows the command's name; the name itself may hold anything, also ')'. */
static bool
parse_process_stat(const char *text, process_stat *st)
{
    const char *p = strrchr(text, ')');
    if (p == NULL || p[1] != ' ' || p[2] == '\0') {
        return false;
    }
    st->state = p[2];
    char *at = (char *)p + 3;
    for (int field = 4; field <= 23; field++) {
        uint64_t value = strtoull(at, &at, 10);
        switch (field) {
        case 4: st->parent = (int)value; break;
        case 20: st->threads = (int)value; break;
        case 22: st->started = value; break;
        case 23: st->addresses = value; break;
        default: break;
        }
    }
    return *at == ' ';
}

static bool
read_process_stat(const char *pid, process_stat *st)
{
    char path[64], text[1024];
    snprintf(path, sizeof(path), "/proc/%.20s/stat", pid);
    return ph_os_read_text(path, text, sizeof(text)) && parse_process_stat(text, st);
}

/* Return whether all threads have ended.  The first one, which has the pid, may end before
   the others: then the state is 'Z' and the addresses are 0, but the process lives. */
static bool
is_zombie(const process_stat *st)
{
    return (st->state == 'Z' || st->state == 'X') && st->threads <= 1;
}

/* --- Process words ------------------------------------------------------------ */

#define TICKS_BITS 40               /* pids have up to 22 */
#define TICKS_MASK (((uint64_t)1 << TICKS_BITS) - 1)

static uint64_t this_process;       /* invariant 1; 0: not noted yet */

static uint64_t
make_process_word(int pid, uint64_t ticks)
{
    return (uint64_t)pid << TICKS_BITS | (ticks & TICKS_MASK);
}

static int
get_pid_of_word(uint64_t process)
{
    assert(process >> TICKS_BITS != 0);     /* every process word has a pid */
    return (int)(process >> TICKS_BITS);
}

/* Read the clock, in the unit, that the kernel notes the start of processes by. */
static uint64_t
read_boot_ticks(void)
{
    struct timespec now;
    if (clock_gettime(CLOCK_BOOTTIME, &now) != 0) {
        return TICKS_MASK;          /* later than any start: may be any of that pid */
    }
    uint64_t ticks = (uint64_t)sysconf(_SC_CLK_TCK);
    return (uint64_t)now.tv_sec * ticks + (uint64_t)now.tv_nsec * ticks / 1000000000u;
}

void
ph_os_process_begins(void)
{
    assert(ph_os_is_locked());
    this_process = make_process_word(ph_os_pid(), read_boot_ticks());
}

uint64_t
ph_os_process(void)
{
    assert(this_process != 0);      /* the heap has begun here */
    return this_process;
}

bool
ph_os_may_be(uint64_t process, uint64_t child)
{
    return process >> TICKS_BITS == child >> TICKS_BITS
           && (child & TICKS_MASK) <= (process & TICKS_MASK);
}

bool
ph_os_process_may_have(uint64_t process, uint64_t size)
{
    int pid = get_pid_of_word(process);
    char name[16];
    snprintf(name, sizeof(name), "%d", pid);
    process_stat st;
    if (!ph_os_pid_exists(pid)) {
        return false;
    }
    if (!read_process_stat(name, &st)) {
        return ph_os_pid_exists(pid);
    }
    if (is_zombie(&st) || !ph_os_may_be(process, make_process_word(pid, st.started))) {
        return false;
    }
    return st.state == 'Z' || st.addresses >= size;
}

bool
ph_os_process_may_map(uint64_t process, ph_file_id file)
{
    char path[64], *line = NULL;
    size_t size = 0;
    snprintf(path, sizeof(path), "/proc/%d/maps", get_pid_of_word(process));
    FILE *maps = fopen(path, "re");
    bool found = maps == NULL && errno != ENOENT && errno != ESRCH;
    while (maps != NULL && !found && getline(&line, &size, maps) > 0) {
        unsigned int major, minor;
        unsigned long inode;
        found = sscanf(line, "%*s %*s %*s %x:%x %lu", &major, &minor, &inode) == 3
                && inode == file.inode && makedev(major, minor) == file.device;
    }
    free(line);
    if (maps != NULL) {
        (void)fclose(maps);
    }
    return found;
}

/* Return whether /proc shows all processes.  Where hidepid (proc(5)) hides some, it hides
   process 1 too. */
static bool
can_see_all_processes(void)
{
    process_stat st;
    return read_process_stat("1", &st);
}

int
ph_os_processes(int parent, uint64_t size, uint64_t *found, int most)
{
    assert(parent >= 0 && most > 0);
    DIR *dir = parent != 0 || can_see_all_processes() ? opendir("/proc") : NULL;
    if (dir == NULL) {
        return -1;
    }
    int n = 0;
    struct dirent *entry;
    while ((entry = readdir(dir)) != NULL) {
        process_stat st;
        if (entry->d_name[0] < '1' || entry->d_name[0] > '9'
            || !read_process_stat(entry->d_name, &st) || is_zombie(&st)
            || (parent != 0 && st.parent != parent)
            || (st.state != 'Z' && st.addresses < size)) {
            continue;
        }
        if (n < most) {
            found[n] = make_process_word(atoi(entry->d_name), st.started);
        }
        n++;
    }
    (void)closedir(dir);
    return n;
}

/* --- SIGSEGV ------------------------------------------------------------------ */

/* Written once, by ph_os_on_segv(), and read by the handler. */
static void (*segv_report)(const void *address);
static struct sigaction segv_before;

static void
handle_segv(int number, siginfo_t *info, void *context)
{
    int err = errno;
    segv_report(info->si_addr);
    errno = err;
    if (segv_before.sa_flags & SA_SIGINFO) {
        segv_before.sa_sigaction(number, info, context);
    }
    else if (segv_before.sa_handler != SIG_DFL && segv_before.sa_handler != SIG_IGN) {
        segv_before.sa_handler(number);
    }
    else {
        (void)sigaction(SIGSEGV, &segv_before, NULL);   /* the access repeats */
    }
}

int
ph_os_on_segv(void (*report)(const void *address))
{
    assert(report != NULL);
    assert(segv_report == NULL);    /* a second time, the handler would call itself */
    struct sigaction action = {.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    action.sa_sigaction = handle_segv;
    segv_report = report;
    if (sigaction(SIGSEGV, NULL, &segv_before) < 0) {
        return errno;
    }
    return sigaction(SIGSEGV, &action, NULL) < 0 ? errno : 0;
}

void
ph_os_say(const char *text, size_t size)
{
    ssize_t n = write(STDERR_FILENO, text, size);
    (void)n;
}

