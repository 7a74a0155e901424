/* heap.h -- the permanent heap: one range of addresses, backed by one file
   that forks inherit, read by everybody and written only by builders.

   Knows nothing of Python.  heap.c explains the design; block.c builds
   blocks in it; everything else reads. */

#ifndef PH_HEAP_H
#define PH_HEAP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/base/status.h"
#include "core/os/os.h"

/* Kinds of frozen object, for the counters of stats(). */
typedef enum {
    PH_KIND_INT, PH_KIND_FLOAT, PH_KIND_COMPLEX, PH_KIND_STR, PH_KIND_BYTES,
    PH_KIND_TUPLE, PH_KIND_MAPPING, PH_KIND_FROZENSET, PH_KIND_RANGE,
    PH_KIND_SLICE, PH_KIND_DATE, PH_KIND_TIME, PH_KIND_DATETIME,
    PH_KIND_TIMEDELTA, PH_KIND_TIMEZONE,
    PH_KIND_KEYS,           /* a table of keys that dicts of one shape share */
    PH_KINDS
} ph_kind;

extern const char *const ph_kind_names[PH_KINDS];

/* What an extent holds, for life: permanent blocks; or spans, which the whole family
   maps MAP_SHARED, readable and writable, and which span_table.c cuts up. */
typedef enum { PH_EXTENT_PERMANENT = 1, PH_EXTENT_SPANS = 2 } ph_extent_kind;

#define PH_MAX_EXTENTS 16384u
#define PH_EXTENT_UNIT PH_MIB       /* extents start and end at multiples */

/* A piece of the heap that one process at a time fills from the front.
   All offsets are in bytes from the heap's base.  64 bytes, in the header. */
typedef struct {
    _Atomic uint64_t offset;    /* where it starts; 0: not claimed yet.  Set
                                   last, once, by the claimer */
    uint64_t size;              /* bytes; of PH_EXTENT_UNIT; never changes */
    _Atomic uint64_t filled;    /* bytes of committed blocks at its front; grows,
                                   until the extent is used anew; written by the
                                   owner */
    _Atomic int32_t owner;      /* pid of who may build here */
    int32_t kind;               /* ph_extent_kind; never changes */
    /* When a block spills into this extent from another: that the extent is
       filled up to spill_filled if the block was committed (invariant 5). */
    _Atomic uint64_t spill_block;   /* offset of the block's header, or 0 */
    uint64_t spill_nonce;           /* that header's nonce */
    uint64_t spill_filled;          /* bytes */
    _Atomic uint64_t gone;      /* bytes of blocks that are gone; about right */
} ph_extent;

/* A process of the family, in the table of processes.c. */
typedef struct {
    _Atomic uint64_t process;   /* who (ph_os_process); 0: the slot is free */
    _Atomic uint64_t ready;     /* == process once its row is written */
    _Atomic uint64_t unborn;    /* low half: its forks whose child is not ready
                                   yet; high: how often that was settled, or the
                                   slot taken */
    _Atomic uint64_t has_row;   /* its row has memory; else it is all zeros */
    _Atomic uint64_t seen;      /* it can see blocks with lower numbers only */
    _Atomic uint64_t holds;     /* spans that it holds: bits of it in their table */
    _Atomic uint32_t bell;      /* who waits for several channels sleeps here: notify.c */
    uint32_t unused[3];         /* a cache line for each */
} ph_member;

#define PH_MEMBERS 1024u

/* A released block that waits until nobody can see it: see release.c. */
typedef struct {
    _Atomic uint64_t block;     /* offset of its home segment; 0: free */
    _Atomic uint64_t stamp;     /* number of this retirement */
    _Atomic uint64_t nonce;     /* that home's, */
    _Atomic uint64_t number;    /* and its number: written before `block` */
} ph_retired;

#define PH_RETIRED 1024u        /* so many at a time */

/* The first pages of the file, mapped MAP_SHARED by the whole family. */
typedef struct {
    uint64_t magic;             /* PH_MAGIC */
    uint64_t size;              /* bytes reserved, this header included */
    uint8_t family[16];         /* random name of the family */
    uint64_t key[2];            /* SipHash key of the handles' tags */
    uint64_t directory;         /* offset of the page directory */
    uint64_t ledger;            /* offset of the ledger: block_table.c */
    uint64_t ledger_words;      /* how many blocks it has room for */
    uint64_t rows;              /* offset of the members' rows: processes.c */
    uint64_t journal;           /* offset of the journal: journal.c */
    uint64_t spans;             /* offset of the table of spans: span_table.c */
    uint64_t namespace;         /* that the pids belong to */
    uint64_t first;             /* offset of the first extent */
    _Atomic uint64_t landmark;  /* address that must be the same in the whole
                                   family: layout.c's, set by who is first */
    /* Below: written by any process of the family, atomically. */
    _Atomic uint64_t claimed;   /* offset of the first byte never claimed */
    _Atomic uint32_t extents;   /* entries of extent[] in use */
    _Atomic uint64_t published; /* commits so far: readers refresh on change */
    _Atomic uint64_t blocks;    /* committed and not released; one off for each
                                   process killed right after it did either */
    _Atomic uint64_t numbered;  /* blocks that have a number in the ledger */
    _Atomic uint64_t released;  /* bytes of released blocks; likewise */
    _Atomic uint64_t released_blocks;
    _Atomic uint64_t reused;    /* bytes of them whose addresses are used anew */
    _Atomic uint64_t returned;  /* bytes of memory given back */
    _Atomic uint64_t stamps;    /* retirements so far */
    _Atomic uint64_t retired_used;  /* entries of retired[] that were ever used */
    _Atomic uint64_t births;    /* members so far */
    _Atomic uint64_t unlisted;  /* members that found no slot */
    _Atomic uint64_t saved;     /* bytes that sharing has saved */
    _Atomic uint64_t objects_of[PH_KINDS];
    _Atomic uint64_t bytes_of[PH_KINDS];
    ph_extent extent[PH_MAX_EXTENTS];
    _Atomic uint32_t generation[PH_MAX_EXTENTS];    /* how often used anew */
    ph_member member[PH_MEMBERS];
    ph_retired retired[PH_RETIRED];
} ph_header;

#define PH_MAGIC 0x3370616568616d72ull      /* "rmaheap3": format version 3 */

/* This process's view of the heap.  Written under ph_os_lock(), except for
   what says otherwise. */
typedef struct {
    char *base;                 /* the range; the same in the whole family */
    uint64_t size;              /* bytes */
    int fd;                     /* the file, and what it must be */
    ph_file_id file;
    ph_header *header;          /* == base */
    ph_map_kind mapping;        /* of permanent extents: private or read-only */
    const char *mapping_reason; /* for stats() */
    ptrdiff_t window;           /* add to an address to write there; 0: this
                                   process has reserved no window yet */
    _Atomic uint64_t seen;      /* header->published at the last refresh */
    _Atomic uint64_t forks;     /* forks between the creator and us */
    ph_status state;            /* PH_OK, or why there is no heap */
} ph_heap_process;

extern ph_heap_process ph_heap;

/* Reserve the heap, once per process; later calls report the same.  On
   failure ph_heap.state stays as it is and ph_heap_ready() says why. */
void ph_heap_init(void);
ph_status ph_heap_ready(void);

/* Map what the family has published since the last call.  O(1) when there is
   nothing new, else O(extents). */
ph_status ph_heap_refresh(void);
/* The same, also for what is committed but not published yet. */
ph_status ph_heap_refresh_all(void);
/* Bytes in committed blocks of the whole family, but for released ones.
   O(extents). */
uint64_t ph_heap_used(void);
/* Is that part of an extent of permanent blocks which this process can read?  O(1). */
bool ph_heap_is_mapped(uint64_t offset);
/* How far an extent is filled, in bytes, also when its owner was killed in the
   middle of saying so. */
uint64_t ph_extent_fill(const ph_extent *extent);
/* How far extent `index` was filled at the last refresh, in bytes. */
uint64_t ph_extent_seen_filled(uint32_t index);

static inline uint64_t
ph_page_down(uint64_t n)
{
    return n & ~(uint64_t)(PH_PAGE - 1);
}

static inline uint64_t
ph_page_up(uint64_t n)
{
    return ph_page_down(n + PH_PAGE - 1);
}

static inline bool
ph_heap_contains(const void *p)
{
    return (uint64_t)((const char *)p - ph_heap.base) < ph_heap.size;
}

static inline uint64_t
ph_offset_of(const void *p)
{
    return (uint64_t)((const char *)p - ph_heap.base);
}

static inline void *
ph_address_of(uint64_t offset)
{
    return ph_heap.base + offset;
}

/* The directory has for each page of the heap the offset of the segment (see
   block.h) that holds the page's first byte. */
static inline uint64_t *
ph_directory_entry(uint64_t offset)
{
    return (uint64_t *)(ph_heap.base + ph_heap.header->directory)
           + offset / PH_PAGE;
}

/* --- For block.c, with ph_os_lock() held ----------------------------------- */

/* An extent with at least `size` free bytes that this process may fill, and
   where its free bytes start: a dead owner's, or a new one of about `hint`
   bytes.  Mapped for reading, and for writing through the window. */
ph_status ph_extent_acquire(uint64_t size, uint64_t hint, uint32_t *p_index);

/* Make an extent ours, if nobody owns it; and give it up. */
bool ph_extent_take(uint32_t index);
void ph_extent_leave(uint32_t index);
/* Use an extent of ours anew, all of whose blocks are gone. */
ph_status ph_extent_reset(uint32_t index);

/* Memory for [offset, offset + size), inside one extent, and for its part of the
   directory, if the process's limits allow for it. */
ph_status ph_heap_allocate(uint64_t offset, uint64_t size);

/* The same without a part of the directory: of an extent of spans. */
ph_status ph_heap_allocate_spans(uint64_t offset, uint64_t size);

/* A new extent of spans: `least` bytes, or `hint` if there are so many; mapped.  With
   ph_os_lock() held. */
ph_status ph_extent_claim_spans(uint64_t least, uint64_t hint, uint32_t *p_index);
/* Have the extent of spans mapped that has this offset.  O(1) if it is, else
   O(extents).  With ph_os_lock() held. */
ph_status ph_heap_map_spans(uint64_t offset);

/* Give memory back that nothing committed uses. */
void ph_heap_punch(uint64_t offset, uint64_t size);

/* Is the descriptor still our file? */
ph_status ph_heap_check_file(void);

/* Memory for a part of the header's tables, that writing there cannot fail. */
ph_status ph_heap_allocate_table(uint64_t offset, uint64_t size);

/* What the file holds, whatever this process has written to its own pages. */
ph_status ph_heap_read(uint64_t offset, void *buf, uint64_t size);

/* Let final addresses show these bytes, which the file holds there, also on a
   page that we have copied. */
void ph_show_bytes(void *at, const void *bytes, uint64_t size);

/* After a commit of our own: `filled` of extent `index` has grown. */
void ph_extent_seen(uint32_t index);

#endif
