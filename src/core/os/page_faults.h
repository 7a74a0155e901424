/* page_faults.h -- page faults of this process and its children, recorded by the kernel.

   Conventions: os.h. */

#ifndef PH_OS_PAGE_FAULTS_H
#define PH_OS_PAGE_FAULTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* --- Recording ---------------------------------------------------------------- */

/* A write that gave a process a page of its own. */
typedef struct {
    uint64_t time;                  /* ns, CLOCK_MONOTONIC */
    uint64_t address;               /* the byte that was written to */
    uint64_t instruction;           /* of the process, not of the kernel */
    uint32_t pid, tid;
    uint32_t by_kernel;             /* 1: a system call of the process wrote */
    uint32_t reserved;              /* 0 */
} ph_first_write;

/* Record the page faults, on one processor, of this thread and of all threads and
   processes that it starts from now on, until they call exec().  With `kernel`, also
   record faults inside their system calls, which takes a privilege (EACCES).  Returns
   ENODEV if there is no such processor, or it is off.

   The records go to a ring: map 1 + 2**n pages of the descriptor, shared. [fault] */
int ph_os_record_faults(int cpu, bool kernel, int *p_fd);

/* Take up to n records out of a ring, which is mapped with `size` bytes.  Adds to *p_lost
   the number of those that the kernel had no room for.  One thread at a time per ring. */
size_t ph_os_take_faults(void *ring, size_t size, ph_first_write *out, size_t n,
                         uint64_t *p_lost);

/* --- Mappings and absent pages ------------------------------------------------ */

/* Read the text of /proc/self/maps, cut off after `size` bytes.  Allocates nothing, so
   that a child may call it right after fork. [fault] */
int ph_os_read_maps(char *buf, size_t size, size_t *p_used);

/* A range of addresses without pages behind them: [start, end). */
typedef struct {
    uint64_t start, end;
} ph_gap;
/* Find up to `most` gaps in the private writable mappings of this process, which the text
   of its maps names.  A fault in a gap is no write to something inherited. [fault] */
int ph_os_absent_pages(const char *maps, size_t size, ph_gap *gaps, size_t most,
                       size_t *p_n);

#endif
