/* release_bindings.c -- release(), forget() and reclaim() for Python: the arguments, and no
   logic. */

#include "share/release_bindings.h"

#include "core/block/release.h"
#include "core/family/family.h"
#include "core/span/spans.h"
#include "layout/statics.h"
#include "share/handle_type.h"

PyDoc_STRVAR(release_doc,
"release($module, frozen, /)\n--\n\n"
"Release a block: from now on get() of its handles fails in the whole family.\n\n"
"frozen: an object that freeze() returned, or a handle of it.  Its memory is given back\n"
"when each process that could see it has ended or called forget().  Releasing\n"
"again does nothing.\n\n"
"Raises RuntimeError when other blocks refer to objects in this one, and for a\n"
"part of a block; TypeError for an object that is not permanent; HandleError for\n"
"a handle that is damaged, of another family, or of a block whose addresses are\n"
"used again.  O(segments of the block + blocks that it refers to + processes of the\n"
"family).");

PyDoc_STRVAR(forget_doc,
"forget($module, handle, /)\n--\n\n"
"Promise that this process holds nothing of a released block any more.\n\n"
"handle: of an object that freeze() returned.  An object that is held after this, by any\n"
"interpreter of the process, is the caller's error: its memory may be gone at\n"
"any time.  PERMAHEAP_DEBUG=1 shows such errors.  Children that are forked later\n"
"have forgotten as well.  Forgetting again does nothing.\n\n"
"Raises RuntimeError when the block was not released, or for a part of a block;\n"
"TypeError for an object that is no handle; HandleError for a handle that is damaged, of\n"
"another family, or of a block whose addresses are used again.  O(segments of the\n"
"block + processes of the family).");

PyDoc_STRVAR(reclaim_doc,
"reclaim($module, /)\n--\n\n"
"Give back the memory of released blocks that no process can see any more, and\n"
"return how many blocks still wait.  Likewise the buffers, channels and messages\n"
"that only processes held which have ended.\n\n"
"release(), forget(), stats() and a freeze that needs much memory do so as well;\n"
"call it when a process has ended.  O(1) when nothing waits, else O(processes of\n"
"the family).");

static PyObject *
core_release(PyObject *module, PyObject *arg)
{
    const ph_interpreter *interp = ph_interpreter_of(module);
    const ph_segment *home = NULL;
    bool is_handle = Py_TYPE(arg) == interp->handle_type;
    if (!is_handle && !ph_is_permanent(arg)) {
        PyErr_Format(PyExc_TypeError, "release: a Handle or a permanent object is "
                     "needed, not %s", Py_TYPE(arg)->tp_name);
        return NULL;
    }
    ph_status status = ph_heap_ready();
    if (status == PH_OK) {
        status = is_handle ? ph_handle_block(ph_handle_of(arg), &home)
                           : ph_root_block(arg, &home);
    }
    if (status != PH_OK || ph_release(home) != PH_OK) {
        ph_raise(&interp->exceptions);
        return NULL;
    }
    Py_RETURN_NONE;
}

/* Takes a handle only: a caller that passed the object itself would hold it. */
static PyObject *
core_forget(PyObject *module, PyObject *arg)
{
    const ph_interpreter *interp = ph_interpreter_of(module);
    const ph_segment *home = NULL;
    if (Py_TYPE(arg) != interp->handle_type) {
        PyErr_Format(PyExc_TypeError, "forget: a Handle is needed, not %s",
                     Py_TYPE(arg)->tp_name);
        return NULL;
    }
    if (ph_handle_block(ph_handle_of(arg), &home) != PH_OK || ph_forget(home) != PH_OK) {
        ph_raise(&interp->exceptions);
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
core_reclaim(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    if (ph_heap_ready() != PH_OK) {
        ph_raise(&ph_interpreter_of(module)->exceptions);
        return NULL;
    }
    ph_reclaim();
    (void)ph_spans_sweep();
    return PyLong_FromUnsignedLongLong(ph_releases_pending());
}

static PyMethodDef release_functions[] = {
    {"release", core_release, METH_O, release_doc},
    {"forget", core_forget, METH_O, forget_doc},
    {"reclaim", core_reclaim, METH_NOARGS, reclaim_doc},
    {NULL, NULL, 0, NULL},
};

int
ph_release_add(PyObject *module)
{
    return PyModule_AddFunctions(module, release_functions);
}
