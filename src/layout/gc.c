/* gc.c -- visiting all objects that the cyclic collector tracks, without a write.

   gc.get_objects() returns references, and counting these writes to the pages of the
   objects.  Here the collector's lists are only read.

   The generations lie one behind the other.  Their address differs even between patch
   releases.  But the object that was tracked last comes right before the head of the
   youngest generation. */

#include "layout/immortal.h"

#include <assert.h>
#include <stddef.h>

#include "internal/pycore_gc.h"

static PyGC_Head *
follow_next(const PyGC_Head *gc)
{
    return (PyGC_Head *)(gc->_gc_next & ~(uintptr_t)3);     /* flags on some 3.14 */
}

ph_immortal_ring *
ph_immortal_ring_new(void)
{
    _Static_assert(sizeof(ph_immortal_ring) == sizeof(PyGC_Head), "it is a head without an object");
    ph_immortal_ring *ring = PyMem_RawMalloc(sizeof(ph_immortal_ring));
    if (ring == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    ring->next = ring->prev = (uintptr_t)ring;
    return ring;
}

int
ph_visit_immortals(const ph_immortal_ring *ring, visitproc visit, void *arg)
{
    const PyGC_Head *head = (const PyGC_Head *)ring;
    for (PyGC_Head *gc = follow_next(head); gc != head; gc = follow_next(gc)) {
        int result = visit((PyObject *)(gc + 1), arg);
        if (result != 0) {
            return result;
        }
    }
    return 0;
}

int
ph_visit_tracked(visitproc visit, void *arg)
{
    PyObject *newest = PyList_New(0);
    if (newest == NULL) {
        return -1;
    }
    struct gc_generation *youngest = (struct gc_generation *)((char *)follow_next(
        _Py_AS_GC(newest)) - offsetof(struct gc_generation, head));
    PyObject_GC_UnTrack(newest);
    Py_DECREF(newest);
    for (int i = NUM_GENERATIONS; i-- > 0;) {       /* the oldest objects first */
        PyGC_Head *head = &youngest[i].head;
        for (PyGC_Head *gc = follow_next(head); gc != head; gc = follow_next(gc)) {
            assert(gc != NULL);
            int result = visit((PyObject *)(gc + 1), arg);
            if (result != 0) {
                return result;
            }
        }
    }
    return 0;
}
