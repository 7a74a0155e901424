/* ends.c -- which types give back something foreign when an object of theirs ends.

   An object that only frees memory may become immortal: nobody misses its end.  But the
   end of some objects does something to another object, or to the system: a memoryview
   lets its bytearray grow again, a cursor lets others write to the database, an epoll
   closes its descriptor.  CPython finalizes none of them (tp_finalize); all is done by
   tp_dealloc, in C, where it cannot be seen.  Two signs of it are used:

   - The type is written in C and has a method close(), release() or __exit__(): it holds
     something that can be given back sooner.  This covers other people's types, too.
   - The type is in a list here.  The list is made from the tp_dealloc functions of
     CPython's own Modules/ and Objects/ that have no such method.

   A class made by `class` inherits the end of its base.  Its own methods say nothing: it
   holds all that it has by other objects. */

#include "layout/immortal.h"

#include <string.h>

static const char *const foreign_ends[] = {
    /* They hold a buffer of another object. */
    "managedbuffer", "_buffer_wrapper", "_sre.SRE_Scanner", "_struct.unpack_iterator",
    "_pickle.Unpickler", "_interpreters.CrossInterpreterBufferView",
    /* They count in another interpreter. */
    "InterpreterID", "_interpchannels.ChannelID", "_xxinterpchannels.ChannelID",
    /* They hold a running query, a thread, a hook, a screen, another process. */
    "sqlite3.Statement", "_thread._ThreadHandle", "_lsprof.Profiler", "_curses.window",
    "_curses_panel.panel", "_tkinter.tkapp", "_tkinter.tktimertoken",
    "_remote_debugging.RemoteUnwinder", "_remote_debugging.BinaryReader",
    "_remote_debugging.BinaryWriter",
    /* They end a `with` block, which a thread may be in. */
    "_GeneratorContextManager", "_AsyncGeneratorContextManager",
};

static const char *const closing_names[] = {"close", "release", "__exit__"};

static bool
is_closing_method(PyObject *name, PyObject *value)
{
    if (!PyUnicode_Check(name) || PyFunction_Check(value)) {
        return false;
    }
    for (size_t i = 0; i < Py_ARRAY_LENGTH(closing_names); i++) {
        if (PyUnicode_CompareWithASCIIString(name, closing_names[i]) == 0) {
            return true;
        }
    }
    return false;
}

/* Does a type itself have a method, of C, that gives something back? */
static bool
has_closing_method(PyTypeObject *type)
{
    PyObject *dict = PyType_GetDict(type), *name, *value;
    bool found = false;
    for (Py_ssize_t i = 0; dict && !found && PyDict_Next(dict, &i, &name, &value);) {
        found = is_closing_method(name, value);
    }
    Py_XDECREF(dict);
    return found;
}

static bool
is_foreign_end(const PyTypeObject *type)
{
    for (size_t i = 0; i < Py_ARRAY_LENGTH(foreign_ends); i++) {
        if (strcmp(type->tp_name, foreign_ends[i]) == 0) {
            return true;
        }
    }
    return false;
}

const char *
ph_why_type_mortal(PyTypeObject *type)
{
    if (type->tp_finalize != NULL) {
        return NULL;                /* ph_why_mortal() has a better reason */
    }
    for (PyTypeObject *base = type; base != NULL; base = base->tp_base) {
        if (is_foreign_end(base) || has_closing_method(base)) {
            return "gives back what is not its own";
        }
    }
    return NULL;
}
