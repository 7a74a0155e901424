/* block_table.h -- the word that the family keeps for each block.

   These functions look only at the number in a home segment's header: a copy of it will
   do. */

#ifndef PH_BLOCK_BLOCK_TABLE_H
#define PH_BLOCK_BLOCK_TABLE_H

#include <stdbool.h>

#include "core/base/status.h"
#include "core/heap/segment.h"

typedef enum { PH_LIVE, PH_RELEASED, PH_GONE } ph_block_state;

/* Give a new block its number.  Its word has memory then. */
ph_status ph_block_table_add(uint32_t *p_number);
ph_block_state ph_block_table_state(const ph_segment *home);

/* Note that one more, or one fewer, block refers to this one.  PH_REFUSED for one more on
   a released block. */
ph_status ph_block_table_add_use(const ph_segment *home);
void ph_block_table_drop_use(const ph_segment *home);
/* Return how many blocks refer to it. */
uint32_t ph_block_table_uses(const ph_segment *home);

/* Make a live block released; false if it was not live, or has uses. */
bool ph_block_table_release(const ph_segment *home);
void ph_block_table_take_back(const ph_segment *home);       /* and back */
/* Make a released block gone: its memory has been given back. */
void ph_block_table_set_gone(const ph_segment *home);

#endif
