"""The map of objects that a parent leaves for the profiler: made in the parent, read from outside.

src/cow/object_map.c describes the file. By it the profiler also knows the large objects, and the
owners of the tables that dicts, lists, sets and instances have elsewhere.
"""

import gc
import os
import struct
import sys
from bisect import bisect_right
from dataclasses import dataclass

from permaheap import _core
from permaheap._immortalize import collector_off

NAME = "permaheap-objects"
_HEADER = struct.Struct("<8sQQQ")
_MAGIC = b"POBJMAP1"
_TABLES = ("", "table of keys", "values of attributes", "items", "table", "text")
_IMMORTAL = 1 << 31

_left: tuple[int, int] | None = None  # descriptor, and the file's number: somebody may close it


def leave_map() -> None:
    """Leave a map of all objects of this process, for `permaheap cow` to read.

    It is a file in memory of 16 bytes for each object and table, shared with the workers that are
    forked from here; a second call replaces the first one's. No object is written to.

    Raises:
        MemoryError: there is no memory for it.
        OSError: the file cannot be made.

    O(number of objects).
    """
    global _left
    with collector_off():
        descriptor = _core._object_map(_roots())
    if _left is not None and _inode(_left[0]) == _left[1]:
        os.close(_left[0])
    _left = descriptor, _inode(descriptor)


def _inode(descriptor: int) -> int:
    """Return the number of a file that is open; 0 if it is not."""
    try:
        return os.fstat(descriptor).st_ino
    except OSError:
        return 0


def _roots() -> list[object]:
    """Return what the collector knows, and where to find what it was told to leave alone.

    (That it hides; and to thaw it, to freeze it again after, would freeze all else, too.)
    """
    return [*gc.get_objects(), sys.modules, *sys._current_frames().values()]


@dataclass(frozen=True)
class Entry:
    """An object or a table of one."""

    start: int
    """Address of the object, as id() gives it; of the table's first byte."""
    type: str
    """Name of the object's type; of the owner's, if it is a table."""
    front: int
    """Bytes in front of it that belong to it."""
    size: int
    """In bytes, from `start` on."""
    table: str
    """What kind of table; "" if it is an object."""
    immortal: bool


class ObjectMap:
    """The map of a process, looked up by address in O(log n)."""

    def __init__(self, data: bytes) -> None:
        """Take the file's content.

        Raises:
            ValueError: it is no such file.
        """
        if len(data) < _HEADER.size:
            raise ValueError("no map of objects: it is too short")
        magic, entries, types, names = _HEADER.unpack_from(data)
        at = _HEADER.size
        if magic != _MAGIC or len(data) != at + 16 * entries + 4 * types + names:
            raise ValueError("no map of objects")
        view = memoryview(data)
        self._starts = view[at : at + 8 * entries].cast("Q")
        at += 8 * entries
        self._sizes = view[at : at + 4 * entries].cast("I")
        at += 4 * entries
        self._whats = view[at : at + 4 * entries].cast("I")
        at += 4 * entries
        self._fronts = view[at : at + 4 * types].cast("I")
        self._names = data[at + 4 * types :].decode(errors="replace").split("\0")

    def __len__(self) -> int:
        """Return the number of objects and tables."""
        return len(self._starts)

    def find(self, address: int) -> Entry | None:
        """Return what an address belongs to, or None."""
        index = bisect_right(self._starts, address) - 1
        if index < 0 or address >= self._starts[index] + 8 * self._sizes[index]:
            return None
        return self._entry(index)

    def between(self, start: int, end: int) -> list[Entry]:
        """Return what lies at least in part between two addresses."""
        first = bisect_right(self._starts, start) - 1
        if first < 0 or start >= self._starts[first] + 8 * self._sizes[first]:
            first += 1
        return [self._entry(index) for index in range(first, bisect_right(self._starts, end - 1))]

    def _entry(self, index: int) -> Entry:
        what = self._whats[index]
        number, table = what & 0xFFFFFF, _TABLES[what >> 24 & 0xF]
        front = 0 if table else self._fronts[number]
        return Entry(
            self._starts[index] + front,
            self._names[number],
            front,
            8 * self._sizes[index] - front,
            table,
            bool(what & _IMMORTAL),
        )
