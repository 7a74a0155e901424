/* datagram.c -- abstract sockets (unix(7)), one new socket for each datagram.

   A descriptor that is kept would break in programs that close all descriptors.  The
   process that is woken pays far more for waking up than a new socket costs.

   Invariants: no descriptor outlives the call, and the call never waits.  Forked children
   and other threads share nothing here. */

#define _GNU_SOURCE
#include "core/os/datagram.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

_Static_assert(PH_NOTIFY_NAME < sizeof(((struct sockaddr_un *)0)->sun_path),
               "a name has a zero byte before it");

int
ph_os_notify(const char *name, size_t size, uint64_t word)
{
    assert(size > 0 && size <= PH_NOTIFY_NAME);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path + 1, name, size);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return errno;
    }
    socklen_t length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + size);
    ssize_t sent = sendto(fd, &word, sizeof(word), MSG_NOSIGNAL,
                          (struct sockaddr *)&address, length);
    int err = sent < 0 ? errno : 0;
    close(fd);
    return err;
}
