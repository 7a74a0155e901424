"""Timing of work against other work.

Machines are noisy, so the compared pieces of work are timed in turns, many times, and each round
gives one ratio. The report shows the median of the ratios and their quartiles. Work of one process
is timed by the processor time of the process, including the kernel's, so that other programs do not
count. Work that waits for another process is timed by the wall clock.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

Work = Callable[[], object]
Clock = Callable[[], float]
Samples = dict[str, list[float]]


def seconds(work: Work, clock: Clock = time.process_time) -> float:
    """Return the seconds of one call by the clock; dropping its result is not counted."""
    start = clock()
    result = work()
    elapsed = clock() - start
    del result
    return elapsed


def in_turns(
    works: Mapping[str, Work],
    rounds: int,
    *,
    budget: float = 60.0,
    collector: bool = False,
    clock: Clock = time.process_time,
) -> Samples:
    """Time several pieces of work in turns, each round starting with another one.

    Args:
        works: the works to time, by name.
        rounds: the number of rounds, at most.
        budget: seconds after which no further round begins; three rounds are always run.
        collector: whether the cyclic collector is on during the timing.
        clock: the clock to time by.

    Returns:
        Seconds of a call, by name: one number for each round.
    """
    names = list(works)
    samples: Samples = {name: [] for name in names}
    deadline = time.perf_counter() + budget
    with collector_set(collector):
        for turn in range(rounds):
            if turn >= 3 and time.perf_counter() > deadline:
                break
            for offset in range(len(names)):
                name = names[(turn + offset) % len(names)]
                samples[name].append(seconds(works[name], clock))
    return samples


@contextmanager
def collector_set(on: bool) -> Iterator[None]:
    """Switch the cyclic collector on or off for a block of code, after one collection.

    No collection runs between the timed calls: it would bring ordinary objects, and only those,
    into the processor's caches.
    """
    gc.collect()
    if not on:
        gc.disable()
    try:
        yield
    finally:
        gc.enable()


def spread(values: list[float]) -> dict[str, Any]:
    """Return the median, quartiles, smallest value and number of values."""
    low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return {
        "median": statistics.median(values),
        "low": low,
        "high": high,
        "min": min(values),
        "rounds": len(values),
    }


def ratio(samples: Samples, name: str, *bases: str) -> dict[str, Any]:
    """Return the spread of one work's time / the sum of others' times in the same round."""
    sums = [sum(times) for times in zip(*(samples[base] for base in bases), strict=True)]
    return spread([time / base for time, base in zip(samples[name], sums, strict=True)])


def medians(samples: Samples) -> dict[str, float]:
    """Return the median seconds of each work."""
    return {name: statistics.median(values) for name, values in samples.items()}


def per_call(works: Sequence[Work], calls: int = 10_000, rounds: int = 41) -> list[float]:
    """Return the median seconds for each call of quick work, timed in turns, with the loop."""

    def repeat(work: Work) -> None:
        for _ in range(calls):
            work()

    loops = {str(number): partial(repeat, work) for number, work in enumerate(works)}
    return [each / calls for each in medians(in_turns(loops, rounds)).values()]
