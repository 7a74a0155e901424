/* memory.c -- mmap(2), memfd_create(2), fallocate(2), record locks, malloc(3).

   The heap is one range of addresses.  Each piece of it is in one of two states:

                          ph_os_map()
       reserved          ------------>     mapped over the reservation,
       without memory    <------------     to part of the file
                         ph_os_unmap()

   The file is a memfd, which forked children inherit.  Its memory is allocated before
   use (ph_os_allocate()), because an access beyond a limit would be a SIGBUS.  Memory
   is given back only with ph_os_punch() and ph_os_punch_mapped().

   Invariants:

   1. The range stays reserved until ph_os_release().  ph_os_map() and ph_os_unmap() only
      replace what is there (MAP_FIXED).  No hole appears that another mmap() could take.
   2. Mappings and punched ranges are whole pages.  The kernel would round others, and so
      affect a neighbour, or refuse them.
   3. The caller of ph_os_lock_byte() and ph_os_unlock_byte() holds the process lock: the
      kernel grants a record lock to the process, and so to each of its threads.
   4. A core dump, or gcore, reads no mapping of the heap's file: reading a hole of it
      allocates memory, which no process would give back.

   Raw memory is the C library's.  Large tables are mapped, so that they can be aligned
   to huge pages. */

#define _GNU_SOURCE
#include "core/os/memory.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/os/fault.h"
#include "core/os/process_lock.h"
#include "core/os/units.h"

#ifndef MADV_POPULATE_READ          /* Linux 5.14; older kernels say EINVAL */
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

#define HUGE_PAGE (2 * PH_MIB)
#define PIECE_MOST (4 * PH_MIB)     /* bytes that one fallocate(2) allocates */

/* --- Address space ------------------------------------------------------------ */

int
ph_os_reserve(size_t size, void **p_addr)
{
    assert(ph_is_whole_pages(0, size));
    assert(p_addr != NULL);
    if (ph_fault()) {
        return ENOMEM;
    }
    void *p = mmap(NULL, size, PROT_NONE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        return errno;
    }
    *p_addr = p;
    return 0;
}

void
ph_os_release(void *addr, size_t size)
{
    assert(ph_is_whole_pages((uintptr_t)addr, size));
    (void)munmap(addr, size);
}

int
ph_os_map(void *addr, size_t size, int fd, uint64_t offset, ph_map_kind kind)
{
    assert(ph_is_whole_pages((uintptr_t)addr, size));
    assert(ph_is_whole_pages(offset, size));
    if (ph_fault()) {
        return ENOMEM;
    }
    int prot = kind == PH_MAP_READONLY ? PROT_READ : PROT_READ | PROT_WRITE;
    int flags = kind == PH_MAP_SHARED ? MAP_SHARED : MAP_PRIVATE;
    void *p = mmap(addr, size, prot, flags | MAP_FIXED | MAP_NORESERVE, fd, (off_t)offset);
    if (p == MAP_FAILED) {
        return errno;
    }
    (void)madvise(addr, size, MADV_DONTDUMP);       /* invariant 4 */
    return 0;
}

int
ph_os_permit(void *addr, size_t size, bool access)
{
    assert(ph_is_whole_pages((uintptr_t)addr, size));
    return mprotect(addr, size, access ? PROT_READ | PROT_WRITE : PROT_NONE) < 0 ? errno : 0;
}

void
ph_os_unmap(void *addr, size_t size)
{
    assert(ph_is_whole_pages((uintptr_t)addr, size));
    (void)mmap(addr, size, PROT_NONE,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

int
ph_os_map_shared(int fd, size_t size, void **p_addr)
{
    assert(ph_is_whole_pages(0, size));
    assert(p_addr != NULL);
    if (ph_fault()) {
        return ENOMEM;
    }
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
                   fd, 0);
    if (p == MAP_FAILED) {
        return errno;
    }
    *p_addr = p;
    return 0;
}

int
ph_os_dontfork(void *addr, size_t size)
{
    assert(ph_is_whole_pages((uintptr_t)addr, size));
    if (ph_fault()) {
        return ENOMEM;
    }
    return madvise(addr, size, MADV_DONTFORK) < 0 ? errno : 0;
}

void
ph_os_forget(void *addr, size_t size)
{
    assert(ph_is_whole_pages((uintptr_t)addr, size));
    (void)madvise(addr, size, MADV_DONTNEED);
}

void
ph_os_populate_read(void *addr, size_t size)
{
    assert(ph_is_whole_pages((uintptr_t)addr, size));
    (void)madvise(addr, size, MADV_POPULATE_READ);
}

void
ph_os_populate_write(void *addr, size_t size)
{
    assert(ph_is_whole_pages((uintptr_t)addr, size));
    (void)madvise(addr, size, MADV_POPULATE_WRITE);
}

/* --- The file ----------------------------------------------------------------- */

int
ph_os_memfd(uint64_t size, int *p_fd, ph_file_id *p_id)
{
    assert(ph_is_whole_pages(0, size));
    assert(p_fd != NULL && p_id != NULL);
    if (ph_fault()) {
        return ENOSYS;
    }
    int fd = memfd_create("permaheap", MFD_CLOEXEC);
    if (fd < 0) {
        return errno;
    }
    struct stat st;
    if (ftruncate(fd, (off_t)size) < 0 || fstat(fd, &st) < 0) {
        int err = errno;
        (void)close(fd);
        return err;
    }
    *p_id = (ph_file_id){st.st_dev, st.st_ino};
    *p_fd = fd;
    return 0;
}

int
ph_os_memfd_of(const char *name, const void *data, size_t size, int *p_fd)
{
    assert(p_fd != NULL);
    if (ph_fault()) {
        return ENOSYS;
    }
    int fd = memfd_create(name, MFD_CLOEXEC);
    if (fd < 0) {
        return errno;
    }
    for (size_t done = 0; done < size;) {
        ssize_t n = write(fd, (const char *)data + done, size - done);
        if (n < 0 && errno != EINTR) {
            int err = errno;
            (void)close(fd);
            return err;
        }
        done += n > 0 ? (size_t)n : 0;
    }
    *p_fd = fd;
    return 0;
}

bool
ph_os_is_file(int fd, ph_file_id id)
{
    struct stat st;
    return fstat(fd, &st) == 0 && st.st_dev == id.device && st.st_ino == id.inode;
}

void
ph_os_close(int fd)
{
    assert(fd >= 0);
    (void)close(fd);
}

/* Before Linux 6.10 a signal undoes all that a call has done so far.  Under a timer a large
   range would never be allocated: so pieces, and smaller ones after each signal. */
int
ph_os_allocate(int fd, uint64_t offset, uint64_t size)
{
    assert(size > 0);               /* fallocate(2) refuses an empty range */
    if (ph_fault()) {
        return ENOSPC;
    }
    uint64_t end = offset + size, piece = PIECE_MOST;
    while (offset < end) {
        uint64_t n = end - offset < piece ? end - offset : piece;
        if (fallocate(fd, 0, (off_t)offset, (off_t)n) == 0) {
            offset += n;
        }
        else if (errno != EINTR) {
            return errno;
        }
        else if (piece > PH_PAGE) {
            piece /= 2;
        }
    }
    return 0;
}

int
ph_os_punch(int fd, uint64_t offset, uint64_t size)
{
    assert(ph_is_whole_pages(offset, size));    /* else zeros, not holes */
    if (ph_fault()) {
        return EIO;
    }
    while (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                     (off_t)offset, (off_t)size) < 0) {
        if (errno != EINTR) {
            return errno;
        }
    }
    return 0;
}

int
ph_os_punch_mapped(void *addr, size_t size)
{
    assert(ph_is_whole_pages((uintptr_t)addr, size));
    if (ph_fault()) {
        return EIO;
    }
    return madvise(addr, size, MADV_REMOVE) < 0 ? errno : 0;
}

int
ph_os_pread(int fd, void *buf, size_t size, uint64_t offset)
{
    ssize_t n = pread(fd, buf, size, (off_t)offset);
    return n == (ssize_t)size ? 0 : n < 0 ? errno : EIO;
}

int
ph_os_lock_byte(int fd, uint64_t offset)
{
    assert(ph_os_is_locked());      /* invariant 3 */
    struct flock lock = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET,
        .l_start = (off_t)offset, .l_len = 1,
    };
    if (fcntl(fd, F_SETLK, &lock) == 0) {
        return 0;
    }
    return errno == EACCES ? EAGAIN : errno;
}

void
ph_os_unlock_byte(int fd, uint64_t offset)
{
    assert(ph_os_is_locked());
    struct flock lock = {
        .l_type = F_UNLCK, .l_whence = SEEK_SET,
        .l_start = (off_t)offset, .l_len = 1,
    };
    (void)fcntl(fd, F_SETLK, &lock);
}

/* --- Raw memory --------------------------------------------------------------- */

void *
ph_malloc(size_t size)
{
    return ph_fault() ? NULL : malloc(size);
}

void *
ph_realloc(void *p, size_t size)
{
    return ph_fault() ? NULL : realloc(p, size);
}

void *
ph_calloc(size_t n, size_t size)
{
    return ph_fault() ? NULL : calloc(n, size);
}

void
ph_free(void *p)
{
    free(p);
}

/* --- Tables ------------------------------------------------------------------- */

/* Map one huge page more than is needed, and unmap the parts that are not aligned. */
static void *
map_huge_pages(size_t size)
{
    char *p = mmap(NULL, size + HUGE_PAGE, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        return NULL;
    }
    size_t front = (HUGE_PAGE - (uintptr_t)p % HUGE_PAGE) % HUGE_PAGE;
    if (front > 0) {
        (void)munmap(p, front);
    }
    (void)munmap(p + front + size, HUGE_PAGE - front);
    (void)madvise(p + front, size, MADV_HUGEPAGE);
    return p + front;
}

void *
ph_table_new(size_t size)
{
    assert(size > 0 && (size & (size - 1)) == 0);       /* then huge pages divide it */
    if (ph_fault()) {
        return NULL;
    }
    return size < HUGE_PAGE ? calloc(1, size) : map_huge_pages(size);
}

void
ph_table_free(void *table, size_t size)
{
    assert(table == NULL || (size & (size - 1)) == 0);
    if (table == NULL || size < HUGE_PAGE) {
        free(table);
    }
    else {
        (void)munmap(table, size);
    }
}
