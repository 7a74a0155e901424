/* fields.h -- a table of where things are in memory, for the copy-on-write profiler. */

#ifndef PH_FIELDS_H
#define PH_FIELDS_H

#include "layout/version.h"

/* Make a dict: sizes and offsets in this interpreter's pools, types and objects, and
   the meaning of a write to a field.  NULL with an exception. */
PyObject *ph_layout_table(void);

#endif
