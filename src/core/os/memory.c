/* memory.c -- os.h for Linux: memfd_create, mmap, fallocate, record locks,
   cgroups.  Numbers come from the kernel's documentation (man7, and
   Documentation/admin-guide/cgroup-v2.rst). */

#define _GNU_SOURCE
#include "core/os/os.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_POPULATE_READ          /* Linux 5.14; older kernels say EINVAL */
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

/* --- Fault injection ----------------------------------------------------- */

static atomic_long fault_countdown;     /* 0: disarmed; 1: the next call fails */
static atomic_bool fault_persistent;
static atomic_bool fault_fired;

void
ph_fault_arm(long n, bool persistent)
{
    atomic_store(&fault_fired, false);
    atomic_store(&fault_persistent, persistent);
    atomic_store(&fault_countdown, n);
}

bool
ph_fault_fired(void)
{
    return atomic_load(&fault_fired);
}

static bool
fault_due(void)
{
    if (atomic_load(&fault_countdown) > 1) {
        atomic_fetch_sub(&fault_countdown, 1);
        return false;
    }
    if (!atomic_load(&fault_persistent)) {
        atomic_store(&fault_countdown, 0);
    }
    atomic_store(&fault_fired, true);
    return true;
}

bool
ph_fault(void)
{
    return atomic_load_explicit(&fault_countdown, memory_order_relaxed) != 0
           && fault_due();
}

static atomic_long death_countdown;     /* 0: disarmed; 1: the next point */

void
ph_death_arm(long n)
{
    atomic_store(&death_countdown, n);
}

void
ph_death_point(void)
{
    if (atomic_load_explicit(&death_countdown, memory_order_relaxed) != 0
        && atomic_fetch_sub(&death_countdown, 1) == 1) {
        (void)kill(getpid(), SIGKILL);
    }
}

/* --- Address space and mappings ------------------------------------------ */

int
ph_os_reserve(size_t size, void **p_addr)
{
    if (ph_fault()) {
        return ENOMEM;
    }
    void *p = mmap(NULL, size, PROT_NONE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        return errno;
    }
    *p_addr = p;
    return 0;
}

void
ph_os_release(void *addr, size_t size)
{
    (void)munmap(addr, size);
}

int
ph_os_map(void *addr, size_t size, int fd, uint64_t offset, ph_map_kind kind)
{
    if (ph_fault()) {
        return ENOMEM;
    }
    int prot = kind == PH_MAP_READONLY ? PROT_READ : PROT_READ | PROT_WRITE;
    int flags = kind == PH_MAP_SHARED ? MAP_SHARED : MAP_PRIVATE;
    void *p = mmap(addr, size, prot, flags | MAP_FIXED, fd, (off_t)offset);
    return p == MAP_FAILED ? errno : 0;
}

void
ph_os_unmap(void *addr, size_t size)
{
    (void)mmap(addr, size, PROT_NONE,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

int
ph_os_dontfork(void *addr, size_t size)
{
    if (ph_fault()) {
        return ENOMEM;
    }
    return madvise(addr, size, MADV_DONTFORK) < 0 ? errno : 0;
}

void
ph_os_forget(void *addr, size_t size)
{
    (void)madvise(addr, size, MADV_DONTNEED);
}

void
ph_os_populate_read(void *addr, size_t size)
{
    (void)madvise(addr, size, MADV_POPULATE_READ);
}

void
ph_os_populate_write(void *addr, size_t size)
{
    (void)madvise(addr, size, MADV_POPULATE_WRITE);
}

/* --- The file ------------------------------------------------------------ */

int
ph_os_memfd(uint64_t size, int *p_fd, ph_file_id *p_id)
{
    if (ph_fault()) {
        return ENOSYS;
    }
    int fd = memfd_create("permaheap", MFD_CLOEXEC);
    if (fd < 0) {
        return errno;
    }
    struct stat st;
    if (ftruncate(fd, (off_t)size) < 0 || fstat(fd, &st) < 0) {
        int err = errno;
        (void)close(fd);
        return err;
    }
    *p_id = (ph_file_id){st.st_dev, st.st_ino};
    *p_fd = fd;
    return 0;
}

int
ph_os_memfd_of(const char *name, const void *data, size_t size, int *p_fd)
{
    if (ph_fault()) {
        return ENOSYS;
    }
    int fd = memfd_create(name, MFD_CLOEXEC);
    if (fd < 0) {
        return errno;
    }
    for (size_t done = 0; done < size;) {
        ssize_t n = write(fd, (const char *)data + done, size - done);
        if (n < 0 && errno != EINTR) {
            int err = errno;
            (void)close(fd);
            return err;
        }
        done += n > 0 ? (size_t)n : 0;
    }
    *p_fd = fd;
    return 0;
}

bool
ph_os_is_file(int fd, ph_file_id id)
{
    struct stat st;
    return fstat(fd, &st) == 0 && st.st_dev == id.device && st.st_ino == id.inode;
}

void
ph_os_close(int fd)
{
    (void)close(fd);
}

int
ph_os_allocate(int fd, uint64_t offset, uint64_t size)
{
    if (ph_fault()) {
        return ENOSPC;
    }
    while (fallocate(fd, 0, (off_t)offset, (off_t)size) < 0) {
        if (errno != EINTR) {
            return errno;
        }
    }
    return 0;
}

void
ph_os_punch(int fd, uint64_t offset, uint64_t size)
{
    (void)fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                    (off_t)offset, (off_t)size);
}

int
ph_os_pread(int fd, void *buf, size_t size, uint64_t offset)
{
    ssize_t n = pread(fd, buf, size, (off_t)offset);
    return n == (ssize_t)size ? 0 : n < 0 ? errno : EIO;
}

int
ph_os_lock_byte(int fd, uint64_t offset)
{
    struct flock lock = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET,
        .l_start = (off_t)offset, .l_len = 1,
    };
    if (fcntl(fd, F_SETLK, &lock) == 0) {
        return 0;
    }
    return errno == EACCES ? EAGAIN : errno;
}

void
ph_os_unlock_byte(int fd, uint64_t offset)
{
    struct flock lock = {
        .l_type = F_UNLCK, .l_whence = SEEK_SET,
        .l_start = (off_t)offset, .l_len = 1,
    };
    (void)fcntl(fd, F_SETLK, &lock);
}

/* --- The process and its limits ------------------------------------------- */

int
ph_os_pid(void)
{
    return (int)getpid();
}

bool
ph_os_pid_exists(int pid)
{
    return kill((pid_t)pid, 0) == 0 || errno != ESRCH;
}

int
ph_os_random(void *buf, size_t size)
{
    if (ph_fault()) {
        return EAGAIN;
    }
    return getrandom(buf, size, 0) == (ssize_t)size ? 0 : errno;
}

bool
ph_os_env_flag(const char *name)
{
    const char *value = getenv(name);
    return value != NULL && value[0] != '\0' && strcmp(value, "0") != 0;
}

uint64_t
ph_os_file_size_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_FSIZE, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY) {
        return UINT64_MAX;
    }
    return limit.rlim_cur;
}

/* Read a small file of /proc or /sys; false when it is not there. */
static bool
read_text(const char *path, char *buf, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return false;
    }
    ssize_t n = read(fd, buf, size - 1);
    (void)close(fd);
    buf[n < 0 ? 0 : n] = '\0';
    return n > 0;
}

/* What proc_pid_stat(5) tells of a process. */
typedef struct {
    char state;
    int parent, threads;
    uint64_t started;               /* in clock ticks since the boot */
    uint64_t addresses;             /* bytes */
} process_stat;

/* The fields follow the command's name, which may hold anything. */
static bool
parse_stat(const char *text, process_stat *st)
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
read_stat(const char *pid, process_stat *st)
{
    char path[64], text[1024];
    snprintf(path, sizeof(path), "/proc/%.20s/stat", pid);
    return read_text(path, text, sizeof(text)) && parse_stat(text, st);
}

/* A thread may live on when the first one, which has the pid, has ended. */
static bool
is_zombie(const process_stat *st)
{
    return (st->state == 'Z' || st->state == 'X') && st->threads <= 1;
}

/* Pids have up to 22 bits; 2**40 ticks are 300 years. */
#define STARTED_BITS 40
#define STARTED_MASK (((uint64_t)1 << STARTED_BITS) - 1)

static uint64_t
process_word(int pid, uint64_t started)
{
    return (uint64_t)pid << STARTED_BITS | (started & STARTED_MASK);
}

/* The kernel's unit of a process's start, and its clock (proc_pid_stat(5)). */
static uint64_t
ticks_since_boot(void)
{
    struct timespec now;
    if (clock_gettime(CLOCK_BOOTTIME, &now) != 0) {
        return STARTED_MASK;
    }
    uint64_t ticks = (uint64_t)sysconf(_SC_CLK_TCK);
    return (uint64_t)now.tv_sec * ticks + (uint64_t)now.tv_nsec * ticks / 1000000000u;
}

static uint64_t this_process;

void
ph_os_process_begins(void)
{
    this_process = process_word(ph_os_pid(), ticks_since_boot());
}

uint64_t
ph_os_process(void)
{
    return this_process;
}

/* Who was started after `process` said who it is has only the same pid. */
bool
ph_os_may_be(uint64_t process, uint64_t child)
{
    return process >> STARTED_BITS == child >> STARTED_BITS
           && (child & STARTED_MASK) <= (process & STARTED_MASK);
}

int
ph_os_parent_pid(void)
{
    return getppid();
}

bool
ph_os_process_may_have(uint64_t process, uint64_t size)
{
    int pid = (int)(process >> STARTED_BITS);
    char name[16];
    snprintf(name, sizeof(name), "%d", pid);
    process_stat st;
    if (!ph_os_pid_exists(pid)) {
        return false;
    }
    if (!read_stat(name, &st)) {
        return ph_os_pid_exists(pid);
    }
    if (is_zombie(&st) || !ph_os_may_be(process, process_word(pid, st.started))) {
        return false;
    }
    return st.state == 'Z' || st.addresses >= size;
}

bool
ph_os_process_may_map(uint64_t process, ph_file_id file)
{
    char path[64], *line = NULL;
    size_t size = 0;
    snprintf(path, sizeof(path), "/proc/%d/maps", (int)(process >> STARTED_BITS));
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

/* With hidepid(5) who sees little does not see the first process either. */
static bool
sees_all(void)
{
    process_stat st;
    return read_stat("1", &st);
}

int
ph_os_processes(int parent, uint64_t size, uint64_t *found, int most)
{
    DIR *dir = parent != 0 || sees_all() ? opendir("/proc") : NULL;
    if (dir == NULL) {
        return -1;
    }
    int n = 0;
    struct dirent *entry;
    while ((entry = readdir(dir)) != NULL) {
        process_stat st;
        if (entry->d_name[0] < '1' || entry->d_name[0] > '9'
            || !read_stat(entry->d_name, &st) || is_zombie(&st)
            || (parent != 0 && st.parent != parent)
            || (st.state != 'Z' && st.addresses < size)) {
            continue;
        }
        if (n < most) {
            found[n] = process_word(atoi(entry->d_name), st.started);
        }
        n++;
    }
    (void)closedir(dir);
    return n;
}

uint64_t
ph_os_pid_namespace(void)
{
    struct stat st;
    return stat("/proc/self/ns/pid", &st) == 0 ? st.st_ino : 0;
}

static bool
read_number(const char *dir, const char *file, uint64_t *p_value)
{
    char path[4096 + 64], text[64];
    snprintf(path, sizeof(path), "%s/%s", dir, file);
    if (!read_text(path, text, sizeof(text))) {
        return false;
    }
    char *end;
    *p_value = strtoull(text, &end, 10);    /* "max" is no number: no limit */
    return end != text;
}

/* The number behind `key` at the start of a line of text, or 0. */
static uint64_t
text_field(const char *text, const char *key)
{
    size_t n = strlen(key);
    for (const char *p = text; p != NULL; p = strchr(p, '\n')) {
        p += *p == '\n';
        if (strncmp(p, key, n) == 0) {
            return strtoull(p + n, NULL, 10);
        }
    }
    return 0;
}

bool
ph_os_strict_overcommit(void)
{
    uint64_t mode = 0;
    return read_number("/proc/sys/vm", "overcommit_memory", &mode) && mode == 2;
}

/* What files of one cgroup version are called.  File pages on the LRU lists
   can be reclaimed, so they do not count as used; a memfd's pages are not on
   them. */
typedef struct {
    const char *mount, *limit, *usage, *inactive, *active;
} cgroup_names;

static const cgroup_names cgroup_v2 = {
    "/sys/fs/cgroup", "memory.max", "memory.current",
    "inactive_file ", "active_file ",
};
static const cgroup_names cgroup_v1 = {
    "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
    "total_inactive_file ", "total_active_file ",
};

static uint64_t
cgroup_headroom(const char *dir, const cgroup_names *names)
{
    uint64_t limit, usage;
    if (!read_number(dir, names->limit, &limit)
        || !read_number(dir, names->usage, &usage)) {
        return UINT64_MAX;
    }
    char path[4096 + 64], text[8192];
    snprintf(path, sizeof(path), "%s/memory.stat", dir);
    uint64_t reclaimable = 0;
    if (read_text(path, text, sizeof(text))) {
        reclaimable = text_field(text, names->inactive)
                      + text_field(text, names->active);
    }
    usage -= reclaimable < usage ? reclaimable : usage;
    return limit > usage ? limit - usage : 0;
}

/* The smallest headroom of the cgroup `path` and its ancestors.  In a
   container the path may be the host's: the mount's root then is our own. */
static uint64_t
cgroup_chain_headroom(const char *path, const cgroup_names *names)
{
    char dir[4096];
    int n = snprintf(dir, sizeof(dir), "%s%s", names->mount, path);
    if (n < 0 || (size_t)n >= sizeof(dir)) {
        return UINT64_MAX;
    }
    size_t root = strlen(names->mount);
    uint64_t headroom = UINT64_MAX;
    for (;;) {
        uint64_t here = cgroup_headroom(dir, names);
        headroom = here < headroom ? here : headroom;
        char *slash = strrchr(dir, '/');
        if (slash == NULL || (size_t)(slash - dir) < root) {
            return headroom;
        }
        *slash = '\0';
    }
}

/* /proc/self/cgroup has a line "0::/path" for v2, and for v1
   "4:memory:/path", where the second field may list several controllers. */
static uint64_t
cgroup_line_headroom(char *line)
{
    char *controllers = strchr(line, ':');
    char *path = controllers ? strchr(controllers + 1, ':') : NULL;
    if (path == NULL) {
        return UINT64_MAX;
    }
    *path++ = '\0';
    controllers++;
    if (strcmp(path, "/") == 0) {
        path = "";
    }
    if (*controllers == '\0') {
        return cgroup_chain_headroom(path, &cgroup_v2);
    }
    return strstr(controllers, "memory") != NULL
           ? cgroup_chain_headroom(path, &cgroup_v1) : UINT64_MAX;
}

static uint64_t
machine_headroom(void)
{
    char text[4096];
    if (!read_text("/proc/meminfo", text, sizeof(text))) {
        return UINT64_MAX;
    }
    return (text_field(text, "MemAvailable:") + text_field(text, "SwapFree:"))
           * PH_KIB;
}

uint64_t
ph_os_memory_available(void)
{
    uint64_t headroom = machine_headroom();
    char text[4096], *save = NULL;
    if (!read_text("/proc/self/cgroup", text, sizeof(text))) {
        return headroom;
    }
    for (char *line = strtok_r(text, "\n", &save); line != NULL;
         line = strtok_r(NULL, "\n", &save)) {
        uint64_t here = cgroup_line_headroom(line);
        headroom = here < headroom ? here : headroom;
    }
    return headroom;
}

/* --- Signals --------------------------------------------------------------- */

static void (*segv_report)(const void *address);
static struct sigaction segv_before;

static void
on_segv(int number, siginfo_t *info, void *context)
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
        (void)sigaction(SIGSEGV, &segv_before, NULL);   /* it comes again */
    }
}

int
ph_os_on_segv(void (*report)(const void *address))
{
    struct sigaction action = {.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    action.sa_sigaction = on_segv;
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

/* --- Lock and fork --------------------------------------------------------- */

static pthread_mutex_t process_lock = PTHREAD_MUTEX_INITIALIZER;

void
ph_os_lock(void)
{
    (void)pthread_mutex_lock(&process_lock);
}

void
ph_os_unlock(void)
{
    (void)pthread_mutex_unlock(&process_lock);
}

int
ph_os_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void))
{
    return pthread_atfork(prepare, parent, child);
}

/* --- Raw memory ------------------------------------------------------------ */

void *
ph_malloc(size_t size)
{
    return ph_fault() ? NULL : malloc(size);
}

void *
ph_realloc(void *p, size_t size)
{
    return ph_fault() ? NULL : realloc(p, size);
}

void *
ph_calloc(size_t n, size_t size)
{
    return ph_fault() ? NULL : calloc(n, size);
}

void
ph_free(void *p)
{
    free(p);
}

/* --- Tables ---------------------------------------------------------------- */

#define HUGE_PAGE (2 * PH_MIB)

/* Map a little more than is needed, and give back what is not aligned. */
static void *
map_huge(size_t size)
{
    char *p = mmap(NULL, size + HUGE_PAGE, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        return NULL;
    }
    size_t front = (HUGE_PAGE - (uintptr_t)p % HUGE_PAGE) % HUGE_PAGE;
    if (front > 0) {
        (void)munmap(p, front);
    }
    (void)munmap(p + front + size, HUGE_PAGE - front);
    (void)madvise(p + front, size, MADV_HUGEPAGE);
    return p + front;
}

void *
ph_table_new(size_t size)
{
    if (ph_fault()) {
        return NULL;
    }
    return size < HUGE_PAGE ? calloc(1, size) : map_huge(size);
}

void
ph_table_free(void *table, size_t size)
{
    if (table == NULL || size < HUGE_PAGE) {
        free(table);
    }
    else {
        (void)munmap(table, size);
    }
}
