/* sizes.h -- how far an ordinary object reaches in memory. */

#ifndef PH_SIZES_H
#define PH_SIZES_H

#include "layout/version.h"

/* Return the bytes in front of the instances of a type. */
size_t ph_front_size(PyTypeObject *type);
/* Return the bytes of an ordinary object from its address on, without its tables. */
size_t ph_body_size(PyObject *obj);
/* Return the bytes that an ordinary object takes, with its front and its tables. */
size_t ph_size_in_place(PyObject *obj);

typedef enum {
    PH_TABLE_NONE,                  /* an object */
    PH_TABLE_KEYS, PH_TABLE_VALUES, PH_TABLE_ITEMS, PH_TABLE_SET, PH_TABLE_TEXT,
} ph_table;

/* Visit the tables that an ordinary object has elsewhere; their sizes are in
   bytes. */
typedef void (*ph_table_visitor)(ph_table table, const void *address, size_t size,
                               void *arg);
void ph_tables_of(PyObject *obj, ph_table_visitor visit, void *arg);

#endif
