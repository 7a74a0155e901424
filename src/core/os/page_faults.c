/* page_faults.c -- reads the page faults that the kernel records as performance events.

   After a fork all private memory is there, shared and write-protected: a fault in it is a
   first write.  The event "minor page faults", with a period of one, gives the address and
   the instruction of each.  It leaves the process as it is: nothing more is protected, no
   signal is delivered, no system call fails.  (A handler of SIGSEGV on read-only memory
   would see the same writes, but a read(2) into such memory fails with EFAULT.)

   The kernel writes records into a ring, which perf_event_open(2) describes:

      page 0                    2**n pages
      | data_head, data_tail |  ... | records not yet read | ... |
                                    ^ data_tail            ^ data_head

   Invariants:

   1. Only the kernel writes data_head and the records; only ph_os_take_faults() writes
      data_tail.  Both only grow; modulo the size of the data they are positions in it.
   2. The kernel never waits for the reader.  It counts the records that find no room, and
      says so in a record of its own.
   3. A record may continue at the start of the ring, so it is copied out before it is
      read.  A record that cannot be one makes the reader skip all that is there. */

#define _GNU_SOURCE
#include "core/os/page_faults.h"

#include <asm/perf_regs.h>
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "core/os/fault.h"
#include "core/os/units.h"

#ifdef __x86_64__
#define INSTRUCTION_POINTER PERF_REG_X86_IP
#else
#define INSTRUCTION_POINTER PERF_REG_ARM64_PC
#endif

/* --- Recording ---------------------------------------------------------------- */

/* The record that make_fault_event() asks for; perf_event_open(2) gives the order. */
typedef struct {
    struct perf_event_header head;
    uint64_t ip;
    uint32_t pid, tid;
    uint64_t time;
    uint64_t address;
    uint64_t abi;                   /* 0: no registers follow */
    uint64_t user_ip;
} fault_record;

typedef struct {
    struct perf_event_header head;
    uint64_t id, lost;
} lost_record;

_Static_assert(sizeof(lost_record) <= sizeof(fault_record), "one copy holds either");

static struct perf_event_attr
make_fault_event(bool kernel)
{
    return (struct perf_event_attr){
        .size = sizeof(struct perf_event_attr),
        .type = PERF_TYPE_SOFTWARE,
        .config = PERF_COUNT_SW_PAGE_FAULTS_MIN,
        .sample_period = 1,
        .sample_type = PERF_SAMPLE_IP | PERF_SAMPLE_TID | PERF_SAMPLE_TIME
                       | PERF_SAMPLE_ADDR | PERF_SAMPLE_REGS_USER,
        .sample_regs_user = UINT64_C(1) << INSTRUCTION_POINTER,
        .use_clockid = 1,
        .clockid = CLOCK_MONOTONIC,
        .inherit = 1,
        .remove_on_exec = 1,
        .exclude_kernel = !kernel,
        .exclude_hv = 1,
    };
}

int
ph_os_record_faults(int cpu, bool kernel, int *p_fd)
{
    assert(p_fd != NULL);
    if (ph_fault()) {
        return ENOSYS;
    }
    struct perf_event_attr attr = make_fault_event(kernel);
    long fd = syscall(SYS_perf_event_open, &attr, 0, cpu, -1, PERF_FLAG_FD_CLOEXEC);
    if (fd < 0) {
        return errno;
    }
    *p_fd = (int)fd;
    return 0;
}

/* Copy `size` bytes at a position, past the end of the ring to its start. */
static void
copy_from_ring(const char *data, uint64_t mask, uint64_t at, void *to, size_t size)
{
    size_t first = (size_t)(mask + 1 - (at & mask));
    first = first < size ? first : size;
    memcpy(to, data + (at & mask), first);
    memcpy((char *)to + first, data, size - first);
}

static ph_first_write
make_first_write(const fault_record *record)
{
    bool kernel = (record->head.misc & PERF_RECORD_MISC_CPUMODE_MASK)
                  == PERF_RECORD_MISC_KERNEL;
    return (ph_first_write){
        .time = record->time,
        .address = record->address,
        .instruction = record->abi != 0 ? record->user_ip : kernel ? 0 : record->ip,
        .pid = record->pid,
        .tid = record->tid,
        .by_kernel = kernel,
    };
}

size_t
ph_os_take_faults(void *ring, size_t size, ph_first_write *out, size_t n,
                  uint64_t *p_lost)
{
    assert(size > PH_PAGE && ((size - PH_PAGE) & (size - PH_PAGE - 1)) == 0);
    struct perf_event_mmap_page *page = ring;
    const char *data = (const char *)ring + PH_PAGE;
    uint64_t mask = size - PH_PAGE - 1, at = page->data_tail;
    uint64_t head = __atomic_load_n(&page->data_head, __ATOMIC_ACQUIRE);
    size_t taken = 0;
    while (at != head && taken < n) {
        fault_record record = {.abi = 0};
        copy_from_ring(data, mask, at, &record.head, sizeof(record.head));
        size_t length = record.head.size;
        if (length < sizeof(record.head)) {
            at = head;              /* damaged: invariant 3 */
            break;
        }
        copy_from_ring(data, mask, at, &record,
                       length < sizeof(record) ? length : sizeof(record));
        if (record.head.type == PERF_RECORD_SAMPLE) {
            out[taken++] = make_first_write(&record);
        }
        else if (record.head.type == PERF_RECORD_LOST) {
            lost_record lost;
            memcpy(&lost, &record, sizeof(lost));
            *p_lost += lost.lost;
        }
        at += length;
    }
    __atomic_store_n(&page->data_tail, at, __ATOMIC_RELEASE);
    return taken;
}

/* --- Mappings and absent pages ------------------------------------------------ */

int
ph_os_read_maps(char *buf, size_t size, size_t *p_used)
{
    assert(p_used != NULL);
    if (ph_fault()) {
        return EMFILE;
    }
    int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return errno;
    }
    size_t used = 0;
    ssize_t n = 1;
    while (n > 0 && used < size) {
        n = read(fd, buf + used, size - used);
        if (n < 0 && errno == EINTR) {
            n = 1;
            continue;
        }
        used += n > 0 ? (size_t)n : 0;
    }
    int err = n < 0 ? errno : 0;
    (void)close(fd);
    *p_used = used;
    return err;
}

/* proc_pid_pagemap(5): present, or swapped. */
#define PAGEMAP_THERE (UINT64_C(3) << 62)

typedef struct {
    ph_gap *gaps;
    size_t n, most;
} gap_list;

/* Add a page to the last gap if it follows that, else as a new gap.  A gap beyond `most`
   is lost: a fault in it then counts as a write. */
static void
add_absent_page(gap_list *list, uint64_t address)
{
    if (list->n > 0 && list->gaps[list->n - 1].end == address) {
        list->gaps[list->n - 1].end += PH_PAGE;
    }
    else if (list->n < list->most) {
        list->gaps[list->n++] = (ph_gap){address, address + PH_PAGE};
    }
}

/* Add the pages of [start, end) that are not there. */
static int
add_absent_pages(gap_list *list, int pagemap, uint64_t start, uint64_t end)
{
    uint64_t entries[256];
    assert(start % PH_PAGE == 0 && end % PH_PAGE == 0);
    while (start < end) {
        uint64_t pages = (end - start) / PH_PAGE;
        size_t size = (size_t)(pages < 256 ? pages : 256) * sizeof(uint64_t);
        ssize_t n = pread(pagemap, entries, size, (off_t)(start / PH_PAGE * 8));
        if (n <= 0) {
            return n < 0 ? errno : EIO;
        }
        for (size_t i = 0; i < (size_t)n / sizeof(uint64_t); i++, start += PH_PAGE) {
            if ((entries[i] & PAGEMAP_THERE) == 0) {
                add_absent_page(list, start);
            }
        }
    }
    return 0;
}

/* Read a number in lower-case hexadecimal digits, and move the text behind it. */
static uint64_t
read_hex(const char **p_text, const char *end)
{
    uint64_t value = 0;
    for (; *p_text < end; (*p_text)++) {
        char c = **p_text;
        if (c >= '0' && c <= '9') {
            value = value << 4 | (uint64_t)(c - '0');
        }
        else if (c >= 'a' && c <= 'f') {
            value = value << 4 | (uint64_t)(c - 'a' + 10);
        }
        else {
            break;
        }
    }
    return value;
}

int
ph_os_absent_pages(const char *maps, size_t size, ph_gap *gaps, size_t most,
                   size_t *p_n)
{
    assert(p_n != NULL);
    if (ph_fault()) {
        return EACCES;
    }
    int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (pagemap < 0) {
        return errno;
    }
    gap_list list = {gaps, 0, most};
    int err = 0;
    const char *text = maps, *end = maps + size;
    while (text != NULL && end - text > 32 && err == 0) {
        uint64_t from = read_hex(&text, end);
        text++;                     /* "from-to rw-p ..." */
        uint64_t to = read_hex(&text, end);
        if (end - text > 5 && memcmp(text, " rw", 3) == 0 && text[4] == 'p') {
            err = add_absent_pages(&list, pagemap, from, to);
        }
        text = memchr(text, '\n', (size_t)(end - text));
        text += text != NULL;
    }
    (void)close(pagemap);
    *p_n = list.n;
    return err;
}
