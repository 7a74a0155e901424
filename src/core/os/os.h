/* os.h -- every system call and every raw allocation of the core.

   No other file of the core calls the kernel.  Conventions, for all
   functions below unless they say otherwise:

   - they return 0 when done and an errno value (> 0) when not, and never
     touch Python;
   - addresses and lengths of mappings are multiples of PH_PAGE;
   - they may be called with the heap's lock held and without the GIL.

   Fault injection: each call marked [fault] first asks ph_fault(), which a
   test can arm to make the n-th call fail (SQLite and CPython's
   _testcapi.set_nomemory do the same).  Disarmed it costs one predictable
   branch beside a system call. */

#ifndef PH_OS_H
#define PH_OS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PH_PAGE 4096u               /* granularity of extents, in bytes */
#define PH_KIB ((uint64_t)1 << 10)
#define PH_MIB ((uint64_t)1 << 20)
#define PH_GIB ((uint64_t)1 << 30)

/* How a piece of the heap's file is mapped. */
typedef enum {
    PH_MAP_PRIVATE,                 /* copy-on-write: stray writes stay ours */
    PH_MAP_READONLY,                /* stray writes are SIGSEGV */
    PH_MAP_SHARED,                  /* the builder's and the header's view */
} ph_map_kind;

/* Address space without memory behind it. [fault] */
int ph_os_reserve(size_t size, void **p_addr);
void ph_os_release(void *addr, size_t size);

/* An anonymous file of `size` bytes, close-on-exec, inherited by fork.  The
   identity tells it from whatever may later get the same number. [fault] */
typedef struct {
    uint64_t device, inode;
} ph_file_id;
int ph_os_memfd(uint64_t size, int *p_fd, ph_file_id *p_id);
/* Another one, with a name and a content of its own. [fault] */
int ph_os_memfd_of(const char *name, const void *data, size_t size, int *p_fd);
bool ph_os_is_file(int fd, ph_file_id id);
void ph_os_close(int fd);

/* Map part of the file over reserved addresses, or give them back to the
   reservation (which cannot fail for addresses that are mapped). [fault] */
int ph_os_map(void *addr, size_t size, int fd, uint64_t offset, ph_map_kind kind);
void ph_os_unmap(void *addr, size_t size);
/* Keep a mapping out of forked children. [fault] */
int ph_os_dontfork(void *addr, size_t size);
/* Take pages of a mapping out of this process's resident size; best effort.  What
   the file has comes back from there; private memory reads as zeros. */
void ph_os_forget(void *addr, size_t size);
/* Fault pages in ahead of use; best effort, since reading does it as well. */
void ph_os_populate_read(void *addr, size_t size);
void ph_os_populate_write(void *addr, size_t size);

/* Memory for [offset, offset + size) of the file, now rather than by SIGBUS
   later; and giving it back. [fault] */
int ph_os_allocate(int fd, uint64_t offset, uint64_t size);
void ph_os_punch(int fd, uint64_t offset, uint64_t size);
int ph_os_pread(int fd, void *buf, size_t size, uint64_t offset);

/* A record lock on one byte of the file: held until this process dies, and
   not inherited by fork.  Returns EAGAIN when another process holds it. */
int ph_os_lock_byte(int fd, uint64_t offset);
void ph_os_unlock_byte(int fd, uint64_t offset);
int ph_os_pid(void);
bool ph_os_pid_exists(int pid);

/* This process, told from others that had its pid before: the pid, and the time when
   the heap came to it, which is noted by the first of these, in a child too.  Never 0.
   Takes no look into /proc, which costs a new process as much as all the rest of being
   forked. */
void ph_os_process_begins(void);
uint64_t ph_os_process(void);
/* Could that process still have `size` bytes of addresses?  False only when it
   has surely ended, or has fewer: by exec it begins anew. */
bool ph_os_process_may_have(uint64_t process, uint64_t size);
/* Could it have that file mapped?  False only when it surely has not. */
bool ph_os_process_may_map(uint64_t process, ph_file_id file);
/* Up to `most` processes that have so many addresses, or may, zombies left out: their pids,
   and the times when they were started.  Children of `parent`, or of anybody (0).  How
   many there are, or -1 when that cannot be told. */
int ph_os_processes(int parent, uint64_t size, uint64_t *found, int most);
/* Can that child be who said that it is that process? */
bool ph_os_may_be(uint64_t process, uint64_t child);
int ph_os_parent_pid(void);         /* 0: it is in another namespace */
/* The namespace that its pid belongs to; 0 when that cannot be told. */
uint64_t ph_os_pid_namespace(void);

/* Have `report` called first on each SIGSEGV, with the address.  Then whatever
   was to be done before is done.  Once per process. */
int ph_os_on_segv(void (*report)(const void *address));
/* Write to stderr, also in a signal handler. */
void ph_os_say(const char *text, size_t size);

int ph_os_random(void *buf, size_t size);                       /* [fault] */
/* Bytes that may still be charged to this process before a memory cgroup (v1
   or v2, its own or an ancestor) or the machine is full. */
uint64_t ph_os_memory_available(void);
bool ph_os_strict_overcommit(void);         /* vm.overcommit_memory == 2 */
uint64_t ph_os_file_size_limit(void);       /* RLIMIT_FSIZE, in bytes */
bool ph_os_env_flag(const char *name);      /* set, and neither "" nor "0" */

/* The process-wide lock, and hooks around fork() of any thread. */
void ph_os_lock(void);
void ph_os_unlock(void);
int ph_os_atfork(void (*prepare)(void), void (*parent)(void),
                 void (*child)(void));

/* Raw memory: NULL when there is none. [fault] */
void *ph_malloc(size_t size);
void *ph_realloc(void *p, size_t size);
void *ph_calloc(size_t n, size_t size);
void ph_free(void *p);

/* A zeroed table of `size` bytes, a power of two: in huge pages when it is
   large, since it is read at random.  NULL when there is no memory. [fault] */
void *ph_table_new(size_t size);
void ph_table_free(void *table, size_t size);

/* The C library's heap, where it is glibc's, in the main thread's arena: give
   whole free pages back to the kernel; take the small free chunks between those in
   use (they form a list through themselves, from `first`), and give them back. */
typedef struct {
    void *first;
    uint64_t number, bytes;
} ph_free_chunks;
void ph_os_trim(void);
void ph_os_take_free(ph_free_chunks *taken);
void ph_os_give_back(ph_free_chunks *taken);

/* Arm: the n-th next [fault] call fails (and all later ones if persistent);
   n = 0 disarms.  Fired: whether one has failed since it was armed. */
void ph_fault_arm(long n, bool persistent);
bool ph_fault_fired(void);
/* Arm: at the n-th next death point this process is killed; n = 0 disarms.  Death
   points are between the steps of changes that have to be whole also then. */
void ph_death_arm(long n);
void ph_death_point(void);

/* For os_*.c: is this call the one to fail? */
bool ph_fault(void);

#endif
