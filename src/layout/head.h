/* head.h -- the head of an object: reference count, type, and the collector's words.

        address of the object --v
         | _gc_next | _gc_prev | reference count | ob_type | fields ...
         |    0     |    0     | PH_REFCNT_WORD  |         |    a frozen container
                               | PH_REFCNT_WORD  |         |    a frozen atom

   - The first word of a permanent object is PH_REFCNT_WORD for ever: Py_INCREF() and
     Py_DECREF() recognize an immortal object and write nothing.
   - The two words of the cyclic collector are in front of containers only.  Those of
     a permanent one are zero for ever: it is not tracked, and no collection visits it.
   - An ordinary object that is made immortal in place gets the word that CPython gives
     to its own immortal objects, and keeps its other words.

   All code that knows these words is in this file, apart from immortal.c and gc.c,
   which follow the collector's lists.  A build with another head (that of free-threaded
   CPython has an owner, a lock and two counts, and no words of a collector in front)
   can be added here. */

#ifndef PH_HEAD_H
#define PH_HEAD_H

#include "layout/version.h"

#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "internal/pycore_gc.h"

/* On 3.12 and 3.13 only 0xFFFFFFFF in the low half makes Py_INCREF() write nothing;
   the high half keeps the 64-bit counts of old stable-ABI extensions about 2**62 away
   from zero.  From 3.14 on the word also carries the flags that the interpreter's
   borrowed references test. */
#if PH_SINCE(14)
#define PH_REFCNT_WORD ((uint64_t)_Py_STATIC_IMMORTAL_INITIAL_REFCNT)
#else
#define PH_REFCNT_WORD ((uint64_t)0x3FFFFFFFFFFFFFFF)
#endif

/* Bytes of an object in front of its type: all that differs between an atom and a
   frozen copy of it. */
#define PH_REFCNT_SIZE offsetof(PyObject, ob_type)

/* Bytes in front of a container. */
#define PH_GC_HEAD sizeof(PyGC_Head)

/* Write the head of a permanent object through its view. */
static inline void
ph_write_head(PyObject *view, PyTypeObject *type)
{
    uint64_t word = PH_REFCNT_WORD;
    _Static_assert(sizeof(word) == PH_REFCNT_SIZE, "the count is one word");
    memcpy(view, &word, sizeof(word));
    view->ob_type = type;
}

/* Write the words in front of a permanent container. */
static inline void
ph_write_gc_head(void *view)
{
    memset(view, 0, PH_GC_HEAD);
}

/* Is the count still that of a permanent object? */
static inline bool
ph_has_permanent_count(const PyObject *obj)
{
    uint64_t word;
    memcpy(&word, obj, sizeof(word));
    return word == PH_REFCNT_WORD;
}

/* Are the words in front of a permanent container still zero? */
static inline bool
ph_has_empty_gc_head(const PyObject *obj)
{
    const uint64_t *words = (const uint64_t *)obj;
    return words[-1] == 0 && words[-2] == 0;
}

/* Give an ordinary object the count of an immortal one. */
static inline void
ph_make_immortal(PyObject *obj)
{
#if PH_SINCE(14)
    obj->ob_refcnt = _Py_IMMORTAL_INITIAL_REFCNT;
    obj->ob_flags |= _Py_IMMORTAL_FLAGS;
#else
    obj->ob_refcnt = (Py_ssize_t)PH_REFCNT_WORD;
#endif
    assert(_Py_IsImmortal(obj));
}

#endif
