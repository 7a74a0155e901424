/* interned.c -- the table of interned strings, at the end of the process.

   Before CPython ends it makes every interned string mortal again: a write to each.  So
   this file swaps the table for one that has only the mortal strings, which look for
   themselves in it when they die.  The old table stays where it is.

   The table does not count its references to mortal strings. */

#include "layout/immortal.h"

#include <assert.h>

#include "internal/pycore_interp.h"

/* Put a string into another table if it is mortal. */
static int
move_mortal(PyObject *table, PyObject *str)
{
    if (_Py_IsImmortal(str)) {
        return 0;
    }
    if (PyDict_SetItem(table, str, str) < 0) {
        return -1;
    }
    assert(Py_REFCNT(str) > 2);
    Py_SET_REFCNT(str, Py_REFCNT(str) - 2);     /* as key and as value */
    return 0;
}

int
ph_hide_interned(void)
{
    PyInterpreterState *interp = PyInterpreterState_Get();
    if (interp != PyInterpreterState_Main()) {
        return 0;                   /* some share the table of the main one */
    }
    PyObject *old = interp->cached_objects.interned_strings;
    PyObject *table = PyDict_New();
    PyObject *str, *same;
    Py_ssize_t pos = 0;
    while (table != NULL && PyDict_Next(old, &pos, &str, &same)) {
        if (move_mortal(table, str) < 0) {
            return -1;              /* keep the table: it must not drop what was moved */
        }
    }
    if (table == NULL) {
        return -1;
    }
    interp->cached_objects.interned_strings = table;
    return 0;
}
