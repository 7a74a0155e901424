"""The process that takes the kernel's records of page faults, and keeps the first writes.

It is no child of the traced family and shares no memory with it. So it changes neither the children
that they wait for, nor the memory that is counted as theirs. It looks at the rings 20 times a
second, and when one is half full. It ends when the family has ended.
"""

import mmap
import os
import select
import sys
import time
from bisect import bisect_right

from permaheap import _core
from permaheap.cow._proc import PAGE, Mapping
from permaheap.cow._trace_file import CHILDREN, WRITE, Child, TraceFile, Write, started

_PATIENCE = 2_000_000_000  # ns that a record may wait for its child to describe itself
_ROUND = 50  # ms


class Watched:
    """A child, and those of its inherited pages that it has written to."""

    def __init__(self, child: Child) -> None:
        """Begin with a child that has written to none."""
        private = [each for each in child.maps.mappings if _is_copied(each)]
        self.number = child.number
        self._mappings = private
        self._starts = [each.start for each in private]
        self._absent = child.absent
        self._absent_starts = [start for start, _ in child.absent]
        self._loaded: set[int] = set()
        self._seen: set[int] = set()

    def is_first(self, address: int) -> bool:
        """Tell whether this is the first write to an inherited page, and remember it."""
        index = bisect_right(self._starts, address) - 1
        if index < 0 or address >= self._mappings[index].end:
            return False
        page = address // PAGE
        if page in self._seen or (self._was_absent(address) and not self._is_loaded(index, page)):
            return False
        self._seen.add(page)
        return True

    def _was_absent(self, address: int) -> bool:
        index = bisect_right(self._absent_starts, address) - 1
        return index >= 0 and address < self._absent[index][1]

    def _is_loaded(self, index: int, page: int) -> bool:
        """Tell whether a file's page was read before: then this is a write. Remember it."""
        if not self._mappings[index].name.startswith("/"):
            return False  # anonymous memory that was never used: its first use copies nothing
        if page in self._loaded:
            return True
        self._loaded.add(page)
        return False


def _is_copied(mapping: Mapping) -> bool:
    """Tell whether the first write to a page of a mapping copies the page."""
    return mapping.permissions.startswith("rw") and mapping.is_private


class Recorder:
    """Sorts records by child."""

    def __init__(self, file: TraceFile, rings: list[mmap.mmap]) -> None:
        """Move records from these rings into this file."""
        self._file = file
        self._rings = rings
        self._parent = file.get("parent")
        self._family = {self._parent: started(self._parent)}
        self._watched: dict[int, Watched] = {}
        self._known = 0
        self._waiting: list[Write] = []

    def round(self) -> None:
        """Take all records that are in the rings."""
        asked = self._file.get("asked")
        writes, lost = self._waiting, 0
        for ring in self._rings:
            data, missed = _core._take_faults(ring)
            writes.extend(map(Write._make, WRITE.iter_unpack(data)))
            lost += missed
        self._learn()
        writes.sort()
        self._keep(writes)
        if lost:
            self._file.put("lost", self._file.get("lost") + lost)
        self._file.put("answered", asked)

    def _learn(self) -> None:
        """Read new children of the file; of several with one pid, the youngest counts.

        A child that was killed may never have described itself.
        """
        if self._known < min(self._file.forks, CHILDREN):
            children = self._file.children()
            self._known = len(children)
            for child in children:
                watched = self._watched.get(child.pid)
                if watched is None or watched.number < child.number:
                    self._watched[child.pid] = Watched(child)
                    self._family[child.pid] = started(child.pid)

    def _keep(self, writes: list[Write]) -> None:
        oldest = time.monotonic_ns() - _PATIENCE
        self._waiting = []
        found = []
        for write in writes:
            watched = self._watched.get(write.pid)
            if watched is not None:
                if watched.is_first(write.address):
                    found.append(write._replace(child=watched.number))
            elif write.pid != self._parent and write.time > oldest:
                self._waiting.append(write)
        if found:
            self._file.append(found)

    def family_lives(self) -> bool:
        """Tell whether the parent or one of its children still runs."""
        return any(
            start is not None and started(pid) == start for pid, start in self._family.items()
        )


def _map_ring(descriptor: int) -> mmap.mmap:
    """Map the largest ring that this user may have."""
    size = 1 << 20
    while True:
        try:
            return mmap.mmap(descriptor, PAGE + size)
        except PermissionError:
            if size == 1 << 14:
                raise
            size >>= 1


def _record(file: TraceFile, events: list[int]) -> None:
    poll = select.poll()
    for event in events:
        poll.register(event, select.POLLIN)
    recorder = Recorder(file, [_map_ring(event) for event in events])
    file.put("recorder", os.getpid())
    _close_standard_error()
    while True:
        lived = recorder.family_lives()
        recorder.round()  # it may find a new child of a parent that has ended
        if not (lived or recorder.family_lives()):
            return
        for event, happened in poll.poll(_ROUND):
            if happened & select.POLLHUP:  # for ever: the thread that began the trace has ended
                poll.unregister(event)


def _close_standard_error() -> None:
    """End the messages for the process that started the recorder: it reads them until now."""
    sys.stderr.flush()
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    os.close(nothing)


def main(descriptor: int, events: list[int]) -> None:
    """Record in an orphaned child; return at once in this process."""
    if os.fork() == 0:  # the child maps the rings, since a fork does not inherit such mappings
        try:
            _record(TraceFile(descriptor), events)
        except OSError as error:
            sys.stderr.write(f"{error}\n")
            sys.stderr.flush()
        finally:
            os._exit(0)
