/* procfs.c -- reads small files that the kernel writes while they are read.

   Each file is opened, read by one read(2), and closed.  One read(2) is enough, and sees
   one state: the kernel makes the whole text at once.  The text is on the caller's
   stack, so nothing is allocated.  A child right after fork may call all of this, and
   so may a caller that holds a lock.

   A file may be missing, in a container or on another kernel; no error says why.  Each
   caller chooses the answer that is safe without the file. */

#define _GNU_SOURCE
#include "core/os/procfs.h"

#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool
ph_os_read_text(const char *path, char *buf, size_t size)
{
    assert(size > 1);               /* the zero byte, and what is before it */
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return false;
    }
    ssize_t n = read(fd, buf, size - 1);
    (void)close(fd);
    buf[n < 0 ? 0 : n] = '\0';
    return n > 0;
}

bool
ph_os_read_number(const char *dir, const char *file, uint64_t *p_value)
{
    assert(p_value != NULL);
    char path[4096 + 64], text[64];
    snprintf(path, sizeof(path), "%s/%s", dir, file);
    if (!ph_os_read_text(path, text, sizeof(text))) {
        return false;
    }
    char *end;
    *p_value = strtoull(text, &end, 10);    /* "max" is no number: no limit */
    return end != text;
}

uint64_t
ph_os_find_number(const char *text, const char *key)
{
    size_t n = strlen(key);
    assert(n > 0);
    for (const char *p = text; p != NULL; p = strchr(p, '\n')) {
        p += *p == '\n';
        if (strncmp(p, key, n) == 0) {
            return strtoull(p + n, NULL, 10);
        }
    }
    return 0;
}
