"""The cause of a first write: from the object and its field, and from the function that wrote.

The object is the one that was at the address when the process was forked. That is right for a first
write: freeing the object would have been a write to its page. A write to memory outside of objects
is judged by the function.
"""

import re
from collections.abc import Callable

from permaheap.cow._meaning import FIELDS, FREE_BLOCK, POOL_HEAD, TABLE
from permaheap.cow._model import Cause

Place = tuple[str, int, int]
"""Name of an object's type, offset in the object, size of the object."""
Locate = Callable[[int], Place | None]

_NO_OBJECT = (POOL_HEAD, FREE_BLOCK, TABLE)

_COUNT, _TYPE = range(8), range(8, 16)
_GC_HEAD = range(-16, 0)

# The cause of a write outside of objects, by the function: beginnings of names ("$": whole
# names) of functions of CPython and the C library. The first match counts.
_FUNCTIONS = {
    Cause.MALLOC: """
        malloc$ free$ realloc$ calloc$ cfree$ malloc_ _int_ unlink_chunk sysmalloc systrim tcache
        __libc_malloc __libc_free __libc_calloc __libc_realloc""",
    Cause.GC_HEADER: """
        gc_ _PyGC_ PyObject_GC_Track PyObject_GC_UnTrack visit_decref visit_reachable visit_move
        update_refs subtract_refs move_unreachable deduce_unreachable untrack_tuples mark_""",
    Cause.FREE_LIST: """
        pymalloc_free PyObject_Free _PyObject_Free PyMem_Free _PyMem_Free insert_to_usedpool
        insert_to_freepool .*freelist .*dealloc$ .*_free$ .*_Del$""",
    Cause.NEW_OBJECT: """
        pymalloc_ _PyMem_ _?Py(Object|Mem)_(Raw)?(Malloc|Calloc|Realloc)$ new_arena allocate_from
        arena_map gc_alloc .*_New$ .*_New[_A-Z] .*[a-z]_new$ .*[a-z]_new_ .*_alloc$ .*_alloc_
        .*_vectorcall$ PyType_GenericAlloc _PyType_Alloc _Py_NewReference _PyObject_Init
        list_slice write_size_t""",
    Cause.REFERENCE_COUNT: """
        dictkeys_incref dictkeys_decref _PyDictKeys_DecRef _Py_Dealloc
        _?Py_X?(INCREF|DECREF|IncRef|DecRef) new_reference""",
    Cause.INTERNING: ".*intern",
    Cause.HASH_CACHE: ".*hash$",
    Cause.INLINE_CACHE: """
        _Py_Specialize specialize_ _PyCode_Quicken _PyDictKeys_GetVersion _PyFunction_GetVersion
        assign_version_tag _PyType_AssignVersion""",
    Cause.MUTATION: """
        _?PyDict_Set insertdict insert_ dictresize dict_set dict_ass _?PyList_Append list_resize
        list_ass list_append set_add PySet_Add PyObject_Set PyObject_Store store_""",
}
_PATTERNS = [(cause, re.compile("|".join(names.split()))) for cause, names in _FUNCTIONS.items()]


def by_function(function: str | None) -> Cause | None:
    """Return the cause of a function's write to memory outside of objects, or None."""
    if function is not None:
        for cause, pattern in _PATTERNS:
            if pattern.match(function):
                return cause
    return None


def by_place(place: Place, function: str | None) -> tuple[Cause, str]:
    """Return the cause of a write to this place, and the name of the field."""
    type_name, offset, size = place
    if type_name in _NO_OBJECT:
        return _in_no_object(type_name, offset, by_function(function)), type_name
    if offset in _COUNT:
        return Cause.REFERENCE_COUNT, "ob_refcnt"
    if offset in _GC_HEAD:
        return Cause.GC_HEADER, "collector's header"
    if offset in _TYPE:
        return Cause.MUTATION, "ob_type"
    for start, end, cause, field in FIELDS.get(type_name, ()):
        if start <= offset < min(end, size):
            return cause, field
    return Cause.MUTATION, f"at byte {offset}"


def _in_no_object(kind: str, offset: int, by: Cause | None) -> Cause:
    if kind == TABLE:
        # A table of a dict's keys begins with a reference count.
        counted = offset in _COUNT and by is not Cause.MUTATION
        return Cause.REFERENCE_COUNT if counted else Cause.MUTATION
    return Cause.FREE_LIST if by is Cause.FREE_LIST else Cause.NEW_OBJECT
