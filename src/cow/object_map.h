/* object_map.h -- a map of all objects, for the profiler, which reads this process's
   memory. */

#ifndef PH_COW_OBJECT_MAP_H
#define PH_COW_OBJECT_MAP_H

#include "state/errors.h"

/* Write a map of all objects that the items of `roots`, a list, reach into an anonymous
   file.  Returns its descriptor; -1 with an exception.  No object is counted or marked, so
   no page with objects is written to.  O(objects reached). */
int ph_object_map(const ph_exceptions *exceptions, PyObject *roots);

#endif
