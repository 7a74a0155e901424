"""The reason why a worker has copied a page, from the differences to its parent's memory.

Each word that differs belongs to a field of an object. The cause of the page is the cause of most
objects with a difference; the detail names the other causes. If no word differs, references were
counted up and down again. Then the mortal objects on the page are the candidates, the most frequent
type first.

A comparison cannot tell which write came first: the trace mode can.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import compress
from operator import itemgetter, ne

from permaheap.cow._diff import Look
from permaheap.cow._map import ObjectMap
from permaheap.cow._meaning import (
    FREE_BLOCK,
    POOL_HEAD,
    RANK,
    TABLE,
    Change,
    Finding,
    of_object,
    of_table,
)
from permaheap.cow._model import Cause, Page
from permaheap.cow._objects import (
    POOL,
    Chunks,
    Place,
    Pool,
    Types,
    is_frame_stack,
    is_table_of_keys,
    large_blocks,
    place_in_block,
)
from permaheap.cow._proc import PAGE, Mapping, Process

_MOST_NEIGHBOURS = 8
_UNCHANGED = "unchanged: counted up and down again, or looked at by the collector"


def changes_between(address: int, before: bytes, after: bytes) -> list[Change]:
    """Return the words that differ between two copies of memory at an address."""
    if before == after:
        return []
    old, new = memoryview(before).cast("Q"), memoryview(after).cast("Q")
    return [
        (address + 8 * index, old[index], new[index])
        for index in compress(range(len(old)), map(ne, old, new))
    ]


class Inherited:
    """A parent's memory at one look, for all workers that inherited it."""

    def __init__(
        self, process: Process, look: Look, objects: bool, object_map: ObjectMap | None
    ) -> None:
        """Keep the look; without `objects` the interpreter in the process is unknown."""
        self.process = process
        self.look = look
        self.objects = objects
        self.types = Types(process, look.mappings)
        self.unchanged: dict[int, Page] = {}
        """The results for pages that a worker has copied but not changed, by address."""
        self._map = object_map
        self._chunks: dict[int, Chunks] = {}
        self._large: dict[int, list[tuple[int, int]]] = {}
        self._last: tuple[int, Pool | None] | None = None

    def table(self, address: int, changes: Iterable[Change]) -> Finding | None:
        """Explain the changes to an object's table at an address; None if there is no table."""
        entry = self._map.find(address) if self._map else None
        if entry is not None and entry.table:
            return of_table(entry.start, entry.table, entry.type, changes)
        if is_table_of_keys(self.process.memory(address, 32)):
            return of_table(address, "table of keys", "dict", changes)
        return None

    def library(self, address: int, mapping: Mapping) -> str | None:
        """Return the file whose .bss the anonymous memory at an address is, or None."""
        before = self.look.before(mapping)
        if before is None or not before.is_file or before.permissions[1] != "w":
            return None
        if self._map is not None and self._map.between(address, address + PAGE):
            return None
        return before.name if self._large_block(address, mapping) is None else None

    def place(self, address: int, mapping: Mapping) -> Place | None:
        """Return the object or block at an address outside of the pools; None if unknown."""
        entry = self._map.find(address) if self._map else None
        if entry is not None and not entry.table:
            head = self.process.memory(entry.start, 16)
            found = self.types.get(int.from_bytes(head[8:], "little")) if head else None
            return Place(entry.start, found)
        if entry is not None:
            return Place(entry.start, None)
        if mapping.name == "[heap]":
            if mapping.start not in self._chunks:
                self._chunks[mapping.start] = Chunks(self.process, mapping, self.types)
            return self._chunks[mapping.start].place(address)
        block = self._large_block(address, mapping)
        if block is None or address < block:
            return None
        return place_in_block(self.process, self.types, block)

    def _large_block(self, address: int, mapping: Mapping) -> int | None:
        """Return the start of the block around an address that malloc has mapped, or None."""
        # Files are skipped: reading a hole of a file in memory would fill it.
        if not self.objects or mapping.name.startswith("/"):
            return None
        if mapping.start not in self._large:
            self._large[mapping.start] = large_blocks(self.process, mapping, self.types)
        blocks = self._large[mapping.start]
        index = bisect_right(blocks, address | PAGE - 1, key=itemgetter(0)) - 1
        return blocks[index][0] if index >= 0 and address < blocks[index][1] else None

    def locate(self, address: int) -> tuple[str, int, int] | None:
        """Return the type of the object at an address, the offset in it, and its size.

        Where there is no object, POOL_HEAD, FREE_BLOCK or TABLE stands for the type.
        """
        entry = self._map.find(address) if self._map else None
        if entry is not None:
            return TABLE if entry.table else entry.type, address - entry.start, entry.size
        pool = self._pool(address & -POOL)
        if pool is None:
            return self._locate_large(address)
        index = pool.index(address - pool.address)
        if not 0 <= index < pool.blocks:
            return POOL_HEAD, address - pool.address, POOL
        place = pool.place(index)
        offset, name = address - place.start, _name(place)
        return (FREE_BLOCK if pool.is_free(index) else name or TABLE), offset, pool.size

    def _locate_large(self, address: int) -> tuple[str, int, int] | None:
        mapping = self.look.mapping(address)
        if mapping is None or not mapping.is_anonymous or not self.objects:
            return None
        place = self.place(address, mapping)
        if place is None or place.type is None:
            return None
        offset = address - place.start
        return place.type.name, offset, offset + 8  # at least: malloc's blocks are larger

    def _pool(self, address: int) -> Pool | None:
        """Return the pool at an address. The last one is kept: the next address is often near."""
        if self._last is None or self._last[0] != address:
            data = self.process.memory(address, POOL) if self.objects else None
            self._last = address, Pool.parse(address, data, self.types)
        return self._last[1]


class Explainer:
    """Explains the pages that one worker has copied."""

    def __init__(self, inherited: Inherited, worker: Process, look: Look) -> None:
        """Take a worker, a look at it, and the memory that it inherited."""
        self._inherited = inherited
        self._worker = worker
        self._new_types = Types(worker, look.mappings)
        self._stacks = _stacks(inherited, worker)

    def explain(self, addresses: Iterable[int]) -> Iterator[Page]:
        """Yield a `Page` for each of these addresses, in their order."""
        by_pool: dict[int, list[int]] = {}
        for address in addresses:
            by_pool.setdefault(address & -POOL, []).append(address)
        for pool_address, pages in by_pool.items():
            yield from self._near(pool_address, pages)

    def _near(self, pool_address: int, pages: list[int]) -> Iterator[Page]:
        """Explain pages that are all in one pool, or all outside of pools."""
        parent = self._inherited
        mapping = parent.look.mapping(pages[0])
        # Pages of files are skipped: reading a hole of a file in memory would fill it.
        may_be = parent.objects and mapping is not None and mapping.is_anonymous
        before = parent.process.memory(pool_address, POOL) if may_be else None
        pool = Pool.parse(pool_address, before, parent.types)
        if pool is None or before is None:
            yield from map(self._elsewhere, pages)
            return
        after = self._worker.memory(pool_address, POOL)
        in_pool = None
        for page in pages:
            at = page - pool_address
            if after is None:
                yield Page(page, Cause.UNKNOWN)
            elif before[at : at + PAGE] == after[at : at + PAGE]:
                known = parent.unchanged.get(page)
                if known is None:
                    known = parent.unchanged[page] = _candidates(page, pool)
                yield known
            else:
                in_pool = in_pool or _InPool(parent, pool, after, self._new_types)
                yield in_pool.page(
                    page, changes_between(page, before[at : at + PAGE], after[at : at + PAGE])
                )

    def _elsewhere(self, address: int) -> Page:
        """Explain a page outside of the pools of small blocks."""
        look = self._inherited.look
        mapping = look.mapping(address)
        if mapping is None or "w" not in mapping.permissions:  # it was unmapped in between
            return Page(address, Cause.UNKNOWN)
        if mapping.name == "[stack]" or mapping.start in self._stacks:
            return Page(address, Cause.STACK, mapping.name or "stack of a thread")
        if not mapping.is_anonymous:
            return Page(address, Cause.OTHER_MAPPING, mapping.name.rpartition("/")[2])
        library = self._inherited.library(address, mapping)
        if library is not None:
            return Page(address, Cause.OTHER_MAPPING, library.rpartition("/")[2])
        if is_frame_stack(self._inherited.process, address):
            return Page(address, Cause.STACK, "frames of Python functions")
        return self._block(address, mapping)

    def _block(self, address: int, mapping: Mapping) -> Page:
        """Explain a page of the C library's heap, or of a large block."""
        parent = self._inherited
        before = parent.process.memory(address, PAGE) if parent.objects else None
        after = self._worker.memory(address, PAGE) if parent.objects else None
        if before is None or after is None:
            return Page(address, Cause.MALLOC if mapping.name else Cause.UNKNOWN, certain=False)
        by_place: dict[Place | None, list[Change]] = {}
        for change in changes_between(address, before, after):
            by_place.setdefault(parent.place(change[0], mapping), []).append(change)
        if by_place:
            return _page(address, [self._in_block(*each) for each in by_place.items()], ())
        place = parent.place(address, mapping)
        if place is None or place.type is None:
            return Page(address, Cause.MALLOC, certain=False)
        return Page(address, Cause.REFERENCE_COUNT, place.type.name, _UNCHANGED, certain=False)

    def _in_block(self, place: Place | None, changes: list[Change]) -> Finding:
        if place is None:
            return Finding(Cause.MALLOC)
        if place.type is not None:
            return of_object(place, changes)
        return self._inherited.table(place.start, changes) or Finding(Cause.MALLOC)


class _InPool:
    """Explains the pages of one pool that a worker has changed."""

    def __init__(self, inherited: Inherited, pool: Pool, after: bytes, new_types: Types) -> None:
        self._inherited = inherited
        self._before = pool
        self._after = Pool.parse(pool.address, after, new_types)

    def page(self, address: int, changes: list[Change]) -> Page:
        """Explain a page with changes."""
        by_block: dict[int, list[Change]] = {}
        for change in changes:
            index = self._before.index(change[0] - self._before.address)
            by_block.setdefault(index, []).append(change)
        findings = [self._block(index, changed) for index, changed in by_block.items()]
        names = [self._before.types[index] for index in self._before.between(address, PAGE)]
        return _page(address, findings, [each.name for each in names if each is not None])

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
        old, new = before.place(index), after.place(index)
        if was_free:
            return Finding(Cause.NEW_OBJECT, _name(new))
        if old.type != new.type:
            return Finding(Cause.NEW_OBJECT, _name(new), "in place of another")
        if old.type is not None:
            return of_object(old, changes)
        return self._inherited.table(old.start, changes) or Finding(
            Cause.MUTATION, None, "a table of some object", certain=False
        )


def _candidates(address: int, pool: Pool) -> Page:
    """Explain a page of a pool that was copied but has not changed."""
    mortal = Counter(
        found.name
        for index in pool.between(address, PAGE)
        if (found := pool.types[index]) is not None and pool.mortal[index]
    ).most_common()
    if not mortal:
        return Page(address, Cause.UNKNOWN, certain=False)
    names = tuple(name for name, _ in mortal[1 : _MOST_NEIGHBOURS + 1])
    return Page(address, Cause.REFERENCE_COUNT, mortal[0][0], _UNCHANGED, names, certain=False)


def _name(place: Place) -> str | None:
    return None if place.type is None else place.type.name


def _page(address: int, findings: Sequence[Finding], names: Iterable[str]) -> Page:
    """Choose the cause of most objects. New and freed objects also change a free list."""
    votes = Counter(each.cause for each in findings)
    for weak in (Cause.UNKNOWN, Cause.FREE_LIST):
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


def _stacks(inherited: Inherited, worker: Process) -> set[int]:
    """Return the starts of the mappings that are stacks of threads."""
    found = set()
    for pointer in inherited.process.stack_pointers() + worker.stack_pointers():
        mapping = inherited.look.mapping(pointer)
        if mapping is not None:
            found.add(mapping.start)
    return found
