/* page_faults.h -- what the trace of first writes needs of the kernel.

   Conventions as in os.h. */

#ifndef PH_OS_PAGE_FAULTS_H
#define PH_OS_PAGE_FAULTS_H

#include "core/os/os.h"

/* A write that made a page of a process's memory its own. */
typedef struct {
    uint64_t time;                  /* ns, CLOCK_MONOTONIC */
    uint64_t address;               /* that was written to */
    uint64_t instruction;           /* of the process, not of the kernel */
    uint32_t pid, tid;
    uint32_t by_kernel;             /* on behalf of the process: a system call */
    uint32_t reserved;              /* 0 */
} ph_first_write;

/* Start to record the page faults, on one processor, of this thread and of all
   threads and processes that it starts from now on, until they exec.  With
   `kernel` also those of the kernel on their behalf, which takes a privilege
   (EACCES).  The records go to a ring: map 1 + 2^n pages of the descriptor,
   shared.  ENODEV: there is no such processor, or it is off. [fault] */
int ph_os_record_faults(int cpu, bool kernel, int *p_fd);

/* Take up to n records out of a ring of `size` bytes as it is mapped.  Adds to
   *p_lost how many the kernel had no room for.  One process per ring. */
size_t ph_os_take_faults(void *ring, size_t size, ph_first_write *out, size_t n,
                         uint64_t *p_lost);

/* Map a file shared, wherever there is room. [fault] */
int ph_os_map_shared(int fd, size_t size, void **p_addr);

/* The text of /proc/self/maps; without malloc, for a child right after fork.
   Truncated to `size`. [fault] */
int ph_os_read_maps(char *buf, size_t size, size_t *p_used);

/* Where this process has private writable addresses (by the text of its maps)
   without a page behind them: [start, end) of up to `most` gaps.  What faults
   there is no write to something inherited. [fault] */
typedef struct {
    uint64_t start, end;
} ph_gap;
int ph_os_absent_pages(const char *maps, size_t size, ph_gap *gaps, size_t most,
                       size_t *p_n);

#endif
