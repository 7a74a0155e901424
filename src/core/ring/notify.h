/* notify.h -- what wakes those who wait for several channels at once, or in an event
   loop: the meaning of the rings' watchers. */

#ifndef PH_RING_NOTIFY_H
#define PH_RING_NOTIFY_H

#include "core/os/datagram.h"
#include "core/ring/ring.h"

/* Once per process: let the rings ring these bells. */
void ph_bells_init(void);

/* This process's word in the family's shared memory, which grows and wakes with each
   ring; and what a ring's table has for it.  False when this process has no place in
   the family's table: then nobody wakes it. */
bool ph_bell_word(_Atomic uint32_t **p_word, uint64_t *p_watcher);

/* A datagram socket of this process: what a ring's table has for it, and the
   abstract name that it must have, without the zero byte in front.  Returns the
   name's size. */
uint64_t ph_bell_watcher(uint32_t number);
size_t ph_bell_name(uint64_t watcher, char name[PH_BELL_NAME]);

#endif
