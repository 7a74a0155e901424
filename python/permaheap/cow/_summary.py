"""The figures of a profile that every report shows, counted in one place.

The reporters (_text.py, _html.py) take a Profile and these figures, and lay them out; they read no
files. The names in a profile come from the memory of other processes, so they may hold any
characters: reporters show them through `printable`.
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
    """Those of the pages whose cause was seen; the cause of the others was inferred."""
    objects: tuple[tuple[str | None, int], ...]
    """Objects written to, and their numbers of pages, the most first; None means unknown."""


@dataclass(frozen=True)
class Summary:
    """Some workers' figures at their last samples. Sizes are in bytes, counts are of pages."""

    private_dirty: int
    """The mean of the workers."""
    private_dirty_most: int
    """The value of the worker with the most."""
    pss: int
    """The sum of the workers, and of the parent if it was looked at."""
    shared: int
    """The mean of the workers."""
    copied: int
    """Pages that the workers have copied; a page that two workers have copied counts twice."""
    heap_copied: int
    """Those of them in the Python heap; all of them if the profile does not know the heap."""
    heap_named: int
    """Those pages of the heap whose cause is known."""
    causes: tuple[CauseTotal, ...]
    """The causes, the largest first."""

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
    """Return address ranges in order: touching and overlapping ones joined, empty ones left out."""
    result: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if result and start <= result[-1][1]:
            result[-1] = result[-1][0], max(end, result[-1][1])
        elif start < end:
            result.append((start, end))
    return result


def printable(name: str) -> str:
    r"""Return a name with escapes (\x1b, \u202e) for unprintable characters, cut if too long."""
    text = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in name[: LONGEST_NAME + 1]
    )
    return text if len(text) <= LONGEST_NAME else text[: LONGEST_NAME - 1] + "…"


def size(count: float) -> str:
    """Return a number of bytes as text, in the largest unit that gives at least 1."""
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
