"""What a profile comes to: the figures that every report shows, counted in one place.

The reporters (_text.py, _html.py) take a Profile and these figures, and lay them out; they read no
files. What the profiler names comes out of other processes' memory, so it may be anything:
`printable` is what they show of it.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from permaheap.cow._model import Cause, Page, Profile, Sample, Worker

LONGEST_NAME = 160


@dataclass(frozen=True)
class CauseTotal:
    """One cause, over some workers. The counts are of pages."""

    cause: Cause
    pages: int
    certain: int
    """Of them, where the cause was seen; for the others it was inferred."""
    objects: tuple[tuple[str | None, int], ...]
    """What was written to, and on how many pages, the most first; None: nobody knows."""


@dataclass(frozen=True)
class Summary:
    """Some workers' figures at their last samples. Sizes are in bytes, counts are of pages."""

    private_dirty: int
    """Per worker: the mean."""
    private_dirty_most: int
    """Of the worker that has the most."""
    pss: int
    """Of the workers together, and of the parent if it was looked at."""
    shared: int
    """Per worker: the mean."""
    copied: int
    """Pages that the workers have copied; one that two have copied counts twice."""
    heap_copied: int
    """Of them, pages of the Python heap; all, where the profile does not say where that is."""
    heap_named: int
    """Of those, pages whose cause is known."""
    causes: tuple[CauseTotal, ...]
    """The largest first."""

    @property
    def named_share(self) -> float | None:
        """Share of the Python heap's copied pages whose cause is known; None without any."""
        return self.heap_named / self.heap_copied if self.heap_copied else None


def summarize(profile: Profile, workers: Sequence[Worker] | None = None) -> Summary:
    """Return the figures of the whole family, or of some of its workers without the parent.

    O(pages x log(address ranges of the heap)).
    """
    samples = list(profile.parent_samples[-1:]) if workers is None else []
    workers = profile.workers if workers is None else workers
    last = [_last(worker.samples) for worker in workers]
    dirty = [sample.private_dirty for sample in last]
    pages = [page for worker in workers for page in worker.pages]
    in_heap = _heap_pages(pages, merged(profile.heap))
    return Summary(
        private_dirty=_mean(dirty),
        private_dirty_most=max(dirty, default=0),
        pss=sum(sample.pss for sample in samples + last),
        shared=_mean([sample.shared for sample in last]),
        copied=len(pages),
        heap_copied=len(in_heap),
        heap_named=sum(page.cause is not Cause.UNKNOWN for page in in_heap),
        causes=_causes(pages),
    )


def merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return address ranges in order, those that touch or overlap made one, without empty ones."""
    result: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if result and start <= result[-1][1]:
            result[-1] = result[-1][0], max(end, result[-1][1])
        elif start < end:
            result.append((start, end))
    return result


def printable(name: str) -> str:
    r"""Return a name with what does not print written as \x1b, \u202e; cut if it is too long."""
    text = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in name[: LONGEST_NAME + 1]
    )
    return text if len(text) <= LONGEST_NAME else text[: LONGEST_NAME - 1] + "…"


def size(count: float) -> str:
    """Return a number of bytes in the largest unit of which there is one."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


def _last(samples: Sequence[Sample]) -> Sample:
    return samples[-1] if samples else Sample(0.0, 0, 0, 0)


def _mean(values: Sequence[int]) -> int:
    return round(sum(values) / len(values)) if values else 0


def _heap_pages(pages: list[Page], heap: list[tuple[int, int]]) -> list[Page]:
    if not heap:
        return pages
    starts = [start for start, _ in heap]
    ends = [end for _, end in heap]
    return [
        page
        for page in pages
        if (index := bisect_right(starts, page.address) - 1) >= 0 and page.address < ends[index]
    ]


def _causes(pages: Iterable[Page]) -> tuple[CauseTotal, ...]:
    total: Counter[Cause] = Counter()
    certain: Counter[Cause] = Counter()
    objects: dict[Cause, Counter[str | None]] = {}
    kinds = Counter((page.cause, page.certain, page.object) for page in pages)
    for (cause, seen, name), count in kinds.items():
        total[cause] += count
        certain[cause] += count if seen else 0
        objects.setdefault(cause, Counter())[name] += count
    return tuple(
        CauseTotal(cause, count, certain[cause], tuple(objects[cause].most_common()))
        for cause, count in total.most_common()
    )
