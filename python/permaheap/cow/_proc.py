"""A process as the kernel shows it: /proc/PID, which is read and never written to.

A look changes nothing in the process: it does not stop it, and writes to none of its pages. It
needs these rights:

- smaps_rollup, maps and pagemap: the same user, or CAP_SYS_PTRACE.
- mem: the right to trace the process. If Yama is on, only the process's ancestors and
  CAP_SYS_PTRACE have it.
- frame numbers in pagemap: CAP_SYS_ADMIN; otherwise they read as zero.

See Documentation/admin-guide/mm/pagemap.rst of Linux.
"""

import contextlib
import mmap
import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PAGE = mmap.PAGESIZE

# Bits of an entry of pagemap.
PRESENT = 1 << 63
FILE_OR_SHARED = 1 << 61
EXCLUSIVE = 1 << 56
FRAME = (1 << 55) - 1


class Gone(Exception):
    """The process has ended, or may not be looked at."""


@dataclass(frozen=True)
class Mapping:
    """One line of /proc/PID/maps."""

    start: int
    end: int
    permissions: str
    """Such as "rw-p"."""
    name: str
    """Name of the file, or a name such as "[heap]"; "" for anonymous memory."""
    offset: int = 0
    """Offset in the file."""

    @classmethod
    def parse(cls, line: str) -> "Mapping":
        """Return the mapping that a line describes."""
        addresses, permissions, offset, _, _, *name = line.split(maxsplit=5)
        start, end = (int(word, 16) for word in addresses.split("-"))
        return cls(start, end, permissions, name[0] if name else "", int(offset, 16))

    @property
    def is_private(self) -> bool:
        """Whether it is private, so that a write copies a page."""
        return self.permissions[3] == "p"

    @property
    def is_file(self) -> bool:
        """Whether it maps a file."""
        return self.name.startswith("/")

    @property
    def is_anonymous(self) -> bool:
        """Whether it is plain memory, which newer versions of Python and the C library name."""
        return not self.name or self.name == "[heap]" or self.name.startswith("[anon")


class Process:
    """One process, by its pid. All methods raise Gone when the process has ended."""

    def __init__(self, pid: int) -> None:
        """Open nothing yet: files are opened, or refused, when they are needed."""
        self.pid = pid
        self._directory = Path("/proc") / str(pid)
        self._memory: int | None = None
        self._pagemap: int | None = None
        self.started = self._stat()[19]

    def close(self) -> None:
        """Close the files of the process that are open here."""
        for descriptor in (self._memory, self._pagemap):
            if descriptor is not None:
                os.close(descriptor)
        self._memory = self._pagemap = None

    def read(self, name: str) -> bytes:
        """Return the whole content of a file in its directory."""
        try:
            return (self._directory / name).read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            raise Gone(f"process {self.pid} has ended") from None
        except PermissionError:
            raise Gone(
                f"process {self.pid} may not be looked at: its file {name} needs the same user or "
                "CAP_SYS_PTRACE"
            ) from None

    def link(self, name: str) -> str:
        """Return the target of a link in its directory; "" if it cannot be read."""
        with contextlib.suppress(OSError):
            return str((self._directory / name).readlink())
        return ""

    def _stat(self) -> list[bytes]:
        """Return the fields of stat from the third one (state) on: the second may hold blanks."""
        return self.read("stat").rpartition(b")")[2].split()

    @property
    def parent(self) -> int:
        """The pid of its parent."""
        return int(self._stat()[1])

    def is_alive(self) -> bool:
        """Tell whether the process still runs; a zombie, or a later process, does not count."""
        try:
            fields = self._stat()
        except Gone:
            return False
        return fields[19] == self.started and fields[0] not in b"ZX"

    def command(self) -> str:
        """Return its command line, or its name in brackets."""
        words = self.read("cmdline").rstrip(b"\0").replace(b"\0", b" ")
        return words.decode(errors="replace") or f"[{self.read('comm').decode().strip()}]"

    def children(self) -> list[int]:
        """Return the pids of the children of all its threads."""
        found: list[int] = []
        for thread in self._names("task"):
            with contextlib.suppress(Gone):
                found += map(int, self.read(f"task/{thread}/children").split())
        return sorted(found)

    def mappings(self) -> list[Mapping]:
        """Return its mappings, by address."""
        text = self.read("maps").decode(errors="surrogateescape")
        return [Mapping.parse(line) for line in text.splitlines()]

    def rollup(self) -> dict[str, int]:
        """Return the sums of smaps_rollup in bytes, as {"Private_Dirty": 4096, ...}."""
        sums = {}
        for line in self.read("smaps_rollup").splitlines()[1:]:
            name, size = line.split(b":", 1)
            sums[name.decode()] = int(size.split()[0]) * 1024
        return sums

    def stack_pointers(self) -> list[int]:
        """Return the stack pointers of those of its threads that wait in a system call."""
        found = []
        for thread in self._names("task"):
            with contextlib.suppress(Gone, ValueError):
                words = self.read(f"task/{thread}/syscall").split()
                if len(words) > 2:
                    found.append(int(words[-2], 16))
        return found

    def pagemap(self, start: int, end: int) -> "array[int]":
        """Return the entries of the pages from start to end. Pages beyond the end read as 0."""
        if self._pagemap is None:
            self._pagemap = self._open("pagemap")
        entries = array("Q")
        with contextlib.suppress(OSError):
            entries.frombytes(os.pread(self._pagemap, (end - start) // PAGE * 8, start // PAGE * 8))
        entries.extend([0] * ((end - start) // PAGE - len(entries)))
        return entries

    def memory(self, address: int, size: int) -> bytes | None:
        """Return some bytes of its memory, or None if not all of them can be read."""
        if self._memory is None:
            self._memory = self._open("mem")
        try:
            data = os.pread(self._memory, size, address)
        except (OSError, OverflowError):
            return None
        return data if len(data) == size else None

    def has_memory(self) -> bool:
        """Tell whether it still has memory: a process gives it up before it is a zombie."""
        try:
            return bool(self.read("maps"))
        except Gone:
            return False

    def can_read_memory(self) -> bool:
        """Tell whether its memory may be read."""
        try:
            if self._memory is None:
                self._memory = self._open("mem")
        except Gone:
            return False
        return True

    def _open(self, name: str) -> int:
        try:
            return os.open(self._directory / name, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise Gone(f"process {self.pid}: {name}: {error.strerror}") from None

    def memfd(self, name: str) -> bytes | None:
        """Return the content of its memfd of this name, or None if it has none."""
        for descriptor in self._names("fd"):
            if self.link(f"fd/{descriptor}").startswith(f"/memfd:{name}"):
                return self.read(f"fd/{descriptor}")
        return None

    def _names(self, directory: str) -> list[str]:
        """Return the names in one of its directories; none if it cannot be read."""
        try:
            return [path.name for path in (self._directory / directory).iterdir()]
        except OSError:
            return []


def descendants(pid: int) -> Iterator[int]:
    """Yield the pids of all descendants of a process; short-lived ones may be missed."""
    try:
        children = Process(pid).children()
    except Gone:
        return
    for child in children:
        yield child
        yield from descendants(child)
