/* object.c -- making room for a permanent object, and writing its head. */

#include "layout/head.h"
#include "layout/internal.h"

PyObject *
ph_new_object(ph_block *block, PyTypeObject *type, size_t size, void *p_view)
{
    assert(size >= sizeof(PyObject));
    PyObject *obj = ph_block_alloc(block, size, size);
    if (obj != NULL) {
        PyObject *view = ph_writable(block, obj);
        ph_write_head(view, type);
        *(PyObject **)p_view = view;
        assert(ph_has_permanent_count(view));
    }
    return obj;
}

PyObject *
ph_new_container(ph_block *block, PyTypeObject *type, size_t size, void *p_view)
{
    assert(PyType_IS_GC(type));
    size += PH_GC_HEAD;
    char *head = ph_block_alloc(block, size, size);
    if (head == NULL) {
        return NULL;
    }
    ph_write_gc_head(ph_writable(block, head));
    PyObject *obj = (PyObject *)(head + PH_GC_HEAD);
    PyObject *view = ph_writable(block, obj);
    ph_write_head(view, type);
    *(PyObject **)p_view = view;
    assert(ph_has_permanent_count(view) && ph_has_empty_gc_head(view));
    return obj;
}
