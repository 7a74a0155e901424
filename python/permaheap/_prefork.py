"""The steps of a parent right before it forks, so that its workers share its memory.

Immortal objects are not enough: workers also write to the free memory between the objects, and to
code. The order of the steps matters: a later step fills the holes that an earlier one makes.
"""

import contextlib
import gc
import os
from collections.abc import Callable, Iterator, Mapping
from operator import call
from time import perf_counter

from permaheap import _core
from permaheap._immortalize import (
    Immortalized,
    collector_off,
    immortalize_in_place,
    warn_of_threads,
)
from permaheap._record import Record


class Prefork(Record):
    """The result of one call of `prefork`."""

    immortalized: Immortalized | None
    """The objects that became immortal; None if this step was switched off."""
    blocks: int
    """Number of free blocks of partly used pools that all calls so far have filled."""
    block_bytes: int
    """Bytes of these blocks."""
    pools: int
    """Number of free pools (16 KiB) whose pages all calls so far have returned to the system."""
    chunks: int
    """Number of free chunks of the C library's heap that all calls so far have filled."""
    chunk_bytes: int
    """Bytes of these chunks."""
    skipped: str | None
    """The reason why the pools were not filled although `pools` was true, or None."""
    seconds: Mapping[str, float]
    """Seconds that each step took, by its name, in the order of the steps."""

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
    """Let the workers that this process will fork share all the memory that it has loaded.

        >>> import os, permaheap
        >>> report = permaheap.prefork()
        >>> report.skipped is None
        True

    Call it in the parent, right before `os.fork`, a `multiprocessing` process or any other fork.
    Call it again before the next fork: a repeated call looks only at objects that are new, and
    fills only holes that are new.

    Each step can be switched off, to measure its effect.

    Args:
        collect: collect garbage, which would otherwise become immortal.
        immortalize: make every living object immortal, see `immortalize`, and hide all of them
            from the collector (`gc.freeze`).
        free_lists: empty the interpreter's lists of freed objects.
        bytecode: prepare code for its first run, as far as possible: see "Objects in place" in
            how-it-works.md. A part of immortalize.
        malloc: return free memory of the C library's heap to the system, and fill the free chunks
            that remain there (glibc only, called from the main thread).
        pools: fill partly used pools of the interpreter's object allocator, so that workers
            allocate from pages of their own, and return the pages of free pools to the system.
            Filled blocks stay filled. Repeated calls do not fill more and more: they free blocks
            that no longer help.
        object_map: leave a map of all objects for the profiler, `permaheap cow`. It takes 16 bytes
            for each object, and a second pass over them. The default, None, leaves one only under
            `permaheap cow -- COMMAND`, which sets PERMAHEAP_COW=1. A call that finds few new
            objects leaves no new map.
        strict: see `immortalize`.

    Returns:
        A `Prefork`. The pools are skipped if objects do not come from Python's own allocator
        (PYTHONMALLOC=malloc) or tracemalloc is tracing it.

    Raises:
        MemoryError: there is no memory for the walk.

    Warns:
        RuntimeWarning: other threads are running, as for `immortalize`.

    O(number of objects) the first time, then O(number of new objects). The causes of copied pages
    are from the discussion of PEP 683.
    """
    if immortalize and not _inside_fork:
        warn_of_threads("prefork")
    wanted = _is_profiled() if object_map is None else object_map
    if wanted:
        import permaheap.cow  # noqa: F401 - now, so that it becomes immortal with the rest
    # The times stay in variables until the end: a container made here would become immortal.
    began = perf_counter()
    if collect and not _inside_fork:
        gc.collect()
    collected = perf_counter()
    done = immortalize_in_place((), strict=strict, warm=bytecode) if immortalize else None
    immortal = perf_counter()
    if wanted:
        _leave_map(done)
    mapped = perf_counter()
    if free_lists:
        _empty_free_lists()
    emptied = perf_counter()
    holes = _core._fill_holes(pools, malloc)
    filled = perf_counter()
    steps = {
        "collect": collected - began if collect else None,
        "immortalize": immortal - collected if immortalize else None,
        "object_map": mapped - immortal if wanted else None,
        "free_lists": emptied - mapped if free_lists else None,
        "fill": filled - emptied,
    }
    return Prefork(done, *holes, {step: time for step, time in steps.items() if time is not None})


def _empty_free_lists() -> None:
    """Run a full collection, which also empties the free lists; only young objects are left.

    Inside a fork none may be left: map sets them aside and collects with no other thread between.
    """
    steps: list[Callable[[], object]] = [gc.freeze, gc.collect] if _inside_fork else [gc.collect]
    list(map(call, steps))


# --- Inside a fork --------------------------------------------------------------------------------

_inside_fork = False


@contextlib.contextmanager
def inside_fork() -> Iterator[None]:
    """Let no code of the program run in a call of `prefork`: a fork has begun.

    Other handlers before the fork hold their locks now. A finalizer, the callback of a weak
    reference or of the collector, or the printing of a warning might wait for one of them for ever.
    So garbage is not collected, and nobody is warned.
    """
    global _inside_fork
    callbacks = gc.callbacks[:]
    gc.callbacks.clear()
    _inside_fork = True
    try:
        with collector_off():
            yield
    finally:
        _inside_fork = False
        gc.callbacks[:] = callbacks


_MANY = 10_000  # new objects that are worth a new map
_has_map = False


def _is_profiled() -> bool:
    return os.environ.get("PERMAHEAP_COW", "") not in ("", "0")


def _leave_map(done: Immortalized | None) -> None:
    """Leave a map, unless there is one and few objects are new; older workers keep theirs."""
    global _has_map
    if not _has_map or (done is not None and sum(done.objects.values()) > _MANY):
        from permaheap.cow import leave_map

        leave_map()
        _has_map = True
