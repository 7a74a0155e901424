"""Trace mode: the first write to each page that a worker has copied, recorded as it happens.

A fork shares all memory and write-protects it, so the first write to a page is a page fault. Linux
records page faults, with the address and the instruction, for a process that opens an event by
perf_event_open(2). `start` opens events in the parent before it forks; all processes that it forks
inherit them. The traced program runs as usual: its memory is not protected, it gets no signal, and
no system call fails. Its children do one more thing, right after the fork: they write their map of
memory into the trace's file.
"""

import errno
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from permaheap import _core
from permaheap.cow._blame import Locate
from permaheap.cow._judge import Judge
from permaheap.cow._model import Page
from permaheap.cow._trace_file import CHILDREN, Child, TraceError, TraceFile, Write, runs

_PATIENCE = 10  # seconds for the recorder to answer: it looks 20 times a second


class Trace:
    """The first writes of all children of one process, also of those that have ended."""

    def __init__(self, file: TraceFile) -> None:
        """Own the file of a trace."""
        self._file = file

    @property
    def is_open(self) -> bool:
        """Whether the trace can be read: the program may have closed all its files."""
        return self._file.is_open

    @property
    def workers(self) -> tuple[int, ...]:
        """The pids of all children so far, in the order of their forks."""
        return tuple(child.pid for child in self._file.children())

    @property
    def parent(self) -> int:
        """The pid of the process that started the trace."""
        return self._file.get("parent")

    @property
    def notes(self) -> tuple[str, ...]:
        """The gaps of the trace, and the privilege that would help. Empty if there are none."""
        notes = []
        untraced = [child.pid for child in self._file.children() if not child.text]
        if untraced:
            notes.append(f"{len(untraced)} children could not read their map of memory and ran "
                         f"untraced: {', '.join(map(str, untraced))}")  # fmt: skip
        cut = sum(not child.is_whole for child in self._file.children())
        if cut:
            notes.append(f"{cut} children have more mappings than the trace has room for: there, a "
                         "read of unused memory may be counted as a write")  # fmt: skip
        if _numa_balancing():
            notes.append("kernel.numa_balancing is on: a read may be counted as a write")
        if self._file.forks > CHILDREN:
            notes.append(f"only the first {CHILDREN} of {self._file.forks} children were traced")
        if self._file.get("lost"):
            notes.append(f"{self._file.get('lost')} page faults were lost: they came faster than "
                         "the recorder could take them")  # fmt: skip
        if not self._file.get("sees_kernel"):
            notes.append("writes by system calls are missing: recording them needs CAP_PERFMON, or "
                         "kernel.perf_event_paranoid <= 1")  # fmt: skip
        return tuple(notes)

    def writes(self, pid: int) -> tuple[Write, ...]:
        """Return the first write to each page that a child has copied, in order of time.

        Raises:
            TraceError: there is no such child, or the recorder does not answer.

        O(all first writes of the trace).
        """
        child = self._child(pid)
        self._wait_for_recorder()
        return tuple(sorted(w for w in self._file.writes() if w.child == child.number))

    def pages(self, pid: int, locate: Locate | None = None) -> tuple[Page, ...]:
        """Return the pages that a child has copied, each with the cause of the first write.

        Args:
            pid: the process id of the child.
            locate: gets an address, and returns the object that was there when the child was
                forked: the name of its type, the offset in it (negative in its collector's header)
                and its size in bytes; or None.

        Raises:
            TraceError: as `writes`.

        O(all first writes of the trace).
        """
        judge = Judge(self._child(pid), locate)
        return tuple(judge.page(write) for write in self.writes(pid))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _child(self, pid: int) -> Child:
        children = [child for child in self._file.children() if child.pid == pid]
        if not children:
            raise TraceError(f"process {pid} is not traced: it was not forked from "
                             f"{self.parent} after the trace began")  # fmt: skip
        return children[-1]

    def _wait_for_recorder(self) -> None:
        """Wait for a whole round, so that all writes before this call are in the file."""
        asked = self._file.get("asked") + 1
        self._file.put("asked", asked)
        end = time.monotonic() + _PATIENCE
        while self._file.get("answered") < asked:
            if not runs(self._file.get("recorder")):
                return  # it took all records before it ended
            if time.monotonic() > end:
                raise TraceError(
                    f"the trace's recorder has not answered for {_PATIENCE} seconds; try again"
                )
            time.sleep(0.005)


def _numa_balancing() -> bool:
    """Tell whether the kernel makes processes fault to learn which processor uses a page."""
    try:
        return Path("/proc/sys/kernel/numa_balancing").read_text().strip() != "0"
    except OSError:
        return False


# --- Starting -------------------------------------------------------------------------------------

_started: Trace | None = None


def start() -> Trace:
    """Trace the first writes of all processes that this thread forks from now on.

    Call it in the parent, in the thread that forks, before the fork. Children of children are
    traced as well, until they run another program. Another call returns the same trace, also in a
    child.

    Returns:
        The trace.

    Raises:
        TraceError: the kernel does not let this user record page faults, or has too little memory.
            The program continues without a trace.

    O(number of processors), and the start of an interpreter (about 0.1 s). Catching the first write
    to a page is an idea of incremental checkpoints.
    """
    global _started
    if _started is None or not _started.is_open:
        try:
            _started = find(os.getpid()) or Trace(_begin())  # or of another interpreter
        except (OSError, RuntimeError) as error:
            raise TraceError(f"this process is not traced: {_advice(error)}") from error
    return _started


def start_or_warn() -> None:
    """Start a trace, or warn why there is none: the import calls it with PERMAHEAP_TRACE=1."""
    try:
        start()
    except TraceError as error:
        warnings.warn(str(error), RuntimeWarning, stacklevel=3)


def find(pid: int) -> Trace | None:
    """Return the trace that a process started or is part of, or None.

    The caller needs the right to trace the process (ptrace). O(its open files).
    """
    file = TraceFile.of(pid)
    return None if file is None else Trace(file)


def _advice(error: Exception) -> str:
    number, said = None, str(error)
    if isinstance(error, OSError):
        number, said = error.errno, error.strerror or said
    if number in (errno.EPERM, errno.EACCES):
        return (f"{said}; recording page faults needs kernel.perf_event_paranoid <= 2 or "
                "CAP_PERFMON (the latter in containers that forbid perf_event_open)")  # fmt: skip
    if number in (errno.EINVAL, errno.E2BIG) and "page faults" in said:
        return f"{said}; it needs Linux 5.13"
    return said


def _begin() -> TraceFile:
    file = TraceFile.create()
    events: list[int] = []
    try:
        _open_events(file, events)
        _core._trace_begin(file.descriptor)
        _launch_recorder(file, events)
    except BaseException:
        file.close()
        raise
    finally:
        for event in events:
            os.close(event)
    return file


def _open_events(file: TraceFile, events: list[int]) -> None:
    """Append an event for each processor, with writes by system calls if that is allowed."""
    kernel = True
    for cpu in _processors():
        try:
            events.append(_core._record_faults(cpu, kernel))
        except PermissionError:
            if events:
                raise
            kernel = False
            events.append(_core._record_faults(cpu, kernel))
    file.put("sees_kernel", kernel)


def _processors() -> Iterator[int]:
    """Yield the numbers of the processors that are online, from a text like "0-3,6"."""
    text = Path("/sys/devices/system/cpu/online").read_text()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def _launch_recorder(file: TraceFile, events: list[int]) -> None:
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; from permaheap.cow._recorder import main; "
        f"main({file.descriptor}, {events})"
    )
    launched = subprocess.run(
        [_interpreter(), "-I", "-c", code],
        pass_fds=[file.descriptor, *events],
        env={name: value for name, value in os.environ.items() if name != "PERMAHEAP_TRACE"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,  # until the recorder has begun
        start_new_session=True,
        text=True,
        check=False,
    )
    if not file.get("recorder"):
        said = launched.stderr.strip().rpartition("\n")[2]
        raise OSError(f"permaheap: cannot start the trace's recorder: {said}")


def _interpreter() -> str:
    """Return an interpreter to run; sys.executable may be a server that embeds one."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    if Path(sys.executable or "").name.startswith("python"):
        return sys.executable
    return str(Path(sys.exec_prefix) / "bin" / version)
