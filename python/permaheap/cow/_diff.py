"""The pages that a worker has copied, from the kernel's tables of its pages and its parent's.

A page was copied if worker and parent both have it as anonymous memory, but in different frames.
Only CAP_SYS_ADMIN can read frame numbers. Without them, a page that only one process has (bit 56)
was copied by one of the two. The process that writes first gets the copy; the other one is *left
behind* with the old page. A worker was left behind if a third process still shares the old page,
or if the page was in the same frame at an earlier look. Pages that are swapped out are skipped,
since a look would bring them back.
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
    """Number of mappings that were skipped: a mapping this large is hardly used."""

    @classmethod
    def at(cls, process: Process) -> "Look":
        """Look at all memory of a process that is private and writable."""
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
        """Return the entry of a page, or 0 if there is none."""
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
        """Return the entries of the pages from start to end; 0 for pages without an entry."""
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
    """Tell whether a page is present and is anonymous memory, not a file's."""
    return bool(entry & PRESENT) and not entry & FILE_OR_SHARED


@dataclass
class Copies:
    """A worker's pages that are no longer shared, sorted by the process that copied them."""

    copied: list[int] = field(default_factory=list)
    """Addresses of the pages that the worker has copied."""
    left_behind: list[int] = field(default_factory=list)
    """Addresses of the pages that its parent has copied."""
    suspects: list[int] = field(default_factory=list)
    """Addresses of the pages that, without frame numbers, only their content can decide."""


def copies_of(worker: Look, parent: Look, earlier: "tuple[Look, Look] | None") -> Copies:
    """Sort a worker's own pages; `earlier` is a previous look at both processes."""
    found = Copies()
    for mapping in worker.mappings:
        ours = worker.entries.get(mapping.start)
        if ours is None:
            continue
        theirs = parent.slice(mapping.start, mapping.end)
        # Equal entries mean the same frame, but only if they have frame numbers.
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
        # Any other page is new: the worker did not inherit it, so it did not copy it.
        inherited = parent.mapping(address)
        if mapping.is_file and inherited is not None and inherited.name == mapping.name:
            found.copied.append(address)  # a copy of the file's page, which the parent only read
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
    """Tell whether a page is in the frame that both processes shared at an earlier look."""
    if earlier is None:
        return False
    worker, parent = earlier
    return worker.entry(address) & FRAME == ours & FRAME == parent.entry(address) & FRAME
