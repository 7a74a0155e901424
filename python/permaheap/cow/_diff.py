"""Which pages a worker has copied, and why, by comparing its memory with its parent's.

A page was copied if both have it, as memory of their own, and not in the same frame. Frame numbers
are for CAP_SYS_ADMIN only; without them a page that only one process has (bit 56) was copied by
one of the two. Who wrote first decides who gets the copy, and who is *left behind* with the old
page; that shows where a third process still shares the old one, or when the page was in the same
frame at an earlier look.

Why follows from the words that differ: each belongs to an object, a field of which it is. The page's
cause is that of most of the objects with a difference; what else there was is in the detail. Where
no word differs, references were counted up and down again: then the mortal objects on the page are
the candidates, the most frequent type first.
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import compress
from operator import ne

from permaheap.cow._meaning import RANK, Finding, is_immortal, of_object
from permaheap.cow._model import Cause, Page
from permaheap.cow._objects import POOL, Chunks, Place, Pool, Types, place_in_block
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

_MOST_NEIGHBOURS = 8
Change = tuple[int, int, int]  # address, the word before, the word after


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


# --- Why ------------------------------------------------------------------------------------------


def changes_between(address: int, before: bytes, after: bytes) -> list[Change]:
    """Return the words that differ between two copies of memory at an address."""
    if before == after:
        return []
    old, new = memoryview(before).cast("Q"), memoryview(after).cast("Q")
    return [
        (address + 8 * index, old[index], new[index])
        for index in compress(range(len(old)), map(ne, old, new))
    ]


class Explainer:
    """Tells why pages were copied, from the memory of parent and worker."""

    def __init__(
        self, parent: Process, worker: Process, look: Look, types: Types, objects: bool
    ) -> None:
        """Take a look at the parent; without `objects` nothing is known of the interpreter."""
        self._parent = parent
        self._worker = worker
        self._look = look
        self._types = types
        self._new_types = Types(worker, look.mappings)
        self._objects = objects
        self._stacks = _stacks(parent, worker, look)
        self._chunks: dict[int, Chunks] = {}

    def explain(self, addresses: Iterable[int]) -> Iterator[Page]:
        """Yield what is known of the pages at these addresses, in their order."""
        pool_pages: dict[int, list[int]] = {}
        for address in addresses:
            pool_pages.setdefault(address & -POOL, []).append(address)
        for pool_address, pages in pool_pages.items():
            before = self._parent.memory(pool_address, POOL) if self._objects else None
            pool = Pool.parse(pool_address, before, self._types)
            if pool is None or before is None:
                yield from map(self._elsewhere, pages)
                continue
            after = self._worker.memory(pool_address, POOL)
            for page in pages:
                at = page - pool_address
                if after is None:
                    yield Page(page, Cause.UNKNOWN)
                else:
                    changes = changes_between(page, before[at : at + PAGE], after[at : at + PAGE])
                    yield _InPool(pool, pool_address, after, self._new_types).page(page, changes)

    def _elsewhere(self, address: int) -> Page:
        """Tell about a page that is not one of the allocator of small blocks."""
        mapping = self._look.mapping(address)
        if mapping is None:
            return Page(address, Cause.UNKNOWN)
        if mapping.name == "[stack]" or mapping.start in self._stacks:
            return Page(address, Cause.STACK, mapping.name or "stack of a thread")
        if mapping.is_file or (mapping.name and mapping.name != "[heap]"):
            return Page(address, Cause.OTHER_MAPPING, mapping.name.rpartition("/")[2])
        previous = self._look.before(mapping)
        if previous is not None and previous.is_file:  # .bss, what follows a file's data
            return Page(address, Cause.OTHER_MAPPING, previous.name.rpartition("/")[2])
        return self._block(address, mapping)

    def _block(self, address: int, mapping: Mapping) -> Page:
        """Tell about a page of the C library's heap, or of a large block."""
        before = self._parent.memory(address, PAGE)
        after = self._worker.memory(address, PAGE)
        if before is None or after is None or not self._objects:
            return Page(address, Cause.MALLOC if mapping.name else Cause.UNKNOWN)
        by_place: dict[Place | None, list[Change]] = {}
        for change in changes_between(address, before, after):
            by_place.setdefault(self._place(change[0], mapping), []).append(change)
        if not by_place:
            return self._transient(address, mapping)
        findings = [
            of_object(place, changes)
            if place is not None and place.type is not None
            else Finding(Cause.MALLOC)
            for place, changes in by_place.items()
        ]
        return _page(address, findings, ())

    def _place(self, address: int, mapping: Mapping) -> Place | None:
        if mapping.name == "[heap]":
            if mapping.start not in self._chunks:
                self._chunks[mapping.start] = Chunks(self._parent, mapping, self._types)
            return self._chunks[mapping.start].place(address)
        return place_in_block(self._parent, self._types, mapping.start + 16)

    def _transient(self, address: int, mapping: Mapping) -> Page:
        place = self._place(address, mapping)
        if place is None or place.type is None:
            return Page(address, Cause.MALLOC, certain=False)
        return Page(
            address,
            Cause.REFERENCE_COUNT,
            place.type.name,
            "unchanged: counted up and down again",
            certain=False,
        )


class _InPool:
    """Tells about pages of one pool, which the parent has as `pool`."""

    def __init__(self, pool: Pool, address: int, after: bytes, new_types: Types) -> None:
        self._before = pool
        self._after = Pool.parse(address, after, new_types)

    def page(self, address: int, changes: list[Change]) -> Page:
        neighbours = self._types_on(address)
        if not changes:
            return _candidates(address, neighbours)
        by_block: dict[int, list[Change]] = {}
        for change in changes:
            index = self._before.index(change[0] - self._before.address)
            by_block.setdefault(index, []).append(change)
        findings = [self._block(index, changed) for index, changed in by_block.items()]
        return _page(address, findings, [name for name, _ in neighbours])

    def _block(self, index: int, changes: list[Change]) -> Finding:
        before, after = self._before, self._after
        if index < 0:
            return Finding(Cause.FREE_LIST, None, "head of the pool")
        if after is None or after.size != before.size:
            return Finding(Cause.NEW_OBJECT, None, "the pool is used for another size")
        if index >= before.blocks:
            return Finding(Cause.UNKNOWN)
        was_free, is_free = before.is_free(index), after.is_free(index)
        if was_free and is_free:
            return Finding(Cause.FREE_LIST, None, "list of free blocks")
        if is_free:
            return Finding(Cause.FREE_LIST, _name(before.place(index)), "freed")
        new = after.place(index)
        if was_free:
            return Finding(Cause.NEW_OBJECT, _name(new))
        old = before.place(index)
        if old.type != new.type:
            return Finding(Cause.NEW_OBJECT, _name(new), "in place of another")
        if old.type is None:
            return Finding(Cause.MUTATION, None, "a table of some object", certain=False)
        return of_object(old, changes)

    def _types_on(self, address: int) -> list[tuple[str, bool]]:
        """Return the names of the types of the objects on a page, and whether they are mortal."""
        pool = self._before
        first = max(pool.index(address - pool.address), 0)
        last = min(pool.index(address + PAGE - 1 - pool.address), pool.blocks - 1)
        found = []
        for index in range(first, last + 1):
            place = pool.place(index)
            if place.type is not None and not pool.is_free(index):
                count = pool.words[(place.start - pool.address) // 8]
                found.append((place.type.name, not is_immortal(count)))
        return found


def _candidates(address: int, objects: list[tuple[str, bool]]) -> Page:
    """Tell about a page that was copied and has not changed."""
    mortal = Counter(name for name, is_mortal in objects if is_mortal).most_common()
    if not mortal:
        return Page(address, Cause.UNKNOWN, certain=False)
    return Page(
        address,
        Cause.REFERENCE_COUNT,
        mortal[0][0],
        "unchanged: counted up and down again",
        tuple(name for name, _ in mortal[1 : _MOST_NEIGHBOURS + 1]),
        certain=False,
    )


def _name(place: Place) -> str | None:
    return None if place.type is None else place.type.name


def _page(address: int, findings: list[Finding], names: Iterable[str]) -> Page:
    """Choose the cause that most objects on a page have. A free list changes with all that is new."""
    votes = Counter(each.cause for each in findings)
    if len(votes) > 1:
        for weak in (Cause.FREE_LIST, Cause.UNKNOWN):
            if len(votes) > 1:
                votes.pop(weak, None)
    cause = min(votes, key=lambda each: (-votes[each], RANK[each]))
    chosen = Counter(each for each in findings if each.cause is cause).most_common()
    finding = next((each for each, _ in chosen if each.object is not None), chosen[0][0])
    others = [f"{each} ({n})" for each, n in votes.most_common() if each is not cause]
    details = [*filter(None, [finding.detail]), *others]
    neighbours = [name for name, _ in Counter(names).most_common() if name != finding.object]
    return Page(
        address,
        cause,
        finding.object,
        "; ".join(details) or None,
        tuple(neighbours[:_MOST_NEIGHBOURS]),
        finding.certain,
    )


def _stacks(parent: Process, worker: Process, look: Look) -> set[int]:
    """Return where the mappings start that are stacks of threads."""
    found = set()
    for pointer in parent.stack_pointers() + worker.stack_pointers():
        mapping = look.mapping(pointer)
        if mapping is not None:
            found.add(mapping.start)
    return found
