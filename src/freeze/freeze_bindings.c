/* freeze_bindings.c -- freeze(), freeze_each(), freeze_pairs(), thaw() and is_frozen()
   for Python: the arguments, and no logic. */

#include "freeze/freeze_bindings.h"

#include "freeze/freeze.h"
#include "freeze/thaw.h"
#include "layout/statics.h"

PyDoc_STRVAR(freeze_doc,
"freeze($module, obj, /, *, default=None)\n--\n\n"
"Copy a graph of objects into the permanent heap and return the copy.\n\n"
"The copy is made of plain built-in types: tuple for list, frozenset for set,\n"
"bytes for bytearray, a read-only mapping for dict.  Equal atoms are stored\n"
"once; a shared container stays shared, and two equal ones stay two.  Objects\n"
"that are permanent already are kept by reference.\n\n"
"In place of an object of any other type, its __freeze__() is frozen, or else\n"
"default(obj).\n\n"
"Raises FreezeError (a TypeError with the place as .path) for a cycle, for an\n"
"object of another type, and for keys that clash or cannot be hashed once they\n"
"are frozen; MemoryError when the heap or the memory is full; whatever\n"
"__freeze__() or default() raises, with a note that names the place.  Then\n"
"nothing is left in the heap.  O(number of objects).\n\n"
"The idea is from the discussion of PEP 683: immortal objects in pages of\n"
"their own, so that reading never writes and copy-on-write never copies.");

static int
parse_freeze_arguments(const char *name, PyObject *const *args, Py_ssize_t nargs,
              PyObject *kwnames, PyObject **p_default)
{
    if (nargs != 1) {
        PyErr_Format(PyExc_TypeError, "%s() takes exactly one positional "
                     "argument (%zd given)", name, nargs);
        return -1;
    }
    *p_default = NULL;
    for (Py_ssize_t i = 0; kwnames != NULL && i < PyTuple_GET_SIZE(kwnames); i++) {
        PyObject *keyword = PyTuple_GET_ITEM(kwnames, i);
        if (PyUnicode_CompareWithASCIIString(keyword, "default") != 0) {
            PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword "
                         "argument %R", name, keyword);
            return -1;
        }
        *p_default = args[nargs + i] == Py_None ? NULL : args[nargs + i];
    }
    if (*p_default != NULL && !PyCallable_Check(*p_default)) {
        PyErr_Format(PyExc_TypeError, "%s(): default must be callable or None, "
                     "not %s", name, Py_TYPE(*p_default)->tp_name);
        return -1;
    }
    return 0;
}

static PyObject *
core_freeze(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
            PyObject *kwnames)
{
    PyObject *default_;
    if (parse_freeze_arguments("freeze", args, nargs, kwnames, &default_) < 0) {
        return NULL;
    }
    return ph_freeze(ph_interpreter_of(module), args[0], default_);
}

PyDoc_STRVAR(freeze_each_doc,
"freeze_each($module, iterable, /, *, default=None)\n--\n\n"
"Freeze the items of an iterable one by one, and return a tuple of them.\n\n"
"Like freeze(list(iterable)), but holding only one item of ordinary objects at\n"
"a time: 10 GB from a database cursor need 10 GB.  Atoms and dict shapes are\n"
"shared across all items; a container that two items refer to is frozen\n"
"twice.  Raises the errors of freeze().  O(number of objects).");

static PyObject *
core_freeze_each(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                 PyObject *kwnames)
{
    PyObject *default_;
    if (parse_freeze_arguments("freeze_each", args, nargs, kwnames, &default_) < 0) {
        return NULL;
    }
    return ph_freeze_each(ph_interpreter_of(module), args[0], default_);
}

PyDoc_STRVAR(freeze_pairs_doc,
"freeze_pairs($module, pairs, /, *, default=None)\n--\n\n"
"Freeze (key, value) pairs one by one, and return a frozen mapping of them.\n\n"
"Like freeze(dict(pairs)), also in that the last value of equal keys wins, and that\n"
"the items() of a mapping are taken, but\n"
"holding only one pair of ordinary objects at a time, as freeze_each() does.\n"
"Raises the errors of freeze(), and TypeError for an item that is no pair.\n"
"O(number of objects).");

static PyObject *
core_freeze_pairs(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                  PyObject *kwnames)
{
    PyObject *default_;
    if (parse_freeze_arguments("freeze_pairs", args, nargs, kwnames, &default_) < 0) {
        return NULL;
    }
    return ph_freeze_pairs(ph_interpreter_of(module), args[0], default_);
}

PyDoc_STRVAR(thaw_doc,
"thaw($module, frozen, /)\n--\n\n"
"Copy a permanent object out of the heap, into fresh ordinary containers.\n\n"
"Mappings become dict, tuples list, frozensets set; dict keys, set elements\n"
"and atoms stay the objects that they are.  A shared container stays shared.\n"
"freeze(thaw(f)) == f.  Raises TypeError for an object that is not permanent.\n"
"O(number of objects).");

static PyObject *
core_thaw(PyObject *module, PyObject *frozen)
{
    return ph_thaw(&ph_interpreter_of(module)->exceptions, frozen);
}

PyDoc_STRVAR(is_frozen_doc,
"is_frozen($module, obj, /)\n--\n\n"
"Is this object permanent?\n\n"
"True for each object that freeze() or Handle.get() returns and for all that it\n"
"holds; also for objects that are static in the interpreter: None, small ints,\n"
"the empty tuple and the like.  O(1).");

static PyObject *
core_is_frozen(PyObject *Py_UNUSED(module), PyObject *obj)
{
    return PyBool_FromLong(ph_is_permanent(obj));
}

static PyMethodDef freeze_functions[] = {
    {"freeze", (PyCFunction)(void (*)(void))core_freeze,
     METH_FASTCALL | METH_KEYWORDS, freeze_doc},
    {"freeze_each", (PyCFunction)(void (*)(void))core_freeze_each,
     METH_FASTCALL | METH_KEYWORDS, freeze_each_doc},
    {"freeze_pairs", (PyCFunction)(void (*)(void))core_freeze_pairs,
     METH_FASTCALL | METH_KEYWORDS, freeze_pairs_doc},
    {"thaw", core_thaw, METH_O, thaw_doc},
    {"is_frozen", core_is_frozen, METH_O, is_frozen_doc},
    {NULL, NULL, 0, NULL},
};

int
ph_freeze_add(PyObject *module)
{
    return PyModule_AddFunctions(module, freeze_functions);
}
