/* block_table.h -- what the family knows of each block beside its bytes. */

#ifndef PH_BLOCK_BLOCK_TABLE_H
#define PH_BLOCK_BLOCK_TABLE_H

#include <stdbool.h>

#include "core/base/status.h"
#include "core/heap/segment.h"

/* All functions look at the number in a home segment's header only: a copy of it
   will do. */

/* What has become of a block. */
typedef enum { PH_LIVE, PH_RELEASED, PH_GONE } ph_block_state;

/* A number for a new block: its place in the ledger, which has memory then. */
ph_status ph_ledger_number(uint32_t *p_number);
ph_block_state ph_ledger_state(const ph_segment *home);

/* One more, or one fewer, block refers to this one.  To pin a released block
   fails. */
ph_status ph_ledger_pin(const ph_segment *home);
void ph_ledger_unpin(const ph_segment *home);
/* How many do. */
uint32_t ph_ledger_pins(const ph_segment *home);

/* Live to released, unless it is pinned; false if it was not so. */
bool ph_ledger_release(const ph_segment *home);
void ph_ledger_take_back(const ph_segment *home);       /* and back */
/* Released to gone: its memory has been given back. */
void ph_ledger_gone(const ph_segment *home);

#endif
