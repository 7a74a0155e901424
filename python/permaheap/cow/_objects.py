"""The objects in another process's memory, found by the layout of its allocators.

Small blocks (up to 512 bytes) lie in the *pools* of CPython's obmalloc. A pool has 16 KiB, is
aligned to that, and has a head with the size of its blocks and the free ones. The numbers in the
head must agree with each other; in other memory they hardly do so by chance. Larger blocks come
from the C library's malloc, which puts the size in front of each block.

An object in a block has the address of its type in its second word. In front of the object there
may be a collector's header, and in front of that two words for attributes and weak references; the
type tells. A word is the address of a type if the chain of types leads to `type`, which is its own
type.

All offsets are those of the interpreter that permaheap was built for (`_core._layout`). So the
process must run the same version.
"""

import re
import struct
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from permaheap import _core
from permaheap.cow._proc import PAGE, Mapping, Process

LAYOUT = _core._layout()
POOL = LAYOUT["pool_size"]
_HEAD = LAYOUT["pool_head"]
_GC = LAYOUT["gc_head"]
_PRE = LAYOUT["pre_head"]
_FRONTS = (_GC, 0, _GC + _PRE, _PRE)

# Debug hooks put 16 bytes in front of a block: its size, a letter for its kind, seven times 0xFD.
_HOOK = 16
_HOOKED = frozenset(int.from_bytes(bytes([kind]) + b"\xfd" * 7, "little") for kind in b"orm")

# Flags of a type, which are part of the stable ABI.
_HAVE_GC = 1 << 14
_BASES = {
    24: "int",
    25: "list",
    26: "tuple",
    27: "bytes",
    28: "str",
    29: "dict",
    30: "BaseException",
    31: "type",
}
IS_TYPE = 1 << 31

_LAST_USER_ADDRESS = 1 << 47


@dataclass(frozen=True)
class Type:
    """A type of the process."""

    name: str
    front: int
    """Number of bytes in front of its instances."""
    base: str
    """The built-in type whose layout its instances have, or its own name."""
    flags: int = field(compare=False)
    """Its flags when they were read: some of them change while the program runs."""


class Types:
    """The types of a process, looked up by address."""

    def __init__(self, process: Process, mappings: list[Mapping]) -> None:
        """Keep the mappings; no type is known yet."""
        self._process = process
        usable = [each for each in mappings if each.permissions[0] == "r"]
        self._starts = [each.start for each in usable]
        self._ends = [each.end for each in usable]
        self._known: dict[int, Type | None] = {}
        self._pools: dict[int, bool] = {}
        self.by_front: dict[int, dict[int, Type]] = {front: {} for front in _FRONTS}
        """The types found so far, by the bytes in front of their instances, and by address."""

    def get(self, address: int) -> Type | None:
        """Return the type at an address, or None if there is none."""
        try:
            return self._known[address]
        except KeyError:
            self._known[address] = None  # ends a cycle on the way to `type`
            found = self._known[address] = self._look(address)
            if found is not None:
                self.by_front[found.front][address] = found
            return found

    def front(self, address: int) -> int:
        """Return the number of bytes in front of the instances of a type; -1 if there is none."""
        found = self.get(address)
        return -1 if found is None else found.front

    def _is_mapped(self, address: int) -> bool:
        index = bisect_right(self._starts, address) - 1
        return index >= 0 and address + 256 <= self._ends[index]

    def _is_in_pool(self, address: int) -> bool:
        """Tell whether an address is in a pool. A type is not: it is too large for that."""
        pool = address & -POOL
        if pool not in self._pools:
            head = self._process.memory(pool, _HEAD)
            self._pools[pool] = Pool.parse(pool, head, self) is not None
        return self._pools[pool]

    def _look(self, address: int) -> Type | None:
        if address % 8 or not self._is_mapped(address) or self._is_in_pool(address):
            return None
        head = self._process.memory(address, 256)
        if head is None:
            return None
        words = memoryview(head).cast("Q")
        flags = words[LAYOUT["tp_flags"] // 8]
        if not 16 <= words[LAYOUT["tp_basicsize"] // 8] < 1 << 20:
            return None
        if words[1] == address:  # `type` itself
            if not flags & IS_TYPE:
                return None
        else:
            meta = self.get(words[1])
            if meta is None or not meta.flags & IS_TYPE:
                return None
        name = self._name(words[LAYOUT["tp_name"] // 8])
        if name is None:
            return None
        front = (_GC if flags & _HAVE_GC else 0) + (_PRE if flags & LAYOUT["pre_flags"] else 0)
        base = next((base for bit, base in _BASES.items() if flags >> bit & 1), name)
        return Type(name, front, base, flags)

    def _name(self, address: int) -> str | None:
        if not 0 < address < _LAST_USER_ADDRESS:
            return None
        text = self._process.memory(address, 128) or self._process.memory(address, 16) or b""
        name = text.partition(b"\0")[0].decode(errors="replace")
        return name if name and name.isprintable() else None


@dataclass(frozen=True)
class Place:
    """An object in the process, or a block of memory that holds none."""

    start: int
    """Address of the object, as id() gives it; of the block if it holds none."""
    type: Type | None


class Pool:
    """A pool of the allocator of small blocks, from its bytes."""

    def __init__(self, address: int, data: bytes, size: int, types: Types) -> None:
        """Take data that `parse` has checked; `size` is the size of a block."""
        self.address = address
        self.size = size
        self.words = memoryview(data).cast("Q")
        self._types = types

    @classmethod
    def parse(cls, address: int, data: bytes | None, types: Types) -> "Pool | None":
        """Return the pool at an address, or None if the numbers in its head do not agree."""
        if data is None:
            return None
        index, following, last = struct.unpack_from("<III", data, LAYOUT["pool_szidx"])
        size = (index + 1) * LAYOUT["alignment"]
        if index >= LAYOUT["size_classes"] or last != POOL - size:
            return None
        used = struct.unpack_from("<I", data)[0]
        if not _HEAD <= following <= POOL or (following - _HEAD) % size:
            return None
        free = struct.unpack_from("<Q", data, LAYOUT["pool_free"])[0]
        if used > (POOL - _HEAD) // size or (free and not address < free < address + POOL):
            return None
        return cls(address, data, size, types)

    def index(self, offset: int) -> int:
        """Return the number of the block at an offset from the pool's start; -1 for its head."""
        return (offset - _HEAD) // self.size if offset >= _HEAD else -1

    @property
    def blocks(self) -> int:
        """Number of its blocks."""
        return (POOL - _HEAD) // self.size

    @cached_property
    def _unused_from(self) -> int:
        following = self.words[(LAYOUT["pool_szidx"] + 4) // 8]
        shift = (LAYOUT["pool_szidx"] + 4) % 8 * 8
        return self.index((following >> shift) & 0xFFFFFFFF)

    @cached_property
    def _freed(self) -> set[int]:
        """The blocks on the list of free ones."""
        freed: set[int] = set()
        block = self.words[LAYOUT["pool_free"] // 8]
        while self.address + _HEAD <= block < self.address + POOL and block % 8 == 0:
            index = self.index(block - self.address)
            if index in freed:
                break  # the process is changing the list
            freed.add(index)
            block = self.words[(block - self.address) // 8]
        return freed

    def between(self, address: int, size: int) -> range:
        """Return the numbers of the blocks that overlap some of the pool's bytes."""
        offset = address - self.address
        first = max(self.index(offset), 0)
        return range(first, min(self.index(offset + size - 1) + 1, self.blocks))

    def is_free(self, index: int) -> bool:
        """Tell whether a block is free."""
        return index >= self._unused_from or index in self._freed

    @cached_property
    def _hook(self) -> int:
        """Bytes that debug hooks put in front of each block."""
        seconds = self.words[_HEAD // 8 + 1 :: self.size // 8].tolist()
        return _HOOK if not _HOOKED.isdisjoint(seconds) else 0

    def _column(self, byte: int) -> list[int]:
        """Return the word at an offset in each block; 0 if it is beyond the end of the pool."""
        at = (_HEAD + self._hook + byte) // 8
        column = self.words[at :: self.size // 8].tolist()[: self.blocks]
        return column + [0] * (self.blocks - len(column))

    @cached_property
    def types(self) -> list[Type | None]:
        """The type of the object in each block; None if the block is free or holds no object.

        Known types are looked up for all blocks at once. The few other words that may be the
        address of a type are looked at one by one.
        """
        fronts = [front for front in _FRONTS if self._hook + front + 16 <= self.size]
        columns = {front: self._column(front + 8) for front in fronts}
        types: list[Type | None] = [None] * self.blocks
        for front in fronts:
            known = map(self._types.by_front[front].get, columns[front])
            types = [already or found for already, found in zip(types, known, strict=True)]
        for index in self._freed:
            types[index] = None
        del types[self._unused_from :]
        for index in [index for index, found in enumerate(types) if found is None]:
            for front in fronts:
                address = columns[front][index]
                if address and index not in self._freed and self._types.front(address) == front:
                    types[index] = self._types.get(address)
                    break
        types += [None] * (self.blocks - len(types))
        return types

    @cached_property
    def mortal(self) -> list[bool]:
        """For each block, whether it holds a mortal object."""
        counts = {front: self._column(front) for front in {t.front for t in self.types if t}}
        return [
            found is not None and not counts[found.front][index] >> 31 & 1
            for index, found in enumerate(self.types)
        ]

    def place(self, index: int) -> Place:
        """Return the object in a block."""
        found = self.types[index]
        block = self.address + _HEAD + index * self.size + self._hook
        return Place(block + found.front if found else block, found)


# --- The C library's malloc -----------------------------------------------------------------------

_CHUNK_HEAD = 16
_CHUNK_FLAGS = 7
_CHUNK_MAPPED = 2


class Chunks:
    """The blocks of the C library's main heap, below the program break."""

    def __init__(self, process: Process, heap: Mapping, types: Types) -> None:
        """Walk the heap from its start; after a size that makes no sense the rest is unknown."""
        self._types = types
        self._process = process
        self._starts = list(self._walk(heap))
        self._places: dict[int, Place] = {}

    def _walk(self, heap: Mapping) -> Iterator[int]:
        window, at = b"", heap.start
        window_start = heap.start
        while at + _CHUNK_HEAD <= heap.end:
            if at + _CHUNK_HEAD > window_start + len(window):
                window_start = at
                window = self._process.memory(at, min(1 << 20, heap.end - at)) or b""
                if not window:
                    return
            size = struct.unpack_from("<Q", window, at - window_start + 8)[0] & ~_CHUNK_FLAGS
            if size < 32 or size % 16:
                return
            yield at
            at += size

    def place(self, address: int) -> Place | None:
        """Return the object or block that contains an address; None if unknown."""
        index = bisect_right(self._starts, address) - 1
        if index < 0 or index + 1 == len(self._starts):
            return None
        block = self._starts[index] + _CHUNK_HEAD
        if address < block:
            return None  # in the head of the chunk
        found = self._places.get(block)
        if found is None:
            found = self._places[block] = place_in_block(self._process, self._types, block)
        return found


def large_blocks(process: Process, mapping: Mapping, types: Types) -> list[tuple[int, int]]:
    """Return the blocks that malloc has mapped within a mapping: (first byte, end), ascending.

    Such a block consists of whole pages, and a bit in its head marks it. The kernel shows adjacent
    blocks, and arenas of obmalloc, as one mapping. So this function walks the mapping by pages.
    """
    found: list[tuple[int, int]] = []
    start = mapping.start
    while start < mapping.end:
        head = process.memory(start, _HEAD)
        if head is None:
            return found
        size = _mapped_size(*struct.unpack_from("<QQ", head))
        if 0 < size <= mapping.end - start:
            found.append((start + _CHUNK_HEAD, start + size))
            start += size
        elif start % POOL == 0 and Pool.parse(start, head, types) is not None:
            start += POOL
        else:
            start += PAGE
    return found


def _mapped_size(before: int, size: int) -> int:
    """Return the bytes mapped for a block, from the two words of its head; 0 if it is no block."""
    whole = size & ~_CHUNK_FLAGS
    if before or size & _CHUNK_FLAGS != _CHUNK_MAPPED:
        return 0
    if whole % PAGE:
        whole += _CHUNK_HEAD  # newer versions of glibc do not count the head
    return 0 if whole % PAGE else whole


def place_in_block(process: Process, types: Types, block: int) -> Place:
    """Return the object in a block of memory, or the block if it holds none."""
    head = process.memory(block, 80)
    words = memoryview(head or bytes(80)).cast("Q")
    hook = 0
    while hook < 2 * _HOOK and words[hook // 8 + 1] in _HOOKED:
        hook += _HOOK  # the object allocator's hook may lie around malloc's
    for front in _FRONTS:
        address = words[(hook + front) // 8 + 1]
        if types.front(address) == front:
            return Place(block + hook + front, types.get(address))
    return Place(block + hook, None)


# --- Other memory of the interpreter --------------------------------------------------------------

_FRAME_STACK = 16 * 1024


def is_frame_stack(process: Process, address: int) -> bool:
    """Tell whether a page holds frames of Python functions.

    The interpreter keeps frames in pieces of 16 KiB. A piece has a head of three words: the address
    of the previous piece, its own size, and the number of its words that were in use when the next
    piece was begun.
    """
    page = address & -PAGE
    for start in range(page, page - _FRAME_STACK, -PAGE):
        head = process.memory(start, 24)
        if head is None:
            return False
        previous, size, used = struct.unpack("<QQQ", head)
        if size == _FRAME_STACK and used < size // 8 and previous % PAGE == 0:
            return True
    return False


def is_table_of_keys(head: bytes | None) -> bool:
    """Tell whether a block begins like a dict's table of keys: the numbers in it agree."""
    if head is None:
        return False
    log2_size, log2_bytes, kind = head[8:11]
    numbers: tuple[int, int] = struct.unpack_from("<qq", head, 16)
    if not 3 <= log2_size <= 40 or not log2_size <= log2_bytes <= log2_size + 3 or kind > 2:
        return False
    return min(numbers) >= 0 and sum(numbers) == (2 << log2_size) // 3


# --- Which interpreter ----------------------------------------------------------------------------

_PYTHON = re.compile(r"(?:lib)?python(3\.\d+)")
_COOKIE = b"xdebugpy"


def python_version(process: Process, mappings: list[Mapping]) -> str | None:
    """Return the version of the interpreter in a process, like "3.14.8" or "3.12", or None.

    From 3.13 on the interpreter stores it in its data, after a cookie for debuggers.
    """
    version = None
    for mapping in mappings:
        match = _PYTHON.match(mapping.name.rpartition("/")[2])
        if match is None:
            continue
        version = version or match[1]
        if mapping.permissions.startswith("rw"):
            data = process.memory(mapping.start, mapping.end - mapping.start) or b""
            at = data.find(_COOKIE)
            if at >= 0:
                number = struct.unpack_from("<Q", data, at + len(_COOKIE))[0]
                return f"{number >> 24}.{number >> 16 & 0xFF}.{number >> 8 & 0xFF}"
    return version
