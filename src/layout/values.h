/* values.h -- taking ordinary values apart and making them, mainly for messages. */

#ifndef PH_VALUES_H
#define PH_VALUES_H

#include "layout/version.h"

/* Return the bytes that hold an int in two's complement, least byte first; write these;
   make the int again. */
size_t ph_int_room(PyObject *obj);
int ph_int_bytes(PyObject *obj, char *bytes, size_t size);
PyObject *ph_int_from_bytes(const char *bytes, size_t size);

/* Make a str of n characters of Latin-1. */
PyObject *ph_str_new(const char *bytes, size_t n);

/* Make a dict with room for n items. */
PyObject *ph_dict_new(Py_ssize_t n);
/* Return the items of a dict if it keeps them like this, all keys being str; or NULL. */
typedef struct {
    PyObject *key, *value;
} ph_entry;
const ph_entry *ph_dict_entries(PyObject *dict);
/* Return the value of a str in a dict with any keys, borrowed; NULL if there is none.
   Runs no Python code, as only str are compared.  O(1) if all keys are str. */
PyObject *ph_dict_find_str(PyObject *dict, PyObject *str);

/* A record is a copy of a dict of str keys whose values are None, and into which nothing
   was ever inserted twice.  Its values are as far from each other as in ph_entry.
   Replace each at most once, and report the new value if it may be a container. */
PyObject *ph_record_new(PyObject *shape);
PyObject **ph_record_values(PyObject *record);      /* the first one */
void ph_record_holds(PyObject *record, PyObject *value);

bool ph_is_frozendict(PyObject *obj);
/* Make a frozendict; TypeError where there is none. */
PyObject *ph_frozendict_of(PyObject *dict);

#endif
