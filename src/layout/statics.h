/* statics.h -- static objects: None, small ints, the empty tuple, and the like.

   They are in the interpreter itself, at one address in the whole family, and they
   are immortal.  So they are the only objects outside of the heap that a permanent
   object may point to. */

#ifndef PH_STATICS_H
#define PH_STATICS_H

#include "layout/version.h"

#include <stdint.h>

/* Return the static object that stands for obj, or NULL. */
PyObject *ph_static_of(PyObject *obj);
bool ph_is_static(PyObject *obj);
/* Is this object permanent: in the heap, or static?  An int, for the C API. */
int ph_is_permanent(PyObject *obj);
PyObject *ph_static_empty_tuple(void);

/* Return the number of a static object, the same in the whole family; and the object
   of a number, or NULL if no object has it. */
uint32_t ph_static_number(PyObject *obj);
PyObject *ph_static_at(uint32_t number);

#endif
