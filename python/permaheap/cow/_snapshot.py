"""Profiles of a family of processes, from one look at it or from many."""

import contextlib
import os
import time
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from permaheap.cow._diff import Copies, Look, copies_of
from permaheap.cow._explain import Explainer, Inherited
from permaheap.cow._map import NAME, ObjectMap
from permaheap.cow._model import Cause, Page, Profile, Sample, Worker
from permaheap.cow._objects import LAYOUT, python_version
from permaheap.cow._proc import PAGE, Gone, Mapping, Process, descendants


def snapshot(pid: int | None = None, *, mode: str = "diff") -> Profile:
    """Look at a family of processes once: return the pages that each worker has copied, and why.

        >>> from permaheap.cow import snapshot
        >>> snapshot().workers  # this process has no children
        ()

    Args:
        pid: the parent's process id; None means the calling process. Its workers are all processes
            forked from it, directly or not, except those that have run another program since.
        mode: "diff" compares the memory of workers and parent. "trace" takes the first writes that
            a trace has recorded. Neither changes anything in the processes.

    Returns:
        The profile. Its notes name everything that could not be looked at.

    Raises:
        ProcessLookupError: there is no such process, or it may not be looked at.
        ValueError: there is no such mode.

    O(private pages of the workers), and a comparison of 4 KiB for each copied page.
    """
    recorder = Recorder(os.getpid() if pid is None else pid, mode=mode)
    try:
        recorder.sample()
        recorder.look()
        return recorder.known()
    finally:
        recorder.close()


@dataclass
class _Member:
    """A worker that was found, and the process that forked it."""

    process: Process
    parent: Process
    command: str
    samples: list[Sample] = field(default_factory=list)
    earlier: tuple[Look, Look] | None = None
    pages: tuple[Page, ...] = ()


class Recorder:
    """Watches a family: `sample` and `look`, any number of times, add to the `known` profile."""

    def __init__(self, pid: int, *, mode: str = "diff") -> None:
        """Begin to watch the family of a process."""
        if mode not in ("diff", "trace"):
            raise ValueError(f'there is no mode {mode!r}; use "diff" or "trace"')
        self._mode = mode
        try:
            self._root = Process(pid)
            mappings = self._root.mappings()
        except Gone as error:
            raise ProcessLookupError(str(error)) from None
        self._began = time.monotonic()
        self._root_samples: list[Sample] = []
        self._members: dict[int, _Member] = {}
        self._others: list[Process] = []
        self._notes: dict[str, None] = {}
        self._version = python_version(self._root, mappings)
        self._heap = _heap_ranges(mappings)

    def close(self) -> None:
        """Close the files of all processes."""
        members = [member.process for member in self._members.values()]
        for process in (self._root, *self._others, *members):
            process.close()

    def is_alive(self) -> bool:
        """Tell whether the parent of the family still runs."""
        return self._root.is_alive()

    # --- Memory over time -----------------------------------------------------------------------

    def sample(self) -> None:
        """Find new workers, and note the memory that each of them has now."""
        self._find_workers()
        seconds = time.monotonic() - self._began
        with contextlib.suppress(Gone):
            self._root_samples.append(_sample(self._root, seconds))
        for member in self._members.values():
            with contextlib.suppress(Gone):
                member.samples.append(_sample(member.process, seconds))

    def _find_workers(self) -> None:
        for pid in descendants(self._root.pid):
            if pid not in self._members and pid != os.getpid():
                with contextlib.suppress(Gone):
                    self._consider(Process(pid))

    def _consider(self, process: Process) -> None:
        """Make a process a member if it runs the same program as its parent, so was only forked."""
        parent = self._process(process.parent)
        image = _image(process)
        if image is not None and image == _image(parent):
            self._members[process.pid] = _Member(process, parent, process.command())

    def _process(self, pid: int) -> Process:
        """Return the process with a pid; the same object if it is known already."""
        if pid == self._root.pid:
            return self._root
        if pid in self._members:
            return self._members[pid].process
        for process in self._others:
            if process.pid == pid and process.is_alive():
                return process
        self._others.append(Process(pid))
        return self._others[-1]

    # --- Causes ---------------------------------------------------------------------------------

    def look(self) -> None:
        """Find the pages that the workers have copied by now, and the causes."""
        by_parent: dict[int, list[_Member]] = {}
        for member in self._members.values():
            if member.process.is_alive():
                by_parent.setdefault(member.parent.pid, []).append(member)
        for members in by_parent.values():
            with contextlib.suppress(Gone):
                self._look_at(members[0].parent, members)

    def _look_at(self, parent: Process, members: list[_Member]) -> None:
        processes = [parent, *(member.process for member in members)]
        for process in processes:
            process.close()  # after an exec, open files still belong to the previous program
        look = Look.at(parent)
        self._heap = _heap_ranges(look.mappings)
        objects = self._can_tell_objects(parent, look, processes)
        inherited = Inherited(parent, look, objects, _object_map(parent))
        for member in members:
            with contextlib.suppress(Gone):
                if self._mode == "trace":
                    self._ask_trace(member, inherited)
                else:
                    self._compare(member, inherited)

    def _compare(self, member: _Member, inherited: Inherited) -> None:
        worker, parent = Look.at(member.process), inherited.look
        self._check(worker)
        copies = copies_of(worker, parent, member.earlier)
        member.earlier = member.earlier or (worker, parent)
        _settle(copies, inherited.process, member.process)
        explainer = Explainer(inherited, member.process, worker)
        pages = list(explainer.explain(sorted(copies.copied)))
        pages += [Page(address, Cause.LEFT_BEHIND) for address in copies.left_behind]
        if inherited.process.has_memory() and member.process.has_memory():
            member.pages = tuple(sorted(pages, key=lambda page: page.address))
        # Else one of them has ended in between: the result of an earlier look is better.

    def _ask_trace(self, member: _Member, inherited: Inherited) -> None:
        """Take the first writes that the trace has recorded."""
        tracing: Any = import_module("permaheap.cow._trace")
        trace = tracing.find(member.parent.pid)
        if trace is None:
            self._note(
                f"process {member.parent.pid} is not traced: set PERMAHEAP_TRACE=1, and import "
                "permaheap in it before it forks, for example by `permaheap run -- COMMAND`"
            )
            return
        with contextlib.closing(trace):
            try:
                member.pages = trace.pages(member.process.pid, inherited.locate)
            except tracing.TraceError as error:
                self._note(str(error))
            for note in trace.notes:
                self._note(note)

    # --- Figures not known ----------------------------------------------------------------------

    def _check(self, look: Look) -> None:
        if not look.has_frames:
            self._note(
                "no frame numbers (they need CAP_SYS_ADMIN): where two processes no longer share a "
                "page, it is not certain which of them copied it"
            )
        if look.too_large:
            self._note(f"{look.too_large} mappings of more than 32 GiB were not looked at")

    def _can_tell_objects(self, parent: Process, look: Look, processes: list[Process]) -> bool:
        for process in processes:
            if not process.can_read_memory():
                self._note(
                    f"the memory of process {process.pid} may not be read, so causes are known by "
                    "mapping only; run the profiler as the same user and, if Yama restricts "
                    "tracing, from an ancestor of the process or with CAP_SYS_PTRACE"
                )
                return False
        version = python_version(parent, look.mappings)
        self._version = version or self._version
        built_for = f"3.{LAYOUT['version'] >> 16 & 0xFF}"
        if version is None:
            self._note(
                f"process {parent.pid} is not recognised as CPython, so its objects are unknown"
            )
            return False
        if version.split(".")[:2] != built_for.split("."):
            self._note(
                f"process {parent.pid} runs Python {version}, and the profiler {built_for}, so "
                "objects are unknown; run the profiler with the same version"
            )
            return False
        return True

    def _note(self, text: str) -> None:
        self._notes[text] = None

    def known(self) -> Profile:
        """Return the profile from all samples and the last looks."""
        return Profile(
            mode=self._mode,
            parent=self._root.pid,
            python=self._version or "",
            page_size=PAGE,
            workers=tuple(
                Worker(pid, member.command, tuple(member.samples), member.pages)
                for pid, member in sorted(self._members.items())
            ),
            heap=self._heap,
            notes=tuple(self._notes),
            parent_samples=tuple(self._root_samples),
        )


def _object_map(parent: Process) -> ObjectMap | None:
    """Return the map of objects that a parent has left, or None."""
    with contextlib.suppress(Gone, ValueError):
        data = parent.memfd(NAME)
        return ObjectMap(data) if data else None
    return None


def _settle(copies: Copies, parent: Process, worker: Process) -> None:
    """Decide by content which process copied the pages that several processes share."""
    if copies.suspects and parent.can_read_memory() and worker.can_read_memory():
        copies.left_behind += (
            address
            for address in copies.suspects
            if parent.memory(address, PAGE) != worker.memory(address, PAGE)
        )


def _sample(process: Process, seconds: float) -> Sample:
    sums = process.rollup()
    shared = sums.get("Shared_Clean", 0) + sums.get("Shared_Dirty", 0)
    return Sample(seconds, sums.get("Private_Dirty", 0), sums.get("Pss", 0), shared)


def _image(process: Process) -> tuple[int, str] | None:
    """Return a value that is equal in processes of one program start: forked, not executed.

    The kernel puts the vdso at a random address when a program starts, and fork keeps the address.
    """
    for mapping in process.mappings():
        if mapping.name == "[vdso]":
            return mapping.start, process.link("exe")
    return None


def _heap_ranges(mappings: list[Mapping]) -> tuple[tuple[int, int], ...]:
    """Return the address ranges of possible Python objects: writable memory without a file."""
    return tuple(
        (each.start, each.end)
        for each in mappings
        if each.permissions.startswith("rw") and each.is_private and each.is_anonymous
    )
