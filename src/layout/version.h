/* version.h -- Python.h, and how the supported versions of CPython differ.

   Only this file and head.h compare versions.  All other code asks for a feature
   by its name, so that each difference has one name, one explanation and one
   place.  A new version of CPython: raise the bound below, name what it does
   differently, and follow the names through layout/.  The self-test, which runs at
   import, and a debug build of CPython judge the result. */

#ifndef PH_VERSION_H
#define PH_VERSION_H

#ifndef Py_BUILD_CORE
#define Py_BUILD_CORE 1             /* for the headers under internal/ */
#endif
#include <Python.h>

#include <stdbool.h>

/* Is this CPython 3.`minor` or later? */
#define PH_SINCE(minor) (PY_VERSION_HEX >= (0x03000000 | (minor) << 16))

#if !PH_SINCE(12) || PH_SINCE(16)
#error "permaheap supports CPython 3.12 to 3.15"
#endif
#ifdef Py_GIL_DISABLED
#error "permaheap does not support free-threaded builds of CPython yet"
#endif
#if !defined(__linux__) || SIZEOF_VOID_P != 8
#error "permaheap supports 64-bit Linux"
#endif

/* The exact version that this module is built for. */
#define PH_BUILT_FOR PY_VERSION_HEX

#ifdef Py_DEBUG
#define PH_DEBUG_BUILD true
#else
#define PH_DEBUG_BUILD false
#endif

/* --- Since 3.13 --------------------------------------------------------------- */

/* Are the types of datetime usable in interpreters with their own GIL? */
#define PH_DATETIME_IN_INTERPRETERS PH_SINCE(13)

/* Does an insertion into a copy of a split dict leave the table of keys alone that
   both share?  3.12 resets the version there: a write into the heap. */
#define PH_COPIES_LEAVE_SHARED_KEYS PH_SINCE(13)

/* Do the values of a split dict begin with their capacity and size, so that they
   can also lie inside an instance?  In 3.12 their order lies in front of them. */
#define PH_HAS_INLINE_VALUES PH_SINCE(13)

/* Can a str say that no interpreter made it (statically_allocated)? */
#define PH_STR_CAN_BE_STATIC PH_SINCE(13)

/* Does this build assert that an immortal str is interned or static? */
#define PH_DEBUG_WANTS_INTERNED (PH_DEBUG_BUILD && PH_SINCE(13))

/* Is there a function that makes an interned str immortal? */
#define PH_HAS_INTERN_IMMORTAL PH_SINCE(13)

/* Does a type count the version tags that it has used? */
#define PH_TYPE_COUNTS_VERSIONS PH_SINCE(13)

/* Does the first run of code replace instructions in it (RESUME_CHECK)? */
#define PH_FIRST_RUN_CHANGES_CODE PH_SINCE(13)

/* Only 3.13: an interpreter without thread states gets its first one back while
   CPython is still about to delete that one.  3.13.0 aborts then ("thread state
   already initialized"). */
#define PH_FIRST_STATE_RACES (PH_SINCE(13) && !PH_SINCE(14))

/* --- Since 3.14 --------------------------------------------------------------- */

/* Does a tuple cache its hash? */
#define PH_TUPLE_HAS_HASH PH_SINCE(14)

/* Does a dict have a tag of its watchers in place of a version? */
#define PH_DICT_HAS_WATCHER_TAG PH_SINCE(14)

/* Does each interpreter say whether its compiler (JIT) is switched on? */
#define PH_HAS_JIT_SWITCH PH_SINCE(14)

/* --- Since 3.15 --------------------------------------------------------------- */

/* Does a frozen dict become the built-in frozendict (PEP 814), or a
   mappingproxy over a dict? */
#define PH_HAS_FROZENDICT PH_SINCE(15)

/* --- Functions with another name or other parameters -------------------------- */

#if !PH_SINCE(13)
#define PyThreadState_GetUnchecked _PyThreadState_UncheckedGet
#endif

/* Write an int in two's complement, least byte first.  -1 with an exception. */
static inline int
ph_long_as_bytes(PyObject *obj, char *bytes, size_t size)
{
    PyLongObject *v = (PyLongObject *)obj;
#if PH_SINCE(13)
    return _PyLong_AsByteArray(v, (unsigned char *)bytes, size, 1, 1, 1);
#else
    return _PyLong_AsByteArray(v, (unsigned char *)bytes, size, 1, 1);
#endif
}

#endif
