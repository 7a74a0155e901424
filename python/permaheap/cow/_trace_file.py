"""The file of a trace: the forked children, their memory at the fork, and their first writes.

It is a memfd, so it lives as long as a process has it open, and a reader finds it below
/proc/PID/fd. `src/cow/trace.h` describes its parts, and the process that writes each of them.
"""

import contextlib
import fcntl
import os
import struct
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from permaheap.cow._proc import Mapping

NAME = "permaheap-trace"
MAGIC = 0x3145434152544850
CHILDREN = 512
_CHILDREN_AT = 4096
_MAPS_AT = 8 * 4096
_MAPS_SIZE = 256 << 10
_GAPS_AT = 192 << 10
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
_CHILD = struct.Struct("<IIQQ")
_GAP = struct.Struct("<QQ")
WRITE = struct.Struct("<QQQIIII")

# A high number, so that the program's own descriptors keep the numbers that they have without it.
_FIRST_DESCRIPTOR = 200


class TraceError(RuntimeError):
    """A trace cannot be started or read. The traced program continues without it."""


class Write(NamedTuple):
    """The first write to a page: `ph_first_write` of page_faults.h."""

    time: int
    """As time.monotonic_ns() gives it."""
    address: int
    instruction: int
    pid: int
    tid: int
    by_kernel: int
    """Whether a system call wrote."""
    child: int
    """Number of the child in the file."""


class Maps:
    """A process's map of memory, from the text of /proc/PID/maps."""

    def __init__(self, text: str) -> None:
        """Read the text; a last line that was cut off is ignored."""
        lines = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
        mappings = [Mapping.parse(line.rstrip("\n")) for line in lines]
        self.mappings = [each for each in mappings if each.name != FRAMES]
        self.stacks = [each for each in mappings if each.name in (FRAMES, "[stack]")]
        self._starts = [each.start for each in self.mappings]

    def find(self, address: int) -> Mapping | None:
        """Return the mapping of an address, or None."""
        index = bisect_right(self._starts, address) - 1
        if index >= 0 and address < self.mappings[index].end:
            return self.mappings[index]
        return None

    def in_stack(self, address: int) -> bool:
        """Tell whether an address is in a stack, of C or of Python."""
        return any(each.start <= address < each.end for each in self.stacks)


FRAMES = "[frames]"
"""The name that trace.c gives to a piece of a Python stack."""


@dataclass(frozen=True)
class Child:
    """A process that was forked from the traced one, or from a child of it."""

    number: int
    pid: int
    text: str
    """Its /proc/PID/maps when it was forked. Empty if that could not be read: it is not traced."""
    absent: tuple[tuple[int, int], ...]
    """The ranges of its private memory without pages then (start, end), in order."""

    @cached_property
    def maps(self) -> Maps:
        """Its memory when it was forked."""
        return Maps(self.text)

    @property
    def is_whole(self) -> bool:
        """Whether there was room for all of its mappings and ranges."""
        return len(self.text) < _GAPS_AT - 128 and len(self.absent) < (_MAPS_SIZE - _GAPS_AT) // 16


class TraceFile:
    """The file, by its descriptor, which this object owns."""

    def __init__(self, descriptor: int) -> None:
        """Take over the descriptor of a trace."""
        self._descriptor = descriptor
        self._identity = _identity(descriptor)
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
        """Return the trace that a process is part of, or None; needs the right to trace it."""
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed in between
                if str(link.readlink()).startswith(f"/memfd:{NAME} "):
                    low = os.open(link, os.O_RDWR | os.O_CLOEXEC)
                    try:
                        return cls(_move_up(low))
                    finally:
                        os.close(low)
        return None

    @property
    def is_open(self) -> bool:
        """Whether the descriptor is still that of the file."""
        return _identity(self._descriptor) == self._identity

    @property
    def descriptor(self) -> int:
        """The descriptor; TraceError if the program has closed it, as daemons close all files."""
        if not self.is_open:
            raise TraceError("the program has closed the trace's file; start the trace after that")
        return self._descriptor

    def close(self) -> None:
        """Close the descriptor."""
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
        """The number of forks in the family, also of children without room in the file."""
        number: int = struct.unpack("<I", os.pread(self.descriptor, 4, 20))[0]
        return number

    def children(self) -> list[Child]:
        """Return all children that have described their memory, in the order of their forks."""
        for number in range(min(self.forks, CHILDREN)):
            if number not in self._children:
                child = self._read_child(number)
                if child is not None:
                    self._children[number] = child
        return [self._children[number] for number in sorted(self._children)]

    def _read_child(self, number: int) -> Child | None:
        at = _CHILDREN_AT + number * _CHILD.size
        pid, state, size, gaps = _CHILD.unpack(os.pread(self.descriptor, _CHILD.size, at))
        if state == 0:
            return None
        at = _MAPS_AT + number * _MAPS_SIZE
        text = os.pread(self.descriptor, size, at).decode(errors="replace")
        absent = os.pread(self.descriptor, gaps * _GAP.size, at + _GAPS_AT)
        return Child(number, pid, text, tuple(_GAP.iter_unpack(absent)))

    def append(self, writes: list[Write]) -> None:
        """Add first writes; count those as lost for which there is no room."""
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


def runs(pid: int) -> bool:
    """Tell whether a process exists and has not ended."""
    return started(pid) is not None


def started(pid: int) -> bytes | None:
    """Return the start time of a process, which a later process with the same pid does not share.

    It returns None if the process has ended, also while it is a zombie.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()
    except OSError:
        return None
    return None if not fields or fields[0] in (b"Z", b"X") else fields[19]


def _identity(descriptor: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _move_up(descriptor: int) -> int:
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FIRST_DESCRIPTOR)
    except OSError:  # the limit on descriptors is lower
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
