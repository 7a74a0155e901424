"""Which pages a worker has copied, from what the kernel says of its pages and its parent's.

A page was copied if both have it, as memory of their own, and not in the same frame. Frame numbers
are for CAP_SYS_ADMIN only; without them a page that only one process has (bit 56) was copied by
one of the two. Who wrote first decides who gets the copy, and who is *left behind* with the old
page; that shows where a third process still shares the old one, or when the page was in the same
frame at an earlier look. Pages that are swapped out are not looked at: that would bring them back.
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
    Mapping,
    Process,
)

_LARGEST = 1 << 35  # bytes of a mapping: 64 MiB of entries


@dataclass
class Look:
    """The pages of one process at one moment: entries of its pagemap, by start of mapping."""

    mappings: list[Mapping]
    entries: "dict[int, array[int]]" = field(default_factory=dict)
    has_frames: bool = True
    """Whether the entries have frame numbers."""
    too_large: int = 0
    """Number of mappings that were left out: what reserves so much hardly uses it."""

    @classmethod
    def at(cls, process: Process) -> "Look":
        """Look at all its memory that is private and may be written to."""
        look = cls(process.mappings())
        for mapping in look.mappings:
            if not mapping.is_private or "w" not in mapping.permissions:
                continue
            if mapping.end - mapping.start > _LARGEST:
                look.too_large += 1
                continue
            entries = process.pagemap(mapping.start, mapping.end)
            look.entries[mapping.start] = entries
            if look.has_frames and (present := next(filter(_is_own, entries), 0)):
                look.has_frames = bool(present & FRAME)
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
    return bool(entry & PRESENT) and not entry & FILE_OR_SHARED


@dataclass
class Copies:
    """What became of a worker's pages."""

    copied: list[int] = field(default_factory=list)
    """Addresses of the pages that it has copied."""
    left_behind: list[int] = field(default_factory=list)
    """Addresses of those that its parent has copied."""
    suspects: list[int] = field(default_factory=list)
    """Addresses of those that only their content tells about: for want of frame numbers."""


def copies_of(worker: Look, parent: Look, earlier: "tuple[Look, Look] | None") -> Copies:
    """Sort a worker's own pages; `earlier` is a look at both of them that was taken before."""
    found = Copies()
    for mapping in worker.mappings:
        ours = worker.entries.get(mapping.start)
        if ours is None:
            continue
        theirs = parent.slice(mapping.start, mapping.end)
        # Equal entries mean the same frame; without frame numbers they mean nothing.
        pages = range(len(ours))
        for page in compress(pages, map(ne, ours, theirs)) if worker.has_frames else pages:
            if _is_own(ours[page]):
                address = mapping.start + page * PAGE
                _sort(found, address, ours[page], theirs[page], mapping, parent, earlier)
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
        # Else it is new: what a worker did not inherit, it did not copy.
        inherited = parent.mapping(address)
        if mapping.is_file and inherited is not None and inherited.name == mapping.name:
            found.copied.append(address)  # of the file's page, which the parent only read
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
