/* memory.h -- mappings, the heap's file, and raw memory.

   Conventions: os.h. */

#ifndef PH_OS_MEMORY_H
#define PH_OS_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* --- Address space ------------------------------------------------------------ */

/* How part of the heap's file is mapped. */
typedef enum {
    PH_MAP_PRIVATE,                 /* copy-on-write: a stray write stays in this process */
    PH_MAP_READONLY,                /* a stray write is a SIGSEGV */
    PH_MAP_SHARED,                  /* of the header, and of a window to build through */
} ph_map_kind;

/* Reserve address space without memory behind it. [fault] */
int ph_os_reserve(size_t size, void **p_addr);
void ph_os_release(void *addr, size_t size);

/* Map part of the file over reserved addresses. [fault] */
int ph_os_map(void *addr, size_t size, int fd, uint64_t offset, ph_map_kind kind);
/* Permit access to a shared mapping, or forbid it: mlockall() allocates what may be read. */
int ph_os_permit(void *addr, size_t size, bool access);
/* Return addresses to the reservation.  Cannot fail for addresses that are mapped. */
void ph_os_unmap(void *addr, size_t size);
/* Map a file shared from its start, wherever there is room. [fault] */
int ph_os_map_shared(int fd, size_t size, void **p_addr);
/* Keep a mapping out of forked children. [fault] */
int ph_os_dontfork(void *addr, size_t size);

/* Take pages out of this process's resident size.  The next access reads them from the
   file again, or as zeros where the memory is private.  Best effort. */
void ph_os_forget(void *addr, size_t size);
/* Fault pages in ahead of use.  Best effort: an access would do the same. */
void ph_os_populate_read(void *addr, size_t size);
void ph_os_populate_write(void *addr, size_t size);

/* --- The file ----------------------------------------------------------------- */

/* Tells an open file from any other that gets the same descriptor later. */
typedef struct {
    uint64_t device, inode;
} ph_file_id;

/* Create an anonymous file of `size` bytes: close-on-exec, inherited by fork. [fault] */
int ph_os_memfd(uint64_t size, int *p_fd, ph_file_id *p_id);
/* Create such a file with a name and a content of its own. [fault] */
int ph_os_memfd_of(const char *name, const void *data, size_t size, int *p_fd);
/* Return whether the descriptor still is that file. */
bool ph_os_is_file(int fd, ph_file_id id);
void ph_os_close(int fd);
int ph_os_pread(int fd, void *buf, size_t size, uint64_t offset);

/* Allocate memory for part of the file: a failure is an errno value here, instead of
   SIGBUS on a later access.  After a failure some of it may have memory. [fault] */
int ph_os_allocate(int fd, uint64_t offset, uint64_t size);
/* Give the memory of whole pages of the file back; then they read as zeros. [fault] */
int ph_os_punch(int fd, uint64_t offset, uint64_t size);
/* The same through a mapping of kind PH_MAP_SHARED: needs no descriptor.  Fails for pages
   that the program has locked (mlock). [fault] */
int ph_os_punch_mapped(void *addr, size_t size);

/* Lock one byte of the file until this process unlocks it or dies; a child does not
   inherit the lock.  Returns EAGAIN if another process holds it.  The process lock must
   be held: a record lock does not exclude other threads of the process. */
int ph_os_lock_byte(int fd, uint64_t offset);
void ph_os_unlock_byte(int fd, uint64_t offset);

/* --- Raw memory --------------------------------------------------------------- */

/* Allocate as the C library does; NULL if there is no memory. [fault] */
void *ph_malloc(size_t size);
void *ph_realloc(void *p, size_t size);
void *ph_calloc(size_t n, size_t size);
void ph_free(void *p);

/* Return a zeroed table, NULL if there is no memory.  `size` is a power of two.  A large
   table is in huge pages, since it is read at random. [fault] */
void *ph_table_new(size_t size);
/* Free a table, or NULL.  `size` must be the size that the table was made with. */
void ph_table_free(void *table, size_t size);

#endif
