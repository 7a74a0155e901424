/* limits.c -- cgroups, resource limits, the environment, random bytes.

   Available memory is the smallest headroom of all that bound this process:

     machine      MemAvailable + SwapFree of /proc/meminfo
     cgroups      limit - (usage - file pages), of each cgroup from this process's own
                  up to the root of the mount; v2, and v1's memory controller

   The kernel can reclaim file pages on its LRU lists, so they do not count as used.
   The pages of a memfd are not on those lists: the heap's own memory counts.

   Invariants:

   1. Nothing is cached here: each call asks the kernel, with a dozen small files for the
      memory.  The callers decide how long an answer holds.
   2. A limit that cannot be read is no limit.  The kernel enforces it anyway.  Only when
      the process, or the machine, has no free descriptor is there no answer at all.

   The names of files and fields come from the kernel's documentation
   (admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst) and proc(5). */

#define _GNU_SOURCE
#include "core/os/limits.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>

#include "core/os/fault.h"
#include "core/os/procfs.h"
#include "core/os/units.h"

/* --- Settings ----------------------------------------------------------------- */

bool
ph_os_strict_overcommit(void)
{
    uint64_t mode = 0;
    return ph_os_read_number("/proc/sys/vm", "overcommit_memory", &mode) && mode == 2;
}

static uint64_t
soft_limit(int resource)
{
    struct rlimit limit;
    if (getrlimit(resource, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY) {
        return UINT64_MAX;
    }
    return limit.rlim_cur;
}

uint64_t
ph_os_file_size_limit(void)
{
    return soft_limit(RLIMIT_FSIZE);
}

uint64_t
ph_os_address_limit(void)
{
    return soft_limit(RLIMIT_AS);
}

bool
ph_os_env_flag(const char *name)
{
    const char *value = getenv(name);
    return value != NULL && value[0] != '\0' && strcmp(value, "0") != 0;
}

int
ph_os_random(void *buf, size_t size)
{
    assert(size <= 256);            /* getrandom(2): so much is never cut short */
    if (ph_fault()) {
        return EAGAIN;
    }
    return getrandom(buf, size, 0) == (ssize_t)size ? 0 : errno;
}

/* --- Available memory --------------------------------------------------------- */

/* The names that one version of cgroups gives to its files and fields. */
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

/* Note in *p_short whether a file could not be read for want of a descriptor. */
static bool
read_text(const char *path, char *buf, size_t size, bool *p_short)
{
    errno = 0;
    bool read = ph_os_read_text(path, buf, size);
    *p_short |= !read && (errno == EMFILE || errno == ENFILE);
    return read;
}

static bool
read_number(const char *dir, const char *file, uint64_t *p_value, bool *p_short)
{
    errno = 0;
    bool read = ph_os_read_number(dir, file, p_value);
    *p_short |= !read && (errno == EMFILE || errno == ENFILE);
    return read;
}

static uint64_t
measure_cgroup(const char *dir, const cgroup_names *names, bool *p_short)
{
    uint64_t limit, usage;
    if (!read_number(dir, names->limit, &limit, p_short)
        || !read_number(dir, names->usage, &usage, p_short)) {
        return UINT64_MAX;
    }
    char path[4096 + 64], text[8192];
    snprintf(path, sizeof(path), "%s/memory.stat", dir);
    uint64_t reclaimable = 0;
    if (read_text(path, text, sizeof(text), p_short)) {
        reclaimable = ph_os_find_number(text, names->inactive)
                      + ph_os_find_number(text, names->active);
    }
    usage -= reclaimable < usage ? reclaimable : usage;
    return limit > usage ? limit - usage : 0;
}

/* Return the smallest headroom of the cgroup `path` and its ancestors.  In a container
   `path` may be the host's, and not be there: then the mount's root is the process's own
   cgroup. */
static uint64_t
measure_cgroup_and_ancestors(const char *path, const cgroup_names *names, bool *p_short)
{
    char dir[4096];
    int n = snprintf(dir, sizeof(dir), "%s%s", names->mount, path);
    if (n < 0 || (size_t)n >= sizeof(dir)) {
        return UINT64_MAX;
    }
    size_t root = strlen(names->mount);
    uint64_t headroom = UINT64_MAX;
    for (;;) {
        uint64_t here = measure_cgroup(dir, names, p_short);
        headroom = here < headroom ? here : headroom;
        char *slash = strrchr(dir, '/');
        if (slash == NULL || (size_t)(slash - dir) < root) {
            return headroom;
        }
        *slash = '\0';
    }
}

/* Measure what a line of /proc/self/cgroup names: "0::/path" for v2, "4:memory:/path"
   for v1, whose second field may list several controllers.  Changes the line. */
static uint64_t
measure_cgroup_line(char *line, bool *p_short)
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
        return measure_cgroup_and_ancestors(path, &cgroup_v2, p_short);
    }
    return strstr(controllers, "memory") != NULL
           ? measure_cgroup_and_ancestors(path, &cgroup_v1, p_short) : UINT64_MAX;
}

static uint64_t
measure_machine(bool *p_short)
{
    char text[4096];
    if (!read_text("/proc/meminfo", text, sizeof(text), p_short)) {
        return UINT64_MAX;
    }
    return (ph_os_find_number(text, "MemAvailable:")
            + ph_os_find_number(text, "SwapFree:")) * PH_KIB;
}

static uint64_t
measure_cgroups(bool *p_short)
{
    uint64_t headroom = UINT64_MAX;
    char text[4096], *save = NULL;
    if (!read_text("/proc/self/cgroup", text, sizeof(text), p_short)) {
        return headroom;
    }
    for (char *line = strtok_r(text, "\n", &save); line != NULL;
         line = strtok_r(NULL, "\n", &save)) {
        uint64_t here = measure_cgroup_line(line, p_short);
        headroom = here < headroom ? here : headroom;
    }
    return headroom;
}

int
ph_os_memory_available(uint64_t *p_available)
{
    assert(p_available != NULL);
    bool is_short = false;
    uint64_t machine = measure_machine(&is_short), cgroups = measure_cgroups(&is_short);
    *p_available = machine < cgroups ? machine : cgroups;
    return is_short ? EMFILE : 0;
}
