/* notify.h -- waking threads that wait for several channels at once, or in an event loop:
   the meaning of the rings' watchers. */

#ifndef PH_RING_NOTIFY_H
#define PH_RING_NOTIFY_H

#include "core/os/datagram.h"
#include "core/ring/ring.h"

/* Have the rings notify such watchers (ph_ring_on_notify).  Another call changes
   nothing. */
void ph_notify_init(void);

/* Find this process's word in the family's shared memory, which grows and wakes with each
   notification, and the watcher that stands for it in a ring.  False when this process
   has no slot: then it is not woken. */
bool ph_notify_word(_Atomic uint32_t **p_word, uint64_t *p_watcher);

/* Return the watcher that stands in a ring for datagram socket `number` of this process.
   Write the abstract name that the socket of a watcher must have, without the zero byte in
   front, and return the name's size. */
uint64_t ph_notify_watcher(uint32_t number);
size_t ph_notify_name(uint64_t watcher, char name[PH_NOTIFY_NAME]);

#endif
