/* datagram.c -- datagram.h for Linux.

   A socket for each datagram: a descriptor that is kept would be one more thing
   that programs which close all descriptors break, and whoever is woken like this
   pays far more for waking up than this costs. */

#define _GNU_SOURCE
#include "core/os/datagram.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

_Static_assert(PH_BELL_NAME < sizeof(((struct sockaddr_un *)0)->sun_path),
               "a name follows a zero byte");

int
ph_os_ring_bell(const char *name, size_t size, uint64_t word)
{
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
