/* signalled.c -- a fallocate() that a signal interrupts in the middle of each large call, as
   kernels before Linux 6.10 do.  For LD_PRELOAD. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>

#define UNINTERRUPTED (64 << 10)    /* bytes */

int
fallocate64(int fd, int mode, off_t offset, off_t size)
{
    if (mode == 0 && size > UNINTERRUPTED) {
        errno = EINTR;
        return -1;
    }
    int (*real)(int, int, off_t, off_t) = dlsym(RTLD_NEXT, "fallocate64");
    return real(fd, mode, offset, size);
}

int
fallocate(int fd, int mode, off_t offset, off_t size)
{
    return fallocate64(fd, mode, offset, size);
}
