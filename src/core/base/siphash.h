/* siphash.h -- a keyed hash of a few words. */

#ifndef PH_BASE_SIPHASH_H
#define PH_BASE_SIPHASH_H

#include <stddef.h>
#include <stdint.h>

/* Return SipHash-2-4 of n words, in the order of their bytes in memory on a little-endian
   machine.  O(n). */
uint64_t ph_siphash(const uint64_t key[2], const uint64_t *words, size_t n);

#endif
