"""The cause of a first write: from the object and the field, and the function that wrote.

The object is what was at the address when the process was forked, which is right for a first write:
to free it would have been a write to its page. What is in no object is judged by the function.
"""

import re
from collections.abc import Callable

from permaheap import _core
from permaheap.cow._model import Cause

Place = tuple[str, int, int]
"""Name of an object's type, offset in the object, size of the object."""
Locate = Callable[[int], Place | None]

POOL_HEAD, FREE_BLOCK, TABLE = "head of a pool", "free block", "table of an object"
"""What stands for the type's name where there is no object: in obmalloc's pools, and what dicts,
lists and sets keep apart from themselves."""
_NO_OBJECT = (POOL_HEAD, FREE_BLOCK, TABLE)

_MEANINGS: dict[str, list[tuple[str, Cause, int, int]]] = {}
for _type, _field, _cause, _start, _end in _core._layout()["meanings"]:
    _MEANINGS.setdefault(_type, []).append((_field, Cause(_cause), _start, _end))

_COUNT, _TYPE = range(8), range(8, 16)
_GC_HEAD = range(-16, 0)

# Of CPython's sources, and of the C library's. The first that matches.
_FUNCTIONS: tuple[tuple[re.Pattern[str], Cause], ...] = tuple(
    (re.compile(pattern), cause)
    for pattern, cause in (
        (r"(_?int_)?(malloc|free|realloc|calloc|cfree)$|malloc_|_int_|unlink_chunk|sysmalloc|"
         r"systrim|tcache|__libc_(malloc|free|calloc|realloc)", Cause.MALLOC),
        (r"gc_|_?PyObject_GC_(Track|UnTrack)|_PyGC_|visit_(decref|reachable|move)|update_refs|"
         r"subtract_refs|move_unreachable|deduce_unreachable|untrack_tuples|mark_", Cause.GC_HEADER),
        (r"pymalloc_free|_?Py(Object|Mem)_Free|.*freelist|.*(dealloc|_free|_Del)$|insert_to_",
         Cause.FREE_LIST),
        (r"pymalloc_|_?Py(Object|Mem)_(Raw)?(Malloc|Calloc|Realloc)|new_arena|allocate_from|"
         r"_PyMem_|gc_alloc|.*_New(_|[A-Z]|$)|.*[a-z]_new(_|$)|.*_(alloc|vectorcall)(_|$)|"
         r"PyType_GenericAlloc|_PyType_Alloc|_Py_NewReference", Cause.NEW_OBJECT),
        (r"dictkeys_(incref|decref)|_PyDictKeys_DecRef|_Py_(Dealloc|DECREF|IncRef|DecRef)",
         Cause.REFERENCE_COUNT),
        (r".*intern", Cause.INTERNING),
        (r".*hash", Cause.HASH_CACHE),
        (r"_Py_Specialize|specialize_|_PyCode_Quicken", Cause.INLINE_CACHE),
        (r"_?PyDict_Set|insert(dict|_to_)|dict(resize|_set|_ass)|_?PyList_Append|list_(resize|"
         r"ass|append)|set_add|_?PySet_Add|_?PyObject_(Set|Store)|store_", Cause.MUTATION),
    )
)  # fmt: skip


def by_function(function: str | None) -> Cause | None:
    """Return what a function writes to memory that is in no object, or None."""
    if function is not None:
        for pattern, cause in _FUNCTIONS:
            if pattern.match(function):
                return cause
    return None


def by_place(place: Place, function: str | None) -> tuple[Cause, str]:
    """Return what a write to this place means, and the name of the field."""
    type_name, offset, size = place
    if type_name in _NO_OBJECT:
        return _in_no_object(type_name, offset, by_function(function)), type_name
    if offset in _COUNT:
        return Cause.REFERENCE_COUNT, "ob_refcnt"
    if offset in _GC_HEAD:
        return Cause.GC_HEADER, "collector's header"
    if offset in _TYPE:
        return Cause.MUTATION, "ob_type"
    for field, cause, start, end in _MEANINGS.get(type_name, ()):
        if start <= offset < min(end, size):
            return cause, field
    return Cause.MUTATION, f"at byte {offset}"


def _in_no_object(kind: str, offset: int, by: Cause | None) -> Cause:
    if kind == TABLE:
        # A table of a dict's keys begins with a reference count.
        counted = offset in _COUNT and by is not Cause.MUTATION
        return Cause.REFERENCE_COUNT if counted else Cause.MUTATION
    return Cause.FREE_LIST if by is Cause.FREE_LIST else Cause.NEW_OBJECT
