"""Trace mode: what made a worker copy each page, seen in the act.

A fork shares all memory and write-protects it, so the first write to a page is a page fault. Linux
records page faults, with the address and the instruction, for whoever asks by perf_event_open(2).
`start` asks in the parent, before it forks; what it asks for is inherited by all that it forks. The
traced program runs as ever: its memory is not protected, no signal is sent to it, no system call
fails. Its children do one thing more, right after the fork: they write down their map of memory.
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
    """The first writes of the children of one process; of all of them, alive or not."""

    def __init__(self, file: TraceFile) -> None:
        """Read the trace in a file, and own it."""
        self._file = file

    @property
    def is_open(self) -> bool:
        """Whether it can be read: a program may have closed all its files."""
        return self._file.is_open

    @property
    def workers(self) -> tuple[int, ...]:
        """The pids of all children so far, in the order of their birth."""
        return tuple(child.pid for child in self._file.children())

    @property
    def parent(self) -> int:
        """The pid of the process that started the trace."""
        return self._file.get("parent")

    @property
    def notes(self) -> tuple[str, ...]:
        """What the trace does not have, and which privilege would help. Empty if it has all."""
        notes = []
        untraced = [child.pid for child in self._file.children() if not child.text]
        if untraced:
            notes.append(f"{len(untraced)} children could not read their map of memory and ran "
                         f"untraced: {', '.join(map(str, untraced))}")  # fmt: skip
        cut = sum(not child.is_whole for child in self._file.children())
        if cut:
            notes.append(f"{cut} children have more mappings than there was room for: reading what "
                         "was never used before may pass for a write there")  # fmt: skip
        if _numa_balancing():
            notes.append("kernel.numa_balancing is on: reading may pass for a write")
        if self._file.forks > CHILDREN:
            notes.append(f"only the first {CHILDREN} of {self._file.forks} children were traced")
        if self._file.get("lost"):
            notes.append(f"{self._file.get('lost')} page faults were lost: they came faster than "
                         "they could be taken")  # fmt: skip
        if not self._file.get("sees_kernel"):
            notes.append("writes by system calls are missing: that takes CAP_PERFMON, or "
                         "kernel.perf_event_paranoid <= 1")  # fmt: skip
        return tuple(notes)

    def writes(self, pid: int) -> tuple[Write, ...]:
        """Return the first write to each page that a child has copied, in order of time.

        Raises TraceError when there is no such child or the recorder is gone. O(all first writes).
        """
        child = self._child(pid)
        self._wait_for_recorder()
        return tuple(sorted(w for w in self._file.writes() if w.child == child.number))

    def pages(self, pid: int, locate: Locate | None = None) -> tuple[Page, ...]:
        """Return the pages that a child has copied, and for each the cause of the first write.

        `locate` tells which object was at an address when the child was forked: the name of its
        type, the offset in it (negative: in its collector's header) and its size, or None. Raises
        what `writes` raises.
        """
        judge = Judge(self._child(pid), locate)
        return tuple(judge.page(write) for write in self.writes(pid))

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _child(self, pid: int) -> Child:
        children = [child for child in self._file.children() if child.pid == pid]
        if not children:
            raise TraceError(f"process {pid} is not traced: it was not forked from "
                             f"{self.parent} after the trace began")  # fmt: skip
        return children[-1]

    def _wait_for_recorder(self) -> None:
        """Wait for a whole round: what was written before the call is in the file then."""
        asked = self._file.get("asked") + 1
        self._file.put("asked", asked)
        end = time.monotonic() + _PATIENCE
        while self._file.get("answered") < asked:
            if not runs(self._file.get("recorder")):
                return  # it took all that there was before it ended
            if time.monotonic() > end:
                raise TraceError("the trace's recorder does not answer")
            time.sleep(0.005)


def _numa_balancing() -> bool:
    """Whether the kernel now and then lets a process fault to see which processor uses a page."""
    try:
        return Path("/proc/sys/kernel/numa_balancing").read_text().strip() != "0"
    except OSError:
        return False


# --- Starting -------------------------------------------------------------------------------------

_started: Trace | None = None


def start() -> Trace:
    """Trace what the processes write first that this thread forks from now on.

    Call it in the parent, in the thread that forks, before it does. Children of children are traced
    as well, up to their exec. Calling it again returns the same trace, in a child as well.

    Raises:
        TraceError: when the kernel does not let this user record page faults, or has too little
            memory. The program goes on untraced.

    O(number of processors), and the start of an interpreter (about 0.1 s). The idea, memory whose
    first write is caught, is that of incremental checkpoints.
    """
    global _started
    if _started is None or not _started.is_open:
        try:
            _started = find(os.getpid()) or Trace(_begin())  # another interpreter may have begun
        except (OSError, RuntimeError) as error:
            raise TraceError(f"this process is not traced: {_advice(error)}") from error
    return _started


def start_or_warn() -> None:
    """Start, or say in a warning why not: what PERMAHEAP_TRACE=1 does at import."""
    try:
        start()
    except TraceError as error:
        warnings.warn(str(error), RuntimeWarning, stacklevel=3)


def find(pid: int) -> Trace | None:
    """Return the trace that a process started or is in, or None. Needs the rights to ptrace it."""
    file = TraceFile.of(pid)
    return None if file is None else Trace(file)


def _advice(error: Exception) -> str:
    number, said = None, str(error)
    if isinstance(error, OSError):
        number, said = error.errno, error.strerror or said
    if number in (errno.EPERM, errno.EACCES):
        return (f"{said}; recording page faults takes kernel.perf_event_paranoid <= 2 or "
                "CAP_PERFMON (containers that forbid perf_event_open: the latter)")  # fmt: skip
    if number in (errno.EINVAL, errno.E2BIG) and "page faults" in said:
        return f"{said}; it takes Linux 5.13"
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
    """Append an event per processor, with system calls' writes if that is allowed."""
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
    """Yield the numbers of the processors that are on, from a text like "0-3,6"."""
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
        raise OSError(f"permaheap: the trace's recorder could not begin: {said}")


def _interpreter() -> str:
    """Return an interpreter to run; sys.executable may be a server that embeds one."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    if Path(sys.executable or "").name.startswith("python"):
        return sys.executable
    return str(Path(sys.exec_prefix) / "bin" / version)
