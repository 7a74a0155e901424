"""The map of objects: the parent writes it, and the profiler reads it from outside.

src/cow/object_map.c describes the file. It tells the profiler about large objects, and about the
owners of tables that dicts, lists, sets and instances keep elsewhere.
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

_left: tuple[int, int] | None = None  # descriptor and inode: the program may close the descriptor


def leave_map() -> None:
    """Leave a map of all objects of this process, for `permaheap cow` to read.

    The map is a file in memory, with 16 bytes for each object and table. The workers that are
    forked from here share it. A second call replaces the map of the first. No object is written to.

    Raises:
        MemoryError: there is no memory for the map.
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
    """Return the inode number of an open file; 0 if the descriptor is closed."""
    try:
        return os.fstat(descriptor).st_ino
    except OSError:
        return 0


def _roots() -> list[object]:
    """Return the objects that the collector tracks, and roots of those that gc.freeze() hides.

    The collector does not list the hidden ones. gc.unfreeze() would show them, but freezing them
    again would freeze all other objects, too.
    """
    return [*gc.get_objects(), sys.modules, *sys._current_frames().values()]


@dataclass(frozen=True)
class Entry:
    """An object or a table of one."""

    start: int
    """Address of the object, as id() gives it, or of the table's first byte."""
    type: str
    """Name of the type of the object, or of the table's owner."""
    front: int
    """Number of bytes in front of `start` that belong to the object."""
    size: int
    """Number of bytes from `start` on."""
    table: str
    """The kind of table; "" if it is an object."""
    immortal: bool


class ObjectMap:
    """The map of a process; a look-up by address costs O(log n)."""

    def __init__(self, data: bytes) -> None:
        """Read the content of the file.

        Raises:
            ValueError: the content is not a map of objects.
        """
        if len(data) < _HEADER.size:
            raise ValueError("no map of objects: the file is too short")
        magic, entries, types, names = _HEADER.unpack_from(data)
        at = _HEADER.size
        if magic != _MAGIC or len(data) != at + 16 * entries + 4 * types + names:
            raise ValueError("no map of objects: the header does not match the file")
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
        """Return the object or table that an address belongs to, or None."""
        index = bisect_right(self._starts, address) - 1
        if index < 0 or address >= self._starts[index] + 8 * self._sizes[index]:
            return None
        return self._entry(index)

    def between(self, start: int, end: int) -> list[Entry]:
        """Return the objects and tables that overlap a range of addresses."""
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
