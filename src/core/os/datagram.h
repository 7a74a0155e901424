/* datagram.h -- datagrams that wake an event loop in another process. */

#ifndef PH_OS_DATAGRAM_H
#define PH_OS_DATAGRAM_H

#include <stddef.h>
#include <stdint.h>

/* Most bytes of a name. */
#define PH_BELL_NAME 100

/* Send a word to the abstract AF_UNIX socket of that name, if anybody listens
   there.  Does not wait.  Returns 0 or errno: ECONNREFUSED when nobody listens,
   EAGAIN when so many are on the way that one more says nothing new. */
int ph_os_ring_bell(const char *name, size_t size, uint64_t word);

#endif
