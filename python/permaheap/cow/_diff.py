"""Which pages a worker has copied, from what the kernel says of its pages and its parent's.

A page was copied if both have it, as memory of their own, and not in the same frame. Frame numbers
are for CAP_SYS_ADMIN only; without them a page that only one process has (bit 56) was copied by
one of the two. Who wrote first decides who gets the copy, and who is *left behind* with the old
page; that shows where a third process still shares the old one, or when the page was in the same
frame at an earlier look.
"""

from array import array
from dataclasses import dataclass, field
from itertools import compress
from operator import ne

from permaheap.cow._proc import (
    EXCLUSIVE,
    FILE_OR_SHARED,
    FRAME,
    PAGE,
    PRESENT,
    SWAPPED,
    Mapping,
    Process,
)


@dataclass
class Look:
    """The pages of one process at one moment: entries of its pagemap, by start of mapping."""

    mappings: list[Mapping]
    entries: "dict[int, array[int]]" = field(default_factory=dict)

    @classmethod
    def at(cls, process: Process) -> "Look":
        """Look at all its private memory that is or was writable, or may have been copied."""
        look = cls(process.mappings())
        for mapping in look.mappings:
            if mapping.is_private and "w" in mapping.permissions:
                look.entries[mapping.start] = process.pagemap(mapping.start, mapping.end)
        return look

    def entry(self, address: int) -> int:
        """Return the entry of a page; 0 if it is not there."""
        mapping = self.mapping(address)
        if mapping is None or mapping.start not in self.entries:
            return 0
        return self.entries[mapping.start][(address - mapping.start) // PAGE]

    def mapping(self, address: int) -> Mapping | None:
        """Return the mapping of an address."""
        index = self._index(address)
        found = self.mappings[index] if index >= 0 else None
        return found if found is not None and address < found.end else None

    def before(self, mapping: Mapping) -> Mapping | None:
        """Return the mapping that ends where this one starts."""
        index = self._index(mapping.start) - 1
        found = self.mappings[index] if index >= 0 else None
        return found if found is not None and found.end == mapping.start else None

    def _index(self, address: int) -> int:
        low, high = 0, len(self.mappings)
        while low < high:
            middle = (low + high) // 2
            if self.mappings[middle].start <= address:
                low = middle + 1
            else:
                high = middle
        return low - 1

    def slice(self, start: int, end: int) -> "array[int]":
        """Return the entries of the pages from start to end, 0 for those that are not there."""
        entries = array("Q")
        while start < end:
            mapping = self.mapping(start)
            if mapping is None:
                entries.append(0)
                start += PAGE
                continue
            stop = min(end, mapping.end)
            known = self.entries.get(mapping.start)
            if known is None:
                entries.extend([0] * ((stop - start) // PAGE))
            else:
                first = (start - mapping.start) // PAGE
                entries.extend(known[first : first + (stop - start) // PAGE])
            start = stop
        return entries


def _is_own(entry: int) -> bool:
    """Whether a page is there and is anonymous memory, no file's."""
    return bool(entry & (PRESENT | SWAPPED)) and not entry & FILE_OR_SHARED


@dataclass
class Copies:
    """What became of a worker's pages."""

    copied: list[int] = field(default_factory=list)
    """Addresses of the pages that it has copied."""
    left_behind: list[int] = field(default_factory=list)
    """Addresses of those that its parent has copied."""
    suspects: list[int] = field(default_factory=list)
    """Addresses of those that only their content tells about: for want of frame numbers."""
    new: int = 0
    """Number of pages that it did not inherit."""


def copies_of(worker: Look, parent: Look, earlier: "tuple[Look, Look] | None") -> Copies:
    """Sort a worker's own pages; `earlier` is a look at both of them that was taken before."""
    found = Copies()
    for mapping in worker.mappings:
        ours = worker.entries.get(mapping.start)
        if ours is None:
            continue
        theirs = parent.slice(mapping.start, mapping.end)
        for page in compress(range(len(ours)), map(ne, ours, theirs)):
            if _is_own(ours[page]):
                address = mapping.start + page * PAGE
                _sort(found, address, ours[page], theirs[page], mapping, parent, earlier)
        for page, entry in enumerate(ours):  # equal entries: without frame numbers that says little
            if entry == theirs[page] and not entry & FRAME and _is_own(entry):
                address = mapping.start + page * PAGE
                _sort(found, address, entry, entry, mapping, parent, earlier)
    return found


def _sort(
    found: Copies,
    address: int,
    ours: int,
    theirs: int,
    mapping: Mapping,
    parent: Look,
    earlier: "tuple[Look, Look] | None",
) -> None:
    if not _is_own(theirs):
        if mapping.is_file and parent.mapping(address) is not None:
            found.copied.append(address)  # of the file's page, which the parent only read
        else:
            found.new += 1
    elif ours & FRAME and theirs & FRAME:
        if ours & FRAME != theirs & FRAME:
            left = not ours & EXCLUSIVE or _stayed(address, ours, earlier)
            (found.left_behind if left else found.copied).append(address)
    elif ours & EXCLUSIVE:
        found.copied.append(address)
    elif theirs & EXCLUSIVE:
        found.left_behind.append(address)
    else:
        found.suspects.append(address)


def _stayed(address: int, ours: int, earlier: "tuple[Look, Look] | None") -> bool:
    """Whether a page is in the frame in which both had it at an earlier look."""
    if earlier is None:
        return False
    worker, parent = earlier
    return worker.entry(address) & FRAME == ours & FRAME == parent.entry(address) & FRAME
