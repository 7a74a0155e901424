/* header.h -- the heap's shared memory, byte by byte: what its first pages hold.

   The header lies at the front of the heap's file, and all processes of the family map
   it MAP_SHARED at the same address.  So its words are atomic, or they are written
   once, by the process that makes the heap, before any other process exists.

        ph_header | page directory | block table | acks | journal | spans | first extent

   The tables behind the header have their offsets in it.  heap.c says which rules the
   words obey; each comment here names the file that writes them. */

#ifndef PH_HEAP_HEADER_H
#define PH_HEAP_HEADER_H

#include <stdatomic.h>
#include <stdint.h>

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

/* What an extent holds, for life: permanent blocks; or spans, which the whole family
   maps MAP_SHARED, readable and writable, and which span_table.c cuts up. */
typedef enum { PH_EXTENT_PERMANENT = 1, PH_EXTENT_SPANS = 2 } ph_extent_kind;

#define PH_RESERVE_MOST (1024 * PH_GIB)     /* bytes of addresses of a heap */
#define PH_MAX_EXTENTS 16384u
#define PH_EXTENT_UNIT PH_MIB       /* extents start and end at multiples */

/* A piece of the heap that one process at a time fills from the front (extents.c).
   All offsets are in bytes from the heap's base.  64 bytes. */
typedef struct {
    _Atomic uint64_t offset;    /* where it starts; 0: not claimed yet.  Set
                                   last, once, by the claimer */
    uint64_t size;              /* bytes; of PH_EXTENT_UNIT; never changes */
    _Atomic uint64_t filled;    /* bytes of committed blocks at its front; grows,
                                   until the extent is reused; written by the
                                   owner */
    _Atomic int32_t owner;      /* pid of the process that may build here */
    int32_t kind;               /* ph_extent_kind; never changes */
    /* When a block spills into this extent from another one: this extent is
       filled up to spill_filled if that block was committed (invariant 5 of
       heap.c). */
    _Atomic uint64_t spill_block;   /* offset of the block's header, or 0 */
    uint64_t spill_nonce;           /* that header's nonce */
    uint64_t spill_filled;          /* bytes */
    _Atomic uint64_t gone;      /* bytes of blocks that are gone; about right */
} ph_extent;
_Static_assert(sizeof(ph_extent) == 64, "a cache line for each");

/* A process of the family, in the table of processes.c. */
typedef struct {
    _Atomic uint64_t id;        /* which one (ph_os_process); 0: the slot is free */
    _Atomic uint64_t ready;     /* == id once its acks are written */
    _Atomic uint64_t pending_forks; /* low half: its forks whose child is not ready
                                   yet; high half: how often these expired, or
                                   the slot taken */
    _Atomic uint64_t has_acks;  /* its acks have memory; else it is all zeros */
    _Atomic uint64_t seen;      /* it can see blocks with lower numbers only */
    _Atomic uint64_t holds;     /* spans that it holds: its bits in their table
                                   (spans.c) */
    _Atomic uint32_t notify;    /* a thread that waits for several channels sleeps
                                   here: notify.c */
    uint32_t unused[3];         /* a cache line for each */
} ph_process;

_Static_assert(sizeof(ph_process) == 64, "a cache line for each");

#define PH_PROCESSES 1024u

/* A released block that waits until no process can see it (release.c). */
typedef struct {
    _Atomic uint64_t block;     /* offset of its home segment; 0: free */
    _Atomic uint64_t stamp;     /* number of this release */
    _Atomic uint64_t nonce;     /* that home's, */
    _Atomic uint64_t number;    /* and its number: written before `block` */
} ph_pending_release;

#define PH_PENDING_RELEASES 1024u   /* this many at a time */

/* The first pages of the file. */
typedef struct {
    uint64_t magic;             /* PH_MAGIC */
    uint64_t size;              /* bytes reserved, this header included */
    uint8_t family[16];         /* random name of the family */
    uint64_t key[2];            /* SipHash key of the handles' tags */
    uint64_t directory;         /* offset of the page directory: heap.h */
    uint64_t block_table;       /* offset of the block table: block_table.c */
    uint64_t block_table_words; /* how many blocks it has room for */
    uint64_t acks;              /* offset of the processes' acks: processes.c */
    uint64_t journal;           /* offset of the journal: journal.c */
    uint64_t spans;             /* offset of the table of spans: span_table.c */
    uint64_t namespace;         /* that the pids belong to */
    uint64_t first;             /* offset of the first extent */
    _Atomic uint64_t landmark;  /* address that must be the same in the whole
                                   family: layout's, set by its first process */
    /* Below: written by any process of the family, atomically. */
    _Atomic uint64_t claimed;   /* offset of the first byte never claimed */
    _Atomic uint32_t extents;   /* entries of extent[] in use */
    _Atomic uint64_t published; /* commits so far: readers refresh on change */
    _Atomic uint64_t blocks;    /* committed and not released; one off for each
                                   process killed right after it did either */
    _Atomic uint64_t numbered;  /* blocks that have a number in the block table */
    _Atomic uint64_t released;  /* bytes of released blocks; likewise */
    _Atomic uint64_t released_blocks;
    _Atomic uint64_t reused;    /* bytes of them whose addresses were reused */
    _Atomic uint64_t returned;  /* bytes of memory given back */
    _Atomic uint64_t stamps;    /* releases so far */
    _Atomic uint64_t pending_used;  /* entries of pending[] that were ever used */
    _Atomic uint64_t joins;     /* processes that joined so far */
    _Atomic uint64_t unlisted;  /* processes that found no slot */
    _Atomic uint64_t saved;     /* bytes that sharing has saved */
    _Atomic uint64_t objects_of[PH_KINDS];
    _Atomic uint64_t bytes_of[PH_KINDS];
    ph_extent extent[PH_MAX_EXTENTS];
    _Atomic uint32_t generation[PH_MAX_EXTENTS];    /* how often reused */
    ph_process process[PH_PROCESSES];
    ph_pending_release pending[PH_PENDING_RELEASES];
} ph_header;

#define PH_MAGIC 0x3370616568616d72ull      /* "rmaheap3": format version 3 */

#endif
