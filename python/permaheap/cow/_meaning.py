"""The meaning of a changed word of an object: its field, and so the cause of the copied page."""

from collections.abc import Iterable
from dataclasses import dataclass

from permaheap.cow._model import Cause
from permaheap.cow._objects import LAYOUT, Place, Type

# The strongest cause first: of several causes in one object, the first of these counts. A change of
# an object also counts references to it, but not the other way round.
STRENGTH = (
    Cause.NEW_OBJECT,
    Cause.MUTATION,
    Cause.INLINE_CACHE,
    Cause.INTERNING,
    Cause.HASH_CACHE,
    Cause.GC_HEADER,
    Cause.REFERENCE_COUNT,
    Cause.FREE_LIST,
    Cause.STACK,
    Cause.MALLOC,
    Cause.OTHER_MAPPING,
    Cause.LEFT_BEHIND,
    Cause.UNKNOWN,
)
RANK = {cause: rank for rank, cause in enumerate(STRENGTH)}

# The contents of these objects never change: if they do, it is another object.
_FIXED = frozenset(["int", "float", "complex", "str", "bytes", "tuple", "range", "slice"])

FIELDS: dict[str, list[tuple[int, int, Cause, str]]] = {}
"""The fields of a type, by its name: first byte, end, cause of a write, name."""
for _type, _field, _cause, _start, _end in LAYOUT["meanings"]:
    FIELDS.setdefault(_type, []).append((_start, _end, Cause(_cause), _field))

POOL_HEAD, FREE_BLOCK, TABLE = "head of a pool", "free block", "table of an object"
"""Stand for the type's name where there is no object: in obmalloc's pools, and in the tables that
dicts, lists and sets keep elsewhere."""


Change = tuple[int, int, int]  # address of a word, its value before, its value now


@dataclass(frozen=True)
class Finding:
    """The cause of a write, and the object that was written to."""

    cause: Cause
    object: str | None = None
    detail: str | None = None
    certain: bool = True


def strongest(findings: Iterable[Finding]) -> Finding:
    """Return the finding with the strongest cause."""
    return min(findings, key=lambda each: RANK[each.cause])


def is_immortal(count: int) -> bool:
    """Tell whether a word is the reference count of an immortal object (PEP 683)."""
    return bool(count >> 31 & 1)


def _is_count(word: int) -> bool:
    """Tell whether a word may be the reference count of a living object.

    Objects on a free list of their type have zero there, or the address of the next one.
    """
    return is_immortal(word) or 0 < word & 0xFFFFFFFFFF < 1 << 31


def of_word(kind: Type, offset: int, before: int, after: int) -> Finding:
    """Return the meaning of a changed word at an offset from the start of an object."""
    name = kind.name
    if offset < -LAYOUT["gc_head"]:
        return Finding(Cause.MUTATION, name, "attributes or weak references")
    if offset < 0:
        return Finding(Cause.GC_HEADER, name, "gc_next" if offset == -16 else "gc_prev")
    if offset == 0:
        if not _is_count(before) and _is_count(after):
            return Finding(Cause.NEW_OBJECT, name, "from a free list of its type")
        if _is_count(before) and not _is_count(after):
            return Finding(Cause.FREE_LIST, name, "freed")
        return Finding(Cause.REFERENCE_COUNT, name, "ob_refcnt")
    if offset == 8:
        return Finding(Cause.MUTATION, name, "ob_type")
    for start, end, cause, field in FIELDS.get(kind.base, ()):
        if start < offset + 8 and offset < end:
            if field == "state" and _same_but_for_interning(before, after):
                return Finding(cause, name, field)
            if field != "state":
                return Finding(cause, name, field)
    if kind.base in _FIXED:
        return Finding(Cause.NEW_OBJECT, name, "in place of another")
    return Finding(Cause.MUTATION, name, f"at byte {offset}")


def _same_but_for_interning(before: int, after: int) -> bool:
    """Tell whether a word that begins with the state of a str differs only in its first byte."""
    return (before ^ after) & 0xFFFFFF00 == 0


def of_object(place: Place, changes: Iterable[Change]) -> Finding:
    """Return the meaning of all changes (address, before, after) to one object."""
    assert place.type is not None
    return strongest(
        of_word(place.type, address - place.start, before, after)
        for address, before, after in changes
    )


def of_table(start: int, table: str, owner: str, changes: Iterable[Change]) -> Finding:
    """Return the meaning of all changes to a table of an object whose type is named `owner`."""
    return strongest(_of_word_in(table, owner, address - start) for address, _, _ in changes)


def _of_word_in(table: str, owner: str, offset: int) -> Finding:
    if table == "table of keys":
        if offset == LAYOUT["dk_refcnt"]:
            return Finding(Cause.REFERENCE_COUNT, owner, "dk_refcnt, of a table of keys")
        if offset <= LAYOUT["dk_version"] < offset + 8:
            return Finding(Cause.INLINE_CACHE, owner, "dk_version, of a table of keys")
    return Finding(Cause.MUTATION, owner, table)
