/* gc.c -- looking at what the collector tracks without touching it.

   Whoever asks the collector for its objects gets references to them, and to
   count those is to write to their pages.  Here the lists are only read.

   The generations lie one behind the other.  Where they lie differs even between
   patch releases; but what was tracked last comes right before the head of the
   youngest. */

#include "layout/internal.h"

static PyGC_Head *
after(const PyGC_Head *gc)
{
    return (PyGC_Head *)(gc->_gc_next & ~(uintptr_t)3);     /* flags on some 3.14 */
}

int
ph_visit_tracked(visitproc visit, void *arg)
{
    PyObject *newest = PyList_New(0);
    if (newest == NULL) {
        return -1;
    }
    struct gc_generation *youngest = (struct gc_generation *)((char *)after(
        _Py_AS_GC(newest)) - offsetof(struct gc_generation, head));
    PyObject_GC_UnTrack(newest);
    Py_DECREF(newest);
    for (int i = 0; i < NUM_GENERATIONS; i++) {
        PyGC_Head *head = &youngest[i].head;
        for (PyGC_Head *gc = after(head); gc != head; gc = after(gc)) {
            int result = visit((PyObject *)(gc + 1), arg);
            if (result != 0) {
                return result;
            }
        }
    }
    return 0;
}
