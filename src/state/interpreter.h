/* interpreter.h -- what permaheap keeps for one interpreter.

   The state of the module permaheap._core begins with a ph_interpreter.  Every file
   above this one reaches its state through it, and through nothing else:

       module, or a type of the module  -->  ph_interpreter  -->  channels, lending, ...

   A feature's own part is a struct of the feature's header.  The memory of all parts is
   in the module's state (module.c), so that they live exactly as long as the module.
   Files that stand below a feature know its part by name only.

   Everything here is written by the import of the module, with the interpreter's GIL
   held, and is constant until the module is cleared.  Two fields are set later, once:
   has_datetime, and counter.
   State that the process or the family shares belongs to core/, not here. */

#ifndef PH_STATE_INTERPRETER_H
#define PH_STATE_INTERPRETER_H

#include "state/errors.h"

typedef struct {
    ph_exceptions exceptions;
    /* Classes of the standard library that features know by identity.  Owned. */
    PyTypeObject *ordered_dict, *defaultdict;
    PyTypeObject *counter;          /* NULL: not known yet; ask ph_is_counter() */
    PyObject *modules;              /* sys.modules, a dict; owned; NULL: cleared */
    PyTypeObject *lock, *rlock;
    PyObject *freeze_name;          /* "__freeze__", interned; owned */
    bool has_datetime;              /* module datetime is imported here */
    PyTypeObject *handle_type, *buffer_type;    /* owned; share/ */
    struct ph_wire_state *wire;     /* wire/wire.h */
    struct ph_pickles *pickles;     /* wire/pickle.h */
    struct ph_holes *holes;         /* prefork/holes.h */
    struct ph_immortal_ring *immortals;      /* layout/immortal.h; outlives the module */
    struct ph_channels *channels;   /* channel/channel.h */
    struct ph_lending *lending;     /* interp/ */
} ph_interpreter;

/* The state of the interpreter that a module permaheap._core, or a type that was made
   with it, belongs to.  O(1). */
static inline ph_interpreter *
ph_interpreter_of(PyObject *module)
{
    return PyModule_GetState(module);
}

static inline ph_interpreter *
ph_interpreter_of_type(PyTypeObject *type)
{
    return PyType_GetModuleState(type);
}

/* Is this type collections.Counter?  1 or 0; -1 with an exception.  Counter is Python code,
   and costs an interpreter the import of collections.  So that is left to the program: no
   Counter exists before it.  Runs no Python code.  O(1). */
int ph_is_counter(ph_interpreter *interp, PyTypeObject *type);
/* Import collections if need be and return Counter, borrowed; NULL with an exception. */
PyTypeObject *ph_need_counter(ph_interpreter *interp);

/* A new instance of a type that an interpreter's state has.  NULL with an exception, also
   when there is no type any more: it is gone once the module is cleared, while objects of
   the module can still be used. */
PyObject *ph_instance_new(PyTypeObject *type);

/* Make the exceptions, and add them to the module; look up the classes.  0, or -1 with
   an exception. */
int ph_interpreter_init(PyObject *module);
int ph_interpreter_traverse(ph_interpreter *interp, visitproc visit, void *arg);
/* Drop all that it owns, the types of share/ included. */
void ph_interpreter_clear(ph_interpreter *interp);

#endif
