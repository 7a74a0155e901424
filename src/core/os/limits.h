/* limits.h -- how much this process may use, and how its user and the machine set it up.

   Conventions: os.h. */

#ifndef PH_OS_LIMITS_H
#define PH_OS_LIMITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Find how many bytes this process can still use before a memory cgroup (v1 or v2, its own
   or an ancestor) or the machine is full.  Returns EMFILE if there is no free descriptor to
   read that with. */
int ph_os_memory_available(uint64_t *p_available);
/* Return whether vm.overcommit_memory is 2. */
bool ph_os_strict_overcommit(void);
/* Return RLIMIT_FSIZE in bytes; UINT64_MAX if there is no limit. */
uint64_t ph_os_file_size_limit(void);
/* The same of RLIMIT_AS. */
uint64_t ph_os_address_limit(void);

/* Return whether an environment variable is set, and is neither "" nor "0". */
bool ph_os_env_flag(const char *name);
/* Fill with random bytes. [fault] */
int ph_os_random(void *buf, size_t size);

#endif
