/* interned.c -- the table of interned strings, at the end of the process.

   CPython makes every interned string mortal again before it ends, a write to
   each.  So the table is swapped for one that has only the mortal strings: those
   look for themselves in it when they die.  The old one stays where it is.

   The table does not count its references to mortal strings. */

#include "layout/internal.h"

#include "internal/pycore_interp.h"

/* Put a mortal interned string into another table. */
static int
move(PyObject *table, PyObject *str)
{
    if (_Py_IsImmortal(str)) {
        return 0;
    }
    if (PyDict_SetItem(table, str, str) < 0) {
        return -1;
    }
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
        if (move(table, str) < 0) {
            return -1;              /* what was moved must not be let go of */
        }
    }
    if (table == NULL) {
        return -1;
    }
    interp->cached_objects.interned_strings = table;
    return 0;
}
