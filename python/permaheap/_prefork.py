"""What a parent does just before it forks its workers, so that they share what it has loaded.

Immortal objects are not all: workers also write to what lies between the objects (free memory) and
to code. The order of the steps matters: what one step frees, a later one fills.
"""

import gc
import os
from collections.abc import Mapping
from time import perf_counter

from permaheap import _core
from permaheap._immortalize import Immortalized, immortalize_in_place, warn_of_threads
from permaheap._record import Record


class Prefork(Record):
    """What one call of `prefork` did."""

    immortalized: Immortalized | None
    """What became immortal; None if this was switched off."""
    blocks: int
    """Free blocks of partly used pools that are taken now, by all calls so far."""
    block_bytes: int
    """Bytes of these blocks."""
    pools: int
    """Free pools (16 KiB) whose pages went back to the system, by all calls so far."""
    chunks: int
    """Free chunks of the C library's heap that are taken now, by all calls so far."""
    chunk_bytes: int
    """Bytes of these chunks."""
    skipped: str | None
    """Why the pools were not filled though they should have been, or None."""
    seconds: Mapping[str, float]
    """Seconds that each step took, by its name, in their order."""

    def __str__(self) -> str:
        """Give the totals in one line."""
        filled = f"{self.block_bytes:,} bytes of pools and {self.chunk_bytes:,} of malloc filled"
        return (
            f"{self.immortalized or 'nothing made immortal'}; {filled}"
            f"{f' (pools skipped: {self.skipped})' if self.skipped else ''}; "
            f"{sum(self.seconds.values()):.3f} s"
        )


def prefork(
    *,
    collect: bool = True,
    immortalize: bool = True,
    pools: bool = True,
    free_lists: bool = True,
    bytecode: bool = True,
    malloc: bool = True,
    object_map: bool | None = None,
    strict: bool = True,
) -> Prefork:
    """Make what this process has loaded safe from copy-on-write in the workers it will fork.

        >>> import os, permaheap
        >>> report = permaheap.prefork()
        >>> report.skipped is None
        True

    Call it in the parent, right before `os.fork`, a `multiprocessing` process or whatever forks.
    Call it again before the next one: only what is new since then is looked at, and only holes
    that have appeared since then are filled.

    Each step can be switched off, so that its effect can be measured.

    Args:
        collect: collect garbage, which else becomes immortal.
        immortalize: make everything alive immortal, see `immortalize`, and set it aside from the
            collector (`gc.freeze`).
        free_lists: empty the interpreter's lists of freed objects.
        bytecode: prepare code for its first run, as far as that can be done: see "Objects in
            place" in how-it-works.md. Part of immortalize.
        malloc: give free memory of the C library's heap back to the system, and take the free
            chunks that remain there (glibc only, called from the main thread).
        pools: fill partly used pools of the interpreter's object allocator, so that what workers
            allocate comes from pages of their own, and give the pages of free pools back to the
            system. What is filled stays so; repeated calls do not fill more and more (what no
            longer helps is given back).
        object_map: leave a map of all objects for the profiler, `permaheap cow`: 16 bytes of
            memory for each, and a second pass over them. By default only under
            `permaheap cow -- COMMAND`, which sets PERMAHEAP_COW=1. A call that finds little new
            leaves no new one.
        strict: see `immortalize`.

    Returns:
        What was done. The pools are skipped if objects do not come from Python's own allocator
        (PYTHONMALLOC=malloc) or tracemalloc is tracing it.

    Raises:
        MemoryError: when there is no memory for the walk.

    Warns:
        RuntimeWarning: when other threads are running, as `immortalize` does.

    O(number of objects) the first time, then O(what is new). The causes are from the discussion of
    PEP 683.
    """
    if immortalize:
        warn_of_threads("prefork")
    wanted = _is_profiled() if object_map is None else object_map
    if wanted:
        import permaheap.cow  # noqa: F401 - now, so that it becomes immortal with the rest
    # Until the end, the moments are in variables: containers of ours would become immortal.
    began = perf_counter()
    if collect:
        gc.collect()
    collected = perf_counter()
    done = immortalize_in_place((), strict=strict, warm=bytecode) if immortalize else None
    pinned = perf_counter()
    if wanted:
        _leave_map(done)
    mapped = perf_counter()
    if free_lists:
        _empty_free_lists()
    emptied = perf_counter()
    taken = _core._fill(pools, malloc)
    filled = perf_counter()
    steps = {
        "collect": collected - began if collect else None,
        "immortalize": pinned - collected if immortalize else None,
        "object_map": mapped - pinned if wanted else None,
        "free_lists": emptied - mapped if free_lists else None,
        "fill": filled - emptied,
    }
    return Prefork(done, *taken, {step: time for step, time in steps.items() if time is not None})


def _empty_free_lists() -> None:
    """Collect what is young: a full collection also empties the free lists."""
    gc.collect()


_MANY = 10_000  # new objects that are worth a new map
_has_map = False


def _is_profiled() -> bool:
    return os.environ.get("PERMAHEAP_COW", "") not in ("", "0")


def _leave_map(done: Immortalized | None) -> None:
    """Leave a map, unless there is one and little has been added; workers keep the one they saw."""
    global _has_map
    if not _has_map or (done is not None and sum(done.objects.values()) > _MANY):
        from permaheap.cow import leave_map

        leave_map()
        _has_map = True
