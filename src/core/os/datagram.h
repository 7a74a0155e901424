/* datagram.h -- datagrams that wake an event loop in another process.

   Conventions: os.h. */

#ifndef PH_OS_DATAGRAM_H
#define PH_OS_DATAGRAM_H

#include <stddef.h>
#include <stdint.h>

/* The most bytes that a name may have. */
#define PH_NOTIFY_NAME 100

/* Send a word to the abstract AF_UNIX socket of that name.  Does not wait.  Returns
   ECONNREFUSED if no process listens there, and EAGAIN if its queue is full: then it has
   enough to wake up for. */
int ph_os_notify(const char *name, size_t size, uint64_t word);

#endif
