"""Profiles of a family of processes: one look at it, or many."""

import contextlib
import os
import time
from dataclasses import dataclass, field

from permaheap.cow._diff import Copies, Look, copies_of
from permaheap.cow._explain import Explainer, Inherited
from permaheap.cow._map import NAME, ObjectMap
from permaheap.cow._model import Cause, Page, Profile, Sample, Worker
from permaheap.cow._objects import LAYOUT, python_version
from permaheap.cow._proc import FRAME, PAGE, PRESENT, Gone, Mapping, Process, descendants


def snapshot(pid: int | None = None, *, mode: str = "diff") -> Profile:
    """Look at a family of processes once: what each worker has copied, and why.

        >>> from permaheap.cow import snapshot
        >>> snapshot().workers  # this process has no children
        ()

    Args:
        pid: the parent's process number; None: the calling process. Its workers are the processes
            that were forked from it, and from those. What has run another program since is none.
        mode: "diff": the memory of workers and parent is compared; nothing in them is changed.

    Returns:
        The profile. What could not be looked at is in its notes.

    Raises:
        ProcessLookupError: there is no such process, or it may not be looked at.
        ValueError: there is no such mode.

    O(private pages of the workers), with a comparison of 4 KiB for each that was copied.
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
    """A worker that was seen."""

    process: Process
    command: str
    samples: list[Sample] = field(default_factory=list)
    earlier: tuple[Look, Look] | None = None
    pages: tuple[Page, ...] = ()


class Recorder:
    """Watches a family: `sample` and `look` as often as wanted; both tell what is `known`."""

    def __init__(self, pid: int, *, mode: str = "diff") -> None:
        """Begin to watch the family of a process."""
        if mode not in ("diff", "trace"):
            raise ValueError(f'there is no mode {mode!r}: "diff" or "trace"')
        self._mode = mode
        try:
            self._parent = Process(pid)
            self._mappings = self._parent.mappings()
        except Gone as error:
            raise ProcessLookupError(str(error)) from None
        self._began = time.monotonic()
        self._parent_samples: list[Sample] = []
        self._members: dict[int, _Member] = {}
        self._notes: dict[str, None] = {}
        self._version = python_version(self._parent, self._mappings)

    def close(self) -> None:
        """Close the files of all processes."""
        self._parent.close()
        for member in self._members.values():
            member.process.close()

    def sample(self) -> None:
        """Find new workers, and note how much memory each has now."""
        self._find_workers()
        seconds = time.monotonic() - self._began
        with contextlib.suppress(Gone):
            self._parent_samples.append(_sample(self._parent, seconds))
        for member in self._members.values():
            try:
                member.samples.append(_sample(member.process, seconds))
            except Gone:
                continue

    def _find_workers(self) -> None:
        ours = _image(self._parent)
        for pid in descendants(self._parent.pid):
            if pid in self._members or pid == os.getpid():
                continue
            try:
                process = Process(pid)
                if _image(process) == ours:
                    self._members[pid] = _Member(process, process.command())
            except Gone:
                continue

    def look(self) -> None:
        """Compare the workers' memory with the parent's, and find the causes."""
        try:
            parent = Look.at(self._parent)
        except Gone as error:
            self._note(str(error))
            return
        objects = self._can_tell_objects()
        inherited = Inherited(self._parent, parent, objects, self._object_map())
        for member in self._members.values():
            try:
                self._compare(member, inherited)
            except Gone:
                continue

    def _object_map(self) -> ObjectMap | None:
        """Return the map that the parent has left, if it has."""
        with contextlib.suppress(Gone, ValueError):
            data = self._parent.memfd(NAME)
            return ObjectMap(data) if data else None
        return None

    def _compare(self, member: _Member, inherited: Inherited) -> None:
        worker, parent = Look.at(member.process), inherited.look
        self._check_frames(worker)
        copies = copies_of(worker, parent, member.earlier)
        member.earlier = member.earlier or (worker, parent)
        self._settle(copies, member.process)
        explainer = Explainer(inherited, member.process, worker)
        pages = list(explainer.explain(sorted(copies.copied)))
        pages += [Page(address, Cause.LEFT_BEHIND) for address in copies.left_behind]
        if not (self._parent.has_memory() and member.process.has_memory()):
            return  # one of them has ended meanwhile: what an earlier look has told is better
        member.pages = tuple(sorted(pages, key=lambda page: page.address))

    def _settle(self, copies: Copies, worker: Process) -> None:
        """Find out by their content who has copied the pages that several processes share."""
        if not copies.suspects or not self._parent.can_read_memory():
            return
        for address in copies.suspects:
            before = self._parent.memory(address, PAGE)
            after = worker.memory(address, PAGE)
            if before != after:
                copies.left_behind.append(address)

    def _check_frames(self, look: Look) -> None:
        entries = (entry for page in look.entries.values() for entry in page if entry & PRESENT)
        if not next(entries, FRAME) & FRAME:
            self._note(
                "no frame numbers (they need CAP_SYS_ADMIN): of pages that two processes no longer "
                "share, it is not certain which of them copied"
            )

    def _can_tell_objects(self) -> bool:
        members = [member.process for member in self._members.values() if member.process.is_alive()]
        for process in [self._parent, *members]:
            if not process.can_read_memory():
                self._note(
                    f"the memory of process {process.pid} may not be read (that needs the same "
                    "user and, where Yama restricts tracing, an ancestor or CAP_SYS_PTRACE): "
                    "causes are told by mapping only"
                )
                return False
        built_for = f"3.{(_version_number() >> 16) & 0xFF}"
        if self._version is None:
            self._note(f"process {self._parent.pid} is no CPython that can be recognised")
            return False
        if self._version.split(".")[:2] != built_for.split("."):
            self._note(
                f"process {self._parent.pid} runs Python {self._version}, the profiler "
                f"{built_for}: objects cannot be told; run it with the same version"
            )
            return False
        return True

    def _note(self, text: str) -> None:
        self._notes[text] = None

    def is_alive(self) -> bool:
        """Whether the parent is there."""
        return self._parent.is_alive()

    def known(self) -> Profile:
        """Return what the samples and the last looks have told."""
        return Profile(
            mode=self._mode,
            parent=self._parent.pid,
            python=self._version or "",
            page_size=PAGE,
            workers=tuple(
                Worker(pid, member.command, tuple(member.samples), member.pages)
                for pid, member in sorted(self._members.items())
            ),
            heap=_heap_ranges(self._mappings),
            notes=tuple(self._notes),
            parent_samples=tuple(self._parent_samples),
        )


def _version_number() -> int:
    return LAYOUT["version"]


def _sample(process: Process, seconds: float) -> Sample:
    sums = process.rollup()
    shared = sums.get("Shared_Clean", 0) + sums.get("Shared_Dirty", 0)
    return Sample(seconds, sums.get("Private_Dirty", 0), sums.get("Pss", 0), shared)


def _image(process: Process) -> tuple[int, str] | None:
    """Return what processes have in common that run the same start of the same program.

    The kernel puts the vdso at a random address whenever a program starts, and fork keeps it.
    """
    for mapping in process.mappings():
        if mapping.name == "[vdso]":
            return mapping.start, process.link("exe")
    return None


def _heap_ranges(mappings: list[Mapping]) -> tuple[tuple[int, int], ...]:
    """Return where Python objects may be: writable memory without a file."""
    return tuple(
        (each.start, each.end)
        for each in mappings
        if each.permissions.startswith("rw") and each.is_private and each.is_anonymous
    )
