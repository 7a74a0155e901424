"""The profiler's findings: plain records, the source of every report."""

from dataclasses import dataclass, field
from enum import StrEnum


class Cause(StrEnum):
    """Why a worker's page of memory is its own and no longer shared with its parent."""

    REFERENCE_COUNT = "reference count"
    GC_HEADER = "collector's header"
    MUTATION = "object changed"
    NEW_OBJECT = "new object in an old page"
    FREE_LIST = "free list"
    INLINE_CACHE = "inline cache of code"
    INTERNING = "interning"
    HASH_CACHE = "hash cache"
    MALLOC = "C library's malloc"
    STACK = "stack"
    OTHER_MAPPING = "other mapping"
    LEFT_BEHIND = "left behind: the parent copied it"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Page:
    """One page that a worker has copied."""

    address: int
    """Address of its first byte."""
    cause: Cause
    """The cause of the first write to it, as far as it is known."""
    object: str | None = None
    """The type of the object that was written to, or the name of a mapping; None if unknown."""
    detail: str | None = None
    """Details of the write: the field, the instruction, the function."""
    neighbours: tuple[str, ...] = ()
    """Names of the types of the other objects on the page."""
    certain: bool = True
    """Whether the cause was seen, not inferred."""


@dataclass(frozen=True)
class Sample:
    """A process's memory at one moment. Sizes are in bytes."""

    seconds: float
    """Time since the profiler began."""
    private_dirty: int
    pss: int
    shared: int


@dataclass(frozen=True)
class Worker:
    """One worker: its memory over time, and each page that it has copied."""

    pid: int
    command: str
    samples: tuple[Sample, ...]
    pages: tuple[Page, ...]

    def by_cause(self) -> dict[Cause, int]:
        """Return the number of pages by cause, the largest first."""
        counts: dict[Cause, int] = {}
        for page in self.pages:
            counts[page.cause] = counts.get(page.cause, 0) + 1
        return dict(sorted(counts.items(), key=lambda item: -item[1]))


@dataclass(frozen=True)
class Profile:
    """A family of processes as the profiler saw it."""

    mode: str
    """ "diff" or "trace"."""
    parent: int
    python: str
    """Version of the interpreter, as "3.14.8"."""
    page_size: int
    workers: tuple[Worker, ...]
    heap: tuple[tuple[int, int], ...] = ()
    """Address ranges of the Python heap (start, end), for the map of pages."""
    notes: tuple[str, ...] = field(default=())
    """Things that the profiler could not look at, and the privilege that would help."""
    parent_samples: tuple[Sample, ...] = ()
    """The parent's memory over time, if it was looked at; it is a part of the family's memory."""
