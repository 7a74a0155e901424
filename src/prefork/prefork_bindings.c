/* prefork_bindings.c -- the functions that permaheap.immortalize() and permaheap.prefork()
   are made of, for Python: the arguments, and no logic. */

#include "prefork/prefork_bindings.h"

#include "layout/immortal.h"
#include "prefork/finalize.h"
#include "prefork/holes.h"
#include "prefork/immortalize.h"

PyDoc_STRVAR(immortalize_doc,
"_immortalize($module, roots, strict, warm, /)\n--\n\n"
"Make all objects that the items of a list reach immortal in place; if strict,\n"
"except objects that must be able to die; if warm, prepare code for its first\n"
"run.  Returns (objects, bytes, left): counts and bytes by type name, and how\n"
"many objects were left, by (type name, why).\n"
"Raises MemoryError; objects that are immortal by then stay so.\n"
"O(number of objects).");

static PyObject *
core_immortalize(PyObject *module, PyObject *args)
{
    PyObject *roots;
    int strict, warm;
    if (!PyArg_ParseTuple(args, "O!pp:_immortalize", &PyList_Type, &roots, &strict,
                          &warm)) {
        return NULL;
    }
    return ph_immortalize(ph_interpreter_of(module), roots, strict, warm);
}

PyDoc_STRVAR(with_finalizer_doc,
"_with_finalizer($module, /)\n--\n\n"
"A list of the objects whose finalizer has not run yet, of those that the\n"
"collector tracks and has not set aside.  The collector must be off.\n"
"O(number of objects).");

static PyObject *
core_with_finalizer(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    return ph_with_finalizer(ph_interpreter_of(module));
}

PyDoc_STRVAR(owed_doc,
"_owed_finalizers($module, waiting, /)\n--\n\n"
"Of a list of objects whose finalizer has not run, those that only immortal\n"
"objects and other such objects hold, in the order for the end of the process.\n"
"The collector must be off.  O(number of objects).");

static PyObject *
core_owed_finalizers(PyObject *module, PyObject *waiting)
{
    if (!PyList_CheckExact(waiting)) {
        return PyErr_Format(PyExc_TypeError, "_owed_finalizers: a list is needed, not %s",
                            Py_TYPE(waiting)->tp_name);
    }
    return ph_owed_finalizers(ph_interpreter_of(module), waiting);
}

PyDoc_STRVAR(finalize_doc,
"_finalize($module, obj, /)\n--\n\n"
"Run an object's finalizer, once in its life.  Its exceptions are reported as\n"
"unraisable ones, as usual.");

static PyObject *
core_finalize(PyObject *Py_UNUSED(module), PyObject *obj)
{
    PyObject_CallFinalizer(obj);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(hide_interned_doc,
"_hide_interned($module, /)\n--\n\n"
"Hide the table of interned strings from the end of the interpreter.");

static PyObject *
core_hide_interned(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    return ph_hide_interned() < 0 ? NULL : Py_NewRef(Py_None);
}

PyDoc_STRVAR(fill_holes_doc,
"_fill_holes($module, pools, heap, /)\n--\n\n"
"Fill the holes of the allocator of objects, of the C library's heap, or of both.\n"
"Returns (blocks, bytes, pools, chunks, bytes, problem): the holes that are filled\n"
"now of the one, with the free pools released so far, and of the other; and None,\n"
"or why those of the allocator cannot be filled.  O(holes).");

static PyObject *
core_fill_holes(PyObject *module, PyObject *args)
{
    ph_holes *holes = ph_interpreter_of(module)->holes;
    int pools, heap;
    if (!PyArg_ParseTuple(args, "pp:_fill_holes", &pools, &heap)) {
        return NULL;
    }
    const char *problem = ph_fill_holes(holes, pools, heap);
    return Py_BuildValue("KKKKKz",
                         (unsigned long long)holes->pools.blocks_number,
                         (unsigned long long)holes->pools.bytes,
                         (unsigned long long)holes->pools.pools_number,
                         (unsigned long long)holes->heap.number,
                         (unsigned long long)holes->heap.bytes, problem);
}

static PyMethodDef prefork_functions[] = {
    {"_immortalize", core_immortalize, METH_VARARGS, immortalize_doc},
    {"_with_finalizer", core_with_finalizer, METH_NOARGS, with_finalizer_doc},
    {"_owed_finalizers", core_owed_finalizers, METH_O, owed_doc},
    {"_finalize", core_finalize, METH_O, finalize_doc},
    {"_hide_interned", core_hide_interned, METH_NOARGS, hide_interned_doc},
    {"_fill_holes", core_fill_holes, METH_VARARGS, fill_holes_doc},
    {NULL, NULL, 0, NULL},
};

int
ph_prefork_add(PyObject *module)
{
    return PyModule_AddFunctions(module, prefork_functions);
}
