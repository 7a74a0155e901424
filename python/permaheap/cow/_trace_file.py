"""The file of a trace: who was forked, what its memory was then, and the first writes to it.

It is a memfd, so it lives as long as a process has it open, and a reader finds it below
/proc/PID/fd. `src/trace.h` says what is where, and who writes what.
"""

import fcntl
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

NAME = "permaheap-trace"
MAGIC = 0x3145434152544850
CHILDREN = 512
_CHILDREN_AT = 4096
_MAPS_AT = 8 * 4096
_MAPS_SIZE = 256 << 10
_WRITES_AT = _MAPS_AT + CHILDREN * _MAPS_SIZE
MOST_WRITES = 4 << 20

_HEADER = struct.Struct("<QIIIIQQQQ")
_FIELDS = {  # of ph_trace_header
    "parent": (8, "<I"),
    "recorder": (12, "<I"),
    "sees_kernel": (16, "<I"),
    "writes": (24, "<Q"),
    "lost": (32, "<Q"),
    "asked": (40, "<Q"),
    "answered": (48, "<Q"),
}
_CHILD = struct.Struct("<IIQ")
WRITE = struct.Struct("<QQQIIII")

# So high that a program's own descriptors get the numbers that they would have without it.
_FIRST_DESCRIPTOR = 200


class Write(NamedTuple):
    """The first write to a page: `ph_first_write` of os_trace.h."""

    time: int
    """In ns, of time.monotonic_ns()."""
    address: int
    instruction: int
    pid: int
    tid: int
    by_kernel: int
    """Whether a system call wrote."""
    child: int
    """Number of the process in the file."""


@dataclass(frozen=True)
class Mapping:
    """A line of /proc/PID/maps."""

    start: int
    end: int
    permissions: str
    offset: int
    name: str


@dataclass(frozen=True)
class Child:
    """A process that was forked from the traced one, or from a child of it."""

    number: int
    pid: int
    maps: tuple[Mapping, ...]
    """Its memory when it was forked. Empty if it could not be read, and so is not traced."""


def parse_maps(text: str) -> tuple[Mapping, ...]:
    """Return the mappings of the text of /proc/PID/maps; a last line that was cut off is ignored."""
    mappings = []
    for line in text.splitlines(keepends=True):
        if line.endswith("\n"):
            addresses, permissions, offset, _, _, *name = line.rstrip("\n").split(maxsplit=5)
            start, end = addresses.split("-")
            mappings.append(
                Mapping(int(start, 16), int(end, 16), permissions, int(offset, 16), "".join(name))
            )
    return tuple(mappings)


class TraceFile:
    """The file, by its descriptor, which this object owns."""

    def __init__(self, descriptor: int) -> None:
        """Take over the descriptor of a trace."""
        self.descriptor = descriptor
        self._children: dict[int, Child] = {}

    @classmethod
    def create(cls) -> "TraceFile":
        """Make the file, for the children of this process."""
        low = os.memfd_create(NAME, os.MFD_CLOEXEC)
        try:
            os.ftruncate(low, _WRITES_AT + MOST_WRITES * WRITE.size)
            os.pwrite(low, _HEADER.pack(MAGIC, os.getpid(), 0, 0, 0, 0, 0, 0, 0), 0)
            return cls(_move_up(low))
        finally:
            os.close(low)

    @classmethod
    def of(cls, pid: int) -> "TraceFile | None":
        """Return the trace that a process is in, or None. Needs the rights to ptrace it."""
        folder = f"/proc/{pid}/fd"
        for name in os.listdir(folder):
            try:
                if os.readlink(f"{folder}/{name}").startswith(f"/memfd:{NAME} "):
                    return cls(os.open(f"{folder}/{name}", os.O_RDWR | os.O_CLOEXEC))
            except FileNotFoundError:
                continue  # closed in the meantime
        return None

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.descriptor)

    def get(self, field: str) -> int:
        """Return a field of the header."""
        at, form = _FIELDS[field]
        value: int = struct.unpack(form, os.pread(self.descriptor, struct.calcsize(form), at))[0]
        return value

    def put(self, field: str, value: int) -> None:
        """Write a field of the header."""
        at, form = _FIELDS[field]
        os.pwrite(self.descriptor, struct.pack(form, value), at)

    @property
    def forks(self) -> int:
        """How often a process of the family was forked, slot or no slot."""
        number: int = struct.unpack("<I", os.pread(self.descriptor, 4, 20))[0]
        return number

    def children(self) -> list[Child]:
        """Return all children that have said where they begin, in the order of their birth."""
        for number in range(min(self.forks, CHILDREN)):
            if number not in self._children:
                child = self._read_child(number)
                if child is not None:
                    self._children[number] = child
        return [self._children[number] for number in sorted(self._children)]

    def _read_child(self, number: int) -> Child | None:
        at = _CHILDREN_AT + number * _CHILD.size
        pid, state, size = _CHILD.unpack(os.pread(self.descriptor, _CHILD.size, at))
        if state == 0:
            return None
        text = os.pread(self.descriptor, size, _MAPS_AT + number * _MAPS_SIZE)
        return Child(number, pid, parse_maps(text.decode(errors="replace")))

    def append(self, writes: list[Write]) -> None:
        """Add what the recorder has seen."""
        before = self.get("writes")
        room = writes[: MOST_WRITES - before]
        data = b"".join(WRITE.pack(*write) for write in room)
        os.pwrite(self.descriptor, data, _WRITES_AT + before * WRITE.size)
        self.put("writes", before + len(room))
        if len(room) < len(writes):
            self.put("lost", self.get("lost") + len(writes) - len(room))

    def writes(self) -> Iterator[Write]:
        """Yield all first writes so far."""
        size = self.get("writes") * WRITE.size
        data = os.pread(self.descriptor, size, _WRITES_AT)
        return map(Write._make, WRITE.iter_unpack(data))


def _move_up(descriptor: int) -> int:
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FIRST_DESCRIPTOR)
    except OSError:  # this process may not have as many
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)


@lru_cache(maxsize=8)
def ranges_to_watch(maps: tuple[Mapping, ...]) -> tuple[tuple[int, int], ...]:
    """Return where a first write copies a page: in private memory that may be written to."""
    return tuple(
        (each.start, each.end)
        for each in maps
        if each.permissions.startswith("rw") and each.permissions[3] == "p"
        if each.name != "[frames]"
    )
